"""
What a run has given, with the circumstances, kept as JSON in `results/`.

This module must not know what was measured.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.tables import Row
from heap_agent._core import encoder

FOLDER = Path(__file__).parent / "results"

#: What a benchmark gave: `benchmark`, `title`, the circumstances, and `rows`.
Result = Mapping[str, Any]


def of(name: str, title: str, rows: Sequence[Row], *, compares: bool) -> Result:
    """
    Rows, with what they depend on.

    Args:
        name: Of the benchmark.
        title: Of the benchmark.
        rows: What it gave.
        compares: Whether other clients are among them.
    """
    return {
        "benchmark": name,
        "title": title,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "encoder": encoder.NAME,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "peers": {peer.name: peer.version for peer in peers.installed()} if compares else {},
        "not installed": [peer.name for peer in peers.absent()] if compares else [],
        "rows": list(rows),
    }


def circumstances(result: Result) -> str:
    """
    What a result depends on, in a line.
    """
    parts = [result["python"], result["machine"], result["encoder"], result["date"]]
    parts += [f"{name} {version}" for name, version in result["peers"].items()]
    if result["not installed"]:
        parts.append(f"not installed, so not measured: {', '.join(result['not installed'])}")
    return "; ".join(parts)


def command(result: Result) -> str:
    """
    What gives such a result.
    """
    flags = "" if result["encoder"] == "orjson" else " --stdlib"
    return f"python -m benchmarks {result['benchmark']}{flags} --save"


def save(result: Result, folder: Path = FOLDER) -> Path:
    """
    Keep a result, instead of an earlier one of this benchmark and encoder.
    """
    suffix = "" if result["encoder"] == "orjson" else "-stdlib"
    path = folder / f"{result['benchmark']}{suffix}.json"
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(folder: Path = FOLDER) -> dict[str, Result]:
    """
    All that are kept, by the names of their files.
    """
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }

"""
``python -m benchmarks [name ...] [--json] [--stdlib] [--save]``: run benchmarks,
each in a process of its own. Nothing is judged here: the exit status is 0 unless
one crashed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module

import benchmarks
from benchmarks import results, tables
from heap_agent._core import encoder

#: Name → module with `TITLE` and `run()`, which returns rows.
BENCHMARKS = {
    "hot-path": "benchmarks.hot_path",
    "live": "benchmarks.live",
    "contention": "benchmarks.contention",
    "threads": "benchmarks.threads",
    "delivery": "benchmarks.delivery",
    "losses": "benchmarks.losses",
    "join": "benchmarks.join",
    "backlog": "benchmarks.backlog",
    "disk": "benchmarks.disk",
    "startup": "benchmarks.startup",
    "memory": "benchmarks.memory",
    "idle": "benchmarks.idle",
    "watched": "benchmarks.watched",
    "counts": "benchmarks.counts",
}


def main() -> int:
    """
    Parse the command line and run.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure heap_agent.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--stdlib", action="store_true", help="encode without orjson")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    names = asked.names or list(BENCHMARKS)
    # Which encoder there is has been decided in this process.
    if len(names) == 1 and (encoder.NAME != "orjson" or not asked.stdlib):
        _run(names[0], as_json=asked.json, save=asked.save)
        return 0
    flags = [f"--{flag}" for flag in ("json", "stdlib", "save") if getattr(asked, flag)]
    environment = {**os.environ, **({benchmarks.STDLIB: "1"} if asked.stdlib else {})}
    return max(
        subprocess.run(
            [sys.executable, "-m", "benchmarks", name, *flags], env=environment
        ).returncode
        for name in names
    )


def _run(name: str, *, as_json: bool, save: bool) -> None:
    module = import_module(BENCHMARKS[name])
    rows = module.run()
    result = results.of(name, module.TITLE, rows, compares=getattr(module, "COMPARES", False))
    if as_json:
        print(json.dumps(result))
    else:
        print(f"{module.TITLE}\n\n{tables.text(rows)}\n\n{results.circumstances(result)}\n")
    if save:
        results.save(result)


if __name__ == "__main__":
    sys.exit(main())

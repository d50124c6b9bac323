"""
``python -m benchmarks [name ...] [--json]``: run benchmarks, each in a process
of its own. Nothing is judged here: the exit status is 0 unless one crashed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from importlib import import_module

from benchmarks import tables
from heap_agent._core import encoder

#: Name → module with `TITLE` and `run()`, which returns rows.
BENCHMARKS = {
    "hot-path": "benchmarks.hot_path",
    "live": "benchmarks.live",
    "contention": "benchmarks.contention",
    "threads": "benchmarks.threads",
    "delivery": "benchmarks.delivery",
}


def main() -> int:
    """
    Parse the command line and run.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure heap_agent.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    names = asked.names or list(BENCHMARKS)
    if len(names) == 1:
        _run(names[0], asked.json)
        return 0
    flags = ["--json"] if asked.json else []
    return max(
        subprocess.run([sys.executable, "-m", "benchmarks", name, *flags]).returncode
        for name in names
    )


def _run(name: str, as_json: bool) -> None:
    module = import_module(BENCHMARKS[name])
    rows = module.run()
    about = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}",
        "encoder": encoder.NAME,
    }
    if as_json:
        print(json.dumps({"benchmark": name, **about, "rows": rows}))
    else:
        print(f"{module.TITLE}  ({', '.join(about.values())})\n\n{tables.text(rows)}")


if __name__ == "__main__":
    sys.exit(main())

"""The list of benchmarks, and the process that runs one."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
README = (ROOT / "benchmarks" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_can_be_run(name: str) -> None:
    """Its module imports without the other clients, and has what the list promises."""
    module = import_module(BENCHMARKS[name])
    assert module.TITLE
    assert callable(module.run)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_is_described(name: str) -> None:
    """The README says what it measures."""
    assert f"**`{name}`**" in README


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_a_name_that_is_none_is_refused() -> None:
    """The message lists those that there are."""
    done = run("hot-pth")
    assert done.returncode == 2
    assert "'hot-pth'" in done.stderr and "hot-path" in done.stderr


def test_orjson_can_be_taken_away() -> None:
    """With the variable that `--stdlib` sets, the package finds the standard encoder only."""
    program = "import benchmarks, json; from heap_agent._core import encoder"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(json.dumps(encoder.NAME))"],
        cwd=ROOT,
        env={**os.environ, "BENCHMARKS_STDLIB": "1"},
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == "json"

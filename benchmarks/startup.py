"""
What a program pays before it is at work: the import, and the way to its first
recorded event, as whole processes.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

import attrs

from benchmarks import data, peers, programs, server
from benchmarks.tables import Row
from benchmarks.waiting import backlog

TITLE = "start: whole processes, bytecode compiled before"

ROUNDS, WARM_UP = 15, 2

#: Events that wait in a directory that is not new.
QUEUED = 1_000_000

BARE = "bare Python"

#: Without what an exit costs, which is another matter.
_EXIT = "\nimport os; os._exit(0)"

_FIRST_EVENT = programs.AGENT + 'heap_agent.track("Album Opened", {"tracks": 12})'


@attrs.frozen
class Start:
    """
    A program that ends when it is ready.

    Attributes:
        code: Python.
        directory: Where its agent finds a state; None for a new one each time.
    """

    code: str
    directory: Path | None = None


def run() -> list[Row]:
    """
    Measure.
    """
    with ExitStack() as stack:
        full = stack.enter_context(backlog(QUEUED))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heap-agent-bench-")))
        variables = stack.enter_context(programs.environment())
        endpoint = stack.enter_context(server.nobody_there())
        starts = {
            BARE: Start("pass"),
            "import logging": Start("import logging"),
            "import attrs": Start("import attrs"),
            "import heap_agent": Start("import heap_agent"),
            "from heap_agent import Agent": Start("from heap_agent import Agent"),
            "… init, first track: empty directory": Start(_FIRST_EVENT),
            f"… init, first track: {QUEUED:,} queued": Start(_FIRST_EVENT, full),
            "import urllib3": Start("import urllib3"),
            **{
                f"import {peer.module}": Start(f"import {peer.module}")
                for peer in peers.installed()
            },
        }
        return _rows(_interleaved(starts, base, endpoint, variables))


def _interleaved(
    starts: Mapping[str, Start], base: Path, endpoint: str, variables: Mapping[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """
    Seconds until the end, and of a core, of each in each round.
    """
    chance = random.Random(data.SEED)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
    for number in range(WARM_UP + ROUNDS):
        for name in chance.sample([*starts], len(starts)):
            directory = starts[name].directory or base / f"{number}-{len(taken[name])}-{id(name)}"
            times = _time(starts[name].code + _EXIT, os.fspath(directory), endpoint, variables)
            if number >= WARM_UP:
                taken[name].append(times)
    return taken


def _time(
    code: str, directory: str, endpoint: str, variables: Mapping[str, str]
) -> tuple[float, float]:
    began = perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, directory, endpoint], env=variables)
    _, status, used = os.wait4(process.pid, 0)
    took = perf_counter() - began
    process.returncode = status
    if status:
        raise RuntimeError(f"it has failed: {code}")
    return took, used.ru_utime + used.ru_stime


def _rows(taken: Mapping[str, list[tuple[float, float]]]) -> list[Row]:
    bare = taken[BARE]
    return [
        {
            "what": name,
            "median ms": statistics.median(took for took, _ in times) * 1e3,
            "above bare ms": _above([took for took, _ in times], [took for took, _ in bare]),
            "of a core ms": _above([used for _, used in times], [used for _, used in bare]),
            "runs": len(times),
        }
        for name, times in taken.items()
    ]


def _above(times: list[float], bare: list[float]) -> float:
    """The median over the rounds of what it takes beyond the bare one, in ms."""
    return statistics.median(a - b for a, b in zip(times, bare, strict=True)) * 1e3

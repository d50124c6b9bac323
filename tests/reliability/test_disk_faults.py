"""
Each call on a disk fails in turn: the program notices nothing, and the books know all.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trials
from helpers import balanced

from heap_agent import Agent
from heap_agent.testing import Collector

PROGRAM: Final = Path(__file__).parents[1] / "programs" / "refused.py"

#: A recording call that takes longer hangs.
HANGS: Final = 2.0

#: How many calls in a row fail: one, some, all that are left.
LASTING: Final = (1, 25, 1 << 40)

#: Torture goes through every call, in as many parts; how it fails is thrown.
PARTS: Final = 8


class Life(NamedTuple):
    """What the program saw of its own life."""

    calls: int
    slowest: float
    recorded: int
    acknowledged: list[int]


def live(shim: Path, directory: Path, endpoint: str, first: int, last: int, fault: int) -> Life:
    """Run the program; calls from the first to the last fail."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(directory), endpoint],
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "FAULTS_DIRECTORY": str(directory),
            "FAULTS_FIRST": str(first),
            "FAULTS_LAST": str(last),
            "FAULTS_ERRNO": str(fault),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Life(*json.loads(done.stdout))


def assert_nothing_is_missing(life: Life, directory: Path, collector: Collector) -> int:
    """Deliver what is left on a sound disk, and compare; how many events were lost."""
    with Agent(
        "11",
        directory=directory,
        endpoint=collector.url,
        interval=3600,
        identity_budget=None,
        app_budget=None,
    ) as agent:
        assert agent.flush(30), agent.status()
        balanced(agent)
        arrived = Counter(event.properties["number"] for event in collector.events("Recorded"))
        assert [number for number, times in arrived.items() if times > 1] == []
        assert set(life.acknowledged) - set(arrived) == set()
        assert collector.conflicts == []
        return life.recorded - len(arrived)


def try_out(shim: Path, place: Path, first: int, lasting: int, fault: int) -> tuple[int, bool]:
    """One life with one fault; how many events it lost, and if the disk came back in it."""
    with Collector() as collector:
        life = live(shim, place, collector.url, first, first + lasting - 1, fault)
        assert life.slowest < HANGS
        missing = assert_nothing_is_missing(life, place, collector)
        return missing, life.calls >= first + lasting


@pytest.mark.parametrize("part", range(trials.tries(1, PARTS)))
def test_any_call_may_fail(
    faults: Path, tmp_path: Path, part: int, figure: Callable[[str, object], None]
) -> None:
    """
    Whichever call fails, and for how long, no call of the program raises, prints or hangs,
    and what was acknowledged on disk arrives once.
    """
    with Collector() as collector:
        calls = live(faults, tmp_path / "sound", collector.url, 0, 0, 0).calls
    assert calls > 50, "the library sees too little"
    chance = trials.dice("disk faults", part)
    every = list(range(1 + part, calls + 1, PARTS))
    chosen = [
        (first, chance.choice(LASTING), chance.choice((errno.EIO, errno.ENOSPC)))
        for first in (every if trials.LONG else chance.sample(range(1, calls + 1), 10))
    ]
    lost = 0
    for round_, (first, lasting, fault) in enumerate(chosen):
        what = f"{errno.errorcode[fault]} at call {first} of {calls}, {lasting} in a row"
        try:
            missing, came_back = try_out(faults, tmp_path / str(round_), first, lasting, fault)
            # Only a program that ends while its disk refuses may lose what it has in memory.
            assert not (missing and came_back), f"{missing} events are missing"
            lost += missing
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error

    figure("calls", calls)
    figure("faults", len(chosen))
    figure("events lost to disks that never came back", lost)

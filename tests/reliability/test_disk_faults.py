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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, TypeAlias

import pytest
import trials
from commands import PATIENCE, Result, arguments, environment
from helpers import balanced, heir

from heap_agent import Agent
from heap_agent.testing import Collector

Figure: TypeAlias = Callable[[str, object], None]

PROGRAM: Final = Path(__file__).parents[1] / "programs" / "refused.py"

#: Where nobody answers.
NOWHERE: Final = "http://127.0.0.1:9"

HUNG: Final = PROGRAM.with_name("hung.py")

#: Whatever must return while a disk hangs.
CALLS: Final = [
    "add_event_properties",
    "add_user_properties",
    "flush",
    "identify",
    "reset_identity",
    "shutdown",
    "status",
    "sync",
    "track",
]

#: A recording call that takes longer hangs.
HANGS: Final = 2.0

#: More calls than there are in a life.
ALL: Final = 1 << 40

#: How many calls in a row fail: one, some, all that are left.
LASTING: Final = (1, 25, ALL)

ERRORS: Final = (errno.EIO, errno.ENOSPC)

#: Torture goes through every call, in as many parts; how it fails is thrown.
PARTS: Final = 8


class Fault(NamedTuple):
    """
    What is wrong in one life.

    Attributes:
        first: The first call that fails.
        lasting: How many fail at most.
        error: What they fail with.
        ending: How many calls may still fail when `shutdown` begins; None: as many as are left.
        online: Whether the server answers.
    """

    first: int
    lasting: int
    error: int
    online: bool
    ending: int | None = None

    def __str__(self) -> str:
        end = "" if self.ending is None else f", {self.ending} in shutdown"
        where = "online" if self.online else "offline"
        name = errno.errorcode[self.error]
        return f"{name} from call {self.first} on, {self.lasting} in a row{end}, {where}"


class Life(NamedTuple):
    """
    What the program saw of its own life.

    Attributes:
        calls: That the disk had to answer.
        calls_of_the_end: Those of `shutdown` among them.
        taken: How often something was written since the last call that failed.
        slowest: Seconds that a recording call took at most.
        recorded: How many events.
        acknowledged: The numbers of those that were on the disk when `track` returned.
        told: How many events the log called lost.
        has_directory: The agent got as far as having one.
    """

    calls: int
    calls_of_the_end: int
    taken: int
    slowest: float
    recorded: int
    acknowledged: list[int]
    told: int
    has_directory: bool


def live(shim: Path, directory: Path, endpoint: str, fault: Fault | None, *mutant: str) -> Life:
    """Run the program on a disk with a fault, or on a sound one."""
    plan = fault or Fault(0, 0, 0, True)
    ending = "" if plan.ending is None else str(plan.ending)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(directory), endpoint, ending, *mutant],
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "FAULTS_DIRECTORY": str(directory),
            "FAULTS_FIRST": str(plan.first),
            "FAULTS_LAST": str(plan.first + plan.lasting - 1),
            "FAULTS_ERRNO": str(plan.error),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Life(**json.loads(done.stdout))


def assert_nothing_is_missing(life: Life, directory: Path, collector: Collector) -> int:
    """Deliver what is left on a sound disk, and compare; how many events were lost."""
    with heir(directory, collector.url) as agent:
        assert agent.flush(30), agent.status()
        balanced(agent)
        found = agent.status()
    arrived = Counter(event.properties["number"] for event in collector.events("Recorded"))
    assert [number for number, times in arrived.items() if times > 1] == []
    assert set(life.acknowledged) - set(arrived) == set()
    assert collector.conflicts == []
    missing = life.recorded - len(arrived)
    # The program's last word, heard where nothing can be written.
    assert life.told == missing, f"{missing} events are missing, the log told of {life.told}"
    if life.taken and life.has_directory:
        # The disk came back before the end: it must have taken the number.
        assert (found.recorded, found.dropped_by) == (
            life.recorded,
            {"unwritten": missing} if missing else {},
        )
    return missing


def try_out(shim: Path, place: Path, fault: Fault | None, *mutant: str) -> tuple[Life, int]:
    """One life with one fault, and how many events it lost."""
    try:
        with Collector() as collector:
            online = fault is None or fault.online
            endpoint = collector.url if online else NOWHERE
            life = live(shim, place, endpoint, fault, *mutant)
            assert life.slowest < HANGS
            return life, assert_nothing_is_missing(life, place, collector)
    except AssertionError as error:
        raise AssertionError(f"{fault}: {error}") from error


def any_fault(chance: Random, first: int) -> Fault:
    """One that begins at a call."""
    return Fault(first, chance.choice(LASTING), chance.choice(ERRORS), chance.random() < 0.5)


def return_late(shim: Path, place: Path, error: int, endings: Iterable[int]) -> Iterator[int]:
    """
    Lives whose disk returns so many calls after `shutdown` began, until it has fewer; how
    many events each has lost.
    """
    chance = trials.dice("disks that return", error)
    for ending in endings:
        # Some time after the agent has begun and before the last event.
        fault = Fault(chance.randrange(70, 140), ALL, error, False, ending)
        life, missing = try_out(shim, place / str(ending), fault)
        yield missing
        if life.calls_of_the_end <= ending:
            break


@pytest.mark.parametrize("part", range(trials.tries(1, PARTS)))
def test_any_call_may_fail(faults: Path, tmp_path: Path, part: int, figure: Figure) -> None:
    """
    Whichever call fails, and for how long, no call of the program raises, prints or hangs,
    what was acknowledged on disk arrives once, and the books count what does not.
    """
    calls = try_out(faults, tmp_path / "sound", None)[0].calls
    assert calls > 50, "the library sees too little"
    chance = trials.dice("disk faults", part)
    every = range(1 + part, calls + 1, PARTS)
    chosen = every if trials.LONG else chance.sample(range(1, calls + 1), 6)
    lost = 0
    for first in chosen:
        lost += try_out(faults, tmp_path / str(first), any_fault(chance, first))[1]

    figure("calls", calls)
    figure("faults", len(chosen))
    figure("events lost and counted", lost)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_disk_that_returns_at_the_end(
    faults: Path, tmp_path: Path, error: int, figure: Figure
) -> None:
    """
    However late in `shutdown` the disk takes something again: it takes the events, or their
    number.
    """
    endings = range(100) if trials.LONG else range(error % 5, 100, 7)
    lost = list(return_late(faults, tmp_path, error, endings))
    figure("ends", len(lost))
    figure("events lost and counted", sum(lost))


def test_forgotten_writes_are_found_out(faults: Path, tmp_path: Path) -> None:
    """An agent that does not keep what the disk refuses is caught by the same faults."""
    with pytest.raises(AssertionError):
        for first in range(80, 150, 10):
            fault = Fault(first, ALL, errno.EIO, True)
            try_out(faults, tmp_path / str(first), fault, "refused writes are forgotten")


def test_losses_without_a_count_are_found_out(faults: Path, tmp_path: Path) -> None:
    """An agent that loses without a word is caught by the same ends."""
    with pytest.raises(AssertionError, match="unwritten"):
        for ending in range(8, 20):
            fault = Fault(135, ALL, errno.EIO, False, ending)
            try_out(faults, tmp_path / str(ending), fault, "losses at the end are not counted")


def hang(shim: Path, directory: Path, whose: str, *mutant: str) -> None:
    """A life whose disk hangs in a sync: all calls return, and all events are there."""
    done = subprocess.run(
        [sys.executable, str(HUNG), str(directory), whose, *mutant],
        env={
            **os.environ,
            "LD_PRELOAD": str(shim),
            "FAULTS_DIRECTORY": str(directory),
            "FAULTS_SYNCS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    waiting = [call for call in CALLS if call not in found["returned"]]
    assert waiting == [], ", ".join(waiting)
    with Agent("11", directory=directory, endpoint=NOWHERE, interval=3600) as agent:
        balanced(agent)
        assert agent.status().recorded == agent.status().queued == found["recorded"]


@pytest.mark.parametrize("whose", ["journal", "queue"])
def test_a_disk_that_hangs_in_a_sync(faults: Path, tmp_path: Path, whose: str) -> None:
    """
    No recording call waits for a sync, of the journal or of SQLite, nor does who asks how
    things stand, and a call with a timeout keeps it.
    """
    hang(faults, tmp_path / "state", whose)


def test_a_recording_call_that_waits_is_found_out(faults: Path, tmp_path: Path) -> None:
    """An agent that records under the lock of the syncs is caught by the same disk."""
    with pytest.raises(AssertionError, match="track"):
        hang(faults, tmp_path / "state", "journal", "recording waits for syncs")


@pytest.mark.parametrize("question", [["status", "--check"], ["doctor", "--offline"]])
def test_whoever_watches_a_disk_that_hangs(
    faults: Path, tmp_path: Path, question: list[str]
) -> None:
    """The command that asks whether all is well comes back, and says what is not."""
    directory = tmp_path / "state"
    with Agent("11", directory=directory, endpoint=NOWHERE, interval=3600) as agent:
        agent.track("Recorded")
    changes = {
        "LD_PRELOAD": str(faults),
        "FAULTS_DIRECTORY": str(directory),
        "FAULTS_SYNCS": "1",
        "FAULTS_FIRST": "1",
        "FAULTS_LAST": "1000000",
        "FAULTS_MILLISECONDS": "3600000",
    }
    result = Result(
        subprocess.run(
            arguments((*question, "--app-id", 11, "--directory", directory, "--json")),
            env=environment(tmp_path, changes),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    )
    assert result.code == 1
    assert "does not answer" in str(result.json)
    with heir(directory, NOWHERE) as agent:
        balanced(agent)

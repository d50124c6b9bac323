"""
The power goes at any moment: what was synced is there, the rest is whole or was never
there, and no key ever stands for two events.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trials
from power import Call, Disk, Names, lay_out, record
from story import Story, expect

from heap_agent._store.outlook import generations
from heap_agent.testing import FakeClock

TESTS = Path(__file__).parents[1]

Figure = Callable[[str, object], None]


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[Path]:
    """Where states are laid out: in memory, if there is such a place."""
    memory = Path("/dev/shm")
    place = memory / f"power-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path / "cut"
    yield place
    shutil.rmtree(place, ignore_errors=True)


def live(shim: Path, tmp_path: Path, events: int, size: int, *mutant: str) -> list[Call]:
    """The calls of a short life, in which so many events of so many bytes are recorded."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    program = TESTS / "programs" / "workload.py"
    return record(program, shim, directory, str(events), str(size), *mutant)


def cut(
    calls: list[Call], names: Names, place: Path, each: int, *, part: int = 0, begin: int = 0
) -> tuple[int, int]:
    """
    Cut the power after each call from one on, and look at so many of the states it may
    leave.

    Returns:
        States that were looked at, and torn records in them.
    """
    disk, seen, torn = Disk(names), set[int](), 0
    for number, call in enumerate(calls):
        if not disk.do(call) or number < begin:
            continue
        story = Story(disk.marks)
        for state in range(each):
            chance = trials.dice("cut", names.name, part, number, state) if state else None
            found = disk.after_a_cut(chance)
            fingerprint = hash((frozenset(found.items()), len(story.synced), len(story.sent)))
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
            lay_out(place, found)
            try:
                clock = FakeClock()
                clock.reboot()
                torn += expect(place, story, story.synced, clock)
                # SQLite's file may lose its last commits, and is never damaged.
                assert [path.name for path in generations(place)] == ["queue-1.db"]
            except Exception as error:
                raise AssertionError(f"cut after call {number}, state {state}: {call}") from error
    return len(seen), torn


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize("part", range(trials.tries(1, 4)))
def test_a_cut_at_every_call(
    shim: Path, tmp_path: Path, place: Path, names: Names, part: int, figure: Figure
) -> None:
    """Whatever was not synced comes through or not, in any mixture."""
    calls = live(shim, tmp_path, trials.tries(24, 120), trials.tries(100, 3_000))
    states, torn = cut(calls, names, place, trials.tries(2, 12), part=part)
    figure("calls", len(calls))
    figure("states", states)
    figure("torn records", torn)
    assert states > len(calls) // 2 and torn


def test_a_broken_agent_is_found_out(shim: Path, tmp_path: Path, place: Path) -> None:
    """Where absorbing commits with NORMAL, parts are unlinked that are nowhere else."""
    calls = live(shim, tmp_path, 40, 9_000, "absorb commits with NORMAL")
    unlinked = [
        number for number, call in enumerate(calls) if call.what == "U" and "part" in call.name
    ]
    with pytest.raises(AssertionError, match="cut after call"):
        cut(calls, Names.ORDERED, place, 60, begin=unlinked[0])

"""
The power goes at any moment: what was synced is there, the rest is whole or was never
there, and no key ever stands for two events.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trials
from power import Call, Disk, Names, lay_out, record, states
from story import Story, expect, expect_delivered

from heap_agent._store.outlook import generations
from heap_agent.testing import FakeClock

TESTS = Path(__file__).parents[1]

NORMAL = "absorb commits with NORMAL"

Figure = Callable[[str, object], None]


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
    number = torn = 0
    dice = partial(trials.dice, "cut", names.name, part)
    for state in states(calls, names, each, dice, range(begin, len(calls))):
        story = Story(state.marks)
        lay_out(place, state.files)
        try:
            clock = FakeClock()
            clock.reboot()
            torn += expect(place, story, story.synced, clock)
            # SQLite's file may lose its last commits, and is never damaged.
            assert [path.name for path in generations(place)] == ["queue-1.db"]
        except Exception as error:
            raise AssertionError(state.where) from error
        number += 1
    return number, torn


def cut_and_deliver(
    calls: list[Call], names: Names, place: Path, share: float, *, begin: int = 0
) -> int:
    """
    Cut the power after a share of the calls from one on, and deliver what is left; how
    often that was.
    """
    disk, chance, count = Disk(names), trials.dice("deliver", names.name), 0
    for number, call in enumerate(calls):
        if not disk.do(call) or number < begin or chance.random() >= share:
            continue
        lay_out(place, disk.after_a_cut(chance))
        try:
            expect_delivered(place, Story(disk.marks))
        except Exception as error:
            raise AssertionError(f"cut after call {number}: {call}") from error
        count += 1
    return count


def unlinking(calls: list[Call]) -> int:
    """Which call unlinks the first part: after the commit, before the directory's sync."""
    return next(
        number for number, call in enumerate(calls) if call.what == "U" and "part" in call.name
    )


def sending(calls: list[Call]) -> int:
    """Where the server has received the first events."""
    return next(
        number for number, call in enumerate(calls) if call.what == "M" and b'"sent"' in call.data
    )


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize("part", range(trials.tries(1, 4)))
def test_a_cut_at_every_call(
    shim: Path, tmp_path: Path, place: Path, names: Names, part: int, figure: Figure
) -> None:
    """Whatever was not synced comes through or not, in any mixture."""
    calls = live(shim, tmp_path, trials.tries(24, 120), trials.tries(100, 9_000))
    number, torn = cut(calls, names, place, trials.tries(2, 6), part=part)
    figure("calls", len(calls))
    figure("states", number)
    figure("torn records", torn)
    assert number > len(calls) // 2 and torn


@pytest.mark.parametrize("names", Names)
def test_a_cut_while_a_part_is_unlinked(
    shim: Path, tmp_path: Path, place: Path, names: Names, figure: Figure
) -> None:
    """Events are in the part or in the database, whichever of the two comes through."""
    calls = live(shim, tmp_path, 40, 9_000)
    gone = unlinking(calls)
    number, _ = cut(calls[: gone + 12], names, place, trials.tries(6, 200), begin=gone - 12)
    figure("states", number)
    assert number > 20


@pytest.mark.parametrize("names", Names)
def test_delivery_after_a_cut(
    shim: Path, tmp_path: Path, place: Path, names: Names, figure: Figure
) -> None:
    """An agent that comes up afterwards sends the rest, and no key with another body."""
    calls = live(shim, tmp_path, 24, 100)
    number = cut_and_deliver(calls, names, place, trials.tries(10, 100) / 100)
    figure("states", number)
    assert number


def test_no_call_is_overlooked(shim: Path, tmp_path: Path) -> None:
    """What the record makes of a directory is what the program has made of it."""
    disk = Disk(Names.STRICT)
    for call in live(shim, tmp_path, 40, 9_000):
        disk.do(call)

    made = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}

    # The reserve is allocated, not written, and holds nothing.
    assert not any(made.pop("reserve"))
    found = disk.as_seen()
    del found["reserve"]
    assert found == made


@pytest.mark.parametrize("names", Names)
def test_a_broken_agent_is_found_out(shim: Path, tmp_path: Path, place: Path, names: Names) -> None:
    """Where absorbing commits with NORMAL, parts are unlinked that are nowhere else."""
    calls = live(shim, tmp_path, 40, 9_000, NORMAL)
    gone = unlinking(calls)
    with pytest.raises(AssertionError, match="cut after call") as caught:
        cut(calls[: gone + 12], names, place, 6, begin=gone + 1)
    assert "events are gone" in str(caught.value.__cause__)


@pytest.mark.parametrize("names", Names)
def test_a_second_body_is_found_out(shim: Path, tmp_path: Path, place: Path, names: Names) -> None:
    """Where NORMAL is all, what was repaired for sending is repaired otherwise later."""
    calls = live(shim, tmp_path, 24, 100, NORMAL)
    with pytest.raises(AssertionError, match="cut after call") as looked:
        cut(calls, names, place, 2, begin=sending(calls))
    assert "one key stands for two events" in str(looked.value.__cause__)
    with pytest.raises(AssertionError, match="cut after call") as delivered:
        cut_and_deliver(calls, names, place, 1.0, begin=sending(calls))
    assert "one key was sent with two bodies" in str(delivered.value.__cause__)

"""
What waits in memory: in order, bounded, and whole whatever interrupts it.
"""

from __future__ import annotations

from helpers import interrupted
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.events import Kind
from heap_agent._store.spill import Spill, Spilled


def entry(number: int, kind: Kind = Kind.EVENT, size: int = 0) -> Spilled:
    """A record with a number."""
    return Spilled(kind, 0, number, 0, b"x" * size)


def numbers(entries: list[Spilled]) -> list[int]:
    """Which they are."""
    return [one.wall_ns for one in entries]


@given(st.lists(st.sampled_from([Kind.EVENT, Kind.STATE]), max_size=40))
def test_the_order_is_that_of_recording(kinds: list[Kind]) -> None:
    """Whatever they are, they are written in the order in which they came."""
    spill = Spill()
    for number, kind in enumerate(kinds):
        assert spill.add(entry(number, kind)) == []
    assert numbers(spill.entries()) == [*range(len(kinds))]
    assert (len(spill), spill.events) == (len(kinds), kinds.count(Kind.EVENT))

    written = []
    while (first := spill.first()) is not None:
        written.append(first)
        assert len(spill) == len(kinds) - len(written) + 1
        spill.written()

    assert numbers(written) == [*range(len(kinds))]
    assert (len(spill), spill.bytes) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from([Kind.EVENT, Kind.STATE]), st.integers(0, 900))))
def test_no_more_is_kept_than_there_is_room_for(records: list[tuple[Kind, int]]) -> None:
    """Large ones push out as many as it takes: the oldest, and events before all others."""
    spill, gone = Spill(room=1_000), []
    for number, (kind, size) in enumerate(records):
        lost = spill.add(entry(number, kind, size))
        gone += lost
        kept = spill.entries()
        assert sum(one.size for one in kept) == spill.bytes <= 1_000
        assert sorted(numbers(gone + kept)) == [*range(number + 1)]
        if any(one.kind != Kind.EVENT for one in lost):
            assert not spill.events


def test_what_is_being_written_is_not_dropped() -> None:
    """It would be there and counted as lost."""
    spill = Spill(room=200)
    spill.add(entry(0, size=100))
    assert spill.first() == entry(0, size=100)

    assert spill.add(entry(1, size=150)) == [entry(1, size=150)]

    assert spill.first() == entry(0, size=100)
    assert spill.add(entry(2)) == []
    assert numbers(spill.take()) == [0, 2]
    assert (spill.first(), spill.bytes) == (None, 0)


def test_an_interrupt_at_any_moment_loses_nothing() -> None:
    """Whatever a signal handler raises, an entry is written or still there."""
    moment, more = 0, True
    while more:
        moment += 1
        spill, written = Spill(), []
        for number in range(3):
            spill.add(entry(number, (Kind.EVENT, Kind.STATE)[number % 2]))

        def write(spill: Spill = spill, written: list[int] = written) -> None:
            while (first := spill.first()) is not None:
                if first.wall_ns not in written:
                    written.append(first.wall_ns)
                spill.written()

        more = interrupted(write, moment)
        write()

        assert written == [0, 1, 2], moment
        assert (len(spill), spill.bytes) == (0, 0)
    assert moment > 10

"""
The front of the queue in memory: never anything but what is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._core.events import Candidate, Kind
from heap_agent._core.records import FROZEN
from heap_agent._store.database import Database
from heap_agent._store.event_queue import RECORDED, EventQueue
from heap_agent._store.front import LOOK, LOOK_BYTES, Front
from heap_agent._store.rows import Entry, Stored


def entry(number: int, size: int = 9, actor: str = "1") -> Entry:
    """A row to be, with a body that is no JSON: nobody looks into it."""
    return Entry(Kind.EVENT, FROZEN, 1, 5, 1_000, "11", actor, b"%d" % number + b"\xff" * size)


def fill(queue: EventQueue, entries: list[Entry]) -> int:
    """Insert rows with their books, as the absorber does; the first id."""
    with queue.database.transact():
        first = queue.insert(entries)
        queue.add({RECORDED: len(entries)})
    queue.keep_at_hand(first, entries)
    return first


def on_disk(queue: EventQueue) -> list[Candidate]:
    """The oldest rows as SQLite has them."""
    return queue.peek(limit=1 << 30, max_bytes=1 << 40)


@pytest.fixture(name="queue")
def _queue(tmp_path: Path) -> Iterator[EventQueue]:
    database = Database(tmp_path / "queue-1.db")
    queue = EventQueue(database)
    yield queue
    assert queue.check() == []
    database.close()


def test_a_look_takes_in_more_than_a_request_and_no_more_than_fits() -> None:
    """Two thousand rows, or four megabytes, or a single row of whatever size."""
    assert len(Front.of([(id, entry(id)) for id in range(3_000)], 0).candidates()) == LOOK
    large = Front.of([(id, entry(id, LOOK_BYTES // 4)) for id in range(9)], 0)
    assert len(large.candidates()) == 3
    assert len(Front.of([(1, entry(1, 2 * LOOK_BYTES))], 0).candidates()) == 1


def test_rows_are_there_as_they_were_written(queue: EventQueue) -> None:
    """From memory and from the disk alike."""
    entries = [entry(number) for number in range(5)]
    first = fill(queue, entries)
    ids = [one.id for one in queue.front()]
    fresh = EventQueue(queue.database)

    assert queue.load(ids) == fresh.load(ids)
    assert queue.load(ids) == [Stored(first + at, one) for at, one in enumerate(entries)]
    assert queue.front() == fresh.front() == on_disk(queue)


def test_older_rows_go_first_though_newer_ones_are_at_hand(queue: EventQueue) -> None:
    """What was just written is not the front where something waits before it."""
    fill(queue, [entry(1)])
    fill(queue, [entry(2)])

    assert [one.id for one in queue.front()] == [1, 2]


def test_a_transaction_that_has_not_happened_is_forgotten(queue: EventQueue) -> None:
    """Rows whose deletion was undone are in the front again."""
    fill(queue, [entry(number) for number in range(4)])
    assert len(queue.front()) == 4
    with pytest.raises(ZeroDivisionError), queue.database.transact():
        queue.ack([1, 2])
        raise ZeroDivisionError

    assert [one.id for one in queue.front()] == [1, 2, 3, 4]
    assert len(queue.load([1, 2, 3, 4])) == 4


def test_where_rows_stay_behind_the_look_goes_further(queue: EventQueue) -> None:
    """A thousand rows without a budget do not hide all that is behind them."""
    fill(queue, [entry(number, actor=str(number % 2)) for number in range(LOOK + 500)])
    seen = queue.front()
    queue.ack([one.id for one in seen if one.actor == "1"])

    assert queue.front()[-1].id == LOOK + 500


def test_what_is_purged_is_not_at_hand(queue: EventQueue) -> None:
    """Nobody can load it any more."""
    fill(queue, [entry(1), entry(2)])
    queue.front()
    queue.purge()

    assert (queue.front(), queue.load([1, 2])) == ([], [])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), st.integers(1, 5)),
        st.tuples(st.just("ack"), st.sets(st.integers(0, 9), max_size=4)),
        st.tuples(st.just("prefix"), st.integers(0, 5)),
        st.tuples(st.just("bury"), st.integers(0, 9)),
        st.tuples(st.just("restore"), st.none()),
        st.tuples(st.just("drop"), st.integers(1, 40)),
        st.tuples(st.just("undo"), st.integers(1, 3)),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(steps)
def test_the_front_is_what_the_disk_has(taken: list[tuple[str, object]]) -> None:
    """After anything that may happen to rows, and the bytes are the disk's."""
    database = Database(None)
    queue = EventQueue(database)
    for what, how in taken:
        ids = [one.id for one in queue.front()]
        if what == "fill":
            assert isinstance(how, int)
            fill(queue, [entry(number, number) for number in range(how)])
        elif what == "ack":
            assert isinstance(how, set)
            queue.ack([id for at, id in enumerate(ids) if at in how])
        elif what == "prefix":
            assert isinstance(how, int)
            queue.ack(ids[:how])
        elif what == "bury":
            assert isinstance(how, int)
            queue.bury(ids[how : how + 1], status=400, reason="", now=0)
        elif what == "restore":
            queue.restore()
        elif what == "drop":
            assert isinstance(how, int)
            queue.drop_oldest(how)
        else:
            assert isinstance(how, int)
            with pytest.raises(ZeroDivisionError), database.transact():
                queue.ack(ids[:how])
                raise ZeroDivisionError
        assert queue.front() == on_disk(queue)
        rows = [one.id for one in on_disk(queue)]
        assert queue.load(rows) == EventQueue(database).load(rows)
    assert queue.check() == []
    database.close()

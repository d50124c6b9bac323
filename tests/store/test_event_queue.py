"""
The queue: nothing leaves it unnamed, nothing leaves it uncounted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._core.events import Kind
from heap_agent._core.records import FROZEN
from heap_agent._store.database import Database, damage
from heap_agent._store.event_queue import CHUNK, RECORDED, EventQueue
from heap_agent._store.rows import Entry

BODY = (
    b'{"timestamp":"2026-01-01T00:00:00.000+00:00","idempotency_key":"k","user_id":"1",'
    b'"session_id":"2","event":"%b","properties":{}}'
)


def entry(
    name: str = "E",
    *,
    kind: Kind = Kind.EVENT,
    boot: int = 1,
    boot_clock: int = 5,
    app_id: str = "11",
    actor: str = "1",
    pad: int = 0,
) -> Entry:
    """A row to be."""
    body = BODY % name.encode() + b" " * pad
    return Entry(kind, 0, boot, boot_clock, 1_000, app_id, actor, body)


def fill(queue: EventQueue, *entries: Entry) -> list[int]:
    """Insert rows with their books; their ids."""
    before = {one.id for one in queue.peek(limit=1 << 30, max_bytes=1 << 40)}
    with queue.database.transact():
        queue.insert(entries)
        queue.add({RECORDED: sum(one.kind is Kind.EVENT for one in entries)})
    return [id for id in ids(queue) if id not in before]


def ids(queue: EventQueue) -> list[int]:
    """Ids in the queue."""
    return [one.id for one in queue.peek(limit=1 << 30, max_bytes=1 << 40)]


@pytest.fixture(name="queue")
def _queue(state_dir: Path) -> Iterator[EventQueue]:
    database = Database(state_dir / "queue-1.db")
    queue = EventQueue(database)
    yield queue
    assert queue.check() == []
    database.close()


# -- in and out ---------------------------------------------------------------------


def test_rows_come_out_as_they_went_in(queue: EventQueue) -> None:
    """Oldest first, with everything that was put in, and looking takes nothing."""
    entries = [entry("A"), entry("B", kind=Kind.USER_PROPERTIES, app_id="12", actor="ann")]
    assert fill(queue, *entries) == [1, 2]

    assert [stored.entry for stored in queue.load([1, 2])] == entries
    first = queue.peek(limit=1)
    assert [(one.id, one.kind, one.app_id, one.actor, one.size) for one in first] == [
        (1, Kind.EVENT, "11", "1", len(entries[0].body))
    ]
    assert (queue.count(), queue.rows(), queue.empty()) == (1, 2, False)


def test_ids_never_come_back(queue: EventQueue) -> None:
    """An emptied queue goes on with new ids, so that a late deletion meets no new row."""
    fill(queue, entry(), entry())
    queue.ack([1, 2])
    database = queue.database
    again = EventQueue(database)

    assert fill(again, entry()) == [3]
    assert again.ack([1, 2]) == 0


def test_two_queues_never_share_an_id() -> None:
    """A queue in memory has ids of its own range."""
    queue = EventQueue(Database(None), first_id=1 << 62)

    assert fill(queue, entry(), entry()) == [1 << 62, (1 << 62) + 1]
    queue.database.close()


def test_a_look_is_bounded(queue: EventQueue) -> None:
    """At most so many rows and bytes, but always one."""
    fill(queue, *(entry(pad=1_000) for _ in range(5)))

    assert len(queue.peek(limit=2)) == 2
    assert len(queue.peek(max_bytes=2_500)) == 2
    assert len(queue.peek(max_bytes=1)) == 1


def test_a_look_passes_over_what_waits(queue: EventQueue) -> None:
    """Kinds of an app id that may not be sent now do not hide the rows behind them."""
    fill(queue, entry(), entry(app_id="12"), entry(kind=Kind.IDENTIFY))

    assert [one.id for one in queue.peek(skip=[(Kind.EVENT, "11")])] == [2, 3]
    assert [one.id for one in queue.peek(skip=[(Kind.EVENT, "11"), (Kind.EVENT, "12")])] == [3]


def test_names_are_there_when_asked_for(queue: EventQueue) -> None:
    """The newest rows of a kind come with their names, newest first."""
    fill(queue, entry("A"), entry("B"), entry("C", app_id="12"), entry("D", kind=Kind.IDENTIFY))

    assert [(one.id, one.name) for one in queue.newest(Kind.EVENT, "11")] == [
        (2, '"B"'),
        (1, '"A"'),
    ]
    assert [one.name for one in queue.named(queue.peek())] == ['"A"', '"B"', '"C"', ""]


def test_rows_that_are_gone_are_left_out(queue: EventQueue) -> None:
    """Loading by name gives what is still there, in the order that was asked for."""
    fill(queue, entry("A"), entry("B"), entry("C"))
    queue.ack([2])

    assert [stored.id for stored in queue.load([3, 2, 1, 99])] == [3, 1]


def test_many_rows_can_be_loaded(queue: EventQueue) -> None:
    """More ids than SQLite takes parameters at once."""
    fill(queue, *(entry() for _ in range(1_200)))

    assert len(queue.load(ids(queue))) == 1_200


# -- freezing -----------------------------------------------------------------------


def settle(one: Entry) -> Entry:
    """Another time, for good."""
    return one._replace(flags=one.flags | FROZEN, body=one.body.replace(b"2026", b"2027"))


def test_frozen_rows_never_change_again(queue: EventQueue) -> None:
    """The settled bytes are committed before they are returned, and only once."""
    fill(queue, entry(), entry())

    first = queue.freeze(queue.load([1]), settle)
    both = queue.freeze(queue.load([1, 2]), lambda one: settle(one)._replace(wall=9))

    assert b"2027" in first[0].entry.body
    assert [stored.entry.wall for stored in both] == [1_000, 9]
    assert queue.load([1, 2]) == both


def test_a_row_that_was_dropped_stays_away(queue: EventQueue) -> None:
    """What goes between loading and freezing is not brought back by freezing."""
    fill(queue, entry(), entry())
    rows = queue.load([1, 2])
    queue.purge(before=(1 << 60, 0))
    fill(queue, entry("new"))

    assert queue.freeze(rows, settle) == []
    assert ids(queue) == [3]


# -- away ---------------------------------------------------------------------------


def test_acknowledging_counts_rows_that_were_there(queue: EventQueue) -> None:
    """A batch names its rows; doubles, strangers and other kinds count nothing."""
    fill(queue, entry(), entry(kind=Kind.IDENTIFY), entry(), entry())

    assert queue.ack([1, 2, 4, 99]) == 2
    assert queue.ack([1, 2, 4]) == 0
    assert queue.counts() == {RECORDED: 3, "delivered": 2}
    assert ids(queue) == [3]


def test_dead_letters_are_kept_with_their_reason(queue: EventQueue) -> None:
    """A refused event can be read, sent again under its old id, or thrown away."""
    fill(queue, entry("A"), entry("B"), entry("C", kind=Kind.IDENTIFY))
    queue.bury([1, 2, 3], status=400, reason="bad", now=77)

    assert [(one.id, one.status, one.reason, one.died) for one in queue.dead_letters()] == [
        (1, 400, "bad", 77),
        (2, 400, "bad", 77),
        (3, 400, "bad", 77),
    ]
    assert (queue.count(), queue.dead_count()) == (0, 2)
    assert queue.restore([1]) == 1 and ids(queue) == [1]
    assert queue.discard_dead([2, 3]) == 2
    assert queue.restore() == 0
    assert queue.counts()["dropped.discarded"] == 1


def test_burying_again_is_no_second_death(queue: EventQueue) -> None:
    """Rows that have gone meanwhile are not buried."""
    fill(queue, entry())
    queue.bury([1], status=400, reason="", now=1)
    queue.bury([1, 5], status=400, reason="", now=2)

    assert [one.died for one in queue.dead_letters()] == [1]


def test_the_oldest_are_dropped_in_chunks(queue: EventQueue) -> None:
    """A full disk is not shaved row by row."""
    fill(queue, *(entry() for _ in range(3 * CHUNK)))

    assert queue.drop_oldest(1) == (CHUNK, CHUNK)
    assert ids(queue)[0] == CHUNK + 1
    assert queue.counts()["dropped.full"] == CHUNK


def test_a_chunk_of_large_events_is_small(queue: EventQueue) -> None:
    """Room for one event does not cost a hundred megabytes of others."""
    fill(queue, *(entry(pad=100_000) for _ in range(10)))

    assert queue.drop_oldest(1) == (3, 3)


def test_rows_in_flight_are_not_dropped(queue: EventQueue) -> None:
    """What is being sent stays until its answer is there."""
    fill(queue, *(entry() for _ in range(CHUNK + 10)))
    queue.set_in_flight([1, 2, 3])

    queue.drop_oldest(1)

    assert ids(queue)[:3] == [1, 2, 3] and len(ids(queue)) == 10
    queue.set_in_flight([])
    assert queue.drop_oldest(1 << 30) == (10, 10)


def test_identity_and_profile_go_last(queue: EventQueue) -> None:
    """Rows that say who somebody is are dropped only when no event is left."""
    fill(queue, entry(kind=Kind.IDENTIFY), entry(kind=Kind.USER_PROPERTIES))
    fill(queue, *(entry() for _ in range(20)))

    assert queue.drop_oldest(1_000) == (20, 20)
    assert ids(queue) == [1, 2]
    assert queue.drop_oldest(1) == (2, 0)
    assert queue.empty()


def test_dead_letters_make_room_oldest_first(queue: EventQueue) -> None:
    """Dropped dead letters are counted like other events that had no room."""
    fill(queue, *(entry() for _ in range(CHUNK + 5)))
    queue.dead_has_grown = False
    queue.bury(ids(queue), status=400, reason="", now=1)
    assert queue.dead_has_grown and queue.dead_bytes() == (CHUNK + 5) * len(entry().body)

    assert queue.drop_dead(1) == CHUNK
    assert len(queue.dead_letters()) == 5


def test_purging_takes_a_stretch_of_time(queue: EventQueue) -> None:
    """Rows and dead letters between two moments go, whichever boot they are from."""
    fill(queue, *(entry(boot=boot, boot_clock=clock) for boot in (1, 2) for clock in (1, 5, 9)))
    queue.bury([2], status=400, reason="", now=1)

    assert queue.purge((1, 1), (2, 5)) == 3
    assert ids(queue) == [1, 5, 6]
    assert queue.purge() == 3
    assert queue.counts()["dropped.purged"] == 6


# -- damage -------------------------------------------------------------------------


def flip(path: Path, needle: bytes) -> None:
    """Change one bit of a file, where these bytes stand first."""
    content = bytearray(path.read_bytes())
    content[content.index(needle)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("needle", [b"Victim", b"app-of-victim", b"actor-of-victim"])
def test_a_flipped_bit_is_noticed_and_counted(needle: bytes, state_dir: Path) -> None:
    """SQLite has no page checksums: the row's own finds it, and the books still balance."""
    path = state_dir / "queue-1.db"
    queue = EventQueue(Database(path))
    victim = entry("Victim", app_id="app-of-victim", actor="actor-of-victim")
    fill(queue, entry("A"), victim, entry("C"))
    queue.database.close()
    flip(path, needle)

    queue = EventQueue(Database(path))
    assert damage(queue.database) == []
    assert queue.check() == ["row 2 does not match its checksum"]

    assert [stored.id for stored in queue.load([1, 2, 3])] == [1, 3]
    assert queue.counts()["dropped.damaged"] == 1
    assert queue.check() == []
    queue.database.close()


def test_a_flipped_bit_in_a_dead_letter_is_counted(state_dir: Path) -> None:
    """A dead letter that is not what was refused is not shown as one."""
    path = state_dir / "queue-1.db"
    queue = EventQueue(Database(path))
    fill(queue, entry("Victim"), entry("B"))
    queue.bury([1, 2], status=400, reason="", now=1)
    queue.database.checkpoint()
    queue.database.close()
    # The row's old place in the other table may still hold the same bytes.
    for _ in range(path.read_bytes().count(b"Victim")):
        flip(path, b"Victim")

    queue = EventQueue(Database(path))
    assert queue.check() == ["dead letter 1 does not match its checksum"]

    assert [letter.id for letter in queue.dead_letters()] == [2]
    assert queue.check() == [] and queue.counts()["dropped.damaged"] == 1
    queue.database.close()


def test_an_unknown_kind_is_damage(queue: EventQueue) -> None:
    """A row whose kind makes no sense is removed where it is met."""
    fill(queue, entry(), entry())
    with queue.database.transact() as execute:
        execute("UPDATE entry SET kind = 99 WHERE id = 1")

    assert ids(queue) == [2]
    assert queue.counts()["dropped.damaged"] == 1


def test_check_finds_what_does_not_balance() -> None:
    """An event too many, a row in both tables, an id from the future: each has its sentence."""
    queue = EventQueue(Database(None))
    fill(queue, entry(), entry())
    with queue.database.transact() as execute:
        queue.add({RECORDED: 1})
        execute("INSERT INTO dead SELECT *, 400, '', 1 FROM entry WHERE id = 1")
        execute("UPDATE counter SET value = 1 WHERE name = 'next_id'")

    found = queue.check()

    assert any("row 1 is queued and dead" in text for text in found)
    assert any("an id that was not given out" in text for text in found)
    queue.add({RECORDED: 4})
    assert any("the books do not balance" in text for text in queue.check())
    queue.database.close()


# -- any sequence -------------------------------------------------------------------

_some = st.lists(st.integers(1, 40), max_size=6)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), st.lists(st.sampled_from(list(Kind)[:3]), max_size=6)),
        st.tuples(st.just("ack"), _some),
        st.tuples(st.just("bury"), _some),
        st.tuples(st.just("restore"), _some),
        st.tuples(st.just("discard"), _some),
        st.tuples(st.just("flight"), _some),
        st.tuples(st.just("drop"), st.integers(1, 2_000)),
        st.tuples(st.just("drop dead"), st.integers(1, 2_000)),
        st.tuples(st.just("purge"), st.just(0)),
    ),
    max_size=15,
)


@settings(max_examples=60)
@given(_steps)
def test_the_books_balance_whatever_happens(steps: list[tuple[str, list[int]]]) -> None:
    """After any sequence of calls recorded = queued + delivered + dead + dropped."""
    queue = EventQueue(Database(None))
    calls = {
        "ack": queue.ack,
        "bury": lambda some: queue.bury(some, status=None, reason="", now=1),
        "restore": queue.restore,
        "discard": queue.discard_dead,
        "flight": queue.set_in_flight,
        "drop": queue.drop_oldest,
        "drop dead": queue.drop_dead,
        "purge": lambda _: queue.purge(),
        "fill": lambda kinds: fill(queue, *(entry(kind=kind) for kind in kinds)),
    }
    for name, argument in steps:
        calls[name](argument)  # type: ignore[operator]
        assert queue.check() == []
    queue.database.close()


def test_repr_asks_nothing_of_the_database(state_dir: Path) -> None:
    """A debugger may look at it after the end."""
    database = Database(state_dir / "queue-1.db")
    queue = EventQueue(database)
    queue.set_in_flight([1, 2])
    database.close()

    assert "2 in flight" in repr(queue)

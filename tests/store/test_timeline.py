"""
Boots, steps and marks over restarts: what `_core.clock` decides must not be forgotten.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from helpers import balanced, bodies, opened, put_event, track

from heap_agent._core.clock import RELEASE_MARK, SECOND
from heap_agent._core.events import Kind
from heap_agent._core.records import FROZEN, GIVEN
from heap_agent._store import timeline as module
from heap_agent._store.database import Database
from heap_agent._store.journal import Journal
from heap_agent._store.rows import Entry
from heap_agent._store.timeline import Timeline, boots
from heap_agent.testing import FakeClock

NOW = RELEASE_MARK + 1_000 * SECOND


@pytest.fixture(name="database")
def _database(state_dir: Path) -> Database:
    return Database(state_dir / "queue-1.db")


def event(wall: int, boot_clock: int, boot: int, flags: int = 0) -> Entry:
    """A row at a time."""
    return Entry(
        Kind.EVENT, flags, boot, boot_clock, wall, "11", "1", b'{"timestamp":"' + b"?" * 40
    )


def settled(timeline: Timeline, entry: Entry) -> bytes:
    """Its time as it would be sent."""
    return timeline.settle(entry).body[14:43]


def test_boots_are_numbered_in_their_order(database: Database) -> None:
    """Boots that journals speak of come before the running one; known ones keep their numbers."""
    first = Timeline(database, "b", ["a"])
    before = boots(database)
    assert list(before) == ["a", "b"] and before["b"] == first.boot
    assert before["a"] < before["b"]

    later = Timeline(database, "c", ["a", "b"])

    assert boots(database) == {**before, "c": later.boot}
    assert later.boot > before["b"]
    assert [later.ordinal(name) for name in "abc"] == list(boots(database).values())


def test_a_boot_that_turns_up_late_is_an_earlier_one(database: Database) -> None:
    """It takes its place just before the running boot, which stays the running one."""
    Timeline(database, "a")
    timeline = Timeline(database, "b")
    running = timeline.boot

    first, second = timeline.ordinal("stranger"), timeline.ordinal("stranger's follower")

    assert timeline.boot == running
    known = boots(database)
    assert known["a"] < first < second < known["b"] == running
    assert timeline.ordinal("stranger") == first


def test_a_step_survives_a_restart(database: Database) -> None:
    """Records from before the clock was set are moved also by the next process."""
    timeline = Timeline(database, "b")
    assert not timeline.tick(0, 10 * SECOND)
    assert timeline.tick(NOW, 20 * SECOND)

    again = Timeline(database, "b")

    assert len(again.knowledge.steps) == 1
    unset = event(5 * SECOND, 15 * SECOND, again.boot)
    assert settled(again, unset)[:4] == b"2026"


def test_a_step_between_two_processes_is_found(database: Database) -> None:
    """The last look of the process before is remembered."""
    first = Timeline(database, "b")
    first.tick(0, 10 * SECOND)
    first.save()

    assert Timeline(database, "b").tick(NOW, 20 * SECOND)


def test_another_boot_is_no_step(database: Database) -> None:
    """Boot clocks of two boots do not compare."""
    first = Timeline(database, "b")
    first.tick(0, 10 * SECOND)
    first.save()

    assert not Timeline(database, "c").tick(NOW, 20 * SECOND)


def test_a_trusted_date_survives_a_restart(database: Database) -> None:
    """What an answer said about the time repairs rows of the same boot after a restart."""
    timeline = Timeline(database, "b")
    timeline.feed_date(NOW / 1e6, 100 * SECOND, 100 * SECOND, 0)
    timeline.save()

    again = Timeline(database, "b")

    assert again.knowledge.mark == NOW
    boot = timeline.boot
    assert again.knowledge.boots[boot].truth == timeline.knowledge.boots[boot].truth
    body = settled(again, event(40 * SECOND, 40 * SECOND, boot))
    assert body.startswith(b"2026-")


def test_given_times_and_profiles_are_not_moved(database: Database) -> None:
    """A time that the caller gave is frozen as it is."""
    timeline = Timeline(database, "b")
    given = event(5, 5, 1, GIVEN)

    done = timeline.settle(given)

    assert (done.flags, done.body) == (GIVEN | FROZEN, given.body)
    assert timeline.settle(done) == done


def test_boots_are_forgotten_only_when_there_are_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The latest boots stay, though nothing refers to them: a journal that turns up must not be
    taken for one of a later boot than the running one.
    """
    monkeypatch.setattr(module, "_BOOTS", 6)
    for number in range(5):
        timeline = Timeline(database, f"boot {number}")
    timeline.forget()
    assert len(boots(database)) == 5
    for number in range(5, 9):
        timeline = Timeline(database, f"boot {number}")

    timeline.forget()
    timeline.save()

    assert sorted(boots(database)) == ["boot 6", "boot 7", "boot 8"]
    assert Timeline(database, "next").boot > timeline.boot


# -- with a store -------------------------------------------------------------------


def test_journals_of_earlier_boots_keep_their_place(state_dir: Path, clock: FakeClock) -> None:
    """State of an earlier boot never wins over that of a later one, whenever it is absorbed."""
    journals = []
    for number in range(3):
        journal = Journal(state_dir, clock.boot_id)
        journal.open()
        put_event(journal, clock, n=number)
        journal.close()
        journals.append(clock.boot_id)
        clock.advance(100)
        clock.reboot()
    with opened(state_dir, clock) as store:
        track(store, n=3)
        store.absorb(freeze=True)

        assert store.ledger is not None
        known = store.ledger.timeline.knowledge
        assert [known.boots[n].boot_id for n in sorted(known.boots)] == [*journals, clock.boot_id]
        assert [body["properties"]["n"] for body in bodies(store, Kind.EVENT)] == [0, 1, 2, 3]
        balanced(store)


def test_unset_clocks_of_several_boots_are_placed_in_order(
    state_dir: Path, clock: FakeClock
) -> None:
    """A device without a battery clock boots in 1970 each time: its events stay in order."""
    number = 0
    for _ in range(3):
        clock.reboot(wall=0)
        with opened(state_dir, clock) as store:
            for _ in range(3):
                clock.advance(1)
                track(store, n=number)
                number += 1
            store.absorb(freeze=True)
    with opened(state_dir, clock) as store:
        found = bodies(store, Kind.EVENT)

        assert [body["properties"]["n"] for body in found] == list(range(9))
        times = [body["timestamp"] for body in found]
        assert times == sorted(set(times)) and times[0] > "2026-11-23"
        assert store.books().counts["repaired.clock"] == 9
        balanced(store)


def test_an_unset_clock_comes_after_what_was_frozen_at_once(
    state_dir: Path, clock: FakeClock
) -> None:
    """
    Events that got their final time when they were absorbed, an hour after the last trusted
    Date, come before those of a later boot that does not know the time.
    """
    clock.step(NOW / 1e6 - clock.wall_ns() / 1e9)
    for number in range(2):
        with opened(state_dir, clock) as store:
            if number == 0:
                assert store.ledger is not None
                store.ledger.timeline.feed_date(clock.wall_ns() / 1e9, *store.now(), 0)
                clock.advance(3_600)
            track(store, n=number)
            store.absorb(freeze=True)
        clock.reboot(wall=0)
    with opened(state_dir, clock) as store:
        first, second = (str(body["timestamp"]) for body in bodies(store, Kind.EVENT))
        assert second > first
        balanced(store)


def test_a_step_that_only_the_records_saw(state_dir: Path, clock: FakeClock) -> None:
    """
    Events that are frozen at once are repaired also where nobody else has looked at the clocks
    before they were set right.
    """
    clock.step(NOW / 1e6 - clock.wall_ns() / 1e9)
    with opened(state_dir, clock) as store:
        assert store.ledger is not None
        store.ledger.timeline.feed_date(clock.wall_ns() / 1e9, *store.now(), 0)
        for number, error in enumerate([-1e9, -1e9, 0]):
            clock.advance(10)
            clock.step(error)
            track(store, n=number)
            clock.step(-error)
        store.absorb(freeze=True)
        times = [body["timestamp"] for body in bodies(store, Kind.EVENT)]
        apart = [datetime.fromisoformat(str(time).replace("Z", "+00:00")) for time in times]
        assert [(later - apart[0]).total_seconds() for later in apart] == [0, 10, 20]
        balanced(store)

"""A new generation from a damaged database: what is carried over, and what must stay."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ANN, ANN_NAMED, balanced, deliver, equation, opened, track, tracked

from heap_agent._core.state import identity_facet
from heap_agent._store import outlook, salvage, system
from heap_agent._store.database import DatabaseTrouble, Trouble
from heap_agent._store.salvage import SALVAGED
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

PAGE = 4_096
EVENTS = 300

Harm = Callable[[Path], None]


def overwrite(begin: int, pages: int = 1) -> Harm:
    """Something else stands in some pages."""

    def harm(path: Path) -> None:
        with open(path, "r+b") as file:
            file.seek(begin * PAGE)
            file.write(b"\xa5" * PAGE * pages)

    return harm


def cut(path: Path) -> None:
    """Half of the file is gone."""
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def forget_tables(path: Path) -> None:
    """SQLite reads it, and does not find what should be there."""
    database = sqlite3.connect(path)
    database.execute("DROP TABLE position")
    database.close()


def reuse_ids(path: Path) -> None:
    """The next id is one that a row has."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE counter SET value = 200 WHERE name = 'next_id'")
    database.close()


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="used")
def _used(state_dir: Path, clock: FakeClock) -> Path:
    """A directory with a queue, an identified user, a held property, delivered and dead rows."""
    with opened(state_dir, clock) as store:
        store.record_state({identity_facet("11", "m"): ["1", "ann"]})
        store.record_user_properties(ANN, b'{"Colour":"blue"}')
        for number in range(EVENTS):
            track(store, n=number, actor=ANN_NAMED, text="x" * 500)
        store.absorb(freeze=False)
        (ledger,) = store.queues()
        ids = [row.id for row in ledger.queue.peek()]
        ledger.queue.ack(ids[:10])
        ledger.queue.bury(ids[10:12], status=400, reason="bad", now=0)
        balanced(store)
    return state_dir


def expect_sound(store: Store) -> None:
    """It records, absorbs and delivers, and its books balance."""
    track(store, n=9_999)
    store.absorb(freeze=False)
    assert 9_999 in tracked(store)
    balanced(store)
    deliver(store)
    balanced(store)


@pytest.mark.parametrize(("pages", "left"), [(1, EVENTS - 12), (15, EVENTS - 12), (40, 1)])
def test_events_are_found_wherever_they_stand(
    used: Path, clock: FakeClock, pages: int, left: int
) -> None:
    """Though nothing leads to them any more: the first pages hold the tables' roots."""
    overwrite(0, pages)(used / "queue-1.db")
    with opened(used, clock) as store:
        found = tracked(store)
        assert found == sorted(found) and len(found) >= left
        assert store.books().counts[SALVAGED] == 1
        expect_sound(store)


def test_everything_is_carried_over(used: Path, clock: FakeClock) -> None:
    """Queue, dead letters, books, who is logged in, held properties, positions."""
    with opened(used, clock) as store:
        before = tracked(store), store.books(), store.read_state().facets
        users = store.queues()[0].database.query("SELECT * FROM user_property")
    overwrite(0)(used / "queue-1.db")

    with opened(used, clock) as store:
        after = tracked(store), store.books(), store.read_state().facets
        assert (after[0], after[2]) == (before[0], before[2])
        assert after[1].counts - before[1].counts == {SALVAGED: 1}
        assert (after[1].queued, after[1].dead) == (before[1].queued, before[1].dead)
        assert store.queues()[0].database.query("SELECT * FROM user_property") == users
        assert json.loads(json.dumps(users)) and len(users) == 1
        expect_sound(store)


@pytest.mark.parametrize(
    ("harm", "generation"), [(cut, 2), (overwrite(30), 2), (forget_tables, 2), (reuse_ids, 1)]
)
def test_what_is_met_at_work_is_mended(
    used: Path, clock: FakeClock, harm: Harm, generation: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage that shows later replaces the database, which is told once; books are put right."""
    with opened(used, clock) as store:
        harm(used / "queue-1.db")
        store.disown()
        store.try_to_own()
        for attempt in range(4):
            track(store, n=1_000 + attempt)
            store.absorb(freeze=False)
            try:
                tracked(store)
            except DatabaseTrouble as error:
                store.trouble_while_delivering(error)
            store.mend(float(attempt))
        expect_sound(store)
        assert outlook.database_path(used).name == f"queue-{generation}.db"
        assert store.books().counts[SALVAGED] == generation - 1
    told = [record.getMessage() for record in caplog.records]
    assert sum("the queue was damaged" in text for text in told) == generation - 1
    assert len(told) == len(set(told)), "something was told twice"


def test_the_damaged_file_stays_as_it_was(used: Path, clock: FakeClock) -> None:
    """Whoever wants to look at it can; a second damage replaces the first."""
    overwrite(0)(used / "queue-1.db")
    content = (used / "queue-1.db").read_bytes()
    with opened(used, clock):
        pass
    assert (used / "queue-1.db").read_bytes() == content

    overwrite(0)(used / "queue-2.db")
    with opened(used, clock) as store:
        assert {path.name for path in used.glob("queue-*")} >= {"queue-2.db", "queue-3.db"}
        assert not (used / "queue-1.db").exists()
        assert store.books().counts[SALVAGED] == 2
        expect_sound(store)


def test_the_kept_one_gives_way_before_events_do(used: Path, clock: FakeClock) -> None:
    """Where room is needed, the damaged database is the first to go."""
    overwrite(0)(used / "queue-1.db")
    with opened(used, clock, max_bytes=3 << 20) as store:
        kept = len(tracked(store))
        for number in range(2_000):
            track(store, n=10_000 + number, text="x" * 200)
            if not number % 100:
                store.absorb(freeze=False)
        store.absorb(freeze=False)
        assert not (used / "queue-1.db").exists()
        assert kept
        balanced(store)


def test_a_disk_that_takes_nothing_is_not_believed(
    used: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dying card calls sound files damaged: nothing is replaced or renamed."""
    overwrite(0)(used / "queue-1.db")
    monkeypatch.setattr(system, "probe_error", lambda directory: OSError("it is dying"))
    with opened(used, clock) as store:
        assert store.ledger is None
        assert track(store, n=1)
    assert [path.name for path in used.glob("queue-*.db")] == ["queue-1.db"]


def test_a_sound_database_that_is_accused_is_kept(used: Path, clock: FakeClock) -> None:
    """What is sound when it is opened anew was never damaged."""
    with opened(used, clock) as store:
        before = tracked(store)
        store.trouble_while_delivering(DatabaseTrouble(Trouble.CORRUPT, "malformed"))
        store.mend(0.0)
        assert tracked(store) == before
        assert outlook.database_path(used).name == "queue-1.db"
        expect_sound(store)


def test_a_new_boot_is_when_it_is_looked_at(used: Path, clock: FakeClock) -> None:
    """Damage that no query has met is found after the machine was started anew."""
    overwrite(30)(used / "queue-1.db")
    with opened(used, clock) as store:
        store.mend(0.0)
        assert outlook.database_path(used).name == "queue-1.db"
    clock.reboot()
    with opened(used, clock) as store:
        store.mend(0.0)
        assert outlook.database_path(used).name == "queue-2.db"
        assert store.books().counts["dropped.damaged"] > 0
        expect_sound(store)


def test_without_room_nothing_is_begun(
    used: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A salvage that could not end leaves everything as it is, and recording goes on."""
    overwrite(0)(used / "queue-1.db")
    monkeypatch.setattr(system, "free_bytes", lambda directory: 1 << 20)
    with opened(used, clock) as store:
        assert store.ledger is None
        assert track(store, n=1)
    assert [path.name for path in used.glob("queue*")] == ["queue-1.db"]


@pytest.fixture(name="steps")
def _steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Calls that a salvage makes where a crash may come, and the one that it dies in."""
    done: list[str] = []
    for name in ("file_sync", "directory_sync"):
        real = getattr(system, name)

        def dying(*arguments: object, name: str = name, real: Callable[..., None] = real) -> None:
            done.append(name)
            if done[0] == name:
                raise KeyboardInterrupt
            real(*arguments)

        monkeypatch.setattr(system, name, dying)
    yield done


@pytest.mark.parametrize("dies_in", ["file_sync", "directory_sync"])
def test_a_salvage_that_is_cut_short_is_done_again(
    used: Path, clock: FakeClock, steps: list[str], dies_in: str
) -> None:
    """Before the rename the old one is in force, after it the new one; nothing is lost."""
    overwrite(0)(used / "queue-1.db")
    before = (used / "queue-1.db").read_bytes()
    steps.append(dies_in)
    with pytest.raises(KeyboardInterrupt):
        salvage.salvage(used)
    steps[:] = ["nowhere"]
    assert (used / "queue-1.db").read_bytes() == before

    with opened(used, clock) as store:
        assert store.books().counts[SALVAGED] == 1
        assert len(tracked(store)) == EVENTS - 12
        recorded, kept = equation(store.books())
        assert recorded == kept == EVENTS
        expect_sound(store)

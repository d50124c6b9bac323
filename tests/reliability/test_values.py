"""
A value in the database that a worn card has changed into another, which SQLite does not
see: what was recorded arrives as it was, and nothing else does.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import pytest
import trials
from helpers import ANN, ANN_NAMED, balanced, heir, opened, track

from heap_agent import Agent
from heap_agent._core.events import Actor
from heap_agent.testing import Collector, FakeClock

EVENTS = 40

BOB, BOB_NAMED = Actor("11", "2"), Actor("11", "2", "bob")

#: Hardly any column takes all of them.
STRANGE: Final = ("strange", b"strange", 1.5, -1)

#: Seconds by which a clock was wrong at first, and that a time may be off after a repair.
BEHIND, CLOSE = 3_600, 2

Figure = Callable[[str, object], None]


class Place(NamedTuple):
    """A value in the database."""

    table: str
    column: str
    rowid: int


class Arrived(NamedTuple):
    """What has reached the server: events by their numbers, and all else that was said."""

    events: dict[int, dict[str, Any]]
    others: set[str]


@pytest.fixture(name="template", scope="module")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Left in a hurry by two boots, the first of which began with a wrong clock: a database
    that knows of both, of users who may be joined, and of a journal that was half read.
    """
    living, path = (tmp_path_factory.mktemp(name) / "state" for name in ("living", "template"))
    for directory in (living, path):
        directory.mkdir(mode=0o700)
    clock = FakeClock(time.time() - 2 * BEHIND - BEHIND)
    with opened(living, clock) as store:
        for number in range(EVENTS // 4):
            clock.advance(10)
            track(store, "Recorded", n=number, actor=ANN)
        store.absorb(freeze=True)
        clock.step(BEHIND)
        for number in range(EVENTS // 4, EVENTS // 2):
            clock.advance(10)
            track(store, "Recorded", n=number, actor=ANN)
        store.absorb(freeze=True)
    clock.reboot()
    with opened(living, clock) as store:
        for number in range(EVENTS // 2, EVENTS):
            clock.advance(10)
            track(store, "Recorded", n=number, actor=ANN)
            if number == EVENTS * 3 // 4:
                store.record_user_properties(ANN, b'{"plan": "gold"}')
                store.record_state({}, identify=BOB_NAMED)
                store.absorb(freeze=True)
        store.record_state({}, identify=ANN_NAMED)
        # Of one whose name is known already, and who had nothing to be joined so far.
        track(store, "Recorded", n=EVENTS, actor=BOB)
        # As a kill leaves it: nobody closes anything.
        for found in living.iterdir():
            shutil.copy(found, path)
    return path


def places(directory: Path) -> Iterator[Place]:
    """All values of all tables."""
    with closing(sqlite3.connect(directory / "queue-1.db")) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            rowids = database.execute(f"SELECT rowid FROM {table}").fetchall()
            for _, column, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                yield from (Place(table, column, rowid) for (rowid,) in rowids)


def change(directory: Path, place: Place, chance: Random) -> bool:
    """Make another value of one, mostly of the same kind; whether that can be."""
    table, column, rowid = place
    with closing(sqlite3.connect(directory / "queue-1.db")) as database, database:
        where = f"FROM {table} WHERE rowid = {rowid}"
        ((value,),) = database.execute(f"SELECT {column} {where}").fetchall()
        if not value and not isinstance(value, int):
            return False
        new = chance.choice(STRANGE) if chance.random() < 0.2 else another(value, chance)
        with suppress(sqlite3.IntegrityError):  # the key of its table takes only some
            database.execute(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?", (new, rowid)
            )
    return True


def another(value: int | str | bytes, chance: Random) -> int | str | bytes:
    """With one bit flipped: of a number any, of a text one that leaves it a text."""
    if isinstance(value, int):
        return value ^ (1 << chance.randrange(63))
    text = bytearray(value.encode() if isinstance(value, str) else value)
    text[chance.randrange(len(text))] ^= 1 << chance.randrange(4)
    return text.decode("utf-8", "replace") if isinstance(value, str) else bytes(text)


def arrived(directory: Path) -> Arrived:
    """A process of a third boot delivers all that there is."""
    clock = FakeClock(time.time())
    for _ in range(2):
        clock.reboot()
    events: dict[int, dict[str, Any]] = {}
    others: set[str] = set()
    with (
        Collector() as collector,
        heir(directory, collector.url, clock) as agent,
    ):
        assert agent.flush(30), agent.status()
        # Books that do not balance are put right when the database is looked at, once a boot.
        assert agent.sync()
        balanced(agent)
        assert collector.conflicts == []
        for request in collector.requests:
            body = json.loads(request.body or b"{}")
            for event in body.pop("events", ()):
                events[event["properties"]["n"]] = event
            if request.method == "POST" and len(body) > 1:
                others.add(json.dumps(body, sort_keys=True))
    return Arrived(events, others)


def seconds(event: dict[str, Any]) -> float:
    """When an event says that it happened."""
    return datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")).timestamp()


def expect(found: Arrived, truth: Arrived) -> None:
    """
    Nothing was said that is not so. (What a clock has learnt may be lost: then times are
    those that the device believed in.)
    """
    assert found.others <= truth.others
    for number, event in found.events.items():
        known = truth.events[number]
        assert {**event, "timestamp": ""} == {**known, "timestamp": ""}
        late = seconds(known) - seconds(event)
        assert min(abs(late), abs(late - BEHIND)) <= CLOSE, f"event {number} is {late} s off"


def test_a_changed_value(template: Path, tmp_path: Path, figure: Figure) -> None:
    """Wherever it stands: a time, a name, a key, a count, how far a journal was read."""
    directory = tmp_path / "state"
    shutil.copytree(template, directory)
    truth = arrived(directory)
    assert sorted(truth.events) == list(range(EVENTS + 1))
    chance, changed = trials.dice("values"), 0
    # Rows of the queue are many, and of one kind.
    small = [place for place in places(template) if place.table != "entry"] * trials.tries(1, 20)
    for place in chance.sample(small, min(len(small), trials.tries(60, 10_000))):
        shutil.rmtree(directory)
        shutil.copytree(template, directory)
        if not change(directory, place, chance):
            continue
        changed += 1
        try:
            found = arrived(directory)
            expect(found, truth)
            assert found.events.keys() == truth.events.keys(), "events are gone"
        except Exception as error:
            raise AssertionError(f"after a change of {place}") from error
    figure("values that were changed", changed)


@pytest.mark.parametrize("change", ["': 5', ': 1'", "':', ';'"])
def test_what_was_told_of_losses(state_dir: Path, change: str) -> None:
    """Losses that were told are not told again, though the note of that is damaged."""
    with opened(state_dir, FakeClock()) as store:
        (ledger,) = store.queues()
        ledger.queue.add({"recorded": 5, "dropped.full": 5})
    assert losses(state_dir) == [{"dropped_full": 5}]
    with closing(sqlite3.connect(state_dir / "queue-1.db")) as database, database:
        changed = database.execute(
            f"UPDATE memo SET value = replace(value, {change}) WHERE name = 'losses_reported'"
        )
        assert changed.rowcount == 1
    assert losses(state_dir) == []
    with opened(state_dir, FakeClock()) as store:
        (ledger,) = store.queues()
        assert store.books().counts["unreadable"] == 1
        ledger.queue.add({"recorded": 2, "dropped.full": 2})
    assert losses(state_dir) == [{"dropped_full": 2}]


def losses(directory: Path) -> list[dict[str, Any]]:
    """What an agent tells of losses while it delivers an event."""
    with (
        Collector() as collector,
        Agent(
            "11",
            directory=directory,
            endpoint=collector.url,
            interval=3_600,
            report_losses=True,
            clock=FakeClock(time.time()),
        ) as agent,
    ):
        agent.track("Recorded")
        assert agent.flush(30), agent.status()
        assert agent.flush(30), agent.status()
        balanced(agent)
        return [dict(event.properties) for event in collector.events("Heap Agent Losses")]

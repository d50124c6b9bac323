"""
A state directory whose bytes were changed at random: what is intact arrives, nothing that
was never recorded is sent, the books balance, and nothing raises or hangs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trials
from helpers import ANN_NAMED, balanced, opened, track

from heap_agent._core.events import Kind
from heap_agent._store.database import DatabaseTrouble
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

PAGE = 4_096
EVENTS = 120
GROUPS = 10

ROUNDS = trials.tries(200, 10_000) // GROUPS

Mutation = Callable[[Path, Random], str]

Figure = Callable[[str, object], None]


def flip(path: Path, chance: Random) -> str:
    """A few bits are others."""
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 1, 5, 50])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return "flipped bits"


def overwrite(path: Path, chance: Random) -> str:
    """A page or a sector is noise, zeros, or a copy of another."""
    content = bytearray(path.read_bytes())
    size = chance.choice([512, PAGE])
    begin = chance.randrange(-(-len(content) // size)) * size
    other = chance.randrange(-(-len(content) // size)) * size
    content[begin : begin + size] = chance.choice(
        [chance.randbytes(size), bytes(size), content[other : other + size]]
    )
    path.write_bytes(content)
    return "overwritten pages"


def truncate(path: Path, chance: Random) -> str:
    """The end is missing, or the file is empty."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(chance.choice([0, chance.randrange(size), size // PAGE // 2 * PAGE]))
    return "cut files"


def replace(path: Path, chance: Random) -> str:
    """Something else stands in its place."""
    path.write_bytes(chance.choice([chance.randbytes(9_000), b"SQLite format 3\0" * 600]))
    return "replaced files"


def remove(path: Path, chance: Random) -> str:
    """It is gone."""
    path.unlink()
    return "removed files"


MUTATIONS: list[Mutation] = [flip, flip, flip, overwrite, overwrite, truncate, replace, remove]


@pytest.fixture(name="template", scope="module")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that was left in a hurry: a database with a log, and a journal behind it."""
    path = tmp_path_factory.mktemp("template") / "state"
    path.mkdir(mode=0o700)
    living = tmp_path_factory.mktemp("living") / "state"
    living.mkdir(mode=0o700)
    with opened(living, FakeClock()) as store:
        for number in range(EVENTS):
            text = "x" * (number % 7 * 100)
            track(store, "Recorded", n=number, text=text, actor=ANN_NAMED)
            if number in (EVENTS // 3, EVENTS // 2):
                store.absorb(freeze=False)
                (ledger,) = store.queues()
                if number == EVENTS // 3:
                    ledger.database.checkpoint()
        # As a kill leaves it: nobody closes anything.
        for found in living.iterdir():
            shutil.copy(found, path)
    return path


def sent(store: Store) -> list[dict[str, Any]]:
    """Deliver everything, as the sender does."""
    found = []
    for ledger in store.queues():
        while waiting := ledger.queue.front():
            rows = ledger.queue.load([one.id for one in waiting])
            found += [json.loads(row.entry.body) for row in rows if row.entry.kind is Kind.EVENT]
            ledger.queue.ack([one.id for one in waiting])
    return found


def live(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """A process comes, looks at what there is, and delivers it."""
    clock = FakeClock()
    clock.reboot()
    with opened(directory, clock) as store:
        found: list[dict[str, Any]] = []
        for moment in range(6):
            store.absorb(freeze=False)
            store.mend(float(moment))
            try:
                found += sent(store)
            except DatabaseTrouble as error:
                store.trouble_while_delivering(error)
        assert track(store, "Later", n=-1, actor=ANN_NAMED)
        store.absorb(freeze=False)
        later = sent(store)
        assert [event["event"] for event in later] == ["Later"], "the store is out of order"
        balanced(store)
        return found, store.books().counts["dropped.damaged"]


@pytest.mark.parametrize("group", range(GROUPS))
def test_whatever_is_damaged(template: Path, tmp_path: Path, group: int, figure: Figure) -> None:
    """Nothing that was never recorded is sent, whatever bytes are changed in which file."""
    lost = mutations = 0
    for round_ in range(ROUNDS):
        chance = trials.dice("corruption", group, round_)
        directory = tmp_path / f"state-{round_}"
        shutil.copytree(template, directory)
        files = sorted(
            path
            for path in directory.iterdir()
            if path.stat().st_size
            and path.name.startswith(("queue", "user"))
            or ".part" in path.name
        )
        path = chance.choice(files)
        what = chance.choice(MUTATIONS)(path, chance)
        try:
            events, damaged = live(directory)
        except Exception as error:
            raise AssertionError(f"group {group}, round {round_}: {what} in {path.name}") from error
        expect_recorded(events, f"group {group}, round {round_}: {what} in {path.name}")
        lost += damaged
        mutations += 1
        shutil.rmtree(directory)
    figure("mutations", mutations)
    figure("events that were counted as damaged", lost)


def expect_recorded(events: list[dict[str, Any]], where: str) -> None:
    """Each event is one that was recorded, and no key stands for two."""
    keys: dict[str, str] = {}
    for event in events:
        properties = event["properties"]
        number = properties["n"]
        assert event["event"] == "Recorded" and event["identity"] == ANN_NAMED.identity, where
        assert properties["text"] == "x" * (number % 7 * 100), where
        whole = json.dumps(event)
        assert keys.setdefault(event["idempotency_key"], whole) == whole, where


def test_intact_rows_arrive(template: Path, tmp_path: Path) -> None:
    """One bad page costs the rows in it, and no other."""
    for number in range(trials.tries(5, 50)):
        directory = tmp_path / f"state-{number}"
        shutil.copytree(template, directory)
        path = directory / "queue-1.db"
        content = bytearray(path.read_bytes())
        begin = trials.dice("one page", number).randrange(len(content) // PAGE) * PAGE
        content[begin : begin + PAGE] = bytes([number % 256]) * PAGE
        path.write_bytes(content)

        events, _ = live(directory)

        assert len({event["properties"]["n"] for event in events}) >= EVENTS - 40


def test_an_undamaged_directory_loses_nothing(template: Path, tmp_path: Path) -> None:
    """The template itself is sound: all arrives, in order, and no database is replaced."""
    directory = tmp_path / "state"
    shutil.copytree(template, directory)

    events, damaged = live(directory)

    assert [event["properties"]["n"] for event in events] == list(range(EVENTS))
    assert damaged == 0
    assert [path.name for path in directory.glob("queue-*.db")] == ["queue-1.db"]

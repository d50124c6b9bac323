"""
Checksums of small rows and texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import balanced, opened, track
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.events import Actor
from heap_agent._store.database import Database
from heap_agent._store.properties import UNREADABLE, Person
from heap_agent._store.seals import intact, seal, sealed, unseal, unsound
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

COLUMNS = st.lists(
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.text()), min_size=1, max_size=6
)


@pytest.fixture(name="database")
def _database() -> Iterator[Database]:
    database = Database(None)
    yield database
    database.close()


@given(COLUMNS, COLUMNS)
def test_what_was_written_is_intact_and_nothing_else(columns: list[Any], other: list[Any]) -> None:
    """A row under another's seal is left out, and so is one whose seal is no number."""
    row = sealed(*columns)
    assert list(intact([row])) == [tuple(columns)]
    if columns != other:
        assert list(intact([(*other, row[-1]), (*columns, None), (*columns, "x")])) == []


@given(st.text(), st.integers(0, 7))
def test_a_sealed_text_is_whole_or_none(text: str, bit: int) -> None:
    """Any flipped bit is found, in the text and in its seal."""
    whole = seal(text)
    assert unseal(whole) == text
    for place in range(len(whole)):
        flipped = whole[:place] + chr(ord(whole[place]) ^ (1 << bit)) + whole[place + 1 :]
        assert unseal(flipped) is None
    assert unseal(None) is None and unseal(b"bytes") is None and unseal("short") is None


def test_rows_that_were_changed_are_found(database: Database) -> None:
    """By their rowids."""
    with database.transact() as execute:
        for number in range(3):
            execute("INSERT INTO boot VALUES (?, ?, ?, ?)", sealed(number, f"boot {number}", 7))
        execute("UPDATE boot SET mark = 8 WHERE ordinal = 1")

    assert unsound(database, "boot") == [(1,)]


def test_rows_that_were_changed_go_and_are_counted(state_dir: Path, clock: FakeClock) -> None:
    """With the next opening; whoever they spoke of is learnt anew."""
    ann = Actor("11", "42", "ann")
    with opened(state_dir, clock) as store:
        track(store, n=1, actor=Actor("11", "42"))
        store.absorb(freeze=False)
        database = _of(store)
        database.execute_many("UPDATE person SET identity = ?", [("eve",)])
        database.execute_many("UPDATE position SET offset = offset + ?", [(9,)])
    with opened(state_dir, clock) as store:
        assert store.ledger is not None
        assert store.ledger.damaged == 2
        assert store.books().counts[UNREADABLE] == 2
        assert store.ledger.properties.persons() == []
        store.record_state({}, identify=ann)
        store.absorb(freeze=False)
        # What stands in the journal still was read again: there is somebody to join.
        assert store.ledger.properties.persons() == [("11", "42", Person("ann", _at(clock), 2))]
        balanced(store)


def _of(store: Store) -> Database:
    assert store.ledger is not None
    return store.ledger.database


def _at(clock: FakeClock) -> int:
    return clock.wall_ns() // 1000

"""
What is wrong with a database.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from heap_agent._store.damage import find_damage, small_tables
from heap_agent._store.database import Database
from heap_agent._store.seals import sealed


@pytest.fixture(name="database")
def _database() -> Iterator[Database]:
    database = Database(None)
    yield database
    database.close()


def test_a_table_takes_what_it_was_made_for(database: Database) -> None:
    """A NULL only where there may be one, and no count that nobody can have reached."""
    tables = {table.name: table for table in small_tables(database)}
    person, counter = tables["person"], tables["counter"]

    assert not {"entry", "dead"} & tables.keys()
    assert person.takes(sealed("11", "42", None, None, 0))
    assert not person.takes(sealed("11", None, None, None, 0))
    assert not person.takes(sealed("11", "42", None, "then", 0))
    assert counter.takes(("recorded", 0))
    assert not counter.takes(("recorded", -1)) and not counter.takes(("recorded", 1 << 60))


@pytest.mark.parametrize("value", ["'many'", "-1", "1.5", "x'00'"])
def test_what_nobody_has_written_is_found(database: Database, value: str) -> None:
    """SQLite takes anything anywhere."""
    with database.transact() as execute:
        execute("INSERT INTO counter VALUES ('recorded', 7)")
    assert find_damage(database) == []
    with database.transact() as execute:
        execute(f"UPDATE counter SET value = {value}")

    assert find_damage(database) == ["the table counter holds what nobody has written"]

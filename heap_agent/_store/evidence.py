"""
What in a database's own data says that it is damaged.

An exception is no such sign: a fault of ours raises one, too, and would have a sound
database replaced with each start. What is looked for is what SQLite finds wrong, tables
that are not those of the schema, and rows that nobody can have written.

This module must not know what is done about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._store.database import (
    MIGRATIONS,
    Database,
    DatabaseTrouble,
    Queryable,
    Reader,
    Row,
    Trouble,
    damage,
)
from heap_agent._store.event_queue import damaged_rows

#: Tables whose rows have checksums, and are many.
QUEUES: Final = frozenset({"entry", "dead"})

#: No count has ever been larger; flipped bits have.
_PLAUSIBLE: Final = 1 << 53

_TYPES: Final = {"INTEGER": int, "TEXT": str, "BLOB": bytes}


class Column(NamedTuple):
    """
    What may stand in a column.
    """

    name: str
    kind: str
    optional: bool


def evidence(path: Path) -> str | None:
    """
    The first sign of damage in a database; None where there is none, or no database.

    Raises:
        DatabaseTrouble: It cannot be read for another reason.
    """
    if not path.exists():
        return None
    try:
        with Reader(path, damaged=True) as reader:
            return next(_signs(reader), None)
    except DatabaseTrouble as error:
        if error.trouble is not Trouble.CORRUPT:
            raise
        return str(error)


def _signs(reader: Reader) -> Iterator[str]:
    yield from damage(reader)
    ((version,),) = reader.query("PRAGMA user_version")
    found = tables(reader)
    if found != _tables_of(version):
        yield f"the tables are not those of schema {version}"
    for table, columns in found.items():
        if table not in QUEUES and not all(
            fits(table, row, columns) for row in reader.query(f"SELECT * FROM {table}")
        ):
            yield f"a row of {table} is none that was written"
    if found:
        yield from damaged_rows(reader)


def _tables_of(version: int) -> dict[str, list[Column]]:
    """
    The tables that a database of this schema has.
    """
    if version <= 0:
        return {}
    known = {number: MIGRATIONS[number] for number in MIGRATIONS if number < version}
    with closing(Database(None, migrations=known)) as database:
        return tables(database)


def tables(source: Queryable) -> dict[str, list[Column]]:
    """
    The tables of a database, by name.
    """
    names = source.query("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return {
        name: [
            Column(column, kind, bool(optional))
            for column, kind, optional in source.query(
                'SELECT name, type, NOT ("notnull" OR pk) FROM pragma_table_info(?)', (name,)
            )
        ]
        for (name,) in names
    }


def fits(table: str, row: Row, columns: Sequence[Column]) -> bool:
    """
    Whether a row is one that may stand in its table.
    """
    kinds = all(
        type(value) is _TYPES[column.kind] or (column.optional and value is None)
        for value, column in zip(row, columns, strict=True)
    )
    return kinds and (table != "counter" or 0 <= row[1] < _PLAUSIBLE)

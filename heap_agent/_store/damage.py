"""
What is wrong with a database: what SQLite finds, and what stands in a small table that
nobody has written. (Rows of the queue have checksums.)

This module must not know what is done about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from heap_agent._store.database import Queryable, Row

# The quick one does not compare indexes with their tables, and only small ones have any.
_CHECK: Final = "PRAGMA integrity_check"

_TYPES: Final = {"INTEGER": int, "TEXT": str, "BLOB": bytes}

#: No count has ever been larger; flipped bits have.
_PLAUSIBLE: Final = 1 << 53


class Table(NamedTuple):
    """
    A small table.

    Attributes:
        name: Its name.
        columns: Their names.
        kinds: What may stand in each of them.
    """

    name: str
    columns: tuple[str, ...]
    kinds: tuple[tuple[type, ...], ...]

    def takes(self, row: Row) -> bool:
        """
        Whether a row may stand in it.
        """
        fits = all(type(value) in kinds for value, kinds in zip(row, self.kinds, strict=True))
        return fits and (self.name != "counter" or 0 <= row[1] < _PLAUSIBLE)


def small_tables(source: Queryable) -> Iterator[Table]:
    """
    All tables but the queue and the dead letters.
    """
    for (table,) in source.query(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('entry', 'dead')"
    ):
        columns = source.query(
            'SELECT name, type, NOT ("notnull" OR pk) FROM pragma_table_info(?)', (table,)
        )
        names, kinds, nullable = zip(*columns, strict=True)
        yield Table(table, names, tuple(map(_values, kinds, nullable)))


def _values(kind: str, nullable: int) -> tuple[type, ...]:
    nothing = type(None)
    # What the schema of a damaged database calls something else takes nothing.
    known = _TYPES.get(kind, nothing)
    return (known, nothing) if nullable else (known,)


def find_damage(source: Queryable) -> list[str]:
    """
    What is wrong, a sentence each; empty where nothing is.

    Raises:
        DatabaseTrouble: It cannot be read.
    """
    found = [str(row[0]) for row in source.query(_CHECK)]
    if found != ["ok"]:
        return found
    return [
        f"the table {table.name} holds what nobody has written"
        for table in small_tables(source)
        # What is no memo is none.
        if table.name != "memo"
        and not all(map(table.takes, source.query(f"SELECT * FROM {table.name}")))
    ]

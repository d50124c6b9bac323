"""
Checksums of small rows and texts.

SQLite has none of its own: a bit that a card has flipped within a value passes all of its
checks. Rows of the queue are sealed faster, in `rows`.

This module must not know what a row means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from zlib import crc32

from heap_agent._store.database import Queryable, Row

#: Digits before a sealed text.
_DIGITS = 8


def sealed(*columns: object) -> Row:
    """
    What is written of a row: its columns and their checksum.
    """
    return *columns, crc32(repr(columns).encode())


def intact(rows: Iterable[Row]) -> Iterator[Row]:
    """
    The columns of those rows that are what was written.
    """
    for row in rows:
        columns = row[:-1]
        if sealed(*columns) == row:
            yield columns


def unsound(source: Queryable, table: str) -> list[tuple[int]]:
    """
    The rowids of a table's rows that are not what was written.
    """
    rows = source.query(f"SELECT rowid, * FROM {table}")
    return [(rowid,) for rowid, *row in rows if not any(intact([tuple(row)]))]


def seal(text: str) -> str:
    """
    What is written of a text.
    """
    return f"{crc32(text.encode()):0{_DIGITS}x}{text}"


def unseal(text: object) -> str | None:
    """
    The text; None where it is not what was written.
    """
    if not isinstance(text, str):
        return None
    found = text[_DIGITS:]
    return found if seal(found) == text else None

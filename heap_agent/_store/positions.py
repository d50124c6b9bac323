"""
How far the owner has read: a byte of each part of a journal, and a number of each tally.

A position that is not what was written counts for none: what stands before it is read
again, under the keys that it had, rather than passed over. This module must not know how
a journal is read.
"""

from __future__ import annotations

from typing import TypeAlias

from heap_agent._store.database import Execute, Queryable
from heap_agent._store.seals import intact, sealed

#: The id of a journal, and the number of one of its parts.
Place: TypeAlias = tuple[str, int]


def load_positions(source: Queryable) -> dict[Place, int]:
    """
    All positions.
    """
    rows = source.query("SELECT journal, part, offset, crc FROM position")
    return {(journal, part): offset for journal, part, offset in intact(rows)}


def save_position(execute: Execute, place: Place, offset: int) -> None:
    """
    Write one, in the caller's transaction. Where it stands already it is changed there: to
    replace a row is to write its index, too.
    """
    row = sealed(*place, offset)
    known = execute(
        "UPDATE position SET offset = ?, crc = ? WHERE journal = ? AND part = ?",
        (*row[2:], *place),
    )
    if not known.rowcount:
        execute("INSERT INTO position VALUES (?, ?, ?, ?)", row)


def forget_position(execute: Execute, place: Place) -> None:
    """
    Remove one, in the caller's transaction.
    """
    execute("DELETE FROM position WHERE journal = ? AND part = ?", place)

"""
A row of the queue: what it holds, and how it is written and checked.

SQLite has no checksums of its own, so that each row has one: of all its columns, and
of its id, under which no other row may stand.

This module must not know why a row is written or read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from heap_agent._core.events import Kind
from heap_agent._store.database import Row

COLUMNS: Final = "id, kind, flags, boot, boot_clock, wall, app_id, actor, crc, body"
PLACES: Final = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?"

_pack_checked: Final = Struct("<qBBqqq").pack

_KINDS: Final = {int(kind): kind for kind in (Kind.EVENT, Kind.IDENTIFY, Kind.USER_PROPERTIES)}


class Entry(NamedTuple):
    """
    A row before it has an id. A tuple, because every event becomes one.

    Attributes:
        kind: EVENT, IDENTIFY or USER_PROPERTIES.
        flags: `records.GIVEN`, `records.FROZEN`, `records.MENDED`.
        boot: Ordinal of the boot in which it was recorded.
        boot_clock: µs from boot.
        wall: µs since 1970, as recorded.
        app_id: Where it goes.
        actor: Identity or user_id: the budget's key.
        body: The JSON that goes over the wire.
    """

    kind: Kind
    flags: int
    boot: int
    boot_clock: int
    wall: int
    app_id: str
    actor: str
    body: bytes


class Stored(NamedTuple):
    """
    A row with its id.
    """

    id: int
    entry: Entry


@lru_cache(maxsize=1_024)
def _names(app_id: str, actor: str) -> bytes:
    return f"{app_id}\n{actor}".encode("utf-8", "surrogatepass")


def to_row(id: int, entry: Entry) -> Row:
    """
    What is written, with the checksum.
    """
    kind, flags, boot, boot_clock, wall, app_id, actor, body = entry
    head = _pack_checked(id, kind, flags, boot, boot_clock, wall) + _names(app_id, actor)
    crc = crc32(head + body)
    # A plain number: of any other class SQLite asks at length how to write it.
    return id, int(kind), flags, boot, boot_clock, wall, app_id, actor, crc, body


def checked(rows: Iterable[Row], damaged: list[int]) -> Iterator[Stored]:
    """
    Rows that are what was written; the ids of all others are added to a list.
    """
    for id, kind, flags, boot, boot_clock, wall, app_id, actor, crc, body in rows:
        try:
            head = _pack_checked(id, kind, flags, boot, boot_clock, wall) + _names(app_id, actor)
            good = crc32(head + body) == crc
            entry = Entry(_KINDS[kind], flags, boot, boot_clock, wall, app_id, actor, body)
        except Exception:  # whatever flipped bits made of it
            good = False
        if good:
            yield Stored(id, entry)
        else:
            damaged.append(id)


def from_row(row: Row) -> Stored | None:
    """
    None where the row is not what was written.
    """
    return next(checked([row], []), None)

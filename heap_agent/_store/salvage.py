"""
A new generation of the database from a damaged one: everything that can still be read,
and books that balance.

The damaged file is only read. Its successor is built beside it under another name,
synced, and renamed once: a crash at any point leaves one of the two in force, and no log
of the old one can be taken for a log of the new. The old one stays as it was found.

Events and dead letters, which carry checksums, are looked for in every page. The small
tables are asked for by rowid: where a stretch cannot be read, its halves are tried. If not
even the first page can be read, that of an empty database takes its place in a copy,
because the tables' first pages always have the same numbers.

This module must not know whether a database is to be called damaged, nor who is working
with it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._store import outlook, system
from heap_agent._store.database import (
    PAGE_BYTES,
    WAL_BYTES,
    Database,
    DatabaseTrouble,
    Reader,
    Row,
    Trouble,
    remove_database,
)
from heap_agent._store.event_queue import EventQueue
from heap_agent._store.evidence import QUEUES, Column, evidence, fits, tables
from heap_agent._store.pages import Pages
from heap_agent._store.rows import from_row

#: How often a database has been salvaged, among what was repaired.
SALVAGED: Final = "repaired.queue"

#: Stretches of a table that may turn out to be unreadable before the rest is given up.
_FAILURES: Final = 2_000

#: Rowids are not looked for beyond this one.
_LAST: Final = (1 << 62) - 1

#: Columns of a row of the queue, which its checksum covers, and of a dead letter.
_ENTRY: Final = 10
_DEAD: Final = 13

#: A second row under an id is an older version of the first.
_INSERT: Final = "INSERT OR IGNORE INTO {} VALUES ({})"


class Salvaged(NamedTuple):
    """
    What became of a damaged database.

    Attributes:
        path: The new one.
        rows: Rows of the queue and dead letters that were carried over.
        lost: Events that were counted as damaged.
        state_is_whole: What was in force could be read, all of it.
    """

    path: Path
    rows: int
    lost: int
    state_is_whole: bool


def salvage(directory: Path) -> Salvaged:
    """
    Replace the database in force, which nobody has open. The caller is the owner.

    Raises:
        DatabaseTrouble: The disk refuses, or has no room, or what could be made of it would
            be called damaged, too; nothing has changed.
    """
    old = outlook.database_path(directory)
    draft = directory / "queue.draft"
    try:
        _refuse_without_room(old)
        remove_database(draft)
        for earlier in outlook.generations(directory)[:-1]:
            remove_database(earlier)
        done = _build(old, draft)
        if (why := evidence(draft)) is not None:
            raise DatabaseTrouble(Trouble.CORRUPT, f"what can be made of it is no better: {why}")
        system.file_sync(draft)
        os.rename(draft, done.path)
        system.directory_sync(directory)
    except OSError as error:
        raise DatabaseTrouble(Trouble.UNAVAILABLE, str(error)) from error
    finally:
        remove_database(draft)
    return done


def _refuse_without_room(old: Path) -> None:
    """
    The new one is no larger than the old one; and once more where that has to be copied.
    """
    size = sum(path.stat().st_size for path in (old, _log(old)) if path.exists())
    if system.free_bytes(old.parent) < 2 * size + 2 * WAL_BYTES:
        raise DatabaseTrouble(Trouble.FULL, "there is no room to salvage the damaged queue")


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _build(old: Path, draft: Path) -> Salvaged:
    with closing(Database(draft, logged=False)) as database, database.transact():
        queue = EventQueue(database)
        if old.exists():
            _copy_checked(old, database)
        with _opened(old, draft) as reader:
            whole = {
                table: reader is not None and _copy(reader, database, table, columns)
                for table, columns in tables(database).items()
                if table not in QUEUES
            }
        lost = queue.settle_books()
        queue.add({SALVAGED: 1})
        rows = queue.rows() + queue.dead_count()
        return Salvaged(outlook.next_generation(old), rows, lost, whole["facet"])


@contextmanager
def _opened(old: Path, draft: Path) -> Iterator[Reader | None]:
    """
    The damaged database, or a copy with a sound first page; None where there is nothing.
    """
    if not old.exists() or old.stat().st_size < PAGE_BYTES:
        yield None
        return
    source, copy = old, draft.with_name(draft.name + ".copy")
    try:
        if not _knows_its_tables(old):
            source = copy
            _copy_with_fresh_head(old, copy)
        with Reader(source, damaged=True) as reader:
            yield reader
    finally:
        remove_database(copy)


def _knows_its_tables(path: Path) -> bool:
    try:
        with Reader(path, damaged=True) as reader:
            return _has_tables(reader)
    except DatabaseTrouble as error:
        if error.trouble is not Trouble.CORRUPT:
            raise
        return False


def _has_tables(reader: Reader) -> bool:
    try:
        reader.query("SELECT (SELECT id FROM entry LIMIT 0), (SELECT id FROM dead LIMIT 0)")
    except DatabaseTrouble:
        return False
    return True


def _copy_with_fresh_head(old: Path, copy: Path) -> None:
    """
    A copy whose first page is that of an empty database, which says where the tables are.
    """
    remove_database(copy)
    Database(copy).close()
    head = bytearray(copy.read_bytes()[:PAGE_BYTES])
    # The size in pages: SQLite reads no further.
    head[28:32] = (old.stat().st_size // PAGE_BYTES).to_bytes(4, "big")
    remove_database(copy)
    for source, target in ((old, copy), (_log(old), _log(copy))):
        if source.exists():
            with open(source, "rb") as file, open(target, "xb", opener=system.open_private) as to:
                while block := file.read(1 << 20):
                    to.write(block)
    with open(copy, "r+b") as file:
        file.write(head)


def _copy_checked(old: Path, database: Database) -> None:
    """
    Carry over the queue and the dead letters, wherever they stand.
    """
    with Pages(old, _log(old)) as pages:
        for row in pages.rows((_ENTRY, _DEAD)):
            if from_row(row[:_ENTRY]) is not None:
                table = "entry" if len(row) == _ENTRY else "dead"
                database.execute_many(_INSERT.format(table, ", ".join("?" * len(row))), [row])


def _copy(reader: Reader, database: Database, table: str, columns: list[Column]) -> bool:
    """
    Carry over the rows of one table that are what may stand in it.

    Returns:
        Whether all of it could be read.
    """
    bad: list[Row] = []

    def good() -> Iterator[Row]:
        for row in _readable(reader, table, [column.name for column in columns], bad):
            if fits(table, row, columns):
                yield row
            else:
                bad.append(row)

    database.execute_many(_INSERT.format(table, ", ".join("?" * len(columns))), good())
    return not bad


def _readable(reader: Reader, table: str, columns: list[str], bad: list[Row]) -> Iterator[Row]:
    """
    The rows of a table that can be reached; halves of what cannot are tried, the large
    ones first. Stretches in which something could not be read are added to a list.
    """
    sql = (
        f"SELECT rowid, {', '.join(columns)} FROM {table} "
        "WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
    )
    stretches = deque([(0, _LAST)])
    while stretches and len(bad) < _FAILURES:
        begin, end = stretches.popleft()
        try:
            with reader.reading(sql, (begin, end)) as rows:
                for rowid, *row in rows:
                    yield tuple(row)
                    begin = max(begin, rowid + 1)
        except DatabaseTrouble:
            bad.append((begin, end))
            middle = (begin + end) // 2
            if begin < end:
                stretches += [(begin, middle), (middle + 1, end)]

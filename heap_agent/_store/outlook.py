"""
The store as seen from outside: read-only, by any process, at any time.

A look is one read transaction on the database, plus the records behind the
positions that it names; if a part vanishes meanwhile the look is taken again.
An owner takes parts away about as fast as they can be read. So what a journal
holds is read before the transaction and remembered by position: in it there is
only that to be read which the owner has begun and its writer has added since,
and what a look has read once is not lost when it is taken again.

This module must not write anything.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from heap_agent._core.clock import rank_boots
from heap_agent._core.encoder import loads
from heap_agent._core.events import Kind
from heap_agent._core.records import PartHeader, Record
from heap_agent._core.state import CONSENT, NEVER, Moment, State
from heap_agent._store import parts as files
from heap_agent._store import tally
from heap_agent._store.database import DatabaseTrouble, Queryable, Reader, Trouble, damage
from heap_agent._store.event_queue import DROPPED, RECORDED, damaged_rows, read_counts
from heap_agent._store.parts import Chunk, PartFile, Span
from heap_agent._store.positions import Place, load_positions
from heap_agent._store.properties import load_state
from heap_agent._store.signs import consent_was_withdrawn
from heap_agent._store.timeline import boots

#: Stands for the running boot where its ordinal is not known: later than all.
RUNNING: Final = 1 << 40

#: A look is taken again this often, with this many seconds between.
_TRIES: Final = 20
_PAUSE: Final = 0.05

#: So many parts are read within a transaction: to read them before takes one more.
_FEW: Final = 8

#: How often books that the disk refuses are asked for: it may be an owner that just closes
#: them, while a disk goes on refusing. (Who is in force is asked for again and again.)
_REFUSALS: Final = 3

_DATABASE: Final = re.compile(r"^queue-(\d+)\.db$")


class _Vanished(Exception):
    """A part was absorbed and unlinked during the look."""


def database_path(directory: Path) -> Path:
    """
    The database in force: the highest generation, or the first.
    """
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(directory)
    return directory / _database_among(names)


def _database_among(names: Iterable[str]) -> str:
    return max(filter(_DATABASE.match, names), key=_generation, default="queue-1.db")


def generations(directory: Path) -> list[Path]:
    """
    The databases of a directory, the one in force last.
    """
    names = filter(_DATABASE.match, os.listdir(directory))
    return [directory / name for name in sorted(names, key=_generation)]


def next_generation(path: Path) -> Path:
    """
    Where the successor of a database belongs.
    """
    return path.with_name(f"queue-{_generation(path.name) + 1}.db")


def _generation(name: str) -> int:
    match = _DATABASE.match(name)
    assert match is not None
    return int(match[1])


class Sizes(NamedTuple):
    """
    Bytes in a directory, by kind of file.

    Attributes:
        journals: Parts, read or not.
        database: The one in force with its log.
        others: Everything else.
        writers: How many journals may grow at this moment, about.
    """

    journals: int = 0
    database: int = 0
    others: int = 0
    writers: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.journals + self.database + self.others


def sizes(directory: Path) -> Sizes:
    """
    Bytes of everything in the directory.
    """
    found: dict[str, int] = {}
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                found[entry.name] = entry.stat(follow_symlinks=False).st_size
    database = _database_among(found)
    journals = sum(size for name, size in found.items() if name.endswith(files.SUFFIX))
    in_database = sum(size for name, size in found.items() if name.startswith(database))
    others = sum(found.values()) - journals - in_database
    return Sizes(journals, in_database, others, sum(map(files.is_lock, found)))


# -- the books ----------------------------------------------------------------------


class Books(NamedTuple):
    """
    What the store holds and has held.

    Attributes:
        counts: The counters: recorded, delivered, dropped.*, refused, repaired.*.
        queued: Events that wait, absorbed or not.
        rows: Rows of any kind in the queue.
        dead: Dead letters that are events.
        oldest: Wall time of the oldest event in the queue, µs; None where empty.
        memo: What delivery noted down.
        bytes: Size of the directory.
        backlog: Absorbed events by (app id, actor).
    """

    # Nobody changes these: whoever wants more makes new ones.
    counts: Counter[str] = Counter()
    queued: int = 0
    rows: int = 0
    dead: int = 0
    oldest: int | None = None
    memo: Mapping[str, str] = MappingProxyType({})
    bytes: int = 0
    backlog: Mapping[tuple[str, str], int] = MappingProxyType({})

    def plus(self, other: Books) -> Books:
        """
        Both together; where both have a note, this one's stands.
        """
        counts, backlog = Counter(self.counts), Counter(self.backlog)
        counts.update(other.counts)
        backlog.update(other.backlog)
        walls = [wall for wall in (self.oldest, other.oldest) if wall is not None]
        return Books(
            counts=counts,
            queued=self.queued + other.queued,
            rows=self.rows + other.rows,
            dead=self.dead + other.dead,
            oldest=min(walls, default=None),
            memo={**other.memo, **self.memo},
            bytes=self.bytes + other.bytes,
            backlog=backlog,
        )

    def with_waiting(self, events: int, oldest: int | None, counts: Counter[str]) -> Books:
        """
        These, events that were not absorbed yet, and counts that came with them.
        """
        counts = Counter(counts)
        counts[RECORDED] += events
        return self.plus(Books(counts=counts, queued=events, rows=events, oldest=oldest))


# -- one look -----------------------------------------------------------------------


class _Snapshot:
    """What the database says; empty where there is none to be read."""

    def __init__(self, reader: Reader | None = None) -> None:
        self.state = State() if reader is None else load_state(reader)
        self.positions: dict[Place, int] = {} if reader is None else load_positions(reader)
        self.refused = 0  # events that were refused and not yet counted there
        self.trouble: str | None = None  # why something was not read
        self.boots: dict[str, int] = {} if reader is None else boots(reader)
        self.books = Books()


class _Waiting:
    """
    What waits in the journals, as far as anybody asks: a backlog is not held in memory.

    Attributes:
        boots: In which it was recorded, oldest journals first.
        changes: State records, each with its journal and boot.
        counts: Of damaged records, and what others counted.
        events: How many.
        oldest: Wall time of the oldest of them, µs.
        missed: Whether a part was gone before it was read.
    """

    def __init__(self) -> None:
        self.missed = False
        self.boots: dict[str, None] = {}
        self.changes: list[tuple[str, str, Record]] = []
        self.counts = Counter[str]()
        self.events = 0
        self.oldest: int | None = None

    def add(self, journal: str, boot: str, chunk: Chunk) -> None:
        """
        Take in what was read of one part.
        """
        self.boots[boot] = None
        if chunk.damaged:
            self.counts.update({RECORDED: chunk.damaged, DROPPED + "damaged": chunk.damaged})
        for record in chunk.records:
            if record.kind == Kind.EVENT:
                self.events += 1
                if self.oldest is None or record.wall < self.oldest:
                    self.oldest = record.wall
            elif record.kind == Kind.STATE:
                self.changes.append((journal, boot, record))
            elif record.kind == Kind.COUNTS:
                with suppress(ValueError):
                    self.counts.update(loads(record.body))

    def join(self, other: _Waiting) -> None:
        """
        Take in what was read before.
        """
        self.boots.update(other.boots)
        self.changes += other.changes
        self.counts.update(other.counts)
        self.events += other.events
        walls = [wall for wall in (self.oldest, other.oldest) if wall is not None]
        self.oldest = min(walls, default=None)


class _Read(NamedTuple):
    """
    What some records of a part come to.

    Attributes:
        waiting: That.
        end: Position to continue from.
        last: Nothing more is there now.
    """

    waiting: _Waiting
    end: int
    last: bool


class _Known(NamedTuple):
    """
    What was read of parts, and stays true.

    Attributes:
        headers: Of each.
        reads: By part, position, and offset from which on a copy is read instead.
    """

    headers: dict[Place, PartHeader]
    reads: dict[tuple[Place, int, int], _Read]


def _look(directory: Path, *, books: bool, refusals: int = _TRIES) -> tuple[_Snapshot, _Waiting]:
    """
    The database and the records behind it, of one moment.

    Args:
        directory: The state directory.
        books: Whether they are wanted.
        refusals: So often the disk may refuse; that somebody is busy is another thing.

    Raises:
        DatabaseTrouble: The database stayed unreadable for a second, or the disk refused.
    """
    known = _Known({}, {})
    trouble: DatabaseTrouble | None = None
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        try:
            _read_ahead(directory, known)
            return _moment(directory, known, books=books)
        except _Vanished:
            continue
        except OSError as error:
            trouble = DatabaseTrouble(Trouble.UNAVAILABLE, str(error))
            refusals -= 1
        except DatabaseTrouble as error:
            trouble = error
            if error.trouble not in (Trouble.UNAVAILABLE, Trouble.BUSY):
                break
            refusals -= error.trouble is not Trouble.BUSY
        if refusals <= 0:
            break
    raise trouble or DatabaseTrouble(Trouble.UNAVAILABLE, "the journals change too fast")


def _read_ahead(directory: Path, known: _Known) -> None:
    """
    Read what waits, if that is much, as far as it does not vanish.
    """
    journals = files.find_parts(directory)
    if sum(map(len, journals.values())) > _FEW:
        with _reading(directory) as reader:
            found = _Snapshot(reader)
        _waiting(journals, found, known)


def _moment(directory: Path, known: _Known, *, books: bool) -> tuple[_Snapshot, _Waiting]:
    """
    One look.

    Raises:
        _Vanished: A part has gone before it was read.
    """
    before, tallies = files.find_parts(directory), tally.read_tallies(directory)
    order = files.oldest_first(before)
    with _reading(directory) as reader:
        found = _Snapshot(reader)
        # Listed again: of one that has gone meanwhile the database may know nothing
        # any more, or not yet. The others it knows as they are.
        after, tallies_after = files.find_parts(directory), tally.read_tallies(directory)
        if any(set(parts) - set(after.get(id, ())) for id, parts in before.items()):
            raise _Vanished
        if tallies.keys() - tallies_after.keys():
            raise _Vanished
        found.refused = sum(
            max(0, number - found.positions.get((id, tally.NUMBER), 0))
            for id, number in tallies_after.items()
        )
        # Those that have come since are the newest.
        journals = {id: after[id] for id in dict.fromkeys([*order, *after])}
        waiting = _waiting(journals, found, known)
        if waiting.missed:
            raise _Vanished
        if books and reader is not None:
            # Last, because it takes long where much is queued.
            found.books = read_queue(reader)
    return found, waiting


@contextmanager
def _reading(directory: Path) -> Iterator[Reader | None]:
    """
    The database as of one moment; None where there is nothing yet, or nothing that
    this version can read.
    """
    path = database_path(directory)
    with ExitStack() as opened:
        reader = None
        if path.exists():
            try:
                reader = opened.enter_context(Reader(path))
            except DatabaseTrouble as error:
                if error.trouble not in (Trouble.EMPTY, Trouble.NEWER):
                    raise
        yield reader


def _journals_alone(directory: Path) -> _Waiting:
    known = _Known({}, {})
    found = _Waiting()
    for _ in range(_TRIES):
        with suppress(OSError):
            found = _waiting(files.find_parts(directory), _Snapshot(), known)
            if not found.missed:
                break
    return found


def _waiting(
    journals_found: Mapping[str, list[PartFile]], database: _Snapshot, known: _Known
) -> _Waiting:
    """
    What stands behind the positions, in the order of the journals.
    """
    found, positions = _Waiting(), database.positions
    for parts in journals_found.values():
        for span in files.spans(parts, positions, known.headers):
            position = positions.get(span.part.place, span.begin)
            try:
                while True:
                    read = _read(span, position, known)
                    found.join(read.waiting)
                    if read.last:
                        break
                    position = read.end
            except _Vanished:
                found.missed = True
            except OSError as error:
                database.trouble = files.unreadable(span.part, error)
    return found


def _read(span: Span, position: int, known: _Known) -> _Read:
    """
    Some records of a part, which are remembered where nothing can change about them.
    """
    key = span.part.place, position, span.until
    if key in known.reads:
        return known.reads[key]
    chunk = files.read_part(span.part.path, position, complete=False, until=span.until)
    if chunk is None:
        raise _Vanished
    waiting, header = _Waiting(), chunk.header
    if header is not None and (chunk.damaged or chunk.records):
        waiting.add(span.part.journal, header.boot_id, chunk)
    last = header is None or chunk.end <= position or not chunk.records
    read = _Read(waiting, chunk.end, last)
    # Behind the last one more may be added.
    if header is not None and (span.sealed or not last):
        known.reads[key] = read
    return read


# -- state ---------------------------------------------------------------------------


def apply_change(state: State, change: Mapping[str, Any], at: Moment) -> None:
    """
    Apply a state record to the facets.
    """
    facets = change["set"]
    if CONSENT in facets:
        state.set_consent(bool(facets[CONSENT]), at, purge=bool(change.get("purge")))
    else:
        state.apply_all(facets, at)


def read_state(directory: Path, boot_id: str) -> State:
    """
    The state as of the last acknowledged call of any process.

    Args:
        directory: The state directory.
        boot_id: The running boot.

    Raises:
        DatabaseTrouble: The database cannot be read.
    """
    found, waiting = _look(directory, books=False)
    # As the owner will rank them, who may not have met some of these boots yet.
    ordinals = rank_boots({boot_id: RUNNING, **found.boots}, waiting.boots, boot_id)
    for journal, boot, record in waiting.changes:
        at = Moment(ordinals[boot], record.boot_clock, journal, record.sequence)
        with suppress(ValueError):
            apply_change(found.state, json.loads(record.body), at)
    if found.state.consent.at == NEVER and consent_was_withdrawn(directory):
        # Whatever said so could not be read any more, or was removed.
        found.state.set_consent(False, Moment(0, 0), purge=False)
    return found.state


# -- books ---------------------------------------------------------------------------


def read_books(directory: Path, boot_id: str, *, refuses: bool = False) -> Books:
    """
    Count everything, absorbed or not.

    Args:
        directory: The state directory.
        boot_id: The running boot.
        refuses: It is known that the disk refuses: it is asked once.
    """
    try:
        found, waiting = _look(directory, books=True, refusals=1 if refuses else _REFUSALS)
    except DatabaseTrouble:
        # `trouble` says what is wrong; the journals can be counted all the same.
        found, waiting = _Snapshot(), _journals_alone(directory)
        with suppress(OSError):
            found.refused = sum(tally.read_tallies(directory).values())
    counts = Counter({RECORDED: found.refused, DROPPED + "full": found.refused})
    counts.update(waiting.counts)
    unabsorbed = Books(bytes=sizes(directory).total)
    unabsorbed = unabsorbed.with_waiting(waiting.events, waiting.oldest, counts)
    return found.books.plus(unabsorbed)


def read_queue(source: Queryable) -> Books:
    """
    What one database says: absorbed events only.
    """
    rows = source.query(
        "SELECT kind, app_id, actor, count(*), min(CAST(wall AS INTEGER)) FROM entry "
        "GROUP BY kind, app_id, actor"
    )
    events = [row for row in rows if row[0] == Kind.EVENT]
    dead = source.query("SELECT count(*) FROM dead WHERE kind = ?", (int(Kind.EVENT),))
    return Books(
        counts=read_counts(source),
        queued=sum(number for _, _, _, number, _ in events),
        rows=sum(number for _, _, _, number, _ in rows),
        dead=dead[0][0],
        oldest=min((wall for *_, wall in events), default=None),
        memo=dict(source.query("SELECT name, value FROM memo")),
        backlog={(app_id, actor): number for _, app_id, actor, number, _ in events},
    )


def read_memo(directory: Path, name: str) -> str | None:
    """
    One memo; None where there is none.
    """
    try:
        with Reader(database_path(directory)) as reader:
            rows = reader.query("SELECT value FROM memo WHERE name = ?", (name,))
            return str(rows[0][0]) if rows else None
    except DatabaseTrouble:
        return None


def trouble(directory: Path) -> str | None:
    """
    Why the database cannot be read, which `read_books` takes for an empty one, or
    a part of a journal; None where all can, or where there is nothing yet.
    """
    path = database_path(directory)
    try:
        if path.exists():
            with Reader(path):
                pass
        return _look(directory, books=False)[0].trouble
    except DatabaseTrouble as error:
        return str(error)


def check(directory: Path) -> list[str]:
    """
    What SQLite and the rows' checksums say is wrong, for a process that is not
    the owner.
    """
    path = database_path(directory)
    if not path.exists():
        return []
    try:
        with Reader(path) as reader:
            return damage(reader) + damaged_rows(reader)
    except DatabaseTrouble as error:
        return [str(error)]

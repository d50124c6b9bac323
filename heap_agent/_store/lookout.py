"""
The directory as it changes, for whoever watches it: what is new since the last look,
and what became of what was seen before.

A look reads what was appended to the journals, and then, in one read transaction, the
rows of the queue. It is bounded, whatever is recorded meanwhile: of more than that the
newest are seen, and the others are counted.

This module must not write anything, nor know who is watching.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._core.clock import Knowledge
from heap_agent._core.events import Kind
from heap_agent._core.records import PartHeader, Record
from heap_agent._core.wire import (
    KEY_AT,
    KEY_BYTES,
    STAMP_AT,
    STAMP_BYTES,
    as_sent,
    key_of,
    record_of,
    stamp_of,
)
from heap_agent._store import parts as files
from heap_agent._store.database import DatabaseTrouble, Reader, Row, Trouble
from heap_agent._store.outlook import database_path
from heap_agent._store.parts import PartFile
from heap_agent._store.positions import Place, load_positions
from heap_agent._store.timeline import read_knowledge

#: Bytes of each journal that are read in one look, the newest; at some 300 an event.
_TAIL: Final = 131_072

#: Rows that are read whole in one look, the newest, and their bytes; and dead letters that
#: are looked for.
_ROWS: Final = 300
_ROW_BYTES: Final = 1_048_576
_DEAD: Final = 200

#: Rows that are only looked at to find those that were seen in a journal.
_HEADS: Final = 4_000

#: Rows that are watched until they leave, and as many events until they are in the queue:
#: beyond that the oldest are let go.
_WATCHED: Final = 2_000

#: Journals that are remembered, though their files have gone.
_LINES: Final = 500

#: Characters of a journal's id.
_WRITER: Final = 16

#: Names in one statement; SQLite of some years ago takes 999.
_NAMES: Final = 500

# What a look needs of a row that it knows. A time that is repaired changes in place.
_HEAD: Final = (
    f"id, kind, flags, CAST(substr(body, {STAMP_AT + 1}, {STAMP_BYTES}) AS TEXT), "
    f"CAST(substr(body, {KEY_AT + 1}, {KEY_BYTES}) AS TEXT)"
)


class Standing(Enum):
    """
    Where something stands that was recorded.
    """

    JOURNAL = "journal"
    QUEUE = "queue"
    DEAD = "dead"
    #: Sent, or dropped: it is not in the directory any more.
    GONE = "gone"


class Refusal(NamedTuple):
    """
    Why something is a dead letter.

    Attributes:
        status: HTTP status of the answer; None without one.
        reason: The beginning of the answer's body.
        died: When, µs since 1970.
    """

    status: int | None
    reason: str
    died: int


class Found(NamedTuple):
    """
    What goes to Heap, as it was found.

    Attributes:
        kind: EVENT, IDENTIFY or USER_PROPERTIES.
        app_id: Where it goes.
        flags: As in `records`.
        wall: When it was recorded, by the device's clock, µs since 1970.
        body: The JSON that goes over the wire.
    """

    kind: Kind
    app_id: str
    flags: int
    wall: int
    body: bytes


class Sighting(NamedTuple):
    """
    One thing, and where it stands now.

    Attributes:
        key: What names it: an event's idempotency key, or its row.
        standing: Where it is.
        row: Its id in the queue; None in a journal.
        found: What it is, where that was not told before.
        stamp: The time in it, as it goes over the wire; empty where it has none.
        refusal: Of a dead letter.
    """

    key: str
    standing: Standing
    row: int | None = None
    found: Found | None = None
    stamp: str = ""
    refusal: Refusal | None = None


class Change(NamedTuple):
    """
    A record that is no event: a change of state, or properties of a user.

    Attributes:
        wall: When, µs since 1970.
        kind: STATE or USER_PROPERTIES.
        body: What it says.
    """

    wall: int
    kind: Kind
    body: bytes


class Sight(NamedTuple):
    """
    What one look has found.

    Attributes:
        sightings: What is new or stands elsewhere now, oldest first.
        changes: Oldest first.
        recorded: How many events were recorded since the last look, seen or not; 0 in the
            first one.
        clocks: What is known of boots and clocks.
        trouble: Why the queue could not be read.
    """

    sightings: Sequence[Sighting] = ()
    changes: Sequence[Change] = ()
    recorded: int = 0
    clocks: Knowledge = Knowledge()
    trouble: str | None = None


class _Line:
    """
    How far one journal was seen.

    Attributes:
        part, offset: Where to read on.
        last: The highest sequence number that is known; None before the first.
    """

    __slots__ = ("last", "offset", "part")

    def __init__(self, last: int | None) -> None:
        self.part = self.offset = 0
        self.last = last

    def count(self, events: Iterable[int], others: Iterable[int]) -> int:
        """
        Events that were recorded since last counted, those between the ones that were
        seen included.

        Args:
            events: Sequence numbers of events that were seen.
            others: Those of other records.
        """
        before, newest = self.last, max((*events, *others))
        if before is not None and newest <= before:
            return 0
        self.last = newest
        if before is None:
            return 0
        return newest - before - sum(number > before for number in others)


class _Watched(NamedTuple):
    """What was told of a row."""

    key: str
    standing: Standing
    flags: int
    stamp: str


class Lookout:
    """
    Watches one directory. Not thread-safe: one thread looks.

    Args:
        directory: Where; None where everything is in memory, and nothing is to be seen.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._lines: dict[str, _Line] = {}
        # Seen in a journal, and not in the queue yet: where its record ends.
        self._pending: dict[str, tuple[PartFile, int]] = {}
        self._rows: dict[int, _Watched] = {}
        self._newest: int | None = None
        self._first = True

    def __repr__(self) -> str:
        return f"<Lookout of {self._directory} [{len(self._rows)} rows watched]>"

    def look(self) -> Sight:
        """
        See what is new.
        """
        if self._directory is None:
            return Sight()
        sightings: list[Sighting] = []
        changes: list[Change] = []
        others: dict[str, list[int]] = {}
        for part, header, record in self._appended(self._directory):
            if record.kind == Kind.EVENT:
                sightings += self._in_journal(part, header, record)
                continue
            others.setdefault(part.journal, []).append(record.sequence)
            if record.kind in (Kind.STATE, Kind.USER_PROPERTIES):
                changes.append(Change(record.wall, Kind(record.kind), record.body))
        trouble: str | None = None
        clocks = Knowledge()
        try:
            clocks, in_queue = self._ask(self._directory)
            sightings += in_queue
        except (DatabaseTrouble, OSError) as error:
            trouble = str(error)
        for key in list(self._pending)[:-_WATCHED]:
            # Nobody absorbs. Once somebody does it is seen in the queue, as a new one.
            del self._pending[key]
        recorded = self._count(sightings, others)
        self._first = False
        return Sight(sightings, changes, recorded, clocks, trouble)

    def _count(self, sightings: Iterable[Sighting], others: Mapping[str, Sequence[int]]) -> int:
        events: dict[str, list[int]] = {journal: [] for journal in others}
        for sighting in sightings:
            with suppress(ValueError):
                journal, number = record_of(sighting.key)
                if sighting.found is not None or journal in self._lines:
                    events.setdefault(journal, []).append(number)
        return sum(
            self._line(journal, seen).count(seen, others.get(journal, ()))
            for journal, seen in events.items()
            if len(journal) == _WRITER
        )

    def _line(self, journal: str, seen: Sequence[int]) -> _Line:
        """
        One that nobody has seen began and ended between two looks: what is in the queue of
        it is all that is known.
        """
        if journal not in self._lines:
            self._lines[journal] = _Line(None if self._first else min(seen) - 1)
        return self._lines[journal]

    # -- journals --

    def _appended(self, directory: Path) -> Iterator[tuple[PartFile, PartHeader, Record]]:
        found = files.find_parts(directory)
        if len(self._lines) > _LINES:
            self._lines = {id: line for id, line in self._lines.items() if id in found}
        for journal in files.oldest_first(found):
            # All of one that begins while somebody looks is new.
            line = self._lines.setdefault(journal, _Line(None if self._first else 0))
            parts = [part for part in found[journal] if part.number >= line.part]
            # Each is far longer than what is read in one look.
            for part in parts[-2:]:
                with suppress(OSError):
                    yield from self._tail(part, line)

    def _tail(self, part: PartFile, line: _Line) -> Iterator[tuple[PartFile, PartHeader, Record]]:
        offset = line.offset if part.number == line.part else 0
        tail = files.read_tail(part.path, offset, _TAIL)
        if tail is None:
            return
        line.part, line.offset = part.number, tail.end
        if line.last is None and not tail.records:
            line.last = tail.header.first - 1
        for record in tail.records:
            yield part, tail.header, record

    def _in_journal(self, part: PartFile, header: PartHeader, record: Record) -> list[Sighting]:
        try:
            place = header.writer, record.sequence, record.boot_clock
            actor, body = as_sent(record.body, record.wall, *place)
        except ValueError:
            return []  # whoever absorbs it counts it as damaged
        found = Found(Kind.EVENT, actor.app_id, record.flags, record.wall, body)
        key = key_of(body)
        self._pending[key] = part, record.end
        return [Sighting(key, Standing.JOURNAL, None, found, stamp_of(body))]

    # -- the queue --

    def _ask(self, directory: Path) -> tuple[Knowledge, list[Sighting]]:
        path = database_path(directory)
        if not path.exists():
            return Knowledge(), []
        try:
            with Reader(path) as reader:
                return read_knowledge(reader), self._in_queue(reader)
        except DatabaseTrouble as error:
            if error.trouble is Trouble.EMPTY:
                return Knowledge(), []
            raise

    def _in_queue(self, reader: Reader) -> list[Sighting]:
        fresh = self._fresh_heads(reader)
        dead = {row[0]: row for row in reader.query(_DEAD_LETTERS, (_DEAD,))}
        found = [*self._watch(reader, dead), *self._arrivals(reader, fresh)]
        found += self._deaths(reader, dead)
        found += self._absorbed_and_gone(load_positions(reader))
        for row in sorted(self._rows)[:-_WATCHED]:
            if self._rows[row].standing is not Standing.DEAD:
                del self._rows[row]
        return found

    def _fresh_heads(self, reader: Reader) -> list[Row]:
        """
        Rows that have come since the last look, the newest of them, oldest first.
        """
        newest = reader.query("SELECT coalesce(max(id), 0) FROM entry")[0][0]
        if self._newest is None:
            # The first look: what came last is enough of what waits.
            self._newest = max(0, newest - _ROWS)
        rows = reader.query(
            f"SELECT {_HEAD} FROM entry WHERE id > ? ORDER BY id DESC LIMIT ?",
            (self._newest, _HEADS),
        )
        self._newest = max(self._newest, newest)
        return rows[::-1]

    def _arrivals(self, reader: Reader, heads: Sequence[Row]) -> Iterator[Sighting]:
        known = [head for head in heads if head[4] in self._pending]
        others = [head for head in heads if head[4] not in self._pending][-_ROWS:]
        for head in known:
            self._pending.pop(head[4], None)  # a copy of a part makes two rows of one event
            yield self._noted(head, head[4], None)
        bodies = _bodies(reader, "entry", [head[0] for head in others])
        for head in others:
            if head[0] in bodies:
                yield self._noted(head, _name(head), bodies[head[0]])

    def _noted(self, head: Row, key: str, found: Found | None) -> Sighting:
        row, kind, flags, stamp, _ = head
        stamp = "" if kind == Kind.USER_PROPERTIES else stamp
        self._rows[row] = _Watched(key, Standing.QUEUE, flags, stamp)
        return Sighting(key, Standing.QUEUE, row, found, stamp)

    def _deaths(self, reader: Reader, dead: dict[int, Row]) -> Iterator[Sighting]:
        """
        Dead letters that were not seen before they died.
        """
        new = sorted(row for row in dead if row not in self._rows)
        bodies = _bodies(reader, "dead", new)
        for row in new:
            if row in bodies:
                key = _name(dead[row])
                self._pending.pop(key, None)
                sighting = self._noted(dead[row][:5], key, bodies[row])
                yield self._buried(sighting, dead[row])

    def _buried(self, sighting: Sighting, dead: Row) -> Sighting:
        row, *_, status, reason, died = dead
        self._rows[row] = self._rows[row]._replace(standing=Standing.DEAD)
        return sighting._replace(standing=Standing.DEAD, refusal=Refusal(status, str(reason), died))

    def _watch(self, reader: Reader, dead: dict[int, Row]) -> Iterator[Sighting]:
        """
        What became of the rows that were seen before.
        """
        waiting = {head[0]: head for head in _named(reader, "entry", _HEAD, list(self._rows))}
        # There may be more dead letters than are looked for.
        missing = [row for row in self._rows if row not in waiting and row not in dead]
        dead = {**dead, **{row[0]: row for row in _named(reader, "dead", _DEAD_HEAD, missing)}}
        for row, before in list(self._rows.items()):
            if row in dead:
                if before.standing is not Standing.DEAD:
                    yield self._buried(self._noted(dead[row][:5], before.key, None), dead[row])
            elif row in waiting:
                sighting = self._noted(waiting[row], before.key, None)
                if self._rows[row] != before:
                    yield sighting
            else:
                del self._rows[row]
                yield Sighting(before.key, Standing.GONE, row, stamp=before.stamp)

    def _absorbed_and_gone(self, positions: dict[Place, int]) -> Iterator[Sighting]:
        """
        What was seen in a journal, was read by the owner, and is not in the queue.
        """
        gone: dict[PartFile, bool] = {}
        for key, (part, end) in list(self._pending.items()):
            position = positions.get(part.place)
            if position is None and part not in gone:
                gone[part] = not part.path.exists()
            if gone[part] if position is None else position >= end:
                del self._pending[key]
                yield Sighting(key, Standing.GONE)


_DEAD_HEAD: Final = f"{_HEAD}, status, reason, died"
_DEAD_LETTERS: Final = f"SELECT {_DEAD_HEAD} FROM dead ORDER BY id DESC LIMIT ?"


def _bodies(reader: Reader, table: str, rows: Sequence[int]) -> dict[int, Found]:
    """
    Rows, whole: the newest of those that are asked for, one at least.
    """
    found: dict[int, Found] = {}
    sizes: dict[int, int] = dict(_named(reader, table, "id, length(body)", rows))
    total = 0
    newest = sorted(sizes, reverse=True)
    for number, row in enumerate(newest):
        total += sizes[row] or 0
        if number and total > _ROW_BYTES:
            newest = newest[:number]
            break
    rows = newest
    columns = "id, kind, app_id, flags, wall, body"
    for row, kind, app_id, flags, wall, body in _named(reader, table, columns, rows):
        with suppress(ValueError, TypeError):
            found[row] = Found(Kind(kind), str(app_id), flags, wall, bytes(body))
    return found


def _named(reader: Reader, table: str, columns: str, rows: Sequence[int]) -> Iterator[Row]:
    for begin in range(0, len(rows), _NAMES):
        some = rows[begin : begin + _NAMES]
        places = ",".join("?" * len(some))
        yield from reader.query(f"SELECT {columns} FROM {table} WHERE id IN ({places})", some)


def _name(head: Row) -> str:
    """What names a row that nobody has seen in a journal."""
    row, kind, _, _, key, *_ = head
    return str(key) if kind == Kind.EVENT else f"row-{row}"

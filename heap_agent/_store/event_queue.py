"""
The queue: rows that wait for delivery, dead letters, and the books.

Rows are peeked at, sent, and only then taken away by name (`ack`, `bury`); what
a crash interrupts is still there. Ids grow and never come back. Every change
keeps the books in the same transaction, so that for events, always,

    recorded = queued + delivered + dead + dropped

This module must not know journals, the network, or what time it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, NamedTuple

from heap_agent._core.events import Candidate, Kind
from heap_agent._core.records import FROZEN
from heap_agent._core.wire import event_name
from heap_agent._store.database import Database, Queryable, damage
from heap_agent._store.front import LOOK, LOOK_BYTES, Front
from heap_agent._store.rows import (
    COLUMNS,
    PLACES,
    Entry,
    Stored,
    checked,
    from_row,
    to_row,
)

#: Rows that are dropped together, so that a full disk is not shaved one by one.
CHUNK: Final = 256

#: … but no more than it takes of large ones.
CHUNK_BYTES: Final = 262_144

# Rows are named by ranges without a gap: those of one request are mostly one.
_DELETE: Final = "DELETE FROM entry WHERE id BETWEEN ? AND ?"
_DELETE_EVENTS: Final = f"{_DELETE} AND kind = {int(Kind.EVENT)}"

# What damage has made no number of counts for nothing, until the books are put right.
_IS_COUNT: Final = "typeof(value) = 'integer'"

_NEXT_ID: Final = "next_id"
RECORDED: Final = "recorded"
DELIVERED: Final = "delivered"
DROPPED: Final = "dropped."


class Dropped(NamedTuple):
    """
    What was dropped to make room.

    Attributes:
        rows: Of every kind.
        events: Those that were events.
    """

    rows: int
    events: int


class DeadLetter(NamedTuple):
    """
    An event that Heap refused for good.

    Attributes:
        id: Its id in the queue, before and after.
        kind: What it is.
        app_id, actor: Where it was to go, and on whose behalf.
        status: HTTP status of the refusal.
        reason: The beginning of the answer's body.
        died: When, µs since 1970.
        body: The JSON that was refused.
    """

    id: int
    kind: Kind
    app_id: str
    actor: str
    status: int | None
    reason: str
    died: int
    body: bytes


def _ranges(ids: Collection[int]) -> list[tuple[int, int]]:
    """
    First and last of each stretch of ids that follow each other.
    """
    found: list[tuple[int, int]] = []
    for id in sorted(ids):
        if found and id <= found[-1][1] + 1:
            found[-1] = found[-1][0], id
        else:
            found.append((id, id))
    return found


def dropped_events(counts: Counter[str]) -> int:
    """
    Events that the books call dropped, whatever the reason.
    """
    return sum(value for name, value in counts.items() if name.startswith(DROPPED))


def read_counts(source: Queryable) -> Counter[str]:
    """
    The books, without the ids.
    """
    rows = source.query(f"SELECT name, value FROM counter WHERE {_IS_COUNT} AND name != 'next_id'")
    return Counter(dict(rows))


def read_dead(
    source: Queryable, *, damaged: list[int], after: int = 0, limit: int = 1000
) -> Iterator[DeadLetter]:
    """
    Dead letters, oldest first.

    Args:
        source: A database.
        damaged: The ids of those that are not what was written are added to it.
        after: Only those with a greater id.
        limit: So many at most.
    """
    rows = source.query(
        f"SELECT {COLUMNS}, status, reason, died FROM dead WHERE id > ? ORDER BY id LIMIT ?",
        (after, limit),
    )
    for *row, status, reason, died in rows:
        stored = from_row(tuple(row))
        if stored is None:
            damaged.append(row[0])
            continue
        entry = stored.entry
        yield DeadLetter(
            stored.id, entry.kind, entry.app_id, entry.actor, status, str(reason), died, entry.body
        )


def damaged_rows(source: Queryable) -> list[str]:
    """
    Rows that are not what was written, a sentence each.
    """
    return [
        f"{what} {row[0]} does not match its checksum"
        for table, what in (("entry", "row"), ("dead", "dead letter"))
        for row in source.query(f"SELECT {COLUMNS} FROM {table}")
        if from_row(row) is None
    ]


class EventQueue:
    """
    The queue in one database. Thread-safe: each call is one transaction.

    Args:
        database: Where the rows are.
        first_id: Ids begin here; a second queue takes another range, so that
            the two can never be mistaken for each other.
    """

    def __init__(self, database: Database, *, first_id: int = 1) -> None:
        self.database = database
        self._first_id = first_id
        self._in_flight: frozenset[int] = frozenset()
        self._front = Front()
        #: How often rows were purged, for whoever holds some that it has not sent yet.
        self.purges = 0
        #: Dead letters may have come since somebody looked after their share.
        self.dead_has_grown = True

    def __repr__(self) -> str:
        # Nothing is asked of the database, which may be closed, or busy.
        return f"<EventQueue of {self.database!r} [{len(self._in_flight)} in flight]>"

    # -- in --

    def insert(self, entries: Sequence[Entry]) -> int:
        """
        Append rows (the books are the caller's); the id of the first.
        """
        with self.database.transact():
            known = self._counter(_NEXT_ID)
            next_id = known or self._first_id
            if entries:
                rows = [to_row(id, entry) for id, entry in enumerate(entries, next_id)]
                self.database.execute_many(f"INSERT INTO entry ({COLUMNS}) VALUES ({PLACES})", rows)
                self.add({_NEXT_ID: next_id + len(rows) - known})
            return next_id

    def keep_at_hand(self, first_id: int, entries: Sequence[Entry]) -> None:
        """
        Rows that were inserted, and are committed by now: where nothing waits before
        them, they need not be read back to be sent.
        """
        with self.database.held():
            if entries and self._ends()[0] == first_id:
                self._front = Front.of(enumerate(entries, first_id), self.database.undone)

    def add(self, counts: dict[str, int] | Counter[str]) -> None:
        """
        Add to the books.
        """
        with self.database.transact() as execute:
            for name, number in counts.items():
                if not number:
                    continue
                changed = execute(
                    "UPDATE counter SET value = value + ? WHERE name = ?", (number, name)
                )
                if not changed.rowcount:
                    execute("INSERT INTO counter VALUES (?, ?)", (name, number))

    # -- out --

    def front(self) -> list[Candidate]:
        """
        The oldest rows, without taking them: ids grow along the list. They are read
        once, and kept at hand for `load` while they leave in their order.
        """
        with self.database.held():
            oldest, newest = self._ends()
            if oldest is None:
                return []
            if not self._front.serves(oldest, newest, self.database.undone):
                self._read_front()
            return self._front.candidates()

    def _ends(self) -> tuple[int | None, int | None]:
        """The ids of the oldest and the newest row."""
        rows = self.database.query(
            "SELECT (SELECT min(id) FROM entry), (SELECT max(id) FROM entry)"
        )
        return rows[0][0], rows[0][1]

    def _read_front(self) -> None:
        damaged: list[int] = []
        oldest = f"SELECT {COLUMNS} FROM entry ORDER BY id LIMIT ?"
        with self.database.reading(oldest, (LOOK,)) as rows:
            self._front = Front.of(checked(rows, damaged), self.database.undone)
        if damaged:
            self._remove_damaged(damaged)

    def peek(
        self,
        *,
        skip: Collection[tuple[Kind, str]] = (),
        limit: int = LOOK,
        max_bytes: int = LOOK_BYTES,
    ) -> list[Candidate]:
        """
        The oldest rows, without their bytes: ids grow along the list.

        Args:
            skip: Leave out these kinds of these app ids.
            limit: Rows at most.
            max_bytes: Stop after this many bytes of JSON; one row at least.
        """
        where = " AND ".join(["NOT (kind = ? AND app_id = ?)"] * len(skip)) or "1"
        parameters = [part for kind, app_id in skip for part in (int(kind), app_id)]
        rows = self.database.query(
            f"SELECT id, kind, app_id, actor, length(body) FROM entry WHERE {where} "
            "ORDER BY id LIMIT ?",
            (*parameters, limit),
        )
        found: list[Candidate] = []
        total = 0
        for id, kind, app_id, actor, size in rows:
            total += size or 0
            if found and total > max_bytes:
                break
            try:
                found.append(Candidate(id, Kind(kind), app_id, actor, size or 0))
            except ValueError:
                self._remove_damaged([id])
        return found

    def named(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """
        The same rows with their names, for the few moments when names matter.
        """
        names = {
            stored.id: event_name(stored.entry.body)
            for stored in self.load([one.id for one in candidates])
            if stored.entry.kind is Kind.EVENT
        }
        return [one._replace(name=names.get(one.id, "")) for one in candidates]

    def newest(self, kind: Kind, app_id: str, limit: int = 200) -> list[Candidate]:
        """
        The newest rows of one kind and app id with their names, newest first.
        """
        rows = self.database.query(
            "SELECT id, actor, length(body) FROM entry WHERE kind = ? AND app_id = ? "
            "ORDER BY id DESC LIMIT ?",
            (int(kind), app_id, limit),
        )
        return self.named([Candidate(id, kind, app_id, actor, size) for id, actor, size in rows])

    def load(self, ids: Sequence[int]) -> list[Stored]:
        """
        Rows by id, in the order of the ids. Rows that are gone are left out;
        damaged ones are removed and counted.
        """
        with self.database.held():
            known = self._front.rows(self.database.undone)
            missing = [id for id in ids if id not in known]
            if missing:
                known = {**known, **self._read(missing)}
            return [Stored(id, known[id]) for id in ids if id in known]

    def _read(self, ids: Sequence[int]) -> dict[int, Entry]:
        found: dict[int, Entry] = {}
        damaged: list[int] = []
        for begin in range(0, len(ids), 500):
            some = ids[begin : begin + 500]
            places = ",".join("?" * len(some))
            rows = self.database.query(f"SELECT {COLUMNS} FROM entry WHERE id IN ({places})", some)
            found.update(checked(rows, damaged))
        if damaged:
            self._remove_damaged(damaged)
        return found

    def freeze(self, rows: Sequence[Stored], settle: Callable[[Entry], Entry]) -> list[Stored]:
        """
        Settle the time of rows that are about to be sent for the first time, and
        commit that before anybody can send them.

        Args:
            rows: From `load`.
            settle: Gives the row with its final time (and the FROZEN flag).

        Returns:
            The rows as they now are; those that have gone meanwhile are left out.
        """
        result = []
        with self.database.transact() as execute:
            for stored in rows:
                if not stored.entry.flags & FROZEN:
                    stored = Stored(stored.id, settle(stored.entry))
                    _, _, flags, _, _, wall, _, _, crc, body = to_row(stored.id, stored.entry)
                    # Not REPLACE: a row that was dropped meanwhile must stay away.
                    there = execute(
                        "UPDATE entry SET flags = ?, wall = ?, crc = ?, body = ? WHERE id = ?",
                        (flags, wall, crc, body, stored.id),
                    ).rowcount
                    if not there:
                        continue
                    self._front.replace(stored)
                result.append(stored)
        return result

    def set_in_flight(self, ids: Collection[int]) -> None:
        """
        Name the rows that are being sent: they are not dropped meanwhile.
        """
        self._in_flight = frozenset(ids)

    @property
    def in_flight(self) -> frozenset[int]:
        """Ids that are being sent now."""
        return self._in_flight

    def ack(self, ids: Collection[int]) -> int:
        """
        Heap has them: delete the rows, count those that were really there.
        """
        with self.database.transact():
            rest = self._front.after(ids)
            events = self._delete(ids)
            self._front = rest
            self.add({DELIVERED: events})
            return events

    def bury(self, ids: Collection[int], *, status: int | None, reason: str, now: int) -> None:
        """
        Heap refused them for good: move the rows to the dead letters.
        """
        if not ids:
            return
        with self.database.transact() as execute:
            self._front = self._front.without(ids)
            for id in ids:
                execute(
                    f"INSERT OR REPLACE INTO dead SELECT {COLUMNS}, ?, ?, ? "
                    "FROM entry WHERE id = ?",
                    (status, reason, now, id),
                )
                execute("DELETE FROM entry WHERE id = ?", (id,))
        self.dead_has_grown = True

    def restore(self, ids: Collection[int] | None = None) -> int:
        """
        Put dead letters back into the queue under their old ids; all where no
        ids are given.
        """
        if ids is not None and not ids:
            return 0
        with self.database.transact() as execute:
            if ids is None:
                ids = [row[0] for row in self.database.query("SELECT id FROM dead")]
            done = 0
            self._front = Front()
            for id in ids:
                done += execute(
                    f"INSERT INTO entry SELECT {COLUMNS} FROM dead WHERE id = ?", (id,)
                ).rowcount
                execute("DELETE FROM dead WHERE id = ?", (id,))
            return done

    def dead_letters(self, limit: int = 1000) -> list[DeadLetter]:
        """
        Dead letters, oldest first. Damaged ones are removed and counted.
        """
        damaged: list[int] = []
        found = list(read_dead(self.database, damaged=damaged, limit=limit))
        if damaged:
            self._remove_damaged(damaged)
        return found

    def discard_dead(self, ids: Collection[int] | None) -> int:
        """
        Delete dead letters by hand, all where no ids are given; how many there were.
        """
        with self.database.transact() as execute:
            if ids is None:
                ids = [row[0] for row in self.database.query("SELECT id FROM dead")]
            events = rows = 0
            for id in ids:
                events += execute(
                    "DELETE FROM dead WHERE id = ? AND kind = ?", (id, int(Kind.EVENT))
                ).rowcount
                rows += execute("DELETE FROM dead WHERE id = ?", (id,)).rowcount
            self.add({DROPPED + "discarded": events})
            return events + rows

    # -- away --

    def drop_oldest(self, bytes_to_free: int) -> Dropped:
        """
        Make room: drop whole chunks of the oldest events, never one in flight;
        other rows only when no event is left.
        """
        rows = events = 0
        with self.database.transact():
            for kinds in ((Kind.EVENT,), (Kind.IDENTIFY, Kind.USER_PROPERTIES)):
                while bytes_to_free > 0:
                    victims = self._victims(kinds)
                    if not victims:
                        break
                    bytes_to_free -= sum(size for _, size in victims)
                    events += self._delete([id for id, _ in victims])
                    rows += len(victims)
            self.add({DROPPED + "full": events})
        return Dropped(rows, events)

    def drop_dead(self, bytes_to_free: int) -> int:
        """
        Make room: drop the oldest dead letters.
        """
        events = 0
        with self.database.transact() as execute:
            while bytes_to_free > 0:
                rows = self.database.query(
                    "SELECT id, kind, length(body) FROM dead ORDER BY id LIMIT ?", (CHUNK,)
                )
                if not rows:
                    break
                for id, kind, size in rows:
                    execute("DELETE FROM dead WHERE id = ?", (id,))
                    events += kind == Kind.EVENT
                    bytes_to_free -= size
            self.add({DROPPED + "full": events})
        return events

    def purge(
        self,
        after: tuple[int, int] = (-1, -1),
        before: tuple[int, int] = (1 << 62, 0),
        actor: str | None = None,
    ) -> int:
        """
        Delete rows and dead letters because a user does not want them kept.

        Args:
            after, before: Only those recorded between these moments (boot, boot
                clock), which themselves do not count.
            actor: Only those of this one.

        Returns:
            How many events that were.
        """
        with self.database.transact() as execute:
            events = self.count() + self.dead_count()
            self._front = Front()
            for table in ("entry", "dead"):
                execute(
                    f"DELETE FROM {table} WHERE (boot, boot_clock) > (?, ?) "
                    "AND (boot, boot_clock) < (?, ?) AND actor = ifnull(?, actor)",
                    (*after, *before, actor),
                )
            self.purges += 1
            events -= self.count() + self.dead_count()
            self.add({DROPPED + "purged": events})
            return events

    def actors(self) -> list[str]:
        """
        Who has rows or dead letters here.
        """
        rows = self.database.query("SELECT actor FROM entry UNION SELECT actor FROM dead")
        return [actor for (actor,) in rows]

    def delete_rows(self, ids: Collection[int]) -> None:
        """
        Delete rows that something newer replaces (no events).
        """
        with self.database.transact():
            self._delete(ids)

    # -- the books --

    def count(self) -> int:
        """
        Events in the queue.
        """
        return self._single("SELECT count(*) FROM entry WHERE kind = ?", int(Kind.EVENT))

    def rows(self) -> int:
        """
        Rows of every kind in the queue.
        """
        return self._single("SELECT count(*) FROM entry")

    def empty(self) -> bool:
        """
        Whether nothing waits.
        """
        return not self.database.query("SELECT 1 FROM entry LIMIT 1")

    def dead_count(self) -> int:
        """
        Events among the dead letters.
        """
        return self._single("SELECT count(*) FROM dead WHERE kind = ?", int(Kind.EVENT))

    def dead_bytes(self) -> int:
        """
        Bytes of JSON among the dead letters.
        """
        return self._single("SELECT coalesce(sum(length(body)), 0) FROM dead")

    def counts(self) -> Counter[str]:
        """
        The books, without the ids.
        """
        return read_counts(self.database)

    def waiting(self) -> int:
        """
        Events in the queue by the books, which takes no look at the rows.
        """
        counts = self.counts()
        return max(0, counts[RECORDED] - self._gone(counts))

    def check(self) -> list[str]:
        """
        Everything that is wrong with the database and its books; empty where
        nothing is.
        """
        found = damage(self.database)
        with self.database.transact():
            found += damaged_rows(self.database)
            both = self.database.query("SELECT id FROM entry WHERE id IN (SELECT id FROM dead)")
            found += [f"row {row[0]} is queued and dead" for row in both]
            counts = self.counts()
            if counts[RECORDED] != self._kept(counts):
                found.append(
                    f"the books do not balance: recorded {counts[RECORDED]}, "
                    f"queued {self.count()}, delivered {counts[DELIVERED]}, "
                    f"dead {self.dead_count()}, dropped {dropped_events(counts)}"
                )
            newest = self._single("SELECT coalesce(max(id), 0) FROM entry")
            if newest and newest >= self._counter(_NEXT_ID):
                found.append(f"row {newest} has an id that was not given out yet")
        return found

    def settle_books(self) -> int:
        """
        Make the books true again after damage: what they miss was an event that is lost;
        what they have too many of has been recorded.

        Returns:
            How many events were lost.
        """
        with self.database.transact() as execute:
            execute(f"UPDATE counter SET value = 0 WHERE NOT {_IS_COUNT}")
            newest = self._single(
                "SELECT max((SELECT coalesce(max(id), 0) FROM entry), "
                "(SELECT coalesce(max(id), 0) FROM dead))"
            )
            counts = self.counts()
            missing = counts[RECORDED] - self._kept(counts)
            self.add(
                {
                    DROPPED + "damaged": max(0, missing),
                    RECORDED: max(0, -missing),
                    _NEXT_ID: max(0, newest + 1 - self._counter(_NEXT_ID)) if newest else 0,
                }
            )
            return max(0, missing)

    # -- inside --

    def _kept(self, counts: Counter[str]) -> int:
        """What became of all that was recorded."""
        return self.count() + self._gone(counts)

    def _gone(self, counts: Counter[str]) -> int:
        """What is no row of the queue any more."""
        return counts[DELIVERED] + self.dead_count() + dropped_events(counts)

    def _victims(self, kinds: Sequence[Kind]) -> list[tuple[int, int]]:
        places = ",".join(str(int(kind)) for kind in kinds)
        rows = self.database.query(
            f"SELECT id, length(body) FROM entry WHERE kind IN ({places}) ORDER BY id LIMIT ?",
            (CHUNK + len(self._in_flight),),
        )
        victims: list[tuple[int, int]] = []
        room = CHUNK_BYTES
        for id, size in rows:
            if id not in self._in_flight and len(victims) < CHUNK and room > 0:
                victims.append((id, size))
                room -= size
        return victims

    def _delete(self, ids: Collection[int]) -> int:
        """
        Delete rows by name; how many of those that existed were events.
        """
        if not ids:
            return 0
        ranges = _ranges(ids)
        with self.database.transact():
            self._front = Front()
            events = self.database.execute_many(_DELETE_EVENTS, ranges)
            if events < len(ids):
                self.database.execute_many(_DELETE, ranges)
            return events

    def _remove_damaged(self, ids: Collection[int]) -> None:
        with self.database.transact() as execute:
            self._front = self._front.without(ids)
            for id in ids:
                execute("DELETE FROM entry WHERE id = ?", (id,))
                execute("DELETE FROM dead WHERE id = ?", (id,))
            # What kind of row it was can no longer be trusted; the books can be
            # asked instead: whatever they miss now was an event.
            self.settle_books()

    def _counter(self, name: str) -> int:
        rows = self.database.query(
            f"SELECT value FROM counter WHERE {_IS_COUNT} AND name = ?", (name,)
        )
        return int(rows[0][0]) if rows else 0

    def _single(self, sql: str, *parameters: object) -> int:
        return int(self.database.query(sql, parameters)[0][0])

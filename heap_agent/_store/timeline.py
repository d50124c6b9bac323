"""
What is known of boots and clocks, kept in the database.

The rules are in `_core.clock`; this module only loads, saves and asks. It must
not know what a timestamp is needed for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from heap_agent._core import clock, wire
from heap_agent._core.events import Kind
from heap_agent._core.records import FROZEN, GIVEN
from heap_agent._store.database import Database, Execute, Queryable, Row, remember
from heap_agent._store.rows import Entry
from heap_agent._store.seals import intact, seal, sealed, unseal

_MEMO: Final = "timeline"

#: Boots that are remembered before any is forgotten.
_BOOTS: Final = 32

TIMES_REPAIRED: Final = "repaired.clock"


class Timeline:
    """
    Boots, steps and marks of one database. Not thread-safe by itself: each
    change is one transaction, and only the owner's keeper and sender call it.

    Args:
        database: Where it is kept.
        boot_id: The boot that is running.
        earlier: Boot ids found in journals, oldest first. One that is not known
            yet takes its place before the running boot.
    """

    def __init__(self, database: Database, boot_id: str, earlier: Iterable[str] = ()) -> None:
        self._database = database
        known, self._tick = _load(database)
        self._repaired = 0
        self._saved: tuple[object, ...] = ()
        self.knowledge = clock.begin_boot(known, boot_id, earlier)
        #: Whether nobody has opened this database since the machine was started.
        self.is_new_boot = self.boot not in known.boots
        if self.knowledge.boots != known.boots:
            # Not with each start: a commit waits for the disk.
            self.save()

    def __repr__(self) -> str:
        known = self.knowledge
        return f"<Timeline [boot {known.current}, {len(known.steps)} steps]>"

    @property
    def boot(self) -> int:
        """Ordinal of the running boot."""
        return self.knowledge.current

    def ordinal(self, boot_id: str) -> int:
        """
        Ordinal of the boot in which a journal was written; a new one, before the
        running boot's, where it is met for the first time.
        """
        for boot in self.knowledge.boots.values():
            if boot.boot_id == boot_id:
                return boot.ordinal
        running = self.knowledge.boots[self.boot].boot_id
        self.knowledge = clock.begin_boot(self.knowledge, running, [boot_id])
        self.save()
        return self.ordinal(boot_id)

    def tick(self, wall: int, boot_clock: int) -> bool:
        """
        Look at the clocks.

        Returns:
            Whether the wall clock was set since the last look.
        """
        now = clock.Tick(self.boot, wall, boot_clock)
        step = clock.detect_step(self._tick, now)
        self._tick = now
        if step is not None:
            self.knowledge = clock.add_step(self.knowledge, step)
            self.save()
        return step is not None

    def feed_date(self, date: float, wall: int, boot_clock: int, round_trip: int) -> None:
        """
        Learn from a trusted ``Date``; kept with the next `save`.

        Args:
            date: Seconds since 1970.
            wall, boot_clock: When the answer was there, µs.
            round_trip: µs since the request was begun.
        """
        self.knowledge = clock.feed_date(self.knowledge, date, wall, boot_clock, round_trip)

    def settle(self, entry: Entry) -> Entry:
        """
        Give a row its final time. `save` must follow in the same transaction.
        """
        flags = entry.flags | FROZEN
        if entry.kind is Kind.USER_PROPERTIES or entry.flags & (GIVEN | FROZEN):
            return entry._replace(flags=flags)
        wall = self.place(entry.wall, entry.boot_clock, entry.boot)
        body = wire.restamp(entry.body, wall) if wall != entry.wall else entry.body
        return entry._replace(flags=flags, body=body)

    def place(self, wall: int, boot_clock: int, boot: int) -> int:
        """
        Say when a record was really made, µs. `save` must follow, as for `settle`.
        """
        wall, changed, self.knowledge = clock.place(
            self.knowledge, wall=wall, boot_clock=boot_clock, boot=boot
        )
        self._repaired += changed
        return wall

    def right_since(self, boot: int, readings: Iterable[tuple[int, int]] = ()) -> int:
        """
        What a boot's clock said from here on, µs, stands as it is: `place` need not be
        asked. Holds until it is asked for anything else.

        Args:
            boot: Ordinal of the boot.
            readings: Wall and boot clock, µs, of the first and the last record.
        """
        return clock.right_since(self.knowledge, boot, readings)

    def reach(self, wall: int, boot: int) -> None:
        """
        Note how far a boot has come, µs, where `place` was not asked. `save` must follow.
        """
        self.knowledge = clock.reach(self.knowledge, boot, wall)

    def save(self) -> None:
        """
        Write what has changed.
        """
        knowledge = self.knowledge
        text = json.dumps(
            {
                "mark": knowledge.mark,
                "placed": knowledge.placed,
                "placed_boot": knowledge.placed_boot,
                "reached": knowledge.reached,
                "reached_boot": knowledge.reached_boot,
                "tick": self._tick,
                "truths": {
                    boot.ordinal: boot.truth
                    for boot in knowledge.boots.values()
                    if boot.truth is not None
                },
            }
        )
        with self._database.transact() as execute:
            remember(execute, _MEMO, seal(text))
            self._save_boots(execute)
            if self._repaired:
                execute("INSERT OR IGNORE INTO counter VALUES (?, 0)", (TIMES_REPAIRED,))
                execute(
                    "UPDATE counter SET value = value + ? WHERE name = ?",
                    (self._repaired, TIMES_REPAIRED),
                )
        self._repaired = 0

    def _save_boots(self, execute: Execute) -> None:
        knowledge = self.knowledge
        boots = [(boot.ordinal, boot.boot_id, boot.mark) for boot in knowledge.boots.values()]
        # They hardly ever change; and what was written in vain must be written again.
        saved = self._database.undone, boots, knowledge.steps
        if saved == self._saved:
            return
        execute("DELETE FROM boot")
        execute("DELETE FROM step")
        for table, places, rows in (
            ("boot", "?, ?, ?, ?", boots),
            ("step", "?, ?, ?, ?, ?, ?", knowledge.steps),
        ):
            self._database.execute_many(
                f"INSERT INTO {table} VALUES ({places})", [sealed(*row) for row in rows]
            )
        self._saved = saved

    def forget(self) -> None:
        """
        Drop boots that nothing refers to any longer; the latest are kept in any
        case, because journals of theirs may still turn up.
        """
        ordinals = sorted(self.knowledge.boots)
        if len(ordinals) <= _BOOTS:
            return
        # No index: the whole queue is read, which is why it is not done each time.
        ((oldest,),) = self._database.query("SELECT min(boot) FROM entry")
        kept = ordinals[-_BOOTS // 2]
        self.knowledge = clock.forget_boots(
            self.knowledge, kept if oldest is None else min(kept, int(oldest))
        )


def boots(source: Queryable) -> dict[str, int]:
    """
    Ordinals of the known boots by id, for a reader.
    """
    return {boot_id: ordinal for ordinal, boot_id, _ in _boots(source)}


def read_knowledge(source: Queryable) -> clock.Knowledge:
    """
    What is known of boots and clocks, for a reader.
    """
    return _load(source)[0]


def _boots(source: Queryable) -> Iterator[Row]:
    return intact(source.query("SELECT ordinal, boot_id, mark, crc FROM boot"))


def _load(database: Queryable) -> tuple[clock.Knowledge, clock.Tick | None]:
    rows = database.query("SELECT CAST(value AS BLOB) FROM memo WHERE name = ?", (_MEMO,))
    try:
        return _understood(json.loads(unseal(rows[0][0].decode()) or ""), database)
    except (ValueError, LookupError, TypeError, AttributeError):
        # None yet, or a damaged one: the time is learnt anew.
        return _understood({}, database)


def _understood(
    memo: Mapping[str, Any], database: Queryable
) -> tuple[clock.Knowledge, clock.Tick | None]:
    truths = {
        int(ordinal): clock.Truth(*fields) for ordinal, fields in memo.get("truths", {}).items()
    }
    known = {
        ordinal: clock.Boot(ordinal, boot_id, mark, truths.get(ordinal))
        for ordinal, boot_id, mark in _boots(database)
    }
    steps = intact(database.query("SELECT * FROM step ORDER BY boot, until"))
    tick = memo.get("tick")
    knowledge = clock.Knowledge(
        boots=MappingProxyType(known),
        steps=tuple(clock.Step(*row) for row in steps),
        mark=memo.get("mark", clock.RELEASE_MARK),
        placed=memo.get("placed", 0),
        placed_boot=memo.get("placed_boot", -1),
        reached=memo.get("reached", 0),
        reached_boot=memo.get("reached_boot", -1),
    )
    return knowledge, None if tick is None else clock.Tick(*tick)

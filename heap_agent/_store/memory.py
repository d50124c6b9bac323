"""
A queue in memory, for as long as the disk refuses.

Events that were never on disk are sent from here. When the disk takes records
again, everything that has not been delivered is recorded anew, as if it had
been waiting in the journal: what changed state as it was said, events as they
are, the books by difference.

This module must not know when the disk is given up, or trusted again.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from heap_agent._core.encoder import loads
from heap_agent._core.events import Actor, Kind
from heap_agent._core.records import PartHeader, Record
from heap_agent._core.wire import actor_line
from heap_agent._store.event_queue import DROPPED, RECORDED
from heap_agent._store.journal import Journal
from heap_agent._store.ledger import Ledger
from heap_agent._store.spill import SPILL_BYTES, Spilled

#: More than any queue in memory holds.
_ALL: Final = 1 << 40


class Memory:
    """
    The records of one process while it has no disk.

    Args:
        boot_id: The running boot.
        returns: Whether there is a disk that may come back.
    """

    def __init__(self, boot_id: str, *, returns: bool) -> None:
        self.ledger = Ledger.open(None, boot_id=boot_id)
        self._boot_id = boot_id
        self._returns = returns
        # Whatever is no event, as it was recorded, to be recorded again.
        self._said: deque[Spilled] = deque()
        self._said_bytes = 0

    def __repr__(self) -> str:
        return f"<Memory {self.ledger.queue!r}>"

    def take(self, entries: Iterable[Spilled], journal: Journal) -> None:
        """
        Take over what waited in a journal's spill. Beyond what a spill may hold
        the oldest events go.
        """
        header = PartHeader(self._boot_id, journal.id, 0, 1)
        records = [self._record(entry, journal.number_for_memory()) for entry in entries]
        self.ledger.absorber.take(records, header, freeze=False)
        queue = self.ledger.queue
        size = sum(one.size for one in queue.peek(limit=_ALL, max_bytes=_ALL))
        if size > SPILL_BYTES:
            queue.drop_oldest(size - SPILL_BYTES)

    def _record(self, entry: Spilled, number: int) -> Record:
        if self._returns and entry.kind in (Kind.STATE, Kind.USER_PROPERTIES):
            self._said.append(entry)
            self._said_bytes += entry.size
            while self._said_bytes > SPILL_BYTES:
                self._said_bytes -= self._said.popleft().size
        wall, boot_clock = entry.wall_ns // 1000, entry.boot_ns // 1000
        return Record(entry.kind, entry.flags, wall, boot_clock, number, entry.body, 0)

    @property
    def said(self) -> list[Spilled]:
        """What was recorded here and is no event."""
        return list(self._said)

    def unsent(self) -> Counter[str]:
        """
        The books of this time without a disk, if it ends here: what has not been
        delivered is lost.
        """
        queue = self.ledger.queue
        counts = queue.counts()
        counts[DROPPED + "unwritten"] += queue.count() + queue.dead_count()
        return counts

    def give_back(self, journal: Journal, wall_ns: int, boot_ns: int) -> bool:
        """
        Record everything anew that has not been delivered, and end.

        Args:
            journal: One that has a disk.
            wall_ns, boot_ns: Now.

        Returns:
            False where that must wait: rows are being sent.
        """
        queue = self.ledger.queue
        if queue.in_flight:
            return False
        # Dead letters go the same way: Heap will say it again.
        queue.restore()
        for entry in self._said:
            journal.put(entry.kind, entry.flags, entry.wall_ns, entry.boot_ns, entry.body)
        rows = queue.load([one.id for one in queue.peek(limit=_ALL, max_bytes=_ALL)])
        unjoined = set()
        for stored in rows:
            entry_, fields = stored.entry, loads(stored.entry.body)
            if entry_.kind is Kind.IDENTIFY:
                unjoined.add((entry_.app_id, fields["user_id"]))
            elif entry_.kind is Kind.EVENT:
                actor = Actor(entry_.app_id, fields.get("user_id", ""), fields.get("identity"))
                journal.put(
                    Kind.EVENT,
                    entry_.flags,
                    entry_.wall * 1000,
                    entry_.boot_clock * 1000,
                    actor_line(actor) + entry_.body,
                )
        # Which users have events at Heap, and which are joined, though the disk
        # never saw these events.
        persons = [
            [*who, *(person._replace(seen=min(person.seen, 1)) if who in unjoined else person)]
            for *names, person in self.ledger.properties.persons()
            for who in [tuple(names)]
        ]
        if persons:
            body = json.dumps({"set": {}, "persons": persons}).encode()
            journal.put(Kind.STATE, 0, wall_ns, boot_ns, body)
        # The rows are recorded anew; the books move without them.
        counts = queue.counts()
        counts[RECORDED] -= queue.count()
        journal.put(Kind.COUNTS, 0, wall_ns, boot_ns, json.dumps(counts).encode())
        self.ledger.close()
        return True

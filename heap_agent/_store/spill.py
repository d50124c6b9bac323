"""
What the disk did not take: records in memory, in the order in which they came, and
no more bytes of them than there is room for.

A signal handler may record while its own thread is inside of a call here: each step
on a queue is whole as it is, and nothing is counted on between two of them. Against
other threads the owner holds a lock.

This module must not know the disk, nor what a body means.
"""

from __future__ import annotations

from collections import deque
from heapq import merge
from itertools import count
from typing import Final, NamedTuple

from heap_agent._core.events import Kind
from heap_agent._core.records import OVERHEAD

#: What may wait while the disk refuses: a few minutes of events.
SPILL_BYTES: Final = 4_194_304


class Spilled(NamedTuple):
    """
    A record that the disk did not take.

    The attributes are the arguments of `Journal.put`.
    """

    kind: int
    flags: int
    wall_ns: int
    boot_ns: int
    body: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.body) + OVERHEAD


class Spill:
    """
    Records that wait. Beyond its room the oldest go: events, and only when there is
    none left the others, which say who is there and what is in force.

    Attributes:
        bytes: At least what they take; 0 only where nothing waits.

    Args:
        room: Bytes.
    """

    __slots__ = ("_events", "_first", "_numbers", "_others", "_room", "bytes")

    def __init__(self, room: int = SPILL_BYTES) -> None:
        self._room = room
        self.bytes = 0
        self._numbers = count()
        self._events: deque[tuple[int, Spilled]] = deque()
        self._others: deque[tuple[int, Spilled]] = deque()
        self._first: Spilled | None = None  # out of its queue, and not yet written

    def __repr__(self) -> str:
        return f"<Spill [{len(self)} records, {self.bytes} bytes]>"

    def __len__(self) -> int:
        return len(self._events) + len(self._others) + (self._first is not None)

    @property
    def events(self) -> int:
        """How many of them are events."""
        first = self._first
        return len(self._events) + (first is not None and first.kind == Kind.EVENT)

    def entries(self) -> list[Spilled]:
        """
        All of them, oldest first.
        """
        first = [] if self._first is None else [self._first]
        # Copied in one step each, before anything is looked at.
        queues = list(self._events), list(self._others)
        return first + [entry for _, entry in merge(*queues)]

    def add(self, entry: Spilled) -> list[Spilled]:
        """
        Keep one more; those that had to go for it.
        """
        queue = self._events if entry.kind == Kind.EVENT else self._others
        self._grow(entry.size)
        queue.append((next(self._numbers), entry))
        gone = []
        while self.bytes > self._room and (queue := self._events or self._others):
            _, oldest = queue.popleft()
            self._grow(-oldest.size)
            gone.append(oldest)
        return gone

    def first(self) -> Spilled | None:
        """
        The oldest, which stays until it is `written`, whatever is added meanwhile;
        None where nothing waits.
        """
        if self._first is None:
            queues = [queue for queue in (self._events, self._others) if queue]
            queue = min(queues, key=lambda queue: queue[0]) if queues else None
            if queue:
                # It is in one place or the other, whatever a signal handler raises.
                self._first = queue[0][1]
                queue.popleft()
            elif not self._events and not self._others:
                self.bytes = 0
        return self._first

    def written(self) -> None:
        """
        The first is on the disk now.
        """
        if self._first is not None:
            self._grow(-self._first.size)
            self._first = None

    def take(self) -> list[Spilled]:
        """
        Hand all of them over.
        """
        taken = Spill()
        taken._first, self._first = self._first, None
        taken._events, self._events = self._events, deque()
        taken._others, self._others = self._others, deque()
        entries = taken.entries()
        self._grow(-sum(entry.size for entry in entries))
        return entries

    def _grow(self, size: int) -> None:
        # No call between reading and writing, so that nothing comes in between.
        self.bytes += size

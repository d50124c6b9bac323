"""
How much the state directory holds, and what has to go so that it stays within its
bounds: the oldest of the queue, dead letters beyond their share, what was kept of a
damaged database; and what the journal may still take.

This module must not know when it is called, nor what the reserve is for.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._core.bounds import Bounds
from heap_agent._core.seldom import Seldom
from heap_agent._store import outlook
from heap_agent._store.database import WAL_BYTES, DatabaseTrouble, remove_database
from heap_agent._store.journal import Journal
from heap_agent._store.ledger import Ledger

_log = logging.getLogger("heap_agent.store")

#: Seconds between two lines in the log about dropped events.
_LOG_DROPS_EVERY: Final = 60.0


class Measured(NamedTuple):
    """
    How large the directory was.

    Attributes:
        sizes: By kind of file.
        written: What this process's journal had written just before.
    """

    sizes: outlook.Sizes
    written: int


class Room:
    """
    The room in one state directory. Not thread-safe, but for `measure`.

    Args:
        directory: Where; None where everything is in memory.
        bounds: How its bytes are shared out.
        journal: This process's.
    """

    def __init__(self, directory: Path | None, bounds: Bounds, journal: Journal) -> None:
        self.bounds = bounds
        self._directory = directory
        self._journal = journal
        self._dropped = Seldom(_LOG_DROPS_EVERY)

    def measure(self) -> Measured:
        """
        How large the directory is now.
        """
        # Measuring takes a while, in which others record.
        written = self._journal.written
        return Measured(self._sizes(), written)

    @property
    def crowded(self) -> bool:
        """Whether there is something to drop or to unlink."""
        return self._sizes().total > self.bounds.crowded

    def cap_journal(self, ledger: Ledger | None, found: Measured | None = None) -> None:
        """
        Set how much more this process's journal may take.

        Args:
            ledger: The queue, if this process is the owner.
            found: Measured just now, if it was.
        """
        if self._journal.full:
            # What was read of it stands in the queue, too, until it is unlinked.
            self._journal.rotate()
        if self._directory is not None:
            sizes, written = found or self.measure()
            used = sizes.journals + sizes.others + max(sizes.database, _folded(ledger))
            # All who record measure the same room, and any of them may have slept since.
            room = min(self.bounds.full - used, self.bounds.unseen)
            self._journal.allow(room // max(1, sizes.writers), since=written)

    def make(self, ledger: Ledger) -> int:
        """
        Drop the oldest of what is in the queue, if the directory is full.

        Returns:
            How many bytes are still too many: the queue has given all it can, and
            the rest is in the journals.
        """
        found = self._sizes()
        if found.journals + found.others + _folded(ledger) <= self.bounds.crowded:
            # However much of the journals has been read.
            return 0
        kept = self._kept(ledger)
        if kept > self.bounds.crowded and self.remove_old_generations():
            kept = self._kept(ledger)
        if kept <= self.bounds.crowded:
            return 0
        over = kept - self.bounds.target
        while over > 0:
            dropped = ledger.queue.drop_oldest(min(over, self.bounds.step))
            ledger.database.checkpoint()
            self.cap_journal(ledger)
            self.tell_dropped(dropped.events)
            if not dropped.rows:
                break
            over = self._kept(ledger) - self.bounds.target
        return max(0, over)

    def hold_dead_letters(self, ledger: Ledger) -> None:
        """
        Drop the oldest dead letters beyond their share.
        """
        if ledger.queue.dead_has_grown:
            over = ledger.queue.dead_bytes() - self.bounds.dead
            if over > 0:
                ledger.queue.drop_dead(over)
            ledger.queue.dead_has_grown = False

    def remove_old_generations(self) -> bool:
        """
        Remove what was kept of a damaged database, in case somebody wants to look at it.
        """
        if self._directory is None:
            return False
        old = outlook.generations(self._directory)[:-1]
        for path in old:
            remove_database(path)
        return bool(old)

    def tell_dropped(self, events: int) -> None:
        """
        Say in the log, now and then, that events were dropped.
        """
        if told := self._dropped.add(events, time.monotonic()):
            _log.warning("the queue is full: the %d oldest events were dropped", told)

    def _sizes(self) -> outlook.Sizes:
        return outlook.Sizes() if self._directory is None else outlook.sizes(self._directory)

    def _kept(self, ledger: Ledger) -> int:
        """
        Bytes of the directory once the log is folded in and all parts that have
        been read are unlinked. (A log that a reader holds open is no reason to
        drop anything.)
        """
        return self._sizes().others + _folded(ledger) + ledger.absorber.pending_bytes()


def _folded(ledger: Ledger | None) -> int:
    """
    Bytes of the queue's file once the log is folded in, and of a log that has
    grown as long as it may. 0 where this process cannot tell.
    """
    try:
        return 0 if ledger is None else ledger.database.bytes + WAL_BYTES
    except DatabaseTrouble:
        return 0

"""
The owner's side of the store in one hand: a database with its queue, property
store, timeline and absorber.

This module must not know why or when any of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._store.absorb import Absorber
from heap_agent._store.database import Database
from heap_agent._store.event_queue import EventQueue
from heap_agent._store.properties import UNREADABLE, Properties
from heap_agent._store.seals import unsound
from heap_agent._store.timeline import Timeline

#: Small tables whose rows have seals. (Facets have, too: what was said of consent is kept; and
#: what is known of clocks, and was told of losses.) Counters and all other memos do without:
#: no key, time or name is made of one. Books that do not balance are put right, an id that
#: was given out already is refused, budgets and waits are checked when they are taken up.
_SEALED: Final = ("position", "boot", "step", "person")

#: Rows that live in memory only have ids from here on.
MEMORY_IDS: Final = 1 << 62


class Ledger(NamedTuple):
    """
    One database and what works on it.

    Attributes:
        damaged: Facets and small rows that were not what was written when it was opened.
    """

    database: Database
    queue: EventQueue
    properties: Properties
    timeline: Timeline
    absorber: Absorber
    damaged: int = 0

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        boot_id: str,
        own_journal: Callable[[], str] = lambda: "",
        earlier_boots: Iterable[str] = (),
    ) -> Ledger:
        """
        Open (or create) the database.

        Args:
            path: Its file; None for one in memory.
            boot_id: The running boot.
            own_journal: Id of this process's journal.
            earlier_boots: Boots that journals beside it speak of, oldest first.

        Raises:
            DatabaseTrouble: It cannot be opened.
        """
        database = Database(path)
        try:
            queue = EventQueue(database, first_id=1 if path is not None else MEMORY_IDS)
            properties = Properties(database, queue)
            damaged = properties.remove_damaged_facets() + _remove_damaged(database, queue)
            timeline = Timeline(database, boot_id, earlier_boots)
            directory = None if path is None else path.parent
            absorber = Absorber(directory, own_journal, database, queue, properties, timeline)
        except BaseException:
            database.close()
            raise
        return cls(database, queue, properties, timeline, absorber, damaged)

    def close(self) -> None:
        """
        Close the database.
        """
        self.database.close()


def _remove_damaged(database: Database, queue: EventQueue) -> int:
    found = {table: unsound(database, table) for table in _SEALED}
    total = sum(map(len, found.values()))
    if total:
        with database.transact():
            for table, rowids in found.items():
                database.execute_many(f"DELETE FROM {table} WHERE rowid = ?", rowids)
            queue.add({UNREADABLE: total})
    return total

"""
The front of the queue, kept at hand: the rows from the oldest on, exactly as they
stand on the disk, so that what was just written, or looked at, need not be read (again)
to be sent.

It is a copy, and whoever changes rows takes care of it. A transaction that has not
happened makes all of it doubtful.

This module must not know SQL, nor what becomes of a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from heap_agent._core.events import Candidate
from heap_agent._core.limits import BATCH_BYTES, BATCH_ITEMS
from heap_agent._store.rows import Entry, Stored

#: What one look takes in: more than a request, because not every row may leave at once.
LOOK: Final = 2_000
LOOK_BYTES: Final = 4_000_000


class Front:
    """
    Some rows, without a gap. Not thread-safe; an empty one serves nobody.

    Args:
        rows: By id, which grow.
        undone: Transactions that had not happened by then.
    """

    __slots__ = ("_rows", "_undone")

    def __init__(self, rows: dict[int, Entry] | None = None, undone: int = 0) -> None:
        self._rows = {} if rows is None else rows
        self._undone = undone

    def __repr__(self) -> str:
        return f"<Front [{len(self._rows)} rows]>"

    @classmethod
    def of(cls, rows: Iterable[tuple[int, Entry]], undone: int) -> Front:
        """
        Keep the first rows, as many as one look takes in.
        """
        found: dict[int, Entry] = {}
        room = LOOK_BYTES
        for id, entry in islice(rows, LOOK):
            room -= len(entry[-1])  # its body
            if room < 0 and found:
                break
            found[id] = entry
        return cls(found, undone)

    def serves(self, oldest: int, newest: int | None, undone: int) -> bool:
        """
        Whether it begins where the queue does, and has all of it or fills a request.
        """
        rows = self._rows
        if not rows or undone != self._undone or next(iter(rows)) != oldest:
            return False
        if len(rows) >= BATCH_ITEMS or next(reversed(rows)) == newest:
            return True
        return sum(len(entry.body) for entry in rows.values()) >= BATCH_BYTES

    def candidates(self) -> list[Candidate]:
        """
        The rows without their bytes.
        """
        return [
            Candidate(id, kind, app_id, actor, len(body))
            for id, (kind, _, _, _, _, app_id, actor, body) in self._rows.items()
        ]

    def rows(self, undone: int) -> dict[int, Entry]:
        """
        The rows, as far as they can be relied on; not to be changed.
        """
        return self._rows if undone == self._undone else {}

    def replace(self, stored: Stored) -> None:
        """
        A row has changed.
        """
        if stored.id in self._rows:
            self._rows[stored.id] = stored.entry

    def without(self, ids: Collection[int]) -> Front:
        """
        What is left when rows have gone.
        """
        gone = set(ids)
        rest = {id: entry for id, entry in self._rows.items() if id not in gone}
        return Front(rest, self._undone)

    def after(self, ids: Collection[int]) -> Front:
        """
        What is left when rows have left; nothing where others stayed before them: for
        those that may leave one has to look further.
        """
        if list(islice(self._rows, len(ids))) != list(ids):
            return Front()
        return Front(dict(islice(self._rows.items(), len(ids), None)), self._undone)

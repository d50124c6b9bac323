"""
One bulk job: rows go out in order, and each is settled exactly once.

Every row is handed to the server-side client, a line that is no row as an empty
item, so that the client's index and the count of rows are the same number. When
the client says that it has settled the first so many, these rows enter the
digest, the rejected ones are written to their file, that file is synced, and
then the checkpoint is committed. Whatever is interrupted in between happens once more from the
last commit: the file of rejected rows is cut back, and Heap knows the keys.

This module must not know terminals, options, nor HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from heap_agent._tools.bulk_checkpoint import Checkpoint, Position
from heap_agent._tools.bulk_keys import Digest
from heap_agent._tools.bulk_rejected import RejectedFile
from heap_agent._tools.bulk_rows import Row, repairable
from heap_agent.exceptions import ApiError, HeapAgentError

if TYPE_CHECKING:
    from heap_agent.server import BulkResult, Progress, Rejected

__all__ = ["ChangedSource", "Observer", "Run", "Totals"]

#: A commit costs a sync of the disk; rows that were only rejected share one.
_COMMIT_ROWS: Final = 1_000

#: What a line that is no row is to the client, which rejects it.
_NOTHING: Final[Mapping[str, Any]] = {}

#: Makes the item of a row complete, such as with a key.
Complete = Callable[[Row, dict[str, Any]], dict[str, Any]]

#: A bulk verb of the client.
Verb = Callable[..., "BulkResult"]

#: Raises where an item cannot be sent.
Check = Callable[[Mapping[str, Any]], object]


class ChangedSource(Exception):
    """
    The rows that were settled are not those at the beginning any more.
    """


class Observer(Protocol):
    """
    Watches a run.
    """

    def at(self, rows: int, rejected: int) -> None:
        """So many rows are settled, and so many of them were rejected."""


@attrs.frozen(slots=True)
class Totals:
    """
    What has become of the rows.

    Attributes:
        rows: Settled, by earlier runs too.
        accepted: Of these, those that Heap took.
        rejected: Of these, those that it did not.
        before: How many earlier runs have settled.
        undated: Of this run's accepted rows, those without a timestamp.
        first: Of this run, the line of the first rejected row and the reason.
    """

    rows: int = 0
    accepted: int = 0
    rejected: int = 0
    before: int = 0
    undated: int = 0
    first: tuple[int, str] | None = None


class Run:
    """
    One go at a job, from where the checkpoint says that it stands.

    Args:
        rows: From the first one on.
        shape: Text that changes when the same bytes would become other items.
        complete: Makes an item ready to be sent.
        rejected: Where rejected rows go; None to count them only.
        checkpoint: Where the position is kept; None for a run that leaves no
            trace.
        observer: Told of every step.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        complete: Complete,
        *,
        shape: str,
        rejected: RejectedFile | None,
        checkpoint: Checkpoint | None,
        observer: Observer,
    ) -> None:
        start = Position() if checkpoint is None else checkpoint.position
        self.totals = Totals(start.rows, start.accepted, start.rejected, before=start.rows)
        self._rows = iter(rows)
        self._shape = shape
        self._complete = complete
        self._rejected = rejected
        self._checkpoint = checkpoint
        self._observer = observer
        self._digest = Digest()
        self._start = start
        self._reasons: dict[int, str] = {}
        self._waiting: deque[tuple[Row, dict[str, Any] | None]] = deque()
        self._settled = 0
        self._committed = start

    def resume(self) -> None:
        """
        Pass over what is settled, and open the file of rejected rows.

        Raises:
            ChangedSource: Other rows were settled than these.
            ChangedFile: The file of rejected rows is not as it was left.
            OSError: That file cannot be written.
        """
        start = self._start
        if start.rows:
            if start.shape != self._shape:
                raise ChangedSource("its header or the options about its columns have changed")
            self._pass_over(start)
        self._observer.at(start.rows, start.rejected)
        if self._rejected is None:
            return
        if str(self._rejected.path) == start.rejected_file:
            self._rejected.resume(start.rejected_bytes, start.rejected_digest)
        else:
            self._rejected.begin()

    def send(self, verb: Verb, *, repair: bool) -> BulkResult:
        """
        Send the rest.

        Args:
            verb: Of the server-side client.
            repair: Whether it mends faulty values.

        Raises:
            ApiError: Heap could not be reached, or refuses everything.
            CheckpointTrouble: The position cannot be written down.
            OSError: The file of rejected rows cannot be written.
        """
        try:
            result = verb(
                self._items(),
                repair=repair,
                on_rejected=self._note_rejected,
                on_progress=self._note_progress,
            )
        except ApiError:
            # Not so for an interruption, which may have come in the middle of `_settle`.
            self._commit()
            raise
        self._settle(self._settled + len(self._waiting))
        self._commit()
        return result

    def check(self, check: Check) -> None:
        """
        Look at every row, and send none.

        Args:
            check: Raises for an item that would be rejected.
        """
        for index, item in enumerate(self._items()):
            try:
                check(item)
            except HeapAgentError as error:
                self._reasons[index] = str(error)
            self._settle(index + 1)
        if self._rejected is not None:
            self._rejected.sync()

    def _items(self) -> Iterator[Mapping[str, Any]]:
        for row in self._rows:
            item = None if row.item is None else self._complete(row, row.item)
            self._waiting.append((row, item))
            yield _NOTHING if item is None else item

    def _pass_over(self, start: Position) -> None:
        for _ in range(start.rows):
            row = next(self._rows, None)
            if row is None:
                raise ChangedSource(f"it has fewer than the {start.rows:,} rows that were settled")
            self._digest.add(row.number, row.raw)
        if self._digest.hexdigest() != start.digest:
            raise ChangedSource(f"its first {start.rows:,} rows are not those that were settled")

    def _note_rejected(self, rejected: Rejected) -> None:
        self._reasons[rejected.index] = rejected.reason

    def _note_progress(self, progress: Progress) -> None:
        self._settle(progress.read)
        news = self.totals.rows - self._committed.rows
        if self.totals.accepted > self._committed.accepted or news >= _COMMIT_ROWS:
            self._commit()

    def _settle(self, until: int) -> None:
        """Take the rows before an index out of those that wait."""
        totals = self.totals
        rows, accepted, rejected = totals.rows, totals.accepted, totals.rejected
        undated, first = totals.undated, totals.first
        while self._settled < until:
            row, item = self._waiting.popleft()
            reason = self._reasons.pop(self._settled, "")
            self._settled += 1
            rows += 1
            self._digest.add(row.number, row.raw)
            if item is None or reason:
                rejected += 1
                reason = row.reason or reason
                first = first or (row.number, reason)
                if self._rejected is not None:
                    self._rejected.write(repairable(row, reason, item))
            else:
                accepted += 1
                undated += item.get("timestamp") is None
        self.totals = attrs.evolve(
            totals, rows=rows, accepted=accepted, rejected=rejected, undated=undated, first=first
        )
        self._observer.at(rows, rejected)

    def _commit(self) -> None:
        if self._checkpoint is None or self.totals.rows == self._committed.rows:
            return
        file = self._rejected
        self._committed = Position(
            shape=self._shape,
            rows=self.totals.rows,
            digest=self._digest.hexdigest(),
            accepted=self.totals.accepted,
            rejected=self.totals.rejected,
            rejected_file="" if file is None else str(file.path),
            rejected_digest="" if file is None else file.sync(),
            rejected_bytes=0 if file is None else file.length,
        )
        self._checkpoint.commit(self._committed)

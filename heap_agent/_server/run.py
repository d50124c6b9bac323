"""
One bulk call: from an iterable to Heap, with reports on the way.

At most one request's worth of items is in hand at any time, however many there
are. This module must not know what an item is, nor when it may be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from heap_agent._server.bulk import Bulk, Settled
from heap_agent._server.items import Encoded
from heap_agent._server.line import Line
from heap_agent._server.values import KEPT_REJECTED, BulkResult, Progress, Rejected
from heap_agent.exceptions import ApiError, InvalidCall, InvalidValue

__all__ = ["Run"]


class Run:
    """
    The shell around one `Bulk`.

    Args:
        line: Where requests go.
        bulk: Decides.
        encode: Takes the index of an item and the item; raises `InvalidValue`
            for one that is not to be sent.
        on_rejected: Told each rejected item, in order.
        on_progress: Told how far it is, after what was rejected on the way.
    """

    def __init__(
        self,
        line: Line,
        bulk: Bulk,
        encode: Callable[[int, object], Encoded],
        on_rejected: Callable[[Rejected], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._line = line
        self._bulk = bulk
        self._encode = encode
        self._on_rejected = on_rejected
        self._on_progress = on_progress
        self._result = BulkResult()
        self._taken = 0
        self._source: Iterator[object] | None = None
        self._source_error: Exception | None = None

    def complete(self, items: Iterable[object]) -> BulkResult:
        """
        Send all items.

        Raises:
            ApiError: With `result`, what was settled before.
            Exception: Whatever the iterable raised, when all that it gave before
                is settled.
        """
        self._source = _iterate(items)
        while self._fill() or self._bulk:
            try:
                wait = self._line.advance(self._bulk)
            except ApiError as error:
                error.result = self._counted()
                raise error from self._source_error
            self._report(self._bulk.settle())
            self._line.rest(wait)
        if self._source_error is not None:
            raise self._source_error
        return self._counted()

    def _fill(self) -> bool:
        """Take items until there is a request's worth; whether there may be more."""
        while self._source is not None and self._bulk.wants_more:
            try:
                item = next(self._source)
            except StopIteration:
                self._source = None
            except Exception as error:
                # What it gave before is still to be sent.
                self._source, self._source_error = None, error
            else:
                self._take(item)
        return self._source is not None

    def _take(self, item: object) -> None:
        index, self._taken = self._taken, self._taken + 1
        try:
            encoded = self._encode(index, item)
        except InvalidValue as error:
            self._bulk.refuse(index, item, str(error))
        else:
            self._bulk.add(index, item, encoded)

    def _report(self, settled: Settled) -> None:
        if not settled:
            return
        for refusal in settled.refusals:
            self._reject(Rejected(refusal.index, refusal.item, refusal.reason))
        done = self._result
        self._result = done = attrs.evolve(
            done,
            accepted=done.accepted + settled.accepted,
            repaired=done.repaired + settled.repaired,
        )
        if self._on_progress is not None:
            self._on_progress(Progress(done.read, done.accepted, done.rejected))

    def _reject(self, rejected: Rejected) -> None:
        done = self._result
        kept = done.first_rejected
        self._result = attrs.evolve(
            done,
            rejected=done.rejected + 1,
            first_rejected=(*kept, rejected) if len(kept) < KEPT_REJECTED else kept,
        )
        if self._on_rejected is not None:
            self._on_rejected(rejected)

    def _counted(self) -> BulkResult:
        return attrs.evolve(self._result, requests=self._bulk.requests)


def _iterate(items: Iterable[object]) -> Iterator[object]:
    if isinstance(items, (str, bytes, dict)):
        raise InvalidCall(f"items: a {type(items).__name__} came; an iterable of items is allowed")
    try:
        return iter(items)
    except TypeError:
        raise InvalidCall(
            f"items: a {type(items).__name__} came; an iterable of items is allowed"
        ) from None

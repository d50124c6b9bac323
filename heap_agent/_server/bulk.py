"""
What one call sends next, how long it waits, and what becomes of each item.

Pure: items are opaque bytes, and time and chance are arguments. This module
must not know where items come from, nor how requests travel.

Theory of operation
===================

The caller fills a hand with items, in order, while there is room (`wants_more`),
then asks and reports in turns:

    step = bulk.next_step(now, allowance)
    Send   → send these bytes in one request, then bulk.receive(…)
    Wait   → ask again after so many seconds
    GiveUp → nothing more will be sent; this answer is why
    Idle   → the hand holds nothing that is not settled

    settled = bulk.settle()     what is done with at the front of the hand

Items leave in the order in which they came, one request at a time, so that
"everything before number n is settled" is always true for some n, and a call
that was interrupted can go on there. A refused item takes its place in that
order: it is settled when all items before it are.

A request is the longest beginning of the hand that fits the budgets, the window
(items and bytes) and the front group of the suspects.

    answer         items                       afterwards
    ACCEPTED       settled                     the window grows
    REJECTED, n>1  suspects, halved            –
    REJECTED, n=1  settled, refused            GiveUp after REFUSED_IN_A_ROW
    TOO_LARGE, n>1 stay                        the window halves
    TOO_LARGE, n=1 settled, refused            –
    THROTTLED      stay                        waits as told
    UNAVAILABLE,   stay                        back-off; from the second time in
    CAPTIVE                                    mid-body on, the window halves
    MISCONFIGURED  stay                        GiveUp

Whatever Heap may have seen is charged to the budgets, answered or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeAlias

import attrs

from heap_agent._core import limits, wire
from heap_agent._core.budget import Allowance
from heap_agent._core.events import Kind
from heap_agent._core.lanes import Window
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._core.policy import Policy
from heap_agent._server.items import Encoded
from heap_agent._server.patience import Patience
from heap_agent._server.suspects import Suspects

__all__ = [
    "Bulk",
    "GiveUp",
    "Idle",
    "Refusal",
    "Send",
    "Settled",
    "Step",
    "Wait",
    "may_have_arrived",
]

#: Single items that Heap refuses in a row, with none accepted between, after
#: which the fault is not taken to be theirs. They passed our own checks.
REFUSED_IN_A_ROW: Final = 100

#: The window's full size.
_FULL: Final = Policy()


# -- values ------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Send:
    """
    Send these items in one request.

    Attributes:
        kind: What they are.
        items: Their JSON.
        actors: Who each of them is about.
    """

    kind: Kind
    items: tuple[bytes, ...] = attrs.field(repr=False)
    actors: tuple[str, ...] = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Wait:
    """
    Nothing may leave for so many seconds.
    """

    seconds: float


@attrs.frozen(slots=True)
class GiveUp:
    """
    Nothing more will be sent, because of this answer.
    """

    outcome: Outcome


@attrs.frozen(slots=True)
class Idle:
    """
    There is nothing to send.
    """


Step: TypeAlias = Send | Wait | GiveUp | Idle


@attrs.frozen(slots=True)
class Refusal:
    """
    An item that Heap will not get.

    Attributes:
        index: Its place among all items, from 0.
        item: As the caller gave it.
        reason: Why.
        outcome: Heap's answer; None where it was not sent.
    """

    index: int
    item: object
    reason: str
    outcome: Outcome | None = None


@attrs.frozen(slots=True)
class Settled:
    """
    Items that left the front of the hand.

    Attributes:
        accepted: How many Heap has.
        repaired: Of these, how many were changed first.
        refusals: The others, in order.
    """

    accepted: int = 0
    repaired: int = 0
    refusals: tuple[Refusal, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.accepted or self.refusals)


@attrs.define(slots=True, eq=False)
class _Held:
    """An item in the hand that is not refused."""

    index: int
    item: object
    encoded: Encoded
    is_accepted: bool = False


def may_have_arrived(outcome: Outcome) -> bool:
    """
    Whether Heap counts the request, as far as can be told.
    """
    return outcome.began or outcome.status is not None


# -- the machine ---------------------------------------------------------------------


class Bulk:
    """
    The state of one call. Not safe to share between threads.

    Args:
        kind: What the items are.
        app_id: Where they go.
        retry_for: As for `Patience`.
    """

    def __init__(self, kind: Kind, app_id: str, retry_for: float | None) -> None:
        self.kind = kind
        self.requests = 0
        self._app_id = app_id
        self._most_items = 1 if kind is Kind.IDENTIFY else limits.BATCH_ITEMS
        self._envelope = 0 if kind is Kind.IDENTIFY else len(wire.join_batch(kind, app_id, ()))
        self._patience = Patience(retry_for)
        self._window = Window(limits.BATCH_ITEMS, limits.BATCH_BYTES)
        self._suspects = Suspects()
        self._hand: deque[_Held | Refusal] = deque()
        self._bytes = 0  # of the hand
        self._flight: tuple[_Held, ...] = ()
        self._not_before = 0.0
        self._refused_in_a_row = 0
        self._gave_up: Outcome | None = None

    def __len__(self) -> int:
        return len(self._hand)

    def __repr__(self) -> str:
        return (
            f"<Bulk {self.kind.name}, {len(self)} in hand, {self.requests} requests, "
            f"{self._patience!r}, {self._suspects!r}>"
        )

    # -- the hand --

    @property
    def wants_more(self) -> bool:
        """Whether the hand holds less than one request may."""
        return len(self._hand) < self._most_items and self._bytes < limits.BATCH_BYTES

    def add(self, index: int, item: object, encoded: Encoded) -> None:
        """
        Take the next item.
        """
        self._hand.append(_Held(index, item, encoded))
        self._bytes += len(encoded.data) + 1

    def refuse(self, index: int, item: object, reason: str) -> None:
        """
        Take the next item, which is not to be sent.
        """
        self._hand.append(Refusal(index, item, reason))

    def settle(self) -> Settled:
        """
        Take off the hand what is done with, up to the first item that is not.
        """
        accepted = repaired = 0
        refusals = []
        while self._hand:
            front = self._hand[0]
            if isinstance(front, Refusal):
                refusals.append(front)
            elif front.is_accepted:
                accepted += 1
                repaired += bool(front.encoded.faults)
                self._bytes -= len(front.encoded.data) + 1
            else:
                break
            self._hand.popleft()
        return Settled(accepted, repaired, tuple(refusals))

    # -- asking --

    def next_step(self, now: float, allowance: Allowance) -> Step:
        """
        Say what to do next.

        Args:
            now: Seconds on a clock that does not jump.
            allowance: What the budgets allow; shared with other calls.

        Returns:
            After `Send`, `receive` has the next word.
        """
        self._flight = ()
        if self._gave_up is not None:
            return GiveUp(self._gave_up)
        if next(self._open(), None) is None:
            return Idle()
        if now < self._not_before:
            return Wait(self._not_before - now)
        self._flight = self._fitting(now, allowance)
        if self._flight:
            return Send(
                self.kind,
                tuple(held.encoded.data for held in self._flight),
                tuple(held.encoded.actor for held in self._flight),
            )
        first = next(self._open()).encoded.actor
        return Wait(allowance.wait(now, self.kind, self._app_id, (first,)))

    def _open(self) -> Iterator[_Held]:
        return (one for one in self._hand if isinstance(one, _Held) and not one.is_accepted)

    def _fitting(self, now: float, allowance: Allowance) -> tuple[_Held, ...]:
        purse = allowance.purse(now, self.kind, self._app_id)
        most = self._suspects.most(min(self._most_items, self._window.items))
        room = self._window.bytes - self._envelope
        chosen: list[_Held] = []
        for held in islice(self._open(), most):
            room -= len(held.encoded.data) + 1
            # One that is alone may have any size: it passed the limit of an item.
            if (chosen and room < 0) or not purse.take(held.encoded.actor):
                break
            chosen.append(held)
        return tuple(chosen)

    # -- reporting --

    def receive(self, now: float, chance: float, outcome: Outcome, allowance: Allowance) -> None:
        """
        Note what became of the last `Send`.

        Args:
            now: When the request ended.
            chance: 0 to 1, spreads the waits.
            outcome: The answer.
            allowance: Charged with what may have arrived.
        """
        self.requests += 1
        if may_have_arrived(outcome):
            actors = [held.encoded.actor for held in self._flight]
            allowance.charge(now, self.kind, self._app_id, actors)
        match outcome.answer:
            case Answer.ACCEPTED:
                self._accepted()
            case Answer.REJECTED:
                self._rejected(outcome)
            case Answer.TOO_LARGE:
                self._too_large(outcome)
            case Answer.MISCONFIGURED:
                self._gave_up = outcome
            case _:
                self._failed(now, chance, outcome)

    def _accepted(self) -> None:
        self._patience.restore()
        self._refused_in_a_row = 0
        self._suspects.accepted(len(self._flight))
        self._window.grow(_FULL)
        for held in self._flight:
            held.is_accepted = True

    def _rejected(self, outcome: Outcome) -> None:
        self._patience.restore()
        self._suspects.rejected(len(self._flight))
        if len(self._flight) == 1:
            self._refuse_flight(outcome)

    def _too_large(self, outcome: Outcome) -> None:
        self._patience.restore()
        if len(self._flight) == 1:
            self._suspects.rejected(1)
            self._refuse_flight(outcome)
        else:
            self._shrink()

    def _failed(self, now: float, chance: float, outcome: Outcome) -> None:
        # One reset is an accident, and the same bytes go again. Twice in a row, and
        # the line may be too slow for so much.
        if outcome.began and self._patience.failures:
            self._shrink()
        seconds = self._patience.lose(now, chance, outcome)
        if seconds is None:
            self._gave_up = outcome
        else:
            self._not_before = now + seconds

    def _shrink(self) -> None:
        size = sum(len(held.encoded.data) + 1 for held in self._flight)
        self._window.shrink(len(self._flight), size)

    def _refuse_flight(self, outcome: Outcome) -> None:
        (held,) = self._flight
        self._bytes -= len(held.encoded.data) + 1
        refusal = Refusal(held.index, held.item, outcome.reason, outcome)
        self._hand[self._hand.index(held)] = refusal
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSED_IN_A_ROW:
            self._gave_up = outcome

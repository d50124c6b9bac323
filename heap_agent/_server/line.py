"""
The way to one host: budgets, turns and waits.

One request at a time travels on a line, whichever threads use it, because a
budget has to be looked at, used and charged in one go. This module must not
know what an item is, nor what an answer means (`bulk`).
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

import attrs

from heap_agent._core import wire
from heap_agent._core.budget import Allowance
from heap_agent._core.events import Kind
from heap_agent._server.bulk import Bulk, GiveUp, Send, Wait, may_have_arrived
from heap_agent._server.errors import api_error
from heap_agent._upload.transport import Reply
from heap_agent.exceptions import InvalidCall

__all__ = ["VERBS", "Alone", "Caller", "Ledger", "Line", "Seams"]

#: What each kind of request is called in errors.
VERBS: Final = {
    Kind.EVENT: "track",
    Kind.IDENTIFY: "identify",
    Kind.USER_PROPERTIES: "add_user_properties",
    Kind.ACCOUNT_PROPERTIES: "add_account_properties",
}


@attrs.frozen(slots=True)
class Seams:
    """
    Time and chance, so that tests may bring their own.

    Attributes:
        monotonic: Seconds on a clock that does not jump.
        wall: Seconds since 1970.
        sleep: Returns after so many seconds.
        chance: 0 to 1.
        random_bits: An integer of so many random bits.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    random_bits: Callable[[int], int] = secrets.randbits


class Caller(Protocol):
    """
    What moves requests; `Transport` in production.
    """

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Send one request."""

    def close(self) -> None:
        """Close the connection."""


class Ledger(Protocol):
    """
    Where requests are noted for others who send for the same app id.
    """

    def turn(self, now: float, allowance: Allowance) -> AbstractContextManager[bool]:
        """Whether nobody else sends within the block; if so, others are charged."""

    def begin(self, kind: Kind, actors: Collection[str]) -> None:
        """A request is about to leave."""

    def end(self, now: float, *, has_arrived: bool) -> None:
        """It has ended; the allowance is charged already."""


class Alone:
    """
    The ledger of a client that nobody shares budgets with.
    """

    def turn(self, now: float, allowance: Allowance) -> AbstractContextManager[bool]:
        """It is always our turn."""
        return nullcontext(True)

    def begin(self, kind: Kind, actors: Collection[str]) -> None:
        """Nobody has to know."""

    def end(self, now: float, *, has_arrived: bool) -> None:
        """Nobody has to know."""


class Line:
    """
    Sends what calls have in hand. Safe to use from several threads: they take
    turns, request by request.

    Args:
        app_id: Where items go.
        caller: Moves requests.
        allowance: The budgets that all calls share.
        seams: Time and chance.
        ledger: Where requests are noted.
    """

    def __init__(
        self, app_id: str, caller: Caller, allowance: Allowance, seams: Seams, ledger: Ledger
    ) -> None:
        self.seams = seams
        self._app_id = app_id
        self._caller = caller
        self._allowance = allowance
        self._ledger = ledger
        # Held across the network, and taken by nobody but requests.
        self._turn = threading.Lock()
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether nothing may be sent any more."""
        return self._closed.is_set()

    def close(self) -> None:
        """
        Let nothing start any more; a request that is under way is not disturbed.
        """
        self._closed.set()
        with self._turn:
            self._caller.close()

    def advance(self, bulk: Bulk) -> float:
        """
        Send one request of a call, if it may leave now.

        Returns:
            Seconds that must pass before the next attempt; 0 for none.

        Raises:
            ApiError: The call has given up.
            InvalidCall: The client was closed.
        """
        now, allowance = self.seams.monotonic, self._allowance
        with self._turn, self._ledger.turn(now(), allowance) as is_ours:
            self.check_open()
            if not is_ours:
                return 0.0
            step = bulk.next_step(now(), allowance)
            if isinstance(step, Send):
                self._send(bulk, step)
        if isinstance(step, GiveUp):
            raise api_error(VERBS[bulk.kind], step.outcome)
        return step.seconds if isinstance(step, Wait) else 0.0

    def rest(self, seconds: float) -> None:
        """
        Wait, without keeping others from sending.
        """
        if seconds > 0:
            self.seams.sleep(seconds)

    def check_open(self) -> None:
        """
        Raise `InvalidCall` after `close`.
        """
        if self.is_closed:
            raise InvalidCall("this ServerClient was closed; make a new one")

    def _send(self, bulk: Bulk, step: Send) -> None:
        body = wire.join_batch(step.kind, self._app_id, step.items)
        self._ledger.begin(step.kind, step.actors)
        reply = self._caller.call("POST", wire.PATHS[step.kind], body)
        now, chance = self.seams.monotonic(), self.seams.chance()
        bulk.receive(now, chance, reply.outcome, self._allowance)
        self._ledger.end(now, has_arrived=may_have_arrived(reply.outcome))

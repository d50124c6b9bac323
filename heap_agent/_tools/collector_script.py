"""
What a collector can be told to do wrong, and in which order.

This module must not know what a request means or how a fault is carried out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, TypeAlias

import attrs

from heap_agent.exceptions import InvalidCall

__all__ = [
    "JSON",
    "TEXT",
    "Admission",
    "Drop",
    "Fault",
    "Hang",
    "Reply",
    "Request",
    "Script",
    "Step",
]

TEXT: Final = {"Content-Type": "text/plain; charset=utf-8"}
JSON: Final = {"Content-Type": "application/json; charset=utf-8"}
HTML: Final = {"Content-Type": "text/html; charset=utf-8"}

_LOGIN: Final = b"<!DOCTYPE html><title>Log in</title><h1>Welcome to the hotel's network</h1>"


def _status(_reply: Reply, _attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise InvalidCall(f"status: {value!r} came; an int from 200 to 599 is allowed")


@attrs.frozen(slots=True)
class Reply:
    """
    An answer to send instead of the one that Heap would give.

    Attributes:
        status: 200 to 599.
        body: The answer's body.
        headers: More headers; a Date is always there.
        handled: True when the request is handled first, and only the answer is
            this one: Heap has the events, and the client is told otherwise.
    """

    status: int = attrs.field(validator=_status)
    # Not shown: it may be a token.
    body: bytes = attrs.field(default=b"", repr=False)
    headers: Mapping[str, str] = attrs.Factory(dict)
    handled: bool = False

    @classmethod
    def throttled(cls, retry_after: float | str | None = 1, status: int = 429) -> Reply:
        """
        429 (or 503) with ``Retry-After``.

        Args:
            retry_after: Seconds, or an HTTP date as text; None sends no header.
            status: 429 or 503.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return cls(status, b"slow down", {**TEXT, **headers})

    @classmethod
    def captive(cls, status: int = 302) -> Reply:
        """
        What the network of a hotel answers: a redirect to a page, or the page itself.

        Args:
            status: 302, or 200 for the page.
        """
        location = {"Location": "/login"} if 300 <= status <= 399 else {}
        return cls(status, _LOGIN, {**HTML, **location})


@attrs.frozen(slots=True)
class Hang:
    """
    Read the request and say nothing; handle it after so many seconds (None: never).
    """

    seconds: float | None


@attrs.frozen(slots=True)
class Drop:
    """
    Close the connection without an answer, having handled the request or not.
    """

    handled: bool


Fault: TypeAlias = "Reply | Hang | Drop"


@attrs.frozen(slots=True)
class Request:
    """
    One request that arrived in full, in order of arrival.

    Attributes:
        method: In upper case.
        path: Without the query.
        headers: By lower-case name; of credentials only the scheme, as in ``Basic ***``.
        body: The bytes; of a body over the limit only the first ones.
        time: When it arrived, in UTC.
        status: What it was answered with; None while, or because, it was not.
        reason: Why it was refused, or empty.
    """

    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    time: datetime
    status: int | None = None
    reason: str = ""


@attrs.frozen(slots=True)
class Admission:
    """
    A request that was noted, and the fault that is in store for it.

    Attributes:
        number: Its place among all requests.
        request: What was noted of it.
        fault: What is to go wrong, or None.
        authorization: The header of that name, which is in no note.
    """

    number: int
    request: Request
    fault: Fault | None
    authorization: str | None = attrs.field(default=None, repr=False)


@attrs.frozen(slots=True)
class Step:
    """One entry of the script; no fault means that Heap answers as it would."""

    fault: Fault | None
    probes: bool = False
    repeat: bool = False


class Script:
    """
    Faults in the order in which requests will meet them.

    Attributes:
        portal: Answers every request, and uses nothing up, while it is set.
    """

    def __init__(self) -> None:
        self.portal: Reply | None = None
        self._steps: deque[Step] = deque()

    def extend(self, steps: Iterable[Step]) -> None:
        """
        Add steps at the end.
        """
        self._steps.extend(steps)

    def clear(self) -> None:
        """
        Forget everything.
        """
        self.portal = None
        self._steps.clear()

    def next(self, *, probe: bool) -> Fault | None:
        """
        The fault for one request; None where it is handled as usual.

        Args:
            probe: True for requests that ask for nothing; they meet only steps for probes.
        """
        if self.portal is not None:
            return self.portal
        if not self._steps or (probe and not self._steps[0].probes):
            return None
        step = self._steps.popleft()
        if step.repeat:
            self._steps.append(step)
        return step.fault

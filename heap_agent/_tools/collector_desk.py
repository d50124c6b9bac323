"""
The collector without its sockets: takes requests, says how to answer, keeps what Heap would.

This module must not know how requests arrive or how answers and faults are
carried out; that is `collector_app`.

A request passes three calls: `admit` notes it and takes the next fault from
the script, `handle` does what Heap does, `settle` notes the answer.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from typing import Any, Final, Protocol, TypeAlias

import attrs

from heap_agent._core import limits
from heap_agent._tools.collector_script import (
    JSON,
    TEXT,
    Admission,
    Drop,
    Fault,
    Hang,
    Reply,
    Request,
    Script,
    Step,
)
from heap_agent._tools.heap_book import Book, Conflict, Ignored, Limits, OverLimit, Use, User
from heap_agent._tools.heap_json import Document, Refused, read
from heap_agent._tools.heap_rules import Event, Rules
from heap_agent.exceptions import InvalidCall

__all__ = ["MAX_BODY", "Clock", "Desk"]

MAX_BODY: Final = limits.BATCH_BYTES

Predicate: TypeAlias = Callable[[dict[str, Any]], "bool | str | None"]


class Clock(Protocol):
    """
    What a collector asks of its clock.
    """

    def wall_ns(self) -> int:
        """Nanoseconds since 1970; may be set."""

    def boot_ns(self) -> int:
        """Nanoseconds on a clock that never goes back."""


class SystemClock:
    """
    The clock of this machine.
    """

    def wall_ns(self) -> int:
        """Nanoseconds since 1970."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """Nanoseconds on a clock that never goes back."""
        return time.monotonic_ns()


class Desk:
    """
    Heap's ingestion API with a script of faults. Safe for use from many threads.

    Args:
        strict: Refuse whatever Heap's documentation does not allow.
        max_body: Largest body in bytes; above it the answer is 413.
        enforce_limits: Answer 429 above the documented rate limits; otherwise
            they are only counted, in `over_limit`.
        clock: Gives the Date of answers, the time of arrival and the windows
            of the rate limits; the system's by default.
    """

    def __init__(
        self,
        *,
        strict: bool = True,
        max_body: int = MAX_BODY,
        enforce_limits: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.delay: float = 0.0
        self.max_body = max_body
        self.enforce_limits = enforce_limits
        self._rules = Rules(strict=strict)
        self._clock: Clock = SystemClock() if clock is None else clock
        # Guards everything below; notified whenever events were accepted.
        self._changed = threading.Condition()
        self._book = Book()
        self._limits = Limits()
        self._requests: list[Request] = []
        self._script = Script()
        self._predicate: Predicate | None = None

    # What was received.

    def events(self, name: str | None = None) -> list[Event]:
        """
        Accepted events, without duplicates, in order of arrival.

        Args:
            name: Only events of this name.
        """
        with self._changed:
            return [event for event in self._book.events if name in (None, event.event)]

    @property
    def users(self) -> list[User]:
        """Everybody, merged as Heap merges, in order of first appearance."""
        with self._changed:
            return self._book.users()

    def user(self, name: str) -> User:
        """
        The one user with this identity or, not identified yet, with this user_id.

        Raises:
            AssertionError: There is none, or one in each of several environments.
        """
        users = self.users
        found = [user for user in users if user.identity == name]
        found = found or [user for user in users if not user.identity and name in user.user_ids]
        assert len(found) == 1, f"{len(found)} users are called {name!r}; there are {users}"
        return found[0]

    @property
    def requests(self) -> list[Request]:
        """Every request that arrived in full, probes too."""
        with self._changed:
            return list(self._requests)

    @property
    def duplicates(self) -> list[Event]:
        """Events that came again under a known idempotency key."""
        with self._changed:
            return list(self._book.duplicates)

    @property
    def conflicts(self) -> list[Conflict]:
        """Events that came again under a known key with other bytes: a fault of the client."""
        with self._changed:
            return list(self._book.conflicts)

    @property
    def ignored(self) -> list[Ignored]:
        """Calls of identify without effect: another identity, or the 11th user_id of a month."""
        with self._changed:
            return list(self._book.ignored)

    @property
    def over_limit(self) -> list[OverLimit]:
        """Each time a request exceeded a documented rate limit."""
        with self._changed:
            return list(self._limits.over)

    def wait_for(
        self, count: int = 1, name: str | None = None, timeout: float = 10.0
    ) -> list[Event]:
        """
        Wait until so many events have been accepted.

        Args:
            count: How many.
            name: Only events of this name.
            timeout: Seconds.

        Returns:
            All of them, in order of arrival; perhaps more than `count`.

        Raises:
            AssertionError: The time is over; the text says what did come.
        """
        with self._changed:
            if self._changed.wait_for(lambda: len(self.events(name)) >= count, timeout):
                return self.events(name)
            raise AssertionError(self._what_came(count, name, timeout))

    # What goes wrong.

    def reply(self, *answers: int | Reply, repeat: bool = False) -> None:
        """
        Script the answers to the next ingestion requests (POST).

        Args:
            answers: One for each request, after what is scripted already. The
                number 200 means: as Heap would; any other number is a bare
                status; `Reply` says it all.
            repeat: Start again at the end, until `normal` is called.
        """
        steps = [Step(_fault(answer), repeat=repeat) for answer in answers]
        with self._changed:
            self._script.extend(steps)

    def hang(self, seconds: float | None = None, count: int = 1, *, probes: bool = False) -> None:
        """
        Read the next requests and do not answer.

        Args:
            seconds: Answer after so many seconds after all, if the client is
                still there; None: never.
            count: How many requests.
            probes: Not only POST: HEAD and GET hang too, and count.
        """
        if seconds is not None and not seconds >= 0:
            raise InvalidCall(f"seconds: {seconds!r} came; None or a number from 0 is allowed")
        self._extend(Step(Hang(seconds), probes), count)

    def drop_connection(
        self, count: int = 1, when: str = "before", *, probes: bool = False
    ) -> None:
        """
        Close the connection of the next requests without an answer.

        Args:
            count: How many requests.
            when: "before" they are handled, or "after": Heap has the events and
                the client does not know.
            probes: Not only POST: HEAD and GET are dropped too, and count.
        """
        if when not in ("before", "after"):
            raise InvalidCall(f"when: {when!r} came; 'before' or 'after' is allowed")
        self._extend(Step(Drop(handled=when == "after"), probes), count)

    def captive_portal(self, on: bool = True, status: int = 302) -> None:
        """
        Answer every request, whatever its method and path, like a captive portal.

        Args:
            on: False ends it.
            status: 302 redirects to ``/login``; 200 sends the page at once.
        """
        reply = Reply.captive(status) if on else None
        with self._changed:
            self._script.portal = reply

    def reject_if(self, predicate: Predicate | None) -> None:
        """
        Refuse requests of `track` with an event that `predicate` dislikes.

        The whole request is answered with 400, as Heap documents no answer
        for single items.

        Args:
            predicate: Called with each event's JSON object; True or a reason
                refuses. None accepts all again.
        """
        with self._changed:
            self._predicate = predicate

    def normal(self) -> None:
        """
        Forget script, portal and predicate. Requests that hang already go on hanging.
        """
        with self._changed:
            self._script.clear()
            self._predicate = None

    # For the application that carries it out.

    def admit(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Admission:
        """
        Note a request, and take the fault that is in store for it.
        """
        request = Request(method, path, headers, body, self._now())
        with self._changed:
            self._requests.append(request)
            fault = self._script.next(probe=method != "POST")
            return Admission(len(self._requests) - 1, request, fault)

    def handle(self, request: Request) -> Reply:
        """
        Do what Heap does with a request.
        """
        try:
            return self._route(request)
        except Refused as refused:
            return Reply(refused.status, refused.reason.encode(), {**TEXT, **refused.headers})
        except Exception as exc:  # a predicate of the test's own, or a fault in here
            return Reply(500, f"the collector failed: {exc!r}".encode(), TEXT)

    def settle(self, admission: Admission, reply: Reply) -> None:
        """
        Note what a request is about to be answered with.
        """
        reason = reply.body.decode(errors="replace") if reply.status >= 400 else ""
        answered = attrs.evolve(admission.request, status=reply.status, reason=reason)
        with self._changed:
            self._requests[admission.number] = answered

    def date(self) -> str:
        """
        The value for the answer's Date header.
        """
        return formatdate(self._clock.wall_ns() // 1_000_000_000, usegmt=True)

    # Inside.

    def _extend(self, step: Step, count: int) -> None:
        if count < 1:
            raise InvalidCall(f"count: {count!r} came; a whole number from 1 is allowed")
        with self._changed:
            self._script.extend([step] * count)

    def _route(self, request: Request) -> Reply:
        handler = _ROUTES.get(request.path)
        if handler is None:
            known = ", ".join(sorted(_ROUTES))
            raise Refused(f"path: {request.path!r} came; known are {known}.", 404)
        if request.method == "HEAD":
            return Reply(200, headers=JSON)
        if request.method != "POST":
            raise Refused(
                f"method: {request.method} came; POST is allowed.", 405, {"Allow": "HEAD, POST"}
            )
        if len(request.body) > self.max_body:
            raise Refused(
                f"body: more than {self.max_body} bytes came; that many are allowed.", 413
            )
        self._rules.check_headers(request.headers)
        handler(self, read(request.body), request.time)
        return Reply(200, b"{}", JSON)

    def _track(self, document: Document, now: datetime) -> None:
        events = self._rules.track(document, now)
        self._ask_predicate(document)
        with self._changed:
            self._spend(self._limits.events(events, bulk="events" in document.members))
            self._book.add_events(events)
            self._changed.notify_all()

    def _identify(self, document: Document, now: datetime) -> None:
        call = self._rules.identify(document, now)
        with self._changed:
            self._book.identify(call, now)

    def _user_properties(self, document: Document, now: datetime) -> None:
        updates = self._rules.user_properties(document)
        with self._changed:
            self._spend(self._limits.users(updates))
            self._book.add_user_properties(updates)

    def _ask_predicate(self, document: Document) -> None:
        with self._changed:
            predicate = self._predicate
        if predicate is None:
            return
        # Without the lock: the predicate is the test's, and may ask us something.
        for item in document.members.get("events", [document.members]):
            verdict = predicate(dict(item))
            if verdict:
                raise Refused(verdict if isinstance(verdict, str) else "event: rejected.")

    def _spend(self, uses: list[Use]) -> None:
        now = self._clock.boot_ns() / 1e9
        retry_after = self._limits.spend(uses, now, enforce=self.enforce_limits)
        if retry_after is not None and self.enforce_limits:
            over = self._limits.over[-1]
            raise Refused(
                f"rate: {over.came} {over.limit} came; {over.allowed} are allowed.",
                429,
                {"Retry-After": str(retry_after)},
            )

    def _now(self) -> datetime:
        epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
        return epoch + timedelta(microseconds=self._clock.wall_ns() // 1_000)

    def _what_came(self, count: int, name: str | None, timeout: float) -> str:
        wanted = "events" if name is None else f"events named {name!r}"
        names = dict(Counter(event.event for event in self._book.events))
        answers = dict(Counter(str(request.status) for request in self._requests))
        reasons = list(dict.fromkeys(r.reason for r in self._requests if r.reason))[:5]
        return (
            f"after {timeout:g} s {len(self.events(name))} of {count} {wanted} have come; "
            f"accepted: {names}; requests by status: {answers}; reasons: {reasons}"
        )


def _fault(answer: int | Reply) -> Fault | None:
    if isinstance(answer, Reply):
        return answer
    return None if answer == 200 else Reply(answer, json.dumps(answer).encode(), TEXT)


#: Heap's paths. Those for accounts and for deletion belong here too.
_ROUTES: Final[dict[str, Callable[[Desk, Document, datetime], None]]] = {
    limits.TRACK_PATH: Desk._track,
    limits.IDENTIFY_PATH: Desk._identify,
    limits.USER_PROPERTIES_PATH: Desk._user_properties,
}

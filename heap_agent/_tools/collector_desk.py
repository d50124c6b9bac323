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
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from typing import Any, Final, Protocol, TypeAlias

import attrs

from heap_agent._core import limits
from heap_agent._tools.collector_routes import Call, Route, Routes, err_object, plain_text
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
from heap_agent._tools.heap_book import (
    Account,
    Book,
    Conflict,
    Ignored,
    Limits,
    OverLimit,
    Use,
    User,
)
from heap_agent._tools.heap_deletion import Deletion, Deletions, DeletionSetup, Tokens, masked
from heap_agent._tools.heap_json import Document, Refused, read
from heap_agent._tools.heap_rules import IDENTITY, Event, Rules
from heap_agent.exceptions import InvalidCall

__all__ = ["MAX_BODY", "Clock", "Desk"]

MAX_BODY: Final = limits.BATCH_BYTES

#: 10,000 of the longest identities, every character of them as a ``\uXXXX`` escape,
#: with the 16 bytes of ``{"identity":""},`` and room for spaces.
_DELETION_BODY: Final = limits.DELETION_USERS * (6 * IDENTITY + 32)

_CREDENTIALS: Final = ("authorization", "proxy-authorization")

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
    Heap's API with a script of faults. Safe for use from many threads.

    Args:
        strict: Refuse whatever Heap's documentation does not allow.
        max_body: Largest body in bytes; above it the answer is 413.
        enforce_limits: Answer 429 above the documented rate limits; otherwise
            they are only counted, in `over_limit`.
        clock: Gives the Date of answers, the time of arrival, the windows of the
            rate limits and the ages of tokens and deletions; the system's by default.
        setup: How the deletion API is set up.
    """

    def __init__(
        self,
        *,
        strict: bool = True,
        max_body: int = MAX_BODY,
        enforce_limits: bool = False,
        clock: Clock | None = None,
        setup: DeletionSetup | None = None,
    ) -> None:
        self.delay: float = 0.0
        self.max_body = max_body
        self.enforce_limits = enforce_limits
        self._rules = Rules(strict=strict)
        self._setup = DeletionSetup() if setup is None else setup
        self._clock: Clock = SystemClock() if clock is None else clock
        # Guards everything below; notified whenever events were accepted.
        self._changed = threading.Condition()
        self._book = Book()
        self._limits = Limits()
        self._tokens = Tokens(self._setup)
        self._deletions = Deletions(self._setup.deletion_seconds)
        self._requests: list[Request] = []
        self._script = Script()
        self._predicates: dict[str, Predicate] = {}

    @property
    def url(self) -> str:
        """Where clients find this API: the beginning of addresses in answers."""
        return limits.HOSTS["us"]

    # What was received.

    def events(self, name: str | None = None) -> list[Event]:
        """
        Accepted events, without duplicates and deleted users', in order of arrival.

        Args:
            name: Only events of this name.
        """
        with self._changed:
            return self._events(name)

    def _events(self, name: str | None) -> list[Event]:
        return [event for event in self._today().events if name in (None, event.event)]

    @property
    def users(self) -> list[User]:
        """Everybody, merged as Heap merges, in order of first appearance."""
        with self._changed:
            return self._today().users()

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
    def accounts(self) -> list[Account]:
        """All accounts that were given properties, in order of first appearance."""
        with self._changed:
            return self._book.accounts()

    def account(self, id: str) -> Account:
        """
        The one account with this account_id.

        Raises:
            AssertionError: There is none, or one in each of several environments.
        """
        accounts = self.accounts
        found = [account for account in accounts if account.account_id == id]
        assert len(found) == 1, f"{len(found)} accounts are called {id!r}; there are {accounts}"
        return found[0]

    @property
    def deletions(self) -> list[Deletion]:
        """Accepted requests to delete users, each with its status now, in order of arrival."""
        with self._changed:
            self._today()
            return self._deletions.all()

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
            if self._changed.wait_for(lambda: len(self._events(name)) >= count, timeout):
                return self._events(name)
            raise AssertionError(self._what_came(count, name, timeout))

    # What goes wrong.

    def reply(self, *answers: int | Reply, repeat: bool = False) -> None:
        """
        Script the answers to the next requests (POST, and GET of a deletion's status).

        Args:
            answers: One for each request, after what is scripted already. The
                number 200 means: as Heap would, even where that is 201; any
                other number is a bare status; `Reply` says it all.
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
            probes: Probes hang too, and count: HEAD, and GET of anything but a status.
        """
        if seconds is not None and not seconds >= 0:
            raise InvalidCall(f"seconds: {seconds!r} came; None or a number from 0 is allowed")
        self._extend(Step(Hang(seconds), probes), count)

    def drop_connection(
        self, count: int = 1, when: str = "before", *, probes: bool = False
    ) -> None:
        """
        Close the connection of the next requests without an answer.

        An agent sends a request again at once if its connection was in use before:
        where it is to take it for trouble, drop two.

        Args:
            count: How many requests.
            when: "before" they are handled, or "after": Heap has the events and
                the client does not know.
            probes: Probes are dropped too, and count: HEAD, and GET of anything
                but a status.
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

    def reject_if(self, predicate: Predicate | None, *, path: str = limits.TRACK_PATH) -> None:
        """
        Refuse requests with an event (user, account) that `predicate` dislikes.

        The whole request is answered with 400, as Heap documents no answer
        for single items.

        Args:
            predicate: Called with each item's JSON object, of bulk requests and
                of single ones; True or a reason refuses. None accepts all again.
            path: Which requests: one predicate for each path that takes a body,
                ``/api/track`` by default.
        """
        if path not in _ROUTES.with_items:
            known = ", ".join(_ROUTES.with_items)
            raise InvalidCall(f"path: {path!r} came; one of these is allowed: {known}")
        with self._changed:
            self._predicates.pop(path, None)
            if predicate is not None:
                self._predicates[path] = predicate

    def revoke_tokens(self) -> None:
        """
        Make all tokens of the deletion API invalid now; new ones are handed out as before.
        """
        with self._changed:
            self._tokens.revoke()

    def normal(self) -> None:
        """
        Forget script, portal and predicates. Requests that hang already go on hanging.
        """
        with self._changed:
            self._script.clear()
            self._predicates.clear()

    # For the application that carries it out.

    def body_limit(self, path: str) -> int:
        """
        The largest body that is allowed on a path, in bytes.
        """
        found = _ROUTES.find(path)
        return self.max_body if found is None or found[0].body is None else found[0].body

    def admit(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Admission:
        """
        Note a request, and take the fault that is in store for it.
        """
        noted = {**headers, **{n: masked(headers[n]) for n in _CREDENTIALS if n in headers}}
        request = Request(method, path, noted, body, self._now())
        found = _ROUTES.find(path)
        probe = method != "POST" and (found is None or method != found[0].method)
        with self._changed:
            self._requests.append(request)
            fault = self._script.next(probe=probe)
            number = len(self._requests) - 1
            return Admission(number, request, fault, headers.get("authorization"))

    def handle(self, admission: Admission) -> Reply:
        """
        Do what Heap does with a request.
        """
        path = admission.request.path
        found = _ROUTES.find(path)
        if found is None:
            known = ", ".join(_ROUTES.paths)
            return plain_text(Refused(f"path: {path!r} came; known are {known}.", 404))
        route, id = found
        try:
            return self._answer(admission, route, id)
        except Refused as refused:
            return route.refuse(refused)
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

    def accepted(self, new: Sequence[Event], again: Sequence[Event]) -> None:
        """
        Called without the lock after each request of `track`, for those who build on this class.

        Args:
            new: Events that it brought.
            again: Events that it brought again under a known key.
        """

    # Inside.

    def _extend(self, step: Step, count: int) -> None:
        if count < 1:
            raise InvalidCall(f"count: {count!r} came; a whole number from 1 is allowed")
        with self._changed:
            self._script.extend([step] * count)

    def _answer(self, admission: Admission, route: Route[_Handler], id: str) -> Reply:
        request = admission.request
        if request.method == "HEAD":
            return Reply(200, headers=JSON)
        if request.method != route.method:
            raise Refused(
                f"method: {request.method} came; {route.method} is allowed.",
                405,
                {"Allow": f"HEAD, {route.method}"},
            )
        most = self.body_limit(request.path)
        if len(request.body) > most:
            raise Refused(f"body: more than {most} bytes came; that many are allowed.", 413)
        return route.handler(self, Call(request, admission.authorization, id, route.items))

    def _track(self, call: Call) -> Reply:
        document = self._document(call.request)
        events = self._rules.track(document, call.request.time)
        self._ask_predicate(document, call)
        with self._changed:
            self._spend(self._limits.events(events, bulk="events" in document.members))
            new, again = self._today().add_events(events)
            self._changed.notify_all()
        self.accepted(new, again)
        return _DONE

    def _identify(self, call: Call) -> Reply:
        document = self._document(call.request)
        pair = self._rules.identify(document, call.request.time)
        self._ask_predicate(document, call)
        with self._changed:
            self._today().identify(pair, call.request.time)
        return _DONE

    def _user_properties(self, call: Call) -> Reply:
        document = self._document(call.request)
        updates = self._rules.user_properties(document)
        self._ask_predicate(document, call)
        with self._changed:
            self._spend(self._limits.users(updates))
            self._today().add_user_properties(updates)
        return _DONE

    def _account_properties(self, call: Call) -> Reply:
        document = self._document(call.request)
        updates = self._rules.account_properties(document)
        self._ask_predicate(document, call)
        # Heap states no rate limit for accounts.
        with self._changed:
            self._today().add_account_properties(updates)
        # The page has `OK`, and calls it JSON, which it is not.
        return Reply(200, b"OK", TEXT)

    def _auth_token(self, call: Call) -> Reply:
        if call.request.body:
            raise Refused("body: one came; an empty one is allowed.")
        with self._changed:
            token = self._tokens.issue(call.authorization, self._seconds())
        return _json(200, {self._setup.token_name: token})

    def _user_deletion(self, call: Call) -> Reply:
        app_id = self._check_token(call)
        document = self._document(call.request)
        users = self._rules.user_deletion(document)
        self._ask_predicate(document, call)
        with self._changed:
            now = self._seconds()
            deletion = self._deletions.add(app_id, users, call.request.time, now)
        location = f"{self.url}{limits.DELETION_STATUS_PATH}/{deletion.id}"
        return _json(201, {"deletion_request_location": location, **_status(deletion)})

    def _deletion_status(self, call: Call) -> Reply:
        app_id = self._check_token(call)
        with self._changed:
            self._today()
            return _json(200, _status(self._deletions.get(call.id, app_id)))

    def _check_token(self, call: Call) -> str:
        with self._changed:
            return self._tokens.check(call.authorization, self._seconds())

    def _document(self, request: Request) -> Document:
        self._rules.check_headers(request.headers)
        return read(request.body)

    def _ask_predicate(self, document: Document, call: Call) -> None:
        with self._changed:
            predicate = self._predicates.get(call.request.path)
        if predicate is None:
            return
        members = document.members
        # Without the lock: the predicate is the test's, and may ask us something.
        for item in members.get(call.items or "", [members]):
            verdict = predicate(dict(item))
            if verdict:
                raise Refused(verdict if isinstance(verdict, str) else "item: rejected.")

    def _today(self) -> Book:
        """The book without users whose deletion is complete by now; the lock is held."""
        for deletion in self._deletions.finish(self._seconds()):
            self._book.delete(deletion.users)
        return self._book

    def _spend(self, uses: list[Use]) -> None:
        retry_after = self._limits.spend(uses, self._seconds(), enforce=self.enforce_limits)
        if retry_after is not None and self.enforce_limits:
            over = self._limits.over[-1]
            raise Refused(
                f"rate: {over.came} {over.limit} came; {over.allowed} are allowed.",
                429,
                {"Retry-After": str(retry_after)},
            )

    def _seconds(self) -> float:
        return self._clock.boot_ns() / 1e9

    def _now(self) -> datetime:
        epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
        return epoch + timedelta(microseconds=self._clock.wall_ns() // 1_000)

    def _what_came(self, count: int, name: str | None, timeout: float) -> str:
        wanted = "events" if name is None else f"events named {name!r}"
        names = dict(Counter(event.event for event in self._today().events))
        answers = dict(Counter(str(request.status) for request in self._requests))
        reasons = list(dict.fromkeys(r.reason for r in self._requests if r.reason))[:5]
        return (
            f"after {timeout:g} s {len(self._events(name))} of {count} {wanted} have come; "
            f"accepted: {names}; requests by status: {answers}; reasons: {reasons}"
        )


def _fault(answer: int | Reply) -> Fault | None:
    if isinstance(answer, Reply):
        return answer
    return None if answer == 200 else Reply(answer, json.dumps(answer).encode(), TEXT)


def _json(status: int, members: Mapping[str, str]) -> Reply:
    return Reply(status, json.dumps(members).encode(), JSON)


def _status(deletion: Deletion) -> dict[str, str]:
    return {"deletion_request_id": deletion.id, "status": deletion.status}


_DONE: Final = Reply(200, b"{}", JSON)

_Handler: TypeAlias = Callable[[Desk, Call], Reply]

_ROUTES: Final[Routes[_Handler]] = Routes(
    [
        Route(limits.TRACK_PATH, Desk._track, items="events"),
        Route(limits.IDENTIFY_PATH, Desk._identify, items=""),
        Route(limits.USER_PROPERTIES_PATH, Desk._user_properties, items="users"),
        Route(limits.ACCOUNT_PROPERTIES_PATH, Desk._account_properties, items="accounts"),
        Route(limits.AUTH_TOKEN_PATH, Desk._auth_token, refuse=err_object),
        Route(
            limits.USER_DELETION_PATH,
            Desk._user_deletion,
            items="users",
            body=_DELETION_BODY,
            refuse=err_object,
        ),
        Route(
            limits.DELETION_STATUS_PATH + "/:id",
            Desk._deletion_status,
            method="GET",
            refuse=err_object,
        ),
    ]
)

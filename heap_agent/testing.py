"""
For the tests of programs that track: a collector that is as strict as Heap's
documentation, and a clock that is moved by hand.

    with Collector() as collector:
        agent = Agent("11", endpoint=collector.url)
        agent.track("Ordered")
        agent.flush()
        assert [event.event for event in collector.events()] == ["Ordered"]

The collector is a real HTTP server on the loopback interface. It says no with
a sentence where Heap would (or might) say no, merges users as Heap does, keeps
accounts, deletes users, and can be told to answer with errors, to hang, to drop
connections, or to be the captive portal of a hotel.

This module must not know the agent: both meet on the wire only.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, Final

from heap_agent._tools.collector_desk import MAX_BODY, Clock, Desk
from heap_agent._tools.collector_script import Reply, Request
from heap_agent._tools.heap_book import Account, Conflict, Ignored, OverLimit, User
from heap_agent._tools.heap_deletion import API_KEY, Deletion, DeletionSetup
from heap_agent._tools.heap_rules import DeletionUser, Event, Identify
from heap_agent.exceptions import InvalidCall

__all__ = [
    "API_KEY",
    "Account",
    "Clock",
    "Collector",
    "Conflict",
    "Deletion",
    "DeletionUser",
    "Event",
    "FakeClock",
    "Identify",
    "Ignored",
    "OverLimit",
    "Reply",
    "Request",
    "User",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_START: Final = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Collector(Desk):
    """
    A local stand-in for Heap's ingestion and deletion APIs, reachable over HTTP.

    The port is taken at construction, so that `url` is known before the first
    `start`; until then, and between `stop` and `start`, connections are
    refused. What was received is kept.

    Faults (`reply`, `hang`, `drop_connection`) form one script. Each POST takes
    the next entry, and so does each GET of a deletion's status: a client that
    deletes a user takes one for the token, one for the request, and one whenever
    it asks. HEAD and any other GET take none, so that a client may probe.

    A deletion that is complete takes its users out of `users` and `events`, in
    all environments; who comes again is somebody new. `requests`, `duplicates`,
    `conflicts`, `ignored` and `over_limit` are notes about the client, and stay. Of
    credentials the notes have the scheme only.

    Args:
        port: 0 takes a free one, and keeps it.
        strict: Refuse whatever Heap's documentation does not allow.
        host: Address to listen on.
        max_body: Largest body in bytes; above it the answer is 413. Deletion
            requests have a limit of their own, which 10,000 users always keep.
        enforce_limits: Answer 429 above the documented rate limits; otherwise
            they are only counted, in `over_limit`.
        clock: Gives the Date of answers, the time of arrival, the windows of the
            rate limits and the ages of tokens and deletions; the system's by default.
        certfile: PEM file of a certificate chain; with it the collector speaks TLS.
        keyfile: PEM file of its key.
        api_key: The one that opens the deletion API, `API_KEY` by default; None:
            there is none, and each is answered with 401.
        main_app_id: The environment that may delete, as digits; the others are
            answered with 401. None: each may.
        token_seconds: How long a token is good for, an hour by default (Heap
            gives no figure).
        token_name: "auth_token" or "access_token": Heap's two pages differ.
        deletion_seconds: How long a deletion is pending. With 0 it is complete
            before anything else happens; its own answer says "pending" even so.

    Attributes:
        delay: Seconds before each answer; events are accepted at once.

    Raises:
        OSError: The port is taken.
        InvalidCall: One of the last five arguments is not as above.
    """

    def __init__(
        self,
        port: int = 0,
        strict: bool = True,
        *,
        host: str = "127.0.0.1",
        max_body: int = MAX_BODY,
        enforce_limits: bool = False,
        clock: Clock | None = None,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        api_key: str | None = API_KEY,
        main_app_id: str | None = None,
        token_seconds: float = 3_600.0,
        token_name: str = "auth_token",
        deletion_seconds: float = 0.0,
    ) -> None:
        # Here, not above: who only wants the clock pays for no web server.
        from heap_agent._tools.collector_app import CollectorApp
        from heap_agent._view.serving import BackgroundServer

        super().__init__(
            strict=strict,
            max_body=max_body,
            enforce_limits=enforce_limits,
            clock=clock,
            setup=DeletionSetup(api_key, main_app_id, token_seconds, token_name, deletion_seconds),
        )
        self._sources: tuple[Callable[[], object], ...] = ()
        self._server = BackgroundServer(host, port, certfile, keyfile)
        self._app = CollectorApp(self, self._server)
        # Guards starting and stopping; the desk's own lock guards what was received.
        self._lifecycle = threading.Lock()

    @property
    def url(self) -> str:
        """Scheme, host and port, as for an agent's `endpoint`."""
        return self._server.url

    @property
    def running(self) -> bool:
        """True while connections are accepted."""
        return self._server.running

    def start(self) -> Collector:
        """
        Accept connections from now on; running already: nothing.

        Returns:
            The collector itself.
        """
        with self._lifecycle:
            self._server.start(self._app)
        return self

    def stop(self) -> None:
        """
        Cut all connections, hanging requests too, and refuse new ones.

        `start` takes up again on the same port.
        """
        with self._lifecycle:
            self._server.stop()

    def close(self) -> None:
        """
        Stop, and give the port back. What was received can still be read.
        """
        with self._lifecycle:
            self._server.close()

    def fetch_from(self, deliver: Callable[[], object]) -> None:
        """
        Have something delivered before anybody is told which events and users there are:
        ``collector.fetch_from(lambda: agent.flush(timeout=10))``.

        Args:
            deliver: Called by whoever asks; further calls add further ones.
        """
        self._sources = (*self._sources, deliver)

    def events(self, name: str | None = None) -> list[Event]:
        """
        Accepted events, without duplicates and deleted users', in order of arrival.

        Args:
            name: Only events of this name.
        """
        self._fetch()
        return super().events(name)

    @property
    def users(self) -> list[User]:
        """Everybody, merged as Heap merges, in order of first appearance."""
        self._fetch()
        return super().users

    def _fetch(self) -> None:
        for deliver in self._sources:
            deliver()

    def assert_tracked(
        self, event: str, properties: Mapping[str, Any] | None = None, /, **more: Any
    ) -> Event:
        """
        Make sure that an event was received.

        Args:
            event: Its name.
            properties: What it has, among others, as Heap keeps it: text and numbers.
            **more: The same, where names allow it: ``dollars=50``.

        Returns:
            The first that is like that.

        Raises:
            AssertionError: There is none; the text says what was tracked in its place.
        """
        from heap_agent._tools.expectations import differences, missed

        wanted, received = {**(properties or {}), **more}, self.events()
        for one in received:
            if one.event == event and not differences(wanted, one.properties):
                return one
        raise AssertionError(missed(event, wanted, received))

    def assert_not_tracked(
        self, event: str, properties: Mapping[str, Any] | None = None, /, **more: Any
    ) -> None:
        """
        Make sure that no such event was received.

        Args:
            event, properties, more: As for `assert_tracked`.

        Raises:
            AssertionError: There is one; the text shows it.
        """
        from heap_agent._tools.expectations import differences

        wanted = {**(properties or {}), **more}
        for one in self.events(event):
            if not differences(wanted, one.properties):
                raise AssertionError(f"{event!r} {dict(one.properties)!r} was tracked")

    def __enter__(self) -> Collector:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return (
            f"<Collector {self.url} {state}, {len(super().events())} events, "
            f"{len(super().users)} users, {len(self.accounts)} accounts, "
            f"{len(self.requests)} requests, {len(self.duplicates)} duplicates, "
            f"{len(self.conflicts)} conflicts, {len(self.deletions)} deletions>"
        )


class FakeClock:
    """
    A wall clock and a boot clock that stand still until they are moved.

    Args:
        start: What the wall clock shows first: an aware datetime or seconds
            since 1970; 2026-01-01T00:00:00Z by default.

    Attributes:
        boot_id: Changes with every `reboot`.
    """

    def __init__(self, start: datetime | float = _START) -> None:
        # Guards the three values, which move together.
        self._lock = threading.Lock()
        self._boots = 1
        self._wall = _nanoseconds(start)
        self._boot = 0

    @property
    def boot_id(self) -> str:
        """Text that tells this boot from every other of the same clock."""
        with self._lock:
            return str(uuid.UUID(int=self._boots))

    def wall_ns(self) -> int:
        """
        Nanoseconds since 1970, as the wall clock shows them.
        """
        with self._lock:
            return self._wall

    def boot_ns(self) -> int:
        """
        Nanoseconds since the start of the machine.
        """
        with self._lock:
            return self._boot

    def advance(self, seconds: float) -> None:
        """
        Let time pass: both clocks move on.

        Raises:
            InvalidCall: `seconds` is negative; `step` sets the wall clock back.
        """
        if not seconds >= 0:
            raise InvalidCall(
                f"seconds: {seconds!r} came; 0 or more is allowed. step() moves the wall clock back"
            )
        with self._lock:
            self._wall += _nanoseconds(seconds)
            self._boot += _nanoseconds(seconds)

    def step(self, seconds: float) -> None:
        """
        Set the wall clock forward, or back, as NTP does; no time passes.
        """
        with self._lock:
            self._wall += _nanoseconds(seconds)

    def reboot(self, wall: datetime | float | None = None) -> None:
        """
        Start the machine again: a new boot id, and a boot clock at 0.

        Args:
            wall: What the wall clock shows afterwards; by default it goes on.
        """
        with self._lock:
            self._boots += 1
            self._boot = 0
            if wall is not None:
                self._wall = _nanoseconds(wall)

    def __repr__(self) -> str:
        with self._lock:
            wall, boot, boots = self._wall, self._boot, self._boots
        return f"<FakeClock wall {wall / 1e9:.3f} s, boot {boots} since {boot / 1e9:.3f} s>"


def _nanoseconds(value: datetime | float) -> int:
    if not isinstance(value, datetime):
        return round(value * 1_000_000_000)
    if value.tzinfo is None:
        raise InvalidCall(f"wall: {value!r} came; a datetime with a time zone is allowed")
    return (value - _EPOCH) // timedelta(microseconds=1) * 1_000

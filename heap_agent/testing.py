"""
For the tests of programs that track: a collector that is as strict as Heap's
documentation, and a clock that is moved by hand.

    with Collector() as collector:
        agent = Agent("11", endpoint=collector.url)
        agent.track("Ordered")
        agent.flush()
        assert [event.event for event in collector.events()] == ["Ordered"]

The collector is a real HTTP server on the loopback interface. It says no with
a sentence where Heap would (or might) say no, merges users as Heap does, and
can be told to answer with errors, to hang, to drop connections, or to be the
captive portal of a hotel.

This module must not know the agent: both meet on the wire only.
"""

from __future__ import annotations

import os
import threading
import uuid
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Final

from heap_agent._tools.collector_desk import MAX_BODY, Clock, Desk
from heap_agent._tools.collector_script import Reply, Request
from heap_agent._tools.heap_book import Conflict, Ignored, OverLimit, User
from heap_agent._tools.heap_rules import Event, Identify
from heap_agent.exceptions import InvalidCall

__all__ = [
    "Clock",
    "Collector",
    "Conflict",
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
    A local stand-in for Heap's ingestion API, reachable over HTTP.

    The port is taken at construction, so that `url` is known before the first
    `start`; until then, and between `stop` and `start`, connections are
    refused. What was received is kept.

    Faults (`reply`, `hang`, `drop_connection`) form one script, and each POST
    takes the next entry. HEAD and GET take none, so that a client may probe.

    Args:
        port: 0 takes a free one, and keeps it.
        strict: Refuse whatever Heap's documentation does not allow.
        host: Address to listen on.
        max_body: Largest body in bytes; above it the answer is 413.
        enforce_limits: Answer 429 above the documented rate limits; otherwise
            they are only counted, in `over_limit`.
        clock: Gives the Date of answers, the time of arrival and the windows
            of the rate limits; the system's by default.
        certfile: PEM file of a certificate chain; with it the collector speaks TLS.
        keyfile: PEM file of its key.

    Attributes:
        delay: Seconds before each answer; events are accepted at once.

    Raises:
        OSError: The port is taken.
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
    ) -> None:
        # Here, not above: who only wants the clock pays for no web server.
        from heap_agent._tools.background import BackgroundServer
        from heap_agent._tools.collector_app import CollectorApp

        super().__init__(
            strict=strict, max_body=max_body, enforce_limits=enforce_limits, clock=clock
        )
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
            f"<Collector {self.url} {state}, {len(self.events())} events, "
            f"{len(self.users)} users, {len(self.requests)} requests, "
            f"{len(self.duplicates)} duplicates, {len(self.conflicts)} conflicts>"
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

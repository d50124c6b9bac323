"""
The scenarios of the loss table: what a program does, what its server does
meanwhile, and how it ends. Nothing is played here.
"""

from __future__ import annotations

import attrs

from benchmarks.losses_client import Calls, End
from benchmarks.losses_server import (
    ANSWER_LOST,
    DOWN,
    FINE,
    MUTE,
    PORTAL,
    RESET,
    Behaviour,
    refusing,
    slow,
)


@attrs.frozen(kw_only=True)
class Scenario:
    """
    What happens to a program and its network.

    Attributes:
        name: As the table shows it.
        events: That the program records.
        calls: How it does that.
        server: How the server behaves at first.
        seconds: After these, from the last call on, the server is FINE; None: once
            the program has ended.
        end: What becomes of the program.
        patience: It lives on, while events are missing, until none has arrived for so
            many seconds.
        timed: Whether the time is of interest that it takes to end.
    """

    name: str
    events: int
    calls: Calls = Calls.PLAIN
    server: Behaviour = FINE
    seconds: int | None = None
    end: End = End.EXIT
    patience: int = 0
    timed: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether nothing can arrive before the program is started once more."""
        return self.seconds is None and not self.server.takes


@attrs.frozen(kw_only=True)
class Lengths:
    """
    How long things last, in seconds.

    Attributes:
        outages: The server is down.
        trouble: Any other trouble.
        patience: A program lives on after it, while events are missing, until none has
            arrived for so long; or for as long as an outage was, up to `_PATIENCE`.
    """

    outages: tuple[int, ...]
    trouble: int
    patience: int


_PATIENCE = 150

FULL = Lengths(outages=(60, 300), trouble=20, patience=30)
SHORTENED = Lengths(outages=(6, 12), trouble=5, patience=10)


def scenarios(lengths: Lengths) -> list[Scenario]:
    """
    All of them.
    """
    trouble = lengths.trouble
    refused = f"for {trouble} s, then fine"

    def living(
        name: str,
        events: int,
        server: Behaviour = FINE,
        seconds: int = 0,
        calls: Calls = Calls.PLAIN,
    ) -> Scenario:
        return Scenario(
            name=name,
            events=events,
            calls=calls,
            server=server,
            seconds=seconds,
            end=End.STAY,
            patience=max(lengths.patience, min(seconds, _PATIENCE)),
        )

    return [
        Scenario(
            name="kill -9 after 1,000 calls, offline; started again, network up",
            events=1_000,
            server=DOWN,
            end=End.KILL,
        ),
        Scenario(name="script ends after 5,000 calls", events=5_000),
        Scenario(
            name="script ends after 1,030 calls, server 100 ms away",
            events=1_030,
            server=slow(0.1),
        ),
        Scenario(
            name="SIGTERM after 1,030 calls, server 100 ms away",
            events=1_030,
            server=slow(0.1),
            end=End.TERM,
        ),
        *(
            living(f"outage of {seconds} s, 1,000 events", 1_000, DOWN, seconds)
            for seconds in lengths.outages
        ),
        living(f"25,000 events, down for {trouble} s more", 25_000, DOWN, trouble),
        living("one NaN among 41 events, strict server", 41, calls=Calls.ONE_NAN),
        living("forked, the child records 10", 10, calls=Calls.FORKED),
        living("8 threads, 2,000 events each", 16_000, calls=Calls.THREADS),
        Scenario(name="script ends after 200 calls, offline", events=200, server=DOWN, timed=True),
        Scenario(
            name="script ends after 200 calls, server mute", events=200, server=MUTE, timed=True
        ),
        living(f"captive portal (200 with HTML) {refused}", 100, PORTAL, trouble),
        living(f"connections reset {refused}", 100, RESET, trouble),
        living(f"answers lost, events taken, {refused}", 100, ANSWER_LOST, trouble),
        living(f"503 with Retry-After: 2 {refused}", 100, refusing(503, 2), trouble),
        living(f"429 with Retry-After: 2 {refused}", 100, refusing(429, 2), trouble),
    ]

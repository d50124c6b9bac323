"""
What reaches the disk for each event, from the call until it has been delivered and
deleted; and in a day, with the defaults.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

import heap_agent
from benchmarks import data, yardsticks
from benchmarks.apart import once
from benchmarks.server import running
from benchmarks.tables import Row

TITLE = "disk: bytes written for events of about 330 bytes, delivered and deleted"

#: Most of it is waiting: the paced ones run side by side.
SECONDS, SLOW_SECONDS = 30.0, 120.0
FREE: dict[str, Any] = {"identity_budget": None, "app_budget": None}

COMMITS, AT_ONCE = 2_000, 20_000


def run() -> list[Row]:
    """
    Measure.
    """
    commits = once(_commits, COMMITS)
    if not commits.bytes:
        raise RuntimeError(f"{tempfile.gettempdir()} is on no disk: set TMPDIR to a folder on one")
    with running() as server, ThreadPoolExecutor() as pool:
        alone = [
            _row("SQLite commit per event, WAL, NORMAL", commits),
            _row(f"agent, {AT_ONCE:,} at once", once(_at_once, server.url, AT_ONCE)),
        ]
        paced = {
            "agent, 1,000 events/s": (1_000.0, SECONDS, FREE),
            "agent, 100 events/s": (100.0, SECONDS, FREE),
            "agent, 1 event/s": (1.0, SLOW_SECONDS, {}),
            "agent, 1 event a minute": (1 / 60, SLOW_SECONDS, {}),
            "agent, nothing recorded": (0.0, SLOW_SECONDS, {}),
        }
        runs = {name: pool.submit(once, _paced, server.url, *how) for name, how in paced.items()}
        return alone + [_row(name, found.result()) for name, found in runs.items()]


@attrs.frozen
class Written:
    """
    What a process has had written.

    Attributes:
        events: For so many events,
        seconds: in so long.
        bytes: That the kernel was to write.
        spared: Of those it had not written yet when the file was removed.
    """

    events: int
    seconds: float
    bytes: int
    spared: int


def _row(name: str, found: Written) -> Row:
    events = found.events or None
    return {
        "what": name,
        "events": found.events,
        "seconds": found.seconds,
        "bytes/event": events and found.bytes / events,
        "of these spared": events and found.spared / events,
        "MB/day": found.bytes / found.seconds * 86_400 / 1e6 if found.seconds > 1 else None,
    }


def _measured(work: Callable[[], int]) -> Callable[[], Written]:
    def function() -> Written:
        before, began = _counters(), time.monotonic()
        events = work()
        after, ended = _counters(), time.monotonic()
        grown = {name: after[name] - before[name] for name in after}
        return Written(events, ended - began, grown["write_bytes"], grown["cancelled_write_bytes"])

    return function


def _counters() -> dict[str, int]:
    """Of this process, with all its threads."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return {name: int(number) for name, number in (line.split(": ") for line in lines)}


# What runs in other processes


def _commits(count: int) -> Callable[[], Written]:
    records = data.wire_records(data.properties(count))

    def work() -> int:
        path = Path(tempfile.mkdtemp()) / "commits.db"
        with closing(yardsticks.database(path)) as connection:
            for record in records:
                yardsticks.commit(connection, record)
            connection.execute("DELETE FROM event")
        return count

    return _measured(work)


def _agent(endpoint: str, **options: Any) -> heap_agent.Agent:
    agent = heap_agent.Agent("11", directory=tempfile.mkdtemp(), endpoint=endpoint, **options)
    agent.track(data.EVENT)
    assert agent.flush(timeout=60)
    return agent


def _at_once(endpoint: str, count: int) -> Callable[[], Written]:
    agent = _agent(endpoint, **FREE)
    events = data.properties(count)

    def work() -> int:
        for event in events:
            agent.track(data.EVENT, event)
        assert agent.flush(timeout=60)
        return count

    return _measured(work)


def _paced(
    endpoint: str, rate: float, seconds: float, options: dict[str, Any]
) -> Callable[[], Written]:
    agent = _agent(endpoint, **options)
    events = data.properties(round(rate * seconds))

    def work() -> int:
        began = time.monotonic()
        for number, event in enumerate(events):
            # In the middle of its turn: the first and the last are whole.
            time.sleep(max(0.0, began + (number + 0.5) / rate - time.monotonic()))
            agent.track(data.EVENT, event)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        if rate > 1:
            assert agent.flush(timeout=60)
        return len(events)

    return _measured(work)

"""
What one `track` costs its caller, beside the least that any program would pay
to have the same bytes survive its death, and beside a commit per event.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import heap_agent
from benchmarks import data
from benchmarks.tables import Row
from benchmarks.timing import Block, Candidate, interleave
from heap_agent._core.encoder import NAME as ENCODER

#: Encodes a whole record. The floor is that of the machine: orjson where it is.
dumps: Callable[[Any], bytes]
if ENCODER == "orjson":
    import orjson

    dumps = orjson.dumps
else:
    import json

    def dumps(record: Any) -> bytes:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


TITLE = "hot path: one event with 8 properties"

CALLS, ROUNDS, WARM_UP = 250, 80, 8

FLOOR = "encode + write"
FLOOR_MORE = "encode + write, 12 properties"


def run() -> list[Row]:
    """
    Measure.
    """
    events = data.properties(CALLS)
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heap-agent-bench-")))
        endpoint = stack.enter_context(_nobody_there())
        agent = heap_agent.init("11", directory=base / "plain", endpoint=endpoint, at_exit=False)
        stack.callback(agent.shutdown, 0)
        known = heap_agent.Agent("11", directory=base / "known", endpoint=endpoint, at_exit=False)
        stack.callback(known.shutdown, 0)
        known.add_event_properties(data.EVENT_PROPERTIES)
        known.identify(data.IDENTITY)
        plain = data.wire_records(events)
        more = data.wire_records(events, ambient=data.EVENT_PROPERTIES, identity=data.IDENTITY)
        fds = [stack.enter_context(_append_only(base / name)) for name in ("floor", "more")]
        connection = stack.enter_context(_database(base / "commits.db"))
        return interleave(
            [
                Candidate(FLOOR, _writes(fds[0], plain), FLOOR),
                Candidate("Agent.track", _calls(agent.track, events), FLOOR),
                Candidate("heap_agent.track", _calls(heap_agent.track, events), FLOOR),
                Candidate(FLOOR_MORE, _writes(fds[1], more), FLOOR_MORE),
                Candidate(
                    "Agent.track, +4 properties, known", _calls(known.track, events), FLOOR_MORE
                ),
                Candidate("SQLite commit, WAL, NORMAL", _commits(connection, plain), FLOOR),
            ],
            rounds=ROUNDS,
            warm_up=WARM_UP,
        )


# The clock is read in the loops themselves: a wrapper would cost the floor more,
# in proportion, than what is measured against it.


def _writes(fd: int, records: Sequence[dict[str, Any]]) -> Block:
    def block(write: Callable[[int, bytes], int] = os.write) -> list[int]:
        times = []
        for record in records:
            began = perf_counter_ns()
            write(fd, dumps(record))
            times.append(perf_counter_ns() - began)
        return times

    return block


def _calls(track: Callable[..., None], events: Sequence[dict[str, Any]]) -> Block:
    def block(name: str = data.EVENT) -> list[int]:
        times = []
        for event in events:
            began = perf_counter_ns()
            track(name, event)
            times.append(perf_counter_ns() - began)
        return times

    return block


def _commits(connection: sqlite3.Connection, records: Sequence[dict[str, Any]]) -> Block:
    def block() -> list[int]:
        times = []
        for record in records:
            began = perf_counter_ns()
            connection.execute("INSERT INTO event (body) VALUES (?)", (dumps(record),))
            times.append(perf_counter_ns() - began)
        return times

    return block


@contextmanager
def _append_only(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    # Without a transaction of ours, every statement commits.
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        yield connection
    finally:
        connection.close()


@contextmanager
def _nobody_there() -> Iterator[str]:
    """
    A port of this machine that refuses connections, and stays ours.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"

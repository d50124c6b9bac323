"""
What it costs to put a request of 1,000 events together from the queue's rows, beside
what it would cost to decode the events and to encode the request anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from benchmarks import data
from benchmarks.tables import Row
from benchmarks.timing import Block, Candidate, interleave
from heap_agent._core.encoder import dumps, loads
from heap_agent._core.events import Kind
from heap_agent._core.records import FROZEN
from heap_agent._core.wire import join_batch
from heap_agent._store import rows
from heap_agent._store.database import Database
from heap_agent._store.event_queue import EventQueue
from heap_agent._store.rows import Entry

TITLE = "join: one request of 1,000 events with 8 properties"

EVENTS, ROUNDS, WARM_UP = 1_000, 150, 5
APP_ID = "11"

FLOOR = "decode and encode"


def run() -> list[Row]:
    """
    Measure.
    """
    with (
        tempfile.TemporaryDirectory(prefix="heap-agent-bench-") as directory,
        closing(Database(Path(directory) / "queue.db")) as database,
    ):
        _fill(EventQueue(database))
        stored = database.query(f"SELECT {rows.COLUMNS} FROM entry ORDER BY id")
    bodies = [row[-1] for row in stored]

    def again() -> bytes:
        return dumps({"app_id": APP_ID, "events": [loads(body) for body in bodies]})

    def join() -> bytes:
        return join_batch(Kind.EVENT, APP_ID, bodies)

    def check_and_join() -> bytes:
        damaged: list[int] = []
        found = rows.checked(stored, damaged)
        return join_batch(Kind.EVENT, APP_ID, (one.entry.body for one in found))

    assert join() == check_and_join() and loads(join()) == loads(again())
    table = interleave(
        [
            Candidate(FLOOR, _timed(again), FLOOR),
            Candidate("checksums and join", _timed(check_and_join), FLOOR),
            Candidate("join", _timed(join), FLOOR),
        ],
        rounds=ROUNDS,
        warm_up=WARM_UP,
    )
    return [_cheaper(row) for row in table]


def _fill(queue: EventQueue) -> None:
    records = data.wire_records(data.properties(EVENTS))
    queue.insert(
        [
            Entry(Kind.EVENT, FROZEN, 1, number, number, APP_ID, record["user_id"], dumps(record))
            for number, record in enumerate(records)
        ]
    )


def _timed(function: Callable[[], Any]) -> Block:
    def block() -> list[int]:
        began = perf_counter_ns()
        function()
        return [perf_counter_ns() - began]

    return block


def _cheaper(row: Row) -> Row:
    median, ratio = row["median µs"], row["× floor"]
    assert isinstance(median, float) and isinstance(ratio, float)
    return {
        "what": row["what"],
        "median µs": median,
        "p90 µs": row["p90 µs"],
        "p99 µs": row["p99 µs"],
        "µs/event": median / EVENTS,
        "× cheaper": 1 / ratio,
        "requests": row["calls"],
    }

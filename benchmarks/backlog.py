"""
What an event costs the store while more and more wait: recorded, absorbed, looked
at to be sent, deleted because it was sent, and dropped to make room.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter_ns

import attrs

from benchmarks import data
from benchmarks.tables import Row
from heap_agent._core.encoder import dumps
from heap_agent._core.events import Actor, Kind
from heap_agent._core.records import FROZEN
from heap_agent._core.wire import Ambient, Wire, actor_line
from heap_agent._store.event_queue import RECORDED, EventQueue
from heap_agent._store.rows import Entry
from heap_agent._store.store import Store
from heap_agent._store.system import Clock

TITLE = "backlog: the cost of one event while others wait, medians"

#: The largest backlog: the rows of a table are the powers of ten up to it.
LARGEST = int(os.environ.get("HEAP_AGENT_BENCHMARK_ROWS", "1000000"))
SMALLEST = 1_000

ROUNDS, WARM_UP = 20, 3
#: In a round so many are sent, and about so many dropped; as many are recorded.
SENT, DROPPED = 1_000, 1_024

ACTOR = Actor("11", "8123456789012345")


def run() -> list[Row]:
    """
    Measure.
    """
    chance = random.Random(data.SEED)
    sizes = [SMALLEST]
    while sizes[-1] < LARGEST:
        sizes.append(sizes[-1] * 10)
    with ExitStack() as stack:
        backlogs = [_Backlog(size, stack.enter_context(_store(size))) for size in sizes]
        for number in range(WARM_UP + ROUNDS):
            for one in chance.sample(backlogs, len(backlogs)):
                one.turn(counts=number >= WARM_UP)
    table = [{"rows": one.size, **one.medians()} for one in backlogs]
    worst = {
        name: max(row[name] / table[0][name] for row in table)
        for name in table[0]
        if name != "rows"
    }
    return [{**row, "rows": f"{row['rows']:,}"} for row in table] + [
        {"rows": f"dearest ÷ at {SMALLEST:,}", **worst}
    ]


@attrs.define
class _Backlog:
    """A store in which about as many rows wait, and what was measured there, in ns."""

    size: int
    store: Store
    missing: int = SENT + DROPPED
    times: dict[str, list[float]] = attrs.field(factory=dict)

    def turn(self, *, counts: bool) -> None:
        ledger = self.store.ledger
        assert ledger is not None
        queue = ledger.queue

        def drop() -> int:
            dropped = queue.drop_oldest(_BYTES).rows
            self.missing = SENT + dropped
            return dropped

        taken = {
            "put µs": _recorded(self.store, self.missing),
            "absorb µs/event": _each(lambda: self.store.absorb(freeze=True).records),
            "peek µs/event": _each(lambda: len(queue.front())),
            "ack µs/event": _each(_sending(queue)),
            "drop µs/event": _each(drop),
        }
        if counts:
            for name, time in taken.items():
                self.times.setdefault(name, []).append(time)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(times) / 1_000 for name, times in self.times.items()}


def _each(work: Callable[[], int]) -> float:
    """Ns for each of as many as are done."""
    began = perf_counter_ns()
    done = work()
    return (perf_counter_ns() - began) / done


def _sending(queue: EventQueue) -> Callable[[], int]:
    ids = [row.id for row in queue.front()[:SENT]]
    return lambda: queue.ack(ids)


_LINES = Ambient.of({}, actor_line(ACTOR, "77"))
_EVENTS = data.properties(SENT)
_BODIES = [Wire().body(data.EVENT, properties, _LINES) or b"" for properties in _EVENTS]
_RECORDS = [dumps(record) for record in data.wire_records(_EVENTS)]
_BYTES = DROPPED * sum(map(len, _RECORDS)) // len(_RECORDS)


def _recorded(store: Store, count: int) -> float:
    """The median of single calls, in ns."""
    put, clock = store.journal.put, store.clock
    times = []
    for body in islice(cycle(_BODIES), count):
        wall, boot = clock.wall_ns(), clock.boot_ns()
        began = perf_counter_ns()
        put(Kind.EVENT, 0, wall, boot, body)
        times.append(perf_counter_ns() - began)
    return statistics.median(times)


@contextmanager
def _store(rows: int) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="heap-agent-bench-") as directory:
        store = Store(Path(directory), Clock(), max_bytes=1 << 40)
        store.open()
        try:
            assert store.ledger is not None
            _fill(store.ledger.queue, rows)
            yield store
        finally:
            store.close()


def _fill(queue: EventQueue, rows: int) -> None:
    entries = [
        Entry(Kind.EVENT, FROZEN, 1, number, number, ACTOR.app_id, ACTOR.name, record)
        for number, record in enumerate(_RECORDS)
    ]
    for _ in range(rows // len(entries)):
        with queue.database.transact():
            queue.insert(entries)
            queue.add({RECORDED: len(entries)})

"""
What an event costs the store while more and more wait: recorded, absorbed, looked
at to be sent, deleted because it was sent, and dropped to make room.
A state directory in which events wait, as a device has it after weeks offline.

They take the way of every event, journal and absorber, but for the session: each
is recorded for one user at one moment. It must not know what is measured with them.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter_ns

import attrs

from benchmarks import data
from benchmarks.tables import Row
from heap_agent._core.encoder import dumps
from benchmarks.apart import once
from heap_agent._core import wire
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
#: Room for more than any benchmark records; an agent on the directory needs it too.
MAX_BYTES = 1 << 36

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
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from heap_agent._core import wire
from heap_agent._store import system
MILLION = 1_000_000
#: Room for more than any benchmark records; an agent on the directory needs it too.
MAX_BYTES = 1 << 36
#: Records between two turns of the absorber.
_BATCH = 20_000
def backlog(count: int = MILLION) -> Iterator[Path]:
def backlog(count: int) -> Iterator[Path]:
    """
    A directory with so many queued events; about 20 s for a million.
    with tempfile.TemporaryDirectory(prefix="heap-agent-bench-") as base:
        directory = Path(base) / "state"
        # Elsewhere, so that it leaves nothing in the memory of who measures.
        once(partial, fill, directory, count)
        yield directory
def fill(directory: Path, count: int) -> None:
    Record and absorb.
    Args:
        directory: Not there yet.
        count: How many events.
    store = Store(system.make_private_directory(directory), system.Clock(), max_bytes=MAX_BYTES)
    store.open()
    encode = wire.Wire().body
    ambient = wire.Ambient.of({}, wire.actor_line(Actor("11", str(data.SEED)), "77"))
    bodies = [encode(data.EVENT, event, ambient) for event in data.properties(1_000)]
    wall_ns, boot_ns = store.now()
    for number in range(count):
        body = bodies[number % len(bodies)]
        assert body is not None
        store.journal.put(int(Kind.EVENT), 0, wall_ns * 1_000, boot_ns * 1_000, body)
        if number % _BATCH == _BATCH - 1:
            store.absorb(freeze=False)
    store.absorb(freeze=False)
    store.close()
if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))

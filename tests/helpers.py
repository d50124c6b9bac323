"""
What several tests need: the books' equation, waiting for a condition, and a
store that is driven by hand.
"""

from __future__ import annotations

import gc
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from heap_agent import Agent
from heap_agent._core import wire
from heap_agent._core.events import Actor, Kind
from heap_agent._store import outlook
from heap_agent._store.event_queue import DELIVERED, DROPPED, RECORDED
from heap_agent._store.journal import Journal, Seams
from heap_agent._store.store import Store
from heap_agent._store.system import Clock, ClockLike
from heap_agent.testing import FakeClock

MAX_BYTES: Final = 64 * 2**20

ANN: Final = Actor("11", "1")
ANN_NAMED: Final = Actor("11", "1", "ann")


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def bytecodes(work: Callable[[], object]) -> int:
    """How many of them a call takes in this thread, whatever they call included."""
    count = 0

    def watch(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return watch

    sys.settrace(watch)
    work()
    sys.settrace(None)
    return count


def equation(books: outlook.Books) -> tuple[int, int]:
    """Both sides of: recorded = queued + delivered + dead + dropped."""
    dropped = sum(number for name, number in books.counts.items() if name.startswith(DROPPED))
    kept = books.queued + books.counts[DELIVERED] + books.dead + dropped
    return books.counts[RECORDED], kept


def balanced(what: Agent | Store) -> None:
    """The store is sound, and the equation holds."""
    assert (found := what.check()) == [], found
    if isinstance(what, Agent):
        assert what.status().balanced
    else:
        recorded, kept = equation(what.books())
        assert recorded == kept


def put_event(
    journal: Journal,
    clock: ClockLike,
    name: str = "E",
    *,
    actor: Actor = ANN,
    flags: int = 0,
    **properties: Any,
) -> bool:
    """Record an event as an agent does."""
    ambient = wire.Ambient.of({}, wire.actor_line(actor, "7"))
    body = wire.Wire().body(name, properties, ambient)
    assert body is not None
    return journal.put(Kind.EVENT, flags, clock.wall_ns(), clock.boot_ns(), body)


def track(store: Store, name: str = "E", *, actor: Actor = ANN, **properties: Any) -> bool:
    """Record an event in a store."""
    return put_event(store.journal, store.clock, name, actor=actor, **properties)


def tracked(store: Store) -> list[Any]:
    """The numbers (property ``n``) of the queue's events, in order of their ids."""
    return [
        json.loads(stored.entry.body)["properties"].get("n")
        for ledger in store.queues()
        for stored in ledger.queue.load([one.id for one in ledger.queue.peek(limit=1 << 30)])
        if stored.entry.kind is Kind.EVENT
    ]


def bodies(store: Store, kind: Kind) -> list[dict[str, Any]]:
    """What the rows of one kind would send."""
    return [
        json.loads(stored.entry.body)
        for ledger in store.queues()
        for stored in ledger.queue.load([one.id for one in ledger.queue.peek(limit=1 << 30)])
        if stored.entry.kind is kind
    ]


def deliver(store: Store, kinds: Mapping[Kind, bool] | None = None) -> int:
    """Acknowledge everything that is in the queue; how many events that were."""
    return sum(
        ledger.queue.ack([one.id for one in ledger.queue.peek(limit=1 << 30)])
        for ledger in store.queues()
    )


@contextmanager
def opened(
    directory: Path | None,
    clock: ClockLike | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    seams: Seams | None = None,
) -> Iterator[Store]:
    """An open store without a keeper, closed at the end."""
    store = Store(directory, clock or FakeClock(), max_bytes=max_bytes, seams=seams or Seams())
    store.open()
    try:
        yield store
    finally:
        store.close()


def heir(directory: Path, endpoint: str, clock: FakeClock | None = None) -> Agent:
    """An agent for what another one has left: it delivers when it is told to, and all at once."""
    return Agent(
        "11",
        directory=directory,
        endpoint=endpoint,
        interval=3600,
        identity_budget=None,
        app_budget=None,
        clock=clock,
    )


class Interrupted(Exception):
    """What a signal handler raises."""


def interrupted(run: Callable[[], object], moment: int) -> bool:
    """
    Run something that a signal handler interrupts at its n-th moment: where a function
    begins, or one of Python's own has ended. Whether there was such a moment.
    """
    left = moment

    def interrupt(frame: FrameType, event: str, what: object) -> None:
        nonlocal left
        # A generator that is gone on with would end here, whatever it has to clear up,
        # while the exception of a signal handler comes up inside of it.
        generator = frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == "c_return" or (event == "call" and not generator):
            left -= 1
            if not left:
                sys.setprofile(None)
                raise Interrupted

    # What the collector calls of other tests' objects could be interrupted, too, and passes
    # no exception on.
    gc.disable()
    sys.setprofile(interrupt)
    try:
        run()
    except Interrupted:
        pass
    finally:
        sys.setprofile(None)
        gc.enable()
    return left <= 0


def real_clock() -> Clock:
    """The system's clocks."""
    return Clock()


def fill(path: Path) -> None:
    """Take every block that a disk has left."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass

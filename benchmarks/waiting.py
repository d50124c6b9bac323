"""
A state directory in which events wait, as a device has it after weeks offline.

They take the way of every event, journal and absorber, but for the session: each
is recorded for one user at one moment. It must not know what is measured with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.apart import once
from heap_agent._core import wire
from heap_agent._core.events import Actor, Kind
from heap_agent._store import system
from heap_agent._store.store import Store

#: Room for more than any benchmark records; an agent on the directory needs it too.
MAX_BYTES = 1 << 36

#: Records between two turns of the absorber.
_BATCH = 20_000


@contextmanager
def backlog(count: int) -> Iterator[Path]:
    """
    A directory with so many queued events; about 20 s for a million.
    """
    with tempfile.TemporaryDirectory(prefix="heap-agent-bench-") as base:
        directory = Path(base) / "state"
        # Elsewhere, so that it leaves nothing in the memory of who measures.
        once(partial, fill, directory, count)
        yield directory


def fill(directory: Path, count: int) -> None:
    """
    Record and absorb.

    Args:
        directory: Not there yet.
        count: How many events.
    """
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

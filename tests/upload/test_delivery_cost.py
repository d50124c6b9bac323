"""
What delivery costs, in counts that are the same on every machine: statements, commits,
and how often a row is read. Times are the benchmarks' business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from helpers import track
from line import Line

from heap_agent._core.delivery import Delivery, Policy
from heap_agent._core.events import Kind
from heap_agent._core.records import FROZEN
from heap_agent._store.event_queue import RECORDED
from heap_agent._store.rows import Entry
from heap_agent._store.store import Store
from heap_agent._store.system import Clock
from heap_agent._upload.drain import Drain

BATCH = 1_000

#: Statements for one batch that are no row of it: positions, books, what must survive.
MOST_STATEMENTS = 40


@attrs.define
class Device:
    """A store with its sender, and the statements that its database was given."""

    store: Store
    line: Line = attrs.field(factory=Line)
    said: list[str] = attrs.field(factory=list)
    drain: Drain = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.drain = Drain(
            self.store,
            Delivery(Policy(identity_budget=None, app_budget=None)),
            lambda: self.line,
            allowed=lambda: True,
            state_changed=lambda: True,
        )

    def deliver(self) -> None:
        """Send everything, and listen to what SQLite is told meanwhile."""
        assert self.store.ledger is not None
        with self.store.ledger.database.held():
            connection = self.store.ledger.database._opened
        assert connection is not None
        connection.set_trace_callback(self.said.append)
        assert self.drain.flush(timeout=60)
        connection.set_trace_callback(None)

    def saying(self, *words: str) -> list[str]:
        """The statements that contain all of these."""
        return [one for one in self.said if all(word in one for word in words)]


@pytest.fixture(name="device")
def _device(tmp_path: Path) -> Iterator[Device]:
    store = Store(tmp_path, Clock(), max_bytes=1 << 28)
    store.open()
    with closing(store):
        device = Device(store)
        track(store)
        assert device.drain.flush(timeout=60)
        device.line.bodies.clear()
        yield device
        assert store.check() == []


@pytest.mark.parametrize("batches", [1, 4])
def test_a_batch_is_two_commits(device: Device, batches: int) -> None:
    """One takes it in, with its final time; the other deletes it."""
    for number in range(batches * BATCH):
        track(device.store, n=number)
    device.deliver()

    assert len(device.line.bodies) == batches
    changing = [one for one in device.said if one.startswith(("INSERT", "UPDATE", "DELETE"))]
    assert len(device.saying("INSERT INTO entry")) == batches * BATCH
    assert len(device.saying("DELETE FROM entry")) == batches
    assert not device.saying("UPDATE entry")
    # The last look finds nothing: its transaction changes nothing, and syncs nothing.
    assert len([one for one in device.said if one == "COMMIT"]) <= 2 * batches + 1
    assert len(changing) - batches * BATCH <= 12 * batches
    assert len(device.said) - batches * BATCH <= MOST_STATEMENTS * batches


def test_what_was_just_written_is_not_read_back(device: Device) -> None:
    """No statement asks for a body."""
    for number in range(3 * BATCH):
        track(device.store, n=number)
    device.deliver()

    sent = [one["properties"]["n"] for body in device.line.bodies for one in _events(body)]
    assert sent == list(range(3 * BATCH))
    assert not device.saying("SELECT", "body")


def test_a_row_of_a_backlog_is_read_once(device: Device) -> None:
    """However many requests its look is good for."""
    for number in range(5 * BATCH):
        track(device.store, n=number)
    device.store.absorb(freeze=True)
    # As after a restart: nothing is at hand.
    device.store.disown()
    assert device.store.try_to_own()
    device.deliver()

    assert len(device.line.bodies) == 5
    assert len(device.saying("SELECT", "body", "FROM entry")) == 3


def test_nobody_looks_into_a_stored_body(device: Device) -> None:
    """Bytes that are no JSON at all leave as they are, and so do all others."""
    assert device.store.ledger is not None
    queue = device.store.ledger.queue
    written = [b"{\xff\xfe no JSON %d" % number for number in range(BATCH)]
    with queue.database.transact():
        queue.insert([Entry(Kind.EVENT, FROZEN, 1, 5, 1_000, "11", "1", body) for body in written])
        queue.add({RECORDED: len(written)})
    device.deliver()

    (body,) = device.line.bodies
    assert body == b'{"app_id":"11","events":[' + b",".join(written) + b"]}"


def test_a_pass_ends_though_recording_goes_on(device: Device) -> None:
    """What is recorded while it sends goes with the next one, and not in a request for each."""
    device.line.when_connected = lambda: track(device.store)
    for number in range(BATCH + 1):
        track(device.store, n=number)
    device.drain.tick()

    assert len(device.line.bodies) == 2
    # The second request took along what came during the first.
    assert device.store.books().queued == 1


def test_an_idle_look_changes_nothing(device: Device) -> None:
    """A pass over an empty queue writes nothing, so that nothing is synced."""
    device.deliver()

    assert not [one for one in device.said if one.startswith(("INSERT", "UPDATE", "DELETE"))]


def _events(body: bytes) -> list[dict[str, dict[str, int]]]:
    found: list[dict[str, dict[str, int]]] = json.loads(body)["events"]
    return found

"""
What a program has told of its life (programs/workload.py), and what must be true of the
directory that it has left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import balanced, heir, opened

from heap_agent._core.events import Kind
from heap_agent._core.state import is_identity
from heap_agent._store.event_queue import RECORDED
from heap_agent._store.store import Store
from heap_agent.testing import Collector, FakeClock


class Story:
    """
    What a program has said so far.

    Attributes:
        sent: Events that its server has seen, by their keys.
        arrived: Numbers of those that it has accepted, or is about to: they need not be on
            the disk any more.
        tracked: Numbers of events whose call has returned.
        synced: Those of them that were synced.
        user: `user_id` and identity that were synced; None where that is not known.
    """

    def __init__(self, marks: Iterable[Mapping[str, Any]]) -> None:
        self.sent: dict[str, Any] = {}
        self.arrived: set[int] = set()
        self.tracked: set[int] = set()
        self.synced: set[int] = set()
        self.user: list[str | None] | None = None
        for mark in marks:
            if "tracked" in mark:
                self.tracked.add(mark["tracked"])
            if "synced" in mark:
                self.synced = set(self.tracked)
            self.user = None if "changing" in mark else mark.get("user", self.user)
            for event in mark.get("sent", ()):
                known = self.sent.setdefault(event["idempotency_key"], event)
                assert known == event, "one key was sent with two bodies"
                if mark["accepted"]:
                    self.arrived.add(event["properties"]["n"])
        numbers = {event["properties"]["n"] for event in self.sent.values()}
        assert len(numbers) == len(self.sent), "one event was sent under two keys"
        _apart(self.sent)


def read(marks: Path) -> list[dict[str, Any]]:
    """What a file of marks says; a kill may have cut off the last line."""
    if not marks.exists():
        return []
    whole, _, _ = marks.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines() if line.endswith(b"}")]


@contextmanager
def left(directory: Path, clock: FakeClock) -> Iterator[tuple[Store, dict[str, Mapping[str, Any]]]]:
    """
    What a process has left, opened by another one and absorbed: the store, and the events
    that wait or were refused for good, by their keys.
    """
    with opened(directory, clock) as store:
        assert store.ledger is not None, store.trouble
        while store.absorb(freeze=False).more:
            pass
        store.mend(0.0)
        waiting = _events(store)
        balanced(store)
        assert len(_numbers(waiting)) == len(waiting), "one call has two keys"
        yield store, waiting


def expect(directory: Path, story: Story, kept: set[int], clock: FakeClock) -> int:
    """
    A process opens what another one has left.

    Args:
        directory: Where.
        story: What that one has told.
        kept: Numbers of the events that must be there, or have been sent.
        clock: Of this process.

    Returns:
        How many torn records it has counted, now and before.
    """
    with left(directory, clock) as (store, waiting):
        missing = kept - _numbers(waiting) - story.arrived
        assert not missing, f"events are gone: {sorted(missing)}"
        assert all(story.sent.get(key, event) == event for key, event in waiting.items()), (
            "one key stands for two events"
        )
        assert story.user in (None, _user(store)), "the user that was synced is gone"
        return store.books().counts["dropped.damaged"]


def expect_delivered(directory: Path, story: Story) -> None:
    """
    An agent opens what another one has left, records an event and delivers everything.

    Args:
        directory: Where.
        story: What the other has told.
    """
    clock = FakeClock(time.time())
    clock.reboot()
    with (
        Collector() as collector,
        heir(directory, collector.url, clock) as agent,
    ):
        agent.track("Recorded", {"n": -1})
        assert agent.flush(30), agent.status()
        balanced(agent)
        arrived = [
            event
            for request in collector.requests
            if request.method == "POST"
            for event in json.loads(request.body).get("events", ())
        ]
        assert collector.conflicts == [] == collector.duplicates
        numbers = {event["properties"]["n"] for event in arrived}
        missing = story.synced - story.arrived - numbers
        assert not missing, f"events are gone: {sorted(missing)}"
        assert -1 in numbers
        for event in arrived:
            sent = story.sent.get(event["idempotency_key"], event)
            assert sent == event, "one key was sent with two bodies"


def expect_dropped(directory: Path, story: Story, lives: int, clock: FakeClock) -> int:
    """
    A process opens a full directory that others have left, which have delivered nothing.

    Args:
        directory: Where.
        story: What they have told.
        lives: How many there were: each may have recorded one event without telling.
        clock: Of this process.

    Returns:
        How many events were dropped.
    """
    with left(directory, clock) as (store, waiting):
        counts = store.books().counts
        dropped = counts["dropped.full"]
        gone = len(story.tracked - _numbers(waiting))
        assert gone <= dropped <= gone + lives, f"{gone} are gone, {dropped} were counted"
        assert len(story.tracked) <= counts[RECORDED] <= len(story.tracked) + lives
        assert counts[RECORDED] == len(waiting) + dropped, "lost for another reason"
        return dropped


def _numbers(events: Mapping[str, Mapping[str, Any]]) -> set[int]:
    return {event["properties"]["n"] for event in events.values()}


def _events(store: Store) -> dict[str, Mapping[str, Any]]:
    """What waits or was refused for good, by its key."""
    found: dict[str, Mapping[str, Any]] = {}
    (ledger,) = store.queues()
    everything = ledger.queue.peek(limit=1 << 30, max_bytes=1 << 30)
    rows = ledger.queue.load([one.id for one in everything])
    kept = [row.entry.body for row in rows if row.entry.kind is Kind.EVENT]
    # Those that were called too large when they were alone.
    dead = ledger.queue.dead_letters()
    kept += [letter.body for letter in dead if letter.kind is Kind.EVENT]
    for body in map(json.loads, kept):
        assert found.setdefault(body["idempotency_key"], body) is body, "a key stands twice"
    _apart(found)
    return found


def _apart(keys: Collection[str]) -> None:
    """No number of a journal is given out twice, at whatever moment."""
    places = {key.rpartition("-")[0] for key in keys}
    assert len(places) == len(keys), "a number of a journal stands for two events"


def _user(store: Store) -> list[str | None] | None:
    """Who is in force."""
    for name, facet in store.read_state().facets.items():
        if is_identity(name) and isinstance(facet.value, dict):
            return [facet.value["user_id"], facet.value["identity"]]
    assert store.directory is not None
    # Nobody has changed who the first one was.
    published = [path.read_text("ascii") for path in store.directory.glob("user-*-*")]
    return [published[0], None] if published else None

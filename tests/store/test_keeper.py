"""
The keeper's loop: what must happen by itself, on a thread that outlives every trouble.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from helpers import MAX_BYTES, balanced, eventually, track, tracked

from heap_agent._core.bounds import PART
from heap_agent._core.state import PAUSED
from heap_agent._store.absorb import Absorbed, Request
from heap_agent._store.keeper import Duties, Keeper
from heap_agent._store.outlook import read_state
from heap_agent._store.room import Measured
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock


@attrs.define
class Kept:
    """
    A store with a keeper, and what the keeper has told.
    """

    store: Store
    keeper: Keeper
    told: list[str]
    looked: list[Measured]
    requests: list[Request]


@pytest.fixture(name="start")
def _start(state_dir: Path, clock: FakeClock) -> Iterator[Callable[..., Kept]]:
    begun: list[Kept] = []

    def start(
        *,
        sync_interval: float = 3_600.0,
        may_own: bool = True,
        max_bytes: int = MAX_BYTES,
        running: bool = True,
        unreadable: int = 0,
    ) -> Kept:
        told: list[str] = []
        looked: list[Measured] = []
        requests: list[Request] = []
        wake: list[Keeper] = []
        store = Store(
            state_dir,
            clock,
            max_bytes=max_bytes,
            attend=lambda: wake[0].attend() if wake else None,
        )

        def absorb() -> Absorbed:
            told.append("absorb")
            return store.absorb(freeze=False)

        def state_changed() -> bool:
            told.append("state changed")
            return told.count("state changed") > unreadable

        duties = Duties(
            state_changed=state_changed,
            look=looked.append,
            requested=requests.extend,
            absorb=absorb,
            clock_jumped=lambda: told.append("clock jumped"),
            state_removed=lambda: told.append("state removed"),
            signalled=lambda: told.append("signalled"),
        )
        keeper = Keeper(store, duties, sync_interval=sync_interval, may_own=may_own)
        wake.append(keeper)
        if may_own:
            store.open()
        else:
            store.journal.retry()
        if running:
            keeper.start()
        begun.append(Kept(store, keeper, told, looked, requests))
        return begun[-1]

    yield start
    for kept in begun:
        assert kept.keeper.stop(30.0)
        kept.store.close()


def test_records_are_synced_after_the_interval(start: Callable[..., Kept]) -> None:
    """A power cut takes at most what the interval allows."""
    kept = start(sync_interval=0.05)
    track(kept.store)

    eventually(lambda: not kept.store.journal.unsynced)


def test_what_must_not_wait_is_synced_at_once(start: Callable[..., Kept]) -> None:
    """A change of identity or consent does not wait for the interval."""
    kept = start()
    kept.store.record_state({PAUSED: True})
    kept.keeper.sync_soon()

    eventually(lambda: not kept.store.journal.unsynced)


def test_removed_files_are_replaced(start: Callable[..., Kept], state_dir: Path) -> None:
    """The queue that was removed is counted as lost, and recording goes on in a new one."""
    kept = start()
    track(kept.store, n=1)
    kept.store.record_state({PAUSED: True})
    eventually(lambda: tracked(kept.store) == [1])
    for path in state_dir.iterdir():
        path.unlink()

    eventually(lambda: "state removed" in kept.told)
    track(kept.store, n=2)
    kept.store.flush_counts()
    kept.store.absorb(freeze=False)

    assert kept.told.count("state removed") == 1
    assert tracked(kept.store) == [2]
    books = kept.store.books()
    assert (books.counts["recorded"], books.counts["dropped.damaged"]) == (2, 1)
    assert read_state(state_dir, kept.store.clock.boot_id).facets == {}
    balanced(kept.store)


def test_state_is_absorbed_soon(start: Callable[..., Kept]) -> None:
    """A ring of the bell is heard within a look or two."""
    kept = start()
    track(kept.store, n=1)
    kept.store.record_state({PAUSED: True})

    eventually(lambda: tracked(kept.store) == [1])
    balanced(kept.store)


def test_a_full_part_is_sealed_and_absorbed(start: Callable[..., Kept]) -> None:
    """At 256 KB the journal moves into the queue, without anybody asking, if nobody delivers."""
    kept = start()
    kept.store.delivers = False
    number = 0
    while kept.store.journal.size < PART:
        track(kept.store, n=number, text="x" * 500)
        number += 1

    eventually(lambda: tracked(kept.store) == list(range(number)))
    eventually(lambda: not kept.store.journal.full)
    balanced(kept.store)


def test_what_will_be_fetched_soon_is_left_in_the_journal(start: Callable[..., Kept]) -> None:
    """While deliveries succeed a full part is sealed, no more; only what is far too much moves."""
    kept = start()
    text = "x" * 1_000
    while kept.store.journal.written < 2 * PART:
        track(kept.store, text=text)
    looks = len(kept.looked)
    eventually(lambda: len(kept.looked) > looks + 1 and not kept.store.journal.full)
    assert "absorb" not in kept.told

    while kept.store.journal.written < kept.store.bounds.passing + PART:
        track(kept.store, text=text)

    eventually(lambda: "absorb" in kept.told)
    balanced(kept.store)


def test_whoever_delivers_looks_with_each_look(start: Callable[..., Kept]) -> None:
    """And can tell by the size of the directory whether anything was recorded since."""
    kept = start()
    eventually(lambda: len(kept.looked) > 1)
    quiet = kept.looked[-1]
    eventually(lambda: kept.looked[-2:] == [quiet, quiet])
    track(kept.store)

    eventually(lambda: kept.looked[-1].written > quiet.written)


def test_who_may_not_own_does_not(start: Callable[..., Kept]) -> None:
    """A process that must not deliver leaves the directory to others."""
    kept = start(may_own=False)
    track(kept.store)
    kept.keeper.sync_soon()
    eventually(lambda: not kept.store.journal.unsynced)

    assert kept.store.ledger is None and kept.told == kept.looked == []


def test_another_process_takes_over(start: Callable[..., Kept]) -> None:
    """When the owner goes, a guest's keeper becomes the owner by itself."""
    owner = start()
    eventually(lambda: owner.looked)
    guest = start()
    track(guest.store, n=1)
    assert guest.store.ledger is None
    owner.keeper.stop(30.0)
    owner.store.close()

    eventually(lambda: guest.looked)
    guest.store.record_state({PAUSED: True})
    eventually(lambda: tracked(guest.store) == [1])
    balanced(guest.store)


def test_others_changes_are_heard(start: Callable[..., Kept]) -> None:
    """Each process takes notice of what another one said, owner or not."""
    owner, guest = start(), start()
    eventually(lambda: owner.looked)
    guest.told.clear()
    owner.told.clear()
    owner.store.record_state({PAUSED: True})
    eventually(lambda: "state changed" in guest.told)
    guest.store.record_state({PAUSED: False})
    eventually(lambda: "state changed" in owner.told)


def test_a_change_that_cannot_be_read_is_asked_for_again(start: Callable[..., Kept]) -> None:
    """The bell rings once; a disk that is busy at that moment must not make anybody deaf."""
    owner, guest = start(), start(unreadable=2)
    owner.store.record_state({PAUSED: True})

    eventually(lambda: guest.told.count("state changed") == 3)


def test_what_could_not_be_absorbed_is_tried_again(start: Callable[..., Kept]) -> None:
    """Nobody rings twice for one record."""
    kept = start()
    eventually(lambda: kept.looked)
    assert kept.store.ledger is not None
    path = kept.store.ledger.database.path
    assert path is not None
    # Another connection that writes is what a refusing disk looks like from here.
    with closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        track(kept.store, n=1)
        kept.told.clear()
        kept.store.record_state({PAUSED: True})
        eventually(lambda: "absorb" in kept.told and kept.store.trouble is not None)

    eventually(lambda: tracked(kept.store) == [1])
    balanced(kept.store)


def test_requests_of_guests_reach_the_sender(start: Callable[..., Kept]) -> None:
    """Also where the directory is crowded at that moment."""
    owner = start(max_bytes=4 * 2**20)
    for number in range(10_000):
        track(owner.store, n=number, text="x" * 200)
    guest = start(running=False)
    assert guest.store.ask("flush", {}, 0.0) is None

    eventually(lambda: [request.what for request in owner.requests] == ["flush"])
    eventually(lambda: owner.store.books().counts["dropped.full"] > 0)
    balanced(owner.store)


def test_counts_are_written_by_themselves(start: Callable[..., Kept]) -> None:
    """Refused calls survive a kill after a few seconds."""
    kept = start(running=False)
    kept.store.journal.count("refused")
    kept.keeper.start()

    eventually(lambda: not kept.store.journal.pending_counts())
    assert kept.store.books().counts["refused"] == 1


def test_a_set_clock_is_noticed(start: Callable[..., Kept], clock: FakeClock) -> None:
    """A step of the wall clock is remembered and announced."""
    kept = start()
    eventually(lambda: kept.looked)
    clock.step(3_600)

    eventually(lambda: "clock jumped" in kept.told)
    assert kept.store.ledger is not None
    assert len(kept.store.ledger.timeline.knowledge.steps) == 1


def test_trouble_does_not_end_the_keeper(
    start: Callable[..., Kept], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a look meets, it is said once and the next look follows."""
    kept = start(running=False)
    listen = kept.store.listen
    broken = threading.Event()
    tries: list[int] = []

    def refuse() -> tuple[bool, bool]:
        tries.append(1)
        if not broken.is_set():
            raise RuntimeError("a strange disk")
        return listen()

    kept.store.listen = refuse  # type: ignore[method-assign]
    kept.keeper.start()
    kept.keeper.attend()
    eventually(lambda: len(tries) > 2)
    broken.set()
    track(kept.store, n=1)
    kept.store.record_state({PAUSED: True})

    eventually(lambda: tracked(kept.store) == [1])
    assert [record.message for record in caplog.records].count(
        "the keeper met RuntimeError: a strange disk and goes on"
    ) == 1


def test_the_farewell_is_said_on_the_thread(start: Callable[..., Kept]) -> None:
    """The last delivery runs on the keeper's thread, and its trouble is only logged."""
    kept = start()
    names: list[str] = []

    def farewell() -> None:
        names.append(threading.current_thread().name)
        raise RuntimeError("too late")

    assert kept.keeper.stop(30.0, farewell)
    assert names == ["heap-agent-keeper"]
    assert kept.keeper.stop(0.0) and "not running" in repr(kept.keeper)


def test_a_busy_keeper_is_not_waited_for(start: Callable[..., Kept]) -> None:
    """Shutting down ends within its timeout, whatever the keeper is doing."""
    kept = start(running=False)
    busy, free = threading.Event(), threading.Event()

    def farewell() -> None:
        busy.set()
        free.wait(30)

    kept.keeper.start()
    kept.keeper.start()
    assert not kept.keeper.stop(0.05, farewell)
    eventually(busy.is_set)
    free.set()
    eventually(lambda: "not running" in repr(kept.keeper))

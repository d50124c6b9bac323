"""
The state directory as a whole: bounds, trouble, memory, the bell, and books that balance
in every snapshot.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType

import pytest
from helpers import (
    ANN,
    ANN_NAMED,
    MAX_BYTES,
    balanced,
    bodies,
    deliver,
    equation,
    eventually,
    opened,
    real_clock,
    track,
    tracked,
)

from heap_agent._core.encoder import dumps
from heap_agent._core.events import Actor, Kind
from heap_agent._core.state import CONSENT, PAUSED, State, identity_facet
from heap_agent._store import outlook
from heap_agent._store.database import DatabaseTrouble, Trouble
from heap_agent._store.journal import Seams
from heap_agent._store.ledger import Ledger
from heap_agent._store.store import MEMORY_PATIENCE, Store
from heap_agent.testing import FakeClock


class Disk:
    """A disk that can refuse."""

    def __init__(self) -> None:
        self.full = False

    @property
    def seams(self) -> Seams:
        """For a store."""
        return Seams(write=self.write)

    def write(self, fd: int, data: bytes) -> int:
        """As os.write."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)


@pytest.fixture(name="disk")
def _disk() -> Disk:
    return Disk()


@pytest.fixture(name="store")
def _store(state_dir: Path, clock: FakeClock, disk: Disk) -> Iterator[Store]:
    with opened(state_dir, clock, seams=disk.seams) as store:
        yield store
        store.absorb(freeze=False)
        balanced(store)


def identity(user_id: str, name: str | None = None) -> dict[str, object]:
    """A facet that says who is there."""
    return {identity_facet("11", "m"): {"user_id": user_id, "identity": name}}


# -- state --------------------------------------------------------------------------


def test_state_is_there_before_anybody_absorbs_it(store: Store, state_dir: Path) -> None:
    """A log-out followed by a kill is still a log-out."""
    store.record_state(identity("1", "ann"))
    store.absorb(freeze=False)
    store.record_state(identity("2"))

    assert store.read_state().user("11", "m") == ("2", None)
    assert outlook.read_state(state_dir, store.clock.boot_id).user("11", "m") == ("2", None)


def test_state_in_memory_counts_too(store: Store, disk: Disk) -> None:
    """What the disk refused is still what was said last."""
    store.record_state(identity("1"))
    disk.full = True
    store.record_state(identity("2"))
    assert store.read_state().user("11", "m") == ("2", None)

    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    assert store.memory is not None
    assert store.read_state().user("11", "m") == ("2", None)

    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)
    assert store.memory is None
    assert store.read_state().user("11", "m") == ("2", None)


# -- the bell -----------------------------------------------------------------------


def test_the_bell_tells_own_rings_from_others(state_dir: Path, clock: FakeClock) -> None:
    """Both ring between two looks: each hears that the other did."""
    with opened(state_dir, clock) as one, opened(state_dir, clock) as two:
        one.listen()
        two.listen()
        assert one.listen() == (False, False)

        one.ring()
        assert (one.listen(), two.listen()) == ((True, False), (True, True))

        two.ring()
        one.ring()
        assert (one.listen(), two.listen()) == ((True, True), (True, True))
        one.ring()
        two.ring()
        assert (one.listen(), two.listen()) == ((True, True), (True, True))


def test_the_bell_does_not_grow_for_ever(state_dir: Path, clock: FakeClock) -> None:
    """After thousands of rings the file begins anew, which everybody hears."""
    with opened(state_dir, clock) as one, opened(state_dir, clock) as two:
        (state_dir / "bell").write_bytes(b"." * 70_000)
        one.listen()
        two.listen()
        one.ring()

        assert (state_dir / "bell").stat().st_size < 10
        assert two.listen() == (True, True)


def test_without_a_directory_there_is_no_bell() -> None:
    """Nobody to ring for."""
    with opened(None) as store:
        store.ring()
        assert store.listen() == (False, False)


# -- asking the owner ---------------------------------------------------------------


def test_a_guest_asks_and_the_owner_answers(state_dir: Path) -> None:
    """A request travels through the journal, its answer through the database."""
    clock = real_clock()
    with opened(state_dir, clock) as owner, opened(state_dir, clock) as guest:
        found: list[object] = []
        asking = threading.Thread(
            target=lambda: found.append(guest.ask("flush", {"seconds": 1}, 30.0))
        )
        asking.start()
        requests: list[object] = []
        while not requests:
            done = owner.absorb(freeze=False)
            requests += done.requests
            for request in done.requests:
                assert (request.what, request.arguments) == ("flush", {"seconds": 1})
                owner.answer(request, {"empty": True})
        asking.join()

        assert found == [{"empty": True}]
        assert guest.ask("flush", {}, 0.0) is None
        balanced(owner)


def test_answers_are_bounded(store: Store) -> None:
    """Years of questions leave only the last answers."""
    from heap_agent._store.absorb import Request

    for number in range(130):
        store.answer(Request(f"{number}", "flush", {}), {})

    assert store.ledger is not None
    rows = store.ledger.database.query("SELECT count(*) FROM memo WHERE name LIKE 'answer:%'")
    assert rows == [(100,)]


# -- bounds -------------------------------------------------------------------------


def test_the_directory_stays_within_its_bounds(state_dir: Path, clock: FakeClock) -> None:
    """However much is recorded offline, the oldest events make room, in chunks, counted."""
    limit = 4 * 2**20
    with opened(state_dir, clock, max_bytes=limit) as store:
        for number in range(30_000):
            track(store, n=number, text="x" * 200)
            if number % 1_000 == 999:
                if store.journal.full:
                    store.journal.rotate()
                if store.has_much(store.room.measure()) or number % 3_000 == 2_999:
                    store.absorb(freeze=False)
                store.keep_within_bounds()
                assert outlook.sizes(state_dir).total <= limit
        store.absorb(freeze=False)

        kept = tracked(store)
        dropped = store.books().counts["dropped.full"]
        assert dropped > 10_000
        assert kept == list(range(dropped, 30_000))
        balanced(store)


def test_a_guest_alone_stops_at_the_hard_cap(state_dir: Path, clock: FakeClock) -> None:
    """Where nobody absorbs, events are refused and counted, also over a restart; state is not."""
    limit = 4 * 2**20
    with opened(state_dir, clock) as owner:
        owner.journal.close()
        with opened(state_dir, clock, max_bytes=limit) as guest:
            assert guest.ledger is None
            refused = 0
            for number in range(16_000):
                refused += not track(guest, n=number, text="x" * 300)
                if guest.journal.full:
                    guest.journal.rotate()
                    guest.keep_within_bounds()
            guest.record_state({PAUSED: True})
            guest.flush_counts()

            assert refused > 1_000
            assert outlook.sizes(state_dir).total <= limit
            books = guest.books()
            assert (books.counts["dropped.full"], books.counts["recorded"]) == (refused, 16_000)
            assert guest.read_state().flag(PAUSED)
        owner.absorb(freeze=False)
        assert owner.books().counts["dropped.full"] == refused
        balanced(owner)


def test_guests_that_have_not_looked_stop_in_time(state_dir: Path, clock: FakeClock) -> None:
    """What each may record until its next look counts for all of them together."""
    limit = 4 * 2**20
    with opened(state_dir, clock) as owner, ExitStack() as stack:
        owner.journal.close()
        guests = [stack.enter_context(opened(state_dir, clock, max_bytes=limit)) for _ in range(4)]
        for guest in guests:
            track(guest, n=0)
            guest.keep_within_bounds()
        first, *others = guests
        while track(first, n=1, text="x" * 300):
            if first.journal.full:
                first.journal.rotate()
            if first.journal.refusing:
                first.keep_within_bounds()
        for guest in others:
            while track(guest, n=2, text="x" * 300):
                pass

        assert limit // 2 < outlook.sizes(state_dir).total <= limit
        for guest in guests:
            guest.flush_counts()
        owner.absorb(freeze=False)
        balanced(owner)


def test_dead_letters_take_a_tenth_at_most(state_dir: Path, clock: FakeClock) -> None:
    """Also in a directory that is far from full."""
    limit = 4 * 2**20
    with opened(state_dir, clock, max_bytes=limit) as store:
        for number in range(2_500):
            track(store, n=number, text="x" * 300)
        store.absorb(freeze=False)
        assert store.ledger is not None
        queue = store.ledger.queue
        queue.bury([one.id for one in queue.peek(limit=1 << 20)], status=400, reason="", now=1)
        store.keep_within_bounds()

        assert 0 < queue.dead_bytes() <= limit // 10
        assert not queue.dead_has_grown
        balanced(store)


def test_counters_survive_a_restart(state_dir: Path, clock: FakeClock) -> None:
    """Refused and repaired values are shown for ever, not for a run."""
    for _ in range(3):
        with opened(state_dir, clock) as store:
            store.journal.count("refused")
            store.journal.count("repaired.cut", 2)
            store.flush_counts()
    with opened(state_dir, clock) as store:
        counts = store.books().counts

    assert (counts["refused"], counts["repaired.cut"]) == (3, 6)


# -- memory -------------------------------------------------------------------------


def test_without_a_directory_everything_is_sent_from_memory() -> None:
    """No disk at all: records become rows in memory at the next look."""
    with opened(None) as store:
        track(store, n=1)
        assert (store.storage, store.books().queued) == ("memory", 1)
        store.mend(0.0)

        assert tracked(store) == [1]
        assert deliver(store) == 1
        assert store.books().counts["delivered"] == 1
        balanced(store)


def test_a_disk_that_refuses_from_the_start(state_dir: Path, clock: FakeClock, disk: Disk) -> None:
    """Events wait, are sent from memory after a while, and go to disk when it is there."""
    disk.full = True
    with opened(state_dir, clock, seams=disk.seams) as store:
        for number in range(5):
            track(store, n=number)
        store.mend(0.0)
        assert store.memory is None and store.books().queued == 5
        store.mend(MEMORY_PATIENCE)
        assert store.memory is not None and store.memory.queue.count() == 5
        assert store.memory.queue.ack([one.id for one in store.memory.queue.peek(limit=2)]) == 2
        balanced(store)

        disk.full = False
        store.mend(MEMORY_PATIENCE + 1)
        store.absorb(freeze=False)

        assert (store.storage, store.memory, tracked(store)) == ("disk", None, [2, 3, 4])
        books = store.books()
        assert (books.counts["recorded"], books.counts["delivered"], books.queued) == (5, 2, 3)
        balanced(store)


def test_memory_goes_on_while_the_disk_refuses(store: Store, disk: Disk) -> None:
    """The disk is not trusted again because nothing is waiting any more."""
    disk.full = True
    for second in range(30):
        track(store, n=second)
        store.mend(float(second))
        assert store.storage == "memory"
        assert (store.memory is not None) == (second >= MEMORY_PATIENCE)
        balanced(store)

    assert store.memory is not None and store.memory.queue.count() == 30
    disk.full = False
    store.mend(31.0)
    store.absorb(freeze=False)
    assert tracked(store) == list(range(30))


def test_keys_of_events_in_memory_do_not_change(store: Store, disk: Disk) -> None:
    """An event that was sent from memory and not acknowledged keeps its key on the disk."""
    disk.full = True
    track(store, n=1)
    track(store, n=2)
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    before = [(body["idempotency_key"], body["timestamp"]) for body in bodies(store, Kind.EVENT)]
    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)
    store.absorb(freeze=False)

    after = [(body["idempotency_key"], body["timestamp"]) for body in bodies(store, Kind.EVENT)]
    assert before == after and len(set(before)) == 2


def test_rows_in_flight_wait_for_their_answer(store: Store, disk: Disk) -> None:
    """What is being sent from memory is not recorded a second time under its feet."""
    disk.full = True
    track(store, n=1)
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    assert store.memory is not None
    queue = store.memory.queue
    queue.set_in_flight([one.id for one in queue.peek()])
    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)
    assert store.memory is not None
    balanced(store)

    queue.ack(queue.in_flight)
    queue.set_in_flight([])
    store.mend(MEMORY_PATIENCE + 2)
    store.absorb(freeze=False)

    assert store.memory is None and tracked(store) == []
    assert store.books().counts["delivered"] == 1


def test_dead_letters_of_memory_get_another_chance(store: Store, disk: Disk) -> None:
    """They are queued again on the disk, and the books follow."""
    disk.full = True
    track(store, n=1)
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    assert store.memory is not None
    queue = store.memory.queue
    queue.bury([one.id for one in queue.peek()], status=400, reason="", now=1)
    balanced(store)
    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)
    store.absorb(freeze=False)

    assert tracked(store) == [1]


@pytest.mark.parametrize("delivered", [True, False])
def test_a_user_that_identified_in_memory_is_joined(
    delivered: bool, store: Store, disk: Disk
) -> None:
    """The join is not lost with the memory, nor made for a user that had nothing."""
    disk.full = True
    track(store, actor=ANN, n=1)
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    if delivered:
        deliver(store)
    store.record_state(identity("1", "ann"), identify=ANN_NAMED)
    store.record_state(identity("2", "bob"), identify=Actor("11", "2", "bob"))
    store.record_user_properties(ANN_NAMED, dumps({"plan": "pro"}))
    store.mend(MEMORY_PATIENCE + 1)
    assert len(bodies(store, Kind.IDENTIFY)) == 1
    disk.full = False
    store.mend(MEMORY_PATIENCE + 2)
    store.absorb(freeze=False)
    store.absorb(freeze=False)

    assert [body["identity"] for body in bodies(store, Kind.IDENTIFY)] == ["ann"]
    assert bodies(store, Kind.USER_PROPERTIES) == [
        {"identity": "ann", "properties": {"plan": "pro"}}
    ]
    assert tracked(store) == ([] if delivered else [1])


def test_a_join_that_was_delivered_from_memory_is_not_made_again(store: Store, disk: Disk) -> None:
    """Once per pair, over both queues."""
    disk.full = True
    track(store, actor=ANN, n=1)
    store.record_state(identity("1", "ann"), identify=ANN_NAMED)
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    assert len(bodies(store, Kind.IDENTIFY)) == 1
    deliver(store)
    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)
    track(store, actor=ANN, n=2)
    store.absorb(freeze=False)

    assert bodies(store, Kind.IDENTIFY) == []


def test_held_properties_survive_the_memory(store: Store, disk: Disk) -> None:
    """An anonymous user's properties go with an identify that comes after the disk is back."""
    disk.full = True
    store.record_user_properties(ANN, dumps({"plan": "pro"}))
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)
    store.record_state(identity("1", "ann"), identify=ANN_NAMED)
    store.absorb(freeze=False)

    assert [body["properties"] for body in bodies(store, Kind.USER_PROPERTIES)] == [{"plan": "pro"}]


def test_an_opt_out_in_memory_purges_the_disk(store: Store, disk: Disk, clock: FakeClock) -> None:
    """Consent that was withdrawn while the disk refused is heard when it is back."""
    track(store, n=1)
    store.absorb(freeze=False)
    clock.advance(1)
    disk.full = True
    store.record_state({CONSENT: False}, purge=True)
    store.mend(0.0)
    store.mend(MEMORY_PATIENCE)
    assert not store.read_state().consent.given
    disk.full = False
    store.mend(MEMORY_PATIENCE + 1)

    assert store.absorb(freeze=False).purged
    assert tracked(store) == []
    assert not store.read_state().consent.given


def test_memory_is_bounded(store: Store, disk: Disk) -> None:
    """Weeks without a disk: the oldest events in memory go, counted."""
    disk.full = True
    store.mend(0.0)
    for second in range(12):
        for _ in range(10):
            track(store, **{f"key {part}": "x" * 1_000 for part in range(100)})
        store.mend(MEMORY_PATIENCE + second)

    assert store.memory is not None
    assert sum(one.size for one in store.memory.queue.peek(limit=1 << 20, max_bytes=1 << 30)) < 5e6
    books = store.books()
    assert books.counts["recorded"] == 120 and 35 < books.queued < 45
    disk.full = False
    store.mend(100.0)


def test_closing_brings_memory_to_the_disk(state_dir: Path, clock: FakeClock, disk: Disk) -> None:
    """A program that ends after the disk came back loses nothing of what was in memory."""
    with opened(state_dir, clock, seams=disk.seams) as store:
        disk.full = True
        track(store, n=1)
        store.mend(0.0)
        store.mend(MEMORY_PATIENCE)
        track(store, n=2)
        disk.full = False
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)

        assert sorted(tracked(store)) == [1, 2]
        balanced(store)


def test_a_closed_store_owns_nothing_any_more(state_dir: Path, clock: FakeClock) -> None:
    """Whoever was held up, and comes after the end, does not take the directory again."""
    store = Store(state_dir, clock, max_bytes=MAX_BYTES)
    store.open()
    store.close()

    assert not store.try_to_own()
    store.mend(0.0)
    with opened(state_dir, clock) as another:
        assert another.ledger is not None


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_disk_that_returns_when_the_queue_is_closed(
    state_dir: Path, clock: FakeClock, disk: Disk, in_memory: bool
) -> None:
    """What could not be written is counted by the very last call that the disk takes."""

    def write(fd: int, data: bytes) -> int:
        if disk.full and store.ledger is None:
            disk.full = False
        return disk.write(fd, data)

    with opened(state_dir, clock, seams=Seams(write=write)) as store:
        track(store, n=1)
        disk.full = True
        track(store, n=2)
        if in_memory:
            store.mend(0.0)
            store.mend(MEMORY_PATIENCE)
            track(store, n=3)
    assert not disk.full
    with opened(state_dir, clock) as again:
        again.absorb(freeze=False)
        balanced(again)
        assert tracked(again) == [1]
        assert again.books().counts["recorded"] == 2 + in_memory
        assert again.books().counts["dropped.unwritten"] == 1 + in_memory


# -- trouble ------------------------------------------------------------------------


def test_a_full_database_gives_the_reserve_up(
    store: Store, state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, recording waits in memory, and with room everything goes on."""
    track(store, n=1)
    store.keep_within_bounds()
    assert (state_dir / "reserve").exists()

    for _ in range(3):
        store.trouble_while_delivering(DatabaseTrouble(Trouble.FULL, "disk is full"))
    assert not (state_dir / "reserve").exists()
    assert len(caplog.records) == 1
    track(store, n=2)
    assert store.storage == "memory"
    balanced(store)

    store.mend(0.0)

    assert (store.storage, (state_dir / "reserve").exists()) == ("disk", True)
    store.absorb(freeze=False)
    assert tracked(store) == [1, 2]


def test_other_trouble_keeps_the_reserve(store: Store, state_dir: Path) -> None:
    """A dying card is no full disk: nothing is given up, renamed or removed."""
    track(store, n=1)
    store.keep_within_bounds()
    before = {path.name for path in state_dir.iterdir()}

    store.trouble_while_delivering(DatabaseTrouble(Trouble.CORRUPT, "malformed"))

    assert {path.name for path in state_dir.iterdir()} == before
    assert store.storage == "disk" and store.trouble == "malformed"


def test_somebody_empties_the_directory(store: Store, state_dir: Path) -> None:
    """Recording goes on in a new journal; nothing raises."""
    track(store, n=1)
    for path in state_dir.glob(f"{store.journal.id}*"):
        path.unlink()
    assert store.replace_removed(lambda: None)
    track(store, n=2)
    store.absorb(freeze=False)

    assert tracked(store) == [2]


def waits(run: Callable[[], object]) -> int:
    """How often this thread sleeps in a call."""
    slept = 0

    def watch(_: FrameType, event: str, what: object) -> None:
        nonlocal slept
        slept += event == "c_call" and what is time.sleep

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return slept


def test_books_are_not_waited_for_where_the_disk_refuses(
    state_dir: Path, clock: FakeClock, disk: Disk
) -> None:
    """Whoever asks how things stand is told as fast as ever, by what can be read."""
    with opened(state_dir, clock, seams=disk.seams) as store:
        track(store, n=1)
        assert waits(store.books) == 0
        unreadable = state_dir / "queue-2.db"
        unreadable.mkdir()
        # Nobody knows of it yet: it could be somebody who is just closing it.
        assert 0 < waits(store.books) < 5
        disk.full = True
        track(store, n=2)
        assert waits(store.books) == 0
        assert store.books().queued == 2
        balanced(store)
        disk.full = False
        store.mend(0.0)
        unreadable.rmdir()
        assert waits(store.books) == 0
        balanced(store)


# -- races --------------------------------------------------------------------------


def test_the_books_balance_in_every_snapshot(state_dir: Path, disk: Disk) -> None:
    """
    While threads record, absorb, deliver, rotate and lose and regain the disk, whoever asks
    sees an equation that holds and a count that never goes back.
    """
    clock = real_clock()
    with (
        opened(state_dir, clock, seams=disk.seams) as store,
        opened(state_dir, clock) as guest,
    ):
        done = threading.Event()
        failures: list[object] = []
        asked = [0, 0]

        def guarded(work: object) -> threading.Thread:
            def run() -> None:
                try:
                    work()  # type: ignore[operator]
                except BaseException as error:  # noqa: BLE001 - shown by the test
                    failures.append(error)
                    done.set()

            return threading.Thread(target=run)

        def record(which: Store) -> None:
            for number in range(3_000):
                track(which, n=number)
                if number % 500 == 0:
                    which.journal.rotate()

        def absorb() -> None:
            while not done.is_set():
                store.absorb(freeze=False)
                deliver(store)

        def trouble() -> None:
            second = 0.0
            while not done.is_set():
                disk.full = not disk.full
                second += MEMORY_PATIENCE
                store.mend(second)
                store.keep_within_bounds()
            disk.full = False

        def ask(which: Store, index: int) -> None:
            while not done.is_set():
                recorded, kept = equation(which.books())
                assert recorded == kept
                asked[index] += 1

        recorders = [guarded(lambda: record(store)), guarded(lambda: record(guest))]
        others = [
            guarded(absorb),
            guarded(trouble),
            guarded(lambda: ask(store, 0)),
            guarded(lambda: ask(guest, 1)),
        ]
        for thread in [*others, *recorders]:
            thread.start()
        for thread in recorders:
            thread.join()
        eventually(lambda: done.is_set() or min(asked) > 3)
        done.set()
        for thread in others:
            thread.join()

        assert failures == []
        second = 1e6
        while store.storage == "memory" or store.memory is not None:
            second += 1
            store.mend(second)
        store.absorb(freeze=False)
        deliver(store)
        books = store.books()
        assert (books.counts["recorded"], books.counts["delivered"]) == (6_000, 6_000)
        balanced(store)


def test_a_guest_never_sees_records_go_missing(state_dir: Path) -> None:
    """Between journal and database an event is in one of them, for whoever looks."""
    clock = real_clock()
    with opened(state_dir, clock) as owner, opened(state_dir, clock) as guest:
        done = threading.Event()
        seen = [0]

        def watch() -> None:
            while not done.is_set():
                seen.append(guest.books().counts["recorded"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        for number in range(150):
            for _ in range(10):
                track(owner, n=number)
            owner.journal.rotate()
            owner.absorb(freeze=False)
        done.set()
        watcher.join()

        assert seen == sorted(seen)
        assert guest.books().counts["recorded"] == 1_500
        balanced(guest)


def test_a_large_queue_opens_fast(state_dir: Path, clock: FakeClock) -> None:
    """Opening and recording do not read the queue: the work is the same at any size."""
    with opened(state_dir, clock) as store:
        for number in range(20_000):
            track(store, n=number)
        store.absorb(freeze=False)
        assert store.ledger is not None
        columns = "kind, flags, boot, boot_clock, wall, app_id, actor, crc, body"
        store.ledger.database.query("SELECT 1")
        with store.ledger.database.transact() as execute:
            for copy in range(1, 10):
                execute(
                    f"INSERT INTO entry SELECT id + {copy * 20_000}, {columns} FROM entry "
                    "WHERE id <= 20000"
                )

    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    store = Store(state_dir, clock, max_bytes=1 << 30)
    store.open()
    assert store.ledger is not None
    store.ledger.database._connection().set_progress_handler(count, 1_000)
    store.read_state()
    track(store)
    store.absorb(freeze=False)
    store.keep_within_bounds()
    store.ledger.database._connection().set_progress_handler(None, 0)
    assert steps < 200
    began = time.monotonic()
    assert store.books().rows == 200_001
    assert time.monotonic() - began < 30
    store.close()


def test_repr_says_who_and_where(store: Store) -> None:
    """Shown in the agent's own."""
    assert "owner, disk" in repr(store)


# -- flipped bytes ------------------------------------------------------------------


def damage(directory: Path, statement: str) -> None:
    """Change something behind SQLite's checks; there are none for a row."""
    with closing(sqlite3.connect(directory / "queue-1.db")) as connection, connection:
        assert connection.execute(statement).rowcount


@pytest.mark.parametrize(
    "value", ["'{~'", "'[1]'", """'{"truths": 5}'""", """'{"tick": [1]}'""", "x'ff'"]
)
def test_a_damaged_memo_is_no_memo(state_dir: Path, clock: FakeClock, value: str) -> None:
    """What was known of the clocks is learnt anew; everything else is there."""
    with opened(state_dir, clock) as store:
        track(store, n=1)
        store.absorb(freeze=False)
    damage(state_dir, f"UPDATE memo SET value = {value} WHERE name = 'timeline'")

    with opened(state_dir, clock) as store:
        assert store.ledger is not None and store.trouble is None
        assert tracked(store) == [1]
        balanced(store)


@pytest.mark.parametrize(
    "change", ["value = '{~'", "value = x'ff'", "boot = 'x'", "writer = x'00'", "clock = x'00'"]
)
def test_a_damaged_facet_is_left_out(
    state_dir: Path, clock: FakeClock, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the owner, who counts it and says so once, and by everybody else; the others stay."""
    with opened(state_dir, clock) as store:
        store.record_state({"bad": True, "good": True})
        store.absorb(freeze=False)
    damage(state_dir, f"UPDATE facet SET {change} WHERE name = 'bad'")

    assert list(outlook.read_state(state_dir, clock.boot_id).facets) == ["good"]
    for _ in range(2):
        with opened(state_dir, clock) as store:
            assert list(store.read_state().facets) == ["good"]
            assert store.books().counts["unreadable"] == 1
            balanced(store)
    assert len(caplog.records) == 1


def test_a_damaged_word_about_consent_gives_none(state_dir: Path, clock: FakeClock) -> None:
    """Somebody who opted out is not recorded because a byte has flipped."""
    with opened(state_dir, clock) as store:
        store.record_state({CONSENT: False})
        store.absorb(freeze=False)
    damage(state_dir, "UPDATE facet SET value = 'fal~e' WHERE name LIKE 'consent:%'")

    with opened(state_dir, clock) as store:
        assert not store.read_state().consent.given


def test_whatever_keeps_it_from_owning_keeps_no_lock(
    state_dir: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what nobody has thought of: another process, or the next look, may be luckier."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "open", lambda *_, **__: {}["fault"])
        with opened(state_dir, clock) as store:
            assert store.ledger is None
            assert store.trouble == "KeyError: 'fault'"
            assert store.owner_is_gone()
    with opened(state_dir, clock) as store:
        assert store.ledger is not None


def test_of_two_calls_the_later_stands_though_the_clock_stood_still(store: Store) -> None:
    """A coarse clock gives both one time; here as on the disk the second is in force."""
    said = State()
    for value in ("1", "2"):
        assert said.apply_all({"k": value}, store.record_state({"k": value})) == ["k"]

    assert said.facets["k"].value == store.read_state().facets["k"].value == "2"


def test_user_properties_are_refused_at_the_hard_cap(store: Store, state_dir: Path) -> None:
    """They are counted, which takes no room either; identity and consent are recorded."""
    store.journal.allow(0)
    written = store.journal.written
    for _ in range(1_000):
        store.record_user_properties(ANN, b'{"plan":"free"}')
        store.flush_counts()

    assert store.journal.written == written
    assert store.books().counts["refused_user_properties"] == 1_000
    store.record_state({CONSENT: False})
    assert not store.read_state().consent.given
    store.close()
    assert outlook.read_books(state_dir, store.clock.boot_id).counts["refused_user_properties"]
    store.open()


def test_an_hour_is_remembered(state_dir: Path, clock: FakeClock) -> None:
    """What was recorded in each minute, whatever becomes of the journal."""
    with opened(state_dir, clock) as store:
        store.note_hour()
        for _ in range(3):
            track(store)
        store.record_state({"paused": True})
        store.note_hour()
        clock.advance(60)
        track(store)
        store.note_hour()
        store.note_hour()
        minutes = store.hour.back(clock.boot_ns() / 1e9)
        assert [minute.recorded for minute in minutes[:3]] == [1, 3, 0]
        balanced(store)

"""
The sender's loop with a real store and a sender that answers as it is told.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from helpers import balanced
from line import ACCEPTED, Line

from heap_agent._core import wire
from heap_agent._core.delivery import Delivery, Policy
from heap_agent._core.events import Actor, Kind
from heap_agent._core.outcomes import Answer, Outcome, unreachable
from heap_agent._core.state import PAUSED
from heap_agent._store import dead, outlook
from heap_agent._store.absorb import Request
from heap_agent._store.journal import Seams
from heap_agent._store.store import Store
from heap_agent._store.system import Clock
from heap_agent._upload.drain import Drain
from heap_agent.testing import FakeClock


@attrs.define
class Setting:
    """
    A store, its drain and the line.
    """

    store: Store
    line: Line
    drain: Drain
    allowed: bool = True
    readable: bool = True

    def record(self, *names: str) -> None:
        """Record events as `track` does."""
        clock = self.store.clock
        actor = Actor("11", "42")
        ambient = wire.Ambient.of({}, wire.actor_line(actor, "7"))
        for name in names:
            body = wire.Wire().body(name, None, ambient)
            assert body is not None
            self.store.journal.put(Kind.EVENT, 0, clock.wall_ns(), clock.boot_ns(), body)

    @property
    def answered(self) -> list[object]:
        """Answers to requests."""
        assert self.store.ledger is not None
        return self.store.ledger.database.query("SELECT 1 FROM memo WHERE name LIKE 'answer:%'")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Queued, delivered, dead."""
        books = self.store.books()
        return books.queued, books.counts["delivered"], books.dead


@pytest.fixture(name="make")
def _make(tmp_path: Path) -> Iterator[Callable[..., Setting]]:
    made: list[Setting] = []

    def make(seams: Seams = Seams()) -> Setting:  # noqa: B008 - frozen
        store = Store(tmp_path, Clock(), max_bytes=1 << 26, seams=seams)
        store.open()
        line = Line()
        setting = Setting(store, line, None)  # type: ignore[arg-type]
        setting.drain = Drain(
            store,
            Delivery(Policy(interval=5.0)),
            lambda: line,
            allowed=lambda: setting.allowed,
            state_changed=lambda: setting.readable,
        )
        made.append(setting)
        return setting

    yield make
    for setting in made:
        assert setting.store.check() == []
        setting.store.close()


def test_a_pass_sends_and_deletes(make: Callable[[], Setting]) -> None:
    """What was recorded is probed for, sent in one request, and gone after the answer."""
    here = make()
    here.record("A", "B")

    assert here.drain.tick() == 5.0

    assert here.line.probes == 1
    assert [body.count(b'"event":') for body in here.line.bodies] == [2]
    assert here.counts == (0, 2, 0)


def test_nothing_is_frozen_without_a_network(make: Callable[[], Setting]) -> None:
    """A device that cannot even connect does not seal its wrong times."""
    here = make()
    here.line.reachable = False
    here.record("A")

    wait = here.drain.tick()

    assert 0 < wait < 5.0
    ledger = here.store.ledger
    assert ledger is not None
    (row,) = ledger.queue.load([one.id for one in ledger.queue.peek()])
    assert row.entry.flags == 0
    assert here.line.bodies == []


def test_frozen_rows_keep_their_bytes(make: Callable[[], Setting]) -> None:
    """A retry carries the same bytes, whatever the clocks say meanwhile."""
    here = make()
    here.record("A")
    here.line.answers = [unreachable("reset", began=True)]
    here.drain.tick()
    assert here.store.ledger is not None
    here.store.ledger.timeline.feed_date(4e9, *here.store.now(), 0)

    assert here.drain.flush(10)

    assert len(here.line.bodies) == 2
    assert here.line.bodies[0] == here.line.bodies[1]


def test_an_answer_that_cannot_be_written_is_written_first(
    make: Callable[[], Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the deletion of accepted rows is not committed, nothing else leaves."""
    here = make()
    here.record("A")
    assert here.store.ledger is not None
    database = here.store.ledger.database

    def lock_out() -> Outcome:
        # Another connection that writes is what a refusing disk looks like from here.
        import sqlite3

        assert database.path is not None
        blocker.append(sqlite3.connect(database.path, isolation_level=None))
        blocker[0].execute("BEGIN IMMEDIATE")
        return ACCEPTED

    blocker: list[object] = []
    here.line.answers = [lock_out]
    here.drain.tick()
    here.record("B")
    here.drain.tick()
    assert len(here.line.bodies) == 1, "B left before the answer for A was written down"

    blocker[0].close()  # type: ignore[attr-defined]

    assert here.drain.flush(10)
    assert [b'"event":"B"' in body for body in here.line.bodies] == [False, True]
    assert here.counts == (0, 2, 0)


def test_without_permission_nothing_leaves(make: Callable[[], Setting]) -> None:
    """Consent and pauses are asked for before each request."""
    here = make()
    here.record("A")
    here.allowed = False

    assert here.drain.flush(None) is False
    assert (here.line.probes, here.line.bodies) == (0, [])

    here.allowed = True
    assert here.drain.flush(None) is True


def test_nothing_leaves_while_a_change_cannot_be_read(make: Callable[[], Setting]) -> None:
    """It may be an opt-out: nobody is told that it was heard, and nothing is sent."""
    here = make()
    here.record("A")
    here.store.record_state({PAUSED: False})
    assert here.store.ask("heard", {}, 0.0) is None
    here.readable = False

    assert here.drain.tick() < 5.0
    assert here.drain.flush(None) is False
    assert (here.line.probes, here.line.bodies) == (0, [])
    assert here.answered == []

    here.readable = True
    here.drain.tick()
    assert (len(here.line.bodies), len(here.answered)) == (1, 1)


def test_permission_withdrawn_while_it_connects(make: Callable[[], Setting]) -> None:
    """Until the first byte has left, a request can be taken back; that is no failure."""
    here = make()
    here.record("A")

    def withdraw() -> None:
        here.allowed = False
        assert here.drain.barrier()

    here.line.when_connected = withdraw
    assert here.drain.tick() == 5.0
    assert (here.line.bodies, here.counts) == ([], (1, 0, 0))

    here.line.when_connected = lambda: None
    here.allowed = True
    assert here.drain.tick() == 5.0
    assert here.counts == (0, 1, 0)


def test_a_row_that_is_purged_while_it_connects(make: Callable[[], Setting]) -> None:
    """What somebody wants forgotten does not leave in a request that was made before."""
    here = make()
    here.record("A")
    assert here.store.ledger is not None
    here.line.when_connected = here.store.ledger.queue.purge  # type: ignore[assignment]

    assert here.drain.flush(None)

    assert here.line.bodies == []
    assert here.store.books().counts["dropped.purged"] == 1


def test_a_request_that_has_started_can_be_waited_for(make: Callable[[], Setting]) -> None:
    """Whoever has forgotten a user wants to know when nothing of them is on its way."""
    here = make()
    here.record("A")
    begun, ended = threading.Event(), threading.Event()

    def answer() -> Outcome:
        begun.set()
        ended.wait(30)
        return ACCEPTED

    here.line.answers = [answer]
    sender = threading.Thread(target=here.drain.tick)
    sender.start()
    begun.wait(30)
    assert not here.drain.barrier(0.01)

    ended.set()

    assert here.drain.barrier(30)
    sender.join()


def test_what_holds_one_row_back_lets_the_sender_look_again(
    make: Callable[[], Setting],
) -> None:
    """A lane that has to wait an hour must not let all others wait with it."""
    here = make()
    here.record("A")
    here.line.answers = [Outcome(Answer.THROTTLED, 429, retry_after=3_600.0)]
    assert here.drain.tick() == 5.0
    here.store.record_user_properties(Actor("11", "42", "ann"), b'{"plan":"free"}')

    assert here.drain.tick() == 5.0

    assert here.line.paths[-1] == "/api/add_user_properties"
    assert len(here.line.bodies) == 2


def test_a_disk_that_refuses_does_not_hold_up_what_is_in_memory(
    make: Callable[..., Setting], tmp_path: Path
) -> None:
    """Rows on it must stay, because their answer could not be written; others can leave."""
    refuses = False

    def write(fd: int, data: bytes) -> int:
        if refuses:
            raise OSError(errno.EIO, "it refuses")
        return os.write(fd, data)

    here = make(Seams(write=write))
    here.record("A")
    here.store.absorb(freeze=False)
    refuses = True
    here.record("B")
    here.store.mend(0.0, patience=0.0)
    assert here.store.memory is not None
    with sqlite3.connect(tmp_path / "queue-1.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        here.drain.tick()
        other.execute("ROLLBACK")
    other.close()

    assert [b'"event":"B"' in body for body in here.line.bodies] == [True]
    refuses = False
    here.store.mend(0.0)
    assert here.drain.flush(None)
    assert here.counts == (0, 2, 0)


def test_an_answer_for_files_that_are_gone(make: Callable[[], Setting], tmp_path: Path) -> None:
    """Somebody removes the directory while a request is under way: delivery goes on after it."""
    here = make()
    here.record("A")

    def remove() -> Outcome:
        for path in tmp_path.iterdir():
            path.unlink()
        assert here.store.replace_removed(lambda: None)
        return ACCEPTED

    here.line.answers = [remove]
    here.drain.tick()
    here.record("B")

    assert here.drain.flush(None)

    assert b'"event":"B"' in here.line.bodies[-1]
    # What was queued in those files was counted when they were found missing.
    assert here.store.books().counts["dropped.damaged"] == 1


def test_a_flush_in_another_process_allows_an_attempt(make: Callable[[], Setting]) -> None:
    """Somebody is waiting there: our own back-off gives way, but not for every question."""
    here = make()
    here.record("A")
    here.line.reachable = False
    here.drain.tick()
    probes = here.line.probes
    for _ in range(3):
        assert here.store.ask("flush", {}, 0.0) is None
        here.drain.tick()
    assert here.line.probes == probes + 1


def test_permission_withdrawn_during_a_probe(make: Callable[[], Setting]) -> None:
    """A request that was about to follow a probe does not."""
    here = make()
    here.record("A")

    def withdraw() -> None:
        here.allowed = False

    here.line.when_probed = withdraw

    assert here.drain.flush(None) is False
    assert here.line.bodies == []


def test_refused_events_become_dead_letters(make: Callable[[], Setting]) -> None:
    """A single event that is refused is kept with status and reason."""
    here = make()
    here.record("A")
    here.line.answers = [Outcome(Answer.REJECTED, 400, reason="no such thing")]

    here.drain.tick()

    assert here.counts == (0, 0, 1)
    assert here.store.ledger is not None
    (dead,) = here.store.ledger.queue.dead_letters()
    assert (dead.status, dead.reason) == (400, "no such thing")


def test_the_log_does_not_grow_with_each_dead_letter(
    make: Callable[[], Setting], caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that finds much too large is spoken of once in a while."""
    here = make()
    here.record(*"ABCDEFGH")
    too_large = Outcome(Answer.TOO_LARGE, 413)
    here.line.answers = [too_large] * 3 + [too_large, ACCEPTED] * 3

    here.drain.flush(10)

    queued, delivered, dead = here.counts
    assert (queued, delivered + dead) == (0, 8) and dead > 1
    assert len([record for record in caplog.records if "dead letters" in record.message]) == 1


def test_one_pass_at_a_time(make: Callable[[], Setting]) -> None:
    """A flush waits for a pass under way no longer than its timeout."""
    here = make()
    here.record("A")
    entered, leave = threading.Event(), threading.Event()

    def slow() -> Outcome:
        entered.set()
        assert leave.wait(30)
        return ACCEPTED

    here.line.answers = [slow]
    passing = threading.Thread(target=here.drain.tick)
    passing.start()
    assert entered.wait(30)

    assert here.drain.flush(0.05) is False
    assert here.drain.tick() == 5.0

    leave.set()
    passing.join()
    assert here.drain.flush(10) is True
    assert len(here.line.bodies) == 1


def test_back_off_survives_a_restart(make: Callable[[], Setting]) -> None:
    """A new owner goes on waiting where the last one stopped."""
    here = make()
    here.record("A")
    here.line.answers = [Outcome(Answer.THROTTLED, 429, retry_after=600.0)]
    here.drain.tick()
    assert here.drain.next_attempt >= 600.0
    here.store.close()

    there = make()
    there.drain.tick()

    assert 500 < there.drain.next_attempt < 700
    assert there.line.bodies == []


def test_identify_and_user_properties_have_their_own_paths(make: Callable[[], Setting]) -> None:
    """Each kind of row goes to its path, identify alone, one app id per request."""
    here = make()
    here.record("A")
    here.store.record_state({}, identify=Actor("11", "42", "alice"))
    here.store.record_user_properties(Actor("11", "42", "alice"), b'{"plan":"free"}')

    assert here.drain.flush(10)

    assert sorted(here.line.paths) == ["/api/add_user_properties", "/api/track", "/api/v1/identify"]


@pytest.mark.parametrize("step", [-86_400, 86_400])
def test_a_clock_that_was_just_set_is_noticed_before_rows_are_frozen(
    tmp_path: Path, step: float
) -> None:
    """Between two looks of the keeper, a step does not move the right time to a wrong one."""
    clock = FakeClock(2_000_000_000)
    store = Store(tmp_path, clock, max_bytes=1 << 26)
    store.open()
    assert store.ledger is not None
    store.ledger.timeline.tick(*store.now())
    wall, boot_clock = store.now()
    store.ledger.timeline.feed_date(wall / 1e6, wall, boot_clock, 0)
    line = Line()
    drain = Drain(
        store,
        Delivery(Policy(interval=5.0)),
        lambda: line,
        allowed=lambda: True,
        state_changed=lambda: True,
    )
    here = Setting(store, line, drain)
    clock.advance(0.5)
    clock.step(step)
    here.record("A")

    drain.tick()

    assert b"2033-05-18T03:33:20.500" in line.bodies[0]
    assert here.counts == (0, 1, 0)
    balanced(store)
    store.close()


@pytest.mark.parametrize(
    "arguments", [{"ids": [math.inf]}, {"ids": "x"}, {"ids": 5}, [], "x", None]
)
def test_a_request_that_makes_no_sense(make: Callable[..., Setting], arguments: Any) -> None:
    """Whatever another process asks for, it is told, and the loop goes on."""
    setting = make()
    assert setting.store.directory is not None
    for what in (dead.RETRY, dead.DISCARD):
        setting.drain.add_requests([Request(what, what, arguments)])
        answer = outlook.read_memo(setting.store.directory, f"answer:{what}")
        assert "error" in json.loads(answer or "")
    balanced(setting.store)

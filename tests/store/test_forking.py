"""What a fork waits for, and what is put down before it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import interrupted

from heap_agent._store import forking
from heap_agent._store.database import Database, damage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fork() -> int:
    """Fork a child that leaves at once. Returns its exit status."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[1]


class Burden:
    """Counts how often it was put down."""

    times = 0

    def put_down(self) -> None:
        self.times += 1


@pytest.fixture(name="burden")
def _burden() -> Iterator[Burden]:
    burden = Burden()
    forking.put_down_before_fork(burden)
    yield burden


@pytest.fixture(name="impatient")
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "PATIENCE", 0.2)


class Busy:
    """A thread that is inside until told to leave."""

    def __init__(self) -> None:
        self._inside, self._leave, self.left = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._inside.wait(30)

    def _run(self) -> None:
        with forking.undivided(), forking.undivided():
            self._inside.set()
            self._leave.wait(30)
            time.sleep(0.05)
            self.left = True

    def leave(self) -> None:
        self._leave.set()

    def join(self) -> None:
        self.leave()
        self._thread.join()


def test_a_fork_waits_for_whoever_is_inside(burden: Burden) -> None:
    """A thread that must not be cut in two has left when the fork happens."""
    busy = Busy()
    busy.leave()

    child = os.fork()
    if child == 0:
        os._exit(0 if busy.left else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert burden.times == 1
    busy.join()


def test_a_fork_does_not_wait_for_ever(burden: Burden, impatient: None) -> None:
    """One that stays inside does not hang the program; then nothing is put down."""
    busy = Busy()

    assert fork() == 0

    assert burden.times == 0
    assert not busy.left
    busy.join()


def test_a_fork_from_inside_goes_ahead(burden: Burden) -> None:
    """A signal handler may fork whatever it interrupts; nothing in use is put down."""
    with forking.undivided():
        assert fork() == 0

    assert burden.times == 0
    assert fork() == 0
    assert burden.times == 1


def test_nobody_enters_while_another_thread_forks() -> None:
    """Whoever comes during a fork waits for its end, and then gets in."""
    order: list[str] = []

    def enter() -> None:
        with forking.undivided():
            order.append("inside")

    class Slow:
        """Takes its time while the fork is on its way."""

        def put_down(self) -> None:
            thread.start()
            time.sleep(0.05)
            order.append("put down")

    thread, slow = threading.Thread(target=enter), Slow()
    forking.put_down_before_fork(slow)
    assert fork() == 0
    thread.join()
    assert order == ["put down", "inside"]


def test_an_interrupt_at_any_moment_leaves_nobody_inside() -> None:
    """What a signal handler raises in here, or on the way in or out, holds up no later fork."""

    def run() -> None:
        with forking.undivided(), forking.undivided():
            len(())

    moment = 0
    while interrupted(run, moment := moment + 1):
        assert not forking._inside, moment
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), moment

    assert moment > 10


def test_a_child_begins_with_nobody_inside(impatient: None) -> None:
    """Threads that stay behind in the parent hold nothing up in the child."""
    busy = Busy()
    child = os.fork()
    if child == 0:
        forking.PATIENCE = 60
        began = time.monotonic()
        with forking.undivided():
            pass
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0)
        os.waitpid(grandchild, 0)
        os._exit(0 if time.monotonic() - began < 30 else 1)

    assert os.waitpid(child, 0)[1] == 0
    busy.join()


def test_a_database_is_closed_across_a_fork_and_opens_again(tmp_path: Path) -> None:
    """Neither side carries a connection of the other's; both find what was written."""
    database = Database(tmp_path / "queue.db")
    with database.transact() as execute:
        execute("INSERT INTO memo VALUES ('who', 'parent')")
    child = os.fork()
    if child == 0:
        open_files = [
            os.readlink(f"/proc/self/fd/{fd}") if os.path.islink(f"/proc/self/fd/{fd}") else ""
            for fd in (os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ())
        ]
        os._exit(any("queue.db" in name for name in open_files))

    assert os.waitpid(child, 0)[1] == 0
    assert database.query("SELECT * FROM memo") == [("who", "parent")]
    with database.transact() as execute:
        execute("INSERT INTO memo VALUES ('again', 'parent')")
    fork()
    database.close()
    again = Database(tmp_path / "queue.db")
    assert len(again.query("SELECT * FROM memo")) == 2
    assert damage(again) == []
    again.close()
    assert not (tmp_path / "queue.db-wal").exists()


def test_a_database_in_memory_stays_open(tmp_path: Path) -> None:
    """What only memory holds is not lost by a fork."""
    database = Database(None)
    with database.transact() as execute:
        execute("INSERT INTO memo VALUES ('who', 'parent')")

    fork()

    assert database.query("SELECT * FROM memo") == [("who", "parent")]

"""
Locks: they end with their process, whatever way that goes, and with no child of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import balanced, eventually, opened, real_clock, track, tracked

from heap_agent._store.owner import OWNER_LOCK, try_lock
from heap_agent._store.store import Store

posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")

_HOLD = """
import sys, time
from pathlib import Path
from heap_agent._store.owner import try_lock
held = try_lock(Path(sys.argv[1]))
print(held is not None, flush=True)
time.sleep(600)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    """Within a process, too, a lock is held once."""
    path = tmp_path / "a.lock"
    held = try_lock(path)
    assert held is not None and "a.lock" in repr(held)
    assert try_lock(path) is None

    held.release()

    again = try_lock(path)
    assert again is not None
    again.release()


def test_the_file_goes_while_the_lock_is_held(tmp_path: Path) -> None:
    """A name that is never used again is removed with its lock."""
    held = try_lock(tmp_path / "a.lock")
    assert held is not None
    held.release(unlink=True)

    assert list(tmp_path.iterdir()) == []


def test_a_lock_in_no_directory_is_an_error(tmp_path: Path) -> None:
    """That a lock cannot be made is not the same as that somebody holds it."""
    with pytest.raises(OSError):
        try_lock(tmp_path / "missing" / "a.lock")


@posix_only
def test_lock_files_are_private(tmp_path: Path) -> None:
    """Mode 0600 under any umask."""
    before = os.umask(0)
    try:
        held = try_lock(tmp_path / "a.lock")
    finally:
        os.umask(before)
    assert held is not None
    held.release()

    assert (tmp_path / "a.lock").stat().st_mode & 0o777 == 0o600


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    """No lock outlives its holder."""
    path = tmp_path / "a.lock"
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline().strip() == b"True"
    assert try_lock(path) is None

    process.kill()
    process.wait()
    process.stdout.close()

    held = try_lock(path, patience=10.0)
    assert held is not None
    held.release()


@posix_only
def test_a_childs_exit_does_not_free_the_lock(tmp_path: Path) -> None:
    """A forked child that ends leaves its parent the owner."""
    path = tmp_path / "a.lock"
    held = try_lock(path)
    assert held is not None

    child = multiprocessing.get_context("fork").Process(target=lambda: None)
    child.start()
    child.join()

    assert child.exitcode == 0
    assert try_lock(path) is None
    held.release()


@posix_only
def test_a_surviving_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A daemon that a dead parent left behind does not own its directory for ever."""
    program = """
import os, sys, time
from pathlib import Path
from heap_agent._store.owner import try_lock
held = try_lock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep(600)
print(child, flush=True)
os._exit(0)
"""
    path = tmp_path / "a.lock"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(path)], capture_output=True, text=True
    )
    child = int(done.stdout)
    try:
        os.kill(child, 0)
        held = try_lock(path, patience=10.0)
        assert held is not None
        held.release()
    finally:
        os.kill(child, signal.SIGKILL)


# -- the directory ------------------------------------------------------------------


def test_one_process_owns_and_the_next_takes_over(state_dir: Path) -> None:
    """The second store is a guest until the first one closes; nothing is lost on the way."""
    clock = real_clock()
    with opened(state_dir, clock) as second_owner:
        second_owner.close()
        with opened(state_dir, clock) as first:
            second_owner.open()
            assert first.ledger is not None and second_owner.ledger is None
            assert not second_owner.owner_is_gone()
            track(second_owner, n=1)
            track(first, n=2)
            first.absorb(freeze=False)
            assert sorted(tracked(first)) == [1, 2]
            balanced(first)
            balanced(second_owner)
        assert second_owner.owner_is_gone()

        assert second_owner.try_to_own()
        track(second_owner, n=3)
        second_owner.absorb(freeze=False)

        assert sorted(tracked(second_owner)) == [1, 2, 3]
        balanced(second_owner)


def test_the_connection_is_closed_before_the_lock(state_dir: Path) -> None:
    """When somebody can take the lock, the log has been folded in and is gone."""
    store = Store(state_dir, real_clock(), max_bytes=1 << 26)
    store.open()
    track(store)
    store.absorb(freeze=False)
    assert (state_dir / "queue-1.db-wal").exists()
    assert store._held is not None
    release = store._held.release
    logs: list[bool] = []

    class Watched:
        def release(self) -> None:
            logs.append((state_dir / "queue-1.db-wal").exists())
            release()

    store._held = Watched()  # type: ignore[assignment]
    store.close()

    assert logs == [False]
    assert try_lock(state_dir / OWNER_LOCK) is not None


def test_many_threads_become_the_owner_once(state_dir: Path) -> None:
    """A flush and the keeper may try at the same moment: one database is opened."""
    import threading

    with opened(None) as _:
        store = Store(state_dir, real_clock(), max_bytes=1 << 26)
        store.journal.retry()
        ledgers = set()
        start = threading.Barrier(8)

        def own() -> None:
            start.wait()
            assert store.try_to_own()
            ledgers.add(id(store.ledger))

        threads = [threading.Thread(target=own) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ledgers) == 1
        store.close()


def test_a_database_of_a_newer_version_is_nobodys(state_dir: Path) -> None:
    """Recording goes on in the journal, and nobody tries to own what it cannot read."""
    from heap_agent._store.database import SCHEMA_VERSION, Database

    database = Database(state_dir / "queue-1.db")
    with database.transact() as execute:
        execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    content = (state_dir / "queue-1.db").read_bytes()

    with opened(state_dir, real_clock()) as store:
        assert store.ledger is None and not store.try_to_own()
        assert "left untouched" in str(store.trouble)
        for number in range(3):
            track(store, n=number)
        assert store.storage == "disk"
        assert store.books().queued == 3
        assert store.absorb(freeze=False).records == 0

    assert (state_dir / "queue-1.db").read_bytes() == content
    eventually(lambda: try_lock(state_dir / OWNER_LOCK) is not None)

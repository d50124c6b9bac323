"""
The reserve: real blocks, given up when they are needed, taken again when there is room.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import balanced, deliver, fill, opened, track, tracked

from heap_agent._store.database import WAL_BYTES
from heap_agent._store.reserve import BYTES, Reserve
from heap_agent.testing import FakeClock


def test_the_reserve_is_large_enough_for_the_log_and_two_batches() -> None:
    """With half a megabyte the checkpoint failed and nothing could be drained."""
    assert BYTES >= max(1_048_576, 2 * WAL_BYTES)


def test_the_reserve_holds_real_blocks(state_dir: Path) -> None:
    """A sparse file would hold nothing."""
    reserve = Reserve(state_dir)
    assert not reserve.held and "given up" in repr(reserve)

    assert reserve.hold() and reserve.hold()

    assert reserve.held
    assert (state_dir / "reserve").stat().st_blocks * 512 >= BYTES
    assert [path.name for path in state_dir.iterdir()] == ["reserve"]
    reserve.give_up()
    assert not reserve.held and list(state_dir.iterdir()) == []
    reserve.give_up()


def test_without_preallocation_blocks_are_written(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system cannot allocate, bytes that no file system stores for nothing do."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)

    assert Reserve(state_dir).hold()

    assert len(set((state_dir / "reserve").read_bytes())) == 256


def test_a_half_made_reserve_is_none(state_dir: Path) -> None:
    """A crash while it was made leaves a draft, which is made again."""
    (state_dir / "reserve.draft").write_bytes(b"half")
    reserve = Reserve(state_dir)
    assert not reserve.held

    assert reserve.hold()

    assert not (state_dir / "reserve.draft").exists()


def test_a_missing_directory_has_no_room(tmp_path: Path) -> None:
    """What cannot be asked is no reason to raise."""
    reserve = Reserve(tmp_path / "missing")

    assert not reserve.hold() and not reserve.room and not reserve.held


def test_a_small_disk_is_not_filled_by_the_reserve(small_disk: Path) -> None:
    """It is made only where twice its size is free, and nothing is left of a failed attempt."""
    reserve = Reserve(small_disk)
    assert reserve.hold()
    reserve.give_up()
    fill(small_disk / "filler")
    os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - BYTES)

    assert not reserve.room and not reserve.hold()
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_full_disk_is_drained_with_it(small_disk: Path, clock: FakeClock) -> None:
    """
    Deleting needs room in SQLite's log: on a disk that another program has filled the reserve
    is given up, the queue is drained, and with room everything is as before.
    """
    directory = small_disk / "state"
    directory.mkdir(mode=0o700)
    with opened(directory, clock) as store:
        for number in range(600):
            track(store, n=number, text="x" * 300)
        store.absorb(freeze=False)
        store.keep_within_bounds()
        assert (directory / "reserve").exists() and store.ledger is not None
        fill(small_disk / "filler")
        for number in range(600, 700):
            track(store, n=number, text="x" * 300)
        assert store.storage == "memory"

        tries = 0
        while store.ledger.queue.rows() and tries < 20:
            tries += 1
            try:
                store.ledger.queue.ack([one.id for one in store.ledger.queue.peek(limit=100)])
            except Exception as error:
                store.trouble_while_delivering(error)  # type: ignore[arg-type]
        assert store.ledger.queue.rows() == 0
        assert not (directory / "reserve").exists()
        assert store.check() == []
        store.mend(0.0)
        assert store.storage == "memory"

        (small_disk / "filler").unlink()
        store.mend(1.0)
        store.absorb(freeze=False)
        store.keep_within_bounds()

        assert store.storage == "disk" and (directory / "reserve").exists()
        assert tracked(store) == list(range(600, 700))
        assert deliver(store) == 100
        balanced(store)

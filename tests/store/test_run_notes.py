"""Notes of runs: begun, ended, left behind; on disks that are full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import fill

from heap_agent._store import runs
from heap_agent._store.owner import try_lock

RUN = runs.run_of("11", "machine", "boot", "1.0")


def left(directory: Path) -> list[str]:
    """What lies in a directory, by the ends of its names."""
    return sorted(path.suffix or path.name for path in directory.iterdir())


def test_a_run_that_lives_is_not_broken(state_dir: Path) -> None:
    """Its lock says so; when it ends nothing is left of it."""
    noted = runs.Noted(state_dir, RUN)
    assert runs.take_broken(state_dir, "11", RUN.machine) == []
    noted.end()
    assert left(state_dir) == []


def test_a_run_is_given_once(state_dir: Path) -> None:
    """And so is one of many; a start has not to look at more than some of them."""
    for number in range(300):
        (state_dir / f"{number:016x}.run").write_text(json.dumps(RUN), "utf-8")
    given = [len(runs.take_broken(state_dir, "11", RUN.machine)) for _ in range(3)]
    assert given == [256, 44, 0]
    assert left(state_dir) == []


def test_a_run_of_another_app_is_left_to_it(state_dir: Path) -> None:
    """With all that was noted of it."""
    (state_dir / "0123456789abcdef.run").write_text(json.dumps(RUN), "utf-8")
    assert runs.take_broken(state_dir, "12", RUN.machine) == []
    assert runs.take_broken(state_dir, "11", RUN.machine) == [RUN]


def test_a_full_disk_keeps_no_half_note(small_disk: Path) -> None:
    """An empty one would tell of a crash that never was."""
    fill(small_disk / "filler")
    with pytest.raises(OSError):
        runs.Noted(small_disk, RUN)
    assert left(small_disk) == ["filler"]


def test_a_full_disk_says_so_before_anything_is_told(small_disk: Path) -> None:
    """Or what cannot be noted would be told by each start."""
    fill(small_disk / "filler")
    told = False
    with pytest.raises(OSError), runs.noting_version(small_disk, RUN):
        told = True
    assert not told
    assert left(small_disk) == ["filler"]


def test_a_turn_that_somebody_keeps(state_dir: Path) -> None:
    """It is waited for, and then done without."""
    held = try_lock(state_dir / "runs.lock")
    assert held is not None
    with runs.one_at_a_time(state_dir) as alone:
        assert not alone
    held.release()
    with runs.one_at_a_time(state_dir) as alone:
        assert alone

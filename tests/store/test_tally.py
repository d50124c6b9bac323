"""
The number of refused events: exact, also after a kill, and counted once.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import balanced, opened, track

from heap_agent._store import system
from heap_agent._store.tally import Tally, read_tallies, tally_path
from heap_agent.testing import FakeClock

ID = "0123456789abcdef"


@pytest.fixture(name="tally")
def _tally(tmp_path: Path) -> Tally:
    return Tally(tally_path(tmp_path, ID))


def test_every_refusal_is_on_the_disk_at_once(tally: Tally, tmp_path: Path) -> None:
    """The file has one size, however often it is written."""
    for number in range(1, 400):
        tally.add()
        assert read_tallies(tmp_path) == {ID: number}
    assert tally.path.stat().st_size == 12


def test_what_is_torn_or_strange_says_nothing(tally: Tally, tmp_path: Path) -> None:
    """A wrong number would be worse than none."""
    tally.add()
    content = tally.path.read_bytes()
    for damaged in (b"", content[:7], b"\0" + content[1:], content + b"!"):
        tally.path.write_bytes(damaged)
        assert read_tallies(tmp_path) == {ID: 0}
    (tmp_path / "notes.tally").write_bytes(content)
    assert read_tallies(tmp_path) == {ID: 0}
    assert read_tallies(tmp_path / "missing") == {}


def test_a_tally_belongs_to_one_journal(tally: Tally) -> None:
    """Nobody writes over what another has counted."""
    with pytest.raises(FileExistsError):
        Tally(tally.path)


def test_what_the_disk_refuses_is_not_counted(tally: Tally, tmp_path: Path) -> None:
    """Whoever counts is told, and counts elsewhere."""
    tally.add()
    tally.close()

    with pytest.raises(OSError):
        tally.add()

    assert tally.number == 1 and read_tallies(tmp_path) == {ID: 1}


def test_a_system_without_a_call_for_it(tmp_path: Path) -> None:
    """Windows moves to the beginning and writes."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for content in (b"first", b"again"):
        system.write_at_start(fd, content, source=None)
    os.close(fd)

    assert (tmp_path / "file").read_bytes() == b"again"


def test_refusals_are_counted_once(state_dir: Path, clock: FakeClock) -> None:
    """By the owner, as they come in; seen by everybody before that; over restarts."""
    with opened(state_dir, clock) as store:
        track(store)
        for round_ in range(1, 4):
            store.journal.allow(0)
            assert not track(store) and not track(store)
            assert store.books().counts["dropped.full"] == 2 * round_
            store.absorb(freeze=False)
            store.absorb(freeze=False)
            assert store.books().counts["dropped.full"] == 2 * round_
            balanced(store)
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)
        assert read_tallies(state_dir) == {}
        assert store.books().counts["recorded"] == 7
        assert store.books().counts["dropped.full"] == 6
        balanced(store)


def test_what_a_dead_guest_refused_is_counted_once(state_dir: Path, clock: FakeClock) -> None:
    """Its tally is adopted with its journal, and gone after that."""
    with opened(state_dir, clock) as owner:
        with opened(state_dir, clock) as guest:
            guest.journal.allow(0)
            for _ in range(5):
                assert not track(guest)
            assert owner.books().counts["dropped.full"] == 5
        assert len(read_tallies(state_dir)) == 1

        for _ in range(3):
            owner.absorb(freeze=False)
            balanced(owner)

        assert read_tallies(state_dir) == {}
        assert owner.books().counts["dropped.full"] == 5
        assert not list(state_dir.glob(f"{guest.journal.id}*"))


def test_a_tally_outlives_many_parts(state_dir: Path, clock: FakeClock) -> None:
    """What was counted is remembered as long as its journal lives."""
    with opened(state_dir, clock) as store:
        store.journal.allow(0)
        track(store)
        store.absorb(freeze=False)
        store.journal.allow(1 << 20)
        for _ in range(80):
            track(store)
            store.journal.rotate()
            store.absorb(freeze=False)

        assert store.books().counts["dropped.full"] == 1
        balanced(store)

"""Dead letters, read and changed from outside of the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import balanced, deliver, opened, track

from heap_agent._store import dead
from heap_agent._store.database import DatabaseTrouble
from heap_agent._store.store import Store


def bury(store: Store, *ids: int) -> None:
    """Heap has refused these."""
    store.absorb(freeze=False)
    assert store.ledger is not None
    store.ledger.queue.bury(ids, status=400, reason="no", now=7)


def test_all_are_read(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: in pages, oldest first, each once."""
    monkeypatch.setattr(dead, "_PAGE", 3)
    with opened(state_dir) as store:
        for number in range(10):
            track(store, n=number)
        bury(store, *range(2, 10))
        assert [letter.id for letter in dead.read(state_dir)] == [*range(2, 10)]
        letter = next(dead.read(state_dir))
        assert (letter.status, letter.reason, letter.died, letter.actor) == (400, "no", 7, "1")
        balanced(store)


def test_damaged_ones_are_passed_over(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pages of them, too."""
    monkeypatch.setattr(dead, "_PAGE", 2)
    with opened(state_dir) as store:
        for _ in range(6):
            track(store)
        bury(store, *range(1, 7))
        assert store.ledger is not None
        with store.ledger.database.transact() as execute:
            execute("UPDATE dead SET actor = 'x' WHERE id BETWEEN 1 AND 5")
        assert [letter.id for letter in dead.read(state_dir)] == [6]


def test_nothing_is_there(tmp_path: Path) -> None:
    """No directory, no database, no letters."""
    assert list(dead.read(tmp_path)) == list(dead.read(tmp_path / "none")) == []


def test_a_queue_that_cannot_be_read(state_dir: Path) -> None:
    """It says so."""
    (state_dir / "queue-1.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(DatabaseTrouble):
        list(dead.read(state_dir))


@pytest.mark.parametrize("ids", [[1, 3], None])
def test_sending_again(state_dir: Path, ids: list[int] | None) -> None:
    """Those that are named, or all; under their old ids, before what came later."""
    with opened(state_dir) as store:
        for number in range(4):
            track(store, n=number)
        bury(store, 1, 2, 3)
        assert dead.order(store, dead.RETRY, ids, own=False) == (3 if ids is None else 2)
        assert store.ledger is not None
        queued = [candidate.id for candidate in store.ledger.queue.front()]
        assert queued == ([1, 2, 3, 4] if ids is None else [1, 3, 4])
        assert dead.order(store, dead.RETRY, [1, 99], own=False) == 0
        balanced(store)
        deliver(store)
        balanced(store)


@pytest.mark.parametrize("ids", [[1, 3], None])
def test_deleting(state_dir: Path, ids: list[int] | None) -> None:
    """The books call them discarded."""
    with opened(state_dir) as store:
        for number in range(4):
            track(store, n=number)
        bury(store, 1, 2, 3)
        number = dead.order(store, dead.DISCARD, ids, own=False)
        assert number == store.books().counts["dropped.discarded"] == (3 if ids is None else 2)
        assert dead.order(store, dead.DISCARD, [1], own=False) == 0
        balanced(store)


def test_who_is_not_the_owner_becomes_it_if_nobody_is(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command does; a process that must not own the directory is told."""
    with opened(state_dir) as store:
        track(store)
        bury(store, 1)
    guest = Store(state_dir, store.clock, max_bytes=1 << 26)
    guest.journal.open_with_first_record()
    monkeypatch.setattr(dead, "PATIENCE", 0.2)
    with pytest.raises(OSError, match="has not answered"):
        dead.order(guest, dead.RETRY, None, own=False)
    assert dead.order(guest, dead.RETRY, None, own=True) == 1
    guest.close()
    with opened(state_dir) as store:
        balanced(store)

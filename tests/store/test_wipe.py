"""A directory is wiped: nothing of anybody stays, and nobody who records is hurt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import ANN, opened, track

from heap_agent import Agent
from heap_agent._store.store import Store
from heap_agent._store.wipe import StillInUse, wipe


def names(directory: Path) -> set[str]:
    """What lies there."""
    return set(os.listdir(directory))


def used(directory: Path) -> None:
    """Leave everything behind that agents leave."""
    with Agent("11", directory=directory, endpoint="http://127.0.0.1:9", at_exit=False) as agent:
        agent.identify("alice")
        agent.add_event_properties({"site": "Lyon 3"})
        agent.track("Buy")
        agent.opt_out(purge=False)
    (directory / "0123456789abcdef-00000001.draft").write_bytes(b"x")
    (directory / "0123456789abcdef.tally").write_bytes(b"x")
    (directory / "queue-2.db-wal").write_bytes(b"x")
    (directory / ".probe.0123456789abcdef.tmp").write_bytes(b"x")


def test_everything_goes(state_dir: Path) -> None:
    """But for what is somebody else's."""
    used(state_dir)
    assert {"opted-out", "bell", "reserve", "queue-1.db"} <= names(state_dir)
    mine = {"notes.txt", "version-2-of-the-manual.txt", "user-1-guide.pdf"}
    for name in mine:
        (state_dir / name).write_text("mine")
    assert wipe(state_dir) > 8
    assert names(state_dir) == mine
    assert wipe(state_dir) == 1  # the lock that it takes
    assert all((state_dir / name).read_text() == "mine" for name in mine)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_goes_unread(state_dir: Path) -> None:
    """Whoever put it there: nobody waits for somebody at its other end."""
    os.mkfifo(state_dir / "0123456789abcdef.run")
    wipe(state_dir)
    assert names(state_dir) == set()


def test_what_is_deleted_is_overwritten(state_dir: Path) -> None:
    """Whoever still has a file open, or reads the disk, finds zeros."""
    used(state_dir)
    kept = {path: path.open("rb") for path in state_dir.iterdir()}
    assert any(b"alice" in file.read() for file in kept.values())
    wipe(state_dir)
    for file in kept.values():
        with file:
            file.seek(0)
            assert not file.read().strip(b"\0")


def test_a_new_user_begins(state_dir: Path) -> None:
    """As on a fresh device, with consent."""
    used(state_dir)
    wipe(state_dir)
    with Agent("11", directory=state_dir, endpoint="http://127.0.0.1:9", at_exit=False) as agent:
        assert agent.identity is None and agent.user_id is not None
        assert agent.status().recorded == 0 and not agent.status().opted_out
        agent.track("Buy")
        assert agent.check() == []


def test_nobody_is_hurt_who_delivers(state_dir: Path) -> None:
    """Nothing is deleted then."""
    with opened(state_dir) as store:
        track(store)
        before = names(state_dir)
        with pytest.raises(StillInUse):
            wipe(state_dir)
        assert names(state_dir) == before and store.check() == []


def test_nobody_is_hurt_who_records(state_dir: Path) -> None:
    """Nor anybody who delivers nothing."""
    with opened(state_dir) as owner:
        guest = Store(state_dir, owner.clock, max_bytes=1 << 26)
        guest.open()
        track(guest, actor=ANN)
    with pytest.raises(StillInUse):
        wipe(state_dir)
    guest.close()
    assert wipe(state_dir) > 0
    assert names(state_dir) == set()


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_a_link_is_not_followed(state_dir: Path, tmp_path: Path) -> None:
    """What it leads to stays."""
    (tmp_path / "precious").write_text("mine")
    (state_dir / "bell").symlink_to(tmp_path / "precious")
    wipe(state_dir)
    assert (tmp_path / "precious").read_text() == "mine" and names(state_dir) == set()

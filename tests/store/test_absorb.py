"""
From the journals into the database: exactly once, whatever dies in between.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import (
    ANN,
    balanced,
    opened,
    put_event,
    track,
    tracked,
)

from heap_agent._core.events import Actor, Kind
from heap_agent._core.records import FROZEN
from heap_agent._core.state import (
    BY_IDENTITY,
    BY_USER_ID,
    CONSENT,
    PAUSED,
    forgotten_facet,
    identity_facet,
)
from heap_agent._core.wire import Ambient, Wire, actor_line
from heap_agent._store import absorb as module
from heap_agent._store import outlook, system, tally
from heap_agent._store import parts as files
from heap_agent._store.database import Reader
from heap_agent._store.journal import Journal, Seams
from heap_agent._store.properties import Person
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

OTHER = Actor("11", "99")


@pytest.fixture(name="store")
def _store(state_dir: Path, clock: FakeClock) -> Iterator[Store]:
    with opened(state_dir, clock) as store:
        yield store
        store.absorb(freeze=False)
        balanced(store)


@pytest.fixture(name="guest")
def _guest(state_dir: Path, clock: FakeClock) -> Iterator[Journal]:
    """Another process's journal, as far as the owner can tell."""
    journal = Journal(state_dir, clock.boot_id)
    journal.open()
    yield journal
    journal.close()


def names(directory: Path) -> set[str]:
    """Files of journals."""
    suffixes = (".part", ".lock", ".draft")
    found = {path.name for path in directory.iterdir() if path.suffix in suffixes}
    return found - {"owner.lock"}


def positions(store: Store) -> list[tuple[str, int]]:
    """Which positions are remembered."""
    assert store.ledger is not None
    return [
        (id, part) for id, part in store.ledger.database.query("SELECT journal, part FROM position")
    ]


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )


def state(journal: Journal, clock: FakeClock, facets: dict[str, object], **more: object) -> None:
    """A state record of another process."""
    body = json.dumps({"set": facets, **more}).encode()
    journal.put(Kind.STATE, 0, clock.wall_ns(), clock.boot_ns(), body)


# -- in order, once -----------------------------------------------------------------


def test_records_become_rows_once(store: Store) -> None:
    """However often it is asked, each record is one row, in order."""
    for number in range(10):
        track(store, n=number)
        if number % 3 == 0:
            assert store.absorb(freeze=False).records > 0
    store.absorb(freeze=False)

    assert store.absorb(freeze=False).records == 0
    assert tracked(store) == list(range(10))


def test_a_long_backlog_is_many_transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction grows without bound, and one call takes everything."""
    monkeypatch.setattr("heap_agent._store.store.BATCH", 50)
    for number in range(330):
        track(store, n=number)
        if number % 100 == 99:
            store.journal.rotate()

    assert store.absorb(freeze=False).records == 330
    assert tracked(store) == list(range(330))


def test_only_sealed_parts_are_unlinked(store: Store, state_dir: Path) -> None:
    """A part that is read to its end stays while it can still grow."""
    track(store, n=1)
    store.absorb(freeze=False)
    assert len(list(state_dir.glob("*.part"))) == 1
    store.journal.rotate()
    track(store, n=2)
    store.absorb(freeze=False)

    (left,) = state_dir.glob("*.part")
    assert left.name.endswith("-00000002.part")
    assert tracked(store) == [1, 2]


def test_freezing_comes_with_the_same_commit(store: Store) -> None:
    """While deliveries succeed rows are frozen as they come in."""
    track(store)
    store.absorb(freeze=True)
    track(store)
    store.absorb(freeze=False)

    assert store.ledger is not None
    flags = [stored.entry.flags for stored in store.ledger.queue.load([1, 2])]
    assert [bool(flag & FROZEN) for flag in flags] == [True, False]


def test_counts_are_added_to_the_books(store: Store) -> None:
    """Refused and repaired values are counted over restarts."""
    store.journal.count("refused", 2)
    store.flush_counts()
    store.journal.count("repaired.cut")
    store.flush_counts()
    store.absorb(freeze=False)

    assert store.ledger is not None
    counts = store.ledger.queue.counts()
    assert (counts["refused"], counts["repaired.cut"]) == (2, 1)


def test_requests_are_handed_over_after_the_commit(store: Store, guest: Journal) -> None:
    """What only the owner can do comes out once, with its arguments."""
    body = json.dumps({"id": "r", "what": "flush", "arguments": {"n": 1}}).encode()
    guest.put(Kind.REQUEST, 0, 1, 2, body)

    (request,) = store.absorb(freeze=False).requests

    assert (request.id, request.what, request.arguments) == ("r", "flush", {"n": 1})
    assert store.absorb(freeze=False).requests == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.EVENT, b"no actor line"),
        (Kind.EVENT, b"{}\nno actor"),
        (Kind.STATE, b"[1]"),
        (Kind.STATE, b'{"set": 5}'),
        (Kind.STATE, b'{"set": {}, "identify": [1]}'),
        (Kind.COUNTS, b'{"recorded": "many"}'),
        (Kind.COUNTS, b"[]"),
        (Kind.REQUEST, b"{}"),
        (Kind.USER_PROPERTIES, b"\xff"),
        (200, b"from a later version"),
    ],
)
def test_what_cannot_be_understood_stops_nothing(
    kind: int, body: bytes, store: Store, guest: Journal
) -> None:
    """A record of a strange version passes its checksum and still makes no sense: on it goes."""
    guest.put(kind, 0, 1, 2, body)
    track(store, n=1)

    store.absorb(freeze=False)

    assert tracked(store) == [1]


# -- crashes ------------------------------------------------------------------------


def test_a_crash_between_commit_and_unlink(
    state_dir: Path, clock: FakeClock, tmp_path: Path
) -> None:
    """Parts that are still there though everything in them is committed are not read again."""
    journal = Journal(state_dir, clock.boot_id)
    journal.open()
    for number in range(6):
        put_event(journal, clock, n=number)
        if number == 2:
            journal.rotate()
    journal.close()
    shutil.copytree(state_dir, tmp_path / "before")
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)
        assert tracked(store) == list(range(6))
    for path in (tmp_path / "before").iterdir():
        shutil.copy(path, state_dir)

    with opened(state_dir, clock) as store:
        assert store.absorb(freeze=False).records == 0
        assert tracked(store) == list(range(6))
        assert names(state_dir) <= {f"{store.journal.id}.lock", f"{store.journal.id}-00000001.part"}
        balanced(store)


def test_a_crash_between_unlink_and_forgetting(state_dir: Path, clock: FakeClock) -> None:
    """Positions of parts that are gone are forgotten by the next owner."""
    with opened(state_dir, clock) as store:
        track(store, n=1)
        first = store.journal.id
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)
        assert (first, 1) in positions(store)
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)
        store.absorb(freeze=False)

        assert (first, 1) not in positions(store)
        assert tracked(store) == [1]
        balanced(store)


def test_a_crash_in_the_middle_of_a_transaction(store: Store) -> None:
    """What was rolled back is absorbed again: rows, state and books."""
    track(store, n=1)
    store.record_state({PAUSED: True})
    assert store.ledger is not None
    queue = store.ledger.queue
    add = queue.add

    def interrupted(counts: object) -> None:
        raise KeyboardInterrupt

    queue.add = interrupted  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        store.absorb(freeze=False)
    queue.add = add  # type: ignore[method-assign]
    assert not store.ledger.queue.rows()

    done = store.absorb(freeze=False)

    assert (done.records, done.state_changed, tracked(store)) == (2, True, [1])


def test_positions_are_forgotten_with_their_journal(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """A dead journal leaves no row; a living one keeps a few, in case a copy turns up."""
    for _ in range(3):
        put_event(guest, clock)
        guest.rotate()
    store.absorb(freeze=False)
    store.absorb(freeze=False)
    id = guest.id
    assert [part for journal, part in positions(store) if journal == id] == [1, 2, 3, 4]

    guest.close()
    for _ in range(3):
        store.absorb(freeze=False)

    assert [part for journal, part in positions(store) if journal == id] == []


def test_positions_of_a_long_run_are_bounded(
    store: Store, guest: Journal, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that is written for months does not fill the table."""
    monkeypatch.setattr(module, "_REMEMBERED", 5)
    for _ in range(30):
        put_event(guest, clock)
        guest.rotate()
        store.absorb(freeze=False)

    assert len([1 for journal, _ in positions(store) if journal == guest.id]) <= 8


# -- copies -------------------------------------------------------------------------


class Syncs:
    """Syncs that fail when told to."""

    broken = False

    def __call__(self, fd: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(fd)


@pytest.mark.parametrize("absorbed", ["nothing", "half", "everything"])
@pytest.mark.parametrize("then", ["goes on", "crashes"])
def test_a_copied_part_is_absorbed_once(
    absorbed: str, then: str, state_dir: Path, clock: FakeClock
) -> None:
    """
    After a failed sync the unsynced records stand in two parts: each becomes one row, also
    where the owner had read beyond the last sync, and where the writer dies right after.
    """
    syncs = Syncs()
    journal = Journal(state_dir, clock.boot_id, seams=Seams(data_sync=syncs))
    journal.open()
    with opened(state_dir, clock) as store:
        put_event(journal, clock, n=0)
        assert journal.sync()
        put_event(journal, clock, n=1)
        if absorbed == "half":
            store.absorb(freeze=False)
        put_event(journal, clock, n=2)
        if absorbed == "everything":
            store.absorb(freeze=False)
        syncs.broken = True
        assert not journal.sync()
        syncs.broken = False
        assert journal.sync()
        expected = [0, 1, 2]
        if then == "goes on":
            for number in (3, 4, 5):
                put_event(journal, clock, n=number)
                store.absorb(freeze=False)
                expected.append(number)
        journal.close()
        for _ in range(3):
            store.absorb(freeze=False)

        assert tracked(store) == expected
        assert store.books().counts["dropped.damaged"] == 0
        assert not any(name.startswith(journal.id) for name in names(state_dir))
        balanced(store)


def test_a_copy_that_comes_after_its_original_has_gone(
    store: Store, state_dir: Path, clock: FakeClock
) -> None:
    """A writer that was stopped in the middle of copying puts the copy there much later."""
    syncs = Syncs()
    journal = Journal(state_dir, clock.boot_id, seams=Seams(data_sync=syncs))
    journal.open()
    put_event(journal, clock, n=0)
    assert journal.sync()
    put_event(journal, clock, n=1)
    original = files.find_parts(state_dir)[journal.id][0]
    content = original.path.read_bytes()
    syncs.broken = True
    journal.sync()
    syncs.broken = False
    journal.sync()
    copy = files.find_parts(state_dir)[journal.id][1]
    hidden = copy.path.rename(state_dir / "hidden")
    journal.rotate()
    assert original.path.read_bytes() == content
    for _ in range(4):
        store.absorb(freeze=False)
    assert tracked(store) == [0, 1] and not original.path.exists()

    hidden.rename(copy.path)
    for _ in range(3):
        store.absorb(freeze=False)

    assert tracked(store) == [0, 1]
    journal.close()


def test_a_copy_stays_as_long_as_its_original(
    store: Store, state_dir: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows keeps a file that somebody reads: without its copy it would be read further."""
    syncs = Syncs()
    journal = Journal(state_dir, clock.boot_id, seams=Seams(data_sync=syncs))
    journal.open()
    put_event(journal, clock, n=0)
    assert journal.sync()
    put_event(journal, clock, n=1)
    syncs.broken = True
    journal.sync()
    syncs.broken = False
    journal.sync()
    journal.rotate()
    original = files.find_parts(state_dir)[journal.id][0]
    unlink = system.unlink_quietly
    with monkeypatch.context() as patch:
        patch.setattr(system, "unlink_quietly", lambda path: path != original.path and unlink(path))
        for _ in range(3):
            store.absorb(freeze=False)
            assert tracked(store) == [0, 1]
    for _ in range(3):
        store.absorb(freeze=False)

    assert tracked(store) == [0, 1] and not original.path.exists()
    assert len(files.find_parts(state_dir)[journal.id]) == 1
    balanced(store)
    journal.close()


# -- adoption -----------------------------------------------------------------------


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from helpers import put_event, real_clock
from heap_agent._store.journal import Journal
clock = real_clock()
journal = Journal(Path(sys.argv[1]), clock.boot_id)
journal.open()
for number in range(int(sys.argv[2])):
    put_event(journal, clock, n=number)
    if number % 40 == 39:
        journal.rotate()
print(journal.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_the_journal_of_a_killed_process_is_adopted_once(store: Store, state_dir: Path) -> None:
    """What a killed process had recorded becomes rows, and its files go."""
    killed = run(_KILLED, state_dir, 100, *sys.path)
    assert killed.returncode == -9, killed.stderr

    for _ in range(3):
        store.absorb(freeze=False)

    assert tracked(store) == list(range(100))
    assert not any(name.startswith(killed.stdout.strip()) for name in names(state_dir))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_the_torn_tail_of_a_dead_journal_is_cut_and_counted(store: Store, state_dir: Path) -> None:
    """A record that a power cut tore is one damaged event, and everything before it is there."""
    killed = run(_KILLED, state_dir, 30, *sys.path)
    (part,) = state_dir.glob(f"{killed.stdout.strip()}-*.part")
    os.truncate(part, part.stat().st_size - 7)

    assert store.absorb(freeze=False).damaged == 1

    assert tracked(store) == list(range(29))
    assert store.books().counts["dropped.damaged"] == 1


def test_the_tail_of_a_living_journal_is_waited_for(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """Half a record of a living process is no damage."""
    put_event(guest, clock, n=1)
    (part,) = state_dir.glob(f"{guest.id}-*.part")
    whole = part.read_bytes()
    put_event(guest, clock, n=2)
    content = part.read_bytes()
    os.truncate(part, len(whole) + 20)
    assert store.absorb(freeze=False).damaged == 0
    assert tracked(store) == [1]

    part.write_bytes(content)
    store.absorb(freeze=False)

    assert tracked(store) == [1, 2]


def test_damage_in_the_middle_costs_only_itself(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """A damaged stretch is counted by the gap in the numbers, also where an absorb began in it."""
    for number in range(10):
        put_event(guest, clock, n=number)
        if number == 3:
            store.absorb(freeze=False)
    (part,) = state_dir.glob(f"{guest.id}-*.part")
    content = bytearray(part.read_bytes())
    for number in (4, 5, 8):
        content[content.index(b'"n":%d' % number)] ^= 1
    part.write_bytes(content)
    store.absorb(freeze=False)

    assert tracked(store) == [0, 1, 2, 3, 6, 7, 9]
    assert store.books().counts["dropped.damaged"] == 3


def test_a_newborn_journal_is_left_alone(store: Store, state_dir: Path, clock: FakeClock) -> None:
    """Between its lock and its first part a journal has no parts, and is not dead."""
    looked: list[bool] = []

    def write(fd: int, data: bytes) -> int:
        if not looked:
            store.absorb(freeze=False)
            looked.append(files.lock_path(state_dir, journal.id).exists())
        return os.write(fd, data)

    journal = Journal(state_dir, clock.boot_id, seams=Seams(write=write))
    journal.open()
    put_event(journal, clock, n=1)
    store.absorb(freeze=False)

    assert looked == [True]
    assert tracked(store) == [1]
    put_event(journal, clock, n=2)
    journal.close()
    store.absorb(freeze=False)
    assert tracked(store) == [1, 2]


def test_the_lock_of_a_journal_without_parts_goes(store: Store, state_dir: Path) -> None:
    """A process that died between its lock and its first part leaves nothing for ever."""
    files.lock_path(state_dir, "0123456789abcdef").touch()

    store.absorb(freeze=False)

    assert "0123456789abcdef.lock" not in names(state_dir)


def test_parts_without_a_lock_are_nobodys(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """The lock goes after the last part; where it is missing nobody is left to write."""
    put_event(guest, clock, n=1)
    (part,) = state_dir.glob(f"{guest.id}-*.part")
    shutil.copy(part, state_dir / "0123456789abcdef-00000001.part")
    store.absorb(freeze=False)

    assert tracked(store) == [1, 1]
    assert names(state_dir) == {
        f"{guest.id}.lock",
        part.name,
        f"{store.journal.id}.lock",
        f"{store.journal.id}-00000001.part",
    }


def test_unfinished_copies_of_the_dead_are_removed(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """A draft that its writer did not finish goes with the journal."""
    put_event(guest, clock, n=1)
    (state_dir / f"{guest.id}-00000002.draft").write_bytes(b"half")
    guest.close()

    store.absorb(freeze=False)

    assert not list(state_dir.glob("*.draft"))
    assert tracked(store) == [1]


def test_a_journal_in_this_process_is_not_adopted_alive(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """Two agents of one process are two writers like any others."""
    put_event(guest, clock, n=1)
    store.absorb(freeze=False)
    put_event(guest, clock, n=2)
    store.absorb(freeze=False)

    assert tracked(store) == [1, 2]
    assert f"{guest.id}-00000001.part" in names(state_dir)


# -- state --------------------------------------------------------------------------


def user(user_id: str) -> dict[str, object]:
    """A facet that says who is there."""
    return {identity_facet("11", "m"): {"user_id": user_id, "identity": None}}


@pytest.mark.parametrize("together", [True, False])
def test_the_newer_state_wins_over_processes(
    together: bool, store: Store, guest: Journal, clock: FakeClock
) -> None:
    """Which journal is read first does not decide who is logged in."""
    clock.advance(10)
    state(guest, clock, user("new"))
    if not together:
        store.absorb(freeze=False)
    old = clock.boot_ns() - 5 * 10**9
    store.journal.put(Kind.STATE, 0, 0, old, json.dumps({"set": user("old")}).encode())
    store.absorb(freeze=False)

    assert store.ledger is not None
    assert store.ledger.absorber.state.user("11", "m") == ("new", None)
    assert store.read_state().user("11", "m") == ("new", None)


def test_a_purge_takes_late_records_of_other_processes(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """What another process had recorded before the opt-out, and comes in after it, goes too."""
    put_event(guest, clock, n=1, actor=OTHER)
    track(store, n=2)
    clock.advance(1)
    store.record_state({CONSENT: False}, purge=True)
    done = store.absorb(freeze=False)
    assert done.purged
    late = clock.boot_ns() - 5 * 10**8
    guest.put(Kind.EVENT, 0, 1, late, b'["11","99",null,null]\n{"n":3}')
    clock.advance(1)
    put_event(guest, clock, n=4, actor=OTHER)
    store.absorb(freeze=False)
    assert tracked(store) == []

    clock.advance(1)
    store.record_state({CONSENT: True})
    clock.advance(1)
    put_event(guest, clock, n=5, actor=OTHER)
    track(store, n=6)
    store.absorb(freeze=False)

    assert sorted(tracked(store)) == [5, 6]
    assert store.books().counts["dropped.purged"] == 4


def test_an_opt_out_that_comes_in_late_still_counts(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """Rows that were absorbed before the word about consent was read are deleted with it."""
    put_event(guest, clock, n=1)
    clock.advance(1)
    out = clock.boot_ns()
    clock.advance(1)
    put_event(guest, clock, n=2)
    clock.advance(1)
    state(guest, clock, {CONSENT: True})
    clock.advance(1)
    put_event(guest, clock, n=3)
    store.absorb(freeze=False)
    assert tracked(store) == [1, 2, 3]

    body = json.dumps({"set": {CONSENT: False}}).encode()
    store.journal.put(Kind.STATE, 0, 0, out, body)
    store.absorb(freeze=False)

    assert tracked(store) == [1, 3]
    assert store.books().counts["dropped.purged"] == 1


def test_a_purge_that_comes_in_late_spares_what_came_after_it(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """The opt-in of one process may be read before the opt-out of another."""
    put_event(guest, clock, n=1)
    clock.advance(1)
    out = clock.boot_ns()
    clock.advance(1)
    state(guest, clock, {CONSENT: True})
    state(guest, clock, user("2"))
    clock.advance(1)
    put_event(guest, clock, n=2)
    store.absorb(freeze=False)

    body = json.dumps({"set": {CONSENT: False}, "purge": True}).encode()
    store.journal.put(Kind.STATE, 0, 0, out, body)
    assert store.absorb(freeze=False).purged

    assert tracked(store) == [2]
    assert store.ledger is not None
    assert store.ledger.absorber.state.user("11", "m") == ("2", None)
    assert store.ledger.absorber.state.consent.given


def test_state_is_saved_with_its_records(state_dir: Path, clock: FakeClock) -> None:
    """After a restart the facets are as they were, without the journals."""
    with opened(state_dir, clock) as store:
        store.record_state(user("5"))
        store.record_state({PAUSED: True})
        store.absorb(freeze=False)
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)
        found = outlook.read_state(state_dir, clock.boot_id)

        assert found.user("11", "m") == ("5", None) and found.flag(PAUSED)
        balanced(store)


def test_the_same_actor_is_read_once(store: Store) -> None:
    """Actor lines are remembered, though not without bound."""
    assert store.ledger is not None
    absorber = store.ledger.absorber
    line = b'["11","1",null,null]'

    assert absorber.speaker(line) is absorber.speaker(line)
    for number in range(1_200):
        absorber.speaker(b'["11","%d",null,null]' % number)
    assert absorber.speaker(line)[0] == ANN


# -- the right to be forgotten ------------------------------------------------------------

ANNS = Actor("11", "7", "ann")


def joined(user_id: str, identity: str) -> dict[str, object]:
    """What a process records when an anonymous user has given a name."""
    value = {"user_id": user_id, "identity": identity}
    return {identity_facet("11", "m"): value}


def test_rows_and_records_of_somebody_forgotten_go(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """Those absorbed before, those that come in later, and those of the anonymous user before."""
    put_event(guest, clock, n=1, actor=Actor("11", "7"))
    put_event(guest, clock, n=2, actor=OTHER)
    state(guest, clock, joined("7", "ann"), identify=["11", "7", "ann"])
    put_event(guest, clock, n=3, actor=ANNS)
    store.absorb(freeze=False)
    assert tracked(store) == [1, 2, 3]
    clock.advance(1)
    put_event(guest, clock, n=4, actor=ANNS)
    clock.advance(1)
    store.record_state({forgotten_facet("ann"): BY_IDENTITY})
    clock.advance(1)
    # Not heard yet: under the same user id, after the word.
    put_event(guest, clock, n=5, actor=ANNS)
    # Somebody of that name who has logged in since.
    put_event(guest, clock, n=6, actor=Actor("11", "8", "ann"))

    done = store.absorb(freeze=False)

    assert done.erased and not done.purged
    assert tracked(store) == [2, 6]
    assert store.books().counts["dropped.purged"] == 4
    assert store.ledger is not None
    assert store.ledger.properties.persons() == [("11", "99", Person(seen=1))]
    assert not store.absorb(freeze=False).erased


def test_a_user_id_leads_to_the_identity_and_its_other_users(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """Heap has merged them into one person."""
    for user_id in ("7", "8"):
        put_event(guest, clock, n=int(user_id), actor=Actor("11", user_id))
        state(guest, clock, joined(user_id, "ann"), identify=["11", user_id, "ann"])
    put_event(guest, clock, n=9, actor=ANNS)
    put_event(guest, clock, n=10, actor=OTHER)
    clock.advance(1)
    store.record_state({forgotten_facet("7"): BY_USER_ID})

    store.absorb(freeze=False)

    assert tracked(store) == [10]
    assert store.ledger is not None
    assert store.ledger.queue.actors() == ["99"]


def test_a_link_that_comes_in_late_is_followed(
    store: Store, guest: Journal, clock: FakeClock
) -> None:
    """Who was the same person is known only when the journal that says so is read."""
    put_event(guest, clock, n=1, actor=Actor("11", "7"))
    store.absorb(freeze=False)
    clock.advance(1)
    said, clock_then = clock.wall_ns(), clock.boot_ns()
    clock.advance(1)
    store.record_state({forgotten_facet("ann"): BY_IDENTITY})
    store.absorb(freeze=False)
    assert tracked(store) == [1]

    change = {"set": joined("7", "ann"), "identify": ["11", "7", "ann"]}
    guest.put(Kind.STATE, 0, said, clock_then, json.dumps(change).encode())
    assert store.absorb(freeze=False).erased

    assert tracked(store) == []
    assert store.ledger is not None and store.ledger.queue.actors() == []


def test_dead_letters_and_held_properties_are_forgotten(store: Store, clock: FakeClock) -> None:
    """Also what was refused, and what waits for a name."""
    put_event(store.journal, clock, n=1, actor=Actor("11", "7"))
    store.record_user_properties(Actor("11", "7"), b'{"mail":"a@b.example"}')
    store.absorb(freeze=False)
    assert store.ledger is not None
    queue = store.ledger.queue
    queue.bury([one.id for one in queue.peek()], status=400, reason="no", now=0)
    clock.advance(1)
    store.record_state({forgotten_facet("7"): BY_USER_ID})

    store.absorb(freeze=False)

    assert queue.dead_count() == 0
    assert store.books().counts["dropped.purged"] == 1
    assert store.ledger.database.query("SELECT * FROM user_property") == []
    assert queue.purges == 1


def test_no_byte_of_somebody_forgotten_stays(
    store: Store, state_dir: Path, clock: FakeClock
) -> None:
    """Not in the database, not in its log, not in a journal; delivered rows left none before."""
    for number in range(2000):
        actor = Actor("11", "7", "nobody-must-know") if number % 3 else OTHER
        # Rows of many sizes are moved about in their pages.
        put_event(store.journal, clock, n=number, actor=actor, more="x" * (number * 37 % 61))
    store.absorb(freeze=True)
    assert store.ledger is not None
    store.ledger.queue.ack([one.id for one in store.ledger.queue.peek(limit=500)])
    put_event(store.journal, clock, n=0, actor=Actor("11", "7", "nobody-must-know"))
    clock.advance(1)
    store.record_state({forgotten_facet("nobody-must-know"): BY_IDENTITY})
    store.journal.rotate()

    store.absorb(freeze=False)

    assert store.ledger.queue.actors() == ["99"]
    for path in state_dir.iterdir():
        assert b"nobody-must-know" not in path.read_bytes(), path.name


def test_no_byte_of_what_was_purged_stays(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """Neither of ours nor of a guest's, once both have sealed what they wrote it to."""
    for number in range(500):
        track(store, n=number, actor=Actor("11", "7", "nobody-must-know"))
        put_event(guest, clock, n=number, actor=Actor("11", "7", "nobody-must-know"))
    store.record_user_properties(Actor("11", "7", "nobody-must-know"), b'{"a":"b"}')
    store.absorb(freeze=True)
    clock.advance(1)
    store.record_state({CONSENT: False}, purge=True)
    store.journal.rotate()
    guest.rotate()

    with Reader(outlook.database_path(state_dir)):  # the log cannot be cut meanwhile
        assert store.absorb(freeze=False).erased
    store.keep_within_bounds()

    for path in state_dir.iterdir():
        assert b"nobody-must-know" not in path.read_bytes(), path.name


def test_forgetting_survives_a_restart(state_dir: Path, clock: FakeClock) -> None:
    """What a journal holds back until then is judged by what was said before."""
    guest = Journal(state_dir, clock.boot_id)
    guest.open()
    then = clock.boot_ns()
    with opened(state_dir, clock) as store:
        clock.advance(1)
        store.record_state({forgotten_facet("ann"): BY_IDENTITY})
        store.absorb(freeze=False)
    with opened(state_dir, clock) as store:
        body = Wire().body("Late", {}, Ambient.of({}, actor_line(ANNS, "5")))
        assert body is not None
        guest.put(Kind.EVENT, 0, clock.wall_ns(), then, body)
        guest.close()
        store.absorb(freeze=False)
        assert store.books().counts["dropped.purged"] == 1
        balanced(store)


def test_an_owner_dies_before_a_tally_is_unlinked(state_dir: Path, clock: FakeClock) -> None:
    """A tally without parts holds nobody up, is counted once, and goes with the next owner."""
    with opened(state_dir, clock) as guest:
        track(guest, n=1)
        guest.journal.allow(0)
        assert not track(guest, n=2)
    program = """
import os, signal, sys
from pathlib import Path
from heap_agent._store import system
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

unlink = system.unlink_quietly

def die_at_the_tally(path):
    if path.suffix == ".tally":
        os.kill(os.getpid(), signal.SIGTERM)
    return unlink(path)

system.unlink_quietly = die_at_the_tally
store = Store(Path(sys.argv[1]), FakeClock(), max_bytes=1 << 26)
store.open()
store.absorb(freeze=False)
"""
    assert run(program, state_dir).returncode not in (0, 1)
    assert not list(state_dir.glob(f"{guest.journal.id}*.part"))

    with opened(state_dir, clock) as store:
        track(store, n=3)
        store.absorb(freeze=False)

        assert tracked(store) == [1, 3]
        assert store.books().counts["dropped.full"] == 1
        assert not list(state_dir.glob("*.tally"))
        balanced(store)


def test_a_journal_that_ends_during_the_look(
    store: Store, guest: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was seen and is gone when its turn comes has nothing to be read."""
    track(store, n=1)
    real = tally.read_tallies

    def read(directory: Path) -> dict[str, int]:
        guest.close()
        return real(directory)

    monkeypatch.setattr(tally, "read_tallies", read)
    store.absorb(freeze=False)

    assert tracked(store) == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_writer_that_died_before_its_first_part(store: Store, state_dir: Path) -> None:
    """What it had begun goes with its lock."""
    program = """
import os, signal, sys
from pathlib import Path
from heap_agent._store.journal import Journal
Journal._publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Journal(Path(sys.argv[1]), "boot").open()
"""
    assert run(program, state_dir).returncode == -9
    assert any(name.endswith(".draft") for name in names(state_dir))

    store.absorb(freeze=False)

    assert {name[:16] for name in names(state_dir)} == {store.journal.id}


# -- what cannot be read ------------------------------------------------------------


def hide(part: Path) -> Path:
    """Put something that no user can open in a part's place; where the part is now."""
    aside = part.with_suffix(".aside")
    part.rename(aside)
    part.symlink_to(part)
    return aside


def test_a_part_that_cannot_be_read_holds_nobody_up(
    store: Store, guest: Journal, state_dir: Path, clock: FakeClock
) -> None:
    """The others come in, also of its journal; it stays, is told of, and comes in later."""
    for number in range(3):
        put_event(guest, clock, n=number)
        guest.rotate()
    track(store, n=3)
    bad = sorted(state_dir.glob(f"{guest.id}-*.part"))[1]
    aside = hide(bad)

    for _ in range(2):
        store.absorb(freeze=False)

        assert tracked(store) == [0, 2, 3] or tracked(store) == [3, 0, 2]
        assert store.trouble is not None and bad.name in store.trouble
        assert bad.name in str(outlook.trouble(state_dir))
        assert store.books().queued == 3
        assert store.read_state().facets == {}
    with opened(state_dir, clock) as other:
        assert other.books().queued == 3

    bad.unlink()
    aside.rename(bad)
    store.absorb(freeze=False)
    assert sorted(tracked(store)) == [0, 1, 2, 3]
    assert store.trouble is None and outlook.trouble(state_dir) is None
    assert not bad.exists()


def test_a_fault_in_the_data_does_not_reach_who_absorbs(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, and logged once; the next absorption begins anew."""
    track(store, n=1)
    with monkeypatch.context() as patch:
        patch.setattr(files, "spans", lambda *_: 1 // 0)
        for _ in range(3):
            assert store.absorb(freeze=False).records == 0
            assert store.trouble == "ZeroDivisionError: integer division or modulo by zero"
    assert len(caplog.records) == 1

    assert store.absorb(freeze=False).records == 1
    assert store.trouble is None and tracked(store) == [1]


# -- a part of what waits ---------------------------------------------------------------


def test_some_events_can_be_taken_and_the_others_left(store: Store) -> None:
    """Exactly as many, from wherever the last ones ended, though they share a part."""
    store.absorb(freeze=False)
    for number in range(25):
        track(store, n=number)
    done = [store.absorb(freeze=False, some=10) for _ in range(4)]

    assert [one.records for one in done] == [10, 10, 5, 0]
    assert [one.more for one in done] == [True, True, False, False]
    assert tracked(store) == list(range(25))


@pytest.mark.parametrize("facet", [PAUSED, forgotten_facet("ann")])
def test_no_word_is_left_waiting(store: Store, facet: str) -> None:
    """What somebody has said is heard, however many events stand before it."""
    store.absorb(freeze=False)
    for number in range(25):
        track(store, n=number)
    store.record_state({facet: True if facet == PAUSED else BY_IDENTITY})
    for number in range(25, 30):
        track(store, n=number)

    assert store.absorb(freeze=False, some=10).state_changed
    assert tracked(store)[:25] == list(range(25))


def test_a_word_of_another_process_is_heard_too(store: Store, guest: Journal) -> None:
    """Nobody has rung yet: its first look may be before ours."""
    for number in range(25):
        track(store, n=number)
    body = json.dumps({"set": {PAUSED: True}}).encode()
    guest.put(Kind.STATE, 0, store.clock.wall_ns(), store.clock.boot_ns(), body)

    assert store.absorb(freeze=False, some=10).state_changed


def test_damage_counts_the_same_in_small_steps(store: Store, guest: Journal) -> None:
    """A record in the middle that cannot be read is one, wherever a step ends."""
    for number in range(20):
        put_event(guest, store.clock, n=number)
    (path,) = [part.path for part in files.find_parts(store.directory)[guest.id]]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    while store.absorb(freeze=False, some=3).more:
        pass

    assert len(tracked(store)) == 19
    assert store.books().counts["dropped.damaged"] == 1

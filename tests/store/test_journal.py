"""
The writing side of a journal, and what a reader finds: every rule has the failure that
it comes from.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ANN, balanced, bodies, opened, put_event, track

from heap_agent._core.bounds import PART
from heap_agent._core.events import Kind
from heap_agent._core.records import (
    PartHeader,
    Record,
    pack_header,
    pack_record,
    unpack_header,
)
from heap_agent._core.wire import actor_line
from heap_agent._store import parts as files
from heap_agent._store import system
from heap_agent._store.journal import Journal, Seams
from heap_agent._store.owner import try_lock
from heap_agent._store.spill import SPILL_BYTES
from heap_agent._store.tally import read_tallies
from heap_agent.testing import FakeClock

CLOCK = FakeClock()
NOWHERE = OSError(errno.ENOSPC, "No space left on device")

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
holding_only = pytest.mark.skipif(
    system.holding_write() is None, reason="every write lets go of the interpreter here"
)


class Disk:
    """
    System calls that refuse when they are told to.
    """

    def __init__(self) -> None:
        self.full = False
        self.room: int | None = None  # bytes that the next write takes before it is full
        self.broken = False  # no sync succeeds
        self.before_write: Callable[[], None] | None = None
        self.syncs: list[int] = []

    @property
    def seams(self) -> Seams:
        """For a journal."""
        return Seams(self.write, self.sync)

    def write(self, fd: int, data: bytes) -> int:
        """As os.write."""
        hook, self.before_write = self.before_write, None
        if hook is not None:
            hook()
        if self.room is not None:
            room, self.room, self.full = self.room, None, True
            return os.write(fd, data[:room])
        if self.full:
            raise NOWHERE
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """As os.fdatasync."""
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self.syncs.append(fd)
        os.fsync(fd)


@pytest.fixture(name="disk")
def _disk() -> Disk:
    return Disk()


@pytest.fixture(name="journal")
def _journal(state_dir: Path, disk: Disk) -> Iterator[Journal]:
    journal = Journal(state_dir, "boot", seams=disk.seams)
    assert journal.open()
    yield journal
    journal.close()


def put(journal: Journal, body: bytes, kind: Kind = Kind.STATE) -> bool:
    """Record something."""
    return journal.put(kind, 0, 1, 2, body)


def read(
    directory: Path,
    id: str,
    *,
    dead: bool = False,
    positions: dict[tuple[str, int], int] | None = None,
) -> list[bytes | int]:
    """What an owner would find: bodies, and how many records are damaged in between."""
    found: list[bytes | int] = []
    known = {} if positions is None else positions
    for span in files.spans(files.find_parts(directory).get(id, []), known):
        chunk = files.read_part(
            span.part.path,
            known.get(span.part.place, span.begin),
            complete=dead or span.sealed,
            until=span.until,
            following=span.following,
        )
        assert chunk is not None
        found += [record.body for record in chunk.records]
        if chunk.damaged:
            found.append(chunk.damaged)
        known[span.part.place] = chunk.end
    return found


def part_files(directory: Path) -> list[Path]:
    """Parts by number."""
    return sorted(directory.glob("*.part"))


# -- writing ------------------------------------------------------------------------


def test_a_record_is_with_the_kernel_when_put_returns(journal: Journal, state_dir: Path) -> None:
    """Another process finds at once what was recorded, with nothing closed or synced."""
    assert put(journal, b"one") and put(journal, b"two")

    assert read(state_dir, journal.id) == [b"one", b"two"]
    assert journal.storage == "disk"


def lets_go(journal: Journal) -> bool:
    """Whether the next record is written by a call that lets go of the interpreter."""
    called: list[str] = []
    sys.setprofile(lambda frame, event, arg: called.append(getattr(arg, "__name__", "")))
    put(journal, b"watched")
    sys.setprofile(None)
    return "write" in called


@holding_only
def test_a_writer_keeps_hold_of_the_interpreter_while_the_disk_is_quick(state_dir: Path) -> None:
    """Where a sync takes long a write may, too: then other threads go on meanwhile."""
    pauses = [0.6, 0.0]

    def sync(fd: int) -> None:
        # Nobody knows yet.
        assert lets_go(journal)
        os.fdatasync(fd)
        time.sleep(pauses.pop(0))

    journal = Journal(state_dir, "boot", seams=Seams(data_sync=sync))
    assert journal.open() and lets_go(journal)
    journal.hold_interpreter()
    assert not lets_go(journal)
    for busy in (True, False):
        assert journal.sync()
        assert lets_go(journal) is busy
    assert read(state_dir, journal.id) == [b"watched"] * 6
    journal.close()


@holding_only
def test_threads_that_record_together_hardly_wait_for_each_other(state_dir: Path) -> None:
    """Who queues for the lock is handed it without the interpreter: a switch or two a call."""
    import resource

    journal = Journal(state_dir, "boot")
    assert journal.open()
    journal.hold_interpreter()
    begin = threading.Barrier(9)

    def record() -> None:
        begin.wait()
        for _ in range(2_500):
            put(journal, b"x" * 200)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    begin.wait()
    for thread in threads:
        thread.join()
    waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

    assert waits < 0.3 * 20_000
    assert len(read(state_dir, journal.id)) == 20_000
    journal.close()


@holding_only
def test_what_refuses_a_write_that_holds_the_interpreter_is_known(state_dir: Path) -> None:
    """Nothing of the record is lost, and the trouble has the system's own words."""
    import resource

    journal = Journal(state_dir, "boot")
    journal.hold_interpreter()
    assert journal.open() and put(journal, b"one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, words in ((0, os.strerror(errno.EFBIG)), (10, "only a part of a record")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + room, before[1]))
        put(journal, b"waits for room")
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert journal.storage == "memory"
        assert words in (journal.trouble or "")
        assert journal.retry()
    assert journal.storage == "disk"
    assert read(state_dir, journal.id) == [b"one", b"waits for room", b"waits for room"]
    journal.close()


def test_a_machine_that_is_restored_with_its_memory(tmp_path: Path) -> None:
    """
    Each time it goes on with the same journal and the next number: what it records then is
    new, and what it had recorded before is the same event.
    """
    found = []
    for turn in range(2):
        directory = tmp_path / str(turn)
        directory.mkdir(mode=0o700)
        clock = FakeClock()
        with opened(directory, clock) as store:
            store.journal.close()
            store.journal.id = "0123456789abcdef"
            track(store, "Before the snapshot")
            clock.advance(3600 + turn)
            track(store, "After it")
            store.absorb(freeze=False)
            found.append([body["idempotency_key"] for body in bodies(store, Kind.EVENT)])
            balanced(store)
    (before, one), (same, other) = found
    assert before == same and one != other


def test_an_event_has_a_key_of_its_own(state_dir: Path) -> None:
    """Its idempotency key is the journal's random id, the record's number and when; it stays."""
    clock = FakeClock()
    with opened(state_dir, clock) as store:
        track(store)
        clock.advance(0.5)
        track(store)
        first = f"{store.journal.id}-{1:012x}-{0:08x}"
        keys = [first, f"{store.journal.id}-{2:012x}-{500_000:08x}"]
        store.absorb(freeze=False)

        assert [event["idempotency_key"] for event in bodies(store, Kind.EVENT)] == keys

        # As after a time without a disk: the row is recorded again, as it was.
        (ledger,) = store.queues()
        row, _ = ledger.queue.load([one.id for one in ledger.queue.peek()])
        body = actor_line(ANN) + row.entry.body
        clock = store.clock
        store.journal.put(Kind.EVENT, 0, clock.wall_ns() + 1_000, clock.boot_ns(), body)
        store.absorb(freeze=False)

        assert bodies(store, Kind.EVENT)[2] == bodies(store, Kind.EVENT)[0]


def test_journals_never_share_an_id(state_dir: Path) -> None:
    """Ids come from the system: a cloned disk or a restored snapshot repeats none."""
    assert len({Journal(state_dir, "boot").id for _ in range(50)}) == 50


@posix_only
def test_files_are_private_under_any_umask(state_dir: Path) -> None:
    """Parts and locks have mode 0600, also where the program's umask is 0."""
    before = os.umask(0)
    try:
        journal = Journal(state_dir, "boot")
        put_event(journal, CLOCK)
        journal.open()
        journal.close()
    finally:
        os.umask(before)

    modes = {path.name: path.stat().st_mode & 0o777 for path in state_dir.iterdir()}
    assert set(modes.values()) <= {0o600}


def test_the_lock_is_there_before_the_first_part(state_dir: Path, disk: Disk) -> None:
    """At the first write to a part its journal's lock is held already."""
    journal = Journal(state_dir, "boot", seams=disk.seams)
    held: list[bool] = []

    def look() -> None:
        path = files.lock_path(state_dir, journal.id)
        held.append(path.exists() and try_lock(path) is None)

    disk.before_write = look
    journal.open()
    journal.close()

    assert held == [True]


def test_a_journal_without_records_leaves_nothing(state_dir: Path) -> None:
    """A program that only starts and ends leaves no file."""
    journal = Journal(state_dir, "boot")
    journal.open()
    journal.close()

    assert list(state_dir.iterdir()) == []


def test_after_close_another_journal_begins(journal: Journal, state_dir: Path) -> None:
    """What is recorded after the end goes to a new journal, opened by the record itself."""
    put(journal, b"before")
    first = journal.id
    journal.close()
    assert journal.storage == "disk"

    put(journal, b"after")

    assert journal.id != first
    assert read(state_dir, first) == [b"before"]
    assert read(state_dir, journal.id) == [b"after"]


# -- rotation -----------------------------------------------------------------------


def test_rotation_seals_and_goes_on(journal: Journal, state_dir: Path) -> None:
    """A sealed part stays until somebody reads it; the next one goes on with the numbers."""
    put(journal, b"one")
    assert journal.rotate()
    put(journal, b"two")

    assert read(state_dir, journal.id) == [b"one", b"two"]
    headers = [unpack_header(path.read_bytes()) for path in part_files(state_dir)]
    assert [header and header.first for header in headers] == [1, 2]


def test_a_rotation_that_fails_is_never_seen(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """
    An owner that saw the new part for a moment would take the old one for sealed, and unlink it
    under the hands of its writer.
    """
    put(journal, b"one")
    seen: list[bool] = []

    def look() -> None:
        (parts,) = files.find_parts(state_dir).values()
        seen.extend(span.sealed for span in files.spans(parts, {}))

    disk.before_write = look
    disk.room = 5
    assert not journal.rotate()
    disk.full = False
    put(journal, b"two")

    assert seen == [False]
    assert not list(state_dir.glob("*.draft"))
    assert read(state_dir, journal.id) == [b"one", b"two"]
    assert journal.rotate()


def test_part_numbers_never_come_back(journal: Journal, state_dir: Path) -> None:
    """A part that was unlinked leaves its number unused."""
    journal.rotate()
    part_files(state_dir)[0].unlink()
    journal.rotate()

    assert [int(path.stem[-8:]) for path in part_files(state_dir)] == [2, 3]


def test_the_keeper_is_called_for_each_full_part(state_dir: Path) -> None:
    """At every multiple of a part's size somebody is asked to seal it."""
    calls: list[int] = []
    journal = Journal(state_dir, "boot", attend=lambda: calls.append(1))
    journal.open()
    while not journal.full:
        put(journal, b"x" * 50_000)
    assert calls == [1]

    journal.rotate()

    assert not journal.full and journal.size < 1_000
    journal.close()


def test_put_and_rotate_race(journal: Journal, state_dir: Path) -> None:
    """Eight threads record while another seals: nothing falls between two parts."""
    each = 400
    done = threading.Event()

    def record(thread: int) -> None:
        for number in range(each):
            put(journal, b"%d %d" % (thread, number))

    def seal() -> None:
        while not done.is_set():
            journal.rotate()
            journal.sync()

    threads = [threading.Thread(target=record, args=(thread,)) for thread in range(8)]
    sealer = threading.Thread(target=seal)
    sealer.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    sealer.join()

    found = read(state_dir, journal.id)
    assert sorted(found) == sorted(b"%d %d" % (t, n) for t in range(8) for n in range(each))  # type: ignore[type-var]
    for thread in range(8):
        own = [body for body in found if body.split()[0] == b"%d" % thread]  # type: ignore[union-attr]
        assert own == [b"%d %d" % (thread, number) for number in range(each)]


# -- signal handlers ----------------------------------------------------------------


@pytest.mark.parametrize("call", ["put", "rotate", "retry", "open", "copy"])
def test_a_record_inside_another_call(
    call: str, journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """What a signal handler records in the middle of a system call is neither lost nor stuck."""
    put(journal, b"first")
    if call == "retry":
        disk.full = True
        put(journal, b"spilled")
        disk.full = False
    if call == "open":
        journal.hold_off()
    disk.before_write = lambda: put(journal, b"nested") and None
    if call == "put":
        put(journal, b"outer")
    elif call == "rotate":
        assert journal.rotate()
    elif call == "copy":
        disk.broken = True
        disk.before_write = lambda: (
            [setattr(disk, "broken", False), put(journal, b"nested")] and None
        )
        assert journal.sync()
    else:
        assert journal.retry()
    put(journal, b"last")

    assert journal.storage == "disk"
    found = read(state_dir, journal.id)
    expected = {b"first", b"nested", b"last"}
    expected |= {b"outer"} if call == "put" else set()
    expected |= {b"spilled"} if call == "retry" else set()
    assert set(found) == expected and len(found) == len(expected)
    assert journal.sync()


def test_a_record_behind_a_fragment(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """What a signal handler records before a short write is repaired is not cut off."""
    put(journal, b"first")
    write = disk.write

    def short(fd: int, data: bytes) -> int:
        journal._write = write
        written = os.write(fd, data[:20])
        put(journal, b"nested")
        return written

    journal._write = short
    put(journal, b"outer")
    assert journal.retry()
    put(journal, b"last")

    found = [body for body in read(state_dir, journal.id) if isinstance(body, bytes)]
    assert found == [b"first", b"nested", b"outer", b"last"]


def test_an_exception_between_a_write_and_its_counting(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """A copy begins where a record does, also when the file holds more than was counted."""
    write = disk.write

    def then_raise(fd: int, data: bytes) -> int:
        journal._write = write
        write(fd, data)
        raise KeyboardInterrupt

    journal._write = then_raise
    with pytest.raises(KeyboardInterrupt):
        put(journal, b"interrupted")
    for number in range(6):
        put(journal, b"%d" % number)
    assert journal.sync()
    put(journal, b"unsynced")
    disk.broken = True
    assert not journal.sync()
    disk.broken = False
    assert journal.sync()
    assert journal.rotate()

    expected = [b"interrupted", *(b"%d" % number for number in range(6)), b"unsynced"]
    assert read(state_dir, journal.id) == expected


def test_a_write_that_a_fork_interrupts(state_dir: Path, tmp_path: Path) -> None:
    """
    The child of a signal handler's fork goes on inside of `put`: it does not write into
    whatever has got the descriptor that it closed.
    """
    journal = Journal(state_dir, "boot")
    journal.open()
    part = journal._part
    assert part is not None
    descriptor = part.fd
    journal.abandon()
    assert os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT) == descriptor

    with pytest.raises(OSError):
        os.write(part.fd, b"a record")

    os.close(descriptor)
    assert (tmp_path / "other").read_bytes() == b""


def test_an_interrupted_retry_loses_nothing(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """What a signal handler raises while the spill is written leaves the rest there."""
    disk.full = True
    for number in range(3):
        put(journal, b"%d" % number)
    disk.full = False

    def interrupt() -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        disk.before_write = interrupt
        with pytest.raises(KeyboardInterrupt):
            journal.retry()
    assert journal.retry()

    assert [body for body in read(state_dir, journal.id) if isinstance(body, bytes)] == [
        b"0",
        b"1",
        b"2",
    ]


@posix_only
def test_a_handler_records_while_the_spill_is_looked_at(state_dir: Path, disk: Disk) -> None:
    """Neither a look nor a record meets a queue that changes under it."""
    journal = Journal(state_dir, "boot", seams=disk.seams)
    disk.full = True
    before = signal.signal(signal.SIGALRM, lambda *_: put_event(journal, CLOCK) and None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for number in range(3_000):
            put(journal, b"s" * 2_000, Kind.EVENT if number % 2 else Kind.STATE)
            assert journal.spilled_entries() and journal.spilled >= 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sum(entry.size for entry in journal.spilled_entries()) <= SPILL_BYTES
    journal.close()


def test_state_that_waits_is_bounded_too(journal: Journal, disk: Disk) -> None:
    """When there is no event left to go for it, the oldest goes, counted under its own name."""
    disk.full = True
    put(journal, b"x" * 1_000_000, Kind.EVENT)
    for _ in range(5):
        put(journal, b"x" * 1_000_000)

    assert len(journal.spilled_entries()) == 4
    assert journal.pending_counts() == {
        "recorded": 1,
        "dropped.unwritten": 1,
        "unwritten_state": 1,
    }


def test_the_failed_sync_of_an_empty_part_is_no_loss(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """Its copy says where it stood, though others have been written behind it since."""
    assert journal.rotate()
    for number in range(5):
        put(journal, b"%d" % number)
    disk.broken = True
    assert not journal.sync()
    disk.broken = False
    assert journal.sync()
    assert journal.rotate()

    assert read(state_dir, journal.id) == [b"%d" % number for number in range(5)]


def test_a_record_inside_a_repair(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """While a fragment is taken off again, a record of the same thread waits its turn."""
    put(journal, b"first")
    real = os.ftruncate

    def truncate(fd: int, size: int) -> None:
        put(journal, b"nested")
        real(fd, size)

    disk.room = 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "ftruncate", truncate)
        put(journal, b"outer")
    disk.full = False

    assert journal.storage == "memory"
    assert journal.retry()
    assert read(state_dir, journal.id) == [b"first", b"outer", b"nested"]


@posix_only
def test_recording_in_a_real_signal_handler(journal: Journal, state_dir: Path) -> None:
    """A timer that records ten thousand times a second neither deadlocks nor loses a record."""
    handled = 0

    def handler(number: int, frame: object) -> None:
        nonlocal handled
        put(journal, b"handler")
        handled += 1

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    direct = 0
    try:
        while handled < 200 or direct < 2_000:
            put(journal, b"direct")
            direct += 1
            if direct % 50 == 0:
                journal.rotate()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert journal.retry()
    found = read(state_dir, journal.id)
    assert (found.count(b"direct"), found.count(b"handler")) == (direct, handled)
    assert len(found) == direct + handled


# -- a disk that refuses ------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 4, 11, 30, 40])
def test_a_short_write_leaves_no_trace(
    room: int, journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """A full disk takes a part of a record first: it is taken off, kept, and written later."""
    put(journal, b"one")
    disk.room = room
    put(journal, b"two, which is cut")
    put(journal, b"three")

    assert journal.storage == "memory"
    assert journal.trouble == "the disk took only a part of a record"
    assert part_files(state_dir)[0].stat().st_size == journal.size
    assert read(state_dir, journal.id) == [b"one"]
    assert not journal.retry()

    disk.full = False
    assert journal.retry()
    put(journal, b"four")

    assert journal.storage == "disk" and journal.trouble is None
    assert read(state_dir, journal.id, dead=True) == [
        b"one",
        b"two, which is cut",
        b"three",
        b"four",
    ]


def test_a_fragment_that_stays_is_no_record_and_no_loss(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """Where even the cut fails, a new part is begun, and nobody counts a loss."""
    put(journal, b"one")
    disk.room = 20

    def truncate(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "ftruncate", truncate)
        put(journal, b"two")
    disk.full = False
    assert journal.retry()
    put(journal, b"three")

    assert read(state_dir, journal.id) == [b"one", b"two", b"three"]


def test_the_order_is_kept_over_a_full_disk(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """Events before, during and after a full disk stand in the order in which they came."""
    for number in range(30):
        disk.full = 10 <= number < 20
        put(journal, b"%d" % number)
    assert journal.spilled == 0  # none of these is an event
    assert journal.retry()

    assert read(state_dir, journal.id) == [b"%d" % number for number in range(30)]


def test_memory_is_bounded(journal: Journal, disk: Disk) -> None:
    """On a disk that refuses for long the oldest events go, counted; state stays."""
    disk.full = True
    put(journal, b"state")
    for _ in range(6):
        put(journal, b"x" * 1_000_000, Kind.EVENT)

    assert journal.spilled == 4
    assert journal.pending_counts() == {"recorded": 2, "dropped.unwritten": 2}
    assert sum(entry.size for entry in journal.spilled_entries()) <= SPILL_BYTES
    assert journal.spilled_entries()[0].body == b"state"


def test_a_disk_that_refuses_from_the_start(state_dir: Path, disk: Disk) -> None:
    """Without a first part records wait in memory, and reach the disk when it is there."""
    disk.full = True
    journal = Journal(state_dir, "boot", seams=disk.seams)
    assert not journal.open()
    put(journal, b"one")
    assert (journal.storage, part_files(state_dir)) == ("memory", [])

    disk.full = False
    assert journal.retry()

    assert read(state_dir, journal.id) == [b"one"]
    journal.close()


def test_without_a_directory_everything_is_memory() -> None:
    """No directory, no files: records wait until somebody takes them."""
    journal = Journal(None, "boot")
    assert not journal.open() and not journal.retry() and not journal.rotate()
    put_event(journal, CLOCK)

    assert (journal.storage, journal.spilled) == ("memory", 1)
    assert not journal.sync()
    assert len(journal.take_spilled()) == 1 and journal.spilled == 0
    journal.close()


def test_a_journal_that_holds_off_writes_nothing(journal: Journal, state_dir: Path) -> None:
    """While the disk's last room is needed for something else records wait in memory."""
    put(journal, b"one")
    journal.hold_off()
    put(journal, b"two")
    assert journal.storage == "memory" and read(state_dir, journal.id) == [b"one"]

    assert journal.retry()

    assert read(state_dir, journal.id) == [b"one", b"two"]


@posix_only
def test_an_interrupt_at_any_moment_leaves_the_journal_free(state_dir: Path) -> None:
    """Ctrl-C inside of `put`, also while it waits for another thread, keeps nobody out."""
    program = """
import signal, sys, threading
from pathlib import Path
from heap_agent._store.journal import Journal

journal = Journal(Path(sys.argv[1]), "boot")
journal.open()
done = threading.Event()

def other():
    while not done.is_set():
        journal.put(16, 0, 1, 2, b"other")

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
caught = 0
for busy in (False, True):
    if busy:
        threading.Thread(target=other).start()
    goal = caught + 1_000
    while caught < goal:
        try:
            signal.setitimer(signal.ITIMER_REAL, 5e-5)
            while True:
                journal.put(16, 0, 1, 2, b"main")
        except KeyboardInterrupt:
            caught += 1
done.set()
last = threading.Thread(target=journal.put, args=(16, 0, 1, 2, b"last"), daemon=True)
last.start()
last.join(30)
print("free" if not last.is_alive() else "taken")
"""
    found = subprocess.run(
        [sys.executable, "-c", program, str(state_dir)], capture_output=True, text=True, timeout=120
    )
    assert (found.stdout, found.stderr) == ("free\n", "")


@posix_only
def test_a_real_limit_on_file_sizes(state_dir: Path) -> None:
    """Under RLIMIT_FSIZE the kernel itself writes short: nothing is lost, torn or doubled."""
    program = """
import resource, signal, sys
from pathlib import Path
from heap_agent._store.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_003, hard))
journal = Journal(Path(sys.argv[1]), "boot")
journal.open()
for number in range(200):
    journal.put(16, 0, 1, 2, b"%04d" % number + b"x" * 80)
assert journal.storage == "memory", journal
assert not journal.retry()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert journal.retry() and journal.sync()
print(journal.id)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(state_dir)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    found = read(state_dir, done.stdout.strip(), dead=True)

    assert [body[:4] for body in found] == [b"%04d" % number for number in range(200)]  # type: ignore[index]


def test_somebody_removes_the_files(journal: Journal, state_dir: Path) -> None:
    """Writing to an unlinked file succeeds into nothing: another journal is begun instead."""
    put(journal, b"one")
    assert not journal.leave_if_unlinked()
    first = journal.id
    for path in state_dir.iterdir():
        path.unlink()

    assert journal.leave_if_unlinked()
    put(journal, b"two")

    assert journal.id != first
    assert read(state_dir, journal.id) == [b"two"]


# -- the hard cap -------------------------------------------------------------------


def test_at_the_hard_cap_events_are_refused_and_counted(journal: Journal, state_dir: Path) -> None:
    """Who is logged in is still recorded; an event is dropped, counted, and said so."""
    journal.allow(0)

    assert not put_event(journal, CLOCK)
    assert put(journal, b"state")

    assert journal.refused == 1 and read_tallies(state_dir) == {journal.id: 1}
    assert read(state_dir, journal.id) == [b"state"]
    journal.allow(1_000_000)
    assert put_event(journal, CLOCK)


def test_the_cap_is_noticed_while_recording(journal: Journal) -> None:
    """Without anybody who looks, recording itself ends with the allowance."""
    journal.allow(3 * PART)
    written = 0
    while put(journal, b"x" * 10_000, Kind.EVENT):
        written += 10_000

    assert 3 * PART - 10_000 <= written <= 3 * PART + 10_000


def test_a_refusal_that_cannot_be_written_is_counted_in_memory(
    journal: Journal, state_dir: Path
) -> None:
    """Where there is nowhere to count, the keeper writes the number later."""
    journal.allow(0)
    (state_dir / f"{journal.id}.tally").mkdir()

    assert not put_event(journal, CLOCK)

    assert journal.pending_counts() == {"recorded": 1, "dropped.full": 1}
    assert journal.refused == 1


def test_refusals_are_brought_to_stable_storage(journal: Journal, disk: Disk) -> None:
    """A power cut takes no more of the number than of the records."""
    assert journal.sync()
    journal.allow(0)
    put_event(journal, CLOCK)
    assert journal.unsynced
    journal._data_sync = disk.sync
    disk.broken = True
    assert not journal.sync()
    disk.broken = False

    assert journal.sync() and not journal.unsynced


def test_a_journal_that_only_refused_leaves_its_number(journal: Journal, state_dir: Path) -> None:
    """Closing does not take away what nobody has counted yet."""
    journal.allow(0)
    put_event(journal, CLOCK)
    id = journal.id
    journal.close()

    assert read_tallies(state_dir) == {id: 1}


def test_at_the_hard_cap_a_full_disk_raises_nothing(journal: Journal, disk: Disk) -> None:
    """State that the cap lets through and the disk refuses waits in memory."""
    journal.allow(0)
    disk.full = True
    assert put(journal, b"state")

    assert journal.storage == "memory"
    disk.full = False
    assert journal.retry()


def test_counts_are_handed_over_once(journal: Journal) -> None:
    """What is counted here is taken by whoever writes it down."""
    journal.count("refused")
    journal.count("refused", 2)

    assert journal.take_counts() == {"refused": 3}
    assert journal.take_counts() == {}


# -- stable storage -----------------------------------------------------------------


def test_sync_begins_with_the_oldest_part(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """Sealed parts are synced first, in order, and closed; only then the growing one."""
    put(journal, b"one")
    journal.rotate()
    put(journal, b"two")
    journal.rotate()
    put(journal, b"three")
    inodes: list[int] = []
    disk_sync = disk.sync

    def sync(fd: int) -> None:
        inodes.append(os.fstat(fd).st_ino)
        disk_sync(fd)

    journal._data_sync = sync
    assert journal.unsynced
    assert journal.sync()

    assert inodes == [path.stat().st_ino for path in part_files(state_dir)]
    assert not journal.unsynced
    assert journal.sync() and len(inodes) == 3


def test_after_a_failed_sync_only_a_copy_is_trusted(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """
    The kernel may call the next sync of the same file a success though it threw the pages
    away: the unsynced range goes to a new part, and is read once.
    """
    put(journal, b"synced")
    assert journal.sync()
    put(journal, b"in doubt")
    disk.broken = True
    assert not journal.sync()
    assert read(state_dir, journal.id) == [b"synced", b"in doubt"]
    first = part_files(state_dir)[0].stat().st_ino
    put(journal, b"meanwhile")

    disk.broken = False
    synced: list[int] = []
    journal._data_sync = lambda fd: synced.append(os.fstat(fd).st_ino)
    assert journal.sync()

    assert synced and first not in synced
    put(journal, b"after")
    assert read(state_dir, journal.id) == [b"synced", b"in doubt", b"meanwhile", b"after"]
    assert journal.storage == "disk"


def test_a_sealed_part_is_copied_without_sealing_the_growing_one(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """
    The copy of an older part must not have the highest number: the part that grows would be
    taken for sealed, read to its end, and unlinked under its writer's hands.
    """
    put(journal, b"one")
    journal.rotate()
    put(journal, b"two")
    disk.broken = True
    fail_once = iter([True])

    def sync(fd: int) -> None:
        if next(fail_once, False):
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(fd)

    journal._data_sync = sync
    assert journal.sync()
    put(journal, b"three")

    spans = files.spans(files.find_parts(state_dir)[journal.id], {})
    assert [span.sealed for span in spans].count(False) == 1
    growing = next(span.part for span in spans if not span.sealed)
    assert unpack_header(growing.path.read_bytes()).replaces is None  # type: ignore[union-attr]
    assert read(state_dir, journal.id) == [b"one", b"two", b"three"]


def test_a_copy_goes_on_where_its_reader_was(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """An owner that had read beyond the last sync reads nothing twice from the copy."""
    put(journal, b"one")
    journal.sync()
    put(journal, b"two")
    positions: dict[tuple[str, int], int] = {}
    assert read(state_dir, journal.id, positions=positions) == [b"one", b"two"]
    put(journal, b"three")
    disk.broken = True
    journal.sync()
    disk.broken = False
    assert journal.sync()
    put(journal, b"four")

    assert read(state_dir, journal.id, positions=positions) == [b"three", b"four"]


def test_a_part_that_its_owner_has_taken_needs_no_copy(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """A sealed part that was absorbed and unlinked is in a synced commit already."""
    put(journal, b"one")
    journal.rotate()
    part_files(state_dir)[0].unlink()
    journal._data_sync = disk.sync
    disk.broken = True
    assert not journal.sync()
    disk.broken = False

    assert journal.sync()
    assert read(state_dir, journal.id) == []


def test_a_failed_copy_is_tried_again(journal: Journal, state_dir: Path, disk: Disk) -> None:
    """Without room for a copy the sync has failed, and the next one makes it."""
    put(journal, b"one")
    disk.broken = disk.full = True
    assert not journal.sync()
    assert not list(state_dir.glob("*.draft"))
    disk.broken = disk.full = False

    assert journal.sync()
    assert read(state_dir, journal.id) == [b"one"]
    assert len(part_files(state_dir)) == 2


@pytest.mark.parametrize("sealed", [False, True])
def test_recording_goes_on_while_a_copy_is_synced(
    journal: Journal, state_dir: Path, sealed: bool
) -> None:
    """What comes meanwhile is in the copy, too, and is synced by the next sync."""
    copying, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def sync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")
        if len(calls) == 2:
            copying.set()
            assert go_on.wait(30)
        os.fsync(fd)

    def record() -> None:
        put(journal, b"two")
        if sealed:
            journal.rotate()
        put(journal, b"three")

    journal._data_sync = sync
    put(journal, b"one")
    syncing, recording = threading.Thread(target=journal.sync), threading.Thread(target=record)
    syncing.start()
    assert copying.wait(30)
    recording.start()
    recording.join(10)
    waits = recording.is_alive()
    go_on.set()
    syncing.join(30)
    recording.join(30)

    assert not waits, "a recording call waits for a sync"
    put(journal, b"four")
    assert read(state_dir, journal.id) == [b"one", b"two", b"three", b"four"]
    assert journal.unsynced and journal.sync() and not journal.unsynced


def retry_slowly(journal: Journal, disk: Disk, pause: float) -> threading.Thread:
    """A thread that writes what waits to a disk that takes so long for each; it has begun."""
    begun = threading.Event()

    def slow_write(fd: int, data: bytes) -> int:
        begun.set()
        time.sleep(pause)
        return os.write(fd, data)

    disk.full, journal._write = False, slow_write
    retrying = threading.Thread(target=journal.retry)
    retrying.start()
    assert begun.wait(30)
    return retrying


def test_recording_does_not_wait_for_what_was_refused_before(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """On a disk that is slow again a call waits for one record of another thread, not for all."""
    disk.full = True
    for number in range(2_000):
        put(journal, b"%d" % number)
    retrying = retry_slowly(journal, disk, 0.005)

    put(journal, b"2000")

    assert retrying.is_alive(), "the call has waited for all of them"
    journal._write = os.write
    retrying.join(30)
    assert read(state_dir, journal.id) == [b"%d" % number for number in range(2_001)]


def test_recording_without_end_does_not_keep_records_in_memory(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """While a slow disk takes what has waited, whoever records writes more than comes in."""
    disk.full = True
    for number in range(200):
        put(journal, b"%d" % number)
    retrying = retry_slowly(journal, disk, 0.002)
    number = 200
    while retrying.is_alive() and number < 1_000:
        put(journal, b"%d" % number)
        number += 1

    assert not retrying.is_alive()
    assert journal.storage == "disk"
    assert read(state_dir, journal.id) == [b"%d" % one for one in range(number)]


def test_who_writes_what_waits_stops_when_it_is_told(
    journal: Journal, state_dir: Path, disk: Disk
) -> None:
    """What room the disk has may be needed for something else by now."""
    disk.full = True
    for number in range(5):
        put(journal, b"%d" % number)
    disk.full = False
    disk.before_write = journal.hold_off

    assert not journal.retry()

    assert journal.storage == "memory"
    assert read(state_dir, journal.id) == [b"0"]


def test_sync_is_not_true_while_records_wait(journal: Journal, disk: Disk) -> None:
    """What is in memory is not on stable storage."""
    disk.full = True
    put(journal, b"one")

    assert not journal.sync()


# -- reading ------------------------------------------------------------------------


def test_only_our_names_are_parts(state_dir: Path) -> None:
    """Other files in the directory are nobody's journal."""
    (state_dir / "0123456789abcdef-00000001.part").touch()
    (state_dir / "0123456789abcdef-00000001.draft").touch()
    (state_dir / "0123456789abcdef.lock").touch()
    (state_dir / "notes.part").touch()

    assert [part.number for part in files.find_parts(state_dir)["0123456789abcdef"]] == [1]
    assert len(files.find_parts(state_dir)) == 1
    assert files.find_locks(state_dir) == ["0123456789abcdef"]
    assert files.find_parts(state_dir / "missing") == {}
    assert len(list(files.drafts(state_dir, "0123456789abcdef"))) == 1


def test_a_part_that_has_vanished_is_none(state_dir: Path) -> None:
    """The owner may unlink a part at any moment."""
    assert files.read_part(state_dir / "gone.part", 0, complete=True) is None
    assert files.read_header(state_dir / "gone.part") is None


def test_a_newborn_part_is_waited_for(state_dir: Path) -> None:
    """Between its creation and its header a part is not damaged, only young."""
    path = state_dir / "0123456789abcdef-00000001.part"
    path.touch()

    young = files.read_part(path, 0, complete=False)
    dead = files.read_part(path, 0, complete=True)

    assert young == files.Chunk(None, (), 0, 0, False)
    assert dead == files.Chunk(None, (), 0, 0, True)


def test_without_its_header_a_part_is_lost_and_counted(state_dir: Path) -> None:
    """The salt was in the header; how many records there were can still be counted, once."""
    journal = Journal(state_dir, "boot")
    journal.open()
    for number in range(3):
        put(journal, b"%d" % number)
    id = journal.id
    journal.close()
    (path,) = part_files(state_dir)
    content = bytearray(path.read_bytes())
    content[20] ^= 255
    path.write_bytes(content)
    positions: dict[tuple[str, int], int] = {}

    assert read(state_dir, id, dead=True, positions=positions) == [3]
    assert read(state_dir, id, dead=True, positions=positions) == []


def test_a_long_part_is_read_in_pieces(state_dir: Path) -> None:
    """A part that nobody sealed is read a piece at a time, also through long records."""
    journal = Journal(state_dir, "boot")
    journal.open()
    sizes = [10, 5_000, 10, 10, 30_000, 10]
    for size in sizes:
        put(journal, b"x" * size)
    id, (path,) = journal.id, part_files(state_dir)
    journal.close()
    position, found, calls = 0, list[Record](), 0
    while True:
        chunk = files.read_part(path, position, complete=True, limit=1_000)
        assert chunk is not None
        found += chunk.records
        position, calls = chunk.end, calls + 1
        if chunk.finished:
            break

    assert [len(record.body) for record in found] == sizes
    assert calls > 2 and id


def test_copies_of_copies_stand_in_their_places(state_dir: Path) -> None:
    """However often parts were copied, they are read in the order in which they were written."""
    id = "0123456789abcdef"

    def part(number: int, first: int, replaces: tuple[int, int] | None, *sequences: int) -> int:
        header = pack_header(PartHeader("boot", id, 7, first, replaces))
        records = [pack_record(7, 16, 0, 1, 2, n, b"%d" % n) for n in sequences]
        files.part_path(state_dir, id, number).write_bytes(header + b"".join(records))
        return len(header) + (len(records[0]) if records else 0)

    one = part(1, 1, None, 1, 2)
    part(2, 5, None, 5)
    three = part(3, 2, (1, one), 2, 3)
    part(4, 6, None, 6)
    part(5, 3, (3, three), 3, 4)

    assert read(state_dir, id) == [b"1", b"2", b"3", b"4", b"5", b"6"]

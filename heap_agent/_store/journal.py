"""
Append-only records on disk: write, rotate, sync, read back.

A journal belongs to one process. It is a row of parts, `<id>-<number>.part`,
of which only the last grows, and a lock file `<id>.lock` that its writer holds
from before the first part exists until it ends. Whoever can take that lock
knows that the writer is dead.

One `write(2)` a record is all that a caller pays: what the kernel has taken
survives the death of the process. Everything that can block (sync, rotate,
retry) is done by the keeper.

What guards what:

- `_lock`, re-entrant, guards the tail of the journal: sequence, current part,
  spill. A signal handler or finalizer that records while this thread is inside
  is let through; only while a fragment is being repaired (`_repairing`) does its
  record wait in the spill, which the outer call writes before it lets go.
- `_sync_lock` lets one thread at a time sync; no recording call takes it.

Nothing is logged here, because a logging handler may record.

This module must not know what a body means, and not SQLite.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final
from zlib import crc32

import attrs

from heap_agent._core.events import Kind
from heap_agent._core.records import (
    OVERHEAD,
    RECORD_MAGIC,
    Damage,
    PartHeader,
    Record,
    pack_frame,
    pack_header,
    pack_payload,
    read_records,
    unpack_header,
)
from heap_agent._store import system
from heap_agent._store.owner import HeldLock, try_lock

#: A part that has grown to this is sealed, and the keeper is told at every
#: multiple of it. Small enough that absorbing one is quick, large enough that
#: creating files is rare.
PART_BYTES: Final = 262_144

#: What the spill may hold while the disk refuses: a few minutes of events.
SPILL_BYTES: Final = 4_194_304

_NAME: Final = re.compile(r"^([0-9a-f]{16})-(\d{8})\.part$")
_LOCK: Final = re.compile(r"^([0-9a-f]{16})\.lock$")


# -- writing ------------------------------------------------------------------------


@attrs.define(slots=True, eq=False)
class _Part:
    number: int
    path: Path
    fd: int
    salt: int
    size: int
    synced: int = 0
    broken: bool = False  # a sync failed and its bytes could not be copied yet


@attrs.frozen(slots=True)
class Spilled:
    """
    A record that the disk did not take.

    Attributes:
        head, tail: The body before and after the idempotency key; `tail` is
            None where the record has none.
    """

    kind: int
    flags: int
    wall: int
    boot_clock: int
    head: bytes
    tail: bytes | None

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.head) + len(self.tail or b"") + OVERHEAD


@attrs.frozen(slots=True)
class Seams:
    """
    The system calls that a test may replace by failing ones.
    """

    write: Callable[[int, bytes], int] = os.write
    data_sync: Callable[[int], None] = system.data_sync


class Journal:
    """
    The journal of this process. All methods may be called from any thread.

    Args:
        directory: Where parts are kept; None keeps everything in the spill.
        boot_id: The boot that records belong to.
        attend: Called (without arguments, from the recording thread) when the
            keeper should have a look: a part is full, or the disk refused.
            Must be re-entrant and must not block.
        seams: System calls.
    """

    def __init__(
        self,
        directory: Path | None,
        boot_id: str,
        *,
        attend: Callable[[], None] = lambda: None,
        seams: Seams = Seams(),  # noqa: B008 - frozen
    ) -> None:
        self.id = os.urandom(8).hex()
        self._directory = directory
        self._boot_id = boot_id
        self._attend = attend
        self._write = seams.write
        self._data_sync = seams.data_sync
        self._key_prefix = self.id.encode() + b"-"
        self._lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._numbers = count(1)
        self._sequence = 0
        self._part: _Part | None = None
        self._sealed: list[_Part] = []
        self._unlisted = False  # a part was created and the directory not yet synced
        self._held: HeldLock | None = None
        self._attention = PART_BYTES
        self._written = 0  # bytes in all, counted when a part is attended to
        self._allowed_until: int | None = None
        self._refusing = False
        self._repairing = False
        self._opens_itself = False
        self._spill: deque[Spilled] = deque()
        self._spilled_bytes = 0
        self._counts: Counter[str] = Counter()
        self.trouble: str | None = None

    def __repr__(self) -> str:
        part = self._part
        where = "memory" if part is None else f"part {part.number}, {part.size} bytes"
        return f"<Journal {self.id} [{where}, {self._sequence} records, spill {len(self._spill)}]>"

    # -- the hot path --

    def put(
        self,
        kind: int,
        flags: int,
        wall: int,
        boot_clock: int,
        head: bytes,
        tail: bytes | None = None,
    ) -> bool:
        """
        Append one record; it is with the kernel when this returns.

        Args:
            kind: A `Kind`.
            flags: `records.GIVEN`, `records.FROZEN`.
            wall: Wall clock, µs.
            boot_clock: Boot clock, µs.
            head: The body, or its part before the idempotency key.
            tail: Its part after the key; None for a body without one.

        Returns:
            False where the journal is at its hard cap and an event was refused
            (counted as dropped for `full`).
        """
        with self._lock:
            part = self._part
            if part is None or self._spill or self._refusing or self._repairing:
                return self._put_slowly(kind, flags, wall, boot_clock, head, tail)
            sequence = self._sequence = self._sequence + 1
            if tail is None:
                payload = pack_payload(kind, flags, wall, boot_clock, sequence) + head
            else:
                payload = b"".join(
                    (
                        pack_payload(kind, flags, wall, boot_clock, sequence),
                        head,
                        b"%b%012x" % (self._key_prefix, sequence),
                        tail,
                    )
                )
            record = pack_frame(RECORD_MAGIC, len(payload), crc32(payload, part.salt)) + payload
            try:
                written = self._write(part.fd, record)
            except OSError as error:
                self._spill_over(Spilled(kind, flags, wall, boot_clock, head, tail), str(error))
                return True
            if written != len(record):
                self._mend(part, written, Spilled(kind, flags, wall, boot_clock, head, tail))
                return True
            size = part.size = part.size + written
            if size > self._attention:
                self._call_attention(size)
            return True

    def _call_attention(self, size: int) -> None:
        self._attention = size + PART_BYTES
        self._written += PART_BYTES
        if self._allowed_until is not None and self._written >= self._allowed_until:
            self._refusing = True
        self._attend()

    def _put_slowly(
        self,
        kind: int,
        flags: int,
        wall: int,
        boot_clock: int,
        head: bytes,
        tail: bytes | None,
    ) -> bool:
        if self._refusing and kind == Kind.EVENT and not self._repairing:
            self._counts["recorded"] += 1
            self._counts["dropped.full"] += 1
            return False
        entry = Spilled(kind, flags, wall, boot_clock, head, tail)
        if self._opens_itself and not self._repairing:
            self._opens_itself = False
            self._keep(entry)
            self.retry()
            self._attend()
            return True
        if self._refusing and self._part is not None and not self._repairing and not self._spill:
            # Who is logged in matters more than the cap: state is always written.
            self._append(self._part, entry)
        else:
            self._keep(entry)
        return True

    # -- trouble --

    def _spill_over(self, entry: Spilled, why: str) -> None:
        self._keep(entry)
        self.trouble = why
        self._attend()

    def _keep(self, entry: Spilled) -> None:
        self._spill.append(entry)
        self._spilled_bytes += entry.size
        if self._spilled_bytes > SPILL_BYTES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        for index, entry in enumerate(self._spill):
            if entry.kind == Kind.EVENT:
                del self._spill[index]
                self._spilled_bytes -= entry.size
                self._counts["recorded"] += 1
                self._counts["dropped.unwritten"] += 1
                return

    def _mend(self, part: _Part, written: int, entry: Spilled) -> None:
        """
        Take the fragment that a short write left behind off again.
        """
        self._repairing = True
        try:
            self._spill_over(entry, "the disk took only a part of a record")
            os.ftruncate(part.fd, part.size)
        except OSError:
            # The fragment stays, and part.size stays before it: nothing more is
            # written here, the next part begins in a file of its own.
            self._retire(part)
        finally:
            self._repairing = False

    def _retire(self, part: _Part) -> None:
        self._sealed.append(part)
        self._part = None

    def _append(self, part: _Part, entry: Spilled) -> None:
        """
        Write one record, raising where the disk refuses.
        """
        self._sequence += 1
        body = entry.head
        if entry.tail is not None:
            body += b"%b%012x" % (self._key_prefix, self._sequence) + entry.tail
        payload = (
            pack_payload(entry.kind, entry.flags, entry.wall, entry.boot_clock, self._sequence)
            + body
        )
        record = pack_frame(RECORD_MAGIC, len(payload), crc32(payload, part.salt)) + payload
        written = self._write(part.fd, record)
        if written != len(record):
            try:
                os.ftruncate(part.fd, part.size)
            except OSError:
                self._retire(part)
            raise OSError("the disk took only a part of a record")
        part.size += written

    # -- the keeper's part --

    def open(self) -> bool:
        """
        Begin a part if there is none. False where the disk refuses.
        """
        if self._directory is None:
            return False
        with self._lock:
            if self._part is not None:
                return True
            try:
                if self._held is None:
                    # The owner, which looks for dead writers, may hold it for a moment.
                    self._held = try_lock(lock_path(self._directory, self.id), patience=1.0)
                    if self._held is None:
                        raise OSError(f"the lock of journal {self.id} is taken")
                self._part = self._new_part()
            except OSError as error:
                self.trouble = str(error)
                return False
            self._attention = PART_BYTES
            return True

    def _new_part(self, replaces: tuple[int, int] | None = None, content: bytes = b"") -> _Part:
        assert self._directory is not None
        number = next(self._numbers)
        path = self._directory / f"{self.id}-{number:08d}.part"
        salt = int.from_bytes(os.urandom(4), "little")
        header = pack_header(PartHeader(self._boot_id, self.id, salt, self._sequence + 1, replaces))
        fd = system.open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        try:
            data = header + content
            if self._write(fd, data) != len(data):
                raise OSError("no room for a new part")
        except BaseException:
            os.close(fd)
            system.unlink_quietly(path)
            raise
        self._unlisted = True
        return _Part(number, path, fd, salt, len(data))

    def rotate(self) -> bool:
        """
        Seal the current part and begin the next. False where the disk refuses.
        """
        with self._lock:
            part = self._part
            if part is None:
                return self.open()
            try:
                fresh = self._new_part()
            except OSError as error:
                self.trouble = str(error)
                return False
            self._sealed.append(part)
            self._part = fresh
            self._attention = PART_BYTES
            return True

    @property
    def full(self) -> bool:
        """Whether the current part should be sealed."""
        part = self._part
        return part is not None and part.size >= PART_BYTES

    @property
    def size(self) -> int:
        """Bytes in the current part; 0 in memory."""
        part = self._part
        return 0 if part is None else part.size

    def allow(self, room: int) -> None:
        """
        Set the hard cap: how many more bytes may be written before events are
        refused (checked each `PART_BYTES`).
        """
        with self._lock:
            self._allowed_until = self._written + max(0, room)
            self._refusing = room <= 0

    @property
    def storage(self) -> str:
        """``"disk"``, or ``"memory"`` while the disk refuses."""
        return "memory" if self._part is None or self._spill else "disk"

    @property
    def spilled(self) -> int:
        """How many events wait in memory."""
        with self._lock:
            return sum(entry.kind == Kind.EVENT for entry in self._spill)

    def spilled_entries(self) -> list[Spilled]:
        """
        What waits in memory, oldest first.
        """
        with self._lock:
            return list(self._spill)

    def retry(self) -> bool:
        """
        Write what waits in memory. True when nothing is left there.
        """
        with self._lock:
            while self._spill or self._part is None:
                if self._part is None and not self.open():
                    return False
                part = self._part
                if part is None or not self._spill:
                    break
                entry = self._spill[0]
                try:
                    self._append(part, entry)
                except OSError as error:
                    self.trouble = str(error)
                    return False
                self._spill.popleft()
                self._spilled_bytes -= entry.size
            self.trouble = None
            return True

    def take_spilled(self) -> list[Spilled]:
        """
        Hand over what waits in memory; the caller now answers for it.
        """
        with self._lock:
            entries = list(self._spill)
            self._spill.clear()
            self._spilled_bytes = 0
            return entries

    def key_for_memory(self, number: int) -> bytes:
        """
        An idempotency key for a record that never was in this journal.
        """
        return b"%b%012x" % (self._key_prefix, (1 << 47) + number)

    def count(self, name: str, number: int = 1) -> None:
        """
        Count something that leaves no record of its own (refused, repaired…).
        """
        with self._lock:
            self._counts[name] += number

    def pending_counts(self) -> Counter[str]:
        """
        Counts that are not yet in a record.
        """
        with self._lock:
            return Counter(self._counts)

    def take_counts(self) -> Counter[str]:
        """
        Hand over the counts, to be written as a record.
        """
        with self._lock:
            counts, self._counts = self._counts, Counter()
            return counts

    # -- stable storage --

    @property
    def unsynced(self) -> bool:
        """Whether a sync has something to do."""
        part = self._part
        return (
            self._unlisted or bool(self._sealed) or (part is not None and part.synced < part.size)
        )

    def sync(self) -> bool:
        """
        Bring everything recorded so far to stable storage, oldest part first.

        Returns:
            False where the disk refuses, or records wait in memory.
        """
        with self._sync_lock:
            with self._lock:
                parts = [*self._sealed] + ([] if self._part is None else [self._part])
                sizes = [part.size for part in parts]
            good = True
            for part, size in zip(parts, sizes, strict=True):
                good &= self._sync_part(part, size)
            if good and self._unlisted and self._directory is not None:
                self._unlisted = False
                try:
                    system.directory_sync(self._directory)
                except OSError as error:
                    self._unlisted, self.trouble, good = True, str(error), False
            return good and not self._spill

    def _sync_part(self, part: _Part, size: int) -> bool:
        if part.synced < size or part.broken:
            try:
                if part.broken:
                    raise OSError("an earlier sync of this part failed")
                self._data_sync(part.fd)
            except OSError as error:
                # The kernel may have thrown the pages away and would call the
                # next sync of this file a success: only a copy can be trusted.
                self.trouble = str(error)
                part.broken = not self._copy_unsynced(part)
                return not part.broken
            part.synced = size
        with self._lock:
            if part in self._sealed:
                self._sealed.remove(part)
                os.close(part.fd)
        return True

    def _copy_unsynced(self, part: _Part) -> bool:
        with self._lock:
            try:
                content = part.path.read_bytes()[part.synced : part.size]
                copy = self._new_part_like(part, content)
                self._data_sync(copy.fd)
            except OSError:
                return False
            copy.synced = copy.size
            if part is self._part:
                self._part = copy
            else:
                os.close(copy.fd)
                self._sealed.remove(part)
            os.close(part.fd)
            return True

    def _new_part_like(self, part: _Part, content: bytes) -> _Part:
        """
        A copy under the same salt, so that the records need no new checksum.
        """
        assert self._directory is not None
        number = next(self._numbers)
        path = self._directory / f"{self.id}-{number:08d}.part"
        begin = max(part.synced, unpack_header(part.path.read_bytes()).size)  # type: ignore[union-attr]
        content = content[begin - part.synced :]
        header = pack_header(
            PartHeader(self._boot_id, self.id, part.salt, self._sequence + 1, (part.number, begin))
        )
        draft = path.with_suffix(".draft")
        fd = system.open_private(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        try:
            data = header + content
            if self._write(fd, data) != len(data):
                raise OSError("no room for a copy")
            self._data_sync(fd)
            os.rename(draft, path)
        except BaseException:
            os.close(fd)
            system.unlink_quietly(draft)
            raise
        self._unlisted = True
        return _Part(number, path, fd, part.salt, len(data))

    # -- the end --

    def close(self) -> None:
        """
        Let go of the files. Whatever they hold is there for the next owner; a
        journal that holds nothing leaves nothing.
        """
        with self._sync_lock, self._lock:
            empty = self._sequence == 0
            for part in [*self._sealed] + ([] if self._part is None else [self._part]):
                os.close(part.fd)
                if empty:
                    system.unlink_quietly(part.path)
            self._sealed, self._part = [], None
            held, self._held = self._held, None
            if held is not None:
                held.release(unlink=empty)
            self._begin_anew()

    def open_with_first_record(self) -> None:
        """
        Let the next record open the journal: in a forked child, and after
        `close`.
        """
        self._opens_itself = True

    def _begin_anew(self) -> None:
        """
        Another journal from here on: the files of the old one belong to whoever
        adopts them, and its keys are never given out again.
        """
        self.id = os.urandom(8).hex()
        self._key_prefix = self.id.encode() + b"-"
        self._numbers = count(1)
        self._sequence = 0
        self._unlisted = False
        self.open_with_first_record()

    def abandon(self) -> None:
        """
        In a forked child: close the inherited descriptors, touch nothing else.
        """
        for part in [*self._sealed] + ([] if self._part is None else [self._part]):
            try:
                os.close(part.fd)
            except OSError:
                pass
        self._sealed, self._part = [], None


# -- reading ----------------------------------------------------------------------


@attrs.frozen(slots=True)
class PartFile:
    """
    A part as a reader sees it.

    Attributes:
        journal: Id of the journal, 16 hex digits.
        number: Which part.
        path: Where.
    """

    journal: str
    number: int
    path: Path


def find_parts(directory: Path) -> dict[str, list[PartFile]]:
    """
    Every journal in a directory with its parts, lowest number first.
    """
    found: dict[str, list[PartFile]] = {}
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return found
    for name in sorted(names):
        match = _NAME.match(name)
        if match:
            part = PartFile(match[1], int(match[2]), directory / name)
            found.setdefault(part.journal, []).append(part)
    return found


def find_locks(directory: Path) -> list[str]:
    """
    Ids of the journals that have a lock file.
    """
    return [match[1] for name in os.listdir(directory) if (match := _LOCK.match(name))]


def lock_path(directory: Path, journal: str) -> Path:
    """
    The file that a journal's writer holds locked.
    """
    return directory / f"{journal}.lock"


def drafts(directory: Path, journal: str) -> Iterator[Path]:
    """
    Unfinished copies that a dead writer left.
    """
    return directory.glob(f"{journal}-*.draft")


@attrs.frozen(slots=True)
class Chunk:
    """
    Records of one part from a position on.

    Attributes:
        header: The part's header; None where even that cannot be read.
        records: In order.
        damaged: How many records could not be read.
        end: Position to continue from.
        finished: Nothing more will come from this part.
    """

    header: PartHeader | None
    records: tuple[Record, ...]
    damaged: int
    end: int
    finished: bool


def read_part(
    path: Path, position: int, *, complete: bool, limit: int = PART_BYTES * 8, until: int = -1
) -> Chunk | None:
    """
    Read records from a part.

    Args:
        path: The part.
        position: Where to begin; 0 means the first record.
        complete: Its writer is dead, or a higher part exists.
        limit: Read about this many bytes at most.
        until: Ignore what stands behind this offset (a copy replaced it).

    Returns:
        None if the file has vanished meanwhile.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(1024)
            header = unpack_header(beginning)
            if header is None:
                size = os.fstat(file.fileno()).st_size
                # A writer that died before its header was whole recorded nothing.
                damaged = int(complete and size > 1024)
                return Chunk(None, (), damaged, position, complete)
            at = max(position, header.size)
            file.seek(at)
            data = file.read(limit)
            rest = os.fstat(file.fileno()).st_size - at - len(data)
    except FileNotFoundError:
        return None
    if until >= 0:
        data, rest = data[: max(0, until - at)], 0
    whole = complete and rest <= 0
    records: list[Record] = []
    damaged = 0
    end = 0
    previous = header.first - 1 if at == header.size else -1
    # With no record before it, a stretch of damage counts as one.
    for item in read_records(data, header, at=0, previous=previous, complete=whole):
        if isinstance(item, Damage):
            damaged += 1 if previous < 0 and not records else item.records
        else:
            records.append(item)
        end = item.end
    if rest > 0 and end == 0:
        # A record longer than the limit, or a damaged stretch as long: read on.
        return read_part(path, position, complete=complete, limit=limit * 4, until=until)
    return Chunk(header, tuple(records), damaged, at + end, whole and end == len(data))

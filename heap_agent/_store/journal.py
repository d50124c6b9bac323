"""
The writing side of a journal: append, rotate, sync.

A journal belongs to one process. What its files look like from outside stands
in `parts`; here is who may write them, and how.

One `write(2)` a record is all that a caller pays: what the kernel has taken
survives the death of the process. Everything that can block (sync, rotate,
retry) is done by the keeper. What the disk refuses goes to the *spill*, a
bounded buffer in memory, from which the keeper writes it later.

What guards what:

- `_lock`, re-entrant, guards the tail of the journal: sequence, current part,
  spill. A signal handler or finalizer that records while this thread is inside
  a `put` is let through. While the tail is being changed (`_busy`: a fragment is
  taken off, a part is begun or copied) its record waits in the spill, which the
  outer call writes before it lets go.
- `_sync_lock` lets one thread at a time sync; no recording call takes it.

Which write: `os.write` lets go of the interpreter, and where other threads compute, each
of them may take a switch interval (5 ms) before the caller has it back. `put` keeps hold
of it instead, unless the disk has so much to do that a write itself could take as long.

Nothing is logged here, because a logging handler may record.

This module must not know what a body means, and not SQLite.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple
from zlib import adler32

from heap_agent._core.bounds import PART
from heap_agent._core.events import Kind
from heap_agent._core.records import (
    RECORD_MAGIC,
    PartHeader,
    pack_checksum,
    pack_head,
    pack_header,
    pack_record,
    unpack_header,
)
from heap_agent._store import system
from heap_agent._store.forking import undivided
from heap_agent._store.owner import HeldLock, try_lock
from heap_agent._store.parts import lock_path, part_path
from heap_agent._store.spill import Spill, Spilled
from heap_agent._store.tally import Tally, tally_path

#: What is refused at the hard cap. Who is there, and what the user said about consent,
#: is recorded even so.
_REFUSED: Final = (Kind.EVENT, Kind.USER_PROPERTIES)

#: Seconds that a sync takes where a write may have to wait for the disk.
_BUSY: Final = 0.5

#: Seconds that a write takes on a disk that is slow, and that others are then given to
#: record between two of them.
_SLOW: Final = 0.001
_PAUSE: Final = 0.001

#: How often a thread lets others go on before it queues for the lock.
_TRIES: Final = 100

#: Counts user properties that were refused.
REFUSED_PROPERTIES: Final = "refused_user_properties"


class _Part:
    __slots__ = ("broken", "fd", "first", "number", "path", "salt", "size", "synced")

    def __init__(self, number: int, path: Path, fd: int, salt: int, size: int, first: int) -> None:
        self.number = number
        self.path = path
        self.fd = fd
        self.salt = salt
        self.size = size
        self.first = first  # sequence number of the first record that is not on stable storage
        self.synced = 0
        self.broken = False  # a sync failed and its bytes could not be copied yet


class _Short(OSError):
    """Only a part of a record was written, which is how a full disk says so first."""

    def __init__(self, written: int) -> None:
        super().__init__("the disk took only a part of a record")
        self.written = written


class Seams(NamedTuple):
    """
    The system calls that a test may replace by failing ones.
    """

    write: Callable[[int, bytes], int] = os.write
    data_sync: Callable[[int], None] = system.data_sync


class Journal:
    """
    The journal of this process. All methods may be called from any thread.

    Attributes:
        refused: Events that there was no room for, in this process.
        trouble: What the disk said last, while it refuses.

    Args:
        directory: Where parts are kept; None keeps everything in the spill.
        boot_id: The boot that records belong to.
        part_bytes: Size at which a part should be sealed.
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
        part_bytes: int = PART,
        attend: Callable[[], None] = lambda: None,
        seams: Seams = Seams(),  # noqa: B008 - frozen
    ) -> None:
        self.id = os.urandom(8).hex()
        self._directory = directory
        self._boot_id = boot_id
        self._part_bytes = part_bytes
        self._attend = attend
        self._write = seams.write
        self._data_sync = seams.data_sync
        # What `put` writes with, and the one of both that keeps the interpreter.
        self._put_write: system.Write = self._write_letting_go
        self._write_holding: system.Write | None = None
        self._lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._numbers = count(1)
        self._memory_numbers = count(1 << 47)
        self._sequence = 0
        self._part: _Part | None = None
        self._sealed: list[_Part] = []
        self._unlisted = False  # a part was created and the directory not yet synced
        self._held: HeldLock | None = None
        self._attention = 0  # size of the current part at which somebody must look
        self._earlier = 0  # bytes in the parts before it
        self._allowed_until: float = math.inf  # bytes in all
        self._refusing = False
        self._tally: Tally | None = None
        self.refused = 0
        self._busy = False
        self._opens_itself = False
        self._draining = False  # somebody is writing what has waited
        self._spill = Spill()
        self._counts: Counter[str] = Counter()
        self.trouble: str | None = None

    def __repr__(self) -> str:
        part = self._part
        where = "memory" if part is None else f"part {part.number}, {part.size} bytes"
        return f"<Journal {self.id} [{where}, {self._sequence} records, spill {len(self._spill)}]>"

    # -- the hot path --

    @property
    def records(self) -> int:
        """How many have been put into this journal."""
        return self._sequence

    def put(
        self,
        kind: int,
        flags: int,
        wall_ns: int,
        boot_ns: int,
        body: bytes,
    ) -> bool:
        """
        Append one record; it is with the kernel when this returns.

        Args:
            kind: A `Kind`.
            flags: `records.GIVEN`, `records.FROZEN`, `records.MENDED`.
            wall_ns: Wall clock.
            boot_ns: Boot clock.
            body: What it means depends on the kind.

        Returns:
            False where the journal is at its hard cap and the record was refused: an
            event (counted as dropped for `full`), or user properties (counted as
            `refused_user_properties`).
        """
        # `with` costs as much again as the lock itself. What a signal handler raises
        # is raised at a call: inside the `try`, or after the lock is free.
        try:
            if not self._lock.acquire(False):
                self._wait_for_lock()
            part = self._part
            if part is None or self._spill.bytes or self._refusing or self._busy:
                accepted = self._put_slowly(Spilled(kind, flags, wall_ns, boot_ns, body))
            else:
                accepted = True
                sequence = self._sequence = self._sequence + 1
                record = pack_head(RECORD_MAGIC, len(body), kind, flags, wall_ns, boot_ns, sequence)
                record += body
                record += pack_checksum(adler32(record, part.salt))
                length = len(record)
                try:
                    written = self._put_write(part.fd, record, length)
                    if written != length:
                        self._insist(part.fd, record, written)
                    size = part.size = part.size + length
                except OSError as error:
                    # First of all, so that whatever is recorded meanwhile comes after it.
                    self._keep(Spilled(kind, flags, wall_ns, boot_ns, body))
                    self._take_back(part, sequence, error)
                    self._attend()
                else:
                    if size > self._attention:
                        self._call_attention(size)
        except BaseException:
            with suppress(RuntimeError):  # interrupted while it waited for the lock
                self._lock.release()
            raise
        self._lock.release()
        return accepted

    def _wait_for_lock(self) -> None:
        """
        Let whoever has the lock go on, and take it then.

        Whoever blocks is handed the lock at once, without the interpreter, and whoever
        has that soon waits for the lock: from then on each call of each thread takes two
        switches, for as long as they record.
        """
        for _ in range(_TRIES):
            time.sleep(0)
            if self._lock.acquire(False):
                return
        self._lock.acquire()

    def _write_letting_go(self, fd: int, record: bytes, size: int) -> int:
        return self._write(fd, record)

    def _insist(self, fd: int, record: bytes, written: int) -> None:
        """
        A record was not written whole: raise the reason, unless it goes now.
        """
        if written < 0:
            # The holding write does not say more than that.
            written = self._write(fd, record)
        if written != len(record):
            raise _Short(written)

    def _call_attention(self, size: int) -> None:
        if size >= 2 * self._part_bytes:
            # Whoever should have sealed it is busy. A part is only unlinked as a
            # whole, so that a long one would stand beside what was read from it.
            self.rotate()
        else:
            self._look_at(size)
        self._attend()

    def _look_at(self, size: int) -> None:
        """
        See how much may still be written, and when to look again; under the lock.
        """
        room = self._allowed_until - self._earlier - size
        self._refusing = room <= 0
        until_full = self._part_bytes - size % self._part_bytes
        self._attention = size + int(min(max(room, 0), until_full))

    def _set_part(self, part: _Part | None) -> None:
        """
        Change the part that is written to.
        """
        size = 0 if part is None else part.size
        # What is not ours to write (a header, what a copy takes over) is not counted.
        self._earlier = self._written - size
        self._part = part
        self._look_at(size)

    @property
    def _written(self) -> int:
        return self._earlier + self.size

    def _put_slowly(self, entry: Spilled) -> bool:
        if self._busy:
            self._keep(entry)
            return True
        if self._refusing and entry.kind in _REFUSED:
            if entry.kind == Kind.EVENT:
                self._refuse()
            else:
                self._counts[REFUSED_PROPERTIES] += 1
            return False
        trouble = bool(self._spill) or (self._part is None and not self._opens_itself)
        self._keep(entry)
        if not trouble:
            # This record opens the journal; or the hard cap is reached, which is
            # for events: who is logged in matters more.
            self.retry()
            self._attend()
        elif self._draining:
            # More than come in, or recording fast on a slow disk would never let it end.
            with suppress(OSError):
                self._write_first()
                self._write_first()
        return True

    def _refuse(self) -> None:
        """
        Count an event that there is no room for, so that even a kill leaves the
        number behind.
        """
        try:
            if self._directory is None or (self._held is None and not self.open()):
                raise OSError("there is nowhere to count")
            if self._tally is None:
                self._tally = Tally(tally_path(self._directory, self.id))
            self._tally.add()
        except OSError:
            self._counts["recorded"] += 1
            self._counts["dropped.full"] += 1
        self.refused += 1

    # -- trouble --

    def _keep(self, entry: Spilled) -> None:
        for lost in self._spill.add(entry):
            if lost.kind == Kind.EVENT:
                self._counts["recorded"] += 1
                self._counts["dropped.unwritten"] += 1
            else:
                self._counts["unwritten_state"] += 1

    def _take_back(self, part: _Part, sequence: int, error: OSError) -> None:
        """
        A record was refused: make the fragment that may be left of it harmless,
        and its number free, so that no gap is taken for a loss.
        """
        self.trouble = str(error)
        with self._alone():
            # Unless a signal handler has recorded behind it.
            last = self._sequence == sequence
            if last:
                self._sequence -= 1
            if isinstance(error, _Short) and not (last and _cut(part, error.written)):
                # The fragment stays: the next record begins in a part of its own.
                if part is self._part:
                    self._retire()

    def _retire(self) -> None:
        """
        Seal the current part without having begun the next.
        """
        if self._part is not None:
            self._sealed.append(self._part)
            self._set_part(None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """
        Under the lock: what this very thread records meanwhile waits in the spill.
        """
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _append(self, part: _Part, entry: Spilled) -> None:
        """
        Write one record, raising where the disk refuses.
        """
        sequence = self._sequence = self._sequence + 1
        record = pack_record(
            part.salt, entry.kind, entry.flags, entry.wall_ns, entry.boot_ns, sequence, entry.body
        )
        try:
            written = self._write(part.fd, record)
            if written != len(record):
                raise _Short(written)
        except OSError as error:
            self._take_back(part, sequence, error)
            raise
        part.size += written

    # -- the keeper's part --

    def hold_interpreter(self) -> None:
        """
        From now on `put` does not let go of the interpreter while it writes, where
        that can be had.
        """
        if self._write is os.write:
            with undivided():
                self._write_holding = system.holding_write()
            self._choose_write(busy=False)

    def _choose_write(self, *, busy: bool) -> None:
        holding = None if busy else self._write_holding
        self._put_write = holding or self._write_letting_go

    def open(self) -> bool:
        """
        Begin a part if there is none. False where the disk refuses.
        """
        with self._lock:
            if self._part is not None:
                return True
            if self._directory is None or self._busy:
                return False
            with self._alone():
                try:
                    if self._held is None:
                        # The owner, which looks for dead writers, may hold it for a moment.
                        self._held = try_lock(lock_path(self._directory, self.id), patience=1.0)
                        if self._held is None:
                            raise OSError(f"the lock of journal {self.id} is taken")
                    self._set_part(self._new_part())
                except OSError as error:
                    self.trouble = str(error)
                    return False
            self._opens_itself = False
            return True

    def _new_part(self) -> _Part:
        number, path = self._next_file()
        salt = int.from_bytes(os.urandom(4), "little")
        header = PartHeader(self._boot_id, self.id, salt, self._sequence + 1)
        part = self._draft(number, path, salt, pack_header(header))
        try:
            self._publish(part)
        except BaseException:
            self._discard(part)
            raise
        return part

    def _next_file(self) -> tuple[int, Path]:
        assert self._directory is not None
        number = next(self._numbers)
        return number, part_path(self._directory, self.id, number)

    def _draft(self, number: int, path: Path, salt: int, content: bytes) -> _Part:
        """
        A part that does not have its name yet.

        Whoever sees a part takes the one before it for sealed, and unlinks that
        when it is read: so a part is not to be seen before it is certain.
        """
        fd = system.open_private(
            _draft_path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        )
        part = _Part(number, path, fd, salt, len(content), self._sequence + 1)
        try:
            if self._write(fd, content) != len(content):
                raise OSError("no room for a new part")
        except BaseException:
            self._discard(part)
            raise
        return part

    def _publish(self, part: _Part) -> None:
        if system.POSIX:
            os.rename(_draft_path(part.path), part.path)
        else:
            # Windows renames no open file.
            os.close(part.fd)
            os.rename(_draft_path(part.path), part.path)
            part.fd = system.open_private(part.path, os.O_WRONLY | os.O_APPEND)
        self._unlisted = True

    def _discard(self, part: _Part) -> None:
        _close(part)
        system.unlink_quietly(_draft_path(part.path))

    def rotate(self) -> bool:
        """
        Seal the current part and begin the next. False where the disk refuses.
        """
        with self._lock:
            if self._part is None:
                return self.retry()
            if self._busy:
                return False
            with self._alone():
                try:
                    fresh = self._new_part()
                except OSError as error:
                    self.trouble = str(error)
                    return False
                self._retire()
                self._set_part(fresh)
        if self._spill:
            self.retry()
        return True

    @property
    def unlinked(self) -> bool:
        """Whether somebody has removed the part that is written to."""
        with self._lock:
            part = self._part
            return part is not None and not os.fstat(part.fd).st_nlink

    def leave_if_unlinked(self) -> bool:
        """
        Begin another journal if somebody has removed the files of this one:
        whatever is written there goes nowhere, without an error.

        Returns:
            Whether that was so.
        """
        with self._sync_lock, self._lock:
            if not self.unlinked:
                return False
            self._let_go(unlink=False)
            self.retry()
            return True

    @property
    def full(self) -> bool:
        """Whether the current part should be sealed."""
        part = self._part
        return part is not None and part.size >= self._part_bytes

    @property
    def size(self) -> int:
        """Bytes in the current part; 0 in memory."""
        part = self._part
        return 0 if part is None else part.size

    @property
    def held_here(self) -> bool:
        """Whether this very thread is inside of a recording call, as a signal handler may be."""
        return is_held_here(self._lock)

    @property
    def written(self) -> int:
        """Bytes that have been recorded."""
        with self._lock:
            return self._written

    @property
    def refusing(self) -> bool:
        """Whether the hard cap is reached."""
        return self._refusing

    def allow(self, room: int, *, since: int | None = None) -> None:
        """
        Set the hard cap: how many more bytes may be written before events are
        refused.

        Args:
            room: Bytes.
            since: What `written` was when the room was measured; now, unless given.
        """
        with self._lock:
            self._allowed_until = room + (self._written if since is None else since)
            self._look_at(self.size)

    @property
    def storage(self) -> str:
        """``"disk"``, or ``"memory"`` while the disk refuses."""
        if self._spill or self._directory is None:
            return "memory"
        return "disk" if self._part is not None or self._opens_itself else "memory"

    @property
    def spilled(self) -> int:
        """How many events wait in memory; nobody is waited for."""
        return self._spill.events

    def spilled_entries(self) -> list[Spilled]:
        """
        What waits in memory, oldest first.
        """
        with self._lock:
            return self._spill.entries()

    def retry(self) -> bool:
        """
        Write what waits in memory. True when nothing is left there.
        """
        self._draining = True
        try:
            while True:
                began = time.monotonic()
                with self._lock:
                    if not self._draining:
                        # Somebody has done it, or has taken the rest, or needs the room.
                        return self._part is not None and not self._spill
                    if self._busy or not self.open():
                        return False
                    try:
                        if not self._write_first():
                            self.trouble = None
                            return True
                    except OSError as error:
                        self.trouble = str(error)
                        return False
                if time.monotonic() - began > _SLOW:
                    # Whoever records has waited for this one write, and not for the others.
                    time.sleep(_PAUSE)
        finally:
            self._draining = False

    def _write_first(self) -> bool:
        """
        Write the oldest record that waits; False where there is none.
        """
        with self._alone():
            part, entry = self._part, self._spill.first()
            if part is None or entry is None:
                return False
            self._append(part, entry)
            self._spill.written()
            return True

    def hold_off(self) -> None:
        """
        Write nothing until the next `retry`: what little room the disk has is
        needed for something else.
        """
        with self._lock:
            self._draining = False
            self._retire()

    def take_spilled(self) -> list[Spilled]:
        """
        Hand over what waits in memory; the caller now answers for it. What comes
        next waits there, too, until a `retry` succeeds.
        """
        with self._lock:
            self._draining = False
            self._retire()
            return self._spill.take()

    def number_for_memory(self) -> int:
        """
        A sequence number for a record that never was in this journal; none that
        is in it has the same.
        """
        return next(self._memory_numbers)

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
        part, tally = self._part, self._tally
        return (
            self._unlisted
            or bool(self._sealed)
            or (part is not None and part.synced < part.size)
            or (tally is not None and tally.unsynced)
        )

    def sync(self) -> bool:
        """
        Bring everything recorded so far to stable storage, oldest part first.

        Returns:
            False where the disk refuses, or records wait in memory.
        """
        with self._sync_lock:
            with self._lock:
                following = self._sequence + 1
                parts = [*self._sealed] + ([] if self._part is None else [self._part])
                sizes = [_measure(part) for part in parts]
            good = True
            for part, size in zip(parts, sizes, strict=True):
                good &= self._sync_part(part, size, following)
            good &= self._sync_tally()
            if good and self._unlisted and self._directory is not None:
                self._unlisted = False
                try:
                    system.directory_sync(self._directory)
                except OSError as error:
                    self._unlisted, self.trouble, good = True, str(error), False
            return good and not self._spill

    def _sync_tally(self) -> bool:
        tally = self._tally
        try:
            if tally is not None and tally.unsynced:
                tally.sync(self._data_sync)
        except OSError as error:
            self.trouble = str(error)
            return False
        return True

    def _sync_part(self, part: _Part, size: int, following: int) -> bool:
        if part.synced < size or part.broken:
            try:
                if part.broken:
                    raise OSError("an earlier sync of this part failed")
                began = time.monotonic()
                # How long it will take nobody knows.
                self._choose_write(busy=True)
                self._data_sync(part.fd)
                self._choose_write(busy=time.monotonic() - began > _BUSY)
            except OSError as error:
                # The kernel may have thrown the pages away and would call the
                # next sync of this file a success: only a copy can be trusted.
                self.trouble = str(error)
                part.broken = not self._replace(part)
                if self._spill:
                    self.retry()
                return not part.broken
            part.synced, part.first = size, following
        with self._lock:
            if part in self._sealed:
                self._sealed.remove(part)
                _close(part)
        return True

    def _replace(self, part: _Part) -> bool:
        """
        Have a copy stand for what is not on stable storage of a part. While it is synced
        recording goes on; what came meanwhile is added to it.
        """
        try:
            with self._lock:
                following = self._sequence + 1
                content = part.path.read_bytes()
            header = unpack_header(content)
            if header is None:
                return False
            begin = max(part.synced, header.size)
            copy = self._copy(part, begin, content[begin:])
            copy.first = following
            with self._lock, self._alone():
                try:
                    self._complete(copy, part.path.read_bytes()[len(content) :])
                    if part is not self._part and self._part is not None:
                        # The highest number is the one that grows, so the part that
                        # grows now must give way to one that is higher than the copy.
                        fresh = self._new_part()
                        self._retire()
                        self._set_part(fresh)
                    if not part.path.exists():
                        raise FileNotFoundError(part.path)
                    self._publish(copy)
                except BaseException:
                    self._discard(copy)
                    raise
                self._give_way(part, copy)
        except FileNotFoundError:
            # The owner has taken everything from it into a synced commit.
            with self._lock:
                if part is self._part:
                    return False
                self._sealed.remove(part)
                _close(part)
        except OSError:
            return False
        return True

    def _complete(self, copy: _Part, tail: bytes) -> None:
        if tail and self._write(copy.fd, tail) != len(tail):
            raise OSError("no room for a copy")
        copy.size += len(tail)

    def _give_way(self, part: _Part, copy: _Part) -> None:
        if part is self._part:
            self._set_part(copy)
        else:
            self._sealed.remove(part)
            if copy.synced < copy.size:
                self._sealed.append(copy)
            else:
                _close(copy)
        _close(part)

    def _copy(self, part: _Part, begin: int, content: bytes) -> _Part:
        """
        A synced draft. It has the same salt, so that the records need no new
        checksums.
        """
        number, path = self._next_file()
        replaces = part.number, begin
        header = PartHeader(self._boot_id, self.id, part.salt, part.first, replaces)
        copy = self._draft(number, path, part.salt, pack_header(header) + content)
        try:
            self._data_sync(copy.fd)
        except BaseException:
            self._discard(copy)
            raise
        copy.synced = copy.size
        return copy

    # -- the end --

    def close(self) -> None:
        """
        Let go of the files. Whatever they hold is there for the next owner; a
        journal that holds nothing leaves nothing.
        """
        with self._sync_lock, self._lock:
            self._let_go(unlink=self._sequence == 0 and self._tally is None)

    def _let_go(self, *, unlink: bool) -> None:
        with self._alone():
            self._retire()
            for part in self._sealed:
                _close(part)
                if unlink:
                    system.unlink_quietly(part.path)
            self._sealed = []
            self._leave_tally()
            held, self._held = self._held, None
            if held is not None:
                held.release(unlink=unlink)
            self._begin_anew()

    def _leave_tally(self) -> None:
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.close()

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
        self._numbers = count(1)
        self._sequence = 0
        self._unlisted = False
        self.open_with_first_record()

    def abandon(self) -> None:
        """
        In a forked child: close the inherited descriptors, touch nothing else.
        """
        self._retire()
        for part in self._sealed:
            _close(part)
        self._sealed = []
        self._leave_tally()


def is_held_here(lock: threading.RLock) -> bool:
    """
    Whether this very thread holds a re-entrant lock.
    """
    return bool(lock._is_owned())  # type: ignore[attr-defined]


def _draft_path(path: Path) -> Path:
    return path.with_suffix(".draft")


def _close(part: _Part) -> None:
    """
    A call that was interrupted may still write to the part: not into a file that has
    got the same descriptor meanwhile.
    """
    fd, part.fd = part.fd, -1
    with suppress(OSError):
        os.close(fd)


def _measure(part: _Part) -> int:
    """
    By the file itself: an exception may have come between a write and its counting.
    """
    with suppress(OSError):
        part.size = os.fstat(part.fd).st_size
    return part.size


def _cut(part: _Part, fragment: int) -> bool:
    """
    Take a fragment off. By the file's own size: what a signal handler wrote before it
    is not in `part.size` yet.
    """
    try:
        os.ftruncate(part.fd, os.fstat(part.fd).st_size - fragment)
    except OSError:
        return False
    return True

"""
Journals as a reader finds them: which parts there are, in which order they are
read, and the records in them.

A journal is a row of parts, `<id>-<number>.part`, of which only the last grows,
and a lock file `<id>.lock` that its writer holds from before the first part
exists until it ends. Whoever can take that lock knows that the writer is dead.

A part whose sync failed is replaced from some offset on by a copy of its bytes,
which stands in a part of a higher number: the copy is read in the place of the
bytes that it replaces, from wherever a reader had got to in them.

This module must not write anything, nor know what a record means.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._core.bounds import PART
from heap_agent._core.records import (
    RECORD_MAGIC,
    Damage,
    PartHeader,
    Record,
    read_records,
    unpack_header,
    whole_records,
)

#: Bytes that are read at once: a part, unless nobody was there to seal it.
_LOOK: Final = 8 * PART

#: A part's header fits into this.
_HEADER: Final = 1_024

SUFFIX: Final = ".part"

_NAME: Final = re.compile(r"^([0-9a-f]{16})-(\d{8})\.part$")
_LOCK: Final = re.compile(r"^([0-9a-f]{16})\.lock$")


# -- files --------------------------------------------------------------------------


class PartFile(NamedTuple):
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

    @property
    def place(self) -> tuple[str, int]:
        """What names it."""
        return self.journal, self.number


def part_path(directory: Path, journal: str, number: int) -> Path:
    """
    The file of one part.
    """
    return directory / f"{journal}-{number:08d}{SUFFIX}"


def lock_path(directory: Path, journal: str) -> Path:
    """
    The file that a journal's writer holds locked.
    """
    return directory / f"{journal}.lock"


def find_parts(directory: Path) -> dict[str, list[PartFile]]:
    """
    Every journal in a directory with its parts, lowest number first.
    """
    found: dict[str, list[PartFile]] = {}
    for name in sorted(_names(directory)):
        match = _NAME.match(name)
        if match:
            part = PartFile(match[1], int(match[2]), directory / name)
            found.setdefault(part.journal, []).append(part)
    return found


def oldest_first(found: Mapping[str, list[PartFile]]) -> list[str]:
    """
    Ids of journals, as far as the files' times tell: clocks of boots do not compare.
    """
    return sorted(found, key=lambda journal: _written(found[journal]))


def _written(parts: Sequence[PartFile]) -> float:
    with suppress(OSError):
        return parts[0].path.stat().st_mtime
    return math.inf


def boots(directory: Path) -> list[str]:
    """
    Boots that journals speak of, oldest first.
    """
    found = find_parts(directory)
    headers = [read_header(found[journal][0].path) for journal in oldest_first(found)]
    return [header.boot_id for header in headers if header is not None]


def is_lock(name: str) -> bool:
    """
    Whether a file of this name is held locked by a journal's writer.
    """
    return _LOCK.match(name) is not None


def find_locks(directory: Path) -> list[str]:
    """
    Ids of the journals that have a lock file.
    """
    return [match[1] for name in _names(directory) if (match := _LOCK.match(name))]


def drafts(directory: Path, journal: str) -> Iterator[Path]:
    """
    Unfinished copies that a dead writer left.
    """
    return directory.glob(f"{journal}-*.draft")


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


# -- the order of reading -----------------------------------------------------------


class Span(NamedTuple):
    """
    What is to be read of one part.

    Attributes:
        part: Which.
        begin: Where to begin without a position: 0 for the first record, else
            an offset in a copy whose original was read beyond its beginning.
        until: Ignore what stands behind this offset, because a copy replaces
            it; -1: read to the end.
        sealed: A part of a higher number exists.
        following: Sequence number with which the next part begins; 0 if not
            known.
    """

    part: PartFile
    begin: int
    until: int
    sealed: bool
    following: int


def spans(
    parts: Sequence[PartFile],
    positions: Mapping[tuple[str, int], int],
    known: MutableMapping[tuple[str, int], PartHeader] | None = None,
) -> list[Span]:
    """
    The parts of one journal in the order in which they were written.

    Args:
        parts: Lowest number first.
        positions: How far each was read already.
        known: Headers that need not be read, to which those that were are added.
    """
    headers = _headers(parts, {} if known is None else known)
    ends: dict[int, int] = {}
    begins: dict[int, int] = {}
    order: dict[int, tuple[int, ...]] = {}
    for part in parts:
        header = headers[part.number]
        order[part.number] = (part.number,)
        if header is None or header.replaces is None:
            continue
        original, offset = header.replaces
        ends[original] = offset
        read = positions.get((part.journal, original), 0)
        begins[part.number] = header.size + read - offset if read > offset else 0
        order[part.number] = (*order.get(original, (original,)), part.number)
    ordered = sorted(parts, key=lambda part: order[part.number])
    following: dict[int, int] = {}
    for part, after in zip(ordered, ordered[1:], strict=False):
        header = headers[after.number]
        following[part.number] = 0 if header is None else header.first
    return [
        Span(
            part,
            begins.get(part.number, 0),
            ends.get(part.number, -1),
            part.number < parts[-1].number,
            following.get(part.number, 0),
        )
        for part in ordered
    ]


def _headers(
    parts: Sequence[PartFile], known: MutableMapping[tuple[str, int], PartHeader]
) -> dict[int, PartHeader | None]:
    for part in parts:
        if part.place not in known and (header := read_header(part.path)) is not None:
            known[part.place] = header
    return {part.number: known.get(part.place) for part in parts}


def read_header(path: Path) -> PartHeader | None:
    """
    A part's header; None where it has gone, is not whole, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return unpack_header(file.read(_HEADER))
    except OSError:
        return None


# -- records ------------------------------------------------------------------------


class Chunk(NamedTuple):
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
    path: Path,
    position: int,
    *,
    complete: bool,
    until: int = -1,
    following: int = 0,
    limit: int = _LOOK,
    most: int = _LOOK,
) -> Chunk | None:
    """
    Read records from a part.

    Args:
        path: The part.
        position: Where to begin; 0 means the first record.
        complete: Its writer is dead, or a higher part exists.
        until: Ignore what stands behind this offset.
        following: Sequence number with which the next part begins; 0 if not known.
        limit: Read about this many bytes at most.
        most: Stop after so many records.

    Returns:
        None if the file has vanished meanwhile.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            header = unpack_header(file.read(_HEADER))
            size = os.fstat(file.fileno()).st_size
            if header is None:
                return _without_header(path, position, size, complete)
            at = max(position, header.size)
            file.seek(at)
            data = file.read(limit)
    except FileNotFoundError:
        return None
    end = size if until < 0 else min(until, size)
    data = data[: max(0, end - at)]
    whole = complete and at + len(data) >= end
    records = whole_records(data, 0, header.salt, most)
    damaged, read = 0, records[-1].end if records else 0
    if len(records) == most and read < len(data):
        whole = False
    else:
        previous = -1 if position else header.first - 1
        for item in read_records(
            data,
            header,
            at=read,
            previous=max((record.sequence for record in records), default=previous),
            complete=whole,
            following=following,
        ):
            if isinstance(item, Damage):
                damaged += item.records
            else:
                records.append(item)
            read = item.end
    if not whole and not read and at + len(data) < end:
        # A record longer than the limit, or a damaged stretch as long: read on.
        return read_part(
            path,
            position,
            complete=complete,
            until=until,
            following=following,
            limit=limit * 4,
            most=most,
        )
    return Chunk(header, tuple(records), damaged, at + read, whole)


class Tail(NamedTuple):
    """
    The last records of a part.

    Attributes:
        header: The part's header.
        records: In order; those that cannot be read are left out.
        end: Where to go on from.
    """

    header: PartHeader
    records: tuple[Record, ...]
    end: int


def read_tail(path: Path, position: int, most: int) -> Tail | None:
    """
    Records of a part that is being written, from a position on; where more bytes follow
    than are wanted, the last of them.

    Args:
        path: The part.
        position: Where to begin; 0 means the first record.
        most: Read so many bytes at most.

    Returns:
        None where it has gone, or its header is not there yet.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            header = unpack_header(file.read(_HEADER))
            if header is None:
                return None
            at = max(position, header.size, os.fstat(file.fileno()).st_size - most)
            file.seek(at)
            data = file.read(most)
    except FileNotFoundError:
        return None
    found = read_records(data, header, at=0, previous=-1, complete=False)
    records = tuple(item._replace(end=at + item.end) for item in found if isinstance(item, Record))
    return Tail(header, records, records[-1].end if records else position)


def unread(path: Path, position: int) -> bytes:
    """
    The bytes of a part from a position on, 0 for its first record; none if the file
    has vanished meanwhile.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            header = unpack_header(file.read(_HEADER))
            file.seek(max(position, 0 if header is None else header.size))
            return file.read()
    except FileNotFoundError:
        return b""


def unreadable(part: PartFile, error: OSError) -> str:
    """
    A sentence about a part that cannot be read.
    """
    return f"{part.path.name} cannot be read, and stays: {error.strerror or error}"


def _without_header(path: Path, position: int, size: int, complete: bool) -> Chunk:
    """
    A part without its header, and so without the salt that proves its records.
    A writer that died before the header was whole recorded nothing.
    """
    if not complete:
        return Chunk(None, (), 0, position, False)
    magics = path.read_bytes().count(RECORD_MAGIC) if position < size else 0
    return Chunk(None, (), magics, size, True)

"""
The journal's bytes: how a part begins, how a record is framed, and how a
reader finds its way through damage.

    part   = header record*
    header = "HEAPJRN1" length crc32 json     the json names boot, writer, salt
    record = magic length kind flags wall boot-clock sequence body adler32

Three rules hold it together:

1. The magic contains 0xFF 0xFE, which UTF-8 cannot, so that a reader who is
   lost finds the next record and no property value can pretend to be one.
2. The checksum is seeded with the part's random salt. A block that an older
   file left on the disk, or one that a program wrote into a value, fails.
3. The checksum stands last and covers all before it, the length too. It is Adler's:
   the caller of `track` pays for it, and on a record's few hundred bytes it costs half
   of a CRC. Two wrong bytes always show, and of other content all but one part in 2^27.

This module must not know about files: it takes bytes and gives values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple
from zlib import adler32, crc32

PART_MAGIC: Final = b"HEAPJRN1"
RECORD_MAGIC: Final = b"\xff\xfeHA"

_HEX: Final = frozenset("0123456789abcdef")

_PART: Final = Struct("<8sII")
_HEAD: Final = Struct("<4sIBBqqQ")
_CHECKSUM: Final = Struct("<I")

#: Bytes of a record that are not its body.
OVERHEAD: Final = _HEAD.size + _CHECKSUM.size

#: A body longer than this is not ours: an event has at most 786,432 bytes, and
#: nobody has user properties of this size.
LONGEST: Final = 16_777_216

#: The timestamp was given by the caller: no clock repair may move it.
GIVEN: Final = 1

#: The timestamp has been settled already (a row that goes back into a journal).
FROZEN: Final = 2

#: A value of the event was at fault, and was mended or left out.
MENDED: Final = 4

# For the hot path, which does what `pack_record` does.
pack_head = _HEAD.pack
pack_checksum = _CHECKSUM.pack

# For reading a backlog, a million times.
_unpack_head, _HEAD_BYTES = _HEAD.unpack_from, _HEAD.size
_unpack_checksum, _CHECKSUM_BYTES = _CHECKSUM.unpack_from, _CHECKSUM.size


class PartHeader(NamedTuple):
    """
    What the first bytes of a part say.

    Attributes:
        boot_id: The boot in which it was written.
        writer: The journal's 64-bit id, 16 hex digits.
        salt: 32 random bits that seed every checksum of this part.
        first: The sequence number that the first record will have.
        replaces: ``(part, offset)`` where the records of this part are a copy
            of an earlier part's bytes from that offset on (its sync failed), else None.
        size: Bytes of the header itself.
    """

    boot_id: str
    writer: str
    salt: int
    first: int
    replaces: tuple[int, int] | None = None
    size: int = 0


class Record(NamedTuple):
    """
    One record as read back. A tuple, because a backlog is a million of them.

    Attributes:
        kind: A `Kind`, or a number that a newer version wrote.
        flags: `GIVEN`, `FROZEN` and `MENDED` bits.
        wall: Wall clock, µs since 1970.
        boot_clock: Clock that counts from boot and through suspend, µs.
        sequence: Number of the record in its journal.
        body: Meaning depends on the kind.
        end: Offset of the byte after the record.
    """

    kind: int
    flags: int
    wall: int
    boot_clock: int
    sequence: int
    body: bytes
    end: int


class Damage(NamedTuple):
    """
    A stretch of bytes that is no record.

    Attributes:
        records: How many records it held: the gap in the sequence numbers, or
            where one side of the gap is not known, as many as still begin with
            a magic. 0 for a fragment whose record was written again after it.
        end: Offset of the byte after it.
    """

    records: int
    end: int


def pack_header(header: PartHeader) -> bytes:
    """
    The first bytes of a part.
    """
    text = json.dumps(
        {
            "boot": header.boot_id,
            "writer": header.writer,
            "salt": header.salt,
            "first": header.first,
            "replaces": header.replaces,
        }
    ).encode()
    return _PART.pack(PART_MAGIC, len(text), crc32(text)) + text


def unpack_header(data: bytes) -> PartHeader | None:
    """
    Read a part's first bytes; None if they are incomplete, damaged or not ours.
    """
    if len(data) < _PART.size:
        return None
    magic, length, checksum = _PART.unpack_from(data)
    text = data[_PART.size : _PART.size + length]
    if magic != PART_MAGIC or len(text) != length or crc32(text) != checksum:
        return None
    try:
        fields = json.loads(text)
        header = PartHeader(
            boot_id=fields["boot"],
            writer=fields["writer"],
            salt=fields["salt"],
            first=fields["first"],
            replaces=None if fields["replaces"] is None else tuple(fields["replaces"]),
            size=_PART.size + length,
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return header if _makes_sense(header) else None


def _makes_sense(header: PartHeader) -> bool:
    """
    Whether a reader can use a header: the checksum holds for what others wrote too.
    """
    numbers = (header.first, *(header.replaces or ()))
    return (
        type(header.boot_id) is str
        and type(header.writer) is str
        and len(header.writer) == 16
        and _HEX.issuperset(header.writer)
        and _is_number(header.salt, 32)
        and all(_is_number(number, 64) for number in numbers)
        and (header.replaces is None or len(header.replaces) == 2)
    )


def _is_number(value: object, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits


def pack_record(
    salt: int, kind: int, flags: int, wall_ns: int, boot_ns: int, sequence: int, body: bytes
) -> bytes:
    """
    Frame one record. The clocks are written as they were read, in ns.
    """
    record = pack_head(RECORD_MAGIC, len(body), kind, flags, wall_ns, boot_ns, sequence) + body
    return record + pack_checksum(adler32(record, salt))


def whole_records(data: bytes, at: int, salt: int, most: int) -> list[Record]:
    """
    The undamaged records that follow each other from an offset on, up to so many.
    """
    records: list[Record] = []
    size = len(data)
    while len(records) < most and (begin := at + _HEAD_BYTES) <= size:
        magic, length, kind, flags, wall_ns, boot_ns, sequence = _unpack_head(data, at)
        end = begin + length
        if magic != RECORD_MAGIC or length > LONGEST or end + _CHECKSUM_BYTES > size:
            break
        if adler32(data[at:end], salt) != _unpack_checksum(data, end)[0]:
            break
        at = end + _CHECKSUM_BYTES
        fields = kind, flags, wall_ns // 1000, boot_ns // 1000, sequence, data[begin:end], at
        records.append(Record._make(fields))
    return records


def _next_record(data: bytes, at: int, salt: int) -> Record | None:
    """
    The first whole record after a damaged place.
    """
    while (at := data.find(RECORD_MAGIC, at + 1)) >= 0:
        for record in whole_records(data, at, salt, 1):
            return record
    return None


def holds_only(kind: int, data: bytes) -> bool:
    """
    Whether bytes that begin with a record hold whole records of one kind, and maybe the
    beginning of another. Only the heads are looked at.
    """
    at, last = 0, len(data) - OVERHEAD
    while at <= last:
        magic, length, found, *_ = _unpack_head(data, at)
        if magic != RECORD_MAGIC or found != kind:
            return False
        at += OVERHEAD + length
    return True


def count_magics(data: bytes, begin: int = 0) -> int:
    """
    How many records seem to begin in bytes that cannot be read; at least one.
    """
    return max(1, data.count(RECORD_MAGIC, begin))


def read_records(
    data: bytes,
    header: PartHeader,
    *,
    at: int,
    previous: int,
    complete: bool,
    following: int = 0,
) -> Iterator[Record | Damage]:
    """
    Walk through a part's bytes.

    Args:
        data: Bytes of the part.
        header: The part's header.
        at: Where in them to begin.
        previous: Sequence number of the record before `at`; -1 if not known.
        complete: True where nothing more will be appended (the part is sealed,
            or its writer is dead). An incomplete tail is then damage; else it
            is "not yet" and the walk ends before it.
        following: Sequence number with which the next part begins, for a
            complete part; 0 if not known.

    Yields:
        Records in order, and `Damage` where a stretch could not be read.
    """
    highest = previous
    while at < len(data):
        for record in whole_records(data, at, header.salt, len(data)):
            yield record
            highest, at = max(highest, record.sequence), record.end
        # Even what is merely incomplete never gets its rest when something whole
        # stands behind it.
        found = _next_record(data, at, header.salt)
        if found is None:
            break
        begin = found.end - OVERHEAD - len(found.body)
        if highest >= 0:
            lost = max(0, found.sequence - highest - 1)
        else:
            lost = count_magics(data[:begin], at)
        yield Damage(lost, begin)
        at = begin
    if not complete:
        return
    if highest >= 0 and following:
        lost = max(0, following - highest - 1)
    else:
        lost = count_magics(data, at) if at < len(data) else 0
    if lost or at < len(data):
        yield Damage(lost, len(data))

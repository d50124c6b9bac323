"""
The journal's bytes: framing, forged and stale bytes, and the way through damage.
"""

from __future__ import annotations

from zlib import adler32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.records import (
    LONGEST,
    OVERHEAD,
    RECORD_MAGIC,
    Damage,
    PartHeader,
    Record,
    count_magics,
    holds_only,
    pack_header,
    pack_record,
    read_records,
    unpack_header,
    whole_records,
)

HEADER = PartHeader("boot", "0123456789abcdef", 7, 1)

# µs, as a reader gives them; what is written are ns in 64 bits.
clocks = st.integers(-(2**53), 2**53)
records = st.builds(
    Record,
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    wall=clocks,
    boot_clock=clocks,
    sequence=st.just(0),
    body=st.binary(max_size=40),
    end=st.just(0),
)


def packed(record: Record, sequence: int, salt: int = 7) -> bytes:
    """Frame a record under another number."""
    wall_ns, boot_ns = record.wall * 1000 + 999, record.boot_clock * 1000
    return pack_record(salt, record.kind, record.flags, wall_ns, boot_ns, sequence, record.body)


def simple(sequence: int, body: bytes = b"body", salt: int = 7) -> bytes:
    """A record that is only a number and a body."""
    return pack_record(salt, 1, 0, 10, 20, sequence, body)


def read(
    data: bytes, *, previous: int = 0, complete: bool = True, following: int = 0
) -> list[int | tuple[str, int]]:
    """Sequence numbers, and what was lost between them."""
    return [
        ("lost", item.records) if isinstance(item, Damage) else item.sequence
        for item in read_records(
            data, HEADER, at=0, previous=previous, complete=complete, following=following
        )
    ]


# -- whole --------------------------------------------------------------------------


@given(st.lists(records, max_size=8), st.booleans())
def test_what_is_packed_is_read(written: list[Record], complete: bool) -> None:
    """Every record comes back as it was written, in a living part and in a dead one."""
    data = b"".join(packed(record, number) for number, record in enumerate(written, 1))

    found = list(read_records(data, HEADER, at=0, previous=0, complete=complete))

    assert [record._replace(sequence=0, end=0) for record in found] == written
    assert [record.sequence for record in found] == list(range(1, len(written) + 1))
    assert not found or found[-1].end == len(data)


@given(st.lists(records, min_size=1, max_size=6), st.data())
def test_reading_can_stop_and_go_on_anywhere(written: list[Record], data: st.DataObject) -> None:
    """Whoever stopped after a record goes on behind it and misses nothing."""
    bytes_ = b"".join(packed(record, number) for number, record in enumerate(written, 1))
    found = list(read_records(bytes_, HEADER, at=0, previous=0, complete=True))
    stop = data.draw(st.integers(0, len(found) - 1))

    rest = list(read_records(bytes_, HEADER, at=found[stop].end, previous=stop + 1, complete=True))

    assert rest == found[stop + 1 :]


def test_overhead_is_what_a_record_adds() -> None:
    """The overhead is the length of a record without a body."""
    assert len(simple(1, b"")) == OVERHEAD


@given(st.text(max_size=300))
def test_the_magic_is_in_no_text(text: str) -> None:
    """Whatever a property value says, its UTF-8 never holds a magic."""
    assert RECORD_MAGIC not in text.encode("utf-8", "surrogatepass")


# -- headers ------------------------------------------------------------------------


@pytest.mark.parametrize("replaces", [None, (3, 4_711)])
def test_a_header_is_read_as_written(replaces: tuple[int, int] | None) -> None:
    """A part's header comes back with its own size."""
    header = PartHeader("a-boot", "f" * 16, 2**32 - 1, 99, replaces)
    data = pack_header(header)

    assert unpack_header(data + b"more") == header._replace(size=len(data))


def test_a_header_that_is_not_whole_is_none() -> None:
    """Cut anywhere, or with any byte changed, a header is no header."""
    data = pack_header(HEADER)

    for length in range(len(data)):
        assert unpack_header(data[:length]) is None
    for at in range(len(data)):
        assert unpack_header(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None


# -- forged and stale ---------------------------------------------------------------


def test_a_forged_record_in_a_body_is_not_read() -> None:
    """A value that looks like a record stays a value, also where the outer record is damaged."""
    forged = simple(99, b"forged", salt=8)
    whole = simple(1, b"before " + forged + b" after")
    broken = bytearray(whole)
    broken[-1] ^= 1

    assert read(whole + simple(2)) == [1, 2]
    assert read(bytes(broken) + simple(2)) == [("lost", 1), 2]


def test_a_block_of_an_older_file_is_not_read() -> None:
    """After a power cut old blocks may stand in a part: their salt is another one."""
    stale = simple(1, salt=6) + simple(2, salt=6)

    assert read(simple(1) + stale, complete=False) == [1]
    assert read(simple(1) + stale) == [1, ("lost", 2)]


def test_a_checksum_without_salt_is_not_enough() -> None:
    """A record with a plain checksum, as anybody could compute it, fails."""
    record = simple(1)[:-4]
    forged = record + adler32(record).to_bytes(4, "little")

    assert read(forged, complete=False) == []


# -- damage -------------------------------------------------------------------------


@given(st.integers(1, 6), st.data())
def test_damage_costs_no_more_than_itself(count: int, data: st.DataObject) -> None:
    """With one byte changed, one record is lost, counted, and all others are read."""
    parts = [simple(number, b"x" * number) for number in range(1, count + 2)]
    victim = data.draw(st.integers(0, count - 1))
    at = data.draw(st.integers(0, len(parts[victim]) - 1))
    broken = bytearray(parts[victim])
    broken[at] ^= data.draw(st.integers(1, 255))
    parts[victim] = bytes(broken)

    found = read(b"".join(parts))

    others = [number for number in range(1, count + 2) if number != victim + 1]
    assert [item for item in found if isinstance(item, int)] == others
    assert ("lost", 1) in found


def test_a_gap_in_the_numbers_says_how_many_are_lost() -> None:
    """Three records that have become noise are counted as three."""
    assert read(simple(1) + b"\0" * 170 + simple(5)) == [1, ("lost", 3), 5]


def test_a_fragment_that_was_written_again_is_no_loss() -> None:
    """The rest of a short write costs nothing when its record follows."""
    assert read(simple(1) + simple(2)[:-3] + simple(2)) == [1, ("lost", 0), 2]


def test_damage_without_a_known_number_before_it_is_counted_by_magics() -> None:
    """A reader that begins in the middle counts what still begins like a record."""
    broken = simple(4)[:-1] + b"?" + simple(5)[:-1] + b"?"

    assert read(broken + simple(6), previous=-1) == [("lost", 2), 6]


def test_noise_is_one_record_at_least() -> None:
    """Bytes without any magic were something once."""
    assert count_magics(b"noise") == 1
    assert count_magics(RECORD_MAGIC * 3) == 3


def test_numbers_out_of_order_are_no_loss() -> None:
    """A signal handler may have written its record before that of the interrupted call."""
    assert read(simple(2) + simple(1) + simple(3), following=4) == [2, 1, 3]


# -- the tail -----------------------------------------------------------------------


def test_the_tail_of_a_living_part_is_not_yet() -> None:
    """Wherever the last record is cut, a living part ends before it, without damage."""
    last = simple(2)

    for length in range(len(last)):
        assert read(simple(1) + last[:length], complete=False) == [1]


def test_the_tail_of_a_dead_part_is_torn() -> None:
    """In a part that nobody writes any more a cut record is one lost record."""
    last = simple(2)

    for length in range(1, len(last)):
        assert read(simple(1) + last[:length]) == [1, ("lost", 1)]


def test_a_tail_is_judged_by_the_next_part() -> None:
    """Where the next part's first number is known, the loss at the end is exact."""
    fragment = simple(2)[:-3]

    assert read(simple(1) + fragment, following=2) == [1, ("lost", 0)]
    assert read(simple(1) + fragment, following=5) == [1, ("lost", 3)]
    assert read(simple(1), following=4) == [1, ("lost", 2)]
    assert read(simple(1), following=2) == [1]


def test_damage_in_a_living_part_waits_for_what_follows() -> None:
    """Nothing is called lost while it could still be the beginning of something."""
    broken = simple(2)[:-1] + b"?"

    assert read(simple(1) + broken, complete=False) == [1]
    assert read(simple(1) + broken + simple(3), complete=False) == [1, ("lost", 1), 3]


@pytest.mark.parametrize("length", [0, 3, LONGEST + 1, 2**32 - 1])
def test_an_impossible_length_is_damage(length: int) -> None:
    """A length that no record has does not make the reader wait for it."""
    broken = simple(1)[:4] + length.to_bytes(4, "little") + simple(1)[8:]

    assert read(broken + simple(2), complete=False) == [("lost", 1), 2]


# -- many at once ---------------------------------------------------------------------


@given(st.lists(records, max_size=8), st.integers(0, 9))
def test_no_more_records_are_taken_than_were_asked_for(written: list[Record], most: int) -> None:
    """The first ones, and the rest of the bytes is left."""
    data = b"".join(packed(record, number) for number, record in enumerate(written, 1))

    found = whole_records(data, 0, 7, most)

    assert [record.sequence for record in found] == list(range(1, len(written) + 1))[:most]


@given(st.lists(st.sampled_from([1, 16]), max_size=6), st.integers(0, 30))
def test_a_word_among_events_is_found_by_its_head(kinds: list[int], cut: int) -> None:
    """Whole records of another kind show; what is only begun does not count yet."""
    data = b"".join(pack_record(7, kind, 0, 10, 20, 1, b"body") for kind in kinds)
    data += pack_record(7, 16, 0, 10, 20, 1, b"body")[:cut]

    assert holds_only(1, data) is (16 not in kinds)


def test_bytes_that_are_no_record_are_not_taken_for_events() -> None:
    """Whoever is lost says so."""
    assert not holds_only(1, simple(1) + b"?" * 80 + simple(2))

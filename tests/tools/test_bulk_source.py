"""Lines of files and pipes, whatever they are wrapped in."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.bulk_source import LINE_BYTES, Source, open_source


class Trickle(io.RawIOBase):
    """A pipe that gives one byte at a time."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._rest = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        byte = self._rest.read(1)
        buffer[: len(byte)] = byte
        return len(byte)


def source_of(content: bytes) -> Source:
    return Source(Trickle(content), len(content))


@given(st.binary(max_size=200), st.booleans())
def test_the_lines_are_the_content(content: bytes, packed: bool) -> None:
    """Compressed or not, byte by byte, nothing is added and nothing is missing."""
    # What begins like something else is told apart, see below.
    content = b"{" + content
    source = source_of(gzip.compress(content) if packed else content)

    assert b"".join(source) == content
    assert source.problem is None
    assert source.position == source.size


def test_an_empty_stream_has_no_lines() -> None:
    """Nothing comes, and nothing is wrong."""
    source = source_of(b"")

    assert list(source) == []
    assert source.problem is None


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_taken_off(pack: object) -> None:
    """Only the first line loses it."""
    source = source_of(pack("\ufeffa\n\ufeffb".encode()))  # type: ignore[operator]

    assert list(source) == [b"a\n", "\ufeffb".encode()]


def test_several_gzip_members_are_one_file() -> None:
    """Compressed files that were put behind each other are read to their end."""
    source = source_of(gzip.compress(b"a\n") + gzip.compress(b"b\n"))

    assert list(source) == [b"a\n", b"b\n"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\n".encode("utf-16"), "UTF-16"),
        ("\ufeffa\n".encode("utf-16-be"), "UTF-16"),
        (b"PK\x03\x04rest", "spreadsheet"),
    ],
)
def test_what_is_no_text_is_told(content: bytes, says: str) -> None:
    """No line comes, and the problem says what to do."""
    source = source_of(content)

    assert list(source) == []
    assert says in str(source.problem)


def test_a_cut_gzip_file_gives_what_it_has() -> None:
    """Whole lines before the cut are good; the problem says where it is."""
    lines = [os.urandom(40).hex().encode() + b"\n" for _ in range(4_000)]
    packed = gzip.compress(b"".join(lines))
    source = source_of(packed[: len(packed) // 2])

    found = list(source)

    assert found == lines[: len(found)] and found
    assert "middle of its gzip data" in str(source.problem)


def test_garbage_in_gzip_is_a_problem_and_no_error() -> None:
    """Flipped bytes end the lines."""
    packed = bytearray(gzip.compress(b"line\n" * 10))
    packed[12] ^= 0xFF
    source = source_of(bytes(packed))

    list(source)

    assert source.problem is not None


def test_a_line_of_any_length_is_cut(tmp_path: Path) -> None:
    """What is longer than the limit is seen to be so, and the next line is whole."""
    path = tmp_path / "long"
    path.write_bytes(b"x" * (3 * LINE_BYTES) + b"\n" + b"next\n")

    with open_source(path) as source:
        lines = list(source)

    assert [len(line) for line in lines] == [LINE_BYTES + 1, 5]


def test_a_file_has_a_size_and_a_pipe_has_none(tmp_path: Path) -> None:
    """The size is that on disk, compressed as it is."""
    packed = gzip.compress(b"line\n" * 1000)
    path = tmp_path / "file.gz"
    path.write_bytes(packed)

    with open_source(path) as source:
        assert source.size == len(packed)
        assert len(list(source)) == 1000


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_named_pipe_can_be_read(tmp_path: Path) -> None:
    """Its size is not known."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"a\nb\n"))
    writer.start()

    with open_source(path) as source:
        assert list(source) == [b"a\n", b"b\n"]
        assert source.size is None
    writer.join()

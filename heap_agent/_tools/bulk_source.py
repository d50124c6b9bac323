"""
Lines of bytes out of a file or standard input, whatever they are wrapped in.

gzip is known by its first bytes, a UTF-8 byte order mark is taken off, and a
line of any length costs bounded memory. What cannot be read ends the lines and
is told in `Source.problem`, so that what came before it still counts.

This module must not know what a line means, nor who counts them.
"""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["LINE_BYTES", "Source", "open_source"]

#: Longest line that is kept whole. An event has at most 786,432 bytes of JSON, and
#: a character of it at most six times as many when it is written as ``\uXXXX``.
LINE_BYTES: Final = 8 * 2**20

_GZIP: Final = b"\x1f\x8b"

#: What is often handed over for text, by its first bytes.
_NO_TEXT: Final = {
    codecs.BOM_UTF16_LE: "it is UTF-16; save it as UTF-8",
    codecs.BOM_UTF16_BE: "it is UTF-16; save it as UTF-8",
    b"PK\x03\x04": "it is a zip archive or a spreadsheet; export it as CSV, or unpack it",
}


class Source:
    """
    The lines of one stream, in order, to be iterated once.

    Args:
        stream: Unbuffered; at its beginning.
        size: Of the whole stream in bytes, compressed as it is; None where
            that is not known, as for a pipe.

    Attributes:
        size: As given.
        problem: Why the lines ended before the stream did, or None.
    """

    def __init__(self, stream: io.RawIOBase, size: int | None) -> None:
        self.size = size
        self.problem: str | None = None
        self._counted = _Counted(stream)

    @property
    def position(self) -> int:
        """How many bytes of the stream have been read, compressed as they are."""
        return self._counted.count

    def __iter__(self) -> Iterator[bytes]:
        """
        Each line with its end, if it has one. A longer one than `LINE_BYTES` is
        cut after one byte more than that; its rest is passed over.
        """
        try:
            for number, line in enumerate(self._lines()):
                if number == 0:
                    self._refuse_what_is_no_text(line)
                    line = line.removeprefix(codecs.BOM_UTF8)
                yield line
        except EOFError:
            self.problem = f"it ends in the middle of its gzip data{self._where()}"
        except (OSError, zlib.error, _NoText) as error:
            self.problem = f"{error}{self._where()}"

    def _lines(self) -> Iterator[bytes]:
        stream = self._unwrapped()
        while line := stream.readline(LINE_BYTES + 1):
            cut = len(line) > LINE_BYTES and not line.endswith(b"\n")
            yield line
            while cut:
                rest = stream.readline(LINE_BYTES)
                cut = bool(rest) and not rest.endswith(b"\n")

    def _unwrapped(self) -> io.BufferedIOBase:
        buffered = io.BufferedReader(self._counted)
        if self._counted.head(len(_GZIP)) != _GZIP:
            return buffered
        return gzip.GzipFile(fileobj=buffered, mode="rb")

    def _refuse_what_is_no_text(self, line: bytes) -> None:
        for magic, sentence in _NO_TEXT.items():
            if line.startswith(magic):
                raise _NoText(sentence)

    def _where(self) -> str:
        return f" (about byte {self.position:,})" if self.position else ""


@contextmanager
def open_source(path: Path | None) -> Iterator[Source]:
    """
    Open a file, or standard input.

    Args:
        path: The file; None for standard input, which stays open.

    Raises:
        OSError: It cannot be opened.
    """
    if path is None:
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
            yield Source(stream, None)
        return
    with open(path, "rb", buffering=0) as stream:
        # A named pipe has no size, and neither has /dev/stdin.
        yield Source(stream, path.stat().st_size if path.is_file() else None)


class _NoText(ValueError):
    """Something else than text came."""


class _Counted(io.RawIOBase):
    """Counts what is read, and lets the beginning be looked at first."""

    def __init__(self, stream: io.RawIOBase) -> None:
        super().__init__()
        self.count = 0
        self._stream = stream
        self._ahead = b""

    def head(self, size: int) -> bytes:
        """The first bytes, which stay to be read; fewer where there are no more."""
        # A pipe may give them one by one.
        while len(self._ahead) < size and (more := self._stream.read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        found = self._ahead[: len(buffer)] or self._stream.read(len(buffer)) or b""
        self._ahead = self._ahead[len(buffer) :]
        buffer[: len(found)] = found
        self.count += len(found)
        return len(found)

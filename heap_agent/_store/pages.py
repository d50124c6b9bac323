"""
Rows of an SQLite file without SQLite: from the pages themselves, whatever became of the
trees that lead to them.

A table's rows stand in leaf pages, a large one goes on in a chain of overflow pages; a
page's newest version stands in the log, if it is there (the format:
https://www.sqlite.org/fileformat2.html). Which table a page belongs to only its tree
knows, so rows are told apart by their number of columns, and whether one is what was
written is for the caller to check.

This module must not know what the rows mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from struct import Struct, error, unpack_from
from typing import IO, Final

from heap_agent._store.database import PAGE_BYTES, Row

_LEAF: Final = 13
_LOG_HEAD: Final = 32
_FRAME_HEAD: Final = 24

#: What of a row stands in its leaf: at most this much, or at least that much.
_LOCAL: Final = PAGE_BYTES - 35
_LEAST: Final = (PAGE_BYTES - 12) * 32 // 255 - 23
_OVERFLOW: Final = PAGE_BYTES - 4

#: No row is longer.
_LONGEST: Final = 1 << 20

_frame: Final = Struct(">IIII").unpack_from
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_CONSTANTS: Final = {0: None, 8: 0, 9: 1}

#: What comes of reading bytes that are no page.
_NONSENSE: Final = (IndexError, ValueError, error)


class Pages:
    """
    The pages of one file and its log. Used in a ``with`` statement.

    Args:
        path: The file.
        log: Its write-ahead log, which may be missing.
    """

    def __init__(self, path: Path, log: Path) -> None:
        self._path = path
        self._log_path = log
        self._open = ExitStack()

    def __enter__(self) -> Pages:
        with ExitStack() as opening:
            self._file = opening.enter_context(open(self._path, "rb"))
            self._number = self._path.stat().st_size // PAGE_BYTES
            self._logged: dict[int, int] = {}
            if self._log_path.exists():
                self._log = opening.enter_context(open(self._log_path, "rb"))
                self._read_log()
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def rows(self, widths: Collection[int]) -> Iterator[Row]:
        """
        Everything that can pass for a row with so many columns, its id first.
        """
        # The first page holds the tables' names.
        for number in range(2, self._number + 1):
            page = self._page(number)
            if page[:1] == bytes([_LEAF]):
                (cells,) = unpack_from(">H", page, 3)
                for cell in range(min(cells, PAGE_BYTES // 2 - 4)):
                    try:
                        (begin,) = unpack_from(">H", page, 8 + 2 * cell)
                        row = self._row(page, begin, widths)
                    except _NONSENSE:
                        continue
                    if row is not None:
                        yield row

    def _row(self, page: bytes, begin: int, widths: Collection[int]) -> Row | None:
        size, begin = _varint(page, begin)
        id, begin = _varint(page, begin)
        if size > _LONGEST:
            return None
        local = size
        if size > _LOCAL:
            local = _LEAST + (size - _LEAST) % _OVERFLOW
            local = local if local <= _LOCAL else _LEAST
        whole = page[begin : begin + local]
        if local < size:
            (following,) = unpack_from(">I", page, begin + local)
            whole += self._chain(following, size - local)
        return _values(id, whole, widths)

    def _chain(self, number: int, size: int) -> bytes:
        found = []
        while size > 0:
            page = self._page(number)
            (number,) = unpack_from(">I", page)
            found.append(page[4 : 4 + size])
            size -= _OVERFLOW
        return b"".join(found)

    def _page(self, number: int) -> bytes:
        if not 0 < number <= self._number:
            raise ValueError("no such page")
        if number in self._logged:
            return _read(self._log, self._logged[number])
        return _read(self._file, (number - 1) * PAGE_BYTES)

    def _read_log(self) -> None:
        """
        Where the log has the newest version of pages, as of its last whole transaction.
        """
        head = _read(self._log, 0, _LOG_HEAD)
        if len(head) < _LOG_HEAD:
            return
        magic, _, page_bytes, _ = _frame(head)
        if page_bytes != PAGE_BYTES:
            return
        words = "little" if magic == 0x377F0682 else "big"
        total = _checksum(head[:24], words, (0, 0))
        offset, pending = _LOG_HEAD, dict[int, int]()
        while len(frame := _read(self._log, offset, _FRAME_HEAD + PAGE_BYTES)) == (
            _FRAME_HEAD + PAGE_BYTES
        ):
            number, committed, *salts = _frame(frame)
            if salts != list(unpack_from(">II", head, 16)):
                break
            total = _checksum(frame[:8] + frame[_FRAME_HEAD:], words, total)
            if total != unpack_from(">II", frame, 16):
                break
            pending[number] = offset + _FRAME_HEAD
            if committed:
                self._logged.update(pending)
                self._number, pending = committed, {}
            offset += len(frame)


def _read(file: IO[bytes], offset: int, size: int = PAGE_BYTES) -> bytes:
    file.seek(offset)
    return file.read(size)


def _checksum(data: bytes, words: str, total: tuple[int, int]) -> tuple[int, int]:
    """The log's own, which goes on from frame to frame."""
    first, second = total
    values = iter(unpack_from(f"{'<' if words == 'little' else '>'}{len(data) // 4}I", data))
    for one, two in zip(values, values, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


def _varint(data: bytes, begin: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for place in range(begin, begin + 8):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    value = value << 8 | data[begin + 8]
    return value - (1 << 64) * (value >> 63), begin + 9


def _values(id: int, record: bytes, widths: Collection[int]) -> Row | None:
    """
    The columns of a record; None where there are more or fewer. A table's id stands
    outside of it, as NULL inside.
    """
    end, place = _varint(record, 0)
    types = []
    while place < end:
        kind, place = _varint(record, place)
        types.append(kind)
    if len(types) not in widths:
        return None
    values: list[object] = []
    for kind in types:
        size = _INTEGERS.get(kind, 0) if kind < 12 else (kind - 12) // 2
        raw, place = record[place : place + size], place + size
        if len(raw) < size or kind in (7, 10, 11):
            raise ValueError("no such value")
        if kind in _CONSTANTS:
            values.append(_CONSTANTS[kind])
        elif kind < 12:
            values.append(int.from_bytes(raw, "big", signed=True))
        else:
            values.append(raw.decode() if kind % 2 else raw)
    return id, *values[1:]

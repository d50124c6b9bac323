"""
The file of rejected rows: JSON Lines that a person mends and feeds in again.

It goes on where a checkpoint says that it ended, so that an interrupted job
leaves no row twice. What else is in the file may be somebody's work: it is set
aside under another name, never cut or replaced.

This module must not know why a row was rejected, nor where the length is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final

from heap_agent._store.system import data_sync, directory_sync, open_private

__all__ = ["ChangedFile", "RejectedFile"]

_CHUNK: Final = 1 << 20


class ChangedFile(Exception):
    """
    The file is not as it was left; the text says what to do.
    """


class RejectedFile:
    """
    Appends objects, a line each; made with the first one, for this user alone.

    Args:
        path: The file.

    Attributes:
        path: As given.
        length: Bytes written and kept so far.
        set_aside: Where what was found in the file is now; None where there was
            nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self.set_aside: Path | None = None
        self._digest = blake2b(digest_size=16)
        self._descriptor: int | None = None

    def begin(self) -> None:
        """
        Start with nothing: what is in the file is set aside.
        """
        # A device or a pipe has nothing to lose.
        if self.path.is_file() and self.path.stat().st_size:
            self.set_aside = _free_name(self.path)
            self.path.rename(self.set_aside)

    def resume(self, length: int, digest: str) -> None:
        """
        Go on behind the bytes that a checkpoint knows of. Where there are later
        ones, the whole file is set aside, and the file begins with a copy of
        the others: rows that were written in vain come again.

        A file that is not there any more has been moved away, and begins anew.

        Raises:
            ChangedFile: The first bytes are not those that were written.
        """
        if not length or not self.path.exists():
            self.begin()
            return
        with self.path.open("rb") as found:
            for part in _parts(found, length):
                self._digest.update(part)
                self.length += len(part)
            is_longer = bool(found.read(1))
        if self.length != length or self._digest.hexdigest() != digest:
            raise ChangedFile(
                f"{self.path} has been changed since rejected rows were written to it; move it "
                "away, or give --rejected another file."
            )
        if is_longer:
            self._begin_with_copy(length)

    def write(self, fields: Mapping[str, Any]) -> None:
        """
        Append an object.

        Raises:
            OSError: The disk refuses.
        """
        line = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        self._append(line)
        self._digest.update(line)
        self.length += len(line)

    def sync(self) -> str:
        """
        Put everything on stable storage.

        Returns:
            The digest for `resume`.
        """
        if self._descriptor is not None:
            with self._named_in_errors():
                data_sync(self._descriptor)
        return self._digest.hexdigest()

    def close(self) -> None:
        """
        Let go of the file.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin_with_copy(self, length: int) -> None:
        self.begin()
        assert self.set_aside is not None
        with self.set_aside.open("rb") as known:
            for part in _parts(known, length):
                self._append(part)

    def _append(self, content: bytes) -> None:
        with self._named_in_errors():
            if self._descriptor is None:
                self._descriptor = self._open()
            view = memoryview(content)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def _open(self) -> int:
        new = not self.path.exists()
        descriptor = open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if new:
            directory_sync(self.path.parent)
        return descriptor

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What goes by a descriptor says "No space left on device", and not where.
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def _parts(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The first so many bytes, or fewer where there are no more."""
    while length > 0 and (part := file.read(min(_CHUNK, length))):
        length -= len(part)
        yield part


def _free_name(path: Path) -> Path:
    """Beside the file, with the first number that is free."""
    names = (path.with_name(f"{path.name}.{number}") for number in count(1))
    return next(name for name in names if not os.path.lexists(name))

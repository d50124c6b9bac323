"""
The file of rejected rows: JSON Lines that a person mends and feeds in again.

It goes on where a checkpoint says that it ended, so that an interrupted job
leaves no row twice; a file that somebody has worked on is never cut.

This module must not know why a row was rejected, nor where the length is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

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
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._digest = blake2b(digest_size=16)
        self._descriptor: int | None = None

    def begin(self) -> None:
        """
        Start with nothing: what an earlier job left in the file is replaced.
        """
        if self.path.exists():
            self._open(os.O_TRUNC)

    def resume(self, length: int, digest: str) -> None:
        """
        Go on behind the bytes that a checkpoint knows of; later ones are cut off.

        A file that is not there any more has been moved away, and begins anew.

        Raises:
            ChangedFile: The first bytes are not those that were written.
        """
        if not length or not self.path.exists():
            self.begin()
            return
        self._take_in(length)
        if self.length != length or self._digest.hexdigest() != digest:
            raise ChangedFile(
                f"{self.path} has been changed since rejected rows were written to it; move it "
                "away, or give --rejected another file."
            )
        descriptor = self._open(0)
        os.ftruncate(descriptor, length)
        os.lseek(descriptor, 0, os.SEEK_END)

    def write(self, fields: Mapping[str, Any]) -> None:
        """
        Append an object.

        Raises:
            OSError: The disk refuses.
        """
        line = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        descriptor = self._open(os.O_TRUNC) if self._descriptor is None else self._descriptor
        view = memoryview(line)
        while view:
            view = view[os.write(descriptor, view) :]
        self._digest.update(line)
        self.length += len(line)

    def sync(self) -> str:
        """
        Put everything on stable storage.

        Returns:
            The digest for `resume`.
        """
        if self._descriptor is not None:
            data_sync(self._descriptor)
        return self._digest.hexdigest()

    def close(self) -> None:
        """
        Let go of the file.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, flags: int) -> int:
        new = not self.path.exists()
        self._descriptor = open_private(self.path, os.O_WRONLY | os.O_CREAT | flags)
        if new:
            directory_sync(self.path.parent)
        return self._descriptor

    def _take_in(self, length: int) -> None:
        with self.path.open("rb") as file:
            while self.length < length and (part := file.read(min(_CHUNK, length - self.length))):
                self._digest.update(part)
                self.length += len(part)

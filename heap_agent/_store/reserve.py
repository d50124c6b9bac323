"""
A file that holds room, so that a full disk can be drained.

Deleting a row needs space in SQLite's log. On a full disk there is none, and a
batch that the server has accepted could never be acknowledged. Giving the
reserve up makes that room.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from heap_agent._store import system
from heap_agent._store.database import WAL_BYTES

NAME: Final = "reserve"

#: The log at its limit, and two batches on their way into it. With 512 KB the
#: checkpoint failed; this is the smallest round number that did not.
BYTES: Final = max(1_048_576, 2 * WAL_BYTES)

_BLOCK: Final = 65_536


class Reserve:
    """
    The reserve of one directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / NAME

    def __repr__(self) -> str:
        return f"<Reserve [{'held' if self.held else 'given up'}]>"

    @property
    def held(self) -> bool:
        """Whether the room is there."""
        try:
            return self._path.stat().st_size >= BYTES
        except OSError:
            return False

    def give_up(self) -> None:
        """
        Make the room free.
        """
        system.unlink_quietly(self._path)

    def hold(self) -> bool:
        """
        Make the file, if the disk has at least twice its size to spare.

        Returns:
            Whether it is there now.
        """
        if self.held:
            return True
        draft = self._path.with_suffix(".draft")
        try:
            if not self.room:
                return False
            system.unlink_quietly(draft)
            fd = system.open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                _allocate(fd)
            finally:
                os.close(fd)
            os.replace(draft, self._path)
        except OSError:
            system.unlink_quietly(draft)
            return False
        return True

    @property
    def room(self) -> bool:
        """Whether the disk has twice the reserve free, so that absorbing is safe."""
        return self.free >= 2 * BYTES

    @property
    def free(self) -> int:
        """Bytes that the disk has left; 0 where it does not say."""
        try:
            return system.free_bytes(self._directory)
        except OSError:
            return 0


def _allocate(fd: int) -> None:
    """
    Take real blocks: a sparse file would hold nothing.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, BYTES)
        return
    block = os.urandom(_BLOCK)
    for _ in range(BYTES // _BLOCK):
        if os.write(fd, block) != _BLOCK:
            raise OSError("no room for the reserve")

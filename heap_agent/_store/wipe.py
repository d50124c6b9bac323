"""
Removing everything that agents have left in a directory: before a disk is imaged.

What is deleted is overwritten first, since an image of a whole disk has the blocks of
deleted files, too. Storage that levels wear may keep old blocks all the same.

This module must not know why a directory is wiped.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from heap_agent._store import parts as files
from heap_agent._store import system
from heap_agent._store.owner import OWNER_LOCK, try_lock

#: Names of files that are ours; whatever else lies there stays.
_OURS: Final = re.compile(
    r"""
      [0-9a-f]{16}-[0-9]{8}\.(part|draft)
    | [0-9a-f]{16}\.(lock|tally|run|alive)
    | queue-[0-9]+\.db(-wal|-shm|-journal)?
    | queue\.draft(-wal|-shm|-journal)?
    | (owner|runs)\.lock | bell | opted-out | reserve(\.draft)?
    | (user|version)-[0-9]+-[0-9a-f]{16}(\.lock)?
    | \..+\.[0-9a-f]{16}\.tmp
    """,
    re.VERBOSE,
)

_CHUNK: Final = 1 << 16


class StillInUse(Exception):
    """
    A process records or delivers here.
    """


def wipe(directory: Path) -> int:
    """
    Delete everything of ours. What a crash leaves half done is done by another call.

    Args:
        directory: A state directory.

    Returns:
        How many files were deleted.

    Raises:
        StillInUse: Nothing was deleted, or somebody has begun to record meanwhile.
        OSError: The disk refuses.
    """
    with ExitStack() as holding:
        # Lock files of our own making are among those that are deleted.
        locks = [OWNER_LOCK, *(f"{id}.lock" for id in files.find_locks(directory))]
        for name in locks:
            held = try_lock(directory / name)
            if held is None:
                raise StillInUse(f"a process still records or delivers in {directory}")
            holding.callback(held.release)
        # The locks last: until then nobody takes the directory for an abandoned one.
        ours = sorted(_ours(directory), key=lambda name: name in locks)
        for name in ours:
            _erase(directory / name)
        if _ours(directory):
            raise StillInUse(f"a process has begun to record in {directory} meanwhile")
    system.directory_sync(directory)
    return len(ours)


def _ours(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if _OURS.fullmatch(name)]


def _erase(path: Path) -> None:
    with suppress(FileNotFoundError):
        # A link is deleted itself; what it leads to is not ours. A pipe would never end.
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
            return
        descriptor = system.open_private(path, os.O_WRONLY)
        try:
            left = os.fstat(descriptor).st_size
            while left > 0:
                left -= os.write(descriptor, bytes(min(left, _CHUNK)))
            system.data_sync(descriptor)
        finally:
            os.close(descriptor)
        path.unlink()

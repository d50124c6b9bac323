"""
Who writes: locks that say which process is alive, and which one is the owner.

A lock is an operating-system file lock: it ends with its process, whatever way
that goes. filelock (4.0 and later) keeps it out of forked children, so that a
child's exit does not free it and a surviving daemon does not keep it.

This module must not know what a lock protects.
"""

from __future__ import annotations

import errno
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from heap_agent._store import system

if TYPE_CHECKING:
    from filelock import FileLock, Timeout

OWNER_LOCK: Final = "owner.lock"


class HeldLock:
    """
    A lock that this process holds.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, lock: FileLock, path: Path) -> None:
        self._lock = lock
        self.path = path

    def release(self, *, unlink: bool = False) -> None:
        """
        Let go.

        Args:
            unlink: Remove the file too; only right for a name that is never
                used again, and done while the lock is still held.
        """
        if unlink:
            system.unlink_quietly(self.path)
        self._lock.release()

    def __repr__(self) -> str:
        return f"<HeldLock {self.path.name}>"


def try_lock(path: Path, *, patience: float = 0.0) -> HeldLock | None:
    """
    Take a lock; None if somebody alive holds it.

    Args:
        path: The lock file, created (0600) where it is missing.
        patience: Seconds to go on trying.

    Raises:
        OSError: The file cannot be created or locked.
    """
    file_lock, timeout = _filelock()
    if not path.parent.is_dir():
        # filelock would make it, open to everybody.
        raise FileNotFoundError(errno.ENOENT, "no directory for a lock", str(path.parent))
    lock = file_lock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=patience, poll_interval=0.01)
    except timeout:
        return None
    return HeldLock(lock, path)


@cache
def _filelock() -> tuple[type[FileLock], type[Timeout]]:
    """
    Imported with the first lock: it costs more than the rest of this package, and
    some of its versions load asyncio and ssl. Kept, because finalizers may record
    at the end of the interpreter, when nothing can be imported any more.
    """
    from filelock import FileLock, Timeout

    return FileLock, Timeout

"""
How processes on one directory tell each other that there is something to read:
a file that grows by a byte with each ring.

A process that knows how often it rang itself knows whether anybody else did.
This module must not know what there is to read.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from heap_agent._store import system

NAME: Final = "bell"

#: Beyond this the file begins anew, which everybody takes for a ring.
_LONGEST: Final = 65_536


class Bell:
    """
    The bell of one directory.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / NAME
        # Guards the two numbers, which must change together with the file; re-entrant,
        # because a signal handler may ring.
        self._lock = threading.RLock()
        self._heard = 0
        self._rung = 0

    def __repr__(self) -> str:
        return f"<Bell [{self._heard} heard]>"

    def ring(self) -> None:
        """
        Tell the other processes, and this one's keeper.
        """
        if self._path is None:
            return
        with self._lock, suppress(OSError):
            fd = system.open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                if os.fstat(fd).st_size >= _LONGEST:
                    os.ftruncate(fd, 0)
                os.write(fd, b".")
            finally:
                os.close(fd)
            self._rung += 1

    def count(self) -> int:
        """
        What has changed once it has rung again.
        """
        if self._path is None:
            return 0
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def listen(self) -> tuple[bool, bool]:
        """
        Whether it has rung since last asked, and whether it was somebody else.
        """
        if self._path is None:
            return False, False
        with self._lock:
            try:
                size = self._path.stat().st_size
            except OSError:
                return False, False
            grown, self._heard = size - self._heard, size
            own, self._rung = self._rung, 0
        return grown != 0, grown != own

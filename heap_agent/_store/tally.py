"""
How many events a journal has refused: one number in a file beside it.

At the hard cap there is no room for records, and a kill must not make events
vanish all the same. So the number is written over itself with every refusal, and
whoever absorbs the journal takes what has been added since. A tally is over, and
unlinked, when its journal is.

This module must not know why events were refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from heap_agent._store import system

#: Stands for the tally where positions are kept by part; no part has this number.
NUMBER: Final = 0

_NAME: Final = re.compile(r"^([0-9a-f]{16})\.tally$")
_NUMBER: Final = Struct("<Q")
_CHECKED: Final = Struct("<QI")


def tally_path(directory: Path, journal: str) -> Path:
    """
    The file of one journal's tally.
    """
    return directory / f"{journal}.tally"


def read_tallies(directory: Path) -> dict[str, int]:
    """
    Every tally in a directory, by journal. One that cannot be read says nothing.
    """
    found = {}
    with suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            match = _NAME.match(name)
            if match:
                with suppress(OSError):
                    found[match[1]] = _unpack((directory / name).read_bytes())
    return found


def _unpack(content: bytes) -> int:
    if len(content) == _CHECKED.size:
        number, crc = _CHECKED.unpack(content)
        if crc == crc32(content[: _NUMBER.size]):
            return int(number)
    return 0


class Tally:
    """
    The writing side. Its owner holds a re-entrant lock.

    Args:
        path: The file, which must not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self._synced = 0
        self._fd = system.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def __repr__(self) -> str:
        return f"<Tally {self.number}>"

    def add(self) -> None:
        """
        Count one more.

        Raises:
            OSError: The disk refuses; it is not counted.
        """
        self.number += 1
        written = 0
        try:
            # Again, if a signal handler has counted in between.
            while written != self.number:
                written = self.number
                packed = _NUMBER.pack(written)
                system.write_at_start(self._fd, packed + crc32(packed).to_bytes(4, "little"))
        except OSError:
            self.number -= 1
            raise

    @property
    def unsynced(self) -> bool:
        """Whether a sync has something to do."""
        return self._synced != self.number

    def sync(self, data_sync: Callable[[int], None]) -> None:
        """
        Bring the number to stable storage.

        Raises:
            OSError: The disk refuses.
        """
        number = self.number
        data_sync(self._fd)
        self._synced = number

    def close(self) -> None:
        """
        Close the file; the number stays.
        """
        with suppress(OSError):
            os.close(self._fd)

"""
What the sensor daemon among the examples reads: a file whose content changes at once.
"""

from __future__ import annotations

import os
from pathlib import Path


class Sensor:
    """A sensor that says 20 degrees at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fresh = path.with_suffix(".new")
        self.set("20000")

    def set(self, text: str) -> None:
        """What it says from now on."""
        self._fresh.write_text(text)
        self._fresh.replace(self.path)

    def jam(self) -> None:
        """From now on whoever reads it waits for ever."""
        os.mkfifo(self._fresh, 0o644)
        self._fresh.replace(self.path)

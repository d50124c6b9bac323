"""
How the bytes of a state directory are shared out, as arithmetic over `max_bytes`.

    0 ─────── target ── crowded ──────── full ──────── max_bytes
      what is kept         │  what may     │  what the owner works with: a batch
                           │  come in      │  that stands in the journal, the log
                           │  meanwhile    │  and the table at once

From `crowded` on the owner drops the oldest, down to `target`, a `step` at a time.
If events come in faster than that, the journals take no more of them at `full`.
This module must not know files.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: A larger one would only make the queue shorter.
_MARGIN: Final = 4_194_304

#: A part of this size is quickly read, and rarely begun.
PART: Final = 262_144

#: About the bytes of a record.
RECORD: Final = 512


class Bounds(NamedTuple):
    """
    The shares of one directory.

    Attributes:
        max_bytes: What all files in it may take together.
    """

    max_bytes: int

    @property
    def _margin(self) -> int:
        return min(self.max_bytes // 8, _MARGIN)

    @property
    def full(self) -> int:
        """Nothing more is recorded beyond these bytes."""
        return self.max_bytes - self._margin

    @property
    def crowded(self) -> int:
        """Beyond these bytes the oldest are dropped."""
        return self.full - self._margin

    @property
    def target(self) -> int:
        """What is dropped to, so that it is not done for one event at a time."""
        return self.crowded - self._margin // 2

    @property
    def step(self) -> int:
        """
        Bytes that one transaction may move or drop: twice as much in the log, and
        a part that is not read to its end, fit between `full` and `max_bytes`.
        """
        return self._margin // 8

    @property
    def batch(self) -> int:
        """Records in one such transaction."""
        return self.step // RECORD

    @property
    def part(self) -> int:
        """A part of a journal is sealed at this size, or soon after."""
        return min(PART, 2 * self.step)

    @property
    def unseen(self) -> int:
        """What all journals may take until their processes look at the directory again."""
        return self.full // 8

    @property
    def passing(self) -> int:
        """
        What may wait in the journals while deliveries succeed: it leaves from there
        by way of a queue that stays short.
        """
        return min(32 * PART, self.unseen)

    @property
    def dead(self) -> int:
        """What dead letters may take."""
        return self.max_bytes // 10

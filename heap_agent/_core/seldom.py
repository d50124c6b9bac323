"""
What happens often and is told now and then, all of it together.
"""

from __future__ import annotations


class Seldom:
    """
    A sum that is told at most once in so many seconds.

    Args:
        seconds: The least time between two words.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._untold = 0
        self._told_at: float | None = None

    def add(self, number: int, now: float) -> int:
        """
        Add to what is to be told.

        Args:
            number: How many more, 0 too.
            now: The current time, seconds on any clock that does not jump.

        Returns:
            How many are to be told now; 0 where it is too early, or nothing to say.
        """
        self._untold += number
        if self._told_at is not None and now - self._told_at < self._seconds:
            return 0
        told, self._untold = self._untold, 0
        if told:
            self._told_at = now
        return told

"""
How long to wait after a failure, and when to give up.

Pure: time and chance are arguments. This module must not know what was sent.
"""

from __future__ import annotations

import math
from typing import Final

from heap_agent._core.outcomes import Answer, Outcome

__all__ = ["BACKOFF_BASE", "BACKOFF_CAP", "Patience"]

#: Seconds, the ceiling of the first back-off; it doubles with each failure …
BACKOFF_BASE: Final = 1.0

#: … up to this one. An agent waits up to 300 s, but here somebody is waiting.
BACKOFF_CAP: Final = 60.0

#: As a share of what the server asked for: nobody returns early, and not all at once.
_JITTER: Final = 0.1


class Patience:
    """
    The failures in a row, with nothing settled between them.

    Args:
        retry_for: Seconds from the end of the first failure in which a success
            must come; None for ever, 0 for a single attempt.
        until: When nobody waits any more, whatever else there is time for.
    """

    __slots__ = ("_failures", "_retry_for", "_since", "_until")

    def __init__(self, retry_for: float | None, until: float = math.inf) -> None:
        self._retry_for = math.inf if retry_for is None else retry_for
        self._until = until
        self._failures = 0
        self._since = 0.0

    def __repr__(self) -> str:
        return f"<Patience {self._failures} failures, {self._retry_for:g} s>"

    @property
    def failures(self) -> int:
        """How many in a row."""
        return self._failures

    def restore(self) -> None:
        """
        Note that Heap has dealt with a request.
        """
        self._failures = 0

    def lose(self, now: float, chance: float, outcome: Outcome) -> float | None:
        """
        Note a failure.

        Args:
            now: Seconds on a clock that does not jump.
            chance: 0 to 1, spreads the waits.
            outcome: What came; `retry_after` counts where it is THROTTLED.

        Returns:
            Seconds to wait before the next attempt; None to give up: the time is
            over, or the server asks for more than is left of it.
        """
        if not self._failures:
            self._since = now
        self._failures += 1
        left = min(self._since + self._retry_for, self._until) - now
        if left <= 0:
            return None
        if outcome.answer is Answer.THROTTLED and outcome.retry_after is not None:
            told = outcome.retry_after * (1 + _JITTER * chance)
            return None if outcome.retry_after > left else max(told, BACKOFF_BASE / 2)
        ceiling = min(BACKOFF_BASE * 2.0 ** min(self._failures - 1, 30), BACKOFF_CAP)
        # At least half of it: a wait of nothing would not be one. The last attempt
        # is made when the time ends, not before.
        return min(ceiling * (0.5 + chance / 2), left)

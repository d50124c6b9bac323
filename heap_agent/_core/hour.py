"""
What happened in each of the last sixty minutes, in numbers.

Minutes are counted by a clock that is never set, which is an argument. This module must
not know what the numbers are good for.
"""

from __future__ import annotations

from typing import Final

#: Minutes that are remembered, the running one included.
MINUTES: Final = 60


class Minute:
    """
    The numbers of one minute.

    Attributes:
        recorded: Events that were recorded.
        delivered: Events that were accepted.
        requests: Requests that were answered, or failed.
        failures: Those that brought nothing through.
        seconds: What the answered ones took together.
        answered: How many those were.
        slowest: What the slowest of them took.
        queued: Events that waited when last looked; None where nobody did.
    """

    __slots__ = (
        "answered",
        "delivered",
        "failures",
        "queued",
        "recorded",
        "requests",
        "seconds",
        "slowest",
    )

    def __init__(self) -> None:
        self.recorded = self.delivered = self.requests = self.failures = self.answered = 0
        self.seconds = self.slowest = 0.0
        self.queued: int | None = None

    def request(self, *, good: bool, events: int, seconds: float) -> None:
        """
        Note a request.

        Args:
            good: It was answered as it should be.
            events: How many it has brought through.
            seconds: What it took.
        """
        self.requests += 1
        self.delivered += events
        if not good:
            self.failures += 1
            return
        self.answered += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)


class Hour:
    """
    The last sixty minutes. Any thread may read; each number is changed by one.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, Minute] = {}

    def __repr__(self) -> str:
        return f"<Hour [{len(self._minutes)} minutes]>"

    def at(self, now: float) -> Minute:
        """
        The numbers of the minute that a moment is in, to be added to.

        Args:
            now: Seconds.
        """
        number = int(now // 60)
        found = self._minutes.get(number)
        if found is None:
            # One step each: another thread may begin the same minute.
            found = self._minutes.setdefault(number, Minute())
            for known in list(self._minutes):
                if known <= number - MINUTES:
                    self._minutes.pop(known, None)
        return found

    def back(self, now: float) -> list[Minute]:
        """
        The running minute, the one before it, and so on: sixty.
        """
        minutes, number = self._minutes, int(now // 60)
        return [minutes.get(number - ago) or Minute() for ago in range(MINUTES)]

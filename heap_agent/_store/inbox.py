"""
Messages to one thread, from anywhere.

Not a `SimpleQueue`, whose `get` with a timeout may wait for ever on Python 3.10. It
takes what is left of the time for another try, and when that is below zero, because
the machine was busy or the timeout was 0, it waits without one.

This module must not know what the messages say.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

_M = TypeVar("_M")


class Inbox(Generic[_M]):
    """
    One thread waits, all others put. `put` is re-entrant and never waits: signal
    handlers and finalizers may call it, whatever they have interrupted.
    """

    def __init__(self) -> None:
        self._messages: deque[_M] = deque()
        # Held, except between a message and the look that follows it.
        self._bell = threading.Lock()
        self._bell.acquire()

    def __repr__(self) -> str:
        return f"<Inbox [{len(self._messages)} messages]>"

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: _M) -> None:
        """
        Leave a message.
        """
        self._messages.append(message)
        with suppress(RuntimeError):  # it rings already
            self._bell.release()

    def wait(self, timeout: float) -> list[_M]:
        """
        Wait for a message.

        Args:
            timeout: Seconds; not at all where a message is there.

        Returns:
            All that have come, oldest first. May be empty before the time is over.
        """
        self._bell.acquire(timeout=0 if self._messages else max(0.0, timeout))
        # No more than are there now: a flood of them must not keep the thread here.
        return [self._messages.popleft() for _ in range(len(self._messages))]

"""
Messages to a thread: none is lost, none is waited for longer than was said.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType

import pytest

from heap_agent._store.inbox import Inbox


@pytest.mark.parametrize("timeout", [-1.0, 0.0, 1e-9, 1e-6, 0.001])
def test_a_short_wait_ends(timeout: float) -> None:
    """Also where the time is over before the waiting has begun, and after a message."""
    for _ in range(300):
        inbox: Inbox[int] = Inbox()
        assert inbox.wait(timeout) == []
        inbox.put(1)
        assert inbox.wait(timeout) == [1]
        for _ in range(3):
            assert inbox.wait(timeout) == []


def test_messages_come_in_order_and_at_once() -> None:
    """Whoever waits is woken by the first."""
    inbox: Inbox[int] = Inbox()
    assert repr(inbox) == "<Inbox [0 messages]>"
    timer = threading.Timer(0.02, lambda: [inbox.put(number) for number in range(3)])
    timer.start()
    found: list[int] = []
    began = time.monotonic()
    while len(found) < 3:
        found += inbox.wait(60.0)

    assert found == [0, 1, 2]
    assert time.monotonic() - began < 30.0


def test_nothing_is_lost_between_many_writers() -> None:
    """Each message is taken once, whoever put it and when."""
    inbox: Inbox[int] = Inbox()

    def write(first: int) -> None:
        for number in range(first, first + 5_000):
            inbox.put(number)

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 5_000, 10_000)]
    for writer in writers:
        writer.start()
    found: list[int] = []
    while len(found) < 15_000:
        found += inbox.wait(30.0)
    for writer in writers:
        writer.join()

    assert sorted(found) == list(range(15_000))
    assert inbox.wait(0.0) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_handler_may_put_whatever_it_interrupts() -> None:
    """It never waits, and its messages come too."""
    inbox: Inbox[str] = Inbox()
    handled = 0

    def handle(_: int, __: FrameType | None) -> None:
        nonlocal handled
        handled += 1
        inbox.put("handler")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    found: list[str] = []
    try:
        deadline = time.monotonic() + 30
        while handled < 200 and time.monotonic() < deadline:
            inbox.put("program")
            found += inbox.wait(0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found += inbox.wait(0.0)

    assert handled >= 200
    assert found.count("handler") == handled

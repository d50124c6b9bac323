"""
Calls that no signal handler can cut short.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from heap_agent._aside import aside


def test_what_is_returned_and_raised_comes_back() -> None:
    """As if the function had been called here."""

    def fail() -> None:
        raise KeyError("gone")

    assert aside(lambda: 42) == 42
    with pytest.raises(KeyError, match="gone"):
        aside(fail)


def test_the_main_thread_is_spared() -> None:
    """Others run no signal handlers, and need no help."""
    assert aside(threading.current_thread) is not threading.main_thread()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(aside(threading.current_thread)))
    thread.start()
    thread.join()
    assert found == [thread]


def test_waiting_may_end_before_the_call() -> None:
    """It goes on by itself."""
    ended = threading.Event()

    def slow() -> bool:
        ended.wait(30)
        return True

    assert aside(slow, timeout=0.01) is None
    ended.set()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_exception_from_a_signal_handler_cuts_only_the_waiting() -> None:
    """What was begun is finished."""
    steps: list[int] = []

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    def work() -> None:
        for step in range(20):
            time.sleep(0.005)
            steps.append(step)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Interrupted):
            aside(work)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    deadline = time.monotonic() + 30
    while len(steps) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)

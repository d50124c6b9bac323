"""
Work on a thread of its own, while the caller waits.

Signal handlers run in the main thread, between any two of its steps, and what they
raise (Ctrl-C) cuts short whatever was done there: a transaction, the taking of a
lock. A call that takes seconds is the likely victim, so that it is made where no
handler runs. This module must not know what the call does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


def aside(function: Callable[[], _T], *, timeout: float | None = None) -> _T | None:
    """
    Call a function, at the main thread's request on another one.

    Args:
        function: What to call. If the caller is cut short, or does not wait
            any longer, it goes on.
        timeout: Seconds to wait; None for as long as it takes.

    Returns:
        What the function returned; None where that takes longer.

    Raises:
        BaseException: What the function raised.
    """
    if threading.current_thread() is not threading.main_thread() and timeout is None:
        return function()
    call = _Call(function)
    thread = threading.Thread(target=call.run, name="heap-agent-aside", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # An interpreter that is ending starts no threads (Python 3.12).
        return function()
    thread.join(timeout)
    return call.result()


class _Call(Generic[_T]):
    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self._value: _T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def result(self) -> _T | None:
        if self._error is not None:
            raise self._error
        return self._value

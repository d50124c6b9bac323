"""
A function that lives in a process of its own, with all that it keeps.

This module must not know what runs there.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")


class DiedApart(Exception):
    """
    The other process raised, or ended.
    """


@contextmanager
def apart(make: Callable[..., Callable[[], T]], *args: Any) -> Iterator[Callable[[], T]]:
    """
    Make a function in a new process, to be called from this one.

    Its temporary files are removed at the end, and its threads ended, whatever they do.

    Args:
        make: Returns the function; at the top of a module, so that the other process finds it.
        args: For `make`.
    """
    ours, theirs = multiprocessing.Pipe()
    # What the other process has started may still write while it is removed.
    with tempfile.TemporaryDirectory(
        prefix="heap-agent-bench-", ignore_cleanup_errors=True
    ) as directory:
        process = multiprocessing.get_context("spawn").Process(
            target=_live, args=(theirs, directory, make, args), daemon=True
        )
        process.start()
        theirs.close()

        def answer() -> Any:
            try:
                went_well, result = ours.recv()
            except EOFError:
                raise DiedApart(f"the process of {make.__name__}{args} has ended") from None
            if not went_well:
                raise DiedApart(result)
            return result

        def function() -> T:
            ours.send(None)
            result: T = answer()
            return result

        try:
            answer()
            yield function
        finally:
            ours.close()
            process.join(10)
            process.kill()
            process.join()


def once(make: Callable[..., Callable[[], T]], *args: Any) -> T:
    """
    Call a function a single time in a process of its own.
    """
    with apart(make, *args) as function:
        return function()


def _live(line: Connection, directory: str, make: Callable[..., Any], args: Any) -> None:
    tempfile.tempdir = directory
    try:
        function = make(*args)
        line.send((True, None))
        while True:
            line.recv()
            line.send((True, function()))
    except EOFError:
        pass
    except BaseException:
        line.send((False, traceback.format_exc()))
    # Some clients would wait at an exit for what nobody waits for here.
    os._exit(0)

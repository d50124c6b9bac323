"""
A program that tells of its own life, and ends as it is told.

    python short_life.py DIRECTORY VERSION ENDING

Prints a line when its agent has begun.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import time
from typing import Any

import heap_agent as heap


class PumpFailed(Exception):
    """Its text is nobody's business."""


class Overheated(BaseException):
    """Nothing that `except Exception` is meant to hold up."""


def leave_in_a_callback() -> None:
    """What tkinter and others do with what a callback raises: they print it and go on."""

    def callback() -> None:
        raise PumpFailed("card 4711")

    try:
        callback()
    except PumpFailed as error:
        assert error.__traceback__ is not None
        sys.last_value, sys.last_traceback = error, error.__traceback__.tb_next


def main(directory: str, version: str, ending: str) -> None:
    options: dict[str, Any] = {
        "directory": directory,
        "endpoint": "http://127.0.0.1:9",
        "interval": 3600,
        "shutdown_timeout": 0,
        "capture_lifecycle": True,
        "app_version": version or None,
        "strict": True,
    }
    heap.init("11", **options)
    print("begun", flush=True)
    if ending == "raise":
        raise PumpFailed("card 4711")
    if ending == "raise after shutdown":
        heap.shutdown()
        raise PumpFailed("card 4711")
    if ending == "raise beside a second agent":
        heap.shutdown()
        heap.init("11", **options)
        other = heap.Agent("11", **options)
        raise PumpFailed(f"card 4711 in {other}")
    if ending == "overheat":
        raise Overheated
    if ending == "raise an odd one":
        raise type("Odd" * 999, (Exception,), {"__qualname__": "Odd" * 999, "__class__": None})
    if ending == "opt out, and be killed":
        heap.opt_out(purge=False)
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "raise in a callback":
        leave_in_a_callback()
    if ending == "interrupt tasks":
        raise vars(builtins)["BaseExceptionGroup"]("tasks", [KeyboardInterrupt()])
    if ending == "interrupt":
        raise KeyboardInterrupt
    if ending == "exit":
        sys.exit(3)
    if ending == "fork" and os.fork() == 0:
        raise PumpFailed("of a child")
    if ending == "fork":
        os.wait()
        print("the child has gone", flush=True)
        time.sleep(600)
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "wait":
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])

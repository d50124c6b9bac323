"""
A program that tells of its own life, and ends as it is told.

    python short_life.py DIRECTORY VERSION ENDING

Prints a line when its agent has begun.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import heap_agent as heap


class PumpFailed(Exception):
    """Its text is nobody's business."""


def main(directory: str, version: str, ending: str) -> None:
    heap.init(
        "11",
        directory=directory,
        endpoint="http://127.0.0.1:9",
        interval=3600,
        shutdown_timeout=0,
        capture_lifecycle=True,
        app_version=version or None,
    )
    print("begun", flush=True)
    if ending == "raise":
        raise PumpFailed("card 4711")
    if ending == "raise after shutdown":
        heap.shutdown()
        raise PumpFailed("card 4711")
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

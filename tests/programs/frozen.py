"""
A program to be frozen, with an agent, which does what it is told, a line at a time.

    frozen.py            each line on standard input is a Python expression over what is
                         here; its value is answered as a line of JSON
    frozen.py WORDS …    the command line of heap_agent
"""

from __future__ import annotations

import json
import multiprocessing
import sys

import heap_agent
from heap_agent import Agent
from heap_agent._core import encoder
from heap_agent._tools import cli
from heap_agent._version import USER_AGENT
from heap_agent.server import ServerClient
from heap_agent.testing import Collector

__all__ = ["USER_AGENT", "encoder", "heap_agent"]


def elsewhere(event: str) -> int | None:
    """Track in a process of its own; its exit code."""
    process = multiprocessing.get_context("spawn").Process(target=track, args=(event,))
    process.start()
    process.join()
    return process.exitcode


def track(event: str) -> None:
    """What that process does."""
    with Agent() as agent:
        agent.track(event)


def meet() -> list[str]:
    """What a collector in here gets of a server's client in here."""
    with Collector() as collector, ServerClient("11", endpoint=collector.url) as client:
        client.track("E", identity="ann")
        return [event.event for event in collector.events()]


def main() -> None:
    """Answer until nobody asks any more."""
    with Agent() as agent:
        here = {**globals(), "agent": agent}
        for line in sys.stdin:
            print(json.dumps(eval(line, here), default=str), flush=True)


if __name__ == "__main__":
    multiprocessing.freeze_support()
    sys.exit(cli.main() if sys.argv[1:] else main())

"""
A short life of an agent whose disk may refuse any of its calls (shims/faults.c).

    refused.py DIRECTORY ENDPOINT

prints what it saw as one line of JSON: how many calls the disk had to answer, the longest
that a recording call took, how many events it recorded, and the numbers of those that were
acknowledged while the storage was the disk.
"""

import ctypes
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from heap_agent import Agent

slowest = 0.0
recorded = 0
acknowledged: list[int] = []


def timed(call: Callable[..., object], *arguments: Any) -> None:
    """Make a recording call, and remember if it was the slowest."""
    global slowest
    began = time.monotonic()
    call(*arguments)
    slowest = max(slowest, time.monotonic() - began)


def record(agent: Agent, count: int) -> None:
    """Record the next so many events."""
    global recorded
    for _ in range(count):
        # Not of status(), which reads the directory, again and again while that fails.
        before = agent._store.storage
        timed(agent.track, "Recorded", {"number": recorded})
        if before == agent._store.storage == "disk":
            acknowledged.append(recorded)
        recorded += 1


agent = Agent(
    "11",
    directory=sys.argv[1],
    endpoint=sys.argv[2],
    interval=3600,
    identity_budget=None,
    app_budget=None,
)
record(agent, 5)
timed(agent.identify, "ann")
timed(agent.add_user_properties, {"colour": "blue"})
record(agent, 5)
agent.sync(0.5)
agent.flush(0.5)
record(agent, 5)
timed(agent.reset_identity)
record(agent, 5)
agent.shutdown(1)
seen = ctypes.CDLL(None).faults_seen()
print(json.dumps([seen, slowest, recorded, acknowledged]))

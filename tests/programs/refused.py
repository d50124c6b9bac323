"""
A short life of an agent whose disk may refuse any of its calls (shims/faults.c).

    refused.py DIRECTORY ENDPOINT ENDING [MUTANT]

prints what it saw as one line of JSON, by the names of `Life` in test_disk_faults.py. Where
ENDING is a number, the disk refuses no more than so many calls from the beginning of
`shutdown` on.
"""

import ctypes
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import mutants  # noqa: E402

from heap_agent import Agent  # noqa: E402

directory, endpoint, ending, *mutant = sys.argv[1:]
for name in mutant:
    mutants.apply(name)

shim = ctypes.CDLL(None)
shim.faults_end.argtypes = [ctypes.c_long]
slowest = 0.0
recorded = 0
acknowledged: list[int] = []


class Losses(logging.Handler):
    """Adds up how many events the log calls lost."""

    told = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Of the one line that says so."""
        if "neither written nor sent" in str(record.msg):
            assert isinstance(record.args, tuple) and isinstance(record.args[0], int)
            self.told += record.args[0]


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
        before = agent._store.storage
        timed(agent.track, "Recorded", {"number": recorded})
        if before == agent._store.storage == "disk":
            acknowledged.append(recorded)
        recorded += 1


losses = Losses(logging.ERROR)
logging.getLogger("heap_agent.agent").addHandler(losses)
agent = Agent(
    "11",
    directory=directory,
    endpoint=endpoint,
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
if ending:
    shim.faults_end(int(ending))
before_the_end = shim.faults_seen()
# Long enough for any answer to be heard: what was sent, and is not known to be, is told lost.
agent.shutdown(10)
print(
    json.dumps(
        {
            "calls": shim.faults_seen(),
            "calls_of_the_end": shim.faults_seen() - before_the_end,
            "taken": shim.faults_taken(),
            "slowest": slowest,
            "recorded": recorded,
            "acknowledged": acknowledged,
            "told": losses.told,
            "has_directory": agent._directory is not None,
        }
    )
)

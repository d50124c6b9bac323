"""
What one `track` costs its caller while other threads of the program compute:
whoever lets go of the interpreter waits for them to let go of it again.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks import data, server, yardsticks
from benchmarks.apart import once
from benchmarks.calls import timed_for
from benchmarks.peers import OURS, Mode
from benchmarks.tables import Row
from benchmarks.timing import Block, spread

TITLE = "contention: one event with 8 properties, beside threads that compute"

BUSY = (0, 1, 2, 4, 8)
#: Each combination's turns, and how long one lasts.
TURNS, SECONDS = 3, 0.8
EVENTS = 1_000

#: Seconds after which an agent has loaded what it does not load at its start.
SETTLED = 1.5

AGENT, COMMIT = "Agent.track", "SQLite commit, WAL, NORMAL"
BOTH, ONE = "two cores", "one core"


def run() -> list[Row]:
    """
    Measure.
    """
    chance = random.Random(data.SEED)
    cells = [
        (what, cores, busy) for cores in (BOTH, ONE) for what in (AGENT, COMMIT) for busy in BUSY
    ]
    times: dict[tuple[str, str, int], list[int]] = {cell: [] for cell in cells}
    with server.nobody_there() as endpoint:
        for _ in range(TURNS):
            for cell in chance.sample(cells, len(cells)):
                times[cell] += once(_beside, *cell, endpoint)
    return [
        {
            "what": what,
            "on": cores,
            "busy threads": busy,
            **spread(times[what, cores, busy]),
            "over 1 ms, %": 100 * _share_over(1_000_000, times[what, cores, busy]),
            "calls": len(times[what, cores, busy]),
        }
        for what, cores, busy in cells
    ]


def _share_over(limit: int, times: Sequence[int]) -> float:
    return sum(time > limit for time in times) / len(times)


def _beside(what: str, cores: str, busy: int, endpoint: str) -> Block:
    _stay_on(1 if cores == ONE else 2)
    block = timed_for(SECONDS, _recorder(what, endpoint), data.properties(EVENTS), pause=0)
    for _ in range(busy):
        threading.Thread(target=_compute, daemon=True).start()
    return block


def _recorder(what: str, endpoint: str) -> Callable[[str, dict[str, Any]], object]:
    if what == AGENT:
        client = OURS.open(endpoint, Mode.MEMORY)
        time.sleep(SETTLED)
        return client.track
    connection = yardsticks.database(Path(tempfile.mkdtemp()) / "commits.db")
    records = cycle(data.wire_records(data.properties(EVENTS)))
    return lambda name, event: yardsticks.commit(connection, next(records))


def _stay_on(cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _compute() -> None:
    number = 1
    while True:
        number = number * 31 % 1_000_003

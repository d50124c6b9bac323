"""
Calls of `track`, one after the other, each timed.

This module must not know whose `track` it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from time import monotonic, perf_counter_ns, sleep
from typing import Any

from benchmarks import data
from benchmarks.timing import Block

BURST = 20
#: Between bursts, for up to 10,000 calls a second.
PAUSE = 0.002


def timed(track: Callable[..., object], events: Sequence[dict[str, Any]]) -> Block:
    """
    Record each of the events.
    """

    def block(name: str = data.EVENT) -> list[int]:
        times = []
        for event in events:
            began = perf_counter_ns()
            track(name, event)
            times.append(perf_counter_ns() - began)
        return times

    return block


def timed_for(
    seconds: float,
    track: Callable[..., object],
    events: Sequence[dict[str, Any]],
    *,
    pause: float,
) -> Block:
    """
    Record events for some time, in bursts.

    Args:
        pause: Seconds between two bursts; 0 for none.
    """
    again = cycle(events)

    def block() -> list[int]:
        times: list[int] = []
        until = monotonic() + seconds
        while monotonic() < until:
            times += timed(track, list(islice(again, BURST)))()
            if pause:
                sleep(pause)
        return times

    return block

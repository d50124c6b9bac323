"""
Interleaved timing: candidates take turns in one process, so that what a
machine does at a moment (frequency, cache, a neighbour) happens to all of them.

This module must not know what the candidates are.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns

import attrs

from benchmarks.data import SEED
from benchmarks.tables import Row

#: Runs some calls and returns how long each took, in ns.
Block = Callable[[], list[int]]


@attrs.frozen
class Candidate:
    """
    Something to time.

    Attributes:
        name: As the table shows it.
        block: Does a round.
        floor: Name of the candidate that it is compared with.
    """

    name: str
    block: Block
    floor: str


def interleave(candidates: Sequence[Candidate], *, rounds: int, warm_up: int) -> list[Row]:
    """
    Let the candidates take turns, in another order each round.

    Args:
        candidates: Their floors among them.
        rounds: How often each has its turn.
        warm_up: Rounds before those, which do not count.

    Returns:
        For each candidate its times over all rounds, and the median over the rounds
        of (its median ÷ its floor's median in the same round).
    """
    chance = random.Random(SEED)
    samples: dict[str, list[list[int]]] = {one.name: [] for one in candidates}
    for number in range(warm_up + rounds):
        overhead = _overhead()
        for one in chance.sample(candidates, len(candidates)):
            times = [time - overhead for time in one.block()]
            if number >= warm_up:
                samples[one.name].append(times)
    return [_row(one, samples) for one in candidates]


def _overhead() -> int:
    """
    What reading the clock twice costs by itself, now, in ns.
    """
    times = []
    for _ in range(1_000):
        began = perf_counter_ns()
        times.append(perf_counter_ns() - began)
    return round(statistics.median(times))


def _row(one: Candidate, samples: Mapping[str, list[list[int]]]) -> Row:
    own = samples[one.name]
    everything = sorted(time for times in own for time in times)
    ratios = [
        statistics.median(times) / statistics.median(floor)
        for times, floor in zip(own, samples[one.floor], strict=True)
    ]
    return {
        "what": one.name,
        "median µs": percentile(everything, 50) / 1_000,
        "p90 µs": percentile(everything, 90) / 1_000,
        "p99 µs": percentile(everything, 99) / 1_000,
        "× floor": statistics.median(ratios),
        "floor": one.floor,
        "calls": len(everything),
    }


def spread(times: Sequence[int]) -> Row:
    """
    How long calls took, in µs: columns for a table.

    Args:
        times: In ns, in any order.
    """
    ordered = sorted(times)
    return {
        "median µs": percentile(ordered, 50) / 1_000,
        "p90 µs": percentile(ordered, 90) / 1_000,
        "p99 µs": percentile(ordered, 99) / 1_000,
        "p99.9 µs": percentile(ordered, 99.9) / 1_000,
    }


def percentile(ordered: Sequence[int], percent: float) -> int:
    """
    Of sorted values, the one that this share of them does not exceed.
    """
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

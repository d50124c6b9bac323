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
from typing import Any

import attrs

from benchmarks.data import SEED

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


@attrs.frozen
class Row:
    """
    What came out for one candidate: µs, and the median over the rounds of
    (its median ÷ its floor's median in the same round).
    """

    name: str
    median: float
    p90: float
    p99: float
    ratio: float
    floor: str
    calls: int


def interleave(candidates: Sequence[Candidate], *, rounds: int, warm_up: int) -> list[Row]:
    """
    Let the candidates take turns, in another order each round.

    Args:
        candidates: Their floors among them.
        rounds: How often each has its turn.
        warm_up: Rounds before those, which do not count.
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
    return Row(
        name=one.name,
        median=_percentile(everything, 50),
        p90=_percentile(everything, 90),
        p99=_percentile(everything, 99),
        ratio=round(statistics.median(ratios), 3),
        floor=one.floor,
        calls=len(everything),
    )


def _percentile(ordered: Sequence[int], percent: int) -> float:
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] / 1_000, 3)


def table(rows: Sequence[Row]) -> str:
    """
    Rows as text, for people.
    """
    lines = [f"{'':34}{'median µs':>10}{'p90':>9}{'p99':>9}{'× floor':>10}"]
    lines += [
        f"{row.name:34}{row.median:10.2f}{row.p90:9.2f}{row.p99:9.2f}{row.ratio:10.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """
    Rows for JSON.
    """
    return [attrs.asdict(row) for row in rows]

"""
Events that the collector refuses, alone or next to each other: exactly those become dead
letters, and all others arrive in order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection

import pytest
from helpers import balanced
from trials import dice, tries

from heap_agent import Agent
from heap_agent.testing import Collector, FakeClock


def longest_rise(numbers: Collection[int]) -> int:
    """How many numbers stand in order, when the fewest others are left out."""
    tails: list[int] = []
    for number in numbers:
        place = bisect_right(tails, number)
        tails[place : place + 1] = [number]
    return len(tails)


def deliver(agent: Agent, clock: FakeClock, limit: int) -> None:
    """Deliver everything, waiting as long as the agent wants to."""
    for _ in range(limit):
        wait = agent._outbox.drain.tick()
        if not agent.status().queued:
            return
        clock.advance(wait)
    raise AssertionError(f"it never drained: {agent.status()}")


COUNT = tries(1_000, 100_000)
ADJACENT = tries(40, 1_000)


def scattered() -> frozenset[int]:
    """One in a hundred, anywhere."""
    return frozenset(dice("poison").sample(range(COUNT), COUNT // 100))


def adjacent() -> frozenset[int]:
    """Side by side, with good ones around them."""
    return frozenset(range(COUNT // 3, COUNT // 3 + ADJACENT))


@pytest.mark.parametrize(
    ("poison", "witnesses"), [(scattered(), 2), (adjacent(), 10)], ids=["scattered", "adjacent"]
)
def test_exactly_the_poison_dies(
    make_agent: Callable[..., Agent],
    collector: Collector,
    clock: FakeClock,
    figure: Callable[[str, object], None],
    poison: frozenset[int],
    witnesses: int,
) -> None:
    """
    The refused are dead letters and no other is; the rest arrive once, and in order but
    for the few that were sent ahead to find out whether everything is refused today.
    """
    collector.reject_if(lambda event: event["properties"]["number"] in poison)
    agent = make_agent(endpoint=collector.url, clock=clock, identity_budget=None, app_budget=None)
    for number in range(COUNT):
        agent.track("E", {"number": number})
    deliver(agent, clock, 1_000)
    numbers = [event.properties["number"] for event in collector.events("E")]
    assert sorted(numbers) == [number for number in range(COUNT) if number not in poison]
    ahead = len(numbers) - longest_rise(numbers)
    assert ahead <= witnesses
    status = agent.status()
    assert (status.delivered, status.dead) == (len(numbers), len(poison))
    assert (status.queued, status.dropped) == (0, 0)
    assert collector.conflicts == []
    balanced(agent)
    figure("events", COUNT)
    figure("dead letters", len(poison))
    figure("requests", len(collector.requests))
    figure("sent ahead", ahead)

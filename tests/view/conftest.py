"""
Fixtures of the Event Visualizer's tests: an agent that delivers to a collector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import balanced
from visitor import Visitor

from heap_agent import Agent
from heap_agent.testing import Collector


@pytest.fixture(name="agent")
def _agent(make_agent: Callable[..., Agent], collector: Collector) -> Iterator[Agent]:
    """Delivers to the collector when it is told to."""
    agent = make_agent(endpoint=collector.url)
    yield agent
    agent.stop_ev_pairing()
    balanced(agent)


@pytest.fixture(name="visit")
def _visit(agent: Agent) -> Callable[..., Visitor]:
    """Starts a pairing, and somebody who has not entered yet."""

    def visit(**options: Any) -> Visitor:
        return Visitor(agent.start_ev_pairing(**options))

    return visit


@pytest.fixture(name="visitor")
def _visitor(visit: Callable[..., Visitor]) -> Visitor:
    """Somebody who was let in."""
    return visit().enter()

"""
Fixtures for the tests of programs that track; pytest finds them where heap_agent is
installed.

    def test_checkout(heap_test_agent, heap_collector):
        my_program.check_out(basket)
        heap_collector.assert_tracked("Purchase", dollars=50)

This module must not cost a test suite anything that does not use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from heap_agent._agent import Agent
    from heap_agent.testing import Collector

__all__ = ["heap_collector", "heap_test_agent"]

#: The environment at Heap that tests record for, unless HEAP_AGENT_APP_ID says another one.
_APP_ID: Final = "11"

#: Seconds that a delivery may take on one machine.
_PATIENCE: Final = 10.0

#: Seconds between deliveries: none comes by itself while a test runs.
_NEVER: Final = 3_600.0


@pytest.fixture
def heap_collector() -> Iterator[Collector]:
    """
    A strict stand-in for Heap on this machine. Whoever asks it what was received gets all
    that `heap_test_agent` has recorded until then.
    """
    from heap_agent.testing import Collector

    with Collector() as collector:
        yield collector


@pytest.fixture
def heap_test_agent(
    heap_collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Agent]:
    """
    The default agent, on a directory of its own, and strict: a value that is at fault
    raises. It delivers to `heap_collector`. Agents that the program makes itself meanwhile
    are strict, too, and deliver there.
    """
    import os

    from heap_agent import _api

    directory = tmp_path / "heap_agent"
    monkeypatch.delenv("HEAP_AGENT_DISABLED", raising=False)
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    monkeypatch.setenv("HEAP_AGENT_STRICT", "1")
    monkeypatch.setenv("HEAP_AGENT_ENDPOINT", heap_collector.url)
    monkeypatch.setenv("HEAP_AGENT_DIRECTORY", str(directory))
    monkeypatch.setenv("HEAP_AGENT_INTERVAL", str(_NEVER))
    _api.have_none()
    agent = _api.init(os.environ.get("HEAP_AGENT_APP_ID", _APP_ID))
    heap_collector.fetch_from(lambda: agent.ended or agent.flush(timeout=_PATIENCE))
    yield agent
    _api.have_none()

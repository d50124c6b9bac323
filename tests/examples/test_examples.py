"""The examples, run as the programs that they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PATIENCE

from heap_agent import Agent
from heap_agent.testing import Collector

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

if not EXAMPLES.exists():  # the suite without its checkout
    pytest.skip("there are no examples beside the tests", allow_module_level=True)

#: The kiosk in test_kiosk.py, as it needs a screen.
TRIED = ("async_service.py", "kiosk.py", "logging_handler.py")

#: Have tests of their own.
TRIED_ELSEWHERE = ("photo_booth/printer.py", "photo_booth/window.py", "sensor_daemon.py")


def run(name: str, collector: Collector, directory: Path) -> str:
    """What an example prints; all that it has recorded is delivered afterwards."""
    kept = {name: value for name, value in os.environ.items() if "HEAP_AGENT" not in name}
    where = {"HEAP_AGENT_ENDPOINT": collector.url, "HEAP_AGENT_DIRECTORY": str(directory)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env={**kept, **where, "HEAP_AGENT_APP_ID": "11"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    with Agent("11", directory=directory, endpoint=collector.url, at_exit=False) as agent:
        assert agent.flush(timeout=30)
        assert agent.check() == []
    return done.stdout


def test_all_are_tried() -> None:
    """A new one is tried, too."""
    found = [path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")]
    assert sorted(found) == sorted(TRIED + TRIED_ELSEWHERE)


def test_log_records_are_events(collector: Collector, state_dir: Path) -> None:
    """From warnings on, with the exception where there is one."""
    run("logging_handler.py", collector, state_dir)
    assert len(collector.events("Log Record")) == 2
    collector.assert_tracked("Log Record", level="WARNING", message="pressure is low: 0.8 bar")
    collector.assert_tracked("Log Record", level="ERROR", exception="ConnectionError")


def test_a_service_tracks_what_it_serves(collector: Collector, state_dir: Path) -> None:
    """Each request, with numbers as numbers."""
    out = run("async_service.py", collector, state_dir)
    assert out.splitlines() == ['{"bytes": 6}', '{"bytes": 8}']
    served = collector.events("Request Served")
    assert [event.properties["bytes"] for event in served] == [6, 8]
    assert all(isinstance(event.properties["milliseconds"], float) for event in served)

"""
Real processes, really killed: what `track` has acknowledged arrives, once.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import balanced, eventually

from heap_agent import Agent
from heap_agent.testing import Collector

PROGRAM = Path(__file__).parent / "programs" / "recorder.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Recorders:
    """
    Starts recording programs on one directory, and compares in the end.
    """

    def __init__(self, directory: Path, acknowledged: Path, collector: Collector) -> None:
        self.directory = directory
        self.acknowledged_file = acknowledged
        self.collector = collector
        self._started: list[subprocess.Popen[str]] = []
        self._next = 0
        self.killed = 0

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a program, wherever it is."""
        process.kill()
        process.communicate()
        self.killed += 1

    def start(self, count: int, mode: str = "") -> subprocess.Popen[str]:
        """Start a program that records the next so many numbers."""
        first, self._next = self._next, self._next + count
        arguments = [str(self.directory), self.collector.url, str(self.acknowledged_file)]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments, str(first), str(count), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, count: int, mode: str = "") -> None:
        """Run such a program to its end."""
        process = self.start(count, mode)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert errors == ""

    def end(self) -> None:
        """Leave nothing running."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @property
    def acknowledged(self) -> list[int]:
        """Numbers whose call has returned."""
        if not self.acknowledged_file.exists():
            return []
        lines = self.acknowledged_file.read_bytes().split(b"\n")
        # A line that a kill cut off, wherever it stands, was no acknowledgement.
        return [int(line) for line in lines[:-1] if len(line) == 9]

    def assert_all_arrived_once(self) -> None:
        """Deliver what is left, and compare from outside."""
        with Agent(
            "11",
            directory=self.directory,
            endpoint=self.collector.url,
            max_bytes=1 << 30,
            identity_budget=None,
            app_budget=None,
        ) as agent:
            assert agent.flush(300), agent.status()
            arrived = Counter(
                event.properties["number"] for event in self.collector.events("Recorded")
            )
            assert set(self.acknowledged) - set(arrived) == set()
            assert [number for number, times in arrived.items() if times > 1] == []
            # One key never stands for two events, whatever was sent again.
            assert self.collector.conflicts == []
            # A kill in the middle of a write leaves a torn record: counted, and of no
            # call that has returned.
            torn = agent.status().dropped_by.get("damaged", 0)
            assert agent.status().dropped == torn <= self.killed
            assert agent.status().delivered == len(self.collector.events())
            balanced(agent)


@pytest.fixture(name="recorders")
def _recorders(tmp_path: Path) -> Iterator[Recorders]:
    with Collector() as collector:
        recorders = Recorders(tmp_path / "state", tmp_path / "acknowledged", collector)
        yield recorders
        recorders.end()


def test_nothing_acknowledged_is_lost_to_sigkill(recorders: Recorders) -> None:
    """
    Processes killed at random moments, with a network that comes and goes, lose no event.
    """
    chance = random.Random(20261123)
    for round_ in range(12):
        if chance.random() < 0.5:
            recorders.collector.stop()
        else:
            recorders.collector.start()
        before = len(recorders.acknowledged)
        process = recorders.start(100_000)
        eventually(lambda before=before: len(recorders.acknowledged) > before)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.4))
        recorders.kill(process)
        assert len(recorders.acknowledged) > before, f"round {round_} recorded nothing"
    recorders.collector.start()

    recorders.assert_all_arrived_once()


def test_sigterm_leaves_a_consistent_directory(recorders: Recorders) -> None:
    """
    A daemon that is told to end, with no handler of its own, leaves nothing behind but events.
    """
    recorders.collector.stop()
    process = recorders.start(500, "stay")
    assert process.stdout is not None and process.stdout.readline() == "recorded\n"

    process.terminate()
    process.communicate(timeout=30)

    assert process.returncode == -signal.SIGTERM
    recorders.collector.start()
    recorders.assert_all_arrived_once()
    assert len(recorders.acknowledged) == 500


def test_a_signal_handler_may_shut_down_at_any_moment(recorders: Recorders) -> None:
    """
    Whatever of the agent's own code a handler interrupts, `shutdown` in it ends.
    """
    chance = random.Random(20261124)
    for _ in range(4):
        before = len(recorders.acknowledged)
        process = recorders.start(1_000_000, "handler")
        eventually(lambda before=before: len(recorders.acknowledged) > before)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.05))
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")

    recorders.assert_all_arrived_once()


def test_a_killed_owner_is_replaced(recorders: Recorders) -> None:
    """
    When the process that delivers is killed, another one on the directory takes over.
    """
    owner = recorders.start(50, "stay")
    assert owner.stdout is not None and owner.stdout.readline() == "recorded\n"
    heir = recorders.start(50, "stay")
    assert heir.stdout is not None and heir.stdout.readline() == "recorded\n"

    recorders.kill(owner)

    recorders.collector.wait_for(100, name="Recorded", timeout=60)
    recorders.kill(heir)
    recorders.assert_all_arrived_once()


def test_kill_between_answer_and_delete(recorders: Recorders) -> None:
    """
    A process that dies after Heap has accepted and before it has noted that sends the
    same bytes under the same key again.
    """
    collector = recorders.collector
    collector.drop_connection(count=1, when="after")
    collector.hang()
    process = recorders.start(200, "stay")
    collector.wait_for(1, timeout=30)
    recorders.kill(process)
    collector.normal()

    recorders.assert_all_arrived_once()
    assert collector.duplicates


@pytest.mark.parametrize("mode", ["fork", "orphan", "daemon", "hard", "threads"])
def test_every_way_to_live_and_die(recorders: Recorders, mode: str) -> None:
    """
    Forked children, orphans, daemons, hard exits and threads lose nothing.
    """
    recorders.run(400, mode)
    eventually(lambda: len(recorders.acknowledged) == 400)

    recorders.assert_all_arrived_once()


def test_several_processes_record_at_once(recorders: Recorders) -> None:
    """
    Four processes on one directory: one delivers, nothing is lost or sent under two keys.
    """
    processes = [recorders.start(500) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")

    recorders.assert_all_arrived_once()
    assert len(recorders.acknowledged) == 2000
    users = {event.user_id for event in recorders.collector.events()}
    assert len(users) == 1, "the processes do not agree on who the user is"

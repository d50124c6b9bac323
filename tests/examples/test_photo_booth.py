"""
The photo booth of the examples: a window and its workers, real processes on one directory,
used by clicks and keys.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, environment
from helpers import balanced, eventually, heir

from heap_agent.testing import Collector

PROGRAM = Path(__file__).parents[2] / "docs" / "examples" / "photo_booth" / "window.py"
CLICKS = Path(__file__).parents[1] / "programs" / "clicks.py"

if not PROGRAM.exists():  # the suite without its checkout
    pytest.skip("there are no examples beside the tests", allow_module_level=True)


class Booth:
    """The program, and somebody who uses it."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        where = {"HEAP_AGENT_DIRECTORY": str(folder / "state"), "HEAP_AGENT_ENDPOINT": endpoint}
        options = {"HEAP_AGENT_APP_ID": "11", "HEAP_AGENT_INTERVAL": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(CLICKS), str(PROGRAM)],
            env=environment(folder, {"QT_QPA_PLATFORM": "offscreen", **where, **options}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str) -> Any:
        """Have something done; what is to be seen."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def log_in(self, booking: str) -> None:
        self("type", booking)
        self("click", "Log in")
        assert self("message") == f"Hello {booking}"

    def take(self, photos: int) -> None:
        """Have so many photos taken and printed."""
        for _ in range(photos):
            self("click", "Take a photo")
        self.wait_for("All photos are printed")

    def wait_for(self, message: str) -> None:
        eventually(lambda: self("message") == message, PATIENCE)

    def workers(self) -> list[int]:
        """The ids of the printers' processes, once both are there."""
        eventually(lambda: all(self("processes")))
        found: list[int] = self("processes")
        return found

    def close(self) -> int:
        """Its exit code, after its window was closed."""
        self("close")
        return self.process.wait(PATIENCE)


@pytest.fixture(name="booth")
def _booth(tmp_path: Path, collector: Collector) -> Iterator[Booth]:
    # Elsewhere, since it changes how Python imports; Qt needs libraries of the system, too.
    load = [sys.executable, "-c", "import PySide6.QtWidgets, PySide6.QtTest"]
    done = subprocess.run(load, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"Qt is not usable here: {done.stderr.splitlines()[-1]}")
    booth = Booth(tmp_path, collector.url)
    yield booth
    booth.process.kill()
    booth.process.communicate()


def alive(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def photos(collector: Collector, event: str) -> list[object]:
    """Their numbers, in order."""
    return [*sorted(one.properties["photo"] for one in collector.events(event))]


def settle(tmp_path: Path, collector: Collector) -> None:
    """Deliver what is left and check the books."""
    collector.start()
    with heir(tmp_path / "state", collector.url) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)
        assert collector.conflicts == []


def test_the_visitor_is_the_user_of_all(booth: Booth, collector: Collector, tmp_path: Path) -> None:
    """Who logs in at the window is the user of the printers' events; who comes next is not."""
    booth.take(2)
    booth.log_in("A-1234")
    # Until the printers have heard of it.
    named: set[object] = set()
    while named != {"left", "right"}:
        booth.take(2)
        booth("click", "Send now")
        booth.wait_for("Sent")
        printed = collector.events("Photo Printed")
        named = {one.properties["printer"] for one in printed if one.identity == "A-1234"}
    taken = len(collector.events("Photo Taken"))
    booth("click", "Log out")
    booth.take(1)
    assert booth.close() == 0

    settle(tmp_path, collector)
    assert photos(collector, "Photo Taken") == [*range(1, taken + 2)]
    assert photos(collector, "Photo Printed") == [*range(1, taken + 2)]
    visitor, next_one = collector.users
    assert visitor.identity == "A-1234" and next_one.identity is None
    # Anonymous in three processes, and the same one.
    assert len(visitor.user_ids) == 1
    for event in ("Photo Taken", "Photo Printed"):
        theirs = {one.properties["photo"] for one in visitor.events if one.event == event}
        assert theirs >= {*range(1, taken + 1)}
    assert [one.properties["photo"] for one in next_one.events][0] == taken + 1


def test_a_killed_worker_loses_nothing(booth: Booth, collector: Collector, tmp_path: Path) -> None:
    """What it had recorded is delivered by others, what it was to print by its successor."""
    collector.stop()
    booth.log_in("B-1")
    booth.take(4)
    for victim in booth.workers():
        os.kill(victim, signal.SIGSTOP)
        for _ in range(4):
            booth("click", "Take a photo")
        assert not booth("enabled", "Log out")
        os.kill(victim, signal.SIGKILL)
        booth.wait_for("All photos are printed")
        assert booth("enabled", "Log out")
        assert victim not in booth.workers()
    assert booth.close() == 0

    settle(tmp_path, collector)
    assert photos(collector, "Photo Taken") == [*range(1, 13)]
    # One that was printed, and not answered for, is printed again.
    assert {*photos(collector, "Photo Printed")} == {*range(1, 13)}
    assert [user.identity for user in collector.users] == ["B-1"]


def test_workers_end_with_a_window_that_is_closed(
    booth: Booth, collector: Collector, tmp_path: Path
) -> None:
    """They do their work first, and then nobody is left."""
    workers = booth.workers()
    booth("click", "Take a photo")
    booth("click", "Take a photo")
    assert booth.close() == 0
    assert not any(map(alive, workers))

    settle(tmp_path, collector)
    assert photos(collector, "Photo Taken") == [1, 2]
    assert photos(collector, "Photo Printed") == [1, 2]


def test_workers_end_with_a_window_that_is_killed(
    booth: Booth, collector: Collector, tmp_path: Path
) -> None:
    """By themselves; what all three have recorded is still there."""
    collector.stop()
    workers = booth.workers()
    booth.take(2)
    booth.process.kill()
    eventually(lambda: not any(map(alive, workers)))

    settle(tmp_path, collector)
    assert photos(collector, "Photo Taken") == [1, 2]
    assert photos(collector, "Photo Printed") == [1, 2]


def test_the_window_goes_on_while_it_sends(
    booth: Booth, collector: Collector, tmp_path: Path
) -> None:
    """A server that does not answer holds up nobody."""
    collector.hang(60)
    booth.take(1)
    booth("click", "Send now")
    # Answered by the event loop: where that waited, the sending would be over.
    assert booth("message") == "Sending"
    booth("click", "Take a photo")
    booth.wait_for("All photos are printed")
    booth.wait_for("Sent later")
    assert booth.close() == 0

    settle(tmp_path, collector)
    assert photos(collector, "Photo Printed") == [1, 2]

"""
Wall clocks that are wrong, and stepped under a living agent with the real scheduler.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest
from helpers import balanced, eventually

from heap_agent import Agent
from heap_agent.testing import Collector

PROGRAM: Final = Path(__file__).parents[1] / "programs" / "timed.py"

YEAR: Final = 365.25 * 86_400

#: How far from the truth a timestamp may be after repair.
CLOSE: Final = 2.0


class Device:
    """
    A program whose wall clock can be set, and the true time of all that it recorded.
    """

    def __init__(self, shim: Path, place: Path, collector: Collector, offset: float) -> None:
        self.directory = place / "state"
        self.collector = collector
        self.truth: list[float] = []
        self._shim = shim
        self._offset = place / "offset"
        self._offset.write_bytes(bytes(8))
        self.set_clock(offset)
        self._process = self._started()

    def set_clock(self, offset: float) -> None:
        """Let the clock be so many seconds from the truth."""
        with open(self._offset, "r+b", buffering=0) as file:
            file.write(struct.pack("=q", round(offset * 1e9)))
        self.offset = offset

    def record(self, count: int = 3) -> None:
        """Record the next so many events."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for _ in range(count):
            self._process.stdin.write(f"{len(self.truth)}\n")
            self._process.stdin.flush()
            seen = float(self._process.stdout.readline().split()[1])
            self.truth.append(time.time())
            assert abs(seen - self.offset - self.truth[-1]) < 1, "the clock is not shifted"

    def arrives(self) -> None:
        """Wait until all that was recorded has been delivered, by the program itself."""
        eventually(lambda: len(self.collector.events("Recorded")) >= len(self.truth))

    def restart(self) -> None:
        """End the program, and start it within the same boot."""
        self.end()
        self._process = self._started()

    def end(self) -> None:
        """End the program, which says nothing of any trouble."""
        if self._process.poll() is None:
            _, errors = self._process.communicate(timeout=30)
            assert (self._process.returncode, errors) == (0, "")

    def assert_true(self) -> float:
        """Order and times at the collector are the truth; how far the worst was off."""
        self.end()
        events = self.collector.events("Recorded")
        assert [event.properties["number"] for event in events] == list(range(len(self.truth)))
        stamps = [datetime.fromisoformat(moment(event.timestamp)).timestamp() for event in events]
        assert stamps == sorted(stamps)
        off = max(abs(said - true) for said, true in zip(stamps, self.truth, strict=True))
        assert off < CLOSE
        with Agent("11", directory=self.directory, endpoint=self.collector.url) as agent:
            balanced(agent)
        return off

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.directory), self.collector.url],
            env={**os.environ, "LD_PRELOAD": str(self._shim), "CLOCK_OFFSET": str(self._offset)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def moment(text: object) -> str:
    """A timestamp as Python 3.10 reads it."""
    return str(text).replace("Z", "+00:00")


@pytest.fixture(name="device")
def _device(
    clock_shim: Path, tmp_path: Path, collector: Collector
) -> Iterator[Callable[[float], Device]]:
    devices: list[Device] = []

    def make(offset: float) -> Device:
        devices.append(Device(clock_shim, tmp_path, collector, offset))
        return devices[-1]

    yield make
    for device in devices:
        device._process.kill()
        device._process.communicate()


def test_a_clock_that_starts_in_1970(
    device: Callable[[float], Device], collector: Collector, figure: Callable[[str, object], None]
) -> None:
    """
    What was recorded in 1970 without a network gets its true time once the clock is stepped
    by 56 years.
    """
    collector.stop()
    one = device(60 - time.time())
    one.record()
    time.sleep(2)
    one.set_clock(0)
    time.sleep(2)
    one.record()
    collector.start()
    one.arrives()
    figure("worst, s", f"{one.assert_true():.3f}")


def test_a_clock_that_is_set_back(device: Callable[[float], Device], collector: Collector) -> None:
    """
    Delivery goes on when the clock is set back by a year.
    """
    one = device(0)
    one.record()
    one.arrives()
    one.record()
    one.set_clock(-YEAR)  # while a delivery is due a moment later
    one.arrives()
    one.record()
    one.arrives()
    one.end()
    numbers = [event.properties["number"] for event in collector.events("Recorded")]
    assert numbers == list(range(len(one.truth)))


def test_a_step_while_no_program_runs(
    device: Callable[[float], Device], collector: Collector, figure: Callable[[str, object], None]
) -> None:
    """
    A step between two programs of one boot repairs what the first of them recorded.
    """
    collector.stop()
    one = device(60 - time.time())
    one.record()
    time.sleep(2)
    one.end()
    one.set_clock(0)
    one.restart()
    time.sleep(2)
    one.record()
    collector.start()
    one.arrives()
    figure("worst, s", f"{one.assert_true():.3f}")


def test_a_clock_that_is_slewed(
    device: Callable[[float], Device], collector: Collector, figure: Callable[[str, object], None]
) -> None:
    """
    A clock that is drawn to the truth in small pieces keeps the order, and is no step.
    """
    collector.stop()
    one = device(-1.0)
    for tenth in range(10):
        one.set_clock(-1.0 + tenth / 10)
        one.record(1)
        time.sleep(0.2)
    collector.start()
    one.arrives()
    figure("worst, s", f"{one.assert_true():.3f}")

"""
Far more than a device ever does: many threads of many processes, a long time offline, and
millions of events in one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final, NamedTuple

import pytest
from helpers import balanced
from trials import tries

from heap_agent import Agent

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks at processes through /proc"
)

Figure = Callable[[str, object], None]

TESTS: Final = Path(__file__).parents[1]
PROGRAMS: Final = TESTS / "programs"

#: What recording or delivering a backlog of any size may take of memory.
BOUND: Final = 32 * 2**20

#: What a process may still gain when it has done everything once.
LEAK: Final = 4 * 2**20

MIB: Final = 2**20


class Sink:
    """A server that marks what arrives, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "sink.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def seen(self) -> dict[int, list[int]]:
        """For each stream of numbers: how many, how many of these are missing, and came twice."""
        with urllib.request.urlopen(f"{self.url}/seen", timeout=60) as answer:
            return {int(stream): found for stream, found in json.load(answer).items()}

    def end(self) -> None:
        """Stop it."""
        self._process.communicate(timeout=30)


@pytest.fixture(name="sink")
def _sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.end()


def start(verb: str, *arguments: object) -> subprocess.Popen[str]:
    """Start the program that loads an agent."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / "loader.py"), verb, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(program: subprocess.Popen[str]) -> dict[str, Any]:
    """What a program says when it ends."""
    out, err = program.communicate(timeout=1_500)
    assert (program.returncode, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory."""
    return sum(path.stat().st_size for path in directory.iterdir())


def test_sixteen_threads_in_four_processes(tmp_path: Path, sink: Sink, figure: Figure) -> None:
    """All record at once into one directory: every event arrives, once, and the books balance."""
    seconds = tries(1, 60)
    programs = [start("crowd", tmp_path / "state", sink.url, seconds, n) for n in range(4)]
    recorded = {
        int(stream): number
        for program in programs
        for stream, number in told(program)["recorded"].items()
    }
    rest = told(start("empty", tmp_path / "state", sink.url))
    assert (rest["done"], rest["queued"], rest["dead"]) == (True, 0, 0)
    assert (rest["balanced"], rest["check"]) == (True, [])
    seen = sink.seen()
    figure("events", sum(recorded.values()))
    figure("missing", sum(missing for _, missing, _ in seen.values()))
    figure("sent again", sum(again for _, _, again in seen.values()))
    assert {stream: found[0] for stream, found in seen.items()} == recorded
    assert all(missing == 0 for _, missing, _ in seen.values())


def test_a_long_time_offline(tmp_path: Path, sink: Sink, figure: Figure) -> None:
    """
    A backlog takes disk and no memory, arrives as a whole when there is a network, and then
    the directory is as small as one that never had it.
    """
    count, state = tries(20_000, 1_000_000), tmp_path / "state"
    told(start("hoard", tmp_path / "small", "http://127.0.0.1:9", 1))
    told(start("empty", tmp_path / "small", sink.url))
    hoarded = told(start("hoard", state, "http://127.0.0.1:9", count))
    full = size_of(state)
    figure("events", count)
    figure("MiB of disk", round(full / MIB, 1))
    figure("MiB of memory to record", round(hoarded["growth"] / MIB, 1))
    assert (hoarded["queued"], hoarded["storage"]) == (count, "disk")
    assert hoarded["growth"] < BOUND
    rest = told(start("empty", state, sink.url))
    figure("MiB of memory to deliver", round(rest["growth"] / MIB, 1))
    assert (rest["done"], rest["queued"], rest["dead"]) == (True, 0, 0)
    assert (rest["balanced"], rest["check"]) == (True, [])
    assert rest["growth"] < BOUND
    # Number 0 came from the small directory too.
    assert sink.seen() == {0: [count, 0, 1]}
    floor = size_of(tmp_path / "small")
    figure("MiB of disk afterwards", round(size_of(state) / MIB, 2))
    figure("of that with an empty queue", round(floor / MIB, 2))
    assert full > floor + count * 100
    assert size_of(state) <= floor + MIB
    with Agent("11", directory=state, endpoint="http://127.0.0.1:9") as agent:
        balanced(agent)


class Growth(NamedTuple):
    """
    How a process became larger after the first quarter of its work.

    Attributes:
        gained: From the most of the second quarter to the least of the last.
        trend: What the straight line through all samples since then makes of that time.
    """

    gained: int
    trend: float

    @classmethod
    def of(cls, samples: list[int]) -> Growth:
        """What a row of samples, taken at even distances, comes to."""
        quarter = len(samples) // 4
        line = linear_regression(range(len(samples) - quarter), samples[quarter:])
        return cls(
            gained=min(samples[-quarter:]) - max(samples[quarter : 2 * quarter]),
            trend=line.slope * (len(samples) - quarter - 1),
        )


def growths(found: dict[str, Any]) -> list[Growth]:
    """How a process's memory, descriptors and threads became more."""
    return [Growth.of(list(samples)) for samples in zip(*found["samples"], strict=True)]


def test_nothing_leaks(tmp_path: Path, sink: Sink, figure: Figure) -> None:
    """A process that records and delivers ten million events stays as large as it was."""
    count = tries(60_000, 10_000_000)
    found = told(start("steady", tmp_path / "state", sink.url, count))
    memory, files, threads = growths(found)
    figure("events", count)
    figure("MiB of memory", round(found["samples"][-1][0] / MIB, 1))
    figure("KiB gained", memory.gained // 1024)
    figure("KiB by the trend", round(memory.trend / 1024))
    figure("descriptors and threads by the trend", round(files.trend + threads.trend, 2))
    assert (memory.gained < LEAK, memory.trend < LEAK) == (True, True)
    assert all(one.gained <= 0 and one.trend < 1 for one in (files, threads))
    assert (found["delivered"], found["balanced"], found["check"]) == (count, True, [])
    assert sink.seen() == {0: [count, 0, 0]}


def test_a_leak_is_found_out(tmp_path: Path, sink: Sink) -> None:
    """The same look at a process sees that an agent keeps what it has sent."""
    mutant = "bodies stay in memory"
    memory, _, _ = growths(told(start("steady", tmp_path / "state", sink.url, 100_000, mutant)))
    assert (memory.gained > LEAK, memory.trend > LEAK) == (True, True)

"""The demo, for real, and the comparison at its end."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from heap_agent._tools.demo import Comparison, Result, compare
from heap_agent._tools.demo_recorder import EVENT
from heap_agent.testing import Event

PATIENCE = 180.0


def demo(tmp_path: Path, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "heap_agent", "demo", *words],
        env={**os.environ, "TMPDIR": str(tmp_path), "TMP": str(tmp_path), **changes},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


def test_the_demo_loses_nothing(tmp_path: Path) -> None:
    """A killed recorder, a second one, a network with faults: all arrives once."""
    done = demo(tmp_path, "--events", "2000", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["good"] is True and found["problems"] == []
    assert found["acknowledged"] == found["arrived_once"] >= 2000
    assert found["lost"] == found["arrived_twice"] == 0
    assert (
        found["recorded"] == found["delivered"] == found["acknowledged"] + found["unacknowledged"]
    )
    assert found["queued"] == found["dead"] == found["dropped"] == 0
    assert found["unacknowledged"] <= 1
    # The connection that was cut after acceptance has been met.
    assert found["received_again"] > 0
    assert found["directory"] is None and not list(tmp_path.iterdir())


def test_the_demo_ends_in_tables(tmp_path: Path) -> None:
    """Away from a terminal there is no progress, only the report; --keep keeps the directory."""
    # What this machine is configured for must not matter.
    unkind = {
        "DO_NOT_TRACK": "1",
        "HEAP_AGENT_DISABLED": "1",
        "HEAP_AGENT_ENDPOINT": "http://[::1]:9",
    }
    done = demo(tmp_path, "--events", "200", "--keep", COLUMNS="80", **unkind)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["recorded", "=", "queued", "+", "delivered", "+", "dead", "+", "dropped"] in lines
    assert ["lost", "0"] in lines and ["arrived", "twice", "0"] in lines
    assert "Nothing lost, nothing twice" in done.stdout
    (place,) = tmp_path.iterdir()
    assert list((place / "state").glob("queue-*.db"))


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C as POSIX has it")
@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, by: int, code: int) -> None:
    """Ended in the middle, it takes its processes and its directory along, without a word."""
    with subprocess.Popen(
        [sys.executable, "-m", "heap_agent", "demo", "--events", "1000000"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE
        # A journal: the recording process is at work.
        while not list(tmp_path.glob("*/state/*.part")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(by)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (code, "", "")
    assert not list(tmp_path.iterdir())


def arrived(run: int, n: int, key: str) -> Event:
    return Event(
        app_id="11",
        event=EVENT,
        identity=None,
        user_id="1",
        session_id=None,
        timestamp=datetime.now(timezone.utc),
        properties={"run": run, "n": n},
        idempotency_key=key,
        raw=b"{}",
    )


@pytest.mark.parametrize(
    ("acknowledged", "events", "again", "changed", "expected"),
    [
        ([1, 2], [1, 2], [], 0, {"arrived_once": 2}),
        ([1, 2], [1, 2, 3], [], 0, {"arrived_once": 2, "unacknowledged": 1}),
        ([1, 2], [1], [], 0, {"arrived_once": 1, "lost": 1}),
        ([1, 2], [1, 2, 2], [], 0, {"arrived_once": 1, "arrived_twice": 1}),
        ([1, 2], [1, 2], [2], 0, {"arrived_once": 2, "received_again": 1}),
        ([1, 2], [1, 2], [2], 1, {"arrived_once": 2, "arrived_twice": 1}),
    ],
)
def test_the_comparison_sees_what_went_wrong(
    acknowledged: list[int],
    events: list[int],
    again: list[int],
    changed: int,
    expected: dict[str, int],
) -> None:
    """Lost, twice, changed under one key, repeated and unacknowledged are told apart."""
    nothing = {"lost": 0, "arrived_twice": 0, "unacknowledged": 0, "received_again": 0}
    found = compare(
        {(1, n) for n in acknowledged},
        [arrived(1, n, str(index)) for index, n in enumerate(events)],
        [arrived(1, n, "again") for n in again],
        changed,
    )
    assert found == Comparison(acknowledged=len(acknowledged), **{**nothing, **expected})


@pytest.mark.parametrize(
    ("lost", "twice", "problems", "good"),
    [
        (0, 0, (), True),
        (1, 0, (), False),
        (0, 1, (), False),
        (0, 0, ("the books do not balance",), False),
    ],
)
def test_one_fault_is_a_failure(
    lost: int, twice: int, problems: tuple[str, ...], good: bool
) -> None:
    """Anything lost, twice or out of balance makes the demo fail, and the verdict say so."""
    status: Any = None
    outside = Comparison(10, 10 - lost, lost, twice, 0, 0)
    result = Result(status, outside, (), problems, 1.0, None)
    assert result.good is good
    assert ("FAILED" in result.verdict) is not good

"""
What a call costs its caller, in units that every machine counts alike: system calls,
bytes, function calls, bytecodes. Times stand in the benchmarks; here is what would make
them longer. Whoever raises a limit says what it buys.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import attrs
import pytest
from helpers import balanced, bytecodes, eventually

from heap_agent import Agent
from heap_agent._core import encoder
from heap_agent._store import system

#: Two strings, two ints, two floats and two bools, as the benchmarks have them.
ALBUM: Final = {
    "album": "Kind of Blue",
    "artist": "Miles Davis",
    "tracks": 5,
    "plays": 1_959_000,
    "rating": 4.9,
    "seconds": 2743.7,
    "shuffle": False,
    "offline": True,
}

#: What stands on every event of a known user.
SHOP: Final = {"Store": "Lyon 3", "Firmware": "4.12.0", "Slot": 7, "Volume": 0.35}

EVENTS: Final = 1_000

#: At most; 3.11 needs the most of them, 412 for a known user.
BYTECODES: Final = 430

#: At most: clocks, lock and unlock, look-ups, the encoder, the frame, the checksum.
FUNCTIONS: Final = 15

#: Bytes of a record beside its properties, at most: frame, clocks, actor, visit, name.
FRAME: Final = 128

#: Its calls are C's, and one Python counts them like another.
usual = pytest.mark.skipif(
    sys.implementation.name != "cpython" or encoder.NAME != "orjson",
    reason="counted on CPython with orjson",
)


@attrs.frozen
class Caller:
    """A program whose next event is like many before it."""

    track: Callable[[], None]
    properties: dict[str, Any]


@pytest.fixture(name="caller", params=["anonymous", "known"])
def _caller(make_agent: Callable[..., Agent], request: pytest.FixtureRequest) -> Caller:
    agent = make_agent(sync_interval=3600)
    common = SHOP if request.param == "known" else {}
    if common:
        agent.add_event_properties(common)
        agent.identify("alice@example.com")
    # While a sync is under way a write lets go of the interpreter.
    assert agent.sync()

    def track() -> None:
        agent.track("Album Opened", ALBUM)

    # What the keeper does a second after the start.
    agent._store.journal.hold_interpreter()
    # The first begins a visit, the second learns the name.
    for _ in range(2):
        track()
    request.addfinalizer(lambda: balanced(agent))
    return Caller(track, {**common, **ALBUM})


@usual
def test_an_event_is_three_calls(caller: Caller) -> None:
    """
    The caller enters three functions of ours, and few of others: none of those that let
    go of the interpreter, for which it would have to wait behind threads that compute.
    """
    # While a sync is under way, as just after somebody was identified, it does let go.
    eventually(lambda: "_write_letting_go" not in _calls(caller.track)[0])
    frames, functions = _calls(caller.track)

    assert frames == ["track", "track", "body", "put"]
    assert "write" not in functions
    assert functions.total() <= FUNCTIONS, functions


@usual
@pytest.mark.skipif(system.holding_write() is None, reason="every write lets go of it here")
def test_an_agent_soon_keeps_hold_of_the_interpreter(make_agent: Callable[..., Agent]) -> None:
    """With the keeper's second look: what it takes is not loaded at the program's start."""
    agent = make_agent()
    eventually(lambda: "write" not in _calls(lambda: agent.track("Album Opened", ALBUM))[1])
    balanced(agent)


@usual
def test_an_event_takes_few_bytecodes(caller: Caller) -> None:
    """As many as when the limit was set, and hardly more."""
    # 3.12 counts only from the second time on.
    bytecodes(caller.track)
    # The least: the keeper may hold the lock for a moment.
    assert 250 < min(bytecodes(caller.track) for _ in range(20)) <= BYTECODES


@pytest.mark.skipif(not Path("/proc/thread-self/io").exists(), reason="nobody counts here")
def test_an_event_is_one_write(caller: Caller) -> None:
    """The system is asked for nothing else, and few bytes are written beside its properties."""
    writes, written = _written()
    for _ in range(EVENTS):
        caller.track()
    more_writes, more_written = _written()

    assert more_writes - writes == EVENTS
    assert (more_written - written) / EVENTS <= len(encoder.dumps(caller.properties)) + FRAME


def _calls(work: Callable[[], None]) -> tuple[list[str], Counter[str]]:
    """The Python frames that it enters, and the C functions that it calls, by name."""
    frames: list[str] = []
    functions: Counter[str] = Counter()

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            frames.append(frame.f_code.co_name)
        elif event == "c_call":
            functions[arg.__name__] += 1

    sys.setprofile(watch)
    work()
    sys.setprofile(None)
    del functions["setprofile"]
    return frames, functions


def _written() -> tuple[int, int]:
    """This thread's writes, and their bytes, whether they have reached the disk or not."""
    lines = Path("/proc/thread-self/io").read_text().splitlines()
    counts = {name: int(number) for name, number in (line.split(": ") for line in lines)}
    return counts["syscw"], counts["wchar"]

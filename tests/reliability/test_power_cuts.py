"""
The power goes at any moment: what was synced is there, the rest is whole or was never
there, and no key ever stands for two events.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trials
from helpers import balanced, opened
from power import Call, Disk, Names, lay_out, record

from heap_agent._core.events import Kind
from heap_agent._core.state import is_identity
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

TESTS = Path(__file__).parents[1]

Figure = Callable[[str, object], None]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="needs a C compiler, and a loader that knows LD_PRELOAD",
)


@pytest.fixture(name="shim", scope="module")
def _shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorder, compiled."""
    path = tmp_path_factory.mktemp("shim") / "recorder.so"
    source = TESTS / "shims" / "recorder.c"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(path), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[Path]:
    """Where states are laid out: in memory, if there is such a place."""
    memory = Path("/dev/shm")
    place = memory / f"power-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path / "cut"
    yield place
    shutil.rmtree(place, ignore_errors=True)


def live(shim: Path, tmp_path: Path, events: int, size: int, *mutant: str) -> list[Call]:
    """The calls of a short life, in which so many events of so many bytes are recorded."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    program = TESTS / "programs" / "workload.py"
    return record(program, shim, directory, str(events), str(size), *mutant)


class Story:
    """What the program has said by the time of a cut."""

    def __init__(self, marks: list[dict[str, Any]]) -> None:
        self.sent: dict[str, Any] = {}
        self.synced = self.tracked = 0
        self.user: list[str | None] | None = None
        for mark in marks:
            self.tracked = mark.get("tracked", self.tracked)
            self.synced = mark.get("synced", self.synced)
            self.user = None if "changing" in mark else mark.get("user", self.user)
            for event in mark.get("sent", ()):
                known = self.sent.setdefault(event["idempotency_key"], event)
                assert known == event, "one key was sent with two bodies"

    @property
    def arrived(self) -> set[int]:
        """Numbers that need not be on the disk any more."""
        return {event["properties"]["n"] for event in self.sent.values()}


def expect(directory: Path, story: Story) -> int:
    """
    A process opens what the cut has left. Returns how many torn records it has counted.
    """
    clock = FakeClock()
    clock.reboot()
    with opened(directory, clock) as store:
        assert store.ledger is not None, store.trouble
        while store.absorb(freeze=False).more:
            pass
        store.mend(0.0)
        waiting = events(store)
        balanced(store)
        assert [path.name for path in directory.glob("queue-*.db")] == ["queue-1.db"]
        numbers = [event["properties"]["n"] for event in waiting.values()]
        assert len(set(numbers)) == len(numbers), "one call has two keys"
        missing = set(range(story.synced)) - set(numbers) - story.arrived
        assert not missing, f"events that were synced are gone: {sorted(missing)}"
        assert all(story.sent.get(key, event) == event for key, event in waiting.items()), (
            "one key stands for two events"
        )
        # The last call may be in the journal, and has not returned.
        assert max(numbers, default=0) <= story.tracked
        assert story.user in (None, user(store)), "the user that was synced is gone"
        return store.books().counts["dropped.damaged"]


def events(store: Store) -> dict[str, Mapping[str, Any]]:
    """What waits, by its key."""
    found: dict[str, Mapping[str, Any]] = {}
    (ledger,) = store.queues()
    rows = ledger.queue.load([one.id for one in ledger.queue.peek(limit=1 << 30)])
    for body in (json.loads(row.entry.body) for row in rows if row.entry.kind is Kind.EVENT):
        assert found.setdefault(body["idempotency_key"], body) is body, "a key stands twice"
    return found


def user(store: Store) -> list[str | None] | None:
    """Who is in force."""
    for name, facet in store.read_state().facets.items():
        if is_identity(name) and isinstance(facet.value, dict):
            return [facet.value["user_id"], facet.value["identity"]]
    return None


def cut(
    calls: list[Call], names: Names, place: Path, each: int, *, part: int = 0, begin: int = 0
) -> tuple[int, int]:
    """
    Cut the power after each call from one on, and look at so many of the states it may
    leave.

    Returns:
        States that were looked at, and torn records in them.
    """
    disk, seen, torn = Disk(names), set[int](), 0
    for number, call in enumerate(calls):
        if not disk.do(call) or number < begin:
            continue
        story = Story(disk.marks)
        for state in range(each):
            chance = trials.dice("cut", names.name, part, number, state) if state else None
            found = disk.after_a_cut(chance)
            fingerprint = hash((frozenset(found.items()), story.synced, len(story.sent)))
            if fingerprint in seen:
                continue
            seen.add(fingerprint)
            lay_out(place, found)
            try:
                torn += expect(place, story)
            except Exception as error:
                raise AssertionError(f"cut after call {number}, state {state}: {call}") from error
    return len(seen), torn


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize("part", range(2))
def test_a_cut_at_every_call(
    shim: Path, tmp_path: Path, place: Path, names: Names, part: int, figure: Figure
) -> None:
    """Whatever was not synced comes through or not, in any mixture."""
    calls = live(shim, tmp_path, trials.tries(24, 120), trials.tries(100, 3_000))
    states, torn = cut(calls, names, place, trials.tries(2, 12), part=part)
    figure("calls", len(calls))
    figure("states", states)
    figure("torn records", torn)
    assert states > len(calls) // 2 and torn


def test_a_broken_agent_is_found_out(shim: Path, tmp_path: Path, place: Path) -> None:
    """Where absorbing commits with NORMAL, parts are unlinked that are nowhere else."""
    calls = live(shim, tmp_path, 40, 9_000, "absorb commits with NORMAL")
    unlinked = [
        number for number, call in enumerate(calls) if call.what == "U" and "part" in call.name
    ]
    with pytest.raises(AssertionError, match="cut after call"):
        cut(calls, Names.ORDERED, place, 20, begin=unlinked[0])

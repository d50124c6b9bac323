"""What a start loads, and what an agent does while nothing happens: counted, never timed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import eventually, track

from heap_agent import _config
from heap_agent._outbox import Outbox
from heap_agent._store.inbox import Inbox
from heap_agent._store.keeper import TICK, Duties, Keeper
from heap_agent._store.room import Measured
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

#: The network, and those who load it. Only whoever delivers may need them.
NETWORK = {"apscheduler", "asyncio", "email", "http", "socket", "ssl", "urllib3"}

#: What serves, and talks to people.
TOOLS = {"click", "rich", "starlette", "uvicorn"}

#: Writes and compiles the methods of its classes anew in each process.
CLASSES = {"attr", "attrs"}

#: Values of few programs: whoever tracks one has loaded its module.
NUMBERS = {"decimal", "fractions"}

#: Loaded with the first agent, and not before.
RECORDING = {"filelock", "hashlib", "orjson", "platformdirs", "sqlite3"}

#: Rooms that `track` does not need.
DELIVERY = {
    "heap_agent._core.budget",
    "heap_agent._core.delivery",
    "heap_agent._core.lanes",
    "heap_agent._core.outcomes",
    "heap_agent._core.policy",
    "heap_agent._status",
    "heap_agent._upload",
    "heap_agent._upload.drain",
    "heap_agent._upload.scheduler",
    "heap_agent._upload.transport",
}

#: For a database that is damaged.
RESCUE = {"heap_agent._store.evidence", "heap_agent._store.pages", "heap_agent._store.salvage"}

#: On request alone.
CAPTURED = {"heap_agent._facts", "heap_agent._lifecycle", "heap_agent._store.runs"}

LOADED = "import json, os, sys; print(json.dumps(sorted(sys.modules)), flush=True); os._exit(0)"

IMPORT = "import heap_agent\n"

FIRST_EVENT = """
import heap_agent, sys
heap_agent.init("11", directory=sys.argv[1], endpoint="http://127.0.0.1:9")
heap_agent.track("Door Opened", {"floor": 3, "open": True})
"""


def loaded_by(code: str, *arguments: object) -> set[str]:
    """Modules that a program has loaded by the end of its code."""
    run = subprocess.run(
        [sys.executable, "-c", code + LOADED, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(run.stdout))


def test_the_import_loads_verbs_and_options_only() -> None:
    """Neither the agent nor what it is made of, before somebody wants one."""
    loaded = loaded_by(IMPORT)
    assert loaded & (NETWORK | TOOLS | CLASSES | NUMBERS | RECORDING) == set()
    assert {name for name in loaded if name.startswith("heap_agent")} == {
        "heap_agent",
        "heap_agent._api",
        "heap_agent._aside",
        "heap_agent._config",
        "heap_agent._core",
        "heap_agent._core.events",
        "heap_agent._core.limits",
        "heap_agent._late",
        "heap_agent._options",
        "heap_agent._proxies",
        "heap_agent._store",
        "heap_agent._store.forking",
        "heap_agent.exceptions",
    }


def test_the_first_event_loads_nothing_that_delivers(tmp_path: Path) -> None:
    """A program at its start competes with no network stack, also where events wait already."""
    # Some of its versions load a part of that themselves.
    not_ours = loaded_by("import filelock\n")
    for _ in range(2):
        loaded = loaded_by(FIRST_EVENT, tmp_path / "state") - not_ours
        unwanted = NETWORK | TOOLS | CLASSES | NUMBERS | DELIVERY | RESCUE | CAPTURED
        assert loaded & unwanted == set()
        assert "heap_agent._store.journal" in loaded


@pytest.mark.parametrize("name", ["Agent", "Status", "track", "userId", "__version__"])
def test_names_that_are_loaded_late_can_be_imported(name: str) -> None:
    """By name, and by a star those that are listed; `dir` knows them before."""
    loaded_by(f"from heap_agent import {name}\n")
    loaded_by(f"import heap_agent\nassert {name!r} in {{*dir(heap_agent), '__version__'}}\n")
    if name in ("Agent", "Status", "track"):
        loaded_by(f"from heap_agent import *\nassert {name}\n")


def test_a_handler_may_want_what_is_being_loaded() -> None:
    """A signal that comes in the middle of the first `init` finds whole modules."""
    loaded_by(
        """
import signal
import heap_agent

def handle(*_):
    try:
        heap_agent.track("too early")
    except heap_agent.NotStarted:
        pass
    assert heap_agent.Agent is not None
    signal.setitimer(signal.ITIMER_REAL, again)

again = 0.001
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, again)
assert heap_agent.Agent("11", disabled=True)
again = 0
signal.setitimer(signal.ITIMER_REAL, again)
"""
    )


# -- while nothing happens ------------------------------------------------------------


class Skipping(Inbox[str]):
    """
    Has its thread wait for nothing, and adds up how long that would have been.
    """

    def __init__(self, until: float) -> None:
        super().__init__()
        self.waits = 0
        self.skipped = 0.0
        self._began = time.monotonic()
        self._until = until

    def wait(self, timeout: float) -> list[str]:
        self.waits += 1
        self.skipped += timeout
        return ["stop"] if self.passed >= self._until else []

    @property
    def passed(self) -> float:
        """Seconds, skipped and lived through."""
        return self.skipped + time.monotonic() - self._began


@pytest.fixture(name="store")
def _store(state_dir: Path, clock: FakeClock) -> Iterator[Store]:
    """A store that has just become the owner, with nothing in it."""
    store = Store(state_dir, clock, max_bytes=64 * 2**20)
    store.open()
    yield store
    store.close()


def keeper_of(store: Store, look: Callable[[Measured], None] = lambda _: None) -> Keeper:
    """One that is not started, and tells nobody."""
    duties = Duties(
        state_changed=lambda: True,
        look=look,
        requested=lambda _: None,
        absorb=lambda: store.absorb(freeze=False),
        clock_jumped=lambda: None,
        state_removed=lambda: None,
        signalled=lambda: None,
    )
    return Keeper(store, duties, sync_interval=5.0)


def test_an_idle_keeper_wakes_once_a_second(store: Store) -> None:
    """Whatever one look costs, there is one for each second that passes."""
    keeper = keeper_of(store)
    keeper._inbox = inbox = Skipping(60.0)
    keeper.start()
    eventually(lambda: "not running" in repr(keeper), 60.0)

    # The first look is at once.
    assert inbox.waits <= inbox.passed / TICK + 2


def test_an_idle_look_measures_the_directory_once(store: Store) -> None:
    """It is the dearest of what the keeper does all day."""
    keeper = keeper_of(store)
    looks: Counter[str] = Counter()
    counting = False

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if counting and event in ("os.listdir", "os.scandir", "open"):
            looks[event] += 1

    keeper._tick(time.monotonic(), urgent=False)
    sys.addaudithook(count)
    counting = True
    for _ in range(10):
        keeper._tick(time.monotonic(), urgent=False)
    counting = False

    assert looks == {"os.scandir": 10}


@contextmanager
def delivering_from(store: Store) -> Iterator[Outbox]:
    """What would send from a store, if it were allowed to, and is due now."""
    outbox = Outbox(
        store,
        _config.load({"app_id": "11"}, {}, ()).config,
        interval=15.0,
        allowed=lambda: False,
        state_changed=lambda: True,
        report_losses=None,
    )
    outbox._loaded_from = outbox._due = time.monotonic()
    yield outbox
    outbox.end()
    outbox.stop(30.0, lambda _: None)


@pytest.fixture(name="outbox")
def _outbox(store: Store) -> Iterator[Outbox]:
    """That of the store."""
    with delivering_from(store) as outbox:
        yield outbox


def test_no_sender_is_started_while_nothing_waits(store: Store, outbox: Outbox) -> None:
    """It comes with the first record that somebody has to send."""
    for number in range(10):
        outbox.look(store.room.measure()._replace(written=number))
    assert "not started" in repr(outbox)
    track(store)
    for turn in range(100):
        # As the keeper does for the minutes until a delivery is due.
        outbox._due = time.monotonic() - turn
        outbox.look(store.room.measure())
    assert "Scheduler" in repr(outbox)


def test_what_others_leave_behind_is_removed(
    store: Store, outbox: Outbox, state_dir: Path, clock: FakeClock
) -> None:
    """A process that has come and gone without a record leaves no files for long."""
    others = set()
    for _ in range(3):
        guest = Store(state_dir, clock, max_bytes=64 * 2**20)
        guest.open()
        others.add(guest.journal.id)
        guest.close()
    outbox.look(store.room.measure())

    eventually(lambda: not any(path.name[:16] in others for path in state_dir.iterdir()))


def test_a_sender_with_nothing_to_send_sleeps(store: Store, outbox: Outbox) -> None:
    """It is woken for what is recorded, and then keeps to its interval."""
    outbox._start(0.0)
    eventually(lambda: outbox._asleep)
    before = store.room.measure()
    outbox.look(before)
    assert outbox._asleep
    track(store)
    outbox._due = time.monotonic() + 1.0
    outbox.look(before)  # nothing was recorded, as far as the keeper has seen
    assert outbox._asleep
    outbox.look(store.room.measure())
    assert not outbox._asleep
    eventually(lambda: "runs 2" in repr(outbox))
    assert not outbox._asleep, "what waits is tried again"


def test_a_sender_is_woken_for_what_is_in_memory(clock: FakeClock) -> None:
    """Without a disk no file tells that something was recorded."""
    store = Store(None, clock, max_bytes=64 * 2**20)
    store.open()
    store.mend(time.monotonic())
    with delivering_from(store) as outbox:
        outbox._start(0.0)
        eventually(lambda: outbox._asleep)
        before = store.room.measure()
        outbox.look(before)
        assert outbox._asleep
        track(store)
        store.mend(time.monotonic())
        outbox._due = time.monotonic() + 1.0
        outbox.look(before)
        assert not outbox._asleep
    store.close()


def test_a_sender_that_sleeps_keeps_its_rhythm(outbox: Outbox) -> None:
    """Whenever it is woken: deliveries come at the interval, slept through or not."""
    now = time.monotonic()
    for late in (0.0, 1.0, 14.0, 15.0, 100.0, 1e6):
        outbox._due = now - late
        assert 0 <= outbox._left() <= 15.0

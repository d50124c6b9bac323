"""
A fault in our own code, met again and again on a sound database: nothing of it is taken
for damage, recording goes on, and a version without the fault finds everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from helpers import balanced, deliver, opened, track, tracked

from heap_agent import Agent
from heap_agent._store import evidence
from heap_agent._store.absorb import Absorber
from heap_agent._store.database import MIGRATIONS
from heap_agent._store.outlook import generations
from heap_agent._store.properties import Properties
from heap_agent._store.timeline import Timeline
from heap_agent.testing import FakeClock

STARTS = 4

Break = Callable[[pytest.MonkeyPatch], None]


def raising(error: Exception) -> Callable[..., NoReturn]:
    """Something that has a fault."""

    def fault(*_: object, **__: object) -> NoReturn:
        raise error

    return fault


def opening(patch: pytest.MonkeyPatch) -> None:
    """The facets are read by code that is wrong."""
    patch.setattr(Properties, "remove_damaged_facets", raising(TypeError("a fault of ours")))


def clocks(patch: pytest.MonkeyPatch) -> None:
    """What is known of clocks is looked up wrongly."""
    patch.setattr(Timeline, "__init__", raising(KeyError("a fault of ours")))


def migration(patch: pytest.MonkeyPatch) -> None:
    """A new version forgets that a column may not be empty, so SQLite refuses."""
    patch.setitem(MIGRATIONS, 1, "UPDATE entry SET flags = NULL")


def absorbing(patch: pytest.MonkeyPatch) -> None:
    """What was recorded is taken in by code that is wrong."""
    patch.setattr(Absorber, "absorb", raising(LookupError("a fault of ours")))


FAULTS: list[Break] = [opening, clocks, migration, absorbing]


@pytest.fixture(name="used")
def _used(state_dir: Path, clock: FakeClock) -> Path:
    """A sound directory with events in the queue."""
    with opened(state_dir, clock) as store:
        for number in range(10):
            track(store, n=number)
        store.absorb(freeze=False)
    return state_dir


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_no_damage(
    used: Path, clock: FakeClock, fault: Break, caplog: pytest.LogCaptureFixture
) -> None:
    """Start after start the database stays as it is, and nothing that was recorded is lost."""
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        for start in range(STARTS):
            clock.reboot()
            with opened(used, clock) as store:
                for look in range(3):
                    assert track(store, n=10 + start * 3 + look)
                    store.absorb(freeze=False)
                    store.mend(float(look))
                    store.try_to_own()
                assert store.trouble is not None
            assert [path.name for path in generations(used)] == ["queue-1.db"]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == STARTS

    with opened(used, clock) as store:
        store.absorb(freeze=False)
        assert tracked(store) == list(range(10 + 3 * STARTS))
        assert not store.books().counts["dropped.damaged"]
        balanced(store)
        deliver(store)
        balanced(store)


def test_it_is_told_by_status(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks how things stand is told what is wrong, and that events wait."""
    opening(monkeypatch)
    with Agent("11", directory=used, endpoint="http://127.0.0.1:9") as agent:
        agent.track("Recorded", {"n": 10})
        status = agent.status()
        assert any("a fault of ours" in problem for problem in status.problems)
        assert status.queued == 11


def test_a_fault_is_looked_into_once(
    used: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking through a large database takes a while: not each look of the keeper does."""
    looks: list[str] = []
    monkeypatch.setattr(evidence, "evidence", lambda path: looks.append(path.name))
    opening(monkeypatch)
    with opened(used, clock) as store:
        for look in range(5):
            store.mend(float(look))
            store.try_to_own()
    assert looks == ["queue-1.db"]

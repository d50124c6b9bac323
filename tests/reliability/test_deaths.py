"""
Deaths that take more than one process, or a directory in a certain state: of owners with
heirs, of children and parents, while events are dropped, while the schema changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trials
import updates
from killing import told
from story import Story, expect, expect_dropped, read

from heap_agent._store import outlook
from heap_agent.testing import FakeClock

PROGRAM = Path(__file__).parents[1] / "programs" / "deaths.py"

Figure = Callable[[str, object], None]

#: Calls to the disk of one that nobody kills, about.
MEMBER = 220
CROWDED = 1_000
#: Of an agent that finds a migration to make, while the queue is short.
OPENING = 150


def bury(
    shim: Path, directory: Path, form: str, rounds: int, *mutant: str, group: int = 0
) -> tuple[int, int]:
    """
    Families of one form, one after another. Returns how many of their members were killed,
    and how many events were acknowledged.
    """
    killed, clock = 0, FakeClock()
    with told(PROGRAM, shim, directory, str(shim), *mutant) as live:
        for round_ in range(rounds):
            chance = trials.dice("deaths", form, group, round_)
            calls, other = chance.randint(1, MEMBER), chance.randint(1, MEMBER)
            if round_ % 6 == 5:
                # Nobody dies, and all that waits is delivered: where much does, the next
                # ones would never come to the end of a delivery.
                calls = other = 0
            dead = live(form, round_ * 1_000, chance.choice([4, 20]), calls, other)
            assert dead <= (2 if calls else 0), "one has failed"
            killed += dead
            if round_ < rounds - 1 and chance.random() < 0.5:
                # The next family finds what this one has left.
                continue
            story = Story(read(directory.with_suffix(".marks")))
            try:
                assert not expect(directory, story, story.tracked, clock)
                # But for what each records after its last delivery.
                assert calls or len(story.tracked - story.arrived) <= 4, "it was not delivered"
            except Exception as error:
                raise AssertionError(f"after round {round_}") from error
    return killed, len(story.tracked)


def crowd(shim: Path, directory: Path, rounds: int, *mutant: str) -> tuple[int, int]:
    """
    Agents on a full directory. Returns how many were killed, and how many events dropped.
    """
    killed, clock = 0, FakeClock()
    with told(PROGRAM, shim, directory, str(shim), *mutant) as live:
        for number in range(5):
            assert live("crowded", number * 1_000, 60, 0, 0) == 0
        for number in range(5, 5 + rounds):
            chance = trials.dice("crowd", number)
            dead = live("crowded", number * 1_000, 60, chance.randint(1, CROWDED), 0)
            assert dead <= 1, "one has failed"
            killed += dead
            story = Story(read(directory.with_suffix(".marks")))
            try:
                dropped = expect_dropped(directory, story, number + 1, clock)
            except Exception as error:
                raise AssertionError(f"after life {number}") from error
    return killed, dropped


def update(shim: Path, directory: Path, rounds: int, *mutant: str) -> int:
    """
    Agents of which each brings another migration. Returns how many were killed.
    """
    killed, clock = 0, FakeClock()
    with told(PROGRAM, shim, directory, str(shim), *mutant) as live:
        assert live("update", 0, 60, 0, 1) == 0
        for version in range(2, 2 + rounds):
            chance = trials.dice("update", version)
            dead = live("update", version * 1_000, 8, chance.randint(1, OPENING), version)
            assert dead <= 1, "one has failed"
            killed += dead
            if version < rounds and chance.random() < 0.5:
                # The next one has two migrations before it, or the rest of them.
                continue
            updates.know(version)
            story = Story(read(directory.with_suffix(".marks")))
            try:
                assert not expect(directory, story, story.tracked, clock)
                assert outlook.read_memo(directory, "migrated") == str(version - 1)
                assert [path.name for path in outlook.generations(directory)] == ["queue-1.db"]
            except Exception as error:
                raise AssertionError(f"after version {version}") from error
    return killed


@pytest.mark.parametrize("group", range(trials.tries(1, 3)))
@pytest.mark.parametrize("form", ["beside", "child", "orphan", "daemon"])
def test_no_member_of_a_family_takes_events_along(
    shim: Path, tmp_path: Path, form: str, group: int, figure: Figure
) -> None:
    """Whoever dies beside, before or after whom: nothing acknowledged is lost or sent twice."""
    rounds = trials.tries(12, 120)
    killed, tracked = bury(shim, tmp_path / "state", form, rounds, group=group)
    figure("families", rounds)
    figure("kills", killed)
    figure("events acknowledged", tracked)
    assert killed


def test_killed_while_events_are_dropped(shim: Path, tmp_path: Path, figure: Figure) -> None:
    """Each event that was acknowledged and is gone has been counted."""
    killed, dropped = crowd(shim, tmp_path / "state", trials.tries(15, 300))
    figure("kills", killed)
    figure("events dropped", dropped)
    assert killed and dropped


@pytest.mark.usefixtures("_versions")
def test_killed_while_the_schema_changes(shim: Path, tmp_path: Path, figure: Figure) -> None:
    """Each migration happens once, wherever it was cut short, and takes all rows along."""
    killed = update(shim, tmp_path / "state", trials.tries(25, 200))
    figure("kills", killed)
    assert killed


@pytest.mark.parametrize(
    ("mutant", "form"),
    [("children share a journal", "child"), ("living journals are taken for dead", "orphan")],
)
def test_a_broken_family_is_found_out(shim: Path, tmp_path: Path, mutant: str, form: str) -> None:
    """Agents that do not mind each other are caught by the same deaths."""
    with pytest.raises(AssertionError):
        bury(shim, tmp_path / "state", form, 30, mutant)


def test_drops_counted_too_late_are_found_out(shim: Path, tmp_path: Path) -> None:
    """An agent that drops first, and counts then, is caught by the same kills."""
    with pytest.raises(AssertionError):
        crowd(shim, tmp_path / "state", 40, "drops counted afterwards")


@pytest.mark.usefixtures("_versions")
def test_migrations_numbered_too_late_are_found_out(shim: Path, tmp_path: Path) -> None:
    """A migration that may happen twice is caught by the same kills."""
    with pytest.raises(AssertionError):
        update(shim, tmp_path / "state", 80, "migrations numbered afterwards")

"""
Processes that are killed between any two calls to the disk: what `track` has acknowledged
is there or has been sent, under one key and with one body.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trials
from killing import told
from story import Story, expect, read

from heap_agent._store.outlook import generations
from heap_agent.testing import FakeClock

PROGRAM = Path(__file__).parents[1] / "programs" / "lives.py"

#: Calls to the disk of a life that nobody ends, about.
LIFE = 250

GROUPS = 10

Figure = Callable[[str, object], None]


def kill(
    shim: Path,
    directory: Path,
    rounds: int,
    group: object,
    *mutant: str,
    before: Callable[[Path], object] = lambda directory: None,
    most: int = LIFE,
) -> tuple[int, int]:
    """
    Lives that end after a number of calls that the dice say, with a look after each.

    Args:
        shim: The library that counts calls.
        directory: Where they live.
        rounds: How many.
        group: Which dice.
        mutant: What is broken in them, if anything.
        before: Done to the directory before each.
        most: Calls after which the last of them is killed.

    Returns:
        How many ended early, and how many events were acknowledged.
    """
    killed, clock = 0, FakeClock()
    with told(PROGRAM, shim, directory, "3000", str(shim), *mutant) as live:
        for round_ in range(rounds):
            chance = trials.dice("kill", group, round_)
            before(directory)
            killed += live(round_ * 1_000, chance.choice([8, 40]), chance.randint(1, most)) != 0
            story = Story(read(directory.with_suffix(".marks")))
            try:
                # A call that was killed is whole or was never made: nothing is torn.
                assert not expect(directory, story, story.tracked, clock)
            except Exception as error:
                raise AssertionError(f"after the kill of round {round_}") from error
    return killed, len(story.tracked)


@pytest.mark.parametrize("group", range(GROUPS))
def test_killed_after_any_call(shim: Path, tmp_path: Path, group: int, figure: Figure) -> None:
    """Nothing that was acknowledged is lost, sent under two keys, or with two bodies."""
    killed, tracked = kill(shim, tmp_path / "state", trials.tries(200, 5_000) // GROUPS, group)
    figure("kills", killed)
    figure("events acknowledged", tracked)
    assert killed


def spoil(directory: Path) -> None:
    """Overwrite the first page of the database in force, which has no log now."""
    for path in generations(directory)[-1:]:
        with open(path, "r+b") as file:
            file.write(b"\xa5" * 4_096)


def test_killed_while_it_salvages(shim: Path, tmp_path: Path, figure: Figure) -> None:
    """Each life finds its database damaged; wherever it dies, nothing of it is lost."""
    directory = tmp_path / "state"
    rounds = trials.tries(20, 300)
    killed, tracked = kill(shim, directory, rounds, "salvage", before=spoil, most=3 * LIFE)
    figure("kills", killed)
    figure("events acknowledged", tracked)
    figure("generations", generations(directory)[-1].name)
    assert killed and len(generations(directory)) == 2


@pytest.mark.parametrize("mutant", ["ack before the answer", "key minted at send"])
def test_a_broken_agent_is_found_out(shim: Path, tmp_path: Path, mutant: str) -> None:
    """Agents that break the promise are caught by the same kills."""
    with pytest.raises(AssertionError):
        kill(shim, tmp_path / "state", 40, mutant, mutant)

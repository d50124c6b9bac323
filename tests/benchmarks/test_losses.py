"""
The agent's column of the loss table has no gap.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from benchmarks import losses
from benchmarks.losses_client import End, Report
from benchmarks.losses_contestants import AGENT
from benchmarks.losses_scenarios import Lengths, Scenario, scenarios
from benchmarks.losses_server import FINE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and signals of POSIX")

LENGTHS = Lengths(outages=(2,), trouble=2, patience=30)

SCENARIOS = scenarios(LENGTHS)


@pytest.fixture(name="outcomes", scope="module")
def _outcomes() -> Iterator[dict[Scenario, losses.Outcome]]:
    """What came of all scenarios, played side by side."""
    with pytest.MonkeyPatch.context() as patch:
        # Soon enough to meet the trouble.
        patch.setenv("HEAP_AGENT_INTERVAL", "0.3")
        played = losses.play_all(SCENARIOS, [AGENT])
        yield {scenario: outcome for (scenario, _), outcome in played.items()}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_lost(scenario: Scenario, outcomes: dict[Scenario, losses.Outcome]) -> None:
    """All events arrive, once, at the latest when the program is started again; the books agree."""
    outcome = outcomes[scenario]

    assert outcome.report is not None
    assert (outcome.report.returned, outcome.report.raised) == (scenario.events, 0)
    assert (outcome.restarted, outcome.twice) == (scenario.events, 0)
    assert outcome.books is None
    assert outcome.exit_seconds is not None, "it had to be killed"


@pytest.mark.parametrize(
    "scenario",
    # Whom a signal ends at once has not asked yet.
    [one for one in SCENARIOS if one.server != FINE and one.end in (End.EXIT, End.STAY)],
    ids=lambda scenario: scenario.name,
)
def test_the_trouble_is_met(scenario: Scenario, outcomes: dict[Scenario, losses.Outcome]) -> None:
    """A server that misbehaves while it listens does so towards the agent."""
    assert (outcomes[scenario].troubled > 0) is scenario.server.listens


def outcome(**changes: Any) -> losses.Outcome:
    """All has arrived, but for what is said here."""
    usual = losses.Outcome(
        report=Report(returned=200, raised=0),
        lived=0,
        ended=0,
        restarted=200,
        twice=0,
        troubled=0,
        exit_seconds=0.14,
        books=None,
    )
    return attrs.evolve(usual, **changes)


OFFLINE = next(one for one in SCENARIOS if one.timed and not one.server.listens)
LIVING = next(one for one in SCENARIOS if one.end is End.STAY)


@pytest.mark.parametrize(
    ("scenario", "what", "shown"),
    [
        (OFFLINE, outcome(), "200 (0.1 s)"),
        (OFFLINE, outcome(exit_seconds=None), "200 (killed)"),
        (OFFLINE, outcome(restarted=0, report=None), "0 (died)"),
        (OFFLINE, outcome(restarted=0, report=None, exit_seconds=None), "0 (held up)"),
        (OFFLINE, outcome(report=Report(20, 30)), "200 (30 raised; 50 calls; 0.1 s)"),
        (
            LIVING,
            outcome(report=Report(1_000, 0), lived=1_000, ended=1_000, restarted=1_000),
            1_000,
        ),
        (LIVING, outcome(report=Report(1_000, 0), ended=200), "200 (at end)"),
        (LIVING, outcome(report=Report(1_000, 0)), "200 (at restart)"),
        (
            LIVING,
            outcome(report=Report(1_000, 0), lived=10, ended=30, twice=5, books="recorded 9"),
            "200 (20 at end; 170 at restart; 5 twice; recorded 9)",
        ),
    ],
)
def test_a_cell_tells_what_there_is_to_say(
    scenario: Scenario, what: losses.Outcome, shown: str | int
) -> None:
    """Losses, duplicates, raising calls, kills, and books that do not agree."""
    assert losses.cell(scenario, what) == shown

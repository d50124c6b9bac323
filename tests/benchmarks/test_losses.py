"""
The agent's column of the loss table has no gap.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

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


def test_what_is_missing_is_shown() -> None:
    """A cell tells losses, duplicates, raising calls and a kill."""
    scenario = next(one for one in SCENARIOS if one.timed)
    outcome = losses.Outcome(
        report=Report(returned=150, raised=20),
        lived=0,
        ended=70,
        restarted=100,
        twice=3,
        troubled=1,
        exit_seconds=None,
        books="recorded 170",
    )

    assert losses.cell(scenario, outcome) == (
        "100 (3 twice; 20 calls raised; 170 calls in 45 s; killed after 30 s; recorded 170)"
    )

"""
A fleet after an outage: polite as a whole, and fair to each of its devices.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import OUTAGES, Fleet, Seen
from trials import dice, tries

from heap_agent._core import limits

TESTS = Path(__file__).parents[1]


def told(seen: Seen, figure: Callable[[str, object], None]) -> None:
    """Show what a simulation came to."""
    figure("devices", len(seen.firsts))
    figure("backlog", seen.backlog)
    figure("peak events a minute", seen.peak)
    figure("peak requests a second", seen.rush)
    figure("drained, in parts of what the budget allows", round(seen.drained / seen.allowed, 3))
    figure("longest wait in s", round(max(seen.gaps), 1))


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_fleet_comes_back_politely(outage: str, figure: Callable[[str, object], None]) -> None:
    """
    After six hours (five thousand devices in the long run) Heap sees no more than the app's
    budget in any minute, each device gets its share all the time, and all are done about
    when the budget lets them.
    """
    devices = tries(200, 5_000) if outage == "refused" else tries(60, 1_000)
    # Three events a minute for each: a fleet of 5,000 under the documented limit.
    app_budget = 3 * devices
    chance = dice("fleet", outage)
    seen = Fleet(devices, app_budget=app_budget, outage=outage, chance=chance).run()
    told(seen, figure)
    if devices == 5_000:
        assert app_budget == limits.APP_EVENTS_PER_MINUTE
    assert seen.backlog >= devices * 6 * 30
    assert seen.faults(app_budget) == []


def test_a_small_fleet_has_large_shares(figure: Callable[[str, object], None]) -> None:
    """
    Devices whose shares hold more than a batch of the backlog come back at the same time,
    and still stay below the documented budget.
    """
    budget = limits.APP_EVENTS_PER_MINUTE
    seen = Fleet(290, period=20.0, hours=0.5, chance=dice("small fleet")).run()
    told(seen, figure)
    # Back-off counts for more here than the budget, which is two minutes of waiting: nobody
    # knows that Heap is back before he asks, which he does within five minutes, and then he
    # has two windows of his own to go through.
    assert (seen.peak <= budget, seen.refused) == (True, 0)
    assert seen.recorded == seen.queued + seen.delivered
    assert seen.drained <= 1.2 * seen.allowed + 300


@pytest.mark.parametrize("budget", [6, 2])
def test_busy_devices_hold_up_nobody(budget: int, figure: Callable[[str, object], None]) -> None:
    """
    Where a few devices record fifty times as much as the others, Heap sees no more than the
    app's budget, and nobody waits longer than its own share of that makes it wait; those
    who record more than their share wait alone.
    """
    devices = tries(50, 1_000)
    busy = devices // 25
    # A device records an event in twenty minutes, a busy one two and a half in a minute.
    chance = dice("busy", budget)
    seen = Fleet(
        devices, app_budget=budget * devices, period=1_200.0, busy=busy, chance=chance
    ).run(patience=40.0)
    figure("devices", devices)
    figure("busy ones", busy)
    figure("peak events a minute", seen.peak)
    figure("longest wait of a busy one's event in s", round(max(seen.waits[:busy])))
    figure("of another's", round(max(seen.waits[busy:])))
    assert (seen.peak <= budget * devices, seen.refused) == (True, 0)
    assert seen.recorded == seen.queued + seen.delivered
    assert seen.starving() == []
    assert max(seen.waits[busy:]) < min(seen.waits[:busy])
    assert (seen.drained < math.inf) is (budget > 2)


def test_who_does_not_know_the_size_of_the_fleet_is_refused() -> None:
    """Heap's limit is a real one here: devices that each take all of it run into it."""
    seen = Fleet(60, app_budget=180, fleet_size=1, hours=2, chance=dice("greedy")).run()
    assert seen.refused > 0
    assert any("above the budget" in fault for fault in seen.faults(180))


@pytest.mark.parametrize(
    ("mutant", "fault"),
    [
        ("", ""),
        ("budgets forget early", "above the budget"),
        ("back-off has no end", "s late"),
        ("back-off has no end", "devices waited too long"),
    ],
)
def test_a_rude_fleet_is_found_out(mutant: str, fault: str) -> None:
    """The same simulation catches devices that are broken on purpose, and no others."""
    code = (
        "import sys, mutants; [mutants.apply(name) for name in sys.argv[1:] if name];"
        "from fleet import Fleet; print(Fleet(40, app_budget=120).run().faults(120))"
    )
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-c", code, mutant],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert (found.stdout.strip() == "[]") is (not mutant)
    assert fault in found.stdout

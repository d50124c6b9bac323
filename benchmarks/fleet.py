"""
``python -m benchmarks.fleet [--devices N]``: simulate a fleet after an outage of six
hours, and draw docs/fleet.svg.

It takes two minutes and no network: `tests/fleet.py` is the simulation, and the tests of
reliability make claims about it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random

from benchmarks import plots
from heap_agent._core import limits

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from fleet import MINUTE, OUTAGES, Fleet, Seen  # noqa: E402

#: Three events a minute for each device, as 5,000 have under the documented limit.
SHARE = 3
DEVICES = limits.APP_EVENTS_PER_MINUTE // SHARE


def main() -> int:
    """
    Parse the command line, simulate, draw, and say what came of it.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet")
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--outage", choices=OUTAGES, default="refused")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "fleet.svg")
    asked = parser.parse_args()
    app_budget = SHARE * asked.devices
    fleet = Fleet(
        asked.devices, app_budget=app_budget, outage=asked.outage, chance=Random(asked.seed)
    )
    seen = fleet.run()
    draw(seen, app_budget, fleet.end / MINUTE, asked.to)
    print(
        f"{asked.devices:,} devices, {seen.backlog:,} events after the outage\n"
        f"most events in a minute: {seen.peak:,} of {app_budget:,}\n"
        f"most requests in a second: {seen.rush:,}; above the budget: {seen.refused:,}\n"
        f"drained after {seen.drained / MINUTE:.1f} minutes;"
        f" the budget allows {seen.allowed / MINUTE:.1f}"
        f" ({seen.drained / seen.allowed:.2f} times that)\n"
        f"longest wait of a device between two deliveries: {max(seen.gaps):.0f} s"
    )
    return 0


def draw(seen: Seen, app_budget: int, outage: float, path: Path) -> None:
    """
    What arrives at Heap, and what each device has got rid of.

    Args:
        seen: The simulation.
        app_budget: Events a minute that Heap takes.
        outage: Its minutes.
        path: Of the picture.
    """
    minutes = [minute for minute in seen.minutes if minute.at > 0]
    plots.over_time(
        [minute.at for minute in minutes],
        path,
        panels={
            "events a minute at Heap": {"arrived": [minute.arrived for minute in minutes]},
            "backlog delivered, % of each device": {
                "the furthest": [100 * minute.most for minute in minutes],
                "the last": [100 * minute.least for minute in minutes],
            },
        },
        limit=("the app's budget", app_budget),
        shaded=(0, outage),
    )


if __name__ == "__main__":
    sys.exit(main())

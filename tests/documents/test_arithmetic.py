"""What the page on fleets computes, beside what the agent's own rules say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heap_agent._core.bounds import Bounds
from heap_agent._core.budget import Allowance

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "fleet-sizing.md"

if not PAGE.exists():  # the suite without its checkout
    pytest.skip("there are no documents beside the tests", allow_module_level=True)


def computed(first: str, last: str, **numbers: int) -> dict[str, float]:
    """Names and values after the lines from one assignment to another, with other numbers."""
    text = PAGE.read_text("utf-8")
    found = re.search(rf"^{first} = (?:.*?^{last} = )?.*?$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    names: dict[str, float] = {**numbers}
    exec(found[0], names)
    return names


@pytest.mark.parametrize("devices", [1, 40, 4_999, 5_000, 7_501, 15_000, 40_000])
def test_the_pace_of_a_device(devices: int) -> None:
    """It is that of the budgets, also where the share is no whole number, or below one."""
    pace = computed("share", "pace", APP_BUDGET=15_000, DEVICES=devices)["pace"]
    events = int(100 * pace) + 1
    seconds = Allowance(None, 15_000, devices).seconds_to_drain(0.0, {("11", "ann"): events})
    assert 60 * events / seconds == pytest.approx(pace, rel=0.03)


@pytest.mark.parametrize("megabytes", [4, 8, 32, 64, 1_024])
def test_what_is_kept_on_a_device(megabytes: int) -> None:
    """It is what the directory is emptied to when it is crowded."""
    kept = computed("kept", "kept", MAX_BYTES=megabytes * 2**20)["kept"]
    assert kept == Bounds(megabytes * 2**20).target

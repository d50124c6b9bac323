"""Where the project stands is read from what was measured."""

from __future__ import annotations

import pytest

from benchmarks import goals, results
from benchmarks.goals import GOALS, Goal, standing


def test_a_limit_is_from_above_or_from_below() -> None:
    """The limit itself is good enough."""
    most, least = Goal("", 2.0, lambda found: 0.0), Goal("", 2.0, lambda found: 0.0, at_least=True)
    assert [most.is_met(figure) for figure in (1.9, 2.0, 2.1)] == [True, True, False]
    assert [least.is_met(figure) for figure in (1.9, 2.0, 2.1)] == [False, True, True]


def test_what_was_not_measured_has_no_row() -> None:
    """Neither without any results, nor where nobody was there to compare with."""
    assert standing({}) == []
    alone = {"benchmark": "live", "rows": [{"client": goals.OURS.name, "p99 µs": 3.0}]}
    assert standing({"live": alone}) == []


def test_the_results_that_are_kept_have_every_figure() -> None:
    """No goal asks for a cell that no benchmark writes."""
    found = results.load()
    if not found:
        pytest.skip("nothing has been saved")
    rows = standing(found)
    assert [row["goal"] for row in rows] == [goal.what for goal in GOALS]
    for goal, row in zip(GOALS, rows, strict=True):
        assert isinstance(row["measured"], float) and row["measured"] > 0
        assert row["met"] == ("yes" if goal.is_met(row["measured"]) else "no")

"""
What happens often and is told now and then.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.seldom import Seldom


def test_the_first_is_told_at_once_and_the_next_together() -> None:
    """Nothing is told twice, and silence is no word."""
    seldom = Seldom(60.0)
    moments = [(0, 0.0), (3, 1.0), (4, 2.0), (5, 60.9), (0, 61.0), (0, 200.0), (1, 201.0)]

    assert [seldom.add(number, now) for number, now in moments] == [0, 3, 0, 0, 9, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100))))
def test_all_is_told_in_the_end_and_never_too_often(steps: list[tuple[int, int]]) -> None:
    """Whatever comes when."""
    seldom, now, words = Seldom(60.0), 0.0, []
    for number, pause in [*steps, (0, 60.0)]:
        now += pause
        if told := seldom.add(number, now):
            words.append((now, told))

    assert sum(told for _, told in words) == sum(number for number, _ in steps)
    assert all(later - earlier >= 60.0 for (earlier, _), (later, _) in pairwise(words))

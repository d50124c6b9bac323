"""Percentiles, and candidates that take turns."""

from collections.abc import Callable

import pytest

from benchmarks.timing import Candidate, interleave, percentile, spread


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (50, 51), (90, 91), (99, 100), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_one_of_the_values(percent: float, expected: int) -> None:
    """No value is made up between two, and none is looked for beyond the last."""
    assert percentile(range(1, 101), percent) == expected


def test_a_percentile_of_one_value_is_that() -> None:
    """However few there are, each percentile exists."""
    assert {percentile([7], percent) for percent in (0, 50, 99.9, 100)} == {7}


def test_the_spread_takes_times_in_any_order() -> None:
    """Times in ns become percentiles in µs."""
    times = [1_000 * number for number in (5, 3, 1, 4, 2)]
    assert spread(times) == {
        "median µs": 3.0,
        "p90 µs": 5.0,
        "p99 µs": 5.0,
        "p99.9 µs": 5.0,
    }


def turns(name: str, times: list[int], taken: list[str]) -> Callable[[], list[int]]:
    def block() -> list[int]:
        taken.append(name)
        return list(times)

    return block


def test_candidates_take_turns() -> None:
    """In each round everybody has one turn, and not always in the same order."""
    taken: list[str] = []
    rows = interleave(
        [Candidate(name, turns(name, [10**6] * 3, taken), "a") for name in "abc"],
        rounds=20,
        warm_up=2,
    )

    rounds = [tuple(taken[at : at + 3]) for at in range(0, len(taken), 3)]
    assert len(rounds) == 22
    assert {frozenset(one) for one in rounds} == {frozenset("abc")}
    assert len(set(rounds)) > 1
    assert [row["what"] for row in rows] == ["a", "b", "c"]


def test_warming_up_does_not_count() -> None:
    """Only the calls of the rounds after it are in the rows."""
    rows = interleave([Candidate("a", turns("a", [10**6] * 3, []), "a")], rounds=5, warm_up=4)
    assert rows[0]["calls"] == 15


def test_a_ratio_is_taken_in_each_round() -> None:
    """A machine that gets ten times slower for everybody leaves the ratio as it is."""
    pace = iter([1, 1, 10, 10, 1, 1])

    def block_of(base: int) -> Callable[[], list[int]]:
        def block() -> list[int]:
            return [base * next(pace)] * 5

        return block

    rows = interleave(
        [
            Candidate("floor", block_of(10**9), "floor"),
            Candidate("it", block_of(3 * 10**9), "floor"),
        ],
        rounds=3,
        warm_up=0,
    )

    assert rows[0]["× floor"] == 1.0
    # What reading the clock costs is taken off both.
    assert rows[1]["× floor"] == pytest.approx(3.0, rel=1e-3)

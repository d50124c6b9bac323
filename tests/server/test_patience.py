"""How long a call waits between two attempts, and when it gives up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._server.patience import BACKOFF_CAP, Patience

DOWN = Outcome(Answer.UNAVAILABLE, status=500)


def throttled(seconds: float | None) -> Outcome:
    """A 429."""
    return Outcome(Answer.THROTTLED, status=429, retry_after=seconds)


def test_waits_double_up_to_the_cap() -> None:
    """From one second to sixty, by chance down to the half."""
    patience = Patience(None)
    assert [patience.lose(0, 1.0, DOWN) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert patience.lose(0, 0.0, DOWN) == BACKOFF_CAP / 2


def test_a_deadline_bounds_all_that() -> None:
    """However long the failures may last, and whenever the first one came."""
    patience = Patience(None, until=10)
    assert patience.lose(0, 1.0, DOWN) == 1
    assert patience.lose(9.5, 1.0, DOWN) == 0.5
    assert patience.lose(9.5, 1.0, throttled(2)) is None
    assert patience.lose(10, 1.0, DOWN) is None
    assert Patience(0, until=10).lose(0, 1.0, DOWN) is None


def test_a_success_begins_anew() -> None:
    """Both the waits and the time."""
    patience = Patience(10)
    patience.lose(0, 1.0, DOWN)
    patience.lose(9, 1.0, DOWN)
    patience.restore()

    assert patience.lose(100, 1.0, DOWN) == 1
    assert patience.failures == 1


def test_the_last_attempt_is_made_when_the_time_ends() -> None:
    """Not before, and there is none after it."""
    patience = Patience(10)
    waits = [patience.lose(at, 1.0, DOWN) for at in (0, 1, 3, 7, 10)]

    assert waits == [1, 2, 4, 3, None]


def test_without_patience_there_is_one_attempt() -> None:
    """0 means: do not repeat."""
    assert Patience(0).lose(5, 0.5, DOWN) is None


@pytest.mark.parametrize("chance, seconds", [(0.0, 30.0), (1.0, 33.0)])
def test_the_server_says_how_long(chance: float, seconds: float) -> None:
    """Never less, and a little more so that not all return at once."""
    assert Patience(100).lose(0, chance, throttled(30)) == seconds


def test_a_retry_after_beyond_the_time_ends_it_at_once() -> None:
    """Nobody sleeps for an error."""
    assert Patience(100).lose(0, 0.5, throttled(101)) is None
    assert Patience(None).lose(0, 0.0, throttled(3600)) == 3600


def test_a_retry_after_of_nothing_is_still_a_wait() -> None:
    """A busy loop is nobody's wish; without the header the back-off counts."""
    assert Patience(100).lose(0, 0.5, throttled(0)) == 0.5
    assert Patience(100).lose(0, 1.0, throttled(None)) == 1.0


@given(
    retry_for=st.floats(0.1, 1000),
    chances=st.lists(st.floats(0, 1), min_size=1, max_size=100),
)
def test_it_ends_in_time(retry_for: float, chances: list[float]) -> None:
    """However chance falls, no attempt is made after the time, and no wait is nothing."""
    patience, now = Patience(retry_for), 5.0
    for chance in chances:
        wait = patience.lose(now, chance, DOWN)
        if wait is None:
            assert now >= 5.0 + retry_for * 0.999
            break
        assert wait > 0
        now += wait
        assert now <= 5.0 + retry_for * 1.001

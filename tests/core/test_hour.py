"""Numbers of the last sixty minutes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.hour import MINUTES, Hour


def test_a_minute_adds_up() -> None:
    """Requests, what they brought through, and how long they took."""
    hour = Hour()
    hour.at(60.0).request(good=True, events=3, seconds=0.5)
    hour.at(119.9).request(good=True, events=0, seconds=1.5)
    hour.at(119.9).request(good=False, events=0, seconds=30.0)
    minute = hour.back(119.9)[0]
    assert (minute.requests, minute.delivered, minute.failures) == (3, 3, 1)
    # What failed says nothing about how fast the endpoint answers.
    assert (minute.answered, minute.seconds, minute.slowest) == (2, 2.0, 1.5)


def test_minutes_move_back() -> None:
    """The running minute is the first."""
    hour = Hour()
    hour.at(30.0).recorded += 1
    hour.at(90.0).recorded += 2
    assert [minute.recorded for minute in hour.back(95.0)[:3]] == [2, 1, 0]
    assert [minute.recorded for minute in hour.back(150.0)[:3]] == [0, 2, 1]


@given(st.lists(st.floats(0, 400 * 60), max_size=200).map(sorted))
def test_it_stays_small(moments: list[float]) -> None:
    """Whatever happens when: an hour is remembered, all of it."""
    hour = Hour()
    for now in moments:
        hour.at(now).recorded += 1
    assert len(hour._minutes) <= MINUTES
    now = moments[-1] if moments else 0.0
    last = [moment for moment in moments if now // 60 - moment // 60 < MINUTES]
    assert sum(minute.recorded for minute in hour.back(now)) == len(last)


def test_nobody_looked() -> None:
    """What is not known is no zero."""
    assert [minute.queued for minute in Hour().back(1e6)] == [None] * MINUTES

"""The search for bad items: all good ones are accepted, all bad ones are found, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._server.suspects import Suspects


def search(bad: list[bool], rooms: list[int]) -> tuple[list[int], list[int], int]:
    """Send all items to a server that refuses requests with a bad one, room by room."""
    suspects, accepted, refused, at, requests = Suspects(), list[int](), list[int](), 0, 0
    while at < len(bad):
        count = min(suspects.most(len(bad) - at), rooms[requests % len(rooms)])
        requests += 1
        if not any(bad[at : at + count]):
            suspects.accepted(count)
            accepted += range(at, at + count)
            at += count
        else:
            suspects.rejected(count)
            if count == 1:
                refused.append(at)
                at += 1
    assert len(suspects) == 0
    return accepted, refused, requests


@settings(max_examples=200)
@given(bad=st.lists(st.booleans(), max_size=60), rooms=st.lists(st.integers(1, 60), min_size=1))
def test_the_bad_ones_are_found_and_no_others(bad: list[bool], rooms: list[int]) -> None:
    """Whatever the budgets let through at a time."""
    accepted, refused, _ = search(bad, rooms)

    assert refused == [index for index, is_bad in enumerate(bad) if is_bad]
    assert accepted == [index for index, is_bad in enumerate(bad) if not is_bad]


@settings(max_examples=60)
@given(place=st.integers(0, 999))
def test_one_bad_item_of_a_thousand_costs_few_requests(place: int) -> None:
    """A half that must be bad is not asked for."""
    _, refused, requests = search([index == place for index in range(1000)], [1000])

    assert refused == [place]
    assert requests <= 21


def test_the_state_is_visible() -> None:
    """In numbers."""
    suspects = Suspects()
    suspects.rejected(5)

    assert (repr(suspects), len(suspects), suspects.most(9)) == ("<Suspects [2, 3]>", 5, 2)

"""Rules of `heap_agent._core.events`."""

from __future__ import annotations

import copy

import pytest

from heap_agent._core.events import Actor, Candidate, Fault, Kind


def test_an_actors_name_is_what_goes_over_the_wire() -> None:
    """user_id stands for anonymous users, identity for identified ones."""
    assert Actor("11", "5").name == "5"
    assert Actor("11", "5", "alice").name == "alice"


@pytest.mark.parametrize(
    "value, field",
    [
        (Actor("11", "5"), "app_id"),
        (Fault("too_long", "a", "b"), "kind"),
        (Candidate(1, Kind.EVENT, "1", "a", 2), "id"),
    ],
)
def test_facts_do_not_change(value: object, field: str) -> None:
    """What crosses a door is frozen, slotted and comparable by value."""
    with pytest.raises(AttributeError):
        setattr(value, field, None)
    assert not hasattr(value, "__dict__")
    assert copy.deepcopy(value) == value


def test_rows_and_records_are_told_apart_by_number() -> None:
    """The numbers are on disk: they never change."""
    assert {kind.name: int(kind) for kind in Kind} == {
        "EVENT": 1,
        "IDENTIFY": 2,
        "USER_PROPERTIES": 3,
        "ACCOUNT_PROPERTIES": 4,
        "STATE": 16,
        "REQUEST": 17,
        "COUNTS": 18,
    }

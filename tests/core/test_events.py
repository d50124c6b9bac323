"""Rules of `heap_agent._core.events`."""

from __future__ import annotations

import attrs
import pytest

from heap_agent._core.events import Actor, Candidate, Fault, Kind


def test_an_actors_name_is_what_goes_over_the_wire() -> None:
    """user_id stands for anonymous users, identity for identified ones."""
    assert Actor("11", "5").name == "5"
    assert Actor("11", "5", "alice").name == "alice"


@pytest.mark.parametrize(
    "value", [Actor("11", "5"), Fault("too_long", "a", "b"), Candidate(1, Kind.EVENT, "1", "a", 2)]
)
def test_facts_do_not_change(value: object) -> None:
    """What crosses a door is frozen, slotted and comparable by value."""
    field = attrs.fields(type(value))[0].name  # type: ignore[arg-type]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, field, None)
    assert not hasattr(value, "__dict__")
    assert attrs.evolve(value) == value  # type: ignore[type-var]


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

"""Tests that are made of what was seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._view.assertion import assertion

VALUES = st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


class Heard:
    """As much of a collector as such a test asks for."""

    def __init__(self, name: str, properties: dict[str, Any]) -> None:
        self._heard = name, properties

    def events(self, name: str) -> list[Any]:
        """Events of that name."""
        known, properties = self._heard
        return [SimpleNamespace(properties=properties)] if name == known else []


def run(source: str, heard: Heard) -> None:
    """Run the one test in a source."""
    space: dict[str, Any] = {}
    exec(compile(source, "copied", "exec"), space)
    (test,) = [value for name, value in space.items() if name.startswith("test_")]
    test(heard)


@given(st.text(min_size=1), st.dictionaries(st.text(), VALUES))
def test_it_holds_for_what_was_seen(name: str, properties: dict[str, Any]) -> None:
    """Whatever the event is called, and holds: the source is Python, and passes."""
    run(assertion(name, properties), Heard(name, properties))


@given(st.text(min_size=1), st.dictionaries(st.text(), VALUES, min_size=1))
def test_it_fails_for_anything_else(name: str, properties: dict[str, Any]) -> None:
    """One property more, one less, or nothing of that name."""
    for other in ({**properties, "one more": 1}, dict(list(properties.items())[1:])):
        with pytest.raises(AssertionError):
            run(assertion(name, properties), Heard(name, other))
    with pytest.raises(AssertionError):
        run(assertion(name, properties), Heard(name + "?", properties))


def test_it_reads_well() -> None:
    """As somebody would write it."""
    assert (
        assertion("Purchase", {"dollars": 50, "item": "Furby"})
        == '''\
def test_tracks_purchase(collector):
    """What the program tracks as 'Purchase' has these properties."""
    # collector: a heap_agent.testing.Collector that the program has delivered to.
    tracked = [event.properties for event in collector.events('Purchase')]

    assert {'dollars': 50, 'item': 'Furby'} in tracked
'''
    )

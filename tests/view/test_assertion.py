"""Tests that are made of what was seen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.expectations import differences
from heap_agent._view.assertion import assertion

VALUES = st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


class Heard:
    """As much of a collector as such a test asks for."""

    def __init__(self, name: str, properties: dict[str, Any]) -> None:
        self._heard = name, properties

    def assert_tracked(self, name: str, wanted: dict[str, Any]) -> None:
        """As a collector does."""
        known, properties = self._heard
        assert name == known and not differences(wanted, properties)


def run(source: str, heard: Heard) -> None:
    """Run the one test in a source."""
    space: dict[str, Any] = {}
    exec(compile(source, "copied", "exec"), space)
    (test,) = [value for name, value in space.items() if name.startswith("test_")]
    test(None, heard)


@given(st.text(min_size=1), st.dictionaries(st.text(), VALUES))
def test_it_holds_for_what_was_seen(name: str, properties: dict[str, Any]) -> None:
    """Whatever the event is called, and holds: the source is Python, and passes."""
    run(assertion(name, properties), Heard(name, properties))


@given(st.text(min_size=1), st.dictionaries(st.text(), VALUES, min_size=1))
def test_it_fails_for_anything_else(name: str, properties: dict[str, Any]) -> None:
    """One property less, or nothing of that name."""
    with pytest.raises(AssertionError):
        run(assertion(name, properties), Heard(name, dict(list(properties.items())[1:])))
    with pytest.raises(AssertionError):
        run(assertion(name, properties), Heard(name + "?", properties))


def test_it_reads_well() -> None:
    """As somebody would write it."""
    assert (
        assertion("Purchase", {"dollars": 50, "item": "Furby"})
        == '''\
def test_tracks_purchase(heap_test_agent, heap_collector):
    """The program tracks this event."""
    # Here the program does what it did.

    heap_collector.assert_tracked('Purchase', {'dollars': 50, 'item': 'Furby'})
'''
    )

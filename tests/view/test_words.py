"""Changes of state, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.events import Actor, Kind
from heap_agent._core.state import cleared_facet, forgotten_facet, identity_facet, property_facet
from heap_agent._core.wire import actor_line
from heap_agent._store.lookout import Change
from heap_agent._view.words import told


def state(**more: Any) -> Change:
    """A record of state."""
    return Change(5_000, Kind.STATE, json.dumps(more).encode())


@pytest.mark.parametrize(
    "facets, what, text",
    [
        ({"consent": False}, "consent", "opted out"),
        ({"consent": True}, "consent", "opted in"),
        ({"paused": True}, "paused", "delivery paused"),
        ({"paused": False}, "paused", "delivery resumed"),
        ({"pairing_gesture": False}, "other", "pairing gesture disabled"),
        ({cleared_facet("11"): True}, "event_property", "event properties cleared"),
        ({property_facet("11", "a:b"): 5}, "event_property", "event property a:b = 5"),
        ({property_facet("11", "a"): None}, "event_property", "event property a removed"),
        ({forgotten_facet("ann"): "identity"}, "other", "somebody is forgotten"),
        (
            {identity_facet("11", "m"): {"user_id": "7", "identity": None}},
            "identity",
            "new user 7",
        ),
        (
            {identity_facet("11", "m"): {"user_id": "7", "identity": "ann"}},
            "identity",
            "identified as ann",
        ),
    ],
)
def test_what_is_said(facets: dict[str, Any], what: str, text: str) -> None:
    """One sentence for each facet."""
    assert told(state(set=facets)) == [{"at": 5, "what": what, "text": text}]


def test_properties_of_a_user() -> None:
    """Whose, and which."""
    body = actor_line(Actor("11", "7", "ann")) + b'{"job":"smith","age":3}'
    (said,) = told(Change(5_000, Kind.USER_PROPERTIES, body))
    assert said["text"] == "user properties of ann: job = smith, age = 3"


def test_a_sentence_is_short() -> None:
    """However long a value is."""
    (said,) = told(state(set={property_facet("11", "a"): "x" * 1_000}))
    assert len(said["text"]) == 300


@given(st.binary(), st.sampled_from([Kind.STATE, Kind.USER_PROPERTIES]))
def test_what_makes_no_sense_says_nothing(body: bytes, kind: Kind) -> None:
    """Another version may have written it."""
    assert isinstance(told(Change(0, kind, body)), list)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"set":[]}', b'{"set":{"x":1}}', b"5"])
def test_other_words(body: bytes) -> None:
    """What nobody here knows is passed over."""
    assert told(Change(0, Kind.STATE, body)) == []

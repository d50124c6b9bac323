"""
What changed, in words: the records of a journal that are no events.

This module must not know who reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from heap_agent._core.events import Kind
from heap_agent._core.state import (
    CONSENT,
    GESTURE,
    PAUSED,
    is_cleared,
    is_forgotten,
    names_in,
    property_in,
)
from heap_agent._core.wire import read_actor
from heap_agent._store.lookout import Change

#: Characters of one sentence.
_LONGEST: Final = 300

#: Words for switches: what they are called, on, and off.
_SWITCHES: Final = {
    CONSENT: ("consent", "opted in", "opted out"),
    PAUSED: ("paused", "delivery paused", "delivery resumed"),
    GESTURE: ("other", "pairing gesture allowed", "pairing gesture disabled"),
}


def told(change: Change) -> list[dict[str, Any]]:
    """
    Sentences about one record, each with its moment (ms since 1970) and what it is about;
    none where it says nothing that anybody would look for.
    """
    said: list[tuple[str, str]] = []
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        said += _properties(change.body) if change.kind is Kind.USER_PROPERTIES else _state(change)
    return [
        {"at": change.wall // 1000, "what": what, "text": text[:_LONGEST]} for what, text in said
    ]


def _properties(body: bytes) -> Iterator[tuple[str, str]]:
    line, _, properties = body.partition(b"\n")
    actor, _ = read_actor(line)
    named = ", ".join(f"{key} = {value}" for key, value in json.loads(properties).items())
    yield "user_properties", f"user properties of {actor.name}: {named}"


def _state(change: Change) -> Iterator[tuple[str, str]]:
    facets: Mapping[str, Any] = json.loads(change.body)["set"]
    for name, value in facets.items():
        if name in _SWITCHES:
            what, on, off = _SWITCHES[name]
            yield what, on if value else off
        elif is_forgotten(name):
            yield "other", "somebody is forgotten"
        elif is_cleared(name):
            yield "event_property", "event properties cleared"
        elif (key := property_in(name)) is not None:
            text = f"{key} removed" if value is None else f"{key} = {value}"
            yield "event_property", f"event property {text}"
        elif (names := names_in(value)) is not None:
            user_id, identity = names
            who = f"new user {user_id}" if identity is None else f"identified as {identity}"
            yield "identity", who

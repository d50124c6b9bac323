"""
Seeded events: every run, on every machine, measures the same bytes.

This module must not know what is measured.
"""

from __future__ import annotations

import random
from typing import Any

from heap_agent._core.limits import SAFE_INTEGER

SEED = 20260101

EVENT = "Album Opened"

#: What some benchmarks set with `add_event_properties`.
EVENT_PROPERTIES = {"Store": "Lyon 3", "Firmware": "4.12.0", "Slot": 7, "Volume": 0.35}

IDENTITY = "alice@example.com"

_ALBUMS = ("Kind of Blue", "Blue Train", "Mingus Ah Um", "Time Out", "Saxophone Colossus")
_ARTISTS = ("Miles Davis", "John Coltrane", "Charles Mingus", "Dave Brubeck", "Sonny Rollins")


def properties(count: int) -> list[dict[str, Any]]:
    """
    Properties of typical events: two strings, two ints, two floats, two bools.

    Args:
        count: How many.
    """
    chance = random.Random(SEED)
    return [
        {
            "album": chance.choice(_ALBUMS),
            "artist": chance.choice(_ARTISTS),
            "tracks": chance.randint(5, 24),
            "plays": chance.randint(0, 2_000_000),
            "rating": round(chance.uniform(1, 5), 1),
            "seconds": chance.uniform(0, 3600),
            "shuffle": chance.random() < 0.5,
            "offline": chance.random() < 0.5,
        }
        for _ in range(count)
    ]


def wire_records(
    events: list[dict[str, Any]],
    *,
    ambient: dict[str, Any] | None = None,
    identity: str | None = None,
) -> list[dict[str, Any]]:
    """
    The same events as the whole dicts that go over the wire: what a program
    without an agent would have to encode.

    Args:
        events: From `properties`.
        ambient: Properties that stand on every event.
        identity: Of the user; anonymous without one.
    """
    chance = random.Random(SEED)
    session_id, user_id = (str(chance.randint(2**52, SAFE_INTEGER)) for _ in range(2))
    who = {"user_id": user_id} if identity is None else {"identity": identity}
    return [
        {
            "timestamp": "2026-01-01T00:00:00.000+00:00",
            "idempotency_key": f"{SEED:016x}-{number:012x}-00000000",
            **who,
            "session_id": session_id,
            "event": EVENT,
            "properties": {
                **{key: _on_the_wire(value) for key, value in event.items()},
                **(ambient or {}),
            },
        }
        for number, event in enumerate(events, 1)
    ]


def _on_the_wire(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value

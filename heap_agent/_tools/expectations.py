"""
What a test expects to have been tracked, and how what was tracked differs from it.

This module must not know where events were received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from heap_agent._tools.heap_rules import Event

__all__ = ["differences", "missed"]

#: Events of the name that a message shows, the nearest first; and other names.
_SHOWN: Final = 5


def differences(wanted: Mapping[str, Any], properties: Mapping[str, Any]) -> list[str]:
    """
    What is missing or different; empty where all that is wanted is there. What else is
    there does not matter.
    """
    found = []
    for key, value in wanted.items():
        if key not in properties:
            found.append(f"{key} is missing, wanted {value!r}")
        elif properties[key] != value or _is_text(properties[key]) is not _is_text(value):
            found.append(f"{key}={properties[key]!r}, wanted {value!r}")
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def missed(name: str, wanted: Mapping[str, Any], events: Sequence[Event]) -> str:
    """
    Why an expectation was not met: what was tracked under the name, and what differs.

    Args:
        name: Of the event that is wanted.
        wanted: Properties that it should have.
        events: All that were tracked.
    """
    named = [event for event in events if event.event == name]
    with_ = ", ".join(f"{key}={value!r}" for key, value in wanted.items())
    lines = [f"no event {name!r}" + (f" with {with_}" if wanted else "") + " was tracked"]
    compared = [(differences(wanted, event.properties), event) for event in named]
    compared.sort(key=lambda pair: len(pair[0]))
    for differing, event in compared[:_SHOWN]:
        lines += [f"  {name!r} {dict(event.properties)!r}", *(f"    {one}" for one in differing)]
    if len(compared) > _SHOWN:
        lines.append(f"  and {len(compared) - _SHOWN} more of that name")
    others = Counter(event.event for event in events if event.event != name)
    shown = ", ".join(f"{other!r} × {number}" for other, number in others.most_common(_SHOWN))
    lines.append(f"  besides: {shown or 'nothing'}" + " …" * (len(others) > _SHOWN))
    return "\n".join(lines)

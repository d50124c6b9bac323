"""
A test for what was seen: pytest source that passes where the same thing is tracked again.

This module must not know where the event comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pprint import pformat
from typing import Any, Final

_TEMPLATE: Final = '''\
def test_{slug}(collector):
    """What the program tracks as {name} has these properties."""
    # collector: a heap_agent.testing.Collector that the program has delivered to.
    tracked = [event.properties for event in collector.events({name})]

    assert {properties} in tracked
'''


def assertion(name: str, properties: Mapping[str, Any]) -> str:
    """
    Source of a test for one event.

    Args:
        name: The event's name.
        properties: Text and numbers, as they go over the wire.
    """
    shown = pformat(dict(properties), width=88, sort_dicts=False).replace("\n", "\n    ")
    # Text of a device could end the docstring, or name a test like a keyword.
    quoted = repr(name)
    words = re.sub(r"\W+", "_", name.casefold(), flags=re.ASCII).strip("_")[:40] or "event"
    return _TEMPLATE.format(slug=f"tracks_{words}", name=quoted, properties=shown)

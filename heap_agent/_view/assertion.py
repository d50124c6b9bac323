"""
A test for what was seen: pytest source that passes where the same thing is tracked again.
It uses the fixtures that heap_agent brings along.

This module must not know where the event comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pprint import pformat
from typing import Any, Final

_TEMPLATE: Final = '''\
def test_{slug}(heap_test_agent, heap_collector):
    """The program tracks this event."""
    # Here the program does what it did.

    heap_collector.assert_tracked({name}, {properties})
'''


def assertion(name: str, properties: Mapping[str, Any]) -> str:
    """
    Source of a test for one event.

    Args:
        name: The event's name.
        properties: Text and numbers, as they go over the wire.
    """
    shown = pformat(dict(properties), width=88, sort_dicts=False).replace("\n", "\n    ")
    words = re.sub(r"\W+", "_", name.casefold(), flags=re.ASCII).strip("_")[:40] or "event"
    return _TEMPLATE.format(slug=f"tracks_{words}", name=repr(name), properties=shown)

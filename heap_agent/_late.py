"""
What is imported when somebody wants it first.

This module must not know what that is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import TypeVar

from heap_agent._aside import aside
from heap_agent._store.forking import undivided

_T = TypeVar("_T")


def late(load: Callable[[], _T]) -> Callable[[], _T]:
    """
    Make a function that imports something do so once, safe from what may come in between.

    Args:
        load: Imports, and returns what was imported.

    Returns:
        The same, which is called at most once. Not on the main thread, where a signal
        handler could find a module half made; and no fork happens meanwhile, or the
        child would find it so.
    """

    def undivided_load() -> _T:
        with undivided():
            return load()

    @wraps(load)
    @cache
    def loaded() -> _T:
        found = aside(undivided_load)
        assert found is not None
        return found

    return loaded

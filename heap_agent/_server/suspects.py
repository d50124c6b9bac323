"""
Which of the items at the front were rejected together, and how to find the bad ones.

Pure, and all in numbers of items: this module must not know what an item is.

A rejected request is cut into two groups of suspects, which are sent one after
the other, in order. A rejected group is cut again. When the first group of a
pair is accepted, the second must hold a bad item and is cut without being sent.
"""

from __future__ import annotations

from collections import deque

import attrs

__all__ = ["Suspects"]


@attrs.define(slots=True)
class _Group:
    """`paired`: this one and what was sent of the items before it were rejected together."""

    count: int
    paired: bool = False


class Suspects:
    """
    The suspects at the front; without any, everything may go in large requests.
    """

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: deque[_Group] = deque()

    def __len__(self) -> int:
        return sum(group.count for group in self._groups)

    def __repr__(self) -> str:
        return f"<Suspects {[group.count for group in self._groups]}>"

    def most(self, otherwise: int) -> int:
        """
        Return how many items the next request may hold.
        """
        return min(self._groups[0].count, otherwise) if self._groups else otherwise

    def accepted(self, count: int) -> None:
        """
        Note that the first `count` items were accepted, and are gone.
        """
        self._leave(count)
        if self._groups and self._groups[0].paired:
            self._split_front()

    def rejected(self, count: int) -> None:
        """
        Note that the first `count` items were rejected. One alone is found, and gone.
        """
        # The fault was here, so that nothing is known any more of what follows.
        for group in self._groups:
            group.paired = False
        if count == 1:
            self._leave(1)
            return
        if self._groups:
            self._leave(count)
        self._groups.appendleft(_Group(count))
        self._split_front()

    def _leave(self, count: int) -> None:
        """Take items, which never are more than one group, off the front."""
        if self._groups:
            front = self._groups[0]
            front.count -= count
            if not front.count:
                self._groups.popleft()

    def _split_front(self) -> None:
        front = self._groups.popleft()
        if front.count > 1:
            half = front.count // 2
            self._groups.appendleft(_Group(front.count - half, paired=True))
            self._groups.appendleft(_Group(half))
        else:
            # Sent once more and alone, so that Heap says what is wrong with it.
            self._groups.appendleft(_Group(1))

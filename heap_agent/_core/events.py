"""
What a fact is: the frozen values that cross the doors between rooms.

This module must not know how a fact is written, stored or sent.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

#: A property value as Heap takes it.
Scalar: TypeAlias = str | int | float


class Kind(IntEnum):
    """
    What a record in the journal, a row in the queue, or an item of a request is.
    """

    #: Rows of the queue, each with a path of its own at Heap.
    EVENT = 1
    IDENTIFY = 2
    USER_PROPERTIES = 3

    #: Only servers know accounts: it never becomes a row.
    ACCOUNT_PROPERTIES = 4

    #: Records that change or ask something and never become a row.
    STATE = 16
    REQUEST = 17
    COUNTS = 18


class Actor(NamedTuple):
    """
    On whose behalf something is recorded.

    Attributes:
        app_id: Heap's environment id, digits.
        user_id: Decimal text of a 53-bit integer.
        identity: The name given to `identify`; None while anonymous.
    """

    app_id: str
    user_id: str
    identity: str | None = None

    @property
    def name(self) -> str:
        """The one name that goes over the wire, and that a budget is kept for."""
        return self.user_id if self.identity is None else self.identity


class Fault(NamedTuple):
    """
    One thing that was wrong with a value, and what was done about it.

    Attributes:
        kind: One of a small set of words, counted by `status().repaired`.
        key: The property's key as text, cut to 64 characters; None for the
            event itself.
        detail: A sentence for the log and for `InvalidValue`: what came and
            what is allowed. Never the whole value.
    """

    kind: str
    key: str | None
    detail: str


class Candidate(NamedTuple):
    """
    A row that could be sent now, without its bytes. A tuple, because every row of the
    queue becomes one.

    Attributes:
        id: The row's id; ids grow in recording order and never come back.
        kind: `Kind.EVENT`, `Kind.IDENTIFY` or `Kind.USER_PROPERTIES`.
        app_id: Where it goes.
        actor: The budget's key: identity, or user_id while anonymous.
        size: Bytes of its JSON.
        name: The event's name (as an opaque token; empty for other kinds).
    """

    id: int
    kind: Kind
    app_id: str
    actor: str
    size: int
    name: str = ""

"""
What goes into a `ServerClient` and what comes out of it, as frozen values.

This module must not know how a value is checked, encoded or sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "AccountProperties",
    "BulkResult",
    "DeletionRequest",
    "Event",
    "Moment",
    "Progress",
    "Rejected",
    "UserProperties",
]

#: An aware datetime, ISO-8601 text with an offset, or seconds since 1970.
Moment: TypeAlias = "datetime | str | int | float"

#: Rejected items that a result keeps, for programs that do not look at each.
KEPT_REJECTED: Final = 100

COMPLETE: Final = "complete"


# -- items -----------------------------------------------------------------------


@attrs.frozen(slots=True)
class Event:
    """
    One event. A mapping with the same names does as well.

    Attributes:
        event: Its name, 1 to 1024 UTF-16 units.
        identity: Who did it, 1 to 255 units, case-sensitive; an int is taken as
            its decimal text. Heap makes a user of an unknown one.
        user_id: The anonymous user who did it, 0 to 2^53-1, as an int or its
            decimal text. Exactly one of the two is given.
        timestamp: When it happened: an aware datetime, ISO-8601 text with an
            offset, or seconds (not milliseconds) since 1970. Sent in UTC to the
            millisecond. For None see `ServerClient.bulk_track`.
        properties: Keys of 1 to 1024 units; values are text of at most 1024
            units, integers within ±(2^53-1), and finite floats.
        idempotency_key: Text that Heap tells repetitions by: it keeps the first
            event of a key. None: one is made for each call.
        session_id: The user's session, text or an int.
    """

    event: str
    identity: str | int | None = attrs.field(default=None, kw_only=True)
    user_id: str | int | None = attrs.field(default=None, kw_only=True)
    timestamp: Moment | None = attrs.field(default=None, kw_only=True)
    properties: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    idempotency_key: str | None = attrs.field(default=None, kw_only=True)
    session_id: str | int | None = attrs.field(default=None, kw_only=True)


@attrs.frozen(slots=True)
class UserProperties:
    """
    Properties of one identified user. A mapping with the same names does as well.

    Attributes:
        identity: As in `Event`; Heap has no such properties for anonymous users.
        properties: As in `Event`; the keys ``user_id``, and ``id`` in any case,
            are Heap's. Only ``email`` in lower case fills Heap's own Email.
    """

    identity: str | int
    properties: Mapping[str, Any]


@attrs.frozen(slots=True)
class AccountProperties:
    """
    Properties of one account. A mapping with the same names does as well.

    Attributes:
        account_id: As the setting "Account ID" at Heap has it; 1 to 255 units
            (the limit of identities: Heap states none). An int is taken as text.
        properties: As in `Event`.
    """

    account_id: str | int
    properties: Mapping[str, Any]


# -- results ---------------------------------------------------------------------


@attrs.frozen(slots=True)
class Rejected:
    """
    An item that Heap does not have.

    Attributes:
        index: Its place in the iterable, from 0.
        item: The item itself, as it was given.
        reason: What is wrong with it: our sentence where it was not sent, or
            Heap's answer.
    """

    index: int
    item: object
    reason: str


@attrs.frozen(slots=True)
class Progress:
    """
    How far a bulk call has come.

    Attributes:
        read: Every item whose index is below this is settled: accepted by Heap,
            or rejected and reported. None from here on is, so that a later call
            may go on with item number `read`.
        accepted: Items that Heap has accepted.
        rejected: Items that were rejected.
    """

    read: int
    accepted: int
    rejected: int


@attrs.frozen(slots=True)
class BulkResult:
    """
    What became of a bulk call.

    Attributes:
        accepted: Items that Heap has accepted.
        rejected: Items that were rejected, by us or by Heap.
        repaired: Of the accepted, those that ``repair=True`` had to change.
        requests: Requests that were sent, repetitions included.
        read: As in `Progress`: ``accepted + rejected``.
        first_rejected: The first 100 of the rejected.
    """

    accepted: int = 0
    rejected: int = 0
    repaired: int = 0
    requests: int = 0
    first_rejected: tuple[Rejected, ...] = attrs.field(default=(), repr=False)

    @property
    def read(self) -> int:
        """Items that are settled."""
        return self.accepted + self.rejected


@attrs.frozen(slots=True)
class DeletionRequest:
    """
    A request to delete users, as Heap has accepted it.

    Attributes:
        id: Heap's id of it.
        status: In Heap's words: ``pending`` or ``complete``.
        location: Where Heap says that its status is; never followed.
        users: How many users it names; None where only its id was known.
    """

    id: str
    status: str
    location: str | None = None
    users: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the users are gone."""
        return self.status == COMPLETE

"""
What Heap would know after a series of requests: events, users, accounts, who went over a limit.

This module must not know JSON, HTTP, threads or clocks: whoever calls it
brings checked values, the time, and a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from math import ceil
from typing import Final, TypeAlias

import attrs

from heap_agent._core import limits
from heap_agent._core.events import Scalar
from heap_agent._tools.heap_rules import (
    AccountProperties,
    DeletionUser,
    Event,
    Identify,
    UserProperties,
)

__all__ = ["Account", "Book", "Conflict", "Ignored", "Limits", "OverLimit", "User"]

#: (app_id, identity, None) or (app_id, None, user_id).
Name: TypeAlias = tuple[str, "str | None", "str | None"]


@attrs.frozen(slots=True)
class Conflict:
    """
    Two different events under one idempotency key; Heap keeps the first.
    """

    first: Event
    again: Event


@attrs.frozen(slots=True)
class Ignored:
    """
    A call of identify that was answered with success and had no effect.
    """

    identify: Identify
    reason: str


@attrs.frozen(slots=True)
class User:
    """
    One row of Heap's list of users.

    Attributes:
        app_id: The environment.
        identity: None while nobody has identified this user.
        user_ids: The anonymous ids that belong here, in order of arrival.
        properties: User properties; the last write wins for each key.
        events: In order of arrival, those from before the identification included.
    """

    app_id: str
    identity: str | None
    user_ids: tuple[str, ...]
    properties: Mapping[str, Scalar]
    events: tuple[Event, ...] = attrs.field(repr=False)


@attrs.frozen(slots=True)
class Account:
    """
    One account (a company, say) of an environment.

    Attributes:
        app_id: The environment.
        account_id: Its id there.
        properties: Account properties; the last write wins for each key.
    """

    app_id: str
    account_id: str
    properties: Mapping[str, Scalar]


@attrs.define(slots=True)
class _Draft:
    user_ids: list[str] = attrs.Factory(list)
    properties: dict[str, Scalar] = attrs.Factory(dict)
    events: list[Event] = attrs.Factory(list)


class Book:
    """
    Accepted events without duplicates, the users that they make, and accounts.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.duplicates: list[Event] = []
        self.conflicts: list[Conflict] = []
        self.ignored: list[Ignored] = []
        self._keys: dict[tuple[str, str], Event] = {}
        self._names: dict[Name, None] = {}  # in order of appearance
        self._identity_of: dict[tuple[str, str], str] = {}  # (app_id, user_id)
        self._properties: dict[tuple[str, str], dict[str, Scalar]] = {}  # (app_id, identity)
        self._accounts: dict[tuple[str, str], dict[str, Scalar]] = {}  # (app_id, account_id)
        # (app_id, identity, year, month): how many user_ids an identity took in a month
        self._joined: dict[tuple[str, str, int, int], int] = {}

    def add_events(self, events: Iterable[Event]) -> tuple[list[Event], list[Event]]:
        """
        Record events; one whose key is known already changes nothing.

        Returns:
            Those that are new, and those that are not.
        """
        new: list[Event] = []
        again: list[Event] = []
        for event in events:
            (again if self._is_duplicate(event) else new).append(event)
        self.events += new
        self.duplicates += again
        for event in new:
            self._names.setdefault((event.app_id, event.identity, event.user_id))
        return new, again

    def identify(self, call: Identify, now: datetime) -> None:
        """
        Join an anonymous user to an identity, within Heap's two limits.

        Args:
            call: Who is who.
            now: Time of arrival; the calendar month (UTC) that it lies in counts.
        """
        owner = self._identity_of.get((call.app_id, call.user_id))
        if owner == call.identity:
            return
        if owner is not None:
            self._ignore(call, f"user_id {call.user_id} belongs to {owner!r} already")
            return
        month = (call.app_id, call.identity, now.year, now.month)
        if self._joined.get(month, 0) >= limits.USER_IDS_PER_IDENTITY_AND_MONTH:
            self._ignore(call, f"{call.identity!r} has taken 10 user_ids this month")
            return
        self._joined[month] = self._joined.get(month, 0) + 1
        self._identity_of[call.app_id, call.user_id] = call.identity
        self._names.setdefault((call.app_id, call.identity, None))

    def add_user_properties(self, updates: Iterable[UserProperties]) -> None:
        """
        Write user properties; an unknown identity becomes a user without events.
        """
        for update in updates:
            self._names.setdefault((update.app_id, update.identity, None))
            held = self._properties.setdefault((update.app_id, update.identity), {})
            held.update(update.properties)

    def add_account_properties(self, updates: Iterable[AccountProperties]) -> None:
        """
        Write account properties; an unknown account_id becomes an account.
        """
        for update in updates:
            held = self._accounts.setdefault((update.app_id, update.account_id), {})
            held.update(update.properties)

    def delete(self, users: Iterable[DeletionUser]) -> None:
        """
        Forget users of all environments with all that made them: events, joined
        user_ids and properties.

        A name that comes again later is somebody new. Their idempotency keys are
        forgotten too, so that a late retry shows for what it is: a new user.
        What the collector has noticed about the client (duplicates, conflicts,
        ignored calls) stays.
        """
        asked = {(user.identity, user.user_id) for user in users}
        gone = {name for name in self._names if name[1:] in asked}
        # A joined user_id stands for the whole user that it was joined to.
        gone |= {
            (app_id, owner, None)
            for (app_id, user_id), owner in self._identity_of.items()
            if (None, user_id) in asked
        }
        self._keep_all_but(gone)

    def accounts(self) -> list[Account]:
        """
        All accounts, in order of first appearance.
        """
        return [
            Account(app_id, account_id, dict(properties))
            for (app_id, account_id), properties in self._accounts.items()
        ]

    def users(self) -> list[User]:
        """
        Everybody, merged, in order of first appearance.
        """
        drafts: dict[Name, _Draft] = {}
        for app_id, identity, user_id in self._names:
            drafts.setdefault(self._resolve(app_id, identity, user_id), _Draft())
            if user_id is not None and (app_id, user_id) not in self._identity_of:
                drafts[app_id, None, user_id].user_ids.append(user_id)
        for (app_id, user_id), owner in self._identity_of.items():
            drafts[app_id, owner, None].user_ids.append(user_id)
        for (app_id, name), properties in self._properties.items():
            drafts[app_id, name, None].properties.update(properties)
        for event in self.events:
            drafts[self._resolve(event.app_id, event.identity, event.user_id)].events.append(event)
        return [
            User(app_id, identity, tuple(draft.user_ids), draft.properties, tuple(draft.events))
            for (app_id, identity, _), draft in drafts.items()
        ]

    def _keep_all_but(self, gone: set[Name]) -> None:
        # Last of all what says who belongs to whom: the others are resolved by it.
        def stays(app_id: str, identity: str | None, user_id: str | None = None) -> bool:
            return self._resolve(app_id, identity, user_id) not in gone

        self.events = [e for e in self.events if stays(e.app_id, e.identity, e.user_id)]
        self._keys = {
            key: e for key, e in self._keys.items() if stays(e.app_id, e.identity, e.user_id)
        }
        self._names = {name: None for name in self._names if stays(*name)}
        self._properties = {name: p for name, p in self._properties.items() if stays(*name)}
        self._joined = {month: n for month, n in self._joined.items() if stays(*month[:2])}
        self._identity_of = {
            known: owner for known, owner in self._identity_of.items() if stays(known[0], owner)
        }

    def _resolve(self, app_id: str, identity: str | None, user_id: str | None) -> Name:
        if user_id is None:
            return app_id, identity, None
        owner = self._identity_of.get((app_id, user_id))
        return (app_id, None, user_id) if owner is None else (app_id, owner, None)

    def _is_duplicate(self, event: Event) -> bool:
        if event.idempotency_key is None:
            return False
        first = self._keys.setdefault((event.app_id, event.idempotency_key), event)
        if first is event:
            return False
        if first.raw != event.raw:
            self.conflicts.append(Conflict(first, event))
        return True

    def _ignore(self, call: Identify, reason: str) -> None:
        self.ignored.append(Ignored(call, reason))


# -- rate limits ---------------------------------------------------------------


@attrs.frozen(slots=True)
class Limit:
    """
    So many of something in so many seconds.
    """

    text: str
    most: int
    seconds: float


PER_IDENTITY: Final = Limit(
    "events per minute per identity per app_id", limits.IDENTITY_EVENTS_PER_MINUTE, 60.0
)
PER_APP: Final = Limit("events per minute per app_id", limits.APP_EVENTS_PER_MINUTE, 60.0)
REQUESTS: Final = Limit(
    "requests per 30 seconds per identity per app_id",
    limits.REQUESTS_PER_IDENTITY,
    limits.REQUESTS_PER_IDENTITY_SECONDS,
)


@attrs.frozen(slots=True)
class OverLimit:
    """
    A documented rate limit was exceeded.

    Attributes:
        limit: What is limited, in words.
        allowed: How many are allowed.
        came: How many came within the window, the last request included.
        app_id: In which environment.
        who: The identity or user_id, or None where the limit is the app's.
        retry_after: Seconds until there is room again.
    """

    limit: str
    allowed: int
    came: int
    app_id: str
    who: str | None
    retry_after: int


@attrs.frozen(slots=True)
class Use:
    """So many uses of one limit by one name."""

    limit: Limit
    path: str
    app_id: str
    identity: str | None
    user_id: str | None
    count: int

    @property
    def key(self) -> Hashable:
        return self.limit, self.path, self.app_id, self.identity, self.user_id


class Limits:
    """
    Heap's documented rate limits, as windows that slide.

    A window that slides is the strictest reading of "per minute": no sixty
    seconds whatever may hold more. Bulk requests for user properties count as
    one request for each identity in them.
    """

    def __init__(self) -> None:
        self.over: list[OverLimit] = []
        self._windows: dict[Hashable, deque[tuple[float, int]]] = {}

    def events(self, events: tuple[Event, ...], *, bulk: bool) -> list[Use]:
        """
        What a request of `track` uses up.
        """
        app_id = events[0].app_id
        uses = [Use(PER_APP, "track", app_id, None, None, len(events))]
        counts: dict[tuple[str | None, str | None], int] = {}
        for event in events:
            actor = (event.identity, event.user_id)
            counts[actor] = counts.get(actor, 0) + 1
        uses += [Use(PER_IDENTITY, "track", app_id, *actor, n) for actor, n in counts.items()]
        if not bulk:
            uses.append(Use(REQUESTS, "track", app_id, events[0].identity, events[0].user_id, 1))
        return uses

    def users(self, updates: tuple[UserProperties, ...]) -> list[Use]:
        """
        What a request of `add_user_properties` uses up.
        """
        names = dict.fromkeys((update.app_id, update.identity) for update in updates)
        return [Use(REQUESTS, "users", app_id, identity, None, 1) for app_id, identity in names]

    def spend(self, uses: list[Use], now: float, *, enforce: bool) -> int | None:
        """
        Count uses, and note each limit that they exceed.

        Args:
            uses: What one request needs.
            now: Seconds on a clock that never goes back.
            enforce: True when a request over a limit is turned away, uncounted.

        Returns:
            None, or the seconds after which the request would have found room.
        """
        over = [found for use in uses if (found := self._excess(use, now)) is not None]
        self.over += over
        if not (over and enforce):
            for use in uses:
                self._windows[use.key].append((now, use.count))
        return max((found.retry_after for found in over), default=None)

    def _excess(self, use: Use, now: float) -> OverLimit | None:
        window = self._windows.setdefault(use.key, deque())
        while window and window[0][0] <= now - use.limit.seconds:
            window.popleft()
        came = sum(count for _, count in window) + use.count
        if came <= use.limit.most:
            return None
        leaves = window[0][0] + use.limit.seconds - now if window else use.limit.seconds
        return OverLimit(
            limit=use.limit.text,
            allowed=use.limit.most,
            came=came,
            app_id=use.app_id,
            who=use.identity if use.user_id is None else use.user_id,
            retry_after=max(1, ceil(leaves)),
        )

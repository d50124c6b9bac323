"""
How many events and requests may still be sent in the current minute.

This module must not know why something is sent, nor which clock `now` comes
from: any that counts seconds will do, and one that jumps backwards never blocks
for longer than a window.

The limiters are exact sliding windows rather than token buckets: a bucket of
1000 that refills at 1000 a minute lets almost 2000 through in its first minute.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import attrs

from heap_agent._core import limits
from heap_agent._core.events import Kind

__all__ = ["Allowance", "Budget", "Budgets", "Purse"]

#: Seconds by which our window is longer than the server's. The server counts
#: arrivals: of two requests a minute apart, the first may have been slow on its
#: way and the second fast.
MARGIN: Final = 2.0

#: What is spent within one second is remembered as one entry, dated by its last
#: part, so that memory is bounded by the window and not by the traffic.
GRAIN: Final = 1.0

#: `wait` computes an instant and `room` looks back from it; rounding must not
#: put that instant before its own goal.
_ROUNDING: Final = 1e-6

#: (app id, actor), or (app id, "") where the whole app is counted.
Key = tuple[str, str]


@attrs.define(slots=True)
class _Spent:
    began: float
    ended: float
    count: int


class Budget:
    """
    At most `limit` in any `seconds`.

    Args:
        limit: How many; a fraction is rounded down. Below 1 the window is
            stretched instead: 0.5 a minute is one every two minutes.
        seconds: The length of the window.

    Raises:
        ValueError: One of the two is not a number above 0.
    """

    __slots__ = ("_spent", "_total", "limit", "window")

    def __init__(self, limit: float, seconds: float) -> None:
        self._spent: deque[_Spent] = deque()
        self._total = 0
        self.resize(limit, seconds)

    def __repr__(self) -> str:
        return f"<Budget {self._total} of {self.limit} in {self.window:g} s>"

    def resize(self, limit: float, seconds: float) -> None:
        """
        Set other numbers; what was spent stays spent.
        """
        self.limit, self.window = _shape(limit, seconds)

    def room(self, now: float) -> int:
        """
        Return how many may be spent at `now`.
        """
        self._forget(now)
        return max(0, self.limit - self._total)

    def wait(self, now: float) -> float:
        """
        Return the seconds until there is room for one; 0.0 when there is.
        """
        self._forget(now)
        missing = self._total - self.limit + 1
        until = now
        for entry in self._spent:
            if missing <= 0:
                break
            missing -= entry.count
            until = entry.ended + self.window
        return max(0.0, until - now)

    def spend(self, now: float, count: int) -> None:
        """
        Note that `count` were sent. More than there is room for is noted too.
        """
        self._forget(now)
        self._add(now, count)

    def snapshot(self, now: float) -> list[list[float]]:
        """
        Return ``[age in seconds, count]`` of all that still counts, oldest first.
        """
        self._forget(now)
        return [[now - entry.ended, entry.count] for entry in self._spent]

    def restore(self, now: float, snapshot: object) -> None:
        """
        Add what a snapshot holds; anything in it that makes no sense is skipped.

        The time since the snapshot was taken is unknown and counts as none.
        """
        entries = [entry for item in _items(snapshot) if (entry := _aged(item, self.window))]
        self._forget(now)
        for age, count in sorted(entries, reverse=True):
            self._add(now - age, count)

    def _add(self, when: float, count: int) -> None:
        if count <= 0:
            return
        self._total += count
        last = self._spent[-1] if self._spent else None
        if last is not None and when - last.began < min(GRAIN, self.window / 60):
            last.ended = max(last.ended, when)
            last.count += count
        else:
            self._spent.append(_Spent(when, when, count))

    def _forget(self, now: float) -> None:
        # Entries lie in the future only when the clock went backwards.
        for entry in reversed(self._spent):
            if entry.ended <= now:
                break
            entry.began = min(entry.began, now)
            entry.ended = now
        while self._spent and now - self._spent[0].ended >= self.window - _ROUNDING:
            self._total -= self._spent.popleft().count


class Budgets:
    """
    A `Budget` for each key, made when it is first spent and forgotten when idle.

    Actors are kept as hashes: a snapshot may stay on a disk for weeks, and people
    have a right to be forgotten.
    """

    __slots__ = ("_budgets", "_limit", "_seconds", "_sweep_at")

    def __init__(self, limit: float, seconds: float) -> None:
        self._budgets: dict[Key, Budget] = {}
        self._sweep_at = 64
        self.resize(limit, seconds)

    def __len__(self) -> int:
        return len(self._budgets)

    def __repr__(self) -> str:
        return f"<Budgets of {len(self)}: {self._limit:g} in {self._seconds:g} s>"

    def resize(self, limit: float, seconds: float) -> None:
        """
        Set other numbers for all; what was spent stays spent.
        """
        _shape(limit, seconds)
        self._limit, self._seconds = limit, seconds
        for budget in self._budgets.values():
            budget.resize(limit, seconds)

    def room(self, now: float, key: Key) -> int:
        """
        Return how many may be spent for `key` at `now`.
        """
        budget = self._budgets.get(_nameless(key))
        return _shape(self._limit, self._seconds)[0] if budget is None else budget.room(now)

    def wait(self, now: float, key: Key) -> float:
        """
        Return the seconds until there is room for one; 0.0 when there is.
        """
        budget = self._budgets.get(_nameless(key))
        return 0.0 if budget is None else budget.wait(now)

    def spend(self, now: float, key: Key, count: int) -> None:
        """
        Note that `count` were sent for `key`.
        """
        self._budget(now, _nameless(key)).spend(now, count)

    def seconds_for(self, now: float, key: Key, count: int) -> float:
        """
        Return about how many seconds it takes until `count` more are spent.
        """
        limit, window = _shape(self._limit, self._seconds)
        room = self.room(now, key)
        if count <= room:
            return 0.0
        windows = math.ceil((count - room) / limit)
        # Without room, the first of these windows has begun already.
        return windows * window if room else self.wait(now, key) + (windows - 1) * window

    def snapshot(self, now: float) -> list[list[object]]:
        """
        Return ``[app id, hash of the actor, [[age, count], ...]]`` of all that
        still counts.
        """
        self._sweep(now)
        return [[*key, budget.snapshot(now)] for key, budget in self._budgets.items()]

    def restore(self, now: float, snapshot: object) -> None:
        """
        Add what a snapshot holds; anything in it that makes no sense is skipped.
        """
        for item in _items(snapshot):
            match item:
                case [str(app_id), str(actor), list(spent)]:
                    self._budget(now, (app_id, actor)).restore(now, spent)

    def _budget(self, now: float, key: Key) -> Budget:
        if key not in self._budgets:
            if len(self._budgets) >= self._sweep_at:
                self._sweep(now)
            self._budgets[key] = Budget(self._limit, self._seconds)
        return self._budgets[key]

    def _sweep(self, now: float) -> None:
        busy = {k: b for k, b in self._budgets.items() if b.room(now) < b.limit}
        self._budgets = busy
        # Twice what is in use: looking through all of them costs little per key.
        self._sweep_at = max(64, 2 * len(busy))


class Purse:
    """
    What the budgets allow one request to hold, while it is being filled.
    """

    __slots__ = ("_actors", "_app_id", "_left", "_now", "_per_row", "_rooms")

    def __init__(
        self, now: float, app_id: str, actors: Budgets | None, app_room: float, per_row: bool
    ) -> None:
        self._now = now
        self._app_id = app_id
        self._actors = actors
        self._left = app_room
        self._per_row = per_row
        self._rooms: dict[str, float] = {}

    def take(self, actor: str) -> bool:
        """
        Take a place for one more row of `actor`; False when there is none.
        """
        room = self._rooms.get(actor)
        if room is None:
            room = self._room(actor)
        if room < 1 or self._left < 1:
            self._rooms[actor] = room
            return False
        self._rooms[actor] = room - 1 if self._per_row else room
        self._left -= 1
        return True

    def _room(self, actor: str) -> float:
        if self._actors is None:
            return math.inf
        return self._actors.room(self._now, (self._app_id, actor))


class Allowance:
    """
    Which budgets a request is charged to.

    Events are counted one by one, for their actor and for the app id. Of user
    properties and identify calls the requests are counted, for each identity in
    them; of account properties, for which Heap states no limit, likewise.

    Args:
        identity_budget: Events a minute of one actor; None switches this and
            the budgets of the requests off.
        app_budget: Events a minute of one app id, or None.
        fleet_size: The devices that share the budget of the app id. Each has users
            of its own, so that the one of an identity is not divided.
    """

    __slots__ = ("_actors", "_app")

    def __init__(
        self, identity_budget: float | None, app_budget: float | None, fleet_size: int
    ) -> None:
        self._actors: dict[Kind, Budgets | None] = {}
        self._app: Budgets | None = None
        self.resize(identity_budget, app_budget, fleet_size)

    def __repr__(self) -> str:
        actors = ", ".join(f"{kind.name}: {budgets!r}" for kind, budgets in self._actors.items())
        return f"<Allowance app: {self._app!r}, {actors}>"

    def resize(
        self, identity_budget: float | None, app_budget: float | None, fleet_size: int
    ) -> None:
        """
        Set other numbers; what was spent stays spent.
        """
        requests = None if identity_budget is None else float(limits.REQUESTS_PER_IDENTITY)
        window = limits.REQUESTS_PER_IDENTITY_SECONDS
        actors = {Kind.EVENT: _resized(self._actors.get(Kind.EVENT), identity_budget, 60.0)}
        for kind in (Kind.IDENTIFY, Kind.USER_PROPERTIES, Kind.ACCOUNT_PROPERTIES):
            actors[kind] = _resized(self._actors.get(kind), requests, window)
        self._actors = actors
        app = None if app_budget is None else app_budget / fleet_size
        self._app = _resized(self._app, app, 60.0)

    def purse(self, now: float, kind: Kind, app_id: str) -> Purse:
        """
        Return what one request may hold at `now`.
        """
        app = self._app_budgets(kind)
        room = math.inf if app is None else app.room(now, (app_id, ""))
        return Purse(now, app_id, self._actors[kind], room, kind is Kind.EVENT)

    def wait(self, now: float, kind: Kind, app_id: str, actors: Iterable[str]) -> float:
        """
        Return the seconds until one of the actors may send; 0.0 without actors.
        """
        app, budgets = self._app_budgets(kind), self._actors[kind]
        own = 0.0
        if budgets is not None:
            own = min((budgets.wait(now, (app_id, actor)) for actor in set(actors)), default=0.0)
        return own if app is None else max(own, app.wait(now, (app_id, "")))

    def charge(self, now: float, kind: Kind, app_id: str, actors: Iterable[str]) -> None:
        """
        Note a request that may have arrived.

        Args:
            now: When it ended. It arrived at some time before that, so that the
                next request a window later is at least a window away from it.
            kind: What it held.
            app_id: Where it went.
            actors: The actor of each row in it.
        """
        counts = _costs(kind, actors)
        budgets, app = self._actors[kind], self._app_budgets(kind)
        for actor, count in counts.items():
            if budgets is not None:
                budgets.spend(now, (app_id, actor), count)
        if app is not None:
            app.spend(now, (app_id, ""), sum(counts.values()))

    def seconds_to_drain(self, now: float, backlog: Mapping[Key, int]) -> float:
        """
        Return about how long the event budgets make a backlog take.

        Args:
            now: The current time.
            backlog: Queued events by (app id, actor).
        """
        totals: Counter[str] = Counter()
        slowest = 0.0
        budgets = self._actors[Kind.EVENT]
        for (app_id, actor), count in backlog.items():
            totals[app_id] += count
            if budgets is not None:
                slowest = max(slowest, budgets.seconds_for(now, (app_id, actor), count))
        for app_id, count in totals.items():
            if self._app is not None:
                slowest = max(slowest, self._app.seconds_for(now, (app_id, ""), count))
        return slowest

    def snapshot(self, now: float) -> dict[str, list[list[object]]]:
        """
        Return what was spent, by ages rather than times.
        """
        return {name: budgets.snapshot(now) for name, budgets in self._named()}

    def restore(self, now: float, snapshot: object) -> None:
        """
        Add what a snapshot holds; anything in it that makes no sense is skipped.
        """
        if isinstance(snapshot, Mapping):
            for name, budgets in self._named():
                budgets.restore(now, snapshot.get(name))

    def _app_budgets(self, kind: Kind) -> Budgets | None:
        return self._app if kind is Kind.EVENT else None

    def _named(self) -> list[tuple[str, Budgets]]:
        named = [("APP", self._app), *((kind.name, b) for kind, b in self._actors.items())]
        return [(name, budgets) for name, budgets in named if budgets is not None]


@lru_cache(maxsize=4_096)
def _nameless(key: Key) -> Key:
    app_id, actor = key
    return app_id, actor and blake2b(actor.encode(), digest_size=8).hexdigest()


def _shape(limit: float, seconds: float) -> tuple[int, float]:
    """How many, in a window of which length."""
    if not (0 < limit < math.inf and 0 < seconds < math.inf):
        raise ValueError(
            f"a budget needs a limit and a window above 0, got {limit!r} in {seconds!r} s;"
            " to switch a budget off, give None"
        )
    return max(1, math.floor(limit)), seconds / min(limit, 1.0) + MARGIN


def _resized(budgets: Budgets | None, limit: float | None, seconds: float) -> Budgets | None:
    if limit is None:
        return None
    if budgets is None:
        return Budgets(limit, seconds)
    budgets.resize(limit, seconds)
    return budgets


def _costs(kind: Kind, actors: Iterable[str]) -> Counter[str]:
    """What each actor is charged for one request."""
    return Counter(actors) if kind is Kind.EVENT else Counter(set(actors))


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _aged(item: object, window: float) -> tuple[float, int] | None:
    """An entry of a snapshot, checked; None when it makes no sense."""
    match item:
        # NaN is the one number that differs from itself.
        case [int() | float() as age, int() as count] if count > 0 and age == age:
            return float(min(max(age, 0), window)), int(count)
    return None

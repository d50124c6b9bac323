"""
What to send next, how long to wait, and how to find a poison event.

This module must not know what an event looks like, where it is kept, how it
travels or what time it is: rows are ids and sizes, and time and chance are
arguments. Everything that decides about delivery lives here, so that it can be
tried a million times in a second.

Theory of operation
===================

The owner of a directory asks and reports in turns:

    step = delivery.next_step(now, candidates)
    Send  → send these rows in this order, then verdict = delivery.receive(...)
    Probe → ask the endpoint for anything, without a body, then receive(...)
    Wait  → ask again after so many seconds, or after nudge()
    Idle  → there is nothing; ask again after the interval

A verdict names rows to forget (`ack`), to turn into dead letters (`bury`) and
to take back from the dead letters (`restore`). A row that no verdict names
stays where it is. The candidates decide what exists: a row that is gone from
those of its lane is forgotten here too.

Lanes
-----
Rows of one kind and one app id share a path at Heap and a `Lane` here. In a
lane, rows of one actor leave in the order of their ids; a row whose actor has no
budget holds back the later rows of that actor and nobody else's. Between lanes
the oldest row that may leave goes first. What goes wrong in a lane pauses that
lane, because its rows may be the cause. Only what cannot be the rows' fault
pauses everything: a connection that was not made, a probe that failed, and a 503
that says how long to stay away.

Answers
-------
For the answer to a `Send`:

    answer         rows                  lane                      window
    ACCEPTED       ack                   pause ends                doubles
    REJECTED, n>1  keep                  suspects, halved          –
    REJECTED, n=1  bury (see Trial)      –                         –
    TOO_LARGE, n>1 keep                  –                         halves
    TOO_LARGE, n=1 bury                  –                         halves
    THROTTLED      keep                  pause as told             –
    UNAVAILABLE    keep                  back-off, then a probe    halves if the
                                                                   body had begun
    CAPTIVE        keep                  back-off, then a probe    –
    MISCONFIGURED  keep                  longest back-off, then    –
                                         one row alone

For the answer to a `Probe`: UNAVAILABLE and CAPTIVE pause everything with a
back-off; any other answer allows the next `Send`. At the start, too, a probe
comes first: rows are frozen just before they are sent, and the date of the
probe's answer is what their clocks are repaired by.

The window is how many rows and bytes a request may hold. A growth that failed
makes the next growth slower (twice as many acceptances are needed), or a slow
line would time out with every other request.

Suspects
--------
A rejected batch is cut into two groups of suspects, sent one after the other. A
rejected group is cut again. When the first group of a pair has been accepted as
a whole, the second is known to hold the bad row and is cut without being sent.
Groups stay in the order of their rows, and rows that are no suspects wait behind
them unless all suspects wait for a budget.

Trial
-----
Singles that are rejected five times in a row, with nothing accepted between, may
mean that the server refuses everything today. Then:

    mode       event                                  next mode
    NORMAL     five singles rejected in a row         TRIAL: four are restored,
                                                      the fifth is kept
    TRIAL      a witness is accepted                  CONVICTED
    TRIAL      five witnesses rejected, or no more    TRIAL, after the longest
                                                      back-off, with one witness
    CONVICTED  a single is rejected                   CONVICTED: it is buried
    CONVICTED  an ordinary request is accepted        NORMAL

Witnesses are single rows from elsewhere in the lane, the newest of another name
first; they alone leave out of order, and none is buried. The five go to the front
of the suspects and are judged again after the trial. Where they are all there
is, one of them is the witness of a later trial, or a lane that was healed would
never find out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

import attrs
from attrs import validators

from heap_agent._core import limits
from heap_agent._core.budget import Ledger
from heap_agent._core.events import Candidate, Kind
from heap_agent._core.outcomes import Answer, Outcome

__all__ = ["Delivery", "Idle", "LaneKey", "Policy", "Probe", "Send", "Step", "Verdict", "Wait"]

#: The members of a request around its rows: app id, name of the list, brackets.
ENVELOPE_BYTES: Final = 64

#: Singles rejected in a row that start a trial; also its witnesses.
TRIAL_SIZE: Final = 5

#: A window in bytes never shrinks below this; in rows it reaches one anyway, and
#: a row that is alone may have any size.
WINDOW_BYTES_MINIMUM: Final = 4_096

#: At most this many acceptances are asked for before a window grows.
PATIENCE_MAXIMUM: Final = 64

#: No `Wait` is shorter, whatever rounding leaves of one.
WAIT_MINIMUM: Final = 0.05

#: As a share of what was told: nobody returns early, and not all at once.
RETRY_AFTER_JITTER: Final = 0.1

#: Longest pause that a snapshot may restore: the longest `Retry-After` with its
#: jitter is below.
PAUSE_MAXIMUM: Final = 7_200.0

#: A lane: what is sent, and for which app id.
LaneKey: TypeAlias = tuple[Kind, str]


# -- values ---------------------------------------------------------------------


def _is_a_budget(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(
            f"{attribute.name} must be a number above 0, or None for no limit; got {value!r}"
        )


@attrs.frozen(slots=True)
class Policy:
    """
    How delivery behaves.

    Attributes:
        interval: Seconds between two looks at an empty queue.
        batch_items: Rows in a request, at most 1000.
        batch_bytes: Bytes of a request's body, at most 1,000,000.
        identity_budget: Events a minute for one actor; None: without limit,
            and no limit on requests for an identity either.
        app_budget: Events a minute for one app id; None: without limit.
        fleet_size: Devices that share the two budgets.
        backoff_base: Seconds, the ceiling of the first back-off.
        backoff_cap: Seconds, the ceiling of all of them. The longest back-off,
            after MISCONFIGURED, lies between half of it and all of it.
    """

    interval: float = attrs.field(default=limits.INTERVAL, validator=validators.ge(0))
    batch_items: int = attrs.field(
        default=limits.BATCH_ITEMS,
        validator=[validators.ge(1), validators.le(limits.BATCH_ITEMS)],
    )
    batch_bytes: int = attrs.field(
        default=limits.BATCH_BYTES,
        validator=[validators.ge(1), validators.le(limits.BATCH_BYTES)],
    )
    identity_budget: float | None = attrs.field(
        default=float(limits.IDENTITY_EVENTS_PER_MINUTE),
        validator=_is_a_budget,
    )
    app_budget: float | None = attrs.field(
        default=float(limits.APP_EVENTS_PER_MINUTE),
        validator=_is_a_budget,
    )
    fleet_size: int = attrs.field(default=1, validator=validators.ge(1))
    backoff_base: float = attrs.field(default=1.0, validator=validators.ge(0))
    backoff_cap: float = attrs.field(default=300.0, validator=validators.ge(0))


@attrs.frozen(slots=True)
class Send:
    """
    Send these rows in this order, in one request.
    """

    kind: Kind
    app_id: str
    ids: tuple[int, ...]


@attrs.frozen(slots=True)
class Probe:
    """
    Ask the endpoint for anything, without a body.
    """


@attrs.frozen(slots=True)
class Wait:
    """
    Nothing may leave for so many seconds.
    """

    seconds: float


@attrs.frozen(slots=True)
class Idle:
    """
    There is nothing to send.
    """


Step: TypeAlias = Send | Probe | Wait | Idle


@attrs.frozen(slots=True)
class Verdict:
    """
    What becomes of rows after an answer; a row that is not named stays.

    Attributes:
        ack: Rows that arrived.
        bury: Rows to turn into dead letters, with the answer as the reason.
        restore: Dead letters to put back into the queue under their old ids.
    """

    ack: tuple[int, ...] = ()
    bury: tuple[int, ...] = ()
    restore: tuple[int, ...] = ()


class _Mode(Enum):
    NORMAL = "normal"
    TRIAL = "trial"
    CONVICTED = "convicted"


# -- parts of a lane --------------------------------------------------------------


@attrs.define(slots=True)
class _Pause:
    """A time in which nothing is tried, and why."""

    until: float = 0.0
    length: float = 0.0
    attempt: int = 0
    cause: Answer | None = None

    def begin(self, now: float, seconds: float, cause: Answer) -> None:
        self.until, self.length, self.cause = now + seconds, seconds, cause

    def lift(self) -> None:
        """End the waiting, not the counting: the next failure waits longer."""
        self.length = 0.0

    def remaining(self, now: float) -> float:
        if self.until - now > self.length:
            # Lifted, or the clock went backwards.
            self.until = now + self.length
        return max(0.0, self.until - now)

    def snapshot(self, now: float) -> dict[str, object]:
        cause = None if self.cause is None else self.cause.name
        return {"wait": self.remaining(now), "attempt": self.attempt, "cause": cause}

    def restore(self, now: float, data: object) -> None:
        saved = _mapping(data)
        name = saved.get("cause")
        cause = Answer.__members__.get(name) if isinstance(name, str) else None
        if cause is not None:
            self.begin(now, _number(saved.get("wait"), 0.0, PAUSE_MAXIMUM, 0.0), cause)
            self.attempt = int(_number(saved.get("attempt"), 0, 1_000, 0))


@attrs.define(slots=True)
class _Window:
    """How many rows and bytes one request may hold."""

    items: int
    bytes: int
    patience: int = 1
    accepted: int = 0
    has_grown: bool = False

    def shrink(self, items: int, size: int) -> None:
        """Go to half of what was sent; the window may have been far larger."""
        self.items = max(1, min(self.items, items) // 2)
        self.bytes = min(self.bytes, max(WINDOW_BYTES_MINIMUM, size // 2))
        if self.has_grown:
            self.patience = min(self.patience * 2, PATIENCE_MAXIMUM)
        self.accepted, self.has_grown = 0, False

    def grow(self, policy: Policy) -> None:
        """Note an acceptance."""
        self.accepted += 1
        if self.is_full(policy):
            self.patience = 1
        elif self.accepted >= self.patience:
            self.items = min(self.items * 2, policy.batch_items)
            self.bytes = min(self.bytes * 2, policy.batch_bytes)
            self.accepted, self.has_grown = 0, True

    def is_full(self, policy: Policy) -> bool:
        return self.items >= policy.batch_items and self.bytes >= policy.batch_bytes


@attrs.define(slots=True)
class _Group:
    """
    Rows under suspicion.

    `paired`: this group together with the one directly before it was rejected,
    and nothing has left that one but rows that were accepted.
    """

    ids: tuple[int, ...]
    paired: bool = False


@attrs.define(slots=True)
class _Suspects:
    """Groups of rows that were rejected together, in the order of their rows."""

    groups: list[_Group] = attrs.field(factory=list)

    def __len__(self) -> int:
        return sum(len(group.ids) for group in self.groups)

    def keep(self, present: Collection[int]) -> None:
        """Forget rows that are gone."""
        for index, group in enumerate(self.groups):
            rest = tuple(id for id in group.ids if id in present)
            if len(rest) < len(group.ids):
                group.ids = rest
                # The bad one may be among them, so that nothing is known of the pair.
                self._unpair(index + 1)
        self._drop_empty()

    def acquit(self, ids: tuple[int, ...]) -> None:
        """Take out rows of one group, or of none, that were accepted."""
        index = self._find(ids[0])
        if index is None:
            return
        group = self.groups[index]
        group.ids = tuple(id for id in group.ids if id not in set(ids))
        if not group.ids and index + 1 < len(self.groups) and self.groups[index + 1].paired:
            self.groups[index + 1 : index + 2] = _halves(self.groups[index + 1].ids)
        self._drop_empty()

    def split(self, ids: tuple[int, ...]) -> None:
        """Halve rows of one group, or of none, that were rejected together."""
        index = self._find(ids[0])
        if index is None:
            self.groups.extend(_halves(ids))
            return
        self._unpair(index + 1)
        rest = tuple(id for id in self.groups[index].ids if id not in set(ids))
        self.groups[index : index + 1] = [*_halves(ids), _Group(rest)]
        self._drop_empty()

    def remove(self, id: int) -> None:
        """Take out a row that was refused alone."""
        index = self._find(id)
        if index is not None:
            self.groups[index].ids = tuple(other for other in self.groups[index].ids if other != id)
            self._unpair(index + 1)
            self._drop_empty()

    def put_first(self, ids: Iterable[int]) -> None:
        """Have these rows judged first, each alone."""
        self.groups[:0] = [_Group((id,)) for id in ids]

    def _find(self, id: int) -> int | None:
        return next((i for i, group in enumerate(self.groups) if id in group.ids), None)

    def _unpair(self, index: int) -> None:
        if index < len(self.groups):
            self.groups[index].paired = False

    def _drop_empty(self) -> None:
        self.groups = [group for group in self.groups if group.ids]


@attrs.define(slots=True)
class _Lane:
    """
    Rows of one kind and one app id.

    `rejected` are the singles rejected in a row, oldest first: fewer than five,
    all buried, in NORMAL mode; the five that are kept, in TRIAL mode. `tried` are
    the witnesses that were rejected; `is_hung`: a trial has failed before.
    """

    kind: Kind
    app_id: str
    window: _Window
    pause: _Pause = attrs.field(factory=_Pause)
    suspects: _Suspects = attrs.field(factory=_Suspects)
    mode: _Mode = _Mode.NORMAL
    rejected: list[int] = attrs.field(factory=list)
    tried: set[int] = attrs.field(factory=set)
    witnesses_left: int = TRIAL_SIZE
    is_hung: bool = False

    @property
    def key(self) -> LaneKey:
        return self.kind, self.app_id

    def parts(self, rows: Sequence[Candidate]) -> Iterable[list[Candidate]]:
        """The groups of suspects, then all other rows."""
        by_id = {row.id: row for row in rows}
        for group in self.suspects.groups:
            yield [by_id.pop(id) for id in group.ids]
        yield list(by_id.values())

    def start_trial(self) -> None:
        self._enter(_Mode.TRIAL)
        for id in self.rejected:
            self.suspects.remove(id)
        self.suspects.put_first(self.rejected)

    def convict(self) -> None:
        self._enter(_Mode.CONVICTED)
        self.rejected.clear()

    def hang(self) -> None:
        """Give this trial up; the next one has a single witness."""
        self.is_hung, self.witnesses_left = True, 1

    def witnesses(self, rows: Sequence[Candidate], newest: Sequence[Candidate]) -> list[Candidate]:
        """Rows that may be tried alone, best first."""
        pool = {row.id: row for row in newest if (row.kind, row.app_id) == self.key}
        pool |= {row.id: row for row in reversed(rows) if row.id not in pool}
        self.tried &= pool.keys()
        barred = self.tried.union(self.rejected)
        fresh = [row for row in pool.values() if row.id not in barred]
        if fresh or not self.is_hung:
            names = {row.name for row in pool.values() if row.id in barred}
            return sorted(fresh, key=lambda row: row.name in names)
        self.tried.clear()
        condemned = [row for row in rows if row.id in self.rejected]
        return [row for row in pool.values() if row not in condemned] + condemned

    def _enter(self, mode: _Mode) -> None:
        self.mode, self.is_hung, self.witnesses_left = mode, False, TRIAL_SIZE
        self.tried.clear()

    def snapshot(self, now: float) -> dict[str, object]:
        return {
            "kind": int(self.kind),
            "app_id": self.app_id,
            "items": self.window.items,
            "bytes": self.window.bytes,
            "pause": self.pause.snapshot(now),
            "mode": self.mode.name,
            "rejected": list(self.rejected),
            "hung": self.is_hung,
        }

    def restore(self, now: float, saved: Mapping[str, object]) -> None:
        items, size = self.window.items, self.window.bytes
        self.window.items = int(_number(saved.get("items"), 1, items, items))
        self.window.bytes = int(_number(saved.get("bytes"), 1, size, size))
        self.pause.restore(now, saved.get("pause"))
        rejected, mode = saved.get("rejected"), saved.get("mode")
        ids = [id for id in rejected if isinstance(id, int)] if isinstance(rejected, list) else []
        if mode == _Mode.CONVICTED.name:
            self.convict()
        elif mode == _Mode.TRIAL.name and len(ids) == TRIAL_SIZE:
            self._enter(_Mode.TRIAL)
            self.rejected = ids
            if saved.get("hung") is True:
                self.hang()
        elif len(ids) < TRIAL_SIZE:
            self.rejected = ids


@attrs.frozen(slots=True)
class _Flight:
    """What is on its way; without a lane, a probe."""

    lane: _Lane | None
    rows: tuple[Candidate, ...] = ()
    is_trial: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(row.id for row in self.rows)


# -- the machine --------------------------------------------------------------------


class Delivery:
    """
    The delivery state machine of one directory.

    Attributes:
        policy: How it behaves; see `set_policy`.
        last_outcome: The last answer, or None.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        """
        Args:
            policy: How to behave; Heap's documented limits without one.
        """
        self.policy = Policy() if policy is None else policy
        self.last_outcome: Outcome | None = None
        self._lanes: dict[LaneKey, _Lane] = {}
        self._network = _Pause()
        self._is_proven = False
        self._flight: _Flight | None = None
        self._chance = 0.5
        self._next_at: float | None = None
        self._ledger = _ledger(self.policy)

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{lane.kind.name} {lane.app_id}: {lane.mode.value}, {len(lane.suspects)} suspects,"
            f" window {lane.window.items}"
            for lane in self._lanes.values()
        )
        trouble = "" if self.trouble is None else f", {self.trouble.value}"
        return f"<Delivery {self._state()}{trouble} [{lanes}]>"

    @property
    def on_trial(self) -> bool:
        """
        Whether `next_step` wants to see the newest rows of `trials`.
        """
        return bool(self.trials)

    @property
    def trials(self) -> tuple[LaneKey, ...]:
        """
        The kinds and app ids whose newest rows `next_step` wants to see.
        """
        return tuple(lane.key for lane in self._lanes.values() if lane.mode is _Mode.TRIAL)

    @property
    def trouble(self) -> Answer | None:
        """
        Why rows are kept back: the gravest cause, or None when all is well.
        """
        causes = [self._network.cause, *(lane.pause.cause for lane in self._lanes.values())]
        if Answer.MISCONFIGURED in causes:
            return Answer.MISCONFIGURED
        return next((cause for cause in causes if cause is not None), None)

    def paused(self, now: float) -> frozenset[LaneKey]:
        """
        Return the lanes whose rows cannot leave now, whatever the budgets say.

        A caller that looks at a part of the queue only leaves them out, so that
        they do not hide the rows of other lanes.
        """
        return frozenset(key for key, lane in self._lanes.items() if lane.pause.remaining(now) > 0)

    def next_attempt(self, now: float) -> float:
        """
        Return the seconds left of the last `Wait`; 0.0 when there is none.
        """
        return 0.0 if self._next_at is None else max(0.0, self._next_at - now)

    def seconds_to_drain(self, now: float, backlog: Mapping[tuple[str, str], int]) -> float:
        """
        Return about how long the budgets make a backlog of events take.

        Args:
            now: The current time.
            backlog: Queued events by (app id, actor).
        """
        return self._ledger.seconds_to_drain(now, backlog)

    def set_policy(self, policy: Policy) -> None:
        """
        Behave otherwise from now on. What was spent and learned stays.
        """
        for lane in self._lanes.values():
            was_full = lane.window.is_full(self.policy)
            lane.window.items = min(lane.window.items, policy.batch_items)
            lane.window.bytes = min(lane.window.bytes, policy.batch_bytes)
            if was_full:
                lane.window = _Window(policy.batch_items, policy.batch_bytes)
        self._ledger.resize(policy.identity_budget, policy.app_budget, policy.fleet_size)
        self.policy = policy

    def change_interval(self, seconds: float) -> None:
        """
        Set the seconds between two looks at an empty queue.
        """
        self.set_policy(attrs.evolve(self.policy, interval=seconds))

    def nudge(self) -> None:
        """
        Allow one attempt now where we wait by our own choice.

        A wait that the server asked for stands, and so do the budgets. Failures
        stay counted: when the attempt fails, the next wait is longer.
        """
        self._next_at = None
        for pause in self._pauses():
            if pause.cause is not Answer.THROTTLED:
                pause.lift()

    def next_step(
        self, now: float, candidates: Sequence[Candidate], newest: Sequence[Candidate] = ()
    ) -> Step:
        """
        Say what to do next.

        Args:
            now: Seconds on a clock that does not jump.
            candidates: Rows that could be sent, oldest first. A part of the
                queue will do if it has the oldest rows of each lane that is
                not `paused`; a lane may be left out, but not the front of one.
            newest: While `on_trial`, the newest rows of the lanes in `trials`,
                newest first.

        Returns:
            After `Send` and `Probe`, `receive` has the next word; asking again
            instead means that nothing was sent.
        """
        self._flight, self._next_at = None, None
        lanes = self._sorted_into_lanes(candidates)
        if not lanes:
            self._rest(now)
            return Idle()
        delay = self._network.remaining(now)
        if delay > 0:
            return self._wait(now, delay)
        flight = self._choose(now, lanes, newest)
        if flight is None:
            return self._wait(now, min(self._delay(now, *item, newest) for item in lanes))
        if not self._is_proven:
            self._flight = _Flight(None)
            return Probe()
        self._flight = flight
        first = flight.rows[0]
        return Send(first.kind, first.app_id, flight.ids)

    def receive(self, now: float, chance: float, outcome: Outcome) -> Verdict:
        """
        Take the answer to the last `Send` or `Probe`.

        Args:
            now: Seconds, on the same clock as in `next_step`.
            chance: A random number from 0 to below 1, for jitter.
            outcome: The answer.

        Returns:
            What becomes of the rows. It has to be on disk before the next step.

        Raises:
            RuntimeError: Nothing was to be sent.
        """
        flight, self._flight = self._flight, None
        if flight is None:
            raise RuntimeError(
                "receive() without a Send or Probe before it: call next_step() first,"
                f" and report one outcome for each, got {outcome!r}"
            )
        self._chance, self.last_outcome = chance, outcome
        if flight.lane is None:
            self._probed(now, outcome)
            return Verdict()
        if outcome.answer is not Answer.UNAVAILABLE or outcome.began or outcome.status:
            lane = flight.lane
            actors = [row.actor for row in flight.rows]
            self._ledger.charge(now, lane.kind, lane.app_id, actors)
        if outcome.answer in _CONTACT:
            self._network = _Pause()
        reaction = _REACTIONS.get(outcome.answer, Delivery._unavailable)
        return reaction(self, now, flight, flight.lane, outcome)

    def snapshot(self, now: float) -> dict[str, object]:
        """
        Return what should survive a restart, for JSON, without any time in it.

        A request that is on its way counts as sent.
        """
        budgets = _ledger(self.policy)
        budgets.restore(now, self._ledger.snapshot(now))
        if self._flight is not None and self._flight.lane is not None:
            lane = self._flight.lane
            actors = [row.actor for row in self._flight.rows]
            budgets.charge(now, lane.kind, lane.app_id, actors)
        return {
            "network": self._network.snapshot(now),
            "lanes": [lane.snapshot(now) for lane in self._lanes.values()],
            "budgets": budgets.snapshot(now),
        }

    def restore(self, now: float, snapshot: object) -> None:
        """
        Go on from a snapshot; anything in it that makes no sense is skipped.

        Meant for a new machine. Waits go on with what was left of them, because
        nobody knows how long the device was off.
        """
        saved = _mapping(snapshot)
        self._network.restore(now, saved.get("network"))
        self._ledger.restore(now, saved.get("budgets"))
        lanes = saved.get("lanes")
        for item in lanes if isinstance(lanes, list) else []:
            lane = _mapping(item)
            kind, app_id = lane.get("kind"), lane.get("app_id")
            if kind in tuple(_LANE_ITEMS) and isinstance(kind, int) and isinstance(app_id, str):
                self._lane((Kind(kind), app_id)).restore(now, lane)

    # -- choosing ---------------------------------------------------------------

    def _sorted_into_lanes(
        self, candidates: Sequence[Candidate]
    ) -> list[tuple[_Lane, list[Candidate]]]:
        """Lanes in the order of their oldest row, with their rows."""
        rows: dict[LaneKey, list[Candidate]] = {}
        for row in candidates:
            rows.setdefault((row.kind, row.app_id), []).append(row)
        lanes = [(self._lane(key), own) for key, own in rows.items()]
        for lane, own in lanes:
            lane.suspects.keep({row.id for row in own})
        return lanes

    def _choose(
        self,
        now: float,
        lanes: Sequence[tuple[_Lane, list[Candidate]]],
        newest: Sequence[Candidate],
    ) -> _Flight | None:
        """The request of the lane whose next row is the oldest that may leave."""
        flights = [
            flight
            for lane, rows in lanes
            if lane.pause.remaining(now) <= 0
            and (flight := self._flight_of(now, lane, rows, newest)).rows
        ]
        # A trial is early in the order: it stands for the five rows before it.
        return min(flights, key=lambda f: 0 if f.is_trial else f.rows[0].id, default=None)

    def _flight_of(
        self, now: float, lane: _Lane, rows: list[Candidate], newest: Sequence[Candidate]
    ) -> _Flight:
        if lane.mode is _Mode.TRIAL:
            witnesses = lane.witnesses(rows, newest)
            if not witnesses:
                self._give_up_trial(now, lane)
            return _Flight(lane, self._filled(now, lane, witnesses, 1), is_trial=True)
        most = min(lane.window.items, _LANE_ITEMS[lane.kind])
        if lane.pause.cause is Answer.MISCONFIGURED:
            # What will most likely be refused again need not be a megabyte.
            most = 1
        for part in lane.parts(rows):
            batch = self._filled(now, lane, part, most)
            if batch:
                return _Flight(lane, batch)
        return _Flight(lane)

    def _filled(
        self, now: float, lane: _Lane, rows: Sequence[Candidate], most: int
    ) -> tuple[Candidate, ...]:
        """As many rows, in this order, as window and budgets allow."""
        purse = self._ledger.purse(now, lane.kind, lane.app_id)
        batch: list[Candidate] = []
        size = ENVELOPE_BYTES
        for row in rows:
            longer = size + row.size + (1 if batch else 0)
            if len(batch) == most or (batch and longer > lane.window.bytes):
                break
            if purse.take(row.actor):
                batch.append(row)
                size = longer
        return tuple(batch)

    def _delay(
        self, now: float, lane: _Lane, rows: list[Candidate], newest: Sequence[Candidate]
    ) -> float:
        """Seconds until a lane has something to send."""
        wanted = lane.witnesses(rows, newest) if lane.mode is _Mode.TRIAL else rows
        actors = (row.actor for row in wanted)
        budget = self._ledger.wait(now, lane.kind, lane.app_id, actors)
        return max(lane.pause.remaining(now), budget)

    def _wait(self, now: float, seconds: float) -> Wait:
        seconds = max(seconds, WAIT_MINIMUM)
        self._next_at = now + seconds
        return Wait(seconds)

    def _rest(self, now: float) -> None:
        """Nothing is queued: a pause that is over is no trouble any more."""
        for pause in self._pauses():
            if pause.remaining(now) <= 0:
                pause.cause = None

    # -- answers ----------------------------------------------------------------

    def _probed(self, now: float, outcome: Outcome) -> None:
        self._is_proven = outcome.answer not in (Answer.UNAVAILABLE, Answer.CAPTIVE)
        if self._is_proven:
            self._network.cause = None
        else:
            self._back_off(now, self._network, outcome.answer)

    def _accepted(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        lane.pause = _Pause()
        lane.window.grow(self.policy)
        lane.suspects.acquit(flight.ids)
        if flight.is_trial:
            lane.convict()
        else:
            lane.mode = _Mode.NORMAL
            lane.rejected.clear()
        return Verdict(ack=flight.ids)

    def _rejected(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        if flight.is_trial:
            self._witness_refused(now, lane, flight.ids[0])
            return Verdict()
        lane.pause.cause = None
        if len(flight.ids) > 1:
            lane.suspects.split(flight.ids)
            return Verdict()
        return self._single_rejected(lane, flight.ids[0])

    def _single_rejected(self, lane: _Lane, id: int) -> Verdict:
        if lane.mode is _Mode.NORMAL:
            lane.rejected.append(id)
            if len(lane.rejected) == TRIAL_SIZE:
                lane.start_trial()
                return Verdict(restore=tuple(lane.rejected[:-1]))
        lane.suspects.remove(id)
        return Verdict(bury=(id,))

    def _witness_refused(self, now: float, lane: _Lane, id: int) -> None:
        lane.tried.add(id)
        lane.witnesses_left -= 1
        if lane.witnesses_left <= 0:
            self._give_up_trial(now, lane)

    def _give_up_trial(self, now: float, lane: _Lane) -> None:
        lane.hang()
        lane.pause.begin(now, self._longest(), Answer.MISCONFIGURED)

    def _too_large(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        if flight.is_trial:
            self._witness_refused(now, lane, flight.ids[0])
            return Verdict()
        lane.pause.cause = None
        self._shrink(lane, flight)
        if len(flight.ids) > 1:
            return Verdict()
        lane.suspects.remove(flight.ids[0])
        return Verdict(bury=flight.ids)

    def _throttled(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        self._back_off(now, lane.pause, Answer.THROTTLED)
        if outcome.retry_after:
            told = outcome.retry_after * (1 + RETRY_AFTER_JITTER * self._chance)
            lane.pause.begin(now, max(told, self._shortest()), Answer.THROTTLED)
        if outcome.status == 503:
            self._network.begin(now, lane.pause.length, Answer.THROTTLED)
        return Verdict()

    def _unavailable(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        self._is_proven = False
        if outcome.began:
            self._shrink(lane, flight)
        if outcome.began or outcome.status:
            self._back_off(now, lane.pause, Answer.UNAVAILABLE)
        else:
            self._back_off(now, self._network, Answer.UNAVAILABLE)
        return Verdict()

    def _captive(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        self._is_proven = False
        self._back_off(now, lane.pause, Answer.CAPTIVE)
        return Verdict()

    def _misconfigured(self, now: float, flight: _Flight, lane: _Lane, outcome: Outcome) -> Verdict:
        lane.pause.begin(now, self._longest(), Answer.MISCONFIGURED)
        return Verdict()

    # -- waiting ----------------------------------------------------------------

    def _back_off(self, now: float, pause: _Pause, cause: Answer) -> None:
        """Exponential with full jitter, which spreads a fleet after an outage best."""
        ceiling = self.policy.backoff_base * 2.0 ** min(pause.attempt, 30)
        seconds = self._chance * min(ceiling, self.policy.backoff_cap)
        pause.attempt += 1
        pause.begin(now, max(seconds, self._shortest()), cause)

    def _shortest(self) -> float:
        """Full jitter may draw zero, and zero would spin."""
        return max(WAIT_MINIMUM, min(self.policy.backoff_base / 4, self.policy.backoff_cap))

    def _longest(self) -> float:
        return max(self.policy.backoff_cap * (0.5 + self._chance / 2), self._shortest())

    # -- the rest ---------------------------------------------------------------

    def _lane(self, key: LaneKey) -> _Lane:
        if key not in self._lanes:
            window = _Window(self.policy.batch_items, self.policy.batch_bytes)
            self._lanes[key] = _Lane(*key, window)
        return self._lanes[key]

    def _pauses(self) -> list[_Pause]:
        return [self._network, *(lane.pause for lane in self._lanes.values())]

    def _shrink(self, lane: _Lane, flight: _Flight) -> None:
        # Two envelopes, because each half has one.
        size = 2 * ENVELOPE_BYTES + sum(row.size + 1 for row in flight.rows)
        lane.window.shrink(len(flight.rows), size)

    def _state(self) -> str:
        if self._flight is not None:
            return "probing" if self._flight.lane is None else f"sending {len(self._flight.rows)}"
        return "ready" if self._next_at is None else "waiting"


_Reaction: TypeAlias = Callable[[Delivery, float, _Flight, _Lane, Outcome], Verdict]

#: The table of the module's docstring. REACHED answers a probe; as an answer to
#: a `Send` it says nothing about the rows, and they are kept as for garbage.
_REACTIONS: Final[Mapping[Answer, _Reaction]] = {
    Answer.ACCEPTED: Delivery._accepted,
    Answer.REJECTED: Delivery._rejected,
    Answer.TOO_LARGE: Delivery._too_large,
    Answer.THROTTLED: Delivery._throttled,
    Answer.UNAVAILABLE: Delivery._unavailable,
    Answer.CAPTIVE: Delivery._captive,
    Answer.MISCONFIGURED: Delivery._misconfigured,
}

#: Answers that show a working network.
_CONTACT: Final = frozenset(_REACTIONS) - {Answer.UNAVAILABLE, Answer.CAPTIVE}

#: Rows that one request can hold at all; `identify` has no bulk form.
_LANE_ITEMS: Final = {
    Kind.EVENT: limits.BATCH_ITEMS,
    Kind.USER_PROPERTIES: limits.BATCH_ITEMS,
    Kind.IDENTIFY: 1,
}


def _ledger(policy: Policy) -> Ledger:
    return Ledger(policy.identity_budget, policy.app_budget, policy.fleet_size)


def _halves(ids: tuple[int, ...]) -> list[_Group]:
    """Two groups of which at least one is bad; one where there is nothing to halve."""
    middle = len(ids) // 2
    if middle == 0:
        return [_Group(ids)]
    return [_Group(ids[:middle]), _Group(ids[middle:], paired=True)]


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object, low: float, high: float, default: float) -> float:
    """A number between two bounds; the default for anything else. NaN fails both comparisons."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return default
    return min(max(value, low), high)

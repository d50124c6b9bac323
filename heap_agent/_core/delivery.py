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
    ACCEPTED       ack                   pause ends                doubles if the
                                                                   request filled it
    REJECTED, n>1  keep                  suspects, halved          –
    REJECTED, n=1  bury (see Trial)      –                         –
    TOO_LARGE, n>1 keep                  –                         halves
    TOO_LARGE, n=1 bury (see Trial)      –                         halves
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

UNAVAILABLE on a connection that had been idle (`stale`) is no failure: servers
close those without a word. The request is the next step again, as far as the
budgets allow, and goes over a new connection.

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
    CONVICTED  640 more singles rejected in a row     TRIAL: all are restored
    CONVICTED  an ordinary request is accepted        NORMAL

Witnesses are single rows from elsewhere in the lane, the newest of another name
first; they alone leave out of order, and none is buried. The rejected go to the front
of the suspects and are judged again after the trial. Where they are all there
is, one of them is the witness of a later trial, or a lane that was healed would
never find out. Those of the 640 that are rejected again after a witness was
accepted are not counted once more: the next trial is about the rows behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import attrs

from heap_agent._core import limits
from heap_agent._core.budget import Allowance
from heap_agent._core.events import Candidate, Kind
from heap_agent._core.lanes import (
    Lane,
    LaneKey,
    Mode,
    Pause,
    Window,
    mapping,
)
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._core.policy import Policy

__all__ = ["Delivery", "Idle", "LaneKey", "Policy", "Probe", "Send", "Step", "Verdict", "Wait"]

#: The members of a request around its rows: app id, name of the list, brackets.
ENVELOPE_BYTES: Final = 64

#: No `Wait` is shorter, whatever rounding leaves of one.
WAIT_MINIMUM: Final = 0.05

#: As a share of what was told: nobody returns early, and not all at once.
RETRY_AFTER_JITTER: Final = 0.1


# -- values ---------------------------------------------------------------------


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


@attrs.frozen(slots=True)
class _Flight:
    """What is on its way; without a lane, a probe."""

    lane: Lane | None
    rows: tuple[Candidate, ...] = ()
    is_trial: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(row.id for row in self.rows)

    @property
    def size(self) -> int:
        return sum(row.size + 1 for row in self.rows)


# -- the machine --------------------------------------------------------------------


class Delivery:
    """
    The delivery state machine of one directory.

    Attributes:
        policy: How it behaves; see `set_policy`.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        """
        Args:
            policy: How to behave; Heap's documented limits without one.
        """
        self.policy = Policy() if policy is None else policy
        self._lanes: dict[LaneKey, Lane] = {}
        self._network = Pause()
        self._is_proven = False
        self._flight: _Flight | None = None
        self._chance = 0.5
        self._next_at: float | None = None
        self._allowance = _allowance(self.policy)

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{lane.kind.name} {lane.app_id}: {lane.mode.value}, {len(lane.suspects)} suspects,"
            f" window {lane.window.items}"
            for lane in self._lanes.values()
        )
        trouble = "" if self.trouble is None else f", {self.trouble.value}"
        return f"<Delivery {self._state()}{trouble} [{lanes}]>"

    @property
    def trials(self) -> tuple[LaneKey, ...]:
        """
        The kinds and app ids whose newest rows `next_step` wants to see.
        """
        return tuple(lane.key for lane in self._lanes.values() if lane.mode is Mode.TRIAL)

    @property
    def trouble(self) -> Answer | None:
        """
        Why rows are kept back: the gravest cause, or None when all is well.
        """
        causes = [self._network.cause, *(lane.pause.cause for lane in self._lanes.values())]
        if Answer.MISCONFIGURED in causes:
            return Answer.MISCONFIGURED
        return next((cause for cause in causes if cause is not None), None)

    def network_wait(self, now: float) -> float:
        """
        Return the seconds for which nothing at all can leave; 0.0 where a row that
        is recorded in a moment may.
        """
        return self._network.remaining(now)

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
        return self._allowance.seconds_to_drain(now, backlog)

    def set_policy(self, policy: Policy) -> None:
        """
        Behave otherwise from now on. What was spent and learned stays.
        """
        for lane in self._lanes.values():
            was_full = lane.window.is_full(self.policy)
            lane.window.items = min(lane.window.items, policy.batch_items)
            lane.window.bytes = min(lane.window.bytes, policy.batch_bytes)
            if was_full:
                lane.window = Window(policy.batch_items, policy.batch_bytes)
        self._allowance.resize(policy.identity_budget, policy.app_budget, policy.fleet_size)
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
            newest: The newest rows of the lanes in `trials`,
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
        self._chance = chance
        if flight.lane is None:
            self._probed(now, outcome)
            return Verdict()
        if outcome.answer is not Answer.UNAVAILABLE or outcome.began or outcome.status:
            lane = flight.lane
            actors = [row.actor for row in flight.rows]
            self._allowance.charge(now, lane.kind, lane.app_id, actors)
        if outcome.answer in _CONTACT:
            self._network = Pause()
        reaction = _REACTIONS.get(outcome.answer, Delivery._unavailable)
        return reaction(self, now, flight, flight.lane, outcome)

    def snapshot(self, now: float) -> dict[str, object]:
        """
        Return what should survive a restart, for JSON, without any time in it.

        A request that is on its way counts as sent.
        """
        budgets = _allowance(self.policy)
        budgets.restore(now, self._allowance.snapshot(now))
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
        saved = mapping(snapshot)
        self._network.restore(now, saved.get("network"))
        self._allowance.restore(now, saved.get("budgets"))
        lanes = saved.get("lanes")
        for item in lanes if isinstance(lanes, list) else []:
            lane = mapping(item)
            kind, app_id = lane.get("kind"), lane.get("app_id")
            if kind in tuple(_LANE_ITEMS) and isinstance(kind, int) and isinstance(app_id, str):
                self._lane((Kind(kind), app_id)).restore(now, lane)

    # -- choosing ---------------------------------------------------------------

    def _sorted_into_lanes(
        self, candidates: Sequence[Candidate]
    ) -> list[tuple[Lane, list[Candidate]]]:
        """Lanes in the order of their oldest row, with their rows."""
        rows: dict[LaneKey, list[Candidate]] = {}
        for row in candidates:
            rows.setdefault((row.kind, row.app_id), []).append(row)
        lanes = [(self._lane(key), own) for key, own in rows.items()]
        for lane, own in lanes:
            if lane.suspects.groups:
                lane.suspects.keep({row.id for row in own})
        return lanes

    def _choose(
        self,
        now: float,
        lanes: Sequence[tuple[Lane, list[Candidate]]],
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
        self, now: float, lane: Lane, rows: list[Candidate], newest: Sequence[Candidate]
    ) -> _Flight:
        if lane.mode is Mode.TRIAL:
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
        self, now: float, lane: Lane, rows: Sequence[Candidate], most: int
    ) -> tuple[Candidate, ...]:
        """As many rows, in this order, as window and budgets allow."""
        purse = self._allowance.purse(now, lane.kind, lane.app_id)
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
        self, now: float, lane: Lane, rows: list[Candidate], newest: Sequence[Candidate]
    ) -> float:
        """Seconds until a lane has something to send."""
        wanted = lane.witnesses(rows, newest) if lane.mode is Mode.TRIAL else rows
        actors = (row.actor for row in wanted)
        budget = self._allowance.wait(now, lane.kind, lane.app_id, actors)
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
        elif not outcome.stale:
            self._back_off(now, self._network, outcome.answer)

    def _accepted(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        lane.pause = Pause()
        if lane.window.is_filled(len(flight.rows), flight.size):
            lane.window.grow(self.policy)
        ids = flight.ids
        lane.suspects.acquit(ids)
        if flight.is_trial:
            lane.convict()
        else:
            lane.clear()
        return Verdict(ack=ids)

    def _rejected(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        if flight.is_trial:
            self._witness_refused(now, lane, flight.ids[0])
            return Verdict()
        lane.pause.cause = None
        if len(flight.ids) > 1:
            lane.suspects.split(flight.ids)
            return Verdict()
        return self._single_rejected(lane, flight.ids[0])

    def _single_rejected(self, lane: Lane, id: int) -> Verdict:
        if lane.mode is not Mode.TRIAL and id not in lane.judged:
            lane.rejected.append(id)
            if len(lane.rejected) == lane.trial_size:
                lane.start_trial()
                return Verdict(restore=tuple(lane.rejected[:-1]))
        lane.suspects.remove(id)
        return Verdict(bury=(id,))

    def _witness_refused(self, now: float, lane: Lane, id: int) -> None:
        lane.tried.add(id)
        lane.witnesses_left -= 1
        if lane.witnesses_left <= 0:
            self._give_up_trial(now, lane)

    def _give_up_trial(self, now: float, lane: Lane) -> None:
        lane.hang()
        lane.pause.begin(now, self._longest(), Answer.MISCONFIGURED)

    def _too_large(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        if flight.is_trial:
            self._witness_refused(now, lane, flight.ids[0])
            return Verdict()
        lane.pause.cause = None
        self._shrink(lane, flight)
        if len(flight.ids) > 1:
            return Verdict()
        return self._single_rejected(lane, flight.ids[0])

    def _throttled(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        self._back_off(now, lane.pause, Answer.THROTTLED)
        if outcome.retry_after:
            told = outcome.retry_after * (1 + RETRY_AFTER_JITTER * self._chance)
            lane.pause.begin(now, max(told, self._shortest()), Answer.THROTTLED)
        if outcome.status == 503:
            self._network.begin(now, lane.pause.length, Answer.THROTTLED)
        return Verdict()

    def _unavailable(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        if outcome.stale:
            return Verdict()
        self._is_proven = False
        if outcome.began:
            self._shrink(lane, flight)
        if outcome.began or outcome.status:
            self._back_off(now, lane.pause, Answer.UNAVAILABLE)
        else:
            self._back_off(now, self._network, Answer.UNAVAILABLE)
        return Verdict()

    def _captive(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        self._is_proven = False
        self._back_off(now, lane.pause, Answer.CAPTIVE)
        return Verdict()

    def _misconfigured(self, now: float, flight: _Flight, lane: Lane, outcome: Outcome) -> Verdict:
        lane.pause.begin(now, self._longest(), Answer.MISCONFIGURED)
        return Verdict()

    # -- waiting ----------------------------------------------------------------

    def _back_off(self, now: float, pause: Pause, cause: Answer) -> None:
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

    def _lane(self, key: LaneKey) -> Lane:
        if key not in self._lanes:
            window = Window(self.policy.batch_items, self.policy.batch_bytes)
            self._lanes[key] = Lane(*key, window)
        return self._lanes[key]

    def _pauses(self) -> list[Pause]:
        return [self._network, *(lane.pause for lane in self._lanes.values())]

    def _shrink(self, lane: Lane, flight: _Flight) -> None:
        # Two envelopes, because each half has one.
        lane.window.shrink(len(flight.rows), 2 * ENVELOPE_BYTES + flight.size)

    def _state(self) -> str:
        if self._flight is not None:
            return "probing" if self._flight.lane is None else f"sending {len(self._flight.rows)}"
        return "ready" if self._next_at is None else "waiting"


_Reaction: TypeAlias = Callable[[Delivery, float, _Flight, Lane, Outcome], Verdict]

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


def _allowance(policy: Policy) -> Allowance:
    return Allowance(policy.identity_budget, policy.app_budget, policy.fleet_size)

"""
The sender's loop: ask what to do, move bytes, report what came of it.

There is no policy here: `_core.delivery` says what is sent and what becomes of
it, `_store` has the rows, `transport` moves them. One pass at a time drains a
directory, whoever asks for it. This module must not know what an event means.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import attrs

from heap_agent._core import wire
from heap_agent._core.delivery import Delivery, Idle, Probe, Send, Verdict, Wait
from heap_agent._core.events import Candidate, Kind
from heap_agent._core.limits import TRACK_PATH
from heap_agent._core.outcomes import Answer, Outcome, unreachable
from heap_agent._core.records import FROZEN
from heap_agent._core.seldom import Seldom
from heap_agent._store import dead
from heap_agent._store.absorb import BATCH, REPORT, Absorbed, Request
from heap_agent._store.database import WAL_BYTES, DatabaseTrouble, remember
from heap_agent._store.event_queue import DROPPED
from heap_agent._store.ledger import Ledger
from heap_agent._store.properties import UNREADABLE
from heap_agent._store.rows import Stored
from heap_agent._store.seals import seal, unseal
from heap_agent._store.store import FLUSH, Store

_log = logging.getLogger("heap_agent.upload")

MEMO: Final = "delivery"

_REPORTED: Final = "losses_reported"

#: Seconds between two attempts of a flush that has time left.
_FLUSH_PATIENCE: Final = 5.0

#: Seconds until a state that could not be read is asked for again.
_BUSY_PATIENCE: Final = 1.0

#: Seconds over which a queue that is held back by budgets must grow.
_BUDGET_WATCH: Final = 300.0

#: Seconds between two lines of the log about dead letters.
_DEATHS_APART: Final = 60.0

#: Answers that blame what was sent: delivery goes on.
_ABOUT_ROWS: Final = frozenset({Answer.REJECTED, Answer.TOO_LARGE})

#: Troubles after which waiting is our own choice, not the server's word.
_OWN_CHOICE: Final = frozenset({Answer.UNAVAILABLE, Answer.CAPTIVE})


#: What another process asks for, by its name: its arguments come in, the answer goes out.
Services: TypeAlias = Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]


class Exchange(NamedTuple):
    """
    One request, and what came of it.

    Attributes:
        rows: What was sent; none with a probe, nor where it was to be erased meanwhile.
        verdict: What became of them.
        outcome: The answer, or why there was none.
        seconds: What it took.
        wall: When it was over, µs since 1970.
    """

    rows: Sequence[Stored]
    verdict: Verdict
    outcome: Outcome
    seconds: float
    wall: int


class Sender(Protocol):
    """
    What moves requests; `Transport` in production.
    """

    def send(
        self,
        path: str,
        body: bytes,
        *,
        timeout: float | None = None,
        may_begin: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Post one body, unless it is withdrawn before its first byte leaves."""

    def probe(self, path: str, *, timeout: float | None = None) -> Outcome:
        """Ask for anything, without a body."""


@attrs.frozen(slots=True)
class _Unsettled:
    """An answer that could not be written down yet."""

    ledger: Ledger
    verdict: Verdict
    outcome: Outcome


class Drain:
    """
    Delivers from one store.

    Args:
        store: Where the rows are.
        delivery: The rules.
        sender: Makes the transport when it is first needed.
        allowed: Whether anything may leave now (consent, pauses).
        state_changed: Told when a record of any process has changed the state.
            Returns whether that could be read; until it was, nothing leaves.
        report_losses: Told counts of lost events that Heap has not heard of,
            so that an event about them goes along; None: not reported.
        services: What is done at once, on whichever thread hears of it.

    Attributes:
        watch: Told of each request while somebody wants to know; must not raise or wait.
    """

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        sender: Callable[[], Sender],
        *,
        allowed: Callable[[], bool],
        state_changed: Callable[[], bool],
        report_losses: Callable[[Mapping[str, int]], None] | None = None,
        services: Services = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._services: Services = {
            dead.RETRY: partial(self._change_dead, dead.RETRY),
            dead.DISCARD: partial(self._change_dead, dead.DISCARD),
            **services,
        }
        self.watch: Callable[[Exchange], None] | None = None
        self._make_sender = sender
        self._sender: Sender | None = None
        self._allowed = allowed
        self._state_changed = state_changed
        self._report_losses = report_losses
        # Guards the whole pass: one drain at a time. Held across the network,
        # which is why nobody but drains takes it, and flushes with a timeout.
        self._pass = threading.Lock()
        # Guards the moment between "may anything leave?" and "it has started", and
        # tells when it has ended.
        self._gate = threading.Condition()
        self._under_way = False
        self._changes = 0  # of the state, as far as they are absorbed
        self._heard = 0  # those that `state_changed` has read
        self._unsettled: _Unsettled | None = None
        self._restored: Ledger | None = None
        self._delivering = False
        self._round_trip = 0
        self._held_back: tuple[float, int] | None = None  # (when, queued)
        self._warned = False
        # Filled by the keeper's thread, emptied by whoever drains.
        self._requests: deque[Request] = deque()
        self._nudged = -math.inf
        self._stopping = threading.Event()
        self._complained: Answer | None = None
        self._is_unequipped = False
        self._deaths = Seldom(_DEATHS_APART)
        self.last_error: str | None = None
        self.failing_since: int | None = None
        self._failed_before: int | None = None  # since when it was, when the last owner ended
        self.last_delivery: int | None = None

    def __repr__(self) -> str:
        return f"<Drain {self._delivery!r}>"

    # -- who may ask for a pass --

    def tick(self) -> float:
        """
        One pass, as far as it goes without waiting.

        Returns:
            Seconds until the next one is due.
        """
        if not self._pass.acquire(blocking=False):
            return self._delivery.policy.interval
        try:
            wait = self._run(None)
            self._note_queue()
            self._answer_requests(wait is None)
            # Asked for now: it may have been changed during the pass.
            interval = self._delivery.policy.interval
            if wait is None:
                return interval
            # What holds one row back need not hold back one that is recorded meanwhile.
            return min(wait, max(interval, self._delivery.network_wait(self._now())))
        finally:
            self._pass.release()

    def flush(self, timeout: float | None) -> bool:
        """
        Deliver what can be delivered now.

        Args:
            timeout: Seconds to spend, waits included; None for one pass that
                ends at the first wait.

        Returns:
            True when nothing is left.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._pass.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        try:
            self._nudge()
            while True:
                wait = self._run(deadline)
                if wait is None:
                    return self._nothing_left()
                if deadline is None or self._stopping.is_set():
                    return False
                left = deadline - time.monotonic()
                if self._delivery.trouble in _OWN_CHOICE:
                    # Somebody is waiting: ask more often than the back-off would.
                    wait = min(wait, _FLUSH_PATIENCE, left)
                if left <= 0 or wait > left:
                    return False
                self._stopping.wait(wait)
                self._nudge()
        finally:
            self._pass.release()

    def finish(self, seconds: float) -> None:
        """
        The last pass before the end.

        Args:
            seconds: To spend at most.
        """
        deadline = time.monotonic() + seconds
        if seconds > 0 and self._pass.acquire(timeout=seconds):
            try:
                self._nudge()
                self._run(deadline)
            finally:
                self._pass.release()

    def stop(self) -> None:
        """
        Let flushes that wait give up.
        """
        self._stopping.set()

    def barrier(self, timeout: float = 0.0) -> bool:
        """
        Return when no request can start any more that `allowed` was asked for
        before this call.

        Args:
            timeout: Seconds to wait for one that has started.

        Returns:
            Whether none is under way.
        """
        with self._gate:
            return self._gate.wait_for(lambda: not self._under_way, timeout)

    def seconds_to_drain(self, backlog: Mapping[tuple[str, str], int]) -> float:
        """
        About how long the budgets make a backlog take, by (app id, actor).
        """
        return self._delivery.seconds_to_drain(self._now(), backlog)

    @property
    def next_attempt(self) -> float:
        """Seconds until a wait of the last pass is over; 0.0 without one."""
        return self._delivery.next_attempt(self._now())

    def change_interval(self, seconds: float) -> None:
        """
        Seconds between two looks at an empty queue, from now on.
        """
        self._delivery.change_interval(seconds)

    def add_requests(self, requests: Iterable[Request]) -> None:
        """
        Carry these out: at once, or, what has to do with delivering, with the next pass.
        """
        for request in requests:
            if request.what in self._services:
                self._store.answer(request, self._serve(request))
            else:
                self._requests.append(request)

    def _serve(self, request: Request) -> Mapping[str, Any]:
        try:
            return self._services[request.what](request.arguments)
        except Exception as error:  # another process may ask for anything
            _log.error("a request for %s met %s", request.what, error, exc_info=error)
            return {"error": f"{type(error).__name__}: {error}"}

    def _change_dead(self, what: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        ids = arguments.get("ids")
        try:
            chosen = None if ids is None else [int(id) for id in ids]
            return {"changed": dead.change(self._store, what, chosen)}
        except (DatabaseTrouble, TypeError, ValueError, OverflowError) as error:
            return {"error": str(error)}

    @property
    def in_flight(self) -> frozenset[int]:
        """Ids of the rows that are being sent."""
        found = [ledger.queue.in_flight for ledger in self._store.queues()]
        return frozenset().union(*found)

    def absorb(self) -> Absorbed:
        """
        Move what was recorded into the queue, frozen at once while deliveries
        succeed: one commit less. Events that will be fetched soon are not all moved.
        """
        whole = self._store.room.crowded or not self._store.delivers
        return self._absorb(None if whole else BATCH)

    def _absorb_some(self) -> Absorbed:
        """
        As long as no delivery fails, no more than what leaves next: it stands in the queue
        for a moment only, and the room of what has left is used again.
        """
        return self._absorb(self._delivery.policy.batch_items if self._store.delivers else None)

    def _absorb(self, some: int | None) -> Absorbed:
        with self._store.working():
            done = self._store.absorb(freeze=self._delivering, some=some)
            self._changes += done.state_changed
            changes = self._changes
            if done.erased:
                # Its words may repeat what was erased.
                self.last_error = None
        if changes != self._heard and self._state_changed():
            self._heard = changes
        return done

    @property
    def _outdated(self) -> bool:
        """Whether somebody may have withdrawn consent, and this process does not know."""
        return self._changes != self._heard

    def _may_send(self) -> bool:
        return not self._outdated and self._allowed()

    # -- one pass --

    def _nudge(self) -> None:
        """
        Allow one attempt now, also where the last owner of the directory had
        chosen to wait.
        """
        if self._store.ledger is not None:
            with suppress(DatabaseTrouble):  # the pass that follows will meet it
                self._remember(self._store.ledger)
        self._delivery.nudge()

    def _nudge_for_others(self) -> None:
        """
        Somebody in another process is waiting for a flush, and asks again and again.
        """
        now = time.monotonic()
        # A copy, made in one step: the keeper may add one meanwhile.
        asked = any(request.what == FLUSH for request in list(self._requests))
        if asked and now - self._nudged >= _FLUSH_PATIENCE:
            self._nudged = now
            self._nudge()

    def _run(self, deadline: float | None) -> float | None:
        """
        Returns:
            None when nothing is left to send, else seconds to wait.
        """
        done = self._absorb_some()
        self.add_requests(done.requests)
        self._nudge_for_others()
        refusing: list[Ledger] = []
        while not self._stopping.is_set() or deadline is not None:
            if deadline is not None and time.monotonic() >= deadline:
                return 0.0
            try:
                wait = self._step(deadline, refusing)
            except DatabaseTrouble as error:
                self._store.trouble_while_delivering(error)
                ledger = self._store.ledger
                if ledger is None or ledger in refusing:
                    return self._delivery.policy.interval
                # What is in memory can leave all the same.
                refusing.append(ledger)
                continue
            if wait is None:
                continue
            if wait >= 0:
                return wait
            if deadline is None and not done.more:
                # What was recorded meanwhile waits for the next pass: where recording
                # goes on and on this one would not end, with ever smaller requests.
                return None
            done = self._absorb_some()
            self.add_requests(done.requests)
            if not (done.records and self._may_send()):
                return None
        return 0.0

    def _step(self, deadline: float | None, refusing: Sequence[Ledger]) -> float | None:
        """
        One request at most, from a ledger that has not refused in this pass.

        Returns:
            None to go on, seconds to wait, or -1 when there is nothing to send.
        """
        usable = [ledger for ledger in self._usable() if ledger not in refusing]
        if refusing and not usable:
            return self._delivery.policy.interval
        ledger, candidates = self._look(usable)
        if self._outdated:
            return _BUSY_PATIENCE
        if ledger is None or not self._may_send():
            self._store.delivers = False
            return -1.0
        self._remember(ledger)
        step = self._delivery.next_step(
            self._now(), candidates, self._newest(ledger, self._delivery.trials)
        )
        if isinstance(step, Idle):
            return -1.0
        if isinstance(step, Wait):
            self._watch_the_budget(ledger)
            return step.seconds
        timeout = None if deadline is None else max(0.01, deadline - time.monotonic())
        if isinstance(step, Probe):
            self._report(ledger, self._probe(timeout), Verdict())
            return None
        return self._send(ledger, step, timeout)

    def _usable(self) -> list[Ledger]:
        """
        Where rows may be taken from. What Heap has accepted is written down
        before anything else leaves the same ledger; a disk that refuses that
        must not hold up what is in memory.
        """
        ledgers = self._store.queues()
        if self._unsettled is not None and self._unsettled.ledger not in ledgers:
            # Somebody has removed its files, or it has been moved to the disk.
            self._unsettled = None
        if self._unsettled is not None:
            try:
                self._settle(self._unsettled)
            except DatabaseTrouble as error:
                self._store.trouble_while_delivering(error)
                ledgers.remove(self._unsettled.ledger)
        return ledgers

    def _look(self, ledgers: Sequence[Ledger]) -> tuple[Ledger | None, list[Candidate]]:
        """
        The first ledger that has something, with its oldest rows.
        """
        paused = self._delivery.paused(self._now())
        found: tuple[Ledger | None, list[Candidate]] = (None, [])
        for ledger in ledgers:
            candidates = ledger.queue.peek(skip=paused) if paused else []
            # Where all are paused, so that the wait is known.
            candidates = candidates or ledger.queue.front()
            if candidates:
                if self._delivery.trials:
                    candidates = ledger.queue.named(candidates)
                return ledger, candidates
            found = (ledger, [])
        return found

    def _newest(self, ledger: Ledger, trials: Sequence[tuple[Kind, str]]) -> list[Candidate]:
        return [row for kind, app_id in trials for row in ledger.queue.newest(kind, app_id)]

    def _probe(self, timeout: float | None) -> Outcome:
        with self._gate:
            allowed = self._may_send()
        if not allowed:
            return Outcome(Answer.REACHED)
        outcome = self._timed(lambda: self._transport.probe(TRACK_PATH, timeout=timeout))
        self._tell(0, (), self._receive(outcome), outcome)
        return outcome

    def _send(self, ledger: Ledger, step: Send, timeout: float | None) -> float | None:
        with self._store.working():
            if ledger not in self._store.queues():
                return None
            # Before they are loaded, so that none is dropped, and counted, that is sent.
            ledger.queue.set_in_flight(step.ids)
            purges = ledger.queue.purges
        rows = self._frozen(ledger, step)
        if len(rows) != len(step.ids):
            # Some have gone meanwhile (purged, dropped, damaged): look again.
            ledger.queue.set_in_flight(())
            return None
        body = wire.join_batch(step.kind, step.app_id, (row.entry.body for row in rows))
        withdrawn = False

        def may_begin() -> bool:
            nonlocal withdrawn
            with self._gate:
                # One of the rows may have been purged since it was read.
                self._under_way = self._may_send() and ledger.queue.purges == purges
                withdrawn = not self._under_way
                return self._under_way

        path = wire.PATHS[step.kind]
        try:
            outcome = self._timed(
                lambda: self._transport.send(path, body, timeout=timeout, may_begin=may_begin)
            )
        finally:
            with self._gate:
                self._under_way = False
                self._gate.notify_all()
        if withdrawn:
            ledger.queue.set_in_flight(())
            return None
        verdict = self._receive(outcome)
        accepted = sum(row.entry.kind is Kind.EVENT for row in rows) if verdict.ack else 0
        shown = rows if ledger.queue.purges == purges else ()
        self._tell(accepted, shown, verdict, outcome)
        self._settle(_Unsettled(ledger, verdict, outcome))
        if verdict.ack and len(body) > WAL_BYTES // 4:
            # The log is of no use any more: what it holds of these rows need not be
            # written a second time.
            ledger.database.fold()
        return None

    def _frozen(self, ledger: Ledger, step: Send) -> list[Stored]:
        rows = ledger.queue.load(step.ids)
        if all(row.entry.flags & FROZEN for row in rows):
            return rows
        with self._store.working(), ledger.database.transact():
            # A clock that was set since the keeper's last look would go unnoticed.
            ledger.timeline.tick(*self._store.now())
            rows = ledger.queue.freeze(rows, ledger.timeline.settle)
            ledger.timeline.save()
        return rows

    def _timed(self, request: Callable[[], Outcome]) -> Outcome:
        """
        Note how long a request took: so much older may the ``Date`` in its answer be.
        """
        began = self._now()
        try:
            outcome = request()
        except ImportError as error:
            outcome = self._unequipped(error)
        self._round_trip = max(0, round((self._now() - began) * 1e6))
        return outcome

    def _unequipped(self, error: ImportError) -> Outcome:
        """
        Stand in for an answer where this Python has not what HTTP takes: programs are
        packed without ssl. Another start may have it.
        """
        reason = f"{type(error).__name__}: {error}"
        if not self._is_unequipped:
            self._is_unequipped = True
            _log.error("nothing can be delivered by this Python (%s); all events are kept", reason)
        return unreachable(reason, began=False)

    def _receive(self, outcome: Outcome) -> Verdict:
        verdict = self._delivery.receive(self._now(), random.random(), outcome)
        self._note(outcome)
        return verdict

    def _tell(
        self, accepted: int, rows: Sequence[Stored], verdict: Verdict, outcome: Outcome
    ) -> None:
        """
        Say what a request was like, for whoever looks on.
        """
        seconds = self._round_trip / 1e6
        good = outcome.answer in (Answer.ACCEPTED, Answer.REACHED)
        self._store.hour.at(self._now()).request(good=good, events=accepted, seconds=seconds)
        watch = self.watch
        if watch is not None:
            watch(Exchange(rows, verdict, outcome, seconds, self._store.now()[0]))

    def _note_queue(self) -> None:
        """
        Note how many events wait, as the books have it: rows need not be counted.
        """
        ledger = self._store.ledger
        if ledger is not None:
            with suppress(DatabaseTrouble):
                self._store.hour.at(self._now()).queued = ledger.queue.waiting()

    def _settle(self, unsettled: _Unsettled) -> None:
        self._unsettled = unsettled
        ledger, verdict, outcome = unsettled.ledger, unsettled.verdict, unsettled.outcome
        wall, boot_clock = self._store.now()
        with self._store.working(), ledger.database.transact():
            ledger.queue.ack(verdict.ack)
            ledger.queue.bury(verdict.bury, status=outcome.status, reason=outcome.reason, now=wall)
            ledger.queue.restore(verdict.restore)
            self._report(ledger, outcome, verdict)
        self._unsettled = None
        ledger.queue.set_in_flight(())
        if verdict.bury:
            # Somebody may refuse each event of a whole day.
            told = self._deaths.add(len(verdict.bury), self._now())
            if told:
                _log.warning("Heap refused %d row(s) for good (%s): dead letters", told, outcome)
        if verdict.ack and self._report_losses is not None:
            self._tell_losses(ledger)

    # -- what is noted down --

    @property
    def _transport(self) -> Sender:
        if self._sender is None:
            self._sender = self._make_sender()
        return self._sender

    def _now(self) -> float:
        return self._store.clock.boot_ns() / 1e9

    def _note(self, outcome: Outcome) -> None:
        """
        Remember an answer for `status`, and say once what is wrong.
        """
        good = outcome.answer in (Answer.ACCEPTED, Answer.REACHED)
        self._delivering = good and (self._delivering or outcome.answer is Answer.ACCEPTED)
        self._store.delivers = good
        if outcome.answer is Answer.ACCEPTED:
            self.last_delivery = self._store.now()[0]
            self.last_error = self.failing_since = self._failed_before = None
            self._complained = None
        elif not good:
            status = "" if outcome.status is None else f" {outcome.status}"
            self.last_error = f"{outcome.answer.name.lower()}{status}: {outcome.reason}".rstrip(
                ": "
            )
            if outcome.answer not in _ABOUT_ROWS and self.failing_since is None:
                self.failing_since = self._failed_before or self._store.now()[0]
        trouble = self._delivery.trouble
        if trouble is Answer.MISCONFIGURED and self._complained is not trouble:
            self._complained = trouble
            _log.error(
                "the endpoint refuses everything (%s); all events are kept. Check app id, "
                "endpoint and proxy",
                self.last_error,
            )

    def _report(self, ledger: Ledger, outcome: Outcome, verdict: Verdict) -> None:
        """
        Write down what must survive a restart, and what `status` shows.
        """
        wall, boot_clock = self._store.now()
        with self._store.working(), ledger.database.transact() as execute:
            if outcome.date is not None:
                ledger.timeline.feed_date(outcome.date, wall, boot_clock, self._round_trip)
                ledger.timeline.save()
            now = self._now()
            trouble = self._delivery.trouble
            for name, value in (
                (MEMO, self._delivery.snapshot(now)),
                (
                    REPORT,
                    {
                        "last_delivery": self.last_delivery,
                        "last_error": self.last_error,
                        "failing_since": self.failing_since,
                        "trouble": None if trouble is None else trouble.name,
                        "unequipped": self._is_unequipped,
                        "at": wall,
                    },
                ),
            ):
                remember(execute, name, json.dumps(value))

    def _remember(self, ledger: Ledger) -> None:
        """
        Take up budgets, back-off and windows where the last owner left them.
        """
        if self._restored is not None or ledger.database.path is None:
            return
        self._restored = ledger
        rows: dict[str, str] = dict(ledger.database.query("SELECT name, value FROM memo"))
        with suppress(ValueError):
            self._delivery.restore(self._now(), json.loads(rows.get(MEMO, "{}")))
        with suppress(ValueError):
            report: dict[str, Any] = json.loads(rows.get(REPORT, "{}"))
            self.last_delivery = self.last_delivery or report.get("last_delivery")
            self._failed_before = report.get("failing_since")

    def _watch_the_budget(self, ledger: Ledger) -> None:
        """
        Say once when more is recorded than the budgets let through: then the
        queue only grows, and the oldest events will be dropped in the end.
        """
        if self._delivery.trouble is not None:
            self._held_back = None
            return
        now, queued = self._now(), ledger.queue.count()
        if self._held_back is None:
            self._held_back = (now, queued)
        elif now - self._held_back[0] >= _BUDGET_WATCH:
            grown = queued - self._held_back[1]
            self._held_back = (now, queued)
            if grown > 0 and not self._warned:
                self._warned = True
                _log.warning(
                    "recording outruns the budget: the queue has grown by %d events in %d s, "
                    "to %d. Record less, or raise identity_budget, app_budget or lower fleet_size",
                    grown,
                    _BUDGET_WATCH,
                    queued,
                )

    def _tell_losses(self, ledger: Ledger) -> None:
        assert self._report_losses is not None
        lost = {
            name[len(DROPPED) :]: number
            for name, number in ledger.queue.counts().items()
            if name.startswith(DROPPED) and name != DROPPED + "purged"
        }
        rows = ledger.database.query("SELECT value FROM memo WHERE name = ?", (_REPORTED,))
        told = unseal(rows[0][0]) if rows else "{}"
        # A note that is damaged says nothing: better to be silent than to tell all again.
        known = lost if told is None else json.loads(told)
        news = {name: number - known.get(name, 0) for name, number in lost.items()}
        news = {name: number for name, number in news.items() if number > 0}
        if news or told is None:
            with ledger.database.transact() as execute:
                remember(execute, _REPORTED, seal(json.dumps(lost)))
                ledger.queue.add({UNREADABLE: int(told is None)})
        if news:
            self._report_losses(news)
            self.add_requests(self.absorb().requests)

    def _answer_requests(self, empty: bool) -> None:
        if self._outdated:
            # Whoever asked relies on what is in force here.
            return
        while self._requests:
            request = self._requests.popleft()
            self._store.answer(request, {"done": True, "empty": empty and self._nothing_left()})

    def _nothing_left(self) -> bool:
        try:
            books = self._store.books()
        except DatabaseTrouble:
            return False
        return books.queued == 0 and books.rows == 0

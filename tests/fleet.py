"""
A fleet of devices and one Heap, in simulated time: each device is the delivery machine
itself, driven as the sender drives it, and Heap counts what arrives as its limits say.

    seen = Fleet(devices=250, app_budget=750).run()
    assert seen.peak <= 750

Nothing here sleeps: an event heap holds who does something next. Devices record while
they deliver, before, during and after an outage; who has lost touch backs off, and comes
back when its own machine says so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count, islice
from random import Random
from typing import Final

import attrs

from heap_agent._core import limits
from heap_agent._core.delivery import Delivery, Idle, Policy, Probe, Send, Wait
from heap_agent._core.events import Candidate, Kind
from heap_agent._core.outcomes import Answer, Outcome, unreachable

MINUTE: Final = 60.0
HOUR: Final = 3_600.0

#: How much more than the others a busy device records.
BUSY: Final = 50

#: A device looks at the front of its queue only, as the sender does.
FRONT: Final = 64

#: Seconds of ordinary life before the outage.
BEFORE: Final = 15 * MINUTE

ACCEPTED: Final = Outcome(Answer.ACCEPTED, status=200)
REACHED: Final = Outcome(Answer.REACHED, status=200)
LIMITED: Final = Outcome(Answer.THROTTLED, status=429, retry_after=MINUTE)

#: What an outage looks like from a device.
OUTAGES: Final = {
    "refused": unreachable("connection refused", began=False),
    "broken": Outcome(Answer.UNAVAILABLE, status=500),
    "busy": Outcome(Answer.THROTTLED, status=503, retry_after=120.0),
}


class Window:
    """How much arrived within the last so many seconds, and the most that ever did."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._arrived: deque[tuple[float, int]] = deque()
        self._total = 0
        self.peak = 0

    def add(self, now: float, number: int) -> int:
        """Note an arrival; how much the window holds with it."""
        while self._arrived and now - self._arrived[0][0] >= self._seconds:
            self._total -= self._arrived.popleft()[1]
        self._arrived.append((now, number))
        self._total += number
        self.peak = max(self.peak, self._total)
        return self._total

    def would_hold(self, now: float, number: int) -> int:
        """How much the window would hold with one more arrival."""
        old = sum(size for when, size in self._arrived if now - when >= self._seconds)
        return self._total - old + number


class Heap:
    """Takes an app's events up to its budget, and refuses what is above as Heap does."""

    def __init__(self, app_budget: int, outage: Outcome, until: float) -> None:
        self._app_budget = app_budget
        self._outage = outage
        self._until = until
        self._events = Window(MINUTE)
        self._requests = Window(1.0)
        self._all = 0
        self.refused = 0

    @property
    def peak(self) -> int:
        """The most events in any minute."""
        return self._events.peak

    @property
    def rush(self) -> int:
        """The most requests in any second, those of the outage too."""
        return self._requests.peak

    @property
    def accepted(self) -> int:
        """Events in all."""
        return self._all

    def answer(self, now: float, events: int) -> Outcome:
        """The answer to a request with so many events; 0 for a probe."""
        self._requests.add(now, 1)
        if 0 <= now < self._until:
            return self._outage
        if not events:
            return REACHED
        if self._events.would_hold(now, events) > self._app_budget:
            self.refused += 1
            return LIMITED
        self._events.add(now, events)
        self._all += events
        return ACCEPTED


class Device:
    """A machine with its queue, and an event of its own every so many seconds."""

    __slots__ = (
        "acknowledged",
        "backlog",
        "begin",
        "delivered",
        "delivery",
        "drained",
        "first",
        "gap",
        "last",
        "name",
        "next_event",
        "period",
        "queue",
        "recorded",
        "waited",
    )

    def __init__(self, name: str, policy: Policy, period: float, begin: float) -> None:
        self.name = name
        self.delivery = Delivery(policy)
        self.period = period
        self.begin = begin
        self.next_event = begin
        self.queue: deque[Candidate] = deque()
        self.recorded = 0
        self.acknowledged = 0
        #: Since the outage.
        self.delivered = 0
        self.backlog = 0
        self.first = math.inf
        self.last = math.inf
        self.gap = 0.0
        self.drained = math.inf
        self.waited = 0.0

    def record(self, now: float) -> None:
        """Record what happened since the last look."""
        while self.next_event <= now:
            self.recorded += 1
            row = Candidate(self.recorded, Kind.EVENT, "11", self.name, 400, "Seen")
            self.queue.append(row)
            self.next_event += self.period

    def forget(self, ids: tuple[int, ...]) -> None:
        """Forget rows that arrived: they are the oldest, in order, or something is wrong."""
        for id in ids:
            row = self.queue.popleft()
            assert row.id == id, f"{self.name} sent {id} before {row.id}"
        self.acknowledged += len(ids)

    def wait_of(self, id: int, now: float, since: float) -> None:
        """Note how long a row has waited, of which only what comes after `since` counts."""
        recorded = self.begin + (id - 1) * self.period
        self.waited = max(self.waited, now - max(recorded, since))

    def came_through(self, since: float, number: int) -> None:
        """Note a delivery so many seconds after the end of the outage."""
        if self.drained < math.inf:
            return
        if self.first < math.inf:
            self.gap = max(self.gap, since - self.last)
        else:
            self.first = since
        self.last = since
        self.delivered += number
        if not self.queue:
            self.drained = since


@attrs.frozen
class Minute:
    """
    The fleet at the end of one minute.

    Attributes:
        at: Minutes since the outage began.
        arrived: Events in this minute.
        queued: Events that wait on all devices.
        least: The smallest part of its backlog that any device has delivered.
        most: The largest.
    """

    at: int
    arrived: int
    queued: int
    least: float
    most: float


@attrs.frozen
class Seen:
    """
    What a simulation came to. Seconds count from the end of the outage.

    Attributes:
        peak: The most events at Heap in any minute.
        rush: The most requests in any second.
        refused: Requests above the app's budget.
        accepted: Events that Heap took.
        delivered: Events whose device knows that.
        recorded: Events that devices recorded.
        queued: Events that still wait.
        backlog: Events that waited when the outage ended.
        allowed: Seconds that the app's budget allows for them and for what comes meanwhile.
        drained: When the last device had an empty queue.
        firsts: When each device came through for the first time.
        gaps: The longest time that each one waited between two deliveries.
        waits: The longest time that an event of each one waited.
        dues: What each one's share allows for its backlog; without end where it
            records more than that.
        minutes: The fleet minute by minute.
    """

    peak: int
    rush: int
    refused: int
    accepted: int
    delivered: int
    recorded: int
    queued: int
    backlog: int
    allowed: float
    drained: float
    firsts: list[float]
    gaps: list[float]
    waits: list[float]
    dues: list[float]
    minutes: list[Minute]

    def starving(self) -> list[int]:
        """
        The devices of which an event waited longer than back-off and their own share account
        for, whatever the others did.
        """
        late = Policy().backoff_cap + 2 * MINUTE
        each = enumerate(zip(self.waits, self.dues, strict=True))
        return [number for number, (wait, due) in each if wait > late + 1.2 * due]

    def faults(self, app_budget: int) -> list[str]:
        """What breaks the promise of politeness, in words; nothing when it holds."""
        # Whoever has just been turned away waits no longer than the longest back-off
        # (a busy server's word is shorter here), and then for its share of each minute.
        late = Policy().backoff_cap + 2 * MINUTE
        shares = [(minute.least, minute.most) for minute in self.minutes if minute.least]
        claims = {
            f"{self.peak} events in a minute": self.peak <= app_budget,
            f"{self.refused} requests above the budget": self.refused == 0,
            f"somebody came {max(self.firsts):.0f} s late": max(self.firsts) <= late,
            f"somebody starved for {max(self.gaps):.0f} s": max(self.gaps) <= 1.2 * MINUTE,
            f"events of {len(self.starving())} devices waited too long": not self.starving(),
            "somebody is left behind": all(most - least < 0.15 for least, most in shares),
            f"{self.drained:.0f} s for what takes {self.allowed:.0f} s": (
                self.drained <= 1.2 * self.allowed
            ),
            "the equation": self.recorded == self.queued + self.delivered,
            "lost or twice": 0 <= self.accepted - self.delivered <= len(self.firsts) * 3,
        }
        return [claim for claim, holds in claims.items() if not holds]


class Fleet:
    """
    So many devices that share one app's budget, and an outage.

    Args:
        devices: How many.
        app_budget: Events a minute that Heap takes.
        fleet_size: What each device was told; as many as there are by default.
        outage: What the outage looks like, of `OUTAGES`.
        hours: How long it lasts.
        period: Seconds between two events of a device.
        busy: How many of the devices record `BUSY` times as much.
        chance: The dice of latencies, beginnings and jitter.
    """

    def __init__(
        self,
        devices: int,
        *,
        app_budget: int = limits.APP_EVENTS_PER_MINUTE,
        fleet_size: int | None = None,
        outage: str = "refused",
        hours: float = 6.0,
        period: float = 120.0,
        busy: int = 0,
        chance: Random | None = None,
    ) -> None:
        self._chance = chance or Random(8)
        self._app_budget = app_budget
        self.end = hours * HOUR
        policy = Policy(app_budget=float(app_budget), fleet_size=fleet_size or devices)
        self.heap = Heap(app_budget, OUTAGES[outage], self.end)
        self._share = app_budget / policy.fleet_size
        self.devices = [self._device(number, policy, period, busy) for number in range(devices)]
        self._todo: list[tuple[float, int, Callable[[float], None]]] = []
        self._turn = count()
        self._left = devices
        self._minutes: list[Minute] = []
        self._counted = 0

    def run(self, patience: float = 2.0) -> Seen:
        """
        Live through it, until each device has once had an empty queue after the outage.

        Args:
            patience: Give up after so many times what the budget allows, and an hour.
        """
        for device in self.devices:
            self._at(device.next_event, lambda now, device=device: self._look(device, now))
        self._at(self.end, self._outage_ends)
        self._at(0.0, self._minute_ends)
        deadline = math.inf
        while self._left and self._todo:
            now, _, act = heappop(self._todo)
            act(now)
            if self._minutes and now >= self.end and deadline == math.inf:
                deadline = self.end + self._allowed() * patience + HOUR
            if now > deadline:
                break
        for device in self.devices:
            if device.queue:
                device.wait_of(device.queue[0].id, now, self.end)
        return self._seen()

    def _device(self, number: int, policy: Policy, period: float, busy: int) -> Device:
        own = period / BUSY if number < busy else period
        return Device(f"device-{number}", policy, own, -BEFORE + self._chance.random() * own)

    # -- what happens --

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heappush(self._todo, (when, next(self._turn), act))

    def _look(self, device: Device, now: float) -> None:
        device.record(now)
        step = device.delivery.next_step(now, list(islice(device.queue, FRONT)))
        if isinstance(step, Wait):
            self._at(now + step.seconds, lambda at: self._look(device, at))
        elif isinstance(step, Idle):
            # The first look that finds something; those before it find nothing.
            interval = device.delivery.policy.interval
            looks = max(1, math.ceil((device.next_event - now) / interval))
            self._at(now + looks * interval, lambda at: self._look(device, at))
        else:
            self._send(device, now, step)

    def _send(self, device: Device, now: float, step: Send | Probe) -> None:
        there = self._chance.uniform(0.02, 1.5)
        back = self._chance.uniform(0.02, 0.5)
        events = len(step.ids) if isinstance(step, Send) else 0

        def arrive(at: float) -> None:
            outcome = self.heap.answer(at, events)
            self._at(at + back, lambda later: self._receive(device, later, outcome, events))

        self._at(now + there, arrive)

    def _receive(self, device: Device, now: float, outcome: Outcome, events: int) -> None:
        verdict = device.delivery.receive(now, self._chance.random(), outcome)
        assert not verdict.bury and not verdict.restore
        device.record(now)
        device.forget(verdict.ack)
        if verdict.ack and now >= self.end:
            device.wait_of(verdict.ack[0], now, self.end)
            waiting = device.drained == math.inf
            device.came_through(now - self.end, len(verdict.ack))
            self._left -= waiting and device.drained < math.inf
        self._look(device, now)

    def _outage_ends(self, now: float) -> None:
        for device in self.devices:
            device.record(now)
            device.backlog = len(device.queue)

    def _minute_ends(self, now: float) -> None:
        for device in self.devices:
            device.record(now)
        parts = [
            1.0 if one.drained < math.inf else one.delivered / (one.delivered + len(one.queue))
            for one in self.devices
            if one.drained < math.inf or one.queue
        ]
        accepted = self.heap.accepted
        self._minutes.append(
            Minute(
                at=round(now / MINUTE),
                arrived=accepted - self._counted,
                queued=sum(len(device.queue) for device in self.devices),
                least=min(parts, default=0.0),
                most=max(parts, default=0.0),
            )
        )
        self._counted = accepted
        self._at(now + MINUTE, self._minute_ends)

    # -- what came of it --

    def _backlog(self) -> int:
        return sum(device.backlog for device in self.devices)

    def _allowed(self) -> float:
        recording = sum(MINUTE / device.period for device in self.devices)
        return self._backlog() / (self._app_budget - recording) * MINUTE

    def _due(self, device: Device) -> float:
        left = self._share - MINUTE / device.period
        return device.backlog / left * MINUTE if left > 0 else math.inf

    def _seen(self) -> Seen:
        return Seen(
            peak=self.heap.peak,
            rush=self.heap.rush,
            refused=self.heap.refused,
            accepted=self.heap.accepted,
            delivered=sum(device.acknowledged for device in self.devices),
            recorded=sum(device.recorded for device in self.devices),
            queued=sum(len(device.queue) for device in self.devices),
            backlog=self._backlog(),
            allowed=self._allowed(),
            drained=max(device.drained for device in self.devices),
            firsts=[device.first for device in self.devices],
            gaps=[device.gap for device in self.devices],
            waits=[device.waited for device in self.devices],
            dues=[self._due(device) for device in self.devices],
            minutes=self._minutes,
        )

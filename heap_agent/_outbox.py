"""
Outbox: the half of an agent that delivers, loaded and started when there is
something to send.

`track` needs none of it, and it is most of what an agent could cost a program: the
rules of delivery, APScheduler, urllib3. Until something waits, no thread is started
for it; while nothing waits, that thread sleeps, and the keeper's look wakes it.

What guards what: `_lock`, re-entrant, guards starting the sender once, and ending it.
This module must not know the verbs, nor who the user is.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from heap_agent._aside import aside
from heap_agent._config import Config
from heap_agent._store.absorb import Absorbed, Request
from heap_agent._store.database import DatabaseTrouble
from heap_agent._store.forking import undivided
from heap_agent._store.keeper import TICK
from heap_agent._store.room import Measured
from heap_agent._store.store import Store

if TYPE_CHECKING:
    from heap_agent._upload.drain import Drain, Sender, Services
    from heap_agent._upload.scheduler import Scheduler

#: Seconds after the start before anything of this is loaded, so that its imports do
#: not compete with the program's own.
_HEAD_START: Final = 1.0

#: Seconds until the sender looks by itself, should the keeper not see that something
#: waits.
_ASLEEP: Final = 300.0

_DRAIN: Final = "drain"


class Outbox:
    """
    What leaves one store.

    Args:
        store: Where the rows are.
        config: Budgets, and how the endpoint is reached.
        interval: Seconds between two deliveries.
        allowed: Whether anything may leave now (consent, pauses).
        state_changed: As for `Drain`.
        report_losses: As for `Drain`.
        services: As for `Drain`.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        interval: float,
        allowed: Callable[[], bool],
        state_changed: Callable[[], bool],
        report_losses: Callable[[Mapping[str, int]], None] | None,
        services: Services = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._config = config
        self._interval = interval
        self._allowed = allowed
        self._state_changed = state_changed
        self._report_losses = report_losses
        self._services = services
        self._lock = threading.RLock()
        # One step on a dict is whole, whoever interrupts whom.
        self._made: dict[str, Drain] = {}
        self._scheduler: Scheduler | None = None
        self._ended = False
        self._asleep = False
        # The directory when nothing waited.
        self._quiet: Measured | None = None
        head_start = _HEAD_START if interval > TICK else 0.0
        self._loaded_from = time.monotonic() + head_start
        # When the next delivery is due, by the monotonic clock. Devices that were
        # switched on together do not ask together.
        self._due = time.monotonic() + max(head_start, _chance() * interval)

    def __repr__(self) -> str:
        return f"<Outbox [{self._scheduler or 'not started'}]>"

    # -- what is loaded when it is needed --

    @property
    def drain(self) -> Drain:
        """
        The sender's loop.
        """
        made = self._made.get(_DRAIN)
        if made is None:
            # Not on the main thread, where a signal handler could find a module half made.
            fresh = aside(self._make_drain)
            assert fresh is not None
            made = self._made.setdefault(_DRAIN, fresh)
        return made

    def _make_drain(self) -> Drain:
        with undivided():
            from heap_agent._core.delivery import Delivery, Policy
            from heap_agent._upload.drain import Drain

        config = self._config
        drain = Drain(
            self._store,
            Delivery(
                Policy(
                    interval=self._interval,
                    identity_budget=config.identity_budget,
                    app_budget=config.app_budget,
                    fleet_size=config.fleet_size,
                )
            ),
            self._make_transport,
            allowed=self._allowed,
            state_changed=self._state_changed,
            report_losses=self._report_losses,
            services=self._services,
        )
        if self._ended:
            drain.stop()
        return drain

    def _make_transport(self) -> Sender:
        # urllib3 costs more than all the rest.
        with undivided():
            from heap_agent._upload.transport import Transport
            from heap_agent._version import USER_AGENT

        config = self._config
        return Transport(
            config.base_url,
            user_agent=USER_AGENT,
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            ca_bundle=_text(config.ca_bundle),
            client_cert=_text(config.client_cert),
            client_key=_text(config.client_key),
            proxy=config.proxy,
            wall=lambda: self._store.clock.wall_ns() / 1e9,
        )

    # -- the sender --

    def look(self, found: Measured) -> None:
        """
        Start or wake the sender if something waits for it; the keeper asks once a
        tick, where this process delivers.

        Args:
            found: As long as it stays the same, nothing was recorded.
        """
        if self._scheduler is None and time.monotonic() < self._loaded_from:
            return
        if self._scheduler is not None and not self._asleep:
            return
        if found == self._quiet and self._store.memory is None:
            return
        if self._interval > TICK and not self._something_waits():
            self._quiet = found
            return
        left = self._left()
        # Two, as a look may come late: the next one would miss the moment.
        if left <= 2 * TICK:
            self._start(left)

    def _left(self) -> float:
        """
        Seconds until the next delivery: they come at an interval, slept through or not.
        """
        late = time.monotonic() - self._due
        return -late if late <= 0 else math.ceil(late / self._interval) * self._interval - late

    def _something_waits(self) -> bool:
        try:
            return any(
                ledger.absorber.pending_bytes() or not ledger.queue.empty()
                for ledger in self._store.queues()
            )
        except DatabaseTrouble:
            # Whoever tries to send will meet it, and say so.
            return True

    def _start(self, delay: float) -> None:
        with undivided():
            from heap_agent._upload.scheduler import Scheduler

        with self._lock:
            self._asleep, self._quiet = False, None
            if self._scheduler is not None:
                self._scheduler.run_after(delay)
            elif not self._ended:
                scheduler = Scheduler(self._tick, name="heap-agent-sender")
                scheduler.start(delay)
                self._scheduler = scheduler

    def _tick(self) -> float:
        """
        One pass. Where nothing is left the next one comes when the keeper has seen
        something, unless that looks less often than we would.
        """
        wait = self.drain.tick()
        self._due = time.monotonic() + wait
        self._asleep = wait > TICK and not self._something_waits()
        return max(wait, _ASLEEP) if self._asleep else wait

    def hurry(self) -> None:
        """
        Let a sender that runs have a look at once.
        """
        if self._scheduler is not None:
            self._scheduler.run_after(0.0)

    def wake(self) -> None:
        """
        Let the sender have a look at once, and start it where nothing has waited so far.
        """
        self._start(0.0)

    def add_requests(self, requests: Iterable[Request]) -> None:
        """
        Carry out at once what other processes have asked for.
        """
        self.drain.add_requests(requests)
        self.wake()

    def change_interval(self, seconds: float) -> None:
        """
        Seconds between two deliveries, from now on.
        """
        self._interval = seconds
        self._due = time.monotonic() + seconds
        if _DRAIN in self._made:
            self.drain.change_interval(seconds)
        if self._scheduler is not None:
            self._scheduler.run_after(seconds)

    # -- for those who wait --

    def absorb(self) -> Absorbed:
        """
        As `Drain.absorb`.
        """
        return self.drain.absorb()

    def barrier(self, timeout: float = 0.0) -> bool:
        """
        As `Drain.barrier`.
        """
        return _DRAIN not in self._made or self.drain.barrier(timeout)

    def flush(self, timeout: float | None) -> bool:
        """
        As `Drain.flush`; the sender goes on an interval later.
        """
        empty = self.drain.flush(timeout)
        if self._scheduler is not None:
            # It may have been asleep for as long as the trouble was expected to last.
            self._scheduler.run_after(self._interval)
            self._due = time.monotonic() + self._interval
        return empty

    def finish(self, seconds: float) -> None:
        """
        As `Drain.finish`; nothing is loaded for nothing.
        """
        if _DRAIN in self._made or self._something_waits():
            self.drain.finish(seconds)

    # -- the end --

    def end(self) -> None:
        """
        Start nothing any more, and let flushes that wait give up.
        """
        with self._lock:
            self._ended = True
        if _DRAIN in self._made:
            self.drain.stop()

    def stop(self, seconds: float, last: Callable[[float], None]) -> bool:
        """
        End the sender's thread, after one last call on it.

        Returns:
            False where there is none.
        """
        if self._scheduler is None:
            return False
        self._scheduler.stop(seconds, last=last)
        return True


def _chance() -> float:
    """
    From 0 to below 1; the module for it would cost more than all that is random here.
    """
    return int.from_bytes(os.urandom(4), "little") / 2**32


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)

"""
`status()`: how things stand, as one frozen value.

This module must not change anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import attrs

from heap_agent._config import Config
from heap_agent._core.delivery import Delivery, Policy
from heap_agent._core.state import PAUSED, State
from heap_agent._store import outlook
from heap_agent._store.absorb import REPORT
from heap_agent._store.database import DatabaseTrouble
from heap_agent._store.event_queue import DELIVERED, DROPPED, RECORDED
from heap_agent._store.journal import REFUSED_PROPERTIES
from heap_agent._store.properties import HELD_LOST
from heap_agent._store.store import Store
from heap_agent._store.system import ClockLike
from heap_agent._upload.drain import MEMO, Drain

_REPAIRED = "repaired."


@attrs.frozen(slots=True, kw_only=True)
class Status:
    """
    How things stand. For events, always:

        recorded = queued + delivered + dead + dropped

    Attributes:
        recorded: Events that were ever recorded in this directory.
        queued: Events that wait for delivery.
        delivered: Events that Heap has accepted.
        dead: Events that Heap refused for good (dead letters).
        dropped: Events that were lost, counted by reason in `dropped_by`:
            ``full`` (no room), ``purged`` (opt-out), ``discarded`` (by hand),
            ``damaged`` (the disk), ``unwritten`` (memory lost at exit).
        refused: Calls that recorded nothing: empty names, impossible identities,
            user properties that there was no room for.
        user_properties_lost: User properties that were held for an anonymous
            user who never got a name.
        repaired: Values that were mended, counted by kind in `repaired_by`.
        storage: "disk", or "memory" while the disk refuses: what is recorded
            then does not survive a kill.
        bytes: Size of the state directory.
        oldest_age: Seconds since the oldest queued event by the device's clock;
            None where none is queued.
        last_delivery: When Heap last accepted something; None if never.
        last_error: Why the last attempt failed, or None.
        failing_since: When delivery began to fail, by the device's clock, over restarts too;
            None while it does not. (An event that is refused is no such failure.)
        next_attempt: Seconds until delivery goes on after a wait; None where it
            does not wait.
        drain_eta: Seconds that the queue takes at the budgets' pace; None where
            nothing is queued.
        app_id: Where events go.
        directory: The state directory as text, or None.
        delivers_here: Whether this process delivers from the directory.
        opted_out: Whether consent was withdrawn.
        paused: Whether delivery was paused by hand.
        problems: Values of the environment or config file that were passed
            over, and a directory that could not be used.
    """

    recorded: int
    queued: int
    delivered: int
    dead: int
    dropped: int
    dropped_by: Mapping[str, int]
    refused: int
    user_properties_lost: int
    repaired: int
    repaired_by: Mapping[str, int]
    storage: str
    bytes: int
    oldest_age: float | None
    last_delivery: datetime | None
    last_error: str | None
    failing_since: datetime | None
    next_attempt: float | None
    drain_eta: float | None
    app_id: str | None
    directory: str | None
    delivers_here: bool
    opted_out: bool
    paused: bool
    problems: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Whether the equation holds; it always does."""
        return self.recorded == self.queued + self.delivered + self.dead + self.dropped

    def as_dict(self) -> dict[str, Any]:
        """
        For JSON: times as ISO-8601 text, everything else as it is.
        """
        found = attrs.asdict(self)
        found["dropped_by"], found["repaired_by"] = dict(self.dropped_by), dict(self.repaired_by)
        found["problems"] = list(self.problems)
        for name in ("last_delivery", "failing_since"):
            if found[name] is not None:
                found[name] = found[name].isoformat()
        return found


def read_status(
    store: Store,
    drain: Drain,
    config: Config,
    *,
    problems: tuple[str, ...],
    app_id: str | None,
    opted_out: bool,
    paused: bool,
) -> Status:
    """
    Look at the store and the sender.
    """
    books = store.books()
    status = _status_of(
        books,
        store.now()[0],
        storage=store.storage,
        drain_eta=drain.seconds_to_drain(books.backlog) if books.backlog else None,
        app_id=app_id,
        directory=None if store.directory is None else str(store.directory),
        delivers_here=store.ledger is not None,
        opted_out=opted_out,
        paused=paused,
        problems=problems,
    )
    if store.ledger is None and store.memory is None:
        return status
    last_delivery = drain.last_delivery
    return attrs.evolve(
        status,
        last_delivery=status.last_delivery if last_delivery is None else _moment(last_delivery),
        last_error=drain.last_error,
        failing_since=_moment_or_none(drain.failing_since),
        next_attempt=drain.next_attempt or None,
    )


def look(directory: Path, config: Config, clock: ClockLike, problems: tuple[str, ...]) -> Status:
    """
    How things stand in a directory, seen from outside: beside a running agent,
    after a crash, or long after the last run. Nothing is written or locked.

    What an agent holds in memory cannot be seen, nor that it does.

    Args:
        directory: An existing state directory.
        config: Whose app id is shown, and whose budgets the pace is computed by.
        clock: The system's clocks.
        problems: To be shown.
    """
    books = outlook.read_books(directory, clock.boot_id)
    state = State()
    with suppress(DatabaseTrouble):  # `outlook.trouble` says what is wrong
        state = outlook.read_state(directory, clock.boot_id)
    delivery = Delivery(
        Policy(
            identity_budget=config.identity_budget,
            app_budget=config.app_budget,
            fleet_size=config.fleet_size,
        )
    )
    now = clock.boot_ns() / 1e9
    delivery.restore(now, _memo(books.memo, MEMO))
    return _status_of(
        books,
        clock.wall_ns() // 1000,
        storage="disk",
        drain_eta=delivery.seconds_to_drain(now, books.backlog) if books.backlog else None,
        app_id=config.app_id,
        directory=str(directory),
        delivers_here=False,
        opted_out=not state.consent.given,
        paused=state.flag(PAUSED),
        problems=problems,
    )


def _status_of(books: outlook.Books, now: int, **known: Any) -> Status:
    """What the books say at a time (µs since 1970), and what else is known."""
    counts = books.counts
    report = _memo(books.memo, REPORT)
    last_delivery = report.get("last_delivery")
    dropped_by = _by(counts, DROPPED)
    repaired_by = _by(counts, _REPAIRED)
    return Status(
        recorded=counts[RECORDED],
        queued=books.queued,
        delivered=counts[DELIVERED],
        dead=books.dead,
        dropped=sum(dropped_by.values()),
        dropped_by=dropped_by,
        refused=counts["refused"] + counts["refused_identities"] + counts[REFUSED_PROPERTIES],
        user_properties_lost=counts[HELD_LOST],
        repaired=sum(repaired_by.values()),
        repaired_by=repaired_by,
        bytes=books.bytes,
        oldest_age=None if books.oldest is None else max(0.0, (now - books.oldest) / 1e6),
        last_delivery=_moment_or_none(last_delivery),
        last_error=report.get("last_error"),
        failing_since=_moment_or_none(report.get("failing_since")),
        next_attempt=_longest_wait(_memo(books.memo, MEMO)) or None,
        **known,
    )


def _by(counts: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {
        name[len(prefix) :]: number
        for name, number in sorted(counts.items())
        if name.startswith(prefix) and number
    }


def _memo(memo: Mapping[str, str], name: str) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(memo.get(name, "{}"))
        if isinstance(found, dict):
            return found
    return {}


def _longest_wait(delivery: Mapping[str, Any]) -> float:
    network = delivery.get("network")
    wait = network.get("wait") if isinstance(network, dict) else None
    return float(wait) if isinstance(wait, (int, float)) else 0.0


def _moment_or_none(wall: object) -> datetime | None:
    return _moment(wall) if isinstance(wall, int) else None


def _moment(wall: int) -> datetime:
    return datetime.fromtimestamp(wall / 1e6, timezone.utc)

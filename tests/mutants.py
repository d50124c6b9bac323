"""
Agents that are broken on purpose. Each breaks one promise in one place, and the tests of
that promise must find it out: a harness that finds nothing proves nothing.

    mutants.apply("absorb commits with NORMAL")

changes the process that it is called in, so it belongs into a process of its own.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Final

import attrs

from heap_agent import Agent
from heap_agent._core import clock, wire
from heap_agent._core.budget import Budget
from heap_agent._core.delivery import Delivery, Send
from heap_agent._core.events import Kind
from heap_agent._outbox import Outbox
from heap_agent._store import evidence, rows, seals, system
from heap_agent._store.absorb import Absorber
from heap_agent._store.database import Database
from heap_agent._store.event_queue import EventQueue
from heap_agent._store.journal import Journal
from heap_agent._store.keeper import Keeper
from heap_agent._store.ledger import Ledger
from heap_agent._store.owner import HeldLock, try_lock
from heap_agent._store.room import Room
from heap_agent._store.store import Store
from heap_agent._upload import scheduler, transport
from heap_agent._upload.drain import Drain


def _absorb_commits_with_normal() -> None:
    """A commit is no longer on the disk when it returns, and the journal is unlinked."""
    configure: Any = Database._configure

    def broken(self: Database, execute: Callable[..., Any]) -> None:
        configure(self, execute)
        execute("PRAGMA synchronous=NORMAL")

    Database._configure = broken  # type: ignore[method-assign]


def _ack_before_the_answer() -> None:
    """Rows are deleted when they leave."""
    frozen: Any = Drain._frozen

    def broken(self: Drain, ledger: Ledger, step: Send) -> Any:
        rows = frozen(self, ledger, step)
        ledger.queue.ack([row.id for row in rows])
        return rows

    Drain._frozen = broken  # type: ignore[method-assign]


def _key_minted_at_send() -> None:
    """Each attempt has keys of its own."""
    join = wire.join_batch

    def broken(kind: Kind, app_id: str, bodies: Iterable[bytes]) -> bytes:
        whole = join(kind, app_id, bodies)
        return re.sub(
            rb'(?<="idempotency_key":")[^"]+', lambda _: os.urandom(16).hex().encode(), whole
        )

    wire.join_batch = broken


def _drops_counted_afterwards() -> None:
    """What was dropped is counted when there is room, in a transaction of its own."""
    make_room: Any = Room.make
    add = EventQueue.add

    def broken(self: Room, ledger: Ledger) -> Any:
        counts: list[Any] = []
        EventQueue.add = lambda _, more: counts.append(more)  # type: ignore[method-assign]
        try:
            over = make_room(self, ledger)
        finally:
            EventQueue.add = add  # type: ignore[method-assign]
        for more in counts:
            with ledger.database.transact():
                ledger.queue.add(more)
        return over

    Room.make = broken  # type: ignore[method-assign]


def _children_share_a_journal() -> None:
    """A forked child goes on where its parent is."""
    Agent._begin_in_child = lambda self: None  # type: ignore[method-assign]


def _living_journals_are_taken_for_dead() -> None:
    """Whoever absorbs does not mind who holds a journal's lock."""

    def broken(self: Absorber, id: str) -> HeldLock | None:
        assert self._directory is not None
        return try_lock(self._directory / f"{id}-{os.getpid()}.taken")

    Absorber._try = broken  # type: ignore[method-assign]


def _migrations_numbered_afterwards() -> None:
    """A migration is committed before its number is."""
    configure: Any = Database._configure

    def broken(self: Database, execute: Callable[..., Any]) -> None:
        numbers: list[str] = []

        def without_numbers(sql: str, *rest: Any) -> Any:
            if sql.startswith("PRAGMA user_version="):
                return numbers.append(sql)
            return execute(sql, *rest)

        configure(self, without_numbers)
        for sql in numbers:
            execute(sql)

    Database._configure = broken  # type: ignore[method-assign]


def _rows_without_checksums() -> None:
    """Whatever stands in a row is sent."""
    rows.crc32 = lambda data: 0  # type: ignore[attr-defined]


def _syncs_nothing() -> None:
    """What is called synced may be anywhere."""
    configure: Any = Database._configure

    def broken(self: Database, execute: Callable[..., Any]) -> None:
        configure(self, execute)
        execute("PRAGMA synchronous=OFF")

    Database._configure = broken  # type: ignore[method-assign]
    Journal.sync = lambda self: True  # type: ignore[method-assign]
    system.directory_sync = lambda path, *, supported=True: None


def _salvages_without_a_sync() -> None:
    """A new generation takes the old one's place before it is on the disk."""
    configure: Any = Database._configure

    def broken(self: Database, execute: Callable[..., Any]) -> None:
        configure(self, execute)
        if not self._logged:
            execute("PRAGMA synchronous=OFF")

    Database._configure = broken  # type: ignore[method-assign]
    system.file_sync = lambda path: None


def _faults_are_called_damage() -> None:
    """Whatever is raised while the database is opened is believed to come of the data."""
    evidence.evidence = lambda path: None if "draft" in path.name else "it was said"


def _seals_that_are_not_looked_at() -> None:
    """Whatever stands in a small table is believed."""
    seals.crc32 = lambda data: 0  # type: ignore[attr-defined]


def _books_that_are_not_put_right() -> None:
    """What damage has taken is not counted."""
    EventQueue.settle_books = lambda self: 0  # type: ignore[method-assign]


def _budgets_forget_early() -> None:
    """What was sent half a window ago is no longer counted."""
    resize = Budget.resize

    def broken(self: Budget, limit: float, seconds: float) -> None:
        resize(self, limit, seconds)
        self.window /= 2

    Budget.resize = broken  # type: ignore[method-assign]


def _back_off_has_no_end() -> None:
    """Each failure doubles the wait, however long it is already."""
    back_off: Any = Delivery._back_off

    def broken(self: Delivery, now: float, pause: Any, cause: Any) -> None:
        policy, self.policy = self.policy, attrs.evolve(self.policy, backoff_cap=1e9)
        back_off(self, now, pause, cause)
        self.policy = policy

    Delivery._back_off = broken  # type: ignore[method-assign]


def _bodies_stay_in_memory() -> None:
    """What has been sent is never let go."""
    kept: list[bytes] = []
    join = wire.join_batch

    def broken(*arguments: Any, **options: Any) -> bytes:
        kept.append(join(*arguments, **options))
        return kept[-1]

    wire.join_batch = broken


def _refused_writes_are_forgotten() -> None:
    """What the disk does not take is nowhere, and `track` returns all the same."""
    Journal._keep = lambda self, entry: None  # type: ignore[method-assign]


def _losses_at_the_end_are_not_counted() -> None:
    """What is only in memory when a program ends is gone, without a word in the books."""

    def broken(self: Store) -> int:
        lost = self.journal.spilled
        self.journal.take_spilled()
        memory, self._memory = self._memory, None
        return lost + (0 if memory is None else memory.ledger.queue.count())

    Store._leave_word = broken  # type: ignore[method-assign]


def _times_are_not_repaired() -> None:
    """What the wall clock said is what is sent."""
    clock.place = lambda knowledge, *, wall, boot_clock, boot: (wall, False, knowledge)


def _delivery_trusts_the_wall_clock() -> None:
    """The sender's waits end by a clock that is set, and nobody tells it of that."""
    scheduler.time = SimpleNamespace(monotonic=time.time)  # type: ignore[attr-defined]
    Outbox.hurry = lambda self: None  # type: ignore[method-assign]


def _nobody_notices_a_suspend() -> None:
    """What was due in a suspend waits as long as if there had been none."""
    Keeper._slept = lambda self, now: False  # type: ignore[method-assign]


def _the_boot_clock_sleeps_too() -> None:
    """The clock that counts from the boot stands still in a suspend."""
    system.boot_clock = lambda source=time: time.monotonic_ns


def _every_boot_is_the_same() -> None:
    """Clock readings of two boots are compared with each other."""
    system.boot_id = lambda readers=None: "always the same"


def _recording_waits_for_syncs() -> None:
    """Nothing is recorded while the journal is brought to stable storage."""
    put = Journal.put

    def broken(self: Journal, *record: Any) -> bool:
        with self._sync_lock:
            return put(self, *record)

    Journal.put = broken  # type: ignore[method-assign]


def _windows_stay_wide() -> None:
    """What did not get through is sent again with as much beside it."""
    Delivery._shrink = lambda *arguments: None  # type: ignore[method-assign]


def _answers_are_read_on() -> None:
    """A thousand times as much of an answer is read as is of use."""
    transport.ANSWER_BYTES *= 1_000
    transport.HEARD_BYTES *= 1_000


def _time_begins_anew() -> None:
    """A request may take its time again with each byte."""
    transport._Request.left = lambda self: self.read_timeout  # type: ignore[method-assign]


def _words_are_searched_from_each_character() -> None:
    """What takes the square of a word's length keeps all threads from running."""
    transport._USERINFO = re.compile(r"\S+@")


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "absorb commits with NORMAL": _absorb_commits_with_normal,
    "ack before the answer": _ack_before_the_answer,
    "key minted at send": _key_minted_at_send,
    "drops counted afterwards": _drops_counted_afterwards,
    "children share a journal": _children_share_a_journal,
    "living journals are taken for dead": _living_journals_are_taken_for_dead,
    "migrations numbered afterwards": _migrations_numbered_afterwards,
    "rows without checksums": _rows_without_checksums,
    "syncs nothing": _syncs_nothing,
    "salvages without a sync": _salvages_without_a_sync,
    "faults are called damage": _faults_are_called_damage,
    "seals that are not looked at": _seals_that_are_not_looked_at,
    "books that are not put right": _books_that_are_not_put_right,
    "budgets forget early": _budgets_forget_early,
    "back-off has no end": _back_off_has_no_end,
    "bodies stay in memory": _bodies_stay_in_memory,
    "refused writes are forgotten": _refused_writes_are_forgotten,
    "recording waits for syncs": _recording_waits_for_syncs,
    "losses at the end are not counted": _losses_at_the_end_are_not_counted,
    "times are not repaired": _times_are_not_repaired,
    "delivery trusts the wall clock": _delivery_trusts_the_wall_clock,
    "nobody notices a suspend": _nobody_notices_a_suspend,
    "the boot clock sleeps too": _the_boot_clock_sleeps_too,
    "every boot is the same": _every_boot_is_the_same,
    "windows stay wide": _windows_stay_wide,
    "answers are read on": _answers_are_read_on,
    "time begins anew": _time_begins_anew,
    "words are searched from each character": _words_are_searched_from_each_character,
}


def apply(name: str) -> None:
    """Break this process's agents."""
    MUTANTS[name]()

"""
The state directory: what this process may do there now, and how its parts work
together.

A process always has a journal. One process at a time is the owner and has the
ledger too. Where the disk refuses, a ledger in memory stands in.

What guards what: `_work` lets one thread at a time absorb, take or give up
ownership, or answer requests (keeper, a flushing caller, shutdown). It is never
held while waiting for the network, and no recording call takes it.

This module must not know the network, nor the verbs of the public API.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from heap_agent._core.bounds import RECORD, Bounds
from heap_agent._core.events import Actor, Kind
from heap_agent._core.hour import Hour
from heap_agent._core.state import Moment, State, Value
from heap_agent._core.wire import actor_line
from heap_agent._store import outlook, system
from heap_agent._store import parts as files
from heap_agent._store.absorb import BATCH, NOT_UNDERSTOOD, Absorbed, Request
from heap_agent._store.bell import Bell
from heap_agent._store.database import DatabaseTrouble, Trouble
from heap_agent._store.database import damage as complaints
from heap_agent._store.event_queue import DROPPED, RECORDED, dropped_events
from heap_agent._store.forking import undivided
from heap_agent._store.journal import Journal, Seams, is_held_here
from heap_agent._store.ledger import Ledger
from heap_agent._store.memory import Memory
from heap_agent._store.owner import OWNER_LOCK, HeldLock, try_lock
from heap_agent._store.reserve import Reserve
from heap_agent._store.room import Measured, Room
from heap_agent._store.signs import forget_first_users

if TYPE_CHECKING:
    from heap_agent._store.salvage import Salvaged

_log = logging.getLogger("heap_agent.store")

#: Seconds that the disk must have refused before events in memory are sent
#: from there.
MEMORY_PATIENCE: Final = 10.0

#: Seconds that a look waits for its turn while nothing moves on.
_LOOKING_PATIENCE: Final = 1.0

#: Seconds that a salvaged database is left alone, whatever SQLite says of it: what comes
#: back at once is no damage of the file.
_SALVAGE_EVERY: Final = 3_600.0

#: Seconds that nobody is heard who says once more what a look at the database did not bear
#: out: a fault of ours comes back with each look.
_ACQUITTED_FOR: Final = 600.0

#: Records that are absorbed at once while the disk is full.
_LITTLE: Final = 200

#: The request of a process that wants to see everything delivered.
FLUSH: Final = "flush"

#: Answers to requests that are kept.
_ANSWERS: Final = 100


class Store:
    """
    The state directory of one agent.

    Args:
        directory: Resolved and private; None keeps everything in memory.
        clock: The system's clocks.
        max_bytes: What the directory may hold.
        attend: Called when the keeper should have a look.
        seams: System calls of the journal.
    """

    def __init__(
        self,
        directory: Path | None,
        clock: system.ClockLike,
        *,
        max_bytes: int,
        attend: Callable[[], None] = lambda: None,
        seams: Seams = Seams(),  # noqa: B008 - frozen
    ) -> None:
        self.directory = directory
        self.clock = clock
        self.bounds = Bounds(max_bytes)
        self.journal = Journal(
            directory,
            clock.boot_id,
            part_bytes=self.bounds.part,
            attend=attend,
            seams=seams,
        )
        self.journal.allow(self.bounds.unseen)
        self.room = Room(directory, self.bounds, self.journal)
        self.ledger: Ledger | None = None
        self.trouble: str | None = None
        #: Deliveries succeed, or none has failed yet: what waits in the journals will be
        #: fetched from there soon.
        self.delivers = True
        #: What this process has seen of the last sixty minutes, by the boot clock.
        self.hour = Hour()
        self._counted = self._words = 0  # events, and other records, of this journal
        self._work = threading.RLock()
        self._batches = 0  # how many were absorbed by this process
        self._held: HeldLock | None = None
        self._reserve = None if directory is None else Reserve(directory)
        self._bell = Bell(directory)
        self._heard: int | None = None  # how far it had rung when only events waited
        self._memory: Memory | None = None
        self._in_trouble_since: float | None = None
        self._pressed = False  # the disk is full and the reserve has been given up
        self._schema_is_newer = False
        self._to_check = False  # the machine was started anew, or SQLite complains
        self._accused: str | None = None  # why somebody has called the database damaged
        self._acquitted: tuple[str, float] | None = None  # of what, and when
        self._salvaged: float | None = None
        self._state_is_lost = False
        self._replacing = False  # files that somebody removed
        self._closed = False
        self._to_erase = False  # the log may hold what no copy may stay of
        self._logged: set[str] = set()
        self._said = count(1 << 62)  # sequence numbers of what this process says

    def __repr__(self) -> str:
        role = "owner" if self.ledger is not None else "guest"
        return f"<Store {self.directory} [{role}, {self.storage}]>"

    # -- opening and closing --

    def open(self) -> None:
        """
        Begin the journal, and become the owner if nobody is.
        """
        self._closed = False
        self.journal.retry()
        self.try_to_own()
        self.room.cap_journal(self.ledger)

    def try_to_own(self) -> bool:
        """
        Become the owner if nobody is.
        """
        if self.directory is None or self.ledger is not None or self._schema_is_newer:
            return self.ledger is not None
        with self._work:
            if self.ledger is not None or self._closed:
                # A keeper that a disk has held up may come after the end.
                return self.ledger is not None
            try:
                return self._take_over(self.directory)
            except DatabaseTrouble as error:
                self._note(error)
                self._schema_is_newer = error.trouble is Trouble.NEWER
            except Exception as error:
                self._note_fault("the queue cannot be opened, recording goes on: %s", error)
            finally:
                if self.ledger is None:
                    self._release()
            return False

    def _take_over(self, directory: Path) -> bool:
        if self._held is None:
            self._held = try_lock(directory / OWNER_LOCK)
        if self._held is None:
            return False
        try:
            self.ledger = self._open_ledger(directory)
        except (DatabaseTrouble, *NOT_UNDERSTOOD) as error:
            # What stands in the tables may be nothing that anybody has written there.
            if not _may_be_damage(error) or not self._salvage(directory, _told(error)):
                raise
            self.ledger = self._open_ledger(directory)
        self._to_check |= self.ledger.timeline.is_new_boot
        if self.ledger.damaged:
            _log.warning("%d values of the state were damaged on the disk", self.ledger.damaged)
        # Before anything is frozen: the clock may have been set since the last owner
        # looked. What cannot be saved now is saved later.
        with suppress(DatabaseTrouble):
            self.ledger.timeline.tick(*self.now())
        self.trouble = None
        if self._reserve is not None and not self._reserve.hold():
            # An earlier owner gave it up, and there is still no room for it.
            self._press()
        return True

    def _open_ledger(self, directory: Path) -> Ledger:
        return Ledger.open(
            outlook.database_path(directory),
            boot_id=self.clock.boot_id,
            own_journal=lambda: self.journal.id,
            earlier_boots=files.boots(directory),
        )

    def close(self) -> int:
        """
        Give the ownership up and close the journal. The connection is closed
        before the lock is let go.

        Returns:
            How many events only this process's memory has held, and end here.
        """
        with self._work:
            self._closed = True
            self._record_counts()
            if not self._pressed and (self.journal.storage == "disk" or self._retry_at_the_end()):
                self._return_to_disk()
            lost = self._leave_word()
            self.disown()
            if self.journal.storage != "disk":
                # The last chance of what was lost to be counted, which takes little room.
                self.journal.retry()
            self.journal.close()
            return lost

    def _retry_at_the_end(self) -> bool:
        """
        On a full disk what room there is will be needed to drain the queue.
        """
        room = self._reserve is not None and self._reserve.room
        if room and self.journal.retry():
            # What others have to know was not there when the bell rang for it.
            self.ring()
            return True
        if self.directory is not None:
            self._press()
        return False

    def _leave_word(self) -> int:
        """
        Events that the disk does not take are lost now: leave their number, and
        who is logged in, which takes little room.
        """
        if self.directory is None:
            return self.in_memory
        if self.journal.storage == "disk" and self._memory is None:
            return 0
        entries = self.journal.take_spilled()
        memory, self._memory = self._memory, None
        counts = Counter[str]() if memory is None else memory.unsent()
        events = sum(entry.kind == Kind.EVENT for entry in entries)
        counts.update({RECORDED: events, DROPPED + "unwritten": events})
        for entry in [*(memory.said if memory is not None else ()), *entries]:
            if entry.kind != Kind.EVENT:
                self.journal.put(entry.kind, entry.flags, entry.wall_ns, entry.boot_ns, entry.body)
        if any(counts.values()):
            self._record(Kind.COUNTS, json.dumps(counts).encode())
        self.journal.retry()
        return counts[DROPPED + "unwritten"]

    def disown(self) -> None:
        """
        Give the ownership up, if it is ours.
        """
        with self._work:
            if self.ledger is not None:
                with suppress(DatabaseTrouble):
                    self.ledger.timeline.save()
                with suppress(DatabaseTrouble):
                    self.ledger.close()
                self.ledger = None
            self._release()

    def abandon(self) -> None:
        """
        In a forked child: close the descriptors that are only ours to close.
        Keep this object: a fork that could not wait left the connection open,
        and it must not be closed here.
        """
        self.journal.abandon()

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()

    # -- recording --

    def now(self) -> tuple[int, int]:
        """
        Wall clock and boot clock, µs.
        """
        return self.clock.wall_ns() // 1000, self.clock.boot_ns() // 1000

    def _record(self, kind: Kind, body: bytes) -> int:
        """
        Append a record of this moment. Returns the boot clock in it, µs.
        """
        self._words += 1
        boot_ns = self.clock.boot_ns()
        self.journal.put(kind, 0, self.clock.wall_ns(), boot_ns, body)
        return boot_ns // 1000

    def record_state(
        self,
        facets: Mapping[str, Value],
        *,
        identify: Actor | None = None,
        gone: Actor | None = None,
        purge: bool = False,
    ) -> Moment:
        """
        Record a change of state, and ring the bell for the other processes.

        Args:
            facets: What is set.
            identify: An anonymous user has given a name.
            gone: A user that is not coming back.
            purge: Everything recorded before is to be deleted.

        Returns:
            The moment of the change, comparable within this process.
        """
        change: dict[str, Any] = {"set": dict(facets)}
        if identify is not None:
            change["identify"] = [identify.app_id, identify.user_id, identify.identity]
        if gone is not None:
            change["gone"] = [gone.app_id, gone.user_id]
        if purge:
            change["purge"] = True
        boot_clock = self._record(Kind.STATE, json.dumps(change).encode())
        self.ring()
        # Of two calls between which the clock stood still the later must stand here, too.
        return Moment(outlook.RUNNING, boot_clock, self.journal.id, next(self._said))

    def record_user_properties(self, actor: Actor, properties: bytes) -> None:
        """
        Record user properties.

        Args:
            actor: Whose.
            properties: JSON of valid ones.
        """
        self._record(Kind.USER_PROPERTIES, actor_line(actor) + properties)
        self.ring()

    def flush_counts(self) -> None:
        """
        Write counts that leave no record of their own into the journal. (At the hard
        cap they wait: there may be new ones for ever.)
        """
        if not self.journal.refusing:
            self._record_counts()

    def _record_counts(self) -> None:
        # Under the lock, or `books` could look while they are in neither place.
        with self._work:
            counts = self.journal.take_counts()
            if counts:
                self._record(Kind.COUNTS, json.dumps(counts).encode())

    def note_hour(self) -> None:
        """
        Note how many events were recorded since last asked.
        """
        counted, self._counted = self._counted, self.journal.records - self._words
        if self._counted < counted:
            # Another journal begins with 0.
            counted, self._words, self._counted = 0, 0, self.journal.records
        self.hour.at(self.now()[1] / 1e6).recorded += self._counted - counted

    # -- the bell --

    def ring(self) -> None:
        """
        Tell the other processes that there is state, or a request, to be read.
        """
        self._bell.ring()

    def listen(self) -> tuple[bool, bool]:
        """
        Whether the bell has rung since last asked, and whether it was somebody else.
        """
        return self._bell.listen()

    # -- state --

    def read_state(self) -> State:
        """
        The state as of the last acknowledged call of any process, absorbed or not.

        Raises:
            DatabaseTrouble: It cannot be read, or somebody has removed it.
        """
        state = (
            State()
            if self.directory is None
            else outlook.read_state(self.directory, self.clock.boot_id)
        )
        # Asked after the reading, or the removal could come between the two.
        if self._replacing or self._files_are_gone():
            raise DatabaseTrouble(Trouble.UNAVAILABLE, "somebody has removed the files")
        memory = self.memory
        if memory is not None:
            for name, facet in memory.absorber.state.facets.items():
                state.apply(name, facet.value, facet.at._replace(boot=outlook.RUNNING))
        for index, entry in enumerate(self.journal.spilled_entries()):
            if entry.kind == Kind.STATE:
                at = Moment(
                    outlook.RUNNING, entry.boot_ns // 1000, self.journal.id, (1 << 61) + index
                )
                outlook.apply_change(state, json.loads(entry.body), at)
        return state

    # -- the owner's work --

    @contextmanager
    def working(self) -> Iterator[None]:
        """
        Keep the keeper, flushing callers and shutdown from each other's feet.
        """
        with self._work:
            yield

    @property
    def held_here(self) -> bool:
        """Whether this very thread has been interrupted inside of the store."""
        return self.journal.held_here or is_held_here(self._work)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        # Whoever is at work may wait for a disk that hangs, or for what a signal handler
        # holds that has interrupted a recording call: rather than wait for ever it is looked
        # without order. What is just being moved could then be seen twice.
        taken = self._work.acquire(timeout=_LOOKING_PATIENCE)
        seen = -1
        while not taken and not self.journal.held_here and seen != self._batches:
            # As long as batches are absorbed it is only much.
            seen = self._batches
            taken = self._work.acquire(timeout=_LOOKING_PATIENCE)
        try:
            yield
        finally:
            if taken:
                self._work.release()

    def absorb(self, *, freeze: bool, some: int | None = None) -> Absorbed:
        """
        Move everything recorded so far into the queue (the owner only).

        Args:
            freeze: Deliveries succeed.
            some: Stop after so many records if there are only events among the others.

        Returns:
            What all batches together have done.
        """
        total = Absorbed()
        with self._work:
            rung = self._bell.count()
            if self.ledger is None:
                return total
            little = self._pressed and not self._room_again()
            if little and not self._may_absorb_a_little(self.ledger):
                total.more = True
                return total
            try:
                if freeze:
                    # A clock that was set since the keeper's last look would go unnoticed.
                    self.ledger.timeline.tick(*self.now())
                while True:
                    done = self._absorb_batch(self.ledger, freeze=freeze, little=little, some=some)
                    self._batches += 1
                    total.records += done.records
                    total.damaged += done.damaged
                    total.state_changed |= done.state_changed
                    total.purged |= done.purged
                    total.erased |= done.erased
                    total.requests += done.requests
                    total.trouble = done.trouble
                    total.more = done.more
                    if little or not done.more:
                        break
                    if some is not None and self._only_events_wait(self.ledger, rung):
                        break
                self._to_erase |= total.erased
                self._erase(self.ledger)
                self.trouble = total.trouble
            except DatabaseTrouble as error:
                self._note(error)
            except Exception as error:
                # Whatever the data looks like: who asks for a delivery cannot help it.
                self._note_fault("what was recorded cannot be read: %s", error)
            else:
                if total.trouble is not None:
                    self._log_once("%s", total.trouble)
        if total.erased:
            ledger = self.ledger
            forget_first_users(
                self.directory, None if total.purged or ledger is None else ledger.absorber.state
            )
        if total.damaged:
            _log.warning("%d records were damaged on the disk and are lost", total.damaged)
        return total

    def _only_events_wait(self, ledger: Ledger, rung: int) -> bool:
        """
        Looked for when somebody has rung since it was found last.
        """
        if rung != self._heard and ledger.absorber.only_events_wait():
            self._heard = rung
        return rung == self._heard

    def _erase(self, ledger: Ledger) -> None:
        """
        Let no copy stay of what was deleted, in the file or in its log; that waits for
        readers, and for room.
        """
        assert self._reserve is not None
        if self._to_erase:
            self.room.remove_old_generations()
        if self._to_erase and self._reserve.free > 2 * ledger.database.bytes:
            self._to_erase = not ledger.database.rewrite()

    def _absorb_batch(
        self, ledger: Ledger, *, freeze: bool, little: bool, some: int | None
    ) -> Absorbed:
        if little:
            return ledger.absorber.absorb(freeze=freeze, limit=_LITTLE)
        if self.journal.full:
            self.room.cap_journal(self.ledger)
        limit = min(BATCH, self.bounds.batch, BATCH if some is None else some)
        over = self.room.make(ledger)
        if over > 0:
            # What is only counted takes no room.
            limit = min(BATCH, limit + over // RECORD)
        done = ledger.absorber.absorb(freeze=freeze, limit=limit, pass_over=over)
        self.room.tell_dropped(done.dropped)
        self.room.cap_journal(self.ledger)
        return done

    def answer(self, request: Request, answer: Mapping[str, Any]) -> None:
        """
        Tell whoever asked.
        """
        with self._work, suppress(DatabaseTrouble):
            if self.ledger is None:
                return
            with self.ledger.database.transact() as execute:
                execute(
                    "REPLACE INTO memo VALUES (?, ?)", (f"answer:{request.id}", json.dumps(answer))
                )
                execute(
                    "DELETE FROM memo WHERE name LIKE 'answer:%' AND rowid NOT IN "
                    "(SELECT rowid FROM memo WHERE name LIKE 'answer:%' "
                    "ORDER BY rowid DESC LIMIT ?)",
                    (_ANSWERS,),
                )

    def ask(
        self, what: str, arguments: Mapping[str, Any], timeout: float
    ) -> Mapping[str, Any] | None:
        """
        Ask the owner for something and wait.

        Returns:
            The answer; None where none came in time, or where there is no
            owner any more (the caller may be it now).
        """
        if self.directory is None:
            return None
        id = os.urandom(8).hex()
        body = json.dumps({"id": id, "what": what, "arguments": dict(arguments)}).encode()
        self._record(Kind.REQUEST, body)
        self.ring()
        deadline = time.monotonic() + timeout
        while True:
            answer = outlook.read_memo(self.directory, f"answer:{id}")
            if answer is not None:
                found: Mapping[str, Any] = json.loads(answer)
                return found
            if self.ledger is not None or time.monotonic() >= deadline:
                return None
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))

    def owner_is_gone(self) -> bool:
        """
        Whether no process delivers from this directory at this moment.
        """
        if self.directory is None or self.ledger is not None:
            return False
        with suppress(OSError):
            held = try_lock(self.directory / OWNER_LOCK)
            if held is not None:
                held.release()
                return True
        return False

    # -- room --

    def has_much(self, found: Measured) -> bool:
        """
        Whether this process should absorb: much waits to be read, or there is
        something to drop or to unlink.
        """
        if self.ledger is None or self.directory is None:
            return False
        if found.sizes.total > self.bounds.crowded:
            return True
        much = self.bounds.passing if self.delivers else self.bounds.part
        try:
            # Asked only where there can be so much: it takes another look.
            return found.sizes.journals >= much and self.ledger.absorber.pending_bytes() >= much
        except DatabaseTrouble:
            return False

    def keep_within_bounds(self, found: Measured | None = None) -> None:
        """
        Set the journal's hard cap; hold dead letters to their share, and the
        reserve; erase what could not be erased before.

        Args:
            found: Measured just now, if it was.
        """
        if self.directory is None:
            return
        found = found or self.room.measure()
        with self._work:
            if self.ledger is not None and self._look_after(self.ledger):
                found = self.room.measure()
        if self.ledger is not None and self._reserve is not None and not self._reserve.held:
            if not self._pressed and found.sizes.total <= self.bounds.crowded:
                self._reserve.hold()
                found = self.room.measure()
        self.room.cap_journal(self.ledger, found)

    def _look_after(self, ledger: Ledger) -> bool:
        """
        Returns:
            Whether the directory may have another size now.
        """
        busy = self._to_erase or ledger.queue.dead_has_grown
        try:
            self._erase(ledger)
            self.room.hold_dead_letters(ledger)
        except DatabaseTrouble as error:
            self._note(error)
        return busy

    def _note(self, error: DatabaseTrouble) -> None:
        """
        SQLite could not do something: say so once, and give the reserve up
        where the disk is full.
        """
        self.trouble = str(error)
        self._log_once("the queue cannot be used now, recording goes on: %s", self.trouble)
        if error.trouble is Trouble.CORRUPT:
            self._accuse(self.trouble)
        if self._reserve is None or self.directory is None:
            return
        # SQLite calls a quota an I/O error; what a plain file meets is the truth.
        full = error.trouble is Trouble.FULL
        if not full:
            probe = system.probe_error(self.directory)
            full = probe is not None and system.is_full(probe)
        if full and not self._pressed:
            self._press()

    def _accuse(self, why: str) -> None:
        if not self._is_acquitted(why):
            self._accused = why
            self._to_check = True

    def _press(self) -> None:
        """
        The disk is full, or nearly so: until the queue is drained nothing is written
        there but what draining takes, and the reserve is for that.
        """
        self._pressed = True
        self.journal.hold_off()
        if self._reserve is not None:
            self._reserve.give_up()
        if self.ledger is not None:
            with suppress(DatabaseTrouble):
                self.ledger.database.checkpoint()

    def _note_fault(self, text: str, error: Exception) -> None:
        """
        Nothing that SQLite knows of: a directory that is gone, a fault in the data.
        """
        self.trouble = _told(error)
        if not isinstance(error, OSError):
            self._accuse(self.trouble)
        self._log_once(text, self.trouble, error)

    def _log_once(self, text: str, trouble: str, error: Exception | None = None) -> None:
        if trouble not in self._logged and len(self._logged) < 20:
            self._logged.add(trouble)
            _log.error(text, trouble, exc_info=error)

    def trouble_while_delivering(self, error: DatabaseTrouble) -> None:
        """
        The sender could not settle rows.
        """
        with self._work:
            self._note(error)

    def _may_absorb_a_little(self, ledger: Ledger) -> bool:
        """
        On a full disk the queue is drained first. Once it is empty, a few
        records at a time go through what the reserve gave up: absorbed, sent,
        deleted, and their part of the journal unlinked.
        """
        try:
            return ledger.queue.empty()
        except DatabaseTrouble:
            return False

    def _room_again(self) -> bool:
        assert self._reserve is not None
        if self._reserve.room and self._reserve.hold():
            self._pressed = False
            return True
        return False

    # -- damage --

    def _check_ledger(self) -> None:
        """
        See whether the database is sound: once after the machine was started, since a
        power cut or a card that is worn out may have damaged it, and when SQLite says so.
        """
        self._to_check = False
        why, self._accused = self._accused or self._damage(), None
        if self.ledger is None or self.directory is None or why is None:
            # Whoever owns it sees to it, or it is looked at when it cannot be opened.
            return
        # The lock is still ours, so that nobody opens it meanwhile.
        self._close_ledger()
        self._salvage(self.directory, why)
        if self.try_to_own():
            self._damage()

    def _close_ledger(self) -> None:
        ledger, self.ledger = self.ledger, None
        if ledger is not None:
            with suppress(DatabaseTrouble):
                ledger.close()

    def _damage(self) -> str | None:
        """
        What SQLite finds wrong with the database; the books of a sound one are put right.
        """
        try:
            found = [] if self.ledger is None else complaints(self.ledger.database)
            if self.ledger is not None and not found:
                self.ledger.queue.settle_books()
        except (DatabaseTrouble, *NOT_UNDERSTOOD) as error:
            if _may_be_damage(error):
                return _told(error)
            # The disk refuses: asked again with the next look.
            self._to_check = True
            return None
        return found[0] if found else None

    def _salvage(self, directory: Path, why: str) -> bool:
        """
        Build a new generation of the database, if it is damaged, and the disk can be trusted
        to take it.

        Args:
            directory: The state directory.
            why: What somebody who called it damaged has said.
        """
        now = time.monotonic()
        if self._salvaged is not None and now - self._salvaged < _SALVAGE_EVERY:
            return False
        if self._is_acquitted(why) or system.probe_error(directory) is not None:
            return False
        evidence, salvage = _rescuers()
        try:
            sign = evidence(outlook.database_path(directory))
            if sign is None:
                # It is not the data: an error that was passing, or a fault of ours.
                self._acquitted = why, now
                return False
            done = salvage(directory)
        except DatabaseTrouble as error:
            if error.trouble is Trouble.CORRUPT:
                # The next one would be no better.
                self._acquitted = why, now
            self._note(error)
            return False
        self._salvaged, self._accused = now, None
        if not done.state_is_whole:
            # Who is in force is not known any more: nobody is taken for somebody else.
            forget_first_users(self.directory)
            self._state_is_lost = True
        _log.error(
            "the queue was damaged (%s): %d rows were carried over to %s, %d events are lost",
            sign,
            done.rows,
            done.path.name,
            done.lost,
        )
        return True

    def _is_acquitted(self, why: str) -> bool:
        """Whether the database was looked at lately because of that, and was sound."""
        if self._acquitted is None:
            return False
        of_what, when = self._acquitted
        return why == of_what and time.monotonic() - when < _ACQUITTED_FOR

    # -- memory mode --

    @property
    def storage(self) -> str:
        """``"disk"``, or ``"memory"`` where what is recorded now would not survive a kill."""
        return self.journal.storage

    @property
    def memory(self) -> Ledger | None:
        """What is sent from while the disk refuses; None otherwise."""
        memory = self._memory
        return None if memory is None else memory.ledger

    @property
    def in_memory(self) -> int:
        """How many events have no disk; told without waiting for one."""
        memory = self.memory
        return self.journal.spilled + (0 if memory is None else memory.queue.count())

    def replace_removed(self, restate: Callable[[], None]) -> bool:
        """
        Begin new files if somebody has removed ours: what is written to those goes
        nowhere, without an error.

        Args:
            restate: Records anew what is in force; called if that was so, or if the
                state could not be salvaged.

        Returns:
            Whether somebody has removed files.
        """
        if self._state_is_lost:
            self._state_is_lost = False
            restate()
        if self.directory is None or not self._files_are_gone():
            return False
        self._replacing = True
        try:
            with self._work:
                if self.ledger is not None and not self.ledger.database.in_place:
                    self._leave_ledger(self.ledger)
                with suppress(OSError):
                    system.make_private_directory(self.directory)
                self.journal.leave_if_unlinked()
                self.try_to_own()
            restate()
        finally:
            self._replacing = False
        _log.error("somebody has removed files from %s: new ones are begun", self.directory)
        return True

    def _files_are_gone(self) -> bool:
        ledger = self.ledger
        return self.journal.unlinked or (ledger is not None and not ledger.database.in_place)

    def _leave_ledger(self, ledger: Ledger) -> None:
        """
        The books go on; what was queued cannot be kept, but it can be counted.
        """
        with suppress(DatabaseTrouble):
            counts = ledger.queue.counts()
            counts[DROPPED + "damaged"] += ledger.queue.count() + ledger.queue.dead_count()
            for name, number in counts.items():
                self.journal.count(name, number)
        with suppress(DatabaseTrouble):
            ledger.close()
        self.ledger = None
        self._release()

    def mend(self, now: float, patience: float = MEMORY_PATIENCE) -> None:
        """
        Retry what the disk refused; after a while send from memory.

        Args:
            now: Monotonic seconds.
            patience: Seconds that the disk must have refused before that.
        """
        with self._work:
            if self._to_check:
                self._check_ledger()
            if self._pressed:
                self._room_again()
            if self.journal.storage == "disk":
                self._in_trouble_since = None
                self._return_to_disk()
            elif self._may_retry() and self.journal.retry():
                self._logged.discard("journal")
                # What others have to know was not there when the bell rang for it.
                self.ring()
                self._return_to_disk()
            else:
                self._go_without_disk(now, patience)

    def _may_retry(self) -> bool:
        """
        Whether records may go to the disk: never on the reserve's account, and
        once the disk was given up, only when it takes more than a few bytes.
        """
        if self._pressed or self.directory is None:
            return False
        return self._memory is None or system.probe_write(self.directory)

    def _go_without_disk(self, now: float, patience: float) -> None:
        if self.directory is not None and "journal" not in self._logged:
            self._logged.add("journal")
            _log.error(
                "recording in memory, the disk refuses: %s", self.journal.trouble or self.trouble
            )
        if self._in_trouble_since is None:
            self._in_trouble_since = now
        if self.directory is None or now - self._in_trouble_since >= patience:
            if self._memory is None:
                returns = self.directory is not None
                self._memory = Memory(self.clock.boot_id, returns=returns)
            self._memory.take(self.journal.take_spilled(), self.journal)

    def _return_to_disk(self) -> None:
        """
        The disk takes records again: bring there what is still in memory.
        """
        if self._memory is None or self.directory is None:
            return
        if self._memory.give_back(self.journal, self.clock.wall_ns(), self.clock.boot_ns()):
            self._memory = None
            self.ring()

    # -- what is where --

    def queues(self) -> list[Ledger]:
        """
        Where the sender may take rows from, in this order.
        """
        return [ledger for ledger in (self.ledger, self.memory) if ledger is not None]

    def books(self) -> outlook.Books:
        """
        Everything that `status` counts, from disk, memory and this process.
        """
        with self._looking():
            if self.directory is None:
                books = outlook.Books()
            else:
                refuses = self.storage != "disk" or self.trouble is not None
                books = outlook.read_books(self.directory, self.clock.boot_id, refuses=refuses)
            memory = self.memory
            if memory is not None:
                with suppress(DatabaseTrouble):  # it may be closed by now
                    books = books.plus(outlook.read_queue(memory.database))
            counts = self.journal.pending_counts()
            walls = []
            for entry in self.journal.spilled_entries():
                if entry.kind == Kind.EVENT:
                    walls.append(entry.wall_ns // 1000)
                elif entry.kind == Kind.COUNTS:
                    counts.update(json.loads(entry.body))
            return books.with_waiting(len(walls), min(walls, default=None), counts)

    def check(self) -> list[str]:
        """
        What is wrong with the store; empty where nothing is.
        """
        with self._work:
            found: list[str] = []
            for ledger in self.queues():
                try:
                    found += ledger.queue.check()
                except DatabaseTrouble as error:
                    found.append(str(error))
            if self.ledger is None and self.directory is not None:
                found += outlook.check(self.directory)
            books = self.books()
        dropped = dropped_events(books.counts)
        kept = books.queued + books.counts["delivered"] + books.dead + dropped
        if books.counts[RECORDED] != kept:
            found.append(
                f"the books do not balance: recorded {books.counts[RECORDED]}, "
                f"queued {books.queued}, delivered {books.counts['delivered']}, "
                f"dead {books.dead}, dropped {dropped}"
            )
        return found


def _told(error: Exception) -> str:
    """What is said of an error: SQLite's speak for themselves."""
    plain = isinstance(error, DatabaseTrouble)
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _may_be_damage(error: Exception) -> bool:
    """Whether it may come of what stands in the database."""
    return not isinstance(error, DatabaseTrouble) or error.trouble is Trouble.CORRUPT


def _rescuers() -> tuple[Callable[[Path], str | None], Callable[[Path], Salvaged]]:
    """
    What hardly any device ever needs. Nobody forks while it is loaded; and a signal handler
    that finds it half loaded is inside of the store, where it does no work.
    """
    with undivided():
        from heap_agent._store.evidence import evidence
        from heap_agent._store.salvage import salvage
    return evidence, salvage

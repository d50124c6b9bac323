"""
The keeper's loop: sync, absorb, adopt, drop, listen.

One background thread on the monotonic clock that never touches the network.
It wakes once a second to see whether there is anything to do, and at once when
something must not wait: a change of identity or consent is synced within half a
second, a full part is sealed.

This module must not know what is recorded, nor how it is delivered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from heap_agent._store.absorb import Absorbed, Request
from heap_agent._store.inbox import Inbox
from heap_agent._store.room import Measured
from heap_agent._store.store import Store

_log = logging.getLogger("heap_agent.store")

#: Seconds between two looks.
TICK: Final = 1.0

#: Seconds between two records of counts that leave none of their own.
_COUNTS_EVERY: Final = 5.0

#: Seconds by which the two clocks part when a machine was suspended.
_SUSPENDED: Final = 2.0


class Duties(NamedTuple):
    """
    What the keeper tells others, always on its own thread.

    Attributes:
        state_changed: Another process has changed the state. Returns whether it
            could be read; if not, it is asked again with the next look.
        look: Something may wait here that this process delivers, from the directory
            or from memory; told with each look, and how large the directory is.
        requested: Requests that only the sender can carry out.
        absorb: Absorb now; whether rows may be frozen at once is the sender's
            knowledge.
        clock_jumped: The wall clock was set, or the machine was suspended.
        state_removed: Somebody has removed our files; what is in force has to be
            recorded anew.
        signalled: A signal has come that the program asked for.
    """

    state_changed: Callable[[], bool]
    look: Callable[[Measured], None]
    requested: Callable[[list[Request]], None]
    absorb: Callable[[], Absorbed]
    clock_jumped: Callable[[], None]
    state_removed: Callable[[], None]
    signalled: Callable[[], None]


class Keeper:
    """
    The keeper of one store.

    Args:
        store: The state directory.
        duties: Whom to tell.
        sync_interval: Seconds that may pass before a record is on stable storage.
        may_own: Whether this process may become the owner.
    """

    def __init__(
        self, store: Store, duties: Duties, *, sync_interval: float, may_own: bool = True
    ) -> None:
        self._store = store
        self._duties = duties
        self._sync_interval = sync_interval
        self._may_own = may_own
        self._inbox: Inbox[str] = Inbox()
        self._thread: threading.Thread | None = None
        self._unsynced_since: float | None = None
        self._counts_written = 0.0
        # What the bell has told, until it is done: a disk may be busy for a while.
        self._to_absorb = False
        self._to_reload = False
        self._clock_gap: float | None = None
        self._last_error = ""
        self._farewell: Callable[[], None] | None = None

    def __repr__(self) -> str:
        alive = self._thread is not None and self._thread.is_alive()
        return f"<Keeper [{'running' if alive else 'not running'}]>"

    def start(self) -> bool:
        """
        Start the thread; a second call does nothing.

        Returns:
            False where no thread can be started, as at the end of the interpreter.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._main, name="heap-agent-keeper", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def reload_soon(self) -> None:
        """
        Ask for the state with the next look, though nobody has rung.
        """
        self._to_reload = True

    def attend(self) -> None:
        """
        Have a look soon. Re-entrant, and never waits.
        """
        self._inbox.put("attend")

    def sync_soon(self) -> None:
        """
        Sync at once: something was recorded that must outlive a power cut.
        """
        self._inbox.put("sync")

    def signal(self) -> None:
        """
        A signal has come. Re-entrant, and never waits.
        """
        self._inbox.put("signal")

    def stop(self, timeout: float, farewell: Callable[[], None] | None = None) -> bool:
        """
        End the thread, after one last call on it.

        Args:
            timeout: Seconds to wait.
            farewell: Called on the thread before it ends.

        Returns:
            False if it is still busy.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            return True
        self._farewell = farewell
        self._inbox.put("stop")
        if thread is not threading.current_thread():
            thread.join(max(0.0, timeout))
        return not thread.is_alive()

    # -- the loop: everything below runs on the thread --------------------------

    def _main(self) -> None:
        wait, held = 0.0, False
        while True:
            words = self._inbox.wait(wait)
            if "stop" in words:
                break
            if wait and not held:
                # Not at once: what it loads would compete with the program's own start.
                self._store.journal.hold_interpreter()
                held = True
            began = time.monotonic()
            try:
                if "signal" in words:
                    self._duties.signalled()
                self._tick(began, urgent="sync" in words)
                self._last_error = ""
            except Exception as error:  # the keeper must outlive whatever a disk does
                text = f"{type(error).__name__}: {error}"
                if text != self._last_error:
                    self._last_error = text
                    _log.error("the keeper met %s and goes on", text, exc_info=error)
            wait = max(0.05, TICK - (time.monotonic() - began))
        if self._farewell is not None:
            try:
                self._farewell()
            except Exception as error:
                _log.error("the last delivery met %s", error, exc_info=error)

    def _tick(self, now: float, *, urgent: bool) -> None:
        store = self._store
        ledger = store.ledger
        if ledger is not None:
            with store.working():
                stepped = ledger.timeline.tick(*store.now())
            if stepped or self._slept(now):
                self._duties.clock_jumped()
        store.note_hour()
        store.replace_removed(self._duties.state_removed)
        store.mend(now)
        self._sync(now, urgent)
        if now - self._counts_written >= _COUNTS_EVERY:
            self._counts_written = now
            store.flush_counts()
        owns = self._may_own and store.try_to_own()
        found = self._listen_to_others(store.room.measure())
        store.keep_within_bounds(found)
        # What is in memory is sent by this process, whoever owns the directory.
        if owns or store.memory is not None:
            self._duties.look(found)

    def _slept(self, now: float) -> bool:
        """
        Whether the machine was suspended since the last look: the boot clock
        counts that time, the monotonic one does not.
        """
        gap = self._store.clock.boot_ns() / 1e9 - now
        before, self._clock_gap = self._clock_gap, gap
        return before is not None and gap - before > _SUSPENDED

    def _sync(self, now: float, urgent: bool) -> None:
        journal = self._store.journal
        if not journal.unsynced:
            self._unsynced_since = None
            return
        if self._unsynced_since is None:
            self._unsynced_since = now
        if urgent or now - self._unsynced_since >= self._sync_interval:
            if journal.sync():
                self._unsynced_since = None

    def _listen_to_others(self, found: Measured) -> Measured:
        """
        Returns:
            How large the directory is after that.
        """
        store = self._store
        rung, foreign = store.listen()
        self._to_absorb |= rung
        self._to_reload |= foreign
        if store.ledger is not None and (self._to_absorb or store.has_much(found)):
            done = self._duties.absorb()
            self._to_absorb = store.trouble is not None
            if done.requests:
                self._duties.requested(done.requests)
            found = store.room.measure()
        if self._to_reload:
            self._to_reload = not self._duties.state_changed()
        return found

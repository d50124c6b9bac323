"""
Run one job again after the seconds that it returned.

This module must not know what the job does.

APScheduler holds the job and says when it is due; everything around it is made
so that it harms neither the host nor the delivery:

- **One daemon thread.** APScheduler's own executors use threads that Python
  joins before `atexit` runs, so that a hanging request would hold up the exit.
  Here the executor only keeps what was submitted, and the loop runs it after
  `_process_jobs` has returned: no lock of APScheduler is held during network
  I/O.
- **One owner.** Only the loop touches APScheduler. Other threads, signal
  handlers and finalizers leave a message in an `Inbox`, whose `put` is
  re-entrant and never waits.
- **Two clocks.** APScheduler reads the wall clock, which jumps. The due time is
  kept on the monotonic clock too, and that one is right: APScheduler is asked
  only when it says so, and is armed anew if the wall clock disagrees.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import attrs
from apscheduler.executors.base import BaseExecutor  # type: ignore[import-untyped]
from apscheduler.jobstores.memory import MemoryJobStore  # type: ignore[import-untyped]
from apscheduler.schedulers.base import BaseScheduler  # type: ignore[import-untyped]
from apscheduler.triggers.date import DateTrigger  # type: ignore[import-untyped]

from heap_agent._store.inbox import Inbox

__all__ = ["Scheduler"]

#: Seconds until a job that raised runs again.
RETRY_AFTER_ERROR = 60.0

#: Nothing waits longer in one go, whatever was asked for.
LONGEST_WAIT = 3_600.0

#: Beyond this a due time would leave the calendar.
LONGEST_DELAY = 366 * 86_400.0

_JOB = "job"

_log = logging.getLogger("heap_agent.upload")


class Scheduler:
    """
    One job on one daemon thread.

    After a fork, make a new one: the thread stays behind in the parent.

    Args:
        job: Does its work and returns the seconds until it wants to run again.
            If it raises, that is logged once per kind of exception, and it runs
            again after a minute.
        name: The thread's name.
        zone: UTC. APScheduler reads the wall clock through it, so that a test
            can hand in one whose clock jumps.
    """

    def __init__(self, job: Callable[[], float], *, name: str, zone: tzinfo = timezone.utc) -> None:
        self._name = name
        self._clockwork = _Clockwork(job, zone)
        self._messages: Inbox[_Rearm | _Stop] = Inbox()
        self._thread: threading.Thread | None = None
        # Written by the loop only, once it runs; others read them.
        self._state = "new"
        self._due = math.inf
        self._runs = 0
        self._wakeups = 0
        # The earliest `run_after` that came while the job runs and has not been
        # read yet: later ones need no message of their own.
        self._asked = math.inf
        self._reported: set[str] = set()

    def __repr__(self) -> str:
        due = ""
        if self._state == "waiting":
            due = f", next run in {max(0.0, self._due - time.monotonic()):.1f} s"
        return (
            f"<Scheduler {self._name!r} [{self._state}{due}, runs {self._runs},"
            f" wake-ups {self._wakeups}]>"
        )

    def start(self, delay: float = 0.0) -> None:
        """
        Start the thread. A second call does nothing.

        Args:
            delay: Seconds until the first run.

        Raises:
            RuntimeError: No thread can be started, as at interpreter exit.
        """
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        self._due = _moment(delay)
        self._messages.put(_Rearm(self._due, only_earlier=True))
        # Before it runs: the job itself may call `stop`.
        self._thread = thread
        try:
            thread.start()
        except BaseException:
            self._thread = None
            raise

    def run_after(self, seconds: float) -> None:
        """
        Let the next run come so many seconds from now, earlier or later than it would have.

        While the job runs, the run after it comes at the earlier of this and
        what the job returns. Never waits; may be called from any thread, from
        signal handlers and from finalizers.

        Args:
            seconds: From now; below zero is zero.
        """
        due = _moment(seconds)
        if self._state in ("stopping", "stopped"):
            return
        running = self._state == "running"
        if running:
            if self._asked <= due:
                return
            # Before the message, so that reading the message clears it.
            self._asked = due
        self._messages.put(_Rearm(due, only_earlier=running))

    def stop(self, timeout: float, last: Callable[[float], None] | None = None) -> bool:
        """
        End the thread, after one last call on it. No thread is started for that.

        Args:
            timeout: Seconds to wait for the thread.
            last: Called with the seconds that are left. Not called if there are
                none, nor if the thread was never started or has ended.

        Returns:
            False if the thread is still busy. It ends as soon as it is not.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            return True
        timeout = min(max(timeout, 0.0), LONGEST_WAIT)
        self._messages.put(_Stop(time.monotonic() + timeout, last))
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    # -- the loop: everything below runs on the thread --------------------------

    def _main(self) -> None:
        stop: _Stop | None = None
        self._state = "waiting"
        while stop is None:
            try:
                stop = self._turn()
            except Exception as exc:
                # Not the job's, which is caught below: a fault in here, or in
                # APScheduler, must not end delivery either.
                self._report(exc)
                self._due = _moment(RETRY_AFTER_ERROR)
        self._state = "stopping"
        self._finish(stop)
        self._state = "stopped"

    def _turn(self) -> _Stop | None:
        """Wait until a message comes or the job is due, and act on it."""
        stop = self._listen()
        if stop is not None:
            return stop
        if self._due <= time.monotonic():
            job = self._clockwork.take_due()
            # None: the wall clock was set back meanwhile. Armed anew below, the
            # job is due with the next turn, at once.
            if job is not None:
                self._run(job)
                self._clockwork.done()
        self._clockwork.arm(self._due - time.monotonic())
        return None

    def _listen(self) -> _Stop | None:
        """Read the messages that are there, or wait for the first."""
        wait = min(max(self._due - time.monotonic(), 0.0), LONGEST_WAIT)
        for message in self._messages.wait(wait):
            self._asked = math.inf
            if isinstance(message, _Stop):
                return message
            self._due = min(message.due, self._due) if message.only_earlier else message.due
        self._wakeups += 1
        return None

    def _run(self, job: Callable[[], float]) -> None:
        self._state = "running"
        try:
            due = _moment(job())
        except BaseException as exc:
            # SystemExit as well: it would end this thread only, without a word.
            self._report(exc)
            due = _moment(RETRY_AFTER_ERROR)
        self._runs += 1
        self._due = due
        self._state = "waiting"

    def _finish(self, stop: _Stop) -> None:
        left = stop.ends - time.monotonic()
        try:
            if stop.last is not None and left > 0:
                stop.last(left)
        except BaseException as exc:
            self._report(exc)
        with suppress(Exception):
            self._clockwork.shutdown(wait=False)

    def _report(self, exc: BaseException) -> None:
        kind = type(exc).__qualname__
        if kind in self._reported:
            return
        self._reported.add(kind)
        # A handler or filter of the host's may raise.
        with suppress(Exception):
            _log.error(
                "%s failed with %s: %s (this kind is logged only once)",
                self._name,
                kind,
                exc,
                exc_info=exc,
            )


@attrs.frozen(slots=True)
class _Rearm:
    """Run at `due`; or, if asked for while the job ran, at the earlier of the two."""

    due: float
    only_earlier: bool


@attrs.frozen(slots=True)
class _Stop:
    """End by the time `ends`, after the call `last`."""

    ends: float
    last: Callable[[float], None] | None


def _moment(seconds: float) -> float:
    """So many seconds from now on the monotonic clock."""
    if math.isnan(seconds):
        raise ValueError("a delay must be a number of seconds; got NaN")
    return time.monotonic() + min(max(seconds, 0.0), LONGEST_DELAY)


class _Clockwork(BaseScheduler):  # type: ignore[misc]
    """
    An APScheduler with one job, asked by the loop rather than looping itself.

    Everything is handed over as an object. Names would be looked up among the
    entry points, which frozen programs do not have; and without a time zone the
    local one would be looked up, which an odd TZ makes raise.
    """

    def __init__(self, job: Callable[[], float], zone: tzinfo) -> None:
        logger = logging.getLogger("heap_agent.upload.apscheduler")
        if logger.level == logging.NOTSET:
            # Every run adds and removes a job, and would say so at INFO.
            logger.setLevel(logging.WARNING)
        self._job = job
        self._inbox = _Inbox()
        super().__init__(
            logger=logger,
            timezone=zone,
            executors={"default": self._inbox},
            jobstores={"default": MemoryJobStore()},
        )

    def wakeup(self) -> None:
        """
        Do nothing: whoever changes something here is the loop, and looks next.
        """

    def shutdown(self, wait: bool = True) -> None:
        """
        Let go of the job.
        """
        if self.running:
            super().shutdown(wait)

    def arm(self, seconds: float) -> None:
        """
        Make the job due so many seconds from now, whenever it was due before.
        """
        if not self.running:
            self.start()
        when = datetime.now(self.timezone) + timedelta(seconds=max(seconds, 0.0))
        self.add_job(
            self._job,
            # Removed with its one run, so that the loop adds it again.
            DateTrigger(when, timezone=self.timezone),
            id=_JOB,
            name=_JOB,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
            replace_existing=True,
        )

    def take_due(self) -> Callable[[], float] | None:
        """
        The job if it is due by the wall clock; `done` has to follow.
        """
        self._process_jobs()
        return self._inbox.take()

    def done(self) -> None:
        """
        The job that was taken has run.
        """
        self._inbox.done()


class _Inbox(BaseExecutor):  # type: ignore[misc]
    """
    An executor that runs nothing: it keeps what is due until the loop takes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._submitted: Callable[[], float] | None = None

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self._submitted = job.func

    def take(self) -> Callable[[], float] | None:
        """
        What was submitted since the last call.
        """
        job, self._submitted = self._submitted, None
        return job

    def done(self) -> None:
        """
        Count the job as ended, without which it would not be submitted again.
        """
        self._run_job_success(_JOB, [])

"""
The scheduler with its real thread; only the wall clock that APScheduler reads is a seam.

Every wait has an event and a generous limit: a limit that is reached is a failure, never a
measurement.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from queue import Empty, SimpleQueue

import pytest

from heap_agent._upload.scheduler import Scheduler

#: Seconds that nothing here needs unless it hangs.
LONG = 20.0

#: A delay that must not pass within a test.
NEVER = 3_000.0


class SteppingUTC(tzinfo):
    """UTC as told by a clock that can be set wrong: `datetime.now(zone)` goes through it."""

    def __init__(self) -> None:
        self.error = timedelta()
        self.asked = 0

    def fromutc(self, dt: datetime) -> datetime:
        self.asked += 1
        return dt + self.error

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta()

    def dst(self, dt: datetime | None) -> timedelta:
        return timedelta()

    def tzname(self, dt: datetime | None) -> str:
        return "UTC"


class Job:
    """Returns what the test says, and lets it see and hold every run."""

    def __init__(self, *returns: float | BaseException) -> None:
        self.returns = list(returns)
        self.ran: SimpleQueue[int] = SimpleQueue()
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self) -> float:
        self.ran.put(threading.get_ident())
        assert self.may_end.wait(LONG)
        result = self.returns.pop(0) if self.returns else NEVER
        if isinstance(result, BaseException):
            raise result
        return result

    def wait(self) -> int:
        """Wait for the next run; its thread."""
        return self.ran.get(timeout=LONG)

    def has_run(self) -> bool:
        """Whether a run is there that nobody waited for."""
        return not self.ran.empty()


Make = Callable[..., Scheduler]


@pytest.fixture(name="make")
def _make() -> Iterator[Make]:
    made: list[Scheduler] = []

    def make(job: Callable[[], float], zone: tzinfo = timezone.utc) -> Scheduler:
        made.append(Scheduler(job, name="test sender", zone=zone))
        return made[-1]

    yield make
    for scheduler in made:
        assert scheduler.stop(LONG)


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; for states that have no event."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_runs_the_job_again_after_the_seconds_that_it_returned(make: Make) -> None:
    """The job runs once per delay, always on the one thread, which is a daemon."""
    job = Job(0.0, 0.01, 0.02)
    make(job).start()

    threads = {job.wait() for _ in range(4)}

    assert len(threads) == 1
    [thread] = [t for t in threading.enumerate() if t.ident in threads]
    assert thread.daemon
    assert thread.name == "test sender"
    assert not job.has_run()


def test_starts_no_thread_but_its_own(make: Make) -> None:
    """After several runs there is one thread more than before."""
    before = threading.active_count()
    job = Job(0.0, 0.0)
    make(job).start()
    for _ in range(3):
        job.wait()

    assert threading.active_count() == before + 1


def test_waits_for_the_first_delay(make: Make) -> None:
    """A start with a delay does not run the job at once."""
    job = Job()
    scheduler = make(job)
    scheduler.start(NEVER)
    until(lambda: "wake-ups 1" in repr(scheduler))

    assert not job.has_run()


def test_a_second_start_does_nothing(make: Make) -> None:
    """Starting twice leaves one thread and one run."""
    job = Job()
    scheduler = make(job)
    scheduler.start()
    before = threading.active_count()
    scheduler.start()
    job.wait()

    assert threading.active_count() == before


def test_run_after_brings_the_next_run_forward(make: Make) -> None:
    """A waiting job runs at once when it is asked to."""
    job = Job()
    scheduler = make(job)
    scheduler.start(NEVER)
    scheduler.run_after(0.0)

    job.wait()


def test_run_after_puts_the_next_run_off(make: Make) -> None:
    """The last call wins while the job waits, also when it is the later one."""
    job = Job()
    scheduler = make(job)
    scheduler.start(NEVER)
    scheduler.run_after(LONG)
    scheduler.run_after(NEVER)
    until(lambda: "next run in 29" in repr(scheduler))

    assert not job.has_run()


def test_run_after_while_the_job_runs_takes_the_earlier_of_the_two(make: Make) -> None:
    """Work that comes during a run is not forgotten when the job returns a long wait."""
    job = Job(NEVER)
    job.may_end.clear()
    scheduler = make(job)
    scheduler.start()
    job.wait()
    scheduler.run_after(NEVER)
    scheduler.run_after(0.0)
    scheduler.run_after(NEVER)
    job.may_end.set()

    job.wait()


def test_run_after_while_the_job_runs_does_not_put_it_off(make: Make) -> None:
    """A later wish during a run loses against an earlier return value."""
    job = Job(0.0)
    job.may_end.clear()
    scheduler = make(job)
    scheduler.start()
    job.wait()
    scheduler.run_after(NEVER)
    job.may_end.set()

    job.wait()


def test_wishes_during_a_run_take_no_memory(make: Make) -> None:
    """However often a busy scheduler is asked, one message stands for all later wishes."""
    job = Job()
    job.may_end.clear()
    scheduler = make(job)
    scheduler.start()
    job.wait()
    for _ in range(10_000):
        scheduler.run_after(NEVER)
    waiting = len(scheduler._messages)
    job.may_end.set()

    assert waiting == 1


def test_run_after_never_waits_for_a_busy_job(make: Make) -> None:
    """Another thread can ask for a run while the job is stuck in the network."""
    job = Job()
    job.may_end.clear()
    scheduler = make(job)
    scheduler.start()
    job.wait()
    asker = threading.Thread(target=scheduler.run_after, args=(0.0,))
    asker.start()
    asker.join(LONG)
    asked = not asker.is_alive()
    job.may_end.set()

    assert asked


def test_the_job_may_ask_for_itself(make: Make) -> None:
    """A call from inside the job is taken like any other."""
    ran: SimpleQueue[None] = SimpleQueue()

    def job() -> float:
        ran.put(None)
        scheduler.run_after(0.01)
        return NEVER

    scheduler = make(job)
    scheduler.start()
    ran.get(timeout=LONG)

    ran.get(timeout=LONG)


def test_many_threads_asking_lose_no_run(make: Make) -> None:
    """After a storm of wishes the last of them is still followed by a run."""
    job = Job()
    scheduler = make(job)
    scheduler.start(NEVER)

    def storm() -> None:
        for _ in range(300):
            scheduler.run_after(0.0)

    threads = [threading.Thread(target=storm) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    # All messages have been read by then, or this one stands behind them.
    until(lambda: not len(scheduler._messages) and "waiting, next run in 29" in repr(scheduler))
    while job.has_run():
        job.wait()
    scheduler.run_after(0.0)

    job.wait()


@pytest.mark.parametrize("days", [-400, 400])
def test_a_wall_clock_that_jumps_does_not_stall_delivery(make: Make, days: int) -> None:
    """The job runs after its delay although the wall clock was set meanwhile."""
    zone = SteppingUTC()
    job = Job(0.3, 0.05)
    scheduler = make(job, zone)
    scheduler.start()
    job.wait()
    until(lambda: "waiting" in repr(scheduler))
    zone.error = timedelta(days=days)

    job.wait()
    job.wait()

    assert "runs 2" in repr(scheduler) or "runs 3" in repr(scheduler)


def test_a_wall_clock_that_jumps_ahead_does_not_cut_a_wait_short(make: Make) -> None:
    """A back-off lasts as long as it was meant to, although the calendar says it is over."""
    zone = SteppingUTC()
    job = Job()
    scheduler = make(job, zone)
    scheduler.start(NEVER)
    until(lambda: "wake-ups 1" in repr(scheduler))
    zone.error = timedelta(days=400)
    scheduler.run_after(NEVER)
    until(lambda: "wake-ups 2" in repr(scheduler))

    assert not job.has_run()


def test_a_clock_that_runs_backwards_neither_stalls_nor_spins(make: Make) -> None:
    """With a step back before every run, each run costs a few looks at the clock."""
    zone = SteppingUTC()
    ran: SimpleQueue[None] = SimpleQueue()

    def job() -> float:
        # The job is armed after it returns, and the clock steps while it waits.
        threading.Timer(0.005, step).start()
        ran.put(None)
        return 0.03

    def step() -> None:
        zone.error -= timedelta(hours=1)

    scheduler = make(job, zone)
    scheduler.start()
    for _ in range(10):
        ran.get(timeout=LONG)
    assert scheduler.stop(LONG)

    assert zone.asked < 300


def test_an_idle_scheduler_does_not_wake_up(make: Make) -> None:
    """Between two runs the thread sleeps, and APScheduler is not asked."""
    zone = SteppingUTC()
    scheduler = make(Job(), zone)
    scheduler.start(NEVER)
    until(lambda: "wake-ups 1" in repr(scheduler))
    until(lambda: zone.asked > 0)
    asked = zone.asked
    time.sleep(0.3)

    assert "wake-ups 1," not in repr(scheduler)
    assert "wake-ups 1]" in repr(scheduler)
    assert zone.asked <= asked + 2


@pytest.mark.parametrize(
    "result",
    [ValueError("broken"), SystemExit(3), KeyboardInterrupt(), float("nan"), None, "soon"],
    ids=repr,
)
def test_a_job_that_fails_runs_again(
    make: Make, result: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a job raises or returns, it is logged once and the next run comes in a minute."""
    job = Job(result, result)  # type: ignore[arg-type]
    scheduler = make(job)
    with caplog.at_level(logging.DEBUG, logger="heap_agent.upload"):
        scheduler.start()
        job.wait()
        until(lambda: "waiting, next run in 59." in repr(scheduler))
        scheduler.run_after(0.0)
        job.wait()
        until(lambda: "runs 2" in repr(scheduler))
        until(lambda: "waiting, next run in 59." in repr(scheduler))

    [record] = caplog.records
    assert record.name == "heap_agent.upload"
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


class BrokenUTC(SteppingUTC):
    """A wall clock that cannot be read, as beyond the year 9999, until it is mended."""

    broken = True

    def fromutc(self, dt: datetime) -> datetime:
        if self.broken:
            raise OverflowError("date value out of range")
        return super().fromutc(dt)


def test_a_fault_of_the_clockwork_does_not_end_delivery(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """When APScheduler itself fails, that is logged once, and the thread tries again later."""
    zone = BrokenUTC()
    job = Job()
    scheduler = make(job, zone)
    scheduler.start()
    until(lambda: "next run in 59." in repr(scheduler))
    scheduler.run_after(0.0)
    until(lambda: "wake-ups 2" in repr(scheduler))
    zone.broken = False
    scheduler.run_after(0.0)

    job.wait()
    [record] = caplog.records
    assert "OverflowError: date value out of range" in record.getMessage()


def test_a_negative_wait_is_none(make: Make) -> None:
    """A job that is late already runs at once."""
    job = Job(-5.0)
    make(job).start(-1.0)
    job.wait()

    job.wait()


def test_a_wait_beyond_the_calendar_is_cut(make: Make) -> None:
    """A job may ask never to be run again by itself, and can still be woken."""
    job = Job(float("inf"))
    scheduler = make(job)
    scheduler.start()
    job.wait()
    until(lambda: "waiting" in repr(scheduler))
    scheduler.run_after(1e300)
    scheduler.run_after(0.0)

    job.wait()


def test_stop_makes_one_last_call_on_the_same_thread(make: Make) -> None:
    """The final drain runs where the job ran, and gets the seconds that are left."""
    job = Job()
    scheduler = make(job)
    scheduler.start()
    thread = job.wait()
    calls: list[tuple[int, float]] = []
    stopped = scheduler.stop(LONG, lambda left: calls.append((threading.get_ident(), left)))

    assert stopped
    [(called_on, left)] = calls
    assert called_on == thread
    assert 0 < left <= LONG
    assert not job.has_run()


def test_stop_waits_no_longer_than_asked_for_a_busy_job(make: Make) -> None:
    """A job that is stuck makes stop return False; it ends afterwards, without the last call."""
    job = Job()
    job.may_end.clear()
    scheduler = make(job)
    scheduler.start()
    job.wait()
    calls: list[float] = []
    stopped = scheduler.stop(0.05, calls.append)
    job.may_end.set()

    assert not stopped
    assert scheduler.stop(LONG)
    assert calls == []


def test_a_last_call_that_is_too_slow_is_not_waited_for(make: Make) -> None:
    """The limit holds for the last call as well."""
    may_end = threading.Event()
    scheduler = make(Job())
    scheduler.start(NEVER)

    def last(left: float) -> None:
        may_end.wait(LONG)

    stopped = scheduler.stop(0.2, last)
    may_end.set()

    assert not stopped


def test_stop_interrupts_a_job_that_wants_to_run_for_ever(make: Make) -> None:
    """A job that always returns 0 does not keep the thread alive."""
    ran = threading.Event()

    def job() -> float:
        ran.set()
        return 0.0

    scheduler = make(job)
    scheduler.start()

    assert ran.wait(LONG)
    assert scheduler.stop(LONG)


def test_stop_can_be_called_again_and_before_start(make: Make) -> None:
    """Without a thread there is nothing to stop, and no last call."""
    calls: list[float] = []
    scheduler = make(Job())

    assert scheduler.stop(1.0, calls.append)
    scheduler.start()
    assert scheduler.stop(LONG)
    assert scheduler.stop(0.0, calls.append)
    assert calls == []


def test_a_last_call_that_raises_is_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The thread ends all the same."""

    def last(left: float) -> None:
        raise OSError("disk")

    scheduler = make(Job())
    scheduler.start(NEVER)

    assert scheduler.stop(LONG, last)
    assert "OSError: disk" in caplog.text


def test_the_job_may_stop_its_own_scheduler(make: Make) -> None:
    """It is not waited for then, and no further run comes."""
    answers: SimpleQueue[bool] = SimpleQueue()

    def job() -> float:
        answers.put(scheduler.stop(LONG))
        return 0.0

    scheduler = make(job)
    scheduler.start()

    assert answers.get(timeout=LONG) is False
    assert scheduler.stop(LONG)
    with pytest.raises(Empty):
        answers.get_nowait()


def test_run_after_a_stop_is_ignored(make: Make) -> None:
    """A stopped scheduler does not collect wishes."""
    job = Job()
    scheduler = make(job)
    scheduler.start(NEVER)
    assert scheduler.stop(LONG)
    scheduler.run_after(0.0)

    assert not len(scheduler._messages)
    assert not job.has_run()


def test_repr_tells_state_and_counts(make: Make) -> None:
    """The repr follows the scheduler through its life."""
    job = Job()
    scheduler = make(job)
    assert repr(scheduler) == "<Scheduler 'test sender' [new, runs 0, wake-ups 0]>"

    job.may_end.clear()
    scheduler.start()
    job.wait()
    until(lambda: "[running, runs 0" in repr(scheduler))
    job.may_end.set()
    until(lambda: "[waiting, next run in " in repr(scheduler))
    scheduler.stop(LONG)
    assert "[stopped, runs 1" in repr(scheduler)


def test_apscheduler_does_not_chatter_in_the_hosts_log(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """With everything logged at DEBUG, several runs and a stop say nothing."""
    caplog.set_level(logging.DEBUG)
    job = Job(0.0, 0.0)
    scheduler = make(job)
    scheduler.start()
    for _ in range(3):
        job.wait()
    scheduler.stop(LONG)

    assert caplog.records == []


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, with warnings shown."""
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("zone", ["Nowhere/Atlantis", ":/etc/passwd", "EST5EDT,M3.2.0"])
def test_an_odd_time_zone_does_not_matter(zone: str) -> None:
    """TZ is never looked at, and nothing is printed."""
    result = run_python(
        """
        import threading
        from heap_agent._upload.scheduler import Scheduler
        ran = threading.Event()
        scheduler = Scheduler(lambda: ran.set() or 3000.0, name="sender")
        scheduler.start()
        print(ran.wait(20), scheduler.stop(20))
        """,
        TZ=zone,
    )

    assert (result.stdout, result.stderr, result.returncode) == ("True True\n", "", 0)


def test_no_entry_point_is_needed() -> None:
    """A frozen program, which has no metadata of its distributions, runs the job as well."""
    result = run_python(
        """
        import importlib.metadata, threading
        importlib.metadata.entry_points = lambda **_: ()
        from heap_agent._upload.scheduler import Scheduler
        ran = threading.Event()
        scheduler = Scheduler(lambda: ran.set() or 3000.0, name="sender")
        scheduler.start()
        print(ran.wait(20), scheduler.stop(20))
        """
    )

    assert (result.stdout, result.stderr, result.returncode) == ("True True\n", "", 0)


def test_the_last_call_is_made_at_interpreter_exit() -> None:
    """An atexit hook can still have the final drain, on the thread that there is."""
    result = run_python(
        """
        import atexit, threading
        from heap_agent._upload.scheduler import Scheduler
        scheduler = Scheduler(lambda: 3000.0, name="sender")
        scheduler.start()
        last = lambda left: print("last call on", threading.current_thread().name, flush=True)
        atexit.register(lambda: print(scheduler.stop(20, last)))
        """
    )

    assert result.stdout == "last call on sender\nTrue\n"
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_stuck_job_does_not_hold_up_the_exit() -> None:
    """A program ends although the job never does, once the limit of stop is over."""
    result = run_python(
        """
        import atexit, threading
        from heap_agent._upload.scheduler import Scheduler
        stuck, running = threading.Event(), threading.Event()
        scheduler = Scheduler(lambda: running.set() or stuck.wait() or 0.0, name="sender")
        scheduler.start()
        running.wait(20)
        atexit.register(lambda: print(scheduler.stop(0.1)))
        """
    )

    assert (result.stdout, result.stderr, result.returncode) == ("False\n", "", 0)


def test_a_thread_that_cannot_be_started_is_told_and_can_be_tried_again() -> None:
    """A start that fails, as it does at interpreter exit, leaves the scheduler as it was."""
    result = run_python(
        """
        import threading
        from heap_agent._upload.scheduler import Scheduler
        ran = threading.Event()
        scheduler = Scheduler(lambda: ran.set() or 3000.0, name="sender")
        # No address space holds a stack of this size.
        usual = threading.stack_size(1 << 60)
        try:
            scheduler.start()
        except RuntimeError:
            print(scheduler.stop(20))
        threading.stack_size(usual)
        scheduler.start()
        print(ran.wait(20), scheduler.stop(20))
        """
    )

    assert (result.stdout, result.stderr, result.returncode) == ("True\nTrue True\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is what is tested")
def test_a_forked_child_starts_a_scheduler_of_its_own() -> None:
    """The parent's thread is not there in the child; stopping it there returns at once."""
    result = run_python(
        """
        import os, threading
        from heap_agent._upload.scheduler import Scheduler
        ran = threading.Event()
        parents = Scheduler(lambda: ran.set() or 3000.0, name="sender")
        parents.start()
        ran.wait(20)
        child = os.fork()
        if child == 0:
            again = threading.Event()
            own = Scheduler(lambda: again.set() or 3000.0, name="sender")
            own.start()
            os._exit(0 if parents.stop(0.0) and again.wait(20) and own.stop(20) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), parents.stop(20))
        """
    )

    assert result.stdout == "0 True\n"

"""
The main job on the embedded defaults: record offline, be killed, start again,
deliver through trouble, and compare from outside.

Nothing is staged. The recording processes are real and share nothing with this
one but a directory, a pipe for what they have acknowledged, and the collector's
address; where the kill strikes is up to chance.

This module must not know terminals.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from heap_agent import _config
from heap_agent._core import limits
from heap_agent._status import Status, look
from heap_agent._store import outlook, system
from heap_agent._tools import demo_recorder
from heap_agent._tools.collector_script import Admission, Drop, Fault, Reply
from heap_agent.testing import Collector, Event

__all__ = ["DemoFailed", "Result", "compare", "run"]

#: Seconds after which a process that does not come to an end is given up.
_PATIENCE: Final = 120.0

_POLL: Final = 0.02

#: A call: which run, and its number there.
_Call = tuple[int, int]


class DemoFailed(Exception):
    """
    A recording process could not be started, ended by itself, or never.
    """


class Observer(Protocol):
    """
    Whom the demo keeps informed.
    """

    def begin(self, what: str, total: int) -> None:
        """The next phase, and how much there is to do in it."""

    def at(self, number: int) -> None:
        """So much of it is done."""


# -- what was found ----------------------------------------------------------------


@attrs.frozen(slots=True)
class Comparison:
    """
    What was acknowledged, held against what arrived.

    Attributes:
        acknowledged: Calls of `track` that returned.
        arrived_once: Of these, those that Heap would count once.
        lost: Of these, those that never arrived.
        arrived_twice: Calls that Heap would count twice: under two keys, or
            under one key with other bytes.
        unacknowledged: Events of calls that the kill cut short after the record
            was written.
        received_again: Events that came again, byte for byte, under the key that
            they had before: Heap drops these.
    """

    acknowledged: int
    arrived_once: int
    lost: int
    arrived_twice: int
    unacknowledged: int
    received_again: int


@attrs.frozen(slots=True)
class Result:
    """
    The end of the demo.

    Attributes:
        status: The agent's books, read after it had ended.
        outside: What acknowledgements and collector say.
        story: What was done, a sentence for each step.
        problems: What is wrong with the store or the books.
        seconds: How long it took.
        directory: Where everything is kept; None where it was removed.
    """

    status: Status
    outside: Comparison
    story: tuple[str, ...]
    problems: tuple[str, ...]
    seconds: float
    directory: str | None

    @property
    def good(self) -> bool:
        """Whether nothing was lost, nothing came twice, and the books are right."""
        return not (self.outside.lost or self.outside.arrived_twice or self.problems)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.good:
            return f"Nothing lost, nothing twice, in {self.seconds:.1f} s."
        return (
            f"FAILED: {self.outside.lost:,} lost, {self.outside.arrived_twice:,} twice, "
            f"{len(self.problems)} problems with the books."
        )

    @property
    def comparison(self) -> tuple[tuple[str, int, bool, str], ...]:
        """Rows for people: what, how many, whether that is bad, and a remark."""
        found = self.outside
        return (
            ("calls acknowledged", found.acknowledged, False, "track() had returned"),
            ("arrived once", found.arrived_once, False, ""),
            ("lost", found.lost, True, ""),
            ("arrived twice", found.arrived_twice, True, ""),
            (
                "arrived unacknowledged",
                found.unacknowledged,
                False,
                "cut short by the kill, yet recorded" if found.unacknowledged else "",
            ),
            (
                "received again, same key",
                found.received_again,
                False,
                "Heap drops these" if found.received_again else "",
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """
        For JSON.
        """
        status = self.status
        return {
            "good": self.good,
            "recorded": status.recorded,
            "queued": status.queued,
            "delivered": status.delivered,
            "dead": status.dead,
            "dropped": status.dropped,
            **attrs.asdict(self.outside),
            "problems": list(self.problems),
            "story": list(self.story),
            "seconds": round(self.seconds, 3),
            "directory": self.directory,
        }


def compare(
    acknowledged: set[_Call], arrived: list[Event], again: list[Event], changed: int
) -> Comparison:
    """
    Hold what was acknowledged against what arrived.

    Args:
        acknowledged: Calls that returned.
        arrived: Events that Heap would count: one for each key.
        again: Events that came under a known key.
        changed: How many of these had other bytes than the first time.
    """
    counts = Counter(map(_call, arrived))
    return Comparison(
        acknowledged=len(acknowledged),
        arrived_once=sum(counts[call] == 1 for call in acknowledged),
        lost=sum(counts[call] == 0 for call in acknowledged),
        arrived_twice=sum(number > 1 for number in counts.values()) + changed,
        unacknowledged=len(counts.keys() - acknowledged),
        received_again=len(again) - changed,
    )


def _call(event: Event) -> _Call:
    return int(event.properties["run"]), int(event.properties["n"])


# -- what is done ------------------------------------------------------------------


def run(events: int, observer: Observer, *, keep: bool = False) -> Result:
    """
    Do it all.

    Args:
        events: About how many to record, 2 or more.
        observer: Kept informed.
        keep: Leave the state directory there.

    Raises:
        DemoFailed: A recording process ended by itself, or never; or this is a frozen
            program, which has no Python to start.
        OSError: No process, port or directory could be had.
    """
    if getattr(sys, "frozen", False):
        raise DemoFailed("a frozen program has no Python that could be started, and killed")
    began = time.monotonic()
    # The collector's port is bound, but until it is started nobody answers there.
    with _workplace(keep) as place, closing(_FaultyCollector()) as collector:
        story: list[str] = []
        calls = _record_and_kill(place, collector, events, observer, story)
        left = max(events - len(calls), events // 4, 1)
        calls |= _record_and_deliver(place, collector, left, len(calls), observer, story)
        status, problems = _inspect(place / "state")
        arrived = collector.events(demo_recorder.EVENT)
        if status.delivered != len(arrived):
            problems.append(
                f"the agent counts {status.delivered} delivered events, {len(arrived)} arrived"
            )
        return Result(
            status=status,
            outside=compare(calls, arrived, collector.duplicates, len(collector.conflicts)),
            story=tuple(story),
            problems=tuple(problems),
            seconds=time.monotonic() - began,
            directory=str(place / "state") if keep else None,
        )


def _record_and_kill(
    place: Path, collector: Collector, events: int, observer: Observer, story: list[str]
) -> set[_Call]:
    """The first process: no network, and no end but SIGKILL."""
    strike = max(1, round(events * random.uniform(0.4, 0.6)))
    observer.begin("recording, no network", strike)
    recorder = _Recorder(place, collector.url, run=1, kill_at=strike)
    with recorder:
        while recorder.wait(_POLL) is None:
            observer.at(min(recorder.count, strike))
    if not recorder.was_killed:
        raise DemoFailed(f"the first recording process ended by itself: {recorder.last_words}")
    story.append(f"Process {recorder.pid} recorded {recorder.count:,} events without a network.")
    story.append(f"It was killed with {_KILL} in the middle of that.")
    return recorder.calls


def _record_and_deliver(
    place: Path,
    collector: Collector,
    events: int,
    before: int,
    observer: Observer,
    story: list[str],
) -> set[_Call]:
    """The second process: goes on, and meets the network when it comes back."""
    observer.begin("killed: a second one records on", events)
    recorder = _Recorder(place, collector.url, run=2, number=events)
    with recorder:
        while recorder.count < events // 2 and recorder.wait(_POLL) is None:
            observer.at(recorder.count)
        collector.start()
        story.append(
            f"Process {recorder.pid} went on with {events:,} more, as {demo_recorder.IDENTITY}."
        )
        while recorder.count < events and recorder.wait(_POLL) is None:
            observer.at(recorder.count)
        observer.begin("the network is back: delivering", before + events)
        while recorder.wait(_POLL) is None:
            observer.at(len(collector.events()))
    if recorder.returncode not in (0, demo_recorder.NOT_DELIVERED):
        raise DemoFailed(f"the second recording process failed: {recorder.last_words}")
    story.append("Meanwhile the network came back, with a cut connection, a 500 and a 429.")
    story.append(
        f"After {len(collector.requests):,} requests Heap would know {len(collector.events()):,} "
        f"events of {_users(collector)}."
    )
    return recorder.calls


def _users(collector: Collector) -> str:
    number = len(collector.users)
    return "one user" if number == 1 else f"{number} users"


def _inspect(directory: Path) -> tuple[Status, list[str]]:
    """The books and their faults, after everybody has left."""
    config = _config.load({"app_id": demo_recorder.APP_ID}, {}, ()).config
    status = look(directory, config, system.Clock(), ())
    problems = outlook.check(directory)
    if not status.balanced:
        problems.append("the books do not balance")
    problems += [
        f"{getattr(status, name)} events are {name}"
        for name in ("queued", "dead", "dropped")
        if getattr(status, name)
    ]
    return status, problems


class _FaultyCollector(Collector):
    """
    A strict collector whose first answers to events are troubled; the worst first:
    the events are accepted, and the agent does not know.
    """

    def __init__(self) -> None:
        super().__init__()
        self._faults: deque[Fault] = deque([Drop(handled=True), Reply(500), Reply.throttled(1)])

    def admit(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Admission:
        """
        Note a request, and have the next fault befall it if it brings events.
        """
        admission = super().admit(method, path, headers, body)
        if method == "POST" and path == limits.TRACK_PATH and self._faults:
            return attrs.evolve(admission, fault=self._faults.popleft())
        return admission


# -- the processes -----------------------------------------------------------------

_KILL: Final = "SIGKILL" if os.name == "posix" else "TerminateProcess"


class _Recorder:
    """
    A recording process, and what it has acknowledged so far.

    Args:
        place: Of its state directory and its log.
        url: Where it is to deliver.
        run: Number of the run.
        number: How many events; 0: until it is killed.
        kill_at: Kill it as soon as so many are acknowledged.
    """

    def __init__(
        self, place: Path, url: str, *, run: int, number: int = 0, kill_at: int | None = None
    ) -> None:
        self._run = run
        self._kill_at = kill_at
        self._log = place / f"recorder-{run}.log"
        self._acknowledged = bytearray()
        self.was_killed = False
        self.returncode: int | None = None
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", demo_recorder.__name__),
                    *(str(place / "state"), url, str(run), str(number)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(os.environ, place),
            )
        self.pid = self._process.pid
        self._deadline = time.monotonic() + _PATIENCE
        self._reader = threading.Thread(target=self._read, name="heap-agent-demo", daemon=True)
        self._reader.start()

    def __enter__(self) -> _Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def count(self) -> int:
        """How many calls were acknowledged."""
        return len(self._acknowledged) // demo_recorder.NUMBER_BYTES

    @property
    def calls(self) -> set[_Call]:
        """The calls that were acknowledged, once the process has ended."""
        size = demo_recorder.NUMBER_BYTES
        data = bytes(self._acknowledged)
        return {
            (self._run, int.from_bytes(data[at : at + size], "little"))
            for at in range(0, self.count * size, size)
        }

    @property
    def last_words(self) -> str:
        """The last line that the process wrote to its standard error."""
        lines = self._log.read_text("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def wait(self, seconds: float) -> int | None:
        """
        Wait for the end of the process.

        Returns:
            Its exit code; None where it is still running.

        Raises:
            DemoFailed: It should have come to an end long ago.
        """
        try:
            self.returncode = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if time.monotonic() > self._deadline:
                raise DemoFailed(
                    f"process {self.pid} did not come to an end in {_PATIENCE:.0f} s; "
                    f"it acknowledged {self.count:,} calls"
                ) from None
        return self.returncode

    def _read(self) -> None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while chunk := os.read(pipe, 65_536):
            self._acknowledged += chunk
            if self._kill_at is not None and self.count >= self._kill_at and not self.was_killed:
                self.was_killed = self._process.poll() is None
                self._process.kill()


def _environment(environment: Mapping[str, str], place: Path) -> dict[str, str]:
    """This process's environment, without what configures agents on this machine."""
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(_config.PREFIX) and name != "DO_NOT_TRACK"
    }
    return {**kept, "XDG_CONFIG_HOME": str(place)}


@contextmanager
def _workplace(keep: bool) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="heap-agent-demo-"))
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)

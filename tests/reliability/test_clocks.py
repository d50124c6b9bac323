"""
Wall clocks that are wrong, and stepped under a living agent with the real scheduler;
machines that are suspended, or started again and again without a network.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Final

import pytest
from helpers import balanced, eventually
from trials import dice, tries

from heap_agent import Agent
from heap_agent._core.clock import RELEASE_MARK
from heap_agent.testing import Collector, Reply

TESTS: Final = Path(__file__).parents[1]
PROGRAM: Final = TESTS / "programs" / "timed.py"

HOUR: Final = 3_600.0
YEAR: Final = 365.25 * 86_400

#: Where a clock without a battery starts.
DAWN: Final = 60.0

#: How far from the truth a timestamp may be after repair.
CLOSE: Final = 2.0

Figure = Callable[[str, object], None]


class World:
    """
    The true time, which may go by without anybody waiting for it; the collector's clock.
    """

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.skipped

    def wall_ns(self) -> int:
        """The same in nanoseconds."""
        return time.time_ns() + round(self.skipped * 1e9)

    def boot_ns(self) -> int:
        """Nanoseconds on a clock that never goes back."""
        return time.monotonic_ns() + round(self.skipped * 1e9)


class Device:
    """
    A program whose clocks can be set, and the true time of all that it recorded.
    """

    #: Seconds that anything may take.
    patience = 30.0

    def __init__(
        self, shim: Path, place: Path, world: World, collector: Collector, mutant: str = ""
    ) -> None:
        self.directory = place / "state"
        self.world = world
        self.collector = collector
        self.truth: list[float] = []
        self.offset = 0.0
        self._shim = shim
        self._mutant = mutant
        # By the boot clock of the real machine: yesterday.
        self._started_at = time.clock_gettime(time.CLOCK_BOOTTIME) - 24 * HOUR
        self._offsets = place / "offsets"
        self._offsets.write_bytes(bytes(16))
        self._boot_id = place / "boot_id"
        self._boot_id.write_text(str(uuid.uuid4()))
        self._process: subprocess.Popen[str] | None = None

    def set_clock(self, offset: float) -> None:
        """Let the wall clock be so many seconds from the truth."""
        self.offset = offset
        self._write()

    def start(self) -> None:
        """Start the program."""
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                str(self.directory),
                self.collector.url,
                *filter(None, [self._mutant]),
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                "LD_PRELOAD": str(self._shim),
                "CLOCK_OFFSETS": str(self._offsets),
                "CLOCK_BOOT_ID": str(self._boot_id),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def record(self, count: int = 3) -> None:
        """Record the next so many events."""
        for _ in range(count):
            seen = float(self._ask(str(len(self.truth))))
            self.truth.append(self.world.now())
            assert abs(seen - self.offset - self.truth[-1]) < 1, "the clock is not shifted"

    def suspend(self, seconds: float, *, wall_goes_on: bool = True) -> None:
        """Let the machine sleep; afterwards the boot clock has counted that."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)
        self.world.skipped += seconds
        self.set_clock(self.offset - (0.0 if wall_goes_on else seconds))
        os.kill(self._process.pid, signal.SIGCONT)

    def restart_machine(self, off: float, wall: float) -> None:
        """Switch a machine off for so long, and start it with a wall clock."""
        self.world.skipped += off
        self._started_at = time.clock_gettime(time.CLOCK_BOOTTIME) + self.world.skipped - 20
        self._boot_id.write_text(str(uuid.uuid4()))
        self.set_clock(wall - self.world.now())
        self.start()

    def is_told_to_wait(self, seconds: int) -> None:
        """Record something, and let the server say that nothing may leave for so long."""
        self.collector.reply(Reply.throttled(seconds, status=503))
        asked = len(self.collector.requests)
        self.record()
        eventually(lambda: len(self.collector.requests) > asked)
        time.sleep(1.3)  # for the answer to be noted, and the keeper to have looked

    def arrives(self) -> None:
        """Wait until all that was recorded has been delivered, by the program itself."""
        eventually(lambda: len(self.collector.events("Recorded")) >= len(self.truth), self.patience)

    def end(self) -> None:
        """End the program, which says nothing of any trouble."""
        assert self._process is not None
        if self._process.poll() is None:
            _, errors = self._process.communicate(timeout=30)
            assert (self._process.returncode, errors) == (0, "")

    def kill(self) -> None:
        """End the program without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def stamps(self) -> list[float]:
        """
        The times at the collector, once the program has ended: of all that was recorded, in
        order, with the books in balance.
        """
        self.end()
        events = self.collector.events("Recorded")
        assert [event.properties["number"] for event in events] == list(range(len(self.truth)))
        stamps = [datetime.fromisoformat(moment(event.timestamp)).timestamp() for event in events]
        assert stamps == sorted(stamps)
        with Agent("11", directory=self.directory, endpoint=self.collector.url) as agent:
            balanced(agent)
        return stamps

    def assert_true(self) -> float:
        """Order and times at the collector are the truth; how far the worst was off."""
        pairs = zip(self.stamps(), self.truth, strict=True)
        off = max(abs(said - true) for said, true in pairs)
        assert off < CLOSE
        return off

    def flush(self) -> None:
        """Let the program deliver everything now."""
        assert self._ask("flush") == "True"

    def _ask(self, line: str) -> str:
        assert self._process is not None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().split()[1]

    def _write(self) -> None:
        skipped = self.world.skipped
        numbers = skipped + self.offset, skipped - self._started_at
        with open(self._offsets, "r+b", buffering=0) as file:
            file.write(struct.pack("=qq", *(round(number * 1e9) for number in numbers)))


def moment(text: object) -> str:
    """A timestamp as Python 3.10 reads it."""
    return str(text).replace("Z", "+00:00")


@pytest.fixture(name="world")
def _world() -> World:
    return World()


@pytest.fixture(name="collector")
def _collector(world: World) -> Iterator[Collector]:
    with Collector(clock=world) as collector:
        yield collector


@pytest.fixture(name="device")
def _device(
    clock_shim: Path, tmp_path: Path, world: World, collector: Collector
) -> Iterator[Callable[..., Device]]:
    devices: list[Device] = []

    def make(offset: float, mutant: str = "") -> Device:
        one = Device(clock_shim, tmp_path, world, collector, mutant)
        devices.append(one)
        one.set_clock(offset)
        one.start()
        return one

    yield make
    for one in devices:
        one.kill()


# -- what a device goes through: each ends with right times, or an AssertionError -----------


def starts_in_1970(one: Device) -> float:
    """Recorded in 1970 without a network; then the clock is stepped by 56 years."""
    one.record()
    time.sleep(2)
    one.set_clock(0)
    time.sleep(2)
    one.record()
    one.collector.start()
    one.arrives()
    return one.assert_true()


def is_set_back(one: Device) -> float:
    """The clock goes back by a year, while a delivery is due a moment later."""
    one.record()
    one.arrives()
    one.is_told_to_wait(3)
    one.set_clock(-YEAR)
    one.arrives()
    one.record()
    one.arrives()
    return one.assert_true()


def is_suspended(one: Device, *, wall_goes_on: bool = True) -> float:
    """The machine sleeps for an hour, in which a delivery that waits is due."""
    one.record()
    one.arrives()
    one.is_told_to_wait(300)  # far longer than anybody here has patience
    one.suspend(HOUR, wall_goes_on=wall_goes_on)
    one.record()
    one.arrives()
    one.record()
    one.arrives()
    return one.assert_true()


def is_suspended_offline(one: Device) -> float:
    """The machine sleeps for an hour, and there is a network afterwards."""
    one.record()
    time.sleep(1.5)
    one.suspend(HOUR)
    one.record()
    one.collector.start()
    one.arrives()
    return one.assert_true()


# -- clocks that are set ----------------------------------------------------------------------


def test_a_clock_that_starts_in_1970(
    device: Callable[..., Device], world: World, collector: Collector, figure: Figure
) -> None:
    """
    What was recorded in 1970 without a network gets its true time once the clock is stepped
    by 56 years.
    """
    collector.stop()
    figure("worst, s", f"{starts_in_1970(device(DAWN - world.now())):.3f}")


def test_a_clock_that_is_set_back(device: Callable[..., Device], figure: Figure) -> None:
    """
    Delivery goes on when the clock is set back by a year, and so do the times.
    """
    figure("worst, s", f"{is_set_back(device(0)):.3f}")


@pytest.mark.parametrize("killed", [True, False][: tries(1, 2)])
def test_a_step_while_no_program_runs(
    device: Callable[..., Device],
    world: World,
    collector: Collector,
    killed: bool,
    figure: Figure,
) -> None:
    """
    A step between two programs of one boot repairs what the first of them recorded, however
    that has ended.
    """
    collector.stop()
    one = device(DAWN - world.now())
    one.record()
    if killed:
        one.kill()  # before anybody but the records has seen that clock
    else:
        one.end()
    one.set_clock(0)
    one.start()
    time.sleep(2)
    one.record()
    collector.start()
    one.arrives()
    figure("worst, s", f"{one.assert_true():.3f}")


def test_a_clock_that_is_slewed(
    device: Callable[..., Device], collector: Collector, figure: Figure
) -> None:
    """
    A clock that is drawn to the truth in small pieces keeps the order, and is no step.
    """
    collector.stop()
    one = device(-1.0)
    for tenth in range(10):
        one.set_clock(-1.0 + tenth / 10)
        one.record(1)
        time.sleep(0.2)
    collector.start()
    one.arrives()
    figure("worst, s", f"{one.assert_true():.3f}")


# -- machines that sleep ----------------------------------------------------------------------


@pytest.mark.parametrize("wall_goes_on", [False, True][: tries(1, 2)])
def test_a_suspend(device: Callable[..., Device], wall_goes_on: bool, figure: Figure) -> None:
    """
    Times before, across and after a suspend are right, also where the wall clock stood
    still in it, and a delivery that was due meanwhile happens when the machine is awake.
    """
    figure("worst, s", f"{is_suspended(device(0), wall_goes_on=wall_goes_on):.3f}")


def test_a_suspend_without_a_network(
    device: Callable[..., Device], collector: Collector, figure: Figure
) -> None:
    """What was recorded before and after a suspend keeps its times until there is a network."""
    collector.stop()
    one = device(0)
    figure("worst, s", f"{is_suspended_offline(one):.3f}")


# -- machines that start again and again ------------------------------------------------------


def lives_without_a_network(one: Device, starts: Callable[[float], float]) -> list[int]:
    """
    Three more boots, each after an hour off and with a wall clock of `starts`, told the last
    that it showed; in the last one comes the right time, and then a network. How many
    events there were at the end of each boot.
    """
    ends = [len(one.truth)]
    for _ in range(3):
        one.end()
        one.restart_machine(HOUR, starts(one.world.now() + one.offset))
        one.record()
        ends.append(len(one.truth))
    time.sleep(1.5)
    one.set_clock(0)
    time.sleep(1.5)
    one.record()
    one.collector.start()
    one.flush()
    return ends


def boots_in_1970(one: Device, *, known_before: bool = False) -> float:
    """
    Boots in 1970 after one that knew the time, or did not either; how far the worst was off
    of what can be known.
    """
    one.record()
    if known_before:
        one.arrives()
    known = one.world.now() - CLOSE if known_before else RELEASE_MARK / 1e6
    one.collector.stop()
    first, *_, unknown, _ = lives_without_a_network(one, lambda _: DAWN)
    told = first if known_before else 0
    stamps = one.stamps()
    assert all(known <= said <= one.truth[unknown] for said in stamps[told:unknown])
    off = [abs(said - true) for said, true in zip(stamps, one.truth, strict=True)]
    worst = max(off[:told] + off[unknown:])
    assert worst < CLOSE
    return worst


@pytest.mark.parametrize("known_before", [True, False][: tries(1, 2)])
def test_boots_in_1970(
    device: Callable[..., Device],
    world: World,
    collector: Collector,
    known_before: bool,
    figure: Figure,
) -> None:
    """
    Several boots in 1970: the one in which the right time came is repaired, and the earlier
    ones, of which nobody knows when they were, lie in order between the last true time
    that was known and that one.
    """
    if not known_before:
        collector.stop()
    one = device(0 if known_before else DAWN - world.now())
    worst = boots_in_1970(one, known_before=known_before)
    figure("worst where it can be known, s", f"{worst:.3f}")


def test_boots_that_go_on_where_the_last_one_ended(
    device: Callable[..., Device], collector: Collector, figure: Figure
) -> None:
    """
    Several boots whose clocks go on at the last shutdown: the one in which the right time
    came is repaired, and the earlier ones are wrong by the hours in which the machine
    was off, in order.
    """
    one = device(0)
    one.record()
    one.arrives()
    collector.stop()
    first, second, unknown, _ = lives_without_a_network(one, lambda last: last)
    late = [true - said for said, true in zip(one.stamps(), one.truth, strict=True)]
    right = [abs(seconds) for seconds in late[:first] + late[unknown:]]
    figure("worst where it can be known, s", f"{max(right):.3f}")
    assert max(right) < CLOSE
    assert all(abs(seconds - HOUR) < CLOSE for seconds in late[first:second])
    assert all(abs(seconds - 2 * HOUR) < CLOSE for seconds in late[second:unknown])


def test_boots_that_start_at_the_same_saved_time(
    device: Callable[..., Device], world: World, collector: Collector, figure: Figure
) -> None:
    """
    Boots that begin at the same saved time, as nothing saved a later one before the power
    failed: their times overlap, and are in order all the same.
    """
    one = device(0)
    one.record()
    one.arrives()
    collector.stop()
    saved = world.now()
    for _ in range(tries(2, 3)):
        one.record()
        time.sleep(1.5)
        one.suspend(HOUR / 2)
        one.record()
        one.kill()
        one.restart_machine(HOUR, saved)
    one.record()
    time.sleep(1.5)
    one.set_clock(0)
    time.sleep(1.5)
    collector.start()
    one.flush()
    stamps = one.stamps()
    off = [abs(said - true) for said, true in zip(stamps, one.truth, strict=True)]
    figure("worst where it can be known, s", f"{max(off[:6] + off[-3:]):.3f}")
    assert max(off[:6] + off[-3:]) < CLOSE


# -- any of it ------------------------------------------------------------------------------


class Story:
    """
    What a device may go through, by chance: the network comes and goes, clocks are set, the
    machine sleeps, the program or the machine starts again.
    """

    #: How far from the truth clocks are set. Not ahead by less than a day: an earlier boot of
    #: such a clock is believed.
    ERRORS: Final = (0.0, 0.0, -HOUR, -40.0, -YEAR, YEAR)

    def __init__(self, one: Device, chance: Random) -> None:
        self._one = one
        self._chance = chance
        self._saved = one.world.now() + one.offset
        self._told = False  # in this boot, what the time is
        #: Of each event: whether a trusted Date came in its boot.
        self.known: list[bool] = []

    def run(self, acts: int) -> None:
        """Live through so much, and deliver it."""
        choices = [self.deliver, self.set_clock, self.sleep, self.start_again, self.reboot]
        for act in self._chance.choices(choices, k=acts):
            self._one.record(self._chance.randint(1, 3))
            act()
        self._one.record()
        self.deliver()
        self._boot_ends()

    def deliver(self) -> None:
        """There is a network for a moment."""
        self._one.collector.start()
        self._one.flush()
        self._one.collector.stop()
        self._told = True

    def set_clock(self) -> None:
        """Somebody sets the clock."""
        self._one.set_clock(self._chance.choice(self.ERRORS))
        time.sleep(1.3)

    def sleep(self) -> None:
        """The machine is suspended."""
        still = self._chance.random() < 0.3
        self._one.suspend(self._chance.uniform(60, 2 * HOUR), wall_goes_on=not still)
        time.sleep(1.3)

    def start_again(self) -> None:
        """The program ends or is killed, and starts again; meanwhile the clock may be set."""
        self._end()
        if self._chance.random() < 0.5:
            self._one.set_clock(self._chance.choice(self.ERRORS))
        self._one.start()

    def reboot(self) -> None:
        """The machine is switched off, and has one clock or another when it starts."""
        shown = self._one.world.now() + self._one.offset
        self._end()
        self._boot_ends()
        off = self._chance.uniform(60, 2 * HOUR)
        right = self._one.world.now() + off
        self._one.restart_machine(off, self._chance.choice([DAWN, shown, self._saved, right]))

    def _end(self) -> None:
        if self._chance.random() < 0.5:
            self._one.kill()
        else:
            self._one.end()

    def _boot_ends(self) -> None:
        self.known += [self._told] * (len(self._one.truth) - len(self.known))
        self._told = False


@pytest.mark.parametrize("number", range(tries(1, 12)))
def test_any_story(
    device: Callable[..., Device], collector: Collector, number: int, figure: Figure
) -> None:
    """
    Whatever happens to a device's clocks, all arrives once, in order and with times in
    order; they are true for each boot in which there was a network for once.
    """
    chance = dice("story of a clock", number)
    collector.stop()
    one = device(chance.choice(Story.ERRORS))
    story = Story(one, chance)
    story.run(acts=tries(4, 10))
    stamps = one.stamps()
    off = [
        abs(said - true)
        for said, true, known in zip(stamps, one.truth, story.known, strict=True)
        if known
    ]
    figure("events", len(stamps))
    figure("worst where it can be known, s", f"{max(off):.3f}")
    assert max(off) < CLOSE


# -- agents that are broken on purpose --------------------------------------------------------


@pytest.mark.parametrize(
    ("mutant", "story", "offset"),
    [
        ("times are not repaired", starts_in_1970, DAWN),
        ("the boot clock sleeps too", is_suspended_offline, None),
        ("delivery trusts the wall clock", is_set_back, None),
        ("nobody notices a suspend", is_suspended, None),
        # The first boot is a day old, and so later than the others by its own clock.
        ("every boot is the same", boots_in_1970, DAWN),
    ][: tries(2, 5)],
)
def test_a_broken_agent_is_found_out(
    device: Callable[..., Device],
    world: World,
    collector: Collector,
    mutant: str,
    story: Callable[[Device], float],
    offset: float | None,
) -> None:
    """The same stories end with wrong times, or without a delivery."""
    if story not in (is_set_back, is_suspended):
        collector.stop()
    one = device(0 if offset is None else offset - world.now(), mutant)
    one.patience = 6.0
    with pytest.raises(AssertionError):
        story(one)

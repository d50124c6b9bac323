"""
A daemon that watches a sensor for years, such as the temperature of a Raspberry Pi.

    HEAP_AGENT_APP_ID=11 python sensor_daemon.py

It needs `pip install systemd-watchdog`, and runs with systemd (sensor_daemon.service) or
without.

A reading becomes an event when it says something new, and once an hour to show that the
daemon lives. One each ten seconds would say no more, and wear an SD card out: each event
takes its part of the disk, of the network and of what Heap takes from one user.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import time
from pathlib import Path

from systemd_watchdog import WatchDog

from heap_agent import Agent

THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")

ENDINGS = {signal.SIGTERM, signal.SIGINT}


def read(path: Path) -> float | str:
    """Degrees, or why there are none; the file holds thousandths, as Linux's own do."""
    try:
        return int(path.read_text()) / 1000
    except OSError as error:
        return error.strerror or type(error).__name__
    except (ValueError, OverflowError):
        return "no number"


class Diary:
    """Tracks what is news; a sensor that fails is, too, but once and not at each attempt."""

    def __init__(self, agent: Agent, step: float, silence: float) -> None:
        self._agent = agent
        self._step = step
        self._silence = silence
        self._told: float | str | None = None
        self._told_at = 0.0

    def note(self, reading: float | str) -> None:
        # Not by the time of day, which jumps where no battery keeps it.
        now = time.monotonic()
        if not self._is_news(reading) and now - self._told_at < self._silence:
            return
        if isinstance(reading, float):
            self._agent.track("Temperature Read", {"celsius": reading})
        else:
            self._agent.track("Sensor Failed", {"reason": reading})
        self._told, self._told_at = reading, now

    def _is_news(self, reading: float | str) -> bool:
        if isinstance(reading, float) and isinstance(self._told, float):
            return abs(reading - self._told) >= self._step
        return reading != self._told


def watch(sensor: Path, diary: Diary, systemd: WatchDog, pause: float) -> None:
    """Read the sensor until somebody ends the daemon."""
    systemd.ready()
    while True:
        reading = read(sensor)
        diary.note(reading)
        systemd.status(str(reading))
        # Fed by the loop that does the work, so that a read that hangs is noticed. Whether
        # the network is there is no part of it: weeks without one are nothing to die of.
        # And not with ping(), which goes by the time of day.
        systemd.notify()
        if signal.sigtimedwait(ENDINGS, pause):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="Tells Heap how warm this device is.")
    parser.add_argument("--sensor", type=Path, default=THERMAL, metavar="FILE")
    parser.add_argument("--every", type=float, default=10, help="seconds between readings")
    parser.add_argument("--step", type=float, default=1, help="degrees that are news")
    parser.add_argument("--silence", type=float, default=3600, help="longest, in seconds")
    options = parser.parse_args()

    # For journalctl: what the agent says of its options, the disk and Heap's answers.
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")

    # The signals wait until the loop asks for them. A handler could interrupt anything, even
    # the wait() of the very Event that it sets, and hang there. First of all, because the
    # agent's threads inherit it.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)

    # Nobody visits a sensor: one session for as long as the daemon runs. Leaving the block
    # takes a few seconds at most, far less than systemd waits.
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line,
        Agent(session_timeout=None) as agent,
    ):
        systemd = WatchDog(line)
        pause = min(options.every, systemd.timeout_td.total_seconds() / 3)
        watch(options.sensor, Diary(agent, options.step, options.silence), systemd, pause)
        systemd.status("ends")


if __name__ == "__main__":
    main()

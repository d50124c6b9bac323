"""
A program that goes on recording while its agent delivers to an endpoint that answers as it
likes. Its waits are simulated and its requests are real: each may take PATIENCE seconds.

    besieged.py DIRECTORY ENDPOINT LOG PATIENCE [MUTANT]

Each line on standard input is a Python expression over `host`; its value is answered as a
line of JSON. All that anybody logs goes to LOG, as ``LEVEL|logger|message``.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

from heap_agent import Agent
from heap_agent.testing import FakeClock


class Host:
    """The program: an agent, and a thread that records numbered events."""

    def __init__(self, directory: str, endpoint: str, patience: float) -> None:
        self.clock = FakeClock(time.time())
        self.number = 0
        self.longest_wait = 0.0
        self.agent = Agent(
            "11",
            directory=directory,
            endpoint=endpoint,
            clock=self.clock,
            interval=3_600,
            connect_timeout=patience,
            read_timeout=patience,
            identity_budget=None,
            app_budget=None,
        )

    def record(self, count: int = 1) -> None:
        for _ in range(count):
            self.agent.track("E", {"number": self.number})
            self.number += 1

    def tick(self) -> float:
        """What the scheduler does when it is time; seconds until it is again."""
        wait = self.agent._outbox.drain.tick()
        self.longest_wait = max(self.longest_wait, wait)
        return wait

    def besieged(self, passes: int) -> dict[str, Any]:
        """Some passes, beside a thread that records; what they have cost."""
        self.longest_wait = 0.0
        before = forget_the_peak()
        over, stalls = threading.Event(), [0.0]

        def go_on() -> None:
            last = time.monotonic()
            while not over.wait(0.01):
                self.record()
                now = time.monotonic()
                stalls.append(now - last)
                last = now

        recorder = threading.Thread(target=go_on)
        recorder.start()
        longest = 0.0
        for _ in range(passes):
            began = time.monotonic()
            wait = self.tick()
            longest = max(longest, time.monotonic() - began)
            self.clock.advance(wait)
        over.set()
        recorder.join()
        return {
            "stall": max(stalls),
            "pass": longest,
            "wait": self.longest_wait,
            "grown": memory("VmHWM") - before,
            "error": self.agent.status().last_error,
            "reasons": self.reasons(),
        }

    def reasons(self) -> list[str]:
        """Why rows were refused for good."""
        (ledger,) = self.agent._store.queues()
        return [str(letter.reason) for letter in ledger.queue.dead_letters()]

    def drain(self) -> dict[str, Any]:
        """Deliver everything, waiting as long as the agent wants to; how things stand then."""
        for _ in range(200):
            wait = self.tick()
            if not self.agent.status().queued:
                break
            self.clock.advance(wait)
        status = self.agent.status()
        return {
            "queued": status.queued,
            "dead": status.dead,
            "dropped": status.dropped,
            "balanced": status.balanced,
            "check": self.agent.check(),
            "number": self.number,
        }


def memory(what: str) -> int:
    """Bytes, as the system tells them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(what))
    return int(line.split()[1]) * 1_024


def forget_the_peak() -> int:
    """Begin to look for the peak of memory anew; what is taken now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


if __name__ == "__main__":
    directory, endpoint, log, patience, *mutant = sys.argv[1:]
    if mutant:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        import mutants

        mutants.apply(*mutant)
    logging.basicConfig(
        filename=log, level=logging.DEBUG, format="%(levelname)s|%(name)s|%(message)s"
    )
    host = Host(directory, endpoint, float(patience))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(eval(line)), flush=True)
    host.agent.shutdown(0)

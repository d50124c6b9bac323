"""
A program that works an agent hard, and tells what that took of its process as JSON.

    loader.py crowd DIRECTORY ENDPOINT SECONDS PROCESS     sixteen threads record at once
    loader.py hoard DIRECTORY ENDPOINT COUNT               record so many while offline
    loader.py empty DIRECTORY ENDPOINT                     deliver what is there
    loader.py steady DIRECTORY ENDPOINT COUNT [MUTANT]     record and deliver, on and on
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from heap_agent import Agent

#: Numbers of one thread; `sink.py` knows them as a stream.
STREAM = 10_000_000
THREADS = 16

#: How often a process that goes on and on is looked at.
LOOKS = 40

verb, directory, endpoint, *rest = sys.argv[1:]


def agent() -> Agent:
    return Agent(
        "11",
        directory=directory,
        endpoint=endpoint,
        interval=0.2,
        max_bytes=1 << 34,
        identity_budget=None,
        app_budget=None,
    )


def memory() -> int:
    """Resident bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The most memory that this process had while the block ran, and what it began with."""

    def __enter__(self) -> Peak:
        self.before = self.most = memory()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, memory())

    @property
    def growth(self) -> int:
        return self.most - self.before


def crowd(seconds: float, process: int) -> dict[str, object]:
    recorded = [0] * THREADS
    end = time.monotonic() + seconds

    with agent() as busy:

        def record(thread: int) -> None:
            first = (process * THREADS + thread) * STREAM
            while time.monotonic() < end:
                for _ in range(25):
                    busy.track("Recorded", {"seq": first + recorded[thread]})
                    recorded[thread] += 1
                # So that there is not more than can be delivered soon.
                time.sleep(0.05)

        threads = [threading.Thread(target=record, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {"recorded": {process * THREADS + n: number for n, number in enumerate(recorded)}}


def hoard(count: int) -> dict[str, object]:
    with agent() as busy:
        busy.track("Recorded", {"seq": 0})
        time.sleep(1.0)  # until all modules are loaded
        with Peak() as peak:
            for number in range(1, count):
                busy.track("Recorded", {"seq": number, "room": "kitchen", "celsius": 21.5})
            # As many as there are, and not in journals any more.
            while busy.status().queued < count:
                time.sleep(0.1)
            time.sleep(1.0)
        status = busy.status()
    return {"growth": peak.growth, "queued": status.queued, "storage": status.storage}


def empty() -> dict[str, object]:
    with agent() as busy:
        busy.status()
        with Peak() as peak:
            done = busy.flush(timeout=400)
        status = busy.status()
        return {
            "growth": peak.growth,
            "done": done,
            "queued": status.queued,
            "dead": status.dead,
            "balanced": status.balanced,
            "check": busy.check(),
        }


def steady(count: int, mutant: str = "") -> dict[str, object]:
    if mutant:
        import mutants

        mutants.apply(mutant)
    samples: list[list[int]] = []
    with agent() as busy:
        for number in range(count):
            busy.track("Recorded", {"seq": number, "room": "kitchen"})
            if (number + 1) % (count // LOOKS):
                continue
            assert busy.flush(timeout=300)
            # Parts of the journal stay open until they are synced.
            assert busy.sync()
            samples.append([memory(), len(os.listdir("/proc/self/fd")), threading.active_count()])
        status = busy.status()
        return {
            "samples": samples,
            "delivered": status.delivered,
            "balanced": status.balanced,
            "check": busy.check(),
        }


if __name__ == "__main__":
    if verb == "crowd":
        told = crowd(float(rest[0]), int(rest[1]))
    elif verb == "hoard":
        told = hoard(int(rest[0]))
    elif verb == "empty":
        told = empty()
    else:
        told = steady(int(rest[0]), *rest[1:])
    print(json.dumps(told), flush=True)

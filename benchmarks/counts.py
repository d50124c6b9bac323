"""
What an event costs the system, counted and not timed: on a slow board with an SD
card times are others, and these are the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks import data, programs, server
from benchmarks.tables import Row

TITLE = "counts: system calls, wake-ups and bytes"

EVENTS, SECONDS = 20_000, 60

#: Seconds until what is loaded late has been.
SETTLE = 20.0

_EVENTS = json.dumps([data.EVENT, data.properties(100)])

#: The program looks for a file of this name where the counting begins, and ends.
_MARK = "heap-agent-benchmark-mark"

#: Names of system calls that bring data to stable storage.
_SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync")

_PROGRAM = f"""
import json, os, sys, time
from contextlib import suppress
import heap_agent

def used():
    # Of the threads that are alive, in their order.
    switches = 0
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has just ended
            for line in open(f"/proc/self/task/{{thread}}/status"):
                if line.startswith("voluntary_ctxt_switches"):
                    switches += int(line.split()[1])
    lines = dict(line.split(": ") for line in open("/proc/self/io"))
    return [switches, int(lines["wchar"]), int(lines["write_bytes"])]

def counted(work):
    before = used()
    os.path.exists("/{_MARK}")
    work()
    os.path.exists("/{_MARK}")
    print(json.dumps([b - a for a, b in zip(before, used())]), flush=True)
    os._exit(0)

count, settle, directory, endpoint = int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:5]
name, events = json.loads(sys.argv[5])

def record():
    for number in range(count):
        heap_agent.track(name, events[number % len(events)])

heap_agent.init(
    "11", directory=directory, endpoint=endpoint, identity_budget=None, app_budget=None
)
"""

_AT_FULL_SPEED = """
def work():
    record()
    heap_agent.sync()
counted(work)
"""

_ONE_A_SECOND = """
def work():
    for number in range(count):
        heap_agent.track(name, events[number % len(events)])
        time.sleep(1)
# What delivers is loaded for the first of them.
heap_agent.track(name, events[0])
time.sleep(settle)
counted(work)
"""

_IDLE = """
time.sleep(settle)
counted(lambda: time.sleep(count))
"""

_DELIVERED = """
record()
counted(lambda: heap_agent.flush(60))
"""


@attrs.frozen
class Task:
    """
    Something to count.

    Attributes:
        name: As the table shows it.
        code: What follows the program's beginning.
        count: How many events, or seconds.
        per: What the figures are divided by.
    """

    name: str
    code: str
    count: int
    per: str


def run() -> list[Row]:
    """
    Count, all at once: nothing here depends on how long it takes.
    """
    if shutil.which("strace") is None:
        raise SystemExit("counts needs strace, and a system that lets it trace")
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heap-agent-bench-")))
        variables = stack.enter_context(programs.environment())
        nobody = stack.enter_context(server.nobody_there())
        somebody = stack.enter_context(server.running()).url
        tasks = {
            Task("track at full speed, offline", _AT_FULL_SPEED, EVENTS, "event"): nobody,
            Task("track, one a second, offline", _ONE_A_SECOND, SECONDS, "event"): nobody,
            Task("track, one a second, delivered", _ONE_A_SECOND, SECONDS, "event"): somebody,
            Task("nothing", _IDLE, SECONDS, "second"): nobody,
            Task("deliver at full speed", _DELIVERED, EVENTS, "event"): somebody,
        }
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(tasks)))
        counting = [
            _begin(pool, task, base / str(number), endpoint, variables)
            for number, (task, endpoint) in enumerate(tasks.items())
        ]
        return [counted() for counted in counting]


def _begin(
    pool: Executor, task: Task, directory: Path, endpoint: str, variables: dict[str, str]
) -> Callable[[], Row]:
    """
    Have it run twice: a thread that is traced stops at each call, and comes back, so that
    wake-ups are counted without that.
    """
    log = directory / "strace"
    tracer = ["strace", "-f", "-qq", "-o", os.fspath(log)]
    plain = pool.submit(_run, task, [], directory / "plain", endpoint, variables)
    traced = pool.submit(_run, task, tracer, directory / "traced", endpoint, variables)

    def row() -> Row:
        wakeups, given, written = plain.result()
        traced.result()
        with log.open(errors="replace") as lines:
            calls = _between_the_marks(lines)
        often = [f"{name} {count / task.count:.2f}" for name, count in calls.most_common(6)]
        return {
            "what": task.name,
            "per": task.per,
            "system calls": calls.total() / task.count,
            "syncs": sum(calls[name] for name in _SYNCS) / task.count,
            "wake-ups": wakeups / task.count,
            "bytes given": given / task.count,
            "bytes written": written / task.count,
            "the most frequent": ", ".join(often),
        }

    return row


def _run(
    task: Task, tracer: list[str], directory: Path, endpoint: str, variables: dict[str, str]
) -> list[int]:
    """
    Wake-ups, bytes that were given to the system, and bytes that it gave to the disk.
    """
    directory.mkdir(parents=True, mode=0o700)
    program = subprocess.run(
        [*tracer, sys.executable, "-c", _PROGRAM + task.code]
        + [str(task.count), str(SETTLE), os.fspath(directory), endpoint, _EVENTS],
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: list[int] = json.loads(program.stdout)
    return found


def _between_the_marks(lines: Iterable[str]) -> Counter[str]:
    """
    System calls of all threads by name, from one mark to the next.
    """
    found: Counter[str] = Counter()
    inside = False
    for line in lines:
        if _MARK in line:
            inside = not inside
        elif inside and (call := re.match(r"\d+ +(\w+)\(", line)):
            found[call[1]] += 1
    return found

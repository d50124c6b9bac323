"""
What an agent does while nothing happens: processor, wake-ups and system calls,
thread by thread.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import programs, server
from benchmarks.programs import Program, Usage
from benchmarks.tables import Row
from benchmarks.waiting import backlog

TITLE = "idle: a minute in which nothing is recorded"

#: Seconds: until all have come to rest, to be measured, and to be traced.
SETTLE, MINUTE, TRACED = 35.0, 60.0, 15.0

#: Events that the offline device has.
QUEUED = 100_000

NOTHING = Usage(0.0, 0)


def run() -> list[Row]:
    """
    Measure, all programs at once.
    """
    with ExitStack() as stack:
        full = stack.enter_context(backlog(QUEUED))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heap-agent-bench-")))
        variables = stack.enter_context(programs.environment())
        endpoint = stack.enter_context(server.nobody_there())

        def start(code: str, *arguments: str) -> Program:
            return stack.enter_context(programs.running(code, *arguments, variables=variables))

        watched = {
            "no agent": start(""),
            "agent, nothing to send": start(programs.AGENT, f"{base}/state", endpoint),
            "another process beside it": start(programs.AGENT, f"{base}/state", endpoint),
            f"offline, {QUEUED:,} queued": start(programs.AGENT, str(full), endpoint),
        }
        time.sleep(SETTLE)
        before = {name: program.usage() for name, program in watched.items()}
        time.sleep(MINUTE)
        after = {name: program.usage() for name, program in watched.items()}
        traced = {name: _calls(program.process.pid) for name, program in watched.items()}
        return [
            {
                "what": name,
                "thread": thread,
                "% of a core": 100 * (used.seconds - old.seconds) / MINUTE,
                "wake-ups a s": (used.wakeups - old.wakeups) / MINUTE,
                "system calls a s": traced[name] if thread == "MainThread" else None,
            }
            for name in watched
            for thread, used in after[name].items()
            for old in [before[name].get(thread, NOTHING)]
        ]


def _calls(pid: int) -> float | None:
    """
    System calls a second of all threads together; None where they cannot be traced.
    """
    if shutil.which("strace") is None:
        return None
    with tempfile.NamedTemporaryFile("r") as file:
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", file.name, "-p", str(pid)], stderr=subprocess.DEVNULL
        )
        time.sleep(TRACED)
        tracer.send_signal(signal.SIGINT)
        if tracer.wait() not in (0, 130, -signal.SIGINT):
            return None
        return sum("resumed>" not in line for line in file) / TRACED

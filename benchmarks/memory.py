"""
What an agent holds in memory, idle and with a long queue, beside a Python
that does nothing.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import programs, server
from benchmarks.tables import Row
from benchmarks.waiting import backlog

TITLE = "memory: above a Python that waits, MB"

#: Seconds until it is looked at: at least two attempts to deliver have failed by then.
PATIENCE = 45.0

#: Events that an offline device has.
QUEUED = 1_000_000

BARE = "bare Python"


def run() -> list[Row]:
    """
    Measure.
    """
    with ExitStack() as stack:
        full = stack.enter_context(backlog(QUEUED))
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heap-agent-bench-")))
        variables = stack.enter_context(programs.environment())
        endpoint = stack.enter_context(server.nobody_there())

        def start(code: str, *arguments: str) -> programs.Program:
            return stack.enter_context(programs.running(code, *arguments, variables=variables))

        recorded = programs.AGENT + 'heap_agent.track("Album Opened", {"tracks": 12})\n'
        started = {
            BARE: start(""),
            "imported": start("import heap_agent"),
            "agent, nothing to send": start(programs.AGENT, f"{base}/a", endpoint),
            "agent, an event it cannot send": start(recorded, f"{base}/b", endpoint),
            "… by HTTPS": start(recorded, f"{base}/c", endpoint.replace("http:", "https:")),
            f"agent, {QUEUED:,} it cannot send": start(programs.AGENT, str(full), endpoint),
        }
        early = {name: program.memory for name, program in started.items()}
        time.sleep(PATIENCE)
        late = {name: program.memory for name, program in started.items()}
        return [
            {
                "what": name,
                "at the start": early[name]["resident"] - early[BARE]["resident"],
                f"after {PATIENCE:.0f} s": late[name]["resident"] - late[BARE]["resident"],
                "of that private": late[name]["private"] - late[BARE]["private"],
                "resident in all": late[name]["resident"],
            }
            for name in started
        ]

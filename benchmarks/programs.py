"""
Programs that do one thing in a Python of their own, and what the system knows of them.

It must not know what they do, nor what is made of the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

#: Answers each line on its standard input with the threads that it has.
_ANSWER = """
import json, sys, threading
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps({t.native_id: t.name for t in threading.enumerate()}), flush=True)
"""


_EVERYTHING = """
import filelock, platformdirs.unix
from heap_agent import Agent, Status
from heap_agent._upload import drain, scheduler, transport
"""


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """
    Variables with which bytecode is kept, wherever a program's modules are: without
    it each run compiles all that it imports.
    """
    with tempfile.TemporaryDirectory(prefix="heap-agent-bench-") as cache:
        kept = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        # Once for all, so that nobody who is measured has to compile.
        subprocess.run([sys.executable, "-c", _EVERYTHING], env=kept, check=True)
        yield kept


@attrs.frozen
class Usage:
    """
    What a thread has used so far.

    Attributes:
        seconds: On a core.
        wakeups: How often it gave up the core by itself, and came back.
    """

    seconds: float
    wakeups: int


@attrs.frozen
class Program:
    """
    A program that is running.
    """

    process: subprocess.Popen[str]

    @property
    def memory(self) -> Mapping[str, float]:
        """
        MB that are resident, and of those what nobody else could share.
        """
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        return {
            name: int(found[field].split()[0]) / 1024
            for name, field in (("resident", "VmRSS"), ("private", "RssAnon"))
        }

    def usage(self) -> Mapping[str, Usage]:
        """
        By the name of each thread that is alive.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        names = json.loads(self.process.stdout.readline())
        return {name: self._usage_of(thread) for thread, name in names.items()}

    def _usage_of(self, thread: str) -> Usage:
        task = Path(f"/proc/{self.process.pid}/task/{thread}")
        # In ns, where `stat` counts hundredths of a second.
        on_core = int((task / "schedstat").read_text().split()[0])
        switches = [
            int(line.split()[1])
            for line in (task / "status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        ]
        return Usage(on_core / 1e9, switches[0])


@contextmanager
def running(code: str, *arguments: str, variables: Mapping[str, str]) -> Iterator[Program]:
    """
    Run code, and then wait; the program is killed in the end.

    Args:
        code: Python; `sys.argv[1:]` are the arguments.
        variables: From `environment`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code + _ANSWER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"it has ended: {code}")
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


#: Starts an agent: directory, endpoint.
AGENT = f"""
import sys, heap_agent
heap_agent.init("11", directory=sys.argv[1], endpoint=sys.argv[2], max_bytes={1 << 36})
"""

"""
``heap-agent`` as people start it: real processes, whose environment says nothing of the
agents of whoever runs the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Seconds for what takes a fraction of one; only a hang takes this long.
PATIENCE = 60.0


class Result:
    """What a process left behind."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> dict[str, Any]:
        assert self.out.count("\n") == 1, self
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def sentence(self) -> str:
        """The one line on standard error."""
        assert self.err.count("\n") == 1 and "Traceback" not in self.err, self
        return self.err.strip()

    def __repr__(self) -> str:
        return f"<exit {self.code}: {self.out!r} / {self.err!r}>"


Command = Callable[..., Result]


def environment(tmp_path: Path, changes: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEAP_AGENT_")
        and name not in ("DO_NOT_TRACK", "STATE_DIRECTORY", "COLUMNS", "FORCE_COLOR")
    }
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "states")}
    return {**kept, **home, "XDG_CONFIG_HOME": str(tmp_path / "configuration"), **changes}


def arguments(words: tuple[object, ...]) -> list[str]:
    typed = (os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words)
    return [sys.executable, "-m", "heap_agent", *typed]


@contextmanager
def running(tmp_path: Path, *words: object, **changes: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        arguments(words),
        env=environment(tmp_path, changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()

"""
Fixtures of the commands' tests.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from commands import PATIENCE, Command, Result, arguments, environment


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs one command, to its end."""

    def run(*words: object, **changes: str) -> Result:
        return Result(
            subprocess.run(
                arguments(words),
                env=environment(tmp_path, changes),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=PATIENCE,
            )
        )

    return run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the state directory is."""
    return tmp_path / "state"

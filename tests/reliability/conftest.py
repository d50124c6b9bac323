"""
What the tests that break things share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heap_agent._store import database

SHIMS = Path(__file__).parents[1] / "shims"


def _built(name: str, factory: pytest.TempPathFactory) -> Path:
    """A library to be loaded before all others, made of one of the shims."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("needs a C compiler, and a loader that knows LD_PRELOAD")
    path = factory.mktemp("shims") / f"{name}.so"
    source = SHIMS / f"{name}.c"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(path), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(name="shim", scope="session")
def _shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records what is done to files."""
    return _built("recorder", tmp_path_factory)


@pytest.fixture(name="faults", scope="session")
def _faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes what is done to files fail."""
    return _built("faults", tmp_path_factory)


@pytest.fixture(name="clock_shim", scope="session")
def _clock_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moves the wall clock and the boot clock, and names the boot."""
    return _built("clock", tmp_path_factory)


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Iterator[Path]:
    """Where states are laid out: in memory, if there is such a place."""
    memory = Path("/dev/shm")
    place = memory / f"power-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path / "cut"
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(name="_versions")
def _versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Versions that a test has brought (updates.py) are forgotten."""
    known = dict(database.MIGRATIONS)
    monkeypatch.setattr(database, "SCHEMA_VERSION", database.SCHEMA_VERSION)
    yield
    database.MIGRATIONS.clear()
    database.MIGRATIONS.update(known)

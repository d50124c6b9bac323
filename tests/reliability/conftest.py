"""
What the tests that break things share.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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

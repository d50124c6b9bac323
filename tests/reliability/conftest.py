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


@pytest.fixture(name="shim", scope="session")
def _shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to be loaded before all others, which records what is done to files."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("needs a C compiler, and a loader that knows LD_PRELOAD")
    path = tmp_path_factory.mktemp("shims") / "recorder.so"
    source = SHIMS / "recorder.c"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(path), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return path

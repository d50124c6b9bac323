"""The tests of the promises find out agents that are broken on purpose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "programs" / "mutated.py"


@pytest.mark.parametrize(
    ("mutant", "test"),
    [
        ("rows without checksums", "reliability/test_corruption.py::test_whatever_is_damaged"),
        ("ack before the answer", "reliability/test_network.py::test_a_fault_at_any_byte"),
        ("key minted at send", "reliability/test_network.py::test_a_fault_at_any_byte"),
        ("faults are called damage", "reliability/test_faults_of_ours.py"),
        ("seals that are not looked at", "reliability/test_values.py"),
        ("windows stay wide", "reliability/test_network.py::test_a_thin_line_with_resets_drains"),
        ("books that are not put right", "reliability/test_corruption.py"),
    ],
)
def test_a_broken_agent_is_found_out(tmp_path: Path, mutant: str, test: str) -> None:
    """A test that finds nothing proves nothing."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), mutant, test],
        # Whoever is broken is found out in the short form, but by all of it.
        env={**os.environ, "HEAP_AGENT_TORTURE": "0", "HEAP_AGENT_SAMPLE": ""},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "AssertionError" in done.stdout

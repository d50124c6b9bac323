"""The picture of a fleet: made by one command, of the simulation that the tests use."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="pictures are for those who write the report")

ROOT = Path(__file__).parents[2]


def test_a_command_draws_the_fleet(tmp_path: Path) -> None:
    """The command says what came of the simulation, and leaves a picture with its limit."""
    path = tmp_path / "fleet.svg"
    command = [sys.executable, "-m", "benchmarks.fleet", "--devices", "10", "--to", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "of 30\n" in done.stdout
    texts = " ".join(ElementTree.parse(path).getroot().itertext())
    assert "events a minute at Heap" in texts and "the app's budget" in texts

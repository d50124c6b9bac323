"""
Small files that say something where the database cannot be asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heap_agent._core.state import State
from heap_agent._store.signs import (
    consent_was_withdrawn,
    copied_from_elsewhere,
    fingerprint,
    first_user,
    forget_first_users,
    known_first_user,
    note_consent,
)


def test_the_first_user_stays_the_first(state_dir: Path) -> None:
    """Whoever comes later is given what the first one published, app by app."""
    assert known_first_user(state_dir, "11", "m") is None
    assert first_user(state_dir, "11", "m", "100") == "100"
    assert first_user(state_dir, "11", "m", "200") == "100"
    assert first_user(state_dir, "12", "m", "300") == "300"
    assert first_user(state_dir, "11", "another machine", "400") == "400"
    assert first_user(None, "11", "m", "500") == "500"
    assert copied_from_elsewhere(state_dir, "11", "a third machine")
    assert not copied_from_elsewhere(state_dir, "11", "m")


def test_nonsense_in_the_file_is_not_taken(state_dir: Path) -> None:
    """A file that holds no id gives nobody one."""
    first_user(state_dir, "11", "m", "100")
    (path,) = state_dir.glob("user-*")
    path.write_text("no id at all")

    assert first_user(state_dir, "11", "m", "200") == "200"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(state_dir: Path) -> None:
    """Whoever put it in the place of the file, a start goes on with a user of its own."""
    assert first_user(state_dir, "11", "machine", "1") == "1"
    (file,) = state_dir.glob("user-*")
    file.unlink()
    os.mkfifo(file)
    assert known_first_user(state_dir, "11", "machine") is None
    assert first_user(state_dir, "11", "machine", "2") == "2"


def test_processes_that_begin_together_agree(state_dir: Path) -> None:
    """Eight programs that start at the same moment have one user."""
    program = """
import sys, time
from pathlib import Path
from heap_agent._store.signs import first_user
gate = Path(sys.argv[1]) / "gate"
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.0005)
print(first_user(Path(sys.argv[1]), "11", "m", sys.argv[2]))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(state_dir), str(1_000 + number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (state_dir / "gate").touch()
    found = {process.communicate()[0].strip() for process in processes}

    assert len(found) == 1 and found <= {str(1_000 + number) for number in range(8)}


def test_a_machine_is_not_named_by_its_file() -> None:
    """A machine's id is nobody's business: its file shows a fingerprint."""
    assert len(fingerprint("machine")) == 16
    assert fingerprint("machine") != fingerprint("another")


def test_who_is_forgotten_has_no_file(state_dir: Path) -> None:
    """All first users are forgotten, or those only whom the state forgets."""
    first_user(state_dir, "11", "m", "100")
    forget_first_users(state_dir, State())
    assert known_first_user(state_dir, "11", "m") == "100"

    forget_first_users(state_dir)
    assert known_first_user(state_dir, "11", "m") is None


def test_a_withdrawn_consent_leaves_a_sign(state_dir: Path) -> None:
    """It stands until consent is given again, and noting it twice is noting it once."""
    for given in (False, False, True, True):
        note_consent(state_dir, given)
        assert consent_was_withdrawn(state_dir) is not given
    note_consent(None, False)
    assert not consent_was_withdrawn(None)

"""Checkpoints: what was committed is there, for one process, and for its job only."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from heap_agent._tools.bulk_checkpoint import (
    CheckpointTrouble,
    Job,
    Position,
    default_path,
    open_checkpoint,
)

JOB = Job("bulk-track", "11", "https://heap.example", "/data/events.csv")
POSITION = Position("shape", 7, "d1", 5, 2, "/data/rejected", 99, "d2")

posix = pytest.mark.skipif(os.name != "posix", reason="modes and signals of POSIX")


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "job.db"


def test_what_was_committed_is_there_again(path: Path) -> None:
    """A new job stands at the first row; the last commit counts."""
    with open_checkpoint(path, JOB) as checkpoint:
        assert checkpoint.position == Position()
        checkpoint.commit(attrs.evolve(POSITION, rows=3))
        checkpoint.commit(POSITION)

    with open_checkpoint(path, JOB) as checkpoint:
        assert checkpoint.position == POSITION


def test_a_restart_forgets_the_position(path: Path) -> None:
    """Also for the next process."""
    with open_checkpoint(path, JOB) as checkpoint:
        checkpoint.commit(POSITION)
        checkpoint.restart()

    with open_checkpoint(path, JOB) as checkpoint:
        assert checkpoint.position == Position()


@posix
def test_files_and_folder_are_private(path: Path) -> None:
    """A checkpoint names files and shows how much is in them."""
    old = os.umask(0)
    try:
        with open_checkpoint(path, JOB) as checkpoint:
            checkpoint.commit(POSITION)
            modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(old)

    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("field", ["command", "app_id", "endpoint", "source"])
def test_another_job_is_refused(path: Path, field: str) -> None:
    """Each of the four makes a job another one; the sentence says whose it is."""
    with open_checkpoint(path, JOB) as checkpoint:
        checkpoint.commit(POSITION)

    other = attrs.evolve(JOB, **{field: "other"})
    with pytest.raises(CheckpointTrouble, match=r"/data/events\.csv.*--checkpoint"):
        with open_checkpoint(path, other):
            pass
    with open_checkpoint(path, JOB) as checkpoint:
        assert checkpoint.position == POSITION


def test_jobs_have_files_of_their_own() -> None:
    """No two of them share a default path."""
    jobs = [JOB, *(attrs.evolve(JOB, **{name: "1"}) for name in attrs.fields_dict(Job))]

    assert len({default_path(job) for job in jobs}) == 5


HOLDER = """
import sys
from pathlib import Path
from heap_agent._tools.bulk_checkpoint import *
with open_checkpoint(Path(sys.argv[1]), Job(*sys.argv[2:])) as checkpoint:
    checkpoint.commit(Position("shape", 7, "d1", 5, 2, "/data/rejected", 99, "d2"))
    print("held", flush=True)
    sys.stdin.read()
"""


@posix
def test_a_second_process_is_refused_until_the_first_dies(path: Path) -> None:
    """However it dies: what it had committed is there."""
    words = [sys.executable, "-c", HOLDER, str(path), *attrs.astuple(JOB)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointTrouble, match="another process"):
            with open_checkpoint(path, JOB):
                pass
        holder.send_signal(signal.SIGKILL)

    with open_checkpoint(path, JOB) as checkpoint:
        assert checkpoint.position == POSITION


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"SQLite format 2\0" * 8])
def test_a_file_that_is_none_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """Such as the data itself, after a slip of the hand."""
    path = tmp_path / "data.csv"
    path.write_bytes(content)

    with pytest.raises(CheckpointTrouble, match="no checkpoint"), open_checkpoint(path, JOB):
        pass
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_the_database_of_something_else_is_refused(tmp_path: Path) -> None:
    """Its tables say so."""
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    other.executescript("CREATE TABLE other (a); PRAGMA user_version=1")
    other.close()

    with pytest.raises(CheckpointTrouble, match="no checkpoint"), open_checkpoint(path, JOB):
        pass


def test_a_damaged_checkpoint_says_what_to_do(path: Path) -> None:
    """It may be removed, because keys do not depend on it."""
    with open_checkpoint(path, JOB) as checkpoint:
        checkpoint.commit(POSITION)
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))

    with pytest.raises(CheckpointTrouble, match="remove it.*same keys"):
        with open_checkpoint(path, JOB):
            pass


def test_a_newer_checkpoint_is_left_alone(path: Path) -> None:
    """A later version may have written what this one does not know."""
    with open_checkpoint(path, JOB) as checkpoint:
        checkpoint.commit(POSITION)
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version=99")
    newer.close()

    with pytest.raises(CheckpointTrouble, match="newer"), open_checkpoint(path, JOB):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system without new files")
def test_a_place_without_new_files_is_not_somebody_elses() -> None:
    """The error is the system's, and names the file."""
    with (
        pytest.raises(OSError, match=r"/proc/c\.db\.lock"),
        open_checkpoint(Path("/proc/c.db"), JOB),
    ):
        raise AssertionError

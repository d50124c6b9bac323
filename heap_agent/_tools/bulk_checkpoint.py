"""
How far a file has been sent: one small database for each, held by one process.

The position of a job is written down in one transaction, with
``synchronous=FULL``, whenever rows have been settled; after a power cut it is
that of some earlier moment, never a mixture.

This module must not know what a row is, nor how it is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

import attrs

from heap_agent._config import Config, state_directory
from heap_agent._store.database import Database, DatabaseTrouble, Trouble
from heap_agent._store.owner import try_lock
from heap_agent._store.system import make_private_directory, open_private

__all__ = [
    "Checkpoint",
    "CheckpointTrouble",
    "Job",
    "Position",
    "default_path",
    "folder",
    "made",
    "open_checkpoint",
]

#: Beside the state directories of agents, which are called by a number or a name.
_FOLDER: Final = "bulk-checkpoints"

_SCHEMA: Final = {
    0: """
    CREATE TABLE job (
        command TEXT NOT NULL, app_id TEXT NOT NULL, endpoint TEXT NOT NULL,
        source TEXT NOT NULL);
    CREATE TABLE position (
        shape TEXT NOT NULL, rows INTEGER NOT NULL, digest TEXT NOT NULL,
        accepted INTEGER NOT NULL, rejected INTEGER NOT NULL,
        rejected_file TEXT NOT NULL, rejected_bytes INTEGER NOT NULL,
        rejected_digest TEXT NOT NULL)
    """
}


class CheckpointTrouble(Exception):
    """
    The checkpoint cannot be used; the text says why, and what to do.
    """


@attrs.frozen(slots=True)
class Job:
    """
    What is sent where. Another value of any of these is another job.

    Attributes:
        command: Its name.
        app_id: Id of the environment.
        endpoint: Base URL.
        source: Absolute path of the file, or the name that was given to it.
    """

    command: str
    app_id: str
    endpoint: str
    source: str


@attrs.frozen(slots=True)
class Position:
    """
    How far a job has come.

    Attributes:
        shape: How bytes became items (`bulk_rows.Rows.shape`).
        rows: How many rows are settled, accepted or rejected.
        digest: Of these rows.
        accepted: Of these, those that Heap took.
        rejected: Of these, those that it did not.
        rejected_file: Absolute path of the file of rejected rows.
        rejected_bytes: How long that file is with these rows.
        rejected_digest: Of these bytes.
    """

    shape: str = ""
    rows: int = 0
    digest: str = ""
    accepted: int = 0
    rejected: int = 0
    rejected_file: str = ""
    rejected_bytes: int = 0
    rejected_digest: str = ""


def folder() -> Path | None:
    """
    Where the files of bulk commands are; None for a user without a home.
    """
    # Without the environment: STATE_DIRECTORY is one agent's, not for files of many jobs.
    return state_directory(Config(app_name=_FOLDER), {})


def default_path(job: Job) -> Path | None:
    """
    Where a job's checkpoint is unless somebody chooses otherwise.

    Returns:
        A path in the user's state directory; None for a user without a home.
    """
    place = folder()
    if place is None:
        return None
    parts = "\0".join(attrs.astuple(job)).encode("utf-8", "surrogateescape")
    return place / f"{job.command}-{job.app_id}-{blake2b(parts, digest_size=8).hexdigest()}.db"


class Checkpoint:
    """
    The position of one job; made by `open_checkpoint`.

    Attributes:
        path: Of the file.
        position: As it was last committed.
    """

    def __init__(self, database: Database, path: Path, job: Job) -> None:
        self.path = path
        self._database = database
        self._claim(job)
        names = ", ".join(field.name for field in attrs.fields(Position))
        found = database.query(f"SELECT {names} FROM position")
        self.position = Position(*found[0]) if found else Position()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path.name} at row {self.position.rows:,}>"

    def commit(self, position: Position) -> None:
        """
        Write a position down; it is on stable storage when this returns.

        Raises:
            CheckpointTrouble: The disk refuses.
        """
        row = attrs.astuple(position)
        try:
            with self._database.transact() as execute:
                execute("DELETE FROM position")
                execute(f"INSERT INTO position VALUES ({', '.join('?' * len(row))})", row)
        except DatabaseTrouble as error:
            raise _trouble(self.path, error) from error
        self.position = position

    def restart(self) -> None:
        """
        Forget the position: the next row is the first one.
        """
        self.commit(Position())

    def _claim(self, job: Job) -> None:
        found = self._database.query("SELECT command, app_id, endpoint, source FROM job")
        if not found:
            with self._database.transact() as execute:
                execute("INSERT INTO job VALUES (?, ?, ?, ?)", attrs.astuple(job))
        elif found[0] != attrs.astuple(job):
            other = Job(*found[0])
            raise CheckpointTrouble(
                f"{self.path} is the checkpoint of {other.command} {other.source} for app id "
                f"{other.app_id} at {other.endpoint}; give --checkpoint another file."
            )


@contextmanager
def open_checkpoint(path: Path, job: Job) -> Iterator[Checkpoint]:
    """
    Open, or make, the checkpoint of a job, for this process alone.

    Args:
        path: The file; made for this user alone where it is missing, and its
            folder with it.
        job: What it is the checkpoint of.

    Raises:
        CheckpointTrouble: Another process holds it, it is another job's, or no
            checkpoint at all.
        OSError: Its folder cannot be made or written.
    """
    if not path.parent.is_dir():
        make_private_directory(path.parent)
    if path.exists() and not _may_be_ours(path):
        raise _no_checkpoint(path)
    lock = try_lock(made(path.with_name(path.name + ".lock")))
    if lock is None:
        raise CheckpointTrouble(
            f"another process is sending {job.source} at this moment; wait for its end, or end it."
        )
    try:
        database = _open_database(path)
        try:
            yield Checkpoint(database, path, job)
        finally:
            database.close()
    finally:
        lock.release()


def made(lock: Path) -> Path:
    """
    A lock's file, which is there now.

    Raises:
        OSError: It cannot be made, which a lock would take for being held.
    """
    os.close(open_private(lock, os.O_RDWR | os.O_CREAT))
    return lock


def _open_database(path: Path) -> Database:
    try:
        database = Database(path, migrations=_SCHEMA)
    except DatabaseTrouble as error:
        raise _trouble(path, error) from error
    tables = database.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    if not {("job",), ("position",)} <= set(tables):
        database.close()
        raise _no_checkpoint(path)
    return database


def _may_be_ours(path: Path) -> bool:
    with path.open("rb") as file:
        # Empty: made, and killed before anything was written.
        return file.read(16) in (b"", b"SQLite format 3\0")


def _no_checkpoint(path: Path) -> CheckpointTrouble:
    return CheckpointTrouble(
        f"{path} is no checkpoint, and is left as it is; give --checkpoint another file."
    )


def _trouble(path: Path, error: DatabaseTrouble) -> CheckpointTrouble:
    if error.trouble is Trouble.FULL:
        what = "make room on its disk"
    elif error.trouble is Trouble.NEWER:
        what = "a newer version has written it"
    else:
        what = "remove it, and everything is sent again under the same keys"
    return CheckpointTrouble(f"the checkpoint {path} cannot be used ({error}); {what}.")

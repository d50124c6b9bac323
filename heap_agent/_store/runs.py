"""
Runs of a program: small files that say which have begun and not yet ended, and which
version ran last.

Beside a run's note stands a lock that ends with its process, whatever way that goes.
(The lock of its journal would not do: whoever absorbs what a dead process has left holds
that one.) A note is not worth a sync at each start: what a power cut takes is no event.

This module must not know what is told of a run, nor whether anything is.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from heap_agent._store import system
from heap_agent._store.owner import HeldLock, try_lock
from heap_agent._store.signs import fingerprint

_LOCK: Final = "runs.lock"

_NAME: Final = re.compile(r"([0-9a-f]{16})\.(run|alive)")

#: Seconds that a start waits for others of the same moment.
_PATIENCE: Final = 1.0

#: Notes that a start looks at; where there are more, the next ones go on.
_SOME: Final = 256

#: Bytes that are read of a file: what is noted fits, and whatever it says fits into a property.
_LONGEST: Final = 1023


class Run(NamedTuple):
    """
    A run of a program, as it is noted.

    Attributes:
        app_id: Digits.
        machine: Fingerprint of what names the machine.
        boot_id: Of the machine's start during which it ran.
        version: Of the program, "" where it does not say.
    """

    app_id: str
    machine: str
    boot_id: str
    version: str


def run_of(app_id: str, machine: str, boot_id: str, version: str | None) -> Run:
    """
    What is to be noted of a run that begins.
    """
    return Run(app_id, fingerprint(machine), boot_id, version or "")


@contextmanager
def one_at_a_time(directory: Path) -> Iterator[bool]:
    """
    Keep other processes from looking and noting meanwhile.

    Yields:
        False where another one does it.

    Raises:
        OSError: The disk refuses.
    """
    held = try_lock(directory / _LOCK, patience=_PATIENCE)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


class Noted:
    """
    A run of this process, noted in a directory.

    Args:
        directory: Where.
        run: What is noted.

    Raises:
        OSError: The disk refuses.
    """

    def __init__(self, directory: Path, run: Run) -> None:
        self._note = directory / f"{os.urandom(8).hex()}.run"
        # The lock first: a note without one is that of a dead process.
        alive = _lock(self._note)
        if alive is None:
            raise OSError(errno.EAGAIN, "another process has its lock", str(self._note))
        self._alive = alive
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with open(system.open_private(self._note, flags), "w", encoding="utf-8") as file:
                json.dump(run, file, ensure_ascii=False)
        except BaseException:
            # Half a note would tell of a crash.
            self.end()
            raise

    def __repr__(self) -> str:
        return f"<Noted {self._note.name}>"

    def end(self) -> None:
        """It has ended as it should."""
        system.unlink_quietly(self._note)
        self._alive.release(unlink=True)


def take_broken(directory: Path, app_id: str, machine: str) -> list[Run]:
    """
    Runs that did not end as they should; each is given once.

    Args:
        directory: Where they are noted.
        app_id: Only those of this app.
        machine: Fingerprint of this one; notes that were copied from another are removed.

    Raises:
        OSError: The disk refuses.
    """
    broken = []
    ids = {found[1] for found in map(_NAME.fullmatch, os.listdir(directory)) if found}
    for id in islice(ids, _SOME):
        # One that cannot be taken is no reason to leave the others.
        with suppress(OSError):
            run = _take(directory / f"{id}.run", app_id, machine)
            if run is not None and run.machine == machine:
                broken.append(run)
    return broken


def last_version(directory: Path, run: Run) -> str | None:
    """
    Which version of the program ran before, "" where that is not known; None if none did.

    Raises:
        OSError: It cannot be read.
    """
    try:
        return system.read_private(_version_path(directory, run), _LONGEST).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return ""


def noting_version(directory: Path, run: Run) -> AbstractContextManager[None]:
    """
    Keep the version of a run for later ones, on stable storage, when the block is done.

    Raises:
        OSError: The disk refuses: before the block where it is full.
    """
    return system.replacing(_version_path(directory, run), run.version.encode())


def _version_path(directory: Path, run: Run) -> Path:
    return directory / f"version-{run.app_id}-{run.machine}"


def _lock(note: Path) -> HeldLock | None:
    return try_lock(note.with_suffix(".alive"))


def _take(note: Path, app_id: str, machine: str) -> Run | None:
    """
    The run of a note that could be removed; None where there is none, or nobody may.
    """
    lock = _lock(note)
    if lock is None:
        return None
    taken = False
    try:
        # Without a note: it died before it had one, or has ended this very moment.
        run = _read(note, app_id, machine)
        if run is None or run.app_id == app_id:
            # What cannot be removed would be told again with each start.
            taken = system.unlink_quietly(note)
        return run if taken else None
    finally:
        lock.release(unlink=taken)


def _read(note: Path, app_id: str, machine: str) -> Run | None:
    """
    What a run has noted. A power cut may have left an empty file: then nothing is known
    of it but that it was.
    """
    try:
        found = json.loads(system.read_private(note, _LONGEST))
        "".join(found).encode()
        return Run(*found)
    except FileNotFoundError:
        return None
    except (TypeError, ValueError, RecursionError):
        return Run(app_id, machine, "", "")

"""
Small files that say something where the database cannot be asked: who the first user of
an app was, and that the consent was withdrawn.

This module must not know the database.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from heap_agent._core.state import NEVER, State
from heap_agent._store import system

#: The file that stands for a withdrawn consent.
_OPTED_OUT: Final = "opted-out"

#: Bytes that are read of a file in which a `user_id` stands.
_LONGEST: Final = 64


def known_first_user(directory: Path | None, app_id: str, machine: str) -> str | None:
    """
    The `user_id` that `first_user` has published, if any.
    """
    return None if directory is None else _read_user(_first_user_path(directory, app_id, machine))


def first_user(directory: Path | None, app_id: str, machine: str, fresh_id: str) -> str:
    """
    The `user_id` with which an app begins on a machine: the same for every
    process, however many begin at once.

    Args:
        directory: Where it is published; None gives the fresh one.
        app_id: Digits.
        machine: What names the machine.
        fresh_id: Used if nobody was first.
    """
    known = known_first_user(directory, app_id, machine)
    if known is not None or directory is None:
        return known or fresh_id
    try:
        found = system.publish(_first_user_path(directory, app_id, machine), fresh_id.encode())
    except OSError:
        return fresh_id
    text = found.decode("ascii", "replace").strip()
    return text if text.isdigit() else fresh_id


def copied_from_elsewhere(directory: Path | None, app_id: str, machine: str) -> bool:
    """
    Whether an app has had users in this directory, but never on this machine.
    """
    if directory is None or known_first_user(directory, app_id, machine) is not None:
        return False
    return any(directory.glob(f"user-{app_id}-*"))


def forget_first_users(directory: Path | None, state: State | None = None) -> None:
    """
    Remove the files that say who the first user was.

    Args:
        directory: Where they are.
        state: Only those of users that it forgets.
    """
    if directory is None:
        return
    for path in directory.glob("user-*"):
        user_id = _read_user(path)
        if state is None or (user_id and state.forgets(user_id, None, NEVER)):
            system.unlink_quietly(path)


def note_consent(directory: Path | None, given: bool) -> None:
    """
    Leave a sign of a withdrawn consent that can be read where the state cannot:
    on a damaged or read-only disk. Where it cannot be left, the state has it.
    """
    if directory is None or given is not consent_was_withdrawn(directory):
        return
    sign = directory / _OPTED_OUT
    if given:
        system.unlink_quietly(sign)
    else:
        with suppress(OSError):
            os.close(system.open_private(sign, os.O_WRONLY | os.O_CREAT))


def consent_was_withdrawn(directory: Path | None) -> bool:
    """
    Whether the sign says so.
    """
    return directory is not None and (directory / _OPTED_OUT).exists()


def _read_user(path: Path) -> str | None:
    try:
        found = system.read_private(path, _LONGEST).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return found if found.isdigit() else None


def _first_user_path(directory: Path, app_id: str, machine: str) -> Path:
    return directory / f"user-{app_id}-{fingerprint(machine)}"


def fingerprint(machine: str) -> str:
    """
    A machine's id as it may stand in a file's name.
    """
    return hashlib.sha256(machine.encode()).hexdigest()[:16]

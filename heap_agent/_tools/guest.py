"""
Which directory a command means, and an agent that is gone in a moment.

This module must not know what a command does there.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from heap_agent import _config
from heap_agent._tools.common import Place, fail, given, missing_app_id, note

if TYPE_CHECKING:
    from heap_agent._agent import Agent

__all__ = ["DIRECTORY", "existing", "guest", "last_word", "load", "meant", "refuse_strangers"]

DIRECTORY: Final = click.option(
    "--directory",
    # Who may not read it is told so by whatever wants to.
    type=Place(path_type=Path, readable=False),
    help="The state directory; by default that of the agent with this app id.",
)


class _Notes(logging.Handler):
    """Keeps what the agent logs, a line each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


_notes = _Notes()


@contextmanager
def guest(place: dict[str, Any], *, nameless: bool = False) -> Iterator[Agent]:
    """
    An agent that is gone in a moment and leaves the directory to its owner. What
    it has to say is printed after the command has succeeded.
    """
    from heap_agent._agent import Agent

    loaded = load(place)
    if loaded.config.app_id is None and not (nameless or loaded.config.disabled):
        raise click.UsageError(missing_app_id(loaded))
    refuse_strangers(_config.state_directory(loaded.config))
    logger = logging.getLogger("heap_agent")
    _notes.lines.clear()
    logger.addHandler(_notes)
    try:
        agent = Agent(_guest=True, at_exit=False, **given(place))
        try:
            yield agent
        finally:
            agent.shutdown(0)
    finally:
        logger.removeHandler(_notes)
    for line in _notes.lines:
        note(line)


def refuse_strangers(directory: Path | None) -> None:
    """
    End the command where a directory belongs to somebody else: what root writes there, or
    makes where it is to be, its owner could not read any more.
    """
    if directory is None or not hasattr(os, "geteuid"):
        return
    place = Path(os.path.realpath(directory))
    # Others than root cannot make anything where they may not.
    places = [place, *place.parents] if os.geteuid() == 0 else [place]
    there = next(filter(os.path.exists, places), None)
    if there is None or (owner := there.stat().st_uid) in (os.geteuid(), 0):
        return
    service = _service_of(place)
    if service is None:
        who = _name_of(owner)
        fail(f"{there} belongs to {who}: run this as that user, such as with sudo -u {who}")
    fail(
        f"{there} belongs to a service whose user comes and goes with it: run this as such a "
        f"service, such as with systemd-run --pipe --wait -p DynamicUser=yes -p User={service} "
        f"-p StateDirectory={service} {sys.executable} -m heap_agent ..."
    )


def _service_of(place: Path) -> str | None:
    """
    The state directory's name of a service with `DynamicUser=`: systemd keeps those in a
    directory that root alone may enter, so that sudo -u does not help.
    """
    for inner in (place, *place.parents):
        if inner.parent.name == "private":
            found = inner.parent.stat()
            if found.st_uid == 0 and not found.st_mode & 0o077:
                return inner.name
    return None


def _name_of(user: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"'#{user}'"


def load(place: dict[str, Any]) -> _config.Loaded:
    """
    The configuration, with what was typed.
    """
    return _config.load(given(place))


def meant(loaded: _config.Loaded) -> Path:
    """
    The state directory of the agent that is meant, there or not.
    """
    config = loaded.config
    named = config.directory or config.app_id or config.app_name
    if not named and not os.environ.get("STATE_DIRECTORY"):
        raise click.UsageError(missing_app_id(loaded, "--directory or "))
    directory = _config.state_directory(config)
    if directory is None:
        raise click.UsageError("this user has no home directory; give --directory.")
    return Path(os.path.realpath(directory))


def existing(loaded: _config.Loaded) -> Path:
    """
    The state directory of the agent that is meant; it must be there.
    """
    from heap_agent._tools.health import require_state

    directory = meant(loaded)
    require_state(directory)
    return directory


def last_word(otherwise: str) -> str:
    """
    What the agent of the last command has said in the end.
    """
    return _notes.lines[-1] if _notes.lines else otherwise

"""
Events of the program's own life, on request (``capture_lifecycle=True``): installed,
updated, opened, crashed.

A run that ended without `shutdown` is told by the next start; one that ends with an
exception nobody caught says so itself. This module must not know the agent.
"""

from __future__ import annotations

import builtins
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

from heap_agent._core.repair import type_name
from heap_agent._store import runs
from heap_agent._store.runs import Noted, Run, run_of

__all__ = ["Lifecycle", "run_of", "uncaught"]

_log = logging.getLogger("heap_agent.agent")

INSTALLED: Final = "Application Installed"
UPDATED: Final = "Application Updated"
OPENED: Final = "Application Opened"
CRASHED: Final = "Application Crashed"

_VERSION: Final = "App Version"
_PREVIOUS: Final = "Previous App Version"
_RESTARTED: Final = "Device Restarted"
_EXCEPTION: Final = "Exception"

#: Several exceptions in one; Python 3.10 has none.
_GROUP: Final[Any] = getattr(builtins, "BaseExceptionGroup", ())

#: Programs of this process that have told of their crash: directory and app id.
_crashed: Final[set[tuple[Path, str]]] = set()


class Lifecycle:
    """
    One run of a program.

    Args:
        directory: The state directory.
        run: What is noted of it.
        track: Records an event.
        sync: Brings what was recorded to stable storage.
    """

    def __init__(
        self,
        directory: Path,
        run: Run,
        track: Callable[[str, Mapping[str, Any]], None],
        sync: Callable[[], bool],
    ) -> None:
        self._directory = directory
        self._run = run
        self._track = track
        self._sync = sync
        self._noted: Noted | None = None

    def __repr__(self) -> str:
        return f"<Lifecycle [{'noted' if self._noted else 'not noted'}]>"

    def begin(self) -> None:
        """
        Tell what became of earlier runs, and that this one begins. Where the disk
        refuses, only the latter.
        """
        self._attempt(self._take_turn)
        self._track(OPENED, self._told(self._run.version))

    def end(self) -> None:
        """The program ends as it should, or nothing may be told of it."""
        noted, self._noted = self._noted, None
        if noted is not None:
            noted.end()

    def crash(self, error: BaseException) -> None:
        """
        The program ends with an exception that nobody caught: once, however many agents
        it has had. Of the exception only its type is told: its text may hold anything.
        """
        program = (self._directory, self._run.app_id)
        if program not in _crashed:
            _crashed.add(program)
            told = {**self._told(self._run.version), _EXCEPTION: type_name(error)}
            self._track(CRASHED, told)
        # The next start has nothing to add.
        self.end()

    def renew(self) -> None:
        """Note this run again, in a directory that has begun anew."""
        if self._noted is not None:
            self._attempt(self._note_version)
            self._attempt(self._note)

    @staticmethod
    def _attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            _log.warning("the run of this program cannot be noted: %s", error)

    def _take_turn(self) -> None:
        with runs.one_at_a_time(self._directory) as alone:
            if alone:
                self._attempt(self._tell_of_crashes)
                self._attempt(self._tell_of_version)
            self._attempt(self._note)

    def _note(self) -> None:
        self._noted = Noted(self._directory, self._run)

    def _note_version(self) -> None:
        with runs.noting_version(self._directory, self._run):
            pass

    def _tell_of_crashes(self) -> None:
        for run in runs.take_broken(self._directory, self._run.app_id, self._run.machine):
            told: dict[str, Any] = self._told(run.version)
            if run.boot_id and self._run.boot_id:
                told[_RESTARTED] = run.boot_id != self._run.boot_id
            self._track(CRASHED, told)

    def _tell_of_version(self) -> None:
        version = self._run.version
        before = runs.last_version(self._directory, self._run)
        if before == version or (before and not version):
            # A process that does not say which version it is takes nothing back.
            return
        # What cannot be noted is not told, or each start would tell it.
        with runs.noting_version(self._directory, self._run):
            if before is None:
                self._track(INSTALLED, self._told(version))
            elif before:
                self._track(UPDATED, {**self._told(version), _PREVIOUS: before})
            # Told twice is better than never: a power cut must not keep the note alone.
            self._sync()

    def _told(self, version: str) -> dict[str, str]:
        return {_VERSION: version} if version else {}


def uncaught() -> BaseException | None:
    """
    The exception that ends this program, if one does.

    Python keeps what it prints a traceback of in `sys.last_value`; where somebody types
    (`sys.ps1`), that was a line of theirs and ends nothing.
    """
    error = getattr(sys, "last_value", None)
    if error is None or hasattr(sys, "ps1") or _is_wish(error):
        return None
    return error if _went_through(getattr(sys, "last_traceback", None)) else None


def _went_through(trace: TracebackType | None) -> bool:
    """
    Whether an exception has left the program's outermost frame. What a callback raised
    is kept in the same place by tkinter and others, who go on; so do test runners.
    """
    if trace is None:
        return False
    frame = trace.tb_frame
    outermost = (frame.f_globals.get("__name__"), frame.f_code.co_name)
    # The latter is Python's own, around a program that `python -m` has started.
    return outermost in (("__main__", "<module>"), ("runpy", "_run_module_as_main"))


def _is_wish(error: BaseException) -> bool:
    """
    Whether somebody wanted the program to end: Ctrl-C, also where it ended a group of tasks.
    """
    kind = type(error)  # what an object says of its class may raise
    if issubclass(kind, _GROUP):
        return all(map(_is_wish, cast(Any, error).exceptions))
    return issubclass(kind, (KeyboardInterrupt, SystemExit))

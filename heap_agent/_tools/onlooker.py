"""
A state directory as something to watch, beside a running agent or without one.

Nothing is written or locked. What an agent holds in memory cannot be seen, nor what
Heap has answered. This module must not know how what is seen is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from heap_agent._config import Config
from heap_agent._core.hour import Hour
from heap_agent._core.state import State
from heap_agent._status import look
from heap_agent._store import outlook, system
from heap_agent._store.database import DatabaseTrouble
from heap_agent._upload.drain import Exchange
from heap_agent._view.device import InForce

__all__ = ["Onlooker"]


class Onlooker:
    """
    A state directory, as a `Device`.

    Args:
        directory: An existing one.
        config: Whose app id is meant, and whose budgets.
        problems: To be shown.
    """

    can_retry = False

    def __init__(self, directory: Path, config: Config, problems: tuple[str, ...]) -> None:
        self.directory: Path | None = directory
        self._directory = directory
        self._config = config
        self._problems = problems
        self._clock = system.Clock()
        self.boot_id = self._clock.boot_id
        self._machine = config.machine_id or system.machine_id()
        self._hour = Hour()

    def __repr__(self) -> str:
        return f"<Onlooker of {self._directory}>"

    def clocks(self) -> tuple[int, int]:
        """Wall clock and boot clock, µs."""
        return self._clock.wall_ns() // 1000, self._clock.boot_ns() // 1000

    def status(self) -> Mapping[str, Any]:
        """As far as the directory tells."""
        return look(self._directory, self._config, self._clock, self._problems).as_dict()

    def in_force(self) -> InForce:
        """Of the app id that is meant, or else of the one that was used last."""
        state = State()
        with suppress(DatabaseTrouble):  # the status says what is wrong
            state = outlook.read_state(self._directory, self._clock.boot_id)
        app_id = self._config.app_id or state.latest_app() or ""
        user_id, identity = state.user(app_id, self._machine) or (None, None)
        return InForce(
            user_id,
            identity,
            None,
            state.event_properties(app_id),
            self._config.device_properties,
            (state.purged, state.forgotten),
        )

    def hour(self) -> Hour:
        """Who sends keeps its own."""
        return self._hour

    def sending(self) -> Collection[int]:
        """Only whoever sends knows."""
        return ()

    def retry(self, rows: Sequence[int]) -> int:
        """Nobody writes here."""
        raise OSError("this page only looks on")

    def mended(self, event: str) -> Sequence[str]:
        """The program's log knows."""
        return ()

    def tap(self, watch: Callable[[Exchange], None]) -> None:
        """Nobody sends here."""

    def untap(self, watch: Callable[[Exchange], None]) -> None:
        """Nobody sends here."""

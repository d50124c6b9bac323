"""
What is watched: a running agent, or a state directory alone.

This module must not know which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from heap_agent._core.events import Scalar
from heap_agent._core.hour import Hour
from heap_agent._core.state import Moment
from heap_agent._upload.drain import Exchange


class InForce(NamedTuple):
    """
    What stands on whatever is recorded next.

    Attributes:
        user_id, identity, session_id: Who, and in which visit.
        event_properties, device_properties: On every event.
        erased: Changes when something was erased that must not be shown any longer.
    """

    user_id: str | None
    identity: str | None
    session_id: str | None
    event_properties: Mapping[str, Scalar]
    device_properties: Mapping[str, Scalar]
    erased: tuple[Moment, frozenset[str]]


class Device(Protocol):
    """
    All that a page is told of. Called on the thread that watches, but for `retry` and
    `mended`, which any thread may call.

    Attributes:
        directory: The state directory; None where everything is in memory.
        boot_id: The running boot.
        can_retry: Whether dead letters can be sent once more from here.
    """

    directory: Path | None
    boot_id: str
    can_retry: bool

    def clocks(self) -> tuple[int, int]:
        """Wall clock (since 1970) and boot clock, µs."""

    def status(self) -> Mapping[str, Any]:
        """The fields of `Status`, as for JSON."""

    def in_force(self) -> InForce:
        """What stands on whatever is recorded next."""

    def hour(self) -> Hour:
        """What is known of the last sixty minutes from before, by the boot clock."""

    def sending(self) -> Collection[int]:
        """Ids of the rows that are being sent."""

    def retry(self, rows: Sequence[int]) -> int:
        """
        Put dead letters back into the queue.

        Raises:
            OSError: They could not be, and why.
        """

    def mended(self, event: str) -> Sequence[str]:
        """What was mended in events of this name, a sentence each, as far as it is known."""

    def tap(self, watch: Callable[[Exchange], None]) -> None:
        """Have the sender tell of each request, this one alone."""

    def untap(self, watch: Callable[[Exchange], None]) -> None:
        """Have the sender tell this one no more; another that has come since stays."""

"""
Agents that are broken on purpose. Each breaks one promise in one place, and the tests of
that promise must find it out: a harness that finds nothing proves nothing.

    mutants.apply("absorb commits with NORMAL")

changes the process that it is called in, so it belongs into a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from heap_agent._store import rows
from heap_agent._store.database import Database
from heap_agent._store.event_queue import EventQueue


def _absorb_commits_with_normal() -> None:
    """A commit is no longer on the disk when it returns, and the journal is unlinked."""
    configure: Any = Database._configure

    def broken(self: Database, execute: Callable[..., Any]) -> None:
        configure(self, execute)
        execute("PRAGMA synchronous=NORMAL")

    Database._configure = broken  # type: ignore[method-assign]


def _rows_without_checksums() -> None:
    """Whatever stands in a row is sent."""
    rows.crc32 = lambda data: 0  # type: ignore[attr-defined]


def _books_that_are_not_put_right() -> None:
    """What damage has taken is not counted."""
    EventQueue.settle_books = lambda self: 0  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "absorb commits with NORMAL": _absorb_commits_with_normal,
    "rows without checksums": _rows_without_checksums,
    "books that are not put right": _books_that_are_not_put_right,
}


def apply(name: str) -> None:
    """Break this process's agents."""
    MUTANTS[name]()

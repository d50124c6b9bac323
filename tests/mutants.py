"""
Agents that are broken on purpose. Each breaks one promise in one place, and the tests of
that promise must find it out: a harness that finds nothing proves nothing.

    mutants.apply("absorb commits with NORMAL")

changes the process that it is called in, so it belongs into a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from heap_agent._store.database import Database


def _absorb_commits_with_normal() -> None:
    """A commit is no longer on the disk when it returns, and the journal is unlinked."""
    configure: Any = Database._configure

    def broken(self: Database, execute: Callable[..., Any]) -> None:
        configure(self, execute)
        execute("PRAGMA synchronous=NORMAL")

    Database._configure = broken  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "absorb commits with NORMAL": _absorb_commits_with_normal,
}


def apply(name: str) -> None:
    """Break this process's agents."""
    MUTANTS[name]()

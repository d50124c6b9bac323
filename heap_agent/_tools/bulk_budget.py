"""
What commands have sent in the last minute, in one small database for an app id.

Heap counts for a minute what comes from an app id, whichever command sent it, and
however often that was interrupted. So each request is written down before it
leaves, as one that is under way, and again with the time of its end. A command
that has died in between leaves it under way; whoever sends next takes it to have
ended then, which is never too early.

Commands take turns, request by request: the lock is held across the network,
and nobody wants it but who is about to send as well. Times are those of a clock that
nobody sets; after a reboot, what was written down before counts as new.

This module must not know what the budgets are, nor what is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Final

from heap_agent._core.budget import MARGIN, Allowance
from heap_agent._core.events import Kind
from heap_agent._store.database import Database, DatabaseTrouble
from heap_agent._store.owner import try_lock
from heap_agent._store.system import Clock, boot_id, make_private_directory
from heap_agent._tools.bulk_checkpoint import CheckpointTrouble, folder, made

__all__ = ["SharedLedger", "default_ledger", "seconds"]

#: Seconds after which a request counts for nothing: the longest window, and some.
_KEPT: Final = 60.0 + MARGIN + 1.0

#: Seconds to wait for one's turn at a time, so that whoever waits can be interrupted.
_PATIENCE: Final = 1.0

_SCHEMA: Final = {
    0: """
    CREATE TABLE request (
        id INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, ended REAL, spent TEXT NOT NULL)
    """
}


def default_ledger(app_id: str, endpoint: str) -> Path | None:
    """
    Where commands for an app id write down what they send.

    Returns:
        A path in the user's state directory; None for a user without a home.
    """
    place = folder()
    name = blake2b(endpoint.encode(), digest_size=8).hexdigest()
    return None if place is None else place / f"budget-{app_id}-{name}.db"


def seconds() -> float:
    """
    The clock of this ledger.
    """
    return Clock().boot_ns() / 1e9


class SharedLedger:
    """
    The requests of all commands, for one `ServerClient`.

    Args:
        path: The file; made for this user alone where it is missing.
        app_id: Whose budgets they are charged to.
        boot: Id of this boot.

    Raises:
        OSError: It, or its folder, cannot be made.
    """

    def __init__(self, path: Path, app_id: str, boot: str | None = None) -> None:
        if not path.parent.is_dir():
            make_private_directory(path.parent)
        self._path = path
        self._app_id = app_id
        self._boot = boot_id() if boot is None else boot
        self._lock = made(path.with_name(path.name + ".lock"))
        self._read_until = 0
        self._under_way: int | None = None
        # Opened in the first turn: two that make it at once would be in each other's way.
        self._opened: Database | None = None

    def __repr__(self) -> str:
        return f"<SharedLedger {self._path.name} until {self._read_until}>"

    @contextmanager
    def turn(self, now: float, allowance: Allowance) -> Iterator[bool]:
        """
        Let nobody else send within the block, and charge what others have sent.

        Yields:
            Whether it is our turn; if not, ask again.

        Raises:
            CheckpointTrouble: The file cannot be used.
        """
        lock = try_lock(self._lock, patience=_PATIENCE)
        if lock is None:
            yield False
            return
        try:
            with self._troubles():
                self._catch_up(now, allowance)
            yield True
        finally:
            lock.release()

    def begin(self, kind: Kind, actors: Iterable[str]) -> None:
        """
        Write down a request that is about to leave.
        """
        receipt = Allowance(1, 1, 1)
        receipt.charge(0.0, kind, self._app_id, actors)
        row = (self._boot, json.dumps(receipt.snapshot(0.0)))
        with self._troubles(), self._database.transact() as execute:
            cursor = execute("INSERT INTO request (boot, spent) VALUES (?, ?)", row)
            self._under_way = self._read_until = int(cursor.lastrowid or 0)

    def end(self, now: float, *, has_arrived: bool) -> None:
        """
        Write down when that request ended; one that never arrived is struck out.
        """
        with self._troubles(), self._database.transact() as execute:
            if has_arrived:
                execute("UPDATE request SET ended = ? WHERE id = ?", (now, self._under_way))
            else:
                execute("DELETE FROM request WHERE id = ?", (self._under_way,))
        self._under_way = None

    def close(self) -> None:
        """
        Let go of the file.
        """
        if self._opened is not None:
            self._opened.close()

    @property
    def _database(self) -> Database:
        if self._opened is None:
            self._opened = Database(self._path, migrations=_SCHEMA)
        return self._opened

    def _catch_up(self, now: float, allowance: Allowance) -> None:
        """Charge what is new, in the order in which it was sent."""
        if self._under_way is not None:
            # Ours, and interrupted: nothing has charged it.
            self._read_until, self._under_way = self._under_way - 1, None
        self._tidy(now)
        rows = self._database.query(
            "SELECT id, ended, spent FROM request WHERE id > ? ORDER BY id", (self._read_until,)
        )
        for number, ended, spent in rows:
            allowance.restore(min(ended, now), json.loads(spent))
            self._read_until = number

    def _tidy(self, now: float) -> None:
        stale = "ended IS NULL OR boot <> ?"
        old = "boot = ? AND ended < ?"
        wanted = f"SELECT 1 FROM request WHERE {stale} OR ({old}) LIMIT 1"
        if not self._database.query(wanted, (self._boot, self._boot, now - _KEPT)):
            return
        with self._database.transact() as execute:
            execute(f"DELETE FROM request WHERE {old}", (self._boot, now - _KEPT))
            execute(
                f"UPDATE request SET ended = ?, boot = ? WHERE {stale}",
                (now, self._boot, self._boot),
            )

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except DatabaseTrouble as error:
            raise CheckpointTrouble(
                f"{self._path}, where commands share Heap's limits, cannot be used ({error}); "
                "make room on its disk, or remove it when a minute has passed."
            ) from error

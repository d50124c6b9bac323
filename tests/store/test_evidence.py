"""What counts as damage, and what does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from helpers import ANN_NAMED, opened, track

from heap_agent._store.evidence import evidence
from heap_agent.testing import FakeClock


@pytest.fixture(name="path")
def _path(state_dir: Path, clock: FakeClock) -> Path:
    """A sound database that was in use."""
    with opened(state_dir, clock) as store:
        store.record_state({"a facet": 1}, identify=ANN_NAMED)
        for number in range(5):
            track(store, n=number, actor=ANN_NAMED)
        store.absorb(freeze=False)
        (ledger,) = store.queues()
        ledger.queue.bury([2], status=400, reason="bad", now=0)
    return state_dir / "queue-1.db"


def run(path: Path, statements: Iterable[str]) -> None:
    """Change it in a way of which SQLite itself finds nothing wrong."""
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def test_a_sound_one_shows_none(path: Path, tmp_path: Path) -> None:
    """Neither one in use, nor an empty file, nor one that is not there."""
    assert evidence(path) is None
    assert evidence(tmp_path / "queue-9.db") is None
    (tmp_path / "queue-9.db").touch()
    assert evidence(tmp_path / "queue-9.db") is None


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TABLE boot", "tables"),
        ("ALTER TABLE person RENAME COLUMN seen TO sewn", "tables"),
        ("PRAGMA user_version = 0", "tables"),
        ("UPDATE counter SET value = -1", "counter"),
        ("UPDATE counter SET value = 'many'", "counter"),
        ("UPDATE memo SET value = CAST(x'FF' AS TEXT)", "memo"),
        ("UPDATE position SET offset = x'01'", "position"),
        ("UPDATE entry SET boot = boot + 1 WHERE id = 4", "row 4"),
        ("UPDATE entry SET actor = CAST(x'FF' AS TEXT) WHERE id = 4", "row 4"),
        ("UPDATE dead SET kind = 'event'", "dead letter 2"),
    ],
)
def test_what_nobody_has_written_is_one(path: Path, statement: str, said: str) -> None:
    """Tables of another schema, values of another kind, rows that fail their checksums."""
    run(path, [statement])
    found = evidence(path)
    assert found is not None and said in found


def test_what_is_no_database_is_one(path: Path) -> None:
    """SQLite's own word is one, too."""
    path.write_bytes(b"\xa5" * path.stat().st_size)
    assert evidence(path) == "file is not a database"

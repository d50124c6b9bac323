"""Rows read from pages, compared with what SQLite itself says."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._store.pages import Pages

VALUES = (
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from([3_000, 4_050, 4_061, 4_062, 9_000, 70_000]).map(lambda size: b"x" * size)
)
ROWS = st.dictionaries(
    st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 50), st.tuples(VALUES, VALUES)
)


def read(path: Path, *widths: int) -> list[tuple[object, ...]]:
    """All rows, by their ids."""
    with Pages(path, path.with_name(path.name + "-wal")) as pages:
        return sorted(pages.rows(widths), key=lambda row: row[0])


def write(path: Path, rows: dict[int, tuple[object, object]], gone: int) -> sqlite3.Connection:
    """A database in which some rows were written, and every so many removed again."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA auto_vacuum=FULL")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA secure_delete=FAST")
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
    database.executemany("INSERT INTO t VALUES (?, ?, ?)", [(id, *row) for id, row in rows.items()])
    database.executemany("DELETE FROM t WHERE id = ?", [(id,) for id in sorted(rows)[::gone]])
    return database


@pytest.mark.parametrize("in_log", [True, False])
@given(rows=ROWS, gone=st.integers(1, 5))
@settings(max_examples=50)
def test_all_rows_are_found(
    tmp_path_factory: pytest.TempPathFactory,
    in_log: bool,
    rows: dict[int, tuple[object, object]],
    gone: int,
) -> None:
    """Whatever the values, long or short, in the file or in its log; and none that is gone."""
    path = tmp_path_factory.mktemp("pages") / "queue-1.db"
    database = write(path, rows, gone)
    expected = database.execute("SELECT * FROM t ORDER BY id").fetchall()
    if not in_log:
        database.close()
        assert not path.with_name("queue-1.db-wal").exists()

    assert read(path, 3) == expected
    assert read(path, 4) == []
    database.close()


def test_only_whole_transactions_of_the_log_count(tmp_path: Path) -> None:
    """A log that was torn, or has bytes of an older one at its end, ends there."""
    path = tmp_path / "queue-1.db"
    database = write(path, {1: ("one", 1)}, 2)
    database.execute("INSERT INTO t VALUES (2, 'two', 2)")
    log = path.with_name("queue-1.db-wal")
    whole = log.read_bytes()
    database.execute("INSERT INTO t VALUES (3, 'three', 3)")
    torn = log.read_bytes()
    database.close()

    def expect(content: bytes, ids: list[int]) -> None:
        copy = tmp_path / "copy.db"
        copy.write_bytes(b"\0" * 8192)
        copy.with_name("copy.db-wal").write_bytes(content)
        assert [row[0] for row in read(copy, 3)] == ids

    expect(torn, [2, 3])
    expect(torn[:-1], [2])
    expect(whole + torn[len(whole) :].replace(b"three", b"eerht"), [2])
    expect(b"", [])
    expect(b"\xff" * 9_000, [])


@pytest.fixture(name="sound", scope="module")
def _sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with rows of all lengths."""
    path = tmp_path_factory.mktemp("sound") / "queue-1.db"
    write(path, {id: (b"x" * 150 * id, "y" * id) for id in range(60)}, 7).close()
    return path.read_bytes()


@given(noise=st.binary(min_size=1, max_size=60), places=st.lists(st.integers(0, 1 << 20)))
def test_noise_is_no_reason_to_stop(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, noise: bytes, places: list[int]
) -> None:
    """Whatever stands in the pages, reading them ends, and raises nothing."""
    path = tmp_path_factory.mktemp("pages") / "queue-1.db"
    content = bytearray(sound)
    for place in places:
        place %= len(content)
        content[place : place + len(noise)] = noise
    path.write_bytes(content)

    for row in read(path, 1, 2, 3, 4):
        assert isinstance(row[0], int)

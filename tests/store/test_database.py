"""
One SQLite file: what is asked of it, and what its errors mean.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from helpers import interrupted

from heap_agent._store import database as module
from heap_agent._store import forking
from heap_agent._store.database import (
    MIGRATIONS,
    SCHEMA_VERSION,
    WAL_PAGES,
    Database,
    DatabaseTrouble,
    Reader,
    Trouble,
    damage,
)


@pytest.fixture(name="path")
def _path(state_dir: Path) -> Path:
    return state_dir / "queue-1.db"


def pragma(database: Database, name: str) -> object:
    """One setting in force."""
    return database.query(f"PRAGMA {name}")[0][0]


def count(database: Database, number: int, name: str = "n") -> None:
    """Write something."""
    with database.transact() as execute:
        execute("REPLACE INTO counter VALUES (?, ?)", (name, number))


# -- opening ------------------------------------------------------------------------


def test_the_settings_that_durability_rests_on(path: Path) -> None:
    """Write-ahead log, full syncs, a small log, a file that shrinks, no memory map."""
    database = Database(path)

    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "synchronous") == 2
    assert pragma(database, "auto_vacuum") == 1
    assert pragma(database, "wal_autocheckpoint") == WAL_PAGES
    assert pragma(database, "journal_size_limit") == module.WAL_BYTES
    assert pragma(database, "cell_size_check") == 1
    assert pragma(database, "mmap_size") == 0
    assert pragma(database, "locking_mode") == "normal"
    assert pragma(database, "user_version") == SCHEMA_VERSION
    assert damage(database) == []
    database.close()


def test_there_are_no_costly_indexes(path: Path) -> None:
    """The queue's tables have no index beside their ids: each would double the writes."""
    database = Database(path)
    tables = {
        name: database.query(f"PRAGMA index_list({name})") for name in ("entry", "dead", "step")
    }
    database.close()

    assert tables == {"entry": [], "dead": [], "step": []}


def test_a_refused_write_ahead_log_is_trouble(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says softly when it has chosen another journal: that is not accepted."""
    before = sqlite3.connect(path)
    before.execute("CREATE TABLE held (x)")
    before.execute("PRAGMA journal_mode=DELETE")
    before.execute("BEGIN")
    before.execute("SELECT * FROM held").fetchall()
    monkeypatch.setattr(module, "READER_PATIENCE", 0.05)

    with pytest.raises(DatabaseTrouble) as caught:
        Database(path)
    before.close()

    assert caught.value.trouble is Trouble.BUSY


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_every_file_is_private_whatever_the_umask(path: Path) -> None:
    """Database, log and shared memory have mode 0600 under a umask of 0."""
    before = os.umask(0)
    try:
        database = Database(path)
        count(database, 1)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        database.close()
    finally:
        os.umask(before)

    assert set(modes) == {"queue-1.db", "queue-1.db-wal", "queue-1.db-shm"}
    assert set(modes.values()) == {0o600}


def test_what_was_committed_is_there_again(path: Path) -> None:
    """Closing and opening changes nothing."""
    database = Database(path)
    count(database, 7)
    database.close()

    again = Database(path)

    assert again.query("SELECT value FROM counter") == [(7,)]
    again.close()


def test_a_newer_schema_is_left_untouched(path: Path) -> None:
    """After an update that was rolled back not a byte changes, the log included."""
    database = Database(path)
    count(database, 7)
    with database.transact() as execute:
        execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    # As a crash leaves it: with a log that has not been folded in.
    crashed = path.parent / "crashed"
    crashed.mkdir()
    for file in path.parent.glob("queue-1.db*"):
        shutil.copy(file, crashed / file.name)
    database.close()
    before = {file.name: file.read_bytes() for file in crashed.iterdir() if "shm" not in file.name}

    with pytest.raises(DatabaseTrouble, match="left untouched") as caught:
        Database(crashed / path.name)
    with pytest.raises(DatabaseTrouble) as also:
        Reader(crashed / path.name).__enter__()

    assert caught.value.trouble is also.value.trouble is Trouble.NEWER
    assert len(before["queue-1.db-wal"]) > 0
    assert before == {
        file.name: file.read_bytes() for file in crashed.iterdir() if "shm" not in file.name
    }


def test_migrations_lead_from_any_version_to_the_newest(path: Path) -> None:
    """Each step is one transaction with its version; what was there stays."""
    old = Database(path)
    count(old, 7)
    old.close()
    more = {**MIGRATIONS, 1: "ALTER TABLE counter ADD COLUMN note TEXT;", 2: "DROP TABLE step"}

    new = Database(path, migrations=more)

    assert new.query("SELECT * FROM counter") == [("n", 7, None)]
    assert pragma(new, "user_version") == 3
    new.close()


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """Half a migration is none: the old version opens it again."""
    Database(path).close()
    broken = {**MIGRATIONS, 1: "ALTER TABLE counter ADD COLUMN note TEXT; NO SQL AT ALL"}

    with pytest.raises(DatabaseTrouble):
        Database(path, migrations=broken)

    again = Database(path)
    assert pragma(again, "user_version") == 1
    assert len(again.query("PRAGMA table_info(counter)")) == 2
    again.close()


# -- transactions -------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    """An exception takes back everything, inner transactions included."""
    database = Database(path)
    with pytest.raises(ZeroDivisionError), database.transact():
        count(database, 1)
        with database.transact():
            count(database, 2, "m")
        raise ZeroDivisionError

    assert database.query("SELECT * FROM counter") == []
    count(database, 3)
    assert database.query("SELECT * FROM counter") == [("n", 3)]
    database.close()


def test_an_interrupt_at_any_moment_leaves_the_database_free(path: Path) -> None:
    """What a signal handler raises leaves no transaction open, and nobody locked out."""
    database = Database(path)
    moment = 0
    while interrupted(lambda: count(database, moment), moment := moment + 1):
        thread = threading.Thread(target=count, args=(database, moment, "other"), daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), moment
        assert database.query("SELECT value FROM counter WHERE name = 'other'") == [(moment,)]
        assert not forking._inside

    assert moment > 10
    database.close()


def test_a_closed_database_says_so(path: Path) -> None:
    """Whoever comes late is told, and opens nothing behind the next owner's back."""
    database = Database(path)
    count(database, 1)
    database.close()
    database.close()

    for call in (lambda: count(database, 2), lambda: database.query("SELECT 1")):
        with pytest.raises(DatabaseTrouble, match="closed"):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_that_was_removed_is_not_begun_anew(path: Path, replaced: bool) -> None:
    """A connection that was put down for a fork finds its own file again, or none."""
    database = Database(path)
    count(database, 1)
    database.put_down()
    path.rename(path.with_suffix(".removed"))
    if replaced:
        Database(path).close()

    with pytest.raises(DatabaseTrouble, match="removed"):
        database.query("SELECT * FROM counter")

    assert path.exists() == replaced


def test_threads_take_turns(path: Path) -> None:
    """Transactions of several threads on the one connection never mix."""
    database = Database(path)
    count(database, 0)

    def add() -> None:
        for _ in range(50):
            with database.transact() as execute:
                ((value,),) = database.query("SELECT value FROM counter")
                execute("UPDATE counter SET value = ?", (value + 1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert database.query("SELECT value FROM counter") == [(200,)]
    database.close()


def test_a_checkpoint_empties_the_log(path: Path) -> None:
    """Folding the log in cuts its file to nothing."""
    database = Database(path)
    count(database, 1)
    wal = path.with_name(path.name + "-wal")
    assert wal.stat().st_size > 0

    database.checkpoint()

    assert wal.stat().st_size == 0
    database.close()


def test_a_database_in_memory_has_no_file(path: Path) -> None:
    """Without a path nothing is written anywhere."""
    database = Database(None)
    count(database, 1)

    assert database.query("SELECT value FROM counter") == [(1,)]
    assert list(path.parent.iterdir()) == []
    assert "memory" in repr(database)
    database.close()


# -- trouble ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"no database at all" * 300, b"SQLite format 3\0" + b"\7" * 4080]
)
def test_what_is_no_database_is_corrupt(content: bytes, path: Path) -> None:
    """A file of something else, or with a broken first page, is called corrupt."""
    path.write_bytes(content)

    with pytest.raises(DatabaseTrouble) as caught:
        Database(path)

    assert caught.value.trouble is Trouble.CORRUPT
    assert path.read_bytes() == content


def test_a_damaged_page_is_corrupt(path: Path) -> None:
    """Overwritten pages are noticed when they are read."""
    database = Database(path)
    with database.transact() as execute:
        for number in range(2_000):
            execute("INSERT INTO counter VALUES (?, 1)", (f"name {number:08d}" * 4,))
    database.close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(30 * 4096)
        file.write(b"\xa5" * (size - 31 * 4096))

    damaged = Database(path)
    with pytest.raises(DatabaseTrouble) as caught:
        damaged.query("SELECT sum(value), max(name) FROM counter")
    damaged.close()

    assert caught.value.trouble is Trouble.CORRUPT


def test_a_full_database_says_so(path: Path) -> None:
    """SQLITE_FULL is told apart from all other trouble, and nothing has happened."""
    database = Database(path)
    count(database, 1)
    database.query("PRAGMA max_page_count=40")

    with pytest.raises(DatabaseTrouble) as caught:
        with database.transact() as execute:
            for number in range(5_000):
                execute("INSERT INTO counter VALUES (?, 1)", (f"name {number:08d}" * 4,))

    assert caught.value.trouble is Trouble.FULL
    assert database.query("SELECT * FROM counter") == [("n", 1)]
    database.close()


def test_a_directory_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """Where no file can be made there is nothing to be called corrupt."""
    with pytest.raises(DatabaseTrouble) as caught:
        Database(tmp_path / "missing" / "queue-1.db")

    assert caught.value.trouble is Trouble.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("database or disk is full", Trouble.FULL),
        ("database disk image is malformed", Trouble.CORRUPT),
        ("file is not a database", Trouble.CORRUPT),
        ("disk I/O error", Trouble.UNAVAILABLE),
        ("attempt to write a readonly database", Trouble.UNAVAILABLE),
    ],
)
def test_errors_without_names_are_told_by_their_text(text: str, trouble: Trouble) -> None:
    """Python 3.10 gives no error names: the messages must do."""
    assert module._translate(sqlite3.OperationalError(text)).trouble is trouble


def test_errors_are_told_by_their_names() -> None:
    """Extended codes belong to their families."""
    error = sqlite3.OperationalError("whatever")
    error.sqlite_errorname = "SQLITE_CORRUPT_VTAB"

    assert module._translate(error).trouble is Trouble.CORRUPT


# -- readers ------------------------------------------------------------------------


def test_a_reader_sees_one_moment_while_the_owner_writes(path: Path) -> None:
    """What is committed during a look is not in it, and nobody waits for anybody."""
    database = Database(path)
    count(database, 1)
    with Reader(path) as reader:
        count(database, 2)
        assert reader.query("SELECT value FROM counter") == [(1,)]
    with Reader(path) as reader:
        assert reader.query("SELECT value FROM counter") == [(2,)]
    database.close()
    with Reader(path) as reader:
        assert reader.query("SELECT value FROM counter") == [(2,)]


def test_a_reader_cannot_write(path: Path) -> None:
    """Only the owner's connection writes."""
    Database(path).close()

    with Reader(path) as reader, pytest.raises(DatabaseTrouble):
        reader.query("DELETE FROM counter")


def test_a_reader_of_nothing_is_told_what_is_missing(path: Path) -> None:
    """No file, an empty one, and something else are three things."""
    with pytest.raises(DatabaseTrouble) as missing:
        Reader(path).__enter__()
    path.touch()
    with pytest.raises(DatabaseTrouble) as empty:
        Reader(path).__enter__()
    path.write_bytes(b"something else" * 500)
    with pytest.raises(DatabaseTrouble) as other:
        Reader(path).__enter__()

    assert missing.value.trouble is Trouble.UNAVAILABLE
    assert empty.value.trouble is Trouble.EMPTY
    assert other.value.trouble is Trouble.CORRUPT


def test_a_creation_that_was_cut_short_is_begun_again(path: Path) -> None:
    """What a kill or a power cut has left of it, a file with a hot journal, is rolled back."""
    half = path.with_name("half.db")
    creating = sqlite3.connect(half, isolation_level=None)
    creating.execute("PRAGMA user_version=0")
    creating.execute("PRAGMA cache_size=1")
    creating.execute("BEGIN")
    creating.execute("CREATE TABLE counter (name, value)")
    creating.executemany("INSERT INTO counter VALUES (?, 1)", [("x" * 3_000,)] * 20)
    for suffix in ("", "-journal"):
        content = half.with_name(half.name + suffix).read_bytes()
        path.with_name(path.name + suffix).write_bytes(content)
    creating.close()

    database = Database(path)

    assert database.query("SELECT * FROM counter") == []
    assert damage(database) == []
    database.close()

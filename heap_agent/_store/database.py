"""
One SQLite file: connection, pragmas, transactions, schema, migrations, check.

Only the owner opens it for writing, through one connection with its own lock.
Everybody else reads with `Reader`, which holds no transaction beyond one call.
Errors of SQLite leave this module as `DatabaseTrouble` with a kind that says
what to do. Nothing else in the package imports `sqlite3`.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from heap_agent._store import system
from heap_agent._store.forking import put_down_before_fork, undivided

Row = tuple[Any, ...]

#: Runs one statement of a transaction.
Execute: TypeAlias = Callable[..., sqlite3.Cursor]


class Queryable(Protocol):
    """
    The owner's database, or a reader's.
    """

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """All rows of a SELECT."""


#: The WAL is folded into the file at this many pages (512 KB), so that a small
#: disk is not filled by the log of a small queue.
WAL_PAGES: Final = 128
PAGE_BYTES: Final = 4_096
WAL_BYTES: Final = WAL_PAGES * PAGE_BYTES

#: Seconds that a reader waits for the owner's commit.
READER_PATIENCE: Final = 1.0

SCHEMA_VERSION: Final = 1

_VERSION_1: Final = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE memo (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, flags INTEGER NOT NULL,
    boot INTEGER NOT NULL, boot_clock INTEGER NOT NULL, wall INTEGER NOT NULL,
    app_id TEXT NOT NULL, actor TEXT NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, flags INTEGER NOT NULL,
    boot INTEGER NOT NULL, boot_clock INTEGER NOT NULL, wall INTEGER NOT NULL,
    app_id TEXT NOT NULL, actor TEXT NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
    status INTEGER, reason TEXT NOT NULL, died INTEGER NOT NULL);
CREATE TABLE facet (
    name TEXT PRIMARY KEY, value TEXT NOT NULL, boot INTEGER NOT NULL,
    clock INTEGER NOT NULL, writer TEXT NOT NULL, sequence INTEGER NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE position (
    journal TEXT NOT NULL, part INTEGER NOT NULL, offset INTEGER NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY (journal, part));
CREATE TABLE boot (
    ordinal INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, mark INTEGER NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE step (
    boot INTEGER NOT NULL, after INTEGER NOT NULL, until INTEGER NOT NULL,
    offset_before INTEGER NOT NULL, offset_after INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE person (
    app_id TEXT NOT NULL, user_id TEXT NOT NULL, identity TEXT, identified INTEGER,
    seen INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (app_id, user_id));
CREATE TABLE user_property (
    app_id TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL,
    value TEXT NOT NULL, queued INTEGER NOT NULL, boot INTEGER NOT NULL, clock INTEGER NOT NULL,
    PRIMARY KEY (app_id, owner, name));
"""

#: Statements that lead from version n to n+1, by n.
MIGRATIONS: Final[dict[int, str]] = {0: _VERSION_1}


# The quick one does not compare indexes with their tables, and only small ones have any.
_CHECK: Final = "PRAGMA integrity_check"


class Trouble(Enum):
    """
    What is wrong with the database, as far as SQLite can tell.
    """

    FULL = "full"
    CORRUPT = "corrupt"
    NEWER = "newer schema"
    EMPTY = "just being created"
    BUSY = "in use"
    UNAVAILABLE = "unavailable"


class DatabaseTrouble(Exception):
    """
    SQLite could not do what was asked.

    Attributes:
        trouble: What kind of thing is wrong.
    """

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble


# Names exist on the exception from Python 3.11 on; the messages are SQLite's own
# and have been stable for twenty years.
_BY_NAME: Final = {
    "SQLITE_BUSY": Trouble.BUSY,
    "SQLITE_FULL": Trouble.FULL,
    "SQLITE_CORRUPT": Trouble.CORRUPT,
    "SQLITE_NOTADB": Trouble.CORRUPT,
}
_BY_TEXT: Final = {
    "database is locked": Trouble.BUSY,
    "database or disk is full": Trouble.FULL,
    "malformed": Trouble.CORRUPT,
    "not a database": Trouble.CORRUPT,
    # No statement of ours meets these, unless the tables are not what it made them.
    "no such table": Trouble.CORRUPT,
    "no such column": Trouble.CORRUPT,
    "has no column named": Trouble.CORRUPT,
    "already exists": Trouble.CORRUPT,
    "constraint failed": Trouble.CORRUPT,
    "Could not decode to UTF-8": Trouble.CORRUPT,
    "integer overflow": Trouble.CORRUPT,
}


#: What `sqlite3` raises; the second where a damaged name stands in SQLite's own message.
_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


def _translate(error: sqlite3.Error | UnicodeDecodeError) -> DatabaseTrouble:
    if isinstance(error, UnicodeDecodeError):
        error = sqlite3.DatabaseError(error.object.decode("utf-8", "replace"))
    elif type(error) is sqlite3.DatabaseError and not str(error):
        # Python 3.10 has nothing to say then.
        error = sqlite3.DatabaseError("malformed, with a name that is no text")
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, trouble in _BY_NAME.items():
        if name.startswith(prefix):
            return DatabaseTrouble(trouble, str(error))
    for text, trouble in _BY_TEXT.items():
        if text in str(error):
            return DatabaseTrouble(trouble, str(error))
    return DatabaseTrouble(Trouble.UNAVAILABLE, f"{name or type(error).__name__}: {error}")


class Database:
    """
    The owner's connection.

    Args:
        path: The file, created (0600) where it is missing; None for a database
            in memory, which lives as long as this object.
        logged: With a write-ahead log; without one it is a single file when it is closed.
        migrations: Statements by version; a test may pass others.

    Raises:
        DatabaseTrouble: It cannot be opened, is no database, or was written by
            a newer version (then it has not been touched).
    """

    def __init__(
        self,
        path: Path | None,
        *,
        logged: bool = True,
        migrations: dict[int, str] | None = None,
    ) -> None:
        self.path = path
        self._logged = logged and path is not None
        self._lock = threading.RLock()
        self._depth = 0
        self._migrations = MIGRATIONS if migrations is None else migrations
        self._opened: sqlite3.Connection | None = None
        self._closed = False
        self._file: tuple[int, int] | None = None
        #: Transactions that have not happened, for whoever remembers what was done in one.
        self.undone = 0
        with undivided():
            if path is not None and not path.exists():
                self._create(path)
            elif path is not None:
                self._refuse_newer(path)
            connection = self._connection()
        if path is None:
            # It lives as long as somebody may ask it; nobody closes it earlier, least
            # of all the interpreter's end, when the last delivery is still under way.
            weakref.finalize(self, connection.close).atexit = False
        else:
            with suppress(OSError):
                found = path.stat()
                self._file = found.st_dev, found.st_ino
            put_down_before_fork(self)

    def __repr__(self) -> str:
        return f"<Database {'in memory' if self.path is None else self.path.name}>"

    def _create(self, path: Path) -> None:
        """
        Created by us, so that it is private from its first byte. Never done to a
        file that exists: closing it would drop the locks that a reader in this
        process holds on it.
        """
        try:
            os.close(system.open_private(path, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise DatabaseTrouble(Trouble.UNAVAILABLE, str(error)) from error

    def _refuse_newer(self, path: Path) -> None:
        """
        Looked at read-only: closing a connection that may write folds the log
        into the file, which would not leave it untouched.
        """
        if path.with_name(path.name + "-journal").exists():
            # Its creation was cut short, which nobody can read before it is rolled back.
            return
        try:
            looking = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=READER_PATIENCE
            )
            try:
                version = looking.execute("PRAGMA user_version").fetchone()[0]
            finally:
                looking.close()
        except _ERRORS as error:
            raise _translate(error) from error
        self._refuse_version(version)

    def _refuse_version(self, version: int) -> None:
        newest = max(self._migrations) + 1
        if version > newest:
            raise DatabaseTrouble(
                Trouble.NEWER,
                f"the queue has schema {version}, this version knows {newest}; it is left "
                "untouched and recording goes on in the journal",
            )

    def _connection(self) -> sqlite3.Connection:
        """
        The connection; opened (again, after a fork) where there is none.
        """
        if self._opened is None:
            if self._closed:
                raise DatabaseTrouble(Trouble.UNAVAILABLE, "the queue is closed")
            if not self.in_place:
                # A new one would be empty, and its books would begin at 0.
                raise DatabaseTrouble(Trouble.UNAVAILABLE, "somebody has removed the queue's file")
            try:
                self._opened = sqlite3.connect(
                    # Not created by SQLite, should it go this very moment.
                    ":memory:" if self.path is None else f"{self.path.absolute().as_uri()}?mode=rw",
                    uri=self.path is not None,
                    isolation_level=None,
                    check_same_thread=False,
                    timeout=READER_PATIENCE,
                )
                self._configure(self._opened.execute)
            except BaseException as error:
                opened, self._opened = self._opened, None
                if opened is not None:
                    opened.close()
                if isinstance(error, _ERRORS):
                    raise _translate(error) from error
                raise
        return self._opened

    @property
    def in_place(self) -> bool:
        """Whether the file is still the one that was opened, as far as can be told."""
        if self.path is None:
            return True
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return self._file in (None, (found.st_dev, found.st_ino))

    def put_down(self) -> None:
        """
        Before a fork: close the connection. The log stays as it is where Python
        can say so; otherwise SQLite folds it into the file.
        """
        opened = self._opened
        if opened is None:
            return
        with suppress(sqlite3.Error):
            if sys.version_info >= (3, 12):
                opened.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
            opened.close()
            self._opened = None

    def _configure(self, execute: Execute) -> None:
        version = execute("PRAGMA user_version").fetchone()[0]
        self._refuse_version(version)
        newest = max(self._migrations) + 1
        execute("PRAGMA auto_vacuum=FULL")
        if self._logged:
            mode = execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise DatabaseTrouble(
                    Trouble.UNAVAILABLE, f"SQLite refused write-ahead logging and chose {mode}"
                )
        execute("PRAGMA synchronous=FULL")
        execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
        execute("PRAGMA cell_size_check=ON")
        execute("PRAGMA mmap_size=0")
        execute("PRAGMA temp_store=MEMORY")
        # What is deleted is overwritten, where that costs no write of its own. No
        # page is ever free in a file that shrinks by itself: nothing is left over.
        execute("PRAGMA secure_delete=FAST")
        execute("PRAGMA trusted_schema=OFF")
        while version < newest:
            with self.transact():
                for statement in self._migrations[version].split(";"):
                    if statement.strip():
                        execute(statement)
                version += 1
                execute(f"PRAGMA user_version={version}")

    @contextmanager
    def _in_use(self) -> Iterator[sqlite3.Connection]:
        """
        The connection, for one thread at a time and not across a fork.
        """
        with self._lock, undivided():
            try:
                connection = self._connection()
                if connection.in_transaction and not self._depth:
                    # Whatever a signal handler raised has kept it from being ended.
                    self.undone += 1
                    connection.execute("ROLLBACK")
                yield connection
            except _ERRORS as error:
                raise _translate(error) from error

    @contextmanager
    def transact(self) -> Iterator[Execute]:
        """
        One transaction: all of it, or nothing. Re-entrant in a thread.

        Yields:
            ``execute(sql, parameters)``.

        Raises:
            DatabaseTrouble: SQLite refused; nothing of it has happened.
        """
        with self._in_use() as connection:
            if self._depth:
                yield connection.execute
                return
            try:
                self._depth = 1
                connection.execute("BEGIN IMMEDIATE")
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                self.undone += 1
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def execute_many(self, sql: str, rows: Iterable[Row]) -> int:
        """
        One statement for many rows, inside a transaction of the caller's.

        Returns:
            How many rows changed.
        """
        with self._in_use() as connection:
            return connection.executemany(sql, rows).rowcount

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """
        All rows of a SELECT.
        """
        with self._in_use() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextmanager
    def reading(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[Iterator[Row]]:
        """
        Rows of a SELECT one by one, as many as are wanted; nothing stays open after it.
        """
        with self._in_use() as connection, closing(connection.execute(sql, parameters)) as rows:
            yield rows

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        Keep other threads out meanwhile: what is asked in here belongs together.
        """
        with self._in_use():
            yield

    @property
    def bytes(self) -> int:
        """What the file takes once the log is folded in."""
        return int(self.query("PRAGMA page_count")[0][0]) * PAGE_BYTES

    def fold(self) -> None:
        """
        Fold the write-ahead log into the file, as far as nobody needs it.
        """
        self.query("PRAGMA wal_checkpoint(PASSIVE)")

    def checkpoint(self) -> bool:
        """
        Fold the write-ahead log into the file and cut it to nothing. False where a
        reader still needs it.
        """
        return not self.query("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]

    def rewrite(self) -> bool:
        """
        Write every page anew: what was deleted may stand in one that has been moved
        about in, though it was overwritten where it stood. Takes as much room again
        until it is done. False where a reader still needs the log.
        """
        self.query("VACUUM")
        return self.checkpoint()

    def close(self) -> None:
        """
        Close the connection for good. Must come before the owner lock is let go.
        """
        if self._closed:
            return
        with self._in_use() as connection:
            self._closed, self._opened = True, None
            connection.close()


def remove_database(path: Path) -> None:
    """
    Remove a database that nobody has open, and what SQLite has put beside it.
    """
    for suffix in ("", "-wal", "-shm", "-journal"):
        system.unlink_quietly(path.with_name(path.name + suffix))


def damage(source: Queryable) -> list[str]:
    """
    What SQLite itself finds wrong; empty where nothing is.
    """
    found = [str(row[0]) for row in source.query(_CHECK)]
    return [] if found == ["ok"] else found


def remember(execute: Execute, name: str, text: str) -> None:
    """
    Write a memo. Where it stands already it is changed there: to replace a row is to
    write its index, too.
    """
    if not execute("UPDATE memo SET value = ? WHERE name = ?", (text, name)).rowcount:
        execute("INSERT INTO memo VALUES (?, ?)", (name, text))


class Reader:
    """
    A look at the database from outside: read-only, one transaction, then gone.
    Used in a ``with`` statement; a fork waits for its end.

    Args:
        path: The file.
        damaged: Whatever its version, as far as it can be read. Text that is no UTF-8
            comes as bytes.

    Raises:
        DatabaseTrouble: There is no readable database.
    """

    def __init__(self, path: Path, *, damaged: bool = False) -> None:
        self._path = path
        self._damaged = damaged
        self._open = ExitStack()

    def __enter__(self) -> Reader:
        with ExitStack() as opening:
            opening.enter_context(undivided())
            try:
                self._connection = opening.enter_context(closing(self._connect()))
            except _ERRORS as error:
                raise _translate(error) from error
            if self._damaged:
                self._connection.text_factory = _text_or_bytes
            else:
                self._refuse_other_versions()
            self._open = opening.pop_all()
        return self

    def _refuse_other_versions(self) -> None:
        version = self.query("PRAGMA user_version")[0][0]
        if version == 0:
            raise DatabaseTrouble(Trouble.EMPTY, "the queue is just being created")
        if version > SCHEMA_VERSION:
            raise DatabaseTrouble(
                Trouble.NEWER,
                f"the queue has schema {version}, this version knows {SCHEMA_VERSION}; "
                "the version that wrote it can read it",
            )

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._begin("mode=ro")
        except sqlite3.Error:
            # A file with a log can only be read where the log's index can be made:
            # on a read-only disk it looks as if it were missing.
            if not self._is_at_rest:
                raise
        return self._begin("immutable=1")

    @property
    def _is_at_rest(self) -> bool:
        """Whether nobody can be writing: an owner has a log, and the disk takes nothing."""
        log = self._path.with_name(self._path.name + "-wal")
        return not log.exists() and not system.probe_write(self._path.parent)

    def _begin(self, how: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?{how}",
            uri=True,
            isolation_level=None,
            timeout=READER_PATIENCE,
        )
        try:
            connection.execute("BEGIN")
            connection.execute("PRAGMA user_version").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """
        All rows of a SELECT.
        """
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except _ERRORS as error:
            raise _translate(error) from error

    @contextmanager
    def reading(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[Iterator[Row]]:
        """
        Rows of a SELECT one by one, as many as can be read.
        """
        try:
            with closing(self._connection.execute(sql, parameters)) as rows:
                yield rows
        except _ERRORS as error:
            raise _translate(error) from error


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value

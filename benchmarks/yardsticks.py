"""
What anybody could do with an event instead: append it to a file, or commit it
to SQLite. And a server that is not there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from benchmarks.timing import Block
from heap_agent._core.encoder import NAME as ENCODER

#: Encodes a whole record. The floor is that of the machine: orjson where it is.
dumps: Callable[[Any], bytes]
if ENCODER == "orjson":
    import orjson

    dumps = orjson.dumps
else:
    import json

    def dumps(record: Any) -> bytes:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


# The clock is read in the loops themselves: a wrapper would cost the floor more,
# in proportion, than what is measured against it.


def writes(fd: int, records: Sequence[dict[str, Any]]) -> Block:
    """
    Encode each of the records and append it to a file.
    """

    def block(write: Callable[[int, bytes], int] = os.write) -> list[int]:
        times = []
        for record in records:
            began = perf_counter_ns()
            write(fd, dumps(record))
            times.append(perf_counter_ns() - began)
        return times

    return block


def commit(connection: sqlite3.Connection, record: dict[str, Any]) -> None:
    """
    Encode a record and commit it.
    """
    connection.execute("INSERT INTO event (body) VALUES (?)", (dumps(record),))


def commits(connection: sqlite3.Connection, records: Sequence[dict[str, Any]]) -> Block:
    """
    Encode each of the records and commit it.
    """

    def block() -> list[int]:
        times = []
        for record in records:
            began = perf_counter_ns()
            commit(connection, record)
            times.append(perf_counter_ns() - began)
        return times

    return block


@contextmanager
def append_only(path: Path) -> Iterator[int]:
    """
    A new file to append to.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def database(path: Path) -> sqlite3.Connection:
    """
    A new database, as one would open it for the speed of its commits.
    """
    # Without a transaction of ours, every statement commits.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    return connection

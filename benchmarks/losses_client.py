"""
The program that a scenario of the loss table runs, in a process of its own.

Makes its calls, says through a pipe how many have returned, and ends. This
module must not know what the server does meanwhile, nor what is counted.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from benchmarks.losses_contestants import open_client
from benchmarks.peers import Client

#: A program that is held up in its calls makes no more of them after so many seconds.
CALLS_SECONDS = 45.0

#: … and one that ends in order waits so long for its client's flush.
FLUSH_SECONDS = 10.0


class Calls(Enum):
    """
    How a program calls.

    Attributes:
        PLAIN: One call after another.
        ONE_NAN: The same, and one event holds a number that is none.
        THREADS: From eight threads at once.
        FORKED: From a child of a fork; the client is the parent's.
    """

    PLAIN = "plain"
    ONE_NAN = "one-nan"
    THREADS = "threads"
    FORKED = "forked"


class End(Enum):
    """
    What becomes of a program after its last call.

    Attributes:
        EXIT: The script is over, without a word to its client.
        STAY: It goes on until its standard input ends, and ends in order: its client is
            flushed, if that comes to an end, and closed.
        TERM: It gets SIGTERM.
        KILL: It gets SIGKILL.
    """

    EXIT = "exit"
    STAY = "stay"
    TERM = "term"
    KILL = "kill"


@attrs.frozen
class Report:
    """
    What a program has to say after its last call.

    Attributes:
        returned: Calls that did.
        raised: Calls that raised.
    """

    returned: int
    raised: int


def main() -> None:
    """
    Do what the command line says: who, the server's address, a directory of its own,
    `Calls`, how many, `End`, and the descriptor that the report goes to.
    """
    name, endpoint, directory, calls, events, end, pipe = sys.argv[1:]
    client = open_client(name, endpoint, Path(directory))
    if Calls(calls) is Calls.FORKED and (child := os.fork()):
        os.waitpid(child, 0)
        return
    report = _call(client, Calls(calls), int(events))
    os.write(int(pipe), json.dumps(attrs.asdict(report)).encode())
    _end(client, End(end))


def _call(client: Client, calls: Calls, events: int) -> Report:
    deadline = time.monotonic() + CALLS_SECONDS
    if calls is not Calls.THREADS:
        bad = events // 2 if calls is Calls.ONE_NAN else None
        return _record(client, range(events), deadline, bad)
    reports: list[Report] = []
    threads = [
        threading.Thread(
            target=lambda first=first: reports.append(
                _record(client, range(first, events, 8), deadline)
            )
        )
        for first in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Report(sum(one.returned for one in reports), sum(one.raised for one in reports))


def _record(
    client: Client, numbers: Iterable[int], deadline: float, bad: int | None = None
) -> Report:
    returned = raised = 0
    for number in numbers:
        if time.monotonic() > deadline:
            break
        properties: dict[str, Any] = {"seq": number, "album": "Kind of Blue", "rating": 4.5}
        if number == bad:
            properties["rating"] = math.nan
        try:
            client.track("Album Opened", properties)
        except Exception:
            raised += 1
        else:
            returned += 1
    return Report(returned, raised)


def _end(client: Client, end: End) -> None:
    if end is End.STAY:
        sys.stdin.read()
        flushing = threading.Thread(target=client.flush, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)
        client.close()
    elif end is not End.EXIT:
        os.kill(os.getpid(), signal.SIGTERM if end is End.TERM else signal.SIGKILL)
        time.sleep(60)  # a signal may take a moment

"""
A long back-fill, from a CSV file to the wire, in simulated time: Heap's limits hold in
every window, and every row arrives once.

Everything is real but the clock: the file, the row reader of the commands, HTTP over
loopback. ``tox -e torture`` sends the million rows that a back-fill may have; the
usual run sends a tenth of it.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
import trials

from heap_agent._core import limits
from heap_agent._server.line import Seams
from heap_agent._tools.bulk_keys import row_key
from heap_agent._tools.bulk_rows import Columns, CsvRows, Kind
from heap_agent._tools.bulk_source import open_source
from heap_agent.server import ServerClient
from heap_agent.testing import FakeClock

ROWS = trials.tries(100_000, 1_000_000)

FIELDS = Kind(
    ("event", "identity", "user_id", "timestamp", "idempotency_key", "session_id"),
    (("event",), ("identity", "user_id")),
)

#: What happens to one request in so many.
FAULTY = 8
FAULTS = ("dropped", "kept and dropped", "kept and 500", "503", "429", "413")


class Heap:
    """
    What arrives, and when: the least that tells whether a limit was exceeded.

    Its time is the client's. A fault comes before or after the items were kept.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.seen: set[str] = set()
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._clock = clock
        self._chance = random.Random(20260501)
        self._total = Window(limits.APP_EVENTS_PER_MINUTE)
        self._each: dict[str, Window] = defaultdict(
            lambda: Window(limits.IDENTITY_EVENTS_PER_MINUTE)
        )

    def receive(self, body: bytes) -> str:
        """Count a request, and say what happens to it."""
        # Some travel slower than others, and so do the answers.
        self._clock.advance(self._chance.random())
        now = self._clock.boot_ns() / 1e9
        items = json.loads(body)["events"]
        if not 1 <= len(items) <= limits.BATCH_ITEMS or len(body) > limits.BATCH_BYTES:
            self.wrong.append(f"{len(items)} items, {len(body)} bytes")
        counts = Counter(item["identity"] for item in items)
        windows = [(self._total, "app", len(items))]
        windows += [(self._each[who], who, count) for who, count in counts.items()]
        for window, name, count in windows:
            if window.add(now, count) > window.limit:
                self.wrong.append(f"{name} at {now}")
        fault = self._chance.choice(FAULTS) if self._chance.randrange(FAULTY) == 0 else ""
        if len(items) == 1 and fault == "413":
            fault = ""  # One alone would rightly be given up.
        self.faults[fault] += 1
        if not fault or fault.startswith("kept"):
            self.seen.update(item["idempotency_key"] for item in items)
        self._clock.advance(self._chance.random() / 2)
        return fault


class Window:
    """The most that came within any 60 seconds is told as it comes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, now: float, count: int) -> int:
        self._spent.append((now, count))
        self._sum += count
        while self._spent[0][0] <= now - 60.0:
            self._sum -= self._spent.popleft()[1]
        return self._sum


ANSWERS = {"": (200, ()), "kept and 500": (500, ()), "503": (503, ()), "413": (413, ())} | {
    "429": (429, (("Retry-After", "7"),))
}


def handler(heap: Heap) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Or every answer waits 40 ms for the acknowledgement of its first half.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            fault = heap.receive(self.rfile.read(int(self.headers["Content-Length"])))
            if fault not in ANSWERS:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            status, headers = ANSWERS[fault]
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", "2")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Quiet(HTTPServer):
    """Answers on a dropped connection are no news."""

    def handle_error(self, *_: Any) -> None:
        pass


@pytest.fixture(name="heap")
def _heap(clock: FakeClock) -> Heap:
    return Heap(clock)


@pytest.fixture(name="url")
def _url(heap: Heap) -> Iterator[str]:
    with Quiet(("127.0.0.1", 0), handler(heap)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def write_backlog(path: Path) -> None:
    """
    A third are of three heavy users, whose limit is the tighter one, now and then in a
    row; the others are of thousands, and some have much to say.
    """
    chance = random.Random(3)
    with path.open("w") as file:
        file.write("event,email,at,n,note\n")
        for n in range(ROWS):
            heavy = chance.random() < 0.33 or n % 20_000 < 1_500
            who = f"heavy{n // 20_000 % 3}" if heavy else f"u{chance.randrange(5_000)}"
            # Some requests are cut by their bytes.
            note = "x" * 1_000 if n % 50_000 < 3_000 else ""
            file.write(f"Bought,{who},{1_700_000_000 + n},{n},{note}\n")


def items(path: Path) -> Iterator[dict[str, Any]]:
    """As bulk-track reads and keys them."""
    columns = Columns({"identity": "email", "timestamp": "at"}, numbers=frozenset({"n"}))
    with open_source(path) as source:
        for row in CsvRows(source, FIELDS, columns):
            assert row.item is not None
            key = row_key("11", str(path), row.number, row.item)
            yield {**row.item, "idempotency_key": key}


def test_a_backlog_keeps_every_limit_in_every_minute(
    tmp_path: Path, clock: FakeClock, heap: Heap, url: str, seams: Seams
) -> None:
    """Whatever happens on the way, each row arrives, and under one key."""
    path = tmp_path / "backlog.csv"
    write_backlog(path)
    # A real clock moves on even where a wait is less than its grain.
    seams = attrs.evolve(seams, sleep=lambda seconds: clock.advance(seconds + 1e-6))
    with ServerClient("11", endpoint=url, retry_for=None, _seams=seams) as client:
        result = client.bulk_track(items(path))

    assert (result.accepted, result.rejected) == (ROWS, 0)
    assert heap.wrong == []
    assert len(heap.seen) == ROWS
    assert len(heap.faults) > 3

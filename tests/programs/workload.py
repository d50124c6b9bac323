"""
A short life of an agent, which tells between its calls how far it is.

    workload.py DIRECTORY MARKS EVENTS BYTES [MUTANT]

records so many events of up to so many bytes, on a machine that believes in 1970 until a
server tells it better, so that each event is repaired when it is sent. Each line that is
appended to MARKS is JSON: `{"tracked": n}` when the call for event n has returned,
`{"synced": true, "user": [...]}` when all before and the user are on stable storage,
`{"changing": true}` before the user is another, and `{"sent": [...], "accepted": true}` with
the events of a request as its server has received it, before it answers.
"""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import mutants

from heap_agent import Agent
from heap_agent.testing import FakeClock


class Marks:
    """
    What is told, in one file whoever tells it.
    """

    def __init__(self, path: str) -> None:
        self._marking = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def mark(self, **what: object) -> None:
        """Tell something."""
        os.write(self._marking, json.dumps(what).encode() + b"\n")


class Life:
    """
    One agent, its server unless somebody else has one, and what it tells.
    """

    def __init__(
        self,
        directory: str,
        marks: str,
        size: int,
        first: int = 0,
        clock: FakeClock | None = None,
        endpoint: str | None = None,
    ) -> None:
        self._marks = Marks(marks)
        self._size = size
        self._next = first
        self._server = None if endpoint else Server(self._marks)
        self.agent = Agent(
            "11",
            directory=directory,
            endpoint=endpoint or f"http://127.0.0.1:{self._server.server_port}",
            interval=3600,
            sync_interval=3600,
            max_bytes=4 << 20,
            identity_budget=None,
            app_budget=None,
            clock=clock,
        )

    def run(self, events: int) -> None:
        """All that an agent goes through, with a server of its own."""
        assert self._server is not None
        self.track(events // 4)
        self.sync()
        self.mark(changing=True)
        self.agent.identify("ann")
        self._server.refuse(1)
        self.agent.flush(10)
        self.track(events // 2)
        self.sync()
        self.mark(changing=True)
        self.agent.reset_identity()
        self.track(events // 4)
        self._server.refuse(2)
        self.agent.flush(10)
        self.track(3)
        self.sync()
        self.track(3)
        self.agent.shutdown(0)
        self._server.shutdown()

    def mark(self, **what: object) -> None:
        """Tell something."""
        self._marks.mark(**what)

    def track(self, count: int) -> None:
        """Record the next few events."""
        for number in range(self._next, self._next + count):
            texts = range(number % 7 * self._size // 7_000)
            text = "x" * min(1_000, self._size)
            self.agent.track("Recorded", {"n": number, **{f"text {n}": text for n in texts}})
            self.mark(tracked=number)
        self._next += count

    def go_on_from(self, number: int) -> None:
        """What is recorded from now on has other numbers."""
        self._next = number

    def sync(self) -> None:
        """See to it that nothing so far can be lost."""
        assert self.agent.sync()
        self.mark(synced=True, user=[self.agent.user_id, self.agent.identity])


class Server(HTTPServer):
    """A server that tells what it was sent."""

    def __init__(self, marks: Marks) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.marks = marks
        self._to_refuse = 0
        # How often it looks whether it should end is what a life takes to end.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def refuse(self, requests: int) -> None:
        """Call the next requests too large, which are halved then."""
        self._to_refuse = requests

    def judge(self) -> int:
        """The status of the next answer."""
        if not self._to_refuse:
            return 200
        self._to_refuse -= 1
        return 413


class Handler(BaseHTTPRequestHandler):
    """Its answers."""

    server: Server

    def do_HEAD(self) -> None:
        """Whoever asks is told that somebody is there."""
        self._answer(200)

    def do_POST(self) -> None:
        """Tell first, then answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.judge()
        self.server.marks.mark(sent=body.get("events", []), accepted=status == 200)
        self._answer(status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    directory, marks, events, size, *mutant = sys.argv[1:]
    for name in mutant:
        mutants.apply(name)
    Life(directory, marks, int(size), clock=FakeClock(0.0)).run(int(events))

"""
A short life of an agent, which tells between its calls how far it is.

    workload.py DIRECTORY MARKS EVENTS BYTES [MUTANT]

records so many events of up to so many bytes.

Each line that is appended to MARKS is JSON: `{"tracked": n}` when n events are recorded,
`{"synced": n, "user": [...]}` when that many and the user are on stable storage,
`{"changing": true}` before the user is another, and `{"sent": [...]}` with the events of a
request as its server has received it, before it answers.
"""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import mutants

from heap_agent import Agent

directory, marks, events, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if len(sys.argv) > 5:
    mutants.apply(sys.argv[5])
marking = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
status = 503


def mark(**what: object) -> None:
    os.write(marking, json.dumps(what).encode() + b"\n")


class Server(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(200)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mark(sent=body.get("events", []))
        self.answer(status)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
agent = Agent(
    "11",
    directory=directory,
    endpoint=f"http://127.0.0.1:{server.server_port}",
    interval=3600,
    sync_interval=3600,
    max_bytes=4 << 20,
    identity_budget=None,
    app_budget=None,
)
tracked = 0


def track(count: int) -> None:
    global tracked
    for _ in range(count):
        texts = {f"text {n}": "x" * min(1_000, size) for n in range(tracked % 7 * size // 7_000)}
        agent.track("Recorded", {"n": tracked, **texts})
        tracked += 1
        mark(tracked=tracked)


def sync() -> None:
    assert agent.sync()
    mark(synced=tracked, user=[agent.user_id, agent.identity])


track(events // 4)
sync()
mark(changing=True)
agent.identify("ann")
agent.flush(0)  # refused
track(events // 4)
status = 200
agent.flush(10)
track(events // 4)
sync()
mark(changing=True)
agent.reset_identity()
track(events // 4)
agent.flush(10)
track(3)
sync()
track(3)
agent.shutdown(0)
server.shutdown()

"""
A server on loopback that takes everything, and marks the numbers (property ``seq``) of
the events as they come, so that a million of them cost a megabyte.

Prints its port. ``GET /seen`` answers, for each ten million numbers, how far they go, how
many below that are missing, and how many came again. Ends with its standard input.
"""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STREAM = 10_000_000
SEQ = re.compile(rb'"seq": ?(\d+)')

streams: dict[int, bytearray] = {}
lock = threading.Lock()


def mark(body: bytes) -> None:
    with lock:
        for found in SEQ.findall(body):
            stream, number = divmod(int(found), STREAM)
            marks = streams.setdefault(stream, bytearray())
            if number >= len(marks):
                marks.extend(bytes(number + 1 - len(marks)))
            marks[number] = min(2, marks[number] + 1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together: the second of two small writes would wait for the
    # first to be acknowledged, which the other side puts off by 40 ms.
    wbufsize = -1

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def do_HEAD(self) -> None:
        self.answer(b"{}")

    def do_POST(self) -> None:
        mark(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(b"{}")

    def do_GET(self) -> None:
        with lock:
            seen = {key: [len(m), m.count(0), m.count(2)] for key, m in streams.items()}
        self.answer(json.dumps(seen).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()

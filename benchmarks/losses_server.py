"""
A server that behaves as it is told, and notes which events have reached it.

On loopback only. This module must not know who sends, nor what a request looks like.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

from benchmarks.losses_arrivals import arrivals, plain
from benchmarks.server import answer_to

#: To linger for no time at all: closing resets the connection.
_NO_LINGER = struct.pack("ii", 1, 0)

_LOOPBACK = "127.0.0.1"


@attrs.frozen
class Answer:
    """
    What goes back over the wire.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"{}"


@attrs.frozen(kw_only=True)
class Behaviour:
    """
    What becomes of a request.

    Attributes:
        listens: False: the port is closed, and what was connected is cut.
        takes: Whether its events count as arrived.
        delay: Seconds before the answer; infinite: there is none.
        resets: Whether the connection is reset instead of an answer.
        answer: Given instead of the usual one.
    """

    listens: bool = True
    takes: bool = True
    delay: float = 0.0
    resets: bool = False
    answer: Answer | None = None


FINE = Behaviour()

DOWN = Behaviour(listens=False, takes=False)

MUTE = Behaviour(takes=False, delay=math.inf)

#: Nothing of the request has been looked at, …
RESET = Behaviour(takes=False, resets=True)

#: … or only the answer is lost.
ANSWER_LOST = Behaviour(resets=True)

#: To a client that takes us for a proxy: nothing leaves this machine.
_NO_PROXY = Answer(403)

#: What a hotel shows to those who have not paid.
PORTAL = Behaviour(
    takes=False,
    answer=Answer(
        headers=(("Content-Type", "text/html; charset=utf-8"),),
        body=b"<!DOCTYPE html><html><title>Welcome</title><form>Room: <input></form></html>",
    ),
)


def slow(seconds: float) -> Behaviour:
    """
    All is well, but far away.
    """
    return Behaviour(delay=seconds)


def refusing(status: int, retry_after: int) -> Behaviour:
    """
    Come back later.
    """
    return Behaviour(takes=False, answer=Answer(status, (("Retry-After", str(retry_after)),)))


class Server:
    """
    A port for one contestant.

    Args:
        behaviour: How it begins.
    """

    def __init__(self, behaviour: Behaviour = FINE) -> None:
        # Holds the port without listening: while nobody else does, it refuses.
        self._reserved = _bound(0)
        self._port: int = self._reserved.getsockname()[1]
        self._listener: _Listener | None = None
        # Guards the three below; notified of each change of behaviour and arrival.
        self._news = threading.Condition()
        self._behaviour = behaviour
        self._keys: dict[int, set[str]] = {}
        self._troubled = 0
        self.behave(behaviour)

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://{_LOOPBACK}:{self._port}"

    @property
    def arrived(self) -> int:
        """Different events that have arrived."""
        with self._news:
            return len(self._keys)

    @property
    def twice(self) -> int:
        """Those among them that have arrived under more than one key."""
        with self._news:
            return sum(len(keys) > 1 for keys in self._keys.values())

    @property
    def troubled(self) -> int:
        """Requests, and not connections that were refused, which met anything but FINE."""
        with self._news:
            return self._troubled

    def behave(self, behaviour: Behaviour) -> None:
        """
        Do so from now on. Whom nobody has answered yet never gets an answer.
        """
        with self._news:
            self._behaviour = behaviour
            self._news.notify_all()
        if behaviour.listens and self._listener is None:
            self._listener = _Listener(self._port, self)
        elif not behaviour.listens and self._listener is not None:
            self._listener.stop()
            self._listener = None

    def wait_for(self, count: int, patience: float) -> None:
        """
        Return when so many different events have arrived, or none has for a while.

        Args:
            count: Events.
            patience: Seconds without an arrival.
        """
        before = -1

        def has_progressed() -> bool:
            return len(self._keys) > before

        with self._news:
            while len(self._keys) < count and self._news.wait_for(has_progressed, patience):
                before = len(self._keys)

    def close(self) -> None:
        """
        Stop, and give the port back.
        """
        self.behave(DOWN)
        self._reserved.close()

    # -- on the threads of the connections ------------------------------------------

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """
        Take a request in.

        Returns:
            What to answer; None: reset the connection.
        """
        if not path.startswith("/"):
            return _NO_PROXY
        with self._news:
            behaviour = self._behaviour
            self._troubled += behaviour != FINE
        usual = self._take(path, headers, body) if behaviour.takes else None
        if behaviour.delay and self._has_changed(behaviour) or behaviour.resets:
            return None
        return behaviour.answer or usual

    def _has_changed(self, behaviour: Behaviour) -> bool:
        """Whether it does so before the delay is over."""
        seconds = None if behaviour.delay == math.inf else behaviour.delay
        with self._news:
            return self._news.wait_for(lambda: self._behaviour is not behaviour, seconds)

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            arrived = arrivals(path, plain(headers, body))
        except (ValueError, zlib.error, EOFError) as error:
            return Answer(400, body=json.dumps({"error": str(error)}).encode())
        with self._news:
            for number, key in arrived:
                keys = self._keys.setdefault(number, set())
                keys.add(f"arrival {len(keys)}" if key is None else key)
            self._news.notify_all()
        _, _, body = answer_to(f"POST {path} HTTP/1.1".encode()).partition(b"\r\n\r\n")
        return Answer(body=body)


class _Listener(ThreadingHTTPServer):
    """
    Accepts connections, each on a thread of its own, until it is stopped.
    """

    request_queue_size = 128

    def __init__(self, port: int, owner: Server) -> None:
        self.owner = owner
        # Guards the connections that are open.
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__((_LOOPBACK, port), _Request)
        threading.Thread(
            target=self.serve_forever, args=(0.05,), name="losses-server", daemon=True
        ).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().close_request(request)

    def shutdown_request(self, request: Any) -> None:
        # Without the farewell that socketserver sends: it would spoil a reset.
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none of our business."""


class _Request(BaseHTTPRequestHandler):
    """
    One connection, and the requests that come over it.
    """

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment

    def do_POST(self) -> None:
        answer = self.server.owner.answer(self.path, dict(self.headers), self._body())
        if answer is None:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            return
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **dict(answer.headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_CONNECT = do_POST

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(iter(self._chunk, b""))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((_LOOPBACK, port))
    return bound

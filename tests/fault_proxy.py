"""
A TCP proxy between an agent and a collector that breaks what it is told to break.

Each request meets one fault, also on a connection that is kept alive: `fate` is asked
when its first bytes come. A fault strikes at an exact byte of the request, or of its
answer; what comes before is carried faithfully.
"""

from __future__ import annotations

import enum
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from random import Random
from typing import Final

import attrs

#: Seconds that nothing here needs unless it hangs.
LONG: Final = 20.0

#: So often a connection looks whether it has been cut.
GLANCE: Final = 0.01

#: Seconds between two bytes that drip.
DROP: Final = 0.05

#: Bytes that a throttled line carries at once.
PIECE: Final = 1_024

_RESET: Final = struct.pack("ii", 1, 0)


class What(enum.Enum):
    """What happens at the byte."""

    RESET = "reset"  # both connections end with a RST
    CUT = "cut"  # both are closed in good order, amid the message
    HALF_CLOSE = "half-closed"  # one direction ends, the other goes on
    SILENCE = "silence"  # nothing more is carried, and nobody is told
    DRIP = "drip"  # one byte at a time from here on, slower than anybody waits
    ANSWER = "answer"  # somebody else answers; the request goes no further


@attrs.frozen
class Fault:
    """
    What goes wrong with one request.

    Attributes:
        what: What happens.
        after: How many bytes are carried before it happens.
        down: Whether they are bytes of the answer, and not of the request.
        answer: What is said where somebody else answers; pieces may come without end.
    """

    what: What
    after: int = 0
    down: bool = False
    answer: bytes | Callable[[], Iterable[bytes]] = attrs.field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """For a tally."""
        return f"{self.what.value} {'answer' if self.down else 'request'}"


Fate = Callable[[], "Fault | None"]


def clear() -> Fault | None:
    """Nothing goes wrong."""
    return None


class _Struck(Exception):
    """The connection has met its end."""


class FaultProxy:
    """
    A line on loopback to a collector's port.

    Args:
        port: The collector's.
        rate: Bytes a second, both directions together; None: as fast as it goes.

    Attributes:
        fate: Asked with each request.
        struck: How often each fault has really happened.
        connections: How many were accepted.
        target: The collector's port.
    """

    def __init__(self, port: int, *, rate: float | None = None) -> None:
        self.fate: Fate = clear
        self.struck: Counter[str] = Counter()
        self.connections = 0
        self.rate = rate
        self.target = port
        self._cut = threading.Event()  # replaced with each cut
        self._spawning = threading.Lock()  # a thread in the list has been started
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """For an agent's endpoint."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FaultProxy:
        self._accept_on(self._listener)
        return self

    def __exit__(self, *exc: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        """Refuse new connections, and end those that stand; returns when they have ended."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # On Linux a close alone does not wake the accept; elsewhere a shutdown may raise.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._cut.set()
        for thread in self._alive():
            thread.join(LONG)
            assert not thread.is_alive()
        self._cut = threading.Event()

    def accept(self) -> None:
        """Take connections again, on the same port."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port))
            self._accept_on(self._listener)

    def _accept_on(self, listener: socket.socket | None) -> None:
        assert listener is not None
        self._spawn(lambda: self._accept(listener))

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        with self._spawning:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread.start()
            self._threads.append(thread)

    def _alive(self) -> Iterator[threading.Thread]:
        # One that accepts may have begun another while it was waited for.
        while True:
            with self._spawning:
                found = next((thread for thread in self._threads if thread.is_alive()), None)
            if found is None:
                return
            yield found

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self._spawn(_Line(self, near, self._cut).run)


class _Line:
    """One connection, carried by one thread: a RST leaves only where nobody else reads."""

    def __init__(self, proxy: FaultProxy, near: socket.socket, cut: threading.Event) -> None:
        self._proxy = proxy
        self._cut = cut
        self._near = near
        self._fault: Fault | None = None
        self._carried = {False: 0, True: 0}  # by `down`, since the request began
        self._asking = False  # the last bytes were a request's
        self._silent: set[bool] = set()
        self._slow: set[bool] = set()

    def run(self) -> None:
        """Carry until both sides have ended, or a fault has ended them."""
        far: socket.socket | None = None
        try:
            with suppress(OSError, _Struck):
                far = socket.create_connection(("127.0.0.1", self._proxy.target), LONG)
                self._near.settimeout(LONG)
                self._shuttle(far)
        finally:
            for sock in (self._near, far):
                if sock is not None:
                    sock.close()

    def _shuttle(self, far: socket.socket) -> None:
        others = {self._near: far, far: self._near}
        reading = [self._near, far]
        while reading and not self._cut.is_set():
            for source in select.select(reading, [], [], GLANCE)[0]:
                down, sink = source is far, others[source]
                piece = source.recv(PIECE if self._proxy.rate else 65_536)
                if not piece:
                    reading.remove(source)
                    self._end(sink, down)
                elif not self._carry(piece, sink, down):
                    reading.remove(source)

    def _end(self, sink: socket.socket, down: bool) -> None:
        # An end is a byte that a black hole swallows as well.
        if down not in self._silent:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def _carry(self, piece: bytes, sink: socket.socket, down: bool) -> bool:
        """Whether this direction goes on."""
        if not down and not self._asking:
            self._begin()
        self._asking = not down
        fault = self._fault
        if fault is not None and fault.down is down:
            room = fault.after - self._carried[down]
            if room < len(piece):
                self._send(piece[:room], sink, down)
                self._fault = None
                self._proxy.struck[fault.name] += 1
                return self._strike(fault, piece[room:], sink)
        self._send(piece, sink, down)
        return True

    def _begin(self) -> None:
        self._fault = self._proxy.fate()
        self._carried = {False: 0, True: 0}

    def _send(self, piece: bytes, sink: socket.socket, down: bool) -> None:
        self._carried[down] += len(piece)
        if down in self._silent:
            return
        if down in self._slow:
            for place in range(len(piece)):
                time.sleep(DROP)
                if self._cut.is_set():
                    raise _Struck
                sink.sendall(piece[place : place + 1])
            return
        if self._proxy.rate:
            time.sleep(len(piece) / self._proxy.rate)
        sink.sendall(piece)

    def _strike(self, fault: Fault, rest: bytes, sink: socket.socket) -> bool:
        if fault.what is What.RESET:
            for sock in (self._near, sink):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise _Struck
        if fault.what is What.CUT:
            raise _Struck
        if fault.what is What.ANSWER:
            self._answer(fault.answer)
            raise _Struck
        if fault.what is What.HALF_CLOSE:
            sink.shutdown(socket.SHUT_WR)
            return False
        (self._silent if fault.what is What.SILENCE else self._slow).add(fault.down)
        self._send(rest, sink, fault.down)
        return True

    def _answer(self, answer: bytes | Callable[[], Iterable[bytes]]) -> None:
        if isinstance(answer, bytes):
            self._near.sendall(answer)
            return
        for piece in answer():
            if self._cut.is_set():
                return
            self._near.sendall(piece)
        # Whoever closes with bytes unread takes back what is on its way, and ends what
        # has to be waited for.
        while not self._cut.is_set():
            if select.select([self._near], [], [], GLANCE)[0] and not self._near.recv(65_536):
                return


# -- what may go wrong -----------------------------------------------------------------


def _http(status: str, headers: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


PAGE: Final = b"<!DOCTYPE html><title>Log in</title>"

#: Answers of somebody who is not the collector, none of which may cost an event.
STRANGERS: Final = {
    "redirect": _http("302 Found", "Location: http://portal.invalid/\r\n", b""),
    "page": _http("200 OK", "Content-Type: text/html\r\n", PAGE),
    "page without a type": _http("200 OK", "", b"\r\n" + PAGE),
    "gateway": _http("502 Bad Gateway", "", b"no route"),
    "oversized": _http("503 Service Unavailable", "", b"x" * 300_000),
    "longer than told": _http("500 Oops", "", b"x") + b"y" * 300_000,
    "shorter than told": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}",
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
    "cut head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "garbage": bytes(range(256)) * 8,
    "nothing": b"",
}


def any_fault(dice: Random, upward: int = 900, downward: int = 200) -> Fault:
    """A fault by chance, somewhere in a request or its answer."""
    what = dice.choice(list(What))
    if what is What.ANSWER:
        return Fault(what, answer=dice.choice(list(STRANGERS.values())))
    down = dice.random() < 0.5
    return Fault(what, dice.randrange(downward if down else upward), down)

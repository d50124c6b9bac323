"""
A server on loopback that answers 200 to everything, in a process of its own,
and counts what came afterwards: while a clock runs it only keeps the bytes.

It must not know whose requests these are: what is counted are the numbers that
events carry as a property `seq`, in whatever a client has wrapped them.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import multiprocessing
import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import unquote_to_bytes

import attrs

#: Between the processes: what is asked for.
COUNT, RESET, STOP = "count", "reset", "stop"

#: What clients look for in an answer, in one: a code and a status.
_SUCCESS: dict[str, object] = {"code": 200, "status": 1, "success": True}
#: Of clients that begin by asking for a configuration: nothing is in it.
_LISTS: dict[str, object] = {
    "has_updates": True,
    "time": 1,
    "feature_gates": [],
    "dynamic_configs": [],
    "layer_configs": [],
}
_MAPS = {key: {} if value == [] else value for key, value in _LISTS.items()}
_MAPS |= {"experiment_to_layer": {}, "condition_map": {}}


def _response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


_OK = _response("200 OK", json.dumps(_SUCCESS).encode())
_OK_HEAD = _OK[: _OK.index(b"\r\n\r\n") + 4]
_ANSWERS = {
    b"/v1/download_config_specs": _response("200 OK", json.dumps(_LISTS).encode()),
    b"/v2/download_config_specs": _response("200 OK", json.dumps(_MAPS).encode()),
    b"/v1/get_id_lists": _response("200 OK", b"{}"),
}
#: To a client that takes us for a proxy: nothing leaves this machine.
_REFUSED = _response("403 Forbidden", b"")

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_ENCODING = re.compile(rb"\r\ncontent-encoding: *(\w+)", re.IGNORECASE)

#: As JSON, as JSON in a JSON string, and as a typed attribute.
_SEQ = re.compile(rb'\\?"seq\\?": ?(?:\{[^{}]*"value": ?)?\\?"?(\d+)')
_BASE64 = re.compile(rb'"ue_px": ?"([^"]+)"')


@attrs.frozen
class Seen:
    """
    What came so far.

    Attributes:
        requests: With a body.
        size: Of those bodies, in bytes, as they came over the wire.
        seqs: The number of each event, in order, each as often as it came.
    """

    requests: int
    size: int
    seqs: tuple[int, ...]

    @property
    def unique(self) -> int:
        """
        Events, each counted once.
        """
        return len(set(self.seqs))


@attrs.frozen
class Server:
    """
    The server, seen from the process that started it.
    """

    url: str
    _line: Connection

    def seen(self) -> Seen:
        """
        What came since the start or the last reset.
        """
        return self._ask(COUNT)

    def reset(self) -> None:
        """
        Forget what came.
        """
        self._ask(RESET)

    def _ask(self, what: str) -> Seen:
        self._line.send(what)
        seen = self._line.recv()
        assert isinstance(seen, Seen)
        return seen


@contextmanager
def running() -> Iterator[Server]:
    """
    A server, until the block ends.
    """
    ours, theirs = multiprocessing.Pipe()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(listening, theirs), daemon=True
        )
        process.start()
    try:
        yield Server(f"http://127.0.0.1:{port}", ours)
    finally:
        ours.send(STOP)
        process.join(10)


@contextmanager
def nobody_there() -> Iterator[str]:
    """
    The address of no server: a port of this machine that refuses, and stays ours.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


# What runs in the other process


def _serve(listening: socket.socket, line: Connection) -> None:
    asyncio.run(_answer(listening, line))


async def _answer(listening: socket.socket, line: Connection) -> None:
    kept: list[tuple[bytes, bytes]] = []
    loop = asyncio.get_running_loop()
    stopped = loop.create_future()

    def asked() -> None:
        try:
            what = line.recv()
        except EOFError:  # whoever started this has died
            what = STOP
        if what == STOP:
            loop.remove_reader(line.fileno())
            stopped.set_result(None)
            return
        if what == RESET:
            kept.clear()
        line.send(_counted(kept))

    loop.add_reader(line.fileno(), asked)
    async with await loop.create_server(lambda: _Exchange(kept), sock=listening):
        await stopped


class _Exchange(asyncio.Protocol):
    """
    One connection: requests in, one answer to each.
    """

    def __init__(self, kept: list[tuple[bytes, bytes]]) -> None:
        self._kept = kept
        self._waiting = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._waiting[:end])
            body, rest = self._body(head, end + 4)
            if body is None:
                return
            del self._waiting[:rest]
            if body:
                self._kept.append((head, body))
            self._transport.write(answer_to(head))

    def _body(self, head: bytes, start: int) -> tuple[bytes | None, int]:
        """
        Returns:
            The body, None while it is not whole, and where it ends.
        """
        if _CHUNKED.search(head):
            return self._chunks(start)
        length = _LENGTH.search(head)
        end = start + (int(length[1]) if length else 0)
        return (bytes(self._waiting[start:end]) if len(self._waiting) >= end else None), end

    def _chunks(self, start: int) -> tuple[bytes | None, int]:
        body = bytearray()
        while (end := self._waiting.find(b"\r\n", start)) >= 0:
            size = int(self._waiting[start:end].split(b";")[0], 16)
            start = end + 2 + size + 2
            if len(self._waiting) < start:
                break
            if size == 0:
                return bytes(body), start
            body += self._waiting[end + 2 : start - 2]
        return None, 0


def answer_to(head: bytes) -> bytes:
    """
    The whole answer to a request that begins so.
    """
    method, target, _ = head.split(b" ", 2)
    if method == b"CONNECT" or not target.startswith(b"/"):
        return _REFUSED
    if method == b"HEAD":
        return _OK_HEAD
    return next((answer for path, answer in _ANSWERS.items() if target.startswith(path)), _OK)


def _counted(kept: list[tuple[bytes, bytes]]) -> Seen:
    return Seen(
        requests=len(kept),
        size=sum(len(body) for _, body in kept),
        seqs=tuple(seq for head, body in kept for seq in seqs_of(_plain(head, body))),
    )


def seqs_of(body: bytes) -> list[int]:
    """
    The numbers that events of a request carry as `seq`, in order.
    """
    if body.startswith(b"data="):
        body = unquote_to_bytes(body.replace(b"+", b" "))
    if wrapped := _BASE64.findall(body):
        body = b"\n".join(base64.urlsafe_b64decode(one + b"==") for one in wrapped)
    return [int(seq) for seq in _SEQ.findall(body)]


def _plain(head: bytes, body: bytes) -> bytes:
    encoding = _ENCODING.search(head)
    match encoding and encoding[1].lower():
        case None | b"identity":
            return body
        case b"gzip":
            return gzip.decompress(body)
        case b"deflate":
            return zlib.decompress(body)
        case other:
            raise ValueError(f"Content-Encoding is {other!r}; gzip and deflate can be read.")

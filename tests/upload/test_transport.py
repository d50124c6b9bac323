"""
The transport against raw sockets on loopback that answer well, badly, slowly or not at all.
"""

from __future__ import annotations

import gzip
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._upload.transport import Transport, _mask, _Request

#: Seconds that nothing here needs unless it hangs.
LONG = 20.0

DATE = "Tue, 15 Nov 1994 08:12:31 GMT"
EPOCH = 784_887_151.0

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
DATED = f"HTTP/1.1 200 OK\r\nDate: {DATE}\r\nContent-Length: 2\r\n\r\n{{}}".encode()

Handler = Callable[[socket.socket], object]


class Server:
    """Accepts on loopback and lets a handler talk on every connection, in its own thread."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._spawning = threading.Lock()  # a thread in the list has been started
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        # On Linux a close alone does not wake the accept; elsewhere a shutdown may raise.
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join()

    def join(self) -> None:
        """Wait until every handler has ended."""
        with self._spawning:
            handlers = self._threads[1:]
        for thread in handlers:
            thread.join(LONG)
            assert not thread.is_alive()

    def refuse(self) -> None:
        """Accept no further connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        with self._spawning:
            self._threads.append(thread)
            thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(LONG)
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            self.handler(sock)
        except OSError:
            pass
        finally:
            sock.close()

    # What handlers are made of.

    def read_request(self, sock: socket.socket) -> bool:
        """Read one request to the end of its body; False when there is none."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65_536)
            if not piece:
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += sock.recv(65_536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return True


Serve = Callable[..., Server]


@pytest.fixture(name="serve")
def _serve() -> Iterator[Serve]:
    """Make servers: of bytes that answer every request, or of a handler."""
    running: list[Server] = []

    def serve(
        answer: bytes | Callable[[Server, socket.socket], object],
        tls: ssl.SSLContext | None = None,
    ) -> Server:
        def handle(sock: socket.socket) -> None:
            if callable(answer):
                answer(server, sock)
                return
            while server.read_request(sock):
                sock.sendall(answer)

        server = Server(handle, tls)
        running.append(server.__enter__())
        return server

    yield serve
    for server in running:
        server.__exit__()


Make = Callable[..., Transport]


@pytest.fixture(name="make")
def _make() -> Iterator[Make]:
    """Make transports."""
    made: list[Transport] = []

    def make(endpoint: str, **options: object) -> Transport:
        options.setdefault("user_agent", "test/1")
        made.append(Transport(endpoint, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for transport in made:
        transport.close()


def once(answer: bytes) -> Callable[[Server, socket.socket], None]:
    """A handler that answers one request and closes."""

    def handle(server: Server, sock: socket.socket) -> None:
        if server.read_request(sock):
            sock.sendall(answer)

    return handle


def reset(sock: socket.socket) -> None:
    """Close with a reset rather than an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def drip(sock: socket.socket, data: bytes) -> bool:
    """Send one byte every few milliseconds, over and over; True when the peer is gone."""
    stop = threading.Event()
    try:
        for _ in range(int(LONG / 0.01)):
            for octet in data:
                sock.sendall(bytes([octet]))
                stop.wait(0.01)
    except OSError as exc:
        return not isinstance(exc, TimeoutError)
    return False


# -- what goes out, what comes back ---------------------------------------------


def test_send_posts_the_body_as_it_is(serve: Serve, make: Make) -> None:
    """One POST with the bytes given, and the headers that Heap and proxies need."""
    server = serve(OK)
    body = b'{"app_id":"11","events":[]}'
    outcome = make(server.url).send("/api/track", body)

    [request] = server.requests
    head, _, sent = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert outcome == Outcome(Answer.ACCEPTED, status=200)
    assert lines[0] == b"POST /api/track HTTP/1.1"
    assert sent == body
    assert set(lines[1:]) == {
        f"Host: 127.0.0.1:{server.port}".encode(),
        b"User-Agent: test/1",
        b"Accept-Encoding: identity",
        b"Content-Type: application/json",
        b"Content-Length: 27",
    }


def test_the_endpoints_own_path_comes_first(serve: Serve, make: Make) -> None:
    """A collector below a path is reached, with and without a slash at its end."""
    server = serve(OK)
    for end in ("", "/"):
        make(f"{server.url}/heap{end}").send("/api/track", b"{}")

    assert {request.split(b" ")[1] for request in server.requests} == {b"/heap/api/track"}


def test_a_user_in_the_endpoint_is_sent_as_authorization(serve: Serve, make: Make) -> None:
    """A collector behind Basic authorization works, and the repr hides the password."""
    server = serve(OK)
    transport = make(f"http://me:s%40cret@127.0.0.1:{server.port}")
    transport.send("/", b"{}")

    # base64 of me:s@cret
    assert b"Authorization: Basic bWU6c0BjcmV0" in server.requests[0]
    assert "cret" not in repr(transport)


def test_call_sends_any_method_with_headers_and_keeps_the_body(serve: Serve, make: Make) -> None:
    """What an answer says can be read, and a request without a body declares none."""
    server = serve(b'HTTP/1.1 201 Made\r\nContent-Length: 8\r\n\r\n{"id":1}')
    transport = make(server.url)
    posted = transport.call("POST", "/users", b"{}", headers={"Authorization": "Bearer t"})
    asked = transport.call("GET", "/users/1")
    empty = transport.call("POST", "/token")

    assert posted.body == asked.body == empty.body == b'{"id":1}'
    assert posted.outcome == Outcome(Answer.ACCEPTED, status=201)
    post, get, token = server.requests
    assert b"\r\nAuthorization: Bearer t\r\n" in post
    assert b"\r\nContent-Type: application/json\r\n" in post
    assert get.startswith(b"GET /users/1 HTTP/1.1\r\n")
    assert b"Authorization" not in get and b"content-" not in get.lower()
    assert b"\r\nContent-Length: 0\r\n" in token and b"Content-Type" not in token


def test_call_keeps_the_body_of_an_error(serve: Serve, make: Make) -> None:
    """Heap says in the body what is wrong."""
    body = b'{"err":{"message":"bad api_key"}}'
    head = b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body)
    reply = make(serve(head + body).url).call("POST", "/")

    assert (reply.outcome.answer, reply.body) == (Answer.MISCONFIGURED, body)
    assert "api_key" not in repr(reply).replace(reply.outcome.reason, "")


def test_call_raises_nothing_either(make: Make) -> None:
    """No answer is an outcome, with an empty body."""
    reply = make("http://127.0.0.1:9").call("GET", "/", headers={"Authorization": "x"})

    assert (reply.outcome.answer, reply.body) == (Answer.UNAVAILABLE, b"")
    assert not reply.outcome.began


def test_a_redirect_does_not_carry_headers_away(serve: Serve, make: Make) -> None:
    """An Authorization header goes to the endpoint and nowhere else."""
    elsewhere = serve(OK)
    answer = f"HTTP/1.1 307 Go\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
    reply = make(serve(answer.encode()).url).call("POST", "/", headers={"Authorization": "x"})

    assert reply.outcome.answer is Answer.CAPTIVE
    assert elsewhere.connections == 0


def test_probe_is_a_bodiless_head(serve: Serve, make: Make) -> None:
    """A HEAD that is answered means that the endpoint was reached, whatever the status."""
    server = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 900\r\n\r\n")
    outcome = make(server.url).probe("/api/track")

    assert outcome == Outcome(Answer.REACHED, status=404)
    assert server.requests[0].startswith(b"HEAD /api/track HTTP/1.1\r\n")
    assert b"content-length" not in server.requests[0].lower()


def test_header_names_are_told_in_lower_case(serve: Serve, make: Make) -> None:
    """A Retry-After in any spelling is obeyed."""
    server = serve(b"HTTP/1.1 429 Slow\r\nRETRY-after: 7\r\nContent-Length: 0\r\n\r\n")

    assert make(server.url).send("/", b"{}").retry_after == 7.0


def test_an_absolute_retry_after_is_measured_with_the_clock_given(serve: Serve, make: Make) -> None:
    """Without a Date in the answer the wall clock argument counts."""
    answer = f"HTTP/1.1 503 Busy\r\nRetry-After: {DATE}\r\nContent-Length: 0\r\n\r\n".encode()
    transport = make(serve(answer).url, wall=lambda: EPOCH - 30.0)

    assert transport.send("/", b"{}").retry_after == 30.0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve: Serve, make: Make, status: int) -> None:
    """A captive portal gets one request, and never the events at another address."""
    elsewhere = serve(OK)
    answer = f"HTTP/1.1 {status} Go\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
    portal = serve(answer.encode())
    transport = make(portal.url)

    assert transport.send("/", b"{}").answer is Answer.CAPTIVE
    assert transport.probe("/").answer is Answer.CAPTIVE
    assert len(portal.requests) == 2
    assert elsewhere.connections == 0


def test_an_error_page_is_classified_with_its_body(serve: Serve, make: Make) -> None:
    """The body of a rejection reaches the reason, for the dead letter."""
    server = serve(b"HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\nbad event")
    outcome = make(server.url).send("/", b"{}")

    assert outcome.answer is Answer.REJECTED
    assert "bad event" in outcome.reason


def test_nothing_is_sent_twice(serve: Serve, make: Make) -> None:
    """Server errors and new connections that are closed are no reasons to try again."""
    failing = serve(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    closing = serve(once(b""))
    make(failing.url).send("/", b"{}")
    make(closing.url).send("/", b"{}")

    assert len(failing.requests) == len(closing.requests) == 1


# -- connections ------------------------------------------------------------------


def test_the_connection_is_kept_alive(serve: Serve, make: Make) -> None:
    """Several requests, a probe and chunked answers go over one connection."""
    server = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    transport = make(server.url)

    assert {transport.send("/", b"{}").answer for _ in range(5)} == {Answer.ACCEPTED}
    assert server.connections == 1


def test_a_connection_that_the_server_closed_is_replaced(serve: Serve, make: Make) -> None:
    """A kept-alive connection that is seen to be dead costs no attempt."""
    server = serve(once(OK))
    transport = make(server.url)
    for _ in range(3):
        assert transport.send("/", b"{}").answer is Answer.ACCEPTED
        server.join()

    assert server.connections == 3


DYING = {
    "when a request comes": lambda server, sock: sock.recv(1),
    "after a request": lambda server, sock: server.read_request(sock),
    "with a reset": lambda server, sock: (sock.recv(1), reset(sock)),
}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [2, 5_000_000], ids=["small", "large"])
@pytest.mark.parametrize("die", DYING.values(), ids=DYING)
def test_a_connection_that_dies_under_a_request_is_stale(
    serve: Serve,
    make: Make,
    ca: trustme.CA,
    bundle: str,
    die: Callable[[Server, socket.socket], object],
    size: int,
    encrypted: bool,
) -> None:
    """A server whose patience ends just when the next request comes is told from a dead one."""

    def tire(server: Server, sock: socket.socket) -> None:
        if server.read_request(sock):
            sock.sendall(OK)
            die(server, sock)

    server = serve(tire, server_context(ca, "127.0.0.1") if encrypted else None)
    transport = make(server.url, ca_bundle=bundle)
    outcomes = [transport.send("/", b"x" * size) for _ in range(3)]

    assert [outcome.answer for outcome in outcomes] == [
        Answer.ACCEPTED,
        Answer.UNAVAILABLE,
        Answer.ACCEPTED,
    ]
    assert outcomes[1].stale and outcomes[1].began
    assert server.connections == 2


def test_a_new_connection_that_dies_is_not_stale(serve: Serve, make: Make) -> None:
    """There it is the network, or the request."""

    def serve_once(server: Server, sock: socket.socket) -> None:
        if server.read_request(sock) and server.connections == 1:
            sock.sendall(OK)
            server.read_request(sock)

    server = serve(serve_once)
    transport = make(server.url)
    transport.send("/", b"{}")
    outcomes = [transport.send("/", b"{}") for _ in range(2)]

    assert [outcome.stale for outcome in outcomes] == [True, False]
    assert all(outcome.began for outcome in outcomes)


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_connection_that_began_to_answer_is_not_stale(
    serve: Serve, make: Make, first: bytes
) -> None:
    """A server that says anything has the request."""

    def begin(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        sock.sendall(OK)
        server.read_request(sock)
        sock.sendall(first)

    server = serve(begin)
    transport = make(server.url)
    transport.send("/", b"{}")
    outcome = transport.send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.stale


def test_silence_on_a_kept_connection_is_not_stale(serve: Serve, make: Make) -> None:
    """The line may be too slow for the request."""
    release = threading.Event()

    def fall_silent(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        sock.sendall(OK)
        release.wait(LONG)

    server = serve(fall_silent)
    transport = make(server.url)
    transport.send("/", b"{}")
    outcome = transport.send("/", b"{}", timeout=0.2)
    release.set()

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began and not outcome.stale
    assert server.connections == 1


def test_after_close_a_new_connection_is_opened(serve: Serve, make: Make) -> None:
    """A closed transport can be used again, and closing twice is nothing."""
    server = serve(OK)
    transport = make(server.url)
    transport.send("/", b"{}")
    transport.close()
    transport.close()

    assert transport.send("/", b"{}").answer is Answer.ACCEPTED
    assert server.connections == 2


def test_two_threads_take_turns(serve: Serve, make: Make) -> None:
    """A flush during a delivery waits for its turn on the same connection."""
    server = serve(OK)
    transport = make(server.url)
    answers: list[Answer] = []

    def work() -> None:
        for _ in range(20):
            answers.append(transport.send("/", b"{}").answer)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)

    assert answers == [Answer.ACCEPTED] * 80


def test_waiting_for_a_turn_counts_towards_the_timeout(serve: Serve, make: Make) -> None:
    """While another request hangs, one with a timeout gives up; nothing of it has left."""
    release = threading.Event()
    arrived = threading.Event()

    def hang(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        arrived.set()
        release.wait(LONG)
        sock.sendall(OK)

    transport = make(serve(hang).url)
    first = threading.Thread(target=transport.send, args=("/", b"{}"))
    first.start()
    assert arrived.wait(LONG)
    outcome = transport.send("/", b"{}", timeout=0.1)
    release.set()
    first.join(LONG)

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began


# -- answers that are none ----------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "old": b"<html>hello",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "cut status": b"HTTP/1.1 2",
    "long line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{}",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "unending chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "control characters": b"\x1b[31m\x00\x07\xff\r\n\r\n",
    "only 100": b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    "only 103": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3,
    "101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
    "cut after status": b"HTTP/1.1 200",
    "cut status line": b"HTTP/1.1 200 OK",
    "cut before headers": b"HTTP/1.1 200 OK\r\n",
    "cut header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "one long word": b"x" * 65_000 + b"\r\n\r\n",
    "large head": b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"x" * 60_000 + b"\r\n") * 9 + b"\r\n",
    "cut after headers": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_unavailable(serve: Serve, make: Make, answer: bytes) -> None:
    """What is not a whole answer is none; the body has begun; the reason is one line."""
    outcome = make(serve(once(answer)).url).send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began
    assert re.match(r"[A-Za-z]+: .", outcome.reason)
    assert outcome.reason.isprintable()
    assert len(outcome.reason) <= 200


def test_an_error_whose_body_is_cut_counts_by_its_status(serve: Serve, make: Make) -> None:
    """Only an acceptance has to arrive whole."""
    server = serve(once(b"HTTP/1.1 413 Too Large\r\nContent-Length: 100\r\n\r\n{}"))

    assert make(server.url).send("/", b"{}").answer is Answer.TOO_LARGE


def test_an_answer_before_the_body_was_read_is_heard(serve: Serve, make: Make) -> None:
    """A server that refuses a large body by its headers is understood."""

    def refuse(server: Server, sock: socket.socket) -> None:
        sock.recv(1_000)
        sock.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        while sock.recv(1_000_000):
            pass

    outcome = make(serve(refuse).url).send("/", b"x" * 5_000_000)

    assert outcome.answer is Answer.TOO_LARGE


def test_a_reset_in_the_middle_of_the_body_has_begun(serve: Serve, make: Make) -> None:
    """The delivery has to know, since it halves its window then."""

    def cut(server: Server, sock: socket.socket) -> None:
        sock.recv(1_000)
        reset(sock)

    outcome = make(serve(cut).url).send("/", b"x" * 20_000_000)

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began


def test_a_reset_in_the_middle_of_the_answer_has_begun(serve: Serve, make: Make) -> None:
    """Half of an acceptance is none."""

    def cut(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        reset(sock)

    outcome = make(serve(cut).url).send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began


def test_a_transport_recovers_from_a_bad_answer(serve: Serve, make: Make) -> None:
    """The connection of a failed request is never used again."""
    answers = iter([b"garbage\r\n\r\n", OK])
    server = serve(lambda server, sock: once(next(answers))(server, sock))
    transport = make(server.url)

    assert transport.send("/", b"{}").answer is Answer.UNAVAILABLE
    assert transport.send("/", b"{}").answer is Answer.ACCEPTED


def test_any_bytes_are_an_outcome(serve: Serve, make: Make) -> None:
    """Whatever a server sends, an outcome comes back and nothing is raised."""
    current = [b""]
    server = serve(lambda server, sock: once(current[0])(server, sock))
    transport = make(server.url)
    line = st.sampled_from(
        [
            b"HTTP/1.1 200 OK",
            b"HTTP/1.0 999 \xff",
            b"HTTP/1.1 -1",
            b"Content-Length: -5",
            b"Content-Length: 1, 2",
            b"Transfer-Encoding: chunked",
            b"Content-Encoding: gzip",
            b"Date: x",
            b"Retry-After: 9e9",
            b"Location: http://[",
            b" folded",
            b"",
            b"\x00: \x00",
        ]
    )

    @settings(max_examples=60)
    @given(st.lists(line | st.binary(max_size=20), max_size=8).map(b"\r\n".join))
    def check(answer: bytes) -> None:
        current[0] = answer
        assert isinstance(transport.send("/", b"{}"), Outcome)

    check()


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_interim_answers_are_passed_over(serve: Serve, make: Make, status: bytes) -> None:
    """Each request gets its own final answer, however late, and the connection is kept."""
    final = iter([OK, b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", OK])
    interim = b"HTTP/1.1 " + status + b"\r\nLink: </x>\r\n\r\n"

    def hesitate(server: Server, sock: socket.socket) -> None:
        while server.read_request(sock):
            sock.sendall(interim)
            # Whoever takes that for the answer does not wait for what follows.
            threading.Event().wait(0.1)
            sock.sendall(interim + next(final))

    server = serve(hesitate)
    transport = make(server.url)
    outcomes = [transport.send("/", b"{}"), transport.probe("/"), transport.send("/", b"{}")]

    assert [outcome.status for outcome in outcomes] == [200, 503, 200]
    assert server.connections == 1


@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints"])
def test_endless_interim_answers_are_no_answer(serve: Serve, make: Make, status: bytes) -> None:
    """They are given up before the deadline, and so is the connection."""

    def flood(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        if len(server.requests) > 1:
            sock.sendall(OK)
        while len(server.requests) == 1:
            sock.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")

    server = serve(flood)
    transport = make(server.url)
    outcome = transport.send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.reason == "HTTPException: the head of the answer does not end"
    assert transport.send("/", b"{}").answer is Answer.ACCEPTED
    assert server.connections == 2


# -- time and size --------------------------------------------------------------------

SLOW = {
    "status line": (b"", b"H"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
}


@pytest.mark.parametrize(("first", "then"), SLOW.values(), ids=SLOW)
def test_a_slow_drip_ends_at_the_deadline(
    serve: Serve, make: Make, first: bytes, then: bytes
) -> None:
    """A byte now and then does not extend the time of a request, wherever it stands."""
    gave_up: list[bool] = []

    def trickle(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        sock.sendall(first)
        gave_up.append(drip(sock, then))

    server = serve(trickle)
    outcome = make(server.url).send("/", b"{}", timeout=0.3)
    server.join()

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began
    assert outcome.reason.startswith("TimeoutError: ")
    assert gave_up == [True]


def test_the_read_timeout_bounds_a_request_without_a_timeout_of_its_own(
    serve: Serve, make: Make
) -> None:
    """A server that never answers ends the request by the settings of the transport."""
    release = threading.Event()
    server = serve(lambda server, sock: server.read_request(sock) and release.wait(LONG))
    outcome = make(server.url, read_timeout=0.2).send("/", b"{}")
    release.set()

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began


def test_a_peer_that_takes_nothing_ends_at_the_deadline(serve: Serve, make: Make) -> None:
    """An upload that stands still is given up."""
    release = threading.Event()
    server = serve(lambda server, sock: release.wait(LONG))
    outcome = make(server.url).send("/", b"x" * 50_000_000, timeout=0.3)
    release.set()

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_no_time_is_an_outcome(serve: Serve, make: Make, timeout: float) -> None:
    """A deadline that is over already sends nothing."""
    server = serve(OK)
    outcome = make(server.url).send("/", b"{}", timeout=timeout)

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert server.connections == 0


def test_a_slow_but_steady_upload_arrives(serve: Serve, make: Make) -> None:
    """A large body over a slow line may take longer than the connect timeout."""

    def sip(server: Server, sock: socket.socket) -> None:
        pause = threading.Event()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        left = 8_000_000
        while left > 0:
            left -= len(sock.recv(400_000))
            pause.wait(0.01)
        sock.sendall(OK)

    outcome = make(serve(sip).url, connect_timeout=0.2).send("/", b"x" * 8_000_000)

    assert outcome.answer is Answer.ACCEPTED


def test_an_endless_body_is_cut(serve: Serve, make: Make) -> None:
    """No more than is needed is read; the connection is dropped, and the next one is new."""
    cut: list[bool] = []

    def flood(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n{}")
        try:
            for _ in range(10_000):
                sock.sendall(b" " * 100_000)
        except OSError:
            cut.append(True)

    server = serve(flood)
    transport = make(server.url)

    assert transport.send("/", b"{}").answer is Answer.ACCEPTED
    assert transport.send("/", b"{}").answer is Answer.ACCEPTED
    server.join()
    assert cut == [True, True]


def test_a_gzip_bomb_costs_nothing(serve: Serve, make: Make) -> None:
    """An answer is never unpacked."""
    bomb = gzip.compress(b" " * 60_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    assert len(bomb) < 65_536
    server = serve(once(head.encode() + bomb))
    transport = make(server.url)
    tracemalloc.start()
    try:
        outcome = transport.send("/", b"{}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert outcome.answer is Answer.ACCEPTED
    assert peak < 6_000_000


ENDLESS = {
    "a head of long lines": (b"HTTP/1.1 503 Busy\r\n", b"X: " + b"y" * 60_000 + b"\r\n"),
    "long interim answers": (
        b"",
        b"HTTP/1.1 103 Early Hints\r\nX: " + b"y" * 60_000 + b"\r\n\r\n",
    ),
    "bytes in long frames": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1;" + b"x" * 60_000 + b"\r\ny\r\n",
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X: y\r\n" * 1_000,
    ),
}


@pytest.mark.parametrize(("first", "then"), ENDLESS.values(), ids=ENDLESS)
def test_what_frames_an_answer_is_bounded_too(
    serve: Serve, make: Make, first: bytes, then: bytes
) -> None:
    """It is given up after a few hundred KiB, long before the deadline."""
    sent: list[int] = []

    def flood(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        sock.sendall(first)
        with suppress(OSError):
            for count in range(10_000):
                sock.sendall(then)
                sent.append(count)

    server = serve(flood)
    outcome = make(server.url).send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.reason == "HTTPException: the answer does not end"
    server.join()
    # The system takes a few MB ahead.
    assert len(sent) < 9_000


def test_headers_that_are_none_are_not_logged(
    serve: Serve, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The program's log gets nothing of them, with any answer."""
    strange = b"\x1b[2J no header\r\n" + b"y" * 1_000 + b"\r\n"
    both = b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n"
    server = serve(b"HTTP/1.1 200 OK\r\n" + both + strange + b"\r\n2\r\n{}\r\n0\r\n\r\n")
    with caplog.at_level("INFO"):
        assert make(server.url).send("/", b"{}").answer is Answer.ACCEPTED

    assert caplog.records == []


def test_a_password_is_masked_wherever_it_stands() -> None:
    """Up to the last @ of a word, which may be as long as a hostile status line."""
    assert _mask("to http://me:pass@host and me:p@ss@there") == "to ***@host and ***@there"
    assert _mask("x" * 60_000) == "x" * 60_000


def test_a_damaged_gzip_is_still_an_answer(serve: Serve, make: Make) -> None:
    """A wrong Content-Encoding does not turn an acceptance into a failure."""
    server = serve(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")

    assert make(server.url).send("/", b"{}").answer is Answer.ACCEPTED


# -- where nothing leaves -----------------------------------------------------------


@pytest.fixture(name="closed_port")
def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_what_may_not_begin_does_not_leave(
    serve: Serve, make: Make, ca: trustme.CA, bundle: str, encrypted: bool
) -> None:
    """The question comes when the connection stands, on each request; a no is no failure."""
    came: SimpleQueue[bytes] = SimpleQueue()

    def listen(server: Server, sock: socket.socket) -> None:
        try:
            came.put(sock.recv(65_536))
        except OSError:
            # The client has left with TLS's session tickets unread: a reset, not an end.
            came.put(b"")

    server = serve(listen, server_context(ca, "127.0.0.1") if encrypted else None)
    transport = make(server.url, ca_bundle=bundle)
    asked: list[bool] = []

    def refuse() -> bool:
        asked.append(came.empty())
        return False

    outcome = transport.send("/", b"{}", may_begin=refuse)
    transport.close()

    assert outcome == Outcome(Answer.UNAVAILABLE, reason="nothing more is to be sent")
    assert came.get(timeout=LONG) == b""
    assert asked == [True]


def test_what_may_begin_leaves(serve: Serve, make: Make) -> None:
    """The question is asked once for each request, and never where there is no connection."""
    server = serve(OK)
    transport = make(server.url)
    asked: list[int] = []

    def allow() -> bool:
        asked.append(len(server.requests))
        return True

    for _ in range(2):
        assert transport.send("/", b"{}", may_begin=allow).answer is Answer.ACCEPTED
    assert make("http://127.0.0.1:0").send("/", b"{}", may_begin=allow).reason
    assert asked == [0, 1]
    assert server.connections == 1


def test_a_refusal_does_not_hold_up_the_next_request(serve: Serve, make: Make) -> None:
    """Whether the connection is kept or not, the transport goes on."""
    server = serve(OK)
    transport = make(server.url)
    answers = [
        transport.send("/", b"{}", may_begin=allowed).answer
        for allowed in (lambda: True, lambda: False, lambda: True)
    ]

    assert answers == [Answer.ACCEPTED, Answer.UNAVAILABLE, Answer.ACCEPTED]
    assert len(server.requests) == 2


def test_a_question_that_fails_is_an_outcome(serve: Serve, make: Make) -> None:
    """Whoever cannot say yes has said no."""
    server = serve(OK)
    outcome = make(server.url).send("/", b"{}", may_begin=lambda: bool(1 // 0))

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert server.requests == []


def test_a_refused_connection_has_not_begun(make: Make, closed_port: int) -> None:
    """The reason is the system's own, without the wrapping."""
    outcome = make(f"http://127.0.0.1:{closed_port}").send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert outcome.reason.startswith("ConnectionRefusedError: ")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "heap.example",
        "ftp://127.0.0.1",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999999",
        "http://" + "a" * 64 + ".example",
        "http://..",
        "http://\x00",
        "http://user:pass word@[bad",
        "http://127.0.0.1:1/\ud800",
    ],
    ids=ascii,
)
def test_an_impossible_endpoint_is_an_outcome(make: Make, endpoint: str) -> None:
    """A transport can be made of any text, and says what is wrong when it is used."""
    transport = make(endpoint)
    outcome = transport.send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert outcome.reason
    assert "pass" not in outcome.reason
    assert repr(transport).startswith("<Transport ")


def test_an_impossible_header_is_an_outcome(serve: Serve, make: Make) -> None:
    """A line break in the user agent is refused, and cannot smuggle a header in."""
    server = serve(OK)
    outcome = make(server.url, user_agent="a\r\nX-Evil: 1").send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert server.requests == []


def test_the_callers_own_trouble_is_not_told_as_the_reason(make: Make, closed_port: int) -> None:
    """A request made while an exception is handled tells its own failure."""
    try:
        raise PermissionError("the caller's")
    except PermissionError:
        outcome = make(f"http://127.0.0.1:{closed_port}").send("/", b"{}")

    assert "caller" not in outcome.reason


# -- TLS -----------------------------------------------------------------------------


def server_context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    """What a server with a certificate for these names needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    return context


def test_tls_with_a_ca_of_ones_own(serve: Serve, make: Make, ca: trustme.CA, bundle: str) -> None:
    """Requests go over one verified connection, and the date is believed."""
    server = serve(DATED, server_context(ca, "127.0.0.1"))
    transport = make(server.url, ca_bundle=bundle)

    assert transport.send("/", b"{}") == Outcome(Answer.ACCEPTED, status=200, date=EPOCH)
    assert transport.probe("/").date == EPOCH
    assert server.connections == 1


def test_tls_without_trust_sends_nothing(serve: Serve, make: Make, ca: trustme.CA) -> None:
    """A certificate of an unknown authority stops the request before it begins."""
    server = serve(OK, server_context(ca, "127.0.0.1"))
    outcome = make(server.url).send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert outcome.reason.startswith("SSLCertVerificationError: ")
    assert server.requests == []


def test_tls_for_another_name_sends_nothing(
    serve: Serve, make: Make, ca: trustme.CA, bundle: str
) -> None:
    """A trusted certificate of somebody else is none."""
    server = serve(OK, server_context(ca, "other.example"))
    outcome = make(server.url, ca_bundle=bundle).send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert server.requests == []


def test_a_handshake_that_hangs_ends_at_the_deadline(serve: Serve, make: Make) -> None:
    """A port that accepts and says nothing costs the connect timeout, not more."""
    release = threading.Event()
    server = serve(lambda server, sock: release.wait(LONG))
    transport = make(f"https://127.0.0.1:{server.port}", connect_timeout=0.2)
    outcome = transport.send("/", b"{}")
    release.set()

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert "imed out" in outcome.reason


def test_an_https_endpoint_that_speaks_plain_http(serve: Serve, make: Make) -> None:
    """A wrong port is told as a failed handshake."""
    server = serve(lambda server, sock: sock.recv(65_536) and sock.sendall(OK))
    outcome = make(f"https://127.0.0.1:{server.port}").send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began


@pytest.mark.parametrize("what", ["large upload", "drip"])
def test_the_deadline_holds_inside_tls(
    serve: Serve, make: Make, ca: trustme.CA, bundle: str, what: str
) -> None:
    """Encrypted connections are bounded like plain ones, in both directions."""
    release = threading.Event()

    def hold(server: Server, sock: socket.socket) -> None:
        if what == "drip":
            server.read_request(sock)
            drip(sock, b"HTTP/1.1 100 Continue\r\n\r\n")
        release.wait(LONG)

    server = serve(hold, server_context(ca, "127.0.0.1"))
    body = b"x" * (50_000_000 if what == "large upload" else 2)
    outcome = make(server.url, ca_bundle=bundle).send("/", body, timeout=0.5)
    release.set()

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.began
    assert outcome.reason.startswith("TimeoutError: ")


def test_a_client_certificate_is_shown(
    serve: Serve, make: Make, ca: trustme.CA, bundle: str, tmp_path: Path
) -> None:
    """A server that asks for one accepts the request, and refuses one without."""
    client = ca.issue_cert("device-1.example")
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    context = server_context(ca, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    server = serve(OK, context)
    shown = make(
        server.url,
        ca_bundle=bundle,
        client_cert=str(tmp_path / "client.pem"),
        client_key=str(tmp_path / "client.key"),
    )

    assert shown.send("/", b"{}").answer is Answer.ACCEPTED
    assert make(server.url, ca_bundle=bundle).send("/", b"{}").answer is Answer.UNAVAILABLE


def test_a_key_with_a_pass_phrase_fails_rather_than_asks(
    make: Make, ca: trustme.CA, tmp_path: Path
) -> None:
    """Nothing prompts on the terminal of a kiosk."""
    client = ca.issue_cert("device-1.example")
    key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
    (tmp_path / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    outcome = make(
        "https://127.0.0.1:1",
        client_cert=str(tmp_path / "client.pem"),
        client_key=str(tmp_path / "client.key"),
    ).send("/", b"{}")

    assert not outcome.began
    assert outcome.reason.startswith("SSLError: ")


def test_a_bundle_that_appears_later_is_found(
    serve: Serve, make: Make, ca: trustme.CA, tmp_path: Path
) -> None:
    """A failure makes the next attempt read the files again; a restart is not needed."""
    server = serve(OK, server_context(ca, "127.0.0.1"))
    path = tmp_path / "late.pem"
    transport = make(server.url, ca_bundle=str(path))
    missing = transport.send("/", b"{}")
    ca.cert_pem.write_to_path(str(path))

    assert missing.reason.startswith("FileNotFoundError: ")
    assert not missing.began
    assert transport.send("/", b"{}").answer is Answer.ACCEPTED


def test_a_directory_of_certificates_is_a_bundle(
    serve: Serve, make: Make, ca: trustme.CA, tmp_path: Path
) -> None:
    """OpenSSL's layout of hashed names works, where there is a tool to make it."""
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    try:
        subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the openssl program")
    server = serve(OK, server_context(ca, "127.0.0.1"))

    assert make(server.url, ca_bundle=str(tmp_path)).send("/", b"{}").answer is Answer.ACCEPTED


# -- the date -------------------------------------------------------------------------


def test_the_date_of_a_loopback_answer_is_believed(serve: Serve, make: Make) -> None:
    """A collector on the same device has the same clock; garbage is no date."""
    assert make(serve(DATED).url).send("/", b"{}").date == EPOCH
    assert make(serve(OK).url).send("/", b"{}").date is None


def test_the_date_of_a_portal_is_not_believed(serve: Serve, make: Make) -> None:
    """What listens on loopback may hand on the page of somebody who knows no time."""
    page = DATED.replace(b"\r\n\r\n{}", b"\r\nContent-Type: text/html\r\n\r\n<>")
    away = DATED.replace(b"200 OK", b"302 Found")

    for answer in (page, away):
        outcome = make(serve(answer).url).send("/", b"{}")
        assert (outcome.answer, outcome.date) == (Answer.CAPTIVE, None)


def test_the_date_of_a_plain_answer_is_not_believed(serve: Serve, make: Make) -> None:
    """Anybody between here and the endpoint could have written it."""
    proxy = serve(DATED)
    outcome = make("http://heap.example", proxy=proxy.url).send("/", b"{}")

    assert outcome == Outcome(Answer.ACCEPTED, status=200, date=None)


def test_the_date_of_a_proxied_loopback_answer_is_not_believed(serve: Serve, make: Make) -> None:
    """Behind a proxy, 127.0.0.1 is the proxy's own."""
    proxy = serve(DATED)

    assert make("http://127.0.0.1:9", proxy=proxy.url).send("/", b"{}").date is None


# -- proxies --------------------------------------------------------------------------


def tunnel_to(target: Server) -> Callable[[Server, socket.socket], None]:
    """A proxy that grants every CONNECT, to one place."""

    def handle(server: Server, sock: socket.socket) -> None:
        server.read_request(sock)
        with socket.create_connection(("127.0.0.1", target.port)) as onward:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            relay(sock, onward)

    return handle


def relay(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until one side ends; in one thread, as a TLS connection must be used."""
    while True:
        waiting = [one] if isinstance(one, ssl.SSLSocket) and one.pending() else []
        for source in waiting or select.select([one, other], [], [], LONG)[0]:
            piece = source.recv(65_536)
            if not piece:
                return
            (other if source is one else one).sendall(piece)


def test_a_plain_endpoint_behind_a_proxy(serve: Serve, make: Make) -> None:
    """The proxy gets the whole address and its own credentials."""
    proxy = serve(OK)
    transport = make("http://heap.example", proxy=f"http://me:p%3Ass@127.0.0.1:{proxy.port}")

    assert transport.send("/api/track", b"{}").answer is Answer.ACCEPTED
    assert proxy.requests[0].startswith(b"POST http://heap.example/api/track HTTP/1.1\r\n")
    # base64 of me:p:ss
    assert b"Proxy-Authorization: Basic bWU6cDpzcw==" in proxy.requests[0]
    assert "ss" not in repr(transport).replace("Transport", "")


@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
def test_a_tls_endpoint_behind_a_proxy(
    serve: Serve, make: Make, ca: trustme.CA, bundle: str, proxy_tls: bool
) -> None:
    """The tunnel is verified end to end, so that its date is believed; the proxy sees no event."""
    target = serve(DATED, server_context(ca, "heap.example"))
    context = server_context(ca, "127.0.0.1") if proxy_tls else None
    proxy = serve(tunnel_to(target), context)
    where = proxy.url.replace("://", "://me:pass@")
    transport = make("https://heap.example", proxy=where, ca_bundle=bundle)

    assert transport.send("/", b'{"secret":1}').date == EPOCH
    assert transport.send("/", b'{"secret":1}').answer is Answer.ACCEPTED
    [request] = proxy.requests
    assert request.startswith(b"CONNECT heap.example:443 ")
    # base64 of me:pass
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==" in request
    assert b"Proxy-Authorization" not in b"".join(target.requests)


def test_a_proxy_that_refuses_the_tunnel(serve: Serve, make: Make) -> None:
    """Nothing has left, and the reason says that it was the proxy, without its password."""
    proxy = serve(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    where = f"http://me:hunter2@127.0.0.1:{proxy.port}"
    outcome = make("https://heap.example", proxy=where).send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert "407" in outcome.reason
    assert "hunter2" not in outcome.reason


def test_a_proxy_that_hangs_in_the_tunnel_ends_at_the_deadline(serve: Serve, make: Make) -> None:
    """A drip in the answer to CONNECT is bounded as well, and is no begin."""
    proxy = serve(lambda server, sock: server.read_request(sock) and drip(sock, b"H"))
    outcome = make("https://heap.example", proxy=proxy.url).send("/", b"{}", timeout=0.3)

    assert outcome.answer is Answer.UNAVAILABLE
    assert not outcome.began
    assert "TimeoutError" in outcome.reason


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there(make: Make, closed_port: int, scheme: str) -> None:
    """A refused proxy connection is no begin, and told as the proxy's."""
    where = f"http://me:hunter2@127.0.0.1:{closed_port}"
    outcome = make(f"{scheme}://heap.example", proxy=where).send("/", b"{}")

    assert not outcome.began
    assert outcome.reason.startswith("proxy: ConnectionRefusedError: ")
    assert "hunter2" not in outcome.reason


@pytest.mark.parametrize(
    "proxy",
    [
        "http://me:hunter2@[bad",
        "me:hunter2@",
        "socks5://me:hunter2@127.0.0.1:1",
        "http://me:hun ter2@[",
    ],
)
def test_an_impossible_proxy_keeps_its_password(make: Make, proxy: str) -> None:
    """Neither the reason nor the repr shows any part of a password."""
    transport = make("http://heap.example", proxy=proxy)
    outcome = transport.send("/", b"{}")

    assert outcome.answer is Answer.UNAVAILABLE
    assert outcome.reason.startswith("ValueError: proxy: ")
    assert "hun" not in outcome.reason
    assert "ter2" not in outcome.reason
    assert "ter2" not in repr(transport)


def test_no_proxy_is_looked_for(serve: Serve, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a transport decides about proxies, and nobody else."""
    proxy = serve(OK)
    monkeypatch.setenv("http_proxy", proxy.url)
    # A name too long to be looked up: without a proxy nothing leaves this machine.
    make("http://" + "a" * 64 + ".example").send("/", b"{}")

    assert proxy.connections == 0


# -- several addresses -----------------------------------------------------------------


def test_a_name_with_a_dead_address_is_reached_at_the_other(serve: Serve, make: Make) -> None:
    """localhost is ::1 and 127.0.0.1 on many systems; a collector may listen on one only."""
    server = serve(OK)

    assert make(f"http://localhost:{server.port}").send("/", b"{}").answer is Answer.ACCEPTED


def test_every_address_gets_its_share_of_the_time() -> None:
    """A dead address leaves time for the others, and the last one gets what is left."""
    request = _Request(time.monotonic() + 1_000.0, connect_timeout=300.0, read_timeout=30.0)

    assert 240.0 < request.share(4) <= 250.0
    assert request.share(1) == 300.0


# -- manners ---------------------------------------------------------------------------


def test_repr_tells_state_and_counts(serve: Serve, make: Make) -> None:
    """The repr shows where requests go and how many there were."""
    server = serve(OK)
    transport = make(server.url)
    assert repr(transport) == f"<Transport {server.url!r} [closed, requests 0]>"

    transport.send("/", b"{}")
    assert repr(transport) == f"<Transport {server.url!r} [open, direct, requests 1]>"


def test_nothing_is_printed() -> None:
    """Neither failures, nor odd headers, nor urllib3's warning about an unset clock."""
    code = """
        import socket, threading, warnings
        from heap_agent._upload.transport import Transport
        listener = socket.create_server(("127.0.0.1", 0))
        def answer():
            sock, _ = listener.accept()
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\\r\\nA: b\\r\\nbad header\\r\\n\\r\\n{}")
            sock.close()
            listener.close()
        threading.Thread(target=answer, daemon=True).start()
        transport = Transport("http://127.0.0.1:%d" % listener.getsockname()[1], user_agent="x")
        transport.send("/", b"{}")
        Transport("https://127.0.0.1:1", user_agent="x").send("/", b"{}")
        from urllib3.exceptions import SystemTimeWarning
        warnings.warn("the year is 1970", SystemTimeWarning)
    """
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)

"""
One request out, one `Outcome` back; nothing is ever raised.

This module must not know what an event is, what an answer means for the queue
(`_core.outcomes` says what it was, `_core.delivery` what follows), or when the
next attempt comes: it never retries and never follows a redirect.

Two things are done below urllib3, in subclasses of its connections and of the
sockets, because its own timeouts count anew with every packet:

- one deadline bounds the whole request. A server that drips one byte every few
  seconds, in the status line, the headers or the body, and a network that takes
  an upload as slowly, are cut off at the deadline;
- `began` is a fact, noted in the moment before the first byte of the request
  leaves, and not a guess from the kind of the exception.

Only the lookup of a name cannot be bounded: `getaddrinfo` takes no timeout.
"""

from __future__ import annotations

import base64

# The lookup of a name would import it, in the middle of a request, which a fork does
# not wait for.
import encodings.idna  # noqa: F401
import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from http.client import SWITCHING_PROTOCOLS, HTTPException, HTTPMessage, HTTPResponse
from io import BufferedReader
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import attrs
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import LocationParseError, NewConnectionError, ProxyError, SystemTimeWarning
from urllib3.util import Timeout, Url, parse_url

from heap_agent._core.outcomes import (
    Answer,
    Outcome,
    classify,
    classify_probe,
    http_date,
    unreachable,
)

__all__ = ["Reply", "Transport"]

#: Heap answers with `{}`; the rest of a longer answer is not read, and the
#: connection is dropped instead.
ANSWER_BYTES = 65_536

#: So much is handed to the system at once, so that the deadline is looked at
#: between two pieces of a long upload.
PIECE_BYTES = 65_536

#: Lines before the body, those of interim answers included; a head has a few dozen.
HEAD_LINES = 500

#: All that is taken in for one request: head, answer, what frames it, and what is read
#: ahead. The rest of a longer one costs neither memory nor anybody's volume.
HEARD_BYTES = 524_288

#: Where systems keep the certificates that they trust: Debian, Fedora and Red Hat (two
#: places), openSUSE, Alpine and macOS. An OpenSSL knows the place on the system that it
#: was built for, and a frozen program runs on others, too.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

#: A reason is one line for a log and for `status`.
REASON_CHARACTERS = 200


@attrs.frozen(slots=True)
class Reply:
    """
    An answer that somebody wants to read.

    Attributes:
        outcome: What it means.
        body: Its body, up to `ANSWER_BYTES` of it; empty where there was no answer.
    """

    outcome: Outcome
    body: bytes = attrs.field(default=b"", repr=False)


class Transport:
    """
    Requests to one endpoint over one kept-alive connection.

    Safe to use from several threads: requests go out one at a time, and waiting
    for one's turn counts towards the timeout. Nothing is opened or read before
    the first request. After a fork, make a new one.

    Args:
        endpoint: ``https://host[:port][/path]``. A user and password in it are
            sent as Basic authorization.
        user_agent: The User-Agent header.
        connect_timeout: Seconds for one address to answer, TLS included.
        read_timeout: Seconds from the first byte of the request to the last of
            the answer.
        ca_bundle: A PEM file, or a directory of hashed ones, that is trusted
            *in addition to* the system's certificates. Verification cannot be
            switched off.
        client_cert: A PEM file with the client's certificate, and its key unless
            `client_key` names that. The key must not need a pass phrase.
        client_key: A PEM file with the key.
        proxy: The URL of an HTTP proxy, with its user and password if it wants
            them; none is looked for elsewhere.
        wall: The clock that an absolute ``Retry-After`` is compared with, in
            seconds since 1970.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        user_agent: str,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        ca_bundle: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        proxy: str | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._user_agent = user_agent
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._ca_bundle = ca_bundle
        self._client_cert = client_cert
        self._client_key = client_key
        self._proxy = proxy
        self._wall = wall
        self._route: _Route | None = None
        self._requests = 0

    def __repr__(self) -> str:
        state = "closed" if self._route is None else f"open, {self._route.via}"
        return f"<Transport {_mask(self._endpoint)!r} [{state}, requests {self._requests}]>"

    def send(
        self,
        path: str,
        body: bytes,
        *,
        timeout: float | None = None,
        may_begin: Callable[[], bool] | None = None,
    ) -> Outcome:
        """
        Post one JSON body.

        Args:
            path: Begins with ``/`` and follows the endpoint's own path.
            body: The JSON, encoded.
            timeout: Seconds for all of it; `connect_timeout` + `read_timeout`
                unless given, which hold as well.
            may_begin: Asked when the connection stands, TLS included, and the first
                byte is about to leave. When it says no, nothing leaves. It must
                not wait.

        Returns:
            What the answer was, or why there was none.
        """
        return self._request("POST", path, body, timeout, may_begin=may_begin).outcome

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """
        Send any request, and keep the answer's body.

        Args:
            method: Such as ``GET``.
            path: As for `send`, quoted.
            body: JSON, encoded; None for a request without one.
            headers: More headers, such as Authorization. They go to the endpoint
                only, since no redirect is followed, and are neither logged nor
                part of a reason as long as they are printable ASCII.
            timeout: As for `send`.

        Returns:
            What the answer was, or why there was none.
        """
        return self._request(method, path, body, timeout, headers)

    def probe(self, path: str, *, timeout: float | None = None) -> Outcome:
        """
        Ask with a bodiless HEAD whether the endpoint can be reached.

        Args:
            path: As for `send`.
            timeout: As for `send`.

        Returns:
            What the answer was, or why there was none.
        """
        return self._request("HEAD", path, None, timeout).outcome

    def close(self) -> None:
        """
        Close the connection. A later request opens another.
        """
        route, self._route = self._route, None
        if route is not None:
            route.manager.clear()

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout: float | None,
        headers: Mapping[str, str] | None = None,
        may_begin: Callable[[], bool] | None = None,
    ) -> Reply:
        if timeout is None:
            timeout = self._connect_timeout + self._read_timeout
        self._requests += 1
        request = _Request(
            time.monotonic() + timeout, self._connect_timeout, self._read_timeout, may_begin
        )
        token = _under_way.set(request)
        try:
            return self._exchange(request, method, path, body, headers or {})
        except _Withheld as exc:
            return Reply(unreachable(str(exc), began=request.began))
        except Exception as exc:
            # The next attempt reads everything anew: CA bundle and client
            # certificate may be what has to change.
            self.close()
            # Servers close idle connections without a word, often while the next
            # request is on its way.
            stale = request.is_unheard and _is_disconnect(exc)
            return Reply(unreachable(_describe(exc), began=request.began, stale=stale))
        finally:
            _under_way.reset(token)

    def _exchange(
        self,
        request: _Request,
        method: str,
        path: str,
        body: bytes | None,
        more: Mapping[str, str],
    ) -> Reply:
        route = self._route
        if route is None:
            route = self._route = self._build_route()
        left = request.left()
        response = route.manager.urlopen(
            method,
            route.base + path,
            body=body,
            headers={**route.headers, **({} if body is None else _JSON), **more},
            retries=False,
            redirect=False,
            timeout=Timeout(connect=min(left, self._connect_timeout), read=left),
            pool_timeout=left,
            preload_content=False,
            decode_content=False,
        )
        try:
            answer = _read_answer(response)
        finally:
            # Closes the connection unless the answer was read to its end, and
            # gives the pool its only place back in either case.
            response.close()
            response.release_conn()
        headers = {name.lower(): value for name, value in response.headers.items()}
        if method == "HEAD":
            outcome = classify_probe(response.status, headers)
        else:
            outcome = classify(response.status, headers, answer, self._wall())
        # A portal may be reached through what listens on loopback, and know no time.
        if route.date_is_trusted and outcome.answer is not Answer.CAPTIVE:
            outcome = attrs.evolve(outcome, date=http_date(headers.get("date")))
        return Reply(outcome, answer)

    def _build_route(self) -> _Route:
        endpoint = _parse("endpoint", self._endpoint, ("http", "https"))
        proxy = _parse("proxy", self._proxy, ("http", "https")) if self._proxy else None
        tls = None
        if "https" in (endpoint.scheme, proxy and proxy.scheme):
            tls = _tls_context(self._ca_bundle, self._client_cert, self._client_key)
        headers = {"User-Agent": self._user_agent, "Accept-Encoding": "identity"}
        if endpoint.auth:
            headers["Authorization"] = _basic(endpoint.auth)
        return _Route(
            manager=_manager(proxy, tls),
            base=endpoint._replace(auth=None, query=None, fragment=None).url.rstrip("/"),
            headers=headers,
            via="direct" if proxy is None else f"proxy {proxy._replace(auth=None).url}",
            date_is_trusted=endpoint.scheme == "https"
            or (proxy is None and _is_loopback(endpoint.host)),
        )


_JSON = {"Content-Type": "application/json"}


@attrs.frozen(slots=True)
class _Route:
    """How requests reach the endpoint, as the settings were when it was built."""

    manager: urllib3.PoolManager
    base: str
    headers: dict[str, str]
    via: str
    date_is_trusted: bool


# -- one deadline for one request ----------------------------------------------


class _Withheld(Exception):
    """Whoever asked for the request has changed their mind."""


@attrs.define(slots=True)
class _Request:
    """The request under way: until when (monotonic), and what has become of it."""

    ends: float
    connect_timeout: float
    read_timeout: float
    may_begin: Callable[[], bool] | None = None
    #: Whether a byte of it may have left.
    began: bool = False
    #: Whether it left on a connection that had brought an answer before.
    reused: bool = False
    #: How many bytes have come back.
    heard: int = 0

    @property
    def is_unheard(self) -> bool:
        """Whether its connection may have been dead all the time."""
        return self.reused and not self.heard

    def left(self) -> float:
        """Seconds until the deadline, never zero."""
        left = self.ends - time.monotonic()
        if not left > 0:
            raise TimeoutError("the time for this request is over")
        return left

    def hear(self, count: int) -> None:
        """So many bytes more have come back."""
        self.heard += count
        if self.heard > HEARD_BYTES:
            raise HTTPException("the answer does not end")

    def share(self, addresses: int) -> float:
        """Seconds for the first of so many addresses, so that a dead one leaves time for all."""
        return min(self.connect_timeout, self.left() / addresses)

    def begin(self, *, reused: bool) -> None:
        """The connection stands, and the request leaves now, or not at all."""
        if self.may_begin is not None and not self.may_begin():
            raise _Withheld("nothing more is to be sent")
        self.reused = reused
        self.began = True
        self.ends = min(self.ends, time.monotonic() + self.read_timeout)


#: Where the sockets find the deadline. urllib3 hands nothing through to them, and
#: a request runs from its first to its last byte on the thread that asked for it.
_under_way: ContextVar[_Request] = ContextVar("heap_agent request under way")


class _BoundedSocket(socket.socket):
    """A socket whose every wait ends with the request's deadline."""

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        request = _under_way.get()
        self.settimeout(request.left())
        data = super().recv(*args, **kwargs)
        request.hear(len(data))
        return data

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        request = _under_way.get()
        self.settimeout(request.left())
        count = super().recv_into(*args, **kwargs)
        request.hear(count)
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        with memoryview(data) as view, view.cast("B") as octets:
            sent = 0
            while sent < len(octets):
                self.settimeout(_under_way.get().left())
                sent += self.send(octets[sent : sent + PIECE_BYTES], flags)


class _BoundedTLSSocket(_BoundedSocket, ssl.SSLSocket):
    """The same, encrypted; `ssl` makes these by itself (`sslsocket_class`)."""


class _Head:
    """The lines before the body of an answer, none of which may be cut."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines = 0
        self.close = file.close

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        self._lines += 1
        if self._lines > HEAD_LINES:
            raise HTTPException("the head of the answer does not end")
        # An end before the first byte is http.client's to tell: nobody has answered.
        nothing = not line and self._lines == 1
        if not (line.endswith(b"\n") or len(line) == limit or nothing):
            raise HTTPException("the answer was cut in its head")
        return line


class _Answer(HTTPResponse):
    """
    The final answer, with a whole head.

    http.client takes a cut head for a whole one, and any interim answer but 100 for
    the final one. The real one would then be read as that to the next request.
    """

    def begin(self, **options: Any) -> None:
        file = self.fp
        self.fp = cast(BufferedReader, _Head(file))
        try:
            super().begin(**options)
            while self.status < 200:
                self._pass_over()
                super().begin(**options)
        finally:
            # It is None where http.client has closed it.
            self.fp = self.fp and file
        self._tidy()

    def _pass_over(self) -> None:
        if self.status == SWITCHING_PROTOCOLS:
            raise HTTPException("HTTP 101: another protocol, which nobody asked for")
        # Nothing is read again while there are headers.
        self.headers = self.msg = cast(HTTPMessage, None)

    def _tidy(self) -> None:
        """
        Take away what urllib3 would stumble over, or complain about in the program's log
        with each answer anew, and at whatever length the server likes.
        """
        self.headers.defects.clear()
        self.headers.set_payload("")
        # Nothing is unpacked here.
        del self.headers["content-encoding"]
        if self.chunked:
            # It does not count then.
            del self.headers["content-length"]


class _BoundedConnection(HTTPConnection):
    """Opens bounded sockets, and notes when the request leaves."""

    response_class = _Answer
    _used = False

    def connect(self) -> None:
        super().connect()
        self._used = False

    def _new_conn(self) -> socket.socket:
        try:
            return _open_socket(self.host.strip("[]"), self.port, self.socket_options or ())
        except OSError as exc:
            raise NewConnectionError(self, str(exc)) from exc

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        # http.client would connect inside, too late to tell the two apart.
        if self.is_closed:
            self.connect()
        _under_way.get().begin(reused=self._used)
        self._used = True
        super().endheaders(message_body, encode_chunked=encode_chunked)


class _BoundedTLSConnection(_BoundedConnection, HTTPSConnection):
    """The same, encrypted."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _BoundedConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedTLSConnection


def _open_socket(host: str, port: int, options: Any) -> socket.socket:
    request = _under_way.get()
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure = OSError("the name has no address")
    for place, (family, kind, protocol, _, address) in enumerate(found):
        sock = None
        try:
            sock = _BoundedSocket(family, kind, protocol)
            for option in options:
                sock.setsockopt(*option)
            sock.settimeout(request.share(len(found) - place))
            sock.connect(address)
            # The bound of the TLS handshake, which counts it as a whole.
            sock.settimeout(min(request.left(), request.connect_timeout))
            return sock
        except OSError as exc:
            failure = exc
            if sock is not None:
                sock.close()
    raise failure


# -- building ------------------------------------------------------------------


def _manager(proxy: Url | None, tls: ssl.SSLContext | None) -> urllib3.PoolManager:
    # On a device without a clock urllib3 would print this warning with every
    # connection, until the first answer has told the time.
    urllib3.disable_warnings(SystemTimeWarning)
    options: dict[str, Any] = {"num_pools": 1, "maxsize": 1, "block": True}
    if tls is not None:
        options["ssl_context"] = tls
    manager: urllib3.PoolManager
    if proxy is None:
        manager = urllib3.PoolManager(**options)
    else:
        manager = urllib3.ProxyManager(
            proxy._replace(auth=None).url,
            proxy_headers={"Proxy-Authorization": _basic(proxy.auth)} if proxy.auth else None,
            proxy_ssl_context=tls,
            **options,
        )
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


def _tls_context(
    ca_bundle: str | None, client_cert: str | None, client_key: str | None
) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _BoundedTLSSocket
    if system := _overlooked_bundle():
        context.load_verify_locations(cafile=system)
    if ca_bundle and os.path.isdir(ca_bundle):
        context.load_verify_locations(capath=ca_bundle)
    elif ca_bundle:
        context.load_verify_locations(cafile=ca_bundle)
    if client_cert:
        # Without a password OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(client_cert, client_key, password="")
    return context


def _overlooked_bundle() -> str | None:
    """The system's certificates, where OpenSSL finds none: neither its own nor chosen ones."""
    found = ssl.get_default_verify_paths()
    if found.cafile or found.capath:
        return None
    return next(filter(os.path.isfile, SYSTEM_BUNDLES), None)


def _parse(what: str, text: str, schemes: tuple[str, ...]) -> Url:
    try:
        url = parse_url(text)
    except LocationParseError:
        # Its message holds the text, and that may hold a password.
        raise ValueError(f"{what}: not a URL") from None
    if url.scheme not in schemes or not url.host:
        raise ValueError(f"{what}: must begin with {' or '.join(schemes)}:// and name a host")
    return url


def _is_loopback(host: str | None) -> bool:
    name = (host or "").strip("[]").rstrip(".").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _basic(auth: str) -> str:
    return "Basic " + base64.b64encode(unquote(auth).encode()).decode()


# -- reading -------------------------------------------------------------------


def _read_answer(response: urllib3.BaseHTTPResponse) -> bytes:
    answer = b""
    try:
        # Until a read comes back empty: only that one notices a body that was cut.
        while len(answer) < ANSWER_BYTES:
            piece = response.read(ANSWER_BYTES - len(answer), decode_content=False)
            if not piece:
                break
            answer += piece
    except Exception:
        # Only a 2xx has to arrive whole, because rows are deleted upon it.
        # Anything else is told by its status line.
        if 200 <= response.status < 300:
            raise
    return answer


#: From the beginning of a word only: a long one without an end would be searched from
#: each of its characters.
_USERINFO = re.compile(r"(?<!\S)\S+@")


def _mask(text: str) -> str:
    return _USERINFO.sub("***@", text)


def _is_disconnect(exc: BaseException) -> bool:
    """Whether the other side has closed the connection, rather than the time being over."""
    kinds = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return any(isinstance(e, kinds) for e in _chain(exc))


def _describe(exc: BaseException) -> str:
    """The system's own error rather than urllib3's wrapping of it, in one line."""
    chain = _chain(exc)
    told = next((e for e in reversed(chain) if isinstance(e, (OSError, HTTPException))), exc)
    text = "".join(c if c.isprintable() else " " for c in _mask(str(told)))
    where = "proxy: " if any(isinstance(e, ProxyError) for e in chain) else ""
    return f"{where}{type(told).__name__}: {' '.join(text.split())}"[:REASON_CHARACTERS]


def _chain(exc: BaseException) -> list[BaseException]:
    """An error and what it was made of."""
    chain = [exc]
    while (inner := _inner(chain[-1])) is not None and inner not in chain:
        chain.append(inner)
    return chain


def _inner(exc: BaseException) -> BaseException | None:
    # Not __context__, which may lead to an error that our caller is handling.
    if exc.__cause__ is not None:
        return exc.__cause__
    return next((arg for arg in exc.args if isinstance(arg, BaseException)), None)

"""
One ASGI application on one port, served by uvicorn in a background thread.

This module must not know what the application does. It installs no signal
handlers and writes no log lines.

The port is bound at construction and stays bound, without listening, while
the server is stopped: clients are refused at once, nobody else can take the
port, and the address is known before the first start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import weakref
from typing import Any, Final, TypeAlias

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from heap_agent._view.listening import authority, bound, port_of

__all__ = ["BackgroundServer"]

#: Host and port, as in ``scope["client"]``; None where the platform cannot tell any more.
Peer: TypeAlias = "tuple[str, int] | None"

_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 5.0

#: A task that does not end when its connection does is cancelled after this.
_CUT_SECONDS: Final = 0.5
_BACKLOG: Final = 128

#: Turns of the loop from the acceptance of a connection to its end, and some more.
_STEPS: Final = 10

#: uvicorn's own five seconds are shorter than a client's usual delivery interval.
_KEEP_ALIVE_SECONDS: Final = 75

_logger = logging.getLogger("heap_agent.serving")
_logger.addHandler(logging.NullHandler())


class _Connections:
    """
    The open connections by peer address; only the server's loop touches them.

    Args:
        most: How many there may be; None: any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self.closing = False
        self._most = most
        self._transports: dict[Peer, asyncio.Transport] = {}
        self._kept: set[Peer] = set()

    def add(self, peer: Peer, transport: asyncio.Transport) -> None:
        self._transports[peer] = transport
        if self.closing:
            _cut(transport)
        elif self._most is not None and len(self._transports) > self._most:
            # Each takes a file of the host program's, also one that never asks.
            strangers = (known for known in self._transports if known not in self._kept)
            _cut(self._transports.pop(next(strangers)))

    def keep(self, peer: Peer) -> None:
        if self._most is not None and len(self._kept) < self._most // 2:
            self._kept.add(peer)

    def remove(self, peer: Peer) -> None:
        self._transports.pop(peer, None)
        self._kept.discard(peer)

    def cut(self, peer: Peer) -> None:
        transport = self._transports.get(peer)
        if transport is not None:
            _cut(transport)

    def cut_all(self) -> None:
        self.closing = True
        for transport in list(self._transports.values()):
            _cut(transport)


class _Config(uvicorn.Config):
    """uvicorn's configuration, and the connections that its protocols register with."""

    def __init__(self, app: ASGIApp, connections: _Connections, **options: Any) -> None:
        super().__init__(
            app,
            interface="asgi3",
            loop="asyncio",
            backlog=_BACKLOG,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=_log_level(),
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            **options,
        )
        self.connections = connections


class _Protocol(H11Protocol):
    def __init__(
        self,
        config: _Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _logger
        self.access_log = False
        self._registry = config.connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._registry.add(self.client, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.remove(self.client)
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """uvicorn's server without its ticks of a tenth of a second, and without its patience."""

    def __init__(self, config: _Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._connections = config.connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.ready.set()

    async def main_loop(self) -> None:
        await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.cut_all()
        await self._accept_no_more(sockets or [])
        # A forked child holds a copy of the listening socket; closing ours alone
        # would leave the port accepting connections that nobody serves.
        for listener in sockets or []:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for server in self.servers:
            server.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_gone(), _CUT_SECONDS)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)

    async def _accept_no_more(self, listeners: list[socket.socket]) -> None:
        """
        What was accepted in the last moment is a connection a few steps later, and is cut
        then; of a server that is closed meanwhile it would stay open, and nobody's.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # Windows
            for listener in listeners:
                loop.remove_reader(listener)
        for _ in range(_STEPS):
            await asyncio.sleep(0)

    async def _all_gone(self) -> None:
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.001)


class BackgroundServer:
    """
    Serves one application at a time; it may be stopped and started again.

    Not for concurrent use: one thread starts and stops it.

    Args:
        host: Address to bind, an IPv4 or IPv6 literal.
        port: Port to bind; 0 takes a free one, once and for all.
        certfile: PEM file of the certificate chain; with it the server speaks TLS.
        keyfile: PEM file of its key.
        listener: A bound socket to be used instead of a new one.
        name: Of the server's thread.
        most: Connections at a time: for one beyond that the oldest is cut that is not
            kept. None: any number.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        *,
        listener: socket.socket | None = None,
        name: str = "heap-agent-collector",
        most: int | None = None,
    ) -> None:
        self._name = name
        self._most = most
        self._tls = {"ssl_certfile": certfile, "ssl_keyfile": keyfile} if certfile else {}
        self._host = host
        self._socket: socket.socket | None = listener or bound(host, port)
        self._port = port_of(self._socket)
        self._release = weakref.finalize(self, self._socket.close)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._connections = _Connections()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://{authority(self._host, self._port)}"

    @property
    def running(self) -> bool:
        """True between `start` and `stop`."""
        return self._thread is not None

    def start(self, app: ASGIApp) -> None:
        """
        Serve `app`; returns when connections are accepted. Running already: nothing.

        Raises:
            OSError: The port has been taken by somebody else meanwhile, or the
                certificate cannot be read.
            RuntimeError: The server's thread died.
        """
        if self._thread is not None:
            return
        self._connections = _Connections(self._most)
        config = _Config(app, self._connections, **self._tls)
        # These two here, where an error reaches the caller, and not in the thread.
        config.load()
        self._reserve().listen(_BACKLOG)
        listener, self._socket = self._socket, None
        self._release.detach()
        server = _Server(config)
        thread = threading.Thread(
            target=server.run, args=([listener],), name=self._name, daemon=True
        )
        thread.start()
        if not server.ready.wait(_START_SECONDS):
            raise RuntimeError(f"the server at {self.url} did not start")
        self._server, self._thread = server, thread

    def stop(self) -> None:
        """
        Cut all connections, answered or not, and refuse new ones. Stopped already: nothing.
        """
        if self._thread is None or self._server is None:
            return
        self._server.end()
        self._thread.join(_STOP_SECONDS)
        self._server = self._thread = None
        # Whoever was quicker has the port now; `start` will say so.
        with contextlib.suppress(OSError):
            self._reserve()

    def close(self) -> None:
        """
        Stop, and give the port back.
        """
        self.stop()
        self._release()
        self._socket = None

    def cut(self, peer: Peer) -> None:
        """
        Close a connection without an answer; only from within the application.
        """
        self._connections.cut(peer)

    def keep(self, peer: Peer) -> None:
        """
        Cut others sooner than this connection; only from within the application.
        """
        self._connections.keep(peer)

    def _reserve(self) -> socket.socket:
        if self._socket is None:
            self._socket = bound(self._host, self._port)
            self._release = weakref.finalize(self, self._socket.close)
        return self._socket


def _cut(transport: asyncio.Transport) -> None:
    # Shut down first: a forked child's copy of the socket would keep it open.
    # A TLS connection that is going already has no socket any more.
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    transport.abort()


def _log_level() -> int | None:
    """Silence uvicorn's loggers, unless the host program has set them up for itself."""
    level = logging.getLogger("uvicorn.error").level
    return logging.CRITICAL if level == logging.NOTSET else None

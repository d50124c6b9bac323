"""
The Event Visualizer of one device: one pairing at a time, from its start to its end.

Until somebody starts one nothing of this is loaded. The port is taken at once, so that
the caller knows it; what serves it is loaded on a thread of its own.

What guards what: `_lock` guards which pairing is running. A pairing's thread is never
waited for while it is held, as that may want to end the pairing. `_starting` is held by
whoever starts one, so that two cannot want the same port. Both may be taken again by a
signal handler that has interrupted their holder.

This module must not know what is shown.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

import attrs

from heap_agent._core.pairing import CODE_DIGITS, Doorkeeper, Doors
from heap_agent._store.forking import undivided
from heap_agent._view.device import Device
from heap_agent._view.listening import authority, bound, port_of
from heap_agent._view.watch import Watch

if TYPE_CHECKING:
    from heap_agent._view.serving import BackgroundServer

_log = logging.getLogger("heap_agent.visualizer")

#: Of these letters and digits none is taken for another, when somebody types a URL.
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_SECRET: Final = 10

#: Seconds in which a browser that waits for news is told that it is over.
_FAREWELL: Final = 0.3

#: Seconds that whoever ends a pairing waits for its port to be closed.
_PATIENCE: Final = 2.0

#: Connections at a time: a browser takes six, and nobody else has business here.
_CONNECTIONS: Final = 32

_BACKLOG: Final = 16


@attrs.frozen(slots=True)
class Pairing:
    """
    A page that waits for one browser.

    Attributes:
        url: Where it is.
        code: What it asks for: four digits, as text.
        expires: When it is over by itself, by this device's clock.
    """

    url: str
    code: str = attrs.field(repr=False)
    expires: datetime

    def qr(self) -> str:
        """
        The URL as a QR code, for a terminal or any other surface that shows text in
        letters of one width: half blocks, two rows a line, dark on light or light on dark.
        """
        import segno  # hardly any pairing needs it

        code = segno.make(self.url, micro=False, error="m")
        rows = [[bool(cell) for cell in row] for row in code.matrix_iter(border=2)]
        if len(rows) % 2:
            rows.append([False] * len(rows[0]))
        pairs = zip(rows[::2], rows[1::2], strict=True)
        # Light cells are drawn: most terminals are dark, and readers take either.
        return "\n".join(
            "".join(_BLOCKS[upper, lower] for upper, lower in zip(*pair, strict=True))
            for pair in pairs
        )


_BLOCKS: Final = {
    (False, False): "█",
    (False, True): "▀",
    (True, False): "▄",
    (True, True): " ",
}


class Visualizer:
    """
    Thread-safe.

    Args:
        device: What is shown.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._starting = threading.RLock()
        self._lock = threading.RLock()
        self._running: _Session | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Visualizer [{self._running or 'not paired'}]>"

    def start(self, bind: str, port: int, timeout: float) -> Pairing:
        """
        Begin a pairing; one that is running ends.

        Args:
            bind: An IPv4 or IPv6 literal to listen on.
            port: 0 takes a free one.
            timeout: Seconds until it is over by itself.

        Raises:
            OSError: The port is taken, the address is not this machine's, no thread can be
                started, or it is closed.
        """
        with self._starting:
            self.stop()
            listener = bound(bind, port)
            try:
                listener.listen(_BACKLOG)
                session = _Session(self._device, listener, bind, timeout, over=self._is_over)
                with self._lock:
                    session.start()
                    before, self._running = self._running, session
            except BaseException:
                listener.close()
                raise
            if before is not None:  # a signal handler's
                before.stop()
        if self._closed:
            self.stop()
            raise OSError("no pairing can begin any more")
        return session.pairing

    def stop(self) -> None:
        """
        End the pairing, if there is one.
        """
        with self._lock:
            session, self._running = self._running, None
        if session is not None:
            session.stop()

    def close(self) -> None:
        """
        End the pairing, and let none begin any more, also where one is about to. The page
        is gone in a moment, for which nobody waits.
        """
        self._closed = True
        with self._lock:
            session, self._running = self._running, None
        if session is not None:
            session.end()

    @property
    def running(self) -> bool:
        """Whether a pairing is under way."""
        return self._running is not None

    def _is_over(self, session: _Session) -> None:
        with self._lock:
            if self._running is session:
                self._running = None


class _Session:
    """One pairing."""

    def __init__(
        self,
        device: Device,
        listener: socket.socket,
        bind: str,
        timeout: float,
        over: Callable[[_Session], None],
    ) -> None:
        self._device = device
        self._listener = listener
        self._bind = bind
        self._over = over
        self._secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET))
        self._pass = secrets.token_urlsafe(32)
        code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}d}"
        self._keeper = Doorkeeper(code, self._pass, time.monotonic() + timeout)
        self._ending = threading.Event()
        self._watch = Watch(device)
        port = port_of(listener)
        self._doors = Doors(bind, socket.gethostname())
        self.pairing = Pairing(
            f"http://{authority(_reached_at(bind), port)}/{self._secret}/",
            code,
            datetime.now(timezone.utc) + timedelta(seconds=timeout),
        )

    def __repr__(self) -> str:
        return self._keeper.phase(time.monotonic()).value

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self._main, name="heap-agent-visualizer", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # too many, or the interpreter is about to end
            raise OSError(str(error)) from error

    def end(self) -> None:
        self._keeper.end()
        self._ending.set()

    def stop(self) -> None:
        self.end()
        self._thread.join(_PATIENCE)

    def _main(self) -> None:
        server = None
        try:
            server = self._serve()
            self._ending.wait(self._keeper.seconds_left(time.monotonic()))
            self._keeper.end()
            time.sleep(_FAREWELL)
        except Exception as error:  # whoever asked has gone on: it is told in the log
            _log.error("the page cannot be served: %s", error, exc_info=error)
        finally:
            self._watch.stop()
            if server is not None:
                server.close()
            self._listener.close()
            self._over(self)

    def _serve(self) -> BackgroundServer:
        with undivided():
            from heap_agent._view.app import PageApp
            from heap_agent._view.serving import BackgroundServer

        server = BackgroundServer(
            self._bind,
            0,
            listener=self._listener,
            name="heap-agent-page",
            most=_CONNECTIONS,
        )
        app = PageApp(
            self._device,
            self._watch,
            self._keeper,
            self._doors,
            secret=self._secret,
            pass_=self._pass,
            ended=self._ending.set,
            let_in=server.keep,
        )
        self._watch.start()
        server.start(app)
        return server


def _reached_at(bind: str) -> str:
    """
    The address to be told to people: of a machine that listens on all of its addresses,
    the one that its packets leave from.
    """
    if bind not in ("0.0.0.0", "::"):
        return bind
    family, elsewhere = (
        (socket.AF_INET6, "2001:db8::1") if ":" in bind else (socket.AF_INET, "192.0.2.1")
    )
    try:
        # Nothing is sent: the system only looks up the way there.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "::1" if ":" in bind else "127.0.0.1"

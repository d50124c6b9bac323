"""
An agent's Event Visualizer: what the page is told of an agent, and who may ask for it.

Loaded when somebody starts a pairing: a verb, another process of the same user, or a
signal that the program has asked for. This module must not know how pages are served.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from heap_agent._core.hour import Hour
from heap_agent._faults import duration
from heap_agent._outbox import Outbox
from heap_agent._store import dead
from heap_agent._store.store import Store
from heap_agent._upload.drain import Exchange
from heap_agent._view.device import InForce
from heap_agent._view.visualizer import Pairing, Visualizer
from heap_agent.exceptions import InvalidCall

__all__ = ["AgentDevice", "InForce", "Pairing", "Pairings"]

_log = logging.getLogger("heap_agent.visualizer")

#: What may be asked for in another process's words.
_ARGUMENTS: Final = frozenset({"bind", "port", "timeout"})


class AgentDevice:
    """
    A running agent, as a `Device`.

    Args:
        store, outbox: Its halves.
        status, in_force, mended: As for `Device`.
    """

    can_retry = True

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        *,
        status: Callable[[], Mapping[str, Any]],
        in_force: Callable[[], InForce],
        mended: Callable[[str], Sequence[str]],
    ) -> None:
        self.directory: Path | None = store.directory
        self.boot_id = store.clock.boot_id
        self._store = store
        self._outbox = outbox
        self.status = status
        self.in_force = in_force
        self.mended = mended

    def __repr__(self) -> str:
        return f"<AgentDevice {self._store!r}>"

    def clocks(self) -> tuple[int, int]:
        """Wall clock and boot clock, µs."""
        return self._store.now()

    def hour(self) -> Hour:
        """As far as this process has seen it."""
        return self._store.hour

    def sending(self) -> Collection[int]:
        """Ids of the rows that this process is sending."""
        return self._outbox.drain.in_flight

    def retry(self, rows: Sequence[int]) -> int:
        """Put dead letters back into the queue, here or in the process that delivers."""
        restored = dead.order(self._store, dead.RETRY, list(rows), own=False)
        if self._store.ledger is not None:
            self._outbox.wake()
        return restored

    def tap(self, watch: Callable[[Exchange], None]) -> None:
        """Have the sender tell of each request."""
        self._outbox.drain.watch = watch

    def untap(self, watch: Callable[[Exchange], None]) -> None:
        """Have it tell this one no more."""
        drain = self._outbox.drain
        if drain.watch == watch:
            drain.watch = None


class Pairings:
    """
    Pairings of one agent, one at a time. Thread-safe.

    Args:
        device: The agent.
        gesture_allowed: Whether anybody but the program itself may start one.
    """

    def __init__(self, device: AgentDevice, gesture_allowed: Callable[[], bool]) -> None:
        self._visualizer = Visualizer(device)
        self._gesture_allowed = gesture_allowed

    def __repr__(self) -> str:
        return f"<Pairings [{self._visualizer!r}]>"

    def start(self, bind: object, port: object, timeout: float | timedelta) -> Pairing:
        """
        As `Agent.start_ev_pairing`.
        """
        address, number = check_bind(bind), check_port(port)
        pairing = self._visualizer.start(address, number, duration("timeout", timeout, zero=False))
        if not ipaddress.ip_address(address).is_loopback:
            _log.warning(
                "the Event Visualizer listens on %s, not only on this machine, and is not "
                "encrypted: use it on networks that you trust",
                address,
            )
        # A device without a screen has nothing but its log to show the code in.
        _log.warning(
            "Event Visualizer: open %s and enter the code %s, until %s",
            pairing.url,
            pairing.code,
            pairing.expires.astimezone().isoformat(" ", "seconds"),
        )
        return pairing

    def stop(self) -> None:
        """
        End the pairing, if there is one.
        """
        self._visualizer.stop()

    def close(self) -> None:
        """
        End the pairing, and let none begin any more. Nobody waits for the page.
        """
        self._visualizer.close()

    def on_request(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Another process of the same user asks for a pairing.

        Returns:
            URL, code and end of the pairing, or why there is none.
        """
        if not self._gesture_allowed():
            return {"error": "the program has disabled pairing from outside"}
        try:
            options = {name: arguments[name] for name in _ARGUMENTS & arguments.keys()}
            pairing = self.start(**{**DEFAULTS, **options})
        except (InvalidCall, OSError) as error:
            return {"error": str(error)}
        return {
            "url": pairing.url,
            "code": pairing.code,
            "expires": pairing.expires.isoformat(),
        }

    def on_signal(self) -> None:
        """
        Somebody has sent the signal that the program asked for.
        """
        if not self._gesture_allowed():
            _log.warning("a signal asked for a pairing, which the program has disabled")
            return
        try:
            self.start(**DEFAULTS)
        except OSError as error:
            _log.error("no pairing: %s", error)


#: What is in force unless somebody says otherwise.
DEFAULTS: Final[Mapping[str, Any]] = {"bind": "127.0.0.1", "port": 0, "timeout": 900.0}


def check_bind(value: object) -> str:
    """
    An address to listen on.

    Raises:
        InvalidCall: Anything else.
    """
    try:
        if isinstance(value, str):
            return "127.0.0.1" if value == "localhost" else str(ipaddress.ip_address(value))
    except ValueError:
        pass
    raise InvalidCall(
        f"bind must be an IP address of this machine, such as 127.0.0.1, got {str(value)[:48]!r}"
    )


def check_port(value: object) -> int:
    """
    A port, 0 for a free one.

    Raises:
        InvalidCall: Anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65_535:
        return value
    raise InvalidCall(f"port must be a whole number from 0 to 65535, got {str(value)[:48]!r}")

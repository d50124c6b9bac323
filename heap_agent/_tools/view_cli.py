"""
Commands that show the events of this device as they happen: ``pair``, ``view``, ``live``.

This module must not know how events are found, or shown: it reads what was typed, asks,
and prints.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from heap_agent._options import DURATION_MAXIMUM
from heap_agent._tools.common import APP_ID, AS_JSON, Seconds, Text, fail, print_json
from heap_agent._tools.guest import DIRECTORY, existing, guest, load

if TYPE_CHECKING:
    from heap_agent._tools.onlooker import Onlooker
    from heap_agent._view.visualizer import Pairing

__all__ = ["COMMANDS"]

#: Seconds that a running agent has to answer: it looks once a second.
_PATIENCE: Final = 10.0

#: Seconds between two looks whether a page is still there.
_PAUSE: Final = 0.2


class _Address(Text):
    """
    An IP address of this machine.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return "127.0.0.1" if value == "localhost" else str(ipaddress.ip_address(value))
        except ValueError:
            self.fail(f"{value!r} is no IP address.", param, ctx)


_BIND: Final = click.option(
    "--bind",
    type=_Address(),
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; others than this machine's own can be reached from outside.",
)
_PORT: Final = click.option(
    "--port", default=0, type=click.IntRange(0, 65_535), help="By default a free one."
)
_TIMEOUT: Final = click.option(
    "--timeout",
    type=Seconds(1, DURATION_MAXIMUM),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="The page is gone after that.",
)


@click.command()
@click.option("--stop", is_flag=True, help="End a pairing instead.")
@_BIND
@_PORT
@_TIMEOUT
@DIRECTORY
@APP_ID
@AS_JSON
def pair(stop: bool, bind: str, port: int, timeout: float, as_json: bool, **place: Any) -> int:
    """
    Have the agent that is running start the Event Visualizer.

    A page on which one browser can watch the events of the device, where each
    stands, and how delivery goes. It asks for the code that is printed here. By
    default it can be reached from this machine only; from another one through
    ssh -L PORT:127.0.0.1:PORT.

    \b
    --json: url, code, expires (ISO 8601), directory; with --stop only directory.
    """
    from heap_agent._agent import PAIR, UNPAIR

    loaded = load(place)
    directory = existing(loaded)
    arguments = {} if stop else {"bind": bind, "port": port, "timeout": timeout}
    with guest(place, nameless=True) as agent:
        # Whoever asks is of the same user, or could not write here.
        if agent._store.directory is None:
            fail(agent.status().problems[-1])
        if agent._store.owner_is_gone():
            fail(f"no agent is running on {directory}; heap-agent view shows it without one")
        answer = agent._store.ask(UNPAIR if stop else PAIR, arguments, _PATIENCE)
    if answer is None:
        fail(f"the agent that is running has not answered within {_PATIENCE:.0f} s")
    if "error" in answer:
        fail(answer["error"])
    if as_json:
        print_json({**answer, "directory": str(directory)})
    elif stop:
        click.echo("no page is served any more")
    else:
        from heap_agent._view.visualizer import Pairing

        expires = datetime.fromisoformat(answer["expires"])
        _show(Pairing(answer["url"], answer["code"], expires))
    return 0


@click.command()
@_BIND
@_PORT
@_TIMEOUT
@click.option(
    "--browser/--no-browser",
    default=None,
    help="Open this machine's browser; by default where there is a screen and a terminal.",
)
@DIRECTORY
@APP_ID
@AS_JSON
def view(
    bind: str, port: int, timeout: float, browser: bool | None, as_json: bool, **place: Any
) -> int:
    """
    Show a state directory as a page, with or without an agent that is running.

    Nothing is written: dead letters cannot be sent again from here, and what Heap has
    answered cannot be seen. Until Ctrl-C.

    \b
    --json: url, code, expires (ISO 8601), directory; one line, when the page is there.
    """
    from heap_agent._view.visualizer import Visualizer

    device = _device(place)
    visualizer = Visualizer(device)
    try:
        pairing = visualizer.start(bind, port, timeout)
    except OSError as error:
        fail(f"{bind}:{port} cannot be listened on: {error.strerror or error}")
    try:
        if as_json:
            expires = pairing.expires.isoformat()
            fields = {"url": pairing.url, "code": pairing.code, "expires": expires}
            print_json({**fields, "directory": str(device.directory)})
            sys.stdout.flush()
        else:
            _show(pairing)
        if browser or (browser is None and not as_json and _has_screen()):
            click.launch(pairing.url)
        while visualizer.running:
            time.sleep(_PAUSE)
    finally:
        visualizer.stop()
    return 0


@click.command()
@click.option(
    "--filter", "wanted", metavar="TEXT", help="Only what has this in its name, user or properties."
)
@click.option(
    "--count", type=click.IntRange(1), metavar="N", help="End after so many events or changes."
)
@click.option(
    "--timeout",
    type=Seconds(0, DURATION_MAXIMUM),
    metavar="SECONDS",
    help="End after this long.",
)
@DIRECTORY
@APP_ID
@AS_JSON
def live(
    wanted: str | None, count: int | None, timeout: float | None, as_json: bool, **place: Any
) -> int:
    """
    Show events as they are recorded, as a table, and where each stands.

    Beside an agent that is running, or without one; nothing is written. The last ones
    are shown first. Until Ctrl-C. Without a terminal a line is printed for each event,
    and for each change of where one stands.

    \b
    --json: a line for each of those: n, kind, name, app_id, user_id, identity,
    session, time (ISO 8601), recorded (ms since 1970), properties, cut (whether only
    the beginning of them is there), bytes, mended, moved (seconds, or null), given,
    place (journal, queue, sent, dead or gone), answer (of a dead letter, or null).
    """
    from heap_agent._tools import live as stream

    device = _device(place)
    stream.show(device, wanted=wanted, count=count, timeout=timeout, as_json=as_json)
    return 0


COMMANDS: Final[tuple[click.Command, ...]] = (pair, view, live)


def _device(place: dict[str, Any]) -> Onlooker:
    from heap_agent._tools.onlooker import Onlooker

    loaded = load(place)
    return Onlooker(existing(loaded), loaded.config, tuple(loaded.problems))


def _show(pairing: Pairing) -> None:
    from heap_agent._tools import tables

    tables.show_pairing(pairing)


def _has_screen() -> bool:
    """Whether a browser would open a window, and not take over the terminal."""
    if not sys.stdout.isatty():
        return False
    has_display = bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    return sys.platform in ("win32", "darwin") or has_display

"""
``heap-agent live``: what is recorded on a device, on a terminal, as it happens.

This module must not know where the events come from.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from heap_agent._tools.common import drawn, one_line, print_json
from heap_agent._tools.health import duration
from heap_agent._view.device import Device
from heap_agent._view.watch import LOOK, Watch

__all__ = ["show"]

#: Lines of the terminal that are not events: what stands above and below them.
_FRAME: Final = 8

#: Where something stands: how it is shown, and in which colour.
_PLACES: Final = {
    "journal": ("• journal", "cyan"),
    "queue": ("◦ waits", "yellow"),
    "sending": ("→ sending", "yellow"),
    "sent": ("✓ sent", "green"),
    "dead": ("✗ refused", "bold red"),
    "gone": ("– gone", "dim"),
}


def show(
    device: Device,
    *,
    wanted: str | None,
    count: int | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """
    Print what a device records, until the end of time, of a count, or Ctrl-C.

    Args:
        device: What is watched.
        wanted: Only items that have this somewhere; None: all.
        count: End after so many.
        timeout: End after so many seconds.
        as_json: A line of JSON for each.
    """
    watch = Watch(device)
    news = _news(watch, wanted, count, timeout)
    if as_json:
        for items in news:
            for item in items:
                print_json(item)
            sys.stdout.flush()
    elif not sys.stdout.isatty():
        for items in news:
            for item in items:
                click.echo(_line(item, watch.scene))
            sys.stdout.flush()
    else:
        _show_table(watch, news)


def _news(
    watch: Watch, wanted: str | None, count: int | None, timeout: float | None
) -> Iterator[list[dict[str, Any]]]:
    """Items that are new or stand elsewhere, look by look."""
    until = None if timeout is None else time.monotonic() + timeout
    since, left = 0, count
    while True:
        watch.look()
        answer = watch.feed.news(since)
        since = answer["version"]
        items = [item for item in answer["items"] if _matches(item, wanted)][:left]
        yield items
        if left is not None:
            left -= len(items)
        if left == 0 or (until is not None and time.monotonic() >= until):
            return
        if since == watch.feed.version:
            time.sleep(LOOK)


def _matches(item: Mapping[str, Any], wanted: str | None) -> bool:
    if wanted is None:
        return True
    parts = [item[name] for name in ("name", "user_id", "identity", "session")]
    for key, value in item["properties"].items():
        parts += [key, value]
    return any(wanted.casefold() in str(part).casefold() for part in parts if part is not None)


def _line(item: Mapping[str, Any], scene: Mapping[str, Any]) -> str:
    place, _ = _PLACES[item["place"]]
    head = f"{_time(item)}  {drawn(place):<10}{_marks(item):<3}{_name(item)}"
    return f"{head}  {_who(item)}  {_shown(item, scene)}"


# -- a terminal ---------------------------------------------------------------------


def _show_table(watch: Watch, news: Iterator[list[dict[str, Any]]]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    rows: deque[dict[str, Any]] = deque(maxlen=500)
    shown = -1
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
        for items in news:
            known = {row["n"]: index for index, row in enumerate(rows)}
            for item in items:
                if item["n"] in known:
                    rows[known[item["n"]]] = item
            fresh = [item for item in items if item["n"] not in known]
            rows.extend(fresh)
            # Nothing is sent over a thin line that is there already.
            if shown != watch.feed.version:
                shown = watch.feed.version
                screen.update(_screen(watch, rows, console.height), refresh=True)


def _screen(watch: Watch, rows: deque[dict[str, Any]], height: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold dim")
    table.add_column("time", no_wrap=True, min_width=12)
    table.add_column("event", no_wrap=True, ratio=3, overflow="ellipsis")
    table.add_column("who", no_wrap=True, ratio=2, overflow="ellipsis")
    table.add_column("session", no_wrap=True, width=7)
    table.add_column("", no_wrap=True, width=2)
    table.add_column("properties", no_wrap=True, ratio=5, overflow="ellipsis")
    table.add_column("where", no_wrap=True, width=10)
    for item in list(rows)[-max(1, height - _FRAME) :]:
        place, style = _PLACES[item["place"]]
        table.add_row(
            Text(_time(item), "dim"),
            Text(_name(item), "bold"),
            Text(_who(item)),
            Text(str(item["session"] or "")[-6:], "dim"),
            Text(_marks(item), "magenta"),
            Text(_shown(item, watch.scene), "dim"),
            Text(place, style),
        )
    if not rows:
        return Group(*_head(watch.scene), Text("\nNothing was recorded yet.", "dim"))
    return Group(*_head(watch.scene), Text(""), table)


def _head(scene: Mapping[str, Any]) -> list[RenderableType]:
    status = scene["status"]
    books = (
        f"recorded {status['recorded']:,} = queued {status['queued']:,} + delivered "
        f"{status['delivered']:,} + dead {status['dead']:,} + dropped {status['dropped']:,}"
    )
    return [Text(one_line(str(status["directory"])), "bold"), Text(books), _delivery(status)]


def _delivery(status: Mapping[str, Any]) -> Text:
    if status["problems"]:
        return Text(one_line("; ".join(status["problems"])), "bold red")
    if status["opted_out"]:
        return Text("opted out: nothing is recorded or sent", "bold red")
    if status["paused"]:
        return Text("delivery is paused", "bold yellow")
    if status["last_error"]:
        return Text(one_line(f"cannot deliver: {status['last_error']}"), "bold red")
    if status["queued"]:
        return Text(f"{status['queued']:,} wait, the oldest for {_age(status)}", "yellow")
    return Text("everything is delivered", "green")


def _age(status: Mapping[str, Any]) -> str:
    age = status["oldest_age"]
    return "a moment" if age is None else duration(age)


# -- parts --------------------------------------------------------------------------


def _time(item: Mapping[str, Any]) -> str:
    try:
        moment = datetime.fromisoformat(item["time"]).astimezone()
    except ValueError:
        moment = datetime.fromtimestamp(item["recorded"] / 1000).astimezone()
    return moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def _name(item: Mapping[str, Any]) -> str:
    return one_line(item["name"] or item["kind"].replace("_", " "))


def _who(item: Mapping[str, Any]) -> str:
    identity = item["identity"]
    return one_line(str(identity)) if identity is not None else f"anonymous {item['user_id']}"


def _marks(item: Mapping[str, Any]) -> str:
    return "~" * bool(item["mended"]) + "t" * (item["moved"] is not None)


def _shown(item: Mapping[str, Any], scene: Mapping[str, Any]) -> str:
    # Its own first: those that are on every event say nothing about this one.
    everywhere = {**scene["properties"]["device"], **scene["properties"]["event"]}
    properties = dict(
        sorted(item["properties"].items(), key=lambda pair: pair in everywhere.items())
    )
    pairs = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in properties.items())
    return one_line(" ".join(pairs)) + " …" * bool(item["cut"])

"""
What people see on a terminal: the books, a status, the demo's report and progress, where
a page is.

Only this module, `live` and `bulk_progress` import rich. It must not know where its
numbers come from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from heap_agent._status import Status
from heap_agent._tools.common import drawn, is_there, one_line
from heap_agent._tools.health import Health, duration

if TYPE_CHECKING:
    from pathlib import Path

    from heap_agent._config import Row
    from heap_agent._tools.demo import Result
    from heap_agent._tools.doctor import Finding
    from heap_agent._view.visualizer import Pairing

__all__ = [
    "Bars",
    "bars",
    "show_dead",
    "show_demo",
    "show_findings",
    "show_health",
    "show_options",
    "show_pairing",
    "show_paths",
]

_BAD: Final = "bold red"
_GOOD: Final = "green"
_DIM: Final = "dim"

#: Columns that the books take.
_NARROWEST: Final = 72


def show_health(health: Health) -> None:
    """
    Print how a state directory is.
    """
    status = health.status
    _print(
        _facts({"directory": status.directory, "app id": status.app_id, "delivery": _who(health)}),
        _books(status),
        _facts(
            {
                "oldest event": _ago(status.oldest_age, " old"),
                "pace": _pace(status.drain_eta),
                "last delivery": _moment(status.last_delivery),
                "last error": status.last_error,
                "failing since": _moment(status.failing_since),
                "next attempt": f"in {duration(status.next_attempt)}"
                if status.next_attempt and health.running
                else None,
                "dropped": _by(status.dropped_by),
                "repaired": _by(status.repaired_by),
                "refused calls": status.refused or None,
                "disk": f"{status.bytes / 1e6:,.1f} MB"
                if status.bytes >= 1e6
                else f"{status.bytes / 1e3:,.0f} KB",
            }
        ),
        *(Text(f"  ! {complaint}", _BAD) for complaint in health.complaints),
    )


def show_demo(result: Result) -> None:
    """
    Print what the demo did and found.
    """
    steps = Table.grid(padding=(0, 1))
    for number, step in enumerate(result.story, 1):
        steps.add_row(Text(f"  {number}", _DIM), Text(step))
    rows = Table.grid(padding=(0, 2))
    rows.add_column()
    rows.add_column(justify="right")
    rows.add_column()
    for text, number, bad, remark in result.comparison:
        style = "" if not bad else _BAD if number else _GOOD
        rows.add_row(f"  {text}", Text(f"{number:,}", style), Text(remark, _DIM))
    verdict = Text("  " + result.verdict, "bold green" if result.good else _BAD)
    _print(
        Text("What happened", "bold"),
        steps,
        Text("\nWhat the agent says", "bold"),
        _books(result.status),
        Text("What was seen from outside", "bold"),
        rows,
        Text(""),
        verdict,
        *(Text(f"  ! {problem}", _BAD) for problem in result.problems),
        *([Text(f"  The directory is kept: {result.directory}")] if result.directory else []),
    )


def show_dead(letters: Sequence[Mapping[str, Any]], total: int) -> None:
    """
    Print dead letters, a row each.
    """
    if not letters:
        _print(Text("Heap has refused nothing.", _GOOD))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("refused", no_wrap=True)
    table.add_column("event", overflow="ellipsis", no_wrap=True, max_width=40)
    table.add_column("who", overflow="ellipsis", no_wrap=True, max_width=24)
    table.add_column("answer", overflow="fold")
    for letter in letters:
        who = letter["identity"] or f"anonymous {letter['user_id'] or ''}"
        table.add_row(
            str(letter["id"]),
            Text(datetime.fromisoformat(letter["died"]).astimezone().isoformat(" ", "seconds")),
            Text(one_line(str(letter["event"] or letter["kind"])), "bold"),
            Text(one_line(who)),
            Text(one_line(str(letter["reason"])), _BAD),
        )
    _print(table, Text(f"\n{len(letters):,} of {total:,} dead letters", _DIM))


def show_options(rows: Iterable[Row], problems: Sequence[str]) -> None:
    """
    Print options with their values; those that somebody has set stand out.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("option", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    table.add_column("", overflow="fold", style=_DIM)
    for row in rows:
        style = "" if row.source == "default" else "bold"
        value = f"{row.value} {row.unit}".rstrip()
        texts = (row.name, value, row.source, row.help)
        table.add_row(*(Text(one_line(text), style) for text in texts[:3]), Text(texts[3]))
    _print(table, *(Text(f"  ! {one_line(problem)}", _BAD) for problem in problems))


def show_paths(places: Iterable[tuple[str, Path]]) -> None:
    """
    Print where things are, or would be.
    """
    words = {True: ("there", _GOOD), False: ("not there", _DIM), None: ("not known", "yellow")}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for name, path in places:
        word, style = words[is_there(path)]
        table.add_row(Text(f"  {name}", _DIM), Text(one_line(str(path))), Text(word, style))
    _print(table)


def show_findings(findings: Iterable[Finding]) -> None:
    """
    Print what was found about each thing.
    """
    signs = {"good": ("✓", _GOOD), "warning": ("!", "yellow"), "bad": ("✗", _BAD)}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        sign, style = signs.get(finding.verdict, ("–", _DIM))
        text = Text(one_line(finding.text), style if finding.verdict == "bad" else "")
        table.add_row(Text(f"  {drawn(sign)}", style), Text(finding.about, "bold"), text)
    _print(table)


def show_pairing(pairing: Pairing) -> None:
    """
    Print where a page is, and what it asks for.
    """
    # In its own colours: not every reader takes light squares on a dark ground.
    code = Text(pairing.qr(), "bright_white on black")
    _print(
        Padding(code, (1, 0, 1, 2), expand=False),
        _facts(
            {
                "open": pairing.url,
                "code": pairing.code,
                "until": pairing.expires.astimezone().isoformat(" ", "seconds"),
            }
        ),
    )


# -- progress ----------------------------------------------------------------------


class Bars:
    """
    One bar for each phase of some long work; says nothing without a terminal.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, total: int) -> None:
        """
        Start the next bar; the one before is complete.
        """
        if self._progress is not None:
            self.done()
            self._task = self._progress.add_task(what, total=total)

    def at(self, number: int) -> None:
        """
        Move the present bar.
        """
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=number)

    def done(self) -> None:
        """
        Complete the present bar, wherever it stands.
        """
        if self._progress is not None and self._task is not None:
            task = next(one for one in self._progress.tasks if one.id == self._task)
            self._progress.update(self._task, total=task.completed or 1)


@contextmanager
def bars() -> Iterator[Bars]:
    """
    Bars on standard error, gone at the end; silent where that is no terminal.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield Bars(None)
        return
    columns = (TextColumn("  {task.description:<32}"), BarColumn(28), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)


# -- parts -------------------------------------------------------------------------


def _print(*parts: RenderableType) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    # In less, columns would vanish; a terminal that is smaller breaks lines itself.
    console.width = max(console.width, _NARROWEST)
    console.print(Group(*parts))


def _books(status: Status) -> RenderableType:
    """The equation: a line of names over a line of numbers."""
    table = Table.grid(padding=(0, 2))
    names, numbers = [], []
    for sign, name, bad in (
        ("", "recorded", False),
        ("=", "queued", False),
        ("+", "delivered", False),
        ("+", "dead", True),
        ("+", "dropped", True),
    ):
        number = int(getattr(status, name))
        if sign:
            table.add_column()
            names.append(Text(sign, _DIM))
            numbers.append(Text(sign, _DIM))
        table.add_column(justify="right", min_width=9)
        names.append(Text(name, "bold"))
        numbers.append(Text(f"{number:,}", _BAD if bad and number else ""))
    table.add_row(*names)
    table.add_row(*numbers)
    return Padding(table, (1, 0, 1, 2), expand=False)


def _facts(facts: Mapping[str, object]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=15, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(f"  {name}", _DIM), Text(str(value)))
    return table


def _who(health: Health) -> str:
    words: Iterable[str] = (
        {True: "an agent is running", False: "no agent is running", None: "not known"}[
            health.running
        ],
        "opted out" if health.status.opted_out else "",
        "paused" if health.status.paused else "",
    )
    return ", ".join(filter(None, words))


def _by(numbers: Mapping[str, int]) -> str | None:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items()) or None


def _pace(seconds: float | None) -> str | None:
    # Below, the budgets do not matter.
    if seconds is None or seconds < 1:
        return None
    return f"about {duration(seconds)} to deliver all, by the budgets"


def _ago(seconds: float | None, suffix: str) -> str | None:
    return None if seconds is None else duration(seconds) + suffix


def _moment(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    age = (datetime.now(timezone.utc) - moment).total_seconds()
    when = moment.astimezone().isoformat(" ", "seconds")
    return f"{when} ({duration(max(0.0, age))} ago)"

"""
The progress of a bulk job on a terminal; silence where there is none.

This module must not know what the rows are for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from heap_agent._tools.bulk_source import Source

__all__ = ["Meter", "meter", "spinner"]


class Meter:
    """
    Shows how many rows are settled and how much of the source is read.

    Args:
        progress: Where it is shown; None for nowhere.
        source: What is read.
        what: What is being done, in a word or two.
    """

    def __init__(self, progress: Progress | None, source: Source, what: str) -> None:
        self._progress = progress
        self._source = source
        self._first: int | None = None
        if progress is not None:
            self._task = progress.add_task(what, total=source.size, rows=0, rejected=0, sent=0)

    def at(self, rows: int, rejected: int) -> None:
        """
        So many rows are settled, and so many of them were rejected.
        """
        if self._progress is None:
            return
        if self._first is None:
            self._first = rows
        self._progress.update(
            self._task,
            completed=self._source.position,
            rows=rows,
            rejected=rejected,
            sent=rows - self._first,
        )


@contextmanager
def meter(source: Source, what: str) -> Iterator[Meter]:
    """
    A bar on standard error by bytes read, or a spinner where their number is not
    known; gone at the end.
    """
    if not _has_terminal():
        yield Meter(None, source, what)
        return
    known = (BarColumn(24), TaskProgressColumn(), TimeRemainingColumn(compact=True))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *(known if source.size else (TimeElapsedColumn(),)),
        _Rows(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Meter(progress, source, what)


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """
    Something that turns while there is nothing to count.
    """
    if not _has_terminal():
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        yield


class _Rows(ProgressColumn):
    """Rows, their rate, and how many were rejected."""

    def render(self, task: Task) -> Text:
        fields = task.fields
        text = Text(f"{fields['rows']:,} rows")
        if task.elapsed and fields["sent"]:
            text.append(f", {fields['sent'] / task.elapsed:,.0f}/s", "dim")
        if fields["rejected"]:
            text.append(f", {fields['rejected']:,} rejected", "red")
        return text


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()

"""
Pictures of results, as SVG: the same bytes for the same figures, and legible on
a light page as on a dark one.

Only this module knows matplotlib. It must not know how anything was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.tables import Row, shown

#: Of this package, of what it is compared with, and of text: each on black and on white.
OURS, OTHERS, YARDSTICKS, TEXT = "#1f9e89", "#8a93a0", "#c98a1b", "#7d8590"
#: Lines of a picture that has more than two.
LINES = (OURS, YARDSTICKS, "#6f7ee0", "#d1607f", "#5aa02c", "#a874d1")

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "heap_agent",
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": TEXT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}


def latency(rows: Sequence[Row], path: Path, *, ours: str, yardsticks: Sequence[str] = ()) -> None:
    """
    Median and p99 of each row, in bars from the fastest to the slowest.

    Args:
        rows: With `median µs` and `p99 µs`.
        path: Of the picture.
        ours: Name of the row that is this package's.
        yardsticks: Names of rows that are nobody's client.
    """
    ordered = sorted(rows, key=lambda row: _number(row["median µs"]), reverse=True)
    names = [_name(row) for row in ordered]
    medians = [_number(row["median µs"]) for row in ordered]
    tails = [_number(row["p99 µs"]) for row in ordered]
    colours = [
        OURS if name == ours else YARDSTICKS if name in yardsticks else OTHERS for name in names
    ]
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _figure(1, height=0.5 + 0.27 * len(rows))
        axes.set_xscale("log")
        axes.set_xlim(1, max(tails) * 2.2)
        axes.barh(names, tails, height=0.66, color=colours, alpha=0.35)
        axes.barh(names, medians, height=0.66, color=colours)
        for place, (median, tail) in enumerate(zip(medians, tails, strict=True)):
            axes.text(tail * 1.08, place, f"{shown(median)} / {shown(tail)}", va="center")
        axes.set_xlabel("µs for one call, logarithmic: median (full) and p99 (pale)")
        _plain(axes, "x")
        axes.tick_params(axis="y", length=0)
        _emphasise(axes, names, ours)
        _save(figure, path)


def amounts(rows: Sequence[Row], path: Path, *, ours: str, columns: Sequence[str]) -> None:
    """
    Columns side by side, in bars: the rows in the order of the first.

    Args:
        rows: With those columns.
        path: Of the picture.
        ours: Name of the row that is this package's.
        columns: What each panel shows.
    """
    ordered = sorted(rows, key=lambda row: _number(row[columns[0]]))
    names = [_name(row) for row in ordered]
    colours = [OURS if name == ours else OTHERS for name in names]
    with matplotlib.rc_context(STYLE):
        figure, panels = _figure(len(columns), height=0.6 + 0.27 * len(rows))
        for axes, column in zip(panels, columns, strict=True):
            values = [_number(row[column]) for row in ordered]
            axes.barh(names, values, height=0.66, color=colours)
            axes.set_xlim(0, max(values) * 1.22)
            for place, value in enumerate(values):
                axes.text(value + max(values) * 0.015, place, shown(value), va="center")
            axes.set_title(column)
            axes.xaxis.set_major_locator(NullLocator())
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        _emphasise(panels[0], names, ours)
        _save(figure, path)


def against(
    rows: Sequence[Row],
    path: Path,
    *,
    across: str,
    columns: Mapping[str, str],
    apart: str | None = None,
    by: str | None = None,
    logarithmic: bool = False,
) -> None:
    """
    Lines of µs against a column of counts, which stand side by side.

    Args:
        rows: In the order of the counts.
        path: Of the picture.
        across: The column of counts.
        columns: Columns to draw, each with the style of its line.
        apart: A column whose values have a panel each.
        by: A column whose values have a line each.
        logarithmic: Whether the µs are.
    """
    groups = _values(rows, apart)
    kinds = _values(rows, by)
    counts = sorted({_number(row[across]) for row in rows})
    with matplotlib.rc_context(STYLE):
        figure, panels = _figure(len(groups), height=3.1)
        for axes, group in zip(panels, groups, strict=True):
            axes.set_yscale("log" if logarithmic else "linear")
            for place, (kind, column) in enumerate(
                (kind, column) for kind in kinds for column in columns
            ):
                chosen = [row for row in rows if _is(row, apart, group) and _is(row, by, kind)]
                colour = LINES[(kinds.index(kind) if by else place) % len(LINES)]
                axes.plot(
                    [counts.index(_number(row[across])) for row in chosen],
                    [_number(row[column]) for row in chosen],
                    columns[column],
                    color=colour,
                    marker="o",
                    markersize=3.5,
                    label=", ".join([*([str(kind)] if by else []), column.split(" µs")[0]]),
                )
            axes.set_xticks(range(len(counts)), [_count(count) for count in counts])
            axes.set_xlabel(across)
            axes.set_title(str(group) if apart else "")
            _plain(axes, "y")
            if not logarithmic:
                axes.set_ylim(bottom=0)
        panels[0].set_ylabel("µs, logarithmic" if logarithmic else "µs")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if by else 6)
        _save(figure, path)


def over_time(
    minutes: Sequence[float],
    path: Path,
    *,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    limit: tuple[str, float],
    shaded: tuple[float, float],
) -> None:
    """
    Lines over minutes, in panels side by side.

    Args:
        minutes: Of the values.
        path: Of the picture.
        panels: Lines by the name of their panel.
        limit: Name and height of what the lines of the first panel stay below.
        shaded: The minutes of an outage.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 2.9), layout="constrained")
        made = figure.subplots(1, len(panels), squeeze=False)
        for axes, (title, lines) in zip(made[0], panels.items(), strict=True):
            for colour, (name, values) in zip(LINES, lines.items(), strict=False):
                axes.plot(minutes, values, color=colour, linewidth=1.2, label=name)
            axes.axvspan(*shaded, color=TEXT, alpha=0.15, linewidth=0)
            axes.set_title(title)
            axes.set_xlabel("minutes since the outage began")
            axes.set_ylim(bottom=0)
            _plain(axes, "y")
        first = made[0][0]
        first.axhline(limit[1], color=YARDSTICKS, linewidth=1, linestyle="--", label=limit[0])
        for axes in made[0]:
            axes.legend(loc="upper left", fontsize=7.5)
        _save(figure, path)


def _figure(panels: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7.4, height), layout="constrained")
    made = figure.subplots(1, panels, sharey=True, squeeze=False)
    return figure, list(made[0])


def _plain(axes: Axes, which: Any) -> None:
    """
    A logarithmic axis with numbers that people read, and lines to follow.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,g}" if value < 1 else f"{value:,.0f}")
    )
    axis.set_minor_locator(NullLocator())
    axes.grid(axis=which)
    axes.set_axisbelow(True)


def _emphasise(axes: Axes, names: Sequence[str], ours: str) -> None:
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        if name == ours:
            label.set_color(OURS)
            label.set_fontweight("bold")


def _save(figure: Figure, path: Path) -> None:
    # A date or a version would change the bytes.
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


def _name(row: Row) -> str:
    return str(next(iter(row.values())))


def _values(rows: Sequence[Row], column: str | None) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows)) if column else [None]


def _is(row: Row, column: str | None, value: object) -> bool:
    return column is None or row[column] == value


def _number(value: str | float | None) -> float:
    if isinstance(value, str) or value is None:
        raise TypeError(f"a picture needs a number, not {value!r}")
    return float(value)


def _count(count: float) -> str:
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"

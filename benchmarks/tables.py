"""
What a benchmark gives: rows, whose keys are the columns with their units.

This module must not know what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: The first member names what was measured. All rows of a table have the same keys.
Row = Mapping[str, str | float | None]


def text(rows: Sequence[Row]) -> str:
    """
    Rows for a terminal.
    """
    cells = [[*rows[0]], *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def markdown(rows: Sequence[Row]) -> str:
    """
    Rows for a document.
    """
    head = [*rows[0]]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += [[shown(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: str | float | None) -> str:
    """
    A cell: three digits that matter, whole numbers whole.
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"

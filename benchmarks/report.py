"""
``python -m benchmarks.report``: make `results/README.md` and its pictures from
the JSON files beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks import goals, results, tables
from benchmarks.__main__ import BENCHMARKS
from benchmarks.results import Result
from benchmarks.tables import Row

HEAD = """# Results

Made by `python -m benchmarks.report` from the JSON files beside this one; each table has the
command that writes its file. What is measured, and what it does not show, stands in
[../README.md](../README.md). The figures of one table come from one run, in which what is compared
took turns. Ratios carry over to other machines; times do so less.
"""

#: What is shown of a run without orjson.
WITHOUT = ("median µs", "p99 µs", "× floor")

AIMS = """## What is aimed at

Read from the tables below. What is not met is not left out.

"""


def main() -> None:
    """
    Write the page and its pictures.
    """
    found = results.load()
    drawn = draw(found, results.FOLDER)
    (results.FOLDER / "README.md").write_text(page(found, drawn), encoding="utf-8")


def page(found: Mapping[str, Result], drawn: Collection[str]) -> str:
    """
    The document.

    Args:
        found: Results by the names of their files.
        drawn: Those of them that have a picture.
    """
    places = {name: place for place, name in enumerate(BENCHMARKS)}
    ordered = sorted(
        found, key=lambda name: (places.get(found[name]["benchmark"], len(places)), name)
    )
    aims = goals.standing(found)
    summary = [AIMS + tables.markdown(aims) + "\n"] if aims else []
    sections = (
        _section(name, found[name], found.get(f"{name}-stdlib"), has_picture=name in drawn)
        for name in ordered
        if name.removesuffix("-stdlib") == name or name.removesuffix("-stdlib") not in found
    )
    return "\n".join([HEAD, *summary, *sections])


def _section(name: str, result: Result, without: Result | None, *, has_picture: bool) -> str:
    title = str(result["title"])
    if result["encoder"] != "orjson":
        title += ", without orjson"
    runs = [result] if without is None else [result, without]
    rows = result["rows"] if without is None else _beside(result["rows"], without["rows"])
    parts = [
        f"## {title[0].upper()}{title[1:]}",
        ", ".join(f"`{results.command(run)}`" for run in runs),
        *([f"![{title}]({name}.svg)"] if has_picture else []),
        tables.markdown(rows),
        *(f"{results.circumstances(run)}." for run in runs),
    ]
    return "\n\n".join(parts) + "\n"


def _beside(rows: Sequence[Row], without: Sequence[Row]) -> list[Row]:
    """
    Rows, and in each what the same row was in a run without orjson.
    """
    others = {next(iter(row.values())): row for row in without}
    return [
        {
            **row,
            **{
                f"{column} without orjson": others.get(next(iter(row.values())), {}).get(column)
                for column in WITHOUT
            },
        }
        for row in rows
    ]


def draw(found: Mapping[str, Result], folder: Path) -> set[str]:
    """
    Draw what there is a picture for.

    Returns:
        The names of the results that have one.
    """
    from benchmarks import hot_path, plots

    drawn = set()
    for name, result in found.items():
        if result["encoder"] != "orjson":
            continue
        rows, path = result["rows"], folder / f"{name}.svg"
        match result["benchmark"]:
            case "hot-path":
                once = [row for row in rows if row["what"] not in hot_path.VARIANTS]
                plots.latency(
                    once, path, ours=hot_path.OURS, yardsticks=[hot_path.FLOOR, hot_path.COMMIT]
                )
            case "live":
                plots.latency(rows, path, ours="heap_agent")
            case "delivery":
                plots.amounts(rows, path, ours="heap_agent", columns=["events/s", "CPU µs/event"])
            case "contention":
                plots.against(
                    rows,
                    path,
                    across="busy threads",
                    columns={"median µs": "--", "p99 µs": "-"},
                    apart="on",
                    by="what",
                    logarithmic=True,
                )
            case "backlog":
                timed = [column for column in rows[0] if " µs" in column]
                plots.against(counted(rows), path, across="rows", columns=dict.fromkeys(timed, "-"))
            case _:
                continue
        drawn.add(name)
    return drawn


def counted(rows: Sequence[Row]) -> list[Row]:
    """
    Rows whose column `rows` is a count, however it is written: others sum up.
    """
    numbers = [str(row["rows"]).replace(",", "") for row in rows]
    return [
        {**row, "rows": int(number)}
        for row, number in zip(rows, numbers, strict=True)
        if number.isdecimal()
    ]


if __name__ == "__main__":
    main()

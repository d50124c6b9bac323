"""
``python -m benchmarks.report``: make `results/README.md` and its pictures from
the JSON files beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks import results, tables
from benchmarks.__main__ import BENCHMARKS
from benchmarks.results import Result
from benchmarks.tables import Row

HEAD = """# Results

Made by `python -m benchmarks.report` from the JSON files beside this one; each table has the
command that writes its file. What is measured, and what it does not show, stands in
[../README.md](../README.md). The figures of one table come from one run, in which what is compared
took turns. Ratios carry over to other machines; times do so less.
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
    return "\n".join([HEAD, *(_section(name, found[name], name in drawn) for name in ordered)])


def _section(name: str, result: Result, has_picture: bool) -> str:
    title = str(result["title"])
    if result["encoder"] != "orjson":
        title += ", without orjson"
    parts = [
        f"## {title[0].upper()}{title[1:]}",
        f"`{results.command(result)}`",
        *([f"![{title}]({name}.svg)"] if has_picture else []),
        tables.markdown(result["rows"]),
        f"{results.circumstances(result)}.",
    ]
    return "\n\n".join(parts) + "\n"


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

"""Pictures: everything that is in a table, and the same bytes each time."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report, results
from benchmarks.tables import Row

pytest.importorskip("matplotlib", reason="pictures are for those who write the report")

LIVE: list[Row] = [
    {"client": "heap_agent", "median µs": 5.6, "p99 µs": 29.0},
    {"client": "somebody", "median µs": 13.3, "p99 µs": 1_067.0},
]
BACKLOG: list[Row] = [
    {"rows": "1,000", "put µs": 2.0, "ack µs/event": 3.0},
    {"rows": "10,000", "put µs": 2.1, "ack µs/event": 3.1},
    {"rows": "worst", "put µs": 1.05, "ack µs/event": 1.03},
]


def drawn(folder: Path) -> dict[str, bytes]:
    found = {
        name: results.of(name, f"{name}: a title", rows, compares=False)
        for name, rows in {"live": LIVE, "backlog": BACKLOG, "startup": LIVE}.items()
    }
    for result in found.values():
        results.save({**result, "encoder": "orjson"}, folder)
    names = report.draw(results.load(folder), folder)
    return {name: (folder / f"{name}.svg").read_bytes() for name in names}


def test_a_picture_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Nothing changes in a checkout when a report is made again of the same figures."""
    first = drawn(tmp_path)
    assert set(first) == {"live", "backlog"}
    assert drawn(tmp_path) == first


def test_a_picture_says_what_it_shows(tmp_path: Path) -> None:
    """Names and figures are text, for whoever searches or is read to."""
    pictures = drawn(tmp_path)
    live = "".join(ElementTree.fromstring(pictures["live"]).itertext())
    assert "heap_agent" in live and "13.3 / 1,067" in live
    backlog = "".join(ElementTree.fromstring(pictures["backlog"]).itertext())
    assert "put" in backlog and "ack" in backlog and "10k" in backlog

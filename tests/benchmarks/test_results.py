"""What is kept of a run, and the page that is made of it."""

from pathlib import Path

import pytest

from benchmarks import peers, report, results
from benchmarks.tables import Row

ROWS: list[Row] = [{"client": "heap_agent", "events/s": 17_000.0}]


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """A file a benchmark, under its name; a second run takes the place of the first."""
    first = results.of("delivery", "delivery: events", ROWS, compares=False)
    second = {**first, "rows": [{"client": "heap_agent", "events/s": 18_000.0}]}
    results.save(first, tmp_path)
    results.save(second, tmp_path)
    assert results.load(tmp_path) == {"delivery": second}


def test_a_run_without_orjson_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Both can be shown, each with the command that gives it."""
    result = {**results.of("hot-path", "hot path: one event", ROWS, compares=False)}
    for encoder in ("orjson", "json"):
        results.save({**result, "encoder": encoder}, tmp_path)

    found = results.load(tmp_path)
    assert [*found] == ["hot-path-stdlib", "hot-path"]
    assert results.command(found["hot-path"]) == "python -m benchmarks hot-path --save"
    assert (
        results.command(found["hot-path-stdlib"]) == "python -m benchmarks hot-path --stdlib --save"
    )


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison says who is missing; other benchmarks need not."""
    nobody = peers.Peer("nobody", "no-such-distribution", "nobody", peers.OURS.opener)
    monkeypatch.setattr(peers, "PEERS", (nobody,))

    compared = results.of("live", "live: calls", ROWS, compares=True)
    assert "not installed, so not measured: nobody" in results.circumstances(compared)
    alone = results.of("live", "live: calls", ROWS, compares=False)
    assert "nobody" not in results.circumstances(alone)


def test_the_page_has_each_table_with_its_command() -> None:
    """In the order of the benchmarks, with a picture where one was drawn."""
    kept = {
        name: results.of(name, f"{name}: a title", ROWS, compares=False)
        for name in ("delivery", "hot-path", "not-in-the-list")
    }
    page = report.page(kept, {"delivery"})

    order = [line for line in page.splitlines() if line.startswith("## ")]
    assert order == ["## Hot-path: a title", "## Delivery: a title", "## Not-in-the-list: a title"]
    assert "| heap_agent | 17,000 |" in page
    assert "`python -m benchmarks delivery --save`" in page
    assert "(delivery.svg)" in page and "(hot-path.svg)" not in page


def test_a_run_without_orjson_stands_beside_the_one_with_it() -> None:
    """Row by row, in columns of its own; alone it has a table of its own."""
    timed: list[Row] = [{"what": "track", "median µs": 4.0, "p99 µs": 9.0, "× floor": 2.5}]
    slower: list[Row] = [{"what": "track", "median µs": 8.0, "p99 µs": 19.0, "× floor": 1.25}]
    with_it = {**results.of("hot-path", "hot path", timed, compares=False), "encoder": "orjson"}
    without = {**results.of("hot-path", "hot path", slower, compares=False), "encoder": "json"}

    page = report.page({"hot-path": with_it, "hot-path-stdlib": without}, set())
    assert page.count("## Hot path") == 1
    assert "| track | 4.00 | 9.00 | 2.50 | 8.00 | 19.0 | 1.25 |" in page
    assert "--stdlib --save`" in page
    assert "## Hot path, without orjson" in report.page({"hot-path-stdlib": without}, set())


def test_a_row_that_sums_up_is_not_drawn() -> None:
    """Counts are read as people write them; what is no count is left to the table."""
    rows: list[Row] = [{"rows": "1,000", "put µs": 2.0}, {"rows": 10_000, "put µs": 2.1}]
    assert [row["rows"] for row in report.counted([*rows, {"rows": "worst", "put µs": 1.05}])] == [
        1_000,
        10_000,
    ]

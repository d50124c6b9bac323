"""Benchmarks for real, with counts so small that nothing can be read from the figures."""

import sys

import pytest

from benchmarks import backlog, delivery, disk, hot_path, join, live, peers, threads, watched
from benchmarks.calls import BURST, timed_for


def test_the_hot_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate has its turns, the one in another process too."""
    for name, value in {"CALLS": 3, "ROUNDS": 2, "WARM_UP": 1}.items():
        monkeypatch.setattr(hot_path, name, value)
    monkeypatch.setattr(peers, "PEERS", (peers.OURS,))
    rows = {row["what"]: row for row in hot_path.run()}

    assert rows[hot_path.FLOOR]["× floor"] == 1.0
    assert rows[hot_path.OURS]["calls"] == 6
    assert rows["heap_agent, enqueue only"]["floor"] == hot_path.OURS
    assert set(hot_path.VARIANTS) < set(rows)


def test_all_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has every event by the time that the flush has returned."""
    monkeypatch.setattr(delivery, "EVENTS", 50)
    monkeypatch.setattr(delivery, "REPEATS", 1)
    monkeypatch.setattr(peers, "PEERS", ())
    rows = delivery.run()
    assert [row["client"] for row in rows] == ["heap_agent", delivery.WARM]
    assert {(row["fewest arrived"], row["sent"]) for row in rows} == {(50, 50)}


def test_a_request_is_joined_checked_and_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three give the same events, which the benchmark itself asserts."""
    monkeypatch.setattr(join, "ROUNDS", 2)
    rows = {row["what"]: row for row in join.run()}
    assert rows[join.FLOOR]["× cheaper"] == 1.0
    assert {row["requests"] for row in rows.values()} == {2}


def test_backlogs_of_all_sizes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last row compares them."""
    for name, value in {"LARGEST": 10_000, "ROUNDS": 2, "WARM_UP": 0}.items():
        monkeypatch.setattr(backlog, name, value)
    *sizes, compared = backlog.run()
    assert [row["rows"] for row in sizes] == ["1,000", "10,000"]
    assert all(isinstance(value, float) and value >= 1 for value in [*compared.values()][1:])


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_what_is_written_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something for each event, and nothing where nothing is recorded."""
    for name, value in {"SECONDS": 0.5, "SLOW_SECONDS": 1.5, "COMMITS": 20, "AT_ONCE": 200}.items():
        monkeypatch.setattr(disk, name, value)
    try:
        rows = {str(row["what"]): row for row in disk.run()}
    except RuntimeError as error:
        pytest.skip(str(error))
    commits, at_once = (row["bytes/event"] for row in [*rows.values()][:2])
    assert isinstance(commits, float) and isinstance(at_once, float) and 0 < at_once < commits
    assert rows["agent, 100 events/s"]["events"] == 50
    assert rows["agent, nothing recorded"]["events"] == 0


def test_threads_record_all_of_the_events_once() -> None:
    """However many share them."""
    recorded: list[int] = []
    events = [{"seq": seq} for seq in range(100)]
    assert threads._rate(lambda name, event: recorded.append(event["seq"]), events, 8) > 0
    assert sorted(recorded) == list(range(100))


def test_calls_come_in_whole_bursts() -> None:
    """However short the time is, so that the first of each can be told from the others."""
    recorded: list[object] = []
    block = timed_for(
        0.01, lambda name, event: recorded.append(event), [{"seq": 1}, {"seq": 2}], pause=0.001
    )
    times = block()
    assert len(times) == len(recorded) > 0
    assert len(times) % BURST == 0


def test_first_calls_stand_apart() -> None:
    """A first call that is slow does not show in the figures of the others."""
    times = ([9_000] + [1_000] * (BURST - 1)) * 50
    row = live._row(peers.OURS, times, 3)
    assert (row["median µs"], row["p99.9 µs"]) == (1.0, 1.0)
    assert (row["first: median µs"], row["first: p99 µs"]) == (9.0, 9.0)
    assert (row["calls"], row["requests meanwhile"]) == (50 * BURST, 3)


def test_an_agent_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the four records, and is compared with the one that was never paired."""
    for name, value in {"SECONDS": 0.05, "ROUNDS": 1, "WARM_UP": 0}.items():
        monkeypatch.setattr(watched, name, value)
    rows = {row["what"]: row for row in watched.run()}
    assert [*rows] == [watched.NEVER, watched.ENDED, watched.WAITS, watched.WATCHED]
    assert all(int(str(row["calls"])) > 0 for row in rows.values())

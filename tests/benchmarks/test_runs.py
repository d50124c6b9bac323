"""Benchmarks for real, with counts so small that nothing can be read from the figures."""

import pytest

from benchmarks import delivery, hot_path, peers, threads


def test_the_hot_path_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate has its turns, the one in another process too."""
    for name, value in {"CALLS": 3, "ROUNDS": 2, "WARM_UP": 1}.items():
        monkeypatch.setattr(hot_path, name, value)
    monkeypatch.setattr(peers, "PEERS", (peers.OURS,))
    rows = {row["what"]: row for row in hot_path.run()}

    assert rows[hot_path.FLOOR]["× floor"] == 1.0
    assert rows[hot_path.OURS]["calls"] == 6
    assert rows["heap_agent, in memory"]["floor"] == hot_path.OURS
    assert set(hot_path.VARIANTS) < set(rows)


def test_all_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has every event by the time that the flush has returned."""
    monkeypatch.setattr(delivery, "EVENTS", 50)
    monkeypatch.setattr(delivery, "REPEATS", 1)
    monkeypatch.setattr(peers, "PEERS", ())
    (row,) = delivery.run()
    assert (row["client"], row["fewest arrived"], row["sent"]) == ("heap_agent", 50, 50)


def test_threads_record_all_of_the_events_once() -> None:
    """However many share them."""
    recorded: list[int] = []
    events = [{"seq": seq} for seq in range(100)]
    assert threads._rate(lambda name, event: recorded.append(event["seq"]), events, 8) > 0
    assert sorted(recorded) == list(range(100))

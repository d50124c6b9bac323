"""The commands about dead letters, as real processes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import Command
from helpers import eventually

from heap_agent import Agent
from heap_agent.testing import Collector


@contextmanager
def agent_on(place: Path, collector: Collector) -> Iterator[Agent]:
    """An agent that sends nothing unasked."""
    with Agent(
        "11", directory=place, endpoint=collector.url, interval=3600, at_exit=False
    ) as agent:
        yield agent


@pytest.fixture(name="refused")
def _refused(place: Path, collector: Collector) -> Path:
    """A directory with three dead letters and one event that waits."""
    with agent_on(place, collector) as agent:
        collector.reject_if(lambda item: "no good" if "Bad" in str(item) else None)
        agent.identify("alice")
        for number in range(3):
            agent.track(f"Bad {number}", {"n": number, "text": "\x1b[2J"})
        eventually(lambda: agent.flush(timeout=5) and agent.status().dead == 3)
        collector.reject_if(None)
    return place


def status(command: Command, place: Path) -> dict[str, Any]:
    """The books, which balance."""
    found = command("status", "--directory", place, "--json").json
    kept = found["queued"] + found["delivered"] + found["dead"] + found["dropped"]
    assert found["recorded"] == kept
    return found


def test_list(command: Command, refused: Path) -> None:
    """For programs, and for people; the newest last."""
    found = command("dead", "list", "--directory", refused, "--json").json
    assert (found["total"], found["directory"]) == (3, str(refused))
    assert [letter["event"] for letter in found["dead"]] == ["Bad 0", "Bad 1", "Bad 2"]
    first = found["dead"][0]
    assert (first["status"], first["identity"], first["kind"]) == (400, "alice", "event")
    assert "no good" in first["reason"] and first["died"].endswith("+00:00")
    newest = command("dead", "list", "--limit", 1, "--directory", refused, "--json").json
    assert [letter["event"] for letter in newest["dead"]] == ["Bad 2"]
    out = command("dead", "list", "--directory", refused).out
    assert "Bad 0" in out and "no good" in out and "3 of 3 dead letters" in out


def test_show(command: Command, refused: Path) -> None:
    """The JSON that was refused; it plays no tricks on a terminal."""
    ids = [
        letter["id"]
        for letter in command("dead", "list", "--directory", refused, "--json").json["dead"]
    ]
    found = command("dead", "show", ids[1], "--directory", refused, "--json").json
    assert found["event"]["properties"] == {"n": 1, "text": "\x1b[2J"}
    out = command("dead", "show", ids[1], "--directory", refused).out
    assert '"n": 1' in out and "\x1b" not in out
    missing = command("dead", "show", 999, "--directory", refused)
    assert missing.code == 1 and "no dead letter 999" in missing.sentence


def test_export(command: Command, refused: Path, tmp_path: Path) -> None:
    """A line each, for this user alone; nothing is overwritten."""
    file = tmp_path / "dead.jsonl"
    assert command("dead", "export", file, "--directory", refused, "--json").json["exported"] == 3
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["event"]["event"] for line in lines] == ["Bad 0", "Bad 1", "Bad 2"]
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = command("dead", "export", file, "--directory", refused)
    assert again.code == 1 and "is there already" in again.sentence
    assert command("dead", "export", "-", "--directory", refused).out == file.read_text()


def test_retry_without_an_agent(command: Command, refused: Path, collector: Collector) -> None:
    """They wait for the next one, and arrive under their keys."""
    result = command("dead", "retry", "--all", "--directory", refused, "--json")
    assert result.json == {"retried": 3, "directory": str(refused)}
    assert status(command, refused)["queued"] == 3
    flushed = command("flush", "--directory", refused, "--endpoint", collector.url, "--timeout", 30)
    assert flushed.code == 0
    assert sorted(event.event for event in collector.events()) == ["Bad 0", "Bad 1", "Bad 2"]
    assert status(command, refused)["dead"] == 0


def test_retry_beside_an_agent(command: Command, refused: Path, collector: Collector) -> None:
    """It puts them back, and delivers them."""
    with agent_on(refused, collector) as agent:
        ids = [
            letter["id"]
            for letter in command("dead", "list", "--directory", refused, "--json").json["dead"]
        ]
        assert command("dead", "retry", *ids[:2], "--directory", refused).out == "retried 2\n"
        assert agent.flush(timeout=30)
        assert agent.status().dead == 1
        again = command("dead", "retry", ids[0], "--directory", refused)
        assert again.code == 1 and "no dead letters" in again.sentence
    assert sorted(event.event for event in collector.events()) == ["Bad 0", "Bad 1"]


def test_drop(command: Command, refused: Path) -> None:
    """Not without being asked for; the books call them discarded."""
    unasked = command("dead", "drop", "--all", "--directory", refused)
    assert unasked.code == 2 and "--yes" in unasked.sentence
    assert status(command, refused)["dead"] == 3
    result = command("dead", "drop", "--all", "--yes", "--directory", refused, "--json")
    assert result.json["dropped"] == 3
    found = status(command, refused)
    assert (found["dead"], found["dropped_by"]) == (0, {"discarded": 3})
    out = command("dead", "list", "--directory", refused).out
    assert out.strip() == "Heap has refused nothing."


@pytest.mark.parametrize("name", ["retry", "drop"])
def test_an_id_beyond_all(command: Command, refused: Path, name: str) -> None:
    """A number that is too large for SQLite names none; what else was named is done."""
    known = command("dead", "list", "--directory", refused, "--json").json["dead"][0]["id"]
    more = ("--yes",) if name == "drop" else ()
    result = command("dead", name, known, 10**30, *more, "--directory", refused)
    assert result.code == 1 and result.out.endswith("1\n")
    assert "1 of them were no dead letters" in result.sentence
    assert status(command, refused)["dead"] == 2


@pytest.mark.parametrize("name", ["retry", "drop"])
@pytest.mark.parametrize("words", [(), ("1", "--all"), ("0",), ("x",)])
def test_which(command: Command, refused: Path, name: str, words: tuple[str, ...]) -> None:
    """Ids, or all of them."""
    more = ("--yes",) if name == "drop" else ()
    assert command("dead", name, *words, *more, "--directory", refused).code == 2
    assert status(command, refused)["dead"] == 3

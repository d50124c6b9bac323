"""The command that wipes a device, and what becomes of copies of one that was not wiped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from commands import Command
from helpers import balanced

from heap_agent import Agent
from heap_agent.testing import Collector


def agent_on(place: Path, collector: Collector, **options: Any) -> Agent:
    """An agent that sends nothing unasked."""
    chosen = {"endpoint": collector.url, "interval": 3600, "at_exit": False, **options}
    return Agent("11", directory=place, **chosen)


def test_a_device_is_sealed(command: Command, place: Path, collector: Collector) -> None:
    """It asks, waits for the agent to end, and leaves nothing."""
    with agent_on(place, collector, shutdown_timeout=0) as agent:
        agent.identify("alice")
        agent.track("Buy")
        running = command("seal", "--directory", place, "--yes")
        assert running.code == 1 and "stop it first" in running.sentence
    unasked = command("seal", "--directory", place)
    assert unasked.code == 2 and "--yes" in unasked.sentence
    assert (place / "queue-1.db").exists()
    result = command("seal", "--directory", place, "--yes", "--json")
    assert result.json["lost"] == 1 and result.json["sealed"] > 3
    assert list(place.iterdir()) == []
    again = command("seal", "--directory", place, "--yes")
    assert again.code == 1 and "is not a state directory" in again.sentence


def test_copies_of_a_sealed_device_are_strangers(
    command: Command, place: Path, tmp_path: Path, collector: Collector
) -> None:
    """Whatever machine they run on."""
    with agent_on(place, collector) as agent:
        agent.identify("alice")
        agent.track("Before")
        assert agent.flush(timeout=30)
    assert command("seal", "--directory", place, "--yes").code == 0
    users = set()
    for number in range(3):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(place, copy)
        with agent_on(copy, collector, machine_id="one and the same") as agent:
            assert agent.identity is None
            users.add(agent.user_id)
            agent.track("After")
            assert agent.flush(timeout=30)
            balanced(agent)
    assert len(users) == 3
    assert len(collector.events("After")) == 3


def test_copies_of_a_device_that_was_not_sealed(
    place: Path, tmp_path: Path, collector: Collector
) -> None:
    """On other machines other users begin, and what waited counts once at Heap."""
    with agent_on(place, collector, machine_id="golden", shutdown_timeout=0) as agent:
        agent.identify("alice")
        for number in range(5):
            agent.track("Waits", {"n": number})
    users = set()
    for number in range(3):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(place, copy)
        with agent_on(copy, collector, machine_id=f"device {number}") as agent:
            assert agent.identity is None
            users.add(agent.user_id)
            agent.track("New")
            assert agent.flush(timeout=30)
            balanced(agent)
    assert len(users) == 3
    # The same keys: Heap counts those once, however many copies send them.
    assert len(collector.events("Waits")) == 5
    assert len(collector.duplicates) == 10
    new = collector.events("New")
    assert len({event.idempotency_key for event in new}) == 3
    assert {event.identity for event in new} == {None}


def test_a_snapshot_is_restored(place: Path, tmp_path: Path, collector: Collector) -> None:
    """Time goes back on the same machine: nothing that is new gets a key that was used."""
    snapshot = tmp_path / "snapshot"
    with agent_on(place, collector, shutdown_timeout=0) as agent:
        agent.identify("alice")
        agent.track("Waits")
    shutil.copytree(place, snapshot)
    for turn in range(3):
        with agent_on(place, collector) as agent:
            assert agent.identity == "alice"
            agent.track("New", {"turn": turn})
            assert agent.flush(timeout=30)
            balanced(agent)
        shutil.rmtree(place)
        shutil.copytree(snapshot, place)
    assert len(collector.events("Waits")) == 1
    new = collector.events("New")
    assert sorted(event.properties["turn"] for event in new) == [0, 1, 2]
    assert len({event.idempotency_key for event in new}) == 3
    assert collector.conflicts == []

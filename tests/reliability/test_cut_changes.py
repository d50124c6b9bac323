"""
The power goes while a damaged database is salvaged, while the schema changes, and after
somebody has opted out: what was synced is there, no key stands for two events, and nothing
of which it was said that it is gone comes back.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import trials
import updates
from helpers import balanced
from power import Call, Names, lay_out, record, states
from story import Story, expect, expect_delivered

from heap_agent import Agent
from heap_agent._store.outlook import generations, read_memo
from heap_agent.testing import Collector, FakeClock

PROGRAM = Path(__file__).parents[1] / "programs" / "changes.py"

#: States that are tried after a call.
EACH = trials.tries(2, 4)

Figure = Callable[[str, object], None]

Lives = Callable[[str], list[Call]]

Look = Callable[[Path, list[dict[str, Any]]], None]


def live(shim: Path, place: Path, change: str, *mutant: str) -> list[Call]:
    """The calls of two lives with a change between them."""
    directory = place / "state"
    directory.mkdir(mode=0o700)
    return record(PROGRAM, shim, directory, change, *mutant)


@pytest.fixture(name="lives", scope="module")
def _lives(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Call]]:
    """The same, once for each change."""
    return cache(lambda change: live(shim, tmp_path_factory.mktemp(change), change))


def changed(calls: list[Call]) -> int:
    """Where the change is on stable storage."""
    return next(
        number
        for number, call in enumerate(calls)
        if call.what == "M" and b'"changed"' in call.data
    )


def renamed(calls: list[Call]) -> int:
    """Where the new generation takes its place."""
    return next(number for number, call in enumerate(calls) if call.other == "queue-2.db")


def cut(
    calls: list[Call],
    names: Names,
    place: Path,
    look: Look,
    *,
    begin: int,
    most: int,
    part: int = 0,
) -> int:
    """
    Cut the power after so many of the calls from one on, taken by chance, and look at the
    states that it may leave; how many those were.
    """
    numbers = range(begin, len(calls))
    chance = trials.dice("changes", names.name, part)
    some = {*chance.sample(numbers, min(most, len(numbers)))}
    number = 0
    for state in states(calls, names, EACH, partial(trials.dice, "change", names.name, part), some):
        lay_out(place, state.files)
        try:
            look(place, state.marks)
        except Exception as error:
            raise AssertionError(state.where) from error
        number += 1
    return number


def rebooted() -> FakeClock:
    """The clock of the machine after the cut."""
    clock = FakeClock(time.time())
    clock.reboot()
    return clock


def salvaged(place: Path, marks: list[dict[str, Any]]) -> None:
    """One of the two databases is in force, and with it everything that was synced."""
    story = Story(marks)
    expect(place, story, story.synced, rebooted())
    assert [path.name for path in generations(place)] == ["queue-1.db", "queue-2.db"]


def updated(place: Path, marks: list[dict[str, Any]]) -> None:
    """The migration has happened once, and took all rows along."""
    story = Story(marks)
    expect(place, story, story.synced, rebooted())
    assert read_memo(place, "migrated") == "1"
    assert [path.name for path in generations(place)] == ["queue-1.db"]


def delivered(place: Path, marks: list[dict[str, Any]]) -> None:
    """What is left arrives."""
    expect_delivered(place, Story(marks))


def silent(place: Path, marks: list[dict[str, Any]], *, gone: bool) -> None:
    """
    Nothing is sent; and whoever opts in again later sends nothing of what is gone.
    """
    with (
        Collector() as collector,
        Agent(
            "11", directory=place, endpoint=collector.url, interval=3_600, clock=rebooted()
        ) as agent,
    ):
        assert agent.status().opted_out
        agent.track("Recorded", {"n": -1})
        agent.flush(10)
        assert sent(collector) == [], "it was sent after opting out"
        if gone:
            agent.opt_in()
            agent.track("Recorded", {"n": -2})
            assert agent.flush(10)
            (said,) = sent(collector)
            assert [event["properties"]["n"] for event in said["events"]] == [-2], "it came back"
            assert b"ann" not in json.dumps(said).encode()
        balanced(agent)


def sent(collector: Collector) -> list[dict[str, Any]]:
    """What has left, but for questions whether somebody is there."""
    return [
        json.loads(request.body or b"{}")
        for request in collector.requests
        if request.method == "POST"
    ]


@pytest.fixture(name="_updated")
def _updated(_versions: None) -> Iterator[None]:
    """This process is of the version that migrates."""
    updates.know(2)
    yield


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize(("look", "most"), [(salvaged, trials.tries(12, 250)), (delivered, 4)])
def test_a_cut_while_a_database_is_salvaged(
    lives: Lives, place: Path, names: Names, look: Look, most: int, figure: Figure
) -> None:
    """It is salvaged again or was salvaged already, and a part of it never counts for all."""
    calls = lives("damage")
    number = cut(calls, names, place, look, begin=changed(calls), most=most)
    figure("states", number)
    assert number >= most // 2


@pytest.mark.parametrize("names", Names)
@pytest.mark.usefixtures("_updated")
def test_a_cut_while_the_schema_changes(
    lives: Lives, place: Path, names: Names, figure: Figure
) -> None:
    """It is of one version or of the other."""
    calls = lives("update")
    most = trials.tries(12, 250)
    number = cut(calls, names, place, updated, begin=changed(calls), most=most)
    figure("states", number)
    assert number >= most // 2


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize("change", ["purge", "consent"])
def test_a_cut_after_opting_out(
    lives: Lives, place: Path, names: Names, change: str, figure: Figure
) -> None:
    """Whoever has opted out stays so, and what was recorded before does not leave."""
    calls = lives(change)
    look = partial(silent, gone=change == "purge")
    most = trials.tries(5, 50)
    number = cut(calls, names, place, look, begin=changed(calls), most=most)
    figure("states", number)
    assert number >= most // 2


@pytest.mark.parametrize(
    ("change", "mutant", "names", "look", "says"),
    [
        (
            "damage",
            "salvages without a sync",
            Names.ORDERED,
            salvaged,
            "are gone|stands twice|queue-3",
        ),
        ("update", "migrations numbered afterwards", Names.ORDERED, updated, "'2' == '1'"),
        # The name of the file that stands for an opt-out comes in order without a sync.
        ("purge", "syncs nothing", Names.STRICT, partial(silent, gone=True), "opted_out"),
    ],
)
@pytest.mark.usefixtures("_updated")
def test_a_broken_agent_is_found_out(
    shim: Path,
    tmp_path: Path,
    place: Path,
    change: str,
    mutant: str,
    names: Names,
    look: Look,
    says: str,
) -> None:
    """Agents that change something before it is safe are caught by the same cuts."""
    calls = live(shim, tmp_path, change, mutant)
    begin = renamed(calls) if change == "damage" else changed(calls)
    with pytest.raises(AssertionError, match="cut after call") as caught:
        cut(calls, names, place, look, begin=begin, most=1_000)
    assert re.search(says, str(caught.value.__cause__))

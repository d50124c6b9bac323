"""The kiosk, with people before it: real clicks and keys, on a virtual screen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from commands import environment
from helpers import balanced, eventually, heir
from screen import Screen, needs_a_screen, virtual_screen
from ticket_machine import SOURCE, Machine, log_in, press, running

from heap_agent.testing import Collector

pytestmark = needs_a_screen

if not SOURCE.exists():  # the suite without its checkout
    pytest.skip("there are no examples beside the tests", allow_module_level=True)

VISITED = ["Visit Began", "Ticket Bought", "Visit Ended"]


@pytest.fixture(name="screen", scope="module")
def _screen() -> Iterator[Screen]:
    with virtual_screen() as screen:
        yield screen


SwitchOn = Callable[[], AbstractContextManager[Machine]]


@pytest.fixture(name="switch_on")
def _switch_on(screen: Screen, collector: Collector, tmp_path: Path) -> Iterator[SwitchOn]:
    """Starts it; all that it has recorded is accounted for in the end."""
    options = {
        "HEAP_AGENT_APP_ID": "11",
        "HEAP_AGENT_ENDPOINT": collector.url,
        "HEAP_AGENT_INTERVAL": "0.1",
    }
    command = [sys.executable, "-W", "error", SOURCE]
    yield lambda: running(screen, command, environment(tmp_path, options))
    with heir(tmp_path / "states" / "heap_agent" / "11", collector.url) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)


@pytest.fixture(name="machine")
def _machine(switch_on: SwitchOn) -> Iterator[Machine]:
    """Delivers to the collector while it is used, and is closed after that."""
    with switch_on() as machine:
        yield machine
        machine.close()


@pytest.fixture(name="ended")
def _ended(collector: Collector) -> Callable[[int], None]:
    """Waits until so many visits are over."""
    return lambda number: eventually(lambda: len(collector.events("Visit Ended")) == number)


def test_two_who_do_not_log_in_are_two(
    machine: Machine, collector: Collector, ended: Callable[[int], None]
) -> None:
    """Whoever walks off is gone, and the next visitor is another user, in another session."""
    machine.visit(press("Day"), press("Day"))
    ended(1)
    machine.visit(press("Single"))
    ended(2)
    first, second = collector.users
    assert [event.event for event in first.events] == [*VISITED[:2], *VISITED[1:]]
    assert [event.event for event in second.events] == VISITED
    assert (first.identity, second.identity) == (None, None)
    sessions = [{event.session_id for event in user.events} for user in collector.users]
    assert [len(some) for some in sessions] == [1, 1]
    assert sessions[0].isdisjoint(sessions[1])
    collector.assert_tracked("Ticket Bought", kind="Day", euros=8.5)
    collector.assert_tracked("Visit Ended", reason="idle")


def test_whoever_logs_in_is_known_until_the_log_out(
    machine: Machine, collector: Collector, ended: Callable[[int], None]
) -> None:
    """What they did before belongs to them, and what comes after it to nobody they know."""
    machine.visit(press("Day"), log_in("70123"), press("Single"), press("Log out"))
    ended(1)
    machine.visit(press("Bicycle"))
    ended(2)
    known, unknown = collector.users
    assert (known.identity, unknown.identity) == ("70123", None)
    assert known.properties == {"Last Ticket": "Single"}
    assert [event.event for event in known.events] == [*VISITED[:2], *VISITED[1:]]
    assert known.events[-1].properties["reason"] == "log out"
    assert [event.event for event in unknown.events] == VISITED
    assert not collector.conflicts


def test_nobody_stays_logged_in(
    machine: Machine, collector: Collector, ended: Callable[[int], None]
) -> None:
    """Two cards are two users, also where the first one's owner just walks off."""
    machine.visit(log_in("70123"), press("Day"))
    ended(1)
    machine.visit(log_in("70456"), press("Day"), press("Log out"))
    ended(2)
    assert [user.identity for user in collector.users] == ["70123", "70456"]
    assert [len(user.user_ids) for user in collector.users] == [1, 1]
    ends = [event.properties["reason"] for event in collector.events("Visit Ended")]
    assert ends == ["idle", "log out"]


def test_a_card_that_many_have_is_nobodys(
    machine: Machine, collector: Collector, ended: Callable[[int], None]
) -> None:
    """Its owner buys without it, and can try another one."""
    machine.visit(log_in("0" * 16), press("Day"), log_in("70123"), press("Log out"))
    ended(1)
    (user,) = collector.users
    assert user.identity == "70123"
    assert [event.event for event in user.events] == VISITED


def test_a_power_cut_logs_out(
    switch_on: SwitchOn, collector: Collector, ended: Callable[[int], None]
) -> None:
    """Whoever is there when the power is back can log in, and is somebody else."""
    with switch_on() as machine:
        machine.visit(log_in("70123"), press("Single"))
        eventually(lambda: collector.events("Ticket Bought"))
        machine.cut_power()
    with switch_on() as machine:
        machine.visit(log_in("70456"), press("Day"), press("Log out"))
        ended(1)
        machine.close()
    first, second = collector.users
    assert (first.identity, second.identity) == ("70123", "70456")
    assert [event.event for event in first.events] == VISITED[:2]
    assert [event.event for event in second.events] == VISITED

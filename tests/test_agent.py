"""Every verb of an agent, with a real directory and, where something is sent, a real collector."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import sqlite3
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from helpers import balanced, eventually
from strategies import (
    Colour,
    Count,
    Endless,
    Level,
    LyingText,
    NumpyLike,
    Size,
    UnreadableList,
    UnreadableMapping,
    Unshowable,
    Word,
    cyclic_dict,
    deep_dict,
)

from heap_agent import Agent, InvalidCall, InvalidValue
from heap_agent._config import load
from heap_agent._core.session import REFUSED
from heap_agent._status import look
from heap_agent.testing import Collector, FakeClock, Reply

MakeAgent = Callable[..., Agent]
Log = pytest.LogCaptureFixture


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(name="start")
def _start(tmp_path: Path, server: Collector) -> Iterator[MakeAgent]:
    agents: list[Agent] = []

    unsound: list[Agent] = []

    def start(app_id: Any = "11", *, check: bool = True, **options: Any) -> Agent:
        chosen = {
            "directory": tmp_path / "state",
            "endpoint": server.url,
            # Nothing leaves by itself.
            "interval": 3600,
            "identity_budget": None,
            "app_budget": None,
            **options,
        }
        (agents if check else unsound).append(agent := Agent(app_id, **chosen))
        return agent

    yield start
    for agent in agents:
        balanced(agent)
    for agent in [*agents, *unsound]:
        agent.shutdown(0)


def sent(server: Collector, agent: Agent) -> list[Any]:
    """Deliver, and return what came from the users of this agent since the last call."""
    before = len(server.events())
    assert agent.flush(30)
    return server.events()[before:]


def messages(log: Log, level: int = logging.WARNING) -> list[str]:
    """What was said at a level."""
    return [
        record.getMessage()
        for record in log.records
        if record.levelno == level and record.name == "heap_agent.agent"
    ]


# -- track -------------------------------------------------------------------------


def test_an_event_arrives(start: MakeAgent, server: Collector) -> None:
    """What `track` is given is what Heap gets, with the agent's ids and the time of the call."""
    agent = start()
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    agent.track("Purchase", {"dollars": 50, "item": "Furby"})
    (event,) = sent(server, agent)
    assert (event.app_id, event.event) == ("11", "Purchase")
    assert event.properties == {"dollars": 50, "item": "Furby"}
    assert (event.user_id, event.identity) == (agent.user_id, None)
    assert event.session_id == agent.session_id
    assert event.has_timestamp and before <= event.timestamp <= datetime.now(timezone.utc)
    status = agent.status()
    assert (status.recorded, status.delivered, status.queued) == (1, 1, 0)


@pytest.mark.parametrize("event", [None, 1, b"e", ["e"]])
def test_an_event_name_that_is_no_text(start: MakeAgent, event: Any) -> None:
    """It raises with the argument, what came and what is allowed; nothing is recorded."""
    agent = start()
    shown = "None" if event is None else type(event).__name__
    with pytest.raises(InvalidCall, match=f"event must be a string of 1 to 255.* got {shown}"):
        agent.track(event)
    assert agent.status().recorded == 0


@pytest.mark.parametrize("properties", [1, "text", [("a", 1)], {1}])
def test_properties_that_are_no_mapping(start: MakeAgent, properties: Any) -> None:
    """It raises with the argument, what came and what is allowed."""
    agent = start()
    with pytest.raises(InvalidCall, match="properties must be a mapping .*got "):
        agent.track("e", properties)
    for verb in (agent.add_event_properties, agent.add_user_properties):
        for wrong in (properties, None):
            with pytest.raises(InvalidCall, match="properties must be a mapping .*got "):
                verb(wrong)
    assert agent.status().recorded == 0


@pytest.mark.parametrize("timestamp", ["2026-01-01", True, Decimal(1), date(2026, 1, 1), object()])
def test_a_timestamp_of_another_type(start: MakeAgent, timestamp: Any) -> None:
    """It raises: the program is wrong."""
    agent = start()
    with pytest.raises(InvalidCall, match="timestamp is .*allowed are an aware datetime"):
        agent.track("e", timestamp=timestamp)
    assert agent.status().recorded == 0


NEW_YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "timestamp, expected",
    [
        (datetime(2020, 5, 17, 12, 30, 1, 250_000, timezone.utc), 1_589_718_601.25),
        (datetime(2020, 5, 17, 14, 30, tzinfo=timezone(timedelta(hours=2))), 1_589_718_600.0),
        (1_589_718_600, 1_589_718_600.0),
        (1_589_718_600.125, 1_589_718_600.125),
        (0, 0.0),
    ],
)
def test_a_timestamp_that_is_given(
    start: MakeAgent, server: Collector, timestamp: Any, expected: float
) -> None:
    """It is sent as it was given, to the millisecond, without a fault."""
    agent = start(strict=True)
    agent.track("e", timestamp=timestamp)
    (event,) = sent(server, agent)
    assert event.timestamp.timestamp() == expected


@pytest.mark.parametrize("timestamp", [math.nan, math.inf, -1, 1e15, -(10**400)])
def test_a_timestamp_out_of_range_becomes_now(
    start: MakeAgent, server: Collector, timestamp: float
) -> None:
    """The event is kept, with the time of the call, and the fault is counted."""
    agent = start(clock=FakeClock(NEW_YEAR))
    agent.track("e", timestamp=timestamp)
    assert agent.status().repaired_by == {"time_range": 1}
    (event,) = sent(server, agent)
    # The collector's `Date` is later than the fake clock; the call itself was at new year.
    assert event.timestamp >= NEW_YEAR


def test_a_naive_timestamp_is_local_time_and_never_moved(
    start: MakeAgent, server: Collector
) -> None:
    """It is counted as a fault, and still the caller's: no repair of the clock touches it."""
    moment = datetime(2019, 7, 1, 8, 15)
    # A clock that stands before the package was released makes every event's time suspect.
    agent = start(clock=FakeClock(datetime(2001, 1, 1, tzinfo=timezone.utc)))
    agent.track("naive", timestamp=moment)
    agent.track("aware", timestamp=moment.astimezone())
    agent.track("own")
    naive, aware, own = sent(server, agent)
    assert naive.timestamp.timestamp() == aware.timestamp.timestamp() == moment.timestamp()
    assert own.timestamp.year > 2001
    assert agent.status().repaired_by == {"clock": 1, "naive_time": 1}


@pytest.mark.parametrize("name", ["", " ", "\t\n", "\u3000"])
def test_a_blank_name_is_refused(start: MakeAgent, caplog: Log, name: str) -> None:
    """Nothing is recorded; it is counted as refused, not as repaired, and logged once."""
    agent = start()
    for _ in range(3):
        agent.track(name, {"a": 1})
    status = agent.status()
    assert (status.recorded, status.refused, status.repaired) == (0, 3, 0)
    (said,) = messages(caplog)
    assert said.startswith("track: the event is refused")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("n" * 300, "n" * 255),
        ("😀" * 200, "😀" * 127),
        (Word("Word"), "Word"),
        ("a\ud800b", "a\ufffdb"),
    ],
    ids=["long", "emoji", "subclass", "surrogate"],
)
def test_names_are_cut_and_repaired(
    start: MakeAgent, server: Collector, name: str, expected: str
) -> None:
    """At a border between characters, in UTF-16 units, and sent as plain text."""
    agent = start()
    agent.track(name)
    assert [event.event for event in sent(server, agent)] == [expected]


# -- the table of value faults, end to end -------------------------------------------

ABSENT: Any = object()
SMILE = "😀"
FAMILY = "👨‍👩‍👧‍👦"


class Kiosk:
    """Any other object, with a text that could be sent by mistake."""

    def __str__(self) -> str:
        return "a kiosk"


#: What a test is called; a property's value; what Heap gets (one value, or all
#: properties but "ok"); the faults that are counted.
TABLE: list[tuple[str, Any, Any, dict[str, int]]] = [
    ("true", True, "true", {}),
    ("false", False, "false", {}),
    ("text", "Furby", "Furby", {}),
    ("empty text", "", "", {}),
    ("int", 50, 50, {}),
    ("float", 7.5, 7.5, {}),
    ("minus zero", -0.0, 0.0, {}),
    ("safe", 2**53 - 1, 2**53 - 1, {}),
    ("beyond safe", 2**53, "9007199254740992", {}),
    ("below safe", -(2**53), "-9007199254740992", {}),
    ("very large", 10**30, "1" + "0" * 30, {}),
    ("over 4300 digits", 10**5000, ABSENT, {"unreadable": 1}),
    ("decimal", Decimal("12.50"), 12.5, {}),
    ("whole decimal", Decimal("12"), 12, {}),
    ("decimal nan", Decimal("nan"), ABSENT, {"not_finite": 1}),
    ("numpy int", NumpyLike(3), 3, {}),
    ("numpy bool", NumpyLike(True), "true", {}),
    ("numpy nan", NumpyLike(math.nan), ABSENT, {"not_finite": 1}),
    ("fraction", Fraction(1, 4), 0.25, {}),
    (
        "aware datetime",
        datetime(2026, 1, 2, 3, tzinfo=timezone.utc),
        "2026-01-02T03:00:00+00:00",
        {},
    ),
    ("naive datetime", datetime(2026, 1, 2, 3), "2026-01-02T03:00:00", {}),
    ("date", date(2026, 1, 2), "2026-01-02", {}),
    ("uuid", uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", {}),
    ("path", PurePosixPath("/var/log"), "/var/log", {}),
    ("enum", Colour.RED, "red", {}),
    ("int enum", Level.LOW, 1, {}),
    ("enum of none", Colour.NOTHING, ABSENT, {"no_value": 1}),
    ("list", ["a", 1, True], "a||1||true", {}),
    ("tuple", ("a", 0.5), "a||0.5", {}),
    ("set", {"b", "a"}, "a||b", {}),
    ("empty list", [], "", {}),
    ("list with none", ["a", None], "a", {"no_value": 1}),
    ("list in list", ["a", ["b"]], "a", {"unsupported": 1}),
    ("nested", {"a": {"b": 1}, "c": True}, {"v.a.b": 1, "v.c": "true"}, {}),
    ("empty mapping", {}, ABSENT, {}),
    ("none", None, ABSENT, {"no_value": 1}),
    ("nan", math.nan, ABSENT, {"not_finite": 1}),
    ("infinity", math.inf, ABSENT, {"not_finite": 1}),
    ("minus infinity", -math.inf, ABSENT, {"not_finite": 1}),
    ("bytes", b"abc", ABSENT, {"bytes": 1}),
    ("bytearray", bytearray(b"abc"), ABSENT, {"bytes": 1}),
    ("object", Kiosk(), ABSENT, {"unsupported": 1}),
    ("type", Kiosk, ABSENT, {"unsupported": 1}),
    ("raises at str", Unshowable(), ABSENT, {"unsupported": 1}),
    ("endless", Endless(), ABSENT, {"unsupported": 1}),
    ("raising list", UnreadableList([1]), ABSENT, {"unreadable": 1}),
    ("raising mapping", UnreadableMapping(), ABSENT, {"unreadable": 1}),
    ("cycle", cyclic_dict(), {"v.sound": 1}, {"cycle": 1}),
    ("too deep", deep_dict(30), ABSENT, {"too_deep": 1}),
    ("at the limit", "x" * 1023, "x" * 1023, {}),
    ("over the limit", "x" * 1024, "x" * 1023, {"too_long": 1}),
    ("emoji at the cut", "x" * 1022 + SMILE, "x" * 1022, {"too_long": 1}),
    ("family at the cut", "x" * 1020 + FAMILY, "x" * 1020, {"too_long": 1}),
    ("accent at the cut", "x" * 1022 + "e\u0301", "x" * 1022, {"too_long": 1}),
    ("lone surrogate", "a\ud800b", "a\ufffdb", {"surrogate": 1}),
    ("split pair", "\ud83d\ude00", SMILE, {"surrogate": 1}),
    ("text subclass", Word("word"), "word", {}),
    ("lying text", LyingText("truth"), "truth", {}),
    ("int subclass", Count(3), 3, {}),
    ("float subclass", Size(0.5), 0.5, {}),
]

#: The same for keys: all properties that are given, all that arrive, the faults.
KEYS: list[tuple[str, dict[Any, Any], dict[str, Any], dict[str, int]]] = [
    ("int key", {1: "a"}, {"1": "a"}, {}),
    ("float key", {0.5: "a"}, {"0.5": "a"}, {}),
    ("none key", {None: "a", "b": 1}, {"b": 1}, {"key_type": 1}),
    ("bytes key", {b"a": "a", "b": 1}, {"b": 1}, {"key_type": 1}),
    ("bool key", {True: "a", "b": 1}, {"b": 1}, {"key_type": 1}),
    ("tuple key", {("a",): "a", "b": 1}, {"b": 1}, {"key_type": 1}),
    ("empty key", {"": "a", "b": 1}, {"b": 1}, {"key_empty": 1}),
    ("blank key", {" \n": "a", "b": 1}, {"b": 1}, {"key_empty": 1}),
    ("longest key", {"k" * 512: 1}, {"k" * 512: 1}, {}),
    ("key too long", {"k" * 513: 1, "b": 1}, {"b": 1}, {"key_too_long": 1}),
    ("surrogate key", {"a\ud800": 1}, {"a\ufffd": 1}, {"surrogate": 1}),
    ("subclass key", {Word("a"): 1}, {"a": 1}, {}),
    ("other mapping", OrderedDict(a=1), {"a": 1}, {}),
    (
        "user's own keys",
        {"id": 1, "user_id": 2, "Email": "x"},
        {"id": 1, "user_id": 2, "Email": "x"},
        {},
    ),
]

CASES: dict[str, tuple[dict[Any, Any], dict[str, Any], dict[str, int]]] = {}
for _name, _value, _expected, _faults in TABLE:
    if _expected is ABSENT:
        _expected = {}
    elif type(_expected) is not dict:
        _expected = {"v": _expected}
    CASES[_name] = {"v": _value, "ok": 1}, {**_expected, "ok": 1}, _faults
for _name, _properties, _arrives, _faults in KEYS:
    CASES[_name] = _properties, _arrives, _faults


@pytest.fixture(name="table", scope="module")
def _table(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[dict[str, Any], dict[str, int]]]]:
    """What a strict collector got of every case, and which faults each one counted."""
    directory = tmp_path_factory.mktemp("table")
    with Collector() as collector:
        with Agent("11", directory=directory, endpoint=collector.url, interval=3600) as agent:
            faults = {}
            for name, (properties, _, _) in CASES.items():
                before = agent.status().repaired_by
                agent.track(name, properties)
                after = agent.status().repaired_by
                faults[name] = {
                    kind: number - before.get(kind, 0)
                    for kind, number in after.items()
                    if number != before.get(kind, 0)
                }
            assert agent.flush(60)
            assert agent.status().dead == 0
            assert agent.check() == []
        yield {
            event.event: (dict(event.properties), faults[event.event])
            for event in collector.events()
        }


@pytest.mark.parametrize("case", CASES)
def test_what_a_strict_server_gets(
    table: dict[str, tuple[dict[str, Any], dict[str, int]]], case: str
) -> None:
    """Every value and key becomes what the contract says, and only faults are counted."""
    _, arrives, faults = CASES[case]
    found, counted = table[case]
    assert found == arrives
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in arrives.items()
    } or case == "minus zero"
    assert counted == faults


@pytest.mark.parametrize("case", [name for name, (_, _, faults) in CASES.items() if faults])
def test_strict_raises_before_anything_is_recorded(strict_agent: Agent, case: str) -> None:
    """With strict=True the same faults are InvalidValue, for all three verbs with properties."""
    properties = CASES[case][0]
    for call in (
        lambda: strict_agent.track("e", properties),
        lambda: strict_agent.add_event_properties(properties),
        lambda: strict_agent.add_user_properties(properties),
    ):
        with pytest.raises(InvalidValue, match="Nothing was recorded$"):
            call()
    status = strict_agent.status()
    assert (status.recorded, status.repaired) == (0, 0)
    assert strict_agent._state.event_properties("11") == {}


@pytest.fixture(name="strict_agent", scope="module")
def _strict_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    directory = tmp_path_factory.mktemp("strict")
    with Agent(
        "11", directory=directory, interval=3600, strict=True, endpoint="http://127.0.0.1:9"
    ) as agent:
        yield agent


@pytest.mark.parametrize("case", [name for name, (_, _, faults) in CASES.items() if not faults])
def test_strict_lets_good_values_pass(strict_agent: Agent, case: str) -> None:
    """What is no fault is none in strict mode either."""
    strict_agent._faults.mended("e", CASES[case][0], 1023)


def test_strict_and_names_identities_and_intervals(start: MakeAgent) -> None:
    """A blank or long name, a refused identity and a tiny interval raise, and change nothing."""
    agent = start(strict=True)
    agent.identify("alice")
    for call in (
        lambda: agent.track(" "),
        lambda: agent.track("n" * 256),
        lambda: agent.track("e", timestamp=math.nan),
        lambda: agent.identify("guest"),
        lambda: agent.change_interval(0.01),
    ):
        with pytest.raises(InvalidValue):
            call()
    assert agent.identity == "alice"
    status = agent.status()
    assert (status.recorded, status.refused, status.repaired) == (0, 0, 0)


def test_strict_comes_from_the_environment_too(
    start: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEAP_AGENT_STRICT=1 is for test suites."""
    monkeypatch.setenv("HEAP_AGENT_STRICT", "1")
    with pytest.raises(InvalidValue):
        start().track("e", {"x": None})


def test_not_strict_logs_what_the_program_does_wrong(start: MakeAgent, caplog: Log) -> None:
    """strict=False is for production images: recording verbs say so once and go on."""
    agent = start(strict=False)
    wrong: Any = object()
    for _ in range(2):
        agent.track(wrong)
        agent.track("e", wrong)
        agent.track("e", timestamp=wrong)
        agent.identify(wrong)
        agent.add_event_properties(wrong)
        agent.add_user_properties(wrong)
        agent.remove_event_property(wrong)
    assert agent.status().recorded == 0
    said = messages(caplog, logging.ERROR)
    # Both verbs that add properties say the same, and are heard once.
    assert len(said) == len(set(said)) == 5
    with pytest.raises(InvalidCall):
        agent.flush(-1)


def test_not_strict_and_an_impossible_identity_logs_out(start: MakeAgent) -> None:
    """The next visitor is not taken for the last, however wrong the call was."""
    agent = start(strict=False)
    agent.identify("alice")
    wrong: Any = 1.5
    agent.identify(wrong)
    assert agent.identity is None


def test_a_fault_is_counted_always_and_logged_once(start: MakeAgent, caplog: Log) -> None:
    """Once per event, key and kind."""
    agent = start()
    for _ in range(5):
        agent.track("A", {"x": None, "y": math.nan})
        agent.track("B", {"x": None})
    status = agent.status()
    assert status.repaired_by == {"no_value": 10, "not_finite": 5}
    assert (status.repaired, status.recorded) == (15, 10)
    said = messages(caplog)
    assert len(said) == 3
    assert sum("A: property 'x' is left out" in text for text in said) == 1


def test_what_is_remembered_of_complaints_is_bounded(start: MakeAgent, caplog: Log) -> None:
    """A program that makes up keys neither fills the memory nor the log."""
    agent = start()
    for number in range(1_200):
        agent.track("e", {f"k{number}": None})
    assert agent.status().repaired_by == {"no_value": 1_200}
    assert len(messages(caplog)) == len(agent._faults._said) == 1_000


def test_an_event_that_is_too_large(start: MakeAgent, server: Collector) -> None:
    """Its largest properties are left out, the rest arrives."""
    agent = start()
    properties = {f"k{number:04}": "x" * 1023 for number in range(800)}
    agent.track("big", {**properties, "small": 1})
    (event,) = sent(server, agent)
    assert event.properties["small"] == 1
    assert len(event.raw) <= 786_432
    assert agent.status().repaired_by == {"too_large": 801 - len(event.properties)}


def test_track_from_a_logging_handler(start: MakeAgent) -> None:
    """A handler that tracks the agent's own complaint neither loops nor deadlocks."""
    agent = start()

    class Tracking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            agent.track("Log", {"message": record.getMessage(), "nothing": None})

    logger, handler = logging.getLogger("heap_agent.agent"), Tracking()
    logger.addHandler(handler)
    try:
        agent.track("e", {"x": None})
    finally:
        logger.removeHandler(handler)
    assert agent.status().recorded in (2, 3)


# -- identity ----------------------------------------------------------------------


def test_anonymous_to_identified(start: MakeAgent, server: Collector) -> None:
    """The user_id stays; events from before and after belong to one user at Heap."""
    agent = start()
    user_id = agent.user_id
    assert agent.identity is None
    agent.track("before")
    session = agent.session_id
    agent.identify("alice-1")
    assert (agent.user_id, agent.identity, agent.session_id) == (user_id, "alice-1", session)
    agent.track("after")
    before, after = sent(server, agent)
    assert (before.user_id, before.identity) == (user_id, None)
    assert (after.user_id, after.identity) == (None, "alice-1")
    user = server.user("alice-1")
    assert user.user_ids == (user_id,)
    assert [event.event for event in user.events] == ["before", "after"]


def test_the_same_identity_again(start: MakeAgent) -> None:
    """Nothing happens, an int being the same as its text."""
    agent = start()
    agent.identify(12345)
    agent.track("e")
    before = agent.user_id, agent.session_id
    agent.identify("12345")
    assert (agent.user_id, agent.session_id) == before
    assert agent.identity == "12345"


def test_another_identity(start: MakeAgent, server: Collector) -> None:
    """A new user_id and session; what was queued stays with the first."""
    agent = start()
    agent.identify("alice-2")
    agent.track("hers")
    before = agent.user_id, agent.session_id
    agent.identify("bob-2")
    assert agent.user_id != before[0] and agent.session_id not in (before[1], None)
    agent.track("his")
    hers, his = sent(server, agent)
    assert (hers.identity, his.identity) == ("alice-2", "bob-2")
    assert hers.session_id != his.session_id


def test_reset_identity(start: MakeAgent) -> None:
    """Identified: a new anonymous user and session. Anonymous: nothing."""
    agent = start()
    agent.track("e")
    before = agent.user_id, agent.session_id
    agent.reset_identity()
    assert (agent.user_id, agent.session_id) == before
    agent.identify("alice")
    agent.reset_identity()
    assert agent.identity is None
    assert agent.user_id != before[0] and agent.session_id not in (before[1], None)


def test_new_visitor(start: MakeAgent) -> None:
    """A new user and session, whoever was there."""
    agent = start()
    seen = {agent.user_id}
    for _ in range(2):
        agent.track("e")
        session = agent.session_id
        agent.new_visitor()
        assert agent.session_id not in (session, None)
        seen.add(agent.user_id)
    agent.identify("alice")
    agent.new_visitor()
    assert agent.identity is None
    assert len(seen | {agent.user_id}) == 4


@pytest.mark.parametrize("identity", [None, "", " ", "guest", "NULL", "x" * 255, "\ud800", 10**400])
def test_a_refused_identity(start: MakeAgent, caplog: Log, identity: Any) -> None:
    """ERROR, counted, never sent; whoever was identified is logged out."""
    agent = start()
    agent.identify(identity)
    anonymous = agent.user_id
    agent.identify("alice")
    agent.identify(identity)
    assert agent.identity is None
    assert agent.user_id != anonymous
    assert agent.status().refused == 2
    said = messages(caplog, logging.ERROR)
    assert said and all("is refused: " in text and len(text) < 250 for text in said)


def test_a_number_that_python_does_not_print(start: MakeAgent, caplog: Log) -> None:
    """An int of more than 4,300 digits is refused like any other, wherever it comes."""
    agent = start()
    agent.identify(10**5000)
    assert messages(caplog, logging.ERROR)[0].startswith("identity an int of 16610 bits is refused")
    agent.track("e", timestamp=10**5000)
    agent.change_interval(10**5000)
    wrong: Any = -(10**5000)
    with pytest.raises(InvalidCall, match="got an int of 16610 bits"):
        agent.flush(wrong)


@pytest.mark.parametrize("identity", sorted(REFUSED)[:3] + ["test", "x", "A@b.example"])
def test_doubtful_identities_are_taken_with_a_warning(
    start: MakeAgent, caplog: Log, identity: str
) -> None:
    """Unless they are on the list, which can be another one."""
    agent = start(refused_identities=["nobody"])
    agent.identify(identity)
    assert agent.identity == identity
    agent.identify(" NoBody ")
    assert agent.identity is None
    if identity in ("test", "x", "A@b.example"):
        assert len(messages(caplog)) == 1


@pytest.mark.parametrize("identity", [1.5, True, b"alice", ["alice"]])
def test_an_identity_of_another_type(start: MakeAgent, identity: Any) -> None:
    """It raises, and nobody's identity changes."""
    agent = start()
    agent.identify("alice")
    with pytest.raises(InvalidCall, match=f"identity must be .* got {type(identity).__name__}"):
        agent.identify(identity)
    assert agent.identity == "alice"


def test_an_identity_survives_the_wire(start: MakeAgent, server: Collector) -> None:
    """Whatever characters it has."""
    agent = start()
    for identity in ("My user & % = test", 'quote " and \\', "Ünï-çødé 😀"):
        agent.identify(identity)
        agent.track("e")
        assert [event.identity for event in sent(server, agent)] == [identity]


def test_identity_and_properties_outlive_the_process(start: MakeAgent) -> None:
    """The next start goes on with the same user, and a session of its own."""
    first = start()
    first.identify("alice")
    first.add_event_properties({"a": 1, "b": 2})
    first.remove_event_property("b")
    first.track("e")
    before = first.user_id, first.session_id
    first.shutdown(0)
    second = start()
    assert (second.user_id, second.identity) == (before[0], "alice")
    assert second.session_id is None
    assert second._state.event_properties("11") == {"a": 1}
    second.track("e")
    assert second.session_id != before[1]


def test_a_log_out_is_known_to_the_next_start_without_a_shutdown(start: MakeAgent) -> None:
    """The state is a fold over all records, absorbed or not."""
    first = start()
    first.identify("alice")
    first.reset_identity()
    second = start()
    assert second.identity is None and second.user_id == first.user_id


# -- sessions ----------------------------------------------------------------------


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock(NEW_YEAR)


def test_a_session_begins_with_the_first_event(start: MakeAgent, clock: FakeClock) -> None:
    """Neither the start, nor asking, nor an identity begins one."""
    agent = start(clock=clock)
    assert agent.session_id is None
    agent.identify("alice")
    agent.new_visitor()
    agent.add_event_properties({"a": 1})
    assert agent.session_id is None
    agent.track("e")
    assert agent.session_id is not None
    assert str(int(agent.session_id)) == agent.session_id


def test_a_session_ends_after_a_time_without_an_event(
    start: MakeAgent, server: Collector, clock: FakeClock
) -> None:
    """At exactly the timeout it is still the same; each event extends it."""
    agent = start(clock=clock)
    agent.track("e")
    first = agent.session_id
    for _ in range(3):
        clock.advance(1800)
        assert agent.session_id == first
        agent.track("e")
        assert agent.session_id == first
    clock.advance(1800.001)
    assert agent.session_id is None
    agent.track("e")
    second = agent.session_id
    assert second not in (first, None)
    assert [event.session_id for event in sent(server, agent)] == [first] * 4 + [second]


def test_a_session_does_not_care_for_the_wall_clock(start: MakeAgent, clock: FakeClock) -> None:
    """Setting the clock, forward or back, neither ends nor prolongs a visit."""
    agent = start(clock=clock)
    agent.track("e")
    first = agent.session_id
    for seconds in (86_400, -2 * 86_400):
        clock.step(seconds)
        agent.track("e")
        assert agent.session_id == first
    clock.step(-86_400)
    clock.advance(1801)
    assert agent.session_id is None


def test_a_given_timestamp_does_not_move_the_session(start: MakeAgent, clock: FakeClock) -> None:
    """The visit is that of the call."""
    agent = start(clock=clock)
    agent.track("e")
    first = agent.session_id
    agent.track("late", timestamp=NEW_YEAR - timedelta(days=1))
    agent.track("early", timestamp=NEW_YEAR + timedelta(days=1))
    assert agent.session_id == first
    clock.advance(1801)
    assert agent.session_id is None


def test_sessions_may_never_end(start: MakeAgent, clock: FakeClock) -> None:
    """session_timeout=None."""
    agent = start(clock=clock, session_timeout=None)
    agent.track("e")
    first = agent.session_id
    clock.advance(10 * 86_400)
    agent.track("e")
    assert agent.session_id == first is not None


def test_a_change_of_user_after_the_session_has_ended(start: MakeAgent, clock: FakeClock) -> None:
    """There is no visit to replace: the next event begins one."""
    agent = start(clock=clock)
    agent.identify("alice")
    agent.track("e")
    clock.advance(3600)
    agent.reset_identity()
    assert agent.session_id is None


# -- properties --------------------------------------------------------------------


def test_event_properties_stand_on_every_later_event(start: MakeAgent, server: Collector) -> None:
    """Overwritten, removed, cleared; a property of the event itself wins."""
    agent = start()
    agent.track("e", {"a": "own"})
    agent.add_event_properties({"a": "always", "b": True})
    agent.track("e")
    agent.track("e", {"a": "own", "c": 3})
    agent.add_event_properties({"a": 2})
    agent.remove_event_property("b")
    agent.remove_event_property("no such thing")
    agent.track("e")
    agent.clear_event_properties()
    agent.clear_event_properties()
    agent.track("e")
    assert [event.properties for event in sent(server, agent)] == [
        {"a": "own"},
        {"a": "always", "b": "true"},
        {"a": "own", "b": "true", "c": 3},
        {"a": 2},
        {},
    ]


def test_event_properties_may_take_8_kilobytes(start: MakeAgent, caplog: Log) -> None:
    """What goes beyond is left out, the largest first, and counted; what stands stays."""
    agent = start()
    agent.add_event_properties({f"k{number}": "x" * 1000 for number in range(7)})
    agent.add_event_properties({"large": "x" * 1023, "larger": "y" * 1000 + "é" * 20, "small": 1})
    known = agent._state.event_properties("11")
    assert set(known) == {f"k{number}" for number in range(7)} | {"large", "small"}
    agent.add_event_properties({"k0": "x" * 1023, "k1": "short"})
    known = agent._state.event_properties("11")
    assert known["k1"] == "short" and len(str(known["k0"])) == 1023
    assert agent.status().repaired_by == {"too_large": 1}
    (said,) = messages(caplog)
    assert "'larger' is left out: event properties may take 8,192 bytes" in said


def test_very_many_event_properties_are_cut_quickly(start: MakeAgent) -> None:
    """Ten thousand at once are no reason to stand still."""
    agent = start()
    began = time.monotonic()
    agent.add_event_properties({f"key {number}": number for number in range(10_000)})
    assert time.monotonic() - began < 20
    assert agent.status().repaired_by["too_large"] > 9_000


@pytest.mark.parametrize("clear", [False, True])
def test_event_properties_and_a_new_user(start: MakeAgent, clear: bool) -> None:
    """They stay, unless the configuration says otherwise; device properties always stay."""
    agent = start(clear_event_properties_on_new_user=clear, device_properties={"site": "Oslo"})
    agent.add_event_properties({"a": 1})
    agent.identify("alice")
    assert agent._ambient.properties == {"site": "Oslo", "a": 1}
    agent.reset_identity()
    left = {"site": "Oslo"} if clear else {"site": "Oslo", "a": 1}
    assert agent._ambient.properties == left


def test_device_properties(start: MakeAgent, server: Collector) -> None:
    """On every event, weaker than event properties, untouched by clearing."""
    agent = start(device_properties={"site": "Oslo", "demo": True, "floor": 3})
    agent.add_event_properties({"floor": 4})
    agent.track("e", {"own": 1})
    agent.clear_event_properties()
    agent.track("e", {"site": "here"})
    assert [event.properties for event in sent(server, agent)] == [
        {"site": "Oslo", "demo": "true", "floor": 4, "own": 1},
        {"site": "here", "demo": "true", "floor": 3},
    ]


def test_a_name_of_an_event_property_is_text(start: MakeAgent) -> None:
    """It raises with the argument and what came."""
    wrong: Any = 1
    with pytest.raises(InvalidCall, match="name must be a string, got int"):
        start().remove_event_property(wrong)


def test_user_properties_reach_the_user(start: MakeAgent, server: Collector) -> None:
    """Held while anonymous, sent on identify, with the limits of user properties."""
    agent = start()
    agent.add_user_properties({"Profession": "Data Scientist", "long": "x" * 300})
    agent.add_user_properties({"id": 1, "ID": 2, "user_id": 3, "age": 7, "paid": True})
    assert agent.flush(30)
    assert not any(user.properties.get("age") == 7 for user in server.users)
    agent.identify("alice-properties")
    assert agent.flush(30)
    assert server.user("alice-properties").properties == {
        "Profession": "Data Scientist",
        "long": "x" * 255,
        "age": 7,
        "paid": "true",
    }
    assert agent.status().repaired_by == {"too_long": 1, "reserved_key": 3}


def test_an_email_in_capitals_is_kept_with_a_word(start: MakeAgent, caplog: Log) -> None:
    """No fault: not counted, and no error in strict mode; one warning."""
    agent = start(strict=True)
    agent.identify("alice")
    for _ in range(2):
        agent.add_user_properties({"Email": "alice@example.com"})
    assert agent.status().repaired == 0
    (said,) = messages(caplog)
    assert "only 'email' fills Heap's own Email" in said


# -- settings ----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, -math.inf, True, "15", None, b"1"])
def test_an_interval_that_is_none(start: MakeAgent, seconds: Any) -> None:
    """It raises with the argument, what came and what is allowed."""
    with pytest.raises(InvalidCall, match="^seconds must be a number of seconds, .*; got "):
        start().change_interval(seconds)


@pytest.mark.parametrize("seconds", [25.0, 25, timedelta(seconds=25)])
def test_change_interval(start: MakeAgent, seconds: Any) -> None:
    """Numbers and timedeltas; not persisted."""
    agent = start()
    agent.change_interval(seconds)
    assert agent._interval == 25.0
    agent.shutdown(0)
    assert start()._interval == 3600


def test_an_interval_takes_effect_at_once(start: MakeAgent, server: Collector) -> None:
    """What waits for an hour is sent after the new interval."""
    agent = start(interval=0.1)
    agent.track("first")
    server.wait_for(1, "first", timeout=30)
    agent.change_interval(3600)
    agent.change_interval(0.1)
    agent.track("second at once")
    server.wait_for(1, "second at once", timeout=30)


def test_a_tiny_interval_is_raised(start: MakeAgent, caplog: Log) -> None:
    """To 0.1 s, counted and logged once."""
    agent = start()
    for _ in range(2):
        agent.change_interval(0)
    assert agent._interval == 0.1
    assert agent.status().repaired_by == {"interval": 2}
    assert len(messages(caplog)) == 1


def test_no_interval_is_longer_than_systems_can_wait(start: MakeAgent) -> None:
    """A number without end is capped rather than an OverflowError somewhere else."""
    agent = start()
    agent.change_interval(10**400)
    assert agent._interval == 30 * 86_400


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, True, "1", 1j])
@pytest.mark.parametrize("verb", ["flush", "sync", "shutdown"])
def test_a_timeout_that_is_none(start: MakeAgent, verb: str, timeout: Any) -> None:
    """It raises with the argument, what came and what is allowed."""
    agent = start()
    with pytest.raises(InvalidCall, match="^timeout must be a number of seconds, zero or more"):
        getattr(agent, verb)(timeout)
    assert not agent.ended


def test_timeouts_of_any_length(start: MakeAgent) -> None:
    """A number and a timedelta, as short or long as one likes."""
    agent = start()
    for timeout in (0, 1e300, 10**400, timedelta(days=999_999_999), timedelta(0)):
        assert isinstance(agent.flush(timeout), bool)
        assert isinstance(agent.sync(timeout), bool)
    assert agent.sync() is True


@pytest.mark.parametrize("app_id", ["", "abc", "1.5", 1.5, -1, True, b"11", "1" * 21, None])
def test_an_app_id_that_is_no_number(start: MakeAgent, app_id: Any) -> None:
    """It raises with the argument, what came and what is allowed; nothing changes."""
    agent = start()
    with pytest.raises(InvalidCall, match="app_id: .*came, allowed is .*"):
        agent.set_app_id(app_id)
    assert agent.app_id == "11"
    if app_id is not None:
        with pytest.raises(InvalidCall, match="app_id"):
            Agent(app_id)


def test_an_agent_without_an_app_id(tmp_path: Path) -> None:
    """It raises, and says where one can come from."""
    with pytest.raises(InvalidCall, match="app_id is missing.*HEAP_AGENT_APP_ID"):
        Agent(directory=tmp_path)


def test_options_that_do_not_exist(tmp_path: Path) -> None:
    """A typo is told apart from the option that was meant."""
    with pytest.raises(InvalidCall, match="did you mean 'interval'"):
        Agent("11", directory=tmp_path, intervall=3)


def test_another_app_id(start: MakeAgent, server: Collector) -> None:
    """Later events go there; identity, properties and session belong to the app id."""
    agent = start()
    agent.identify("alice-11")
    agent.add_event_properties({"a": 1})
    agent.track("for 11")
    before = agent.user_id, agent.session_id
    agent.set_app_id(21)
    assert (agent.app_id, agent.identity, agent.status().app_id) == ("21", None, "21")
    assert agent.user_id != before[0] and agent.session_id not in (before[1], None)
    agent.track("for 21")
    agent.set_app_id("11")
    assert (agent.user_id, agent.identity) == (before[0], "alice-11")
    assert agent.session_id not in (before[1], None)
    agent.track("for 11 again")
    found = sorted(
        (event.app_id, event.event, dict(event.properties)) for event in sent(server, agent)
    )
    assert found == [
        ("11", "for 11", {"a": 1}),
        ("11", "for 11 again", {"a": 1}),
        ("21", "for 21", {}),
    ]


def test_the_same_app_id_again(start: MakeAgent) -> None:
    """A new session, and the same user."""
    agent = start()
    agent.identify("alice")
    agent.track("e")
    user_id, session = agent.user_id, agent.session_id
    agent.set_app_id("11")
    assert (agent.user_id, agent.identity) == (user_id, "alice")
    assert agent.session_id not in (session, None)


def test_init_again_knows_what_another_process_said(start: MakeAgent) -> None:
    """Not two seconds later: when it returns."""
    agent, other = start(), start()
    other.identify("alice")
    agent.set_app_id("11")
    assert (agent.identity, agent.user_id) == ("alice", other.user_id)


def test_a_typo_in_the_environment_is_mended_by_set_app_id(
    start: MakeAgent, monkeypatch: pytest.MonkeyPatch, server: Collector
) -> None:
    """Without an id nothing is recorded, and it shows; with one it is."""
    monkeypatch.setenv("HEAP_AGENT_APP_ID", "eleven")
    agent = start(None)
    agent.track("lost")
    status = agent.status()
    assert (status.recorded, status.app_id) == (0, None)
    assert any("HEAP_AGENT_APP_ID" in problem for problem in status.problems)
    agent.set_app_id("11")
    agent.track("kept")
    assert [event.event for event in sent(server, agent)] == ["kept"]


# -- consent and pauses --------------------------------------------------------------


def test_opting_out_purges(start: MakeAgent, server: Collector) -> None:
    """Queue, identity and properties are gone and counted; opting in starts with a new user."""
    agent = start()
    agent.identify("alice-out")
    agent.add_event_properties({"a": 1})
    agent.track("e")
    user_id = agent.user_id
    agent.opt_out()
    assert (agent.user_id, agent.identity, agent.session_id) == (None, None, None)
    status = agent.status()
    assert status.opted_out
    assert (status.recorded, status.queued, status.dropped_by) == (1, 0, {"purged": 1})
    agent.opt_in()
    assert agent.user_id not in (user_id, None) and agent.identity is None
    agent.track("e")
    (event,) = sent(server, agent)
    assert (event.user_id, event.properties) == (agent.user_id, {})
    assert not agent.status().opted_out


def test_opting_out_without_a_purge(start: MakeAgent, server: Collector) -> None:
    """Everything is kept and nothing leaves, until somebody opts in."""
    agent = start()
    agent.identify("alice-kept")
    agent.track("e")
    user_id = agent.user_id
    agent.opt_out(purge=False)
    assert agent.flush(1) is False
    assert agent.session_id is None
    assert agent.status().queued == 1
    agent.opt_in()
    assert (agent.user_id, agent.identity) == (user_id, "alice-kept")
    assert [event.identity for event in sent(server, agent)] == ["alice-kept"]


@pytest.mark.parametrize("purge", ["no", 0, None])
def test_a_purge_is_asked_for_in_so_many_words(start: MakeAgent, purge: Any) -> None:
    """What cannot be undone is not guessed from something that is no bool."""
    agent = start()
    with pytest.raises(InvalidCall, match="purge must be True or False, got "):
        agent.opt_out(purge)
    assert not agent.status().opted_out


def test_what_is_purged_is_gone_from_the_disk(start: MakeAgent, tmp_path: Path) -> None:
    """Also what another process has in the part that it is writing."""
    agent, other = start(), start()
    for one in (agent, other):
        one.identify("someone-private")
        one.track("e", {"secret": "my-secret-value"})
    agent.opt_out()

    for word in ("my-secret-value", "someone-private"):
        eventually(lambda word=word: on_disk(tmp_path / "state", word) == [])  # type: ignore[misc]


def spoil(directory: Path) -> None:
    """Make the database unreadable."""
    (path,) = directory.glob("queue-*.db")
    for log in directory.glob("queue-*.db-*"):
        log.unlink()
    path.write_bytes(b"no database at all" * 500)


def test_a_damaged_database_is_replaced(start: MakeAgent, tmp_path: Path) -> None:
    """A new one takes its place, which the status tells; the damaged one is kept."""
    start(check=False).shutdown(0)
    spoil(tmp_path / "state")
    agent = start()
    agent.track("e")
    assert agent.status().repaired_by == {"queue": 1}
    assert {path.name for path in (tmp_path / "state").glob("queue-*.db")} == {
        "queue-1.db",
        "queue-2.db",
    }


@pytest.mark.parametrize("purge", [False, True])
def test_consent_outlives_a_damaged_database(start: MakeAgent, tmp_path: Path, purge: bool) -> None:
    """Where nobody can read what was said, a sign of it is still there."""
    agent = start(check=False)
    first = agent.user_id
    agent.opt_out(purge)
    agent.shutdown(0)
    spoil(tmp_path / "state")
    silent = start(check=False)
    assert silent.status().opted_out
    assert look(tmp_path / "state", load({}, {}, ()).config, FakeClock(), ()).opted_out
    silent.track("e")
    assert silent.status().recorded == 0
    silent.opt_in()
    assert silent.user_id not in (first, None)
    silent.track("e")
    assert silent.status().recorded == 1
    balanced(silent)
    silent.shutdown(0)
    assert not start(check=False).status().opted_out


def test_nobody_inherits_a_user_that_cannot_be_read(start: MakeAgent, tmp_path: Path) -> None:
    """Whoever was logged out before must not be taken for the next visitor."""
    agent = start(check=False)
    first = agent.user_id
    agent.identify("someone")
    agent.reset_identity()
    second = agent.user_id
    agent.shutdown(0)
    spoil(tmp_path / "state")
    again = start(check=False)
    assert again.identity is None
    # What the journals say is known all the same.
    assert again.user_id not in (first, None)
    again.new_visitor()
    assert again.user_id not in (first, second, None)


def test_opted_out_nothing_is_looked_at(start: MakeAgent) -> None:
    """No recording call examines its arguments, changes anything or counts."""
    agent = start(strict=True)
    agent.opt_out()
    silent_calls(agent)
    status = agent.status()
    assert (status.recorded, status.refused, status.repaired) == (0, 0, 0)
    assert agent.user_id is None


def silent_calls(agent: Agent) -> None:
    """Every recording call with impossible arguments."""
    wrong: Any = Unshowable()
    agent.track(wrong, wrong, timestamp=wrong)
    agent.identify(wrong)
    agent.identify("alice")
    agent.reset_identity()
    agent.new_visitor()
    agent.add_user_properties(wrong)
    agent.add_event_properties(wrong)
    agent.remove_event_property(wrong)
    agent.clear_event_properties()


def test_a_name_given_elsewhere_ends_no_visit(start: MakeAgent) -> None:
    """The anonymous user who says in another process who they are is still the same visitor."""
    agent, other = start(), start()
    agent.track("e")
    visit = agent.session_id
    other.identify("twelve")
    eventually(lambda: agent.identity == "twelve")
    assert agent.session_id == visit
    other.reset_identity()
    eventually(lambda: agent.identity is None)
    assert agent.session_id not in (visit, None)


def test_a_handler_that_interrupts_recording_may_flush(start: MakeAgent) -> None:
    """It holds what others wait for: it is told so at once, and delivery follows."""
    agent = start(interval=0.1)
    eventually(lambda: agent._outbox._scheduler is not None)
    for lock in (agent._store.journal._lock, agent._state_lock, agent._store._work):
        agent.track("e")
        with lock:
            assert not agent.flush()
            assert agent.status().recorded > 0
        eventually(lambda: agent.status().queued == 0)


def test_consent_outlives_the_process(start: MakeAgent) -> None:
    """And is known to every other one."""
    agent, other = start(), start()
    agent.opt_out()
    eventually(lambda: other.status().opted_out)
    other.track("e")
    assert other.status().recorded == 0
    agent.shutdown(0)
    other.shutdown(0)
    third = start()
    assert third.status().opted_out and third.user_id is None
    third.opt_in()
    assert third.user_id is not None


def test_opting_in_twice_changes_nothing(start: MakeAgent) -> None:
    """Consent that is given already is left alone."""
    agent = start()
    user_id = agent.user_id
    agent.opt_in()
    agent.opt_out()
    agent.opt_in()
    second = agent.user_id
    agent.opt_in()
    assert agent.user_id == second != user_id


def test_tracking_while_another_thread_opts_out(start: MakeAgent) -> None:
    """After a purge no event carries the old user, however the calls fell."""
    agent = start()
    for _ in range(5):
        old = agent.user_id
        stop = threading.Event()

        def track(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                agent.track("e")

        thread = threading.Thread(target=track)
        thread.start()
        agent.opt_out()
        agent.opt_in()
        agent.track("e")
        stop.set()
        thread.join()
        assert old is not None
        assert old.encode() not in agent._ambient.head


def test_do_not_track(start: MakeAgent, monkeypatch: pytest.MonkeyPatch, server: Collector) -> None:
    """For this process alone: nothing recorded, nothing sent, what is queued is kept."""
    first = start()
    first.identify("alice-dnt")
    first.track("e")
    first.shutdown(0)
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    quiet = start(strict=True)
    silent_calls(quiet)
    assert quiet.flush(1) is False
    assert (quiet.status().recorded, quiet.status().queued) == (1, 1)
    quiet.shutdown(0)
    monkeypatch.delenv("DO_NOT_TRACK")
    third = start()
    assert third.identity == "alice-dnt"
    assert [event.event for event in sent(server, third)] == ["e"]


def test_do_not_track_makes_nobody_up(
    start: MakeAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where nobody was known, no random user is, and no file says who it would be."""
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    quiet = start()
    silent_calls(quiet)
    quiet.set_app_id("12")
    assert quiet.user_id is None
    assert list((tmp_path / "state").iterdir()) == []
    monkeypatch.delenv("DO_NOT_TRACK")
    assert start().user_id is not None


def test_a_pause(start: MakeAgent, server: Collector) -> None:
    """Recording goes on, nothing is sent, also after a restart, until it is resumed."""
    agent = start()
    agent.pause_delivery()
    agent.track("paused")
    assert agent.flush(1) is False
    assert agent.status().paused
    agent.shutdown(1)
    again = start()
    assert again.status().paused
    assert again.flush(1) is False
    again.resume_delivery()
    assert not again.status().paused
    assert [event.event for event in sent(server, again)] == ["paused"]


# -- forget ----------------------------------------------------------------------------


def on_disk(place: Path, word: str) -> list[str]:
    """The files under a directory in which a word stands."""
    return [path.name for path in place.rglob("*") if path.is_file() and word in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("latin-1")
    except FileNotFoundError:
        # A part of a journal that the owner has unlinked during the look.
        return ""


def test_the_current_user_is_forgotten(start: MakeAgent, server: Collector, tmp_path: Path) -> None:
    """Nothing of theirs is sent or left on the disk, and somebody new is there instead."""
    agent = start()
    agent.track("Before The Login", {"who": "Q7forgetme"})
    agent.identify("forgetme@example.org")
    agent.add_user_properties({"nickname": "Q7forgetme"})
    agent.add_event_properties({"screen": "front"})
    agent.track("After The Login", {"who": "Q7forgetme"})
    user_id, session_id = agent.user_id, agent.session_id
    assert user_id is not None

    assert agent.forget(identity="forgetme@example.org") is True

    assert agent.identity is None
    assert agent.user_id not in (user_id, None)
    assert agent.session_id not in (session_id, None)
    status = agent.status()
    assert (status.recorded, status.queued, status.dropped_by) == (2, 0, {"purged": 2})
    for word in ("forgetme@example.org", "Q7forgetme", user_id):
        eventually(lambda word=word: on_disk(tmp_path / "state", word) == [])  # type: ignore[misc]
    agent.track("Somebody Else")
    (event,) = sent(server, agent)
    assert (event.user_id, event.identity) == (agent.user_id, None)
    assert event.properties == {"screen": "front"}
    assert not any(word in str(server.users) for word in ("forgetme", "Q7", user_id))


def test_only_the_one_who_is_named_is_forgotten(start: MakeAgent, server: Collector) -> None:
    """Whoever was here before or is here now stays, with all that was recorded of them."""
    agent = start()
    agent.identify("one")
    agent.track("e", {"of": "one"})
    agent.reset_identity()
    agent.identify("two")
    agent.track("e", {"of": "two"})
    user_id, session_id = agent.user_id, agent.session_id

    assert agent.forget(identity="one") is True

    assert (agent.user_id, agent.identity, agent.session_id) == (user_id, "two", session_id)
    assert [event.properties for event in sent(server, agent)] == [{"of": "two"}]
    assert agent.status().dropped_by == {"purged": 1}


def test_a_user_id_leads_to_the_person(start: MakeAgent, server: Collector) -> None:
    """What was recorded before the login goes, and so does what was recorded after it."""
    agent = start()
    agent.track("e")
    user_id = agent.user_id
    assert user_id is not None
    agent.identify("three")
    agent.track("e")
    agent.reset_identity()
    agent.track("e", {"of": "a stranger"})

    assert agent.forget(user_id=int(user_id)) is True

    assert [event.properties for event in sent(server, agent)] == [{"of": "a stranger"}]
    assert agent.status().dropped_by == {"purged": 2}


def test_somebody_forgotten_may_come_back(start: MakeAgent, server: Collector) -> None:
    """What is recorded under the identity afterwards is kept, under a new user id."""
    agent = start()
    agent.identify("four")
    agent.track("e", {"when": "before"})
    old = agent.user_id
    agent.forget(identity="four")
    agent.identify("four")
    agent.track("e", {"when": "after"})

    (event,) = sent(server, agent)

    assert event.properties == {"when": "after"}
    assert event.identity == "four" and event.user_id != old


def test_dead_letters_of_the_forgotten_go(start: MakeAgent, server: Collector) -> None:
    """What Heap has refused is deleted as well."""
    agent = start()
    agent.identify("five")
    agent.track("e")
    server.reply(400)
    agent.flush(30)
    eventually(lambda: agent.status().dead == 1)

    assert agent.forget(identity="five") is True

    status = agent.status()
    assert (status.recorded, status.dead, status.dropped_by) == (1, 0, {"purged": 1})


def test_the_forgotten_under_another_app_id(start: MakeAgent, server: Collector) -> None:
    """Everything in the directory is searched, whatever app id it was recorded under."""
    agent = start()
    agent.identify("six")
    agent.track("e")
    agent.set_app_id("12")
    agent.track("e", {"of": "a stranger"})

    assert agent.forget(identity="six") is True

    assert [event.properties for event in sent(server, agent)] == [{"of": "a stranger"}]


def test_forgetting_can_begin_with_new_event_properties(
    start: MakeAgent, server: Collector
) -> None:
    """With ``clear_event_properties_on_new_user`` they go with the user."""
    agent = start(clear_event_properties_on_new_user=True)
    agent.identify("seven")
    agent.add_event_properties({"name": "Seven"})
    agent.forget(identity="seven")
    agent.track("e")
    assert [event.properties for event in sent(server, agent)] == [{}]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({}, "identity must be a string"),
        ({"identity": "a", "user_id": 1}, "allowed is one of them"),
        ({"identity": True}, "got bool"),
        ({"identity": " "}, "got ' '"),
        ({"user_id": True}, "got bool"),
        ({"user_id": "abc"}, "got 'abc'"),
        ({"user_id": -1}, "must be an integer"),
        ({"user_id": 1.5}, "got float"),
    ],
)
def test_whom_to_forget_is_unclear(start: MakeAgent, names: Any, says: str) -> None:
    """It raises, says what came, and nobody is forgotten."""
    agent = start()
    agent.track("e")
    with pytest.raises(InvalidCall, match=re.escape(says)):
        agent.forget(**names)
    assert agent.status().queued == 1


def test_a_disabled_agent_forgets_nobody(start: MakeAgent, tmp_path: Path) -> None:
    """It does nothing, whatever it is given, and does not say that it had."""
    assert start(disabled=True).forget(identity="eight") is False
    assert start(disabled=True).forget() is False
    assert not (tmp_path / "state").exists()


def test_forgetting_without_tracking_owns_nothing(
    start: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that delivers nothing does not keep others from it."""
    agent = start()
    agent.identify("eleven")
    agent.track("e")
    agent.shutdown(0)
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    quiet = start()
    assert quiet.flush(1) is False
    assert quiet._store.ledger is None
    assert quiet.forget(identity="eleven") is True
    assert quiet._store.ledger is None
    monkeypatch.delenv("DO_NOT_TRACK")
    third = start()
    assert third._store.ledger is not None
    assert third.status().dropped_by == {"purged": 1}


def test_a_server_that_repeats_what_it_was_sent_is_forgotten_too(
    start: MakeAgent, server: Collector, tmp_path: Path
) -> None:
    """The last error names nobody who was to be forgotten, in memory or on the disk."""
    agent = start()
    agent.identify("thirteen-private")
    agent.track("e")
    server.reply(Reply(503, body=b"no room for thirteen-private"))
    assert agent.flush() is False
    agent.track("e")
    server.reply(Reply(400, body=b"who is thirteen-private?"))
    agent.flush()
    assert agent.forget(identity="thirteen-private") is True
    assert "thirteen" not in repr(agent.status())
    eventually(lambda: on_disk(tmp_path / "state", "thirteen-private") == [])


def test_forgetting_while_opted_out(start: MakeAgent) -> None:
    """What was kept for later is deleted all the same, and nobody new is made up."""
    agent = start()
    agent.identify("nine")
    agent.track("e")
    agent.opt_out(purge=False)
    assert agent.forget(identity="nine") is True
    assert agent.status().dropped_by == {"purged": 1}
    assert agent.user_id is None
    agent.opt_in()
    assert agent.identity is None


def test_forgetting_without_a_disk(start: MakeAgent, tmp_path: Path) -> None:
    """An agent that keeps everything in memory forgets there."""
    (tmp_path / "file").touch()
    agent = start(directory=tmp_path / "file" / "state")
    assert agent.status().storage == "memory"
    agent.identify("ten")
    agent.track("e")
    assert agent.forget(identity="ten") is True
    assert agent.status().dropped_by == {"purged": 1}


# -- disabled ------------------------------------------------------------------------


def test_disabled_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No verb looks at its arguments, nothing is made, everything answers."""
    monkeypatch.setenv("HEAP_AGENT_DISABLED", "1")
    before = threading.active_count()
    with Agent(directory=tmp_path / "state") as agent:
        silent_calls(agent)
        wrong: Any = Unshowable()
        agent.change_interval(wrong)
        agent.set_app_id(wrong)
        assert agent.start_ev_pairing(port=wrong).url == ""
        agent.stop_ev_pairing()
        agent.disable_visualizer_pairing_gesture()
        agent.enable_visualizer_pairing_gesture()
        agent.opt_out()
        agent.opt_in()
        agent.pause_delivery()
        agent.resume_delivery()
        assert agent.flush(wrong) is agent.sync(wrong) is True
        status = agent.status()
        assert (status.recorded, status.directory, status.storage) == (0, None, "memory")
        assert (agent.user_id, agent.identity, agent.session_id) == (None, None, None)
        assert agent.check() == []
        assert repr(agent) == "<Agent [disabled]>"
        agent.shutdown(wrong)
    assert threading.active_count() == before
    assert not (tmp_path / "state").exists()


# -- delivery, the end ---------------------------------------------------------------


def test_the_status_of_a_new_agent(start: MakeAgent, tmp_path: Path) -> None:
    """Every field, and the same as a dict for JSON."""
    agent = start()
    status = agent.status()
    assert (status.recorded, status.queued, status.delivered, status.dead, status.dropped) == (
        0,
    ) * 5
    assert (status.dropped_by, status.repaired_by, status.refused, status.repaired) == (
        {},
        {},
        0,
        0,
    )
    assert (status.storage, status.app_id) == ("disk", "11")
    assert status.directory == str((tmp_path / "state").resolve())
    assert status.bytes > 0
    assert (status.oldest_age, status.last_delivery, status.last_error) == (None, None, None)
    assert (status.next_attempt, status.drain_eta) == (None, None)
    assert (status.opted_out, status.paused, status.problems) == (False, False, ())
    assert status.delivers_here and status.balanced
    assert status.as_dict()["recorded"] == 0


def test_the_status_of_events_under_way(
    start: MakeAgent, server: Collector, clock: FakeClock
) -> None:
    """Age of the oldest event by the device's clock, and when Heap last took something."""
    agent = start(clock=clock)
    agent.track("e")
    clock.advance(90)
    agent.track("e")
    status = agent.status()
    assert (status.recorded, status.queued, status.oldest_age) == (2, 2, 90.0)
    sent(server, agent)
    status = agent.status()
    assert (status.delivered, status.queued, status.oldest_age) == (2, 0, None)
    assert status.last_delivery == NEW_YEAR + timedelta(seconds=90)
    assert isinstance(status.as_dict()["last_delivery"], str)


def test_problems_of_the_environment_are_shown(
    start: MakeAgent, monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    """A typo raises nothing: the default is in force, ERROR, visible in `status`."""
    monkeypatch.setenv("HEAP_AGENT_SYNC_INTERVAL", "often")
    agent = start()
    assert agent._config.sync_interval == 5.0
    (problem,) = agent.status().problems
    assert "HEAP_AGENT_SYNC_INTERVAL" in problem and "'often'" in problem
    assert messages(caplog, logging.ERROR) == [problem]


def test_a_directory_that_cannot_be_used(tmp_path: Path, server: Collector, caplog: Log) -> None:
    """Recording goes on in memory and is delivered from there; nothing raises."""
    file = tmp_path / "file"
    file.write_text("in the way")
    with Agent("11", directory=file / "state", endpoint=server.url, interval=3600) as agent:
        agent.track("from memory")
        status = agent.status()
        assert (status.storage, status.recorded, status.queued) == ("memory", 1, 1)
        assert status.problems and messages(caplog, logging.ERROR)
        assert [event.event for event in sent(server, agent)] == ["from memory"]
        assert agent.check() == []


def test_flush_without_a_network(start: MakeAgent) -> None:
    """False, in time, and everything is kept."""
    agent = start(endpoint="http://127.0.0.1:9")
    agent.track("e")
    assert agent.flush() is False
    assert agent.flush(timeout=0.2) is False
    status = agent.status()
    assert (status.queued, status.delivered) == (1, 0)
    assert status.last_error is not None


def test_since_when_it_fails(start: MakeAgent, server: Collector, tmp_path: Path) -> None:
    """From the first attempt that failed, over restarts and for others, until one succeeds."""
    clock = FakeClock()
    agent = start(endpoint="http://127.0.0.1:9", clock=clock)
    assert agent.status().failing_since is None
    agent.track("e")
    clock.advance(60)
    agent.flush()
    began = agent.status().failing_since
    assert began == NEW_YEAR + timedelta(seconds=60)
    clock.advance(3_600)
    agent.flush()
    assert agent.status().failing_since == began
    loaded = load({"directory": tmp_path / "state", "app_id": "11"})
    assert look(tmp_path / "state", loaded.config, clock, ()).failing_since == began
    agent.shutdown(0)
    agent = start(endpoint="http://127.0.0.1:9", clock=clock)
    agent.flush()
    assert agent.status().failing_since == began
    assert agent.status().as_dict()["failing_since"] == began.isoformat()
    agent.shutdown(0)
    agent = start(clock=clock)
    assert agent.flush(timeout=30)
    assert agent.status().failing_since is None
    # What is wrong with an event is no failure of delivery.
    server.reply(400, 400, 400, 400)
    agent.track("bad")
    agent.flush()
    assert agent.status().dead == 1 and agent.status().failing_since is None
    assert agent.check() == []


def test_flush_asks_nobody_where_nobody_can_deliver(start: MakeAgent, tmp_path: Path) -> None:
    """A queue of a later version, which no process has open, is not waited for."""
    start().shutdown(0)
    (queue,) = (tmp_path / "state").glob("queue-*.db")
    with closing(sqlite3.connect(queue)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version = 999")
        agent = start()
        agent.track("e")
        written = agent._store.journal.written
        assert agent.flush() is False
        assert agent._store.journal.written == written
        database.execute(f"PRAGMA user_version = {version}")


def test_flush_with_nothing_to_do(start: MakeAgent) -> None:
    """True."""
    assert start().flush() is True


def test_after_the_shutdown(start: MakeAgent, server: Collector) -> None:
    """Recording is for the next start; nothing is delivered; the directory is free."""
    agent = start()
    agent.track("before")
    agent.shutdown(5)
    agent.shutdown(5)
    assert agent.ended
    agent.track("after")
    agent.identify("alice-after")
    agent.track("after")
    assert agent.flush(1) is False
    assert agent.sync(5) is True
    status = agent.status()
    assert (status.recorded, status.queued, status.delivers_here) == (3, 2, False)
    again = start()
    assert again.status().delivers_here
    assert again.identity == "alice-after"
    assert [event.identity for event in sent(server, again)] == [None, "alice-after"]
    assert agent.flush() is True


def test_a_shutdown_delivers(start: MakeAgent, server: Collector) -> None:
    """What can be delivered within the timeout is."""
    agent = start()
    agent.track("goodbye")
    agent.shutdown(30)
    assert len(server.events("goodbye")) == 1


def test_with(tmp_path: Path, server: Collector) -> None:
    """The end of the block is the shutdown, and an exception passes."""
    with pytest.raises(KeyError):
        with Agent("11", directory=tmp_path, endpoint=server.url) as agent:
            agent.track("with")
            raise KeyError
    assert agent.ended
    assert len(server.events("with")) == 1


def test_async_with(tmp_path: Path, server: Collector) -> None:
    """The loop goes on while the last events are delivered."""

    async def main() -> int:
        turns = 0
        async with Agent("11", directory=tmp_path, endpoint=server.url) as agent:
            agent.track("async with")

            async def turn() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(turn())
            await asyncio.sleep(0)
        task.cancel()
        assert agent.ended
        return turns

    assert asyncio.run(main()) > 1
    assert len(server.events("async with")) == 1


def test_repr(start: MakeAgent) -> None:
    """State at a glance, and never an identity, which may be somebody's address."""
    agent = start()
    assert repr(agent).startswith("<Agent '11' [anonymous, disk] <Store ")
    agent.identify("alice@example.com")
    agent.shutdown(0)
    assert "[identified, " in repr(agent) and "shut down" in repr(agent)
    assert "alice" not in repr(agent)


def test_losses_are_reported(start: MakeAgent, server: Collector) -> None:
    """With report_losses=True the next delivery carries the counts as an event of its own."""
    agent = start(max_bytes=4 * 2**20, report_losses=True)
    for _ in range(12_000):
        agent.track("filler", {"text": "x" * 500})
    eventually(lambda: agent.status().dropped_by.get("full"))
    # However much came at once: only what has no room goes.
    assert agent.status().queued > 0

    def all_is_told() -> bool:
        agent.track("another delivery")
        agent.flush(30)
        reports = server.events("Heap Agent Losses")
        told = sum(int(event.properties["dropped_full"]) for event in reports)
        return told == agent.status().dropped_by["full"]

    eventually(all_is_told)


def test_check_finds_what_is_wrong(start: MakeAgent) -> None:
    """A counter that was tampered with no longer balances, and is named."""
    agent = start()
    agent.track("e")
    agent.flush()
    assert agent.check() == []
    ledger = agent._store.ledger
    assert ledger is not None
    with ledger.database.transact() as execute:
        execute("UPDATE counter SET value = value + 1 WHERE name = 'recorded'")
    assert any("do not balance" in sentence for sentence in agent.check())
    with ledger.database.transact() as execute:
        execute("UPDATE counter SET value = value - 1 WHERE name = 'recorded'")


def test_a_bad_region_does_not_matter_where_the_program_names_the_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what would send events to the wrong place holds delivery up."""
    monkeypatch.setenv("HEAP_AGENT_REGION", "mars")
    with Collector() as collector:
        agent = Agent("11", directory=tmp_path, endpoint=collector.url)
        agent.track("E")
        assert agent.flush(10)
        balanced(agent)
        agent.shutdown()
        assert len(collector.events()) == 1


def test_a_state_that_is_read_late_undoes_nothing(
    start: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads may read at once; what one of them has heard since stays heard."""
    agent, other = start(), start()
    read, reading = agent._store.read_state, threading.Event()

    def read_late() -> Any:
        found = read()
        if not reading.is_set():
            reading.set()
            other.opt_out()
            assert agent._reload() and agent.status().opted_out
        return found

    monkeypatch.setattr(agent._store, "read_state", read_late)

    assert agent._reload()

    assert reading.is_set() and agent.status().opted_out

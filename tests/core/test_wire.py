"""Rules of `heap_agent._core.wire`."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import (
    HOSTILE,
    Count,
    Impostor,
    LyingKey,
    MaskedDict,
    MaskedText,
    Size,
    Word,
    WornKey,
    names,
    valid_properties,
    wild_properties,
    wild_texts,
)

from heap_agent._core import limits
from heap_agent._core.events import Actor, Kind, Scalar
from heap_agent._core.repair import utf16_length
from heap_agent._core.wire import (
    KEY_BYTES,
    NOTHING,
    PATHS,
    STAMP_AT,
    STAMP_BYTES,
    Ambient,
    Stamper,
    Wire,
    actor_line,
    check_mapping,
    complete,
    event_name,
    idempotency_key,
    identify_body,
    join_batch,
    read_actor,
    record_of,
    restamp,
    stamp,
    user_body,
    who,
)
from heap_agent.exceptions import InvalidCall

WALL = 1_767_225_600_123_456
WRITER, SEQUENCE = "0123456789abcdef", 42
BOOT_CLOCK = 0x1_0000_00AB
KEY = idempotency_key(WRITER, SEQUENCE, BOOT_CLOCK)
ANONYMOUS = Actor("11", "8123456789012345")
IDENTIFIED = Actor("11", "8123456789012345", 'al"ice é')


def body_of(tail: bytes | None, actor: Actor = ANONYMOUS, wall: int = WALL) -> bytes:
    """One event as it is stored, put together as `Agent.track` and the absorber do."""
    assert tail is not None
    name, properties = tail.split(b"\n", 1)
    key = WRITER.encode(), SEQUENCE, BOOT_CLOCK
    return complete(stamp(wall), *key, who(actor, "77"), name, properties)


def tail_of(wire: Wire, event: Any, properties: Any, ambient: Ambient = NOTHING) -> bytes | None:
    """What the fast path makes, without the first line."""
    head = b"head"
    body = wire.body(event, properties, ambient.with_head(head))
    assert body is None or body.startswith(head)
    return None if body is None else body[len(head) :]


def properties_in(tail: bytes | None) -> dict[str, Any]:
    """What Heap would read."""
    found: dict[str, Any] = json.loads(body_of(tail))["properties"]
    return found


# -- one event ---------------------------------------------------------------------


def test_an_event_as_heap_gets_it() -> None:
    """The members, their order and their form are those of Heap's bulk track."""
    tail = tail_of(Wire(), "Purchase", {"dollars": 50, "item": "Furby"}, NOTHING)
    assert body_of(tail) == (
        b'{"timestamp":"2026-01-01T00:00:00.123+00:00",'
        b'"idempotency_key":"0123456789abcdef-00000000002a-000000ab",'
        b'"user_id":"8123456789012345","session_id":"77","event":"Purchase",'
        b'"properties":{"dollars":50,"item":"Furby"}}'
    )


ambients = st.one_of(st.just({}), valid_properties(most=3))


@settings(max_examples=200)
@given(names(), st.none() | valid_properties(), ambients)
def test_fast_and_slow_path_agree(
    name: str, properties: dict[str, Scalar] | None, ambient: dict[str, Scalar]
) -> None:
    """For what needs no repair both paths give the same bytes, and no fault."""
    wire, around = Wire(), Ambient.of(ambient)
    slow = wire.mended(name, properties, around)
    assert slow.faults == ()
    fast = tail_of(wire, name, properties, around)
    if fast is not None:
        assert fast == slow.data
    assert properties_in(slow.data) == {**ambient, **(properties or {})}


@settings(max_examples=200)
@given(
    st.sampled_from(["a", "b", "c"]), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9))
)
def test_an_events_own_property_wins(name: str, ambient: dict[str, int]) -> None:
    """A property of the event overrides an ambient one, on either path, in the same order."""
    wire, around = Wire(), Ambient.of(ambient)
    own: dict[str, Scalar] = {name: "own", "z": 1}
    fast, slow = tail_of(wire, "e", own, around), wire.mended("e", own, around).data
    assert fast == slow
    assert properties_in(fast) == {**ambient, **own}
    assert list(properties_in(fast))[-2:] == [name, "z"]


def test_ambient_properties_stand_alone_too() -> None:
    """An event without properties of its own carries the ambient ones."""
    around = Ambient.of({"site": "Oslo"})
    for properties in (None, {}):
        assert properties_in(tail_of(Wire(), "e", properties, around)) == {"site": "Oslo"}


def is_valid(body: bytes) -> None:
    """Assert that an event is one that Heap takes, by the numbers in `limits`."""
    event = json.loads(body.decode())
    assert 1 <= utf16_length(event["event"]) <= limits.EVENT_NAME
    assert event["event"].strip()
    assert len(body) <= limits.EVENT_BYTES
    for key, value in event["properties"].items():
        assert key.strip() and utf16_length(key) <= limits.PROPERTY_KEY
        assert type(value) in (str, int, float)
        if type(value) is str:
            assert utf16_length(value) <= limits.EVENT_VALUE
        elif type(value) is int:
            assert abs(value) <= limits.SAFE_INTEGER
        else:
            assert abs(value) < float("inf")


@settings(max_examples=300)
@given(wild_texts(), wild_properties())
def test_whatever_comes_the_answer_is_valid(name: str, properties: Mapping[Any, Any]) -> None:
    """No input makes bytes that Heap would refuse; an event is refused only without a name."""
    wire = Wire()
    fast = tail_of(wire, name, properties, NOTHING)
    slow = wire.mended(name, properties, NOTHING)
    if fast is not None:
        is_valid(body_of(fast))
        assert fast == slow.data
    if slow.data is None:
        assert [fault.kind for fault in slow.faults] == ["empty_name"]
    else:
        is_valid(body_of(slow.data))


@pytest.mark.parametrize(
    "properties",
    [
        {"x": Word("text")},
        {"x": Count(3)},
        {"x": Size(0.5)},
        {Word("x"): 1},
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": -float("inf")},
        {"x": 2**53},
        {"x": -(2**53)},
        {"x": None},
        {"x": b""},
        {"x": [1]},
        {"x": "\ud800"},
        {"\udc00": 1},
        {"x": "é" * 512},
        {"x": "x" * 1024},
        {"": 1},
        {" \n": 1},
        {"k" * 257: 1},
        {1: 1},
        {"x": 1, 2: 2},
        OrderedDict(x=1),
        "text",
        [("a", 1)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_needs_thought_is_left_to_the_slow_path(properties: Any) -> None:
    """Subclasses, odd numbers, long or broken text and other mappings are not encoded at once."""
    assert tail_of(Wire(), "e", properties, NOTHING) is None


@pytest.mark.parametrize("name", ["", " ", "\t\n", "x" * 256, "\ud800", "😀" * 128, Word("e")])
def test_names_that_need_thought(name: str) -> None:
    """Blank, long and broken names, and text of other classes, are left to the slow path."""
    assert tail_of(Wire(), name, None, NOTHING) is None


def test_what_equals_a_known_name_is_taken_for_it() -> None:
    """The same bytes, without a second look at its class; what cannot be looked up is left."""
    wire, around = Wire(), Ambient.of({"site": "Oslo"}, b"head")
    known = wire.body("e", {"a": 1}, around)
    assert known == b'head"e"\n{"site":"Oslo","a":1}'
    assert wire.body(Word("e"), {"a": 1}, around) == known
    assert wire.body(["e"], {"a": 1}, around) is None


def test_what_is_remembered_of_names_is_bounded() -> None:
    """By their number, and by their bytes where much stands on every event."""
    wire, around = Wire(), Ambient.of({f"k{at}": "x" * 1000 for at in range(8)}, b"head")
    for number in range(1_000):
        assert wire.body(f"event {number}", {"a": 1}, around)
        assert sum(map(len, around.leads.values())) <= 1_048_576


@pytest.mark.parametrize("length", [127, 128, 255])
def test_long_names_are_taken_up_to_the_limit(length: int) -> None:
    """A name of as many characters as Heap allows goes the fast way, whole."""
    tail = tail_of(Wire(), "n" * length, None, NOTHING)
    assert json.loads(body_of(tail))["event"] == "n" * length


def test_text_at_the_limit_goes_the_fast_way() -> None:
    """1023 ASCII characters are within the limit and need no count of UTF-16 units."""
    assert properties_in(tail_of(Wire(), "e", {"x": "x" * 1023}, NOTHING)) == {"x": "x" * 1023}


def test_booleans_become_text() -> None:
    """True and False are sent as "true" and "false", as Heap's SDKs do, without a fault."""
    given = {"yes": True, "no": False, "one": 1}
    tail = tail_of(Wire(), "e", given, NOTHING)
    assert properties_in(tail) == {"yes": "true", "no": "false", "one": 1}
    assert given == {"yes": True, "no": False, "one": 1}
    assert Wire().mended("e", given, NOTHING).data == tail
    assert Wire().mended("e", given, NOTHING).faults == ()


def test_an_event_that_is_too_large_loses_its_largest_properties() -> None:
    """The slow path leaves out as few as make it fit, and says which."""
    big = {f"k{number:04}": "x" * 1023 for number in range(800)}
    wire = Wire()
    assert tail_of(wire, "e", {**big, "small": 1}, NOTHING) is None
    tail = wire.mended("e", {**big, "small": 1}, NOTHING)
    assert {fault.kind for fault in tail.faults} == {"too_large"}
    is_valid(body_of(tail.data))
    assert properties_in(tail.data)["small"] == 1
    assert len(properties_in(tail.data)) + len(tail.faults) == 801


def test_even_the_longest_head_leaves_an_event_within_its_limit() -> None:
    """The room kept for name, ids and key is enough for the worst that they can be."""
    worst = Actor("1" * 20, "9" * 16, "\x01" * limits.IDENTITY)
    filler = {f"k{number:04}": "x" * 1023 for number in range(800)}
    tail = Wire().mended("\x01" * limits.EVENT_NAME, filler, NOTHING)
    assert len(body_of(tail.data, worst)) <= limits.EVENT_BYTES


@pytest.mark.parametrize("event", [None, 1, b"e", ["e"], object()])
def test_a_name_that_is_no_text_is_the_programs_fault(event: object) -> None:
    """The error says which argument, what came and what is allowed."""
    assert tail_of(Wire(), event, None, NOTHING) is None
    shown = "None" if event is None else type(event).__name__
    with pytest.raises(InvalidCall, match=f"^event must be a string of 1 to 255 .*got {shown}$"):
        Wire().mended(event, None, NOTHING)


@pytest.mark.parametrize("properties", [1, "text", [("a", 1)], object()])
def test_properties_that_are_no_mapping_are_the_programs_fault(properties: object) -> None:
    """The error says which argument, what came and what is allowed."""
    shown = type(properties).__name__
    with pytest.raises(InvalidCall, match=f"^properties must be a mapping .*got {shown}$"):
        Wire().mended("e", properties, NOTHING)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_objects_that_lie_or_raise_when_asked_what_they_are_are_the_programs_fault(
    hostile: str,
) -> None:
    """Neither as an event nor as properties do they raise anything of their own."""
    for event, properties in ((HOSTILE[hostile](), None), ("e", HOSTILE[hostile]())):
        assert tail_of(Wire(), event, properties, NOTHING) is None
        with pytest.raises(InvalidCall, match="got "):
            Wire().mended(event, properties, NOTHING)


def test_text_and_mappings_that_hide_their_class() -> None:
    """Text is taken for what it is; a mapping that cannot be asked is the program's fault."""
    wire = Wire()
    assert properties_in(wire.mended(MaskedText("e"), None, NOTHING).data) == {}
    with pytest.raises(InvalidCall, match="properties must be a mapping .*got MaskedDict"):
        wire.mended("e", MaskedDict(a=1), NOTHING)


def test_a_mapping_behind_a_proxy_is_one() -> None:
    """A proxy that reads like a mapping, and says that it is one, is taken."""

    class Proxy(Impostor):
        def __iter__(self) -> Iterator[str]:
            return iter(["a"])

        def __getitem__(self, key: str) -> int:
            return 1

    assert properties_in(Wire().mended("e", Proxy(dict), NOTHING).data) == {"a": 1}
    broken = Wire().mended("e", Impostor(dict), NOTHING)
    assert [fault.kind for fault in broken.faults] == ["unreadable"]


def worn(value: object) -> dict[Any, Any]:
    """A dict with a key that cannot be hashed any more."""
    return {"a": 1, WornKey(): value}


@pytest.mark.parametrize("value", [1, True, "x"])
@pytest.mark.parametrize("ambient", [{}, {"site": "Oslo"}])
def test_a_key_that_cannot_be_hashed_again_is_left_out(
    value: object, ambient: dict[str, Scalar]
) -> None:
    """Whatever the step that comes upon it, the event is recorded without it."""
    wire, around = Wire(), Ambient.of(ambient)
    tail_of(wire, "e", {"a": 1}, around)
    assert tail_of(wire, "e", worn(value), around) is None
    mended = wire.mended("e", worn(value), around)
    assert [fault.kind for fault in mended.faults] == ["key_type"]
    assert properties_in(mended.data) == {"a": 1, **ambient}


@pytest.mark.parametrize("text", ["", " ", "k" * 600])
def test_a_key_that_passes_for_another_is_taken_for_what_it_is(text: str) -> None:
    """A bad key does not get through because it claims to be one that was found good."""
    wire = Wire()
    tail_of(wire, "e", {"a": 1}, NOTHING)
    assert tail_of(wire, "e", {LyingKey(text, "a"): 1}, NOTHING) is None
    assert properties_in(wire.mended("e", {LyingKey(text, "a"): 1}, NOTHING).data) == {}


def test_none_is_a_mapping_only_where_that_is_allowed() -> None:
    """`track` takes None for no properties; the verbs that add some do not."""
    check_mapping(None, "properties", optional=True)
    with pytest.raises(InvalidCall, match="got None"):
        check_mapping(None, "properties")


def test_memories_are_bounded() -> None:
    """A program that makes up names and keys does not fill the memory, and stays correct."""
    wire = Wire()
    for number in range(5_000):
        tail = tail_of(wire, f"e{number}", {f"k{number}": number}, NOTHING)
        assert tail == b'"e%d"\n{"k%d":%d}' % (number, number, number)
    assert len(wire._names) <= 4_096 and len(wire._keys) <= 4_096


@pytest.mark.parametrize("name", ["e\nERROR forged", "e\u2028\x1b[31m", "n" * 255, "\0" * 255])
def test_the_log_gets_a_name_that_fills_or_forges_no_line(name: str) -> None:
    """What is sent is the name itself."""
    tail = Wire().mended(name, {"x": None}, NOTHING)
    assert json.loads(body_of(tail.data))["event"] == name
    assert tail.name.isprintable() and len(tail.name) <= 64
    assert Wire().mended("Ordered", {"x": None}, NOTHING).name == "Ordered"


def test_an_event_of_countless_keys_is_not_remembered() -> None:
    """More keys than are remembered in all leave the memory, and the others, alone."""
    wire = Wire()
    assert tail_of(wire, "e", {"a": 1}, NOTHING)
    assert tail_of(wire, "e", {f"k{number}": number for number in range(5_000)}) is None
    assert wire._keys == {"a"}


def test_a_dict_that_another_thread_changes() -> None:
    """Whatever the moment at which a dict is changed, the event is valid."""
    shared: dict[str, Any] = {f"k{number}": "x" for number in range(50)}
    done = threading.Event()

    def meddle() -> None:
        values = ["x", float("nan"), None, 2**60, "\ud800", True, [1]]
        for number in range(20_000):
            shared[f"k{number % 50}"] = values[number % 7]
            if number % 3 == 0:
                shared.pop(f"k{(number + 9) % 50}", None)
        done.set()

    thread = threading.Thread(target=meddle)
    thread.start()
    wire, looks = Wire(), 0
    while not done.is_set() or looks == 0:
        tail = tail_of(wire, "e", shared, NOTHING)
        is_valid(body_of(wire.mended("e", shared, NOTHING).data if tail is None else tail))
        looks += 1
    thread.join()


# -- who ---------------------------------------------------------------------------


@pytest.mark.parametrize("actor", [ANONYMOUS, IDENTIFIED])
def test_never_both_ids(actor: Actor) -> None:
    """Anonymous events carry user_id, identified ones identity; Heap refuses both together."""
    event = json.loads(body_of(tail_of(Wire(), "e", None, NOTHING), actor))
    assert ("user_id" in event) is (actor.identity is None)
    assert event.get("identity") == actor.identity
    assert event["session_id"] == "77"


@given(
    st.builds(
        Actor,
        st.just("11"),
        st.just("5"),
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    ),
    st.sampled_from([None, "77"]),
)
def test_an_actor_survives_the_journal(actor: Actor, session_id: str | None) -> None:
    """The first line of a record reads back, and ends at the only line break."""
    line = actor_line(actor, session_id)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert read_actor(line) == (actor, session_id)


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"[", b'["a","b",null]'])
def test_other_lines_are_no_actors(line: bytes) -> None:
    """A damaged line raises ValueError."""
    with pytest.raises(ValueError):
        read_actor(line)


# -- time --------------------------------------------------------------------------

walls = st.integers(-(10**18), 10**18)


@given(walls)
def test_timestamps_have_one_width(wall: int) -> None:
    """Every wall time, sane or not, becomes 29 bytes between 1970 and 9999."""
    written = stamp(wall)
    assert len(written) == STAMP_BYTES
    moment = datetime.fromisoformat(written.decode())
    expected = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(
        milliseconds=min(max(wall, 0), 253_402_300_799_999_000) // 1000
    )
    assert moment == expected


@given(st.lists(walls | st.integers(WALL, WALL + 3_000) | st.integers(-3_000, 3_000), max_size=20))
@example([-1])
def test_the_remembering_stamper_writes_the_same(moments: list[int]) -> None:
    """Remembering the second changes no byte."""
    stamper = Stamper()
    assert [stamper(wall) for wall in moments] == [stamp(wall) for wall in moments]


@settings(max_examples=60)
@given(names(), valid_properties(most=3), walls)
def test_restamp_changes_the_timestamp_alone(
    name: str, properties: dict[str, Scalar], wall: int
) -> None:
    """A repaired time is a slice; every other byte stays, the key too."""
    body = body_of(Wire().mended(name, properties, NOTHING).data)
    again = restamp(body, wall)
    assert again[STAMP_AT : STAMP_AT + STAMP_BYTES] == stamp(wall)
    assert again[:STAMP_AT] == body[:STAMP_AT]
    assert again[STAMP_AT + STAMP_BYTES :] == body[STAMP_AT + STAMP_BYTES :]
    assert again.index(KEY) == body.index(KEY)
    assert restamp(again, WALL) == body


def test_an_identify_can_be_restamped_too() -> None:
    """Its first member has the same width at the same place."""
    body = identify_body(IDENTIFIED, WALL)
    assert json.loads(restamp(body, 0)) == {
        "timestamp": "1970-01-01T00:00:00.000+00:00",
        "user_id": "8123456789012345",
        "identity": 'al"ice é',
    }


# -- requests ----------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.tuples(names(), valid_properties(most=3)), min_size=1, max_size=4))
def test_a_joined_batch_is_what_encoding_all_of_it_would_give(
    events: list[tuple[str, dict[str, Scalar]]],
) -> None:
    """A request's body has every event as it is stored, byte for byte, and nothing else."""
    wire = Wire()
    bodies = [body_of(wire.mended(*event, NOTHING).data) for event in events]
    batch = join_batch(Kind.EVENT, "11", bodies)
    assert json.loads(batch) == {"app_id": "11", "events": [json.loads(body) for body in bodies]}
    assert batch == b'{"app_id":"11","events":[' + b",".join(bodies) + b"]}"


def test_the_other_kinds_of_request() -> None:
    """User properties are bulk; identify has no bulk form and exactly one body."""
    users = [user_body("a", {"x": 1}), user_body('b"', {})]
    assert json.loads(join_batch(Kind.USER_PROPERTIES, "11", users)) == {
        "app_id": "11",
        "users": [
            {"identity": "a", "properties": {"x": 1}},
            {"identity": 'b"', "properties": {}},
        ],
    }
    one = identify_body(IDENTIFIED, WALL)
    assert json.loads(join_batch(Kind.IDENTIFY, "11", [one])) == {
        "app_id": "11",
        **json.loads(one),
    }
    with pytest.raises(ValueError):
        join_batch(Kind.IDENTIFY, "11", [one, one])
    account = b'{"account_id":"acme","properties":{}}'
    assert json.loads(join_batch(Kind.ACCOUNT_PROPERTIES, "11", [account])) == {
        "app_id": "11",
        "accounts": [json.loads(account)],
    }
    assert set(PATHS) == {
        Kind.EVENT,
        Kind.IDENTIFY,
        Kind.USER_PROPERTIES,
        Kind.ACCOUNT_PROPERTIES,
    }


@settings(max_examples=100)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**63 - 1))
def test_a_key_has_a_fixed_width_and_says_which_record(
    writer: int, sequence: int, boot_clock: int
) -> None:
    """The journal, the number in it, and when: 38 bytes that no other record has."""
    key = idempotency_key(f"{writer:016x}", sequence, boot_clock)

    assert len(key) == KEY_BYTES == 38
    parts = [int(part, 16) for part in key.split(b"-")]
    assert parts == [writer, sequence, boot_clock % 2**32]
    assert record_of(key.decode()) == (f"{writer:016x}", sequence)


@given(names(), valid_properties(most=2), st.sampled_from([ANONYMOUS, IDENTIFIED]))
def test_the_name_is_found_again(name: str, properties: dict[str, Scalar], actor: Actor) -> None:
    """The token read from stored bytes is the name's JSON, whatever stands around it."""
    body = body_of(Wire().mended(name, properties, NOTHING).data, actor)
    assert json.loads(event_name(body)) == name


def test_the_name_is_found_behind_a_hostile_identity() -> None:
    """Text that looks like a member cannot pose as one, because its quotes are escaped."""
    actor = Actor("11", "1", ',"event":"x","properties":')
    body = body_of(tail_of(Wire(), "real", None, NOTHING), actor)
    assert event_name(body) == '"real"'

"""What a server may send, and what it may not: the limits, strictly and with repairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import wild_keys, wild_properties, wild_values

from heap_agent._core import limits
from heap_agent._server.items import (
    Encoded,
    encode_account,
    encode_event,
    encode_identify,
    encode_user,
)
from heap_agent._server.values import AccountProperties, Event, UserProperties
from heap_agent.exceptions import InvalidValue

MOST = limits.SAFE_INTEGER


def event(**fields: Any) -> dict[str, Any]:
    """A good event, with other fields."""
    return {"event": "Ordered", "identity": "alice", **fields}


def sent(encoded: Encoded) -> Any:
    """What Heap reads."""
    return json.loads(encoded.data)


def refusal(item: Any, **options: Any) -> str:
    """Why an event is refused."""
    with pytest.raises(InvalidValue) as caught:
        encode_event(item, **options)
    return str(caught.value)


# -- shape --------------------------------------------------------------------------


def test_an_event_has_heaps_fields() -> None:
    """What is not given is not sent."""
    assert sent(encode_event({"event": "E", "user_id": 5})) == {
        "user_id": "5",
        "event": "E",
        "properties": {},
    }


def test_every_field_arrives() -> None:
    """From an attrs item and from a mapping, the same bytes."""
    fields = {
        "event": "E",
        "identity": "alice",
        "timestamp": "2017-03-10T22:21:56+00:00",
        "properties": {"a": 1, "b": "x", "c": 2.5},
        "idempotency_key": "k",
        "session_id": 7,
    }
    made = Event(str(fields.pop("event")), **fields)  # type: ignore[arg-type]
    encoded = encode_event(made)

    assert encoded == encode_event(attrs.asdict(made))
    assert encoded.actor == "alice"
    assert sent(encoded) == {
        "timestamp": "2017-03-10T22:21:56.000+00:00",
        "idempotency_key": "k",
        "identity": "alice",
        "session_id": "7",
        "event": "E",
        "properties": {"a": 1, "b": "x", "c": 2.5},
    }


def test_users_and_accounts_have_theirs() -> None:
    """From attrs items and from mappings."""
    user = UserProperties(5, {"plan": "Pro"})
    account = AccountProperties("acme", {"seats": 9})

    assert encode_user(user) == encode_user({"identity": 5, "properties": {"plan": "Pro"}})
    assert sent(encode_user(user)) == {"identity": "5", "properties": {"plan": "Pro"}}
    assert encode_account(account) == encode_account(attrs.asdict(account))
    assert sent(encode_account(account)) == {"account_id": "acme", "properties": {"seats": 9}}


@pytest.mark.parametrize(
    "item, words",
    [
        (None, "item: None came"),
        ("Ordered", "item: 'Ordered' came"),
        ([("event", "E")], "item: a value of type list came"),
        (UserProperties("a", {}), "item: a value of type UserProperties came"),
        (event(propertis={}), "the field 'propertis' came; allowed are event, identity"),
        (event(app_id="11"), "the field 'app_id' came"),
        ({"identity": "a"}, "event: None came"),
        (event(user_id=5), "both came; exactly one"),
        ({"event": "E"}, "neither came; exactly one"),
        (event(properties=[("a", 1)]), "properties: a value of type list came"),
        (event(idempotency_key=""), "idempotency_key: '' came"),
        (event(session_id=1.5), "session_id: 1.5 came"),
    ],
)
def test_a_wrong_shape_is_refused_whatever_repair_says(item: Any, words: str) -> None:
    """The reason names the field, what came, and what is allowed."""
    assert words in refusal(item)
    assert words in refusal(item, repair=True)


def test_a_mapping_that_cannot_be_read_is_refused() -> None:
    """Its error is named, and is no error of ours."""

    class Broken(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise LookupError("gone")

        def __iter__(self) -> Iterator[str]:
            return iter(("event",))

        def __len__(self) -> int:
            return 1

    assert "reading it raised LookupError" in refusal(Broken())


def test_users_and_accounts_need_properties() -> None:
    """A user without them would be a request for nothing."""
    with pytest.raises(InvalidValue, match="properties: None came"):
        encode_user({"identity": "a"})
    with pytest.raises(InvalidValue, match="properties: None came"):
        encode_account({"account_id": "a"})


# -- the vectors of Heap's own clients -------------------------------------------------


def test_names_identities_keys_and_values_at_their_limits() -> None:
    """255 and 1024 are taken, in UTF-16 units."""
    item = event(
        event="e" * 1024,
        identity="i" * 255,
        properties={"k" * 1024: "v" * 1024, "😀": "😀" * 512, "empty": ""},
    )
    assert sent(encode_event(item))["properties"] == item["properties"]
    assert len(sent(encode_event(item))["identity"]) == 255
    user = {"identity": "i" * 255, "properties": {"k" * 1024: "v" * 1024}}
    assert sent(encode_user(user)) == user
    account = {"account_id": "i" * 255, "properties": {"k" * 1024: "v" * 1024}}
    assert sent(encode_account(account)) == account


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"event": "e" * 1025}, "event:"),
        ({"event": "😀" * 513}, "event:"),
        ({"identity": "i" * 256}, "identity:"),
        ({"identity": "😀" * 128}, "identity:"),
        ({"properties": {"k" * 1025: 1}}, "properties: key:"),
        ({"properties": {"a": "v" * 1025}}, "properties['a']:"),
        ({"properties": {"a": "é" + "😀" * 512}}, "properties['a']:"),
    ],
)
def test_one_more_is_refused(fields: dict[str, Any], words: str) -> None:
    """256 and 1025 are not, and nothing is cut."""
    reason = refusal(event(**fields))
    assert reason.startswith(words)
    assert len(reason) < 400


def test_an_integer_identity_is_its_text() -> None:
    """123456789 is "123456789", also where zero."""
    assert sent(encode_event(event(identity=123456789)))["identity"] == "123456789"
    assert sent(encode_event(event(identity=0)))["identity"] == "0"


@pytest.mark.parametrize("name", ["", "  ", None, 5, b"E", True])
def test_a_name_is_text(name: Any) -> None:
    """Neither blank nor anything else."""
    assert refusal(event(event=name)).startswith("event: ")
    assert refusal(event(event=name), repair=True).startswith("event: ")


# -- who ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    ["", " ", "null", "Undefined", "nan", "guest", "\ud800", True, 1.5, b"a", ["a"], "<A at 0x1f>"],
)
@pytest.mark.parametrize("repair", [False, True])
def test_what_names_nobody_is_refused_and_never_repaired(identity: Any, repair: bool) -> None:
    """A merge at Heap cannot be undone."""
    assert refusal(event(identity=identity), repair=repair).startswith("identity: ")


def test_the_list_of_names_of_nobody_is_the_callers() -> None:
    """A company may have a user called guest."""
    assert sent(encode_event(event(identity="guest"), refused=frozenset()))["identity"] == "guest"
    assert "identity" in refusal(event(identity="robot"), refused=frozenset({"robot"}))


@pytest.mark.parametrize("user_id", [0, 1, MOST, "0", "1", str(MOST)])
def test_a_user_id_is_a_53_bit_number(user_id: Any) -> None:
    """Sent as decimal text."""
    encoded = encode_event({"event": "E", "user_id": user_id})
    assert sent(encoded)["user_id"] == encoded.actor == str(user_id)


@pytest.mark.parametrize(
    "user_id",
    [-1, MOST + 1, str(MOST + 1), "-1", "01", "1.0", " 1", "", "a", "٣", 1.0, True, "9" * 99],
)
def test_other_user_ids_are_refused(user_id: Any) -> None:
    """Whatever JavaScript would not read back as it was."""
    assert refusal({"event": "E", "user_id": user_id}).startswith("user_id: ")


# -- when ---------------------------------------------------------------------------

UTC = timezone.utc


@pytest.mark.parametrize(
    "given, expected",
    [
        (datetime(2020, 1, 2, 3, 4, 5, 678_901, UTC), "2020-01-02T03:04:05.678+00:00"),
        (
            datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=5))),
            "2020-01-01T19:00:00.000+00:00",
        ),
        (0, "1970-01-01T00:00:00.000+00:00"),
        (1_577_934_245.5, "2020-01-02T03:04:05.500+00:00"),
        ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05.000+00:00"),
        ("2020-01-02t03:04:05.6z", "2020-01-02T03:04:05.600+00:00"),
        ("2020-01-02 03:04+02", "2020-01-02T01:04:00.000+00:00"),
        ("2020-01-02 03:04:05.123456789 -0130", "2020-01-02T04:34:05.123+00:00"),
        ("9999-12-31T23:59:59+00:00", "9999-12-31T23:59:59.000+00:00"),
    ],
)
def test_a_timestamp_in_every_form(given: Any, expected: str) -> None:
    """An aware datetime, seconds since 1970, ISO-8601 with an offset; sent in UTC."""
    assert sent(encode_event(event(timestamp=given)))["timestamp"] == expected


@pytest.mark.parametrize(
    "given",
    [
        1_577_934_245_500,
        -1,
        float("nan"),
        float("inf"),
        1.7e308,
        pytest.param(10**5000, id="huge"),
        True,
        "yesterday",
        "2020-01-02",
        "20200102T030405Z",
        "2020-02-30T00:00:00Z",
        "2020-01-02T03:04:05+99:00",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        pytest.param(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), id="year 0"),
        "٢٠٢٠-٠١-٠٢T٠٣:٠٤:٠٥Z",
        timedelta(1),
    ],
)
@pytest.mark.parametrize("repair", [False, True])
def test_a_time_is_never_guessed(given: Any, repair: bool) -> None:
    """Milliseconds, impossible days, other types: refused, also with repairs."""
    assert refusal(event(timestamp=given), repair=repair).startswith("timestamp: ")


@pytest.mark.parametrize("given", [datetime(2020, 6, 1, 12), "2020-06-01T12:00:00"])
def test_a_time_without_a_zone_is_local_time_only_when_repaired(given: Any) -> None:
    """And a fault that is counted."""
    assert "without a time zone" in refusal(event(timestamp=given))

    encoded = encode_event(event(timestamp=given), repair=True)
    expected = datetime(2020, 6, 1, 12).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000+00:00")
    assert sent(encoded)["timestamp"] == expected
    assert [fault.kind for fault in encoded.faults] == ["naive_time"]


def test_the_time_of_the_call_is_for_events_without_a_key_of_their_own() -> None:
    """What has its own key goes as it was given, so that the call can be repeated."""
    assert "timestamp" not in sent(encode_event(event()))
    assert sent(encode_event(event(), now=0.0))["timestamp"] == "1970-01-01T00:00:00.000+00:00"
    assert "timestamp" not in sent(encode_event(event(idempotency_key="k"), now=0.0))


def test_a_key_is_made_only_where_there_is_none() -> None:
    """The caller's key wins."""
    assert "idempotency_key" not in sent(encode_event(event()))
    assert sent(encode_event(event(), key="made"))["idempotency_key"] == "made"
    own = encode_event(event(idempotency_key="own"), key="made")
    assert sent(own)["idempotency_key"] == "own"


# -- properties -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        [],
        ["a"],
        {"a": 1},
        float("nan"),
        float("-inf"),
        MOST + 1,
        pytest.param(10**5000, id="huge"),
        b"a",
        Decimal(1),
        datetime.now(),
        object(),
        "\ud800",
    ],
)
def test_values_are_text_and_numbers(value: Any) -> None:
    """Strictly; nothing is converted behind the caller's back."""
    assert refusal(event(properties={"a": value})).startswith("properties['a']: ")


def test_values_of_subclasses_are_what_they_are() -> None:
    """A member of an IntEnum is a number, a str subclass a text."""

    class Size(IntEnum):
        LARGE = 3

    class Text(str):
        def __str__(self) -> str:
            return "something else"

    encoded = encode_event(event(properties={"a": Size.LARGE, "b": Text("b"), "c": -MOST}))
    assert sent(encoded)["properties"] == {"a": 3, "b": "b", "c": -MOST}


@pytest.mark.parametrize("key", ["", " ", None, True, 1.5, b"a", ("a",), "\ud800"])
def test_keys_are_text(key: Any) -> None:
    """Not blank; other types are refused by name."""
    assert refusal(event(properties={key: 1})).startswith("properties: ")


def test_a_number_as_a_key_is_its_text() -> None:
    """Heap's reference allows them; twice the same text is refused."""
    assert sent(encode_event(event(properties={5: 1})))["properties"] == {"5": 1}
    assert "two keys are '5'" in refusal(event(properties={5: 1, "5": 2}))


@pytest.mark.parametrize("key", ["user_id", "id", "Id", "iD", "ID"])
def test_heaps_own_user_properties_are_refused(key: str) -> None:
    """On users only: an event or an account may have them."""
    with pytest.raises(InvalidValue, match="Heap's own"):
        encode_user({"identity": "a", "properties": {key: 1}})
    assert encode_user({"identity": "a", "properties": {key: 1, "b": 2}}, repair=True).faults
    encode_account({"account_id": "a", "properties": {key: 1}})
    encode_event(event(properties={key: 1}))


def test_an_item_that_no_request_can_hold_is_refused() -> None:
    """With repairs its largest properties go."""
    properties = {f"k{index}": "😀" * 512 for index in range(400)}
    assert "bytes came; 786,432 are allowed" in refusal(event(properties=properties))

    encoded = encode_event(event(properties=properties), repair=True)
    assert len(encoded.data) <= limits.EVENT_BYTES
    assert {fault.kind for fault in encoded.faults} == {"too_large"}


def test_repairs_are_the_agents_with_a_servers_limits() -> None:
    """Booleans, lists, nesting and dates become text; the rest is cut or left out."""
    encoded = encode_event(
        event(
            event="e" * 1030,
            properties={
                "flag": True,
                "list": [1, "b"],
                "deep": {"er": 1},
                "day": datetime(2020, 1, 2, tzinfo=UTC),
                "none": None,
                "long": "v" * 1030,
                "k" * 1024: 1,
                "k" * 1025: 1,
            },
        ),
        repair=True,
    )
    got = sent(encoded)
    assert len(got["event"]) == len(got["properties"].pop("long")) == 1024
    assert got["properties"] == {
        "flag": "true",
        "list": "1||b",
        "deep.er": 1,
        "day": "2020-01-02T00:00:00+00:00",
        "k" * 1024: 1,
    }
    kinds = [fault.kind for fault in encoded.faults]
    assert sorted(kinds) == ["key_too_long", "no_value", "too_long", "too_long"]


# -- whatever comes -------------------------------------------------------------------

fields = st.dictionaries(
    st.one_of(st.sampled_from([f.name for f in attrs.fields(Event)]), st.text(max_size=8)),
    st.one_of(wild_values(), wild_properties(), st.text(max_size=300), st.integers()),
    max_size=7,
)


@settings(max_examples=150)
@given(item=st.one_of(fields, wild_values(), wild_keys()), repair=st.booleans())
def test_any_item_is_json_or_an_invalid_value(item: Any, repair: bool) -> None:
    """Nothing else comes out, and what is sent keeps every limit."""
    try:
        encoded = encode_event(item, repair=repair)
    except InvalidValue as error:
        assert 0 < len(str(error)) < 600
        return
    got = sent(encoded)
    assert ("identity" in got) != ("user_id" in got)
    assert 1 <= len(got["event"].encode("utf-16-le")) <= 2 * 1024
    assert all(isinstance(value, (str, int, float)) for value in got["properties"].values())
    assert not any(isinstance(value, bool) for value in got["properties"].values())


@settings(max_examples=60)
@given(properties=wild_properties())
def test_what_was_repaired_is_taken_strictly(properties: Any) -> None:
    """Repairs end where the strict rules begin."""
    encoded = encode_event(event(properties=properties), repair=True)
    assert encode_event(sent(encoded)).faults == ()


# -- identify --------------------------------------------------------------------------


def test_identify_is_checked_alike() -> None:
    """A number, a name, a time."""
    assert sent(encode_identify("5", 7, 0)) == {
        "timestamp": "1970-01-01T00:00:00.000+00:00",
        "user_id": "5",
        "identity": "7",
    }
    for wrong in ((-1, "a", 0), (1, "null", 0), (1, "a", "noon")):
        with pytest.raises(InvalidValue):
            encode_identify(*wrong)

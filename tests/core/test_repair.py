"""
Whatever a program hands over becomes something that Heap takes, and never an error.

These tests must not know how the hot path encodes, nor how faults are logged.
"""

from __future__ import annotations

import enum
import json
import math
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import (
    ChangingMapping,
    Colour,
    Count,
    EndlessList,
    EndlessMapping,
    Level,
    LostValues,
    LyingText,
    Masked,
    NumpyLike,
    NumpyLongDouble,
    Size,
    UnreadableList,
    UnreadableMapping,
    Unshowable,
    Word,
    cyclic_dict,
    cyclic_list,
    deep_dict,
    names,
    valid_properties,
    wild_properties,
    wild_texts,
    wild_values,
)

from heap_agent._core import limits, repair
from heap_agent._core.events import Fault, Scalar
from heap_agent.exceptions import InvalidCall

NOW = 1_750_000_000.0
FAMILY = "👨‍👩‍👧‍👦"  # four people and three joiners: 11 UTF-16 units
STACKED = "e\u0301\u0323\u0302\u0308"  # one letter under four marks

#: Making wild values is slow, repairing them is not; the machines of others vary.
wild = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def type_name(value: object) -> str:
    """An id for a parameter that may not be asked for its own."""
    return type(value).__name__


def repaired(value: object, *, limit: int = limits.EVENT_VALUE) -> tuple[Any, list[str]]:
    """What becomes of one value ("left out" if nothing), and the kinds of its faults."""
    result = repair.repair_properties({"key": value}, limit=limit)
    return result.properties.get("key", "left out"), kinds(result.faults)


def event_properties(properties: Mapping[Any, object]) -> tuple[dict[str, Scalar], list[str]]:
    result = repair.repair_properties(properties, limit=limits.EVENT_VALUE)
    return result.properties, kinds(result.faults)


def user_properties(properties: Mapping[Any, object]) -> tuple[dict[str, Scalar], list[str]]:
    result = repair.repair_properties(properties, limit=limits.USER_VALUE, user=True)
    return result.properties, kinds(result.faults)


def kinds(faults: tuple[Fault, ...]) -> list[str]:
    return [fault.kind for fault in faults]


def assert_presentable(faults: tuple[Fault, ...]) -> None:
    for fault in faults:
        assert fault.kind in repair.FAULT_KINDS
        assert fault.detail.isprintable() and len(fault.detail) < 1_500
        assert fault.key is None or (fault.key.isprintable() and len(fault.key) <= 64)


# -- the rules ----------------------------------------------------------------------


@wild
@given(wild_properties(), st.sampled_from([limits.EVENT_VALUE, limits.USER_VALUE]), st.booleans())
def test_any_mapping_becomes_properties_that_json_and_utf8_can_carry(
    properties: Mapping[Any, Any], limit: int, user: bool
) -> None:
    """
    Repair is total: exact types, lengths within their limits, presentable faults.
    """
    result = repair.repair_properties(properties, limit=limit, user=user)

    json.dumps(result.properties, allow_nan=False, ensure_ascii=False).encode()
    for key, value in result.properties.items():
        assert type(key) is str and key.strip()
        assert repair.utf16_length(key) <= limits.PROPERTY_KEY
        assert type(value) in (str, int, float)
        if isinstance(value, str):
            assert repair.utf16_length(value) <= limit
        if isinstance(value, int):
            assert abs(value) <= limits.SAFE_INTEGER
    assert_presentable(result.faults)


@wild
@given(wild_properties(), st.booleans())
def test_what_has_been_repaired_is_left_alone(properties: Mapping[Any, Any], user: bool) -> None:
    """
    Repair is idempotent; only the remark about `email` is made every time.
    """
    once = repair.repair_properties(properties, limit=limits.USER_VALUE, user=user)
    twice = repair.repair_properties(once.properties, limit=limits.USER_VALUE, user=user)

    assert once.properties == twice.properties
    assert set(kinds(twice.faults)) <= {"email_case"}


@wild
@given(valid_properties(limits.USER_VALUE), st.booleans())
def test_valid_properties_are_not_touched(properties: dict[str, Scalar], user: bool) -> None:
    """
    What Heap takes comes out equal, in its order and without faults.
    """
    result = repair.repair_properties(properties, limit=limits.USER_VALUE, user=user)

    assert list(properties.items()) == list(result.properties.items())
    assert () == result.faults


@wild
@given(wild_values())
def test_a_fault_is_told_for_every_value_that_vanishes(value: Any) -> None:
    """
    Only an empty mapping leaves neither a property nor a fault.
    """
    result = repair.repair_properties({"key": value}, limit=limits.EVENT_VALUE)

    if not result.properties and not result.faults:
        assert isinstance(value, Mapping)


@wild
@given(wild_texts())
def test_any_text_becomes_a_name_or_is_refused(text: str) -> None:
    """
    A repaired name is not blank, fits, and is left alone the second time.
    """
    name, faults = repair.repair_name(text)

    assert_presentable(faults)
    if name:
        assert type(name) is str and name.strip()
        assert repair.utf16_length(name) <= limits.EVENT_NAME
        assert (name, ()) == repair.repair_name(name)
    else:
        assert ["empty_name"] == kinds(faults)


@given(names())
def test_valid_names_are_not_touched(name: str) -> None:
    """
    A name within its limits comes out as it went in.
    """
    assert (name, ()) == repair.repair_name(name)


# -- lengths and cuts -----------------------------------------------------------------


@wild
@given(wild_texts().map(str.__str__), st.integers(0, 80))
def test_a_cut_is_the_beginning_of_the_text_within_the_limit(text: str, limit: int) -> None:
    """
    The result is a prefix that fits; a text that fits already is the whole.
    """
    short = repair.cut(text, limit)

    assert text.startswith(short)
    assert repair.utf16_length(short) <= limit
    assert (short == text) == (repair.utf16_length(text) <= limit)


@given(st.text(st.characters(), max_size=30))
def test_length_counts_utf16_units(text: str) -> None:
    """
    Characters beyond the first plane count twice, lone surrogates once.
    """
    assert repair.utf16_length(text) == sum(1 + (ord(one) > 0xFFFF) for one in text)


@pytest.mark.parametrize(
    "grapheme",
    [
        FAMILY,
        STACKED,
        "👍🏽",
        "🇩🇪",
        "❤\ufe0f",
        "1\ufe0f\u20e3",
        "😀",
        "\r\n",
        "한",
        "नि",
        "🏴\U000e0067\U000e0062\U000e007f",
    ],
)
def test_a_grapheme_at_the_cut_goes_as_a_whole(grapheme: str) -> None:
    """
    It stays where it fits, and goes entirely where its last unit does not.
    """
    units = repair.utf16_length(grapheme)
    text = "x" * (limits.EVENT_VALUE - units) + grapheme

    assert text == repair.cut(text, limits.EVENT_VALUE)
    assert text == repair.cut(text + "y", limits.EVENT_VALUE)
    for missing in range(1, units + 1):
        assert text[: -len(grapheme)] == repair.cut(text, limits.EVENT_VALUE - missing)


@pytest.mark.parametrize("limit", range(4, 14))
def test_flags_are_kept_in_pairs(limit: int) -> None:
    """
    In a row of flags the cut falls between two of them, never within one.
    """
    flags = "🇩🇪🇫🇷🇩🇪"

    assert flags[: limit // 4 * 2] == repair.cut(flags, limit)
    assert "x" + flags[: (limit - 1) // 4 * 2] == repair.cut("x" + flags, limit)


def test_a_grapheme_longer_than_the_limit_is_cut_between_code_points() -> None:
    """
    Something remains of a text that is one grapheme, and it is encodable.
    """
    assert "e" + "\u0301" * 254 == repair.cut("e" + "\u0301" * 2_000, 255)
    assert "👨\u200d" == repair.cut(FAMILY, 4)
    assert "" == repair.cut("😀", 1)
    assert "" == repair.cut("x", 0) == repair.cut("x", -1)


@pytest.mark.parametrize("unit", ["\u0301", "🇩", "\u200d", "😀", "\ud800", "x"], ids=ascii)
def test_ten_megabytes_of_text_are_cut(unit: str) -> None:
    """
    The worst kinds of text end soon, which quadratic work would not.
    """
    text = unit * 10_000_000

    short, faults = repair.clean_text(text, limits.EVENT_VALUE, "key")

    assert limits.EVENT_VALUE - 3 <= repair.utf16_length(short) <= limits.EVENT_VALUE
    assert "too_long" in kinds(faults)
    assert text.startswith(repair.cut(text, 100_001))


@pytest.mark.parametrize("limit", [limits.EVENT_VALUE, limits.USER_VALUE])
def test_a_value_may_have_exactly_as_many_units_as_its_limit(limit: int) -> None:
    """
    One unit more is cut, and told.
    """
    assert ("v" * limit, []) == repaired("v" * limit, limit=limit)
    assert ("v" * limit, ["too_long"]) == repaired("v" * (limit + 1), limit=limit)


def test_a_name_may_have_exactly_255_units() -> None:
    """
    A longer name is cut, an emoji across the limit goes, and the event stays.
    """
    assert ("n" * 255, ()) == repair.repair_name("n" * 255)

    name, faults = repair.repair_name("n" * 254 + "😀")

    assert "n" * 254 == name
    assert ["too_long"] == kinds(faults)
    assert [None] == [fault.key for fault in faults]
    assert "n" * 255 == repair.repair_name(LyingText("n" * 256))[0]


@pytest.mark.parametrize("blank", ["", " ", "\t\r\n", "\u3000", Word(" "), " " * 300 + "x"])
def test_a_blank_name_is_refused(blank: str) -> None:
    """
    Nothing remains, and the one fault says so.
    """
    name, faults = repair.repair_name(blank)

    assert "" == name
    assert ["empty_name"] == kinds(faults)


def test_lone_surrogates_are_replaced() -> None:
    """
    Each becomes U+FFFD, wherever it stands, and the length stays.
    """
    assert ("a\ufffdb", ["surrogate"]) == repaired("a\ud83db")
    assert ("\ufffd\ufffd\ufffd", ["surrogate"]) == repaired("\ude00\ud83d\ud83d")
    assert ("\ufffdname", ("surrogate",)) == _name_and_kinds("\udc80name")
    assert ({"k\ufffd": 1}, ["surrogate"]) == event_properties({"k\udc80": 1})


def test_two_surrogates_that_make_a_character_become_it() -> None:
    """
    A pair that came in as two is joined instead of lost, also at the cut.
    """
    assert ("😀", ["surrogate"]) == repaired("\ud83d\ude00")
    assert ("v" * 253 + "😀", ["surrogate"]) == repaired("v" * 253 + "\ud83d\ude00", limit=255)
    assert ("v" * 254, ["surrogate", "too_long"]) == repaired("v" * 254 + "\ud83d\ude00", limit=255)
    assert ("v" * 254, ["surrogate", "too_long"]) == repaired(
        "v" * 254 + "☝\ud83c\udffd", limit=255
    )


def _name_and_kinds(name: str) -> tuple[str, tuple[str, ...]]:
    text, faults = repair.repair_name(name)
    return text, tuple(kinds(faults))


# -- values -------------------------------------------------------------------------


class Temperature(enum.Flag):
    HOT = 4


class OwnDate(date):
    def isoformat(self) -> str:
        return Word("some day")


class OwnFraction(Fraction):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        (" ", " "),
        (True, "true"),
        (False, "false"),
        (2**53 - 1, 2**53 - 1),
        (-(2**53) + 1, -(2**53) + 1),
        (2**53, "9007199254740992"),
        (-(2**53), "-9007199254740992"),
        (1.5, 1.5),
        (1e300, 1e300),
        (Decimal("19.99"), 19.99),
        (Decimal("50.00"), 50),
        (Decimal("1E+3"), 1_000),
        (Decimal("1E+300"), 1e300),
        (Decimal("1E-400"), 0.0),
        (Decimal("12345678901234567890"), "12345678901234567890"),
        (Fraction(1, 4), 0.25),
        (OwnFraction(6, 2), 3),
        (NumpyLike(7), 7),
        (NumpyLike(True), "true"),
        (NumpyLike(2**60), str(2**60)),
        (NumpyLongDouble(2.5), 2.5),
        (datetime(2024, 2, 29, 12, 30), "2024-02-29T12:30:00"),
        (datetime(2024, 2, 29, 12, tzinfo=timezone.utc), "2024-02-29T12:00:00+00:00"),
        (date(2024, 2, 29), "2024-02-29"),
        (OwnDate(2024, 2, 29), "some day"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (PurePosixPath("/var/log"), "/var/log"),
        (PureWindowsPath("C:/x"), "C:\\x"),
        (Colour.RED, "red"),
        (Colour.PAIR, "a||1"),
        (Level.LOW, 1),
        (Temperature.HOT, 4),
        (["a", 1, 2.5, True, Decimal("3"), date(2024, 1, 2)], "a||1||2.5||true||3||2024-01-02"),
        ((1, 2), "1||2"),
        (Point(3, 4), "3||4"),
        ({"b", "a", 10, 9}, "10||9||a||b"),
        (frozenset({"z", "y"}), "y||z"),
        ([], ""),
        ([2**53], "9007199254740992"),
        (Word("text"), "text"),
        (LyingText("text"), "text"),
        (Count(5), 5),
        (Size(0.5), 0.5),
    ],
    ids=type_name,
)
def test_conversions_are_no_faults(value: object, expected: Scalar) -> None:
    """
    What has an obvious text or number becomes it, of an exact built-in type.
    """
    result, faults = repaired(value)

    assert expected == result
    assert type(expected) is type(result)
    assert [] == faults


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "no_value"),
        (Colour.NOTHING, "no_value"),
        (math.nan, "not_finite"),
        (-math.inf, "not_finite"),
        (Size("inf"), "not_finite"),
        (NumpyLike(math.nan), "not_finite"),
        (NumpyLongDouble(math.inf), "not_finite"),
        (Decimal("NaN"), "not_finite"),
        (Decimal("sNaN"), "not_finite"),
        (Decimal("-Infinity"), "not_finite"),
        (Decimal("1E+999999"), "not_finite"),
        (Fraction(10**400, 3), "not_finite"),
        (b"raw", "bytes"),
        (bytearray(b"raw"), "bytes"),
        (memoryview(b"raw"), "bytes"),
        (NumpyLike(b"raw"), "bytes"),
        (object(), "unsupported"),
        (1j, "unsupported"),
        (timedelta(1), "unsupported"),
        (iter([1]), "unsupported"),
        (str, "unsupported"),
        (Unshowable(), "unsupported"),
        (10**4_300, "unreadable"),
        (-(10**50_000), "unreadable"),
        (Fraction(10**5_000), "unreadable"),
        (UnreadableList(), "unreadable"),
        (UnreadableMapping(), "unreadable"),
        (ChangingMapping(), "unreadable"),
    ],
    ids=type_name,
)
def test_what_has_no_text_and_no_number_is_left_out(value: object, kind: str) -> None:
    """
    The property goes with one fault, the one beside it stays.
    """
    result = repair.repair_properties({"key": value, "other": 1}, limit=limits.EVENT_VALUE)

    assert {"other": 1} == result.properties
    assert [(kind, "key")] == [(fault.kind, fault.key) for fault in result.faults]
    assert_presentable(result.faults)


def test_an_integer_of_4300_digits_is_still_text() -> None:
    """
    Its text follows the rule of texts: cut at the limit, and told.
    """
    assert ("9" * limits.EVENT_VALUE, ["too_long"]) == repaired(10**4_300 - 1)
    assert ("1" + "0" * 1_000, []) == repaired(10**1_000)


def test_an_object_that_hides_its_class_is_left_out() -> None:
    """
    Neither as a value, an element, a key nor a timestamp is it asked who it is.
    """
    properties = {"value": Masked(), "list": [1, Masked()], Masked(): 1}

    assert ({"list": "1"}, ["unsupported", "unsupported", "key_type"]) == event_properties(
        properties
    )
    with pytest.raises(InvalidCall, match="a value of type Masked"):
        repair.repair_timestamp(Masked(), NOW)


class BrokenZone(tzinfo):
    """A time zone that no one can ask."""

    def utcoffset(self, _: datetime | None) -> NoReturn:
        raise RuntimeError("no offset")

    dst = tzname = utcoffset


class NoDay(date):
    """A date whose text is no text."""

    def isoformat(self) -> Any:
        return 5


class NoText(uuid.UUID):
    """A UUID whose text is no text."""

    def __str__(self) -> Any:
        return 5


class Recursive(uuid.UUID):
    """A UUID whose text never comes to an end."""

    def __str__(self) -> str:
        return str(self)


@pytest.mark.parametrize(
    "value",
    [datetime(2024, 1, 1, tzinfo=BrokenZone()), NoDay(2024, 1, 1), NoText(int=1), Recursive(int=1)],
    ids=type_name,
)
def test_whatever_raises_while_it_is_read_is_left_out(value: object) -> None:
    """
    Any exception counts, a recursion without end included.
    """
    nested = {"in": {"key": value, "other": 1}}

    assert ("left out", ["unreadable"]) == repaired(value)
    assert ("sound", ["unreadable"]) == repaired(["sound", value])
    assert ({"in.other": 1}, ["unreadable"]) == event_properties(nested)


def test_a_scalar_that_stands_for_another_without_end_is_left_out() -> None:
    """
    Only so many wrappers are taken off.
    """

    class Other(NumpyLike):
        __module__ = "numpy"

    value: object = 1
    for _ in range(100):
        value = Other(NumpyLike(value))

    assert ("left out", ["unsupported"]) == repaired(value)


def test_a_mapping_that_recurses_is_not_read_again() -> None:
    """
    A RecursionError is no sign of another thread: one look is enough.
    """

    class Recursing(UnreadableMapping):
        looks = 0

        def __iter__(self) -> Iterator[Any]:
            self.looks += 1
            raise RecursionError

    mapping = Recursing()

    assert ({}, ["unreadable"]) == event_properties({"key": mapping})
    assert 1 == mapping.looks


def test_what_ends_the_program_is_not_a_fault() -> None:
    """
    A KeyboardInterrupt while a value is read reaches the program.
    """

    class Interrupted(uuid.UUID):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repaired(Interrupted(int=1))


# -- lists and mappings -----------------------------------------------------------------


def test_faulty_elements_are_left_out_of_a_list() -> None:
    """
    The others stay in their order; each kind of fault is told once.
    """
    value = ["a", None, None, math.nan, b"x", ["nested"], {"k": 1}, True, 2]

    assert ("a||true||2", ["no_value", "not_finite", "bytes", "unsupported"]) == repaired(value)
    assert ("", ["no_value"]) == repaired([None])
    assert ("sound", ["unsupported"]) == repaired(cyclic_list())


def test_a_joined_list_is_cut_like_any_text() -> None:
    """
    The text of a long list ends at the limit, however long the list is.
    """
    value, faults = repaired(["ab"] * 1_000_000)

    assert limits.EVENT_VALUE == len(value)
    assert value.startswith("ab||ab||")
    assert ["too_long"] == faults


def test_a_list_without_end_ends() -> None:
    """
    Only so many elements are looked at; a set of more has no beginning to keep.
    """
    assert ("", ["no_value", "too_many"]) == repaired(EndlessList())
    assert ("left out", ["too_many"]) == repaired(set(range(repair.MAX_ITEMS + 1)))
    assert ["too_long"] == repaired(set(range(repair.MAX_ITEMS)))[1]


def test_nested_mappings_become_dotted_keys() -> None:
    """
    Each level adds its key and a dot; an empty mapping adds nothing.
    """
    properties = {"a": {"b": {"c": 1, 2: "x"}, "d": [1, 2]}, "e": {}, "f": OrderedDict(g=True)}

    assert ({"a.b.c": 1, "a.b.2": "x", "a.d": "1||2", "f.g": "true"}, []) == event_properties(
        properties
    )


def test_a_cycle_is_cut_where_it_closes() -> None:
    """
    What stands beside it stays; the same mapping twice is no cycle.
    """
    cycle = cyclic_dict()
    shared = {"x": 1}

    assert ({"sound": 1}, ["cycle"]) == event_properties(cycle)
    assert ({"top.sound": 1}, ["cycle"]) == event_properties({"top": cycle})
    assert ({"a.x": 1, "b.x": 1}, []) == event_properties({"a": shared, "b": shared})


def test_nesting_has_a_limit() -> None:
    """
    MAX_DEPTH levels are kept, one more is left out, also where there is no end.
    """
    bottom = ".".join("a" * repair.MAX_DEPTH) + ".bottom"

    assert ({bottom: 1}, []) == event_properties(deep_dict(repair.MAX_DEPTH))
    assert ({}, ["too_deep"]) == event_properties(deep_dict(repair.MAX_DEPTH + 1))
    assert ({}, ["too_deep"]) == event_properties(deep_dict(100_000))
    assert ({}, ["too_deep"]) == event_properties(EndlessMapping())


def test_a_structure_that_multiplies_is_bounded_and_spares_its_neighbours() -> None:
    """
    Ten to the eighth dotted keys become at most MAX_ITEMS; outer entries all stay.
    """
    bomb: dict[str, Any] = {str(number): number for number in range(10)}
    for _ in range(7):
        bomb = {str(number): bomb for number in range(10)}

    properties, faults = event_properties({"bomb": bomb, "after": 1})

    assert 1 == properties["after"]
    assert 1 < len(properties) <= repair.MAX_ITEMS
    assert {"too_many"} == set(faults)


class Counted(uuid.UUID):
    """
    A value that counts how often any of its kind is read, and cannot be.
    """

    looks = 0

    def __str__(self) -> NoReturn:
        type(self).looks += 1
        raise ValueError("no text")


@pytest.mark.parametrize("make", [list, tuple, set, frozenset])
@pytest.mark.parametrize("channels", [10, 200])
def test_the_work_of_one_call_is_bounded(make: type, channels: int) -> None:
    """
    However many lists and sets there are, MAX_ITEMS elements are looked at; the
    faults say what was not, and what is no list stays.
    """
    Counted.looks = 0
    many = make(Counted(int=number) for number in range(2_000))
    properties: dict[str, Any] = {f"c{number}": many for number in range(channels)}

    result, faults = event_properties({**properties, "after": 1})

    assert Counted.looks == repair.MAX_ITEMS
    assert 1 == result["after"]
    assert channels - 5 == faults.count("too_many")
    assert [""] * 5 == [result[f"c{number}"] for number in range(5)]
    assert 6 == len(result)


def test_a_list_is_only_read_as_far_as_its_text_reaches() -> None:
    """
    What a text has no room for is not counted against the lists that follow.
    """
    lists = {f"c{number}": [1.5] * 1_000_000 for number in range(30)}

    result, faults = event_properties(lists)

    assert 30 == len(result)
    assert {"too_long"} == set(faults)


def test_the_end_of_a_long_element_changes_nothing() -> None:
    """
    A list or set of long texts becomes the same as if they ended beyond its limit.
    """
    limit = limits.EVENT_VALUE
    for make in (list, set):
        head = "x" * (limit - 1)
        expected, _ = repaired(make([head + "é" + "y", head + "e\u0301", "z"]))
        longer, faults = repaired(make([head + "é" + "y" * 9_999, head + "e\u0301" * 9, "z"]))

        assert expected == longer
        assert ["too_long"] == faults


def test_a_set_that_has_no_room_leaves_it_to_others() -> None:
    """
    A set is kept whole or not at all, and what is not kept uses nothing up.
    """
    properties = {"a": set(range(repair.MAX_ITEMS + 1)), "b": {1, 2}, "c": [3]}

    assert ({"b": "1||2", "c": "3"}, ["too_many"]) == event_properties(properties)


def test_what_cannot_be_read_uses_up_room_too() -> None:
    """
    Mappings and sets that raise at their end cannot make one call read without end.
    """
    reads = 0

    class Spoilt(UnreadableMapping):
        def __iter__(self) -> Iterator[Any]:
            nonlocal reads
            for number in range(1_000):
                reads += 1
                yield number
            raise RuntimeError("changed")

    class SpoiltSet(set[Any]):
        __iter__ = Spoilt.__iter__

    for spoilt in (Spoilt(), SpoiltSet()):
        reads = 0
        properties: dict[str, Any] = {f"c{number}": spoilt for number in range(5_000)}

        result, faults = event_properties({**properties, "after": 1})

        assert {"after": 1} == result
        assert {"unreadable", "too_many"} == set(faults)
        assert 5_000 <= len(faults)
        assert reads < 10 * repair.MAX_ITEMS


def test_as_many_entries_as_allowed_are_kept() -> None:
    """
    MAX_ITEMS flat properties pass, one more loses the last.
    """
    full = {f"k{number}": number for number in range(repair.MAX_ITEMS)}

    assert (full, []) == event_properties(full)
    assert (full, ["too_many"]) == event_properties({**full, "one": 1})


def test_a_mapping_that_changes_for_a_moment_is_read_again() -> None:
    """
    A second look at what another thread was changing finds everything.
    """

    class Settling(dict[str, int]):
        looks = 0

        def __iter__(self) -> Iterator[str]:
            self.looks += 1
            yield "a"
            if self.looks < 3:
                raise RuntimeError("dictionary changed size during iteration")
            yield "b"

    assert ({"a": 1, "b": 2}, []) == event_properties(Settling(a=1, b=2))


def test_properties_that_cannot_be_read_are_empty() -> None:
    """
    There is one fault, which belongs to no property.
    """
    for properties in (UnreadableMapping(), ChangingMapping()):
        result = repair.repair_properties(properties, limit=limits.EVENT_VALUE)

        assert {} == result.properties
        assert [("unreadable", None)] == [(fault.kind, fault.key) for fault in result.faults]


def test_a_value_that_cannot_be_looked_up_is_left_out_alone() -> None:
    """
    Each key whose value is gone has a fault of its own.
    """

    class HalfGone(LostValues):
        def __getitem__(self, key: object) -> Any:
            if key == "a":
                raise KeyError(key)
            return 2

    assert ({"b": 2}, ["unreadable"]) == event_properties(HalfGone())


# -- keys -------------------------------------------------------------------------------


class TextKey(Word, enum.Enum):
    NAME = "name"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (1, "1"),
        (-2.5, "-2.5"),
        (2**70, str(2**70)),
        (Count(3), "3"),
        (Word("w"), "w"),
        (LyingText("l"), "l"),
        (TextKey.NAME, "name"),
        (Level.LOW, "1"),
        (NumpyLike(4), "4"),
        (" padded ", " padded "),
        ("k" * 512, "k" * 512),
        ("😀" * 256, "😀" * 256),
    ],
    ids=type_name,
)
def test_text_and_numbers_are_keys(key: object, expected: str) -> None:
    """
    They become exact text without a fault.
    """
    properties, faults = event_properties({key: 0})

    assert {expected: 0} == properties
    assert [str] == [type(key) for key in properties]
    assert [] == faults


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, "key_type"),
        (True, "key_type"),
        (b"k", "key_type"),
        (("a",), "key_type"),
        (Colour.RED, "key_type"),
        (Unshowable(), "key_type"),
        (NumpyLike(None), "key_type"),
        (math.nan, "not_finite"),
        (10**4_300, "unreadable"),
        ("", "key_empty"),
        (" \n", "key_empty"),
        ("k" * 513, "key_too_long"),
        ("😀" * 257, "key_too_long"),
    ],
    ids=type_name,
)
def test_other_keys_are_left_out(key: object, kind: str) -> None:
    """
    The property goes, on the outer level and within a mapping; its neighbour stays.
    """
    flat = repair.repair_properties({key: 0, "other": 1}, limit=limits.EVENT_VALUE)
    nested = repair.repair_properties({"in": {key: 0, "other": 1}}, limit=limits.EVENT_VALUE)

    assert ({"other": 1}, [kind]) == (flat.properties, kinds(flat.faults))
    assert ({"in.other": 1}, [kind]) == (nested.properties, kinds(nested.faults))
    assert_presentable(flat.faults + nested.faults)


def test_a_dotted_key_counts_as_a_whole() -> None:
    """
    Two halves that fit alone do not fit together.
    """
    assert ({}, ["key_too_long"]) == event_properties({"a" * 256: {"b" * 256: 1}})
    assert [] == event_properties({"a" * 256: {"b" * 255: 1}})[1]


def test_the_later_of_two_equal_keys_wins() -> None:
    """
    A number and its text, or a dotted key and a nested one, are the same key.
    """
    assert ({"1": "b"}, ["key_collision"]) == event_properties({1: "a", "1": "b"})
    assert ({"a.b": 2}, ["key_collision"]) == event_properties({"a": {"b": 1}, "a.b": 2})
    assert ({"1": "a"}, ["no_value"]) == event_properties({1: "a", "1": None})


@pytest.mark.parametrize("key", ["user_id", "id", "ID", "Id", "iD"])
def test_reserved_keys_are_left_out_of_user_properties(key: str) -> None:
    """
    Heap refuses them there; events may have them.
    """
    assert ({"x": 1}, ["reserved_key"]) == user_properties({key: 1, "x": 1})
    assert ({key: 1}, []) == event_properties({key: 1})


def test_only_reserved_keys_are_reserved() -> None:
    """
    Other spellings of `user_id`, and `id` within a dotted key, are keys like any other.
    """
    properties: dict[str, Scalar] = {"USER_ID": 1, "a.id": 2, "idx": 3}

    assert (properties, []) == user_properties(properties)
    assert ({"id.x": 1}, []) == user_properties({"id": {"x": 1}})


@pytest.mark.parametrize("key", ["Email", "EMAIL", "eMail"])
def test_email_in_another_case_is_kept_with_a_remark(key: str) -> None:
    """
    It becomes a property of its own at Heap, which is worth telling once.
    """
    assert ({key: "a@b.c"}, ["email_case"]) == user_properties({key: "a@b.c"})
    assert ({key: "a@b.c"}, []) == event_properties({key: "a@b.c"})
    assert ({"email": "a@b.c"}, []) == user_properties({"email": "a@b.c"})


# -- what a fault says --------------------------------------------------------------------


def test_a_fault_shows_little_of_a_value_and_no_line_break() -> None:
    """
    Neither key nor value can forge a line of the log, or fill it.
    """
    secret = "start\nERROR forged\u2028\x1b[31m" + "s" * 5_000 + "end"
    result = repair.repair_properties(
        {"key\nERROR forged" + "k" * 200: secret, "x" * 600: 1, secret: 2}, limit=255
    )

    assert ["too_long", "key_too_long", "key_too_long"] == kinds(result.faults)
    assert_presentable(result.faults)
    for fault in result.faults:
        assert "s" * 64 not in fault.detail
        assert "end" not in fault.detail


def test_a_fault_can_name_a_type_whose_name_is_hostile() -> None:
    """
    The name is read without asking the type, escaped and cut.
    """

    class Hostile(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise RuntimeError

        def __repr__(cls) -> str:
            raise RuntimeError

    evil = Hostile("evil\nline" * 100, (), {})
    result = repair.repair_properties({"key": evil(), evil(): 1}, limit=255)

    assert {} == result.properties
    assert 2 == len(result.faults)
    assert_presentable(result.faults)


def test_a_fault_calls_an_ordinary_key_by_its_name() -> None:
    """
    So that a log can be searched for it, dots and accents included.
    """
    result = repair.repair_properties({"café": {"prix": None}}, limit=255)

    assert ["café.prix"] == [fault.key for fault in result.faults]
    assert "'café.prix'" in result.faults[0].detail


# -- whole events -------------------------------------------------------------------------


def json_size(properties: dict[str, Scalar]) -> int:
    return len(orjson.dumps(properties))


def test_an_event_that_fits_is_not_touched() -> None:
    """
    The limit itself is allowed.
    """
    properties: dict[str, Scalar] = {"a": "x" * 10, "b": 1}

    assert (properties, ()) == repair.fit_event(properties, json_size, json_size(properties))


def test_the_largest_properties_are_left_out_of_an_event() -> None:
    """
    As few as possible go, the order of the others stays.
    """
    properties: dict[str, Scalar] = {"a": 1, "big": "x" * 500, "b": "y" * 50, "bigger": "z" * 900}

    fitted, faults = repair.fit_event(properties, json_size, 700)

    assert ["a", "big", "b"] == list(fitted)
    assert [("too_large", "bigger")] == [(fault.kind, fault.key) for fault in faults]
    assert_presentable(faults)


def test_an_event_that_is_too_large_by_itself_keeps_nothing() -> None:
    """
    Where even no properties are too many, the answer is none, not a loop.
    """
    fitted, faults = repair.fit_event({"a": 1, "b": 2}, lambda _: 1_000, 999)

    assert {} == fitted
    assert ["a", "b"] == sorted(str(fault.key) for fault in faults)
    assert ({}, ()) == repair.fit_event({}, lambda _: 1_000, 999)


@given(valid_properties(most=12), st.integers(2, 3_000))
def test_fitting_leaves_out_no_more_than_it_must(properties: dict[str, Scalar], limit: int) -> None:
    """
    The result fits, and with the smallest of what went back in place it would not.
    """
    fitted, faults = repair.fit_event(properties, json_size, limit)
    gone = [key for key in properties if key not in fitted]

    assert json_size(fitted) <= limit
    assert list(fitted) == [key for key in properties if key in fitted]
    assert len(gone) == len(faults)
    if gone:
        smallest = min(gone, key=lambda key: json_size({key: properties[key]}))
        assert json_size({**fitted, smallest: properties[smallest]}) > limit


def test_fitting_asks_for_few_sizes() -> None:
    """
    Thousands of properties are not measured thousands of times.
    """
    asked = []

    def size(properties: dict[str, Scalar]) -> int:
        asked.append(len(properties))
        return json_size(properties)

    properties: dict[str, Scalar] = {f"k{number}": "x" * 1_000 for number in range(4_000)}
    fitted, _ = repair.fit_event(properties, size, limits.EVENT_BYTES)

    assert 750 < len(fitted) < 790
    assert len(asked) <= 15


# -- timestamps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (1_700_000_000, 1_700_000_000.0),
        (1_700_000_000.25, 1_700_000_000.25),
        (Count(5), 5.0),
        (Size(5.5), 5.5),
        (repair.LATEST, repair.LATEST),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc), 1.0),
        (datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 1_704_067_200.0),
    ],
    ids=type_name,
)
def test_a_moment_is_a_timestamp(value: object, expected: float) -> None:
    """
    Aware datetimes and epoch seconds become seconds, as an exact float.
    """
    seconds, faults = repair.repair_timestamp(value, NOW)

    assert expected == seconds
    assert float is type(seconds)
    assert () == faults


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -1,
        -0.001,
        1_700_000_000_000,
        10**5_000,
        repair.LATEST + 1,
        datetime(1969, 12, 31, tzinfo=timezone.utc),
        datetime(2024, 1, 1, tzinfo=BrokenZone()),
        datetime.min,
        datetime(1950, 1, 1),
    ],
    ids=type_name,
)
def test_an_impossible_moment_is_now(value: object) -> None:
    """
    The event keeps the time of its call, and the fault says what came.
    """
    seconds, faults = repair.repair_timestamp(value, NOW)

    assert NOW == seconds
    assert ["time_range"] == kinds(faults)
    assert_presentable(faults)


def test_a_naive_datetime_is_local_time() -> None:
    """
    It is used, with a fault, since the zone of a device is often wrong.
    """
    value = datetime(2024, 6, 1, 12)

    seconds, faults = repair.repair_timestamp(value, NOW)

    assert value.astimezone().timestamp() == seconds
    assert ["naive_time"] == kinds(faults)


@pytest.mark.parametrize(
    "value",
    [None, True, "2024-01-01", date(2024, 1, 1), Decimal(1), b"1", [], Unshowable()],
    ids=type_name,
)
def test_a_timestamp_of_another_type_is_the_programs_fault(value: object) -> None:
    """
    The error names the argument and what is allowed, and shows what came.
    """
    with pytest.raises(
        InvalidCall, match=r"timestamp is .*; allowed are an aware datetime"
    ) as info:
        repair.repair_timestamp(value, NOW)

    assert str(info.value).isprintable()


@wild
@given(st.one_of(st.integers(), st.floats(), st.datetimes(timezones=st.none() | st.timezones())))
def test_every_moment_becomes_one_that_iso_8601_can_write(value: int | float | datetime) -> None:
    """
    Whatever number or datetime comes, the result has a year of four digits.
    """
    seconds, faults = repair.repair_timestamp(value, NOW)

    assert datetime.fromtimestamp(seconds, timezone.utc).year <= 9999
    assert_presentable(faults)

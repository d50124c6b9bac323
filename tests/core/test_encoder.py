"""Rules of `heap_agent._core.encoder`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import LyingKey, Word, valid_properties

from heap_agent._core import encoder, limits
from heap_agent._core.encoder import plain_dumps
from heap_agent._core.events import Scalar

orjson = pytest.importorskip("orjson")

finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300)
@given(valid_properties())
def test_both_encoders_give_the_same_bytes(properties: dict[str, Scalar]) -> None:
    """A device without orjson writes what every other device writes."""
    assert plain_dumps(properties) == orjson.dumps(properties)


@settings(max_examples=500)
@given(finite)
@example(-0.0)
@example(1e16)
@example(9999999999999998.0)
@example(1e-5)
@example(-1.5e-5)
@example(9.999e-6)
@example(1e-4)
@example(5e-324)
@example(1.7976931348623157e308)
def test_every_finite_float_is_written_alike(number: float) -> None:
    """All digits and exponents of a float are the same, and read back as that float."""
    written = plain_dumps({"x": number})
    assert written == orjson.dumps({"x": number})
    assert repr(json.loads(written)["x"]) == repr(number)


@pytest.mark.parametrize("exponent", range(-12, 25))
@pytest.mark.parametrize("mantissa", ["1", "-1", "1.5", "-9.007199254740993"])
def test_borders_of_the_exponent(mantissa: str, exponent: int) -> None:
    """Where the exponent begins, the two encoders change over at the same power."""
    number = float(f"{mantissa}e{exponent}")
    assert plain_dumps({"x": number}) == orjson.dumps({"x": number})


@pytest.mark.parametrize(
    "text",
    ["".join(map(chr, range(0x20))), "\x7f\x80\x9f", "\u2028\u2029", '"\\/', "é😀\uffff", ""],
    ids=ascii,
)
def test_characters_that_json_libraries_disagree_about(text: str) -> None:
    """Control characters are escaped alike, everything else is left as it is."""
    assert plain_dumps({text: text}) == orjson.dumps({text: text})
    assert encoder._plain_text(text) == orjson.dumps(text)


@pytest.mark.parametrize("number", [0, -1, limits.SAFE_INTEGER, -limits.SAFE_INTEGER])
def test_integers_up_to_the_safe_ones(number: int) -> None:
    """Integers are written digit by digit."""
    assert plain_dumps({"x": number}) == orjson.dumps({"x": number}) == b'{"x":%d}' % number


@pytest.mark.parametrize("value", [True, False, None])
def test_constants_are_json(value: object) -> None:
    """What is no property value, and still JSON, never becomes Python's own spelling."""
    assert plain_dumps({"x": value}) == orjson.dumps({"x": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "properties",
    [{"x": 2**53}, {"x": -(2**53)}, {"x": 10**5_000}, {Word("x"): 1}, {LyingKey("", "x"): 1}],
    ids=["large", "small", "huge", "subclass", "lying"],
)
def test_strict_encoding_refuses_what_needs_thought(properties: dict[str, Scalar]) -> None:
    """Both refuse integers that lose digits and keys that are not exactly text."""
    for dumps in (plain_dumps, orjson.dumps):
        with pytest.raises(TypeError):
            dumps(properties, None, encoder.STRICT)


class Loud(int):
    """An integer that says something else about itself."""

    def __repr__(self) -> str:
        return "loud"

    __str__ = __repr__


class Soft(float):
    """A float that says something else about itself."""

    def __repr__(self) -> str:
        return "soft"

    __str__ = __repr__


def test_a_subclass_has_no_say_in_the_bytes() -> None:
    """The number counts, not what its class prints."""
    assert plain_dumps({"a": Loud(7), "b": Soft(0.5)}) == b'{"a":7,"b":0.5}'


@pytest.mark.parametrize(
    "properties",
    [
        {"x": "\ud800"},
        {"\udfff": 1},
        {"x": b"bytes"},
        {"x": object()},
        {"x": {1, 2}},
        {1: "x"},
        {None: "x"},
    ],
    ids=["surrogate", "surrogate key", "bytes", "object", "set", "int key", "no key"],
)
def test_both_encoders_refuse_the_same(properties: dict[str, Scalar]) -> None:
    """What cannot be JSON raises TypeError or ValueError with either, so that it gets repaired."""
    for dumps in (plain_dumps, orjson.dumps):
        with pytest.raises((TypeError, ValueError)):
            dumps(properties)


def test_loads_raises_value_error_on_garbage() -> None:
    """A damaged record is a ValueError with either library."""
    for loads in (encoder._plain_loads, orjson.loads):
        for garbage in (b"", b"{", b'"\xff"', b"nothing"):
            with pytest.raises(ValueError):
                loads(garbage)


WITHOUT_ORJSON = """
import sys
sys.modules["orjson"] = None
from heap_agent import Agent
from heap_agent._core import encoder
assert encoder.NAME == "json"
with Agent("11", directory=sys.argv[1], endpoint="http://127.0.0.1:9") as agent:
    agent.track("Ordered", {"price": 1e-5, "name": "caf\\u00e9", "nothing": None})
    agent.add_event_properties({"big": "x" * 1023})
    status = agent.status()
    assert (status.recorded, status.queued) == (1, 1), status
    assert agent.check() == []
"""


def test_the_package_works_without_orjson(tmp_path: object) -> None:
    """Where there is no wheel of orjson the standard library does all of it."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_ORJSON, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr

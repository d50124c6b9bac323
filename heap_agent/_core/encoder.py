"""
JSON of flat values to bytes: orjson where it is installed, else the standard
library held to the same output.

This module must not know what a value means; whatever reaches it has been
validated to be text, a finite number, or None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring as _quote
from typing import Any

from heap_agent._core.events import Scalar
from heap_agent._core.limits import SAFE_INTEGER


def _number(value: float) -> str:
    # `repr` and orjson choose the same digits; they differ in how they write an
    # exponent (1e-07, 1e-7) and in where it begins (1e-05, 0.00001).
    text = repr(value)
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text
    power = int(exponent)
    if power == -5:
        sign = "-" if mantissa[0] == "-" else ""
        return f"{sign}0.0000{mantissa.lstrip('-').replace('.', '')}"
    return f"{mantissa}e{'+' if power > 0 else ''}{power}"


def _member(value: object) -> str:
    if isinstance(value, str):
        return _quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    # `__repr__` of the type itself: a subclass may say something else.
    if isinstance(value, float):
        return _number(float.__float__(value))
    if isinstance(value, int):
        return int.__repr__(value)
    raise TypeError(f"not a property value: {type(value).__name__}")


def plain_dumps(
    properties: Mapping[str, Scalar], default: None = None, option: int | None = None
) -> bytes:
    """
    Encode a flat mapping with the standard library alone.

    Args:
        properties: Text keys; values are text, ints, finite floats.
        default: As orjson has it; not used.
        option: `STRICT` refuses ints beyond ±(2^53−1), and keys of subclasses of `str`.

    Returns:
        The same bytes as orjson would give.

    Raises:
        TypeError: A value of another type, or a key or an int that is refused.
        UnicodeEncodeError: A lone surrogate.
    """
    if option == STRICT:
        for key, value in properties.items():
            if type(key) is not str:
                raise TypeError(f"not an exact str: {type(key).__name__}")
            if isinstance(value, int) and abs(value) > SAFE_INTEGER:
                raise TypeError("not a safe integer")
    members = ",".join(f"{_quote(key)}:{_member(value)}" for key, value in properties.items())
    return f"{{{members}}}".encode()


def _plain_text(text: str) -> bytes:
    return _quote(text).encode()


def _plain_loads(data: bytes) -> Any:
    return json.loads(data)


#: Mapping of scalars, None, `STRICT` or None → bytes. Raises TypeError or ValueError
#: where it cannot. Positional, as that is the fastest.
dumps: Callable[..., bytes]

#: Refuse ints that JavaScript would round (beyond ±(2^53−1)).
STRICT: int

#: Text → its JSON string as bytes.
dumps_text: Callable[[str], bytes]

#: Bytes → value. Raises ValueError.
loads: Callable[[bytes], Any]

try:
    import orjson
except ImportError:
    dumps, dumps_text, loads = plain_dumps, _plain_text, _plain_loads
    STRICT = 1
    NAME = "json"
else:
    dumps, dumps_text, loads = orjson.dumps, orjson.dumps, orjson.loads
    STRICT = orjson.OPT_STRICT_INTEGER
    NAME = "orjson"

"""
What the fields of an item may be: Heap's server-side limits, kept strictly, or
with the agent's repairs.

Every check takes anything and returns the value in its one form, or raises
`InvalidValue` with what came and what is allowed. This module must not know
which fields an item has, nor how it is sent.

Repairs are those of `_core.repair`, with the limits of a server. Three faults
are never repaired, because a guess would do harm that cannot be undone: who it
was, when it was, and an event without a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Any, Final

from heap_agent._core import limits, repair
from heap_agent._core.events import Fault, Scalar
from heap_agent._core.repair import utf16_length
from heap_agent._core.session import REFUSED, judge
from heap_agent.exceptions import InvalidCall, InvalidValue

__all__ = [
    "REFUSED",
    "account_id",
    "event_name",
    "identity",
    "instant",
    "label",
    "properties",
    "shown",
    "user_id",
]

Faults = tuple[Fault, ...]

_SHOWN: Final = 48
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: Seconds of 9999-12-31T23:59:59Z, where ISO-8601 ends.
_LATEST: Final = 253_402_300_799

_MICROSECOND: Final = timedelta(microseconds=1)

#: Text of at most this many code points has no more than twice the UTF-16 units.
_SURELY_SHORT: Final = limits.SERVER_TEXT // 2

_USER_ID: Final = re.compile("0|[1-9][0-9]{0,15}", re.ASCII)
_ISO: Final = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?"
    r"(?: ?(Z|[+-]\d{2}(?::?\d{2})?))?",
    re.ASCII | re.IGNORECASE,
)


def shown(value: object) -> str:
    """
    What came, in a few words: never the whole of it, and no foreign `__repr__`.
    """
    kind = type(value)
    if kind is str:
        text = repr(str(value)[:_SHOWN])
        return text if len(str(value)) <= _SHOWN else f"{text}… ({len(str(value)):,} characters)"
    if value is None or kind is bool or kind is float:
        return repr(value)
    if isinstance(value, int) and abs(value) < 10**_SHOWN:
        return int.__repr__(value)
    return f"a value of type {kind.__name__}"


# -- who ---------------------------------------------------------------------------


def identity(value: object, refused: frozenset[str] = REFUSED, field: str = "identity") -> str:
    """
    Check who somebody is: text of 1 to 255 UTF-16 units, or an int.
    """
    try:
        judged = judge(value, refused, limits.SERVER_IDENTITY)
    except InvalidCall:
        raise InvalidValue(
            f"{field}: {shown(value)} came; text of 1 to {limits.SERVER_IDENTITY} characters, "
            "or an int, is allowed"
        ) from None
    if judged.identity is None:
        raise InvalidValue(
            f"{field}: {shown(value)} came, and {judged.complaint}; give one that names "
            f"exactly one, of 1 to {limits.SERVER_IDENTITY} characters"
        )
    return judged.identity


def account_id(value: object, refused: frozenset[str] = REFUSED) -> str:
    """
    Check which account it is; what names no user names no account either.
    """
    return identity(value, refused, "account_id")


def user_id(value: object) -> int:
    """
    Check an anonymous user's id.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        number = int.__int__(value)
    elif isinstance(value, str) and _USER_ID.fullmatch(value):
        number = int(value)
    else:
        number = -1
    if not 0 <= number <= limits.SAFE_INTEGER:
        raise InvalidValue(
            f"user_id: {shown(value)} came; a whole number from 0 to 2^53-1 is allowed, "
            "as an int or its decimal text"
        )
    return number


# -- text --------------------------------------------------------------------------


def label(value: object, field: str) -> str:
    """
    Check a key that means nothing to us: text that is not empty, or an int.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return int.__repr__(value)
    if isinstance(value, str) and value:
        return _encodable(str.__str__(value), field)
    raise InvalidValue(f"{field}: {shown(value)} came; text that is not empty is allowed")


def event_name(value: object, *, mend: bool) -> tuple[str, Faults]:
    """
    Check an event's name: 1 to 1024 UTF-16 units, not blank.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue(
            f"event: {shown(value)} came; text of 1 to {limits.SERVER_TEXT} characters, "
            "not all of them blank, is allowed"
        )
    if mend:
        return repair.clean_text(value, limits.SERVER_TEXT, None)
    return _bounded(str.__str__(value), "event"), ()


def _bounded(text: str, field: str) -> str:
    if len(text) > _SURELY_SHORT and utf16_length(text) > limits.SERVER_TEXT:
        raise InvalidValue(
            f"{field}: {shown(text)} came, of {utf16_length(text):,} UTF-16 units; "
            f"at most {limits.SERVER_TEXT:,} are allowed"
        )
    return _encodable(text, field)


def _encodable(text: str, field: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidValue(
                f"{field}: {shown(text)} came, with half a surrogate pair, which UTF-8 "
                "cannot carry; decode text with errors='replace'"
            ) from None
    return text


# -- when --------------------------------------------------------------------------


def instant(value: object, *, mend: bool) -> tuple[int, Faults]:
    """
    Check when something happened.

    Args:
        value: An aware datetime, ISO-8601 text with an offset, or seconds since 1970.
        mend: Take a datetime or text without a zone as local time (a fault).

    Returns:
        µs since 1970, and the faults.
    """
    moment = _read_iso(value) if isinstance(value, str) else value
    faults: Faults = ()
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            if not mend:
                raise InvalidValue(
                    f"timestamp: {_shown_time(value)} came, without a time zone; give an "
                    "offset, such as +00:00"
                )
            faults = (Fault("naive_time", None, "timestamp has no time zone: local time"),)
        micros = _micros_of(moment, value)
    elif isinstance(moment, int) and not isinstance(moment, bool):
        micros = int.__int__(moment) * 1_000_000
    elif isinstance(moment, float):
        micros = round(moment * 1_000_000) if 0 <= moment <= _LATEST else -1
    else:
        raise InvalidValue(
            f"timestamp: {shown(value)} came; an aware datetime, ISO-8601 text with an offset, "
            "or seconds since 1970 are allowed"
        )
    if not 0 <= micros <= _LATEST * 1_000_000:
        raise InvalidValue(
            f"timestamp: {_shown_time(value)} came; 1970 to 9999 is allowed, as seconds "
            "(not milliseconds) where it is a number"
        )
    return micros, faults


def _micros_of(moment: datetime, given: object) -> int:
    try:
        return (moment.astimezone(timezone.utc) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError, OSError):
        # The calendar of the platform ends before the years 1 and 9999 do.
        raise InvalidValue(
            f"timestamp: {_shown_time(given)} came; 1970 to 9999 is allowed"
        ) from None


def _read_iso(text: str) -> datetime:
    # Not `fromisoformat`: what it takes differs between the versions of Python.
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise InvalidValue(
            f"timestamp: {shown(text)} came; ISO-8601 with an offset is allowed, "
            "such as 2017-03-10T22:21:56+00:00"
        )
    *parts, fraction, zone = match.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    micros = int((fraction or "0").ljust(6, "0")[:6])
    try:
        return datetime(year, month, day, hour, minute, second, micros, _zone(zone))
    except ValueError as exc:
        raise InvalidValue(f"timestamp: {shown(text)} came, and {exc}") from None


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text in "Zz":
        return timezone.utc
    minutes = 60 * int(text[1:3]) + int(text[3:].lstrip(":") or 0)
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _shown_time(value: object) -> str:
    if type(value) is datetime:
        return datetime.isoformat(value)
    return shown(value)


# -- properties --------------------------------------------------------------------


def properties(
    value: object, *, mend: bool, user: bool = False
) -> tuple[dict[str, Scalar], Faults]:
    """
    Check properties, or repair them.

    Args:
        value: A mapping.
        mend: Repair what is at fault, as an agent does.
        user: Whether these are user properties, of which Heap reserves a few.
    """
    if not isinstance(value, Mapping):
        raise InvalidValue(
            f"properties: {shown(value)} came; a mapping of names to texts and numbers is allowed"
        )
    if mend:
        repaired = repair.repair_properties(
            value, limit=limits.SERVER_TEXT, user=user, key_limit=limits.SERVER_TEXT
        )
        return repaired.properties, repaired.faults
    checked: dict[str, Scalar] = {}
    for key, item in value.items():
        name = _key(key)
        if name in checked:
            raise InvalidValue(f"properties: two keys are {shown(name)}; each may come once")
        if user and _is_reserved(name):
            raise InvalidValue(
                f"properties: the key {shown(name)} is Heap's own; any but 'user_id', and 'id' "
                "in any case, is allowed"
            )
        checked[name] = _scalar(item, name)
    return checked, ()


def _is_reserved(name: str) -> bool:
    return (
        name in limits.RESERVED_USER_KEYS or name.casefold() in limits.RESERVED_USER_KEYS_ANY_CASE
    )


def _key(key: Any) -> str:
    if type(key) is int:
        # Heap's reference: "Keys and values must be a number or string".
        return label(key, "properties: key")
    if not isinstance(key, str) or not key.strip():
        raise InvalidValue(
            f"properties: the key {shown(key)} came; text of 1 to {limits.SERVER_TEXT} "
            "characters, not all of them blank, is allowed"
        )
    return _bounded(str.__str__(key), "properties: key")


def _scalar(value: Any, key: str) -> Scalar:
    if isinstance(value, str):
        return _bounded(str.__str__(value), _place(key))
    if isinstance(value, bool):
        raise InvalidValue(f"{_place(key)}: {value} came; send 'true' or 'false' as text")
    if isinstance(value, int):
        number = int.__int__(value)
        if abs(number) > limits.SAFE_INTEGER:
            raise InvalidValue(
                f"{_place(key)}: {shown(number)} came, which loses digits beyond ±(2^53-1); "
                "send it as text"
            )
        return number
    if isinstance(value, float) and math.isfinite(value):
        return float.__float__(value)
    raise InvalidValue(
        f"{_place(key)}: {_shown_value(value)} came; text and finite numbers are allowed"
    )


def _place(key: str) -> str:
    return f"properties[{shown(key)}]"


def _shown_value(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, (date, list, dict)) else shown(value)

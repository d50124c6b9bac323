"""
The slow path: what becomes of names, keys, values and timestamps that Heap
does not take as they are.

It must not know when it is called (`wire` decides), how a fault is counted or
logged, nor what JSON looks like on the wire. It does no I/O and reads no clock.

Three rules hold in this file:

- It is total: whatever a program hands over, the answer is a value and a list
  of faults. Only a timestamp of the wrong type raises, because there the
  program is wrong and not its data.
- It is idempotent: what comes out is left alone the second time.
- Foreign code runs only where an `except Exception` surrounds it (reading a
  mapping, an element, an `isoformat`), and never while a fault is described:
  an object's own `__repr__`, `__str__` and `__class__` are not asked there.
  Hence `type(value)` with `issubclass` rather than `isinstance`, and
  `int.__int__(value)` rather than `int(value)`.

`KeyboardInterrupt` and its like are not faults and pass through.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from enum import Enum
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from heap_agent._core import limits
from heap_agent._core.encoder import dumps
from heap_agent._core.events import Fault, Scalar
from heap_agent.exceptions import InvalidCall

if TYPE_CHECKING:
    from decimal import Decimal
    from fractions import Fraction

#: Every word that `Fault.kind` can be, and what it stands for.
FAULT_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "empty_name": "an event name is empty or blank: the event is refused",
        "too_long": "a text was over its limit and has been cut",
        "surrogate": "a text held lone surrogates, now U+FFFD",
        "not_finite": "NaN, infinity, or beyond the range of a float: left out",
        "no_value": "None: left out",
        "bytes": "bytes, bytearray or memoryview: left out",
        "unsupported": "an object, or a list within a list, without a text: left out",
        "unreadable": "raised while it was read, or an over-long integer: left out",
        "cycle": "a mapping that contains itself: left out",
        "too_deep": "mappings nested more than MAX_DEPTH levels: left out",
        "too_many": "over MAX_ITEMS entries, or elements, in one call: the rest is left out",
        "key_type": "a key that is neither text nor a number: left out",
        "key_empty": "an empty or blank key: left out",
        "key_too_long": "a key over its limit: left out",
        "reserved_key": "a user property that Heap reserves: left out",
        "email_case": "`Email` where only `email` fills Heap's own property: kept",
        "key_collision": "two keys became the same text: the later one is kept",
        "naive_time": "a datetime without a zone: taken as local time",
        "time_range": "a timestamp that is NaN or out of range: now is used",
        "too_large": "one of the largest properties of an event that is too big: left out",
    }
)

#: Levels of mappings within the properties: `{"a": {"b": 1}}` has one. Nobody
#: reads a report by a key of ten parts, and a lazy mapping may have no end.
MAX_DEPTH: Final = 8

#: Entries of all mappings in one call, and elements of all its lists and sets. An
#: event of this many properties is near its limit of bytes; what goes beyond is
#: a structure that refers to itself many times over, or has no end. The outer
#: entries come first, so that only what is nested runs out of room. An element
#: that cannot be kept takes about 2 µs: the caller waits for some 20 ms at most.
MAX_ITEMS: Final = 10_000

#: Entries or elements that a mapping or set uses up that cannot be read: it may
#: have been read several times over, nearly to its end, before that showed.
_IN_VAIN: Final = 1_000

#: Timestamps from here on, 1970-01-01T00:00:00Z, …
EARLIEST: Final = 0.0

#: … up to here, 2262-04-11T23:47:16Z, in seconds. 64 bits of ns end there, and
#: milliseconds taken for seconds, the usual mistake, lie beyond.
LATEST: Final = 9_223_372_036.0

#: Times that a mapping is read again when it changes under the reader's hands.
_ATTEMPTS: Final = 4

#: Python's own default limit for turning an integer into text, applied here
#: because a program can lift it, and the conversion takes quadratic time.
_DIGITS: Final = 4_300
_TOO_MANY_DIGITS: Final = 10**_DIGITS

#: Characters of a value or a key that a fault may show.
_SHOWN: Final = 48
_KEY_SHOWN: Final = 64

_T = TypeVar("_T")


# -- text -----------------------------------------------------------------------


def utf16_length(text: str) -> int:
    """
    Count the UTF-16 code units of a text; a lone surrogate is one.
    """
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, limit: int) -> str:
    """
    Cut a text at a border between graphemes.

    The borders are those of a small rule of our own, not of Unicode's tables:
    no cut before a mark, a variation selector, an emoji modifier or tag, a
    Hangul vowel or final, on either side of a joiner, within a flag or CR LF.

    Args:
        text: Any text; takes time for `limit` characters only when it is longer.
        limit: At most this many UTF-16 units remain.

    Returns:
        The longest such beginning of the text. A single grapheme that is
        longer than the limit is cut between code points.
    """
    if len(text) <= limit and utf16_length(text) <= limit:
        return text
    fitting = end = _fitting(text, max(limit, 0))
    while end and not _is_border(text, end):
        end -= 1
    return text[: end or fitting]


def _fitting(text: str, limit: int) -> int:
    """How many code points from the start have at most `limit` UTF-16 units."""
    head = text[:limit]
    units = 0
    for index, character in enumerate(head):
        units += 2 if character > "\uffff" else 1
        if units > limit:
            return index
    return len(head)


def _is_border(text: str, index: int) -> bool:
    """Whether a grapheme may begin at this index, which is inside the text."""
    before, after = text[index - 1], text[index]
    if before == "\u200d" or _continues(after):
        return False
    if before == "\r" and after == "\n":
        return False
    # Flags are pairs: counting back over the whole run happens at most twice
    # in one cut, because the next index to the left then is a border.
    return not (_is_regional(after) and _regionals_before(text, index) % 2)


def _continues(character: str) -> bool:
    if character < "\u0300":
        return False
    return (
        unicodedata.category(character)[0] == "M"
        or character in "\u200c\u200d\uff9e\uff9f"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
        or "\u1160" <= character <= "\u11ff"
        or "\ud7b0" <= character <= "\ud7fb"
    )


def _is_regional(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _regionals_before(text: str, index: int) -> int:
    start = index
    while start and _is_regional(text[start - 1]):
        start -= 1
    return index - start


def _without_surrogates(text: str) -> str:
    """The same text if it can be UTF-8; else pairs joined, lone ones replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # One unit in, one unit out, so this never changes the UTF-16 length.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean_text(text: str, limit: int, key: str | None) -> tuple[str, tuple[Fault, ...]]:
    """
    Make a text encodable and short enough.

    Args:
        text: Any text, also of a subclass of `str`.
        limit: At most this many UTF-16 units remain.
        key: The property's key, for the faults; None for the event's name.

    Returns:
        An exact `str` of at most `limit` units without surrogates, and the
        faults `surrogate` and `too_long` as they apply.
    """
    text = str.__str__(text)
    # The cut looks at one character behind the limit, of two units at most;
    # the other megabytes need not be searched for surrogates.
    window = text[: max(limit, 0) + 2]
    sound = _without_surrogates(window)
    short = cut(sound, limit)
    faults = []
    what = "the event's name" if key is None else f"property {_quoted(key)}"
    if sound != window:
        faults.append(
            _fault(
                "surrogate",
                key,
                f"{what} holds lone surrogates in {_quoted(text)}, replaced with U+FFFD; "
                "decode text with errors='replace'",
            )
        )
    if len(short) < len(sound):
        faults.append(
            _fault(
                "too_long",
                key,
                f"{what} is cut: {_quoted(text)} has {len(text):,} characters, "
                f"allowed are {limit:,} UTF-16 units",
            )
        )
    return short, tuple(faults)


def repair_name(name: str) -> tuple[str, tuple[Fault, ...]]:
    """
    Make an event's name acceptable.

    Args:
        name: Any text; that it is text has been checked before.

    Returns:
        An exact `str` of 1 to `limits.EVENT_NAME` units and its faults; or ""
        and the one fault `empty_name`, which means that the event is refused.
    """
    text, faults = clean_text(name, limits.EVENT_NAME, None)
    if text.strip():
        return text, faults
    reason = f"the event is refused: its name is {_quoted(text)}; give it a name that is not blank"
    return "", (_fault("empty_name", None, reason),)


# -- describing what came, without running foreign code --------------------------


def _quoted(text: str) -> str:
    """A Python literal of the beginning of a text: no line break survives it."""
    return repr(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")


def type_name(value: object) -> str:
    """
    The name of a value's class, printable and short.
    """
    # The slot of `type` itself: a metaclass may define a `__name__` that raises.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return label(str.__str__(name))


def label(text: str) -> str:
    """
    At most 64 characters of a name or key, printable, the text itself if it is.
    """
    head = text[:_KEY_SHOWN]
    return head if head.isprintable() else repr(head)[1:-1][:_KEY_SHOWN]


def _shown(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if value is None or kind is bool or kind is float:
        return repr(value)
    if kind is int and abs(value) < 10**_SHOWN:
        return repr(value)
    return f"a value of type {type_name(value)}"


def _fault(kind: str, key: str | None, detail: str) -> Fault:
    return Fault(kind, None if key is None else label(key), detail)


class _LeftOut(Exception):
    """Unwinds to the property, or element, that cannot be kept."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self.reason = reason


def _reason(error: Exception) -> tuple[str, str]:
    """Kind and sentence of whatever stopped the reading of a value."""
    if type(error) is _LeftOut:
        return error.kind, error.reason
    return "unreadable", f"reading it raised {type_name(error)}"


# -- scalars --------------------------------------------------------------------


def _unwrap(value: Any) -> Any:
    """What an enum's member or a numpy scalar stands for."""
    for _ in range(MAX_DEPTH):
        kind = type(value)
        if issubclass(kind, Enum):
            value = value.value
        elif kind.__module__.partition(".")[0] == "numpy" and hasattr(kind, "item"):
            inner = value.item()
            # A longdouble has no counterpart and answers with its own kind.
            value = float(inner) if type(inner) is kind else inner
        else:
            break
    return value


def _scalar(value: Any) -> Scalar:
    """Text, an integer that JavaScript keeps, or a finite float; else _LeftOut."""
    kind = type(value)
    if issubclass(kind, str):
        return str.__str__(value)
    if kind is bool:
        return "true" if value else "false"
    if issubclass(kind, int):
        return _integer(int.__int__(value))
    if issubclass(kind, float):
        return _real(float.__float__(value))
    if _descends(kind, "decimal", "Decimal"):
        return _decimal(value)
    if _descends(kind, "fractions", "Fraction"):
        return _fraction(value)
    if issubclass(kind, date):
        return str.__str__(value.isoformat())
    if _descends(kind, "uuid", "UUID") or _descends(kind, "pathlib", "PurePath"):
        return str.__str__(str(value))
    raise _refusal(value)


def _refusal(value: object) -> _LeftOut:
    kind = type(value)
    if value is None:
        return _LeftOut("no_value", "it is None; send text or a number, or leave the key out")
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return _LeftOut("bytes", f"it is {_shown(value)}; decode it, or encode it as hex or Base64")
    return _LeftOut(
        "unsupported",
        f"it is {_shown(value)}; allowed are text, numbers, booleans, dates, UUIDs, "
        "paths, enums, and flat lists and mappings of these",
    )


def _descends(kind: type, module: str, name: str) -> bool:
    # By name: neither `uuid` nor `pathlib` is for this room to import, since they reach
    # for randomness and for files; and each start would load what few programs use.
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] == module
        for base in kind.__mro__
    )


def _integer(number: int) -> Scalar:
    if abs(number) <= limits.SAFE_INTEGER:
        return number
    if abs(number) >= _TOO_MANY_DIGITS:
        raise _LeftOut("unreadable", f"it is an integer of more than {_DIGITS:,} digits")
    return str(number)


def _real(number: float) -> float:
    if math.isfinite(number):
        return number
    raise _LeftOut(
        "not_finite",
        f"{number!r} is no finite number; send one, or leave the key out",
    )


def _decimal(value: Decimal) -> Scalar:
    if not value.is_finite():
        # Not through float(): a signalling NaN would raise there.
        raise _LeftOut("not_finite", "it is a Decimal that is not finite; send a finite number")
    number = _real(float(value))
    if value != value.to_integral_value():
        return number
    # With all digits written out it may be a key of some database, and follows
    # the rule of integers; 1E+300 only ever was an approximation.
    exponent = value.as_tuple().exponent
    exact = isinstance(exponent, int) and exponent <= 0
    return _integer(int(value)) if exact or abs(number) <= limits.SAFE_INTEGER else number


def _fraction(value: Fraction) -> Scalar:
    if value.denominator == 1:
        return _integer(int.__int__(value.numerator))
    try:
        return _real(float(value))
    except OverflowError:
        raise _LeftOut("not_finite", "it is a Fraction beyond the range of a float") from None


# -- properties -------------------------------------------------------------------


class Repaired(NamedTuple):
    """
    Properties that Heap takes, and what had to be done for it.

    Attributes:
        properties: Exact `str` keys of 1 to `key_limit` units to
            exact `str`, `int` or finite `float` values; ready for JSON.
        faults: In the order in which they were met.
    """

    properties: dict[str, Scalar]
    faults: tuple[Fault, ...]


def repair_properties(
    properties: Mapping[Any, object],
    *,
    limit: int,
    user: bool = False,
    key_limit: int = limits.PROPERTY_KEY,
) -> Repaired:
    """
    Turn any mapping into properties that Heap takes.

    Nested mappings become dotted keys (an empty one becomes nothing), lists,
    tuples and sets one text, joined by `limits.LIST_SEPARATOR`, sets in the
    order of their texts. Integers beyond 2^53 become text.

    Args:
        properties: What the program gave. It may change, raise or refer to
            itself while it is read.
        limit: UTF-16 units that a value may have: `limits.EVENT_VALUE` or
            `limits.USER_VALUE`.
        user: Whether these are user properties, of which Heap reserves a few.
        key_limit: UTF-16 units that a key may have.

    Returns:
        The properties in their order, and the faults.
    """
    builder = _Builder(limit, user, key_limit)
    builder.add_mapping(properties, "", ())
    return Repaired(builder.properties, tuple(builder.faults))


_ALLOWED_ENTRIES: Final = f"allowed are {MAX_ITEMS:,} entries in one call, nested ones included"
_ALLOWED_ELEMENTS: Final = f"allowed are {MAX_ITEMS:,} elements of lists and sets in one call"


class _Builder:
    """
    One call's work: the properties and faults so far.
    """

    def __init__(self, limit: int, user: bool, key_limit: int) -> None:
        self.limit = limit
        self.user = user
        self.key_limit = key_limit
        self.properties: dict[str, Scalar] = {}
        self.faults: list[Fault] = []
        self.entries_left = MAX_ITEMS
        self.elements_left = MAX_ITEMS

    def add_mapping(
        self, mapping: Mapping[Any, object], prefix: str, outer: tuple[int, ...]
    ) -> None:
        """Add every entry; `outer` holds the ids of the mappings around this one."""
        if id(mapping) in outer:
            raise _LeftOut("cycle", "it is a mapping that contains itself")
        if len(outer) > MAX_DEPTH:
            raise _LeftOut("too_deep", f"allowed are {MAX_DEPTH} levels of nested mappings")
        entries = self.entries_of(mapping, prefix)
        for key, value in entries:
            self.add(prefix, key, value, (*outer, id(mapping)))

    def entries_of(self, mapping: Mapping[Any, object], prefix: str) -> list[tuple[object, object]]:
        try:
            entries = _steady(lambda: _entries(mapping, self.entries_left + 1))
        except Exception as error:
            self.entries_left = max(self.entries_left - _IN_VAIN, 0)
            what = f"the mapping {_quoted(prefix)} is" if prefix else "the properties are"
            kind, reason = _reason(error)
            self.note(kind, prefix or None, f"{what} left out: {reason}")
            return []
        if len(entries) > self.entries_left:
            what = f"the rest of {_quoted(prefix)}" if prefix else "the rest of the properties"
            detail = f"{what} is left out: {_ALLOWED_ENTRIES}"
            self.note("too_many", prefix or None, detail)
            del entries[self.entries_left :]
        self.entries_left -= len(entries)
        return entries

    def add(self, prefix: str, key: object, value: object, outer: tuple[int, ...]) -> None:
        """Add one entry, or note why it is left out."""
        try:
            name = self.name_of(prefix, key)
            self.add_value(name, _unwrap(value), outer)
        except Exception as error:
            called = _key_label(prefix, key)
            kind, reason = _reason(error)
            self.note(kind, called, f"property {_quoted(called)} is left out: {reason}")

    def name_of(self, prefix: str, key: object) -> str:
        text = _key_text(key)
        if not text.strip():
            raise _LeftOut("key_empty", "its key is empty or blank; give it a name")
        name = f"{prefix}.{text}" if prefix else text
        # An over-long key is not worth searching: it goes, surrogates or not.
        if len(name) > self.key_limit or utf16_length(name) > self.key_limit:
            raise _LeftOut(
                "key_too_long",
                f"its key has {len(name):,} characters, allowed are {self.key_limit} UTF-16 units",
            )
        sound = _without_surrogates(name)
        if sound != name:
            detail = f"the key {_quoted(name)} holds lone surrogates, replaced with U+FFFD"
            self.note("surrogate", sound, detail)
        return sound

    def add_value(self, name: str, value: Any, outer: tuple[int, ...]) -> None:
        kind = type(value)
        if type(value) is _Unreadable:
            raise _LeftOut("unreadable", value.reason)
        if issubclass(kind, Mapping):
            self.add_mapping(value, name, outer)
        elif issubclass(kind, (list, tuple, set, frozenset)):
            self.keep(name, self.joined(name, value))
        else:
            self.keep(name, _scalar(value))

    def joined(self, name: str, value: Collection[object]) -> str:
        """The elements as one text, which is still to be cut."""
        unordered = issubclass(type(value), (set, frozenset))
        texts: list[str] = []
        length = 0
        noted: set[str] = set()
        for index, element in enumerate(self.whole(value) if unordered else value):
            if not self.elements_left:
                if not index:
                    raise _LeftOut("too_many", _ALLOWED_ELEMENTS)
                self.note_element("too_many", name, index, _ALLOWED_ELEMENTS)
                break
            self.elements_left -= 1
            try:
                # No more of a text than decides where the joined one is cut.
                texts.append(_text(_scalar(_unwrap(element)))[: self.limit + 2])
            except Exception as error:
                kind, reason = _reason(error)
                if kind not in noted:
                    noted.add(kind)
                    self.note_element(kind, name, index, reason)
                continue
            length += len(texts[-1]) + len(limits.LIST_SEPARATOR)
            if not unordered and length > self.limit + len(limits.LIST_SEPARATOR):
                break
        return limits.LIST_SEPARATOR.join(sorted(texts) if unordered else texts)

    def whole(self, value: Collection[object]) -> list[object]:
        """All of a set: which elements come first is chance, so that no beginning can be kept."""
        if len(value) > self.elements_left:
            raise _LeftOut("too_many", _ALLOWED_ELEMENTS)
        try:
            return _steady(lambda: list(islice(iter(value), self.elements_left + 1)))
        except Exception:
            self.elements_left = max(self.elements_left - _IN_VAIN, 0)
            raise

    def keep(self, name: str, value: Scalar) -> None:
        if self.user and self.is_reserved(name):
            raise _LeftOut("reserved_key", "Heap reserves this key of users; choose another")
        if isinstance(value, str):
            value, faults = clean_text(value, self.limit, name)
            self.faults.extend(faults)
        if self.user and name != "email" and name.casefold() == "email":
            detail = f"property {_quoted(name)} is kept, but only 'email' fills Heap's own Email"
            self.note("email_case", name, detail)
        if name in self.properties:
            detail = f"two keys became {_quoted(name)}; the later value is kept"
            self.note("key_collision", name, detail)
        self.properties[name] = value

    @staticmethod
    def is_reserved(name: str) -> bool:
        return (
            name in limits.RESERVED_USER_KEYS
            or name.casefold() in limits.RESERVED_USER_KEYS_ANY_CASE
        )

    def note_element(self, kind: str, name: str, index: int, reason: str) -> None:
        """One fault per list and kind, for the first element that has it."""
        what = f"elements of {_quoted(name)} from number {index + 1} on"
        if kind != "too_many":
            what = f"element {index + 1} of {_quoted(name)}, or more of its kind,"
        self.note(kind, name, f"{what} left out: {reason}")

    def note(self, kind: str, key: str | None, detail: str) -> None:
        self.faults.append(_fault(kind, key, detail))


class _Unreadable:
    """
    Stands for a value whose mapping raised when it was asked for it.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _steady(read: Callable[[], _T]) -> _T:
    """Read again while another thread changes what is read (a RuntimeError)."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except RecursionError:
            raise
        except RuntimeError:
            continue
    return read()


def _entries(mapping: Mapping[Any, object], most: int) -> list[tuple[object, object]]:
    if type(mapping) is dict:
        return list(islice(mapping.items(), most))
    return [(key, _lookup(mapping, key)) for key in list(islice(iter(mapping), most))]


def _lookup(mapping: Mapping[Any, object], key: object) -> object:
    try:
        return mapping[key]
    except Exception as error:
        return _Unreadable(_reason(error)[1])


def _key_text(key: object) -> str:
    """Text and finite numbers as text; a bool is no number here. Else _LeftOut."""
    key = key if type(key) is str else _plain_key(key)
    kind = type(key)
    if kind is not bool and issubclass(kind, (str, int, float)):
        return _text(_scalar(key))
    raise _LeftOut("key_type", f"its key is {_shown(key)}; allowed are text and numbers")


def _plain_key(key: object) -> object:
    # A member of a plain Enum is no text; one of a StrEnum or IntEnum is.
    if issubclass(type(key), Enum) and not issubclass(type(key), (str, int, float)):
        return key
    return _unwrap(key)


def _key_label(prefix: str, key: Any) -> str:
    """What a fault calls an entry whose key may be of any type."""
    kind = type(key)
    if issubclass(kind, str):
        own = str.__str__(key)
    elif kind is float or (kind is int and abs(key) < 10**_SHOWN):
        own = repr(key)
    else:
        own = f"<{type_name(key)}>"
    return f"{prefix}.{own}" if prefix else own


def _text(value: Scalar) -> str:
    return value if isinstance(value, str) else repr(value)


# -- whole events -----------------------------------------------------------------


def fit_event(
    properties: dict[str, Scalar], size: Callable[[dict[str, Scalar]], int], limit: int
) -> tuple[dict[str, Scalar], tuple[Fault, ...]]:
    """
    Leave out as few of the largest properties as make an event fit.

    Args:
        properties: Repaired properties; not changed.
        size: Bytes of the event's JSON with the properties that it is given.
            It is asked a logarithmic number of times.
        limit: Bytes that the event may have.

    Returns:
        The properties that stay, in their order, and one fault for each that
        does not. Nothing stays if the event is too large even so.
    """
    if size(properties) <= limit:
        return properties, ()
    weights = {key: len(dumps({key: value})) for key, value in properties.items()}
    largest = sorted(weights, key=weights.__getitem__, reverse=True)

    def without(count: int) -> dict[str, Scalar]:
        gone = frozenset(largest[:count])
        return {key: value for key, value in properties.items() if key not in gone}

    # Only counts below `len(largest)` are tried; if none fits, that is the answer.
    count = bisect_left(range(len(largest)), True, lo=1, key=lambda n: size(without(n)) <= limit)
    faults = tuple(
        _fault(
            "too_large",
            key,
            f"property {_quoted(key)} of {weights[key]:,} bytes is left out: "
            f"the event is over {limit:,} bytes; send less with one event",
        )
        for key in largest[:count]
    )
    return without(count), faults


def repair_timestamp(value: Any, now: float) -> tuple[float, tuple[Fault, ...]]:
    """
    Turn a given timestamp into epoch seconds.

    Args:
        value: An aware `datetime`, or seconds since 1970 as `int` or `float`.
            A naive `datetime` is taken as local time (fault).
        now: Epoch seconds, used for what is NaN, unreadable or outside
            `EARLIEST` … `LATEST` (fault).

    Returns:
        Epoch seconds and the faults.

    Raises:
        InvalidCall: For any other type, `bool` and None included.
    """
    kind = type(value)
    if issubclass(kind, datetime):
        return _instant(value, now)
    if kind is not bool and issubclass(kind, int):
        return _in_range(int.__int__(value), now)
    if issubclass(kind, float):
        return _in_range(float.__float__(value), now)
    raise InvalidCall(
        f"timestamp is {_shown(value)}; allowed are an aware datetime, or seconds since 1970 "
        "as int or float; leave it out to use the time of the call"
    )


def _instant(value: Any, now: float) -> tuple[float, tuple[Fault, ...]]:
    try:
        naive = value.utcoffset() is None
        seconds = float.__float__(value.timestamp())
    except Exception as error:
        # The platform's own calendar ends before year 1 and year 9999 do.
        detail = f"timestamp: {_reason(error)[1]}, so the time of the call is used"
        return now, (_fault("time_range", None, detail),)
    seconds, faults = _in_range(seconds, now)
    if naive and not faults:
        detail = (
            "timestamp has no time zone and is taken as local time; "
            "give an aware one, such as datetime.now(timezone.utc)"
        )
        return seconds, (_fault("naive_time", None, detail),)
    return seconds, faults


def _in_range(seconds: float, now: float) -> tuple[float, tuple[Fault, ...]]:
    if EARLIEST <= seconds <= LATEST:
        return float(seconds), ()
    detail = (
        f"timestamp is {_shown(seconds)}; allowed are seconds (not milliseconds) from 1970 "
        "to 2262, so the time of the call is used"
    )
    return now, (_fault("time_range", None, detail),)

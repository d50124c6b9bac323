"""
What an option may be: checks, the meaning of text, and how a value is shown.

`Options` is plain Python: with every program that starts, an attrs class of so many
fields would be written and compiled anew. This module must not know which options
there are, nor where values come from.
A check takes anything, and returns the value in its one form or raises
ValueError with what is allowed; a name beginning with ``as_`` makes an object
for a check out of the environment's text.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from heap_agent._core import limits
from heap_agent._core.events import Scalar
from heap_agent.exceptions import InvalidCall

#: Longest duration. Windows takes no wait beyond 49 days; None means for ever
#: where that is allowed.
DURATION_MAXIMUM: Final = 30 * 86_400.0

#: Largest number of devices, or of events per minute: what nobody has, and what can
#: still be divided by another of that size.
COUNT_MAXIMUM: Final = 10**9

# -- what a value may be: each takes anything, and returns it or says what is allowed --


def check_app_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and re.fullmatch("[0-9]{1,20}", value.strip(), re.ASCII):
        return value.strip()
    raise ValueError("the id of an environment at Heap, a number such as 11")


def check_name(value: object) -> str:
    # It becomes the name of a directory, on Windows too.
    if isinstance(value, str) and re.fullmatch(r"\w([\w .-]{0,62}\w)?", value):
        return value
    raise ValueError("1 to 64 letters, digits, spaces, '.', '_' and '-', no sign at either end")


def check_text(value: object) -> str:
    # A surrogate is a byte of the environment that is no UTF-8.
    if isinstance(value, str) and value.strip() and not re.search("[\0\ud800-\udfff]", value):
        return value.strip()
    raise ValueError("text that is not blank")


def check_version(value: object) -> str:
    text = check_text(value)
    if len(text) <= 255:
        return text
    raise ValueError("text of at most 255 characters")


def check_path(value: object) -> Path:
    if isinstance(value, (str, os.PathLike)) and not isinstance(value, bytes):
        text = os.fspath(value)
        if isinstance(text, str) and text.strip() and "\0" not in text:
            return Path(text)
    raise ValueError("a path")


def check_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def check_region(value: object) -> str:
    if isinstance(value, str) and value.strip().lower() in limits.HOSTS:
        return value.strip().lower()
    raise ValueError(" or ".join(f'"{name}"' for name in limits.HOSTS))


def _seconds(minimum: float, *, exclusive: bool = True) -> Callable[[object], float]:
    bound = "more than" if exclusive else "at least"

    def check(value: object) -> float:
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            enough = value > minimum if exclusive else value >= minimum
            if enough and value <= DURATION_MAXIMUM:
                return float(value)
        raise ValueError(
            f"{bound} {minimum:g} and at most {DURATION_MAXIMUM:.0f} seconds, "
            "as a number or a timedelta"
        )

    return check


def _whole(minimum: int, maximum: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            if minimum <= value <= maximum:
                return value
        raise ValueError(f"a whole number from {minimum} to {maximum}")

    return check


def _or_none(check: Callable[[object], object]) -> Callable[[object], object]:
    def allow_none(value: object) -> object:
        if value is None:
            return None
        try:
            return check(value)
        except ValueError as exc:
            raise ValueError(f"{exc}, or none") from None

    return allow_none


def _split(url: object) -> SplitResult:
    if not isinstance(url, str) or re.search(r"[\s\0]", url.strip()):
        raise ValueError("not a URL")
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("not an HTTP URL")
    return parts


def check_endpoint(value: object) -> str:
    try:
        parts = _split(value)
    except ValueError:
        parts = None
    if parts is None or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            "a URL such as https://collector.example:8443, without user, query and fragment"
        )
    return parts.geturl().rstrip("/")


def check_proxy(value: object) -> str:
    if value in ("none", ""):
        return ""  # no proxy, where None would mean that nobody has said anything
    try:
        return _split(value).geturl().rstrip("/")
    except ValueError:
        raise ValueError("a URL such as http://user:password@proxy.example:3128, or none") from None


def check_mapping(value: object) -> Mapping[str, Scalar]:
    if isinstance(value, Mapping):
        good = all(
            isinstance(key, str)
            and key
            and (isinstance(item, (str, int)) or isinstance(item, float) and math.isfinite(item))
            for key, item in value.items()
        )
        if good:
            return MappingProxyType(dict(value))
    raise ValueError("a mapping of names to texts, numbers, true and false")


def check_texts(value: object) -> frozenset[str]:
    if isinstance(value, (list, tuple, set, frozenset)):
        if all(isinstance(item, str) for item in value):
            return frozenset(value)
    raise ValueError("a list of texts")


# -- what the environment's text means -----------------------------------------

_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _as_is(text: str) -> object:
    return text


def _as_number(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _as_flag(text: str) -> object:
    return _WORDS.get(text.strip().lower(), text)


def as_refusal(text: str) -> object:
    # A person who sets DO_NOT_TRACK to anything but "no" does not want it.
    return _WORDS.get(text.strip().lower(), True)


def _as_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def as_mapping(text: str) -> object:
    if text.lstrip().startswith("{"):
        return _as_json(text)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(separator for _, separator, _ in pairs):
        return text
    return {key.strip(): value.strip() for key, _, value in pairs}


def as_texts(text: str) -> object:
    if text.lstrip().startswith("["):
        return _as_json(text)
    return [part.strip() for part in text.split(",")]


# -- the options ---------------------------------------------------------------


class Option(NamedTuple):
    """
    What is known of an option besides its value.

    Attributes:
        default: Its value unless somebody gives one.
        help: One sentence.
        unit: Of the number; "" where there is none.
        check: Takes anything, returns the value or raises ValueError with what
            is allowed.
        parse: Makes an object for `check` out of the environment's text.
        optional: Whether None is a value.
        secret: Whether it may hold a password, as URLs do.
        name: Of the field.
        environment: Name of the environment variable.
    """

    default: object
    help: str
    unit: str
    check: Callable[[object], object]
    parse: Callable[[str], object]
    optional: bool
    secret: bool
    name: str
    environment: str

    def convert(self, value: object) -> object:
        """
        The value in its one form.

        Raises:
            InvalidCall: It is not allowed.
        """
        try:
            return self.check(value)
        except ValueError as exc:
            raise InvalidCall(f"{self.name}: {self.refusal(value, exc)}") from None

    def read(self, text: str) -> object:
        """The object that a text stands for, where there is only text."""
        if self.optional and text.strip().lower() == "none":
            return None
        return self.parse(text)

    def show(self, value: object) -> str:
        """A value for people: as they would write it, without its password."""
        if value is None or value == "":
            return "none"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, Mapping):
            return json.dumps(dict(value), ensure_ascii=False, default=repr)
        if isinstance(value, frozenset):
            return json.dumps(sorted(value), ensure_ascii=False)
        if isinstance(value, float):
            return f"{value:g}"
        return mask(str(value)) if self.secret else str(value)

    def refusal(self, value: object, allowed: object) -> str:
        """What came, and what is allowed."""
        came = _shown(value)
        if self.secret:
            came = mask(came)
        return f"{came[:80]} came, allowed is {allowed}."


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:
        # An integer of over 4,300 digits, a list in a list in a list, or anything.
        return f"a value of type {type(value).__name__}"


def mask(url: str) -> str:
    """
    Hide the user and the password in a URL, a malformed one too.
    """
    return re.sub(r"^(\W?\w+://)?.*@", r"\1***@", url, flags=re.DOTALL)


class Options:
    """
    Options that go together, checked: a subclass has an `option` for each. Its objects
    do not change.

    Raises:
        InvalidCall: A value is not allowed.
    """

    #: What is known of each, in the order of their definition.
    FIELDS: ClassVar[Mapping[str, Option]]

    def __init_subclass__(cls, *, prefix: str = "") -> None:
        cls.FIELDS = MappingProxyType(
            {
                name: known._replace(
                    name=name, environment=known.environment or prefix + name.upper()
                )
                for name, known in vars(cls).items()
                if isinstance(known, Option)
            }
        )

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - self.FIELDS.keys()
        if unknown:
            raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
        for name, known in self.FIELDS.items():
            vars(self)[name] = known.convert(values.get(name, known.default))
        self._check_together()

    def _check_together(self) -> None:
        """
        Refuse values that are allowed alone but not together.
        """

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change; make another one")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # Where a traceback shows one that was refused, it has half of its values.
        shown = [f"{name}={self._shown(name, value)}" for name, value in vars(self).items()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _shown(self, name: str, value: Any) -> str:
        return repr(mask(value) if value and self.FIELDS[name].secret else value)


def option(
    default: object,
    check: Callable[[object], object],
    help: str,
    *,
    unit: str = "",
    parse: Callable[[str], object] = _as_is,
    optional: bool = False,
    secret: bool = False,
    environment: str = "",
) -> Any:
    optional = optional or default is None
    allowed = _or_none(check) if optional else check
    return Option(default, help, unit, allowed, parse, optional, secret, "", environment)


def duration(default: float, help: str, *, optional: bool = False, **bound: Any) -> Any:
    check = _seconds(bound.pop("minimum", 0.0), **bound)
    return option(default, check, help, unit="s", parse=_as_number, optional=optional)


def count(
    default: int,
    help: str,
    *,
    minimum: int = 1,
    maximum: int = COUNT_MAXIMUM,
    unit: str = "",
    optional: bool = False,
) -> Any:
    check = _whole(minimum, maximum)
    return option(default, check, help, unit=unit, parse=_as_number, optional=optional)


def switch(default: bool | None, help: str) -> Any:
    return option(default, check_flag, help, parse=_as_flag)

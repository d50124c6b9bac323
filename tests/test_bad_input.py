"""
Whatever a program hands to a verb, nothing but the documented errors comes out of
it, and Heap takes what is sent.

What becomes of each value is tested with the room that decides it, in `core/`.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import pytest
from helpers import balanced
from strategies import (
    HOSTILE,
    EndlessMapping,
    Impostor,
    LyingKey,
    LyingText,
    Masked,
    MaskedDict,
    MaskedNumber,
    MaskedText,
    Unshowable,
    WornKey,
    cyclic_dict,
    cyclic_list,
    deep_dict,
)

from heap_agent import Agent, InvalidCall, InvalidValue
from heap_agent.testing import Collector


def refuse(*_: object, **__: object) -> NoReturn:
    """Stands for every method that raises."""
    raise RuntimeError("line one\nline two")


def broken(base: type, *arguments: Any) -> Callable[[], Any]:
    """Makes a value of a class of which every method raises that may be overridden."""
    kept = {"__new__", "__init__", "__class__", "__getattribute__", "__init_subclass__"}
    names = [name for name in dir(base) if name not in kept and callable(getattr(base, name))]
    kind = type(f"Broken_{base.__name__}", (base,), dict.fromkeys(names, refuse))
    return lambda: kind(*arguments)


def sealed(base: type, *arguments: Any) -> Callable[[], Any]:
    """Makes a value that raises whichever of its attributes is asked for."""
    kind = type(f"Sealed_{base.__name__}", (base,), {"__getattribute__": refuse})
    return lambda: kind(*arguments)


class Zone(tzinfo):
    """A zone that is days away."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(days=3)


class Circle(enum.Enum):
    """A member that stands for itself."""

    ROUND = 1

    @property
    def value(self) -> Any:
        return self


class Finite(Decimal):
    """A number that always says that it is one."""

    def is_finite(self) -> bool:
        return True


class Unhashable(dict[str, int]):
    """A mapping with keys that cannot be ones."""

    def __iter__(self) -> Iterator[Any]:
        return iter([[], {}, 1.5, None])


class Uncountable(Mapping[Any, Any]):
    """A mapping that keeps to nothing."""

    def __len__(self) -> int:
        return -5

    def __iter__(self) -> Any:
        return 5

    def __getitem__(self, key: object) -> Any:
        return self


MAKERS: dict[str, Callable[[], Any]] = {
    **HOSTILE,
    "broken text": broken(str, "x" * 2_000),
    "broken int": broken(int, 7),
    "broken float": broken(float, 1.5),
    "broken dict": broken(dict, {"a": 1}),
    "broken list": broken(list, [1]),
    "broken set": broken(set, [1]),
    "broken decimal": broken(Decimal, "1.5"),
    "broken datetime": broken(datetime, 2024, 1, 1),
    "sealed object": sealed(object),
    "sealed text": sealed(str, "x"),
    "sealed int": sealed(int, 5),
    "sealed dict": sealed(dict, {"a": 1}),
    "sealed list": sealed(list, [1]),
    "sealed datetime": sealed(datetime, 2024, 1, 1),
    "masked text": lambda: MaskedText("x"),
    "masked number": lambda: MaskedNumber(3),
    "masked dict": lambda: MaskedDict(a=1),
    "mock of a dict": lambda: Impostor(dict),
    "mock of a datetime": lambda: Impostor(datetime),
    "worn key": lambda: {WornKey(): True, "b": True},
    "lying keys": lambda: {LyingKey("", "a"): 1, LyingKey(" ", "b"): True},
    "lying text": lambda: LyingText("x"),
    "unhashable keys": lambda: Unhashable(a=1),
    "uncountable": Uncountable,
    "far zone": lambda: datetime(2024, 1, 1, tzinfo=Zone()),
    "first moment": lambda: datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    "last moment": lambda: datetime.max.replace(tzinfo=timezone(-timedelta(hours=23))),
    "circle": lambda: Circle.ROUND,
    "signalling": lambda: Finite("sNaN"),
    "fine fraction": lambda: Fraction(10**100_000 + 1, 10**100_000),
    "fine decimal": lambda: Decimal("0." + "0" * 100_000 + "1"),
    "huge decimal": lambda: Decimal("9" * 100_000),
    "huge int": lambda: 10**100_000,
    "infinite": lambda: float("inf"),
    "surrogates": lambda: "\ud800" * 2_000,
    "zeros": lambda: "\0" * 1_023,
    "generator": lambda: (number for number in range(3)),
    "cycle": cyclic_dict,
    "cycle of lists": cyclic_list,
    "deep": lambda: deep_dict(1_000),
    "endless": EndlessMapping,
    "read-only": lambda: MappingProxyType({"a": MappingProxyType({"b": 1})}),
    "mixed list": lambda: ["a", "\ud800", None, Decimal("sNaN"), [1], Masked(), Unshowable()],
    "collisions": lambda: {"a": {"b": 1}, "a.b": 2, 1: 1, "1": 2, 1.5: 3, "1.5": 4, "\ud800": 5},
    "long together": lambda: {"k" * 300: {"k" * 300: 1}},
    "too large": lambda: {f"k{number}": "\x01" * 1_023 for number in range(900)},
    "uuid": lambda: uuid.UUID(int=5),
}

VERBS: dict[str, Callable[[Agent, Any], None]] = {
    "event": lambda agent, value: agent.track(value),
    "properties": lambda agent, value: agent.track("X", value),
    "value": lambda agent, value: agent.track("X", {"a": 1, "v": value}),
    "nested": lambda agent, value: agent.track("X", {"o": {"v": value}, "l": [value]}),
    "timestamp": lambda agent, value: agent.track("X", timestamp=value),
    "identify": lambda agent, value: agent.identify(value),
    "user properties": lambda agent, value: agent.add_user_properties(value),
    "user value": lambda agent, value: agent.add_user_properties({"v": value}),
    "event properties": lambda agent, value: agent.add_event_properties(value),
    "event value": lambda agent, value: agent.add_event_properties({"v": value}),
    "name": lambda agent, value: agent.remove_event_property(value),
}


@pytest.mark.parametrize("strict", [False, None, True])
def test_nothing_but_the_documented_errors_comes_out(tmp_path: Path, strict: bool | None) -> None:
    """No value of any kind makes a verb raise its own error, or Heap refuse what is sent."""
    with (
        Collector() as server,
        Agent("11", directory=tmp_path, endpoint=server.url, interval=3600, strict=strict) as agent,
    ):
        agent.track("X", {"a": 1, "b": True})
        for verb in VERBS.values():
            for make in MAKERS.values():
                # The name of what failed is in the traceback.
                allowed = (InvalidCall, InvalidValue) if strict is not False else ()
                with suppress(*allowed):
                    verb(agent, make())
        assert agent.flush(timeout=60)
        status = agent.status()
        assert (status.dead, status.queued) == (0, 0)
        assert status.delivered > 30
        balanced(agent)


def test_a_key_of_any_kind(tmp_path: Path) -> None:
    """What can be in a dict at all is a key or is left out, and never ends a call."""
    with Agent("11", directory=tmp_path, endpoint="http://127.0.0.1:9") as agent:
        agent.track("X", {"a": 1})
        recorded = 1
        for make in (*MAKERS.values(), WornKey):
            with suppress(Exception):
                properties = {make(): True, "a": 1}
                recorded += 1
                agent.track("X", properties)
        assert agent.status().recorded == recorded > 20

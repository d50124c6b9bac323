"""
What is said of faults: calls that are wrong, and values that are.

A wrong call raises, unless the program asked for logs only (``strict=False``). A wrong
value is mended, counted, and logged once for each event, key and kind; with
``strict=True`` it raises. This module must not know which verbs there are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Final, cast

from heap_agent._core import repair, wire
from heap_agent._core.events import Fault, Scalar
from heap_agent._options import DURATION_MAXIMUM
from heap_agent.exceptions import InvalidCall, InvalidValue

_log = logging.getLogger("heap_agent.agent")

#: Different faults that are logged; beyond these they are only counted.
_COMPLAINTS: Final = 1_000

#: Faults that are only worth a word: nothing was mended, `strict` lets them pass.
_HINTS: Final = frozenset({"email_case"})

#: Faults that are not counted as repairs.
_UNMENDED: Final = _HINTS | {"empty_name"}


class Faults:
    """
    The faults of one agent. Thread-safe.

    Args:
        strict: True: wrong values raise; False: wrong calls do not either.
        count: Adds one to a number of the books, by its name.
    """

    __slots__ = ("_count", "_said", "_strict")

    def __init__(self, strict: bool | None, count: Callable[[str], None]) -> None:
        self._strict = strict
        self._count = count
        self._said: dict[tuple[str, str, str | None], str] = {}

    def __repr__(self) -> str:
        return f"<Faults [{len(self._said)} said]>"

    def mended(
        self, verb: str, properties: object, limit: int, *, user: bool = False
    ) -> dict[str, Scalar]:
        """
        Properties as Heap takes them; none where they are no mapping.

        Args:
            verb: What they were given to.
            properties: Anything.
            limit: UTF-16 units of a value.
            user: Whether they are a user's.

        Raises:
            InvalidCall: They are no mapping.
            InvalidValue: One of them is wrong, and ``strict=True``.
        """
        try:
            mapping = wire.check_mapping(properties, "properties")
        except InvalidCall as error:
            self.blame(error)
            return {}
        repaired = repair.repair_properties(mapping, limit=limit, user=user)
        self.complain(verb, repaired.faults)
        return dict(repaired.properties)

    def blame(self, error: InvalidCall) -> None:
        """
        The program is wrong: raise, unless production images asked for logs.
        """
        if self._strict is False:
            self._count("blamed")
            self.say(("call", "blamed", str(error)), "%s", error, level=logging.ERROR)
            return
        raise error

    def complain(self, what: str, faults: tuple[Fault, ...]) -> None:
        """
        A value is wrong: raise in strict mode, else count and log once.
        """
        if not faults:
            return
        if self._strict:
            for fault in faults:
                if fault.kind not in _HINTS:
                    raise InvalidValue(f"{what}: {fault.detail}. Nothing was recorded")
        for fault in faults:
            if fault.kind not in _UNMENDED:
                self._count(f"repaired.{fault.kind}")
            self.say((what, fault.kind, fault.key), "%s: %s", what, fault.detail)

    def say(
        self,
        once: tuple[str, str, str | None],
        text: str,
        *arguments: object,
        level: int = logging.WARNING,
    ) -> None:
        """
        Log something, once.

        Args:
            once: What tells it from all else: event or verb, kind, key.
            text: As for `logging`, with its arguments.
            level: Of `logging`.
        """
        if once in self._said or len(self._said) >= _COMPLAINTS:
            return
        # Before logging: a handler may call `track` with the same fault.
        self._said[once] = text % arguments if arguments else text
        _log.log(level, text, *arguments)

    def said_of(self, what: str) -> list[str]:
        """
        What was logged of an event or a verb.
        """
        return [text for (about, *_), text in list(self._said.items()) if about == what]


def shown(value: object) -> str:
    """
    A value for a log line: short, and on one line.
    """
    kind = type(value)  # what an object says of its class may raise
    if issubclass(kind, str):
        text = repr(str.__str__(cast(str, value))[:48])
    elif issubclass(kind, int) and int.bit_length(cast(int, value)) > 128:
        # Python refuses to print one of more than 4,300 digits.
        text = f"an int of {int.bit_length(cast(int, value))} bits"
    elif value is None or kind in (bool, int, float):
        text = repr(value)
    else:
        text = repair.type_name(value)
    return text if len(text) <= 48 else text[:45] + "…"


def duration(argument: str, value: float | timedelta, *, zero: bool = True) -> float:
    """
    Seconds that an argument gives.

    Args:
        argument: Its name.
        value: As it was given.
        zero: Whether it may be none at all.

    Raises:
        InvalidCall: A negative number, or no number.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
        if 0 < seconds < math.inf or zero and seconds == 0:
            # No longer than any system can wait.
            return float(min(seconds, DURATION_MAXIMUM))
    allowed = "zero or more" if zero else "above zero"
    raise InvalidCall(
        f"{argument} must be a number of seconds, {allowed}, or a timedelta; got {shown(value)}"
    )

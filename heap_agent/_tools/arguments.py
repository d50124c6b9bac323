"""
What people type on a command line, as the values that they mean.

This module must not know commands, agents or files: text comes in, values or a
ValueError with one sentence go out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NoReturn

__all__ = ["parse_properties", "parse_timestamp"]

#: JSON's numbers and nothing else: "007", "1_000" and "nan" are text.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def parse_properties(
    document: str | None, pairs: Iterable[str], texts: Iterable[str]
) -> dict[str, Any]:
    """
    Put the properties of one event together.

    Args:
        document: A JSON object, or None.
        pairs: ``KEY=VALUE`` each; values that are numbers in JSON are numbers.
        texts: ``KEY=VALUE`` each; values are text, whatever they look like.

    Raises:
        ValueError: No JSON object, a pair without "=", or a key given twice.
    """
    found = {} if document is None else _object(document)
    for pair, always_text in [*((one, False) for one in pairs), *((one, True) for one in texts)]:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"{pair!r} is no property; write KEY=VALUE, such as dollars=50")
        if key in found:
            raise ValueError(f"property {key!r} is given twice; give it once")
        found[key] = value if always_text else _number_or_text(value)
    return found


def parse_timestamp(text: str) -> datetime | float:
    """
    Read a time: seconds since 1970, or ISO 8601, where no offset means local time.

    Raises:
        ValueError: Neither.
    """
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return float(stripped)
    try:
        # Before Python 3.11 a Z was not understood.
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", stripped))
        return moment if moment.tzinfo is not None else moment.astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is no time; write seconds since 1970, or ISO 8601 such as "
            "2026-05-01T12:00:00+02:00"
        ) from None


def _number_or_text(text: str) -> int | float | str:
    if not _NUMBER.fullmatch(text):
        return text
    try:
        if text.lstrip("-").isdigit():
            return int(text)
        number = float(text)
    except ValueError:  # more digits than Python reads
        return text
    return number if math.isfinite(number) else text


def _object(document: str) -> dict[str, Any]:
    try:
        found = json.loads(document, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"properties are no JSON ({error}); give an object") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"properties are JSON, but {document[:40]!r} is no object; "
            'give one such as {"dollars": 50}'
        )
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")

"""
Strict JSON: a request body in, one object and its source text out; or a refusal.

This module must not know which members mean what.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeAlias

import attrs

__all__ = ["Document", "Members", "Refused", "cut", "item_sources", "read"]

Members: TypeAlias = Mapping[str, Any]

_SPACE = re.compile(r"[ \t\n\r]*")


class Refused(Exception):
    """
    The whole request is refused; nothing of it is recorded.

    Attributes:
        reason: One sentence: which field, what came, what is allowed.
        status: The HTTP status to answer with.
        headers: More headers for the answer.
    """

    def __init__(
        self, reason: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = dict(headers or {})


@attrs.frozen(slots=True)
class Document:
    """
    A request body that is a JSON object, and its source text.
    """

    members: Members
    text: str


def read(body: bytes) -> Document:
    """
    Parse a body: one JSON object, in UTF-8, each name once, finite numbers only.

    Raises:
        Refused: It is something else.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Refused(f"body: invalid UTF-8 at byte {exc.start}; UTF-8 is allowed.") from exc
    try:
        members = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as exc:
        raise Refused(f"body: not JSON ({exc}); one JSON object is allowed.") from exc
    if not isinstance(members, dict):
        raise Refused(f"body: {cut(text, 60)!r} came; one JSON object is allowed.")
    _refuse_lone_surrogates(members, text)
    return Document(members, text)


def item_sources(text: str, name: str) -> Iterator[str]:
    """
    The source text of each item of one array in a JSON object.

    Args:
        text: The object's source, known to be valid.
        name: The member that holds the array.

    Returns:
        One piece of `text` for each item, without the space around it.
    """
    decode = json.JSONDecoder().raw_decode
    at = _skip(text, 0) + 1
    while True:
        key, at = decode(text, _skip(text, at))
        start = _skip(text, _skip(text, at) + 1)
        if key == name:
            break
        _, at = decode(text, start)
        at = _skip(text, at) + 1
    at = start + 1
    while text[_skip(text, at)] != "]":
        start = _skip(text, at)
        _, end = decode(text, start)
        yield text[start:end]
        at = _skip(text, end)
        at += text[at] == ","


def cut(text: str, units: int) -> str:
    """
    The beginning of a text, at most so many UTF-16 units, whole characters only.
    """
    return text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", "ignore")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused(f"body: the name {twice!r} came twice in one object; once is allowed.")
    return members


def _no_constant(name: str) -> NoReturn:
    raise Refused(f"body: {name} came; JSON allows finite numbers only.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Refused(f"body: the number {cut(text, 40)} came; a finite double is allowed.")
    return value


def _integer(text: str) -> int:
    _finite(text)
    return int(text)


def _refuse_lone_surrogates(members: Members, text: str) -> None:
    # Only an escape can bring one in: the text itself was decoded from UTF-8.
    if "\\ud" not in text and "\\uD" not in text:
        return
    try:
        json.dumps(members, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as exc:
        raise Refused("body: a lone surrogate came; whole characters are allowed.") from exc


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()

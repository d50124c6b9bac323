"""
Which events are in a request, whatever a client has wrapped them in: they carry a
number, as their property `seq`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from benchmarks.server import seqs_of

#: Names under which clients send what an event is known by: of several arrivals
#: under one key a server keeps one.
_KEYS = ("idempotency_key", "messageId", "uuid", "$insert_id", "insert_id", "eid")

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def arrivals(path: str, body: bytes) -> list[tuple[int, str | None]]:
    """
    The events in a request, whatever a client has wrapped them in.

    Args:
        path: Where it was sent: Glean's document has its key there.
        body: JSON, lines of it, or a form with it; not compressed any more.

    Returns:
        Of each event its number, and the key that it came under, if any.

    Raises:
        ValueError: It is not JSON as the standard has it, without NaN and infinities.
    """
    if body.startswith(b"data="):
        body = unquote_to_bytes(body[5:].partition(b"&")[0].replace(b"+", b" "))
    in_the_path = _UUID.search(path)
    found: list[tuple[int, str | None]] = []
    for line in body.splitlines():
        document = json.loads(line, parse_constant=_refuse_constant)
        if isinstance(document, dict):
            document.pop("ping_info", None)  # Glean numbers its pings, as `seq` too
        keyed = list(_keyed(document)) or [(in_the_path and in_the_path[0], document)]
        for key, part in keyed:
            found += [(number, key) for number in seqs_of(json.dumps(part).encode())]
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _keyed(value: Any) -> Iterator[tuple[str | None, Any]]:
    """Whatever has a key in a document, with its key."""
    if isinstance(value, dict):
        for name in _KEYS:
            if name in value:
                yield str(value[name]), value
                return
    if isinstance(value, (dict, list)):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _keyed(member)


def plain(headers: Mapping[str, str], body: bytes) -> bytes:
    """
    The body of a request, uncompressed.

    Raises:
        ValueError, zlib.error, EOFError: It cannot be.
    """
    encoding = {name.lower(): value for name, value in headers.items()}.get("content-encoding")
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    if encoding in (None, "identity"):
        return body
    raise ValueError(f"a body in {encoding} came; gzip and deflate can be read")

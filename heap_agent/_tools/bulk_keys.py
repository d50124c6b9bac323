"""
Idempotency keys for rows that bring none: the same event from the same row, the
same key, for ever.

A key covers the event itself and not only the row's bytes, because Heap keeps the
first event of a key: one row that is sent as "Ordered" and as "Shipped", with other
columns each, is two events. What only decides whether a row is sent at all
(--repair, --utc) does not count, or a second go for rejected rows would
double the accepted ones.

This module must not know files or checkpoints: a key depends on what it is
given, so that even a lost checkpoint sends nothing under a second key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

__all__ = ["Digest", "row_key"]

#: 128 bits, written as 32 hexadecimal digits.
_KEY_BYTES: Final = 16

#: Keeps these hashes apart from all others of the same bytes.
_KEY_DOMAIN: Final = b"heap_agent.key.2"
_DIGEST_DOMAIN: Final = b"heap_agent.row.1"


def row_key(app_id: str, source: str, number: int, item: Mapping[str, Any]) -> str:
    """
    The idempotency key of a row.

    Args:
        app_id: Id of the environment.
        source: Real path of the file, or what was given in its place.
        number: The line that the row begins on.
        item: What the row says; values of JSON.
    """
    event = json.dumps(item, sort_keys=True, separators=(",", ":"))
    found = blake2b(digest_size=_KEY_BYTES, person=_KEY_DOMAIN)
    for part in (app_id.encode(), source.encode("utf-8", "surrogateescape"), event.encode()):
        # With their lengths, or "ab" + "c" would be "a" + "bc".
        found.update(len(part).to_bytes(8, "big") + part)
    found.update(number.to_bytes(8, "big"))
    return found.hexdigest()


class Digest:
    """
    A running digest of rows: equal for equal rows on equal lines, in order.
    """

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=_KEY_BYTES, person=_DIGEST_DOMAIN)

    def add(self, number: int, raw: bytes) -> None:
        """
        Take one more row in.
        """
        self._hash.update(number.to_bytes(8, "big") + len(raw).to_bytes(8, "big"))
        self._hash.update(raw)

    def hexdigest(self) -> str:
        """What has been taken in so far, as text; more may follow."""
        return self._hash.hexdigest()

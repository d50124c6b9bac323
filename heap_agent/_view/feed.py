"""
What somebody who watches is shown: items, and where each stands.

Items come from looks at the directory and from the sender, and carry the number of the
change that they took part in last: whoever has seen everything up to a number asks for
what came after it. What is kept is bounded, in number and in bytes; the oldest go first,
and are told of.

What guards what: the sender puts its exchanges on a side buffer, which never waits and
leaves out what it cannot hold; everything else happens under `_lock`, and is brief.

This module must not touch a disk, nor know how its contents travel.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from heap_agent._core.events import Kind
from heap_agent._core.hour import Hour
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._core.records import GIVEN, MENDED
from heap_agent._core.wire import STAMP_AT, STAMP_BYTES, key_of, stamp_of
from heap_agent._store.lookout import Found, Refusal, Sight, Sighting, Standing
from heap_agent._store.rows import Stored
from heap_agent._upload.drain import Exchange
from heap_agent._view.words import told

#: Items that are kept, and how many bytes of JSON they may take together.
KEPT: Final = 1_000
KEPT_BYTES: Final = 4_194_304

#: Items in one answer, about: those that came with one look stay together.
NEWS: Final = 200

#: Properties of an item in a list take no more JSON than this; the whole is a detail.
_LISTED_BYTES: Final = 4_096

#: Exchanges, and bytes of the rows in them, that wait to be taken in: the last one may be
#: as long as a request.
_WAITING: Final = 256
_WAITING_BYTES: Final = 4_194_304

#: Changes of state that are kept.
_CHANGES: Final = 200

#: Milliseconds: times on the wire have no more digits.
_SAME_TIME: Final = 0.002

_SENT: Final = "sent"
_SENDING: Final = "sending"


class Item:
    """
    One thing that goes to Heap.

    Attributes:
        number: Names it; grows in the order in which items were first seen.
        first, changed: The numbers of the first and the last change that it took part in.
        found: What it is.
        place: A `Standing`'s word, "sending" or "sent".
        row: Its id in the queue, where it is or was there.
        stamp: The time in it.
        answer: The last answer that it got, or None.
    """

    __slots__ = ("answer", "changed", "first", "found", "number", "place", "row", "stamp")

    def __init__(self, number: int, found: Found, version: int) -> None:
        self.number = number
        self.first = self.changed = version
        self.found = found
        self.place = Standing.QUEUE.value
        self.row: int | None = None
        self.stamp = ""
        self.answer: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Item {self.number} [{self.place}]>"

    @property
    def body(self) -> bytes:
        """The JSON that goes over the wire, with the time that it has now."""
        body = self.found.body
        if not self.stamp:
            return body
        return body[:STAMP_AT] + self.stamp.encode() + body[STAMP_AT + STAMP_BYTES :]

    def listed(self) -> dict[str, Any]:
        """
        As it stands in a list.
        """
        found = self.found
        fields = fields_of(found.body)
        properties = fields.get("properties") or {}
        cut = len(found.body) > _LISTED_BYTES
        return {
            "n": self.number,
            "kind": found.kind.name.lower(),
            "name": str(fields.get("event", "")),
            "app_id": found.app_id,
            "user_id": fields.get("user_id"),
            "identity": fields.get("identity"),
            "session": fields.get("session_id"),
            "time": self.stamp,
            "recorded": found.wall // 1000,
            "properties": _shortened(properties) if cut else properties,
            "cut": cut,
            "bytes": len(found.body),
            "mended": self.mended,
            "moved": self.moved,
            "given": bool(found.flags & GIVEN),
            "place": self.place,
            "answer": self.answer,
        }

    @property
    def mended(self) -> bool:
        """Whether a value was at fault."""
        return bool(self.found.flags & MENDED)

    @property
    def moved(self) -> float | None:
        """Seconds by which its time was repaired; None where it was not."""
        if self.found.kind is not Kind.EVENT:
            return None
        with suppress(ValueError):
            by = datetime.fromisoformat(self.stamp).timestamp() - self.found.wall / 1e6
            return None if abs(by) < _SAME_TIME else round(by, 3)
        return None


class Feed:
    """
    Thread-safe.

    Attributes:
        hour: Events recorded, and events that wait, in the last sixty minutes.
        began: When something was taken in first, boot clock in seconds; None before.
    """

    def __init__(self) -> None:
        self.hour = Hour()
        self.began: float | None = None
        self._lock = threading.Lock()
        self._items: dict[str, Item] = {}
        self._by_row: dict[int, str] = {}
        self._bytes = 0
        self._numbers = 0
        self._version = 0
        self._cleared = 0
        self._recorded = self._taken = 0  # events since the start, and those that were seen
        self._told = 0  # somebody has seen everything up to this version
        self._untold = 0  # events that nobody has seen, and that are not kept any more
        self._historic: int | None = None  # items up to this number were there at the start
        self._dropped = self._dropped_before = 0
        self._changes: deque[dict[str, Any]] = deque(maxlen=_CHANGES)
        # The sender appends, and a look takes away: each is one step.
        self._exchanges: deque[Exchange] = deque(maxlen=_WAITING)
        self._waiting_bytes = 0

    def __repr__(self) -> str:
        return f"<Feed [{len(self._items)} items, version {self._version}]>"

    # -- in --

    def exchanged(self, exchange: Exchange) -> None:
        """
        A request is over: for the sender, which never waits here.
        """
        if self._waiting_bytes > _WAITING_BYTES:
            # Whoever takes them in has fallen behind; the directory tells the rest.
            exchange = exchange._replace(rows=())
        self._waiting_bytes += sum(len(row.entry.body) for row in exchange.rows)
        self._exchanges.append(exchange)

    def take(
        self, sight: Sight, *, sending: Collection[int], queued: int, dropped: int, now: float
    ) -> None:
        """
        Take in what one look has found, and what was sent meanwhile.

        Args:
            sight: From the directory.
            sending: Ids of the rows that are on their way.
            queued, dropped: Events that wait, and that were ever dropped; asked after the look.
            now: Boot clock, seconds.
        """
        with self._lock:
            version, known = self._version + 1, self._taken
            self._dropped = dropped
            if self._historic is None:
                self._dropped_before = dropped
            for sighting in sight.sightings:
                self._place(sighting, version)
            self._waiting_bytes = 0
            while self._exchanges:
                self._answered(self._exchanges.popleft(), version)
            self._on_their_way(sending, version)
            news = [text for change in sight.changes for text in told(change)]
            self._changes.extend(news)
            if self._historic is None:
                self._historic, self.began, self._taken = self._numbers, now, known
            else:
                self._recorded += sight.recorded
            minute = self.hour.at(now)
            minute.recorded += sight.recorded
            minute.queued = queued
            self._evict()
            if news or any(item.changed == version for item in self._items.values()):
                self._version = version

    def touch(self) -> None:
        """
        Something else has changed that is told with the news.
        """
        with self._lock:
            self._version += 1

    def clear(self) -> None:
        """
        Forget everything: somebody has withdrawn consent, or is to be forgotten.
        """
        with self._lock:
            self._items.clear()
            self._by_row.clear()
            self._changes.clear()
            self._exchanges.clear()
            self._bytes = 0
            self._version += 1
            self._cleared = self._version

    # -- out --

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self._version

    def news(self, since: int) -> dict[str, Any]:
        """
        Items that have changed after a version, as many as one answer holds.
        """
        with self._lock:
            reset = since < self._cleared or since > self._version or since <= 0
            since = 0 if reset else since
            changed = [item for item in self._items.values() if item.changed > since]
            changed.sort(key=lambda item: (item.changed, item.number))
            some = changed[:NEWS]
            if len(changed) > len(some):
                # Not to cut one change in two: those of the same number go together.
                last = some[-1].changed
                some = [item for item in changed if item.changed <= last]
            self._told = self._version if len(some) == len(changed) else some[-1].changed
            return {
                "version": self._told,
                "reset": reset,
                "items": [item.listed() for item in sorted(some, key=lambda item: item.number)],
                "left_out": max(0, self._recorded - self._taken) + self._untold,
                "kept": KEPT,
                "changes": list(self._changes),
            }

    def item(self, number: int) -> Item | None:
        """
        One item; None where it is not kept any more.
        """
        with self._lock:
            return next((one for one in self._items.values() if one.number == number), None)

    def dead_rows(self, numbers: Iterable[int]) -> list[int]:
        """
        Ids of the dead letters among items.
        """
        wanted = set(numbers)
        with self._lock:
            return [
                item.row
                for item in self._items.values()
                if item.number in wanted and item.row is not None and item.place == _DEAD
            ]

    # -- inside: under the lock --

    def _place(self, sighting: Sighting, version: int) -> None:
        item = self._items.get(sighting.key)
        place = sighting.standing.value
        if item is None:
            if sighting.found is None:
                return
            item = self._add(sighting.key, sighting.found, version)
        elif item.place == _SENT:
            return  # the sender has told so before its answer was written down
        elif sighting.standing is Standing.JOURNAL and item.row is not None:
            return  # a copy of a part: it is further on already
        elif sighting.standing is Standing.GONE and self._can_only_be_sent(item):
            place = _SENT
        item.place, item.changed = place, version
        item.stamp = sighting.stamp or item.stamp
        if sighting.row is not None:
            item.row = sighting.row
            self._by_row[sighting.row] = sighting.key
        if sighting.refusal is not None:
            item.answer = _refused(sighting.refusal)

    def _add(self, key: str, found: Found, version: int) -> Item:
        self._numbers += 1
        self._taken += found.kind is Kind.EVENT
        item = self._items[key] = Item(self._numbers, found, version)
        self._bytes += len(found.body)
        return item

    def _answered(self, exchange: Exchange, version: int) -> None:
        acked = set(exchange.verdict.ack)
        for row in exchange.rows:
            key = _key_of(row)
            item = self._items.get(key)
            if item is None:
                # It came and went between two looks.
                entry = row.entry
                found = Found(entry.kind, entry.app_id, entry.flags, entry.wall, entry.body)
                item = self._add(key, found, version)
            item.stamp = _stamp_of(row)
            item.row, self._by_row[row.id] = row.id, key
            if row.id in acked:
                item.place = _SENT
            if item.place != _DEAD:
                item.answer = _answer(exchange.outcome, exchange.wall, exchange.seconds)
            item.changed = version

    def _on_their_way(self, sending: Collection[int], version: int) -> None:
        for row, key in self._by_row.items():
            item = self._items.get(key)
            if item is None:
                continue
            if row in sending and item.place == Standing.QUEUE.value:
                item.place, item.changed = _SENDING, version
            elif row not in sending and item.place == _SENDING:
                item.place, item.changed = Standing.QUEUE.value, version

    def _can_only_be_sent(self, item: Item) -> bool:
        """
        What has gone was sent or dropped, and the books tell whether anything was dropped.
        """
        is_new = self._historic is not None and item.number > self._historic
        return self._dropped == 0 or (is_new and self._dropped == self._dropped_before)

    def _evict(self) -> None:
        if len(self._items) <= KEPT and self._bytes <= KEPT_BYTES:
            return
        for key, item in list(self._items.items()):
            if len(self._items) <= KEPT and self._bytes <= KEPT_BYTES:
                break
            if item.place == _DEAD and self._bytes <= KEPT_BYTES:
                continue
            del self._items[key]
            self._untold += item.first > self._told and item.found.kind is Kind.EVENT
            self._bytes -= len(item.found.body)
            if item.row is not None:
                self._by_row.pop(item.row, None)


_DEAD: Final = Standing.DEAD.value


def _key_of(row: Stored) -> str:
    if row.entry.kind is not Kind.EVENT:
        return f"row-{row.id}"
    return key_of(row.entry.body)


def _stamp_of(row: Stored) -> str:
    if row.entry.kind is Kind.USER_PROPERTIES:
        return ""
    return stamp_of(row.entry.body)


def _answer(outcome: Outcome, wall: int, seconds: float) -> dict[str, Any]:
    return {
        "answer": outcome.answer.name,
        "status": outcome.status,
        "reason": outcome.reason,
        "at": wall // 1000,
        "seconds": round(seconds, 4),
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "answer": Answer.REJECTED.name,
        "status": refusal.status,
        "reason": refusal.reason,
        "at": refusal.died // 1000,
        "seconds": None,
    }


def fields_of(text: str | bytes) -> Mapping[str, Any]:
    """
    The members of a JSON object; none where it is something else, or nested too deeply.
    """
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {}


def _shortened(properties: Mapping[str, Any]) -> dict[str, Any]:
    """As many of them as a list has room for, long values cut."""
    found: dict[str, Any] = {}
    room = _LISTED_BYTES
    for key, value in properties.items():
        short = value if not isinstance(value, str) else value[:80]
        room -= len(key) + len(str(short))
        if room < 0:
            break
        found[key] = short
    return found

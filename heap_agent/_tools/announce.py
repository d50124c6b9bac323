"""
A collector that tells what it receives, request by request.

This module must not know terminals: what came is put into words here, and
printed elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Final

import attrs

from heap_agent._core import limits
from heap_agent._tools.collector_script import Admission, Reply, Request
from heap_agent._tools.heap_rules import Event
from heap_agent.testing import Collector

__all__ = ["AnnouncingCollector", "News"]

_POLL: Final = 0.2


@attrs.frozen(slots=True)
class News:
    """
    One thing that arrived.

    Attributes:
        type: "event", "again" (a known idempotency key), "identify",
            "user_properties" or "refused".
        text: For people: one line.
        fields: For programs.
    """

    type: str
    text: str
    fields: Mapping[str, Any]


class AnnouncingCollector(Collector):
    """
    A strict collector whose requests can be waited for.
    """

    def __init__(self, port: int, host: str) -> None:
        super().__init__(port, host=host)
        # One thread serves all requests, so that the two positions need no lock.
        self._news: SimpleQueue[News] = SimpleQueue()
        self._told_events = 0
        self._told_again = 0

    def settle(self, admission: Admission, reply: Reply) -> None:
        """
        Note the answer, and tell what it is the answer to.
        """
        super().settle(admission, reply)
        request = admission.request
        if reply.status >= 400:
            self._news.put(_refused(request, reply))
        elif request.method == "POST" and request.path == limits.TRACK_PATH:
            events, again = self._book.events, self._book.duplicates
            for event in events[self._told_events :]:
                self._news.put(_event("event", event))
            for event in again[self._told_again :]:
                self._news.put(_event("again", event))
            self._told_events, self._told_again = len(events), len(again)
        elif request.method == "POST":
            self._news.put(_about_user(request))

    def news(self) -> Iterator[News]:
        """
        Everything that arrives, for ever.
        """
        while True:
            try:
                # Not for ever at once: on Windows that could not be interrupted.
                yield self._news.get(timeout=_POLL)
            except Empty:
                continue


def _event(type: str, event: Event) -> News:
    who = event.identity if event.identity is not None else f"user {event.user_id}"
    properties = json.dumps(dict(event.properties), ensure_ascii=False)
    fields = {
        "app_id": event.app_id,
        "event": event.event,
        "identity": event.identity,
        "user_id": event.user_id,
        "session_id": event.session_id,
        "timestamp": event.timestamp.isoformat(),
        "properties": dict(event.properties),
        "idempotency_key": event.idempotency_key,
    }
    return News(type, f"{event.event!r} by {who} {properties}", fields)


def _about_user(request: Request) -> News:
    document = json.loads(request.body)
    if request.path == limits.IDENTIFY_PATH:
        fields = {name: str(document[name]) for name in ("app_id", "user_id", "identity")}
        return News("identify", "user {user_id} is {identity}".format_map(fields), fields)
    users = document.get("users", [document])
    text = ", ".join(
        f"{user['identity']} {json.dumps(user['properties'], ensure_ascii=False)}" for user in users
    )
    return News("user_properties", text, {"app_id": str(document["app_id"]), "users": users})


def _refused(request: Request, reply: Reply) -> News:
    reason = reply.body.decode(errors="replace")
    fields = {
        "method": request.method,
        "path": request.path,
        "status": reply.status,
        "reason": reason,
    }
    return News("refused", f"{request.method} {request.path} {reply.status}: {reason}", fields)

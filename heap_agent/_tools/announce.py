"""
A collector that tells what it receives, request by request.

This module must not know terminals: what came is put into words here, and
printed elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from heap_agent._core import limits
from heap_agent._store.inbox import Inbox
from heap_agent._tools.collector_script import Admission, Reply, Request
from heap_agent._tools.heap_rules import Event
from heap_agent.testing import API_KEY, Collector

__all__ = ["AnnouncingCollector", "News"]

_POLL: Final = 0.2

#: A line names so many of the users of one deletion.
_NAMES: Final = 5


@attrs.frozen(slots=True)
class News:
    """
    One thing that arrived.

    Attributes:
        type: "event", "again" (a known idempotency key), "identify",
            "user_properties", "account_properties", "deletion" or "refused".
        text: For people: one line.
        fields: For programs.
    """

    type: str
    text: str
    fields: Mapping[str, Any]


class AnnouncingCollector(Collector):
    """
    A strict collector whose requests can be waited for.

    Args:
        port: 0 takes a free one.
        host: Address to listen on.
        api_key: The right one for deletions.
    """

    def __init__(self, port: int, host: str, api_key: str | None = API_KEY) -> None:
        super().__init__(port, host=host, api_key=api_key)
        self._news: Inbox[News] = Inbox()

    def accepted(self, new: Sequence[Event], again: Sequence[Event]) -> None:
        """
        Tell which events came.
        """
        for event in new:
            self._news.put(_event("event", event))
        for event in again:
            self._news.put(_event("again", event))

    def settle(self, admission: Admission, reply: Reply) -> None:
        """
        Note the answer, and tell what it is the answer to.
        """
        super().settle(admission, reply)
        request = admission.request
        if reply.status >= 400:
            self._news.put(_refused(request, reply))
        elif request.method == "POST" and request.path in _ABOUT:
            self._news.put(_ABOUT[request.path](json.loads(request.body)))

    def news(self) -> Iterator[News]:
        """
        Everything that arrives, for ever.
        """
        while True:
            # Not for ever at once: on Windows that could not be interrupted.
            yield from self._news.wait(_POLL)


def _event(type: str, event: Event) -> News:
    who = event.identity if event.identity is not None else f"user {event.user_id}"
    properties = _json(dict(event.properties))
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


def _identify(document: dict[str, Any]) -> News:
    fields = {name: str(document[name]) for name in ("app_id", "user_id", "identity")}
    return News("identify", "user {user_id} is {identity}".format_map(fields), fields)


def _user_properties(document: dict[str, Any]) -> News:
    users = document.get("users", [document])
    text = ", ".join(f"{user['identity']} {_json(user['properties'])}" for user in users)
    return News("user_properties", text, {"app_id": str(document["app_id"]), "users": users})


def _account_properties(document: dict[str, Any]) -> News:
    accounts = document.get("accounts", [document])
    text = ", ".join(f"{each['account_id']} {_json(each['properties'])}" for each in accounts)
    fields = {"app_id": str(document["app_id"]), "accounts": accounts}
    return News("account_properties", text, fields)


def _deletion(document: dict[str, Any]) -> News:
    users = document["users"]
    names = [
        user["identity"] if "identity" in user else f"user {user['user_id']}"
        for user in users[:_NAMES]
    ]
    more = [f"and {len(users) - _NAMES:,} more"] if len(users) > _NAMES else []
    return News("deletion", ", ".join(names + more), {"users": users})


#: What is told by what was asked; events are told by what became of them.
_ABOUT: Final[dict[str, Callable[[dict[str, Any]], News]]] = {
    limits.IDENTIFY_PATH: _identify,
    limits.USER_PROPERTIES_PATH: _user_properties,
    limits.ACCOUNT_PROPERTIES_PATH: _account_properties,
    limits.USER_DELETION_PATH: _deletion,
}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _refused(request: Request, reply: Reply) -> News:
    reason = reply.body.decode(errors="replace")
    fields = {
        "method": request.method,
        "path": request.path,
        "status": reply.status,
        "reason": reason,
    }
    return News("refused", f"{request.method} {request.path} {reply.status}: {reason}", fields)

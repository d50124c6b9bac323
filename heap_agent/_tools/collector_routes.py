"""
Which path leads where, with which method, and in which form a refusal comes back there.

This module must not know what is done at the end of a route.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

import attrs

from heap_agent._tools.collector_script import JSON, TEXT, Reply, Request
from heap_agent._tools.heap_json import Refused

__all__ = ["Call", "Route", "Routes", "err_object", "plain_text"]

_ID: Final = "/:id"

Handler = TypeVar("Handler")


@attrs.frozen(slots=True)
class Call:
    """
    A request that has found its route.

    Attributes:
        request: What was noted of it.
        authorization: The header of that name, or None.
        id: What stands for ``:id`` in the path, or empty text.
        items: The same as of the route.
    """

    request: Request
    authorization: str | None = attrs.field(repr=False)
    id: str
    items: str | None


def plain_text(refused: Refused) -> Reply:
    """
    A refusal as the ingestion API words it: ``text/plain``, one sentence.
    """
    return Reply(refused.status, refused.reason.encode(), {**TEXT, **refused.headers})


def err_object(refused: Refused) -> Reply:
    """
    A refusal as the deletion API words it: ``{"err": {"message": …}}``.
    """
    # In one place the page says `error` and `message`; its section on errors, and the
    # answer of auth_token, have `err`.
    body = json.dumps({"err": {"message": refused.reason}}).encode()
    return Reply(refused.status, body, {**JSON, **refused.headers})


@attrs.frozen(slots=True)
class Route(Generic[Handler]):
    """
    One path of an API.

    Attributes:
        path: As documents write it; ``/:id`` at its end stands for one more
            segment, whatever it is.
        handler: What is at its end.
        method: The only one besides HEAD.
        items: The member of a body that holds several items; "" where a body
            is always one item, None where it is none.
        body: The largest body in bytes; None: whatever the collector allows.
        refuse: Puts a refusal into the form that is usual here.
    """

    path: str
    handler: Handler
    method: str = "POST"
    items: str | None = None
    body: int | None = None
    refuse: Callable[[Refused], Reply] = plain_text


class Routes(Generic[Handler]):
    """
    A table of routes.

    Args:
        routes: No two for the same path.

    Attributes:
        paths: All paths, sorted.
        with_items: Those that take items, in the order of the table.
    """

    def __init__(self, routes: Iterable[Route[Handler]]) -> None:
        self._routes = {route.path: route for route in routes}
        self.paths: Final = tuple(sorted(self._routes))
        self.with_items: Final = tuple(
            path for path, route in self._routes.items() if route.items is not None
        )

    def find(self, path: str) -> tuple[Route[Handler], str] | None:
        """
        Where a path leads.

        Returns:
            The route, and what stands for ``:id`` or empty text; None: nowhere.
        """
        parent, _, last = path.rpartition("/")
        if path in self._routes and not path.endswith(_ID):
            return self._routes[path], ""
        route = self._routes.get(parent + _ID)
        return None if route is None or not last else (route, last)

"""The collector's table of routes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.collector_routes import Route, Routes, err_object, plain_text
from heap_agent._tools.heap_json import Refused

ROUTES = Routes(
    [
        Route("/a", "a", items="things"),
        Route("/a/b", "b"),
        Route("/a/:id", "by id", method="GET", items=""),
    ]
)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/a", ("a", "")),
        ("/a/b", ("b", "")),
        ("/a/1", ("by id", "1")),
        ("/a/:id", ("by id", ":id")),
        ("/a/", None),
        ("/a/1/2", None),
        ("/b", None),
        ("", None),
        ("a", None),
    ],
)
def test_a_path_leads_to_its_route(path: str, found: tuple[str, str] | None) -> None:
    """A path is found as it is written; ``:id`` stands for one segment that is not empty."""
    match = ROUTES.find(path)

    assert found == (match and (match[0].handler, match[1]))


@given(st.text().filter(lambda id: id != "b"))
def test_an_id_is_whatever_stands_there(id: str) -> None:
    """Any segment without a slash is an id, unless it has a route of its own."""
    match = ROUTES.find(f"/a/{id}")

    if "/" in id or not id:
        assert match is None
    else:
        assert match is not None and id == match[1]


def test_the_table_knows_what_takes_items() -> None:
    """Paths are listed, and those with items once more, single ones included."""
    assert ("/a", "/a/:id", "/a/b") == ROUTES.paths
    assert ("/a", "/a/:id") == ROUTES.with_items


def test_a_refusal_has_two_forms() -> None:
    """The same refusal is a sentence for one API and an object for the other."""
    refused = Refused("no such thing.", 404, {"X-A": "b"})

    text, err = plain_text(refused), err_object(refused)

    assert (404, b"no such thing.") == (text.status, text.body)
    assert (404, {"err": {"message": "no such thing."}}) == (err.status, json.loads(err.body))
    assert ["text/plain; charset=utf-8", "application/json; charset=utf-8"] == [
        reply.headers["Content-Type"] for reply in (text, err)
    ]
    assert ["b", "b"] == [reply.headers["X-A"] for reply in (text, err)]

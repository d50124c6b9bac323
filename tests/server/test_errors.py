"""Answers to errors: every body that Heap's pages show, and every other."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.outcomes import Answer, Outcome, classify, unreachable
from heap_agent._server import errors
from heap_agent._server.errors import api_error, told
from heap_agent.exceptions import (
    ApiError,
    DeletionPending,
    NotFound,
    Unauthorized,
    Unreachable,
)


@pytest.mark.parametrize(
    "body, message, details",
    [
        (b'{"err":{"message":"m","reason":"r"}}', "m", {"reason": "r"}),
        (b'{"err":{"message":"m"},"x":1}', "m", {"x": 1}),
        (b'{"err":"m"}', "m", {"err": "m"}),
        (b'{"error":"e","message":"m"}', "m", {"error": "e"}),
        (b'{"error":"e","code":5}', "e", {"code": 5}),
        (b'{"error":{"message":"m"}}', "m", {}),
        (b'{"code":5}', "", {"code": 5}),
        (b"error message", "error message", {}),
        (b"two\nlines\x1b[0m", "two lines\\x1b[0m", {}),
        (b'["a"]', '["a"]', {}),
        (b"", "", {}),
        (b"\xff", "\ufffd", {}),
    ],
)
def test_the_words_are_found(body: bytes, message: str, details: dict[str, Any]) -> None:
    """In `err`, in `message`, in `error`, or the text itself; the rest is kept."""
    assert told(body) == (message, details)


@given(st.binary(max_size=200))
def test_any_body_is_read(body: bytes) -> None:
    """One printable line comes out."""
    message, _ = told(body)
    assert message.isprintable() and len(message) <= 4_000


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"a":' * 12_000])
def test_brackets_in_brackets_are_text(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for the standard json, which is used where orjson has no wheels."""
    monkeypatch.setattr(errors, "loads", json.loads)
    words, details = told(body)

    assert body.startswith(words.encode())
    assert details == {}


@pytest.mark.parametrize(
    "status, headers, kind",
    [
        (400, {}, ApiError),
        (401, {}, Unauthorized),
        (403, {}, Unauthorized),
        (404, {}, NotFound),
        (409, {}, ApiError),
        (413, {}, ApiError),
        (429, {}, Unreachable),
        (503, {"retry-after": "5"}, Unreachable),
        (500, {}, Unreachable),
        (302, {}, Unreachable),
    ],
)
def test_the_class_tells_what_kind_it_is(
    status: int, headers: dict[str, str], kind: type[ApiError]
) -> None:
    """And status and words are kept."""
    error = api_error("track", classify(status, headers, b"words", 0), b"words")

    assert type(error) is kind
    assert (error.status, error.message) == (status, "words")
    assert str(error).startswith(f"track: HTTP {status} (words); ")


def test_without_a_body_the_reason_is_read() -> None:
    """It is the status and the beginning of the body."""
    outcome = Outcome(Answer.REJECTED, 400, reason='HTTP 400: {"message":"m","a":1}')
    error = api_error("track", outcome)
    assert (error.message, error.details) == ("m", {"a": 1})

    error = api_error("track", Outcome(Answer.MISCONFIGURED, 403, reason="HTTP 403"))
    assert (error.message, str(error)) == (
        "",
        "track: HTTP 403; check app id, endpoint and proxy.",
    )


def test_no_answer_has_no_status() -> None:
    """Its words are the network's."""
    error = api_error("track", unreachable("OSError: no route", began=False))
    assert (error.status, error.message) == (None, "OSError: no route")
    assert str(error) == "track: no answer (OSError: no route); try again later."


@pytest.mark.parametrize("kind", [ApiError, Unreachable, DeletionPending])
def test_errors_survive_copying(kind: type[ApiError]) -> None:
    """They come back whole from another process."""
    error = kind("text", status=401, message="m", details={"a": 1})
    error.accepted = (1, 2)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), str(twin), vars(twin)) == (kind, "text", vars(error))


def test_a_pending_deletion_is_a_timeout() -> None:
    """Code that catches those keeps working."""
    assert isinstance(DeletionPending("x"), TimeoutError)

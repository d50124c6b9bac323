"""What a client may be told, and what it says to the rest."""

from __future__ import annotations

from typing import Any

import pytest

from heap_agent._server.secret import Secret, basic, bearer
from heap_agent._server.settings import Settings
from heap_agent.exceptions import InvalidCall


def test_the_defaults_are_heaps_limits() -> None:
    """And its host in the US."""
    settings = Settings(app_id="11")
    assert (settings.identity_budget, settings.app_budget) == (1_000, 15_000)
    assert settings.base_url == settings.deletion_url == "https://heapanalytics.com"
    assert (settings.retry_for, settings.read_timeout) == (300.0, 30.0)


@pytest.mark.parametrize(
    "option, value",
    [
        ("app_id", "eleven"),
        ("app_id", "11:12"),
        ("app_id", True),
        ("region", "mars"),
        ("endpoint", "heap.example"),
        ("endpoint", "https://me:pw@heap.example"),
        ("endpoint", "http://heap.example"),
        ("identity_budget", 0),
        ("app_budget", 1.5),
        ("retry_for", -1),
        ("retry_for", float("nan")),
        ("connect_timeout", 0),
        ("read_timeout", None),
        ("proxy", "nowhere"),
        ("refused_identities", "guest"),
        ("allow_insecure", "yes"),
    ],
)
def test_a_wrong_option_is_a_wrong_call(option: str, value: Any) -> None:
    """The message names it, and no password."""
    with pytest.raises(InvalidCall, match=option) as caught:
        Settings(**{"app_id": "11", option: value})
    assert "pw" not in str(caught.value)


def test_what_may_be_off_may_be_none() -> None:
    """Budgets, and the end of patience."""
    settings = Settings(app_id="11", identity_budget=None, app_budget=None, retry_for=None)
    assert settings.retry_for is None


def test_the_callers_list_is_compared_as_ours_is() -> None:
    """Trimmed and without regard to case; an empty one refuses nobody."""
    assert Settings(app_id="11", refused_identities=[" Robot "]).refused == {"robot"}  # type: ignore[arg-type]
    assert Settings(app_id="11", refused_identities=[]).refused == frozenset()  # type: ignore[arg-type]
    assert "guest" in Settings(app_id="11").refused


def test_plain_http_is_for_this_machine() -> None:
    """Unless it is allowed by name."""
    assert Settings(app_id="11", endpoint="http://127.0.0.1:80").is_local
    allowed = Settings(app_id="11", endpoint="http://heap.example", allow_insecure=True)
    assert allowed.is_plain and not allowed.is_local


def test_a_secret_shows_nothing_by_itself() -> None:
    """In a list of local variables it is three asterisks; in a header it is itself."""
    key = Secret("hush")
    assert repr({"key": key, "header": bearer(key)}) == "{'key': '***', 'header': '***'}"
    assert (basic("11", key), bearer(key)) == ("Basic MTE6aHVzaA==", "Bearer hush")

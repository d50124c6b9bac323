"""Account properties at the collector, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import urllib3

from heap_agent.exceptions import InvalidCall
from heap_agent.testing import Account, Collector

PATH = "/api/add_account_properties"
USERS = "/api/add_user_properties"

Post: TypeAlias = Callable[..., urllib3.BaseHTTPResponse]


@pytest.fixture(name="post")
def _post(collector: Collector) -> Post:
    def post(path: str = PATH, **members: Any) -> urllib3.BaseHTTPResponse:
        body = {"app_id": "11", **members}
        return urllib3.request("POST", collector.url + path, json=body, retries=False, timeout=60)

    return post


def test_an_account_gets_properties(collector: Collector, post: Post) -> None:
    """The answer is the text OK, and the account can be read."""
    answer = post(account_id="Acme", properties={"seats": 5, "plan": "gold"})

    assert (200, b"OK") == (answer.status, answer.data)
    assert "text/plain; charset=utf-8" == answer.headers["Content-Type"]
    assert [Account("11", "Acme", {"seats": 5, "plan": "gold"})] == collector.accounts
    assert collector.accounts[0] == collector.account("Acme")
    assert ([], []) == (collector.users, collector.events())


def test_the_last_write_wins_for_each_key(collector: Collector, post: Post) -> None:
    """Single and bulk requests go to the same accounts; keys that nobody names stay."""
    post(account_id="a", properties={"x": 1, "y": 1})
    post(
        accounts=[
            {"account_id": "b", "properties": {}},
            {"account_id": "a", "properties": {"y": 2}},
            {"account_id": "a", "properties": {"y": 3}},
        ]
    )

    assert ["a", "b"] == [account.account_id for account in collector.accounts]
    assert {"x": 1, "y": 3} == collector.account("a").properties


def test_what_was_read_does_not_change_later(collector: Collector, post: Post) -> None:
    """An account is a value: a later request makes another one."""
    post(account_id="a", properties={"x": 1})
    before = collector.account("a")

    post(account_id="a", properties={"x": 2})

    assert ({"x": 1}, {"x": 2}) == (before.properties, collector.account("a").properties)


def test_an_account_is_of_one_environment(collector: Collector, post: Post) -> None:
    """The same account_id elsewhere is another account, and asking for it is ambiguous."""
    post(account_id="a", properties={})
    post(app_id="12", account_id="a", properties={})

    with pytest.raises(AssertionError, match="2 accounts are called 'a'"):
        collector.account("a")
    with pytest.raises(AssertionError, match="0 accounts are called 'b'"):
        collector.account("b")


@pytest.mark.parametrize(
    ("app_id", "kept"),
    [("11", "11"), (11, "11"), (0, "0"), (2**31 - 1, "2147483647"), ("2147483648", "2147483648")],
)
def test_an_app_id_is_text_or_an_integer(
    collector: Collector, post: Post, app_id: object, kept: str
) -> None:
    """Heap's page types it as a 32-bit integer and shows a string; both name one environment."""
    assert 200 == post(app_id=app_id, account_id="a", properties={}).status

    assert kept == collector.account("a").app_id


@pytest.mark.parametrize("path", [USERS, "/api/track", "/api/v1/identify"])
def test_elsewhere_an_app_id_is_text(post: Post, path: str) -> None:
    """Only this page calls it an integer."""
    answer = post(path, app_id=11, identity="a", user_id="1")

    assert (400, True) == (answer.status, answer.data.startswith(b"app_id: 11 came"))


def test_the_largest_values_are_allowed(collector: Collector, post: Post) -> None:
    """Keys and values of 1024 characters, and an account_id of any length."""
    properties = {"k" * 1024: "v" * 1024}

    assert 200 == post(account_id="i" * 2000, properties=properties).status

    assert properties == collector.account("i" * 2000).properties


@pytest.mark.parametrize(("number", "status"), [(1, 200), (1000, 200), (1001, 400), (0, 400)])
def test_a_request_holds_1_to_1000_accounts(
    collector: Collector, post: Post, number: int, status: int
) -> None:
    """A thousand is allowed, and neither none nor one more."""
    accounts = [{"account_id": str(n), "properties": {}} for n in range(number)]

    answer = post(accounts=accounts)

    assert (status, number if status == 200 else 0) == (answer.status, len(collector.accounts))
    assert (status == 400) == (f"accounts: {number} items came".encode() in answer.data)


GOOD = {"account_id": "a", "properties": {}}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({**GOOD, "app_id": "x"}, "app_id: 'x'"),
        ({**GOOD, "app_id": ""}, "app_id: ''"),
        ({**GOOD, "app_id": None}, "app_id: null"),
        ({**GOOD, "app_id": True}, "app_id: true"),
        ({**GOOD, "app_id": 11.0}, "app_id: 11.0"),
        ({**GOOD, "app_id": -1}, "app_id: -1"),
        ({**GOOD, "app_id": 2**31}, "app_id: 2147483648"),
        ({"properties": {}}, "account_id: missing"),
        ({"account_id": "a"}, "properties: missing"),
        ({**GOOD, "account_id": ""}, "account_id: ''"),
        ({**GOOD, "account_id": 5}, "account_id: 5"),
        ({**GOOD, "identity": "a"}, "identity: this field is not allowed"),
        ({**GOOD, "properties": []}, "properties: a list"),
        ({**GOOD, "properties": {"a": None}}, "properties['a']: null"),
        ({**GOOD, "properties": {"a": True}}, "properties['a']: true"),
        ({**GOOD, "properties": {"a": ["b"]}}, "properties['a']: a list"),
        ({**GOOD, "properties": {"a": {}}}, "properties['a']: an object"),
        ({**GOOD, "properties": {"a": "v" * 1025}}, "at most 1024"),
        ({**GOOD, "properties": {"k" * 1025: 1}}, "a key of 1025 characters"),
        ({**GOOD, "accounts": [GOOD]}, "account_id: this field is not allowed"),
        ({"accounts": {}}, "accounts: an object"),
        ({"accounts": ["a"]}, "accounts[0]"),
        ({"accounts": [GOOD, {**GOOD, "app_id": "11"}]}, "accounts[1].app_id"),
        ({"accounts": [GOOD, {"account_id": "b"}]}, "accounts[1].properties: missing"),
    ],
)
def test_a_refusal_names_the_field(
    collector: Collector, post: Post, members: dict[str, Any], reason: str
) -> None:
    """Whatever the page does not allow is a 400 in plain text, and nothing of it is kept."""
    answer = post(**members)

    assert (400, "text/plain; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert reason in answer.data.decode()
    assert reason in collector.requests[0].reason
    assert [] == collector.accounts


def test_an_app_id_is_required(collector: Collector) -> None:
    """Without an app_id nobody knows where an account belongs."""
    answer = urllib3.request("POST", collector.url + PATH, json=GOOD, retries=False, timeout=60)

    assert (400, b"app_id: missing; it is required.") == (answer.status, answer.data)


def test_no_rate_is_limited(collector: Collector, post: Post) -> None:
    """Heap names no rate for accounts, and so none is enforced."""
    collector.enforce_limits = True

    assert {200} == {post(account_id="a", properties={"n": n}).status for n in range(40)}
    assert [] == collector.over_limit


def test_faults_meet_these_requests_too(collector: Collector, post: Post) -> None:
    """They take entries of the script like all others."""
    collector.reply(500, 200)

    assert [500, 200] == [post(**GOOD).status for _ in range(2)]


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        (PATH, GOOD, {"account_id": "b", "properties": {}}),
        (USERS, {"identity": "a", "properties": {}}, {"identity": "b", "properties": {}}),
        (
            "/api/v1/identify",
            {"identity": "a", "user_id": "1"},
            {"identity": "b", "user_id": "1"},
        ),
    ],
)
def test_a_predicate_is_asked_on_its_path(
    collector: Collector, post: Post, path: str, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    """Items of any kind can be refused, each path with a predicate of its own."""
    collector.reject_if(lambda item: True)  # of events only
    collector.reject_if(lambda item: "b" in item.values() and "no b", path=path)

    assert 200 == post(path, **good).status
    assert (400, b"no b") == ((answer := post(path, **bad)).status, answer.data)
    collector.reject_if(None, path=path)
    assert 200 == post(path, **bad).status
    assert 400 == post("/api/track", event="e", identity="a").status


def test_a_predicate_sees_each_item_of_a_bulk_request(collector: Collector, post: Post) -> None:
    """One item that the predicate dislikes refuses its request, and nothing is kept."""
    collector.reject_if(lambda item: item["account_id"] == "7", path=PATH)
    accounts = [{"account_id": str(n), "properties": {}} for n in range(10)]

    assert (400, []) == (post(accounts=accounts).status, collector.accounts)
    del accounts[7]
    assert (200, 9) == (post(accounts=accounts).status, len(collector.accounts))


@pytest.mark.parametrize("path", ["/api/tracks", "/api/public/v0/auth_token"])
def test_a_predicate_needs_a_path_with_items(collector: Collector, path: str) -> None:
    """Where nothing could be asked, the test is told so."""
    with pytest.raises(InvalidCall, match="/api/add_account_properties"):
        collector.reject_if(lambda item: True, path=path)


def test_a_lenient_collector_takes_undocumented_values() -> None:
    """Without strictness values become documented ones, as they do for users."""
    body = json.dumps({"app_id": 11, **GOOD, "color": "red", "properties": {"a": True, "b": [1]}})
    with Collector(strict=False) as collector:
        answer = urllib3.request("POST", collector.url + PATH, body=body, retries=False, timeout=60)

        assert 200 == answer.status
        assert {"a": "true", "b": "1"} == collector.account("a").properties

"""What a collector tells of what it receives."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from itertools import islice

import pytest
import urllib3

from heap_agent._tools.announce import AnnouncingCollector

KEY = "a-key"
TOKEN = "/api/public/v0/auth_token"
DELETE = "/api/public/v0/user_deletion"


@pytest.fixture(name="server")
def _server() -> Iterator[AnnouncingCollector]:
    with AnnouncingCollector(0, "127.0.0.1", KEY) as server:
        yield server


def post(server: AnnouncingCollector, path: str, **members: object) -> int:
    """Send a body."""
    body = {"app_id": "11", **members}
    return urllib3.request("POST", server.url + path, json=body, retries=False, timeout=60).status


def delete(server: AnnouncingCollector, *users: dict[str, object]) -> None:
    """Delete users, as a client does."""
    pair = b64encode(f"11:{KEY}".encode()).decode()
    answer = urllib3.request(
        "POST",
        server.url + TOKEN,
        headers={"Authorization": f"Basic {pair}"},
        retries=False,
        timeout=60,
    )
    headers = {"Authorization": f"Bearer {answer.json()['auth_token']}"}
    answer = urllib3.request(
        "POST",
        server.url + DELETE,
        headers=headers,
        json={"users": users},
        retries=False,
        timeout=60,
    )
    assert 201 == answer.status
    path = answer.json()["deletion_request_location"]
    assert 200 == urllib3.request("GET", path, headers=headers, retries=False, timeout=60).status


def test_accounts_are_told(server: AnnouncingCollector) -> None:
    """Each account with its properties, whether it came alone or with others."""
    account = {"account_id": "Acme", "properties": {"plan": "gold"}}
    post(server, "/api/add_account_properties", **account)
    post(server, "/api/add_account_properties", accounts=[account, account])

    one, two = islice(server.news(), 2)

    assert ("account_properties", 'Acme {"plan": "gold"}') == (one.type, one.text)
    assert (f"{one.text}, {one.text}", "11", 2) == (
        two.text,
        two.fields["app_id"],
        len(two.fields["accounts"]),
    )


def test_a_deletion_is_told_and_what_only_serves_it_is_not(server: AnnouncingCollector) -> None:
    """One line for the request; none for the token and for asking how far it is."""
    delete(server, {"user_id": 1}, {"identity": "ann"})
    delete(server, *({"user_id": n} for n in range(7)))

    one, many = islice(server.news(), 2)

    assert ("deletion", "user 1, ann") == (one.type, one.text)
    assert {"users": [{"user_id": 1}, {"identity": "ann"}]} == one.fields
    assert ("user 0, user 1, user 2, user 3, user 4, and 2 more", 7) == (
        many.text,
        len(many.fields["users"]),
    )


def test_events_are_told_although_others_were_deleted(server: AnnouncingCollector) -> None:
    """What comes after a deletion is told once, and what comes again is told as that."""
    event = {"event": "E", "identity": "ann", "idempotency_key": "k"}
    for _ in range(2):
        post(server, "/api/track", **event)
    delete(server, {"identity": "ann"})
    for _ in range(2):
        post(server, "/api/track", **event)

    told = [news.type for news in islice(server.news(), 5)]

    assert ["event", "again", "deletion", "event", "again"] == told


def test_a_wrong_key_is_told_as_a_refusal(server: AnnouncingCollector) -> None:
    """With its reason, and without the key."""
    pair = b64encode(b"11:wrong-key").decode()
    urllib3.request(
        "POST",
        server.url + TOKEN,
        headers={"Authorization": f"Basic {pair}"},
        retries=False,
        timeout=60,
    )

    (news,) = islice(server.news(), 1)

    assert ("refused", 401, True) == (news.type, news.fields["status"], "api_key" in news.text)
    assert "wrong-key" not in f"{news}" and pair not in f"{news}"

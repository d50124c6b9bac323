"""The collector's deletion API over real HTTP: tokens, requests, and what they do."""

from __future__ import annotations

import json
import logging
import uuid
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import attrs
import pytest
import urllib3

from heap_agent.exceptions import InvalidCall
from heap_agent.testing import API_KEY, Collector, DeletionUser, FakeClock, Reply

TOKEN = "/api/public/v0/auth_token"
DELETE = "/api/public/v0/user_deletion"
STATUS = "/api/public/v0/deletion_status"
TRACK = "/api/track"
IDENTIFY = "/api/v1/identify"
USERS = "/api/add_user_properties"
ACCOUNTS = "/api/add_account_properties"


@attrs.frozen
class Client:
    """Speaks to a collector as the documents say, with nothing in between."""

    collector: Collector

    def send(
        self, method: str, path: str, authorization: str | None = None, body: object = None
    ) -> urllib3.BaseHTTPResponse:
        """One request."""
        headers = {} if authorization is None else {"Authorization": authorization}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return urllib3.request(
            method,
            self.collector.url + path,
            headers=headers,
            body=body if isinstance(body, (bytes, type(None))) else json.dumps(body),
            retries=False,
            timeout=60,
        )

    def ask(self, app_id: str = "11", api_key: str = API_KEY) -> urllib3.BaseHTTPResponse:
        """Ask for a token."""
        return self.send("POST", TOKEN, basic(f"{app_id}:{api_key}"))

    def token(self, app_id: str = "11") -> str:
        """A header with a new token."""
        return "Bearer " + str(self.ask(app_id).json()["auth_token"])

    def delete(self, *users: dict[str, object], token: str | None = None) -> str:
        """Delete users; the id of the request."""
        answer = self.send("POST", DELETE, token or self.token(), {"users": list(users)})
        assert 201 == answer.status, answer.data
        return str(answer.json()["deletion_request_id"])

    def track(self, name: str, **members: object) -> int:
        """One event."""
        return self.send("POST", TRACK, None, {"app_id": "11", "event": name, **members}).status

    def post(self, path: str, **members: object) -> None:
        """Something else that is accepted."""
        assert 200 == self.send("POST", path, None, {"app_id": "11", **members}).status


def basic(pair: str) -> str:
    """The header for a pair of names."""
    return "Basic " + b64encode(pair.encode()).decode()


def message(answer: urllib3.BaseHTTPResponse) -> str:
    """What the err object says, where that is all that came."""
    assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
    body = answer.json()
    assert ["err"] == list(body) and ["message"] == list(body["err"])
    return str(body["err"]["message"])


@pytest.fixture(name="collector")
def _collector(clock: FakeClock) -> Iterator[Collector]:
    """A collector whose time is moved by hand; nothing takes any."""
    with Collector(clock=clock) as collector:
        yield collector


@pytest.fixture(name="client")
def _client(collector: Collector) -> Client:
    return Client(collector)


# -- tokens --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auth_token", "access_token"])
def test_a_token_comes_under_one_of_two_names(name: str) -> None:
    """The right key opens; the token's name is the one that was chosen, and good for a request."""
    with Collector(token_name=name) as collector:
        client = Client(collector)
        answer = client.ask()

        assert (200, [name]) == (answer.status, list(answer.json()))
        client.delete({"user_id": 1}, token="Bearer " + answer.json()[name])


def test_a_scheme_is_written_in_any_case(client: Client) -> None:
    """`Basic` and `Bearer` are names of HTTP, where case means nothing."""
    credentials = basic(f"11:{API_KEY}").replace("Basic", "bASIC")
    token = client.send("POST", TOKEN, credentials).json()["auth_token"]

    client.delete({"user_id": 1}, token=f"bearer {token}")


def test_a_key_may_hold_colons_and_other_letters() -> None:
    """Only the first colon parts the pair; the text is UTF-8."""
    with Collector(api_key="a:b:\u00e9") as collector:
        assert 200 == Client(collector).ask(api_key="a:b:\u00e9").status


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic 11:" + API_KEY,
        "Basic %%%%",
        "Basic " + b64encode(b"\xff:\xff").decode(),
        "Bearer " + b64encode(f"11:{API_KEY}".encode()).decode(),
        basic("11"),
        basic("11:"),
        basic(f":{API_KEY}"),
        basic(f"eleven:{API_KEY}"),
        basic(f"11:{API_KEY}x"),
        basic(f"11: {API_KEY}"),
        basic(f"11:{API_KEY[:-1]}"),
        basic(f"{API_KEY}:11"),
    ],
)
def test_wrong_credentials_get_no_token(client: Client, authorization: str | None) -> None:
    """Whatever is not the right pair in the right form is a 401 that quotes none of it."""
    answer = client.send("POST", TOKEN, authorization)

    assert 401 == answer.status
    assert message(answer).startswith("Unauthorized. ")
    assert API_KEY not in message(answer)


def test_without_a_key_nobody_is_let_in() -> None:
    """Where no key has been generated, none is right."""
    with Collector(api_key=None) as collector:
        answer = Client(collector).ask()

        assert (401, True) == (answer.status, "none has been generated" in message(answer))


def test_only_the_main_production_environment_gets_a_token() -> None:
    """Any other environment's id is unauthorized, with the right key too."""
    with Collector(main_app_id="11") as collector:
        client = Client(collector)

        assert [200, 401] == [client.ask(app_id).status for app_id in ("11", "12")]
        assert "Main Production" in message(client.ask("12"))


def test_a_request_for_a_token_has_no_body(client: Client) -> None:
    """All that is asked stands in the header."""
    answer = client.send("POST", TOKEN, basic(f"11:{API_KEY}"), {})

    assert (400, "body: one came; an empty one is allowed.") == (answer.status, message(answer))


def test_a_token_lasts_as_long_as_told(client: Client, clock: FakeClock) -> None:
    """It is good until its time is over, on the collector's clock, and no longer."""
    token = client.token()

    clock.advance(3_599.9)
    client.delete({"user_id": 1}, token=token)
    clock.advance(0.1)
    answer = client.send("POST", DELETE, token, {"users": [{"user_id": 1}]})

    assert (401, True) == (answer.status, "expired after 3600 s" in message(answer))
    assert 401 == client.send("GET", f"{STATUS}/x", token).status
    client.delete({"user_id": 1})


def test_a_clock_that_is_set_ages_no_token(client: Client, clock: FakeClock) -> None:
    """Only time that passes counts."""
    token = client.token()

    clock.step(86_400)

    client.delete({"user_id": 1}, token=token)


def test_several_tokens_are_good_at_once(client: Client) -> None:
    """A new token does not end the one before it."""
    first, second = client.token(), client.token()

    assert first != second
    client.delete({"user_id": 1}, token=first)
    client.delete({"user_id": 1}, token=second)


def test_tokens_can_be_revoked(client: Client, collector: Collector) -> None:
    """A test can have all tokens turn bad at once; the next one is good."""
    token = client.token()

    collector.revoke_tokens()

    assert 401 == client.send("POST", DELETE, token, {"users": [{"user_id": 1}]}).status
    client.delete({"user_id": 1})


@pytest.mark.parametrize("path", [("POST", DELETE), ("GET", f"{STATUS}/x")])
@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer ", "Bearer x", basic("11:x")])
def test_without_a_good_token_nothing_is_answered(
    client: Client, collector: Collector, path: tuple[str, str], authorization: str | None
) -> None:
    """A missing, unknown or malformed token is a 401, before anything else is looked at."""
    answer = client.send(*path, authorization, b"{" if path[0] == "POST" else None)

    assert (401, []) == (answer.status, collector.deletions)
    assert message(answer).startswith("Unauthorized. ")


# -- requests --------------------------------------------------------------------


def test_a_deletion_is_accepted(client: Client, collector: Collector, clock: FakeClock) -> None:
    """The answer is 201, with a UUID, its address here, and pending, however fast it is done."""
    answer = client.send("POST", DELETE, client.token(), {"users": [{"user_id": 1}]})

    body = answer.json()
    id = body["deletion_request_id"]
    assert id == str(uuid.UUID(id))
    assert (201, f"{collector.url}{STATUS}/{id}", "pending") == (
        answer.status,
        body["deletion_request_location"],
        body["status"],
    )
    assert 3 == len(body)
    (deletion,) = collector.deletions
    assert (id, "11", (DeletionUser(None, "1"),), "complete") == (
        deletion.id,
        deletion.app_id,
        deletion.users,
        deletion.status,
    )
    assert datetime(2026, 1, 1, tzinfo=timezone.utc) == deletion.time


def test_a_deletion_is_complete_after_its_time(clock: FakeClock) -> None:
    """Its status is pending until then, and everybody is still there."""
    with Collector(clock=clock, deletion_seconds=60.0) as collector:
        client = Client(collector)
        client.track("E", identity="ann")
        token = client.token()
        path = f"{STATUS}/{client.delete({'identity': 'ann'}, token=token)}"

        clock.advance(59.9)
        pending = client.send("GET", path, token)
        assert (200, "pending") == (pending.status, pending.json()["status"])
        assert (1, 1) == (len(collector.users), len(collector.events()))
        assert ["pending"] == [deletion.status for deletion in collector.deletions]

        clock.advance(0.1)
        assert ([], []) == (collector.users, collector.events())
        complete = client.send("GET", path, token)
        assert {"deletion_request_id": path[len(STATUS) + 1 :], "status": "complete"} == (
            complete.json()
        )
        assert ["complete"] == [deletion.status for deletion in collector.deletions]


def test_only_whom_it_concerns_sees_a_status(client: Client) -> None:
    """An unknown id is not found, and neither is one that another environment asked for."""
    id = client.delete({"user_id": 1}, token=client.token("11"))

    assert 200 == client.send("GET", f"{STATUS}/{id}", client.token("11")).status
    for app_id, wanted in [("12", id), ("11", str(uuid.uuid4())), ("11", "x")]:
        answer = client.send("GET", f"{STATUS}/{wanted}", client.token(app_id))
        assert (404, True) == (answer.status, message(answer).startswith("Not found. "))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        ([], "one JSON object"),
        ({}, "users: missing"),
        ({"users": []}, "users: 0 items"),
        ({"users": {}}, "users: an object"),
        ({"users": ["ann"]}, "users[0]"),
        ({"users": [{"user_id": 1}], "app_id": "11"}, "app_id: this field is not allowed"),
        ({"users": [{}]}, "neither came"),
        ({"users": [{"user_id": 1, "identity": "a"}]}, "both came"),
        ({"users": [{"user_id": 1, "email": "a"}]}, "users[0].email"),
        ({"users": [{"user_id": 1}, {"user_id": "1"}]}, "users[1].user_id: '1'"),
        ({"users": [{"user_id": 1.0}]}, "user_id: 1.0"),
        ({"users": [{"user_id": True}]}, "user_id: true"),
        ({"users": [{"user_id": None}]}, "user_id: null"),
        ({"users": [{"user_id": -1}]}, "user_id: -1"),
        ({"users": [{"user_id": 2**53}]}, "user_id: 9007199254740992"),
        ({"users": [{"identity": 1}]}, "identity: 1"),
        ({"users": [{"identity": ""}]}, "identity: ''"),
        ({"users": [{"identity": "i" * 256}]}, "256 characters"),
    ],
)
def test_a_refused_deletion_names_the_field(
    client: Client, collector: Collector, body: object, reason: str
) -> None:
    """Whatever the page does not allow is a 400 with an err object, and deletes nobody."""
    client.track("E", identity="ann")

    answer = client.send("POST", DELETE, client.token(), body)

    assert (400, True) == (answer.status, reason in message(answer))
    assert reason in json.loads(collector.requests[-1].reason)["err"]["message"]
    assert ([], 1) == (collector.deletions, len(collector.users))


@pytest.mark.parametrize(
    "user", [{"user_id": 0}, {"user_id": 2**53 - 1}, {"identity": "i" * 255}, {"identity": "1"}]
)
def test_the_largest_names_are_allowed(client: Client, user: dict[str, object]) -> None:
    """Every limit is itself allowed."""
    client.delete(user)


def test_json_has_to_be_declared(client: Client, collector: Collector) -> None:
    """A body of another type is refused, in the form of this API."""
    answer = urllib3.request(
        "POST",
        collector.url + DELETE,
        headers={"Authorization": client.token()},
        body=b'{"users": [{"user_id": 1}]}',
        retries=False,
        timeout=60,
    )

    assert (400, True) == (answer.status, message(answer).startswith("Content-Type"))


@pytest.mark.parametrize(("number", "status"), [(10_000, 201), (10_001, 400)])
def test_a_request_deletes_10000_users(
    client: Client, collector: Collector, number: int, status: int
) -> None:
    """Ten thousand are allowed, and not one more."""
    users = [{"user_id": n} for n in range(number)]

    assert status == client.send("POST", DELETE, client.token(), {"users": users}).status

    assert [10_000] * (status == 201) == [len(deletion.users) for deletion in collector.deletions]


def test_ten_thousand_of_the_longest_names_fit(client: Client, collector: Collector) -> None:
    """The limit of bytes never refuses what the limit of users allows."""
    users = [{"identity": f"{n:05}" + "\u00e9" * 250} for n in range(10_000)]
    body = json.dumps({"users": users}).encode()
    assert len(body) > 10 * collector.max_body

    assert 201 == client.send("POST", DELETE, client.token(), body).status


def test_a_body_that_no_ten_thousand_users_need_is_too_large(client: Client) -> None:
    """There is a limit all the same, and it is told in the form of this API."""
    answer = client.send("POST", DELETE, client.token(), b" " * 16_000_000)

    assert (413, True) == (answer.status, "bytes came" in message(answer))


# -- what a deletion does -----------------------------------------------------------


def test_a_deleted_identity_is_gone_with_all_that_was_joined(
    client: Client, collector: Collector
) -> None:
    """Events from before and after the identification, user_ids and properties go; others stay."""
    client.track("before", user_id="5")
    client.track("other", identity="bob")
    client.post(IDENTIFY, user_id="5", identity="ann")
    client.post(USERS, identity="ann", properties={"a": 1})
    client.track("after", user_id="5")
    client.track("own", identity="ann")
    client.post(ACCOUNTS, account_id="ann", properties={})

    client.delete({"identity": "ann"})

    assert ["other"] == [event.event for event in collector.events()]
    assert ["bob"] == [user.identity for user in collector.users]
    assert ["ann"] == [account.account_id for account in collector.accounts]


@pytest.mark.parametrize("joined", [False, True])
def test_a_user_id_names_the_user_that_it_belongs_to(
    client: Client, collector: Collector, joined: bool
) -> None:
    """An anonymous user goes alone; a user_id that was joined takes the whole user along."""
    client.track("E", user_id="5")
    client.track("F", identity="ann")
    client.track("G", user_id="6")
    if joined:
        client.post(IDENTIFY, user_id="5", identity="ann")

    client.delete({"user_id": 5})

    left = ["G"] if joined else ["F", "G"]
    assert left == [event.event for event in collector.events()]
    assert len(left) == len(collector.users)


def test_names_are_of_two_kinds(client: Client, collector: Collector) -> None:
    """The identity "5" is not the user_id 5, and case counts."""
    client.track("E", user_id="5")
    client.track("F", identity="5")
    client.track("G", identity="Ann")

    client.delete({"identity": "5"}, {"identity": "ann"})

    assert ["E", "G"] == [event.event for event in collector.events()]


def test_all_environments_are_searched(client: Client, collector: Collector) -> None:
    """A deletion that one environment asks for takes the user out of every other, too."""
    client.track("E", identity="ann")
    client.track("F", identity="ann", app_id="12")
    client.track("G", user_id="5", app_id="12")

    client.delete({"identity": "ann"}, {"user_id": 5})

    assert ([], []) == (collector.users, collector.events())


def test_who_is_not_known_is_deleted_as_well(client: Client, collector: Collector) -> None:
    """Heap says nothing of users that are not there; the request is complete like any other."""
    client.track("E", user_id="5")

    client.delete({"identity": "nobody"}, {"identity": "nobody"})

    assert (1, "complete") == (len(collector.users), collector.deletions[0].status)


def test_who_comes_again_is_somebody_new(client: Client, collector: Collector) -> None:
    """A device that had not heard makes the user anew, with a known idempotency key too."""
    client.track("old", identity="ann", idempotency_key="k")
    client.post(USERS, identity="ann", properties={"a": 1})
    client.post(IDENTIFY, user_id="5", identity="ann")
    client.delete({"identity": "ann"})
    assert [] == collector.users

    client.track("old", identity="ann", idempotency_key="k")
    client.post(IDENTIFY, user_id="5", identity="bob")

    assert ({}, ()) == (collector.user("ann").properties, collector.user("ann").user_ids)
    assert ["old"] == [event.event for event in collector.user("ann").events]
    assert (("5",), []) == (collector.user("bob").user_ids, collector.duplicates)
    assert [] == collector.ignored


def test_a_new_user_may_take_ten_user_ids_again(client: Client, collector: Collector) -> None:
    """The month's count goes with the user that it was of."""
    for number in range(10):
        client.post(IDENTIFY, user_id=str(number), identity="ann")
    client.delete({"identity": "ann"})

    client.post(IDENTIFY, user_id="10", identity="ann")

    assert ("10",) == collector.user("ann").user_ids


def test_what_comes_while_a_deletion_is_pending_goes_too(clock: FakeClock) -> None:
    """It is deleted at the end who is there then; what comes after stays."""
    with Collector(clock=clock, deletion_seconds=5.0) as collector:
        client = Client(collector)
        client.delete({"identity": "ann"})
        client.track("during", identity="ann")
        clock.advance(5.0)
        client.track("after", identity="ann")

        assert ["after"] == [event.event for event in collector.events()]


def test_notes_about_the_client_stay(client: Client, collector: Collector) -> None:
    """A test can still see what a client did with a user that is gone."""
    for name in ("a", "a", "b"):
        client.track(name, identity="ann", idempotency_key="k")

    client.delete({"identity": "ann"})

    assert ([], 2, 1) == (collector.events(), len(collector.duplicates), len(collector.conflicts))


# -- faults ------------------------------------------------------------------------


def test_the_script_goes_on_through_token_request_and_status(
    client: Client, collector: Collector
) -> None:
    """Each of the three takes an entry; 200 means as Heap would, and that is 201 once."""
    collector.reply(500, 200, Reply.throttled(7), 200, 503, 200)

    assert 500 == client.ask().status
    token = client.token()
    body = {"users": [{"user_id": 1}]}
    throttled, accepted = (client.send("POST", DELETE, token, body) for _ in range(2))
    path = f"{STATUS}/{accepted.json()['deletion_request_id']}"
    statuses = [client.send("GET", path, token).status for _ in range(2)]

    assert (429, "7") == (throttled.status, throttled.headers["Retry-After"])
    assert (201, [503, 200]) == (accepted.status, statuses)


def test_a_probe_takes_nothing_from_the_script(client: Client, collector: Collector) -> None:
    """HEAD, and GET of anything but a status, leave it as it is."""
    collector.reply(500)

    probes = [("HEAD", TOKEN), ("HEAD", DELETE), ("HEAD", f"{STATUS}/x"), ("GET", DELETE)]
    statuses = [client.send(method, path).status for method, path in probes]

    assert [200, 200, 200, 405] == statuses
    assert [500, 200] == [client.ask().status for _ in range(2)]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", TOKEN, "HEAD, POST"),
        ("PUT", DELETE, "HEAD, POST"),
        ("POST", f"{STATUS}/x", "HEAD, GET"),
    ],
)
def test_other_methods_are_not_allowed(
    client: Client, method: str, path: str, allowed: str
) -> None:
    """Each path has its method, and says which."""
    answer = client.send(method, path)

    assert (405, allowed) == (answer.status, answer.headers["Allow"])
    assert message(answer).startswith(f"method: {method} came")


@pytest.mark.parametrize("path", [STATUS, f"{STATUS}/", f"{STATUS}/a/b", f"{DELETE}/1"])
def test_other_paths_are_not_known(client: Client, path: str) -> None:
    """A status has one id, and nothing else has one."""
    answer = client.send("GET", path)

    assert (404, True) == (answer.status, f"{STATUS}/:id".encode() in answer.data)


def test_a_status_can_hang_and_break_off(client: Client, collector: Collector) -> None:
    """A connection may break while the client asks how far it is."""
    token = client.token()
    path = f"{STATUS}/{client.delete({'user_id': 1}, token=token)}"
    collector.drop_connection()
    collector.hang(0.0)

    with pytest.raises(urllib3.exceptions.ProtocolError):
        client.send("GET", path, token)
    assert [200, 200] == [client.send("GET", path, token).status for _ in range(2)]


def test_a_deletion_may_be_accepted_without_an_answer(client: Client, collector: Collector) -> None:
    """What was dropped after it was handled is under way, and the client does not know."""
    token = client.token()
    collector.drop_connection(when="after")

    with pytest.raises(urllib3.exceptions.ProtocolError):
        client.delete({"user_id": 1}, token=token)

    assert 1 == len(collector.deletions)


def test_a_portal_answers_here_too(client: Client, collector: Collector) -> None:
    """A captive portal knows no API."""
    collector.captive_portal(status=200)

    answers = [client.ask(), client.send("POST", DELETE, None, {}), client.send("GET", STATUS)]

    assert [True] * 3 == [answer.data.startswith(b"<!DOCTYPE html>") for answer in answers]


def test_a_predicate_is_asked_about_each_user(client: Client, collector: Collector) -> None:
    """A request with one user that the test dislikes is refused as a whole."""
    collector.reject_if(lambda user: user.get("identity") == "ann" and "not ann", path=DELETE)
    body = {"users": [{"user_id": 1}, {"identity": "ann"}]}

    answer = client.send("POST", DELETE, client.token(), body)

    assert (400, "not ann", []) == (answer.status, message(answer), collector.deletions)
    client.delete({"user_id": 1})


# -- secrets -----------------------------------------------------------------------


def test_no_secret_is_kept(
    client: Client, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither notes nor logs nor any repr show a key, a token or a header that holds one."""
    with caplog.at_level(logging.DEBUG, "heap_agent"), caplog.at_level(logging.DEBUG, "uvicorn"):
        token = client.token()
        client.delete({"user_id": 1}, token=token)
        client.send("POST", DELETE, token, b"{")
        client.send("POST", TOKEN, token)
        client.send("POST", TOKEN, API_KEY)
        client.send("POST", TOKEN, f"Digest {API_KEY}")

    texts = [caplog.text, repr(collector), repr(collector.deletions), repr(vars(collector))]
    for request in collector.requests:
        texts += [repr(request), repr(dict(request.headers)), request.reason]
    for secret in (token.removeprefix("Bearer "), API_KEY, basic(f"11:{API_KEY}")[6:]):
        assert [] == [text for text in texts if secret in text]
    noted = [request.headers.get("authorization") for request in collector.requests]
    assert ["Basic ***", "Bearer ***", "Bearer ***", "Bearer ***", "***", "***"] == noted


def test_a_proxys_credentials_are_not_kept_either(collector: Collector) -> None:
    """The header for a proxy holds a secret of the same kind."""
    urllib3.request(
        "HEAD",
        collector.url + TRACK,
        headers={"Proxy-Authorization": basic("me:secret")},
        timeout=60,
    )

    assert "Basic ***" == collector.requests[0].headers["proxy-authorization"]


def test_a_request_with_a_fault_is_noted_without_its_secret(
    client: Client, collector: Collector
) -> None:
    """A scripted answer, too, is to a request of which only the scheme is kept."""
    collector.reply(500)
    client.ask()

    assert "Basic ***" == collector.requests[0].headers["authorization"]


# -- configuration -----------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": ""},
        {"api_key": 5},
        {"main_app_id": "x"},
        {"main_app_id": 11},
        {"token_seconds": 0},
        {"token_seconds": float("nan")},
        {"token_name": "token"},
        {"deletion_seconds": -1},
        {"deletion_seconds": float("nan")},
    ],
)
def test_an_impossible_setup_is_refused(options: dict[str, Any]) -> None:
    """A wrong argument is named, and says what is allowed."""
    (name,) = options

    with pytest.raises(InvalidCall, match=f"{name}: .*allowed"):
        Collector(**options)


def test_a_wrong_key_is_not_shown() -> None:
    """The error does not repeat what might be a real key."""
    with pytest.raises(InvalidCall) as failed:
        Collector(api_key=b"secret")  # type: ignore[arg-type]

    assert "secret" not in str(failed.value)

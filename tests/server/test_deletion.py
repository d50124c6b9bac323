"""Deleting users: tokens, requests, statuses, and that the key is nowhere to be seen."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._core.limits import (
    AUTH_TOKEN_PATH,
    BATCH_BYTES,
    DELETION_STATUS_PATH,
    DELETION_USERS,
    SAFE_INTEGER,
    USER_DELETION_PATH,
)
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._server.deletion import Deletion, encode_users
from heap_agent._server.line import Seams
from heap_agent._server.secret import Secret
from heap_agent._upload.transport import Reply as Answered
from heap_agent.server import (
    ApiError,
    DeletionPending,
    DeletionRequest,
    InvalidCall,
    InvalidValue,
    NotFound,
    ServerClient,
    Unauthorized,
    Unreachable,
)
from heap_agent.testing import API_KEY, Collector, FakeClock, Reply

MakeClient = Callable[..., ServerClient]


@pytest.fixture(name="slow")
def _slow(clock: FakeClock) -> Iterator[Collector]:
    """A collector that takes ten minutes to delete, and whose tokens last one."""
    with Collector(clock=clock, deletion_seconds=600, token_seconds=60) as collector:
        yield collector


@pytest.fixture(name="patient")
def _patient(slow: Collector, seams: Seams) -> Iterator[ServerClient]:
    """A client of it."""
    with ServerClient(11, API_KEY, endpoint=slow.url, _seams=seams) as client:
        yield client


def paths(collector: Collector) -> list[str]:
    """Which requests came."""
    return [request.path for request in collector.requests]


# -- asking -------------------------------------------------------------------------------


def test_users_are_deleted(client: ServerClient, collector: Collector) -> None:
    """By identity, and by user_id as a JSON number."""
    client.track("E", identity="alice")
    client.track("E", user_id=5)
    client.track("E", identity="bob")
    accepted = client.delete_users(identities=["alice", 7], user_ids=["5", 6])

    assert [(request.status, request.users) for request in accepted] == [("pending", 2)] * 2
    assert [user.identity for user in collector.users] == ["bob"]
    named, anonymous = (
        json.loads(request.body)
        for request in collector.requests
        if request.path == USER_DELETION_PATH
    )
    assert named == {"users": [{"identity": "alice"}, {"identity": "7"}]}
    assert anonymous == {"users": [{"user_id": 5}, {"user_id": 6}]}
    assert accepted[0].location is not None and accepted[0].location.endswith(accepted[0].id)


def test_twenty_five_thousand_users_take_three_requests(
    client: ServerClient, collector: Collector
) -> None:
    """Of ten thousand at most, with one token."""
    accepted = client.delete_users(identities=(f"u{n}" for n in range(25_000)))

    assert [request.users for request in accepted] == [10_000, 10_000, 5_000]
    assert paths(collector) == [AUTH_TOKEN_PATH, *[USER_DELETION_PATH] * 3]


def test_nobody_is_nothing(client: ServerClient, collector: Collector) -> None:
    """Not even a token is asked for."""
    assert client.delete_users() == client.delete_users(identities=[], user_ids=()) == []
    assert collector.requests == []


@pytest.mark.parametrize("name", ["auth_token", "access_token"])
def test_the_token_has_either_name(clock: FakeClock, seams: Seams, name: str) -> None:
    """Heap's two pages differ."""
    with Collector(clock=clock, token_name=name) as collector:
        with ServerClient(11, API_KEY, endpoint=collector.url, _seams=seams) as client:
            assert len(client.delete_users(identities=["a"])) == 1


def test_a_token_is_renewed_once(patient: ServerClient, slow: Collector, clock: FakeClock) -> None:
    """When it is no longer good, and not before."""
    patient.delete_users(identities=["a"])
    patient.delete_users(identities=["b"])
    clock.advance(61)
    patient.delete_users(identities=["c"])

    assert len(slow.deletions) == 3
    assert paths(slow).count(AUTH_TOKEN_PATH) == 2
    assert paths(slow).count(USER_DELETION_PATH) == 4


def test_a_token_that_is_never_good_is_an_error(client: ServerClient, collector: Collector) -> None:
    """After one renewal."""
    collector.reply(200, 401, 200, 401)
    with pytest.raises(Unauthorized, match="Main Production environment"):
        client.delete_users(identities=["a"])
    assert paths(collector) == [AUTH_TOKEN_PATH, USER_DELETION_PATH] * 2


def test_a_wrong_key_is_unauthorized(make_client: MakeClient, collector: Collector) -> None:
    """With Heap's words, and which id may delete."""
    with pytest.raises(Unauthorized, match="only the id of the Main Production") as caught:
        make_client(api_key="wrong-key-9").delete_users(identities=["a"])
    assert (caught.value.status, caught.value.accepted) == (401, ())
    assert "api_key" in caught.value.message
    assert paths(collector) == [AUTH_TOKEN_PATH]


def test_another_environment_is_unauthorized(clock: FakeClock, seams: Seams) -> None:
    """Only the main one may delete."""
    with Collector(clock=clock, main_app_id="12") as collector:
        with ServerClient(11, API_KEY, endpoint=collector.url, _seams=seams) as client:
            with pytest.raises(Unauthorized, match="Main Production"):
                client.delete_users(identities=["a"])


# -- faults of the call ----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["alice", b"alice", {"alice": 1}, 5, None])
@pytest.mark.parametrize("argument", ["identities", "user_ids"])
def test_a_single_text_is_no_list(
    client: ServerClient, collector: Collector, argument: str, wrong: object
) -> None:
    """Its letters would have been deleted."""
    with pytest.raises(InvalidCall, match=argument):
        client.delete_users(**{argument: wrong})  # type: ignore[arg-type]
    assert collector.requests == []


def test_all_users_are_checked_before_the_first_request(
    client: ServerClient, collector: Collector
) -> None:
    """What cannot be undone is not half done by a typo."""
    for identities, user_ids in ((["a"], [-1]), (["a", ""], []), (["a" * 256], []), ([True], [])):
        with pytest.raises(InvalidValue):
            client.delete_users(identities=identities, user_ids=user_ids)
    assert collector.requests == []


def test_who_merged_all_nameless_users_into_one_can_delete_it(client: ServerClient) -> None:
    """The list of names of nobody is for sending."""
    assert len(client.delete_users(identities=["null", "undefined"])) == 1


def test_without_a_key_nothing_is_deleted(make_client: MakeClient) -> None:
    """The call says what is missing."""
    client = make_client(api_key=None)
    for call in (
        lambda: client.delete_users(identities=["a"]),
        lambda: client.deletion_status("x"),
        lambda: client.wait_for_deletion("x"),
    ):
        with pytest.raises(InvalidCall, match="api_key"):
            call()


def test_the_key_never_travels_in_the_clear() -> None:
    """Not even where events may."""
    with pytest.raises(InvalidCall, match="plain HTTP"):
        ServerClient(11, API_KEY, endpoint="http://heap.example")
    client = ServerClient(11, API_KEY, endpoint="http://heap.example", allow_insecure=True)
    with pytest.raises(InvalidCall, match="https only"):
        client.delete_users(identities=["a"])


def test_deletions_go_to_the_us_whatever_the_region() -> None:
    """Unless there is an endpoint."""
    eu = ServerClient(11, API_KEY, region="eu")
    assert eu._settings.deletion_url == "https://heapanalytics.com"
    own = ServerClient(11, API_KEY, region="eu", endpoint="https://own.example")
    assert own._settings.deletion_url == "https://own.example"


# -- trouble ---------------------------------------------------------------------------------


def test_a_failing_request_tells_what_was_accepted(
    client: ServerClient, collector: Collector
) -> None:
    """The ones before it are on record."""
    body = b'{"err":{"message":"no more today","code":"quota"},"id":3}'
    collector.reply(200, 200, Reply(400, body))
    with pytest.raises(ApiError) as caught:
        client.delete_users(identities=(f"u{n}" for n in range(15_000)))

    error = caught.value
    assert [request.id for request in error.accepted] == [one.id for one in collector.deletions]
    assert (error.status, error.message) == (400, "no more today")
    assert dict(error.details) == {"code": "quota", "id": 3}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_brings_no_answer_is_repeated(
    client: ServerClient, collector: Collector, when: str
) -> None:
    """Deleting twice is deleting; at Heap there may be a second request for it."""
    client.track("E", identity="alice")
    collector.reply(500, 200)
    collector.drop_connection(when=when)
    collector.reply(Reply.throttled(20))
    accepted = client.delete_users(identities=["alice"])

    assert len(accepted) == 1 and collector.users == []
    assert accepted[0].id == collector.deletions[-1].id
    assert len(collector.deletions) == (2 if when == "after" else 1)


def test_it_gives_up_after_retry_for(make_client: MakeClient, collector: Collector) -> None:
    """As the other verbs do."""
    collector.reply(200)
    collector.reply(503, repeat=True)
    with pytest.raises(Unreachable) as caught:
        make_client(retry_for=30).delete_users(identities=["a"])
    assert caught.value.status == 503


def test_a_portal_gets_the_key_of_nobody(make_client: MakeClient, collector: Collector) -> None:
    """A redirect is not followed, and its page is no answer."""
    collector.captive_portal()
    with pytest.raises(Unreachable, match="captive portal"):
        make_client(retry_for=0).delete_users(identities=["a"])
    assert paths(collector) == [AUTH_TOKEN_PATH]


@pytest.mark.parametrize(
    "answer", [b"{}", b"OK", b'{"auth_token":5}', b'{"auth_token":"a\\nb"}', b'{"auth_token":""}']
)
def test_an_answer_without_a_token_is_an_error(
    client: ServerClient, collector: Collector, answer: bytes
) -> None:
    """Also one that cannot be sent back in a header."""
    collector.reply(Reply(200, answer))
    with pytest.raises(ApiError, match="no token"):
        client.delete_users(identities=["a"])


@pytest.mark.parametrize("answer", [b"", b"OK", b'{"status":"pending"}', b"[1]"])
def test_an_acceptance_that_names_no_request_is_an_error(
    client: ServerClient, collector: Collector, answer: bytes
) -> None:
    """Nobody could ask how far it is."""
    collector.reply(200, Reply(201, answer))
    with pytest.raises(ApiError, match="lacks deletion_request_id"):
        client.delete_users(identities=["a"])


# -- waiting -----------------------------------------------------------------------------------


def test_a_status_can_be_asked_for(
    patient: ServerClient, slow: Collector, clock: FakeClock
) -> None:
    """By the request or by its id."""
    (request,) = patient.delete_users(identities=["a"])
    assert patient.deletion_status(request) == "pending"
    clock.advance(601)
    assert patient.deletion_status(request.id) == "complete"


def test_waiting_ends_when_it_is_complete(
    patient: ServerClient, slow: Collector, clock: FakeClock
) -> None:
    """With few questions, over more than one token."""
    (request,) = patient.delete_users(identities=["a"])
    done = patient.wait_for_deletion(request)

    assert done.is_complete and (done.id, done.users) == (request.id, 1)
    assert 600 <= clock.boot_ns() / 1e9 <= 660
    asked = sum(path.startswith(DELETION_STATUS_PATH) for path in paths(slow))
    assert 10 <= asked <= 40


@pytest.mark.parametrize("timeout", [0, 30])
def test_waiting_has_an_end(
    patient: ServerClient, slow: Collector, clock: FakeClock, timeout: float
) -> None:
    """The error says that the deletion goes on."""
    (request,) = patient.delete_users(identities=["a"])
    with pytest.raises(DeletionPending, match="'pending' after") as caught:
        patient.wait_for_deletion(request.id, timeout)

    assert isinstance(caught.value, (ApiError, TimeoutError))
    assert caught.value.message == "pending" and request.id in str(caught.value)
    assert clock.boot_ns() / 1e9 == timeout


@pytest.mark.parametrize("answer", [Reply(503), Reply(429, headers={"Retry-After": "200"})])
def test_waiting_has_an_end_in_an_outage_too(
    patient: ServerClient, slow: Collector, clock: FakeClock, answer: Reply
) -> None:
    """Neither retry_for nor what the server asks for is longer than the timeout."""
    (request,) = patient.delete_users(identities=["a"])
    slow.reply(answer, repeat=True)
    with pytest.raises(Unreachable):
        patient.wait_for_deletion(request, timeout=10)

    assert clock.boot_ns() / 1e9 <= 10


def test_a_request_takes_no_longer_than_is_left_to_wait(seams: Seams, clock: FakeClock) -> None:
    """A server that hangs does not hold the call for the timeout of a request."""
    given: list[float | None] = []

    class Hanging:
        """Remembers how long it may take, and takes all of it."""

        def call(self, *_: object, timeout: float | None = None, **__: object) -> Answered:
            given.append(timeout)
            clock.advance(40.0 if timeout is None else timeout)
            return Answered(Outcome(Answer.UNAVAILABLE))

        def close(self) -> None:
            pass

    deleter = Deletion("11", Secret(KEY), Hanging(), None, seams)
    with pytest.raises(Unreachable):
        deleter.wait(DeletionRequest("x", "pending"), 10)

    assert given[0] == 10 and clock.boot_ns() / 1e9 <= 10


def test_trouble_while_waiting_is_waited_out(patient: ServerClient, slow: Collector) -> None:
    """An outage of a minute does not end it."""
    (request,) = patient.delete_users(identities=["a"])
    slow.reply(200, 500, 502, 503, 504)
    slow.drop_connection()

    assert patient.wait_for_deletion(request).is_complete


def test_closing_ends_the_waiting(slow: Collector, seams: Seams, clock: FakeClock) -> None:
    """Before the next question."""

    def close_soon(seconds: float) -> None:
        clock.advance(seconds)
        if clock.boot_ns() > 5e9:
            client.close()

    sleepy = attrs.evolve(seams, sleep=close_soon)
    client = ServerClient(11, API_KEY, endpoint=slow.url, _seams=sleepy)
    (request,) = client.delete_users(identities=["a"])
    with pytest.raises(InvalidCall, match="closed"):
        client.wait_for_deletion(request)


def test_an_unknown_request_is_not_found(client: ServerClient, collector: Collector) -> None:
    """Whatever its id looks like."""
    for unknown in ("c93fae81-f67a-46d6-acf1-0c3ba1c3e5a6", "../auth_token", "a b?c=d#e"):
        with pytest.raises(NotFound, match="no such deletion request"):
            client.deletion_status(unknown)
    assert all(
        path.startswith(f"{DELETION_STATUS_PATH}/") or path == AUTH_TOKEN_PATH
        for path in paths(collector)
    )


@pytest.mark.parametrize("wrong", ["", " ", None, 5])
def test_an_id_is_text(client: ServerClient, wrong: object) -> None:
    """Or a request."""
    with pytest.raises(InvalidCall, match="its id"):
        client.deletion_status(wrong)  # type: ignore[arg-type]


# -- the secret ----------------------------------------------------------------------------------

KEY = "s3cret-kEy-0815"
KEY_IN_HEADER = base64.b64encode(f"11:{KEY}".encode()).decode()


def everything_about(error: BaseException) -> str:
    """All that a crash report would hold of our frames, local variables too."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The first frame is the test's, and holds what it scripted.
    del report.stack[0]
    assert report.stack
    return "".join(report.format()) + repr(error.args) + repr(vars(error))


def test_the_key_is_in_no_error_log_or_repr(
    collector: Collector, seams: Seams, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even when Heap's answer repeats it."""
    caplog.set_level(logging.DEBUG)
    with ServerClient(11, KEY, endpoint=collector.url, retry_for=0, _seams=seams) as client:
        shown = repr(client) + repr(client._deletion) + repr(client._settings)
        for answer in (
            Reply(401, b'{"err":{"message":"bad key s3cret-kEy-0815","key":"s3cret-kEy-0815"}}'),
            Reply(400, b"s3cret-kEy-0815"),
            Reply(200, b'{"err":"s3cret-kEy-0815"}'),
            Reply(500, b"s3cret-kEy-0815"),
            Reply(400, b"who is " + KEY_IN_HEADER.encode()),
            Reply(
                400, rb'{"message":"bad key s3cret-k\u0045y-0815","seen":["s3cret-kEy\u002d0815"]}'
            ),
        ):
            collector.reply(answer)
            with pytest.raises(ApiError) as caught:
                client.delete_users(identities=["a"])
            shown += everything_about(caught.value)

    assert KEY not in shown + caplog.text
    assert KEY_IN_HEADER not in shown + caplog.text
    assert "***" in shown


class Interrupted:
    """Moves nothing: Ctrl-C comes while the header is a text like any other."""

    def call(self, *_: object, headers: Mapping[str, str], **__: object) -> Answered:
        line = f"Authorization: {headers['Authorization']}"
        assert KEY not in line and KEY_IN_HEADER in line
        raise KeyboardInterrupt

    def close(self) -> None:
        pass


def test_an_interrupted_request_does_not_show_the_key(seams: Seams) -> None:
    """The frames that hold the header are no part of the traceback."""
    deleter = Deletion("11", Secret(KEY), Interrupted(), 0, seams)
    with pytest.raises(KeyboardInterrupt) as caught:
        deleter.look("x")

    assert KEY_IN_HEADER not in everything_about(caught.value)


def test_the_token_is_in_no_error_either(collector: Collector, client: ServerClient) -> None:
    """It opens the same door."""
    token = "t0ken-t0ken"
    collector.reply(Reply(200, b'{"auth_token":"%b"}' % token.encode()))
    collector.reply(Reply(400, b"what is " + token.encode()))
    with pytest.raises(ApiError, match=r"what is \*\*\*") as caught:
        client.delete_users(identities=["a"])

    assert token not in everything_about(caught.value)


@pytest.mark.parametrize("wrong", ["", "  ", b"key", 5])
def test_a_key_is_text_and_not_shown_when_it_is_not(wrong: object) -> None:
    """Neither the message nor a local variable says what came."""
    with pytest.raises(InvalidCall, match="api_key: text that is not blank") as caught:
        ServerClient(11, wrong)  # type: ignore[arg-type]

    assert wrong != b"key" or "b'key'" not in everything_about(caught.value)


def test_a_client_that_was_never_made_can_be_shown() -> None:
    """A crash report with local variables shows it, half made as it is."""
    with pytest.raises(InvalidCall, match="region") as caught:
        ServerClient(11, KEY, region="mars")

    shown = everything_about(caught.value)
    assert KEY not in shown and "<ServerClient" in shown


# -- chunks ----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 255), max_size=30),
    times=st.sampled_from([1, 300, 700]),
    user_ids=st.lists(st.integers(0, SAFE_INTEGER), max_size=5),
)
def test_chunks_keep_both_limits_and_every_user(
    lengths: list[int], times: int, user_ids: list[int]
) -> None:
    """In order, each once, named and anonymous users apart."""
    identities = ["é" * length for length in lengths] * times
    chunks = encode_users(identities, user_ids)
    users = [user for body, _ in chunks for user in json.loads(body)["users"]]

    assert users == [{"identity": one} for one in identities] + [
        {"user_id": one} for one in user_ids
    ]
    assert all(len(body) <= BATCH_BYTES and 0 < n <= DELETION_USERS for body, n in chunks)
    assert sum(n for _, n in chunks) == len(users)


def test_a_request_is_a_value() -> None:
    """Frozen, and complete or not."""
    assert DeletionRequest("x", "complete").is_complete
    assert not DeletionRequest("x", "pending").is_complete

"""
The collector over real HTTP, and the clock that is moved by hand.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

import pytest
import trustme
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from heap_agent.exceptions import InvalidCall
from heap_agent.testing import Collector, FakeClock, Reply

TRACK = "/api/track"
IDENTIFY = "/api/v1/identify"
USERS = "/api/add_user_properties"


@pytest.fixture(name="clock")
def _clock():
    return FakeClock()


@pytest.fixture(name="collector")
def _collector(clock):
    with Collector(clock=clock) as collector:
        yield collector


@pytest.fixture(name="http")
def _http():
    with urllib3.PoolManager(retries=False, timeout=60.0) as http:
        yield http


@pytest.fixture(name="post")
def _post(collector, http):
    def post(members, path=TRACK):
        return http.request("POST", collector.url + path, json={"app_id": "11", **members})

    return post


def event(name="e", **members):
    return {"event": name, "user_id": "5", **members}


# -- accepting -----------------------------------------------------------------


def test_an_event_is_accepted(collector, post, clock):
    """A valid event is answered with 200 and an empty object, and kept as it came."""
    members = event(
        session_id="7", timestamp="2025-12-31T23:00:00Z", properties={"a": 1}, idempotency_key="k"
    )

    answer = post(members)

    assert (200, b"{}") == (answer.status, answer.data)
    assert "application/json; charset=utf-8" == answer.headers["Content-Type"]
    assert datetime(2026, 1, 1, tzinfo=timezone.utc) == parsedate_to_datetime(
        answer.headers["Date"]
    )
    (found,) = collector.events()
    assert ("11", "e", None, "5", "7") == (
        found.app_id,
        found.event,
        found.identity,
        found.user_id,
        found.session_id,
    )
    assert datetime(2025, 12, 31, 23, tzinfo=timezone.utc) == found.timestamp
    assert ({"a": 1}, "k") == (found.properties, found.idempotency_key)
    assert {"app_id": "11", **members} == json.loads(found.raw)


def test_bulk_events_keep_their_order_and_can_be_asked_for_by_name(collector, post):
    """Events of one request come out in its order, all of them or those of one name."""
    post({"events": [event("a"), event("b"), event("a", session_id="2")]})

    assert ["a", "b", "a"] == [found.event for found in collector.events()]
    assert [None, "2"] == [found.session_id for found in collector.events("a")]


def test_users_are_merged(collector, post):
    """Anonymous events, identify and user properties end up at one user."""
    post(event("before"))
    post({"user_id": "5", "identity": "alice"}, IDENTIFY)
    post({"users": [{"identity": "alice", "properties": {"a": 1, "b": 2}}]}, USERS)
    post({"identity": "alice", "properties": {"b": 3}}, USERS)
    post({"events": [{"event": "after", "identity": "alice"}]})
    post({"user_id": "5", "identity": "bob"}, IDENTIFY)

    (user,) = collector.users
    assert user == collector.user("alice")
    assert (("5",), {"a": 1, "b": 3}) == (user.user_ids, user.properties)
    assert ["before", "after"] == [found.event for found in user.events]
    assert ["bob"] == [ignored.identify.identity for ignored in collector.ignored]


def test_the_eleventh_user_id_waits_for_the_next_month(collector, post, clock):
    """An identity takes ten user_ids in a month; the 11th is answered with success and ignored."""
    for number in range(11):
        assert 200 == post({"user_id": str(number), "identity": "alice"}, IDENTIFY).status
    assert 10 == len(collector.user("alice").user_ids)

    clock.advance(31 * 86_400)
    post({"user_id": "10", "identity": "alice"}, IDENTIFY)

    assert 11 == len(collector.user("alice").user_ids)


def test_asking_for_an_unknown_user_fails_with_who_is_there(collector, post):
    """`user` names those that there are; an anonymous user goes by the user_id."""
    post(event())

    assert collector.user("5").identity is None
    with pytest.raises(AssertionError, match="0 users are called 'alice'"):
        collector.user("alice")


def test_a_known_key_is_answered_with_success_and_changes_nothing(collector, post):
    """A retry is a duplicate; other bytes under the same key are a conflict."""
    first = event(idempotency_key="k")

    statuses = [post({"events": [item]}).status for item in (first, first, {**first, "event": "x"})]

    assert [200, 200, 200] == statuses
    assert ["e"] == [found.event for found in collector.events()]
    assert ["e", "x"] == [found.event for found in collector.duplicates]
    assert ["x"] == [conflict.again.event for conflict in collector.conflicts]


# -- refusing ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "path", "reason"),
    [
        (event(user_id="05"), TRACK, "user_id: '05'"),
        ({"events": [event(), event(properties={"a": None})]}, TRACK, "events[1].properties['a']"),
        ({"user_id": "5"}, IDENTIFY, "identity: missing"),
        ({"identity": "a", "properties": {"ID": 1}}, USERS, "'ID' is reserved"),
    ],
)
def test_a_refusal_names_the_field(collector, post, members, path, reason):
    """A bad request is answered with 400 and a sentence, and nothing of it is kept."""
    answer = post(members, path)

    assert (400, "text/plain; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert reason in answer.data.decode()
    assert reason in collector.requests[0].reason
    assert ([], []) == (collector.events(), collector.users)


def test_undeclared_json_is_refused(collector, http):
    """A body without a JSON content type is refused unless the collector is lenient."""
    body = json.dumps({"app_id": "11", **event()})

    with Collector(strict=False) as lenient:
        statuses = [
            http.request("POST", server.url + TRACK, body=body).status
            for server in (collector, lenient)
        ]

    assert [400, 200] == statuses


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/tracks", 404),
        ("HEAD", "/elsewhere", 404),
        ("GET", TRACK, 405),
        ("PUT", USERS, 405),
        ("HEAD", TRACK, 200),
    ],
)
def test_paths_and_methods(collector, http, method, path, status):
    """Unknown paths are 404, other methods 405; HEAD answers, with the collector's time."""
    answer = http.request(method, collector.url + path)

    assert (status, "Thu, 01 Jan 2026 00:00:00 GMT") == (answer.status, answer.headers["Date"])
    assert (status == 405) == ("Allow" in answer.headers)


@pytest.mark.parametrize(("spare", "status"), [(0, 200), (-1, 413)])
def test_a_body_may_be_as_large_as_allowed(http, spare, status):
    """The limit itself is allowed; one byte more is 413."""
    body = json.dumps({"app_id": "11", **event()}).encode()

    with Collector(max_body=len(body) + spare) as collector:
        answer = http.request(
            "POST", collector.url + TRACK, body=body, headers={"Content-Type": "application/json"}
        )

    assert status == answer.status


def test_a_body_far_over_the_limit_is_read_to_its_end(collector, post):
    """The client sees 413 rather than a broken connection, and the connection stays good."""
    statuses = [post(event(properties={"a": "x" * 3_000_000})).status, post(event()).status]

    assert [413, 200] == statuses
    assert collector.max_body < len(collector.requests[0].body) < 2_000_000


def test_a_predicate_refuses_whole_requests(collector, post):
    """One event that the predicate dislikes refuses its request; a reason becomes the answer."""
    collector.reject_if(lambda found: found["event"] == "bad" and "no bad events")

    answer = post({"events": [event(), event("bad")]})

    assert (400, b"no bad events") == (answer.status, answer.data)
    assert [] == collector.events()
    collector.reject_if(lambda found: True)
    assert 400 == post(event()).status
    collector.reject_if(None)
    assert 200 == post(event()).status


def test_a_predicate_may_ask_the_collector_and_may_fail(collector, post):
    """A predicate can use the collector; its exception is an answer 500 that names it."""
    collector.reject_if(lambda found: len(collector.events()) > 0)
    assert [200, 400] == [post(event()).status, post(event()).status]

    collector.reject_if(lambda found: found["missing"])

    answer = post(event())
    assert (500, True) == (answer.status, b"KeyError('missing')" in answer.data)


def test_limits_are_counted_and_only_enforced_on_demand(collector, post, clock):
    """Going over a documented limit is noted; enforced, it is a 429 that says when to return."""
    for _ in range(31):
        assert 200 == post({"identity": "a", "properties": {}}, USERS).status
    (over,) = collector.over_limit
    assert (31, "a") == (over.came, over.who)

    collector.enforce_limits = True
    answer = post({"identity": "a", "properties": {}}, USERS)

    assert (429, "30") == (answer.status, answer.headers["Retry-After"])
    clock.advance(30)
    assert 200 == post({"identity": "a", "properties": {}}, USERS).status


# -- faults --------------------------------------------------------------------


def test_a_script_of_answers(collector, post, http):
    """Each POST takes the next answer, 200 means as usual, and probes take none."""
    collector.reply(500, Reply.throttled(retry_after=1), 200, Reply.captive(200))

    answers = []
    for number in range(5):
        assert 200 == http.request("HEAD", collector.url + TRACK).status
        answers.append(post(event(f"e{number}")))

    assert [500, 429, 200, 200, 200] == [answer.status for answer in answers]
    assert "1" == answers[1].headers["Retry-After"]
    assert answers[3].data.startswith(b"<") and answers[4].data == b"{}"
    assert ["e2", "e4"] == [found.event for found in collector.events()]
    posts = [request for request in collector.requests if request.method == "POST"]
    assert [500, 429, 200, 200, 200] == [request.status for request in posts]


def test_an_answer_of_ones_own(collector, post):
    """A reply carries any body and headers, and may come after the events were kept."""
    collector.reply(Reply(504, b"late", {"X-A": "b"}, handled=True))

    answer = post(event())

    assert (504, b"late", "b") == (answer.status, answer.data, answer.headers["X-A"])
    assert ["e"] == [found.event for found in collector.events()]


def test_a_script_can_go_round_until_normal(collector, post):
    """A repeated script starts again; `normal` forgets everything."""
    collector.reply(500, 200, repeat=True)
    assert [500, 200, 500] == [post(event()).status for _ in range(3)]

    collector.reject_if(lambda found: True)
    collector.captive_portal()
    collector.normal()

    assert 200 == post(event()).status


@pytest.mark.parametrize(
    "call",
    [
        lambda collector: collector.reply(99),
        lambda collector: collector.reply(True),
        lambda collector: collector.reply("500"),
        lambda collector: collector.hang(-1),
        lambda collector: collector.hang(count=0),
        lambda collector: collector.drop_connection(when="during"),
    ],
)
def test_impossible_faults_are_refused(collector, call):
    """A fault that cannot be carried out is the test's mistake, and changes nothing."""
    with pytest.raises(InvalidCall, match="allowed"):
        call(collector)


@pytest.mark.parametrize(("when", "kept"), [("before", []), ("after", ["e"])])
def test_a_dropped_connection(collector, post, when, kept):
    """The client gets no answer, whether the events were kept or not; the next POST is normal."""
    collector.drop_connection(when=when)

    with pytest.raises(urllib3.exceptions.ProtocolError):
        post(event(idempotency_key="k"))

    assert kept == [found.event for found in collector.events()]
    assert [None] == [request.status for request in collector.requests]
    assert 200 == post(event(idempotency_key="k")).status
    assert (1, len(kept)) == (len(collector.events()), len(collector.duplicates))


def test_probes_are_dropped_on_demand(collector, post, http):
    """With `probes` HEAD is dropped as well, and counts."""
    collector.drop_connection(probes=True)

    with pytest.raises(urllib3.exceptions.ProtocolError):
        http.request("HEAD", collector.url + TRACK)

    assert 200 == post(event()).status


def test_a_request_hangs_until_the_client_gives_up(collector, http, post):
    """A hanging request is noted and never answered; the next is answered."""
    collector.hang()

    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        http.request("POST", collector.url + TRACK, json={"app_id": "11", **event()}, timeout=0.05)

    assert 200 == post(event("next")).status
    assert ["next"] == [found.event for found in collector.events()]
    assert [None, 200] == [request.status for request in collector.requests]


def test_a_request_hangs_for_a_while(collector, post):
    """After the given seconds the request is handled after all."""
    collector.hang(0.05)
    started = time.monotonic()

    assert 200 == post(event()).status
    assert time.monotonic() - started >= 0.05


def test_half_a_request_is_no_request(collector, post):
    """A body that breaks off is neither kept nor counted, and the next request is normal."""
    host, port = collector.url[len("http://") :].split(":")
    head = f"POST {TRACK} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n"

    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b'{"app_id": "11"')
    post(event())

    assert [200] == [request.status for request in collector.requests]


def test_every_answer_is_delayed(collector, post):
    """The events are there at once, the answer after the delay."""
    collector.delay = 0.05
    started = time.monotonic()

    assert 200 == post(event()).status
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize(("status", "location"), [(302, "/login"), (200, None)])
def test_a_captive_portal_answers_everything(collector, post, http, status, location):
    """Every method and path gets the portal's answer until it is switched off."""
    collector.captive_portal(status=status)

    answers = [
        http.request("HEAD", collector.url + TRACK, redirect=False),
        http.request("GET", collector.url + "/anything", redirect=False),
        http.request("POST", collector.url + TRACK, json={}, redirect=False),
    ]

    assert [status] * 3 == [answer.status for answer in answers]
    assert [location] * 3 == [answer.headers.get("Location") for answer in answers]
    assert answers[1].data.startswith(b"<!DOCTYPE html>")
    collector.captive_portal(on=False)
    assert 200 == post(event()).status


# -- waiting -------------------------------------------------------------------


def test_waiting_ends_with_the_event(collector, post):
    """`wait_for` returns as soon as enough events of the name are there."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(collector.wait_for, 2, "b", 10.0)
        for name in "abab":
            post(event(name))

        assert ["b", "b"] == [found.event for found in waiting.result()]


def test_waiting_in_vain_says_what_came(collector, post):
    """The error names what was accepted and why requests were refused."""
    post(event("a"))
    post(event(user_id="x"))

    with pytest.raises(AssertionError) as failed:
        collector.wait_for(2, "b", timeout=0.01)

    for part in ("0 of 2 events named 'b'", "{'a': 1}", "{'200': 1, '400': 1}", "user_id: 'x'"):
        assert part in str(failed.value)


# -- the server ----------------------------------------------------------------


def test_the_port_survives_a_stop(collector, post, http):
    """Stopped, the collector refuses connections; started again, it is where it was."""
    post(event("a"))
    url = collector.url

    collector.stop()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        http.request("HEAD", collector.url)
    collector.stop()
    collector.start().start()

    assert 200 == post(event("b")).status
    assert url == collector.url
    assert ["a", "b"] == [found.event for found in collector.events()]


def test_the_address_is_known_before_the_start(http):
    """The port belongs to the collector from the beginning, and refuses until the start."""
    collector = Collector()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        http.request("HEAD", collector.url + TRACK)

    with collector:
        assert 200 == http.request("HEAD", collector.url + TRACK).status


def test_a_taken_port_is_an_error(collector):
    """Nobody can take the port of a running collector, and a stopped one says when it is gone."""
    port = int(collector.url.rpartition(":")[2])
    with pytest.raises(OSError):
        Collector(port)

    collector.stop()
    collector.close()
    with Collector(port), pytest.raises(OSError):
        collector.start()
    collector.start()


def test_a_port_can_be_chosen(http):
    """A closed collector gives its port back, and another may take it."""
    with Collector() as first:
        port = int(first.url.rpartition(":")[2])

    with Collector(port) as second:
        assert 200 == http.request("HEAD", f"http://127.0.0.1:{port}{TRACK}").status
        assert f"http://127.0.0.1:{port}" == second.url


@pytest.mark.parametrize("fault", ["hang", "delay"])
def test_stopping_does_not_wait_for_answers(collector, post, fault):
    """Requests without an answer are cut when the collector stops."""
    if fault == "hang":
        collector.hang()
    else:
        collector.delay = 3_600.0
    arrived = threading.Event()
    collector.reject_if(lambda found: arrived.set())
    outcome = []

    def send():
        try:
            outcome.append(post(event()))
        except urllib3.exceptions.HTTPError as exc:
            outcome.append(exc)

    sender = threading.Thread(target=send)
    sender.start()
    if fault == "delay":
        assert arrived.wait(5)
    else:
        while not collector.requests:
            time.sleep(0.005)
    collector.stop()
    sender.join(5)

    assert not collector.running
    assert isinstance(outcome[0], urllib3.exceptions.ProtocolError)
    collector.delay = 0.0
    collector.normal()
    collector.start()
    assert 200 == post(event()).status


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_port_open(collector, http):
    """The port refuses after a stop although a child has inherited the listening socket."""
    started, ended = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        os.write(started[1], b".")
        os.read(ended[0], 1)
        os._exit(0)
    os.read(started[0], 1)
    try:
        collector.stop()
        with pytest.raises(urllib3.exceptions.NewConnectionError):
            http.request("HEAD", collector.url + TRACK)
        collector.start()
        assert 200 == http.request("HEAD", collector.url + TRACK).status
    finally:
        os.write(ended[1], b".")
        os.waitpid(pid, 0)
        for end in (*started, *ended):
            os.close(end)


def test_eight_threads_post_at_once(collector, http):
    """Concurrent requests are all kept, once each, and every one is counted."""

    def send(thread):
        for number in range(20):
            items = [event(f"{thread}", idempotency_key=f"{thread}.{number}.{n}") for n in range(5)]
            body = {"app_id": "11", "events": items}
            for _ in range(2):
                assert 200 == http.request("POST", collector.url + TRACK, json=body).status

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))

    assert {str(n): 100 for n in range(8)} == {
        name: len(collector.events(name)) for name in map(str, range(8))
    }
    assert (320, 800, 0) == (
        len(collector.requests),
        len(collector.duplicates),
        len(collector.conflicts),
    )
    for thread in range(8):
        numbers = [int(e.idempotency_key.split(".")[1]) for e in collector.events(str(thread))]
        assert sorted(numbers) == numbers


def test_tls(tmp_path):
    """With a certificate the collector speaks HTTPS."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    with (
        Collector(certfile=tmp_path / "cert.pem", keyfile=tmp_path / "key.pem") as collector,
        urllib3.PoolManager(ca_certs=str(tmp_path / "ca.pem"), retries=False) as http,
    ):
        assert collector.url.startswith("https://")
        assert 200 == http.request("HEAD", collector.url + TRACK).status
        collector.drop_connection()
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("POST", collector.url + TRACK, json={})


def test_an_unreadable_certificate_is_an_error(tmp_path):
    """A certificate that is not there is reported by `start`; the collector stays stopped."""
    collector = Collector(certfile=tmp_path / "missing.pem")

    with pytest.raises(OSError):
        collector.start()

    assert not collector.running
    collector.close()


def test_the_repr_counts(collector, post):
    """The representation names the address, the state and the counts."""
    post(event(idempotency_key="k"))
    post(event(idempotency_key="k"))

    counts = "1 events, 1 users, 0 accounts, 2 requests, 1 duplicates, 0 conflicts, 0 deletions"
    assert f"<Collector {collector.url} running, {counts}>" == repr(collector)
    collector.stop()
    assert " stopped, " in repr(collector)


def test_nothing_is_logged_or_loaded_early(tmp_path):
    """Importing loads no web server; running one prints nothing and leaves nothing behind."""
    program = """
import sys
from heap_agent.testing import Collector
assert not {"uvicorn", "starlette", "urllib3"} & set(sys.modules), sorted(sys.modules)
import socket
with Collector() as collector:
    host, port = collector.url[7:].split(":")
    with socket.create_connection((host, int(port))) as garbage:
        garbage.sendall(b"\\x00\\x01 garbage\\r\\n\\r\\n")
        assert garbage.recv(20).startswith(b"HTTP/1.1 400")
forgotten = Collector().start()
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (0, "", "") == (result.returncode, result.stdout, result.stderr)


def test_the_hosts_own_logging_of_uvicorn_is_left_alone():
    """A program that serves with uvicorn itself keeps its log level."""
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with Collector():
            assert logging.WARNING == logger.level
    finally:
        logger.setLevel(before)


# -- the clock -----------------------------------------------------------------


def test_a_fake_clock_starts_where_it_is_told():
    """The wall clock starts in 2026 or at a given moment, the boot clock at 0."""
    moment = datetime(2020, 5, 1, tzinfo=timezone(timedelta(hours=2)))

    assert 1_767_225_600_000_000_000 == FakeClock().wall_ns()
    assert 1_588_284_000_000_000_000 == FakeClock(moment).wall_ns()
    assert (1_500_000_000, 0) == (FakeClock(1.5).wall_ns(), FakeClock(1.5).boot_ns())
    with pytest.raises(InvalidCall, match="time zone"):
        FakeClock(datetime(2020, 5, 1))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**9))))
def test_a_fake_clock_moves_as_told(moves):
    """`advance` moves both clocks, `step` the wall clock alone, and nothing else does."""
    clock = FakeClock(0)
    for passes, seconds in moves:
        clock.advance(seconds) if passes else clock.step(-seconds)

    passed = sum(seconds for passes, seconds in moves if passes)
    stepped = sum(seconds for passes, seconds in moves if not passes)
    assert (passed * 10**9, (passed - stepped) * 10**9) == (clock.boot_ns(), clock.wall_ns())


def test_time_does_not_pass_backwards(clock):
    """Only `step` goes back; `advance` refuses."""
    with pytest.raises(InvalidCall, match=r"step\(\)"):
        clock.advance(-1)


def test_a_reboot_starts_the_boot_clock_again(clock):
    """A reboot has a new id and boot clock; the wall clock goes on or shows what it is told."""
    first = clock.boot_id
    clock.advance(5)

    clock.reboot()

    assert (0, 1_767_225_605_000_000_000) == (clock.boot_ns(), clock.wall_ns())
    assert first != clock.boot_id
    clock.reboot(wall=0)
    assert 0 == clock.wall_ns()
    assert "boot 3 since 0.000 s" in repr(clock)

"""
The server of the loss table: what it finds in a request, and each way to misbehave.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection, RemoteDisconnected
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest

from benchmarks import losses_server
from benchmarks.losses_arrivals import arrivals
from benchmarks.losses_server import Behaviour, Server


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def post(server: Server, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Send a body over a connection of its own; status and body of the answer."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        connection.request("POST", "/api/track", body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def event(number: object, **more: object) -> dict[str, Any]:
    """An event as this package sends it."""
    return {"event": "E", "properties": {"seq": number}, **more}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"events": [event(1, idempotency_key="a"), event(2, idempotency_key="b")]}, "1a 2b"),
        ({"batch": [event(1, messageId="a"), event(2, messageId="b")]}, "1a 2b"),
        ([{"event": "E", "properties": {"seq": 1, "$insert_id": "a"}}], "1a"),
        ({"events": [{"metadata": {"seq": 1}}, {"metadata": {"seq": "2"}}]}, "1- 2-"),
        ({"items": [{"attributes": {"seq": {"value": 1, "type": "integer"}}}]}, "1-"),
        (
            {"data": [{"eid": "a", "ue_px": base64.b64encode(b'{"seq": 1}').decode()}]},
            "1a",
        ),
    ],
)
def test_events_are_found_with_their_keys(body: object, found: str) -> None:
    """In whatever a client has wrapped them."""
    found_there = arrivals("/", json.dumps(body).encode())

    assert " ".join(f"{number}{key or '-'}" for number, key in found_there) == found


def test_forms_and_lines_are_read() -> None:
    """JSON may come as a field of a form, or several times in lines."""
    text = json.dumps([{"properties": {"seq": 1, "$insert_id": "a"}}])

    assert arrivals("/", f"data={quote_plus(text)}&verbose=1".encode()) == [(1, "a")]
    assert arrivals("/", b'{"sdk": "x"}\n{"items": [{"seq": 7}]}\n') == [(7, None)]


def test_a_document_may_have_its_key_in_the_path() -> None:
    """Then all its events are known by that, and its own number is none of theirs."""
    key = "1b6d1e0c-2f3a-4c5d-8e7f-0123456789ab"
    body = b'{"ping_info": {"seq": 9}, "events": [{"extra": {"seq": "1"}}]}'

    assert arrivals(f"/submit/app/events/1/{key}", body) == [(1, key)]


def test_each_event_counts_once_by_its_number(server: Server) -> None:
    """The same key again is the same event; another key, or none, makes it two."""
    for key in ("a", "a", "b"):
        post(server, json.dumps({"events": [event(1, idempotency_key=key)]}).encode())
    for _ in range(2):
        post(server, json.dumps({"events": [event(2)]}).encode())
    post(server, json.dumps({"events": [event(3, idempotency_key="c")]}).encode())

    assert (server.arrived, server.twice) == (3, 2)


def test_compressed_bodies_and_chunks_are_read(server: Server) -> None:
    """A body may be compressed, and may come in chunks."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request(
        "POST",
        "/api/track",
        iter([gzip.compress(b'{"seq": 1}')]),
        {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )

    assert connection.getresponse().status == 200
    assert server.arrived == 1
    connection.close()


def test_what_is_no_json_is_refused_whole(server: Server) -> None:
    """A number that is none makes it a bad request, and nothing in it counts."""
    status, body = post(server, b'{"events": [{"seq": 1}, {"seq": 2, "rating": NaN}]}')

    assert (status, server.arrived) == (400, 0)
    assert "NaN" in json.loads(body)["error"]


def test_nobody_gets_out_through_it(server: Server) -> None:
    """It is no proxy, whatever a client takes it for."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request("POST", "http://collector.example/", b'{"seq": 1}')

    assert connection.getresponse().status == 403
    assert server.arrived == 0
    connection.close()


def test_a_port_that_is_down_refuses_and_comes_up_again(server: Server) -> None:
    """Connections are cut and refused, and later taken on the same port."""
    standing = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    standing.request("POST", "/", b'{"seq": 1}')
    standing.getresponse().read()
    server.behave(losses_server.DOWN)

    with pytest.raises(ConnectionRefusedError):
        post(server, b'{"seq": 2}')
    with pytest.raises((RemoteDisconnected, ConnectionError)):
        standing.request("POST", "/", b'{"seq": 3}')
        standing.getresponse()
    server.behave(losses_server.FINE)

    assert post(server, b'{"seq": 4}')[0] == 200
    assert server.arrived == 2
    standing.close()


@pytest.mark.parametrize(
    ("behaviour", "arrived"), [(losses_server.RESET, 0), (losses_server.ANSWER_LOST, 1)]
)
def test_connections_are_reset(server: Server, behaviour: Behaviour, arrived: int) -> None:
    """A real reset, before the events count or after."""
    server.behave(behaviour)

    with pytest.raises(ConnectionResetError):
        post(server, b'{"seq": 1}')
    assert (server.arrived, server.troubled) == (arrived, 1)


def test_other_answers_take_nothing(server: Server) -> None:
    """Neither a portal nor a refusal counts what it was sent."""
    server.behave(losses_server.PORTAL)
    status, body = post(server, b'{"seq": 1}')
    assert (status, b"<html>" in body) == (200, True)

    server.behave(losses_server.refusing(503, 7))
    assert post(server, b'{"seq": 1}')[0] == 503
    assert (server.arrived, server.troubled) == (0, 2)


def test_a_mute_server_never_answers(server: Server) -> None:
    """Who waits is cut when the server comes to itself."""
    server.behave(losses_server.MUTE)
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.request("POST", "/", b'{"seq": 1}')
    while not server.troubled:
        time.sleep(0.01)
    server.behave(losses_server.FINE)

    with pytest.raises(ConnectionResetError):
        connection.getresponse()
    assert server.arrived == 0
    connection.close()

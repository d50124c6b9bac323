"""The page over HTTP: what is answered to whom."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from helpers import balanced, eventually
from visitor import Visitor

from heap_agent import Agent
from heap_agent.testing import Collector, FakeClock

Visit = Callable[..., Visitor]

#: What only the browser that was let in may ask.
CLOSED = [("GET", "feed?since=0"), ("GET", "event?n=1"), ("POST", "retry"), ("POST", "end")]


# -- who is let in -------------------------------------------------------------------


def test_the_page_asks_for_a_code(visit: Visit) -> None:
    """Everybody who knows the URL sees the form, and nothing of the device."""
    visitor = visit()
    answer = visitor.ask("GET", "")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<script>" in answer.body
    # The same for everybody, although a code may be a number that stands in it anyway.
    assert answer.body == (files("heap_agent._view") / "page.html").read_bytes()
    assert visitor.url.path.encode() not in answer.body


def test_the_code_opens(visit: Visit) -> None:
    """The cookie is for this page alone, and no script sees it."""
    visitor = visit()
    answer = visitor.give(visitor.pairing.code)
    assert answer.fields == {"paired": True}
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", f"Path={visitor.url.path}"} < {*cookie.split("; ")}
    assert len(visitor.cookie.partition("=")[2]) >= 43
    assert visitor.ask("GET", "feed?since=0").status == 200


@pytest.mark.parametrize("method, path", CLOSED)
def test_nobody_sees_anything_without_it(visit: Visit, method: str, path: str) -> None:
    """Neither without a cookie nor with a made-up one."""
    visitor = visit()
    for cookie in ("", "heap_agent_pairing=", "heap_agent_pairing=guess", "other=1"):
        visitor.cookie = cookie
        answer = visitor.ask(method, path, {})
        assert (answer.status, answer.fields) == (401, {"error": "unpaired"})


def test_another_cookie_of_that_name(visitor: Visitor) -> None:
    """Other programs on the device can set one: the browser that was let in stays in."""
    others = ("heap_agent_pairing=guess", "heap_agent_pairing", "=", ";;", "a=heap_agent_pairing=")
    for other in others:
        for cookies in (f"{visitor.cookie}; {other}", f"{other};{visitor.cookie}"):
            headers = {"Cookie": cookies}
            assert visitor.ask("GET", "event?n=1", headers=headers).status == 404
            code = {"code": visitor.pairing.code}
            assert visitor.ask("POST", "pair", code, headers).status == 200
        assert visitor.ask("GET", "event?n=1", headers={"Cookie": other}).status == 401


def wrong(code: str) -> str:
    """Another code."""
    return f"{(int(code) + 1) % 10_000:04d}"


def test_a_wrong_code(visit: Visit) -> None:
    """It says how many are left, and that the next is not looked at for a moment."""
    visitor = visit()
    code = visitor.pairing.code
    assert visitor.give(wrong(code)).fields == {"error": "wrong", "left": 4}
    soon = visitor.give(code)
    assert soon.status == 429 and 0 < soon.fields["wait"] <= 1
    time.sleep(soon.fields["wait"] + 0.05)
    assert visitor.give(code).status == 200


@pytest.mark.parametrize("body", [None, [], "1234", {"code": 1234}, {"code": None}, {}])
def test_what_is_no_code(visit: Visit, body: object) -> None:
    """It is a wrong one."""
    assert visit().ask("POST", "pair", body).fields == {"error": "wrong", "left": 4}


def test_five_wrong_codes(visit: Visit) -> None:
    """The pairing is over, and the port is closed soon after."""
    visitor = visit()
    lefts = []
    for _ in range(5):
        answer = visitor.give(wrong(visitor.pairing.code))
        lefts.append(answer.fields["left"])
        if lefts[-1]:
            time.sleep(1.05)
    assert lefts == [4, 3, 2, 1, 0]
    assert visitor.give(visitor.pairing.code).status == 410
    assert closes(visitor)


def closes(visitor: Visitor, seconds: float = 20.0) -> bool:
    """Whether the port refuses connections soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection((str(visitor.url.hostname), visitor.url.port or 0), 1).close()
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_one_browser_at_a_time(visitor: Visitor) -> None:
    """A second one is told so, even with the code; the first one may enter again."""
    second = Visitor(visitor.pairing)
    assert (second.give(visitor.pairing.code).status) == 409
    assert second.ask("GET", "feed?since=0").status == 401
    again = visitor.ask("POST", "pair", {"code": visitor.pairing.code})
    assert again.fields == {"paired": True}


def test_it_ends_by_itself(visit: Visit) -> None:
    """Whoever waits for news is told, and the port is closed."""
    visitor = visit(timeout=2.5).enter()
    while (answer := visitor.ask("GET", f"feed?since={visitor.seen}")).status == 200:
        visitor.seen = answer.fields["version"]
    assert (answer.status, answer.fields) == (410, {"error": "ended"})
    assert closes(visitor)


def test_it_is_ended_from_the_page(visitor: Visitor) -> None:
    """As the button does."""
    assert visitor.ask("POST", "end", {}).status == 204
    assert visitor.ask("GET", "feed?since=0").status == 410
    assert closes(visitor)


# -- who may ask ---------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "kiosk", "", "127.0.0.2"])
def test_other_names_for_the_device(visitor: Visitor, host: str) -> None:
    """A name that somebody else has pointed here is not answered, cookie or not."""
    for method, path in [("GET", ""), ("POST", "pair"), *CLOSED]:
        answer = visitor.ask(method, path, {}, {"Host": host or " "})
        assert answer.status in (400, 421)


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:1"])
def test_pages_of_others(visitor: Visitor, origin: str) -> None:
    """They change nothing."""
    for path in ("pair", "retry", "end"):
        assert visitor.ask("POST", path, {}, {"Origin": origin}).status == 403
    assert visitor.ask("GET", "feed?since=0").status == 200


def test_what_a_form_of_another_page_sends(visitor: Visitor) -> None:
    """Forms cannot say that they are JSON."""
    answer = visitor.ask("POST", "end", {}, {"Content-Type": "text/plain"})
    assert answer.status == 415


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_what_a_browser_says_of_another_page(visitor: Visitor, site: str) -> None:
    """Nothing is told to it."""
    for path in ("feed?since=0", "event?n=1"):
        assert visitor.ask("GET", path, headers={"Sec-Fetch-Site": site}).status == 403


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/feed?since=0", "/x/feed?since=0", "//", "/..%2f"]
)
def test_without_the_secret_path(visitor: Visitor, path: str) -> None:
    """There is nothing, whoever asks."""
    assert visitor.ask("GET", path).status == 404


@pytest.mark.parametrize(
    "method, path",
    [
        ("PUT", "feed"),
        ("POST", "feed"),
        ("GET", "pair"),
        ("GET", "end"),
        ("HEAD", ""),
        ("GET", "x"),
    ],
)
def test_what_nobody_asks(visitor: Visitor, method: str, path: str) -> None:
    """Other methods and other names."""
    assert visitor.ask(method, path, {} if method != "GET" else None).status == 404


def test_every_answer_forbids_what_the_page_does_not_need(visitor: Visitor) -> None:
    """Also the answers to those who have no business here."""
    for path in ("", "feed?since=0", "event?n=99", "/none"):
        headers = visitor.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_the_page_is_one_file() -> None:
    """It asks for nothing elsewhere, and has no script or style that the policy forbids."""
    page = (files("heap_agent._view") / "page.html").read_text("utf-8")
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", page)
    assert not re.search(r"<[^>]+\s(?:on\w+|style)\s*=", page.partition("<script>")[0])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page)
    assert page.count("<script") == page.count("<style") == 1


def test_a_long_body(visitor: Visitor) -> None:
    """It is not taken in."""
    answer = visitor.ask("POST", "retry", {"rows": list(range(100_000))})
    assert answer.fields == {"restored": 0}


def test_a_crowd_of_connections(visitor: Visitor) -> None:
    """It takes few of the program's files, and the browser that was let in is answered."""
    peer = str(visitor.url.hostname), visitor.url.port or 0
    headers = {"Host": visitor.url.netloc, "Cookie": visitor.cookie}
    path = f"{visitor.url.path}event?n=1"
    stays = http.client.HTTPConnection(*peer, timeout=30)
    with ExitStack() as crowd, closing(stays):
        for _ in range(3):
            stays.request("GET", path, headers=headers)
            assert stays.getresponse().read()
            strangers = [crowd.enter_context(socket.create_connection(peer)) for _ in range(50)]
            for stranger in strangers[:25]:
                # Half a request: nobody knows yet who it is.
                stranger.send(b"GET / HTTP/1.1\r\n")
            assert visitor.ask("GET", "event?n=1").status == 404
        own = stays.sock
        assert own is not None and open_at(visitor.url.port or 0) <= 40
        stays.request("GET", path, headers=headers)
        assert stays.getresponse().status == 404 and stays.sock is own


def open_at(port: int) -> int:
    """Connections that a port's server has open; 0 where the system does not tell."""
    table = Path("/proc/self/net/tcp")
    rows = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    local, established = f"0100007F:{port:04X}", "01"
    return sum(row[1:4:2] == [local, established] for row in rows)


# -- what is told --------------------------------------------------------------------


def test_an_event_as_it_happens(agent: Agent, visitor: Visitor, collector: Collector) -> None:
    """In the journal, sent with the answer; the JSON is what Heap gets, byte for byte."""
    visitor.look()
    agent.track("Buy", {"dollars": 5, "item": "<script>alert(1)</script>"})
    visitor.until(lambda: visitor.place("Buy") == "journal")
    item = visitor.named("Buy")
    assert item is not None and item["properties"]["item"] == "<script>alert(1)</script>"
    before = visitor.ask("GET", f"event?n={item['n']}").fields
    assert agent.flush(timeout=30)
    visitor.until(lambda: visitor.place("Buy") == "sent")
    answer = visitor.items[item["n"]]["answer"]
    assert (answer["answer"], answer["status"]) == ("ACCEPTED", 200) and answer["seconds"] > 0
    after = visitor.ask("GET", f"event?n={item['n']}").fields
    assert before["json"].encode() == after["json"].encode() == collector.events()[0].raw
    assert after["path"] == "/api/track"


def test_news_come_within_a_second(agent: Agent, visitor: Visitor) -> None:
    """Of ten events one at least; a machine may be busy."""
    visitor.look()
    times = []
    for number in range(10):
        agent.track(f"Event {number}")
        began = time.monotonic()
        visitor.until(lambda number=number: visitor.named(f"Event {number}"))
        times.append(time.monotonic() - began)
    assert min(times) < 1.0


def test_the_scene(agent: Agent, visitor: Visitor) -> None:
    """Who, what is in force, the books, the hour, the clock."""
    agent.add_event_properties({"site": "Lyon 3"})
    agent.identify("alice")
    agent.track("Buy")
    visitor.look()
    visitor.until(lambda: visitor.named("Buy") and len(visitor.scene["changes"]) == 2)
    visitor.until(lambda: visitor.scene["status"]["queued"] == 1)
    scene = visitor.scene
    assert scene["who"]["identity"] == "alice" and scene["who"]["session"] == agent.session_id
    assert scene["properties"]["event"] == {"site": "Lyon 3"}
    assert scene["can_retry"] and scene["delivers_here"]
    assert len(scene["hour"]) == 60 and scene["hour"][0]["ago"] == 0
    assert [change["text"] for change in scene["changes"]] == [
        "event property site = Lyon 3",
        "identified as alice",
    ]
    assert abs(scene["now"]["wall"] / 1000 - time.time()) < 60
    assert 0 < scene["now"]["ends_in"] <= 900


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_name_that_is_no_text(make_agent: Callable[..., Agent], tmp_path: Path) -> None:
    """Of the state directory: it is shown as far as it can be."""
    agent = make_agent(directory=tmp_path / os.fsdecode(b"caf\xe9"))
    visitor = Visitor(agent.start_ev_pairing()).enter()
    assert visitor.look()["status"]["directory"].endswith("caf\udce9")


def test_an_outage_as_it_happens(agent: Agent, visitor: Visitor, collector: Collector) -> None:
    """Requests that fail, and the first one that does not."""
    collector.stop()
    agent.track("Buy")
    agent.flush()
    visitor.until(lambda: (visitor.scene or {}).get("status", {}).get("last_error"))
    assert "unavailable" in visitor.scene["status"]["last_error"]
    visitor.until(lambda: sum(minute["failures"] for minute in visitor.scene["hour"]) > 0)
    collector.start()
    assert agent.flush(timeout=30)
    visitor.until(lambda: visitor.scene["status"]["last_error"] is None)
    visitor.until(lambda: sum(minute["delivered"] for minute in visitor.scene["hour"]) == 1)
    assert visitor.place("Buy") == "sent"


def test_a_dead_letter_is_sent_again(agent: Agent, visitor: Visitor, collector: Collector) -> None:
    """With its refusal, until somebody presses the button."""
    visitor.look()
    collector.reply(400, 400, 400, 400)
    agent.track("Bad")
    agent.flush()
    visitor.until(lambda: visitor.place("Bad") == "dead")
    item = visitor.named("Bad")
    assert item is not None and item["answer"]["status"] == 400
    collector.normal()
    assert visitor.ask("POST", "retry", {"rows": [item["n"]]}).fields == {"restored": 1}
    assert agent.flush(timeout=30)
    visitor.until(lambda: visitor.place("Bad") == "sent")
    assert [event.event for event in collector.events()] == ["Bad"]


@pytest.mark.parametrize("rows", [[], [1, 2], ["1"], [None], "1", {"1": 1}, [[1]], [1e9]])
def test_nothing_to_be_sent_again(visitor: Visitor, rows: Any) -> None:
    """Whatever is named: only dead letters are sent again."""
    visitor.look()
    assert visitor.ask("POST", "retry", {"rows": rows}).fields == {"restored": 0}


@pytest.mark.parametrize("number", ["", "x", "-1", "99", "1e3", "9" * 40, "１"])
def test_events_that_are_not_there(visitor: Visitor, number: str) -> None:
    """It says so."""
    from urllib.parse import quote

    assert visitor.ask("GET", f"event?n={quote(number)}").status == 404


def test_what_was_mended(agent: Agent, visitor: Visitor) -> None:
    """The mark is on the event, and the detail says what it was."""
    visitor.look()
    agent.track("Odd", {"temperature": float("nan")})
    agent.track("Even", {"temperature": 1})
    visitor.until(lambda: visitor.named("Even"))
    odd, even = visitor.named("Odd"), visitor.named("Even")
    assert odd is not None and even is not None
    assert (odd["mended"], even["mended"]) == (True, False)
    (sentence,) = visitor.ask("GET", f"event?n={odd['n']}").fields["mended"]
    assert "temperature" in sentence and "nan" in sentence
    assert visitor.ask("GET", f"event?n={even['n']}").fields["mended"] == []


def test_the_copied_test_runs(agent: Agent, visitor: Visitor, collector: Collector) -> None:
    """Against a collector that the program has delivered to."""
    visitor.look()
    agent.track("Buy", {"dollars": 5.5, "item": "'\"\\\n"})
    visitor.until(lambda: visitor.named("Buy"))
    source = visitor.ask("GET", "event?n=1").fields["test"]
    space: dict[str, Any] = {}
    exec(compile(source, "copied", "exec"), space)
    with pytest.raises(AssertionError):
        space["test_tracks_buy"](agent, collector)
    assert agent.flush(timeout=30)
    space["test_tracks_buy"](agent, collector)


def test_whoever_opts_out_is_not_shown_any_longer(agent: Agent, visitor: Visitor) -> None:
    """What was on the page goes from it, and from the device's memory."""
    visitor.look()
    agent.identify("alice")
    agent.track("Secret")
    visitor.until(lambda: visitor.named("Secret"))
    agent.opt_out()
    visitor.until(lambda: not visitor.items)
    assert visitor.ask("GET", "event?n=1").status == 404
    assert visitor.scene["status"]["opted_out"]
    assert "alice" not in json.dumps(visitor.look())


@pytest.mark.parametrize("forget", [False, True])
def test_what_is_erased_while_it_is_sent(
    agent: Agent, visitor: Visitor, collector: Collector, forget: bool
) -> None:
    """It may still arrive at Heap, but it does not come back to the page."""
    agent.identify("alice")
    agent.track("First")
    assert agent.flush(timeout=30)
    collector.delay = 4.0
    agent.track("Secret")
    with ThreadPoolExecutor() as pool:
        flush = pool.submit(agent.flush, 30)
        eventually(lambda: agent._outbox.drain.in_flight)
        eventually(lambda: agent._outbox.drain._under_way)
        if forget:
            agent.forget(identity="alice")
        else:
            agent.opt_out()
        visitor.look()
        visitor.until(lambda: not visitor.items)
        flush.result()
    assert agent._pairings is not None and agent._pairings._visualizer._running is not None
    feed = agent._pairings._visualizer._running._watch.feed
    visitor.until(lambda: not feed._exchanges)
    visitor.look()
    assert not visitor.items and not feed._items


def test_a_wrong_clock(make_agent: Callable[..., Agent], collector: Collector) -> None:
    """How far it is off, as far as Heap has told, when it was set, and what was repaired."""
    clock = FakeClock()
    agent = make_agent(endpoint=collector.url, clock=clock)
    visitor = Visitor(agent.start_ev_pairing()).enter()
    visitor.look()
    assert visitor.scene["clock"]["wrong_by"] is None
    agent.track("Early")
    visitor.until(lambda: visitor.named("Early"))
    # The collector tells the time, and the device's is months behind it.
    assert agent.flush(timeout=30)
    clock.advance(2)
    visitor.until(lambda: visitor.scene["clock"]["wrong_by"] is not None)
    assert visitor.scene["clock"]["wrong_by"] < -86_400
    clock.step(86_400)
    agent.track("Late")
    clock.advance(2)
    assert agent.flush(timeout=30)
    visitor.until(lambda: visitor.scene["clock"]["steps"])
    assert [step["by"] for step in visitor.scene["clock"]["steps"]] == [86_400.0]
    visitor.until(lambda: (visitor.named("Early") or {}).get("moved") is not None)
    item = visitor.named("Early")
    assert item is not None and item["moved"] > 86_400
    detail = visitor.ask("GET", f"event?n={item['n']}").fields
    assert detail["recorded_as"].startswith("2026-01-01T00:00:0")
    assert json.loads(detail["json"])["timestamp"] == item["time"]


def test_dead_letters_of_an_earlier_run(
    make_agent: Callable[..., Agent], collector: Collector
) -> None:
    """They are sent at once, though nothing has waited so far, and no delivery is due."""
    agent = make_agent(endpoint=collector.url)
    collector.reply(400, 400, 400, 400)
    agent.track("Bad")
    agent.flush()
    assert agent.status().dead == 1
    agent.shutdown()
    collector.normal()
    agent = make_agent(endpoint=collector.url)
    visitor = Visitor(agent.start_ev_pairing()).enter()
    visitor.until(lambda: visitor.place("Bad") == "dead")
    time.sleep(1.5)  # the keeper has looked, and found nothing to be sent
    item = visitor.named("Bad")
    assert item is not None
    assert visitor.ask("POST", "retry", {"rows": [item["n"]]}).fields == {"restored": 1}
    visitor.until(lambda: visitor.place("Bad") == "sent")
    balanced(agent)

"""
An agent and a collector, real files and real HTTP: every answer that Heap, or
something on the way to it, can give.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import environment
from helpers import balanced

from heap_agent import Agent
from heap_agent.testing import Collector, Reply

MakeAgent = Callable[..., Agent]


@pytest.fixture(name="server")
def _server() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(name="start")
def _start(tmp_path: Path, server: Collector) -> Iterator[MakeAgent]:
    agents: list[Agent] = []

    def start(**options: object) -> Agent:
        chosen = {
            "directory": tmp_path / "state",
            "endpoint": server.url,
            # Nothing leaves by itself unless a test asks for it.
            "interval": 3600,
            **options,
        }
        agent = Agent("11", **chosen)
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        agent.shutdown(0)


def numbers(server: Collector) -> list[object]:
    """What arrived, in the order of arrival."""
    return [event.properties.get("number") for event in server.events("E")]


def record(agent: Agent, count: int, first: int = 0, **properties: object) -> None:
    """Record numbered events."""
    for number in range(first, first + count):
        agent.track("E", {"number": number, **properties})


@pytest.mark.parametrize("body", [b"{}", b"OK", b"", b"not json at all"])
def test_any_success_is_a_success(start: MakeAgent, server: Collector, body: bytes) -> None:
    """A 2xx answer deletes the events, whatever its body."""
    agent = start()
    record(agent, 3)
    server.reply(Reply(202, body, handled=True))

    assert agent.flush()

    assert numbers(server) == [0, 1, 2]
    assert agent.status().delivered == 3
    balanced(agent)


@pytest.mark.parametrize(
    "reply",
    [Reply.captive(302), Reply(200, b"<html>log in</html>", {"content-type": "text/html"})],
)
def test_a_captive_portal_is_not_heap(start: MakeAgent, server: Collector, reply: Reply) -> None:
    """A redirect or an HTML page keeps everything, and delivery goes on later."""
    agent = start()
    record(agent, 3)
    server.reply(reply)

    assert not agent.flush()
    assert agent.status().queued == 3
    assert "captive" in str(agent.status().last_error)

    assert agent.flush(30)
    assert numbers(server) == [0, 1, 2]
    balanced(agent)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_trouble_of_the_server_keeps_events(
    start: MakeAgent, server: Collector, status: int
) -> None:
    """A temporary refusal keeps the events and the same bytes are sent again."""
    agent = start()
    record(agent, 3)
    server.reply(status)

    assert not agent.flush()
    assert agent.status().queued == 3

    assert agent.flush(30)
    posts = [request.body for request in server.requests if request.method == "POST"]
    assert posts[0] == posts[-1]
    assert numbers(server) == [0, 1, 2]
    balanced(agent)


def test_retry_after_is_honoured(start: MakeAgent, server: Collector) -> None:
    """A server that says how long to stay away is left alone that long, also by flush."""
    agent = start()
    record(agent, 3)
    server.reply(Reply.throttled(retry_after=2))

    assert not agent.flush()
    assert not agent.flush()
    assert sum(request.method == "POST" for request in server.requests) == 1
    assert 1 < (agent.status().next_attempt or 0) <= 3

    assert agent.flush(30)
    posts = [request.time for request in server.requests if request.method == "POST"]
    assert (posts[-1] - posts[0]).total_seconds() >= 1.9
    balanced(agent)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 451])
def test_a_wrong_address_loses_nothing(start: MakeAgent, server: Collector, status: int) -> None:
    """Answers that speak of configuration keep everything, and `status` says so."""
    agent = start()
    record(agent, 3)
    server.reply(status)

    assert not agent.flush()
    found = agent.status()
    assert (found.queued, found.dead, found.delivered) == (3, 0, 0)
    assert f"misconfigured {status}" in str(found.last_error)

    assert agent.flush()
    assert agent.status().delivered == 3
    balanced(agent)


def test_one_poison_event_costs_only_itself(start: MakeAgent, server: Collector) -> None:
    """A rejected batch is narrowed down; all but the bad one arrive, in order."""
    agent = start()
    record(agent, 200)
    server.reject_if(lambda event: event.get("properties", {}).get("number") == 77)

    assert agent.flush(30)

    assert numbers(server) == [number for number in range(200) if number != 77]
    found = agent.status()
    assert (found.delivered, found.dead, found.queued) == (199, 1, 0)
    balanced(agent)


def test_many_poison_events_next_to_each_other(start: MakeAgent, server: Collector) -> None:
    """Forty bad events in a row are dead letters; every other event arrives."""
    agent = start(identity_budget=None, app_budget=None)
    record(agent, 100)
    agent.track("Another", {"number": -1})
    server.reject_if(lambda event: 20 <= event.get("properties", {}).get("number", -1) < 60)

    assert agent.flush(30)

    assert sorted(map(str, numbers(server))) == sorted(map(str, [*range(20), *range(60, 100)]))
    assert agent.status().dead == 40
    balanced(agent)


def test_a_server_that_refuses_everything_buries_nothing(
    start: MakeAgent, server: Collector
) -> None:
    """When no event at all is accepted the fault is elsewhere: all are kept."""
    agent = start()
    record(agent, 20)
    server.reject_if(lambda event: True)

    assert not agent.flush(3)

    found = agent.status()
    assert (found.queued, found.dead) == (20, 0)
    server.normal()
    assert agent.flush(30)
    assert agent.status().delivered == 20
    balanced(agent)


def test_too_large_a_request_is_halved(start: MakeAgent, tmp_path: Path) -> None:
    """413 makes requests smaller; an event that is too large alone is a dead letter."""
    with Collector(max_body=20_000) as small:
        agent = start(endpoint=small.url)
        record(agent, 100, text="x" * 500)
        agent.track("Huge", {f"key {n}": "y" * 1000 for n in range(30)})

        assert agent.flush(30)

        assert numbers(small) == list(range(100))
        assert (agent.status().delivered, agent.status().dead) == (100, 1)
        balanced(agent)
        agent.shutdown(0)


def test_an_answer_that_never_came(start: MakeAgent, server: Collector) -> None:
    """Heap has the events, the device does not know: they go again, under the same key."""
    agent = start()
    record(agent, 5)
    # Twice: over a connection that was in use before the request goes again at once.
    server.drop_connection(count=2, when="after")

    assert not agent.flush()
    assert agent.status().queued == 5
    assert agent.flush(30)

    assert numbers(server) == [0, 1, 2, 3, 4]
    assert len(server.duplicates) > 0
    assert server.conflicts == []
    balanced(agent)


def test_a_connection_that_breaks(start: MakeAgent, server: Collector) -> None:
    """A connection closed without an answer loses nothing."""
    agent = start()
    record(agent, 5)
    server.drop_connection(count=2)

    assert agent.flush(30)

    assert numbers(server) == [0, 1, 2, 3, 4]
    balanced(agent)


def test_a_server_that_never_answers(start: MakeAgent, server: Collector) -> None:
    """A black hole costs the read timeout, never more, and nothing is lost."""
    agent = start(read_timeout=0.3)
    record(agent, 5)
    server.hang()

    assert not agent.flush()
    assert "unavailable" in str(agent.status().last_error)
    assert agent.flush(30)

    assert numbers(server) == [0, 1, 2, 3, 4]
    balanced(agent)


def test_weeks_offline(start: MakeAgent, server: Collector) -> None:
    """Without a network events wait on disk; with one they all arrive in order."""
    server.stop()
    agent = start(identity_budget=None, app_budget=None)
    record(agent, 2_500)
    assert not agent.flush()
    assert agent.status().queued == 2_500
    server.start()

    assert agent.flush(30)

    assert numbers(server) == list(range(2_500))
    sizes = [
        request.body.count(b'"idempotency_key"')
        for request in server.requests
        if request.path == "/api/track" and request.method == "POST"
    ]
    assert max(sizes) <= 1000
    balanced(agent)


def test_the_interval_drives_delivery(start: MakeAgent, server: Collector) -> None:
    """Events leave by themselves, and `change_interval` takes effect at once."""
    agent = start(interval=0.2)
    record(agent, 3)
    server.wait_for(3, timeout=30)
    agent.change_interval(3600)
    # Returns when no pass is under way that could still take the next event along.
    assert agent.flush(30)
    record(agent, 1, first=3)
    time.sleep(0.6)
    assert len(server.events()) == 3

    agent.change_interval(0.2)

    server.wait_for(4, timeout=30)
    assert agent.flush(30)
    balanced(agent)


def test_budgets_hold_back_a_backlog(start: MakeAgent, server: Collector) -> None:
    """No more than the identity's budget leaves in a minute; `status` says how long it takes."""
    agent = start(identity_budget=100)
    record(agent, 250)

    assert not agent.flush()

    assert len(server.events()) == 100
    found = agent.status()
    assert found.queued == 150
    assert found.drain_eta is not None and found.drain_eta > 60
    assert found.next_attempt is not None and found.next_attempt > 30
    balanced(agent)


def test_budgets_survive_a_restart(start: MakeAgent, server: Collector) -> None:
    """A restart does not give a device a second budget."""
    agent = start(identity_budget=100)
    record(agent, 150)
    assert not agent.flush()
    agent.shutdown(0)

    again = start(identity_budget=100)
    assert not again.flush()

    assert len(server.events()) == 100
    balanced(again)


def test_identity_on_the_wire(start: MakeAgent, server: Collector) -> None:
    """
    Anonymous events carry the user_id, identified ones the identity; the two are joined
    once, and each user's properties go to that user.
    """
    agent = start()
    agent.track("Before")
    agent.add_user_properties({"plan": "free"})
    agent.identify("alice")
    agent.track("As Alice")
    agent.add_user_properties({"plan": "paid"})
    agent.identify("bob")
    agent.add_user_properties({"plan": "none"})
    agent.track("As Bob")
    agent.reset_identity()
    agent.track("After")

    assert agent.flush(30)

    alice, bob = server.user("alice"), server.user("bob")
    assert alice is not None and bob is not None
    assert (alice.properties["plan"], bob.properties["plan"]) == ("paid", "none")
    assert len(alice.user_ids) == 1 and len(bob.user_ids) == 0
    joins = [r for r in server.requests if r.path == "/api/v1/identify"]
    assert len(joins) == 1, "bob had nothing anonymous to be joined with"
    by_name = {event.event: event for event in server.events()}
    assert by_name["Before"].user_id == alice.user_ids[0]
    assert by_name["As Alice"].identity == "alice"
    assert by_name["As Bob"].identity == "bob"
    assert by_name["After"].identity is None
    assert by_name["After"].user_id not in alice.user_ids
    assert by_name["As Alice"].session_id != by_name["As Bob"].session_id
    balanced(agent)


def test_two_apps_share_a_directory(start: MakeAgent, server: Collector) -> None:
    """Queued events keep the app id that they were recorded under."""
    agent = start()
    record(agent, 3)
    first = agent.user_id
    agent.set_app_id("21")
    record(agent, 2, first=3)

    assert agent.user_id != first
    assert agent.flush(30)

    apps = [event.app_id for event in server.events("E")]
    assert sorted(apps) == ["11", "11", "11", "21", "21"]
    balanced(agent)


def test_recording_goes_on_during_a_request(start: MakeAgent, server: Collector) -> None:
    """A request that takes long does not hold a recording call up."""
    server.delay = 1.0
    agent = start()
    record(agent, 3)
    flushing = threading.Thread(target=agent.flush, args=(30,))
    flushing.start()
    deadline = time.monotonic() + 30
    while not any(request.method == "POST" for request in server.requests):
        if not flushing.is_alive() or time.monotonic() > deadline:
            break
        record(agent, 1, first=100)
        assert agent.session_id is not None
        time.sleep(0.01)
    flushing.join()
    server.delay = 0.0

    assert agent.flush(30)
    balanced(agent)


def test_shutdown_does_not_wait_for_a_black_hole(start: MakeAgent, server: Collector) -> None:
    """The end takes the timeout at most, with a server that never answers."""
    agent = start()
    record(agent, 3)
    server.hang(count=10)

    began = time.monotonic()
    agent.shutdown(0.5)

    assert time.monotonic() - began < 5
    server.normal()
    again = start()
    assert again.flush(30)
    assert numbers(server) == [0, 1, 2]
    balanced(again)


def test_a_python_without_ssl_keeps_everything(
    start: MakeAgent, server: Collector, tmp_path: Path
) -> None:
    """As programs are packed by mistake: nothing raises, `status` and one line say why."""
    (tmp_path / "ssl.py").write_text("raise ImportError('DLL load failed while importing _ssl')")
    program = """
import logging
from heap_agent import Agent

logging.basicConfig()
with Agent("11") as agent:
    agent.track("E", {"number": 1})
    print(agent.flush(timeout=0.5), agent.flush(), agent.status().last_error)
"""
    places = {"DIRECTORY": str(tmp_path / "state"), "ENDPOINT": server.url}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **environment(tmp_path, {f"HEAP_AGENT_{name}": text for name, text in places.items()}),
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        },
        capture_output=True,
        text=True,
    )

    why = "ImportError: DLL load failed while importing _ssl"
    assert (done.returncode, done.stdout) == (0, f"False False unavailable: {why}\n")
    assert done.stderr.count("\n") == 1 and why in done.stderr
    agent = start()
    assert agent.flush(timeout=30)
    assert numbers(server) == [1]
    balanced(agent)

"""
An agent, a collector, and a network between them that breaks in every way and at any
byte: nothing is lost, nothing arrives twice, and the order stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
import trustme
from fault_proxy import STRANGERS, Fault, FaultProxy, What, any_fault, clear
from helpers import balanced
from trials import dice, tries

from heap_agent import Agent
from heap_agent.testing import Collector, FakeClock

MakeAgent = Callable[..., Agent]
Figure = Callable[[str, object], None]

#: Seconds for a request: the network that hangs is waited for, so it is short.
PATIENCE = 0.15


@pytest.fixture(name="proxy")
def _proxy(collector: Collector) -> Iterator[FaultProxy]:
    with FaultProxy(port_of(collector)) as proxy:
        yield proxy


@pytest.fixture(name="start")
def _start(make_agent: MakeAgent, proxy: FaultProxy, clock: FakeClock) -> MakeAgent:
    """Makes agents on the line, whose waits are simulated and whose requests are real."""

    def start(**options: object) -> Agent:
        chosen = {
            "endpoint": proxy.url,
            "clock": clock,
            "connect_timeout": PATIENCE,
            "read_timeout": PATIENCE,
            "identity_budget": None,
            "app_budget": None,
            **options,
        }
        return make_agent(**chosen)

    return start


def port_of(collector: Collector) -> int:
    """Where it listens."""
    port = urlsplit(collector.url).port
    assert port is not None
    return port


def record(agent: Agent, count: int, first: int = 0, **more: object) -> None:
    """Record numbered events."""
    for number in range(first, first + count):
        agent.track("E", {"number": number, **more})


def step(agent: Agent) -> float:
    """What the scheduler does when it is time; seconds until it is again."""
    return agent._outbox.drain.tick()


#: Passes without an event delivered after which nothing moves any more. From a thousand
#: rows in a request to one are ten failures.
STALL = 30


def drain(agent: Agent, clock: FakeClock) -> int:
    """Deliver everything, waiting as long as the agent wants to; how many passes that took."""
    passes, in_vain, before = 0, 0, agent.status().queued
    while in_vain < STALL:
        wait = step(agent)
        passes += 1
        left = agent.status().queued
        if not left:
            return passes
        in_vain = 0 if left < before else in_vain + 1
        before = left
        clock.advance(wait)
    raise AssertionError(f"it stalls: {agent.status()}")


def arrived(agent: Agent, collector: Collector, count: int) -> None:
    """Each event is there once, in order, no key had two bodies, and the books are right."""
    assert [event.properties["number"] for event in collector.events("E")] == list(range(count))
    assert collector.conflicts == []
    status = agent.status()
    assert (status.delivered, status.dead, status.dropped) == (count, 0, 0)
    balanced(agent)


# -- one fault at a time ---------------------------------------------------------------

PLACES = [(what, down) for what in What if what is not What.ANSWER for down in (False, True)]


@pytest.mark.parametrize(
    ("what", "down"), PLACES, ids=[f"{w.value}-{'down' if d else 'up'}" for w, d in PLACES]
)
def test_a_fault_at_any_byte(
    start: MakeAgent,
    proxy: FaultProxy,
    collector: Collector,
    clock: FakeClock,
    figure: Figure,
    what: What,
    down: bool,
) -> None:
    """Wherever it strikes, probe or post, request or answer: the events arrive, once."""
    agent = start()
    # Answers have about 120 bytes, requests of two events about 700. What is waited for
    # is costly: there every byte is tried by the long form only.
    hangs = what in (What.SILENCE, What.DRIP, What.HALF_CLOSE)
    places = range(0, 160 if down else 900, tries(60 if down else 300, 1 if not hangs else 7))
    if not hangs:
        places = range(0, 160 if down else 900, tries(9 if down else 50, 1))
    count = 0
    for after in places:
        record(agent, 2, first=count)
        count += 2
        pending = [Fault(what, after, down), Fault(what, after, down)]
        proxy.fate = lambda pending=pending: pending.pop() if pending else None  # type: ignore[misc]
        drain(agent, clock)
    struck = sum(proxy.struck.values())
    assert struck > len(places) // 3, "hardly anything went wrong"
    figure("places", len(places))
    figure("struck", struck)
    arrived(agent, collector, count)
    if down and what is not What.HALF_CLOSE:
        assert collector.duplicates, "no answer was lost after the events had arrived"


@pytest.mark.parametrize("stranger", STRANGERS)
def test_somebody_else_answers(
    start: MakeAgent, proxy: FaultProxy, collector: Collector, clock: FakeClock, stranger: str
) -> None:
    """A portal, a gateway, or noise in place of the collector costs time and no event."""
    agent = start()
    record(agent, 3)
    drain(agent, clock)  # the line is known to be good, so that no probe comes first
    record(agent, 3, first=3)
    fault = Fault(What.ANSWER, answer=STRANGERS[stranger])
    proxy.fate = lambda: fault
    for _ in range(5):
        clock.advance(step(agent))
    assert agent.status().queued == 3
    assert proxy.struck[fault.name] >= 2
    proxy.fate = clear
    drain(agent, clock)
    arrived(agent, collector, 6)


def test_a_link_that_flaps(
    start: MakeAgent, proxy: FaultProxy, collector: Collector, clock: FakeClock, figure: Figure
) -> None:
    """Refused and accepted in turns, each for as long as chance has it."""
    agent, chance, rounds = start(), dice("flapping"), tries(60, 2_000)
    for number in range(rounds):
        record(agent, 1, first=number)
        if chance.random() < 0.5:
            proxy.refuse()
        else:
            proxy.accept()
        clock.advance(min(step(agent), chance.uniform(0, 60)))
    proxy.accept()
    drain(agent, clock)
    figure("rounds", rounds)
    arrived(agent, collector, rounds)


# -- names and certificates ------------------------------------------------------------


def test_a_name_that_nobody_knows(
    make_agent: MakeAgent, collector: Collector, clock: FakeClock
) -> None:
    """Without DNS everything waits; with it, everything arrives."""
    agent = make_agent(endpoint="https://collector.invalid", clock=clock)
    record(agent, 3)
    step(agent)
    assert agent.status().queued == 3
    assert "gaierror" in str(agent.status().last_error)
    agent.shutdown(0)

    again = make_agent(endpoint=collector.url, clock=clock)
    drain(again, clock)
    arrived(again, collector, 3)


YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)


@pytest.mark.parametrize(
    ("name", "not_after", "why"),
    [
        ("collector.example", None, "IP address mismatch"),
        ("127.0.0.1", YESTERDAY, "certificate has expired"),
    ],
    ids=["wrong name", "expired"],
)
def test_a_certificate_that_is_not_right(
    make_agent: MakeAgent,
    clock: FakeClock,
    tmp_path: Path,
    name: str,
    not_after: datetime | None,
    why: str,
) -> None:
    """Nothing reaches whoever shows it; when it is put right, the same agent delivers."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    bad = ca.issue_cert(name, not_after=not_after)
    with collector_with(bad, tmp_path) as impostor:
        port = port_of(impostor)
        agent = make_agent(
            endpoint=f"https://127.0.0.1:{port}", ca_bundle=tmp_path / "ca.pem", clock=clock
        )
        record(agent, 3)
        for _ in range(3):
            clock.advance(step(agent))
        assert why in str(agent.status().last_error)
        assert impostor.requests == []
    with collector_with(ca.issue_cert("127.0.0.1"), tmp_path, port) as collector:
        drain(agent, clock)
        arrived(agent, collector, 3)


def collector_with(issued: trustme.LeafCert, place: Path, port: int = 0) -> Collector:
    """A collector that shows this certificate."""
    chain, key = place / "chain.pem", place / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return Collector(port, certfile=chain, keyfile=key)


# -- a bad line, for long --------------------------------------------------------------


def test_a_thin_line_with_resets_drains(
    start: MakeAgent, collector: Collector, clock: FakeClock, figure: Figure
) -> None:
    """
    64 kbit/s, and of every 4 KiB one piece in twenty is a reset: the window finds a size
    that gets through, where a full one could not in the time that a request has. The short
    form is a film of that, twenty times as fast.
    """
    speed, count = tries(20, 1), 1_100
    chance = dice("thin")

    def fate() -> Fault:
        pieces = 0
        while chance.random() >= 0.05:
            pieces += 1
        return Fault(What.RESET, 4_096 * pieces + chance.randrange(4_096))

    with FaultProxy(port_of(collector), rate=8_000 * speed) as line:
        line.fate = fate
        agent = start(endpoint=line.url, connect_timeout=10 / speed, read_timeout=30 / speed)
        record(agent, count, text="x" * 200)
        passes = drain(agent, clock)
        figure("events", count)
        figure("passes", passes)
        figure("resets", resets := sum(line.struck.values()))
        assert resets >= 3
        arrived(agent, collector, count)
        agent.shutdown(0)


class Weather:
    """What the sky does to a line, by chance."""

    KINDS = ("clear", "flaky", "storm", "down", "hole", "portal")

    def __init__(self, proxy: FaultProxy, chance: Random) -> None:
        self.seen: Counter[str] = Counter()
        self._proxy = proxy
        self._chance = chance

    def change(self) -> float:
        """Something else from now on; for how many seconds."""
        kind = self._chance.choice(self.KINDS)
        self.seen[kind] += 1
        self._proxy.fate = clear
        if kind == "down":
            self._proxy.refuse()
        else:
            self._proxy.accept()
        if kind in ("flaky", "storm"):
            often = 0.3 if kind == "flaky" else 0.9
            self._proxy.fate = lambda: (
                any_fault(self._chance) if self._chance.random() < often else None
            )
        elif kind == "hole":
            self._proxy.fate = lambda: Fault(What.SILENCE)
        elif kind == "portal":
            self._proxy.fate = lambda: Fault(What.ANSWER, answer=STRANGERS["redirect"])
        return self._chance.expovariate(1 / 900)


@pytest.mark.parametrize("day", range(tries(1, 3)))
def test_a_day_of_weather(
    start: MakeAgent,
    proxy: FaultProxy,
    collector: Collector,
    clock: FakeClock,
    figure: Figure,
    day: int,
) -> None:
    """An event every minute or so, through all weathers; now and then the program restarts."""
    chance = dice("weather", day)
    weather = Weather(proxy, chance)
    agent, now, count, restarts = start(), 0.0, 0, 0
    changes = next_event = attempt = 0.0
    while now < tries(6 * 3_600, 86_400):
        if now >= changes:
            changes = now + weather.change()
        if now >= next_event:
            record(agent, 1, first=count)
            count += 1
            next_event = now + chance.expovariate(1 / 60)
        if now >= attempt:
            # An idle agent looks every 15 seconds; here it need not before there is news.
            attempt = now + step(agent) if agent.status().queued else next_event
        if chance.random() < 0.01:
            agent.shutdown(0)
            agent, attempt, restarts = start(), now, restarts + 1
        passing = max(0.05, min(changes, next_event, attempt) - now)
        clock.advance(passing)
        now += passing
    proxy.fate = clear
    proxy.accept()
    drain(agent, clock)
    figure("events", count)
    figure("restarts", restarts)
    figure("faults", sum(proxy.struck.values()))
    figure("sent again", len(collector.duplicates))
    arrived(agent, collector, count)

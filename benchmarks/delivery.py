"""
What it costs to get events to a server: from the first `track` to the moment
at which a flush has returned, everything in between included.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import attrs

from benchmarks import data, peers
from benchmarks.apart import once
from benchmarks.peers import Mode, Peer
from benchmarks.server import Seen, Server, running
from benchmarks.tables import Row

TITLE = "delivery: events to a server on loopback that answers 200"
#: Rows of other clients are among those.
COMPARES = True

EVENTS, REPEATS = 20_000, 3

#: Our agent loads what delivers with its first delivery; here that was before.
WARM = "heap_agent, later on"


@attrs.frozen
class Delivery:
    """
    One run of one client.

    Attributes:
        seconds: From the first call until the flush had returned.
        calls: The part of them until the last call had returned.
        cpu: Of all threads of the client's process, user and system.
        seen: By the server, at that moment.
    """

    seconds: float
    calls: float
    cpu: float
    seen: Seen


def run() -> list[Row]:
    """
    Measure.
    """
    chance = random.Random(data.SEED)
    clients = [
        peers.OURS,
        attrs.evolve(peers.OURS, name=WARM),
        *(peer for peer in peers.installed() if not peer.sends_elsewhere),
    ]
    runs: dict[str, list[Delivery]] = {client.name: [] for client in clients}
    with running() as server:
        for _ in range(REPEATS):
            for client in chance.sample(clients, len(clients)):
                runs[client.name].append(_delivered(client, server))
    return [_row(client, runs[client.name]) for client in clients]


def _delivered(client: Peer, server: Server) -> Delivery:
    server.reset()
    seconds, calls, cpu = once(_deliver, client, server.url, EVENTS)
    return Delivery(seconds, calls, cpu, server.seen())


def _deliver(client: Peer, endpoint: str, count: int) -> Callable[[], tuple[float, float, float]]:
    opened = client.open(endpoint, Mode.LIVE)
    events: list[dict[str, Any]] = [
        {**event, "seq": seq} for seq, event in enumerate(data.properties(count))
    ]
    if client.name == WARM:
        opened.track(data.EVENT, events[0])
        opened.flush()

    def function() -> tuple[float, float, float]:
        cpu, began = time.process_time(), time.perf_counter()
        for event in events:
            opened.track(data.EVENT, event)
        called = time.perf_counter()
        opened.flush()
        ended = time.perf_counter()
        return ended - began, called - began, time.process_time() - cpu

    return function


def _row(client: Peer, runs: list[Delivery]) -> Row:
    def median(of: Callable[[Delivery], float]) -> float:
        return statistics.median(of(one) for one in runs)

    return {
        "client": client.name,
        "events/s": median(lambda one: EVENTS / one.seconds),
        "CPU µs/event": median(lambda one: one.cpu / EVENTS * 1e6),
        "calls, µs/event": median(lambda one: one.calls / EVENTS * 1e6),
        "requests": round(median(lambda one: one.seen.requests)),
        "bytes/event": median(lambda one: one.seen.size / EVENTS),
        "fewest arrived": min(one.seen.unique for one in runs),
        "sent": EVENTS,
    }

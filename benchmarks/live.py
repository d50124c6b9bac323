"""
What one `track` costs its caller while the sender is busy: it takes the
interpreter from the caller, and that shows in the last percent.
"""

from __future__ import annotations

import random

from benchmarks import data, peers
from benchmarks.apart import apart
from benchmarks.calls import BURST, PAUSE, timed_for
from benchmarks.peers import Mode, Peer
from benchmarks.server import Server, running
from benchmarks.tables import Row
from benchmarks.timing import Block, percentile, spread

TITLE = "live: one event with 8 properties, while earlier ones are sent to loopback"
#: Rows of other clients are among those.
COMPARES = True

#: Recorded before the clock runs, so that the sender has work from the first call to the last.
BACKLOG = 10_000
SECONDS, REPEATS = 1.0, 3


def run() -> list[Row]:
    """
    Measure.
    """
    chance = random.Random(data.SEED)
    clients = [peers.OURS, *peers.installed()]
    times: dict[str, list[int]] = {client.name: [] for client in clients}
    requests = dict.fromkeys(times, 0)
    with running() as server:
        for _ in range(REPEATS):
            for client in chance.sample(clients, len(clients)):
                own, sent = _repeat(client, server)
                times[client.name] += own
                requests[client.name] += sent
    return [_row(client, times[client.name], requests[client.name]) for client in clients]


def _repeat(client: Peer, server: Server) -> tuple[list[int], int]:
    with apart(_busy, client, server.url) as block:
        server.reset()
        times = block()
        return times, server.seen().requests


def _busy(client: Peer, endpoint: str) -> Block:
    opened = client.open(endpoint, Mode.LIVE)
    events = data.properties(BACKLOG)
    for event in events:
        opened.track(data.EVENT, event)
    opened.wake()
    return timed_for(SECONDS, opened.track, events, pause=PAUSE)


def _row(client: Peer, times: list[int], requests: int) -> Row:
    first = sorted(times[::BURST])
    return {
        "client": client.name,
        **spread([time for number, time in enumerate(times) if number % BURST]),
        "first: median µs": percentile(first, 50) / 1_000,
        "first: p99 µs": percentile(first, 99) / 1_000,
        "calls": len(times),
        "requests meanwhile": requests,
    }

"""
How many events a second several threads record together, beside one alone.
"""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks import data, peers, server
from benchmarks.apart import apart
from benchmarks.peers import Mode, Peer
from benchmarks.tables import Row

TITLE = "threads: events a second, recorded by 8 threads together and by one"
#: Rows of other clients are among those.
COMPARES = True

THREADS = 8
#: Recorded in a turn, by however many threads; and turns, the first of which does not count.
EVENTS, TURNS = 4_000, 8

#: Events a second of one thread, and of all.
Rates = tuple[float, float]


def run() -> list[Row]:
    """
    Measure.
    """
    with server.running() as answering:
        return [
            _row(client, _measured(client, answering.url))
            for client in (peers.OURS, *peers.installed())
        ]


def _measured(client: Peer, endpoint: str) -> list[Rates]:
    with apart(_turn, client, endpoint) as turn:
        return [turn() for _ in range(TURNS)][1:]


def _turn(client: Peer, endpoint: str) -> Callable[[], Rates]:
    chance = random.Random(data.SEED)
    track = client.open(endpoint, Mode.MEMORY).track
    events = data.properties(EVENTS)

    def turn() -> Rates:
        rates = {count: _rate(track, events, count) for count in chance.sample((1, THREADS), 2)}
        return rates[1], rates[THREADS]

    return turn


def _rate(track: Callable[..., object], events: list[dict[str, Any]], count: int) -> float:
    together = threading.Barrier(count)
    began, ended = [], []

    def record(own: list[dict[str, Any]]) -> None:
        together.wait()
        began.append(perf_counter())
        for event in own:
            track(data.EVENT, event)
        ended.append(perf_counter())

    threads = [
        threading.Thread(target=record, args=(events[number::count],)) for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(events) / (max(ended) - min(began))


def _row(client: Peer, turns: list[Rates]) -> Row:
    return {
        "client": client.name,
        "one thread, events/s": statistics.median(one for one, _ in turns),
        "8 threads, events/s": statistics.median(every for _, every in turns),
        "8 threads ÷ one": statistics.median(every / one for one, every in turns),
        "turns": len(turns),
    }

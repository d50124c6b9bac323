"""
A client that talks to the collector over real HTTP, in a time that tests move.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from heap_agent._server.line import Seams
from heap_agent.server import ServerClient
from heap_agent.testing import API_KEY, Collector, FakeClock

MakeClient = Callable[..., ServerClient]


@pytest.fixture(name="collector")
def _collector(clock: FakeClock) -> Iterator[Collector]:
    """A running stand-in for Heap, whose time is that of the client."""
    with Collector(clock=clock) as collector:
        yield collector


@pytest.fixture(name="seams")
def _seams(clock: FakeClock) -> Seams:
    """A wait takes no time and moves the clock; chance is fair; keys are numbered."""
    prefixes = itertools.count(1)
    return Seams(
        monotonic=lambda: clock.boot_ns() / 1e9,
        wall=lambda: clock.wall_ns() / 1e9,
        sleep=clock.advance,
        chance=lambda: 0.5,
        random_bits=lambda bits: next(prefixes),
    )


@pytest.fixture(name="make_client")
def _make_client(collector: Collector, seams: Seams) -> Iterator[MakeClient]:
    """Makes clients of the collector, closed at the end."""
    made: list[ServerClient] = []

    def make(**options: Any) -> ServerClient:
        chosen = {"api_key": API_KEY, "endpoint": collector.url, "_seams": seams, **options}
        made.append(ServerClient(11, **chosen))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(name="client")
def _client(make_client: MakeClient) -> ServerClient:
    """A client with the defaults."""
    return make_client()

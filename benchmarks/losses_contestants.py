"""
Who plays in the loss table: this package and the other clients, as they come.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs

from benchmarks import peers
from benchmarks.peers import Client, Mode

AGENT = peers.OURS.name


def contestants() -> list[str]:
    """
    Those that are installed, this package first.
    """
    return [AGENT, *(peer.name for peer in peers.installed())]


def open_client(name: str, endpoint: str, directory: Path) -> Client:
    """
    A client as it comes.

    Args:
        name: One of `contestants`.
        endpoint: Scheme, host and port, on this machine.
        directory: For what outlives the program, where a client has such.
    """
    if name == AGENT:
        return _agent(endpoint, directory)
    (peer,) = (one for one in peers.PEERS if one.name == name)
    if name == "glean":
        peer = attrs.evolve(peer, opener=partial(peers.glean_in, directory))
    return peer.open(endpoint, Mode.SHIPPED)


def _agent(endpoint: str, directory: Path) -> Client:
    import heap_agent

    # The budgets keep to the limits of Heap's servers, which this one has not.
    heap_agent.init(
        "11",
        directory=directory,
        endpoint=endpoint,
        identity_budget=None,
        app_budget=None,
    )
    # It needs neither flush nor shutdown.
    return Client(heap_agent.track, _nothing, _nothing)


def _nothing() -> None:
    pass

"""Other clients, as far as they are installed here, and this package in their place."""

import configparser
import logging
import os
from pathlib import Path

import pytest

from benchmarks import delivery, peers
from benchmarks.apart import once
from benchmarks.server import running

SETUP = Path(__file__).parents[2] / "setup.cfg"


def test_the_extra_installs_each_of_them() -> None:
    """What `pip install '.[peers]'` brings is what can be measured."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    extra = setup["options.extras_require"]["peers"].split("\n")
    assert [line.split()[0] for line in extra if line] == sorted(
        peer.distribution for peer in peers.PEERS
    )


def test_each_is_installed_or_absent() -> None:
    """None is left out silently."""
    assert {*peers.installed(), *peers.absent()} == {*peers.PEERS}


@pytest.mark.parametrize(
    "client",
    [peers.OURS, *(peer for peer in peers.installed() if not peer.sends_elsewhere)],
    ids=lambda client: client.name,
)
def test_what_it_records_arrives(client: peers.Peer) -> None:
    """Every event is at the server when the flush has returned, each once or more."""
    with running() as server:
        once(delivery._deliver, client, server.url, 20)
        assert set(server.seen().seqs) == set(range(20))


def test_no_other_address_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the environment asks the endpoint for any other host."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(logging, "disable", lambda level: None)
    nobody = peers.Peer(
        "nobody", "nobody", "nobody", lambda endpoint, mode: peers.Client(print, print, print)
    )
    nobody.open("http://127.0.0.1:9", peers.Mode.LIVE)

    assert {os.environ[name] for name in ("https_proxy", "HTTPS_PROXY", "HTTP_PROXY")} == {
        "http://127.0.0.1:9"
    }
    assert "127.0.0.1" in os.environ["no_proxy"]

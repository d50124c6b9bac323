"""
Proxies: what the environment says, and that all who send go by it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from heap_agent import Agent
from heap_agent._proxies import find
from heap_agent.exceptions import ApiError
from heap_agent.server import ServerClient

#: A name too long to be looked up: without a proxy nothing leaves this machine.
HOST = "a" * 64 + ".corp.example"


def first(url: str, **variables: str) -> str | None:
    return next((proxy for _, proxy in find(url, variables)), None)


# -- what the environment says ---------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"https_proxy": "http://one", "HTTPS_PROXY": "http://two"}, "http://one"),
        ({"HTTPS_PROXY": "http://two", "ALL_PROXY": "http://three"}, "http://two"),
        ({"all_proxy": "three:3128"}, "http://three:3128"),
        ({"HTTPS_PROXY": " http://two "}, "http://two"),
        ({"HTTPS_PROXY": " ", "HTTP_PROXY": "http://other"}, None),
        ({}, None),
    ],
)
def test_the_usual_variables(variables: dict[str, str], expected: str | None) -> None:
    """Small letters come first, and the scheme's own before that for all."""
    assert first("https://heap.example", **variables) == expected


def test_sources_are_told_in_order() -> None:
    """Whoever cannot use one proxy goes on to the next."""
    variables = {"HTTPS_PROXY": "http://one", "all_proxy": "http://two"}

    assert list(find("https://heap.example", variables)) == [
        ("environment HTTPS_PROXY", "http://one"),
        ("environment all_proxy", "http://two"),
    ]


def test_a_visitors_header_is_no_proxy() -> None:
    """Below a web server HTTP_PROXY is the header "Proxy", and anybody may send it."""
    variables = {"HTTP_PROXY": "http://evil.example", "REQUEST_METHOD": "GET"}

    assert first("http://heap.example", **variables) is None
    assert first("http://heap.example", **variables, http_proxy="http://good") == "http://good"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.10", "[::1]"])
def test_this_machine_is_reached_directly(host: str) -> None:
    """A collector on the device has no use for a proxy."""
    assert first(f"http://{host}:1", http_proxy="http://proxy") is None


@pytest.mark.parametrize(
    ("listed", "exempt"),
    [
        ("*", True),
        ("a.corp.example", True),
        ("A.CORP.Example", True),
        ("corp.example", True),
        (".corp.example", True),
        ("*.corp.example", True),
        ("x.test, .corp.example", True),
        ("x.test .corp.example", True),
        ("a.corp.example:443", True),
        (".corp.example:443", True),
        ("*.corp.example:443", True),
        ("a.corp.example:80", False),
        (".a.corp.example", False),
        ("*.a.corp.example", False),
        ("orp.example", False),
        ("a.corp", False),
        ("x.test", False),
        (",", False),
        ("*.", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_exempt_hosts(variable: str, listed: str, exempt: bool) -> None:
    """A host, with its port or without; a domain; what is in a domain; everything."""
    found = first("https://a.corp.example", HTTPS_PROXY="http://proxy", **{variable: listed})

    assert found == (None if exempt else "http://proxy")


# -- those who send --------------------------------------------------------------------


class Proxy:
    """Listens, and answers nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def was_asked(self) -> bool:
        """Whether somebody has connected since the last time."""
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(name="proxy")
def _proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy that the environment names for plain HTTP."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    proxy = Proxy()
    monkeypatch.setenv("http_proxy", proxy.url)
    yield proxy
    proxy.close()


Send = Callable[..., None]


@pytest.fixture(name="send", params=["agent", "server"])
def _send(request: pytest.FixtureRequest, make_agent: Callable[..., Agent]) -> Send:
    """Try to send an event, as an agent or through the server-side API."""
    to = {"endpoint": f"http://{HOST}:81", "allow_insecure": True, "read_timeout": 0.2}

    def deliver(**options: object) -> None:
        agent = make_agent(**to, **options)
        agent.track("E")
        agent.flush()

    def call(**options: object) -> None:
        with ServerClient("11", retry_for=0, **to, **options) as client:  # type: ignore[arg-type]
            with pytest.raises(ApiError):
                client.track("E", identity="ann")

    return deliver if request.param == "agent" else call


def test_the_environments_proxy_is_used(proxy: Proxy, send: Send) -> None:
    """Nobody has to repeat it in an option."""
    send()

    assert proxy.was_asked()


@pytest.mark.parametrize("listed", ["*.corp.example", ".corp.example:81", HOST])
def test_exempt_hosts_are_reached_directly(
    proxy: Proxy, send: Send, listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What NO_PROXY lists does not reach the proxy."""
    monkeypatch.setenv("NO_PROXY", listed)
    send()

    assert not proxy.was_asked()


def test_the_environments_proxy_can_be_switched_off(proxy: Proxy, send: Send) -> None:
    """The word "none" means it."""
    send(proxy="none")

    assert not proxy.was_asked()


def test_the_environments_proxy_can_be_switched_off_in_the_environment(
    proxy: Proxy, make_agent: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without touching the program, and without touching what others go by."""
    monkeypatch.setenv("HEAP_AGENT_PROXY", "none")
    agent = make_agent(endpoint=f"http://{HOST}:81", allow_insecure=True, read_timeout=0.2)
    agent.track("E")
    agent.flush()

    assert not proxy.was_asked()


def test_a_proxy_of_ones_own_wins(
    proxy: Proxy, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a program says stands above the environment."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    send(proxy=proxy.url)

    assert proxy.was_asked()

"""What is told of a device, where somebody asks for it."""

from __future__ import annotations

import getpass
import platform
import socket
from collections.abc import Callable

import pytest

from heap_agent import Agent
from heap_agent._facts import facts, model_among
from heap_agent._version import version
from heap_agent.testing import Collector


def test_what_is_told(make_agent: Callable[..., Agent], collector: Collector) -> None:
    """On every event; what the program configures wins, and clearing does not touch it."""
    agent = make_agent(
        endpoint=collector.url,
        capture_device=True,
        app_version="4.1.7",
        device_properties={"Device Model": "kiosk-2", "site": "Lyon 3"},
    )
    agent.clear_event_properties()
    agent.track("Buy", {"dollars": 5})
    assert agent.flush(timeout=30)
    properties = collector.events()[0].properties
    assert properties["Device Model"] == "kiosk-2" and properties["site"] == "Lyon 3"
    assert properties["App Version"] == "4.1.7"
    assert properties["Python Version"] == platform.python_version()
    assert properties["Agent Version"] == version()
    assert properties["Operating System"] and properties["Architecture"]
    assert agent.check() == []


def test_nothing_is_told_unasked(make_agent: Callable[..., Agent], collector: Collector) -> None:
    """A version of the program alone is no request."""
    agent = make_agent(endpoint=collector.url, app_version="4.1.7")
    agent.track("Buy")
    assert agent.flush(timeout=30)
    assert collector.events()[0].properties == {}


def test_nobody_is_named() -> None:
    """Neither the machine nor its user."""
    told = " ".join(facts(None).values()).lower()
    assert socket.gethostname().lower() not in told.split()
    assert getpass.getuser().lower() not in told.split()
    assert "App Version" not in facts(None)


@pytest.mark.parametrize(
    "texts, model",
    [
        (["Raspberry Pi 4 Model B Rev 1.4\0"], "Raspberry Pi 4 Model B Rev 1.4"),
        (["LENOVO\n", "20XW\n"], "LENOVO 20XW"),
        (["To Be Filled By O.E.M.\n", "B450M Pro4\n"], "B450M Pro4"),
        (["System manufacturer", "System Product Name"], ""),
        (["QEMU", "QEMU"], "QEMU"),
    ],
)
def test_models(texts: list[str], model: str) -> None:
    """As boards and firmware call themselves."""
    assert model_among(texts) == model

"""One application on one port."""

from __future__ import annotations

import gc
import socket
import sys
import threading
from typing import Any

import pytest
from helpers import eventually

from heap_agent._view.serving import BackgroundServer


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Answers nobody."""


def knock(place: tuple[str, int], heard: list[int], ended: threading.Event) -> None:
    """Connect and go, again and again."""
    while not ended.is_set():
        try:
            socket.create_connection(place, 1).close()
        except OSError:
            continue
        heard.append(1)


def test_nobody_is_left_in_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects while a server stops is cut as well, and no socket is left over."""
    left_over: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: left_over.append(str(told.exc_value)))
    for _ in range(5):
        server = BackgroundServer("127.0.0.1", 0)
        server.start(nothing)
        place = "127.0.0.1", int(server.url.rpartition(":")[2])
        heard: list[int] = []
        ended = threading.Event()
        crowd = [threading.Thread(target=knock, args=(place, heard, ended)) for _ in range(3)]
        for one in crowd:
            one.start()
        eventually(lambda heard=heard: len(heard) > 30)
        server.close()
        ended.set()
        for one in crowd:
            one.join()
    gc.collect()
    assert left_over == []

"""
Somebody who visits an Event Visualizer's page without a browser: real HTTP, one
connection a request.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from heap_agent import Pairing


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> Any:
        """The JSON in it."""
        return json.loads(self.body)


class Visitor:
    """One browser, as far as the device can tell."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        self.url = urlsplit(pairing.url)
        self.cookie = ""
        self.seen = 0
        self.items: dict[int, dict[str, Any]] = {}
        self.scene: dict[str, Any] = {}

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = {}
    ) -> Answer:
        """One request, with what a browser sends along unless told otherwise."""
        sent = {"Host": self.url.netloc, "Cookie": self.cookie}
        if method == "POST":
            origin = f"http://{self.url.netloc}"
            sent |= {"Origin": origin, "Content-Type": "application/json"}
        sent = {name: value for name, value in {**sent, **headers}.items() if value}
        connection = http.client.HTTPConnection(str(self.url.hostname), self.url.port, timeout=30)
        try:
            whole = path if path.startswith("/") else self.url.path + path
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, whole, data, sent)
            answer = connection.getresponse()
            return Answer(
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()

    def give(self, code: str) -> Answer:
        """Enter a code."""
        answer = self.ask("POST", "pair", {"code": code})
        if answer.status == 200:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return answer

    def enter(self) -> Visitor:
        """Enter the right one."""
        assert self.give(self.pairing.code).status == 200
        return self

    def look(self) -> dict[str, Any]:
        """Take in the news."""
        answer = self.ask("GET", f"feed?since={self.seen}")
        assert answer.status == 200, answer
        self.scene = answer.fields
        self.seen = self.scene["version"]
        if self.scene["reset"]:
            self.items.clear()
        self.items |= {item["n"]: item for item in self.scene["items"]}
        return self.scene

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Look until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.items, self.scene)
            self.look()

    def named(self, name: str) -> dict[str, Any] | None:
        """The item of that name."""
        return next((item for item in self.items.values() if item["name"] == name), None)

    def place(self, name: str) -> str | None:
        """Where it stands."""
        item = self.named(name)
        return None if item is None else item["place"]

"""
What one `track` costs while the Event Visualizer waits, or is looked at: the page reads the
state directory, and the call knows nothing of it.

Run as a program it is the browser: it takes news for as long as there are any.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import heap_agent
from benchmarks import data, server
from benchmarks.apart import apart
from benchmarks.calls import PAUSE, timed_for
from benchmarks.tables import Row
from benchmarks.timing import Block, Candidate, interleave

TITLE = "watched: one event with 8 properties, while somebody watches"

#: How long a turn lasts, how many each has, and before those that count.
SECONDS, ROUNDS, WARM_UP = 0.5, 24, 2
EVENTS = 1_000

#: Seconds after which a page is served, and somebody has begun to look at it.
SETTLED = 3.0

NEVER, ENDED, WAITS, WATCHED = "never paired", "paired before", "page waits", "page is watched"


def run() -> list[Row]:
    """
    Measure.
    """
    with ExitStack() as stack:
        endpoint = stack.enter_context(server.nobody_there())
        return interleave(
            [
                Candidate(what, stack.enter_context(apart(_recording, what, endpoint)), NEVER)
                for what in (NEVER, ENDED, WAITS, WATCHED)
            ],
            rounds=ROUNDS,
            warm_up=WARM_UP,
        )


def _recording(what: str, endpoint: str) -> Block:
    agent = heap_agent.Agent(
        "11", directory=Path(tempfile.mkdtemp()), endpoint=endpoint, at_exit=False
    )
    if what != NEVER:
        pairing = agent.start_ev_pairing(timeout=3_600)
        if what == WATCHED:
            watcher = [sys.executable, "-m", "benchmarks.watched", pairing.url, pairing.code]
            subprocess.Popen(watcher, stderr=subprocess.DEVNULL)
        time.sleep(SETTLED)
    if what == ENDED:
        agent.stop_ev_pairing()
    return timed_for(SECONDS, agent.track, data.properties(EVENTS), pause=PAUSE)


def _asks(url: str) -> Callable[..., tuple[dict[str, object], str]]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    headers = {"Origin": f"http://{parts.netloc}", "Content-Type": "application/json"}

    def ask(method: str, path: str, body: object, cookie: str) -> tuple[dict[str, object], str]:
        sent = {**headers, "Cookie": cookie}
        connection.request(method, parts.path + path, json.dumps(body), sent)
        answer = connection.getresponse()
        return json.loads(answer.read()), answer.headers.get("Set-Cookie", "").partition(";")[0]

    return ask


def watch(url: str, code: str) -> None:
    """
    Take the news of a page until it ends, as a browser does: five times a second at most.
    """
    ask = _asks(url)
    _, cookie = ask("POST", "pair", {"code": code}, "")
    version: object = 0
    while version is not None:
        news, _ = ask("GET", f"feed?since={version}", None, cookie)
        version = news.get("version")
        time.sleep(0.2)


if __name__ == "__main__":
    watch(*sys.argv[1:])

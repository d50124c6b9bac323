"""
An agent whose disk hangs in the middle of a sync (shims/faults.c).

    hung.py DIRECTORY WHOSE [MUTANT]

The sync is the journal's ("journal") or SQLite's ("queue"). While it hangs the program makes
every call that records, asks, or takes a timeout, up to the first that takes more than
`PATIENCE`; it prints as a line of JSON what has returned meanwhile, and how many events it
recorded.
"""

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mutants  # noqa: E402

from heap_agent import Agent  # noqa: E402

#: Longer than any timeout here, and than `shutdown` leaves for the last sync.
PATIENCE = 8.0

EVENTS = 100

directory, whose, *mutant = sys.argv[1:]
for name in mutant:
    mutants.apply(name)
shim = ctypes.CDLL(None)
returned: list[str] = []


def end() -> None:
    """The end of a program whose disk never answers again."""
    print(json.dumps({"returned": sorted(returned), "recorded": EVENTS + 1}), flush=True)
    os._exit(0)


def within_patience(name: str, call: Callable[[], object]) -> None:
    """Make a call while the disk hangs."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive() or not shim.faults_held():
        end()
    returned.append(name)


def record() -> None:
    """Many events."""
    for number in range(EVENTS):
        agent.track("Recorded", {"number": number})


agent = Agent(
    "11",
    directory=directory,
    endpoint="http://127.0.0.1:9",
    interval=3600,
    sync_interval=0.1 if whose == "journal" else 3600,
)
# What comes with the first second is done.
agent.flush(1)
shim.faults_hold(1)
agent.track("Recorded", {"number": -1})
if whose == "queue":
    within_patience("flush", lambda: agent.flush(0.2))
deadline = time.monotonic() + 30
while not shim.faults_held() and time.monotonic() < deadline:
    time.sleep(0.01)
within_patience("track", record)
within_patience("identify", lambda: agent.identify("ann"))
within_patience("add_user_properties", lambda: agent.add_user_properties({"colour": "blue"}))
within_patience("add_event_properties", lambda: agent.add_event_properties({"site": "hall"}))
within_patience("reset_identity", agent.reset_identity)
within_patience("status", agent.status)
within_patience("sync", lambda: agent.sync(0.2))
if whose == "journal":
    within_patience("flush", lambda: agent.flush(0.2))
within_patience("shutdown", lambda: agent.shutdown(0.2))
end()

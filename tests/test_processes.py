"""
Several processes on one directory: one user, one delivery, one consent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import balanced, eventually

from heap_agent import Agent
from heap_agent.testing import Collector

PROGRAM = Path(__file__).parent / "programs" / "puppet.py"


class Puppet:
    """
    Another process with an agent on the same directory.
    """

    def __init__(self, directory: Path, endpoint: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(directory), endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def __call__(self, expression: str) -> Any:
        """Have an expression evaluated there."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        """End it as the out-of-memory killer would."""
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        """Let it end in its own way."""
        if self.process.poll() is None:
            self.process.communicate(timeout=30)


@pytest.fixture(name="server")
def _server() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(name="puppet")
def _puppet(tmp_path: Path, server: Collector) -> Iterator[Callable[[], Puppet]]:
    puppets: list[Puppet] = []

    def start() -> Puppet:
        puppets.append(Puppet(tmp_path / "state", server.url))
        return puppets[-1]

    yield start
    for puppet in puppets:
        if puppet.process.poll() is None:
            puppet.kill()


def settle(tmp_path: Path, server: Collector) -> None:
    """Deliver what is left and check the books."""
    with Agent("11", directory=tmp_path / "state", endpoint=server.url) as agent:
        assert agent.flush(30)
        assert server.conflicts == []
        balanced(agent)


def test_one_delivers_and_the_others_ask(
    puppet: Callable[[], Puppet], server: Collector, tmp_path: Path
) -> None:
    """Only the owner delivers; a flush in another process is carried out by it."""
    owner, guest = puppet(), puppet()
    assert owner("agent.status().delivers_here") is True
    assert guest("agent.status().delivers_here") is False
    owner("agent.change_interval(3600)")

    guest('agent.track("From The Guest")')
    assert guest("agent.flush(20)") is True

    assert [event.event for event in server.events()] == ["From The Guest"]
    assert guest("agent.status().delivered") == 1
    owner.end()
    guest.end()
    settle(tmp_path, server)


def test_a_login_is_seen_by_the_others(
    puppet: Callable[[], Puppet], server: Collector, tmp_path: Path
) -> None:
    """A user who logs in or out in one process does so in all, within seconds."""
    one, two = puppet(), puppet()
    user = one("agent.user_id")
    assert two("agent.user_id") == user

    # In this order: whoever knows the later one knows the earlier one.
    two('agent.add_event_properties({"screen": "front"})')
    two('agent.identify("alice")')
    eventually(lambda: one("agent.identity") == "alice")
    assert one("agent.user_id") == user
    one('agent.track("Seen")')
    one("agent.reset_identity()")
    eventually(lambda: two("agent.identity") is None)
    assert two("agent.user_id") == one("agent.user_id") != user

    one("agent.flush(20)")
    (seen,) = server.wait_for(1, name="Seen")
    assert (seen.identity, seen.properties) == ("alice", {"screen": "front"})
    one.end()
    two.end()
    settle(tmp_path, server)


def test_a_logout_survives_a_kill(
    puppet: Callable[[], Puppet], server: Collector, tmp_path: Path
) -> None:
    """What was said last counts after a kill, absorbed or not."""
    one = puppet()
    one('agent.identify("alice")')
    one("agent.reset_identity()")
    user = one("agent.user_id")
    one.kill()

    two = puppet()

    assert two("agent.identity") is None
    assert two("agent.user_id") == user
    two.end()
    settle(tmp_path, server)


@pytest.mark.parametrize("purge", [True, False])
def test_consent_is_withdrawn_everywhere(
    puppet: Callable[[], Puppet], server: Collector, tmp_path: Path, purge: bool
) -> None:
    """After an opt-out in one process nothing more leaves any of them, whatever they record."""
    server.stop()
    owner, guest = puppet(), puppet()
    owner('[agent.track("Before") for _ in range(20)]')
    guest('[agent.track("Before") for _ in range(20)]')

    guest(f"agent.opt_out(purge={purge})")
    owner('agent.track("Too Late, Perhaps")')
    server.start()

    eventually(lambda: owner("agent.status().opted_out") is True)
    owner('agent.track("Certainly Too Late")')
    owner("agent.flush(2)")
    assert server.events() == []
    found = owner("agent.status().as_dict()")
    assert found["queued"] == (0 if purge else 40)
    assert (found["dropped_by"].get("purged", 0) >= 40) is purge
    assert owner("agent.user_id") == (None if purge else guest("agent.user_id"))

    owner("agent.opt_in()")
    eventually(lambda: guest("agent.status().opted_out") is False)
    guest('agent.track("With Consent")')
    assert guest("agent.flush(20)") is True
    names = {event.event for event in server.events()}
    assert names == ({"With Consent"} if purge else {"Before", "With Consent"})
    owner.end()
    guest.end()
    settle(tmp_path, server)


def test_pausing_survives_a_restart(
    puppet: Callable[[], Puppet], server: Collector, tmp_path: Path
) -> None:
    """Nothing leaves while delivery is paused, also in later processes."""
    one = puppet()
    one("agent.pause_delivery()")
    one('agent.track("Patient")')
    assert one("agent.flush(1)") is False
    one.end()
    two = puppet()
    assert two("agent.status().paused") is True
    assert two("agent.flush(1)") is False
    assert server.events() == []

    two("agent.resume_delivery()")

    server.wait_for(1, name="Patient", timeout=30)
    two.end()
    settle(tmp_path, server)


def test_eight_first_processes_agree(
    puppet: Callable[[], Puppet], server: Collector, tmp_path: Path
) -> None:
    """However many processes begin at once, the device has one user."""
    puppets = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path / "state"), server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    answers = [process.communicate("agent.user_id\n", timeout=60)[0] for process in puppets]

    assert len({answer.split("\n")[1] for answer in answers}) == 1
    settle(tmp_path, server)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_program_that_becomes_a_daemon_at_once_delivers(
    tmp_path: Path, server: Collector
) -> None:
    """A fork in the middle of an import by the agent's thread does not end delivery."""
    program = f"""
import os, time
from heap_agent import Agent
agent = Agent("11", directory={str(tmp_path / "state")!r}, endpoint={server.url!r}, interval=0.1)
agent.track("Parent")
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
agent.track("Daemon")
deadline = time.monotonic() + 30
while agent.status().queued and time.monotonic() < deadline:
    time.sleep(0.05)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    deadline = time.monotonic() + 30
    while len(server.events()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)

    assert sorted(event.event for event in server.events()) == ["Daemon", "Parent"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_daemon_is_not_hurt_by_readers(tmp_path: Path, server: Collector) -> None:
    """A child that inherited an open queue survives others that look at it."""
    state, log = tmp_path / "state", tmp_path / "log"
    program = f"""
import faulthandler, os, time
from heap_agent import Agent
faulthandler.enable(open({str(log)!r}, "w"))
agent = Agent("11", directory={str(state)!r}, endpoint={server.url!r}, interval=0.1)
agent.track("Parent")
assert agent.flush(30)
if os.fork():
    os._exit(0)
os.setsid()
for number in range(200):
    agent.track("Daemon", {{"number": number}})
    time.sleep(0.01)
agent.flush(30)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    look = f"""
from pathlib import Path
from heap_agent._store.outlook import read_books
print(read_books(Path({str(state)!r}), "").counts["delivered"])
"""
    deadline = time.monotonic() + 60
    while len(server.events("Daemon")) < 200 and time.monotonic() < deadline:
        subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, timeout=60)

    assert log.read_text() == ""
    assert len(server.events("Daemon")) == 200
    settle(tmp_path, server)

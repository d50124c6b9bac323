"""An agent's Event Visualizer: who may start one, and what it costs."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from helpers import balanced, bytecodes, eventually
from visitor import Visitor

from heap_agent import Agent, InvalidCall, Pairing
from heap_agent._agent import PAIR, UNPAIR
from heap_agent._view.watch import LOOK, pause_after
from heap_agent.testing import Collector

MakeAgent = Callable[..., Agent]

PUPPET = Path(__file__).parent / "programs" / "puppet.py"
LOOKED_FOR = ("heap-agent-visualizer", "heap-agent-watch", "heap-agent-page")


def threads() -> set[str]:
    """The threads of a pairing."""
    return {thread.name for thread in threading.enumerate()} & {*LOOKED_FOR}


def refused(pairing: Pairing) -> bool:
    """Whether nobody listens at a URL any more."""
    url = Visitor(pairing).url
    try:
        socket.create_connection((str(url.hostname), url.port or 0), 1).close()
    except OSError:
        return True
    return False


# -- the verbs -----------------------------------------------------------------------


def test_a_pairing(make_agent: MakeAgent, caplog: pytest.LogCaptureFixture) -> None:
    """URL, code and end are returned, and logged for a device without a screen."""
    agent = make_agent()
    pairing = agent.start_ev_pairing(timeout=timedelta(minutes=1))
    assert pairing.url.startswith("http://127.0.0.1:")
    assert len(pairing.code) == 4 and pairing.code.isdigit()
    left = pairing.expires - datetime.now(timezone.utc)
    assert timedelta(seconds=30) < left <= timedelta(minutes=1)
    said = [record.getMessage() for record in caplog.records]
    assert any(pairing.url in text and pairing.code in text for text in said)
    assert pairing.code not in repr(pairing)
    agent.stop_ev_pairing()
    assert refused(pairing)
    eventually(lambda: not threads())
    agent.stop_ev_pairing()


def test_no_two_are_alike(make_agent: MakeAgent) -> None:
    """Neither path nor cookie can be guessed from another one."""
    agent = make_agent()
    first = Visitor(agent.start_ev_pairing()).enter()
    second = Visitor(agent.start_ev_pairing())
    assert first.url.path != second.url.path and len(first.url.path) == 12
    assert refused(first.pairing)
    second.cookie = first.cookie
    assert second.ask("GET", "feed?since=0").status == 401


def test_a_qr_code(make_agent: MakeAgent) -> None:
    """Lines of one length, of blocks, with a quiet zone."""
    lines = make_agent().start_ev_pairing().qr().split("\n")
    assert len({len(line) for line in lines}) == 1 and len(lines) >= 13
    assert {*"".join(lines)} == {*" █▀▄"}
    assert set(lines[0]) == {"█"}


@pytest.mark.parametrize(
    "options, text",
    [
        ({"bind": "kiosk.example"}, "bind must be an IP address"),
        ({"bind": None}, "bind must be an IP address"),
        ({"bind": ""}, "bind must be an IP address"),
        ({"port": -1}, "port must be a whole number from 0 to 65535"),
        ({"port": 65_536}, "port must be"),
        ({"port": "80"}, "port must be"),
        ({"port": True}, "port must be"),
        ({"timeout": 0}, "timeout must be a number of seconds, above zero"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("inf")}, "timeout must be"),
        ({"timeout": "900"}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
    ],
)
def test_wrong_arguments(make_agent: MakeAgent, options: Mapping[str, Any], text: str) -> None:
    """What came, and what is allowed; nothing was started."""
    with pytest.raises(InvalidCall, match=text):
        make_agent().start_ev_pairing(**options)
    eventually(lambda: not threads())


def test_a_port_that_is_taken(make_agent: MakeAgent) -> None:
    """Whoever asked is told."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError):
            make_agent().start_ev_pairing(port=taken.getsockname()[1])
    eventually(lambda: not threads())


def test_a_port_of_ones_own(make_agent: MakeAgent) -> None:
    """The same one again and again."""
    agent = make_agent()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for _ in range(3):
        visitor = Visitor(agent.start_ev_pairing(port=port)).enter()
        assert visitor.url.port == port and visitor.look()


def test_all_addresses(make_agent: MakeAgent, caplog: pytest.LogCaptureFixture) -> None:
    """The URL names one that can be reached; the log says that it is not encrypted."""
    pairing = make_agent().start_ev_pairing(bind="0.0.0.0")
    visitor = Visitor(pairing)
    assert visitor.url.hostname != "0.0.0.0"
    assert visitor.enter().look()
    assert any("not encrypted" in record.getMessage() for record in caplog.records)


def test_after_shutdown(make_agent: MakeAgent) -> None:
    """A running pairing ends with the agent, and none begins."""
    agent = make_agent()
    pairing = agent.start_ev_pairing()
    agent.shutdown()
    eventually(lambda: refused(pairing))
    eventually(lambda: not threads())
    with pytest.raises(InvalidCall, match="after shutdown"):
        agent.start_ev_pairing()


def test_several_threads_start_and_stop(make_agent: MakeAgent) -> None:
    """One page is left, the one that was asked for last; it is gone when it is stopped."""
    agent = make_agent()
    pairings: list[Pairing] = []
    troubles: list[BaseException] = []

    def start_and_stop(stops: bool) -> None:
        try:
            pairings.append(agent.start_ev_pairing())
            if stops:
                agent.stop_ev_pairing()
        except BaseException as error:
            troubles.append(error)

    crowd = [
        threading.Thread(target=start_and_stop, args=(bool(number % 2),)) for number in range(6)
    ]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert troubles == [] and len(pairings) == 6
    agent.stop_ev_pairing()
    assert all(map(refused, pairings))
    eventually(lambda: not threads())


def test_it_is_over_before_it_has_begun(make_agent: MakeAgent) -> None:
    """A pairing of no time at all is no longer running afterwards."""
    agent = make_agent()
    agent.start_ev_pairing(timeout=1e-6)
    assert agent._pairings is not None
    visualizer = agent._pairings._visualizer
    eventually(lambda: not visualizer.running)
    eventually(lambda: not threads())


def test_a_start_that_shutdown_overtakes(make_agent: MakeAgent) -> None:
    """Whoever has asked a moment before the end gets no page that outlives the agent."""
    agent = make_agent()
    pairings = agent._visualizer
    agent.shutdown()
    with pytest.raises(OSError, match="any more"):
        pairings.start("127.0.0.1", 0, 60)
    assert "any more" in agent._pair_for_others({})["error"]
    eventually(lambda: not threads())
    agent = make_agent()
    agent.shutdown()
    with pytest.raises(OSError, match="any more"):
        agent._visualizer.start("127.0.0.1", 0, 60)


def test_no_thread_can_be_started(make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as an error of the system's, and the port is free again."""
    agent = make_agent()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="can't start new thread"):
            agent.start_ev_pairing(port=port)
        assert "can't start" in agent._pair_for_others({})["error"]
    assert Visitor(agent.start_ev_pairing(port=port)).enter().look()


def test_a_directory_that_cannot_be_used(tmp_path: Path, make_agent: MakeAgent) -> None:
    """What is sent from memory is shown."""
    (tmp_path / "file").touch()
    with Collector() as collector:
        agent = make_agent(directory=tmp_path / "file" / "state", endpoint=collector.url)
        visitor = Visitor(agent.start_ev_pairing()).enter()
        visitor.look()
        agent.track("Buy")
        assert agent.flush(timeout=30)
        visitor.until(lambda: visitor.place("Buy") == "sent")
        assert visitor.scene["status"]["storage"] == "memory"


# -- what it costs -------------------------------------------------------------------


def test_nothing_of_it_is_loaded_unasked(tmp_path: Path) -> None:
    """A program that pairs nobody has none of its modules, threads or ports."""
    program = f"""
import sys, threading, time
from heap_agent import Agent
with Agent("11", directory={str(tmp_path / "state")!r}, endpoint="http://127.0.0.1:9",
           interval=0.1, pairing_signal=True) as agent:
    agent.track("e")
    time.sleep(1.5)
    agent.stop_ev_pairing()
    loaded = [name for name in sys.modules if name.startswith("heap_agent._view")]
    loaded += [name for name in ("uvicorn", "starlette", "segno") if name in sys.modules]
    print(loaded, [t.name for t in threading.enumerate() if "v" in t.name[11:]])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["[]", "[]"] and done.stderr == ""


def test_recording_is_the_same_while_somebody_watches(make_agent: MakeAgent) -> None:
    """Not one bytecode more: the page reads the directory."""
    agent = make_agent()
    agent.track("e", {"a": 1})

    def cost() -> int:
        def work() -> None:
            agent.track("e", {"a": 1})

        bytecodes(work)  # 3.12 counts only from the second time on
        return min(bytecodes(work) for _ in range(5))

    before = cost()
    visitor = Visitor(agent.start_ev_pairing()).enter()
    visitor.look()
    assert cost() == before > 0


def test_nobody_looks_while_nobody_asks(make_agent: MakeAgent) -> None:
    """A pairing that waits for its browser reads nothing."""
    agent = make_agent()
    agent.start_ev_pairing()
    eventually(lambda: "heap-agent-page" in threads())
    assert agent._pairings is not None
    session = agent._pairings._visualizer._running
    time.sleep(1.0)
    assert session is not None and session._watch.scene == {}
    Visitor(session.pairing).enter().look()
    assert session._watch.scene != {}


def test_looks_take_a_share_of_one_core() -> None:
    """A tenth at most while much is recorded, as long as news come within a second."""
    assert pause_after(0.0) == pause_after(0.001) == LOOK
    assert pause_after(0.06) == pytest.approx(0.54)
    assert pause_after(5.0) == 1.0


# -- the gesture ---------------------------------------------------------------------


class Puppet:
    """A program with an agent, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        assert json.loads(self._line()) == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def does(self, expression: str) -> Any:
        """What an expression over `agent` gives."""
        assert self._process.stdin is not None
        print(expression, file=self._process.stdin, flush=True)
        return json.loads(self._line())


@pytest.fixture(name="puppet")
def _puppet(tmp_path: Path, collector: Collector) -> Iterator[Callable[..., Puppet]]:
    running = []

    def start(**environment: str) -> Puppet:
        process = subprocess.Popen(
            [sys.executable, str(PUPPET), str(tmp_path / "state"), collector.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        running.append(process)
        return Puppet(process)

    yield start
    for process in running:
        with process:
            process.kill()


@contextmanager
def asking(directory: Path) -> Iterator[Callable[..., Any]]:
    """A command of the same user, in a process of its own as far as the agent can tell."""
    with Agent(_guest=True, at_exit=False, directory=directory) as guest:
        yield lambda what, **arguments: guest._store.ask(what, arguments, 30.0)


def test_somebody_asks_from_outside(puppet: Callable[..., Puppet], tmp_path: Path) -> None:
    """Through the state directory: the agent that runs starts a pairing, and ends it."""
    program = puppet()
    with asking(tmp_path / "state") as ask:
        answer = ask(PAIR, timeout=60)
        pairing = Pairing(answer["url"], answer["code"], datetime.fromisoformat(answer["expires"]))
        visitor = Visitor(pairing).enter()
        visitor.look()
        program.does("agent.track('Buy')")
        visitor.until(lambda: visitor.place("Buy") == "sent")
        assert ask(UNPAIR) == {}
        assert refused(pairing)
    assert program.does("agent.check()") == []


def test_what_is_asked_is_checked(make_agent: MakeAgent) -> None:
    """Another version may ask for something else: it is answered, and nothing starts."""
    agent = make_agent()
    for arguments in ({"bind": "x"}, {"port": "80"}, {"timeout": -1}):
        assert "must be" in agent._pair_for_others(arguments)["error"]
    assert "url" in agent._pair_for_others({"unknown": 1})


def test_the_gesture_is_disabled(puppet: Callable[..., Puppet], tmp_path: Path) -> None:
    """For good, in every process; the program itself may still start one."""
    program = puppet()
    program.does("agent.disable_visualizer_pairing_gesture()")
    with asking(tmp_path / "state") as ask:
        assert ask(PAIR) == {"error": "the program has disabled pairing from outside"}
    assert program.does("agent.start_ev_pairing().url").startswith("http://")
    program.does("agent.enable_visualizer_pairing_gesture()")
    with asking(tmp_path / "state") as ask:
        assert "url" in ask(PAIR)


def test_it_stays_disabled(make_agent: MakeAgent, tmp_path: Path) -> None:
    """Also after a restart."""
    agent = make_agent()
    agent.disable_visualizer_pairing_gesture()
    agent.disable_visualizer_pairing_gesture()
    agent.shutdown()
    agent = make_agent()
    assert "error" in agent._pair_for_others({})
    agent.enable_visualizer_pairing_gesture()
    assert "url" in agent._pair_for_others({})
    balanced(agent)


posix = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX has it")


@posix
def test_a_signal(puppet: Callable[..., Puppet]) -> None:
    """Where the program asks for it."""
    program = puppet(HEAP_AGENT_PAIRING_SIGNAL="true")
    assert program.does("agent._pairings is None")
    os.kill(program.pid, signal.SIGUSR1)
    running = "agent._pairings is not None and agent._pairings._visualizer.running"
    eventually(lambda: program.does(running))
    program.does("agent.stop_ev_pairing()")
    program.does("agent.disable_visualizer_pairing_gesture()")
    os.kill(program.pid, signal.SIGUSR1)
    time.sleep(1.2)
    assert program.does(running) is False


@posix
def test_no_signal_is_listened_to_unasked(make_agent: MakeAgent) -> None:
    """Whoever listened to it still does."""
    before = signal.getsignal(signal.SIGUSR1)
    make_agent()
    assert signal.getsignal(signal.SIGUSR1) is before


@posix
def test_who_listened_before_is_called_too(make_agent: MakeAgent) -> None:
    """A handler of the program's own; and it is the program's again at the end."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    own = signal.getsignal(signal.SIGUSR1)
    try:
        agent = make_agent(pairing_signal=True)
        signal.raise_signal(signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
        eventually(lambda: agent._pairings is not None)
        agent.shutdown()
        assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before)


@posix
def test_a_signal_that_cannot_be_listened_to(
    make_agent: MakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the main thread may: it is told, and everything else works."""
    found: list[Agent] = []
    thread = threading.Thread(target=lambda: found.append(make_agent(pairing_signal=True)))
    thread.start()
    thread.join()
    assert any("pairing_signal" in problem for problem in found[0].status().problems)
    assert logging.ERROR in [record.levelno for record in caplog.records]


# -- several processes ---------------------------------------------------------------


def test_watching_what_another_process_delivers(
    make_agent: MakeAgent, puppet: Callable[..., Puppet], collector: Collector
) -> None:
    """Its events are shown, and its dead letters are sent again through it."""
    program = puppet()
    eventually(lambda: program.does("agent.status().delivers_here"))
    agent = make_agent(endpoint=collector.url)
    visitor = Visitor(agent.start_ev_pairing()).enter()
    assert visitor.look()["delivers_here"] is False
    collector.reply(400, 400, 400, 400)
    program.does("agent.track('Bad')")
    visitor.until(lambda: visitor.place("Bad") == "dead")
    collector.normal()
    item = visitor.named("Bad")
    assert item is not None
    assert visitor.ask("POST", "retry", {"rows": [item["n"]]}).fields == {"restored": 1}
    visitor.until(lambda: visitor.place("Bad") == "sent")
    balanced(agent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX has it")
def test_a_forked_child_has_no_page(make_agent: MakeAgent) -> None:
    """The parent's goes on, and ends with the parent's."""
    agent = make_agent()
    visitor = Visitor(agent.start_ev_pairing()).enter()
    visitor.look()
    child = os.fork()
    if not child:
        code = 1
        try:
            agent.track("Child")
            agent.stop_ev_pairing()
            code = int(agent._pairings is not None)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    visitor.until(lambda: visitor.named("Child"))
    agent.stop_ev_pairing()
    assert refused(visitor.pairing)


def test_an_old_page_takes_nothing_from_a_new_one(make_agent: MakeAgent) -> None:
    """What ends late does not stop the sender from telling whoever came after it."""
    agent = make_agent()
    device = agent._visualizer._visualizer._device
    first: list[object] = []
    second: list[object] = []
    device.tap(first.append)
    device.tap(second.append)
    device.untap(first.append)
    assert agent._outbox.drain.watch == second.append
    device.untap(second.append)
    assert agent._outbox.drain.watch is None

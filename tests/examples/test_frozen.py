"""
Programs frozen by PyInstaller as the how-to says: the kiosk, and one that does what it is told.

What arrives was delivered by the frozen programs themselves.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import ticket_machine
import trustme
from commands import PATIENCE, environment
from helpers import balanced, heir
from screen import Screen, needs_a_screen, virtual_screen
from strange_system import on_a_strange_system
from ticket_machine import log_in, press
from visitor import Visitor

import heap_agent
from heap_agent import Pairing
from heap_agent.testing import Collector

if find_spec("PyInstaller") is None:
    pytest.skip("needs PyInstaller", allow_module_level=True)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "frozen.md"
PROGRAM = Path(__file__).parents[1] / "programs" / "frozen.py"

if not PAGE.exists():  # the suite without its checkout
    pytest.skip("there is no how-to beside the tests", allow_module_level=True)

#: The page's commands.
COMMANDS = re.findall(r"^pyinstaller .*$", PAGE.read_text("utf-8"), re.MULTILINE)


# -- building -------------------------------------------------------------------------


def freeze(command: str, script: Path, folder: Path) -> Path:
    """Carry a command out in a folder that has nothing but a script; the program."""
    shutil.copy(script, folder)
    options = {
        # Of an editable installation PyInstaller sees no modules.
        "PYTHONPATH": str(Path(heap_agent.__file__).parents[1]),
        "PYINSTALLER_CONFIG_DIR": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", *command.replace("pyinstaller", "PyInstaller", 1).split()],
        cwd=folder,
        env={**os.environ, **options},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = folder / "dist" / script.stem
    return made / script.stem if made.is_dir() else made


@pytest.fixture(name="kiosk", scope="session", params=COMMANDS)
def _kiosk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, as one folder or as one file."""
    return freeze(request.param, ticket_machine.SOURCE, tmp_path_factory.mktemp("kiosk"))


@pytest.fixture(name="program", scope="session")
def _program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file without assertions and docstrings, as `python -OO`."""
    command = "pyinstaller --onefile --optimize 2 frozen.py"
    return freeze(command, PROGRAM, tmp_path_factory.mktemp("program"))


# -- the kiosk ------------------------------------------------------------------------


@pytest.fixture(name="screen", scope="module")
def _screen() -> Iterator[Screen]:
    with virtual_screen() as screen:
        yield screen


def test_the_page_has_both_forms() -> None:
    """One folder and one file, of the kiosk."""
    forms = [command.split()[1:] for command in COMMANDS]
    assert forms == [["--onedir", "kiosk.py"], ["--onefile", "kiosk.py"]]


@needs_a_screen
def test_a_kiosk_runs_and_delivers(
    screen: Screen, kiosk: Path, collector: Collector, tmp_path: Path
) -> None:
    """It is used as any other, and has delivered everything when it ends."""
    options = {"HEAP_AGENT_APP_ID": "11", "HEAP_AGENT_ENDPOINT": collector.url}
    with ticket_machine.running(screen, [kiosk], environment(tmp_path, options)) as machine:
        machine.visit(press("Day"), log_in("70123"), press("Single"), press("Log out"))
        machine.visit(press("Bicycle"))
        machine.close()
    known, unknown = collector.users
    assert (known.identity, unknown.identity) == ("70123", None)
    assert [event.properties.get("kind") for event in known.events] == [None, "Day", "Single", None]
    assert [event.properties.get("kind") for event in unknown.events] == [None, "Bicycle"]
    assert known.properties == {"Last Ticket": "Single"}
    with heir(tmp_path / "states" / "heap_agent" / "11", collector.url) as agent:
        assert agent.status().delivered == 6
        balanced(agent)


# -- a program that does what it is told ----------------------------------------------


class Told:
    """The program, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, expression: str) -> Any:
        """The value of an expression there."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        assert (answer := self._process.stdout.readline()), self._process.communicate()[1]
        return json.loads(answer)

    def end(self) -> None:
        """Ask for nothing more; it ends without a word."""
        out, err = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, out, err) == (0, "", "")

    def kill(self) -> None:
        """As the kernel does when the memory is used up: both of its processes at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


Start = Callable[..., Any]


@pytest.fixture(name="start")
def _start(program: Path, collector: Collector, tmp_path: Path) -> Iterator[Start]:
    """
    Starts the program, with no other options than where it delivers; everything that it has
    recorded is accounted for in the end.
    """
    options = {
        "HEAP_AGENT_APP_ID": "11",
        "HEAP_AGENT_ENDPOINT": collector.url,
        "HEAP_AGENT_INTERVAL": "3600",
        "TMPDIR": str(tmp_path),
    }

    @contextmanager
    def start(*before: str, **changes: str) -> Iterator[Told]:
        with subprocess.Popen(
            [*before, str(program)],
            env=environment(tmp_path, {**options, **changes}),
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            told = Told(process)
            try:
                yield told
                if process.returncode is None:
                    told.end()
            finally:
                if process.returncode is None:
                    told.kill()

    yield start
    with heir(tmp_path / "states" / "heap_agent" / "11", collector.url) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)


def test_all_of_it_is_inside(start: Start) -> None:
    """The modules, the version, and orjson; nothing of them is this installation's."""
    with start() as program:
        assert program.ask("heap_agent.__file__").startswith(program.ask("sys._MEIPASS"))
        assert program.ask("heap_agent.__version__") == heap_agent.__version__
        assert program.ask("USER_AGENT").startswith(f"heap_agent/{heap_agent.__version__} ")
        assert program.ask("encoder.dumps.__module__") == "orjson"
        assert program.ask("__doc__") is None


def test_the_page_is_served(start: Start) -> None:
    """A browser is let in, gets the page, and sees what is tracked."""
    with start() as program:
        url, code = program.ask(
            "(lambda pairing: (pairing.url, pairing.code))(agent.start_ev_pairing())"
        )
        visitor = Visitor(Pairing(url, code, datetime.now(timezone.utc))).enter()
        page = visitor.ask("GET", "")
        assert (page.status, page.body[:15]) == (200, b"<!doctype html>")
        program.ask("agent.track('Seen')")
        visitor.until(lambda: visitor.named("Seen"))


def test_a_kill_loses_nothing(start: Start, collector: Collector) -> None:
    """The next start, which unpacks to another folder, is the same user, and delivers."""
    with start(HEAP_AGENT_ENDPOINT="http://127.0.0.1:9") as program:
        before = program.ask("(sys._MEIPASS, agent.user_id)")
        program.ask("[agent.track('E', {'n': n}) for n in range(100)]")
        program.kill()
    with start() as program:
        after = program.ask("(sys._MEIPASS, agent.user_id)")
        assert program.ask("agent.flush(timeout=30)")
    assert (after[0] != before[0], after[1]) == (True, before[1])
    assert [event.properties["n"] for event in collector.events("E")] == [*range(100)]
    assert [user.user_ids for user in collector.users] == [(before[1],)]


def test_state_is_kept_out_of_the_program(start: Start) -> None:
    """What it unpacks is gone when it ends: a directory in there is refused, aloud."""
    with start() as program:
        storage, problems = program.ask(
            "(lambda status: (status.storage, status.problems))"
            "(Agent('11', directory=sys._MEIPASS + '/state').status())"
        )
        assert storage == "memory"
        assert "among the program's own files" in problems[0]


def test_processes_of_it_share_a_directory(start: Start, collector: Collector) -> None:
    """What another process has tracked is delivered with the rest, as one user's."""
    with start() as program:
        program.ask("agent.track('Here')")
        assert program.ask("elsewhere('There')") == 0
        assert program.ask("agent.flush(timeout=30)")
    (user,) = collector.users
    assert sorted(event.event for event in user.events) == ["Here", "There"]


def test_the_collector_is_inside(start: Start) -> None:
    """A frozen program may have its own tests: the server-side API meets it there."""
    with start() as program:
        assert program.ask("meet()") == ["E"]


def test_the_command_line_is_inside(program: Path, tmp_path: Path) -> None:
    """It looks at a directory as the installed one does; there is no Python to demonstrate with."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *words],
            env=environment(tmp_path, {"TMPDIR": str(tmp_path)}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    directory = str(tmp_path / "state")
    tracked = run("track", "E", "--directory", directory, "--app-id", "11")
    assert (tracked.returncode, tracked.stderr) == (0, "")
    assert json.loads(run("status", "--directory", directory, "--json").stdout)["recorded"] == 1
    refused = run("demo", "--events", "10")
    assert refused.returncode == 1
    assert refused.stderr.startswith("heap-agent: ") and "frozen" in refused.stderr


# -- encrypted ------------------------------------------------------------------------


@pytest.fixture(name="safe")
def _safe(ca: trustme.CA, tmp_path: Path) -> Iterator[Collector]:
    """A collector that speaks TLS; of its two names only one can be looked up."""
    certificate = ca.issue_cert("127.0.0.1", "heap.example")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    certificate.private_key_pem.write_to_path(str(key))
    with Collector(certfile=chain, keyfile=key) as collector:
        yield collector


def delivers(program: Told) -> bool:
    """Whether what is tracked arrives."""
    program.ask("agent.track('E')")
    return bool(program.ask("agent.flush(timeout=30)"))


def test_nobody_is_trusted_unasked(start: Start, safe: Collector) -> None:
    """A certificate of an authority that the machine does not know stops a delivery."""
    with start(HEAP_AGENT_ENDPOINT=safe.url) as program:
        assert not program.ask("agent.track('E') or agent.flush()")
        assert "CERTIFICATE_VERIFY_FAILED" in program.ask("agent.status().last_error")


@pytest.mark.parametrize("variable", ["HEAP_AGENT_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_authority_may_be_named(
    start: Start, safe: Collector, bundle: str, variable: str
) -> None:
    """By an option of ours, and by OpenSSL's variable."""
    with start(HEAP_AGENT_ENDPOINT=safe.url, **{variable: bundle}) as program:
        assert delivers(program)
    assert len(safe.events("E")) == 1


def test_the_machines_authorities_are_trusted(start: Start, safe: Collector, bundle: str) -> None:
    """Wherever it keeps them: the OpenSSL inside knows the place on another system only."""
    strange = on_a_strange_system(bundle)
    with start(*strange, HEAP_AGENT_ENDPOINT=safe.url) as program:
        assert delivers(program)
    assert len(safe.events("E")) == 1


@contextmanager
def proxy_to(url: str) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that leads every CONNECT to one server; its URL, and what it was asked for."""
    asked: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = iter(self.rfile.readline, b"\r\n")
            asked.append(next(head))
            list(head)
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            port = int(url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as there:
                carry(self.connection, there)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def carry(one: socket.socket, other: socket.socket) -> None:
    """What either says to the other, until one is silent for good."""
    while True:
        for source in select.select([one, other], [], [])[0]:
            piece = source.recv(65_536)
            if not piece:
                return
            (other if source is one else one).sendall(piece)


def test_a_proxy_leads_outside(start: Start, safe: Collector, bundle: str) -> None:
    """The tunnel is verified by the name at its other end, which only the proxy can look up."""
    with proxy_to(safe.url) as (proxy, asked):
        with start(
            HEAP_AGENT_ENDPOINT="https://heap.example",
            HEAP_AGENT_CA_BUNDLE=bundle,
            HTTPS_PROXY=proxy,
            NO_PROXY="",
            no_proxy="",
        ) as program:
            assert delivers(program)
    assert asked[0].startswith(b"CONNECT heap.example:443 ")
    assert len(safe.events("E")) == 1

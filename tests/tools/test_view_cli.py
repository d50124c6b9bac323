"""The commands that show events as they happen, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, Command, arguments, environment, running
from helpers import eventually
from visitor import Visitor

from heap_agent import Agent, Pairing
from heap_agent._store import outlook
from heap_agent._store.event_queue import EventQueue
from heap_agent._store.ledger import Ledger
from heap_agent.testing import Collector

posix = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C as POSIX has it")


@contextmanager
def agent_on(place: Path, **options: Any) -> Iterator[Agent]:
    """An agent that is running in another process than the command's."""
    chosen = {"endpoint": "http://127.0.0.1:9", "interval": 3600, "at_exit": False, **options}
    with Agent("11", directory=place, **chosen) as agent:
        yield agent


def pairing_of(fields: dict[str, Any]) -> Pairing:
    """What a command has printed."""
    return Pairing(fields["url"], fields["code"], datetime.fromisoformat(fields["expires"]))


def contents(place: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


# -- pair ----------------------------------------------------------------------------


def test_pair_starts_a_page_in_the_agent(command: Command, place: Path) -> None:
    """And --stop ends it."""
    with agent_on(place) as agent:
        fields = command("pair", "--directory", place, "--timeout", 60, "--json").json
        assert fields["directory"] == str(place)
        visitor = Visitor(pairing_of(fields)).enter()
        visitor.look()
        agent.track("Buy")
        visitor.until(lambda: visitor.place("Buy") == "journal")
        assert visitor.scene["now"]["ends_in"] <= 60
        assert command("pair", "--directory", place, "--stop").out == "no page is served any more\n"
        assert agent._pairings is not None and not agent._pairings._visualizer.running


def test_pair_speaks_to_people(command: Command, place: Path) -> None:
    """A QR code, the URL, the code."""
    with agent_on(place):
        out = command("pair", "--directory", place).out
    assert re.search(r"open +http://127\.0\.0\.1:\d+/[a-z2-9]{10}/", out)
    assert re.search(r"code +\d{4} *\n", out)
    assert sum({*line.strip()} <= {*" █▀▄"} for line in out.splitlines()) > 10


def test_pair_without_an_agent(command: Command, place: Path) -> None:
    """It says what shows a directory alone."""
    with agent_on(place):
        pass
    result = command("pair", "--directory", place)
    assert result.code == 1 and "heap-agent view" in result.sentence


def test_pair_where_the_program_does_not_want_it(command: Command, place: Path) -> None:
    """It says so."""
    with agent_on(place) as agent:
        agent.disable_visualizer_pairing_gesture()
        result = command("pair", "--directory", place)
    assert (result.code, result.out) == (1, "")
    assert result.sentence == "heap-agent: the program has disabled pairing from outside"


@pytest.mark.parametrize(
    "options, text",
    [
        (("--bind", "kiosk"), "'kiosk' is no IP address"),
        (("--port", "70000"), "70000 is not in the range"),
        (("--timeout", "0"), "0"),
        (("--timeout", "nan"), "no number of seconds"),
    ],
)
@pytest.mark.parametrize("name", ["pair", "view"])
def test_wrong_options(command: Command, place: Path, name: str, options: Any, text: str) -> None:
    """One sentence, and exit code 2."""
    result = command(name, "--directory", place, *options)
    assert result.code == 2 and text in result.sentence


@pytest.mark.parametrize("name", ["pair", "view", "live"])
def test_nothing_is_there(command: Command, place: Path, name: str) -> None:
    """No directory is made."""
    result = command(name, "--directory", place)
    assert result.code == 1 and result.sentence
    assert not place.exists()


# -- view ----------------------------------------------------------------------------


@posix
def test_view_shows_a_directory_alone(tmp_path: Path, place: Path) -> None:
    """Nothing is written there, and nothing can be sent again from there."""
    with agent_on(place, shutdown_timeout=0) as agent:
        agent.add_event_properties({"site": "Lyon 3"})
        agent.identify("alice")
        agent.track("Buy", {"dollars": 5})
        assert agent.sync()
    before = contents(place)
    with running(tmp_path, "view", "--directory", place, "--json") as process:
        assert process.stdout is not None
        visitor = Visitor(pairing_of(json.loads(process.stdout.readline()))).enter()
        visitor.until(lambda: visitor.named("Buy"))
        scene = visitor.scene
        assert (scene["can_retry"], scene["delivers_here"]) == (False, False)
        assert scene["who"]["identity"] == "alice"
        assert scene["properties"]["event"] == {"site": "Lyon 3"}
        assert scene["status"]["recorded"] == 1
        answer = visitor.ask("POST", "retry", {"rows": [1]})
        assert answer.fields == {"error": "this page only looks on"}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.strip()) == (130, "")
    after = contents(place)
    assert {name: data for name, data in after.items() if not name.endswith(("-shm", "-wal"))} == {
        name: data for name, data in before.items() if not name.endswith(("-shm", "-wal"))
    }


@posix
def test_view_ends_when_the_page_does(tmp_path: Path, command: Command, place: Path) -> None:
    """By its button, and by time."""
    with agent_on(place) as agent:
        agent.track("Buy")
    with running(tmp_path, "view", "--directory", place, "--json") as process:
        assert process.stdout is not None
        visitor = Visitor(pairing_of(json.loads(process.stdout.readline()))).enter()
        assert visitor.ask("POST", "end", {}).status == 204
        assert process.wait(PATIENCE) == 0
    assert command("view", "--directory", place, "--timeout", 1, "--no-browser").code == 0


@posix
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_view_on_a_directory_that_cannot_be_written(tmp_path: Path, place: Path) -> None:
    """As on a disk that is read-only."""
    with agent_on(place) as agent:
        agent.track("Buy")
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(0o500)
    try:
        with running(tmp_path, "view", "--directory", place, "--json") as process:
            assert process.stdout is not None
            visitor = Visitor(pairing_of(json.loads(process.stdout.readline()))).enter()
            visitor.until(lambda: visitor.named("Buy"))
    finally:
        place.chmod(mode)


@posix
def test_view_of_a_damaged_queue(tmp_path: Path, place: Path) -> None:
    """What is in the journals is shown, and why there is no more."""
    with agent_on(place, shutdown_timeout=0) as agent:
        agent.track("Buy")
    for log in place.glob("queue-1.db-*"):
        log.unlink()
    (place / "queue-1.db").write_bytes(b"no database" * 1_000)
    with running(tmp_path, "view", "--directory", place, "--json") as process:
        assert process.stdout is not None
        visitor = Visitor(pairing_of(json.loads(process.stdout.readline()))).enter()
        visitor.until(lambda: visitor.named("Buy"))
        (problem,) = visitor.scene["status"]["problems"]
        assert "the queue cannot be read: " in problem


# -- live ----------------------------------------------------------------------------


def lines(out: str) -> list[dict[str, Any]]:
    """What was printed for a program."""
    return [json.loads(line) for line in out.splitlines()]


def test_live_beside_an_agent(tmp_path: Path, place: Path, collector: Collector) -> None:
    """A line when an event is recorded, and one for each place that it comes to."""
    with agent_on(place, endpoint=collector.url) as agent:
        with running(tmp_path, "live", "--directory", place, "--json", "--count", 2) as process:
            assert process.stdout is not None
            eventually(lambda: agent.track("Buy", {"item": "Furby\x1b[2J"}) or True)
            first = json.loads(process.stdout.readline())
            assert agent.flush(timeout=30)
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    places = [first["place"], *(line["place"] for line in lines(out))]
    assert places[0] in ("journal", "queue", "sent") and places[-1] in ("queue", "sent")
    assert first["properties"] == {"item": "Furby\x1b[2J"}


def test_live_of_what_was(command: Command, place: Path) -> None:
    """Without an agent: the last ones, and the end when told."""
    with agent_on(place, shutdown_timeout=0) as agent:
        for number in range(5):
            agent.track(f"Event {number}", {"n": number})
        agent.identify("alice")
        agent.track("Last")
    out = command("live", "--directory", place, "--timeout", 0, "--json").out
    assert [line["name"] for line in lines(out) if line["kind"] == "event"] == [
        *(f"Event {number}" for number in range(5)),
        "Last",
    ]
    filtered = command("live", "--directory", place, "--timeout", 0, "--filter", "ALICE").out
    assert "Last" in filtered and "Event" not in filtered
    one = command("live", "--directory", place, "--filter", "event 3", "--timeout", 0).out
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  \S+ \w+ +Event 3  anonymous \d+  n=3\n", one)


def test_live_plays_no_tricks_on_a_terminal(command: Command, place: Path) -> None:
    """Whatever an event is called."""
    with agent_on(place, shutdown_timeout=0) as agent:
        agent.track("Red\x1b[31m\u202e", {"a\nb": "c\rd"})
    out = command("live", "--directory", place, "--timeout", 0).out
    assert out.count("\n") == 1 and not {"\x1b", "\r", "\u202e"} & {*out}


def test_live_shows_why_something_is_dead(command: Command, place: Path) -> None:
    """With the answer."""
    with agent_on(place, shutdown_timeout=0) as agent:
        agent.track("Bad")
    clock = agent._clock
    with_queue(place, clock.boot_id, lambda queue: queue.bury([1], status=400, reason="no", now=5))
    (line,) = lines(command("live", "--directory", place, "--timeout", 0, "--json").out)
    assert (line["place"], line["answer"]["status"], line["answer"]["reason"]) == (
        "dead",
        400,
        "no",
    )


def with_queue(place: Path, boot_id: str, change: Any) -> None:
    """Change the queue as its owner does."""
    ledger = Ledger.open(
        outlook.database_path(place),
        boot_id=boot_id,
        own_journal=lambda: "0" * 16,
        earlier_boots=[],
    )
    ledger.absorber.absorb(freeze=False)
    queue: EventQueue = ledger.queue
    change(queue)
    ledger.close()


@posix
def test_live_is_a_table_on_a_terminal(tmp_path: Path, place: Path) -> None:
    """With the books above it; Ctrl-C ends it and leaves the terminal as it was."""
    import pty

    with agent_on(place) as agent:
        agent.track("Buy", {"dollars": 5})
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            arguments(("live", "--directory", place)),
            env=environment(tmp_path, {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}),
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        try:
            shown = b""
            while b"dollars=5" not in shown or b"recorded 1" not in shown:
                shown += os.read(leader, 65_536)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()
            process.wait()
            os.close(leader)
    assert b"journal" in shown and b"anonymous" in shown


@pytest.mark.parametrize("name", ["pair", "view", "live"])
def test_help_says_what_programs_may_read(command: Command, name: str) -> None:
    """The fields of --json are named."""
    help = command(name, "--help").out
    assert "--json:" in help and "directory" in help


def test_showing_costs_no_delivery(tmp_path: Path, place: Path) -> None:
    """What only sends is not loaded to look on."""
    with agent_on(place) as agent:
        agent.track("Buy")
    code = (
        "import sys; from heap_agent._tools.cli import main;"
        f"main(['live', '--directory', {str(place)!r}, '--timeout', '0', '--json']);"
        "print({'urllib3', 'uvicorn', 'starlette', 'apscheduler'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(tmp_path, {}),
    )
    assert done.stdout.splitlines()[-1] == "set()"

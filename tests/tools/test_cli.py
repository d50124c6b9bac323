"""The commands, as the real processes that people start."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, Command, Result, arguments, environment, running
from hypothesis import given
from hypothesis import strategies as st

from heap_agent import Agent
from heap_agent._tools.arguments import parse_properties, parse_timestamp
from heap_agent.testing import Collector

HEAVY = {"rich", "urllib3", "uvicorn", "starlette", "apscheduler"}

posix = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C and pipes as POSIX has them")


def agent_on(place: Path, collector: Collector, **options: Any) -> Agent:
    return Agent(
        "11",
        directory=place,
        endpoint=collector.url,
        interval=0.2,
        at_exit=False,
        **options,
    )


def balanced(status: Mapping[str, Any]) -> bool:
    kept = status["queued"] + status["delivered"] + status["dead"] + status["dropped"]
    return bool(status["recorded"] == kept)


# -- all commands ----------------------------------------------------------------------


def test_version_is_printed(command: Command) -> None:
    """--version prints the name and a number."""
    result = command("--version")
    assert result.code == 0
    assert result.out.startswith("heap-agent ")


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    """Asking for help costs no HTTP client, no server and no tables."""
    code = (
        "import sys; from heap_agent._tools.cli import main; code = main(['--help']);"
        f"sys.exit(code or str({HEAVY!r} & set(sys.modules)).replace('set()', '') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    names = ("demo", "track", "identify", "status", "flush", "forget", "collector")
    for name in (
        *names,
        "completion",
        "config",
        "dead",
        "doctor",
        "live",
        "pair",
        "paths",
        "seal",
        "view",
    ):
        assert f"\n  {name} " in done.stdout


def test_no_command_is_wrong_use(command: Command) -> None:
    """Without a command there is help, on standard error."""
    result = command()
    assert (result.code, result.out) == (2, "")
    assert "Commands:" in result.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trak"], "trak"),
        (["track"], "EVENT"),
        (["track", "  ", "--app-id", "11"], "blank"),
        (["track", "Ordered"], "app id is missing"),
        (["track", "Ordered", "--app-id", "eleven"], "'eleven' came"),
        (["track", "Ordered", "--app-id", "11", "dollars"], "KEY=VALUE"),
        (["track", "Ordered", "--app-id", "11", "=5"], "KEY=VALUE"),
        (["track", "Ordered", "--app-id", "11", "a=1", "-s", "a=2"], "given twice"),
        (["track", "Ordered", "--app-id", "11", "--properties", "[1]"], "no object"),
        (["track", "Ordered", "--app-id", "11", "--properties", "{"], "no JSON"),
        (["track", "Ordered", "--app-id", "11", "--properties", '{"a": NaN}'], "NaN"),
        (["track", "Ordered", "--app-id", "11", "--timestamp", "noon"], "no time"),
        (["track", "Ordered", "--app-id", "11", "--timestamp", "1e300"], "timestamp"),
        (["identify", "alice"], "app id is missing"),
        (["status"], "app id is missing"),
        (["status", "--max-age", "-1", "--app-id", "11"], "--max-age"),
        (["flush"], "app id is missing"),
        (["flush", "--timeout", "soon", "--app-id", "11"], "--timeout"),
        (["flush", "--endpoint", "ftp://x", "--directory", "."], "endpoint"),
        (["collector", "--port", "70000"], "--port"),
        (["demo", "--events", "1"], "--events"),
        (["track", "Ordered", "--app-id", "11", "--directory", ""], "--directory"),
        (["identify", "alice", "--app-id", "11", "--directory", ""], "--directory"),
        (["status", "--directory", ""], "--directory"),
        (["flush", "--directory", ""], "--directory"),
        (["forget", "--identity", "a", "--yes", "--directory", ""], "--directory"),
        (["status", "--max-age", "nan", "--app-id", "11"], "--max-age"),
        (["flush", "--timeout", "nan", "--app-id", "11"], "--timeout"),
        (["identify", b"\xff", "--app-id", "11"], "IDENTITY"),
        (["forget", "--identity", b"a\xff", "--yes", "--app-id", "11"], "--identity"),
        (["forget", "--user-id", b"\xff", "--yes", "--app-id", "11"], "--user-id"),
        (["deletion-status", b"\xff", "--app-id", "11"], "ID"),
        (["collector", "--host", b"\xff"], "--host"),
    ],
)
def test_wrong_use_gets_one_sentence(
    command: Command, tmp_path: Path, words: list[str | bytes], says: str
) -> None:
    """Exit code 2, one line on standard error, and nothing is made on the disk."""
    result = command(*words)
    assert (result.code, result.out) == (2, "")
    assert result.sentence.startswith("heap-agent: ")
    assert says in result.sentence
    assert not (tmp_path / "states").exists()


def test_a_bad_app_id_in_the_environment_is_named(command: Command) -> None:
    """The sentence about a missing app id says why the one that was set did not count."""
    result = command("track", "Ordered", HEAP_AGENT_APP_ID="eleven")
    assert result.code == 2
    assert "HEAP_AGENT_APP_ID" in result.sentence and "'eleven' came" in result.sentence


@posix
def test_a_reader_that_goes_away_is_no_error(command: Command, tmp_path: Path, place: Path) -> None:
    """Where nobody reads standard output any more, the end is quiet."""
    assert command("track", "Ordered", "--directory", place, "--app-id", "11").code == 0
    reader, writer = os.pipe()
    os.close(reader)
    for words in (["status"], ["status", "--json"], ["--help"]):
        done = subprocess.run(
            arguments((*words, *(["--directory", place] if words != ["--help"] else []))),
            env=environment(tmp_path, {}),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
        assert done.stderr == "" and done.returncode in (0, 1)
    os.close(writer)


@posix
@pytest.mark.parametrize("descriptor", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_no_error(
    command: Command, tmp_path: Path, place: Path, descriptor: int
) -> None:
    """Started without a standard stream a command does its work, and no file takes its number."""
    for words in (["track", "Ordered"], ["status"], ["status", "--json"], ["--help"]):
        place_words = [] if words == ["--help"] else ["--directory", place, "--app-id", 11]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {descriptor}>&-', "sh", *arguments((*words, *place_words))],
            env=environment(tmp_path, {}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (done.stdout == "") == (descriptor == 1)
    assert command("status", "--check", "--directory", place, "--json").json["recorded"] == 1


def test_whatever_is_no_text_is_one_sentence(command: Command) -> None:
    """Undecodable bytes in the environment end in no traceback either."""
    key = os.fsdecode(b"\xff")
    result = command("deletion-status", "1", "--app-id", 11, HEAP_AGENT_API_KEY=key)
    assert (result.code, result.out) == (2, "")
    assert "HEAP_AGENT_API_KEY" in result.sentence


def test_a_second_command_in_one_process_says_its_own(place: Path, tmp_path: Path) -> None:
    """What the first one had to note is not said again."""
    code = (
        "from heap_agent._tools.cli import main\n"
        f"place = ['--directory', {str(place)!r}, '--app-id', '11']\n"
        "assert main(['track', 'x' * 300, *place]) == 0\n"
        "assert main(['track', 'Ordered', *place]) == 0\n"
    )
    result = Result(
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment(tmp_path, {}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    )
    assert result.code == 0
    assert result.sentence.startswith("heap-agent: note: x")


# -- track -----------------------------------------------------------------------------


def test_track_leaves_a_journal_and_never_owns(command: Command, place: Path) -> None:
    """One command, one event on disk; no queue is made and the owner's lock is not touched."""
    result = command("track", "Ordered", "dollars=50", "--directory", place, "--app-id", 11)
    assert (result.code, result.out, result.err) == (0, "recorded Ordered\n", "")
    names = {path.name for path in place.iterdir()}
    assert any(name.endswith(".part") for name in names)
    assert not any(name.startswith(("queue", "owner")) for name in names)


def test_track_reports_to_programs(command: Command, place: Path) -> None:
    """--json says who the event was recorded for, and where."""
    result = command("track", "Ordered", "--directory", place, "--app-id", 11, "--json")
    found = result.json
    assert result.code == 0
    assert found["recorded"] is True and found["reason"] is None
    assert found["event"] == "Ordered"
    assert found["app_id"] == "11" and found["identity"] is None
    assert found["user_id"].isdigit()
    assert found["directory"] == os.path.realpath(place)


def test_properties_and_time_arrive_as_they_were_typed(command: Command, place: Path) -> None:
    """Numbers are numbers, text stays text, and a time that was given is kept."""
    with Collector() as collector:
        result = command(
            *("track", "Ordered", "dollars=50", "rate=-2.5e-1", "item=Furby", "code=007", "empty="),
            *("-s", "zip=01234", "--string", "year=2026", "--properties", '{"nested": {"a": 1}}'),
            *("--timestamp", "2026-05-01T12:00:00+02:00", "--directory", place, "--app-id", "11"),
        )
        assert (result.code, result.err) == (0, "")
        result = command("flush", "--directory", place, "--endpoint", collector.url)
        assert (result.code, result.out) == (0, "delivered 1, left 0\n")
        (event,) = collector.events()
    assert dict(event.properties) == {
        "dollars": 50,
        "rate": -0.25,
        "item": "Furby",
        "code": "007",
        "empty": "",
        "zip": "01234",
        "year": "2026",
        "nested.a": 1,
    }
    assert event.timestamp.isoformat() == "2026-05-01T10:00:00+00:00"


def test_a_running_agent_delivers_what_a_command_recorded(command: Command, place: Path) -> None:
    """The command only writes; the agent beside it notices, and both are the same user."""
    with Collector() as collector, agent_on(place, collector) as agent:
        agent.track("From The Agent")
        result = command("track", "From A Command", "--directory", place, "--app-id", 11, "--json")
        assert result.code == 0
        events = collector.wait_for(2, timeout=PATIENCE)
        assert {event.event for event in events} == {"From The Agent", "From A Command"}
        assert {event.user_id for event in events} == {agent.user_id} == {result.json["user_id"]}
        assert agent.flush(PATIENCE) and agent.check() == []


def test_a_repair_is_said(command: Command, place: Path) -> None:
    """What the agent would log about a value is a note on standard error, not a failure."""
    result = command("track", "x" * 300, "--directory", place, "--app-id", 11)
    assert result.code == 0
    assert result.sentence.startswith("heap-agent: note: ") and "255" in result.sentence


@pytest.mark.parametrize("variable", ["DO_NOT_TRACK", "HEAP_AGENT_DISABLED"])
def test_somebody_s_wish_is_no_failure(command: Command, place: Path, variable: str) -> None:
    """Where tracking is switched off nothing is recorded, and the command says why."""
    words = ("track", "Ordered", "--directory", place, "--app-id", 11)
    result = command(*words, **{variable: "1"})
    assert (result.code, result.out) == (0, "")
    assert variable in result.sentence
    found = command(*words, "--json", **{variable: "1"}).json
    assert found["recorded"] is False and variable in found["reason"]


def test_a_user_who_opted_out_is_not_tracked(command: Command, place: Path) -> None:
    """Consent that was withdrawn in a program counts for commands too."""
    with Collector() as collector, agent_on(place, collector) as agent:
        agent.opt_out()
    result = command("track", "Ordered", "--directory", place, "--app-id", 11, "--json")
    assert result.json["recorded"] is False and "opted out" in result.json["reason"]
    assert command("status", "--directory", place, "--json").json["recorded"] == 0


def test_an_impossible_directory_fails(command: Command, tmp_path: Path) -> None:
    """Where nothing can be on disk the command fails, with one sentence."""
    (tmp_path / "file").write_text("")
    for words in (["track", "Ordered"], ["identify", "alice"]):
        result = command(*words, "--directory", tmp_path / "file", "--app-id", 11)
        assert (result.code, result.out) == (1, "")
        assert "nothing was recorded" in result.sentence


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give away")
def test_root_looks_at_what_belongs_to_others(command: Command, place: Path) -> None:
    """And writes nothing there, which its owner could not read any more."""
    assert command("track", "Ordered", "--directory", place, "--app-id", 11).code == 0
    for path in (place, *place.iterdir()):
        os.chown(path, 12_345, 12_345)
    before = {path: path.read_bytes() for path in place.iterdir()}
    assert command("status", "--directory", place, "--json").json["recorded"] == 1
    assert "Ordered" in command("live", "--directory", place, "--timeout", 0).out
    assert command("dead", "list", "--directory", place, "--json").json["total"] == 0
    for words in (("track", "Two"), ("flush",), ("dead", "retry", "--all"), ("seal", "--yes")):
        result = command(*words, "--directory", place, "--app-id", 11)
        assert result.code == 1 and "sudo -u '#12345'" in result.sentence, words
    after = {path: path.read_bytes() for path in place.iterdir()}
    assert {path: after[path] for path in before} == before
    assert {path.stat().st_uid for path in place.iterdir()} == {12_345}


def test_a_directory_at_its_limit_fails(command: Command, place: Path) -> None:
    """Commands alone do not fill the disk: beyond max_bytes an event is dropped, and counted."""
    words = ("track", "Ordered", "--directory", place, "--app-id", 11)
    assert command(*words).code == 0
    (place / "ballast").write_bytes(bytes(6 * 2**20))
    result = command(*words, HEAP_AGENT_MAX_BYTES=str(4 * 2**20))
    assert result.code == 1
    assert "max_bytes" in result.sentence
    found = command("status", "--directory", place, "--json").json
    assert found["recorded"] == 2 and found["dropped_by"] == {"full": 1}
    assert balanced(found)


# -- identify --------------------------------------------------------------------------


def test_identify_counts_for_later_commands(command: Command, place: Path) -> None:
    """Who was identified is who later events belong to, in Heap's eyes earlier ones too."""
    common = ("--directory", place, "--app-id", 11)
    with Collector() as collector:
        assert command("track", "Before", *common).code == 0
        result = command("identify", "alice123", *common, "--json")
        assert result.code == 0
        assert result.json["identified"] is True and result.json["identity"] == "alice123"
        assert command("track", "After", *common, "--json").json["identity"] == "alice123"
        assert command("flush", *common, "--endpoint", collector.url).code == 0
        assert [e.event for e in collector.user("alice123").events] == ["Before", "After"]


def test_a_refused_identity_fails(command: Command, place: Path) -> None:
    """A name that many would share is not recorded, and the sentence says why."""
    result = command("identify", "null", "--directory", place, "--app-id", 11)
    assert (result.code, result.out) == (1, "")
    assert "'null' is refused" in result.sentence


# -- status ----------------------------------------------------------------------------


def test_status_of_nothing_makes_nothing(command: Command, tmp_path: Path, place: Path) -> None:
    """A directory that is missing, empty or somebody else's is named, and left as it is."""
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "letter.txt").write_text("Dear Sir or Madam")
    for directory in (place, empty, other, other / "letter.txt"):
        result = command("status", "--directory", directory)
        assert (result.code, result.out) == (1, "")
        assert str(directory) in result.sentence
    assert not place.exists()
    assert not list(empty.iterdir())
    assert command("status", "--app-id", 11).code == 1


def test_status_without_an_agent(command: Command, place: Path) -> None:
    """What commands recorded is counted before any agent has seen it; reading changes nothing."""
    for number in range(3):
        command("track", "Ordered", f"number={number}", "--directory", place, "--app-id", 11)
    before = sorted(path.name for path in place.iterdir())
    result = command("status", "--directory", place, "--json")
    found = result.json
    assert result.code == 0 and found["healthy"] is True and found["complaints"] == []
    assert (found["recorded"], found["queued"], found["running"]) == (3, 3, False)
    assert found["oldest_age"] >= 0
    assert balanced(found)
    assert sorted(path.name for path in place.iterdir()) == before


def test_status_beside_a_running_agent(command: Command, place: Path) -> None:
    """The look from outside sees the agent, and what it has delivered."""
    with Collector() as collector, agent_on(place, collector) as agent:
        for _ in range(5):
            agent.track("Ordered")
        assert agent.flush(PATIENCE)
        found = command("status", "--check", "--directory", place, "--json").json
        assert found["running"] is True and found["healthy"] is True
        assert (found["recorded"], found["delivered"]) == (5, 5)
        assert found["last_delivery"] is not None
    assert command("status", "--directory", place, "--json").json["running"] is False


def test_status_for_people_fits_a_terminal(command: Command, place: Path) -> None:
    """The equation stands in one line of a table 80 columns wide, in any encoding."""
    command("track", "Ordered", "--directory", place, "--app-id", 11)
    for encoding in ("utf-8", "ascii"):
        result = command("status", "--directory", place, PYTHONIOENCODING=encoding)
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= 80
        lines = [line.split() for line in result.out.splitlines()]
        names = ["recorded", "=", "queued", "+", "delivered", "+", "dead", "+", "dropped"]
        assert names in lines and ["1", "=", "1", "+", "0", "+", "0", "+", "0"] in lines


def test_status_finds_the_agent_s_directory_by_app_id(command: Command) -> None:
    """Without --directory, commands and agents with one app id mean the same place."""
    assert command("track", "Ordered", "--app-id", 12).code == 0
    assert command("status", "--app-id", 12, "--json").json["recorded"] == 1
    assert command("status", "--json", HEAP_AGENT_APP_ID="12").json["recorded"] == 1
    assert command("status", "--app-id", 13).code == 1


def test_dead_letters_are_unhealthy(command: Command, place: Path) -> None:
    """A dead letter makes --check fail, and only --check."""
    with Collector() as collector, agent_on(place, collector) as agent:
        collector.reject_if(lambda event: event["event"] == "Bad")
        agent.track("Bad")
        agent.track("Good")
        agent.flush(PATIENCE)
        assert agent.status().dead == 1
    assert command("status", "--directory", place).code == 0
    result = command("status", "--check", "--directory", place, "--json")
    assert result.code == 1
    assert result.json["healthy"] is False and balanced(result.json)
    assert "1 dead letter" in result.sentence


def test_old_events_are_unhealthy(command: Command, place: Path) -> None:
    """--max-age fails where the oldest event has waited longer, and not before."""
    words = ("--timestamp", time.time() - 7_200, "--directory", place, "--app-id", 11)
    assert command("track", "Ordered", *words).code == 0
    assert command("status", "--max-age", 9_000, "--directory", place).code == 0
    result = command("status", "--max-age", 3_600, "--directory", place)
    assert result.code == 1
    assert "waited for 2 h" in result.sentence


def test_an_endpoint_that_refuses_everything_is_unhealthy(command: Command, place: Path) -> None:
    """After 401 to everything, --check says to look at app id and endpoint."""
    with Collector() as collector, agent_on(place, collector) as agent:
        collector.reply(401, repeat=True)
        agent.track("Ordered")
        agent.flush()
    result = command("status", "--check", "--directory", place)
    assert result.code == 1
    assert "refuses everything" in result.sentence


def test_a_damaged_queue_is_unhealthy(command: Command, place: Path) -> None:
    """A row whose bits have flipped and a file that is no database are found."""
    with Collector() as collector:
        collector.stop()
        with agent_on(place, collector) as agent:
            agent.track("Ordered", {"note": "a" * 50})
            agent.flush()
    (queue,) = place.glob("queue-*.db")
    queue.write_bytes(queue.read_bytes().replace(b"a" * 50, b"a" * 49 + b"b"))
    result = command("status", "--check", "--directory", place)
    assert result.code == 1
    assert "checksum" in result.sentence
    queue.write_bytes(b"no database at all" * 1000)
    result = command("status", "--check", "--directory", place)
    assert result.code == 1
    assert "cannot be read" in result.sentence


# -- flush -----------------------------------------------------------------------------


def test_flush_delivers_without_an_app_id(command: Command, place: Path) -> None:
    """The directory is enough: every event knows where it belongs; no user is made up."""
    with Collector() as collector:
        command("track", "Ordered", "--directory", place, "--app-id", 11)
        users = sorted(place.glob("user-*"))
        words = ("flush", "--directory", place, "--endpoint", collector.url, "--json")
        result = command(*words)
        assert result.code == 0
        assert result.json == {
            "empty": True,
            "delivered": 1,
            "queued": 0,
            "dead": 0,
            "reason": None,
            "directory": os.path.realpath(place),
        }
        assert [event.app_id for event in collector.events()] == ["11"]
        assert sorted(place.glob("user-*")) == users
        assert command(*words).json["delivered"] == 0
    assert command("status", "--check", "--directory", place).code == 0


def test_flush_without_a_network_fails_and_keeps(command: Command, place: Path) -> None:
    """Nothing is lost where nobody answers, and the sentence says what went wrong."""
    command("track", "Ordered", "--directory", place, "--app-id", 11)
    with Collector() as collector:
        collector.stop()
        words = ("flush", "--directory", place, "--endpoint", collector.url)
        result = command(*words, "--timeout", 0.5)
        assert (result.code, result.out) == (1, "delivered 0, left 1\n")
        assert "unavailable" in result.sentence
        collector.start()
        assert command(*words, "--timeout", PATIENCE).code == 0
        assert len(collector.events()) == 1


def test_flush_does_not_sit_out_an_earlier_back_off(command: Command, place: Path) -> None:
    """After an error was mended, the next command tries at once, and does not wait its turn."""
    command("track", "Ordered", "--directory", place, "--app-id", 11)
    with Collector() as collector:
        collector.reply(401)
        words = ("flush", "--directory", place, "--endpoint", collector.url)
        result = command(*words)
        assert result.code == 1 and "misconfigured" in result.sentence
        assert command(*words).code == 0
        assert len(collector.events()) == 1


def test_flush_asks_the_agent_that_delivers(command: Command, place: Path) -> None:
    """Beside an agent that looks only once an hour, the command has it deliver now."""
    with Collector() as collector, agent_on(place, collector) as agent:
        agent.change_interval(3_600)
        command("track", "Ordered", "--directory", place, "--app-id", 11)
        # An endpoint where nobody is: it is the agent that sends.
        words = ("--endpoint", "http://127.0.0.1:9", "--timeout", PATIENCE, "--directory", place)
        result = command("flush", *words)
        assert (result.code, result.err) == (0, "")
        assert len(collector.events()) == 1
        assert agent.check() == []


@pytest.mark.parametrize("wish", ["pause_delivery", "opt_out"])
def test_flush_respects_what_was_wished(command: Command, place: Path, wish: str) -> None:
    """Paused or opted out, a command does not send either, and says why."""
    with Collector() as collector, agent_on(place, collector) as agent:
        agent.pause_delivery()
        agent.track("Ordered")
        if wish == "opt_out":
            agent.opt_out(purge=False)
        agent.shutdown(0)
        result = command("flush", "--directory", place, "--endpoint", collector.url)
        assert result.code == 1
        assert ("paused" if wish == "pause_delivery" else "opted out") in result.sentence
        assert collector.events() == []


@posix
def test_ctrl_c_ends_a_flush_quietly(command: Command, tmp_path: Path, place: Path) -> None:
    """An interrupted command leaves 130 and no traceback, and the event stays."""
    command("track", "Ordered", "--directory", place, "--app-id", 11)
    with Collector() as collector:
        collector.hang(count=100, probes=True)
        words = ("flush", "--directory", place, "--endpoint", collector.url, "--timeout", PATIENCE)
        with running(tmp_path, *words) as process:
            wait_until(lambda: collector.requests)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.strip()) == (130, "", "")
    assert command("status", "--directory", place, "--json").json["queued"] == 1


def test_flush_says_why_a_queue_cannot_be_read(command: Command, place: Path) -> None:
    """Waiting longer would not help."""
    make_newer(command, place)
    result = command("flush", "--directory", place)
    assert result.code == 1
    assert "the queue cannot be " in result.sentence


# -- forget ----------------------------------------------------------------------------


def make_newer(command: Command, place: Path) -> None:
    """A directory whose database a later version has written."""
    with sqlite3.connect(used(command, place)) as database:
        database.execute("PRAGMA user_version = 999")
    database.close()


def used(command: Command, place: Path) -> Path:
    """The database of a directory that has been used."""
    command("track", "Ordered", "--directory", place, "--app-id", 11)
    command("flush", "--directory", place, "--endpoint", "http://127.0.0.1:9")
    (queue,) = place.glob("queue-*.db")
    return queue


def test_forget_where_all_is_off_fails(command: Command, place: Path) -> None:
    """A user is not taken for forgotten because nothing was done."""
    command("track", "Ordered", "--directory", place, "--app-id", 11)
    words = ("forget", "--identity", "alice", "--yes", "--directory", place, "--json")
    result = command(*words, HEAP_AGENT_DISABLED="1")
    assert result.code == 1
    assert "HEAP_AGENT_DISABLED" in result.sentence
    assert result.json["forgotten"] is False


def test_forget_leaves_no_damaged_queue(command: Command, place: Path) -> None:
    """What is kept of a damaged database must not outlive a user who is forgotten."""
    queue = used(command, place)
    queue.write_bytes(b"no database at all" * 1000)
    result = command("forget", "--identity", "alice", "--yes", "--directory", place)
    assert result.code == 0
    assert [path.name for path in place.glob("queue-*.db")] == ["queue-2.db"]


def test_forget_says_why_it_is_not_done(command: Command, place: Path) -> None:
    """Where no agent runs, it is not the agent that has not answered."""
    make_newer(command, place)
    result = command("forget", "--identity", "alice", "--yes", "--directory", place)
    assert result.code == 1
    assert "the queue cannot be " in result.sentence


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:surrogateescape"])
def test_a_name_on_standard_input_is_text(tmp_path: Path, place: Path, encoding: str) -> None:
    """Undecodable bytes are wrong use, however Python was told to read them."""
    done = subprocess.run(
        arguments(("forget", "--identity", "-", "--yes", "--directory", place)),
        env=environment(tmp_path, {"PYTHONIOENCODING": encoding}),
        input=b"\xff\n",
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"UTF-8" in done.stderr


# -- collector -------------------------------------------------------------------------


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@posix
def test_the_collector_tells_what_arrives(command: Command, tmp_path: Path, place: Path) -> None:
    """A line for each event, identification and refusal, until Ctrl-C."""
    import urllib3

    with running(tmp_path, "collector", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["type"] == "listening"
        common = ("--directory", place, "--app-id", 11)
        command("track", "Ordered\x1b[2J", "dollars=50", *common)
        command("identify", "alice123", *common)
        assert command("flush", *common, "--endpoint", first["url"]).code == 0
        answer = urllib3.request("POST", first["url"] + "/api/track", json={"event": 5}, timeout=60)
        assert answer.status == 400
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.strip()) == (130, "")
    by_type = {line["type"]: line for line in lines}
    assert by_type["event"]["event"] == "Ordered\x1b[2J"
    assert by_type["event"]["properties"] == {"dollars": 50}
    assert by_type["identify"]["identity"] == "alice123"
    assert by_type["identify"]["user_id"] == by_type["event"]["user_id"]
    assert by_type["refused"]["status"] == 400 and by_type["refused"]["reason"]


@posix
def test_the_collector_speaks_to_people(command: Command, tmp_path: Path, place: Path) -> None:
    """Without --json a line is for reading, and cannot play tricks on a terminal."""
    with running(tmp_path, "collector") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        common = ("--directory", place, "--app-id", 11)
        command("track", "Ordered\x1b[2J", "note=a\nb", *common)
        assert command("flush", *common, "--endpoint", url).code == 0
        line = process.stdout.readline()
    assert line.startswith("event ") and "Ordered" in line
    assert "\x1b" not in line


def test_the_collector_s_help_lists_every_type(command: Command) -> None:
    """Whoever reads its lines with a program need not guess."""
    types = {"listening", "event", "again", "identify", "user_properties", "account_properties"}
    assert types | {"deletion", "refused"} <= set(
        re.findall(r"\w+", command("collector", "-h").out)
    )


def test_a_taken_port_is_one_sentence(command: Command) -> None:
    """Where somebody else listens already, the collector fails."""
    with Collector() as other:
        port = int(other.url.rpartition(":")[2])
        result = command("collector", "--port", port)
    assert (result.code, result.out) == (1, "")
    assert f"127.0.0.1:{port}" in result.sentence


# -- what is typed ---------------------------------------------------------------------


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_json_number_is_that_number(number: float) -> None:
    """What JSON writes as a number is read as one, unless text was asked for."""
    text = json.dumps(number)
    assert parse_properties(None, [f"key={text}"], []) == {"key": number}
    assert parse_properties(None, [], [f"key={text}"]) == {"key": text}


@given(st.text())
def test_no_value_is_refused(value: str) -> None:
    """Whatever stands behind the first "=" is a value: the text itself, or a finite number."""
    found = parse_properties(None, [f"key={value}"], [])["key"]
    assert found == value or (isinstance(found, (int, float)) and type(found)(value) == found)


@pytest.mark.parametrize("text", ["007", "1_000", "nan", "inf", "1e999", "0x10", "+1", " 1", "٣"])
def test_what_only_python_takes_for_a_number_is_text(text: str) -> None:
    """Only JSON's numbers are numbers."""
    assert parse_properties(None, [f"key={text}"], []) == {"key": text}


def test_a_time_without_an_offset_is_local() -> None:
    """ISO 8601 with Z, with an offset and without one, and seconds since 1970."""
    moment = parse_timestamp("2026-05-01T12:00:00Z")
    assert moment == parse_timestamp("2026-05-01T14:00:00+02:00")
    assert not isinstance(moment, float)
    assert parse_timestamp(str(moment.timestamp())) == moment.timestamp()
    local = parse_timestamp("2026-05-01T12:00:00")
    assert not isinstance(local, float) and local.tzinfo is not None
    assert local.replace(tzinfo=None).isoformat() == "2026-05-01T12:00:00"

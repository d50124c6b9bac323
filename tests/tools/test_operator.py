"""
What an operator meets who is somebody else, on a disk that refuses or hangs, at a terminal
that shows little.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from commands import PATIENCE, Command, Result, arguments, environment
from helpers import balanced, fill, heir

from heap_agent.testing import Collector

STRANGER = 12_345

needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can be somebody else"
)

#: As `python -m heap_agent`, by a user without any right. Whatever is imported late has to
#: be found by that user too, which is not so where this Python is root's own.
AS_STRANGER = """
import os, sys, platformdirs.unix, heap_agent._agent, heap_agent._status
from heap_agent._tools import cli, doctor, health, tables
from heap_agent._store import dead, wipe
os.setgroups([]); os.setgid(12345); os.setuid(12345)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(name="used")
def _used(command: Command, place: Path) -> Path:
    """A directory in which an event waits, and which nobody has open."""
    assert command("track", "Ordered", "--directory", place, "--app-id", 11).code == 0
    return place


@pytest.fixture(name="street")
def _street() -> Iterator[Path]:
    """A directory that everybody may enter."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(name="stranger")
def _stranger(tmp_path: Path) -> Callable[..., Result]:
    """Runs one command as a user to whom nothing here belongs."""

    def run(*words: object) -> Result:
        done = subprocess.run(
            [sys.executable, "-c", AS_STRANGER, *arguments(words)[3:]],
            env=environment(tmp_path, {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        return Result(done)

    return run


def given_away(directory: Path, user: int) -> None:
    """Somebody else's, with all that is in it."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user, user)


# -- as somebody else -------------------------------------------------------------------


@needs_root
def test_a_stranger_is_told_who_may(
    stranger: Callable[..., Result], used: Path, street: Path
) -> None:
    """That a directory cannot be read is no wrong use of a command, nor an empty queue."""
    used = Path(shutil.move(used, street / "state"))
    for words in (("status",), ("dead", "list"), ("flush",), ("seal", "--yes")):
        result = stranger(*words, "--directory", used)
        assert (result.code, result.out) == (1, "")
        assert "cannot be read by this user" in result.sentence, words
    used.chmod(0o755)
    result = stranger("status", "--directory", used, "--json")
    assert (result.code, result.out) == (1, "") and "by this user" in result.sentence
    assert stranger("config", "--directory", used, "--json").code == 0


@needs_root
def test_a_stranger_may_not_even_look_for_it(
    stranger: Callable[..., Result], used: Path, street: Path
) -> None:
    """Whether it is there is then not known; the doctor says where the way ends."""
    closed = street / "closed"
    closed.mkdir(mode=0o700)
    place = Path(shutil.move(used, closed / "state"))
    found = stranger("paths", "--directory", place, "--json")
    assert found.code == 0 and found.json["directory"]["exists"] is None
    assert "not known" in stranger("paths", "--directory", place).out
    found = stranger("doctor", "--offline", "--directory", place, "--json")
    assert found.code == 1
    assert f"may not enter {closed}" in str(found.json["findings"])
    closed.chmod(0o755)
    found = stranger("doctor", "--offline", "--directory", place, "--json")
    assert found.code == 1 and "may not read it" in str(found.json["findings"])


@needs_root
def test_root_makes_nothing_among_what_is_somebody_s(command: Command, tmp_path: Path) -> None:
    """Not even where the agent has not been yet: it could not enter what root has made."""
    home = tmp_path / "home"
    home.mkdir()
    given_away(home, STRANGER)
    result = command("track", "Ordered", "--directory", home / "a" / "state", "--app-id", 11)
    assert result.code == 1 and "sudo -u '#12345'" in result.sentence
    assert not [*home.iterdir()]


@needs_root
def test_a_user_that_comes_and_goes(command: Command, used: Path, tmp_path: Path) -> None:
    """Where systemd keeps a service's state, sudo -u leads nowhere: only such a service may."""
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "sensor").mkdir()
    used.rename(tmp_path / "private" / "sensor" / "heap_agent")
    given_away(tmp_path / "private" / "sensor", STRANGER)
    (tmp_path / "sensor").symlink_to("private/sensor")
    place = tmp_path / "sensor" / "heap_agent"
    assert command("status", "--directory", place, "--json").json["queued"] == 1
    for words in (("flush",), ("dead", "retry", "--all"), ("seal", "--yes")):
        said = command(*words, "--directory", place).sentence
        assert "sudo" not in said, words
        assert "-p DynamicUser=yes -p User=sensor -p StateDirectory=sensor" in said


# -- disks and directories ----------------------------------------------------------------


def test_a_file_is_in_the_way(command: Command, tmp_path: Path) -> None:
    """An agent could not make its directory there."""
    (tmp_path / "file").touch()
    result = command("doctor", "--offline", "--directory", tmp_path / "file", "--json")
    assert result.code == 1 and "is no directory" in str(result.json["findings"])


def test_a_full_disk_refuses_what_is_asked(command: Command, small_disk: Path) -> None:
    """Nothing is on record there, and no other process will do it later."""
    place = small_disk / "state"
    assert command("track", "Ordered", "--directory", place, "--app-id", 11).code == 0
    fill(small_disk / "filler")
    for words in (("forget", "--yes", "--identity", "ann"), ("dead", "retry", "--all")):
        result = command(*words, "--directory", place, "--app-id", 11)
        assert result.code == 1 and "the disk refuses" in result.sentence, words
    result = command("status", "--check", "--directory", place, "--json")
    assert result.code == 1 and result.json["queued"] == 1
    (small_disk / "filler").unlink()
    with Collector() as collector, heir(place, collector.url) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)


# -- a Python that lacks something -----------------------------------------------------------


def test_a_program_without_ssl_is_unhealthy(command: Command, place: Path) -> None:
    """It can deliver nothing, until somebody packs it anew; one that can makes it good again."""
    program = (
        "import sys; sys.modules['ssl'] = None\n"
        "import heap_agent as heap\n"
        "heap.init('11', directory=sys.argv[1], endpoint='http://127.0.0.1:9')\n"
        "heap.track('Ordered'); heap.flush(1); heap.shutdown()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(place)], check=True, timeout=PATIENCE)
    result = command("status", "--check", "--directory", place)
    assert result.code == 1 and "Python cannot deliver" in result.sentence
    with Collector() as collector, heir(place, collector.url) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)
    assert command("status", "--check", "--directory", place).code == 0


def test_a_doctor_without_ssl(place: Path, tmp_path: Path) -> None:
    """It says that this is what stands in the way, and asks no network."""
    program = (
        "import sys; sys.modules['ssl'] = None\n"
        "from heap_agent._tools import cli\n"
        "sys.exit(cli.main(['doctor', '--app-id', '11', '--directory', sys.argv[1], '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(place)],
        env=environment(tmp_path, {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    result = Result(done)
    assert result.code == 1 and result.sentence.endswith("wrong with: Python")
    assert "ssl" in str(result.json["findings"])


# -- terminals ---------------------------------------------------------------------------------


def test_a_terminal_that_shows_ascii(command: Command, used: Path) -> None:
    """Signs are others there, and no codes."""
    words = ("doctor", "--offline", "--app-id", 11, "--directory", used)
    plain = command(*words, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert plain.code == 0 and plain.out.isascii() and "\\u" not in plain.out
    assert "✓" in command(*words).out
    found = command(*words, "--json", PYTHONIOENCODING="ascii", LC_ALL="C").json
    assert found == json.loads(json.dumps(found)) and found["healthy"]


def test_a_terminal_of_twenty_columns(command: Command, used: Path) -> None:
    """It breaks lines, but nothing is left out."""
    narrow = {"COLUMNS": "20", "TERM": "dumb", "NO_COLOR": "1"}
    out = command("status", "--directory", used, **narrow).out
    assert all(name in out for name in ("recorded", "queued", "delivered", "dead", "dropped"))
    assert "config.toml" in command("paths", "--directory", used, **narrow).out
    out = command("doctor", "--offline", "--app-id", 11, "--directory", used, **narrow).out
    assert "max_bytes is 67 MB" in out
    assert "HEAP_AGENT" in command("config", HEAP_AGENT_APP_ID="11", **narrow).out

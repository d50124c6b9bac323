"""Installed, updated, opened, crashed: real programs that live and die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE
from helpers import balanced, eventually

from heap_agent import Agent
from heap_agent._store.wipe import wipe
from heap_agent.testing import Collector, FakeClock

PROGRAM = Path(__file__).parent / "programs" / "short_life.py"

Told = list[tuple[str, dict[str, Any]]]


def start(directory: Path, version: str = "1.0", ending: str = "") -> subprocess.Popen[str]:
    """A program that is living its life."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(directory), version, ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def live(directory: Path, version: str = "1.0", ending: str = "") -> int:
    """Live such a life to its end."""
    process = start(directory, version, ending)
    process.communicate(timeout=PATIENCE)
    return process.returncode


def begin(directory: Path, ending: str = "wait") -> subprocess.Popen[str]:
    """A program whose agent has begun."""
    process = start(directory, ending=ending)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


@pytest.fixture(name="told")
def _told(state_dir: Path, collector: Collector) -> Iterator[Callable[[], Told]]:
    """What of their lives has arrived at Heap."""

    def deliver() -> Told:
        with Agent("11", directory=state_dir, endpoint=collector.url, at_exit=False) as agent:
            assert agent.flush(timeout=30)
            balanced(agent)
        return [
            (event.event.removeprefix("Application "), event.properties)
            for event in collector.events()
        ]

    yield deliver


def names(told: Told) -> list[str]:
    """Their names alone."""
    return [name for name, _ in told]


def test_a_first_run_and_a_second(state_dir: Path, told: Callable[[], Told]) -> None:
    """Installed once, opened each time; what ends as it should has not crashed."""
    assert [live(state_dir), live(state_dir)] == [0, 0]
    version = {"App Version": "1.0"}
    assert told() == [("Installed", version), ("Opened", version), ("Opened", version)]


def test_an_update(state_dir: Path, told: Callable[[], Told]) -> None:
    """With both versions, once; and so is the way back."""
    for version in ("1.0", "1.1", "1.1", "1.0"):
        live(state_dir, version)
    updates = [properties for name, properties in told() if name == "Updated"]
    assert updates == [
        {"App Version": "1.1", "Previous App Version": "1.0"},
        {"App Version": "1.0", "Previous App Version": "1.1"},
    ]


def test_a_program_without_a_version(state_dir: Path, told: Callable[[], Told]) -> None:
    """It is installed and opened; its first version is no update, and none is forgotten."""
    for version in ("", "1.0", "", "1.0"):
        live(state_dir, version)
    assert names(told()) == ["Installed", "Opened", "Opened", "Opened", "Opened"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_kill_is_told_by_the_next_start(state_dir: Path, told: Callable[[], Told]) -> None:
    """Once, with the version that was killed."""
    assert live(state_dir, "1.0", "kill") == -9
    live(state_dir, "1.1")
    live(state_dir, "1.1")
    found = told()
    assert names(found) == ["Installed", "Opened", "Crashed", "Updated", "Opened", "Opened"]
    assert found[2][1] == {"App Version": "1.0", "Device Restarted": "false"}


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("raise", "PumpFailed"),
        ("raise after shutdown", "PumpFailed"),
        ("overheat", "Overheated"),
        ("raise an odd one", "Odd" * 21 + "O"),
    ],
)
def test_an_exception_is_told_at_once(
    ending: str, kind: str, state_dir: Path, told: Callable[[], Told]
) -> None:
    """By its type alone, also where the agent was shut down before; the next start says no more."""
    assert live(state_dir, "1.0", ending) == 1
    live(state_dir)
    found = told()
    assert names(found) == ["Installed", "Opened", "Crashed", "Opened"]
    assert found[2][1] == {"App Version": "1.0", "Exception": kind}


def test_a_crash_is_told_once(state_dir: Path, told: Callable[[], Told]) -> None:
    """However many agents a program has had."""
    live(state_dir, "1.0", "raise beside a second agent")
    assert names(told()).count("Crashed") == 1


@pytest.mark.parametrize("ending", ["exit", "interrupt", "interrupt tasks", "raise in a callback"])
def test_what_is_no_crash(ending: str, state_dir: Path, told: Callable[[], Told]) -> None:
    """Neither an exit with a status, nor Ctrl-C, nor what the program outlived."""
    if ending == "interrupt tasks" and sys.version_info < (3, 11):
        pytest.skip("this Python knows no groups of exceptions")
    live(state_dir, "1.0", ending)
    live(state_dir)
    assert names(told()) == ["Installed", "Opened", "Opened"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks of POSIX")
def test_a_forked_child_is_no_run(state_dir: Path, told: Callable[[], Told]) -> None:
    """What it dies of is not told, and its end does not end its parent's run; only a kill does."""
    parent = begin(state_dir, "fork")
    assert parent.stdout is not None and parent.stdout.readline() == "the child has gone\n"
    live(state_dir)
    parent.kill()
    parent.communicate()
    live(state_dir)
    assert names(told()) == ["Installed", "Opened", "Opened", "Crashed", "Opened"]


def test_starts_side_by_side(state_dir: Path, told: Callable[[], Told]) -> None:
    """However many programs begin at once, one of them was installed, and none has crashed."""
    programs = [start(state_dir) for _ in range(6)]
    for program in programs:
        program.communicate(timeout=PATIENCE)
    assert sorted(names(told())) == ["Installed", *["Opened"] * 6]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_processes_that_share_a_directory(state_dir: Path, told: Callable[[], Told]) -> None:
    """One that still runs has not crashed; one that was killed beside it has."""
    one, other = begin(state_dir), begin(state_dir)
    for killed in (one, other):
        killed.kill()
        killed.communicate()
        live(state_dir)
    begun = ["Installed", "Opened", "Opened"]
    assert names(told()) == [*begun, "Crashed", "Opened", "Crashed", "Opened"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_run_cut_short_by_a_restart(
    make_agent: Callable[..., Agent], state_dir: Path, collector: Collector
) -> None:
    """The machine's next start is told apart from a program that died alone."""
    live(state_dir, "1.0", "kill")
    agent = make_agent(
        directory=state_dir, capture_lifecycle=True, clock=FakeClock(), endpoint=collector.url
    )
    assert agent.flush(timeout=30)
    collector.assert_tracked("Application Crashed", {"Device Restarted": "true"})
    balanced(agent)


def test_a_note_that_a_power_cut_emptied(
    make_agent: Callable[..., Agent], state_dir: Path, collector: Collector
) -> None:
    """It still says that a run was; nothing is made up about it."""
    (state_dir / "0123456789abcdef.run").write_bytes(b"")
    agent = make_agent(
        directory=state_dir, capture_lifecycle=True, app_version="2", endpoint=collector.url
    )
    assert agent.flush(timeout=30)
    (crash,) = collector.events("Application Crashed")
    assert crash.properties == {}
    balanced(agent)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_what_is_no_note(
    make_agent: Callable[..., Agent], state_dir: Path, collector: Collector
) -> None:
    """A start waits for no pipe, follows no link, and one such file hides nothing of the others."""
    os.mkfifo(state_dir / "0000000000000001.run")
    (state_dir / "0000000000000002.run").symlink_to("/dev/zero")
    (state_dir / "0000000000000003.run").mkdir()
    (state_dir / "0000000000000004.alive").mkdir()
    (state_dir / "0000000000000005.run").write_text('["11", "', encoding="utf-8")
    agent = make_agent(directory=state_dir, capture_lifecycle=True, endpoint=collector.url)
    assert agent.flush(timeout=30)
    assert [event.event for event in collector.events()] == [
        "Application Crashed",
        "Application Installed",
        "Application Opened",
    ]
    balanced(agent)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"9" * 5000, b""])
def test_a_damaged_version(
    damage: bytes, make_agent: Callable[..., Agent], tmp_path: Path, collector: Collector
) -> None:
    """A start that cannot know which version ran before makes nothing up, and raises nothing."""
    options: dict[str, Any] = {"capture_lifecycle": True, "app_version": "1.0", "strict": True}
    make_agent(**options).shutdown(0)
    (note,) = (tmp_path / "state").glob("version-*")
    note.write_bytes(damage)
    make_agent(**options).shutdown(0)
    agent = make_agent(**options, endpoint=collector.url)
    assert agent.flush(timeout=30)
    assert {event.event for event in collector.events()} - {"Application Updated"} == {
        "Application Installed",
        "Application Opened",
    }
    assert note.read_bytes() == b"1.0"
    balanced(agent)


def test_a_note_and_its_lock_come_together(
    make_agent: Callable[..., Agent], tmp_path: Path, collector: Collector
) -> None:
    """A crash that was told leaves neither, even where the last delivery is cut off."""
    agent = make_agent(capture_lifecycle=True)
    assert agent._lifecycle is not None
    names_of = [path.suffix for path in (tmp_path / "state").iterdir()]
    assert names_of.count(".run") == names_of.count(".alive") == 1
    agent._lifecycle.crash(ValueError())
    assert not [*(tmp_path / "state").glob("*.run"), *(tmp_path / "state").glob("*.alive")]
    agent.shutdown(0)
    last = make_agent(endpoint=collector.url)
    assert last.flush(timeout=30)
    assert len(collector.events("Application Crashed")) == 1
    balanced(last)


def test_a_copy_on_another_machine(
    make_agent: Callable[..., Agent], tmp_path: Path, collector: Collector
) -> None:
    """A cloned disk is another installation, and its twin's runs are not its own."""
    make_agent(capture_lifecycle=True, machine_id="one")
    shutil.copytree(tmp_path / "state", tmp_path / "clone")
    clone = make_agent(
        capture_lifecycle=True,
        machine_id="two",
        directory=tmp_path / "clone",
        endpoint=collector.url,
    )
    assert clone.flush(timeout=30)
    assert [event.event for event in collector.events()][-2:] == [
        "Application Installed",
        "Application Opened",
    ]
    assert collector.events("Application Crashed") == []
    balanced(clone)


def test_nothing_unasked(make_agent: Callable[..., Agent], tmp_path: Path) -> None:
    """Neither events nor notes."""
    agent = make_agent(app_version="1.0")
    assert agent.status().recorded == 0
    assert not [*(tmp_path / "state").glob("*.run"), *(tmp_path / "state").glob("version-*")]
    assert agent.check() == []


def test_nothing_without_consent(
    make_agent: Callable[..., Agent], tmp_path: Path, collector: Collector
) -> None:
    """Whoever opted out is told of nothing; after an opt-in the next start is the first."""
    with make_agent() as agent:
        agent.opt_out()
    with make_agent(capture_lifecycle=True) as silent:
        assert not [*(tmp_path / "state").glob("version-*")]
        silent.opt_in()
    agent = make_agent(capture_lifecycle=True, endpoint=collector.url)
    assert agent.flush(timeout=30)
    assert len(collector.events("Application Installed")) == 1
    balanced(agent)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_crash_without_consent(state_dir: Path, told: Callable[[], Told]) -> None:
    """Of a run in which somebody opted out no end is told, also after the next opt-in."""
    assert live(state_dir, "1.0", "opt out, and be killed") == -9
    with Agent("11", directory=state_dir, endpoint="http://127.0.0.1:9") as agent:
        agent.opt_in()
    live(state_dir)
    assert names(told()) == ["Installed", "Opened", "Opened"]


def test_consent_withdrawn_by_another_process(
    make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    """Whoever hears of it notes its run no longer, also where the directory begins anew."""
    directory = tmp_path / "state"
    agent = make_agent(capture_lifecycle=True)
    assert len([*directory.glob("*.run")]) == 1
    make_agent().opt_out(purge=False)
    eventually(lambda: not [*directory.glob("*.run")])
    shutil.rmtree(directory)
    eventually((directory / "opted-out").exists)
    eventually(lambda: agent.sync(1))
    assert not [*directory.glob("*.run")]
    assert agent.check() == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_sealed_directory(state_dir: Path) -> None:
    """Notes of runs go with all else: what starts from the image is installed."""
    live(state_dir, "1.0", "kill")
    assert [*state_dir.glob("*.run")] and [*state_dir.glob("version-*")]
    wipe(state_dir)
    assert not [*state_dir.iterdir()]


def test_a_removed_directory(
    make_agent: Callable[..., Agent], tmp_path: Path, collector: Collector
) -> None:
    """A run that goes on in a new directory is noted there, and nothing is installed again."""
    agent = make_agent(capture_lifecycle=True)
    directory = tmp_path / "state"
    shutil.rmtree(directory)
    eventually(lambda: bool([*directory.glob("*.run")]))
    make_agent(capture_lifecycle=True)
    agent.shutdown(0)
    last = make_agent(capture_lifecycle=True, endpoint=collector.url)
    assert last.flush(timeout=30)
    assert {event.event for event in collector.events()} == {"Application Opened"}
    balanced(last)


def test_a_disk_that_keeps_nothing(
    make_agent: Callable[..., Agent], tmp_path: Path, collector: Collector
) -> None:
    """In memory nothing is told of a life, since each start would be the first."""
    (tmp_path / "file").touch()
    agent = make_agent(
        capture_lifecycle=True, directory=tmp_path / "file" / "state", endpoint=collector.url
    )
    agent.track("Look")
    assert agent.flush(timeout=30)
    assert [event.event for event in collector.events()] == ["Look"]
    balanced(agent)

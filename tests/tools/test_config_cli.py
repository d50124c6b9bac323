"""The commands that tell which options are in force, and where things are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from commands import Command


def test_config_tells_where_each_value_comes_from(command: Command, tmp_path: Path) -> None:
    """An argument, the environment, a file, the default; passwords are not shown."""
    file = tmp_path / "configuration" / "heap_agent" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("interval = 30\nfleet_size = 5000\n")
    found = command(
        "config",
        "--app-id",
        11,
        "--json",
        HEAP_AGENT_INTERVAL="20",
        HEAP_AGENT_PROXY="http://ann:secret@proxy:3128",
        HEAP_AGENT_MAX_BYTES="much",
    )
    options = {option["name"]: option for option in found.json["options"]}
    assert (options["app_id"]["value"], options["app_id"]["source"]) == ("11", "argument")
    assert options["interval"]["value"] == "20"
    assert options["interval"]["source"] == "environment HEAP_AGENT_INTERVAL"
    assert options["fleet_size"]["source"] == f"file {file}"
    assert options["sync_interval"]["source"] == "default"
    assert options["sync_interval"]["unit"] == "s" and options["sync_interval"]["help"]
    assert options["pairing_signal"]["environment"] == "HEAP_AGENT_PAIRING_SIGNAL"
    assert "secret" not in found.out and "proxy:3128" in options["proxy"]["value"]
    assert any("max_bytes" in problem for problem in found.json["problems"])
    assert str(file) in found.json["files"]


def test_config_for_people(command: Command) -> None:
    """A row for each option, and what was passed over."""
    out = command("config", HEAP_AGENT_INTERVAL="often", COLUMNS="150").out
    assert "interval" in out and "15 s" in out and "default" in out
    assert "interval is passed over" in out


def test_paths(command: Command, tmp_path: Path, place: Path) -> None:
    """Nothing is made to tell where it would be."""
    found = command("paths", "--directory", place, "--json").json
    assert found["directory"] == {"path": str(place), "exists": False}
    assert found["database"]["path"] == str(place / "queue-1.db")
    assert all(set(file) == {"path", "exists"} for file in found["config_files"])
    assert not place.exists()
    by_id = command("paths", "--app-id", 11, "--json").json
    assert by_id["directory"]["path"] == str(tmp_path / "states" / "heap_agent" / "11")
    assert command("track", "Buy", "--directory", place, "--app-id", 11).code == 0
    out = command("paths", "--directory", place, COLUMNS="300").out
    assert str(place) in out and "there" in out


def test_paths_of_nobody(command: Command) -> None:
    """It has to be said whose."""
    result = command("paths")
    assert result.code == 2 and "app id is missing" in result.sentence


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(command: Command, shell: str) -> None:
    """A script for each shell, which asks the program by the name that it has."""
    out = command("completion", shell).out
    assert "_HEAP_AGENT_COMPLETE" in out and "heap-agent" in out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_completes(command: Command, tmp_path: Path) -> None:
    """As bash asks: with what was typed so far in the environment."""
    words = {"_HEAP_AGENT_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    out = command(COMP_WORDS="heap-agent do", **words).out
    assert out.split() == ["plain,doctor"]
    words["COMP_CWORD"] = "2"
    assert "plain,retry" in command(COMP_WORDS="heap-agent dead ", **words).out.split()
    script = tmp_path / "completion"
    script.write_text(command("completion", "bash").out)
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")

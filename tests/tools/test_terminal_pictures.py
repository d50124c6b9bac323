"""
What `status` and `doctor` show people in a terminal, and the pictures of it.

`HEAP_AGENT_SCREENSHOTS=docs` takes the pictures anew.
"""

from __future__ import annotations

import io
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PATIENCE, arguments, environment
from helpers import balanced
from rich.console import Console
from rich.text import Text

from heap_agent import Agent
from heap_agent.testing import Collector

PICTURES = os.environ.get("HEAP_AGENT_SCREENSHOTS")

#: No line is wrapped, whatever the name of the test's folder.
COLUMNS = 118

#: As rich's own, without the fonts that it would fetch from elsewhere.
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" \
height="{terminal_height}"/></clipPath>{lines}</defs>
<rect fill="#161b22" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


@pytest.fixture(name="device")
def _device(tmp_path: Path) -> Iterator[Path]:
    """A kiosk whose Heap has taken some events, refused two, and cannot be reached now."""
    directory = tmp_path / "kiosk"
    with Collector() as collector:
        collector.reject_if(lambda event: event["event"] == "Door Opened")
        agent = Agent("11", directory=directory, endpoint=collector.url, interval=3600)
        for number in range(240):
            agent.track("Ticket Sold", {"number": number, "euros": 3.5})
            if number % 120 == 60:
                agent.track("Door Opened")
        assert agent.flush(timeout=30)
    for number in range(38):
        agent.track("Ticket Sold", {"number": number, "euros": 1.9})
    agent.flush()
    yield directory
    agent.shutdown(0)
    balanced(agent)


def shown(tmp_path: Path, *words: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    changes = {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        arguments(words),
        env=environment(tmp_path, changes),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # Linux says so where nobody has the other end open any more
        pass
    os.close(ours)
    process.wait(PATIENCE)
    return b"".join(parts).decode().replace("\r", "")


def take(command: str, text: str, path: Path) -> None:
    """Make a picture of it."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(text))
    console.save_svg(str(path), title=command, code_format=FORMAT, unique_id=path.stem)


@pytest.mark.parametrize(
    "command, words",
    [
        ("status", ["recorded", "280", "240", "38", "dead letters"]),
        ("doctor", ["options", "private", "38 events wait", "2 dead letters", "not reached"]),
    ],
)
def test_pictures(command: str, words: list[str], device: Path, tmp_path: Path) -> None:
    """People are shown how the device is, in colours."""
    where = ["--directory", str(device), "--app-id", "11"]
    if command == "doctor":
        where += ["--endpoint", "http://127.0.0.1:9"]
    text = shown(tmp_path, command, *where)
    plain = Text.from_ansi(text).plain
    assert not [word for word in words if word not in plain], plain
    assert "\x1b[" in text
    told = text.replace(str(device), "/var/lib/kiosk/heap_agent")
    path = Path(PICTURES or tmp_path) / f"{command}.svg"
    take(f"heap-agent {command}", told, path)
    assert "https" not in path.read_text("utf-8")

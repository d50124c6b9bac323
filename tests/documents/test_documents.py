"""
The documents, followed from top to bottom as somebody does who tries them: each page in a
home of its own, with one shell, and a Heap on this machine.

    ```python    a program; one whose first line is a file's name is saved under it instead
    ```toml      a file, named in its first line; `config.toml` is the user's config file
    ```bash      typed into the shell, and must succeed
    ```console   typed after "$", and prints what follows ("..." stands for anything)
    ```sh        for another machine or another user: not run, but its options exist
    ```ini       a file of systemd's or of a desktop: shown
"""

from __future__ import annotations

import doctest
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PATIENCE, environment
from helpers import balanced, eventually
from sybil import Sybil
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser

from heap_agent import Agent
from heap_agent._tools import cli
from heap_agent.testing import Collector

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

if not DOCS.exists():  # the suite without its checkout
    pytest.skip("there are no documents beside the tests", allow_module_level=True)

posix = pytest.mark.skipif(os.name != "posix", reason="the pages are for a POSIX shell")

#: These have tests of their own.
ELSEWHERE = {"frozen.md", "server-api.md", "visualizer.md"}

EVERYTHING = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

PAGES = [path for path in EVERYTHING[1:] if path.name not in ELSEWHERE]

#: The port that pages use; each test takes a free one in its place.
PORT = "8089"

_END = "-- the command has ended --"

_LANGUAGES = ("python", "toml", "bash", "console", "sh")

_ANYTHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Shell:
    """One bash for a whole page, so that variables and background jobs stay."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            env=variables,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def type(self, command: str) -> str:
        """What it prints; it must succeed."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        guard = threading.Timer(PATIENCE, process.kill)
        guard.start()
        process.stdin.write(f"{command}\nstatus=$?; echo; echo '{_END}' $status\n")
        process.stdin.flush()
        lines = []
        for line in process.stdout:
            if line.startswith(_END):
                break
            lines.append(line)
        else:
            pytest.fail(f"{command!r} does not end: {lines}")
        guard.cancel()
        output = "".join(lines).removesuffix("\n")
        assert line.split()[-1] == "0", f"{command}\n{output}"
        return output

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("kill $(jobs -p) 2>/dev/null\n")
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE)


class Reader:
    """Does what a page says."""

    def __init__(self, home: Path, collector: Collector) -> None:
        self.home = home
        self.folder = home / "work"
        self.folder.mkdir()
        self.port = free_port()
        programs = {"python": "", "heap-agent": "-m heap_agent", "pytest": "-m pytest"}
        for name, module in programs.items():
            program = home / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            program.chmod(0o755)
        self.variables = environment(
            home,
            {
                "HEAP_AGENT_ENDPOINT": collector.url,
                "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
                "COLUMNS": "200",
                "PYTHONDONTWRITEBYTECODE": "",
            },
        )
        self.shell = Shell(self.folder, self.variables)

    def follow(self, example: Example, language: str) -> None:
        """Do what a block says."""
        text = example.parsed.replace(PORT, str(self.port))
        named = re.match(r"# ([\w.-]+\.(?:py|toml))\n", text)
        if named is not None:
            self.save(named[1], text)
        elif language == "python":
            (self.folder / "block.py").write_text(text, "utf-8")
            self.shell.type("python -W error block.py")
        elif language == "bash":
            self.shell.type(text.rstrip())
            if f"--port {self.port} " in text:
                eventually(self.answers)
        elif language == "console":
            self.compare(text)

    def save(self, name: str, text: str) -> None:
        """A file that the page shows."""
        folder = self.folder
        if name == "config.toml":
            folder = Path(self.variables["XDG_CONFIG_HOME"]) / "heap_agent"
            folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")

    def compare(self, text: str) -> None:
        """Commands, and what each prints."""
        for command, wanted in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            got = self.shell.type(command)
            same = doctest.OutputChecker().check_output(wanted, got, _ANYTHING)
            assert same, f"$ {command}\n{got}\n-- the page says --\n{wanted}"

    def answers(self) -> bool:
        """Whether somebody listens on the page's port."""
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def blocks(page: Path) -> Iterator[tuple[str, Example]]:
    """The blocks of a page in their order, with their languages."""
    for language in _LANGUAGES:
        parser = CodeBlockParser(language=language, evaluator=lambda example: None)
        sybil = Sybil(parsers=[parser], pattern=page.name, path=str(page.parent))
        for example in sybil.parse(page).examples():
            yield language, example


def in_order(page: Path) -> list[tuple[str, Example]]:
    return sorted(blocks(page), key=lambda block: block[1].region.start)


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(DOCS).as_posix() for path in paths]


@posix
@pytest.mark.parametrize("page", [p for p in PAGES if in_order(p)], ids=lambda path: path.stem)
def test_a_page_can_be_followed(page: Path, tmp_path: Path, collector: Collector) -> None:
    """Each block works, and what was recorded on the way is delivered in the end."""
    reader = Reader(tmp_path, collector)
    try:
        for language, example in in_order(page):
            reader.follow(example, language)
    finally:
        reader.shell.close()
    for lock in tmp_path.rglob("owner.lock"):
        with Agent("11", directory=lock.parent, endpoint=collector.url, at_exit=False) as agent:
            assert agent.flush(timeout=30)
            balanced(agent)
    if (reader.folder.parent / "configuration").exists():
        done = subprocess.run(
            [sys.executable, "-m", "heap_agent", "config", "--json"],
            env=reader.variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert '"problems": []' in done.stdout, done.stdout


def typed(page: Path) -> list[tuple[str, str]]:
    """Whatever is typed after the program's name, in blocks and in sentences."""
    return re.findall(r"\bheap-agent ([a-z-]+)([^`\n|]*)", page.read_text("utf-8"))


@pytest.mark.parametrize("page", EVERYTHING, ids=lambda path: path.stem)
def test_commands_and_options_exist(page: Path) -> None:
    """Each command, and each of its options."""
    for name, rest in typed(page):
        command = cli._cli.commands[name]
        first = rest.split()[0] if rest.split() else ""
        command = getattr(command, "commands", {}).get(first, command)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {*re.findall(r"(?<=\s)--[a-z-]+", rest)} <= known | {"--help"}, name


def test_commands_are_found() -> None:
    """Where there must be some."""
    assert typed(ROOT / "README.md") and typed(DOCS / "visualizer.md")


def test_all_pages_are_reached() -> None:
    """From the first page, by its lists."""
    listed = re.findall(r"^([\w./-]+)$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE)
    pages = {f"{entry}.md" for entry in listed if not entry.startswith("..")}
    assert pages == {*names(sorted(DOCS.rglob("*.md")))} - {"index.md"}


def test_blocks_say_what_they_are() -> None:
    """No block is passed over by a typing error: what is shown only is no code."""
    for page in PAGES:
        fences = re.findall(r"^```(\S*)$", page.read_text("utf-8"), re.MULTILINE)
        shown = {fence for fence in fences if not fence.startswith("{")} - {""}
        assert shown <= {*_LANGUAGES, "ini"}, page

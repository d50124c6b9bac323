"""The page about the server-side API: its code and commands run, and print what it says."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, environment
from sybil import Sybil
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from heap_agent.testing import API_KEY, Collector

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "server-api.md"

if not PAGE.exists():  # the suite without its checkout
    pytest.skip("there is no page beside the tests", allow_module_level=True)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the examples are for a POSIX shell")

#: What stands in the page for the directory and for an id of Heap's.
FOLDER, REQUEST = "/srv/heap", "6f1c7d0e-8a53-4f0b-9a57-1f2f2a7c3b10"


class Reader:
    """Does what somebody does who tries the page from top to bottom."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = variables
        self.output = ""

    def save(self, example: Example) -> None:
        """A file that the text before it names."""
        before = example.document.text[: example.region.start]
        name = re.findall(r"`(\w+\.csv)`", before)[-1]
        (self.folder / name).write_text(example.parsed, "utf-8")

    def run(self, example: Example) -> None:
        """A command, which must end as a comment says."""
        done = subprocess.run(
            ["bash", "-e", "-c", example.parsed],
            env=environment(self.folder, self.variables),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.output = done.stdout + done.stderr
        assert done.returncode == int("# exit code 1" in example.parsed), self.output

    def compare(self, example: Example) -> None:
        """What the command before it has printed."""
        uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
        said = self.output.replace(str(self.folder), FOLDER)
        assert re.sub(uuid, REQUEST, said) == example.parsed


@pytest.fixture(name="collector")
def _collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_the_page_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    """Every block works, in order, and Heap has what it says at the end."""
    program = tmp_path / "bin" / "heap-agent"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m heap_agent "$@"\n')
    program.chmod(0o755)
    folder = tmp_path / "heap"
    folder.mkdir()
    variables = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HEAP_AGENT_APP_ID": "11",
        "HEAP_AGENT_ENDPOINT": collector.url,
        "HEAP_AGENT_API_KEY": API_KEY,
    }
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HEAP_AGENT_API_KEY", API_KEY)
    make_shop(folder / "shop.db")
    point_clients_to(collector, monkeypatch)
    reader = Reader(folder, variables)

    blocks = list(examples(reader))
    for block in blocks:
        block.evaluate()

    assert len(blocks) == 16
    tracked = [request.body for request in collector.requests if request.path == "/api/track"]
    assert sum(body.count(b'"event":') for body in tracked) == 3 + 3 + 2
    assert {user.identity for user in collector.users} == {"dora@example.com"}
    assert len(collector.deletions) == 3
    assert collector.conflicts == []


def examples(reader: Reader) -> Iterator[Any]:
    sybil = Sybil(
        parsers=[
            PythonCodeBlockParser(),
            CodeBlockParser("csv", reader.save),
            CodeBlockParser("bash", reader.run),
            CodeBlockParser("text", reader.compare),
        ],
        pattern=PAGE.name,
        path=str(PAGE.parent),
    )
    return iter(sybil.parse(PAGE).examples())


def make_shop(path: Path) -> None:
    shop = sqlite3.connect(path)
    shop.execute("CREATE TABLE customer (email, plan, seats)")
    shop.execute("INSERT INTO customer VALUES ('dora@example.com', 'Pro', 3)")
    shop.commit()
    shop.close()


def point_clients_to(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has no endpoint, because readers need none."""
    from heap_agent import server

    class Client(server.ServerClient):
        def __init__(self, app_id: str, api_key: str | None = None) -> None:
            super().__init__(app_id, api_key, endpoint=collector.url)

    monkeypatch.setattr(server, "ServerClient", Client)


def test_links_lead_somewhere() -> None:
    """Files and headings."""
    links = re.findall(r"\]\((\.\./[A-Za-z]+\.md)(?:#([a-z-]+))?\)", PAGE.read_text("utf-8"))

    assert len(links) == 2
    for target, heading in links:
        text = (PAGE.parent / target).resolve().read_text("utf-8")
        titles = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines()]
        assert not heading or heading in titles

"""The README: its code runs, its commands are the real ones, its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import heap_agent
from heap_agent import _api
from heap_agent.testing import Collector

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
VISUALIZER = ROOT / "docs" / "visualizer.md"

if not README.exists():  # the suite without its checkout
    pytest.skip("there is no README beside the tests", allow_module_level=True)


def examples(path: Path = README) -> list[Any]:
    """The Python blocks of a document."""
    sybil = Sybil(parsers=[PythonCodeBlockParser()], pattern=path.name, path=str(path.parent))
    document: Document = sybil.parse(path)
    return list(document.examples())


@pytest.fixture(name="collector")
def _collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A collector that every agent without an endpoint of its own talks to, in a fresh folder."""
    with Collector() as collector:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HEAP_AGENT_ENDPOINT", collector.url)
        monkeypatch.setenv("HEAP_AGENT_DIRECTORY", str(tmp_path / "directory"))
        for name in ("HEAP_AGENT_DISABLED", "HEAP_AGENT_STRICT", "DO_NOT_TRACK"):
            monkeypatch.delenv(name, raising=False)
        yield collector
        if _api._default is not None:
            assert _api._default.check() == []
            _api._default.shutdown(0)
            _api._default, _api._options = None, {}


@pytest.mark.parametrize(
    "example", [*examples(), *examples(VISUALIZER)], ids=lambda example: f"line-{example.line}"
)
def test_every_python_block_runs(example: Any, collector: Collector) -> None:
    """Each block of Python runs by itself, and its assertions hold."""
    example.evaluate()


def test_the_first_example_delivers_what_it_says(collector: Collector) -> None:
    """The API example reaches Heap as two events, the second of an identified user."""
    examples()[0].evaluate()

    arrived = collector.events()
    assert [event.event for event in arrived] == ["Purchase", "Album Opened"]
    assert [event.identity for event in arrived] == [None, "alice123"]
    assert arrived[1].properties == {"tracks": 12, "shuffle": "true", "site": "Lyon 3"}


def test_there_are_python_blocks() -> None:
    """The examples are found at all."""
    assert (len(examples()), len(examples(VISUALIZER))) == (2, 1)


def test_pictures_are_there() -> None:
    """Every picture that a document shows."""
    for document in (README, VISUALIZER, ROOT / "ARCHITECTURE.md", ROOT / "RELIABILITY.md"):
        text = document.read_text("utf-8")
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)|<img src=\"([^\"]+)", text):
            assert (document.parent / "".join(picture)).exists(), (document.name, picture)


def test_the_test_command_is_what_integration_runs() -> None:
    """The command that .ci/run executes stands in the README, word for word."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    found = re.search(r"^command='(.+)'$", script, re.MULTILINE)

    assert found is not None
    assert f"```bash\n{found[1]}\n```" in README.read_text("utf-8")


def test_the_demo_command_is_the_installed_program() -> None:
    """The main command is the one that setup.cfg installs."""
    assert "heap-agent = heap_agent._tools.cli:main" in (ROOT / "setup.cfg").read_text("utf-8")
    assert (
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/heap-agent demo"
        in README.read_text("utf-8")
    )


def test_names_in_the_readme_exist() -> None:
    """Every `heap.name` in the README is an attribute of the package."""
    names = set(re.findall(r"\bheap\.([a-zA-Z_]+)\b", README.read_text("utf-8"))) - {"io"}

    assert {name for name in names if not hasattr(heap_agent, name)} == set()
    assert len(names) >= 8


def test_links_lead_somewhere() -> None:
    """Every file that a document links to exists, and so does the heading."""
    names = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "RELIABILITY.md")
    for document in (*names, "docs/visualizer.md", "docs/testing.md"):
        for target, _, heading in re.findall(
            r"\]\(([A-Za-z_./]*\.md)?(#([a-z-]+))?\)", (ROOT / document).read_text("utf-8")
        ):
            text = (ROOT / document).parent.joinpath(target or Path(document).name).read_text()
            headings = [
                re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in text.splitlines()
                if line.startswith("#")
            ]
            assert not heading or heading in headings, f"{document}: {target}#{heading}"


def test_the_readme_is_short() -> None:
    """At most about 120 lines: who meets it first has little time."""
    assert len(README.read_text("utf-8").splitlines()) <= 125

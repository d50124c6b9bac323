"""The fixtures for other people's tests, in pytest runs of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.expectations import differences
from heap_agent.testing import Collector

VALUES = st.text(max_size=3) | st.integers(-3, 3) | st.floats(allow_nan=False)
PROPERTIES = st.dictionaries(st.text(max_size=2), VALUES, max_size=4)

PROGRAM = """
import heap_agent as heap

def check_out(dollars):
    heap.track("Purchase", {"dollars": dollars, "item": "Furby"})
"""


def run(folder: Path, tests: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of a run over one file of tests."""
    (folder / "shop.py").write_text(PROGRAM)
    (folder / "test_shop.py").write_text("import shop\nimport heap_agent as heap\n\n" + tests)
    kept = {name: value for name, value in os.environ.items() if "HEAP_AGENT" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_suite_that_passes(tmp_path: Path) -> None:
    """Each test begins with nothing; what was recorded is there when it is asked for."""
    code, out = run(
        tmp_path,
        """
def test_check_out(heap_test_agent, heap_collector):
    shop.check_out(50)
    event = heap_collector.assert_tracked("Purchase", dollars=50)
    assert event.properties == {"dollars": 50, "item": "Furby"}
    heap_collector.assert_tracked("Purchase", {"item": "Furby"}, dollars=50)
    heap_collector.assert_not_tracked("Purchase", dollars=51)
    heap_collector.assert_not_tracked("Refund")
    heap.identify("alice")
    heap.track("More")
    assert [user.identity for user in heap_collector.users] == ["alice"]
    assert heap_test_agent.check() == []

def test_nothing_is_left(heap_test_agent, heap_collector):
    assert heap_collector.events() == []
    assert heap.identity is None

def test_a_program_that_starts_its_own(heap_test_agent, heap_collector):
    heap.init("11")
    shop.check_out(1)
    heap_collector.assert_tracked("Purchase")
""",
    )
    assert code == 0, out
    assert "3 passed" in out


def test_values_that_are_at_fault_fail(tmp_path: Path) -> None:
    """The agent is strict, also where the variables of a production image say otherwise."""
    code, out = run(
        tmp_path,
        """
import pytest

def test_check_out(heap_test_agent):
    with pytest.raises(heap.InvalidValue):
        shop.check_out(float("nan"))
    with pytest.raises(heap.InvalidValue):
        heap.Agent("11", directory="elsewhere").track("e", {"a": None})
""",
        HEAP_AGENT_DISABLED="1",
        DO_NOT_TRACK="1",
    )
    assert code == 0, out


def test_a_failure_says_what_was_tracked(tmp_path: Path) -> None:
    """The nearest first, with what differs; and what else there was."""
    code, out = run(
        tmp_path,
        """
def test_check_out(heap_test_agent, heap_collector):
    heap.track("Purchase", {"item": "Ball"})
    shop.check_out(40)
    heap.track("Look")
    heap_collector.assert_tracked("Purchase", dollars=50, item="Furby")

def test_unwanted(heap_test_agent, heap_collector):
    shop.check_out(40)
    heap_collector.assert_not_tracked("Purchase", dollars=40)
""",
    )
    assert code == 1
    text = re.sub(r"(?m)^E +", "", out)
    assert "no event 'Purchase' with dollars=50, item='Furby' was tracked" in text
    near, far = text.index("dollars=40, wanted 50"), text.index("dollars is missing, wanted 50")
    assert near < far and "item='Ball', wanted 'Furby'" in text
    assert "besides: 'Look' × 1" in text
    assert "'Purchase' {'dollars': 40, 'item': 'Furby'} was tracked" in text


def test_a_program_that_runs_its_tests_itself(tmp_path: Path) -> None:
    """What is imported before pytest begins is no reason for a warning."""
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass\n")
    program = "import heap_agent, pytest; raise SystemExit(pytest.main(['-q', '-W', 'error']))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_does_not_use_them_pays_nothing(tmp_path: Path) -> None:
    """No agent, no server and no thread of theirs."""
    code, out = run(
        tmp_path,
        """
import sys

def test_nothing():
    heavy = {"heap_agent._agent", "heap_agent.testing", "uvicorn", "starlette", "urllib3"}
    assert not heavy & set(sys.modules)
""",
    )
    assert code == 0, out


@given(PROPERTIES, PROPERTIES)
def test_what_differs(wanted: dict[str, object], others: dict[str, object]) -> None:
    """Nothing, exactly where all that is wanted is there; numbers are no text."""
    assert differences(wanted, {**others, **wanted}) == []
    lacking = {key: value for key, value in others.items() if key not in wanted}
    assert len(differences(wanted, lacking)) == len(wanted)
    assert differences({"a": 1}, {"a": "1"}) and differences({"a": "1"}, {"a": 1})


def test_whoever_has_no_pytest(collector: Collector) -> None:
    """A collector alone can fetch, and tell, too."""
    fetched: list[int] = []
    collector.fetch_from(lambda: fetched.append(1))
    assert collector.events() == [] and collector.users == []
    assert len(fetched) == 2
    assert "0 events" in repr(collector) and len(fetched) == 2

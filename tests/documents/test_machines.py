"""What the site says of state machines: found out from the code, and complete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from heap_agent._core.lanes import Mode
from heap_agent._core.outcomes import Answer
from heap_agent._core.pairing import Phase

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"

if not EXTENSIONS.exists():  # the suite without its checkout
    pytest.skip("there are no documents beside the tests", allow_module_level=True)


@pytest.fixture(name="machines")
def _machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    import machines

    yield machines
    del sys.modules["machines"]


def test_every_answer_has_its_row(machines: ModuleType) -> None:
    """Each status stands in one of them, and nothing but a refusal alone makes a dead letter."""
    rows = {row.answer: row for row in machines.reactions()}
    assert set(rows) == {answer.value for answer in Answer} - {"reached"}
    assert rows["rejected"][1:] == ("400, 422", "dead letter", "kept", "at once, 4 of 8 rows")
    assert [row.answer for row in rows.values() if row.several != "kept"] == ["accepted"]
    assert [row.answer for row in rows.values() if row.one == "dead letter"] == [
        "rejected",
        "too large",
    ]
    assert "503 with Retry-After" in rows["throttled"].statuses
    assert "no answer" in rows["unavailable"].statuses


def test_every_change_of_mode_is_found(machines: ModuleType) -> None:
    """Whatever the dice, the same ones come up, and each has its reason."""
    for seed in (1, 2):
        changes = machines.modes(seed)
        assert {(*change,) for change in changes} == set(machines.WHY_MODE)
    assert {before for before, _, _ in machines.WHY_MODE} == {mode.value for mode in Mode}


def test_a_pairing_ends_once(machines: ModuleType) -> None:
    """Nothing leads back, and nothing out of its end."""
    order = [phase.value for phase in Phase]
    changes = machines.pairing()
    assert all(order.index(change.before) < order.index(change.after) for change in changes)
    assert {change.after for change in changes} == {"paired", "over"}


def test_numbers_in_a_row(machines: ModuleType) -> None:
    """They are one range."""
    assert [*machines.spans([400, 402, 403, 404, 409])] == ["400", "402–404", "409"]

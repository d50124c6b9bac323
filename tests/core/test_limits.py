"""Rules of `heap_agent._core.limits`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from heap_agent._core import limits

SOURCE = Path(inspect.getfile(limits)).read_text("utf-8").splitlines()

#: Words by which a comment names where its number comes from.
NAMED = re.compile(
    r"reference|\*track\*|bulk track|\*identify\*|add_user_properties|user_deletion|core sdk|"
    r"openapi|javascript|web sdk|ios sdk|heap documents no|our choice",
    re.IGNORECASE,
)


def constants() -> dict[str, int]:
    """Every constant and the line on which it is set."""
    return {
        node.target.id: node.lineno
        for node in ast.parse("\n".join(SOURCE)).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def comment_above(line: int) -> str:
    """The ``#:`` comment of a constant, or of the group of constants that it is in."""
    index = line - 2
    while index >= 0 and SOURCE[index] and not SOURCE[index].startswith("#"):
        index -= 1
    found: list[str] = []
    while index >= 0 and SOURCE[index].startswith("#:"):
        found.insert(0, SOURCE[index][2:].strip())
        index -= 1
    return " ".join(found)


@pytest.mark.parametrize("name", constants())
def test_every_limit_names_its_source(name: str) -> None:
    """A number without a source cannot be checked when Heap changes its documents."""
    comment = comment_above(constants()[name])
    assert NAMED.search(comment), f"{name}: {comment!r} names no source"


def test_nothing_else_is_in_the_module() -> None:
    """Every public name is one of those constants, so that none goes without a source."""
    public = {name for name in vars(limits) if name.isupper()}
    assert public == set(constants())


def test_limits_agree_with_each_other() -> None:
    """An event fits into a batch, and a property into an event."""
    assert limits.EVENT_BYTES < limits.BATCH_BYTES
    assert limits.EVENT_VALUE * 4 < limits.EVENT_PROPERTIES_BYTES < limits.EVENT_BYTES
    assert limits.INTERVAL_MINIMUM < limits.INTERVAL

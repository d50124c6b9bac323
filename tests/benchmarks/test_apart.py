"""Functions in processes of their own."""

import os
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from benchmarks.apart import DiedApart, apart, once


def numbers(start: int) -> Callable[[], tuple[int, int]]:
    following = count(start)
    return lambda: (os.getpid(), next(following))


def a_file() -> Callable[[], str]:
    return lambda: tempfile.mkdtemp()


def nothing_good() -> Callable[[], None]:
    return lambda: [][1]  # type: ignore[index]


def test_what_it_keeps_lives_in_the_other_process() -> None:
    """One process for all calls, and another than this."""
    with apart(numbers, 5) as function:
        pids, values = zip(*(function() for _ in range(3)), strict=True)
    assert values == (5, 6, 7)
    assert len({*pids, os.getpid()}) == 2


def test_its_files_go_with_it() -> None:
    """What it has put among the temporary files is removed at the end."""
    with apart(a_file) as function:
        path = Path(function())
        assert path.is_dir()
    assert not path.exists()


def test_what_it_raises_is_told() -> None:
    """With the traceback of the other process."""
    with pytest.raises(DiedApart, match="IndexError"):
        once(nothing_good)

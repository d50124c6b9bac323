"""The file of rejected rows goes on where it was, and is never cut by mistake."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from heap_agent._tools.bulk_rejected import ChangedFile, RejectedFile


@contextmanager
def rejected(path: Path) -> Iterator[RejectedFile]:
    file = RejectedFile(path)
    try:
        yield file
    finally:
        file.close()


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "rejected.jsonl"


def rows(path: Path) -> list[Any]:
    return [json.loads(line)["row"] for line in path.read_bytes().splitlines()]


def written(path: Path, *numbers: int) -> tuple[int, str]:
    with rejected(path) as file:
        file.begin()
        for number in numbers:
            file.write({"row": number})
        return file.length, file.sync()


def test_nothing_rejected_leaves_no_file(path: Path) -> None:
    """It is made with its first row, for this user alone."""
    with rejected(path) as file:
        file.begin()
        file.sync()
        assert not path.exists()
        file.write({"row": 1})

    assert rows(path) == [1]
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_job_sets_aside_what_is_in_the_file(path: Path) -> None:
    """Somebody may have mended it; also where nothing is rejected any more."""
    written(path, 1, 2)
    written(path, 3)
    with rejected(path) as file:
        file.begin()
        assert file.set_aside == path.with_name("rejected.jsonl.2")
        assert file.length == 0

    assert not path.exists()
    assert rows(path.with_name("rejected.jsonl.1")) == [1, 2]
    assert rows(path.with_name("rejected.jsonl.2")) == [3]


def test_rows_behind_the_checkpoint_are_set_aside(path: Path) -> None:
    """They will be rejected again, unless they are somebody's."""
    place = written(path, 1)
    with path.open("ab") as file:
        file.write(b'{"row": 2}\n{"row": 3}\n')

    with rejected(path) as again:
        again.resume(*place)
        again.write({"row": 2})
        second = again.length, again.sync()

    assert rows(path) == [1, 2]
    assert rows(path.with_name("rejected.jsonl.1")) == [1, 2, 3]
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    assert second == written(path, 1, 2)


def test_an_untouched_file_goes_on_in_place(path: Path) -> None:
    """Nothing is set aside where nothing was added."""
    place = written(path, 1)
    with rejected(path) as again:
        again.resume(*place)
        again.write({"row": 2})

    assert rows(path) == [1, 2] and again.set_aside is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_is_named() -> None:
    """It is the file's, and not that of the checkpoint or the rows."""
    with rejected(Path("/dev/full")) as file:
        file.begin()
        with pytest.raises(OSError, match="'/dev/full'"):
            file.write({"row": 1})


def test_a_file_that_was_moved_away_begins_anew(path: Path) -> None:
    """Whoever moved it has the rows."""
    place = written(path, 1)
    path.unlink()

    with rejected(path) as file:
        file.resume(*place)
        assert file.length == 0
        file.write({"row": 2})

    assert rows(path) == [2]


@pytest.mark.parametrize("content", [b"", b'{"row": 9}\n', b'{"row": 1, "mended": true}\n'])
def test_a_file_that_somebody_has_changed_is_not_touched(path: Path, content: bytes) -> None:
    """Shorter, other or longer: the sentence says what to do."""
    place = written(path, 1)
    path.write_bytes(content)

    with rejected(path) as file, pytest.raises(ChangedFile, match="move it away"):
        file.resume(*place)
    assert path.read_bytes() == content


def test_half_a_character_is_no_trouble(path: Path) -> None:
    """A lone surrogate is written as JSON writes it."""
    with rejected(path) as file:
        file.write({"row": "\ud800ü"})

    assert rows(path) == ["\ud800ü"]

"""A job that is interrupted at any point loses nothing and doubles nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._tools.bulk_checkpoint import Job, open_checkpoint
from heap_agent._tools.bulk_rejected import RejectedFile
from heap_agent._tools.bulk_rows import JsonRows, Row
from heap_agent._tools.bulk_run import ChangedSource, Run, Totals
from heap_agent.exceptions import ApiError, InvalidValue
from heap_agent.server import BulkResult, Progress, Rejected

JOB = Job("bulk-track", "11", "https://heap.example", "events.jsonl")

OnRejected = Callable[[Rejected], None]
OnProgress = Callable[[Progress], None]


class Watcher:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.last = (0, 0)

    def at(self, rows: int, rejected: int) -> None:
        self.last = (rows, rejected)


class Heap:
    """Takes batches, refuses items without a name, and can be cut off after some of them."""

    def __init__(self, batch: int = 3) -> None:
        self.arrived: list[Mapping[str, Any]] = []
        self.batch = batch

    def verb(self, cut: BaseException | None = None, after: int = 0, answered: bool = True) -> Any:
        def send(
            items: Iterable[Mapping[str, Any]],
            *,
            repair: bool,
            on_rejected: OnRejected,
            on_progress: OnProgress,
        ) -> BulkResult:
            accepted = rejected = 0
            for number, batch in enumerate(self._batches(items)):
                last = cut is not None and number == after
                if last and not answered:
                    raise cut  # type: ignore[misc]
                good = [(index, item) for index, item in batch if "n" in item]
                self.arrived += [item for _, item in good]
                if last:
                    raise cut  # type: ignore[misc]
                for index, item in batch:
                    if "n" not in item:
                        on_rejected(Rejected(index, item, "no n"))
                accepted, rejected = accepted + len(good), rejected + len(batch) - len(good)
                on_progress(Progress(accepted + rejected, accepted, rejected))
            return BulkResult(accepted, rejected, 0, 1)

        return send

    def _batches(self, items: Iterable[Any]) -> Iterator[list[tuple[int, Any]]]:
        batch = []
        for entry in enumerate(items):
            batch.append(entry)
            if len(batch) == self.batch:
                yield batch
                batch = []
        if batch:
            yield batch


def keyed(row: Row, item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "key": row.number}


class Place:
    """A folder with a checkpoint, rejected rows and what to send."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rejected = folder / "rejected.jsonl"
        self.watcher = Watcher()

    def go(self, lines: list[bytes], verb: Any, shape: str = "s") -> Totals:
        with ExitStack() as stack:
            checkpoint = stack.enter_context(open_checkpoint(self.folder / "job.db", JOB))
            rejected = RejectedFile(self.rejected)
            stack.callback(rejected.close)
            run = Run(
                JsonRows(lines),
                keyed,
                shape=shape,
                rejected=rejected,
                checkpoint=checkpoint,
                observer=self.watcher,
            )
            run.resume()
            run.send(verb, repair=False)
            return run.totals

    @property
    def rejected_rows(self) -> list[int]:
        if not self.rejected.exists():
            return []
        return [json.loads(line)["row"] for line in self.rejected.read_bytes().splitlines()]


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Place:
    return Place(tmp_path)


GOOD, FAULTY, NONE, BLANK = b'{"n":1}\n', b"{}\n", b"{\n", b"\n"


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([GOOD, GOOD, FAULTY, NONE, BLANK]), max_size=14),
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=4),
)
def test_every_row_arrives_once_under_one_key(
    lines: list[bytes], cuts: list[tuple[int, bool, bool]]
) -> None:
    """Cut off after any batch, answered or not, with an error or dead, and started again."""
    with TemporaryDirectory() as folder:
        place, heap = Place(Path(folder)), Heap()
        for after, answered, hard in cuts:
            cut: BaseException = KeyboardInterrupt() if hard else ApiError("gone")
            try:
                place.go(lines, heap.verb(cut, after, answered))
            except (KeyboardInterrupt, ApiError):
                pass
        totals = place.go(lines, heap.verb())

        numbers = {kind: [n for n, line in enumerate(lines, 1) if line in kind] for kind in
                   ((GOOD,), (FAULTY, NONE))}  # fmt: skip
        assert sorted({item["key"] for item in heap.arrived}) == numbers[(GOOD,)]
        assert place.rejected_rows == numbers[(FAULTY, NONE)]
        assert (totals.accepted, totals.rejected) == tuple(map(len, numbers.values()))
        assert place.watcher.last == (totals.rows, totals.rejected)


def test_a_finished_job_sends_only_what_was_added(place: Place) -> None:
    """Rows that were appended go out; the others stay settled."""
    heap = Heap()
    place.go([GOOD, FAULTY], heap.verb())
    nothing = place.go([GOOD, FAULTY], heap.verb())
    more = place.go([GOOD, FAULTY, GOOD, NONE], heap.verb())

    assert [item["key"] for item in heap.arrived] == [1, 3]
    assert nothing == Totals(2, 1, 1, before=2)
    assert (more.rows, more.before, more.first[0] if more.first else None) == (4, 2, 4)
    assert place.rejected_rows == [2, 4]
    reasons = [json.loads(line)["reason"] for line in place.rejected.read_bytes().splitlines()]
    assert reasons[0] == "no n" and "no JSON" in reasons[1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([b'{"n":2}\n', GOOD], "first 2 rows"),
        ([BLANK, GOOD, GOOD], "first 2 rows"),
        ([GOOD], "fewer than the 2"),
        ([], "fewer than the 2"),
    ],
)
def test_changed_rows_are_refused(place: Place, lines: list[bytes], says: str) -> None:
    """Before anything is sent."""
    heap = Heap()
    place.go([GOOD, GOOD], heap.verb())

    with pytest.raises(ChangedSource, match=says):
        place.go(lines, heap.verb())
    assert len(heap.arrived) == 2


def test_other_columns_are_refused(place: Place) -> None:
    """The same bytes would be other items."""
    place.go([GOOD], Heap().verb())

    with pytest.raises(ChangedSource, match="columns"):
        place.go([GOOD, GOOD], Heap().verb(), shape="other")


def test_nothing_settled_is_nothing_to_compare(place: Place) -> None:
    """After an attempt that reached nobody, the file may be mended."""
    with pytest.raises(ApiError):
        place.go([GOOD], Heap().verb(ApiError("gone"), 0, False))

    assert place.go([b'{"n":7}\n'], Heap().verb(), shape="other").accepted == 1


def test_many_bad_rows_are_committed_on_the_way(place: Place) -> None:
    """Rejecting alone makes progress: an interruption does not begin from the start."""
    lines = [FAULTY] * 2_500
    with pytest.raises(KeyboardInterrupt):
        place.go(lines, Heap(500).verb(KeyboardInterrupt(), 4))

    with open_checkpoint(place.folder / "job.db", JOB) as checkpoint:
        assert checkpoint.position.rejected == 2_000


def test_a_refusal_commits_what_was_rejected_before(place: Place) -> None:
    """However few rows that were."""
    with pytest.raises(ApiError):
        place.go([FAULTY] * 3 + [GOOD], Heap().verb(ApiError("gone"), 1, False))

    with open_checkpoint(place.folder / "job.db", JOB) as checkpoint:
        assert checkpoint.position.rejected == 3


def test_a_check_sends_nothing_and_counts_everything(place: Place) -> None:
    """Rows are rejected as they would be, without a trace."""
    numbers = count()

    def check(item: Mapping[str, Any]) -> None:
        next(numbers)
        if "n" not in item:
            raise InvalidValue("no n")

    run = Run(
        JsonRows([GOOD, FAULTY, NONE]),
        keyed,
        shape="",
        rejected=None,
        checkpoint=None,
        observer=place.watcher,
    )
    run.resume()
    run.check(check)

    assert run.totals == Totals(3, 1, 2, undated=1, first=(2, "no n"))
    assert list(place.folder.iterdir()) == []

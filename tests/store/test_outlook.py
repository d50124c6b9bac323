"""
The store as seen from outside: by anybody, at any time, without a trace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from helpers import balanced, deliver, equation, opened, put_event, real_clock, track

from heap_agent._core.events import Kind
from heap_agent._core.state import PAUSED, identity_facet
from heap_agent._store import outlook
from heap_agent._store.database import DatabaseTrouble
from heap_agent._store.event_queue import RECORDED
from heap_agent._store.journal import Journal
from heap_agent._store.outlook import Books
from heap_agent.testing import FakeClock


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file with its content, but what SQLite shares between processes."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if "shm" not in path.name}


def test_books_cover_what_is_absorbed_and_what_is_not(state_dir: Path, clock: FakeClock) -> None:
    """One look counts database and journals together, and once."""
    with opened(state_dir, clock) as store:
        track(store)
        track(store)
        store.absorb(freeze=False)
        clock.advance(5)
        track(store)
        store.journal.count("refused")
        store.flush_counts()

        books = outlook.read_books(state_dir, clock.boot_id)

        assert (books.counts[RECORDED], books.queued, books.rows) == (3, 3, 3)
        assert books.counts["refused"] == 1
        assert books.oldest == FakeClock().wall_ns() // 1000
        assert dict(books.backlog) == {("11", "1"): 2}
        assert books.bytes == outlook.sizes(state_dir).total > 0
        deliver(store)
        assert outlook.read_books(state_dir, clock.boot_id).oldest == clock.wall_ns() // 1000
        balanced(store)


def test_looking_leaves_no_trace(state_dir: Path, clock: FakeClock) -> None:
    """Beside a running owner and long after the last run: nothing is written."""
    with opened(state_dir, clock) as store:
        track(store)
        store.absorb(freeze=False)
        track(store)
        before = snapshot(state_dir)
        outlook.read_books(state_dir, clock.boot_id)
        outlook.read_state(state_dir, clock.boot_id)
        assert outlook.check(state_dir) == [] and outlook.trouble(state_dir) is None
        assert snapshot(state_dir) == before
    before = snapshot(state_dir)

    assert outlook.read_books(state_dir, clock.boot_id).queued == 2

    after = snapshot(state_dir)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"queue-1.db-wal"}


def test_an_empty_directory_has_empty_books(tmp_path: Path) -> None:
    """Nothing there, nothing wrong; and no directory at all is no error either."""
    for directory in (tmp_path, tmp_path / "missing"):
        assert outlook.read_books(directory, "b") == Books()
        assert outlook.read_state(directory, "b").facets == {}
        assert outlook.check(directory) == [] and outlook.trouble(directory) is None
        assert outlook.read_memo(directory, "x") is None


def test_journals_are_read_where_there_is_no_database(state_dir: Path, clock: FakeClock) -> None:
    """A one-shot recorder leaves only a journal: its events and its state can be seen."""
    journal = Journal(state_dir, clock.boot_id)
    journal.open()
    put_event(journal, clock)
    journal.put(Kind.STATE, 0, 1, 2, b'{"set": {"paused": true}}')
    journal.close()

    assert outlook.read_books(state_dir, clock.boot_id).queued == 1
    assert outlook.read_state(state_dir, clock.boot_id).flag(PAUSED)


def test_state_of_boots_that_nobody_has_absorbed(state_dir: Path, clock: FakeClock) -> None:
    """What was said in a later boot stands, however early in it, and whoever looks when."""
    clock.advance(10_000)
    for age, value in ((30, "first"), (20, "second"), (10, "third")):
        with_state(state_dir, clock, value, age)
        assert outlook.read_state(state_dir, clock.boot_id).facets["paused"].value == value
        clock.reboot()
        clock.advance(60)

    assert outlook.read_state(state_dir, clock.boot_id).facets["paused"].value == "third"
    with opened(state_dir, clock) as store:
        store.absorb(freeze=False)
        assert store.read_state().facets["paused"].value == "third"
        balanced(store)


def test_a_boot_that_could_not_be_read_before(state_dir: Path, clock: FakeClock) -> None:
    """A journal that is readable again brings its boot's state, which is not the latest."""
    part = with_state(state_dir, clock, "before", age=10)
    aside = part.with_suffix(".aside")
    part.rename(aside)
    part.symlink_to(part)
    clock.reboot()
    with opened(state_dir, clock) as store:
        store.record_state({"paused": "now"})
        store.absorb(freeze=False)
        part.unlink()
        aside.rename(part)
        assert store.read_state().facets["paused"].value == "now"

        store.absorb(freeze=False)

        assert store.read_state().facets["paused"].value == "now"
        assert not part.exists()
        balanced(store)


def with_state(directory: Path, clock: FakeClock, value: str, age: float) -> Path:
    """A part, written some seconds ago, that a process of this boot has left."""
    journal = Journal(directory, clock.boot_id)
    journal.open()
    body = json.dumps({"set": {"paused": value}}).encode()
    journal.put(Kind.STATE, 0, clock.wall_ns(), clock.boot_ns(), body)
    (part,) = directory.glob(f"{journal.id}-*.part")
    journal.close()
    written = part.stat().st_mtime - age
    os.utime(part, (written, written))
    return part


def test_a_database_that_cannot_be_read_is_named(state_dir: Path, clock: FakeClock) -> None:
    """State is not guessed where consent may stand in what cannot be read."""
    (state_dir / "queue-1.db").write_bytes(b"no database" * 1_000)
    journal = Journal(state_dir, clock.boot_id)
    journal.open()
    put_event(journal, clock)

    assert "not a database" in str(outlook.trouble(state_dir))
    assert outlook.check(state_dir) != []
    assert outlook.read_books(state_dir, clock.boot_id).queued == 1
    with pytest.raises(DatabaseTrouble):
        outlook.read_state(state_dir, clock.boot_id)
    journal.close()


def test_the_highest_generation_is_the_database(state_dir: Path) -> None:
    """Numbers are compared as numbers, and drafts do not count."""
    assert outlook.database_path(state_dir).name == "queue-1.db"
    for name in ("queue-2.db", "queue-10.db", "queue-11.tmp", "queue-12.db-wal"):
        (state_dir / name).touch()

    assert outlook.database_path(state_dir).name == "queue-10.db"


@pytest.mark.parametrize("value", ["'many'", "x'00'", "1.5"])
def test_a_count_that_is_no_number_counts_for_nothing(
    state_dir: Path, clock: FakeClock, value: str
) -> None:
    """Whoever asks for the books is told what can be read, and the next boot puts them right."""
    with opened(state_dir, clock) as store:
        track(store, n=1)
        store.absorb(freeze=False)
        assert store.ledger is not None
        with store.ledger.database.transact() as execute:
            execute(f"UPDATE counter SET value = {value} WHERE name = 'recorded'")
        books = store.books()
        assert (books.counts["recorded"], books.queued) == (0, 1)
    clock.reboot()
    with opened(state_dir, clock) as store:
        store.mend(0.0)
        assert store.books().counts["recorded"] == 1
        balanced(store)


def test_a_look_holds_no_backlog_in_memory(tmp_path: Path, clock: FakeClock) -> None:
    """However much waits in the journals: what they hold is counted part by part."""
    peaks = []
    for count in (2_000, 16_000):
        directory = tmp_path / f"{count}"
        directory.mkdir(mode=0o700)
        journal = Journal(directory, clock.boot_id)
        journal.open()
        for number in range(count):
            put_event(journal, clock, n=number, text="x" * 300)
            if journal.full:
                journal.rotate()
        tracemalloc.start()
        books = outlook.read_books(directory, clock.boot_id)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (books.queued, books.counts["recorded"]) == (count, count)
        journal.close()
    assert peaks[1] < 2 * peaks[0]


def test_damage_that_nobody_has_read_yet_is_counted(state_dir: Path, clock: FakeClock) -> None:
    """A look counts a damaged record as recorded and dropped, as the owner will."""
    with opened(state_dir, clock) as owner:
        journal = Journal(state_dir, clock.boot_id)
        journal.open()
        for number in range(3):
            put_event(journal, clock, n=number)
        (part,) = state_dir.glob(f"{journal.id}-*.part")
        content = bytearray(part.read_bytes())
        content[content.index(b'"n":1')] ^= 1
        part.write_bytes(content)

        seen = outlook.read_books(state_dir, clock.boot_id)
        owner.absorb(freeze=False)
        absorbed = outlook.read_books(state_dir, clock.boot_id)

        for books in (seen, absorbed):
            assert (books.queued, books.counts["dropped.damaged"]) == (2, 1)
            assert equation(books) == (3, 3)
        journal.close()


def test_books_add_up() -> None:
    """Two queues are one for whoever asks."""
    one = Books(queued=1, rows=2, oldest=7, memo={"a": "1"}, backlog={("11", "x"): 1})
    two = Books(queued=2, rows=2, oldest=5, memo={"a": "2", "b": "3"}, backlog={("11", "x"): 2})

    both = one.plus(two)

    assert (both.queued, both.rows, both.oldest) == (3, 4, 5)
    assert both.memo == {"a": "1", "b": "3"}
    assert both.backlog == {("11", "x"): 3}
    assert Books().plus(Books()) == Books()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_another_process_reads_while_the_owner_writes(state_dir: Path) -> None:
    """A reader waits for nobody, and what it counts never goes back."""
    program = """
import sys
from pathlib import Path
from heap_agent._store import outlook
last = -1
print("ready", flush=True)
while last < 2_000:
    books = outlook.read_books(Path(sys.argv[1]), sys.argv[2])
    dropped = sum(n for name, n in books.counts.items() if name.startswith("dropped."))
    kept = books.queued + books.counts["delivered"] + books.dead + dropped
    assert books.counts["recorded"] == kept >= last, (books, last)
    last = kept
print("good")
"""
    clock = real_clock()
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(state_dir), clock.boot_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    with opened(state_dir, clock) as store:
        for number in range(2_000):
            track(store, n=number)
            if number % 20 == 0:
                store.journal.rotate()
                store.absorb(freeze=False)
            if number % 200 == 0:
                deliver(store)
        out, errors = reader.communicate(timeout=120)
        balanced(store)

    assert out == "good\n", errors


def test_state_of_an_unknown_boot_is_older_than_that_of_this_one(
    state_dir: Path, clock: FakeClock
) -> None:
    """Before anybody has numbered the boots, the running one counts as the last."""
    name = identity_facet("11", "m")
    clock.advance(1_000)
    for user_id in ("1", "2"):
        journal = Journal(state_dir, clock.boot_id)
        journal.open()
        body = b'{"set": {"%b": {"user_id": "%b", "identity": null}}}'
        journal.put(
            Kind.STATE,
            0,
            0,
            clock.boot_ns(),
            body % (name.encode(), user_id.encode()),
        )
        journal.close()
        if user_id == "1":
            clock.reboot()

    assert outlook.read_state(state_dir, clock.boot_id).user("11", "m") == ("2", None)

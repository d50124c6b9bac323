"""
Looks of another process at a backlog that the owner absorbs at the same time: a part goes
from a journal into the database, and its file away, between any two steps of a look.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from helpers import balanced, equation, opened, put_event, real_clock
from trials import dice, tries

from heap_agent._core.events import Kind
from heap_agent._core.state import PAUSED
from heap_agent._store import outlook
from heap_agent._store.journal import Journal, Seams
from heap_agent.testing import FakeClock

TESTS: Final = Path(__file__).parents[1]

#: Makes a long queue of what is there, and then absorbs in small batches, so that parts
#: go all the time, until it is told to end.
OWNER: Final = """
import sys
from pathlib import Path
from threading import Thread
from helpers import balanced, opened, real_clock
with opened(Path(sys.argv[1]), real_clock(), max_bytes=1 << 30) as store:
    store.absorb(freeze=False)
    print("ready", flush=True)
    end = Thread(target=sys.stdin.read)
    end.start()
    while end.is_alive():
        store.ledger.absorber.absorb(freeze=False, limit=40)
    store.absorb(freeze=False)
    balanced(store)
print("good")
"""


def owner_of(directory: Path) -> subprocess.Popen[str]:
    """A process that owns the directory."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_look_sees_all_that_was_acknowledged(state_dir: Path) -> None:
    """However fast the owner takes parts away: once, in the journals or in the database."""
    clock, half = real_clock(), tries(25_000, 100_000)
    journals = [Journal(state_dir, clock.boot_id, part_bytes=8_192) for _ in range(2)]
    for journal in journals:
        journal.open()

    def record(count: int) -> None:
        for number in range(count):
            journal = journals[number % len(journals)]
            put_event(journal, clock, n=number)
            if journal.full:
                journal.rotate()

    record(half)
    owner = owner_of(state_dir)
    assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
    record(half)
    for look in range(tries(8, 40)):
        count, pause = 2 * half + look + 1, look % 2 == 0
        said = json.dumps({"set": {PAUSED: pause}}).encode()
        journals[0].put(Kind.STATE, 0, 1, clock.boot_ns(), said)
        record(1)
        assert equation(outlook.read_books(state_dir, clock.boot_id)) == (count, count)
        assert outlook.read_state(state_dir, clock.boot_id).flag(PAUSED) is pause
    for journal in journals:
        journal.close()
    out, errors = owner.communicate(timeout=60)
    assert (owner.returncode, out, errors) == (0, "good\n", "")
    with opened(state_dir, clock) as store:
        balanced(store)
        assert store.books().queued == count


@contextmanager
def amid(moments: set[int], happen: Callable[[], None]) -> Iterator[None]:
    """Have something happen at some moments of this thread: where its n-th function begins."""
    calls = 0

    def call(frame: FrameType, event: str, what: object) -> None:
        nonlocal calls
        if event == "call":
            calls += 1
            if calls in moments:
                sys.setprofile(None)
                happen()
                sys.setprofile(call)

    sys.setprofile(call)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_whatever_happens_amid_a_look(state_dir: Path, clock: FakeClock) -> None:
    """
    Records that come, parts that are begun, copied and absorbed between any two steps: a look
    has all from before it, nothing twice, and the next one no less.
    """
    chance, boot_id = dice("looks"), clock.boot_id
    broken, count, least = False, 0, 0

    def sync(fd: int) -> None:
        if broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(fd)

    journal = Journal(state_dir, clock.boot_id, seams=Seams(data_sync=sync))
    journal.open()

    def happen() -> None:
        nonlocal broken, count
        for _ in range(chance.randrange(30)):
            count += put_event(journal, clock, n=count)
            if not chance.randrange(3):
                journal.rotate()
            if not chance.randrange(10):
                broken = chance.randrange(2) == 0
                journal.sync()
                broken = False
        for _ in range(chance.randrange(4)):
            absorber.absorb(freeze=False, limit=chance.choice((1, 5, 20, 100)))

    with opened(state_dir, clock) as store:
        assert store.ledger is not None
        absorber = store.ledger.absorber
        for _ in range(tries(40, 4_000)):
            happen()
            before = max(count, least)
            with amid({chance.randrange(1, 800) for _ in range(chance.randrange(5))}, happen):
                books = outlook.read_books(state_dir, boot_id)
            least, kept = equation(books)
            assert before <= least == kept <= count
            assert books.counts["dropped.damaged"] == 0
        journal.close()
        while absorber.absorb(freeze=False).more:
            pass
        assert store.books().queued == count
        balanced(store)

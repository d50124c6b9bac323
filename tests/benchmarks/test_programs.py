"""Programs that are watched from outside, for real: their figures mean nothing here."""

import shutil
import subprocess
import sys

import pytest

from benchmarks import counts, idle, memory, peers, programs, startup
from benchmarks.waiting import backlog
from heap_agent._store import outlook
from heap_agent._store.system import Clock

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def can_trace() -> bool:
    """Whether there is an strace, and it may."""
    strace = shutil.which("strace")
    return bool(strace) and not subprocess.run([strace, "-o", "/dev/null", "true"]).returncode


def test_a_backlog_is_what_an_agent_would_have() -> None:
    """So many events wait, and the store finds nothing wrong with them."""
    with backlog(250) as directory:
        books = outlook.read_books(directory, Clock().boot_id)
        assert (books.queued, books.counts["recorded"]) == (250, 250)
        assert outlook.check(directory) == []
    assert not directory.exists()


@linux
def test_a_program_is_seen_thread_by_thread() -> None:
    """With what each has used; what it holds goes up with what it keeps."""
    with programs.environment() as variables:
        with (
            programs.running("", variables=variables) as small,
            programs.running("kept = bytearray(64 * 2**20)", variables=variables) as large,
        ):
            assert [*small.usage()] == ["MainThread"]
            assert small.usage()["MainThread"].seconds > 0
            assert large.memory["private"] - small.memory["private"] > 60
        with pytest.raises(RuntimeError, match="it has ended"):
            with programs.running("raise SystemExit", variables=variables):
                pass


@linux
def test_starts_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole processes, above one that does nothing."""
    for name, value in {"ROUNDS": 1, "WARM_UP": 0, "QUEUED": 10}.items():
        monkeypatch.setattr(startup, name, value)
    monkeypatch.setattr(peers, "PEERS", ())
    rows = {str(row["what"]): row for row in startup.run()}
    assert rows[startup.BARE]["above bare ms"] == 0
    assert {"import heap_agent", "… init, first track: 10 queued"} < rows.keys()


@linux
def test_memory_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a Python that waits."""
    monkeypatch.setattr(memory, "PATIENCE", 0.1)
    monkeypatch.setattr(memory, "QUEUED", 10)
    rows = {row["what"]: row for row in memory.run()}
    assert rows[memory.BARE]["at the start"] == 0
    assert "agent, 10 it cannot send" in rows


@linux
def test_idle_threads_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, of each program."""
    for name, value in {"SETTLE": 0.5, "MINUTE": 0.5, "TRACED": 0.5, "QUEUED": 10}.items():
        monkeypatch.setattr(idle, name, value)
    rows = idle.run()
    assert ("agent, nothing to send", "heap-agent-keeper") in {
        (row["what"], row["thread"]) for row in rows
    }


@pytest.mark.skipif(not can_trace(), reason="needs strace")
def test_system_calls_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One write an event, and no sync for each."""
    for name, value in {"EVENTS": 200, "SECONDS": 1, "SETTLE": 0.1}.items():
        monkeypatch.setattr(counts, name, value)
    rows = {str(row["what"]): row for row in counts.run()}
    recorded = rows["track at full speed, offline"]
    assert "write 1.0" in str(recorded["the most frequent"])
    assert float(recorded["syncs"] or 0) < 0.1
    assert float(recorded["bytes given"] or 0) > 200


def test_only_what_is_between_the_marks_counts() -> None:
    """Of all threads, each call once, though it was interrupted in the log."""
    mark = f'1 newfstatat(AT_FDCWD, "/{counts._MARK}", 0x7f, 0) = -1 ENOENT'
    lines = [
        "1 write(3, 0x1) = 1",
        mark,
        "1 write(3, 0x1) = 1",
        "2 futex(0x1, FUTEX_WAIT <unfinished ...>",
        "1 --- SIGALRM ---",
        "2 <... futex resumed>) = 0",
        mark,
        "2 write(3, 0x1) = 1",
    ]
    assert counts._between_the_marks(lines) == {"write": 1, "futex": 1}

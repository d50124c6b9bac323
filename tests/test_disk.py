"""
Disks that are full, read-only, or gone: the host sees nothing of it, and what was
recorded arrives when it can.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from helpers import balanced, bodies, eventually, fill, opened, real_clock, track

from heap_agent import Agent
from heap_agent._config import Config
from heap_agent._core.events import Kind
from heap_agent._store.outlook import read_books, sizes
from heap_agent._store.system import free_bytes
from heap_agent._tools.health import examine
from heap_agent.testing import Collector

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file systems of POSIX")


@pytest.fixture(name="server")
def _server() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def agent_on(directory: Path, server: Collector, **options: object) -> Agent:
    """An agent that delivers when asked to."""
    chosen = {"interval": 3600, "identity_budget": None, "app_budget": None, **options}
    return Agent("11", directory=directory, endpoint=server.url, **chosen)


def numbers(server: Collector) -> list[object]:
    """What arrived."""
    return sorted(event.properties["number"] for event in server.events("E"))


def test_a_full_disk_can_be_drained(small_disk: Path, server: Collector) -> None:
    """
    With a disk that another program has filled, what is queued is delivered and deleted,
    and what is recorded meanwhile follows.
    """
    with agent_on(small_disk / "state", server) as agent:
        for number in range(1_000):
            agent.track("E", {"number": number, "text": "x" * 200})
        eventually(lambda: (small_disk / "state" / "reserve").exists())
        fill(small_disk / "filler")
        for number in range(1_000, 2_000):
            agent.track("E", {"number": number, "text": "x" * 200})
        assert agent.status().storage == "memory"
        assert agent.status().recorded == 2_000

        eventually(lambda: agent.flush(5))

        assert numbers(server) == list(range(2_000))
        (small_disk / "filler").unlink()
        eventually(lambda: (small_disk / "state" / "reserve").exists())
        eventually(lambda: agent.status().storage == "disk")
        assert server.duplicates == [] and server.conflicts == []
        balanced(agent)


def test_a_disk_that_was_full_takes_everything_again(small_disk: Path, server: Collector) -> None:
    """Offline on a full disk events wait in memory; with room they go to disk, in order."""
    server.stop()
    with agent_on(small_disk / "state", server) as agent:
        fill(small_disk / "filler")
        for number in range(500):
            agent.track("E", {"number": number})
        assert agent.status().storage == "memory"
        (small_disk / "filler").unlink()

        eventually(lambda: agent.status().storage == "disk")

        assert agent.sync()
        server.start()
        assert agent.flush(30)
        assert [event.properties["number"] for event in server.events("E")] == list(range(500))
        balanced(agent)


def test_an_end_on_a_full_disk_leaves_room_to_drain_it(small_disk: Path, server: Collector) -> None:
    """
    What only the memory holds is not written into the room that the queue needs: it is
    lost, and counted; what is on the disk arrives with the next start.
    """
    server.stop()
    state = small_disk / "state"
    with agent_on(state, server) as agent:
        for number in range(1_000):
            agent.track("E", {"number": number, "text": "x" * 200})
        agent._store.absorb(freeze=False)
        eventually(lambda: (state / "reserve").exists())
        # More than the database has room for, as it is.
        for number in range(1_000, 2_000):
            agent.track("E", {"number": number, "text": "x" * 200})
        fill(small_disk / "filler")
        for number in range(2_000, 4_000):
            agent.track("E", {"number": number, "text": "x" * 200})
        agent.flush(0.1)
        eventually(lambda: not (state / "reserve").exists())
        agent.identify("late")
        assert agent.status().recorded == 4_000
    server.start()
    with agent_on(state, server) as agent:
        assert agent.identity == "late"
        assert agent.flush(30)

        found = agent.status()
        assert found.recorded == 4_000
        assert found.dropped == found.dropped_by["unwritten"]
        arrived = numbers(server)
        assert arrived[:1_000] == list(range(1_000))
        assert len(arrived) == found.delivered == 4_000 - found.dropped
        balanced(agent)


def test_a_start_on_a_disk_without_room_drains_what_is_there(
    small_disk: Path, server: Collector
) -> None:
    """Where no reserve can be made, what room there is goes to what waits, not to more of it."""
    server.stop()
    state = small_disk / "state"
    with agent_on(state, server) as agent:
        agent._keeper.stop(30.0)
        for number in range(4_000):
            agent.track("E", {"number": number, "text": "x" * 200})
    (state / "reserve").unlink()
    take = free_bytes(small_disk) - 900_000
    (small_disk / "filler").write_bytes(b"x" * take)
    server.start()
    with agent_on(state, server) as agent:
        assert agent.status().storage == "memory"
        assert agent.flush(30)
        assert numbers(server) == list(range(4_000))
        (small_disk / "filler").unlink()
        eventually(lambda: agent.status().storage == "disk")
        balanced(agent)


def test_what_the_journal_could_not_take_is_counted_at_the_end(
    small_disk: Path, server: Collector
) -> None:
    """Also where SQLite has met no trouble yet, and the reserve is still held."""
    server.stop()
    state = small_disk / "state"
    with agent_on(state, server) as agent:
        eventually(lambda: (state / "reserve").exists())
        agent._keeper.stop(30.0)
        fill(small_disk / "filler")
        for number in range(3_000):
            agent.track("E", {"number": number, "text": "x" * 200})
        agent.identify("late")
        assert agent.status().storage == "memory" and (state / "reserve").exists()
    server.start()
    with agent_on(state, server) as agent:
        assert agent.identity == "late"
        assert agent.flush(30)
        found = agent.status()
        assert found.recorded == 3_000
        assert found.dropped == found.dropped_by["unwritten"] > 2_000
        assert len(numbers(server)) == found.delivered == 3_000 - found.dropped
        balanced(agent)


@pytest.fixture(name="lock_disk")
def _lock_disk(small_disk: Path) -> Iterator[Callable[[], None]]:
    """Makes the small disk read-only; nobody may have a file open for writing."""
    remount = ["mount", "-o", "remount,ro", str(small_disk)]

    def lock() -> None:
        if subprocess.run(remount, capture_output=True).returncode != 0:
            pytest.skip("remounting is not allowed here")

    yield lock
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_what_was_said_is_known_on_a_read_only_disk(
    small_disk: Path, server: Collector, lock_disk: Callable[[], None]
) -> None:
    """User, properties and consent are read where nothing can be written."""
    state = small_disk / "state"
    with agent_on(state, server) as agent:
        agent.identify("zoe")
        agent.add_event_properties({"site": "hall"})
        user = agent.user_id
    lock_disk()
    with agent_on(state, server) as agent:
        assert (agent.identity, agent.user_id) == ("zoe", user)
        agent.track("E", {"number": 1})
        assert agent.status().storage == "memory"
        assert agent.flush(30)
        (event,) = server.events("E")
        assert (event.identity, event.properties["site"]) == ("zoe", "hall")


def test_an_opt_out_is_known_on_a_read_only_disk(
    small_disk: Path, server: Collector, lock_disk: Callable[[], None]
) -> None:
    """Nothing is recorded or sent there either."""
    with agent_on(small_disk / "state", server) as agent:
        agent.opt_out()
    lock_disk()
    with agent_on(small_disk / "state", server) as agent:
        agent.track("E", {"number": 1})
        agent.flush(1)
        assert agent.status().opted_out
        assert agent.status().recorded == 0
    assert server.events() == []


def test_a_watchman_is_told_of_somebody_elses_disk(
    small_disk: Path, server: Collector, lock_disk: Callable[[], None]
) -> None:
    """Root, who writes nothing there, learns that the disk is full or read-only."""
    state = small_disk / "state"
    with agent_on(state, server) as agent:
        agent.track("E", {"number": 1})
    for path in (state, *state.iterdir()):
        os.chown(path, 12_345, 12_345)

    def complaints() -> str:
        return " ".join(examine(state, Config(app_id="11"), thorough=True).complaints)

    assert complaints() == ""
    fill(small_disk / "filler")
    assert os.strerror(errno.ENOSPC) in complaints()
    (small_disk / "filler").unlink()
    assert complaints() == ""
    lock_disk()
    assert os.strerror(errno.EROFS) in complaints()
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    for path in (state, *state.iterdir()):
        os.chown(path, os.geteuid(), os.getegid())
    with agent_on(state, server) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)
    assert numbers(server) == [1]


@pytest.mark.parametrize("pause", [0.0, 1.5])
def test_the_end_of_a_program_without_a_disk(server: Collector, pause: float) -> None:
    """Its last delivery comes from memory, and nothing is printed."""
    program = (
        "import sys, time\n"
        "import heap_agent as heap\n"
        "heap.init('11', directory='/proc/nowhere', endpoint=sys.argv[1], interval=3600)\n"
        "for number in range(300):\n"
        "    heap.track('E', {'number': number})\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, server.url, str(pause)], capture_output=True, timeout=60
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert numbers(server) == list(range(300))


def test_a_finalizer_may_record_at_the_end_of_the_interpreter(
    tmp_path: Path, server: Collector
) -> None:
    """When nothing can be imported any more, its event still waits for the next start."""
    program = (
        "import sys\n"
        "import heap_agent as heap\n"
        "heap.init('11', directory=sys.argv[1], endpoint='http://127.0.0.1:9', interval=3600)\n"
        "class Late:\n"
        "    def __del__(self, track=heap.track):\n"
        "        track('E', {'number': 2})\n"
        "heap.track('E', {'number': 1})\n"
        "late = Late()\n"
        "late.cycle = late\n"
    )
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", program, str(state)], capture_output=True, timeout=60
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with agent_on(state, server) as agent:
        assert agent.flush(30)
        assert numbers(server) == [1, 2]
        balanced(agent)


def test_a_read_only_disk_stops_nothing(small_disk: Path, server: Collector) -> None:
    """
    On a disk that turns read-only the agent goes on in memory and sends from there, and
    brings the rest back when it can.
    """
    with agent_on(small_disk / "state", server) as agent:
        agent.track("E", {"number": 0})
        assert agent.flush(10)
        remount = ["mount", "-o", "remount", str(small_disk)]
        if subprocess.run([*remount[:2], "remount,ro", *remount[3:]]).returncode != 0:
            pytest.skip("remounting is not allowed here")
        for number in range(1, 50):
            agent.track("E", {"number": number})
        found = agent.status()
        assert (found.storage, found.recorded, found.balanced) in (
            ("memory", 50, True),
            # An open file may still be written to where only the mount is read-only.
            ("disk", 50, True),
        )
        subprocess.run([*remount[:2], "remount,rw", *remount[3:]], check=True)

        eventually(lambda: agent.flush(5))

        assert numbers(server) == list(range(50))
        balanced(agent)


def test_a_limit_on_file_sizes(tmp_path: Path, server: Collector) -> None:
    """A quota cuts records in the middle; none is lost, none is broken."""
    program = Path(__file__).parent / "programs" / "limited.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "state"), server.url],
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found == {"limited": "memory", "storage": "disk", "recorded": 2_100}
    with agent_on(tmp_path / "state", server) as agent:
        assert agent.flush(30)
        assert numbers(server) == list(range(2_100))
        balanced(agent)


def test_no_directory_at_all(tmp_path: Path, server: Collector) -> None:
    """Where no directory can be had, events are sent from memory."""
    (tmp_path / "file").write_text("in the way")
    with agent_on(tmp_path / "file", server) as agent:
        user = agent.user_id
        for number in range(20):
            agent.track("E", {"number": number})
        agent.identify("alice")
        agent.add_user_properties({"plan": "free"})
        found = agent.status()
        assert (found.storage, found.recorded, found.queued) == ("memory", 20, 20)
        assert any("in the way" in problem for problem in found.problems)

        assert agent.flush(30)

        assert numbers(server) == list(range(20))
        alice = server.user("alice")
        assert alice is not None and alice.user_ids == (user,)
        assert alice.properties == {"plan": "free"}
        assert agent.user_id == user
        balanced(agent)


def test_the_queue_stays_within_its_bytes(tmp_path: Path, server: Collector) -> None:
    """
    Offline for long, the directory never grows beyond `max_bytes`; the oldest events go,
    counted, and the newest arrive.
    """
    server.stop()
    limit = 4 * 2**20
    with agent_on(tmp_path / "state", server, max_bytes=limit) as agent:
        most = 0
        for number in range(30_000):
            agent.track("E", {"number": number, "text": "x" * 100})
            if number % 1_000 == 0:
                time.sleep(0.1)
                most = max(most, agent.status().bytes)
        eventually(lambda: agent.status().bytes <= limit)
        assert most <= limit
        server.start()

        assert agent.flush(60)

        # Counted at the end: what the journal still held may have been dropped
        # only when it met the full queue.
        balanced(agent)
        found = agent.status()
        assert found.recorded == 30_000
        assert found.dropped == found.dropped_by["full"] > 0
        arrived = numbers(server)
        assert len(arrived) == len(set(arrived)) == found.delivered
        assert min(arrived) > 0


def remove(directory: Path) -> None:
    """Delete what is there, as a cleaner would that meets a living program."""
    for path in directory.iterdir():
        path.unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


def test_somebody_removes_the_directory(tmp_path: Path, server: Collector) -> None:
    """
    A cleaner that deletes the state of a running agent costs what was in there, and
    neither the user, nor the consent, nor the events that follow.
    """
    state = tmp_path / "state"
    with agent_on(state, server) as agent:
        agent.identify("alice")
        agent.add_event_properties({"site": "hall"})
        agent.track("E", {"number": 1})
        user = agent.user_id
        remove(state)
        eventually(lambda: list(state.glob("*.part")))

        agent.track("E", {"number": 2})
        assert agent.flush(30)

        assert (agent.user_id, agent.identity) == (user, "alice")
        balanced(agent)
    with agent_on(state, server) as again:
        assert (again.user_id, again.identity) == (user, "alice")
        again.track("E", {"number": 3})
        again.opt_out(purge=False)
        remove(state)
        eventually(lambda: list(state.glob("*.part")))
    with agent_on(state, server) as silent:
        assert silent.status().opted_out
    assert 2 in numbers(server)
    assert [event.properties["site"] for event in server.events("E")][-1] == "hall"


def test_without_a_directory_events_are_delivered_from_memory(
    tmp_path: Path, server: Collector
) -> None:
    """A directory that cannot be trusted costs durability, not delivery."""
    tmp_path.chmod(0o777)
    options = {"directory": tmp_path, "endpoint": server.url, "interval": 0.1}
    agent = Agent("11", **options)
    agent.track("First")
    eventually(lambda: len(server.events()) == 1)
    assert agent.status().storage == "memory"
    balanced(agent)

    agent.track("At the end")
    agent.shutdown(5.0)

    assert [event.event for event in server.events()] == ["First", "At the end"]


def test_refusals_survive_a_kill(state_dir: Path) -> None:
    """At the hard cap events are refused; what a kill leaves behind still counts them."""
    with opened(state_dir) as store:
        track(store)
        store.journal.allow(0)
        assert not any(track(store) for _ in range(1_000))

        # What is on disk, without what this process would still add.
        books = read_books(state_dir, store.clock.boot_id)

        assert (books.counts["dropped.full"], books.queued) == (1_000, 1)
        assert books.counts["recorded"] == 1_001
        balanced(store)


@pytest.mark.parametrize("programs", [1, 3])
def test_a_flood_stays_within_its_bytes(tmp_path: Path, programs: int) -> None:
    """
    Programs that record as fast as they can fill no disk: seen from outside the directory
    never exceeds `max_bytes`, what goes is counted, and the newest are there in the end.
    """
    limit, count = 4 * 2**20, 60_000
    program = Path(__file__).parent / "programs" / "flood.py"
    state = tmp_path / "state"
    command = [sys.executable, str(program), str(state), str(limit), str(count // programs)]
    most = 0
    with ExitStack() as stack:
        processes = [stack.enter_context(subprocess.Popen(command)) for _ in range(programs)]
        while any(process.poll() is None for process in processes):
            # Twice, as what is moved may be seen in both places by one look.
            most = max(most, min(sizes(state).total, sizes(state).total))
            time.sleep(0.002)
    assert [process.returncode for process in processes] == [0] * programs
    assert most <= limit

    with opened(state, real_clock(), max_bytes=limit) as store:
        store.absorb(freeze=False)
        kept = [body["properties"]["number"] for body in bodies(store, Kind.EVENT)]
        books = store.books().counts
        assert books["recorded"] == count == len(kept) + books["dropped.full"]
        balanced(store)
    if programs == 1:
        # How much fits depends on how much of it the owner had time to absorb.
        assert kept == sorted(kept) and kept[0] > count / 5


def test_an_end_that_a_disk_holds_up_says_what_is_lost(
    tmp_path: Path, server: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """A program does not wait for it for ever, and the log tells what was only in memory."""
    agent = agent_on(tmp_path / "state", server)

    def refuse(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    agent.track("E", {"number": 0})
    agent._store.journal._write = refuse
    agent._store.journal._choose_write(busy=True)
    with ThreadPoolExecutor(1) as pool:
        go_on = threading.Event()

        def hang() -> None:
            with agent._store.working():
                hangs.set()
                go_on.wait(60)

        hangs = threading.Event()
        pool.submit(hang)
        assert hangs.wait(30)
        agent.track("E", {"number": 1})
        agent.shutdown(0.1)
        said = [record.getMessage() for record in caplog.records]
        go_on.set()
    assert any("1 events are in memory" in text for text in said), said
    agent.shutdown(0.1)
    with agent_on(tmp_path / "state", server) as again:
        assert again.flush(30)
        balanced(again)

"""Commands of one app id share Heap's limits, one after another and side by side."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from heap_agent._core.budget import Allowance
from heap_agent._core.events import Kind
from heap_agent._server.line import Seams
from heap_agent._tools.bulk_budget import SharedLedger, default_ledger
from heap_agent._tools.bulk_checkpoint import CheckpointTrouble
from heap_agent.server import ServerClient
from heap_agent.testing import Collector, FakeClock

DAY = 86_400.0


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "states" / "budget.db"


@pytest.fixture(name="collector")
def _collector(clock: FakeClock) -> Iterator[Collector]:
    with Collector(clock=clock) as collector:
        yield collector


def room(path: Path, now: float, actor: str = "ann", boot: str = "b1") -> tuple[float, float]:
    """How many events a new command might send now: for one actor, and in all."""
    allowance = Allowance(1_000, 15_000, 1)
    with closing(SharedLedger(path, "11", boot)) as ledger, ledger.turn(now, allowance) as ours:
        assert ours
    purse = allowance.purse(now, Kind.EVENT, "11")
    own = sum(purse.take(actor) for _ in range(1_001))
    purse = allowance.purse(now, Kind.EVENT, "11")
    return own, sum(purse.take(str(n)) for n in range(15_001))


def send(path: Path, now: float, count: int, *, boot: str = "b1", ends: bool = True) -> None:
    """A command that lives for one request."""
    with closing(SharedLedger(path, "11", boot)) as ledger:
        with ledger.turn(now, Allowance(1_000, 15_000, 1)):
            ledger.begin(Kind.EVENT, ["ann"] * count)
            if ends:
                ledger.end(now, has_arrived=True)


def test_what_one_command_sends_counts_for_the_next(path: Path) -> None:
    """For a minute and a little, and not longer."""
    send(path, DAY, 600)

    assert room(path, DAY + 1) == (400, 14_400)
    assert room(path, DAY + 61.9) == (400, 14_400)
    assert room(path, DAY + 62.1) == (1_000, 15_000)


def test_a_request_that_nobody_ended_counts_from_when_it_is_found(path: Path) -> None:
    """It may have arrived until then: a command was killed in the middle of it."""
    send(path, DAY, 600, ends=False)

    assert room(path, DAY + 30) == (400, 14_400)
    assert room(path, DAY + 91.9) == (400, 14_400)
    assert room(path, DAY + 92.1) == (1_000, 15_000)


def test_a_request_that_never_left_counts_for_nothing(path: Path) -> None:
    """No network, no arrival."""
    with closing(SharedLedger(path, "11", "b1")) as ledger:
        with ledger.turn(DAY, Allowance(1_000, 15_000, 1)):
            ledger.begin(Kind.EVENT, ["ann"] * 600)
            ledger.end(DAY, has_arrived=False)

    assert room(path, DAY) == (1_000, 15_000)


@pytest.mark.parametrize("now", [5.0, 2 * DAY])
def test_after_a_reboot_everything_counts_as_new(path: Path, now: float) -> None:
    """How long it took is not known, and the clock began anew."""
    send(path, DAY, 600)

    assert room(path, now, boot="b2") == (400, 14_400)
    assert room(path, now + 61.9, boot="b2") == (400, 14_400)
    assert room(path, now + 62.1, boot="b2") == (1_000, 15_000)


def test_one_that_lives_on_hears_of_the_others_once(path: Path) -> None:
    """And of itself not at all: a client charges what it sends."""
    allowance = Allowance(1_000, 15_000, 1)
    with closing(SharedLedger(path, "11", "b1")) as ledger:
        for second in range(3):
            with ledger.turn(DAY + second, allowance):
                ledger.begin(Kind.EVENT, ["bob"] * 10)
                ledger.end(DAY + second, has_arrived=True)
            send(path, DAY + second + 0.5, 100)
        with ledger.turn(DAY + 3, allowance):
            pass

    purse = allowance.purse(DAY + 3, Kind.EVENT, "11")
    assert sum(purse.take("ann") for _ in range(1_001)) == 700
    assert room(path, DAY + 3) == (700, 15_000 - 330)


HOLDER = """
import sys
from pathlib import Path
from heap_agent._core.budget import Allowance
from heap_agent._tools.bulk_budget import SharedLedger
with SharedLedger(Path(sys.argv[1]), "11").turn(1.0, Allowance(1, 1, 1)):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_one_sends_at_a_time(path: Path) -> None:
    """The other is told to ask again; a death ends the turn."""
    allowance = Allowance(1, 1, 1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder, closing(SharedLedger(path, "11")) as ledger:
        assert holder.stdout is not None and holder.stdout.readline() == b"mine\n"
        with ledger.turn(1.0, allowance) as ours:
            assert not ours
        holder.kill()
        holder.wait()
        with ledger.turn(1.0, allowance) as ours:
            assert ours


def test_clients_of_one_ledger_keep_the_limits_together(
    path: Path, clock: FakeClock, collector: Collector
) -> None:
    """One after another, as commands do: the collector counts as Heap does."""
    seams = Seams(
        monotonic=lambda: clock.boot_ns() / 1e9,
        wall=lambda: clock.wall_ns() / 1e9,
        sleep=clock.advance,
        chance=lambda: 0.5,
    )
    for run in range(3):
        with closing(SharedLedger(path, "11", "b1")) as ledger:
            numbered = attrs.evolve(seams, random_bits=lambda _, run=run: run)
            options = {"endpoint": collector.url, "_seams": numbered, "_ledger": ledger}
            with ServerClient("11", **options) as client:
                result = client.bulk_track(
                    {"event": "E", "identity": "ann" if n < 900 else f"u{n}"} for n in range(9_000)
                )
        assert result.accepted == 9_000

    assert collector.over_limit == []
    assert 120 <= clock.boot_ns() / 1e9 <= 190


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_is_private_and_names_nobody(path: Path) -> None:
    """Who was sent about is nobody's business."""
    send(path, DAY, 1)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"ann" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_a_file_that_is_none_is_a_sentence(path: Path) -> None:
    """It may be removed when a minute has passed."""
    path.parent.mkdir()
    path.write_bytes(b"no database at all, and long enough to be looked at" * 99)
    with closing(SharedLedger(path, "11")) as ledger:
        with pytest.raises(CheckpointTrouble, match="share Heap's limits"):
            with ledger.turn(1.0, Allowance(1, 1, 1)):
                raise AssertionError


def test_each_app_id_and_host_has_its_own() -> None:
    """Heap counts them apart."""
    places = [
        default_ledger(app, host) for app in ("11", "12") for host in ("https://a", "https://b")
    ]

    assert len(set(places)) == 4

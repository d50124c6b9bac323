"""
Fixtures that every room's tests may use.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trials
from hypothesis import HealthCheck, settings

from heap_agent import Agent
from heap_agent import _api as api
from heap_agent.testing import Collector, FakeClock

if TYPE_CHECKING:
    import trustme

# What a property takes is no fault of it: machines are busy.
settings.register_profile(
    "untimed",
    settings.default,
    deadline=None,
    max_examples=settings.default.max_examples // (trials.PARTS if trials.SAMPLE else 1),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")

# A suite that a shell runs in the background ignores SIGINT, and so would the programs
# that it starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: What takes long, and hardly depends on the version of Python: folders, and files of real
#: processes and disks.
LONG = tuple(
    Path(__file__).parent / name
    for name in (
        *("benchmarks", "documents", "examples", "reliability", "server", "tools", "view"),
        *("test_crash.py", "test_disk.py", "test_end_to_end.py", "test_lifecycle.py"),
        *("test_processes.py", "store/test_keeper.py", "upload/test_transport.py"),
    )
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another Python of the same run tries."""
    long = [item for item in items if not {*LONG}.isdisjoint({item.path, *item.path.parents})]
    left_out = set(long) - set(trials.sample(long))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Long runs let Hypothesis throw the same dice, unless they were told others."""
    if trials.LONG and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(trials.SEED)


def pytest_report_header() -> str:
    """What a run needs to be repeated."""
    return f"dice: {trials.SEED}{', thrown long' if trials.LONG else ''}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests have told, a line for each test."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    told = {
        report.nodeid: report.user_properties
        for report in reports
        if getattr(report, "when", "") == "call" and report.user_properties
    }
    if told:
        terminalreporter.section("figures")
    for test, figures in sorted(told.items()):
        told_of = ", ".join(f"{name} {value}" for name, value in figures)
        terminalreporter.write_line(f"{test.partition('tests/')[2] or test}: {told_of}")


@pytest.fixture(name="figure")
def _figure(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """Tells a figure, such as how many rounds there were, at the end of the run."""
    return lambda name, value: record_property(name, f"{value:,}" if type(value) is int else value)


@pytest.fixture(autouse=True)
def _no_default_agent_left_behind() -> Iterator[None]:
    """Whatever a test does with the module-level verbs ends with it."""
    yield
    api.have_none()


@pytest.fixture(name="state_dir")
def _state_dir(tmp_path: Path) -> Path:
    """A state directory as an agent makes it."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    """A clock that stands still until it is moved."""
    return FakeClock()


@pytest.fixture(name="collector")
def _collector() -> Iterator[Collector]:
    """A running stand-in for Heap."""
    with Collector() as collector:
        yield collector


@pytest.fixture(name="ca", scope="module")
def _ca() -> trustme.CA:
    """An authority that nobody knows."""
    import trustme  # few need it, and it takes its time

    return trustme.CA()


@pytest.fixture(name="bundle")
def _bundle(ca: trustme.CA, tmp_path: Path) -> str:
    """The file with its certificate."""
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(name="make_agent")
def _make_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Makes agents that send nothing by themselves, and are shut down at the end."""
    agents: list[Agent] = []

    def make(**options: Any) -> Agent:
        chosen = {
            "app_id": "11",
            "directory": tmp_path / "state",
            "endpoint": "http://127.0.0.1:9",
            "interval": 3600,
            **options,
        }
        agents.append(Agent(**chosen))
        return agents[-1]

    yield make
    for agent in agents:
        agent.shutdown(0)


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB; only root may have one."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)

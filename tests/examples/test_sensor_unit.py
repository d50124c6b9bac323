"""
The unit of the sensor daemon, as systemd judges it, and as it runs under systemd with all
that it forbids.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from commands import PATIENCE, arguments
from helpers import balanced, eventually, heir
from sensor import Sensor

import heap_agent
from heap_agent.testing import Collector

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
UNIT = EXAMPLES / "sensor_daemon.service"
MACHINE = Path(__file__).parents[1] / "programs" / "machine.sh"

if not UNIT.exists():  # the suite without its checkout
    pytest.skip("there are no examples beside the tests", allow_module_level=True)
if shutil.which("systemd-analyze") is None:
    pytest.skip("systemd is not installed here", allow_module_level=True)


@pytest.fixture(name="unit")
def _unit(tmp_path: Path) -> Path:
    """A copy of the unit whose program is there."""
    program = shutil.which("true")
    lines = UNIT.read_text("utf-8").splitlines()
    kept = [f"ExecStart={program}" if "ExecStart=" in line else line for line in lines]
    copy = tmp_path / UNIT.name
    copy.write_text("\n".join(kept) + "\n", "utf-8")
    return copy


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


def test_systemd_understands_the_unit(unit: Path) -> None:
    """Every section, key and value; a warning is a failure."""
    done = analyze("verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    # And it would say so.
    unit.write_text(unit.read_text("utf-8").replace("WatchdogSec=60", "WatchdogSec=soon"), "utf-8")
    assert "soon" in analyze("verify", "--man=no", unit).stderr


def test_the_unit_leaves_little_to_break(unit: Path) -> None:
    """Systemd's own rating: at most 2.0 of 10, where 9.6 is a service without any of it."""
    rate = ("security", "--offline=true", "--no-pager")
    if analyze(*rate, unit).returncode != 0:
        pytest.skip("this systemd rates no files")

    done = analyze(*rate, "--threshold=20", unit)
    assert done.returncode == 0, done.stdout


class Machine:
    """A systemd of its own, with the daemon's unit and a sensor."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self._folder = folder
        for name in ("units/sensor_daemon.service.d", "var", "groups", "sensor"):
            (folder / name).mkdir(parents=True)
        self._name = f"heap-agent-{os.getpid()}-{folder.name}"
        (folder / "name").write_text(self._name)
        self._messages = folder / "messages"
        self._messages.touch()
        self.words = folder / "stderr"
        self.sensor = Sensor(folder / "sensor" / "temp")
        self._write_units(endpoint)

    def _write_units(self, endpoint: str) -> None:
        units = self._folder / "units"
        shutil.copy(UNIT, units)
        # What stands elsewhere than on a device.
        package = Path(heap_agent.__file__).parents[1]
        there = (sys.prefix, sys.base_prefix, EXAMPLES, package, self.sensor.path.parent)
        common = f"""
            Environment=HEAP_AGENT_APP_ID=11 HEAP_AGENT_INTERVAL=1 HEAP_AGENT_ENDPOINT={endpoint}
            ProtectHome=tmpfs
            BindReadOnlyPaths={" ".join({str(Path(path).resolve()) for path in there})}
            StandardError=append:{self.words}
            """
        daemon = f"{sys.executable} -W error {EXAMPLES / 'sensor_daemon.py'} --every 0.1"
        (units / "sensor_daemon.service.d" / "trial.conf").write_text(
            f"""[Service]
            ExecStart=
            ExecStart={daemon} --sensor {self.sensor.path}
            WatchdogSec=8
            RestartSec=0.1
            {common}"""
        )
        (units / "track.service").write_text(
            f"""[Service]
            Type=oneshot
            DynamicUser=yes
            User=sensor_daemon
            StateDirectory=sensor_daemon
            ExecStart={" ".join(arguments(("track", "Serviced")))}
            {common}"""
        )
        for name in ("trial", "sysinit", "basic", "shutdown", "umount"):
            (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")

    def __enter__(self) -> Machine:
        start = ["unshare", "--mount", "sh", str(MACHINE), str(self._folder)]
        self._process = subprocess.Popen(start)
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever went wrong: what it has in the real /tmp goes with it.
        if self._process.poll() is None:
            self.run("systemctl", "stop", UNIT.name)
        # Whoever waits for it then knows that all the others have gone, too.
        with suppress(ValueError):
            os.kill(int(self._first), signal.SIGKILL)
        self._process.wait(PATIENCE)
        subprocess.run(["unshare", "--mount", "sh", str(MACHINE), str(self._folder), "clear"])
        print(self._messages.read_text("utf-8", "replace"))

    @property
    def _first(self) -> str:
        """The process that is the first one there."""
        process = self._process.pid
        with suppress(FileNotFoundError):
            return Path(f"/proc/{process}/task/{process}/children").read_text().strip()
        return ""

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Do something as root on that machine."""
        assert self._process.poll() is None
        enter = ["nsenter", "-t", self._first or "0", "-m", "-p", "-u", "-i", "-C"]
        return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=PATIENCE)

    def systemctl(self, verb: str, *options: str) -> str:
        done = self.run("systemctl", verb, *options, UNIT.name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.systemctl("show", "--value", f"--property={name}")

    def settle(self, collector: Collector) -> None:
        """Deliver what is left and check the books, once the daemon is stopped."""
        private = self._folder / "var" / "private" / "sensor_daemon"
        for path in [private, *private.rglob("*")]:
            os.chown(path, 0, 0)
        with heir(private / "heap_agent", collector.url) as agent:
            assert agent.flush(timeout=30)
            balanced(agent)
            assert collector.conflicts == []


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, collector: Collector) -> Iterator[Machine]:
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists():
        pytest.skip("needs root and systemd")
    if Path("/run/systemd/system").exists():
        pytest.skip("this machine is ruled by a systemd already")
    probe = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--uts", "--ipc", "sh", "-c"]
    mount = f'mount -t proc proc /proc && mount -t cgroup2 none "{tmp_path}"'
    if subprocess.run([*probe, mount], capture_output=True).returncode != 0:
        pytest.skip("such namespaces are not allowed here")
    (tmp_path / "machine").mkdir()
    with Machine(tmp_path / "machine", collector.url) as machine:
        eventually(lambda: machine.run("systemctl", "is-active", "trial.target").returncode == 0)
        yield machine


def test_the_daemon_lives_under_systemd(machine: Machine, collector: Collector) -> None:
    """With all that its unit forbids: it delivers, and comes back when it dies or hangs."""

    def degrees() -> list[object]:
        return [event.properties["celsius"] for event in collector.events("Temperature Read")]

    machine.systemctl("start")  # until it says that it is ready
    eventually(lambda: degrees() == [20.0])
    owner = Path("/var/lib/sensor_daemon/heap_agent")
    assert int(machine.run("stat", "-c", "%u", str(owner)).stdout) >= 61_184

    # As an administrator looks at it.
    done = machine.run(*arguments(("status", "--check", "--directory", owner)))
    assert done.returncode == 0, done.stdout + done.stderr

    # And where something is to be written, as the daemon's user.
    assert machine.run("systemctl", "start", "track.service").returncode == 0

    machine.systemctl("kill", "--signal=KILL")
    machine.sensor.set("30000")
    eventually(lambda: degrees() == [20.0, 30.0])
    assert machine.show("NRestarts") == "1"
    assert machine.words.read_text() == ""

    machine.sensor.jam()
    eventually(lambda: "in read" in machine.words.read_text())
    machine.sensor.set("40000")
    eventually(lambda: degrees()[-1] == 40.0)
    assert int(machine.show("NRestarts")) >= 2

    machine.systemctl("stop")
    assert (machine.show("Result"), machine.show("ExecMainStatus")) == ("success", "0")
    machine.settle(collector)
    assert degrees() == [20.0, 30.0, 40.0]
    assert len(collector.events("Serviced")) == 1
    assert len({event.user_id for event in collector.events()}) == 1

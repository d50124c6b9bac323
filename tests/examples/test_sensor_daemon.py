"""
The sensor daemon of the examples, as a real process of a service manager that this test
plays; test_sensor_unit.py has systemd itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest
from commands import PATIENCE, arguments, environment
from helpers import balanced, eventually, heir
from sensor import Sensor

from heap_agent.testing import Collector

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DAEMON = EXAMPLES / "sensor_daemon.py"
UNIT = EXAMPLES / "sensor_daemon.service"

if not DAEMON.exists():  # the suite without its checkout
    pytest.skip("there are no examples beside the tests", allow_module_level=True)
if not sys.platform.startswith("linux"):
    pytest.skip("there is no systemd elsewhere", allow_module_level=True)
pytest.importorskip("systemd_watchdog")

#: Seconds after which this service manager takes a silent daemon for stuck.
WATCHDOG = 3.0

#: A user that owns nothing, as those that systemd makes up.
NOBODY = 61_184


class Device:
    """A sensor, a place for state as DynamicUser= makes it, and a way to start the daemon."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.sensor = Sensor(folder / "temp")
        self.private = folder / "private" / "sensor_daemon"
        self.private.mkdir(parents=True, mode=0o700)
        self.link = folder / "sensor_daemon"
        self.link.symlink_to(Path("private", "sensor_daemon"))
        self.environment = environment(
            folder,
            {
                "STATE_DIRECTORY": str(self.link),
                "HEAP_AGENT_APP_ID": "11",
                "HEAP_AGENT_ENDPOINT": endpoint,
                "HEAP_AGENT_INTERVAL": "1",
                "PYTHONFAULTHANDLER": "1",
            },
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-W", "error", str(DAEMON), "--sensor", str(self.sensor.path)]

    @property
    def state(self) -> Path:
        return self.private / "heap_agent"

    @contextmanager
    def service(self, *options: str, before: tuple[str, ...] = ()) -> Iterator[Service]:
        """The daemon under this test as service manager; what it does ends with the block."""
        with Service(self, ["--every", "0.05", *options], before) as service:
            yield service


class Service:
    """A running daemon, and what it tells its service manager."""

    def __init__(self, device: Device, options: list[str], before: tuple[str, ...]) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A name that the kernel picks, in no directory: any user may send there.
        self._line.bind("")
        self._said: Queue[str] = Queue()
        # As systemd does, whatever else happens: who is not heard would wait.
        self._listener = Thread(target=self._listen)
        self._listener.start()
        self.process = subprocess.Popen(
            # The shell knows the id of the process that it becomes.
            [*before, "sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh", *device.command, *options],
            env={
                **device.environment,
                "NOTIFY_SOCKET": "@" + self._line.getsockname()[1:].decode(),
                "WATCHDOG_USEC": str(int(WATCHDOG * 1e6)),
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._line.shutdown(socket.SHUT_RD)
        self._listener.join()
        self._line.close()

    def _listen(self) -> None:
        while message := self._line.recv(4096):
            self._said.put(message.decode().strip())

    def wait_for(self, message: str, seconds: float = PATIENCE) -> None:
        """Until the daemon says this, whatever it says before; silence raises `Empty`."""
        while self._said.get(timeout=seconds) != message:
            pass

    def read(self, device: Device, text: str, status: str) -> None:
        """Have the sensor say something, and the daemon read it."""
        device.sensor.set(text)
        self.wait_for(f"STATUS={status}")

    def starve(self) -> None:
        """Until the watchdog was not fed for too long."""
        with suppress(Empty):
            while True:
                self.wait_for("WATCHDOG=1", WATCHDOG)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code and last words, after a signal."""
        self.process.send_signal(number)
        _, words = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, words


@pytest.fixture(name="device")
def _device(tmp_path: Path, collector: Collector) -> Device:
    return Device(tmp_path, collector.url)


def told(collector: Collector) -> list[object]:
    """What of the sensor has arrived: degrees, and why there were none."""
    events = sorted(collector.events(), key=lambda event: event.timestamp)
    return [{**event.properties}.popitem()[1] for event in events]


def settle(device: Device, collector: Collector) -> None:
    """Deliver what is left and check the books."""
    collector.start()
    with heir(device.state, collector.url) as agent:
        assert agent.flush(timeout=30)
        balanced(agent)
        assert collector.conflicts == []


def test_news_is_told_and_nothing_else(device: Device, collector: Collector) -> None:
    """A degree more, a sensor that fails and comes back; but not what everybody knows."""
    with device.service() as service:
        service.wait_for("READY=1")
        service.wait_for("STATUS=20.0")
        service.read(device, "20900", "20.9")
        service.read(device, "21000", "21.0")
        service.read(device, "20100", "20.1")
        service.read(device, "20000", "20.0")
        service.read(device, "off", "no number")
        device.sensor.path.unlink()
        service.wait_for("STATUS=No such file or directory")
        for _ in range(3):
            service.wait_for("WATCHDOG=1")
        service.read(device, "20000", "20.0")
        assert service.end() == (0, "")

    settle(device, collector)
    failures = ["no number", "No such file or directory"]
    assert told(collector) == [20.0, 21.0, 20.0, *failures, 20.0]
    assert len({event.session_id for event in collector.events()}) == 1


def test_silence_ends(device: Device, collector: Collector) -> None:
    """After the longest silence a reading is told that is no news."""
    with device.service("--silence", "0") as service:
        for _ in range(3):
            service.wait_for("STATUS=20.0")
            service.wait_for("WATCHDOG=1")
        assert service.end() == (0, "")

    settle(device, collector)
    assert len(told(collector)) >= 3 and {*told(collector)} == {20.0}


def test_weeks_without_a_network_are_healthy(device: Device, collector: Collector) -> None:
    """The watchdog is fed while nobody answers, and the end is as orderly as ever."""
    collector.stop()
    # Longer than the watchdog's patience: it is fed all the same.
    with device.service("--every", "3600") as service:
        service.wait_for("READY=1")
        for _ in range(4):
            service.wait_for("WATCHDOG=1")
        assert service.end(signal.SIGINT) == (0, "")

    settle(device, collector)
    assert told(collector) == [20.0]


def test_a_killed_daemon_loses_nothing(device: Device, collector: Collector) -> None:
    """What it has recorded offline is delivered by the next one, with what that one adds."""
    collector.stop()
    with device.service() as service:
        for degrees in range(30, 40):
            service.read(device, f"{degrees}000", f"{degrees}.0")
        assert service.end(signal.SIGKILL)[0] == -signal.SIGKILL

    collector.start()
    device.sensor.set("50000")
    with device.service() as service:
        eventually(lambda: 50.0 in told(collector))
        assert service.end() == (0, "")
    settle(device, collector)
    found = told(collector)
    assert found[-11:] == [*map(float, range(30, 40)), 50.0]
    assert len({event.user_id for event in collector.events()}) == 1


def test_a_read_that_hangs_starves_the_watchdog(device: Device, collector: Collector) -> None:
    """Then systemd aborts the daemon, which says where it stood, and starts another."""
    with device.service() as service:
        service.wait_for("STATUS=20.0")
        device.sensor.jam()
        service.starve()
        code, words = service.end(signal.SIGABRT)
        assert code == -signal.SIGABRT
        assert "sensor_daemon.py" in words and "in read" in words

    device.sensor.set("22000")
    with device.service() as service:
        service.wait_for("STATUS=22.0")
        assert service.end() == (0, "")
    settle(device, collector)
    assert told(collector) == [20.0, 22.0]


def test_what_the_agent_says_is_heard(device: Device, collector: Collector) -> None:
    """An option that was passed over is told on standard error, which is the journal."""
    device.environment["HEAP_AGENT_SYNC_INTERVAL"] = "soon"
    with device.service() as service:
        service.wait_for("WATCHDOG=1")
        code, words = service.end()
    assert code == 0
    assert words.startswith("ERROR heap_agent") and "HEAP_AGENT_SYNC_INTERVAL" in words
    settle(device, collector)


def test_it_runs_without_systemd(device: Device, collector: Collector) -> None:
    """Nobody listens, and nothing else is different."""
    with subprocess.Popen(
        device.command, env=device.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually(lambda: told(collector) == [20.0])
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=PATIENCE)[1] == ""
        finally:
            process.kill()
    assert process.returncode == 0
    settle(device, collector)


def test_a_user_made_up_on_a_read_only_system(device: Device, collector: Collector) -> None:
    """Neither a home nor anything to write to but its own directory: nothing else is needed."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("needs root, setpriv and unshare")
    alone = (
        'mount --bind "$0" "$0" && mount -o remount,bind,ro / && '
        # To read Python wherever it is installed; of no help in writing.
        f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs"
        ' --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search "$@"'
    )
    before = ("unshare", "--mount", "sh", "-c", alone, str(device.private))
    if subprocess.run([*before, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    elsewhere = [*before, "touch", str(device.private.parent / "file")]
    assert subprocess.run(elsewhere, capture_output=True).returncode != 0
    os.chown(device.private, NOBODY, NOBODY)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        device.environment.pop(name)

    with device.service(before=before) as service:
        service.wait_for("STATUS=20.0")
        eventually(lambda: told(collector) == [20.0])
        service.read(device, "25000", "25.0")
        assert service.end() == (0, "")

    assert {path.stat().st_uid for path in device.private.rglob("*")} == {NOBODY}
    # As an administrator looks at it.
    look = arguments(("status", "--json", "--directory", device.link / "heap_agent"))
    done = subprocess.run(look, env=device.environment, capture_output=True, check=True)
    assert json.loads(done.stdout)["recorded"] == 2
    settle_as_the_user(device, collector)
    assert told(collector) == [20.0, 25.0]


def settle_as_the_user(device: Device, collector: Collector) -> None:
    """As `settle`, by root on somebody else's directory, once nobody uses it any more."""
    for path in [device.private, *device.private.rglob("*")]:
        os.chown(path, 0, 0)
    settle(device, collector)


def test_the_unit_fits_the_program() -> None:
    """The directory that it gives, and more time to end than an agent ever takes."""
    text = UNIT.read_text("utf-8").splitlines()
    found = dict(line.split("=", 1) for line in text if "=" in line and not line.startswith("#"))
    assert found["Type"] == "notify"
    assert found["StateDirectory"] == UNIT.stem
    # An agent's own patience, and a disk's.
    assert float(found["TimeoutStopSec"]) > 2 * (2 + 3)
    assert found["ExecStart"].endswith(f"/{DAEMON.name}")

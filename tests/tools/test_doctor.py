"""What the doctor finds, on real directories, file systems and endpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trustme
from commands import Command
from helpers import eventually

from heap_agent import Agent
from heap_agent.testing import Collector, FakeClock

Findings = dict[str, tuple[str, str]]


def findings(command: Command, *words: object, **environment: str) -> tuple[int, Findings]:
    """The exit code, and by what it is about, the worst of each."""
    result = command("doctor", "--app-id", 11, *words, "--json", **environment)
    order = ["bad", "warning", "good", "skipped"]
    found: Findings = {}
    for finding in result.json["findings"]:
        known = found.get(finding["about"])
        if known is None or order.index(finding["verdict"]) < order.index(known[0]):
            found[finding["about"]] = finding["verdict"], finding["text"]
    assert result.json["healthy"] is (result.code == 0)
    return result.code, found


@pytest.fixture(name="used")
def _used(place: Path, collector: Collector) -> Path:
    """A directory that an agent has left behind."""
    with Agent("11", directory=place, endpoint=collector.url, at_exit=False) as agent:
        agent.track("Buy")
        assert agent.flush(timeout=30)
    return place


def test_a_healthy_device(command: Command, used: Path, collector: Collector) -> None:
    """Nothing is wrong; nothing of the device's was sent to find that out."""
    before = len(collector.events())
    with Agent("11", directory=used, endpoint=collector.url, at_exit=False):
        code, found = findings(command, "--directory", used, "--endpoint", collector.url)
    assert code == 0, found
    assert {about for about, (verdict, _) in found.items() if verdict == "bad"} == set()
    for about in ("options", "directory", "agent", "queue", "proxy", "name", "endpoint", "clock"):
        assert found[about][0] == "good", found[about]
    assert "0 events wait" in found["queue"][1]
    assert len(collector.events()) == before


def test_for_people(command: Command, used: Path, collector: Collector) -> None:
    """A line for each thing, and a last sentence that names what is wrong."""
    result = command("doctor", "--app-id", 11, "--directory", used, "--endpoint", collector.url)
    assert result.code == 0 and "✓" in result.out and "endpoint" in result.out
    collector.stop()
    result = command("doctor", "--app-id", 11, "--directory", used, "--endpoint", collector.url)
    assert result.code == 1
    assert result.sentence == "heap-agent: something is wrong with: endpoint"


def test_a_device_that_was_never_used(command: Command, place: Path, collector: Collector) -> None:
    """No directory is no fault, and none is made."""
    code, found = findings(command, "--directory", place, "--endpoint", collector.url)
    assert code == 0 and "not there yet" in found["directory"][1]
    assert not place.exists()


def test_offline(command: Command, used: Path) -> None:
    """Nobody is asked."""
    code, found = findings(
        command, "--directory", used, "--offline", "--endpoint", "http://[::1]:9"
    )
    assert code == 0 and found["network"] == ("skipped", "not asked")
    assert "endpoint" not in found


def test_typos(command: Command, used: Path, collector: Collector) -> None:
    """What was passed over is told."""
    where = ("--directory", used, "--endpoint", collector.url)
    code, found = findings(command, *where, HEAP_AGENT_INTERVAL="often")
    assert code == 1 and "interval is passed over" in found["options"][1]
    _, found = findings(command, *where, DO_NOT_TRACK="1")
    assert found["options"] == ("warning", "DO_NOT_TRACK is set: nothing is recorded")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_directory_that_others_may_read(command: Command, used: Path) -> None:
    """It says how it should be."""
    used.chmod(0o755)
    code, found = findings(command, "--directory", used, "--offline")
    assert code == 1 and "should be 700" in found["directory"][1]


def test_a_file_system_in_memory(command: Command, small_disk: Path) -> None:
    """And one that is smaller than max_bytes."""
    code, found = findings(command, "--directory", small_disk / "state", "--offline")
    assert code == 0
    assert found["file system"][0] == "warning" and "tmpfs is in memory" in found["file system"][1]
    assert found["space"][0] == "warning"
    with open(small_disk / "hog", "wb") as hog, pytest.raises(OSError):
        while True:
            hog.write(bytes(65_536))
    code, found = findings(command, "--directory", small_disk / "state", "--offline")
    assert code == 1 and "the disk is full" in found["space"][1]


def test_a_damaged_queue(command: Command, used: Path) -> None:
    """What cannot be read is told."""
    for log in used.glob("queue-1.db-*"):
        log.unlink()
    (used / "queue-1.db").write_bytes(b"no database" * 1_000)
    code, found = findings(command, "--directory", used, "--offline")
    assert code == 1 and "cannot be read" in found["queue"][1]


def test_wishes(command: Command, used: Path, collector: Collector) -> None:
    """A pause and an opt-out are no faults, but reasons."""
    with Agent("11", directory=used, endpoint=collector.url, at_exit=False) as agent:
        agent.pause_delivery()
        _, found = findings(command, "--directory", used, "--offline")
        assert "paused by hand" in found["delivery"][1]
        agent.opt_out()
        eventually(
            lambda: (
                "opted out" in findings(command, "--directory", used, "--offline")[1]["delivery"][1]
            )
        )


def test_a_name_that_nobody_knows(command: Command, used: Path) -> None:
    """As without a network."""
    where = ("--directory", used, "--endpoint", "https://nowhere.invalid")
    code, found = findings(command, *where)
    assert code == 1
    assert found["name"][0] == "bad" and "nowhere.invalid is not found" in found["name"][1]


def test_a_portal(command: Command, used: Path, collector: Collector) -> None:
    """Something answers, and it is not the endpoint."""
    collector.captive_portal()
    code, found = findings(command, "--directory", used, "--endpoint", collector.url)
    assert code == 1 and "something else answers" in found["endpoint"][1]


def test_certificates(command: Command, used: Path, tmp_path: Path) -> None:
    """One that is not trusted, until its CA is."""
    authority = trustme.CA()
    chain, key, ca = (tmp_path / name for name in ("chain.pem", "key.pem", "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    with Collector(certfile=chain, keyfile=key) as collector:
        where: tuple[Any, ...] = ("--directory", used, "--endpoint", collector.url)
        code, found = findings(command, *where)
        assert code == 1 and found["TLS"][0] == "bad" and "ca_bundle" in found["TLS"][1]
        code, found = findings(command, *where, HEAP_AGENT_CA_BUNDLE=str(ca))
        assert code == 0 and found["TLS"] == ("good", "the endpoint's certificate is trusted")


def test_a_wrong_clock(command: Command, used: Path) -> None:
    """Against the endpoint's, in which direction."""
    with Collector(clock=FakeClock()) as collector:
        _, found = findings(command, "--directory", used, "--endpoint", collector.url)
    assert found["clock"][0] == "warning" and "ahead of the endpoint's" in found["clock"][1]


def test_a_password_is_not_shown(command: Command, used: Path) -> None:
    """Of a proxy."""
    result = command(
        "doctor",
        "--directory",
        used,
        "--offline",
        "--endpoint",
        "https://collector.example",
        HEAP_AGENT_PROXY="http://bob:hidden@proxy:3128",
    )
    assert "hidden" not in result.out and "proxy:3128" in result.out

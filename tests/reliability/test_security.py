"""
What others on the machine, in the environment or behind a value could do, and cannot.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from helpers import balanced, eventually, opened, track, tracked
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trials import tries

from heap_agent import Agent
from heap_agent._core import records, wire
from heap_agent._core.events import Actor, Kind
from heap_agent._core.outcomes import Answer
from heap_agent._store.parts import find_parts, read_header
from heap_agent._upload.transport import Transport
from heap_agent.exceptions import InvalidCall
from heap_agent.testing import Collector, FakeClock

PROGRAMS = Path(__file__).parents[1] / "programs"

posix_only = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")


# -- files --------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("umask", ["000", "777"])
def test_all_files_of_a_life_are_private(
    tmp_path: Path, umask: str, figure: Callable[[str, object], None]
) -> None:
    """Directory 0700, files 0600, from the moment they are there, whatever the umask."""
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "life.py"), str(state), umask],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    modes: dict[str, list[str]] = json.loads(done.stdout)
    figure("files", len(modes) - 1)
    kinds = ("-00000001.part", ".lock", ".tally", ".db", "-wal", "-shm", "reserve", "bell")
    for kind in (*kinds, "opted-out"):
        assert any(name.endswith(kind) for name in modes), f"no {kind} was seen"
    assert any(name.startswith("user-11-") for name in modes)
    # Between the making of a file and the taking back of what the umask took nobody has
    # a right: that is no leak.
    nobody = set() if umask == "000" else {"0o0"}
    assert set(modes.pop("")) <= {"0o700"} | nobody
    allowed = {"0o600"} | nobody
    assert {name: found for name, found in modes.items() if not set(found) <= allowed} == {}
    left = {path.name: path.stat().st_mode & 0o7777 for path in state.iterdir()}
    assert set(left.values()) == {0o600}


@posix_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="gives files away")
def test_a_stranger_s_directory_is_not_used(
    tmp_path: Path, make_agent: Callable[..., Agent], caplog: pytest.LogCaptureFixture
) -> None:
    """Events stay in memory, an ERROR says why, and nothing is written there."""
    stranger = tmp_path / "stranger"
    stranger.mkdir(mode=0o700)
    os.chown(stranger, 12_345, 12_345)
    with caplog.at_level(logging.ERROR, logger="heap_agent"):
        agent = make_agent(directory=stranger)
        assert agent.track("Ordered") is None
        assert agent.status().storage == "memory"
    assert any("belongs to user 12345" in record.getMessage() for record in caplog.records)
    assert list(stranger.iterdir()) == []
    balanced(agent)


@posix_only
@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_directory_that_others_may_write_to_is_not_used(
    tmp_path: Path,
    make_agent: Callable[..., Agent],
    caplog: pytest.LogCaptureFixture,
    through_a_link: bool,
) -> None:
    """Memory and an ERROR, also where a symlink leads there: its target counts."""
    shared, given_as = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    shared.chmod(0o777)
    given_as.symlink_to(shared)
    with caplog.at_level(logging.ERROR, logger="heap_agent"):
        agent = make_agent(directory=given_as if through_a_link else shared)
        agent.track("Ordered")
        assert agent.status().storage == "memory"
    assert any("others may write to it" in record.getMessage() for record in caplog.records)
    assert list(shared.iterdir()) == []
    balanced(agent)


@posix_only
@pytest.mark.parametrize("name", ["bell", "reserve", "queue-1.db", "opted-out"])
def test_a_link_in_the_place_of_a_file_is_not_followed(
    tmp_path: Path, make_agent: Callable[..., Agent], name: str
) -> None:
    """What it leads to stays as it is, and the program notices nothing."""
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir(mode=0o700)
    victim.write_bytes(b"precious")
    (state / name).symlink_to(victim)
    agent = make_agent(directory=state)
    agent.track("Ordered")
    agent.status()
    agent.opt_out(purge=False)
    agent.opt_in()
    agent.shutdown(2)
    assert victim.read_bytes() == b"precious"


# -- secrets ------------------------------------------------------------------------


def test_no_secret_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The password of a proxy is in no repr, log, status, file or command line."""
    secret = "hunter2"
    with caplog.at_level(logging.DEBUG):
        agent = Agent(
            "11",
            directory=tmp_path / "state",
            endpoint="https://heap.invalid",
            proxy=f"http://bob:{secret}@127.0.0.1:9",
            interval=0.1,
        )
        agent.track("Ordered")
        agent.flush(timeout=1)
        eventually(lambda: agent.status().last_error)
        shown = [repr(agent), str(agent.status()), repr(agent.status().as_dict())]
        shown += [repr(thread) for thread in threading.enumerate()]
        balanced(agent)
        agent.shutdown(1)
    shown += [record.getMessage() + repr(record.args) for record in caplog.records]
    shown += [path.read_bytes().decode("latin-1") for path in (tmp_path / "state").iterdir()]
    if sys.platform.startswith("linux"):
        shown.append(Path("/proc/self/cmdline").read_text())
    encoded_secret = base64.b64encode(f"bob:{secret}".encode()).decode()
    assert [text for text in shown if secret in text or encoded_secret in text] == []


@pytest.mark.parametrize("option", ["endpoint", "proxy"])
def test_a_refused_secret_is_not_repeated(tmp_path: Path, option: str) -> None:
    """The sentence that refuses an option leaves out the password in it."""
    with pytest.raises(InvalidCall) as refused:
        Agent("11", directory=tmp_path, **{option: "ftp://ann:hunter2@127.0.0.1:9/?x"})
    assert "hunter2" not in str(refused.value) + repr(refused.value)
    assert option in str(refused.value)


# -- TLS ----------------------------------------------------------------------------


@pytest.fixture(name="secure")
def _secure(ca: trustme.CA, tmp_path: Path) -> Iterator[Collector]:
    """A collector that speaks TLS with the certificate of an authority that nobody knows."""
    issued = ca.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    with Collector(certfile=chain, keyfile=key) as collector:
        yield collector


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHTTPSVERIFY": "0"},
        {"REQUESTS_CA_BUNDLE": "ours", "CURL_CA_BUNDLE": "ours"},
        {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "SSL_NO_VERIFY": "1"},
        {"HEAP_AGENT_VERIFY": "0", "HEAP_AGENT_INSECURE": "1", "HEAP_AGENT_CA_BUNDLE": ""},
        {"HEAP_AGENT_ALLOW_INSECURE": "true", "NODE_TLS_REJECT_UNAUTHORIZED": "0"},
    ],
)
def test_no_variable_turns_verification_off(
    secure: Collector,
    ca: trustme.CA,
    tmp_path: Path,
    make_agent: Callable[..., Agent],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    """Variables that other programs obey, and such as somebody may guess, send nothing."""
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    for name, value in variables.items():
        monkeypatch.setenv(name, str(bundle) if value == "ours" else value)
    agent = make_agent(endpoint=secure.url)
    agent.track("Ordered")
    # No time of ours: a busy machine takes a while to shake hands.
    assert not agent.flush()
    assert "CERTIFICATE_VERIFY_FAILED" in str(agent.status().last_error)
    assert secure.requests == []
    balanced(agent)


def test_a_program_that_trusts_everybody_does_not_bring_us_along(
    secure: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hack that turns verification off for Python's own HTTPS is not ours to follow."""
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    transport = Transport(secure.url, user_agent="test")
    outcome = transport.send("/api/track", b"{}")
    transport.close()
    assert (outcome.answer, outcome.began) == (Answer.UNAVAILABLE, False)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.reason
    assert secure.requests == []


def test_with_its_authority_the_same_server_is_trusted(
    secure: Collector, ca: trustme.CA, tmp_path: Path, make_agent: Callable[..., Agent]
) -> None:
    """It is the missing trust, and nothing else, that keeps the events back above."""
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    agent = make_agent(endpoint=secure.url, ca_bundle=bundle)
    agent.track("Ordered")
    assert agent.flush(timeout=20)
    balanced(agent)


# -- forged records -----------------------------------------------------------------


def encoded(properties: dict[str, object]) -> bytes:
    """The body of an event, as an agent makes it of properties that may need repair."""
    ambient = wire.Ambient.of({}, wire.actor_line(Actor("11", "1"), "7"))
    body = wire.Wire().body("E", properties, ambient)
    if body is None:
        mended = wire.Wire().mended("E", properties, ambient).data
        assert mended is not None
        body = ambient.head + mended
    return body


def forged(salt: int, body: bytes = b"[]") -> bytes:
    """A whole record, as somebody who knows the salt could make it."""
    return records.pack_record(salt, int(Kind.EVENT), 0, 10**18, 10**15, 7, body)


def texts_of(record: bytes) -> list[str]:
    """The ways to bring bytes into a text."""
    return [record.decode("latin-1"), record.decode("utf-8", "surrogateescape")]


def hostile(salt: int) -> st.SearchStrategy[str]:
    """Texts with whole records in them, and with parts of such."""
    whole = st.binary(max_size=40).flatmap(
        lambda body: st.sampled_from(texts_of(forged(salt, body)))
    )
    parts = st.sampled_from(["\xff\xfeHA", "\udcff\udcfeHA", "HEAPJRN1", "\n", '"', "\x00"])
    pieces = st.one_of(whole, parts, st.text(max_size=10))
    return st.lists(pieces, min_size=1, max_size=5).map("".join)


SALT = 0x5A17


@settings(max_examples=tries(120, 2_000))
@given(evil=hostile(SALT), key=hostile(SALT), flipped=st.integers(0, 2_000))
@example(evil=texts_of(forged(SALT))[0], key="k", flipped=0)
@example(evil=texts_of(forged(SALT))[1], key="k", flipped=0)
@example(evil="\xff\xfeHA", key="\udcff\udcfeHA", flipped=40)
def test_no_value_forges_a_record(evil: str, key: str, flipped: int) -> None:
    """
    A program that knows the salt writes whole records into keys and values; where damage
    makes the reader look for the next record, it finds the one that was recorded.
    """
    header = records.PartHeader("boot", "0123456789abcdef", SALT, 0)
    body = encoded({key: evil, "list": [evil, {key: evil}]})
    assert records.RECORD_MAGIC not in body
    body.decode("utf-8")
    framed = bytearray(records.pack_record(SALT, int(Kind.EVENT), 0, 0, 0, 1, body))
    # Its head is gone: whatever is in the body is looked at.
    framed[:4] = bytes(4)
    framed[flipped % len(framed)] ^= 0x55
    before = records.pack_record(SALT, int(Kind.EVENT), 0, 0, 0, 0, encoded({}))
    after = records.pack_record(SALT, int(Kind.EVENT), 0, 0, 0, 2, encoded({}))
    found = list(
        records.read_records(
            before + bytes(framed) + after, header, at=0, previous=-1, complete=True
        )
    )
    sequences = [item.sequence for item in found if isinstance(item, records.Record)]
    assert sequences == [0, 2]
    assert sum(item.records for item in found if isinstance(item, records.Damage)) == 1


def test_a_reader_would_take_a_forged_record_in_bytes() -> None:
    """It is the encoding that keeps values out: as bytes the same record would be read."""
    header = records.PartHeader("boot", "0123456789abcdef", SALT, 0)
    found = list(
        records.read_records(b"\x00" * 9 + forged(SALT), header, at=0, previous=-1, complete=True)
    )
    assert [item.sequence for item in found if isinstance(item, records.Record)] == [7]


def test_a_hostile_value_in_a_damaged_directory(state_dir: Path) -> None:
    """In files too: what was recorded beside the damage arrives, and nothing else."""
    clock = FakeClock()
    with opened(state_dir, clock) as store:
        track(store, n=0)
        (part,) = next(iter(find_parts(state_dir).values()))
        header = read_header(part.path)
        assert header is not None
        for evil in texts_of(forged(header.salt, encoded({"n": 9}))):
            store.journal.put(Kind.EVENT, 0, clock.wall_ns(), clock.boot_ns(), encoded({"e": evil}))
        track(store, n=2)
        content = bytearray(part.path.read_bytes())
        at = records.whole_records(bytes(content), header.size, header.salt, 1)[0].end
        content[at : at + 4] = bytes(4)
        part.path.write_bytes(bytes(content))
        store.absorb(freeze=False)
        assert tracked(store) == [0, None, 2]
        balanced(store)

"""Whom the transport trusts where OpenSSL does not know the system's certificates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from commands import PATIENCE, environment
from strange_system import on_a_strange_system

from heap_agent.testing import Collector

ASK = """
import sys
from heap_agent._upload.transport import Transport
print(Transport(sys.argv[1], user_agent="test").probe("/").reason)
"""


@pytest.fixture(name="system")
def _system(tmp_path: Path) -> trustme.CA:
    """The one authority that the system trusts."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "system.pem"))
    return ca


@pytest.fixture(name="safe")
def _safe(system: trustme.CA, tmp_path: Path) -> Iterator[Collector]:
    """A server with a certificate of that authority."""
    pem = tmp_path / "server.pem"
    system.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    with Collector(certfile=pem) as collector:
        yield collector


def ask(url: str, tmp_path: Path, **changes: str) -> str:
    """What a process on a strange system says of a server."""
    strange = on_a_strange_system(str(tmp_path / "system.pem"))
    done = subprocess.run(
        [*strange, "env", *(f"{name}={value}" for name, value in changes.items())]
        + [sys.executable, "-c", ASK, url],
        env=environment(tmp_path, {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_systems_authorities_are_found(safe: Collector, tmp_path: Path) -> None:
    """Where distributions keep them, although OpenSSL was built for another one."""
    assert "CERTIFICATE" not in ask(safe.url, tmp_path)
    assert len(safe.requests) == 1


def test_whoever_names_some_gets_no_others(safe: Collector, tmp_path: Path) -> None:
    """With SSL_CERT_FILE the system's are not looked for."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    assert "CERTIFICATE" in ask(safe.url, tmp_path, SSL_CERT_FILE=str(tmp_path / "other.pem"))
    assert len(safe.requests) == 0

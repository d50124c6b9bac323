"""
A system that keeps its certificates where the OpenSSL at hand does not look for them: another
distribution than the one that it was built for.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

#: One of the places where distributions keep them.
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

#: OpenSSL's own folder is empty, and another file is the system's.
CHANGED = 'mount -t tmpfs tmpfs "$1" && mount --bind "$2" "$3"'


def on_a_strange_system(bundle: str) -> list[str]:
    """
    What a command has to begin with to run there, with these certificates as the system's; only
    root may change what a program sees.
    """
    place = Path(ssl.get_default_verify_paths().openssl_cafile).parent
    if shutil.which("unshare") is None or not (BUNDLE.exists() and place.is_dir()):
        pytest.skip("needs unshare, and a system that keeps certificates as Debian does")
    if BUNDLE.is_relative_to(place):
        pytest.skip("this OpenSSL knows where they are")
    change = ["unshare", "--mount", "sh", "-c"]
    words = ["sh", str(place), bundle, str(BUNDLE)]
    if subprocess.run([*change, CHANGED, *words], capture_output=True).returncode:
        pytest.skip("needs root, to change what a program sees of the file system")
    forget = "unset SSL_CERT_FILE SSL_CERT_DIR"
    return [*change, f'{CHANGED} && {forget} && shift 3 && exec "$@"', *words]

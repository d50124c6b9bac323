"""
A port that is taken: bound, and listening once somebody says so.

This module must not know who serves it.
"""

from __future__ import annotations

import os
import socket


def bound(host: str, port: int) -> socket.socket:
    """
    Take a port without listening on it: clients are refused.

    Args:
        host: An IPv4 or IPv6 literal.
        port: 0 takes a free one.

    Raises:
        OSError: It is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named outright: asyncio sets TCP_NODELAY only where a socket says that it is
    # TCP, and without it every second answer takes 40 ms.
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # On Windows this option would let two programs share the port.
        if os.name == "posix":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
    except OSError:
        taken.close()
        raise
    return taken


def port_of(taken: socket.socket) -> int:
    """
    The port that was taken.
    """
    port: int = taken.getsockname()[1]
    return port


def authority(host: str, port: int) -> str:
    """
    Host and port as they stand in a URL.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""
Whether a URL is reached through a proxy, as the environment and the system say.

The only answer to that question, for an agent and for the server-side API. This
module must not know options: whoever was told a proxy, or none, does not ask.

    HTTPS_PROXY, HTTP_PROXY   by the scheme of the URL; small letters come first
    ALL_PROXY                 where there is none for the scheme
    macOS, Windows            their settings, where the environment names none
    NO_PROXY                  hosts to be reached directly, with commas between them:
                              host, host:443, .domain or *.domain (what is in it),
                              domain (both), * (all)

This machine is never reached through any of these.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["find", "is_loopback"]

_PORTS: Final = {"http": 80, "https": 443}


def is_loopback(url: str) -> bool:
    """
    Whether a URL leads to this machine.

    Names are not looked up: of these only localhost is sure to stay here.
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def find(url: str, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """
    Proxies for a URL, the strongest first.

    Args:
        url: Where requests go.
        environment: Variables by name.

    Returns:
        Who says so, and the URL of the proxy, which nobody has checked.
    """
    parts = urlsplit(url)
    if is_loopback(url) or _is_exempt(parts, environment):
        return
    for source, proxy in (*_named(parts.scheme, environment), *_of_the_system(parts)):
        # HTTPS_PROXY=host:3128 is common and means http.
        yield source, proxy if "://" in proxy else f"http://{proxy}"


def _named(scheme: str, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            # Below a web server this one is the header "Proxy:" of whoever asks it.
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
                continue
            if proxy := environment.get(variable, "").strip():
                yield f"environment {variable}", proxy


def _of_the_system(parts: SplitResult) -> Iterator[tuple[str, str]]:
    if sys.platform not in ("darwin", "win32"):
        return
    from urllib.request import getproxies, proxy_bypass

    # Where the environment names a proxy for anything, both speak of that alone.
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.netloc):
        yield "the system's settings", proxy


def _is_exempt(parts: SplitResult, environment: Mapping[str, str]) -> bool:
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    host = parts.hostname or ""
    names = (host, f"{host}:{parts.port or _PORTS.get(parts.scheme)}")
    for entry in re.split(r"[\s,]+", listed.lower()):
        if entry == "*" or entry in names:
            return True
        domain = entry.removeprefix("*").removeprefix(".")
        if domain and any(name.endswith("." + domain) for name in names):
            return True
    return False

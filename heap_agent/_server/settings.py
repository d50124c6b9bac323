"""
What a `ServerClient` may be told, checked.

This module must not know the environment or files: whoever has them passes
arguments. The api key is not here, so that nothing that shows options shows it.
"""

from __future__ import annotations

from pathlib import Path

from heap_agent import _options
from heap_agent._core import limits
from heap_agent._core.session import REFUSED, folded
from heap_agent._proxies import is_loopback
from heap_agent.exceptions import InvalidCall

__all__ = ["Settings"]


class Settings(_options.Options):
    """
    Every option of a `ServerClient`; the help texts are in its docstring.

    Raises:
        InvalidCall: A value is not allowed.
    """

    app_id: str = _options.option("", _options.check_app_id, "Id of the environment at Heap.")
    region: str = _options.option("us", _options.check_region, "Heap's data region.")
    endpoint: str | None = _options.option(
        None, _options.check_endpoint, "Where to send instead of to Heap's hosts.", secret=True
    )
    allow_insecure: bool = _options.switch(False, "Allow plain HTTP to another machine.")
    identity_budget: int | None = _options.count(
        limits.IDENTITY_EVENTS_PER_MINUTE, "Most events per identity and minute.", optional=True
    )
    app_budget: int | None = _options.count(
        limits.APP_EVENTS_PER_MINUTE, "Most events per app id and minute.", optional=True
    )
    retry_for: float | None = _options.duration(
        300.0, "How long to try without success.", optional=True, minimum=0.0, exclusive=False
    )
    refused_identities: frozenset[str] | None = _options.option(
        None, _options.check_texts, "Identities that name nobody, instead of the built-in list."
    )
    proxy: str | None = _options.option(None, _options.check_proxy, "HTTP proxy.", secret=True)
    ca_bundle: Path | None = _options.option(None, _options.check_path, "Trusted certificates.")
    client_cert: Path | None = _options.option(None, _options.check_path, "Our certificate.")
    client_key: Path | None = _options.option(None, _options.check_path, "Its key.")
    connect_timeout: float = _options.duration(10.0, "Longest wait for a connection.")
    read_timeout: float = _options.duration(30.0, "Longest wait for an answer.")

    def _check_together(self) -> None:
        if self.is_plain and not self.is_local and not self.allow_insecure:
            raise InvalidCall(
                f"endpoint: {self.endpoint} has plain HTTP, which is for this machine only; "
                "use https, or allow_insecure."
            )

    @property
    def base_url(self) -> str:
        """Where items go."""
        return self.endpoint or limits.HOSTS[self.region]

    @property
    def deletion_url(self) -> str:
        """Where deletions go: Heap has one host for both regions' data."""
        return self.endpoint or limits.HOSTS["us"]

    @property
    def is_plain(self) -> bool:
        """Whether requests travel without TLS."""
        return self.base_url.startswith("http:")

    @property
    def is_local(self) -> bool:
        """Whether requests stay on this machine."""
        return is_loopback(self.base_url)

    @property
    def refused(self) -> frozenset[str]:
        """Identities that name nobody, as they are compared."""
        if self.refused_identities is None:
            return REFUSED
        return frozenset(map(folded, self.refused_identities))

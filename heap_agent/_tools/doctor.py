"""
What stands between a device and its events: one finding for each thing that has gone wrong
somewhere before.

Nothing is changed, nothing of the device's is sent: the endpoint is asked by a request
without a body. This module must not know terminals.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from heap_agent._config import Config
from heap_agent._core.clock import RELEASE_MARK
from heap_agent._core.limits import TRACK_PATH
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._options import mask
from heap_agent._store import outlook, system
from heap_agent._tools.health import duration, examine, owner_alive, write_error
from heap_agent._version import USER_AGENT

__all__ = ["Finding", "look"]

#: What a finding is: all is well, worth knowing, wrong, or not looked at.
Verdict: TypeAlias = Literal["good", "warning", "bad", "skipped"]

#: Bytes that delivering takes on a full disk, at least.
_LITTLE: Final = 2_097_152

#: Seconds that a clock may be off.
_RIGHT: Final = 5.0

#: Seconds that a name may take to be looked up, and an endpoint to answer.
_PATIENCE: Final = 10.0

#: File systems that do not outlive what is around them.
_FLEETING: Final = {
    "tmpfs": "is in memory: all that waits is gone when the machine is started anew",
    "ramfs": "is in memory: all that waits is gone when the machine is started anew",
    "overlay": "is a container's own disk: all that waits is gone with the container; "
    "put the state on a volume",
}


class Finding(NamedTuple):
    """
    What was found about one thing.

    Attributes:
        about: What was looked at.
        verdict: "good", "warning", "bad" or "skipped".
        text: One sentence.
    """

    about: str
    verdict: Verdict
    text: str


def look(
    directory: Path, config: Config, problems: Sequence[str], *, online: bool = True
) -> Iterator[Finding]:
    """
    Look at everything, one thing after the other.

    Args:
        directory: The state directory; it need not be there.
        config: With which an agent would run.
        problems: What was passed over of it.
        online: Ask the network, too.
    """
    yield _options(config, problems)
    there = os.path.isdir(directory)
    yield from _directory(directory) if there else _no_directory(directory)
    yield _file_system(directory)
    yield _space(directory, config)
    if there:
        yield from _queue(directory, config)
    yield _proxy(config)
    lacking = _lacking()
    if lacking is not None:
        yield lacking
    if lacking is not None or not online:
        yield Finding("network", "skipped", "not asked")
        yield _clock(None)
        return
    yield _name(config)
    began = time.monotonic()
    outcome = _probe(config)
    yield from _endpoint(config, outcome, time.monotonic() - began)
    yield _clock(outcome)


# -- on the device --------------------------------------------------------------------


def _options(config: Config, problems: Sequence[str]) -> Finding:
    if problems:
        return Finding("options", "bad", " ".join(problems))
    if config.disabled:
        return Finding("options", "warning", "HEAP_AGENT_DISABLED is set: nothing is recorded")
    if config.do_not_track:
        return Finding("options", "warning", "DO_NOT_TRACK is set: nothing is recorded")
    if config.app_id is None:
        return Finding("options", "warning", "no app id is set; a program may give one itself")
    return Finding("options", "good", f"app id {config.app_id}, to {mask(config.base_url)}")


def _no_directory(directory: Path) -> Iterator[Finding]:
    above = next(filter(os.path.isdir, directory.parents), None)
    if os.path.lexists(directory):
        text = f"{directory} is no directory: remove what is there, or choose another place"
        yield Finding("directory", "bad", text)
    elif above is not None and not os.access(above, os.X_OK):
        text = f"{directory} cannot be looked at: this user may not enter {above}"
        yield Finding("directory", "bad", text)
    elif above is None or not os.access(above, os.W_OK | os.X_OK):
        text = f"{directory} is not there, and this user cannot make it in {above}"
        yield Finding("directory", "bad", text)
    else:
        yield Finding("directory", "good", f"{directory} is not there yet; an agent makes it")


def _directory(directory: Path) -> Iterator[Finding]:
    found = directory.stat()
    if not hasattr(os, "geteuid"):
        yield _writable(directory)
        return
    if found.st_uid != os.geteuid():
        text = f"{directory} belongs to user {found.st_uid}, and is only looked at"
        yield Finding("directory", "warning", text)
        return
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        text = f"{directory} has mode {mode:o}: others may look in; it should be 700"
        yield Finding("directory", "bad", text)
        return
    yield _writable(directory)


def _writable(directory: Path) -> Finding:
    why = write_error(directory)
    if why is None:
        return Finding("directory", "good", f"{directory} is private, and can be written")
    return Finding("directory", "bad", f"{directory} cannot be written: {why}")


def _file_system(directory: Path) -> Finding:
    network = system.network_filesystem(directory)
    if network is not None:
        text = f"{network} is a network's: locks do not hold there, and an agent refuses it"
        return Finding("file system", "bad", text)
    kind = system.filesystem(directory)
    if not kind:
        return Finding("file system", "skipped", "this system does not tell which one it is")
    if kind in _FLEETING:
        return Finding("file system", "warning", f"{kind} {_FLEETING[kind]}")
    return Finding("file system", "good", kind)


def _space(directory: Path, config: Config) -> Finding:
    place = next(filter(os.path.isdir, (directory, *directory.parents)), None)
    try:
        free = system.free_bytes(place) if place is not None else 0
    except OSError as error:
        return Finding("space", "skipped", f"it cannot be told: {error.strerror or error}")
    text = f"{free / 1e6:,.0f} MB free, max_bytes is {config.max_bytes / 1e6:,.0f} MB"
    if free < _LITTLE:
        return Finding("space", "bad", f"{text}: the disk is full, recording goes to memory")
    return Finding("space", "good" if free >= config.max_bytes else "warning", text)


def _queue(directory: Path, config: Config) -> Iterator[Finding]:
    if not os.access(directory, os.R_OK | os.X_OK):
        yield Finding("queue", "bad", "this user may not read it; its owner may, and root")
        return
    running = owner_alive(directory)
    words = {True: "one is running", False: "none is running", None: "not known"}
    yield Finding("agent", "good" if running else "warning", words[running])
    trouble = outlook.trouble(directory)
    if trouble is not None:
        yield Finding("queue", "bad", f"it cannot be read: {trouble}")
        return
    health = examine(directory, config, thorough=True)
    status = health.status
    wait = "" if status.oldest_age is None else f", the oldest for {duration(status.oldest_age)}"
    books = f"{status.queued:,} events wait{wait}"
    if health.complaints:
        yield Finding("queue", "bad", "; ".join([books, *health.complaints]))
    else:
        yield Finding("queue", "good", f"{books}, no dead letters")
    for held, text in (
        (status.opted_out, "the user has opted out: nothing is recorded or sent"),
        (status.paused, "it is paused by hand: nothing is sent"),
    ):
        if held:
            yield Finding("delivery", "warning", text)
    if status.last_error is not None:
        since = "" if status.failing_since is None else f", since {status.failing_since:%F %T} UTC"
        text = f"the last attempt failed{since}: {status.last_error}"
        yield Finding("delivery", "warning", text)


def _clock(outcome: Outcome | None) -> Finding:
    now = time.time()
    if now < RELEASE_MARK / 1e6:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        text = f"it shows {shown}, before this release: times are repaired when Heap has answered"
        return Finding("clock", "bad", text)
    if outcome is None or outcome.date is None:
        return Finding("clock", "skipped", "there was nothing to compare it with")
    off = now - outcome.date
    if abs(off) <= _RIGHT:
        return Finding("clock", "good", "as the endpoint's")
    side = "ahead of" if off > 0 else "behind"
    text = f"{duration(abs(off))} {side} the endpoint's: times are repaired before they are sent"
    return Finding("clock", "warning", text)


# -- beyond it ------------------------------------------------------------------------


def _proxy(config: Config) -> Finding:
    if config.proxy is None:
        return Finding("proxy", "good", "none")
    return Finding("proxy", "good", mask(config.proxy))


def _name(config: Config) -> Finding:
    host = urlsplit(config.base_url).hostname or ""
    if config.proxy is not None:
        return Finding("name", "skipped", f"the proxy looks {host} up")
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Finding("name", "bad", f"{host} is not found: {why}")
    return Finding("name", "good", f"{host} is {', '.join(sorted(map(str, found))[:3])}")


def _lacking() -> Finding | None:
    """What this Python has not, though programs are delivered by such ones."""
    try:
        import heap_agent._upload.transport  # noqa: F401 - whether it can be
    except ImportError as error:
        text = f"it cannot deliver ({error}): install or pack it with what is missing"
        return Finding("Python", "bad", text)
    return None


def _probe(config: Config) -> Outcome:
    from heap_agent._upload.transport import Transport

    transport = Transport(
        config.base_url,
        user_agent=USER_AGENT,
        connect_timeout=min(config.connect_timeout, _PATIENCE),
        read_timeout=min(config.read_timeout, _PATIENCE),
        ca_bundle=_text(config.ca_bundle),
        client_cert=_text(config.client_cert),
        client_key=_text(config.client_key),
        proxy=config.proxy,
    )
    with suppress(Exception):
        return transport.probe(TRACK_PATH, timeout=_PATIENCE)
    return Outcome(Answer.UNAVAILABLE, reason="the request could not be made")


def _endpoint(config: Config, outcome: Outcome, seconds: float) -> Iterator[Finding]:
    encrypted = urlsplit(config.base_url).scheme == "https"
    reached = outcome.answer is Answer.REACHED
    if reached and encrypted:
        yield Finding("TLS", "good", "the endpoint's certificate is trusted")
    elif not encrypted:
        where = "stays on this machine" if config.is_loopback else "can be read on its way"
        yield Finding("TLS", "good" if config.is_loopback else "bad", f"none: what is sent {where}")
    elif "certificate" in outcome.reason.lower() or "ssl" in outcome.reason.lower():
        yield Finding("TLS", "bad", f"{outcome.reason}; a proxy's own CA goes into ca_bundle")
    else:
        yield Finding("TLS", "skipped", "the endpoint was not reached")
    if reached:
        text = f"answered {outcome.status} in {seconds * 1000:,.0f} ms"
        yield Finding("endpoint", "good", text)
    elif outcome.answer is Answer.CAPTIVE:
        yield Finding("endpoint", "bad", "something else answers in its place: a portal or a proxy")
    else:
        yield Finding("endpoint", "bad", f"not reached: {outcome.reason or outcome.answer.value}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)

"""
How a state directory is, for somebody outside: beside a running agent, after a
crash, without an agent.

This module must not know terminals, and changes nothing: the owner's lock is
tried, and given back at once.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from heap_agent._aside import aside
from heap_agent._config import Config
from heap_agent._core.outcomes import Answer
from heap_agent._status import Status, look
from heap_agent._store import outlook, system
from heap_agent._store.absorb import REPORT
from heap_agent._store.owner import OWNER_LOCK, try_lock

__all__ = ["Health", "duration", "examine", "owner_alive", "require_state", "write_error"]

#: What every directory has in which an agent ever was.
_OURS: Final = re.compile(r"(queue-\d+\.db|user-\d+-.+|[0-9a-f]{16}(-\d{8}\.part|\.lock))")


#: Seconds that a disk may take for a block; one that hangs takes for ever.
_PATIENCE: Final = 5.0


@attrs.frozen(slots=True)
class Health:
    """
    How things stand, and what somebody should look after.

    Attributes:
        status: As an agent would report it.
        running: Whether a process delivers from the directory at this moment;
            None where the lock cannot be tried.
        complaints: A sentence each; empty where all is well.
    """

    status: Status
    running: bool | None
    complaints: tuple[str, ...]


def require_state(directory: Path) -> None:
    """
    Make sure that something was ever recorded in a directory.

    Raises:
        OSError: It is missing, cannot be read, or is something else; the text
            is one sentence.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        raise OSError(
            f"there is no state directory {directory}: nothing has been recorded there yet"
        ) from None
    except PermissionError:
        raise OSError(f"{directory} cannot be read by this user; its owner may, and root") from None
    except OSError as error:
        raise OSError(f"{directory} cannot be read: {error.strerror or error}") from None
    ours = [directory / name for name in names if _OURS.fullmatch(name)]
    if not ours:
        raise OSError(f"{directory} is not a state directory: nothing has been recorded there yet")
    for path in ours:
        if not os.access(path, os.R_OK) and os.path.exists(path):
            raise OSError(f"{path} cannot be read by this user; its owner may, and root")


def examine(
    directory: Path,
    config: Config,
    problems: tuple[str, ...] = (),
    *,
    thorough: bool = False,
    max_age: float | None = None,
) -> Health:
    """
    Look at a state directory.

    Args:
        directory: In which `require_state` finds something.
        config: Whose app id and budgets count.
        problems: Of the configuration.
        thorough: Verify the database and every row, and try whether the disk can be
            written; of a directory that is not ours the file system is asked.
        max_age: Seconds that the oldest event may have waited.
    """
    status = look(directory, config, system.Clock(), problems)
    refusal = write_error(directory) if thorough else None
    if refusal is not None:
        status = attrs.evolve(status, storage="memory")
    found = list(problems)
    if status.dead:
        letters = "1 dead letter" if status.dead == 1 else f"{status.dead} dead letters"
        found.append(f"{letters}: Heap refused what an event says, for good")
    if refusal is not None:
        found.append(f"the disk refuses to be written ({refusal}): recording goes to memory")
    report = _report(directory)
    if report.get("trouble") == Answer.MISCONFIGURED.name:
        found.append(
            f"the endpoint refuses everything ({status.last_error}): "
            "check app id, endpoint and proxy"
        )
    if report.get("unequipped"):
        found.append(
            f"the agent's Python cannot deliver ({status.last_error}): "
            "install or pack it with what is missing"
        )
    if max_age is not None and status.oldest_age is not None and status.oldest_age > max_age:
        found.append(
            f"the oldest event has waited for {duration(status.oldest_age)}, "
            f"longer than {duration(max_age)}"
        )
    found += _damage(directory, status, thorough)
    return Health(status, owner_alive(directory), tuple(found))


def duration(seconds: float) -> str:
    """
    A duration for people, in its largest unit.
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _damage(directory: Path, status: Status, thorough: bool) -> list[str]:
    trouble = outlook.trouble(directory)
    if trouble is not None:
        return [f"the queue cannot be read: {trouble}"]
    if not thorough:
        return []
    found = outlook.check(directory)
    if not status.balanced:
        found.append(
            f"the books do not balance: recorded {status.recorded}, queued {status.queued}, "
            f"delivered {status.delivered}, dead {status.dead}, dropped {status.dropped}"
        )
    return found


def _report(directory: Path) -> dict[str, object]:
    with suppress(ValueError):
        report = json.loads(outlook.read_memo(directory, REPORT) or "{}")
        if isinstance(report, dict):
            return report
    return {}


def _is_ours(directory: Path) -> bool:
    return not hasattr(os, "geteuid") or os.stat(directory).st_uid == os.geteuid()


def write_error(directory: Path) -> str | None:
    """
    Why a small file cannot be written in a directory; None where it can.
    """
    # A watchman who is somebody else writes nothing: root could where the agent cannot.
    ask = system.probe_error if _is_ours(directory) else system.refusal
    answer = aside(lambda: (ask(directory),), timeout=_PATIENCE)
    if answer is None:
        return f"it does not answer within {_PATIENCE:.0f} s"
    (error,) = answer
    return None if error is None else error.strerror or str(error)


def owner_alive(directory: Path) -> bool | None:
    """
    Whether a process delivers from a directory at this moment; None where the lock
    cannot be tried.
    """
    lock = directory / OWNER_LOCK
    try:
        if not lock.exists():
            return False
        held = try_lock(lock)
    except OSError:
        return None
    if held is None:
        return True
    held.release()
    return False

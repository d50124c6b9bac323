"""
Everything that this package raises on purpose.

    HeapAgentError
    ├── InvalidCall      (TypeError, ValueError)   the program is wrong
    │   └── NotStarted   (RuntimeError)            a verb was used before init
    ├── InvalidValue     (ValueError)              the data is wrong, and strict=True
    └── ApiError                                   Heap did not do what a ServerClient asked
        ├── Unauthorized                           401, 403: who asks, or from where
        ├── NotFound                               404: there is no such thing
        ├── Unreachable                            no success for as long as `retry_for`
        └── DeletionPending  (TimeoutError)        `wait_for_deletion` has waited enough

Disk and network trouble of an agent raise nothing: they are visible in `status()`.
A `heap_agent.server.ServerClient` has no queue, so that it has to raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "ApiError",
    "DeletionPending",
    "HeapAgentError",
    "InvalidCall",
    "InvalidValue",
    "NotFound",
    "NotStarted",
    "Unauthorized",
    "Unreachable",
]


class HeapAgentError(Exception):
    """
    Base of every error that this package raises on purpose.
    """


class InvalidCall(HeapAgentError, TypeError, ValueError):
    """
    The program called a verb in a way that can never work.

    It is a `TypeError` and a `ValueError` too, so that code which catches
    those keeps working.
    """


class NotStarted(InvalidCall, RuntimeError):
    """
    A module-level verb was used before `init` (or `set_app_id`).
    """


class InvalidValue(HeapAgentError, ValueError):
    """
    A value is at fault today, and ``strict=True`` asked for an error instead
    of a repair. Nothing was recorded.

    A `ServerClient` is strict unless ``repair=True``; nothing was sent.
    """


class ApiError(HeapAgentError):
    """
    Heap, or whatever answered in its place, did not do what was asked.

    `str()` gives the whole sentence: what was asked, what came, what to do.

    Attributes:
        status: The HTTP status; None where there was no answer.
        message: Heap's own words, or the network's; may be empty.
        details: Whatever else the body of the answer held; empty where it was
            not JSON.
        result: Of a bulk call, the `BulkResult` so far; else None.
        accepted: Of `delete_users`, each `DeletionRequest` that Heap had
            accepted before; else empty.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        message: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.message = message
        self.details: Mapping[str, Any] = {} if details is None else details
        # Any: this module is below those that the values come from.
        self.result: Any = None
        self.accepted: tuple[Any, ...] = ()


class Unauthorized(ApiError):
    """
    401 or 403. For deletion: only the id of the Main Production environment,
    with its own api key, is taken.
    """


class NotFound(ApiError):
    """
    404: an unknown deletion request or one of another environment, or a host
    that does not have Heap's paths.
    """


class Unreachable(ApiError):
    """
    No success for as long as `retry_for` allows: no network, an outage, a
    captive portal, or a `Retry-After` that is longer.
    """


class DeletionPending(ApiError, TimeoutError):
    """
    The deletion was not complete within `timeout`. It goes on at Heap: ask
    again with `deletion_status` or `wait_for_deletion`.
    """

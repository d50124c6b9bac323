"""
A deletion run: who is to go, in what portions, and a record of it.

Nobody is deleted before the whole file has been read and found right. The
record (audit file) gets a line when Heap has answered, on stable storage before
the next request leaves. This module must not know terminals or options.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from heap_agent._core import limits
from heap_agent._server import checks
from heap_agent._store.system import data_sync, directory_sync, open_private
from heap_agent._tools.bulk_rows import Kind, Row
from heap_agent.exceptions import ApiError, InvalidValue

if TYPE_CHECKING:
    from heap_agent.server import DeletionRequest, ServerClient

__all__ = ["USERS", "Audit", "AuditTrouble", "Reading", "User", "delete", "read_users"]

#: What a row says.
USERS: Final = Kind(("identity", "user_id"), (("identity", "user_id"),), properties=False)


@attrs.frozen(slots=True)
class User:
    """
    Somebody who is to be deleted.

    Attributes:
        field: "identity" or "user_id".
        value: Text for the first, a number for the second.
    """

    field: str
    value: str | int


@attrs.frozen(slots=True)
class Reading:
    """
    What a file says.

    Attributes:
        users: Each once, in order of first appearance.
        faults: Line and reason of every row that names nobody.
        rows: How many rows there were.
    """

    users: tuple[User, ...]
    faults: tuple[tuple[int, str], ...]
    rows: int

    def count(self, field: str) -> int:
        """How many users are named by a field."""
        return sum(user.field == field for user in self.users)


def read_users(rows: Iterable[Row]) -> Reading:
    """
    Read and check a whole file.

    Args:
        rows: Items with `identity` or `user_id`.
    """
    users: dict[User, None] = {}
    faults = []
    count = 0
    for row in rows:
        count += 1
        try:
            users.setdefault(_user(row))
        except InvalidValue as error:
            faults.append((row.number, str(error)))
    return Reading(tuple(users), tuple(faults), count)


def _user(row: Row) -> User:
    if row.item is None:
        raise InvalidValue(row.reason)
    identity, user_id = row.item.get("identity"), row.item.get("user_id")
    if (identity is None) == (user_id is None):
        came = "neither" if identity is None else "both"
        raise InvalidValue(f"identity, user_id: {came} came; exactly one of the two is allowed")
    if identity is not None:
        # "guest" must not be made a user, but whoever made one may want to be rid of it.
        return User("identity", checks.identity(identity, frozenset()))
    return User("user_id", checks.user_id(user_id))


class AuditTrouble(Exception):
    """
    The record cannot be written; the text says where and why.
    """


class Audit:
    """
    The record of deletion runs: JSON Lines, appended, for this user alone.

    It holds the identities that were deleted, because that is what has to be
    shown to whoever asks; so it is personal data itself.

    Args:
        path: The file; None keeps no record.
        app_id: Written on every line.
        now: The wall clock, aware.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path | None, app_id: str, now: Callable[[], datetime]) -> None:
        self._path = path
        self._app_id = app_id
        self._now = now
        self._descriptor: int | None = None
        if path is not None:
            self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            directory_sync(path.absolute().parent)

    def write(self, request: str | None, status: str, **more: Any) -> None:
        """
        Add a line; it is on stable storage when this returns.

        Args:
            request: Heap's id of the request; None where there is none.
            status: What is known of it.
            more: Further members.

        Raises:
            AuditTrouble: The disk refuses.
        """
        if self._descriptor is None:
            return
        line = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "app_id": self._app_id,
            "request_id": request,
            "status": status,
            **more,
        }
        content = json.dumps(line).encode() + b"\n"
        try:
            _append_line(self._descriptor, content)
        except OSError as error:
            raise AuditTrouble(
                f"the record {self._path} cannot be written ({error.strerror})"
            ) from error

    def close(self) -> None:
        """
        Let go of the file.
        """
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _append_line(descriptor: int, content: bytes) -> None:
    """On a line of its own, even behind one that a full disk has torn."""
    size = os.fstat(descriptor).st_size
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            content = b"\n" + content
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    data_sync(descriptor)


def delete(
    client: ServerClient, users: Sequence[User], audit: Audit
) -> Iterator[tuple[DeletionRequest, int]]:
    """
    Ask Heap to delete users, as many at a time as it takes.

    Yields:
        Each request when it is accepted, and how many users it has.

    Raises:
        ApiError: Heap refuses, or cannot be reached; the record says so too.
        AuditTrouble: The record cannot be written; nothing more is asked for.
    """
    portions = [
        named[start : start + limits.DELETION_USERS]
        for field in ("identity", "user_id")
        if (named := [user for user in users if user.field == field])
        for start in range(0, len(named), limits.DELETION_USERS)
    ]
    for done, portion in enumerate(portions, 1):
        try:
            yield from _ask(client, portion, audit)
        except BaseException:
            # A record that names everybody, so that nobody is taken for deleted.
            with suppress(AuditTrouble):
                for rest in portions[done:]:
                    audit.write(None, "not asked for", users=_as_dicts(rest))
            raise


def _ask(
    client: ServerClient, users: Sequence[User], audit: Audit
) -> Iterator[tuple[DeletionRequest, int]]:
    """Users of one field; several requests where their names are very long."""
    failure: ApiError | AuditTrouble | None = None
    try:
        accepted: Sequence[DeletionRequest] = _submit(client, users)
    except ApiError as error:
        accepted, failure = error.accepted, error
    except BaseException:
        # Heap may have them or not; asking again does no harm.
        with suppress(AuditTrouble):
            audit.write(None, "unknown", reason="interrupted", users=_as_dicts(users))
        raise
    for request in accepted:
        count = len(users) if request.users is None else request.users
        gone, users = users[:count], users[count:]
        try:
            _note(audit, request, gone)
        except AuditTrouble as trouble:
            # Whoever cannot read it in the record is to be told all the same.
            failure = failure or trouble
        yield request, count
    if isinstance(failure, ApiError):
        audit.write(None, "failed", reason=str(failure), users=_as_dicts(users))
    if failure is not None:
        raise failure


def _note(audit: Audit, request: DeletionRequest, users: Sequence[User]) -> None:
    audit.write(request.id, request.status, location=request.location, users=_as_dicts(users))


def _submit(client: ServerClient, users: Sequence[User]) -> list[DeletionRequest]:
    values = [user.value for user in users]
    if users[0].field == "identity":
        return client.delete_users(identities=values)
    return client.delete_users(user_ids=values)


def _as_dicts(users: Iterable[User]) -> list[dict[str, str | int]]:
    return [{user.field: user.value} for user in users]

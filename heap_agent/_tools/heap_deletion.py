"""
Heap's deletion API by its rules: who gets a token, how long it lasts, what is to be deleted when.

This module must not know JSON, paths, threads, clocks or the book: whoever
calls it brings the Authorization header, the time and a lock, and takes users
out of the book when `Deletions.finish` says so.
"""

from __future__ import annotations

import hmac
import re
import secrets
import uuid
from base64 import b64decode
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import attrs

from heap_agent._tools.heap_json import Refused
from heap_agent._tools.heap_rules import DeletionUser
from heap_agent.exceptions import InvalidCall

__all__ = ["API_KEY", "TOKEN_NAMES", "Deletion", "Deletions", "DeletionSetup", "Tokens", "masked"]

#: The key that a collector takes when it is not told another one. It is no secret:
#: it opens nothing but the memory of a test.
API_KEY: Final = "local-test-key"

#: The older page calls the token auth_token, the newer one access_token.
TOKEN_NAMES: Final = ("auth_token", "access_token")

PENDING: Final = "pending"
COMPLETE: Final = "complete"

_SCHEME = re.compile(r"(basic|bearer)(?: .*)?", re.IGNORECASE | re.DOTALL)


def _check_key(_: object, __: object, value: str | None) -> None:
    # Not shown, even here: it may be a real one.
    if value is not None and not (isinstance(value, str) and value):
        raise InvalidCall("api_key: non-empty text is allowed, or None for no key at all")


def _check_app_id(_: object, __: object, value: str | None) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9]+", value)):
        raise InvalidCall(f"main_app_id: {value!r} came; a string of digits or None is allowed")


def _check_token_seconds(_: object, __: object, value: float) -> None:
    if not value > 0:
        raise InvalidCall(f"token_seconds: {value!r} came; a number above 0 is allowed")


def _check_token_name(_: object, __: object, value: str) -> None:
    if value not in TOKEN_NAMES:
        raise InvalidCall(f"token_name: {value!r} came; {' or '.join(TOKEN_NAMES)} is allowed")


def _check_deletion_seconds(_: object, __: object, value: float) -> None:
    if not value >= 0:
        raise InvalidCall(f"deletion_seconds: {value!r} came; a number from 0 is allowed")


@attrs.frozen(slots=True)
class DeletionSetup:
    """
    How the deletion API is set up.

    Attributes:
        api_key: The only key that is right; None: none is.
        main_app_id: The only environment that may ask; None: each may.
        token_seconds: How long a token is good for.
        token_name: Under which of two names it is handed out.
        deletion_seconds: How long a deletion is pending.
    """

    api_key: str | None = attrs.field(default=API_KEY, repr=False, validator=_check_key)
    main_app_id: str | None = attrs.field(default=None, validator=_check_app_id)
    token_seconds: float = attrs.field(default=3_600.0, validator=_check_token_seconds)
    token_name: str = attrs.field(default="auth_token", validator=_check_token_name)
    deletion_seconds: float = attrs.field(default=0.0, validator=_check_deletion_seconds)


def masked(authorization: str) -> str:
    """
    What may be kept of an Authorization header: its scheme, and nothing that opens anything.
    """
    match = _SCHEME.fullmatch(authorization.strip())
    return "***" if match is None else f"{match[1].title()} ***"


# -- tokens --------------------------------------------------------------------


@attrs.frozen(slots=True)
class _Grant:
    app_id: str
    until: float


class Tokens:
    """
    Tokens for credentials. None of its texts repeats what a header said.

    Args:
        setup: Which credentials are right, and for how long.
    """

    def __init__(self, setup: DeletionSetup) -> None:
        self._setup = setup
        self._grants: dict[str, _Grant] = {}

    def issue(self, authorization: str | None, now: float) -> str:
        """
        A new token; those before it stay good.

        Args:
            authorization: ``Basic <app_id>:<api_key>``, the pair in Base64.
            now: Seconds on a clock that never goes back.

        Raises:
            Refused: 401; the credentials are missing or wrong.
        """
        pair = _basic(_credentials(authorization, "Basic", "<app_id>:<api_key>"))
        app_id, _, api_key = pair.partition(":")
        self._check_app_id(app_id)
        right = self._setup.api_key
        if right is None:
            raise _unauthorized("api_key: one came; none has been generated, so that none is right")
        if not hmac.compare_digest(api_key.encode(), right.encode()):
            raise _unauthorized("api_key: it is not the key of this account")
        token = secrets.token_urlsafe(32)
        self._grants[token] = _Grant(app_id, now + self._setup.token_seconds)
        return token

    def check(self, authorization: str | None, now: float) -> str:
        """
        The app_id that a token was issued to.

        Args:
            authorization: ``Bearer <token>``.
            now: Seconds on a clock that never goes back.

        Raises:
            Refused: 401; the token is missing, unknown or too old.
        """
        grant = self._grants.get(_credentials(authorization, "Bearer", "<token>"))
        if grant is None:
            raise _unauthorized("Authorization: this token was not issued here, or was revoked")
        if now >= grant.until:
            raise _unauthorized(
                f"Authorization: this token has expired after {self._setup.token_seconds:g} s; "
                "a new one is needed"
            )
        return grant.app_id

    def revoke(self) -> None:
        """
        No token that was issued until now is good any more.
        """
        self._grants.clear()

    def _check_app_id(self, app_id: str) -> None:
        main = self._setup.main_app_id
        if not re.fullmatch("[0-9]+", app_id):
            raise _unauthorized("app_id: no string of digits; the Main Production one is allowed")
        if main is not None and app_id != main:
            raise _unauthorized(
                f"app_id: {app_id} came; only that of the Main Production environment is allowed"
            )


def _credentials(authorization: str | None, scheme: str, form: str) -> str:
    """What follows the scheme, which is all that the two kinds of header have in common."""
    came, _, credentials = (authorization or "").strip().partition(" ")
    if came.lower() != scheme.lower() or not credentials.strip():
        state = "missing" if authorization is None else "of another form"
        raise _unauthorized(f"Authorization: {state}; '{scheme} {form}' is required")
    return credentials.strip()


def _basic(text: str) -> str:
    try:
        return b64decode(text, validate=True).decode()
    except ValueError:
        # Without its cause, which would quote the credentials.
        raise _unauthorized(
            "Authorization: no Base64 of UTF-8; '<app_id>:<api_key>' is required"
        ) from None


def _unauthorized(reason: str) -> Refused:
    return Refused(f"Unauthorized. {reason}.", 401)


# -- deletions -----------------------------------------------------------------


@attrs.frozen(slots=True)
class Deletion:
    """
    One accepted request to delete users.

    Attributes:
        id: The deletion_request_id, a UUID.
        app_id: The environment whose credentials asked; all are searched.
        users: Who is to be deleted, in the order of the request.
        status: "pending" or "complete".
        time: When it was asked for, in UTC.
    """

    id: str
    app_id: str
    users: tuple[DeletionUser, ...] = attrs.field(repr=lambda users: f"<{len(users)} users>")
    status: str
    time: datetime


class Deletions:
    """
    What was asked for, and what of it is done.

    Args:
        seconds: How long each is pending.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._all: dict[str, Deletion] = {}  # in order of arrival
        self._due: dict[str, float] = {}  # the pending ones; all wait equally long

    def add(
        self, app_id: str, users: Iterable[DeletionUser], time: datetime, now: float
    ) -> Deletion:
        """
        Accept a request.

        Args:
            app_id: Who asks.
            users: Who is to be deleted.
            time: Of arrival.
            now: Seconds on a clock that never goes back.

        Returns:
            The deletion, which is pending, however soon it will be complete.
        """
        deletion = Deletion(str(uuid.uuid4()), app_id, tuple(users), PENDING, time)
        self._all[deletion.id] = deletion
        self._due[deletion.id] = now + self._seconds
        return deletion

    def finish(self, now: float) -> list[Deletion]:
        """
        Those that have become complete; each is returned once.

        Args:
            now: Seconds on a clock that never goes back.
        """
        ripe = [id for id, due in self._due.items() if due <= now]
        for id in ripe:
            del self._due[id]
            self._all[id] = attrs.evolve(self._all[id], status=COMPLETE)
        return [self._all[id] for id in ripe]

    def all(self) -> list[Deletion]:
        """
        Every accepted request, in order of arrival.
        """
        return list(self._all.values())

    def get(self, id: str, app_id: str) -> Deletion:
        """
        One request, for the environment that made it.

        Raises:
            Refused: 404; there is none, or it is another environment's.
        """
        deletion = self._all.get(id)
        if deletion is None or deletion.app_id != app_id:
            raise Refused(f"Not found. deletion_request_id: {id!r} is not known here.", 404)
        return deletion

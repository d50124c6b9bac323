"""
Heap's privacy API: a token, requests to delete users, and how far they are.

This module must not know events or budgets. It is the only one that has the api
key, and hands it to nobody but the transport: no text that leaves here, in an
error or otherwise, holds the key or a token, even where Heap's answer did.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import quote

import attrs

from heap_agent._core import limits
from heap_agent._core.encoder import dumps_text
from heap_agent._core.outcomes import Answer
from heap_agent._server import checks, secret
from heap_agent._server.errors import api_error, read_object
from heap_agent._server.line import Caller, Seams
from heap_agent._server.patience import Patience
from heap_agent._server.secret import Secret
from heap_agent._server.values import DeletionRequest
from heap_agent._upload.transport import Reply
from heap_agent.exceptions import ApiError, DeletionPending, InvalidCall

__all__ = ["Deletion", "encode_users"]

#: Heap's pages name the token differently.
_TOKEN_NAMES: Final = ("auth_token", "access_token")

#: What the requests are called in errors.
_LOG_IN: Final = "auth_token"
_SUBMIT: Final = "user_deletion"
_LOOK: Final = "deletion_status"

_PRODUCTION: Final = (
    "check app id and api key: only the id of the Main Production environment, with its own "
    "key, may delete users"
)
_UNKNOWN: Final = (
    "Heap has no such deletion request, or it belongs to an environment that this key is not for"
)

_ADVICE: Final[Mapping[tuple[str, int | None], str]] = {
    (_LOG_IN, 401): _PRODUCTION,
    (_SUBMIT, 401): _PRODUCTION,
    (_LOOK, 401): _PRODUCTION,
    (_LOOK, 404): _UNKNOWN,
}

#: Seconds between two looks at a status: the first, and the longest.
_PAUSES: Final = (1.0, 60.0)

#: Seconds that a request may take even where less is left to wait: whoever waits for
#: nothing wants an answer all the same.
_LEAST: Final = 5.0

#: Outcomes after which the same request may succeed.
_WAITING: Final = frozenset({Answer.UNAVAILABLE, Answer.CAPTIVE, Answer.THROTTLED})


def encode_users(
    identities: Iterable[str | int], user_ids: Iterable[str | int]
) -> list[tuple[bytes, int]]:
    """
    Check all users, and encode the bodies of the requests that delete them.

    Returns:
        For each request its body, and how many users it names: at most 10,000,
        and at most 1,000,000 bytes.

    Raises:
        InvalidValue: One of them is none; nothing was sent.
        InvalidCall: A text came, where its letters would have been deleted.
    """
    named = [
        b'{"identity":%b}' % dumps_text(checks.identity(one, frozenset()))
        for one in _each(identities, "identities")
    ]
    # A number, as in Heap's example, where the other paths have text.
    anonymous = [b'{"user_id":%d}' % checks.user_id(one) for one in _each(user_ids, "user_ids")]
    return [
        (b'{"users":[%b]}' % b",".join(chunk), len(chunk))
        for users in (named, anonymous)
        for chunk in _chunks(users)
    ]


def _each(values: Iterable[str | int], argument: str) -> Iterable[str | int]:
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__iter__"):
        raise InvalidCall(
            f"{argument}: {checks.shown(values)} came; a list of them is allowed, such as [one]"
        )
    return values


def _chunks(users: Sequence[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for user in users:
        if len(chunk) == limits.DELETION_USERS or size + len(user) > limits.BATCH_BYTES - 64:
            yield chunk
            chunk, size = [], 0
        chunk.append(user)
        size += len(user) + 1
    if chunk:
        yield chunk


class Deletion:
    """
    Deletes users. Safe to use from several threads.

    Args:
        app_id: Id of the Main Production environment.
        api_key: Of the same.
        caller: Moves requests, to the host for deletions.
        retry_for: As for `Patience`.
        seams: Time and chance.
    """

    def __init__(
        self,
        app_id: str,
        api_key: Secret,
        caller: Caller,
        retry_for: float | None,
        seams: Seams,
    ) -> None:
        self._app_id = app_id
        self._api_key = api_key
        self._caller = caller
        self._retry_for = retry_for
        self._seams = seams
        # Guards the token, and is held while one is fetched.
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Deletion {self._app_id} [{'no ' if self._token is None else ''}token]>"

    def close(self) -> None:
        """
        Forget the token, and close the connection; nothing is sent any more.
        """
        self._is_closed = True
        self._token = None
        self._caller.close()

    def submit(self, body: bytes, users: int) -> DeletionRequest:
        """
        Ask for the deletion of the users in one body.

        Raises:
            ApiError: Heap has not accepted it.
        """
        reply = self._authorized("POST", limits.USER_DELETION_PATH, body, _SUBMIT)
        return self._read(reply, _SUBMIT, users)

    def look(self, request_id: str, until: float = math.inf) -> DeletionRequest:
        """
        Ask how far a request is.

        Args:
            request_id: Heap's id of it.
            until: When to stop asking, on the clock that does not jump.

        Raises:
            ApiError: Heap does not say; `NotFound` for an unknown id.
        """
        path = f"{limits.DELETION_STATUS_PATH}/{quote(request_id, safe='')}"
        reply = self._authorized("GET", path, None, _LOOK, until)
        return self._read(reply, _LOOK, None, request_id)

    def wait(self, request: DeletionRequest, timeout: float | None) -> DeletionRequest:
        """
        Ask until a request is complete, ever more rarely.

        Raises:
            DeletionPending: It is not, after `timeout` seconds.
            ApiError: Heap does not say, `Unreachable` also at the end of that time.
        """
        began = self._seams.monotonic()
        until = math.inf if timeout is None else began + timeout
        pause, longest = _PAUSES
        while True:
            seen = self.look(request.id, until)
            request = attrs.evolve(request, status=seen.status)
            if request.is_complete:
                return request
            now = self._seams.monotonic()
            waited, left = now - began, until - now
            if left <= 0:
                raise DeletionPending(
                    f"deletion request {request.id} is {request.status!r} after {waited:.0f} s; "
                    "it goes on at Heap: ask again later, or give a longer timeout.",
                    message=request.status,
                )
            self._seams.sleep(min(pause, left))
            pause = min(pause * 2, longest)

    # -- one request --

    def _authorized(
        self, method: str, path: str, body: bytes | None, what: str, until: float = math.inf
    ) -> Reply:
        token = secret.bearer(self._valid_token(until))
        reply = self._patiently(method, path, body, token, what, until)
        if reply.outcome.status == 401:
            # Tokens are temporary, and Heap does not say how long one lasts.
            token = secret.bearer(self._valid_token(until, renew=True))
            reply = self._patiently(method, path, body, token, what, until)
        return self._accepted(reply, what)

    def _valid_token(self, until: float, *, renew: bool = False) -> Secret:
        with self._lock:
            if self._token is None or renew:
                self._token = self._fetch_token(until)
            return self._token

    def _fetch_token(self, until: float) -> Secret:
        what, path = _LOG_IN, limits.AUTH_TOKEN_PATH
        credentials = secret.basic(self._app_id, self._api_key)
        reply = self._accepted(self._patiently("POST", path, None, credentials, what, until), what)
        token = _token_in(reply.body)
        if token is None:
            raise self._error(what, reply, "the answer holds no token")
        return token

    def _patiently(
        self,
        method: str,
        path: str,
        body: bytes | None,
        authorization: Secret,
        what: str,
        until: float,
    ) -> Reply:
        """Repeat what brings no answer. Deleting somebody twice is deleting them."""
        patience = Patience(self._retry_for, until)
        while True:
            left = max(_LEAST, until - self._seams.monotonic())
            timeout = None if left == math.inf else left
            reply = self._call(method, path, body, authorization, timeout)
            if reply.outcome.answer not in _WAITING:
                return reply
            now, chance = self._seams.monotonic(), self._seams.chance()
            seconds = patience.lose(now, chance, reply.outcome)
            if seconds is None:
                raise self._error(what, reply)
            self._seams.sleep(seconds)

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None,
        authorization: Secret,
        timeout: float | None,
    ) -> Reply:
        if self._is_closed:
            raise InvalidCall("this ServerClient was closed; make a new one")
        headers = {"Authorization": authorization}
        try:
            reply = self._caller.call(method, path, body, headers=headers, timeout=timeout)
        except BaseException as error:
            # Ctrl-C: the frames below have the header as plain text.
            raise error.with_traceback(None) from None
        # At once, because an outcome shows its reason wherever it is looked at.
        reason = secret.masked(reply.outcome.reason, self._secrets())
        return attrs.evolve(reply, outcome=attrs.evolve(reply.outcome, reason=reason))

    # -- answers --

    def _accepted(self, reply: Reply, what: str) -> Reply:
        if reply.outcome.answer is not Answer.ACCEPTED:
            raise self._error(what, reply, _ADVICE.get((what, reply.outcome.status), ""))
        return reply

    def _read(
        self, reply: Reply, what: str, users: int | None, known_id: str | None = None
    ) -> DeletionRequest:
        members = read_object(reply.body) or {}
        request_id = members.get("deletion_request_id") or known_id
        status, location = members.get("status"), members.get("deletion_request_location")
        if not isinstance(request_id, str) or not isinstance(status, str):
            raise self._error(
                what,
                reply,
                "the answer lacks deletion_request_id or status: Heap may have accepted the "
                "request, and nobody can ask how far it is; to send it again is safe",
            )
        return DeletionRequest(
            request_id, status, location if isinstance(location, str) else None, users
        )

    def _error(self, what: str, reply: Reply, advice: str = "") -> ApiError:
        body, secrets = reply.body, self._secrets()
        # Before it is cut, which may be in the middle of a secret.
        for hidden in secrets:
            body = body.replace(hidden.encode(), b"***")
        return api_error(what, reply.outcome, body, advice, secrets)

    def _secrets(self) -> list[Secret]:
        credentials = secret.basic(self._app_id, self._api_key)
        # Without the word "Basic" too.
        found = [credentials, Secret(credentials.split()[-1]), self._api_key]
        return found if self._token is None else [*found, self._token]


def _token_in(body: bytes) -> Secret | None:
    members = read_object(body) or {}
    for name in _TOKEN_NAMES:
        token = members.get(name)
        # What is not printable ASCII cannot be a header.
        if isinstance(token, str) and token and token.isascii() and token.isprintable():
            return Secret(token)
    return None

"""
`ServerClient`: every verb of the server-side API, calling the modules in order.

This module must not know how items are checked, when they may be sent, or what
an answer means.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from heap_agent._config import environment_proxy
from heap_agent._core import wire
from heap_agent._core.budget import Allowance
from heap_agent._core.events import Kind
from heap_agent._server import deletion, items
from heap_agent._server.bulk import Bulk
from heap_agent._server.deletion import Deletion
from heap_agent._server.errors import api_error
from heap_agent._server.items import Encoded
from heap_agent._server.line import VERBS, Alone, Ledger, Line, Seams
from heap_agent._server.run import Run
from heap_agent._server.secret import Secret
from heap_agent._server.settings import Settings
from heap_agent._server.values import (
    AccountProperties,
    BulkResult,
    DeletionRequest,
    Event,
    Moment,
    Progress,
    Rejected,
    UserProperties,
)
from heap_agent._upload.transport import Transport
from heap_agent._version import USER_AGENT
from heap_agent.exceptions import ApiError, InvalidCall

__all__ = ["ServerClient"]

_log = logging.getLogger("heap_agent.server")

OnRejected = Callable[[Rejected], None]
OnProgress = Callable[[Progress], None]
_Item = TypeVar("_Item", Event, UserProperties, AccountProperties)


class ServerClient:
    """
    Heap's server-side API, for programs on servers and administrators' machines.

    Every verb returns when Heap has answered; nothing is queued, and no thread
    is started. Safe to use from several threads: their requests take turns, and
    share the budgets. After a fork, make a new one.

    Args:
        app_id: Id of the environment at Heap, digits, as text or an int.
        api_key: Only for deleting users; with it, `app_id` must be that of the
            Main Production environment. Take it from a file or the environment,
            never from the command line. It is in no `repr`, log or error.
        region: ``"us"`` or ``"eu"``: where Heap keeps the data.
        endpoint: A URL to send to instead of to Heap's hosts, deletions too.
            Plain HTTP is for this machine only.
        allow_insecure: Allow plain HTTP to other machines; never for deletions.
        identity_budget: Most events per minute for one identity or user_id (Heap's
            limit is 1000); None for no limit, and none either on requests for an
            identity (30 in 30 s).
        app_budget: Most events per minute (Heap's limit is 15,000 for an app id,
            whoever sends); None for no limit. Budgets are those of one client, as
            long as it lives: use one for all that a program sends.
        retry_for: Seconds from a first failure in which a success must come:
            network trouble, 5xx, 429, captive portals. Waits for budgets do not
            count. None: for ever; 0: one attempt.
        refused_identities: Identities that name nobody, instead of the built-in
            list (``null``, ``undefined``, ``guest`` …): Heap would make one user of
            all who share one, and that cannot be undone.
        proxy: URL of an HTTP proxy, or "none"; by default that of the environment,
            for other hosts than this one.
        ca_bundle: File of certificates (PEM) to trust besides the system's.
        client_cert: File of the client's certificate (PEM).
        client_key: File of its key.
        connect_timeout: Seconds.
        read_timeout: Seconds for sending a request and reading its answer.

    Raises:
        InvalidCall: An argument is not allowed.
    """

    def __init__(
        self,
        app_id: str | int,
        api_key: str | None = None,
        *,
        region: str = "us",
        endpoint: str | None = None,
        allow_insecure: bool = False,
        identity_budget: int | None = 1_000,
        app_budget: int | None = 15_000,
        retry_for: float | None = 300.0,
        refused_identities: Collection[str] | None = None,
        proxy: str | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        _seams: Seams | None = None,
        _ledger: Ledger | None = None,
    ) -> None:
        # Before anything can raise with this frame, or its callees', in its traceback.
        key = None if api_key is None else _as_secret(api_key)
        del api_key
        if key == "":
            raise InvalidCall("api_key: text that is not blank is allowed")
        # Any: each option has a converter, which takes more than it returns.
        options: dict[str, Any] = {
            "app_id": app_id,
            "region": region,
            "endpoint": endpoint,
            "allow_insecure": allow_insecure,
            "identity_budget": identity_budget,
            "app_budget": app_budget,
            "retry_for": retry_for,
            "refused_identities": refused_identities,
            "proxy": proxy,
            "ca_bundle": ca_bundle,
            "client_cert": client_cert,
            "client_key": client_key,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
        }
        self._settings = settings = Settings(**options)
        self._seams = seams = Seams() if _seams is None else _seams
        allowance = Allowance(settings.identity_budget, settings.app_budget, 1)
        caller = self._transport(settings.base_url)
        ledger = Alone() if _ledger is None else _ledger
        self._line = Line(settings.app_id, caller, allowance, seams, ledger)
        self._deletion = None
        if key is not None:
            self._deletion = Deletion(
                settings.app_id,
                key,
                self._transport(settings.deletion_url),
                settings.retry_for,
                seams,
            )

    def _transport(self, url: str) -> Transport:
        settings = self._settings
        proxy = environment_proxy(url) if settings.proxy is None else settings.proxy
        return Transport(
            url,
            user_agent=USER_AGENT,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            ca_bundle=_text(settings.ca_bundle),
            client_cert=_text(settings.client_cert),
            client_key=_text(settings.client_key),
            proxy=proxy,
            wall=self._seams.wall,
        )

    def __repr__(self) -> str:
        # A traceback with local variables shows a client that was refused, too.
        if not hasattr(self, "_line"):
            return "<ServerClient [refused]>"
        settings = self._settings
        state = "closed" if self._line.is_closed else "open"
        key = "without api key" if self._deletion is None else "with api key"
        return f"<ServerClient {settings.app_id} at {settings.base_url} [{state}, {key}]>"

    def __enter__(self) -> ServerClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connections. Verbs raise `InvalidCall` from now on; a bulk call of
        another thread does so before its next request.
        """
        self._line.close()
        if self._deletion is not None:
            self._deletion.close()

    # -- one at a time --

    def track(
        self,
        event: str,
        *,
        identity: str | int | None = None,
        user_id: str | int | None = None,
        properties: Mapping[str, Any] | None = None,
        timestamp: Moment | None = None,
        idempotency_key: str | None = None,
        session_id: str | int | None = None,
        repair: bool = False,
    ) -> None:
        """
        Send one event, and wait until Heap has it.

        It goes in the bulk form, so that Heap's limit is that of events, not of
        30 requests in 30 s.

        Args:
            event: As `Event.event`, and so on.
            identity: This or `user_id`.
            user_id: This or `identity`.
            properties: None for none.
            timestamp: None: now, or with an `idempotency_key` the time at which
                it reaches Heap, so that the call can be repeated.
            idempotency_key: None: one is made, which the repetitions within this
                call have in common.
            session_id: None for none.
            repair: Repair faults as an agent does (see ARCHITECTURE.md, "Bad
                input"), with a server's limits, instead of raising. Who, and when,
                is never guessed.

        Raises:
            InvalidCall: Neither or both of `identity` and `user_id`, or
                properties that are no mapping.
            InvalidValue: A value is at fault; nothing was sent.
            ApiError: Heap does not have it, as far as we know.
        """
        if (identity is None) == (user_id is None):
            came = "neither" if identity is None else "both"
            raise InvalidCall(f"identity, user_id: {came} came; give exactly one of the two")
        wire.check_mapping(properties, "properties", optional=True)
        item = Event(
            event,
            identity=identity,
            user_id=user_id,
            properties=properties,
            timestamp=timestamp,
            idempotency_key=idempotency_key,
            session_id=session_id,
        )
        self._send(Kind.EVENT, self._event_encoder(repair)(0, item))

    def identify(
        self,
        user_id: str | int,
        identity: str | int,
        *,
        timestamp: Moment | None = None,
    ) -> None:
        """
        Make an anonymous user's events those of an identified user, for ever.

        Heap answers with success, and does nothing, for a `user_id` that belongs
        to another identity, and for the eleventh of an identity in a month.

        Args:
            user_id: The anonymous user, 0 to 2^53-1.
            identity: The identified one, 1 to 255 UTF-16 units.
            timestamp: When it became known; None: now.

        Raises:
            InvalidValue: A value is at fault; nothing was sent.
            ApiError: Heap does not have it, as far as we know.
        """
        when = self._seams.wall() if timestamp is None else timestamp
        encoded = items.encode_identify(user_id, identity, when, self._settings.refused)
        self._send(Kind.IDENTIFY, encoded)

    def add_user_properties(
        self, identity: str | int, properties: Mapping[str, Any], *, repair: bool = False
    ) -> None:
        """
        Set properties of one user; the last value of a key stands.

        Heap takes 30 requests in 30 s for an identity; the call waits for its turn.

        Args:
            identity: Heap makes a user of an unknown one.
            properties: As in `UserProperties`.
            repair: As in `track`.

        Raises:
            InvalidCall: Properties that are no mapping.
            InvalidValue: A value is at fault; nothing was sent.
            ApiError: Heap does not have them, as far as we know.
        """
        wire.check_mapping(properties, "properties")
        item = UserProperties(identity, properties)
        self._send(Kind.USER_PROPERTIES, self._user_encoder(repair)(0, item))

    def add_account_properties(
        self, account_id: str | int, properties: Mapping[str, Any], *, repair: bool = False
    ) -> None:
        """
        Set properties of one account; the last value of a key stands.

        Heap wants its setting "Account ID" (or Salesforce) to be made first, and
        states no limit; we keep to that of users.

        Args:
            account_id: As the setting has it.
            properties: As in `AccountProperties`.
            repair: As in `track`.

        Raises:
            InvalidCall: Properties that are no mapping.
            InvalidValue: A value is at fault; nothing was sent.
            ApiError: Heap does not have them, as far as we know.
        """
        wire.check_mapping(properties, "properties")
        item = AccountProperties(account_id, properties)
        self._send(Kind.ACCOUNT_PROPERTIES, self._account_encoder(repair)(0, item))

    # -- many at a time --

    def bulk_track(
        self,
        items: Iterable[Event | Mapping[str, Any]],
        *,
        repair: bool = False,
        on_rejected: OnRejected | None = None,
        on_progress: OnProgress | None = None,
    ) -> BulkResult:
        """
        Send any number of events, in order.

        Items are taken as they can be sent, at most 1000 and about 1 MB at a time,
        so that a generator of millions takes no memory. A request holds up to 1000
        items and 1,000,000 bytes, waits for the budgets, and is repeated until Heap
        has answered. When Heap refuses one, it is narrowed down to the bad items,
        and the rest is sent. After 100 refusals in a row the call raises: then the
        fault is hardly in the items.

        An event without an `idempotency_key` gets one, and without a timestamp it
        gets the time at which it was taken. An event with its own key goes exactly
        as it was given, so that a later call may send the same bytes: without a
        timestamp, Heap puts its own.

        Should the iterable raise, what it gave before is sent and reported first;
        then its error is raised. (Not so for KeyboardInterrupt and its like.) What
        a callback raises ends the call at once.

        Args:
            items: `Event` objects, or mappings with the same names.
            repair: As in `track`; items that were repaired are counted.
            on_rejected: Called with each item that Heap does not get, in order.
            on_progress: Called when items are settled; `Progress.read` is where a
                later call may go on. Both are called in the calling thread.

        Returns:
            How many were accepted, rejected and repaired.

        Raises:
            InvalidCall: `items` is not an iterable of items, or the client was closed.
            ApiError: No success within `retry_for` (`Unreachable`), or an answer that
                is not about the items; `result` says what was settled before.
        """
        return self._bulk(Kind.EVENT, items, self._event_encoder(repair), on_rejected, on_progress)

    def bulk_add_user_properties(
        self,
        items: Iterable[UserProperties | Mapping[str, Any]],
        *,
        repair: bool = False,
        on_rejected: OnRejected | None = None,
        on_progress: OnProgress | None = None,
    ) -> BulkResult:
        """
        Set properties of any number of users, in order; see `bulk_track`.

        Heap states a limit for single requests only: 30 in 30 s for an identity.
        We count a bulk request as one for each identity in it.

        Args:
            items: `UserProperties`, or mappings with the same names.
            repair: As in `track`.
            on_rejected: As in `bulk_track`.
            on_progress: As in `bulk_track`.

        Returns:
            As `bulk_track`.

        Raises:
            InvalidCall: As in `bulk_track`.
            ApiError: As in `bulk_track`.
        """
        encode = self._user_encoder(repair)
        return self._bulk(Kind.USER_PROPERTIES, items, encode, on_rejected, on_progress)

    def bulk_add_account_properties(
        self,
        items: Iterable[AccountProperties | Mapping[str, Any]],
        *,
        repair: bool = False,
        on_rejected: OnRejected | None = None,
        on_progress: OnProgress | None = None,
    ) -> BulkResult:
        """
        Set properties of any number of accounts, in order; see `bulk_track`.

        Args:
            items: `AccountProperties`, or mappings with the same names.
            repair: As in `track`.
            on_rejected: As in `bulk_track`.
            on_progress: As in `bulk_track`.

        Returns:
            As `bulk_track`.

        Raises:
            InvalidCall: As in `bulk_track`.
            ApiError: As in `bulk_track`.
        """
        encode = self._account_encoder(repair)
        return self._bulk(Kind.ACCOUNT_PROPERTIES, items, encode, on_rejected, on_progress)

    # -- deletion --

    def delete_users(
        self,
        *,
        identities: Iterable[str | int] = (),
        user_ids: Iterable[str | int] = (),
    ) -> list[DeletionRequest]:
        """
        Ask Heap to delete users with all their data, in *all* environments.

        Goes to Heap's US host whatever the region, in requests of up to 10,000
        users and 1,000,000 bytes. All users are checked before the first request.
        A request that brought no answer is repeated: deleting is idempotent, at
        the price of a second request at Heap for the same users. A device that
        still has events of a user would create that user anew: forget them there
        first.

        Args:
            identities: Of identified users.
            user_ids: Of anonymous users, 0 to 2^53-1.

        Returns:
            What Heap has accepted; it is done later (`wait_for_deletion`). Empty
            when nobody was named.

        Raises:
            InvalidCall: There is no api key; a single text came for a list; or
                deletions would go over plain HTTP to another machine.
            InvalidValue: One of the users is none; nothing was sent.
            ApiError: Heap has not accepted a request; `accepted` has those before
                it. `Unauthorized` where app id or key are not those of the Main
                Production environment.
        """
        deleter = self._deleter()
        accepted: list[DeletionRequest] = []
        for body, users in deletion.encode_users(identities, user_ids):
            try:
                accepted.append(deleter.submit(body, users))
            except ApiError as error:
                error.accepted = tuple(accepted)
                raise
        return accepted

    def deletion_status(self, request: DeletionRequest | str) -> str:
        """
        Ask how far a deletion is.

        Args:
            request: What `delete_users` returned, or its id.

        Returns:
            ``"pending"`` or ``"complete"``, in Heap's words.

        Raises:
            InvalidCall: There is no api key, or this is no id.
            NotFound: Heap does not know it, or it is of another environment.
            ApiError: Heap does not say.
        """
        return self._deleter().look(_request(request).id).status

    def wait_for_deletion(
        self, request: DeletionRequest | str, timeout: float | None = 3600.0
    ) -> DeletionRequest:
        """
        Wait until a deletion is complete, asking after 1, 2, 4 … and at last every
        60 seconds. Heap does not say how long deletions take.

        Args:
            request: What `delete_users` returned, or its id.
            timeout: Seconds, whatever happens meanwhile; None for ever, 0 to ask
                once, which takes a few seconds at most.

        Returns:
            The request, now complete.

        Raises:
            DeletionPending: It is not complete in time (a `TimeoutError`). It
                goes on at Heap.
            Unreachable: Heap does not say, for as long as `retry_for` or `timeout`.
            InvalidCall: As in `deletion_status`.
            ApiError: As in `deletion_status`.
        """
        return self._deleter().wait(_request(request), timeout)

    def _deleter(self) -> Deletion:
        self._line.check_open()
        if self._deletion is None:
            raise InvalidCall("api_key: none came; deleting users needs one")
        if self._settings.is_plain and not self._settings.is_local:
            raise InvalidCall(
                f"endpoint: {self._settings.endpoint} has plain HTTP; the api key travels "
                "over https only"
            )
        return self._deletion

    # -- inside --

    def _event_encoder(self, repair: bool) -> Callable[[int, Any], Encoded]:
        prefix = f"{self._seams.random_bits(64):016x}"
        refused, wall = self._settings.refused, self._seams.wall

        def encode(index: int, item: Any) -> Encoded:
            now = wall()
            key = wire.idempotency_key(prefix, index, round(now * 1e6)).decode()
            return items.encode_event(item, repair=repair, key=key, now=now, refused=refused)

        return encode

    def _user_encoder(self, repair: bool) -> Callable[[int, Any], Encoded]:
        refused = self._settings.refused
        return lambda _, item: items.encode_user(item, repair=repair, refused=refused)

    def _account_encoder(self, repair: bool) -> Callable[[int, Any], Encoded]:
        refused = self._settings.refused
        return lambda _, item: items.encode_account(item, repair=repair, refused=refused)

    def _new_bulk(self, kind: Kind) -> Bulk:
        return Bulk(kind, self._settings.app_id, self._settings.retry_for)

    def _bulk(
        self,
        kind: Kind,
        given: Iterable[_Item | Mapping[str, Any]],
        encode: Callable[[int, Any], Encoded],
        on_rejected: OnRejected | None,
        on_progress: OnProgress | None,
    ) -> BulkResult:
        self._line.check_open()
        return Run(self._line, self._new_bulk(kind), encode, on_rejected, on_progress).complete(
            given
        )

    def _send(self, kind: Kind, encoded: Encoded) -> None:
        for fault in encoded.faults:
            _log.warning("repaired: %s", fault.detail)
        bulk = self._new_bulk(kind)
        bulk.add(0, None, encoded)
        while bulk:
            wait = self._line.advance(bulk)
            for refusal in bulk.settle().refusals:
                assert refusal.outcome is not None
                raise api_error(VERBS[kind], refusal.outcome)
            self._line.rest(wait)


def _as_secret(api_key: object) -> Secret:
    """Without blanks around it; empty where it is none."""
    return Secret(api_key.strip() if isinstance(api_key, str) else "")


def _request(request: DeletionRequest | str) -> DeletionRequest:
    if isinstance(request, DeletionRequest):
        return request
    if isinstance(request, str) and request.strip():
        return DeletionRequest(request.strip(), "pending")
    raise InvalidCall(
        f"request: a {type(request).__name__} came; a DeletionRequest or its id is allowed"
    )


def _text(path: object) -> str | None:
    return None if path is None else str(path)

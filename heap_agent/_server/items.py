"""
Items to bytes: what an event, a user's or an account's properties look like on
the wire.

Pure, so that it is also how a dry run finds faults. This module must not know
requests, budgets or answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from heap_agent._core import limits, wire
from heap_agent._core.encoder import dumps, dumps_text
from heap_agent._core.events import Fault
from heap_agent._core.repair import fit_event
from heap_agent._server import checks
from heap_agent._server.checks import REFUSED
from heap_agent._server.values import AccountProperties, Event, UserProperties
from heap_agent.exceptions import InvalidValue

__all__ = ["Encoded", "encode_account", "encode_event", "encode_identify", "encode_user"]


@attrs.frozen(slots=True)
class Encoded:
    """
    An item as it goes over the wire.

    Attributes:
        data: Its JSON.
        actor: Who it is about; budgets are kept for it.
        faults: What had to be repaired.
    """

    data: bytes = attrs.field(repr=False)
    actor: str
    faults: tuple[Fault, ...] = ()


def encode_event(
    item: Event | Mapping[str, Any],
    *,
    repair: bool = False,
    key: str | None = None,
    now: float | None = None,
    refused: frozenset[str] = REFUSED,
) -> Encoded:
    """
    Check and encode one event.

    Args:
        item: An `Event`, or a mapping with the same names.
        repair: Repair faults as an agent does, instead of raising.
        key: The idempotency key of an item that has none of its own.
        now: Seconds since 1970, the timestamp of an item that has neither a
            timestamp nor a key of its own. An item with its own key goes exactly
            as it was given, or another call could not repeat its bytes.
        refused: Identities that name nobody, trimmed and casefolded.

    Returns:
        The event's JSON, as a member of a bulk request.

    Raises:
        InvalidValue: What is wrong, what came, and what is allowed.
    """
    fields = _fields(item, Event)
    name, faults = checks.event_name(fields.get("event"), mend=repair)
    who, actor = _who(fields, refused)
    members = []
    own_key = fields.get("idempotency_key")
    when = fields.get("timestamp")
    if when is None and own_key is None:
        when = now
    if when is not None:
        micros, more = checks.instant(when, mend=repair)
        members.append(b'"timestamp":"%b"' % wire.stamp(micros))
        faults += more
    if own_key is not None or key is not None:
        text = key if own_key is None else checks.label(own_key, "idempotency_key")
        members.append(b'"idempotency_key":' + dumps_text(str(text)))
    members.append(who)
    if fields.get("session_id") is not None:
        session = checks.label(fields["session_id"], "session_id")
        members.append(b'"session_id":' + dumps_text(session))
    members.append(b'"event":' + dumps_text(name))
    given = fields.get("properties")
    return _finish(members, {} if given is None else given, actor, faults, mend=repair)


def encode_user(
    item: UserProperties | Mapping[str, Any],
    *,
    repair: bool = False,
    refused: frozenset[str] = REFUSED,
) -> Encoded:
    """
    Check and encode one user's properties; arguments and errors as for events.
    """
    fields = _fields(item, UserProperties)
    identity = checks.identity(fields.get("identity"), refused)
    members = [b'"identity":' + dumps_text(identity)]
    return _finish(members, fields.get("properties"), identity, (), mend=repair, user=True)


def encode_account(
    item: AccountProperties | Mapping[str, Any],
    *,
    repair: bool = False,
    refused: frozenset[str] = REFUSED,
) -> Encoded:
    """
    Check and encode one account's properties; arguments and errors as for events.
    """
    fields = _fields(item, AccountProperties)
    account_id = checks.account_id(fields.get("account_id"), refused)
    members = [b'"account_id":' + dumps_text(account_id)]
    return _finish(members, fields.get("properties"), account_id, (), mend=repair)


def encode_identify(
    user_id: object, identity: object, timestamp: object, refused: frozenset[str] = REFUSED
) -> Encoded:
    """
    Check and encode the joining of an anonymous user to an identity.

    Raises:
        InvalidValue: As for events.
    """
    number = checks.user_id(user_id)
    name = checks.identity(identity, refused)
    micros, _ = checks.instant(timestamp, mend=False)
    data = b'{"timestamp":"%b","user_id":"%d","identity":%b}' % (
        wire.stamp(micros),
        number,
        dumps_text(name),
    )
    return Encoded(data, name)


_NAMES: Final[Mapping[type, tuple[str, ...]]] = {
    kind: tuple(field.name for field in attrs.fields(kind))
    for kind in (Event, UserProperties, AccountProperties)
}


def _fields(item: object, kind: type) -> Mapping[str, Any]:
    """The fields of an item by name, none that Heap does not know."""
    names = _NAMES[kind]
    if isinstance(item, kind):
        return {name: getattr(item, name) for name in names}
    if not isinstance(item, Mapping):
        raise InvalidValue(
            f"item: {checks.shown(item)} came; a mapping, or a heap_agent.server.{kind.__name__}, "
            "is allowed"
        )
    try:
        fields = dict(item)
    except Exception as exc:
        raise InvalidValue(f"item: reading it raised {type(exc).__name__}") from exc
    for name in fields:
        if name not in names:
            raise InvalidValue(
                f"item: the field {checks.shown(name)} came; allowed are {', '.join(names)}"
            )
    return fields


def _who(fields: Mapping[str, Any], refused: frozenset[str]) -> tuple[bytes, str]:
    identity, user_id = fields.get("identity"), fields.get("user_id")
    if (identity is None) == (user_id is None):
        came = "neither" if identity is None else "both"
        raise InvalidValue(f"identity, user_id: {came} came; exactly one of the two is allowed")
    if identity is None:
        number = checks.user_id(user_id)
        return b'"user_id":"%d"' % number, str(number)
    name = checks.identity(identity, refused)
    return b'"identity":' + dumps_text(name), name


def _finish(
    members: list[bytes],
    given: object,
    actor: str,
    faults: tuple[Fault, ...],
    *,
    mend: bool,
    user: bool = False,
) -> Encoded:
    properties, more = checks.properties(given, mend=mend, user=user)
    head = b'{%b,"properties":' % b",".join(members)
    if mend:
        properties, cut = fit_event(
            properties, lambda some: len(head) + len(dumps(some)) + 1, limits.EVENT_BYTES
        )
        more += cut
    data = b"%b%b}" % (head, dumps(properties))
    if len(data) > limits.EVENT_BYTES:
        raise InvalidValue(
            f"item: {len(data):,} bytes came; {limits.EVENT_BYTES:,} are allowed, "
            "send less with one item"
        )
    return Encoded(data, actor, faults + more)

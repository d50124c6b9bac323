"""
What Heap's documentation allows in a request: a JSON object in, frozen values out.

This module must not know about HTTP connections, about what was received
before, or what time it is: the time of arrival is an argument.

The limits are those of the *server-side* pages, which are wider than the ones
that the agent keeps to (an event name of 1024 characters, an identity of 255).
Lengths are counted in UTF-16 units, the strictest reading of "characters".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeGuard

import attrs

from heap_agent._core import limits
from heap_agent._core.events import Scalar
from heap_agent._tools.heap_json import Document, Members, Refused, cut, item_sources

__all__ = ["AccountProperties", "DeletionUser", "Event", "Identify", "Rules", "UserProperties"]

EVENT_NAME: Final = 1_024
IDENTITY: Final = 255
#: The pages say "fewer than 1024", and Heap's own Ruby and Node clients send 1024: what
#: those have sent for years is taken here, and the agent's 1023 is checked by its own tests.
PROPERTY: Final = 1_024
#: A list is cut after it was joined, rather than refused.
JOINED_LIST: Final = 1_024
#: add_account_properties types `app_id` as an OpenAPI int32.
INT32: Final = 2**31 - 1

_APP_ID = re.compile(r"[0-9]+")
_USER_ID = re.compile(r"0|[1-9][0-9]{0,15}")
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_CONTENT_TYPE = re.compile(r'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)

_EVENT_FIELDS = (
    "event",
    "identity",
    "user_id",
    "session_id",
    "timestamp",
    "properties",
    "idempotency_key",
)


@attrs.frozen(slots=True)
class Event:
    """
    One event as it was received.

    Attributes:
        app_id: The environment id.
        event: The event's name.
        identity: Who did it, or None for an anonymous user.
        user_id: The anonymous user, or None for an identified one.
        session_id: The session, or None.
        timestamp: When it happened, in UTC; the time of arrival when none came.
        properties: Values as Heap keeps them: lists are joined.
        idempotency_key: The key, or None.
        raw: The bytes of this event's JSON, exactly as they came (of the whole
            body where the event came alone).
        has_timestamp: False when `timestamp` is the time of arrival.
    """

    app_id: str
    event: str
    identity: str | None
    user_id: str | None
    session_id: str | None
    timestamp: datetime
    properties: Mapping[str, Scalar]
    idempotency_key: str | None
    raw: bytes = attrs.field(repr=False)
    has_timestamp: bool = True


@attrs.frozen(slots=True)
class Identify:
    """
    One call of ``/api/v1/identify``: the user_id belongs to the identity.
    """

    app_id: str
    user_id: str
    identity: str
    timestamp: datetime
    has_timestamp: bool = True


@attrs.frozen(slots=True)
class UserProperties:
    """
    Properties for one identified user.
    """

    app_id: str
    identity: str
    properties: Mapping[str, Scalar]


@attrs.frozen(slots=True)
class AccountProperties:
    """
    Properties for one account.
    """

    app_id: str
    account_id: str
    properties: Mapping[str, Scalar]


@attrs.frozen(slots=True)
class DeletionUser:
    """
    One user of a deletion request, by the one name that the request gives.

    Attributes:
        identity: The identity, or None.
        user_id: The user_id as decimal text, as it is everywhere else, or None.
    """

    identity: str | None
    user_id: str | None


@attrs.frozen(slots=True)
class Rules:
    """
    Heap's rules for request bodies.

    Args:
        strict: False lets through what is undocumented but seen in the wild:
            any Content-Type, unknown fields, timestamps without an offset
            (taken as UTC) or as milliseconds since 1970, booleans (as text),
            nulls (left out) and nested objects (as JSON text).
    """

    strict: bool = True

    def check_headers(self, headers: Mapping[str, str]) -> None:
        """
        Refuse a body that is not declared as plain JSON; names are lower case.
        """
        if not self.strict:
            return
        content_type = headers.get("content-type", "")
        if not _CONTENT_TYPE.fullmatch(content_type.strip()):
            raise Refused(
                f"Content-Type: {content_type!r} came; application/json in UTF-8 is allowed."
            )
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Refused(f"Content-Encoding: {encoding!r} came; only plain bodies are allowed.")

    def track(self, document: Document, now: datetime) -> tuple[Event, ...]:
        """
        ``/api/track``: one event, or up to 1000 in ``events``.

        Args:
            document: The request's body.
            now: Time of arrival, aware; stands in for a missing timestamp.

        Returns:
            The events in the order of the request.
        """
        members, text = document.members, document.text
        app_id = _app_id(members)
        if "events" not in members:
            self._check_fields(members, ("app_id", *_EVENT_FIELDS), "")
            return (self._event(app_id, members, text, "", now),)
        self._check_fields(members, ("app_id", "events"), "")
        items = _items(members["events"], "events")
        sources = item_sources(text, "events")
        events = []
        for place, item, source in zip(_places("events"), items, sources, strict=False):
            self._check_fields(item, _EVENT_FIELDS, place)
            events.append(self._event(app_id, item, source, place, now))
        return tuple(events)

    def identify(self, document: Document, now: datetime) -> Identify:
        """
        ``/api/v1/identify``: one pair; there is no bulk form.
        """
        members = document.members
        self._check_fields(members, ("app_id", "user_id", "identity", "timestamp"), "")
        return Identify(
            app_id=_app_id(members),
            user_id=_user_id(_required(members, "user_id", ""), "user_id"),
            identity=_text(_required(members, "identity", ""), "identity", IDENTITY),
            timestamp=self._timestamp(members, "", now),
            has_timestamp="timestamp" in members,
        )

    def user_properties(self, document: Document) -> tuple[UserProperties, ...]:
        """
        ``/api/add_user_properties``: one user, or up to 1000 in ``users``.
        """
        members = document.members
        app_id = _app_id(members)
        if "users" not in members:
            self._check_fields(members, ("app_id", "identity", "properties"), "")
            return (self._user(app_id, members, ""),)
        self._check_fields(members, ("app_id", "users"), "")
        users = []
        for place, item in zip(_places("users"), _items(members["users"], "users"), strict=False):
            self._check_fields(item, ("identity", "properties"), place)
            users.append(self._user(app_id, item, place))
        return tuple(users)

    def account_properties(self, document: Document) -> tuple[AccountProperties, ...]:
        """
        ``/api/add_account_properties``: one account, or up to 1000 in ``accounts``.
        """
        members = document.members
        app_id = _app_id_or_integer(members)
        if "accounts" not in members:
            self._check_fields(members, ("app_id", "account_id", "properties"), "")
            return (self._account(app_id, members, ""),)
        self._check_fields(members, ("app_id", "accounts"), "")
        items = _items(members["accounts"], "accounts")
        accounts = []
        for place, item in zip(_places("accounts"), items, strict=False):
            self._check_fields(item, ("account_id", "properties"), place)
            accounts.append(self._account(app_id, item, place))
        return tuple(accounts)

    def user_deletion(self, document: Document) -> tuple[DeletionUser, ...]:
        """
        ``/api/public/v0/user_deletion``: 1 to 10,000 users, each by one name.
        """
        members = document.members
        self._check_fields(members, ("users",), "")
        items = _items(_required(members, "users", ""), "users", limits.DELETION_USERS)
        users = []
        for place, item in zip(_places("users", limits.DELETION_USERS), items, strict=False):
            self._check_fields(item, ("identity", "user_id"), place)
            users.append(_deletion_user(item, place))
        return tuple(users)

    def _event(
        self, app_id: str, members: Members, source: str, place: str, now: datetime
    ) -> Event:
        name = _text(_required(members, "event", place), place + "event", EVENT_NAME)
        identity, user_id = _actor(members, place)
        return Event(
            app_id=app_id,
            event=name,
            identity=identity,
            user_id=user_id,
            session_id=_optional_text(members, "session_id", place),
            timestamp=self._timestamp(members, place, now),
            properties=self._properties(members.get("properties", {}), place, lists=True),
            idempotency_key=_optional_text(members, "idempotency_key", place),
            raw=source.encode(),
            has_timestamp="timestamp" in members,
        )

    def _user(self, app_id: str, members: Members, place: str) -> UserProperties:
        identity = _text(_required(members, "identity", place), place + "identity", IDENTITY)
        properties = self._properties(
            _required(members, "properties", place), place, lists=not self.strict
        )
        for key in properties:
            if (
                key in limits.RESERVED_USER_KEYS
                or key.lower() in limits.RESERVED_USER_KEYS_ANY_CASE
            ):
                raise Refused(
                    f"{place}properties: the key {key!r} is reserved; "
                    "any key but 'user_id' and 'id' (in any case) is allowed."
                )
        return UserProperties(app_id, identity, properties)

    def _account(self, app_id: str, members: Members, place: str) -> AccountProperties:
        # Heap names no greatest length for an account_id.
        account_id = _non_empty(_required(members, "account_id", place), place + "account_id")
        properties = self._properties(
            _required(members, "properties", place), place, lists=not self.strict
        )
        return AccountProperties(app_id, account_id, properties)

    def _check_fields(self, members: Members, allowed: Collection[str], place: str) -> None:
        if not self.strict:
            return
        for name in members:
            if name not in allowed:
                raise Refused(
                    f"{place}{name}: this field is not allowed here; allowed: {', '.join(allowed)}."
                )

    def _timestamp(self, members: Members, place: str, now: datetime) -> datetime:
        if "timestamp" not in members:
            return now
        value, field = members["timestamp"], place + "timestamp"
        if not self.strict and _is_number(value):
            return _from_milliseconds(value, field)
        if not isinstance(value, str):
            _refuse(field, value, _ISO)
        return _parse_timestamp(value, field, offset_required=self.strict)

    def _properties(self, value: object, place: str, *, lists: bool) -> dict[str, Scalar]:
        field = place + "properties"
        if not isinstance(value, dict):
            _refuse(field, value, "a JSON object")
        result: dict[str, Scalar] = {}
        for key, item in value.items():
            where = f"{field}[{cut(key, 40)!r}]"
            if _units(key) > PROPERTY:
                raise Refused(
                    f"{where}: a key of {_units(key)} characters came; "
                    f"at most {PROPERTY} characters are allowed."
                )
            scalar = self._value(item, where, lists=lists)
            if scalar is not None:
                result[key] = scalar
        return result

    def _value(self, value: object, where: str, *, lists: bool) -> Scalar | None:
        if not self.strict:
            value = _lenient(value)
            if value is None:
                return None
        if isinstance(value, str):
            if _units(value) > PROPERTY:
                _refuse(where, value, f"text of at most {PROPERTY} characters")
            return value
        if _is_number(value):
            return value
        if lists and isinstance(value, list):
            return _joined(value, where)
        _refuse(where, value, "text or a number" + (", or a list of these" if lists else ""))


_ISO: Final = "ISO-8601 text with an offset, such as 2017-03-10T22:21:56+00:00,"


# -- fields --------------------------------------------------------------------


def _refuse(field: str, value: object, allowed: str) -> NoReturn:
    raise Refused(f"{field}: {_show(value)} came; {allowed} is allowed.")


def _required(members: Members, name: str, place: str) -> object:
    if name not in members:
        raise Refused(f"{place}{name}: missing; it is required.")
    return members[name]


def _places(name: str, most: int = limits.BATCH_ITEMS) -> Iterator[str]:
    return (f"{name}[{index}]." for index in range(most))


def _items(value: object, field: str, most: int = limits.BATCH_ITEMS) -> list[Members]:
    if not isinstance(value, list):
        _refuse(field, value, f"a list of 1 to {most} objects")
    if not 1 <= len(value) <= most:
        raise Refused(f"{field}: {len(value)} items came; 1 to {most} are allowed in a request.")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            _refuse(f"{field}[{index}]", item, "an object")
    return value


def _app_id(members: Members) -> str:
    value = _required(members, "app_id", "")
    if not isinstance(value, str) or not _APP_ID.fullmatch(value):
        _refuse("app_id", value, "a string of digits")
    return value


def _app_id_or_integer(members: Members) -> str:
    # The page of add_account_properties types it as an integer, and its own example
    # sends a string: here both are right.
    value = members.get("app_id")
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= INT32:
            _refuse("app_id", value, "a string of digits, or an integer of 0 to 2^31-1,")
        return str(value)
    return _app_id(members)


def _user_id(value: object, field: str) -> str:
    if (
        not isinstance(value, str)
        or not _USER_ID.fullmatch(value)
        or int(value) > limits.SAFE_INTEGER
    ):
        _refuse(field, value, "the decimal text of 0 to 2^53-1, without leading zeros,")
    return value


def _one_name(members: Members, place: str) -> None:
    if ("identity" in members) == ("user_id" in members):
        came = "both" if "identity" in members else "neither"
        raise Refused(f"{place}identity, {place}user_id: {came} came; exactly one is allowed.")


def _actor(members: Members, place: str) -> tuple[str | None, str | None]:
    _one_name(members, place)
    if "identity" in members:
        return _text(members["identity"], place + "identity", IDENTITY), None
    return None, _user_id(members["user_id"], place + "user_id")


def _deletion_user(members: Members, place: str) -> DeletionUser:
    _one_name(members, place)
    if "identity" in members:
        return DeletionUser(_text(members["identity"], place + "identity", IDENTITY), None)
    value = members["user_id"]
    # A number here and text everywhere else: so Heap's examples have it.
    if type(value) is not int or not 0 <= value <= limits.SAFE_INTEGER:
        _refuse(place + "user_id", value, "an integer of 0 to 2^53-1, as a JSON number,")
    return DeletionUser(None, str(value))


def _text(value: object, field: str, most: int) -> str:
    if not isinstance(value, str) or not 1 <= _units(value) <= most:
        _refuse(field, value, f"text of 1 to {most} characters")
    return value


def _optional_text(members: Members, name: str, place: str) -> str | None:
    if name not in members:
        return None
    return _non_empty(members[name], place + name)


def _non_empty(value: object, field: str) -> str:
    if not isinstance(value, str) or not value:
        _refuse(field, value, "non-empty text")
    return value


# -- values --------------------------------------------------------------------


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lenient(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return cut(json.dumps(value, ensure_ascii=False), PROPERTY)
    return value


def _joined(items: list[Any], where: str) -> str:
    for index, item in enumerate(items):
        if not isinstance(item, str) and not _is_number(item):
            _refuse(f"{where}[{index}]", item, "text or a number")
    texts = (item if isinstance(item, str) else _number_text(item) for item in items)
    return cut(limits.LIST_SEPARATOR.join(texts), JOINED_LIST)


def _number_text(value: int | float) -> str:
    """As JavaScript writes it: 1.0 is "1", and there is no exponent from 1e-6 to 1e21."""
    # JavaScript has doubles only, and -0.0 is "0".
    number = float(value) + 0.0
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        return f"{Decimal(repr(number)).normalize():f}"
    return re.sub("e-0", "e-", repr(number))


def _parse_timestamp(text: str, field: str, *, offset_required: bool) -> datetime:
    match = _TIMESTAMP.fullmatch(text)
    if match is None or (offset_required and match[8] is None):
        _refuse(field, text, _ISO)
    microseconds = int((match[7] or "0").ljust(6, "0")[:6])
    try:
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        zone = timezone(_offset(match[8] or "Z"))
        local = datetime(year, month, day, hour, minute, second, microseconds, zone)
        return local.astimezone(timezone.utc)
    except (ValueError, OverflowError) as exc:
        raise Refused(f"{field}: {_show(text)} came ({exc}); {_ISO} is allowed.") from exc


def _offset(text: str) -> timedelta:
    if text == "Z":
        return timedelta()
    hours, minutes = int(text[1:3]), int(text[-2:])
    if hours > 23 or minutes > 59:
        raise ValueError("the offset is out of range")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if text[0] == "-" else offset


def _from_milliseconds(value: Any, field: str) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=value)
    except OverflowError as exc:
        raise Refused(f"{field}: {_show(value)} came; years 1 to 9999 are allowed.") from exc


def _units(text: str) -> int:
    """Length in UTF-16 units."""
    return len(text) + sum(character > "\uffff" for character in text)


def _show(value: object) -> str:
    """What came, short enough for a log line."""
    if isinstance(value, str):
        return f"{cut(value, 60)!r} (text of {_units(value)} characters)"
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        return f"{kind} of {len(value)} items"
    return json.dumps(value)[:60]

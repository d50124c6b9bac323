"""
The hot path: validate one event, encode it to the bytes that Heap will get;
and join stored bytes to a request.

An event's bytes begin with two members of fixed width, so that a repaired
timestamp is a slice replacement and never a re-encode:

    {"timestamp":"2026-01-01T00:00:00.000+00:00","idempotency_key":"<16 hex>-<12 hex>-<8 hex>",
     "user_id":"…","session_id":"…","event":"…","properties":{…}}

The caller of `track` pays only for what nobody else can know. An event in the
journal is three lines, of which `complete` makes these bytes with the clock and
the number that the record has anyway:

    ["11","8123456789012345",null,"77"]
    "Purchase"
    {"dollars":50,"item":"Furby"}

The fast path here accepts only what needs no thought: exact built-in types,
short text, finite numbers. Everything else goes to `repair`, which knows the
table of faults. This module must not know clocks, files or who is logged in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple

from heap_agent._core import limits, repair
from heap_agent._core.encoder import STRICT, dumps, dumps_text, loads
from heap_agent._core.events import Actor, Fault, Kind, Scalar
from heap_agent.exceptions import InvalidCall

# -- fixed places ----------------------------------------------------------------

_OPEN: Final = b'{"timestamp":"'

#: Bytes of an ISO-8601 timestamp with milliseconds and offset.
STAMP_BYTES: Final = 29
STAMP_AT: Final = len(_OPEN)

#: Where an event's idempotency key stands in its bytes, and how long it is.
KEY_AT: Final = STAMP_AT + STAMP_BYTES + len('","idempotency_key":"')
KEY_BYTES: Final = 38

#: Of the boot clock, what a key has.
_MOMENT: Final = 0xFFFF_FFFF

_EVENT: Final = b',"event":'
_PROPERTIES: Final = b',"properties":'

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: 9999-12-31T23:59:59.999, the last moment with four digits for the year.
_LATEST: Final = 253_402_300_799_999_000

#: Found once: looking it up costs as much as comparing.
_LONGEST: Final = limits.EVENT_VALUE

#: Text of at most this many code points has at most 1023 UTF-16 units.
_SURELY_SHORT: Final = _LONGEST // 2

#: Names and keys met so far are remembered up to this many of each, and what begins
#: a record of each name up to so many bytes.
_REMEMBERED: Final = 4_096
_REMEMBERED_BYTES: Final = 1_048_576

#: What an event's properties may take, with room for the members before them.
_MOST_BYTES: Final = limits.EVENT_BYTES - 4_096


def stamp(wall: int) -> bytes:
    """
    Write a wall time as Heap takes it.

    Args:
        wall: µs since 1970; held to years 1970 to 9999.

    Returns:
        29 bytes, such as ``2026-01-01T00:00:00.000+00:00``.
    """
    moment = _EPOCH + timedelta(microseconds=min(max(wall, 0), _LATEST))
    return moment.isoformat(timespec="milliseconds").encode()


class Stamper:
    """
    `stamp`, remembering the second: of 1,000 events in a second, one formats a date.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # A pair, so that another thread sees both halves or neither.
        self._known = (-1, b"")

    def __call__(self, wall: int) -> bytes:
        if not 0 <= wall <= _LATEST:
            return stamp(wall)
        second, rest = divmod(wall, 1_000_000)
        known, text = self._known
        if second != known:
            text = stamp(wall)[:20]
            self._known = (second, text)
        return b"%b%03d+00:00" % (text, rest // 1000)


# -- what every event of a moment shares -------------------------------------------


class Ambient:
    """
    What stands on every event of one user's visit, encoded once. It is one value,
    so that a thread that records while it is replaced never mixes two users.

    Attributes:
        properties: Valid properties.
        keys: Their keys.
        members: Their JSON without the closing brace: ``{"a":1``, or ``{``.
        head: How a record's body begins: `actor_line`.
        leads: For each name met so far, how a record's body begins: its first two lines,
            and, where there are such properties, the third as far as they go: ``{"a":1,``.
    """

    # By hand, as this is the one value that the hot path reads: a tuple's fields take longer.
    __slots__ = ("head", "keys", "leads", "members", "properties")

    def __init__(
        self, properties: Mapping[str, Scalar], keys: frozenset[str], members: bytes, head: bytes
    ) -> None:
        self.properties = properties
        self.keys = keys
        self.members = members
        self.head = head
        self.leads: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<Ambient {dict(self.properties)!r} {self.head!r}>"

    @classmethod
    def of(cls, properties: Mapping[str, Scalar], head: bytes = b"") -> Ambient:
        """
        Encode valid properties.
        """
        return cls(dict(properties), frozenset(properties), dumps(properties)[:-1], head)

    def with_head(self, head: bytes) -> Ambient:
        """
        The same for another user, or another visit.
        """
        return Ambient(self.properties, self.keys, self.members, head)

    def under(self, own: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """
        What these have that an event's own properties do not override, and those.
        """
        rest = {key: value for key, value in self.properties.items() if key not in own}
        return {**rest, **own}


NOTHING: Final = Ambient.of({})


def actor_line(actor: Actor, session_id: str | None = None) -> bytes:
    """
    The first line of a record's body: on whose behalf it was recorded, in which visit.
    """
    return b'["%b","%b",%b,%b]\n' % (
        actor.app_id.encode(),
        actor.user_id.encode(),
        b"null" if actor.identity is None else dumps_text(actor.identity),
        b"null" if session_id is None else b'"%b"' % session_id.encode(),
    )


def read_actor(line: bytes) -> tuple[Actor, str | None]:
    """
    The inverse of `actor_line`.

    Raises:
        ValueError: The line is not one.
    """
    fields = loads(line)
    match fields:
        case [str(app_id), str(user_id), str() | None as identity, str() | None as session_id]:
            return Actor(app_id, user_id, identity), session_id
    raise ValueError("not an actor line")


def who(actor: Actor, session_id: str) -> bytes:
    """
    The members that say who did it and in which visit. Never both ids: Heap
    refuses an event that has `identity` and `user_id`.
    """
    if actor.identity is None:
        name = b'"user_id":"%b"' % actor.user_id.encode()
    else:
        name = b'"identity":%b' % dumps_text(actor.identity)
    return b'%b,"session_id":"%b"' % (name, session_id.encode())


def idempotency_key(writer: str, sequence: int, boot_clock: int) -> bytes:
    """
    The key of a record, from what names it for ever: 38 bytes.

    Args:
        writer: Id of the journal, 16 hex digits.
        sequence: Number of the record in its journal.
        boot_clock: When it was recorded, µs: a machine that was restored together with its
            memory counts on from the same number again, but not at the same moment.
    """
    return b"%b-%012x-%08x" % (writer.encode(), sequence, boot_clock & _MOMENT)


def record_of(key: str) -> tuple[str, int]:
    """
    The journal's id and the record's number in a key.

    Raises:
        ValueError: It is none of ours.
    """
    writer, sequence, *_ = key.split("-")
    return writer, int(sequence, 16)


def complete(
    stamped: bytes,
    writer: bytes,
    sequence: int,
    boot_clock: int,
    speaker: bytes,
    name: bytes,
    properties: bytes,
) -> bytes:
    """
    An event as Heap gets it.

    Args:
        stamped: 29 bytes of `stamp`.
        writer, sequence, boot_clock: What the key is made of, as in `idempotency_key`.
        speaker: What `who` gave.
        name, properties: The second and the third line of `Wire.body`.
    """
    return b'%b%b","idempotency_key":"%b-%012x-%08x",%b%b%b%b%b}' % (
        _OPEN,
        stamped,
        writer,
        sequence,
        boot_clock & _MOMENT,
        speaker,
        _EVENT,
        name,
        _PROPERTIES,
        properties,
    )


# -- one event ------------------------------------------------------------------


class Tail(NamedTuple):
    """
    The slow path's answer.

    Attributes:
        data: The lines with name and properties; None where the event is refused.
        name: The name for the log: short and on one line.
        faults: What was wrong.
    """

    data: bytes | None
    name: str
    faults: tuple[Fault, ...]


class Wire:
    """
    Validates and encodes. Keeps small memories of names and keys that were
    found good; safe to share between threads.
    """

    __slots__ = ("_keys", "_names")

    def __init__(self) -> None:
        self._names: dict[str, bytes] = {}
        self._keys: set[str] = set()

    def body(self, event: object, properties: object, ambient: Ambient) -> bytes | None:
        """
        Encode an event that needs no thought.

        Returns:
            The three lines; None where `mended` has to look, or where the first
            of them is missing: it is nobody's visit.
        """
        # A name or a key may be of any class, and its `__hash__` and `__eq__` raise
        # anything, at each step but the look at its type; `mended` asks neither of them.
        # What equals a known name or key is taken for it.
        try:
            lead = ambient.leads.get(event)  # type: ignore[call-overload]
            if lead is None:
                lead = self._learn_name(event, ambient)
                if lead is None:
                    return None
            if properties is None:
                return _alone(lead, ambient)
            if type(properties) is not dict:
                return None
            # A copy, because another thread may change the caller's dict between
            # the check of a value and its encoding.
            own = properties.copy()
            for key, value in own.items():
                kind = type(value)
                if kind is str or kind is int:
                    # Their size is judged below, for all of them together.
                    continue
                if kind is float:
                    # NaN and the infinities are the floats that fail this.
                    if value - value != 0.0:
                        return None
                elif kind is bool:
                    # The key exists: the size of the dict stays, the walk goes on.
                    own[key] = "true" if value else "false"
                else:
                    return None
            if not self._keys.issuperset(own) and not self._learn_keys(own):
                return None
            if not ambient.keys:
                encoded = dumps(own, None, STRICT)
            elif not own:
                return _alone(lead, ambient)
            elif ambient.keys.isdisjoint(own):
                encoded = dumps(own, None, STRICT)[1:]
            else:
                lead = lead[: lead.rindex(b"\n") + 1]
                encoded = dumps(ambient.under(own), None, STRICT)
        except Exception:
            return None
        body: bytes = lead + encoded
        # No text in it has more UTF-16 units than all of it has bytes of UTF-8.
        if len(encoded) > _LONGEST and not _fits(own, body):
            return None
        return body

    def mended(self, event: Any, properties: object, ambient: Ambient) -> Tail:
        """
        Encode an event that `tail` did not take, repairing what is at fault.

        Raises:
            InvalidCall: The name is not text, or the properties are no mapping.
        """
        if not issubclass(type(event), str):
            raise InvalidCall(
                f"event must be a string of 1 to {limits.EVENT_NAME} characters, "
                f"got {_shown_type(event)}"
            )
        given = check_mapping(properties, "properties", optional=True)
        name, faults = repair.repair_name(event)
        if not name:
            return Tail(None, "", faults)
        own = repair.repair_properties(given, limit=limits.EVENT_VALUE)
        fitted, more = repair.fit_event(
            ambient.under(own.properties), lambda some: len(dumps(some)), _MOST_BYTES
        )
        return Tail(
            _name_line(name) + dumps(fitted), repair.label(name), faults + own.faults + more
        )

    def _learn_name(self, event: object, ambient: Ambient) -> bytes | None:
        if type(event) is not str or not ambient.head:
            return None
        name = self._names.get(event) or self._checked_name(event)
        if name is None:
            return None
        lead = ambient.head + name
        if ambient.keys:
            lead += ambient.members + b","
        if len(ambient.leads) >= min(_REMEMBERED, _REMEMBERED_BYTES // len(lead)):
            ambient.leads.clear()
        ambient.leads[event] = lead
        return lead

    def _checked_name(self, event: str) -> bytes | None:
        if not event or event.isspace() or len(event) > limits.EVENT_NAME // 2:
            clean, faults = repair.repair_name(event)
            if faults or clean != event:
                return None
        try:
            name = _name_line(event)
        except (TypeError, ValueError):
            return None
        if len(self._names) >= _REMEMBERED:
            self._names.clear()
        self._names[event] = name
        return name

    def _learn_keys(self, own: Mapping[object, object]) -> bool:
        if len(own) > _REMEMBERED:
            return False
        if len(self._keys) + len(own) > _REMEMBERED:
            self._keys.clear()
        for key in own:
            if type(key) is not str or not key or key.isspace():
                return False
            if len(key) > limits.PROPERTY_KEY // 2:
                return False
            self._keys.add(key)
        return True


def _alone(lead: bytes, ambient: Ambient) -> bytes:
    """
    The body of an event that has no properties of its own.
    """
    return lead[:-1] + b"}" if ambient.keys else lead + b"{}"


def _fits(own: Mapping[object, object], body: bytes) -> bool:
    """
    Whether each text is surely within its limit, and all of them are.
    """
    for value in own.values():
        if type(value) is str and len(value) > _SURELY_SHORT:
            if len(value) > _LONGEST or not value.isascii():
                return False
    return len(body) <= _MOST_BYTES


def _name_line(name: str) -> bytes:
    return dumps_text(name) + b"\n"


def _shown_type(value: object) -> str:
    return "None" if value is None else repair.type_name(value)


def check_mapping(value: object, argument: str, *, optional: bool = False) -> Mapping[Any, object]:
    """
    Raise `InvalidCall` unless the value is a mapping (or None where that is allowed).

    Returns:
        The mapping; an empty one for None.
    """
    if optional and value is None:
        return {}
    try:
        if isinstance(value, Mapping):
            return value
    except Exception:
        # A lazy object that cannot be resolved raises when it is asked for its class.
        pass
    raise InvalidCall(
        f"{argument} must be a mapping of names to strings and numbers, got {_shown_type(value)}"
    )


# -- stored bytes ------------------------------------------------------------------


def as_sent(
    record: bytes, wall: int, writer: str, sequence: int, boot_clock: int
) -> tuple[Actor, bytes]:
    """
    What becomes of an event's record if it is sent with the time that it has.

    Args:
        record: The body that `Wire.body` made, or that came back from a queue.
        wall: µs since 1970.
        writer, sequence, boot_clock: As in `idempotency_key`.

    Raises:
        ValueError: It is none.
    """
    first, *lines = record.split(b"\n", 2)
    actor, session_id = read_actor(first)
    match lines:
        case [whole]:
            return actor, whole
        case [name, properties]:
            speaker = who(actor, session_id or "")
            key = writer.encode(), sequence, boot_clock
            return actor, complete(stamp(wall), *key, speaker, name, properties)
    raise ValueError("not an event")


def restamp(body: bytes, wall: int) -> bytes:
    """
    The same event at another time.
    """
    return body[:STAMP_AT] + stamp(wall) + body[STAMP_AT + STAMP_BYTES :]


def stamp_of(body: bytes) -> str:
    """The timestamp in the bytes of an event or an identify."""
    return body[STAMP_AT : STAMP_AT + STAMP_BYTES].decode("ascii", "replace")


def key_of(body: bytes) -> str:
    """The idempotency key in an event's bytes."""
    return body[KEY_AT : KEY_AT + KEY_BYTES].decode("ascii", "replace")


def event_name(body: bytes) -> str:
    """
    An event's name as an opaque token: its JSON text, escapes left as they are.
    """
    begin = body.index(_EVENT) + len(_EVENT)
    return body[begin : body.index(_PROPERTIES, begin)].decode("utf-8", "replace")


def identify_body(actor: Actor, wall: int) -> bytes:
    """
    The stored form of an identify request; its first member has fixed width too.
    """
    assert actor.identity is not None
    return b'%b%b","user_id":"%b","identity":%b}' % (
        _OPEN,
        stamp(wall),
        actor.user_id.encode(),
        dumps_text(actor.identity),
    )


def user_body(identity: str, properties: Mapping[str, Scalar]) -> bytes:
    """
    The stored form of one user's properties.
    """
    return b'{"identity":%b,"properties":%b}' % (dumps_text(identity), dumps(properties))


_BULK: Final = {
    Kind.EVENT: b'","events":[',
    Kind.USER_PROPERTIES: b'","users":[',
    Kind.ACCOUNT_PROPERTIES: b'","accounts":[',
}

PATHS: Final = {
    Kind.EVENT: limits.TRACK_PATH,
    Kind.IDENTIFY: limits.IDENTIFY_PATH,
    Kind.USER_PROPERTIES: limits.USER_PROPERTIES_PATH,
    Kind.ACCOUNT_PROPERTIES: limits.ACCOUNT_PROPERTIES_PATH,
}


def join_batch(kind: Kind, app_id: str, bodies: Iterable[bytes]) -> bytes:
    """
    A request's body from stored bytes; nothing is decoded.

    Args:
        kind: What the bodies are. IDENTIFY has no bulk form: exactly one body.
        app_id: Digits.
        bodies: Stored JSON objects.
    """
    head = b'{"app_id":"' + app_id.encode()
    if kind is Kind.IDENTIFY:
        (body,) = bodies
        return head + b'",' + body[1:]
    return b"%b%b%b]}" % (head, _BULK[kind], b",".join(bodies))

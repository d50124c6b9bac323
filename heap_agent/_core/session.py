"""
Who, and which visit: the identity and session state machine.

Theory of operation. A device serves one user at a time. The user is anonymous
or identified; in both cases a random `user_id` stands for them. Heap joins an
anonymous `user_id` to an identity once and for ever, so the rules are strict:

- anonymous → identified keeps the `user_id` (that is the join);
- identified → another identity takes a new `user_id`, because Heap would drop
  a second identity for the old one;
- a `user_id` is never used again after its user has gone.

`TRANSITIONS` is the whole machine: (state, call) → what happens. A call that
is not in the table does nothing. Two rules of this file: everything that
decides about identity stands here, and nothing here knows where the answer is
kept, what time it is, or where random bits come from.

A visit (Heap: session) ends after a time without an event and begins with the
next one. Calls that change the user, and a new `init`, replace a visit that is
under way; without one under way the next event begins it.
"""

from __future__ import annotations

import re
import unicodedata
from enum import Enum
from typing import Any, Final, NamedTuple

from heap_agent._core import limits
from heap_agent._core.repair import type_name, utf16_length
from heap_agent.exceptions import InvalidCall

# -- the machine ------------------------------------------------------------------


class State(Enum):
    """
    What is known of the user.
    """

    ANONYMOUS = "anonymous"
    IDENTIFIED = "identified"


class Call(Enum):
    """
    What a program can say about its user.
    """

    IDENTIFY = "identify somebody"
    IDENTIFY_SAME = "identify the same again"
    IDENTIFY_REFUSED = "identify with a value that cannot be one"
    RESET = "reset_identity"
    NEW_VISITOR = "new_visitor"
    INIT = "init again"


class Effect(NamedTuple):
    """
    What a call does.

    Attributes:
        new_user: A fresh `user_id` is taken.
        take_identity: The identity given becomes the user's; else it is
            forgotten if `new_user`, and kept if not.
        new_session: A visit under way is replaced.
    """

    new_user: bool = False
    take_identity: bool = False
    new_session: bool = False


NOTHING: Final = Effect()
_FRESH: Final = Effect(new_user=True, new_session=True)

TRANSITIONS: Final = {
    (State.ANONYMOUS, Call.IDENTIFY): Effect(take_identity=True),
    (State.IDENTIFIED, Call.IDENTIFY): Effect(new_user=True, take_identity=True, new_session=True),
    (State.IDENTIFIED, Call.RESET): _FRESH,
    (State.IDENTIFIED, Call.IDENTIFY_REFUSED): _FRESH,
    (State.ANONYMOUS, Call.NEW_VISITOR): _FRESH,
    (State.IDENTIFIED, Call.NEW_VISITOR): _FRESH,
    (State.ANONYMOUS, Call.INIT): Effect(new_session=True),
    (State.IDENTIFIED, Call.INIT): Effect(new_session=True),
}


class User(NamedTuple):
    """
    The user of this device.

    Attributes:
        user_id: Decimal text of a 53-bit random integer.
        identity: None while anonymous.
    """

    user_id: str
    identity: str | None = None

    @property
    def state(self) -> State:
        """Where the machine stands."""
        return State.ANONYMOUS if self.identity is None else State.IDENTIFIED


def effect_of(user: User, call: Call, identity: str | None = None) -> Effect:
    """
    Look the effect of a call up.
    """
    if call is Call.IDENTIFY and user.identity == identity:
        call = Call.IDENTIFY_SAME
    return TRANSITIONS.get((user.state, call), NOTHING)


def next_user(user: User, effect: Effect, identity: str | None, fresh_id: str) -> User:
    """
    The user after a call.

    Args:
        user: The user before.
        effect: From `effect_of`.
        identity: The identity that was given, if any.
        fresh_id: A new random id, used only where one is needed.
    """
    user_id = fresh_id if effect.new_user else user.user_id
    if effect.take_identity:
        return User(user_id, identity)
    return User(user_id, None if effect.new_user else user.identity)


def id_from(random_bits: int) -> str:
    """
    A user or session id from at least 53 random bits, as many as Heap's core SDK has.
    """
    return str(random_bits & limits.SAFE_INTEGER)


# -- what may be an identity --------------------------------------------------------

#: Values that programs pass by mistake and that would merge all their users into
#: one, as `folded` has them. A name that one person could bear is not among them.
REFUSED: Final = frozenset(
    {
        # Heap's reference …
        *("undefined", "null", "user"),
        # … its support, and what amounts to the same.
        *("guest", "anonymous", "unauthenticated", "anon", "unknown", "not logged in"),
        *("not_logged_in", "logged_out", "logged out"),
        # str() of Django's user who has not logged in; Spring Security says the same.
        "anonymoususer",
        # What languages print for nothing: JavaScript, Python, Ruby, C, Go, SQL.
        *("nil", "none", "nan", "true", "false", "[object object]", "{}", "[]", "()", "set()"),
        *("''", '""', "b''", "(null)", "<null>", "<nil>", "<none>"),
        # What forms and reports say; the last is Google Analytics'.
        *("n/a", "na", "-", "?", "userid", "user_id", "identity", "not available"),
        *("not applicable", "(not set)"),
        # No UUID and every UUID (RFC 9562, 5.9 and 5.10), .NET's form, and without dashes.
        *("00000000-0000-0000-0000-000000000000", "{00000000-0000-0000-0000-000000000000}"),
        *("ffffffff-ffff-ffff-ffff-ffffffffffff", "{ffffffff-ffff-ffff-ffff-ffffffffffff}"),
        *("0" * 32, "f" * 32),
        # No MAC address and every MAC address, …
        *("00:00:00:00:00:00", "00-00-00-00-00-00", "0" * 12),
        *("ff:ff:ff:ff:ff:ff", "ff-ff-ff-ff-ff-ff", "f" * 12),
        # … and the one that Android since 6 and iOS since 7 tell every program.
        "02:00:00:00:00:00",
        # Names of hosts that nobody has named.
        *("localhost", "localhost.localdomain", "raspberrypi"),
        # /etc/machine-id of an image before its first boot: machine-id(5).
        "uninitialized",
        # What the common recipe for a Raspberry Pi's serial number has where there is none.
        *("0000000000000000", "error000000000"),
        # ANDROID_ID of whole series of phones, and the IMEI of what is no phone.
        *("9774d56d682e549c", "000000000000000"),
        # What board makers leave in the fields for serial numbers (SMBIOS), …
        *("0123456789abcdef", "to be filled by o.e.m.", "default string", "not specified"),
        *("system serial number", "base board serial number", "chassis serial number"),
        # … and AMI's firmware in the one for the UUID.
        "03000200-0400-0500-0006-000700080009",
    }
)

#: Possible, but often a mistake.
DOUBTFUL: Final = frozenset({"test", "admin", "root", "default", "id"})

_HALF_A_PAIR: Final = "half a surrogate pair, which UTF-8 cannot carry"

#: An object with its address; a class; Flask-SQLAlchemy's and Django's object without a row.
_PRINTED: Final = re.compile(
    r".*<.*\bat 0x[0-9a-f]+>.*|<class '[^']*'>|<\w+:? none>|\w+ object \(none\)", re.DOTALL
)

#: Nobody sees them, but Persian and Indic words, and emoji, need them.
_NON_JOINER: Final = "\u200c"
_JOINER: Final = "\u200d"


class Judged(NamedTuple):
    """
    An identity after a look at it.

    Attributes:
        identity: The text to use; None where it is refused.
        complaint: Why it is refused or doubtful; None where it is good.
    """

    identity: str | None
    complaint: str | None = None


def judge(value: Any, refused: frozenset[str] = REFUSED, limit: int = limits.IDENTITY) -> Judged:
    """
    Decide whether a value can be somebody's identity.

    A refused one is never cut, repaired or sent: a merge at Heap cannot be undone.

    Args:
        value: What the program passed.
        refused: Values to refuse, as `folded` has them.
        limit: UTF-16 units that it may have.

    Raises:
        InvalidCall: Neither text, int nor None.
    """
    if value is None:
        return Judged(None, "None is nobody's identity")
    if not _has_text(value):
        raise InvalidCall(
            f"identity must be a string of 1 to {limit} characters (or an int), "
            f"got {type_name(value)}"
        )
    text = _as_text(value)
    if text is None:
        return Judged(None, "the number has too many digits")
    # First, as the other questions take time for each character.
    if len(text) > limit or utf16_length(text) > limit:
        return Judged(None, f"it is longer than {limit} UTF-16 units")
    compared = folded(text)
    if not compared:
        return Judged(None, "it is empty or blank")
    if _is_broken(text):
        return Judged(None, f"it contains {_HALF_A_PAIR}")
    if compared in refused:
        return Judged(None, "many users would share this value")
    if _PRINTED.fullmatch(compared):
        return Judged(None, "it is the printed form of an object, not a name")
    return Judged(text, _doubt(text, compared))


def folded(text: str) -> str:
    """
    A text as it is compared with the list: what nobody sees does not count, since
    serial numbers end in NUL in a device tree, and files begin with a mark.
    """
    return _visible(text).strip().casefold()


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cf"))


def known_as(value: Any) -> str:
    """
    An identity that somebody may already have here: anything that `identify`
    could have taken, whatever it refuses today.

    Raises:
        InvalidCall: Neither text nor int, or blank, or no text that UTF-8 can carry.
    """
    text = _as_text(value) if _has_text(value) else None
    if text and text.strip() and not _is_broken(text):
        return text
    shown = type_name(value) if text is None else repr(text[:20])
    if text and _is_broken(text):
        shown += f" with {_HALF_A_PAIR}"
    raise InvalidCall(f"identity must be a string of 1 or more characters, got {shown}")


def user_id_of(value: Any) -> str:
    """
    A user id as it is kept: decimal text.

    Raises:
        InvalidCall: Neither digits nor an int from 0 on.
    """
    text = _as_text(value) if _has_text(value) else None
    if text and text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    shown = type_name(value) if text is None else repr(text[:20])
    raise InvalidCall(f"user_id must be an integer, or its digits as a string, got {shown}")


def _is_broken(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _has_text(value: object) -> bool:
    # Not `isinstance`: a value may raise, or lie, when it is asked for its class.
    kind = type(value)
    return kind is not bool and issubclass(kind, (str, int))


def _as_text(value: Any) -> str | None:
    if issubclass(type(value), str):
        return str.__str__(value)
    # Python refuses to print an int of more than 4,300 digits.
    return None if int.bit_length(value) > 4 * limits.IDENTITY else int.__repr__(value)


def _doubt(text: str, compared: str) -> str | None:
    visible = _visible(text)
    if compared in DOUBTFUL or len(visible.strip()) <= 2:
        return "it may not be unique"
    if text != text.strip():
        return "it begins or ends with a space"
    if visible != text.replace(_NON_JOINER, "").replace(_JOINER, ""):
        return "it contains invisible characters: without them it would be another user"
    if "@" in text and text != text.lower():
        return "identities are case-sensitive: lower-case an e-mail address to keep one user one"
    return None

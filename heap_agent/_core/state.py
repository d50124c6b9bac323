"""
What stays in force between calls and across restarts, as a fold over records:
who is logged in, event properties, consent, pauses.

A *facet* is one named value with the moment at which it was set. Of two values
for one facet the newer stands, so that records may be folded in any order,
twice, and by every process alike, and all agree. Moments compare by boot and
boot clock, never by a wall clock that may jump.

Consent needs more than its last word: what was recorded while it was withdrawn
is not to be kept, however late it comes in. So each word about consent is a
facet of its own, and what a moment allowed is read off their row. For the same
reason nothing is refused when it is folded in: what was set without consent is
passed over when it is read.

This module must not know where facets are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

from heap_agent._core.events import Scalar

#: A facet's value: anything that JSON can hold, in the few shapes used here.
Value: TypeAlias = Scalar | bool | None | Mapping[str, str | bool | None]

CONSENT: Final = "consent"
PAUSED: Final = "paused"
GESTURE: Final = "pairing_gesture"

#: Set by an opt-out that purges: users and properties from before are gone.
PURGED: Final = "purged"

#: Words about consent that are remembered, the latest.
WORDS: Final = 64

#: Users that are to be forgotten are remembered (as a hash), the latest.
FORGOTTEN: Final = 4_096

#: Values of a `forgotten_facet`: what kind of name it was.
BY_IDENTITY: Final = "identity"
BY_USER_ID: Final = "user_id"

#: Removed event properties are remembered, the latest: nobody sets older ones again.
REMOVED: Final = 256

_IDENTITY: Final = "identity"
_PROPERTY: Final = "property"
_CLEARED: Final = "cleared"
_FORGOTTEN: Final = "forgotten"


class Moment(NamedTuple):
    """
    When a facet was set. Later moments compare greater.

    Attributes:
        boot: Ordinal of the boot; later boots have greater ones.
        clock: Boot clock, µs.
        writer: Id of the journal (decides between equals, the same way for all).
        sequence: Number of the record in its journal.
    """

    boot: int
    clock: int
    writer: str = ""
    sequence: int = 0


#: Before everything.
NEVER: Final = Moment(-1, -1)


class Facet(NamedTuple):
    """
    A value and when it was set.
    """

    value: Value
    at: Moment


def identity_facet(app_id: str, machine: str) -> str:
    """
    The name of the facet that says who is logged in to an app on this machine.

    The machine is part of the name, so that a directory that was copied to
    another machine does not bring its user along.
    """
    return f"{_IDENTITY}:{app_id}:{machine}"


def is_consent(name: str) -> bool:
    """
    Whether a facet is a word about consent.
    """
    return name.startswith(CONSENT + ":")


def is_identity(name: str) -> bool:
    """
    Whether a facet says who is logged in, to any app on any machine.
    """
    return name.startswith(_IDENTITY + ":")


def is_property(name: str) -> bool:
    """
    Whether a facet is an event property of any app, or their clearing.
    """
    return is_cleared(name) or name.startswith(_PROPERTY + ":")


def property_facet(app_id: str, key: str) -> str:
    """
    The name of the facet that holds one event property; None stands for removed.
    """
    return f"{_PROPERTY}:{app_id}:{key}"


def cleared_facet(app_id: str) -> str:
    """
    The name of the facet that says when all event properties were cleared.
    """
    return f"{_CLEARED}:{app_id}"


def is_cleared(name: str) -> bool:
    """
    Whether a facet says that all event properties of an app were cleared.
    """
    return name.startswith(_CLEARED + ":")


def property_in(name: str) -> str | None:
    """
    The event property that a facet holds; None for any other facet.
    """
    return name.split(":", 2)[2] if name.startswith(_PROPERTY + ":") else None


def forgotten_facet(name: str) -> str:
    """
    The name of the facet that says when somebody was forgotten: a hash, because
    their identity or `user_id` itself must not stay.
    """
    return f"{_FORGOTTEN}:{blake2b(name.encode(), digest_size=16).hexdigest()}"


def is_forgotten(name: str) -> bool:
    """
    Whether a facet says that somebody was forgotten.
    """
    return name.startswith(_FORGOTTEN + ":")


def _is_forgetting(name: str, value: Value) -> bool:
    return is_forgotten(name)


def _is_removal(name: str, value: Value) -> bool:
    return value is None and name.startswith(_PROPERTY + ":")


def names_in(value: Value) -> tuple[str, str | None] | None:
    """
    ``(user_id, identity)`` in the value of an `identity_facet`; None in any other.
    """
    if not isinstance(value, Mapping) or not {"user_id", "identity"} <= value.keys():
        return None
    identity = value["identity"]
    return str(value["user_id"]), None if identity is None else str(identity)


class Consent(NamedTuple):
    """
    Whether recording is allowed.

    Attributes:
        given: True unless somebody opted out.
        at: When it was last said.
    """

    given: bool
    at: Moment


class State:
    """
    The facets in force. Not thread-safe; its owner holds a lock.
    """

    __slots__ = ("_forgets", "_removals", "_words", "facets")

    def __init__(self, facets: Mapping[str, Facet] | None = None) -> None:
        self.facets: dict[str, Facet] = dict(facets or {})
        self._words = self._words_about_consent()
        self._forgets = any(map(is_forgotten, self.facets))
        self._removals = sum(_is_removal(name, value) for name, (value, _) in self.facets.items())

    def apply(self, name: str, value: Value, at: Moment) -> bool:
        """
        Set a facet, unless something newer stands there.

        Returns:
            Whether it was set.
        """
        known = self.facets.get(name)
        if known is not None and known.at >= at:
            return False
        self.facets[name] = Facet(value, at)
        if is_consent(name):
            self._words = self._words_about_consent()
        self._forgets = self._forgets or is_forgotten(name)
        return True

    def apply_all(self, changes: Mapping[str, Value], at: Moment) -> list[str]:
        """
        Set several facets of one moment; the names of those that were set, or went
        because of it.
        """
        changed = [name for name, value in changes.items() if self.apply(name, value, at)]
        self._removals += sum(_is_removal(name, self.facets[name].value) for name in changed)
        return changed if self._removals <= 2 * REMOVED else changed + self._forget_removals()

    def _forget_removals(self) -> list[str]:
        """
        Now and then: a program that removes a property of another name each time would
        have ever more to look through with each call.
        """
        gone = self._beyond(REMOVED, _is_removal)
        for name in gone:
            del self.facets[name]
        self._removals = REMOVED
        return gone

    def user(self, app_id: str, machine: str) -> tuple[str, str | None] | None:
        """
        ``(user_id, identity)`` in force, or None where nobody was set yet (or
        the user was purged, or set without consent).
        """
        facet = self.facets.get(identity_facet(app_id, machine))
        found = None if facet is None else names_in(facet.value)
        if facet is None or found is None or not self.allows(facet.at):
            return None
        return None if self.forgets(*found, facet.at) else found

    def latest_app(self) -> str | None:
        """
        The app id that somebody was known in last; None where nobody was.
        """
        known = [(facet.at, name) for name, facet in self.facets.items() if is_identity(name)]
        return max(known)[1].split(":", 2)[1] if known else None

    def event_properties(self, app_id: str) -> dict[str, Scalar]:
        """
        The event properties in force, in the order in which they were set.
        """
        prefix = property_facet(app_id, "")
        cleared = self.facets.get(cleared_facet(app_id), Facet(None, NEVER)).at
        found = [
            (facet.at, name[len(prefix) :], facet.value)
            for name, facet in self.facets.items()
            if name.startswith(prefix) and facet.at > cleared and self.allows(facet.at)
        ]
        found.sort(key=lambda item: item[:2])
        return {key: value for _, key, value in found if isinstance(value, (str, int, float))}

    @property
    def consent(self) -> Consent:
        """
        Consent in force; given until somebody opts out.
        """
        words = self._words
        return Consent(words[-1].value is True, words[-1].at) if words else Consent(True, NEVER)

    @property
    def purged(self) -> Moment:
        """
        When everything was last purged.
        """
        facet = self.facets.get(PURGED)
        return NEVER if facet is None else facet.at

    def allows(self, at: Moment) -> bool:
        """
        Whether a record of that moment may be kept: it was made with consent,
        and nothing was purged after it.
        """
        if at <= self.purged:
            return False
        given = True
        for word in self._words:
            if word.at > at:
                break
            given = word.value is True
        return given

    @property
    def forbids_anything(self) -> bool:
        """Whether there is any moment or user of which something may not be kept."""
        return bool(self._words) or self._forgets or PURGED in self.facets

    @property
    def forgotten(self) -> frozenset[str]:
        """Names of the facets that say that somebody was forgotten."""
        return frozenset(filter(is_forgotten, self.facets)) if self._forgets else frozenset()

    @property
    def forgets_anybody(self) -> bool:
        """Whether there is anybody of whom `forgets` could be true."""
        return self._forgets

    def forgets(self, user_id: str, identity: str | None, at: Moment) -> bool:
        """
        Whether what somebody did at a moment is to be forgotten.

        A `user_id` never comes back: what is under it goes, whenever it was
        recorded (a process that has not heard yet goes on for a moment). The
        person may come back, so that under an identity only what is older goes.
        """
        if not self._forgets:
            return False
        facet = self.facets.get(forgotten_facet(user_id))
        if facet is not None and (facet.value == BY_USER_ID or at <= facet.at):
            return True
        facet = None if identity is None else self.facets.get(forgotten_facet(identity))
        return facet is not None and at <= facet.at

    def withdrawn(self) -> list[tuple[Moment, Moment | None]]:
        """
        From when until when there was no consent; None for "until now".
        """
        found: list[tuple[Moment, Moment | None]] = []
        for word in self._words:
            silent = bool(found) and found[-1][1] is None
            if word.value is True and silent:
                found[-1] = (found[-1][0], word.at)
            elif word.value is not True and not silent:
                found.append((word.at, None))
        return found

    def set_consent(self, given: bool, at: Moment, *, purge: bool) -> list[str]:
        """
        Apply a consent record.

        Returns:
            Names of the facets that were set.
        """
        name = f"{CONSENT}:{at.boot}:{at.clock}:{at.writer}:{at.sequence}"
        changed = [name] if self.apply(name, given, at) else []
        if purge and self.apply(PURGED, True, at):
            changed.append(PURGED)
        return changed

    def _words_about_consent(self) -> list[Facet]:
        """Oldest first; kept, because `allows` is asked for every event."""
        found = [facet for name, facet in self.facets.items() if is_consent(name)]
        found.sort(key=lambda facet: facet.at)
        return found[-WORDS:]

    def flag(self, name: str) -> bool:
        """
        A facet that is simply on or off; off unless set.
        """
        facet = self.facets.get(name)
        return facet is not None and facet.value is True

    def obsolete(self) -> set[str]:
        """
        Names of facets that can no longer matter: properties set before a
        clearing, users and everything else that was purged or forgotten, old
        words about consent, and more of what is gone than need be remembered.
        """
        past = {name for name, facet in self.facets.items() if self._is_past(name, facet)}
        return past.union(
            self._beyond(FORGOTTEN, _is_forgetting), self._beyond(REMOVED, _is_removal)
        )

    def _is_past(self, name: str, facet: Facet) -> bool:
        if name.startswith(_PROPERTY + ":"):
            cleared = self.facets.get(cleared_facet(name.split(":", 2)[1]))
            if cleared is not None and facet.at < cleared.at:
                return True
        if facet.at <= self.purged and (is_identity(name) or is_property(name)):
            return True
        if is_identity(name):
            return self._forgets_user(facet)
        return is_consent(name) and facet.at < self._words[0].at

    def _beyond(self, kept: int, belongs: Callable[[str, Value], bool]) -> list[str]:
        """
        Names of facets of one sort, but for the latest.
        """
        found = [(at, name) for name, (value, at) in self.facets.items() if belongs(name, value)]
        return [name for _, name in sorted(found, reverse=True)[kept:]]

    def _forgets_user(self, facet: Facet) -> bool:
        names = names_in(facet.value)
        return names is not None and self.forgets(*names, facet.at)

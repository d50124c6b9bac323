"""
What stays in force between calls and across restarts, as a fold over records:
who is logged in, event properties, consent, pauses.

A *facet* is one named value with the moment at which it was set. Of two values
for one facet the newer stands, so that records may be folded in any order,
twice, and by every process alike, and all agree. Moments compare by boot and
boot clock, never by a wall clock that may jump.

This module must not know where facets are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import attrs

from heap_agent._core.events import Scalar

#: A facet's value: anything that JSON can hold, in the few shapes used here.
Value: TypeAlias = Scalar | bool | None | Mapping[str, str | bool | None]

CONSENT: Final = "consent"
PAUSED: Final = "paused"
GESTURE: Final = "pairing_gesture"

#: Set by an opt-out that purges: users and properties from before are gone.
PURGED: Final = "purged"

#: When consent was last withdrawn, noted when it is given again.
WITHDRAWN: Final = "withdrawn"

_IDENTITY: Final = "identity"
_PROPERTY: Final = "property"
_CLEARED: Final = "cleared"


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


def is_identity(name: str) -> bool:
    """
    Whether a facet says who is logged in, to any app on any machine.
    """
    return name.startswith(_IDENTITY + ":")


def is_property(name: str) -> bool:
    """
    Whether a facet is an event property of any app, or their clearing.
    """
    return name.startswith((_PROPERTY + ":", _CLEARED + ":"))


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


@attrs.frozen(slots=True)
class Consent:
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

    __slots__ = ("facets",)

    def __init__(self, facets: Mapping[str, Facet] | None = None) -> None:
        self.facets: dict[str, Facet] = dict(facets or {})

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
        return True

    def apply_all(self, changes: Mapping[str, Value], at: Moment) -> list[str]:
        """
        Set several facets of one moment; the names of those that were set.
        """
        return [name for name, value in changes.items() if self.apply(name, value, at)]

    def user(self, app_id: str, machine: str) -> tuple[str, str | None] | None:
        """
        ``(user_id, identity)`` in force, or None where nobody was set yet (or
        the user was purged).
        """
        facet = self.facets.get(identity_facet(app_id, machine))
        if facet is None or not isinstance(facet.value, Mapping) or facet.at <= self.purged:
            return None
        identity = facet.value["identity"]
        return str(facet.value["user_id"]), None if identity is None else str(identity)

    def event_properties(self, app_id: str) -> dict[str, Scalar]:
        """
        The event properties in force, in the order in which they were set.
        """
        prefix = property_facet(app_id, "")
        cleared = self.facets.get(cleared_facet(app_id), Facet(None, NEVER)).at
        cleared = max(cleared, self.purged)
        found = [
            (facet.at, name[len(prefix) :], facet.value)
            for name, facet in self.facets.items()
            if name.startswith(prefix) and facet.at > cleared
        ]
        found.sort(key=lambda item: item[0])
        return {key: value for _, key, value in found if isinstance(value, (str, int, float))}

    @property
    def consent(self) -> Consent:
        """
        Consent in force; given until somebody opts out.
        """
        facet = self.facets.get(CONSENT)
        if facet is None:
            return Consent(True, NEVER)
        return Consent(facet.value is not False, facet.at)

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
        consent = self.consent
        if not consent.given:
            return at < consent.at
        withdrawn = self.facets.get(WITHDRAWN)
        if withdrawn is None or not isinstance(withdrawn.value, Mapping):
            return True
        since = (int(str(withdrawn.value["boot"])), int(str(withdrawn.value["clock"])))
        return not since <= (at.boot, at.clock) <= (consent.at.boot, consent.at.clock)

    def set_consent(self, given: bool, at: Moment, *, purge: bool) -> list[str]:
        """
        Apply a consent record, noting when the last withdrawal was.

        Returns:
            Names of the facets that were set; none if something newer stands.
        """
        before = self.consent
        if not self.apply(CONSENT, given, at):
            return []
        changed = [CONSENT]
        if purge and self.apply(PURGED, True, at):
            changed.append(PURGED)
        if given and not before.given:
            since = {"boot": str(before.at.boot), "clock": str(before.at.clock)}
            if self.apply(WITHDRAWN, since, at):
                changed.append(WITHDRAWN)
        return changed

    def flag(self, name: str) -> bool:
        """
        A facet that is simply on or off; off unless set.
        """
        facet = self.facets.get(name)
        return facet is not None and facet.value is True

    def obsolete(self) -> Iterable[str]:
        """
        Names of facets that can no longer matter: properties set before a clearing.
        """
        cleared = {
            name.split(":", 1)[1]: facet.at
            for name, facet in self.facets.items()
            if name.startswith(_CLEARED + ":")
        }
        for name, facet in self.facets.items():
            if name.startswith(_PROPERTY + ":"):
                app_id = name.split(":", 2)[1]
                if facet.at < cleared.get(app_id, NEVER):
                    yield name

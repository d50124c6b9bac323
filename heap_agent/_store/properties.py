"""
The cookie-like store: facets in force (who is logged in, event properties,
consent), anonymous users whose events may need joining, user properties.

Everything here happens inside the caller's transaction, so that what a record
changes and the note that it was read are one commit. This module must not know
where records come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from heap_agent._core import limits
from heap_agent._core.encoder import dumps, loads
from heap_agent._core.events import Actor, Kind, Scalar
from heap_agent._core.state import Facet, Moment, State, is_consent
from heap_agent._core.wire import identify_body, user_body
from heap_agent._store.database import Database, Queryable, Row
from heap_agent._store.event_queue import EventQueue
from heap_agent._store.rows import Entry
from heap_agent._store.seals import intact, seal, sealed, unseal

_RESEND: Final = int(limits.USER_PROPERTY_RESEND * 1_000_000)

#: A row of user properties is no longer, so that any request has room for it.
_ROW_BYTES: Final = limits.BATCH_BYTES // 2

#: Users that were joined are remembered up to this many, the latest.
_PERSONS: Final = 1_000

_PERSON: Final = "app_id, user_id, identity, identified, seen, crc"

#: Counts what passed for a record, or a facet, and could not be understood.
UNREADABLE: Final = "unreadable"

HELD_LOST: Final = "user_properties_lost"


class Person(NamedTuple):
    """
    What is known of a user that began without a name.

    Attributes:
        identity: The name that was given later.
        identified: When, µs since 1970.
        seen: 1 for one that has something to join, 2 for one that has been joined.
    """

    identity: str | None = None
    identified: int | None = None
    seen: int = 0


def load_state(source: Queryable) -> State:
    """
    The facets as of the last absorbed record. SQLite has no checksums, facets have: one
    that is not what was written is left out.
    """
    return State({name: facet for _, name, facet in _facets(source) if facet is not None})


def _facets(source: Queryable) -> Iterator[tuple[int, str, Facet | None]]:
    # As bytes: SQLite would refuse a whole table for one that is no UTF-8.
    for rowid, name, value, boot, clock, writer, sequence, crc in source.query(
        "SELECT rowid, CAST(name AS BLOB), CAST(value AS BLOB), boot, clock, "
        "CAST(writer AS BLOB), sequence, crc FROM facet"
    ):
        text, by = (bytes(raw or b"").decode("utf-8", "replace") for raw in (name, writer))
        value = value or b""
        sound = _facet_row(text, value, (boot, clock, by, sequence))[-1] == crc
        yield rowid, text, _facet(text, value, Moment(boot, clock, by, sequence), sound)


def _facet(name: str, value: bytes, at: Moment, sound: bool) -> Facet | None:
    try:
        if sound:
            return Facet(json.loads(value), at)
    except ValueError:
        pass
    # Whatever was said about consent, only a clear word gives it.
    whole = [*map(type, at)] == [int, int, str, int]
    return Facet(False, at) if whole and is_consent(name) else None


def _facet_row(name: str, value: bytes, at: Iterable[object]) -> Row:
    """What is written of a facet, with its checksum."""
    return sealed(name, value.decode("utf-8", "replace"), *at)


class Properties:
    """
    The property store of one database.
    """

    def __init__(self, database: Database, queue: EventQueue) -> None:
        self._database = database
        self._queue = queue
        self._seen: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<Properties [{len(self._seen)} anonymous users seen]>"

    # -- facets --

    def remove_damaged_facets(self) -> int:
        """
        Remove, and count, what `load_state` leaves out; how many those were.
        """
        with self._database.transact():
            bad = [(rowid,) for rowid, _, facet in _facets(self._database) if facet is None]
            self._database.execute_many("DELETE FROM facet WHERE rowid = ?", bad)
            self._queue.add({UNREADABLE: len(bad)})
        return len(bad)

    def save(self, state: State, names: Iterable[str]) -> None:
        """
        Write facets that have changed, and forget those that no longer matter.
        """
        obsolete = state.obsolete()
        for name in obsolete:
            del state.facets[name]
        rows, gone = [], []
        for name in obsolete.union(names):
            if name in state.facets:
                value, at = state.facets[name]
                rows.append(_facet_row(name, json.dumps(value).encode(), at))
            else:
                gone.append((name,))
        self._database.execute_many("REPLACE INTO facet VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._database.execute_many("DELETE FROM facet WHERE name = ?", gone)

    # -- joining anonymous users --

    def forget_seen(self) -> None:
        """
        The transaction in which users were seen has not happened.
        """
        self._seen.clear()

    def seen(self, actor: Actor, boot: int, boot_clock: int) -> None:
        """
        Note that an anonymous user has an event (or property) of its own, so
        that a later identify is worth a request.

        Args:
            actor: Who.
            boot, boot_clock: When.
        """
        who = (actor.app_id, actor.user_id)
        if who in self._seen:
            return
        if len(self._seen) > 10_000:
            self._seen.clear()
        known = self._person(*who)
        if not known.seen:
            self._save_person(*who, known._replace(seen=1))
        self._seen.add(who)
        self._join(*who, boot, boot_clock)

    def identified(self, actor: Actor, entry: Entry) -> None:
        """
        An anonymous user has given a name: join the two where there is
        something to join, and let held properties go.

        Args:
            actor: With identity.
            entry: Carries the moment of the call.
        """
        who = (actor.app_id, actor.user_id)
        held = self._take_held(*who)
        known = self._person(*who)
        if known.identity is None:
            seen = max(known.seen, int(bool(held)))
            self._save_person(*who, Person(actor.identity, entry.wall, seen))
        self._join(*who, entry.boot, entry.boot_clock)
        if held:
            self.change_user(actor, held, entry)
        self._forget_old_values(entry.wall)

    def met(self, app_id: str, user_id: str, person: Person, *, entry: Entry) -> None:
        """
        Take over what another property store knows of a user.

        Args:
            app_id, user_id: Which.
            person: What is known there.
            entry: Carries a moment.
        """
        known = self._person(app_id, user_id)
        named = person if known.identity is None else known
        self._save_person(app_id, user_id, named._replace(seen=max(known.seen, person.seen)))
        self._join(app_id, user_id, entry.boot, entry.boot_clock)

    def persons(self) -> list[tuple[str, str, Person]]:
        """
        What is known of users, by app id and `user_id`, in the order in which they came.
        """
        rows = self._database.query(f"SELECT {_PERSON} FROM person ORDER BY rowid")
        return [(app_id, user_id, Person(*rest)) for app_id, user_id, *rest in intact(rows)]

    def _person(self, app_id: str, user_id: str) -> Person:
        rows = self._database.query(
            f"SELECT {_PERSON} FROM person WHERE app_id = ? AND user_id = ?", (app_id, user_id)
        )
        return next((Person(*row[2:]) for row in intact(rows)), Person())

    def _save_person(self, app_id: str, user_id: str, person: Person) -> None:
        row = sealed(app_id, user_id, *person)
        with self._database.transact() as execute:
            # Changed where it stands: it keeps its place among those that are remembered.
            known = execute(
                "UPDATE person SET identity = ?, identified = ?, seen = ?, crc = ? "
                "WHERE app_id = ? AND user_id = ?",
                (*row[2:], app_id, user_id),
            )
            if not known.rowcount:
                execute("INSERT INTO person VALUES (?, ?, ?, ?, ?, ?)", row)

    def _join(self, app_id: str, user_id: str, boot: int, boot_clock: int) -> None:
        identity, identified, seen = person = self._person(app_id, user_id)
        if identity is None or identified is None or seen != 1:
            return
        body = identify_body(Actor(app_id, user_id, identity), identified)
        self._queue.insert(
            [Entry(Kind.IDENTIFY, 0, boot, boot_clock, identified, app_id, identity, body)]
        )
        # Once per pair: 2 says that the request is in the queue.
        self._save_person(app_id, user_id, person._replace(seen=2))

    def gone(self, app_id: str, user_id: str) -> int:
        """
        A user is not coming back: drop what was held for it, forget it unless
        it has a name by now (another process's events of it may still come in).

        Returns:
            How many held properties were lost.
        """
        self._seen.discard((app_id, user_id))
        with self._database.transact() as execute:
            execute(
                "DELETE FROM person WHERE app_id = ? AND user_id = ? AND identity IS NULL",
                (app_id, user_id),
            )
            execute(
                "DELETE FROM person WHERE rowid IN "
                "(SELECT rowid FROM person ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                (_PERSONS,),
            )
            lost = execute(
                "DELETE FROM user_property WHERE app_id = ? AND owner = ?",
                (app_id, _held(user_id)),
            ).rowcount
            self._queue.add({HELD_LOST: lost})
            return lost

    # -- user properties --

    def change_user(self, actor: Actor, properties: Mapping[str, Scalar], entry: Entry) -> None:
        """
        Take user properties in: held while anonymous, else queued as far as
        they have changed.

        Args:
            actor: Whose they are.
            properties: Valid user properties.
            entry: Carries the moment of the call; its body is not used.
        """
        if actor.identity is None:
            self._hold(actor, properties, entry)
            return
        changed = self._remember(actor, properties, entry)
        if changed:
            self._queue_changes(actor, changed, entry)

    def _hold(self, actor: Actor, properties: Mapping[str, Scalar], entry: Entry) -> None:
        owner = _held(actor.user_id)
        known = self._known_values(actor.app_id, owner)
        self._database.execute_many(
            "REPLACE INTO user_property VALUES (?, ?, ?, ?, 0, ?, ?)",
            [
                (actor.app_id, owner, name, _text(name, value), *_when(entry))
                for name, value in properties.items()
                if name not in known or known[name][2] <= _when(entry)
            ],
        )

    def _known_values(self, app_id: str, owner: str) -> dict[str, tuple[str, int, tuple[int, int]]]:
        """By name: text, when it was last queued, moment."""
        rows = self._database.query(
            "SELECT name, value, queued, boot, clock FROM user_property "
            "WHERE app_id = ? AND owner = ?",
            (app_id, owner),
        )
        return {name: (value, queued, (boot, clock)) for name, value, queued, boot, clock in rows}

    def _forget_old_values(self, now: int) -> None:
        """
        Values that would be sent again anyway need not be remembered: a kiosk
        meets thousands of people.
        """
        with self._database.transact() as execute:
            execute(
                "DELETE FROM user_property WHERE owner >= 'known:' AND owner < 'known;' "
                "AND queued < ?",
                (now - _RESEND,),
            )

    def _take_held(self, app_id: str, user_id: str) -> dict[str, Scalar]:
        rows = self._database.query(
            "SELECT name, value FROM user_property WHERE app_id = ? AND owner = ? "
            "ORDER BY boot, clock",
            (app_id, _held(user_id)),
        )
        with self._database.transact() as execute:
            execute(
                "DELETE FROM user_property WHERE app_id = ? AND owner = ?",
                (app_id, _held(user_id)),
            )
        values = {name: _value(name, text) for name, text in rows}
        sound = {name: value for name, value in values.items() if value is not None}
        self._queue.add({UNREADABLE: len(values) - len(sound)})
        return sound

    def _remember(
        self, actor: Actor, properties: Mapping[str, Scalar], entry: Entry
    ) -> dict[str, Scalar]:
        """
        Keep what is new; what of it has to be sent.
        """
        owner = _known(str(actor.identity))
        known = self._known_values(actor.app_id, owner)
        changed = {}
        for name, value in properties.items():
            text = _text(name, value)
            before = known.get(name)
            if before is not None:
                if before[2] > _when(entry):
                    continue
                # A wall clock that went back counts as "long ago": once too
                # often is better than never.
                if before[0] == text and 0 <= entry.wall - before[1] < _RESEND:
                    continue
            changed[name] = value
        self._database.execute_many(
            "REPLACE INTO user_property VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (actor.app_id, owner, name, _text(name, value), entry.wall, *_when(entry))
                for name, value in changed.items()
            ],
        )
        return changed

    def _queue_changes(self, actor: Actor, changed: dict[str, Scalar], entry: Entry) -> None:
        identity = str(actor.identity)
        waiting = self._database.query(
            "SELECT id FROM entry WHERE kind = ? AND app_id = ? AND actor = ?",
            (int(Kind.USER_PROPERTIES), actor.app_id, identity),
        )
        ids = [row[0] for row in waiting if row[0] not in self._queue.in_flight]
        merged: dict[str, Scalar] = {}
        for stored in self._queue.load(ids):
            merged.update(loads(stored.entry.body)["properties"])
        merged.update(changed)
        if ids and len(dumps(merged)) > _ROW_BYTES:
            ids, merged = [], changed
        self._queue.delete_rows(ids)
        self._queue.insert(
            [
                Entry(
                    Kind.USER_PROPERTIES,
                    0,
                    entry.boot,
                    entry.boot_clock,
                    entry.wall,
                    actor.app_id,
                    identity,
                    user_body(identity, some),
                )
                for some in _portions(merged)
            ]
        )

    # -- consent --

    def purge(self) -> None:
        """
        Forget every user and every user property. (What was said of users and
        event properties in facets goes with the next `save`.)
        """
        self._seen.clear()
        with self._database.transact() as execute:
            execute("DELETE FROM person")
            execute("DELETE FROM user_property")

    def forget(self, is_forgotten: Callable[[str], bool]) -> None:
        """
        Forget some users and their properties.

        Args:
            is_forgotten: Tells of an identity or a `user_id` whether it is theirs.
        """
        self._seen.clear()
        with self._database.transact() as execute:
            for app_id, user_id, person in self.persons():
                if any(map(is_forgotten, filter(None, (user_id, person.identity)))):
                    execute(
                        "DELETE FROM person WHERE app_id = ? AND user_id = ?", (app_id, user_id)
                    )
            for (owner,) in self._database.query("SELECT DISTINCT owner FROM user_property"):
                if is_forgotten(owner.partition(":")[2]):
                    execute("DELETE FROM user_property WHERE owner = ?", (owner,))


def _portions(properties: Mapping[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    """
    Properties of one user, in as many rows as requests can take.
    """
    portion: dict[str, Scalar] = {}
    room = _ROW_BYTES
    for name, value in properties.items():
        size = len(dumps({name: value}))
        if portion and size > room:
            yield portion
            portion, room = {}, _ROW_BYTES
        portion[name] = value
        room -= size
    yield portion


def _held(user_id: str) -> str:
    return f"held:{user_id}"


def _known(identity: str) -> str:
    return f"known:{identity}"


def _when(entry: Entry) -> tuple[int, int]:
    return entry.boot, entry.boot_clock


def _text(name: str, value: Scalar) -> str:
    """What is written of a property, behind its checksum."""
    return seal(dumps({name: value}).decode())


def _value(name: str, text: object) -> Scalar | None:
    """None where it is not what was written."""
    found = unseal(text)
    value: Scalar | None = None if found is None else loads(found.encode()).get(name)
    return value

"""
Users and their properties: held, joined, coalesced, and sent only where something changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ANN, ANN_NAMED, balanced, bodies, deliver, opened, track

from heap_agent._core import limits
from heap_agent._core.encoder import dumps
from heap_agent._core.events import Actor, Kind
from heap_agent._core.state import CONSENT, REMOVED, identity_facet, property_facet
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

BOB = Actor("11", "2")


@pytest.fixture(name="store")
def _store(state_dir: Path, clock: FakeClock) -> Iterator[Store]:
    with opened(state_dir, clock) as store:
        yield store
        store.absorb(freeze=False)
        balanced(store)


def properties(store: Store, actor: Actor, **values: object) -> None:
    """Record user properties and absorb them."""
    store.record_user_properties(actor, dumps(values))
    store.absorb(freeze=False)


def identify(store: Store, actor: Actor) -> None:
    """Record that an anonymous user has a name now."""
    facets = {identity_facet("11", "m"): {"user_id": actor.user_id, "identity": actor.identity}}
    store.record_state(facets, identify=actor)
    store.absorb(freeze=False)


def profile(store: Store) -> list[dict[str, object]]:
    """What would be sent to users' profiles."""
    return bodies(store, Kind.USER_PROPERTIES)


# -- held ---------------------------------------------------------------------------


def test_properties_are_held_while_anonymous(store: Store) -> None:
    """Heap takes user properties of identified users only; they go with the identify."""
    properties(store, ANN, plan="free", age=7)
    properties(store, ANN, plan="pro")
    assert profile(store) == []

    identify(store, ANN_NAMED)

    assert profile(store) == [{"identity": "ann", "properties": {"age": 7, "plan": "pro"}}]
    identify(store, ANN_NAMED)
    assert len(profile(store)) == 1


@pytest.mark.parametrize("damage", ["replace(value, 'free', 'fred')", "x'00'", "7", "''"])
def test_a_damaged_property_is_not_sent(store: Store, damage: str) -> None:
    """It is left out and counted; the others go."""
    properties(store, ANN, plan="free", age=7)
    assert store.ledger is not None
    with store.ledger.database.transact() as execute:
        execute(f"UPDATE user_property SET value = {damage} WHERE name = 'plan'")

    identify(store, ANN_NAMED)

    assert [row["properties"] for row in profile(store)] == [{"age": 7}]
    assert store.books().counts["unreadable"] == 1


def test_held_properties_go_with_their_user(store: Store) -> None:
    """A visitor that never gave a name takes its properties along; they are counted."""
    properties(store, ANN, plan="free", age=7)
    store.record_state({}, gone=ANN)
    store.absorb(freeze=False)
    identify(store, ANN_NAMED)

    assert profile(store) == []
    assert store.books().counts["user_properties_lost"] == 2


def test_an_older_record_does_not_undo_a_newer_one(store: Store, clock: FakeClock) -> None:
    """Two processes' journals may come in the wrong order: the newer value stands."""
    clock.advance(10)
    properties(store, ANN, plan="new")
    properties(store, ANN_NAMED, colour="new")
    wall, boot = clock.wall_ns() - 5 * 10**9, clock.boot_ns() - 5 * 10**9
    for actor, name in ((ANN, "plan"), (ANN_NAMED, "colour")):
        line = b'["11","1",%b]\n' % (b"null" if actor.identity is None else b'"ann"')
        body = line + dumps({name: "old"})
        store.journal.put(Kind.USER_PROPERTIES, 0, wall, boot, body)
    store.absorb(freeze=False)
    identify(store, ANN_NAMED)

    assert profile(store) == [{"identity": "ann", "properties": {"colour": "new", "plan": "new"}}]


# -- only changes -------------------------------------------------------------------


def test_waiting_changes_become_one_request(store: Store) -> None:
    """What is not on its way yet is merged, key by key."""
    properties(store, ANN_NAMED, plan="free", age=7)
    properties(store, ANN_NAMED, plan="pro")
    properties(store, Actor("11", "2", "bob"), plan="free")

    assert profile(store) == [
        {"identity": "ann", "properties": {"plan": "pro", "age": 7}},
        {"identity": "bob", "properties": {"plan": "free"}},
    ]


def test_a_request_on_its_way_is_not_touched(store: Store) -> None:
    """Bytes that are being sent stay as they are; a change makes a request of its own."""
    properties(store, ANN_NAMED, plan="free")
    assert store.ledger is not None
    store.ledger.queue.set_in_flight([one.id for one in store.ledger.queue.peek()])

    properties(store, ANN_NAMED, plan="pro")

    assert [body["properties"] for body in profile(store)] == [{"plan": "free"}, {"plan": "pro"}]


def test_unchanged_values_are_not_sent_again(store: Store, clock: FakeClock) -> None:
    """Only after a day, so that a profile that was changed elsewhere comes right."""
    properties(store, ANN_NAMED, plan="free", age=7)
    deliver(store)

    clock.advance(3_600)
    properties(store, ANN_NAMED, plan="free", age=8)
    assert [body["properties"] for body in profile(store)] == [{"age": 8}]
    deliver(store)

    clock.advance(limits.USER_PROPERTY_RESEND)
    properties(store, ANN_NAMED, plan="free")
    assert [body["properties"] for body in profile(store)] == [{"plan": "free"}]


def test_a_wall_clock_that_went_back_sends_once_too_often(store: Store, clock: FakeClock) -> None:
    """Better twice than never."""
    properties(store, ANN_NAMED, plan="free")
    deliver(store)
    clock.advance(1)
    clock.step(-1_000_000)

    properties(store, ANN_NAMED, plan="free")

    assert len(profile(store)) == 1


def test_large_profiles_are_not_merged_beyond_a_request(store: Store) -> None:
    """What would not fit into one request any more becomes another one."""
    for begin in (0, 1_500):
        values = {f"key {number}": "x" * 250 for number in range(begin, begin + 1_500)}
        properties(store, ANN_NAMED, **values)

    assert [len(body["properties"]) for body in profile(store)] == [1_500, 1_500]  # type: ignore[arg-type]


def test_a_profile_larger_than_a_request_is_sent_in_several(store: Store) -> None:
    """However much was said at once, and long as the record is, every property arrives."""
    values = {f"property {number}": "x" * 255 for number in range(10_000)}
    properties(store, ANN_NAMED, **values)

    rows = profile(store)

    assert len(rows) > 2
    assert all(len(dumps(row)) < limits.BATCH_BYTES for row in rows)
    assert {name: value for row in rows for name, value in row["properties"].items()} == values


def test_values_of_people_who_left_are_forgotten(store: Store, clock: FakeClock) -> None:
    """A kiosk meets thousands of people; what would be sent again anyway takes no room."""
    for number in range(20):
        properties(store, Actor("11", str(number), f"visitor {number}"), plan="free")
        clock.advance(limits.USER_PROPERTY_RESEND / 4)
    identify(store, ANN_NAMED)

    assert store.ledger is not None
    assert store.ledger.database.query("SELECT count(*) FROM user_property") == [(4,)]


# -- joined -------------------------------------------------------------------------


def test_a_user_with_events_is_joined_once(store: Store) -> None:
    """One identify request per pair, with the time of the call, however often it is said."""
    track(store, actor=ANN)
    store.absorb(freeze=False)
    identify(store, ANN_NAMED)
    track(store, actor=ANN_NAMED)
    identify(store, ANN_NAMED)

    (body,) = bodies(store, Kind.IDENTIFY)
    assert (body["user_id"], body["identity"]) == ("1", "ann")
    assert str(body["timestamp"]).startswith("2026-01-01T00:00:00.000")


def test_a_user_without_events_is_not_joined(store: Store) -> None:
    """Heap takes ten users per identity a month: none is spent on a user with nothing."""
    identify(store, ANN_NAMED)
    track(store, actor=ANN_NAMED)
    store.absorb(freeze=False)

    assert bodies(store, Kind.IDENTIFY) == []


def test_late_events_of_a_user_make_it_worth_joining(store: Store) -> None:
    """Another process's events may come in after the identify."""
    identify(store, ANN_NAMED)
    track(store, actor=ANN)
    store.absorb(freeze=False)

    assert len(bodies(store, Kind.IDENTIFY)) == 1


def test_a_restart_does_not_join_again(state_dir: Path, clock: FakeClock) -> None:
    """Late anonymous events of a user that is joined already are no reason for another request."""
    with opened(state_dir, clock) as store:
        track(store, actor=ANN)
        identify(store, ANN_NAMED)
        deliver(store)
    with opened(state_dir, clock) as store:
        track(store, actor=ANN)
        store.absorb(freeze=False)

        assert bodies(store, Kind.IDENTIFY) == []
        balanced(store)


def test_a_user_that_has_gone_is_forgotten(store: Store) -> None:
    """Anonymous users that never gave a name leave nothing but their events."""
    for number in range(10):
        visitor = Actor("11", str(number))
        track(store, actor=visitor)
        store.record_state({}, gone=visitor)
    store.absorb(freeze=False)

    assert store.ledger is not None
    assert store.ledger.properties.persons() == []


def test_a_commit_that_failed_leaves_nobody_seen(store: Store) -> None:
    """After a transaction that did not happen users count as new again."""
    track(store, actor=ANN)
    assert store.ledger is not None
    queue = store.ledger.queue
    insert = queue.insert
    queue.insert = lambda entries: 1 // 0  # type: ignore[assignment,method-assign]
    assert store.absorb(freeze=False).records == 0 and store.trouble is not None
    queue.insert = insert  # type: ignore[method-assign]

    identify(store, ANN_NAMED)

    assert len(bodies(store, Kind.IDENTIFY)) == 1


def test_a_purge_forgets_everybody(store: Store, clock: FakeClock) -> None:
    """Opting out with a purge takes users, held properties and known values along."""
    track(store, actor=ANN)
    properties(store, BOB, plan="free")
    properties(store, ANN_NAMED, plan="free")
    clock.advance(1)
    store.record_state({CONSENT: False}, purge=True)
    store.absorb(freeze=False)

    assert store.ledger is not None
    database = store.ledger.database
    assert [database.query(f"SELECT * FROM {name}") for name in ("person", "user_property")] == [
        [],
        [],
    ]
    assert store.ledger.queue.empty()


def test_removed_event_properties_leave_few_rows(store: Store, clock: FakeClock) -> None:
    """However many names a program uses once: in one batch, or in many."""
    for number in range(3 * REMOVED):
        clock.advance(0.001)
        store.record_state({property_facet("11", f"order-{number}"): None})
        if number % REMOVED < 3:
            store.absorb(freeze=False)
    store.absorb(freeze=False)

    assert store.ledger is not None
    ((rows,),) = store.ledger.database.query("SELECT count(*) FROM facet")
    assert rows == len(store.ledger.absorber.state.facets) == REMOVED

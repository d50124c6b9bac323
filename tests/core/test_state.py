"""
State as a fold over records: any order, any number of times, the same answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.state import (
    BY_IDENTITY,
    BY_USER_ID,
    CONSENT,
    FORGOTTEN,
    NEVER,
    PAUSED,
    REMOVED,
    WORDS,
    Moment,
    State,
    Value,
    cleared_facet,
    forgotten_facet,
    identity_facet,
    is_forgotten,
    is_identity,
    is_property,
    property_facet,
)

APP, MACHINE = "11", "m"

#: A moment, facets, and whether it purges.
Change = tuple[Moment, dict[str, Value], bool]


def moment(clock: int, boot: int = 1, writer: str = "w") -> Moment:
    """A moment by its clock alone."""
    return Moment(boot, clock, writer, clock)


def user(user_id: str, identity: str | None = None) -> dict[str, Value]:
    """Facets of a user."""
    return {identity_facet(APP, MACHINE): {"user_id": user_id, "identity": identity}}


def prop(key: str, value: Value) -> dict[str, Value]:
    """Facets of an event property."""
    return {property_facet(APP, key): value}


def fold(changes: Sequence[Change], *, forget: bool = False) -> State:
    """Apply changes in this order."""
    state = State()
    for at, facets, purge in changes:
        if CONSENT in facets:
            state.set_consent(bool(facets[CONSENT]), at, purge=purge)
        else:
            state.apply_all(facets, at)
        if forget:
            for name in list(state.obsolete()):
                del state.facets[name]
    return state


def seen(state: State, moments: Sequence[Moment]) -> object:
    """Everything that others can see of a state."""
    return (
        state.user(APP, MACHINE),
        list(state.event_properties(APP).items()),
        state.consent,
        state.purged,
        state.flag(PAUSED),
        state.withdrawn(),
        [state.allows(at) for at in moments],
    )


_facets = st.one_of(
    st.builds(user, st.sampled_from("123"), st.sampled_from([None, "ann", "bob"])),
    st.builds(prop, st.sampled_from("ab"), st.sampled_from(["x", 1, 2.5, None])),
    st.just({cleared_facet(APP): True}),
    st.builds(lambda given: {CONSENT: given}, st.booleans()),
    st.builds(lambda paused: {PAUSED: paused}, st.booleans()),
)
_moments = st.builds(
    Moment, st.integers(0, 2), st.integers(0, 9), st.sampled_from("vw"), st.integers(0, 99)
)
_changes = st.lists(
    st.tuples(_moments, _facets, st.booleans()), max_size=12, unique_by=lambda one: one[0]
).map(
    lambda changes: [
        (at, facets, purge and not facets.get(CONSENT, 1)) for at, facets, purge in changes
    ]
)


@given(_changes, st.randoms(use_true_random=False))
def test_the_order_of_folding_does_not_matter(
    changes: list[Change], shuffle: random.Random
) -> None:
    """Whoever reads the journals in whatever order comes to the same state."""
    other = list(changes)
    shuffle.shuffle(other)
    moments = [at for at, _, _ in changes]

    assert seen(fold(changes), moments) == seen(fold(other), moments)


@given(_changes, st.data())
def test_folding_twice_changes_nothing(changes: list[Change], data: st.DataObject) -> None:
    """A record that is read again, however late, has no effect."""
    again = data.draw(st.lists(st.sampled_from(changes), max_size=6)) if changes else []
    moments = [at for at, _, _ in changes]

    assert seen(fold(changes), moments) == seen(fold([*changes, *again]), moments)


@given(_changes, st.randoms(use_true_random=False))
def test_what_is_obsolete_makes_no_difference(
    changes: list[Change], shuffle: random.Random
) -> None:
    """Facets that are forgotten between two records are missed by nobody."""
    other = list(changes)
    shuffle.shuffle(other)
    moments = [at for at, _, _ in changes]

    assert seen(fold(changes), moments) == seen(fold(other, forget=True), moments)


def test_later_boots_are_later() -> None:
    """A boot clock that begins anew does not make a change old."""
    late, early = moment(5, boot=2), moment(900, boot=1)

    state = fold([(late, user("2"), False), (early, user("1"), False)])

    assert state.user(APP, MACHINE) == ("2", None)
    assert NEVER < early < late


def test_equal_clocks_are_decided_the_same_way_by_all() -> None:
    """Of two changes of one microsecond everybody takes the same."""
    one, two = Moment(1, 5, "a", 9), Moment(1, 5, "b", 1)

    assert fold([(one, user("1"), False), (two, user("2"), False)]).user(APP, MACHINE) == (
        "2",
        None,
    )
    assert fold([(two, user("2"), False), (one, user("1"), False)]).user(APP, MACHINE) == (
        "2",
        None,
    )


def test_a_user_belongs_to_an_app_and_a_machine() -> None:
    """A directory that was copied to another machine has no user there."""
    state = fold([(moment(1), user("1", "ann"), False)])

    assert state.user(APP, MACHINE) == ("1", "ann")
    assert state.user(APP, "another") is None
    assert state.user("12", MACHINE) is None


def test_event_properties_stand_in_the_order_in_which_they_were_set() -> None:
    """Removed and cleared ones are gone; those of other apps are theirs."""
    state = fold(
        [
            (moment(1), prop("old", 1), False),
            (moment(2), {cleared_facet(APP): True}, False),
            (moment(4), prop("b", "2"), False),
            (moment(3), prop("a", 1.5), False),
            (moment(5), prop("gone", 1), False),
            (moment(6), prop("gone", None), False),
            (moment(7), {property_facet("12", "c"): 1}, False),
        ]
    )

    assert list(state.event_properties(APP).items()) == [("a", 1.5), ("b", "2")]
    assert state.event_properties("12") == {"c": 1}
    assert list(state.obsolete()) == [property_facet(APP, "old")]


def test_consent_is_given_until_somebody_opts_out() -> None:
    """Opting out and in again: between the two nothing was allowed."""
    state = fold([(moment(10), {CONSENT: False}, False)])

    assert not state.consent.given
    assert state.allows(moment(9)) and not state.allows(moment(11))
    assert state.withdrawn() == [(moment(10), None)]

    state.set_consent(True, moment(20), purge=False)

    assert state.consent.given
    assert [state.allows(moment(clock)) for clock in (9, 11, 19, 21)] == [True, False, False, True]
    assert state.withdrawn() == [(moment(10), moment(20))]


def test_opting_out_twice_does_not_allow_what_was_between() -> None:
    """A second opt-out leaves the first one in force."""
    state = fold([(moment(10), {CONSENT: False}, False), (moment(20), {CONSENT: False}, False)])

    assert not state.allows(moment(15))


def test_a_purge_takes_what_was_before_it() -> None:
    """After a purge there is neither user nor property nor permission from before."""
    state = fold(
        [
            (moment(1), user("1", "ann"), False),
            (moment(2), prop("a", 1), False),
            (moment(3), {CONSENT: False}, True),
            (moment(4), {CONSENT: True}, False),
            (moment(5), prop("b", 2), False),
        ]
    )

    assert state.user(APP, MACHINE) is None
    assert state.event_properties(APP) == {"b": 2}
    assert not state.allows(moment(2)) and state.allows(moment(6))
    assert set(state.obsolete()) == {identity_facet(APP, MACHINE), property_facet(APP, "a")}


def test_what_was_set_without_consent_is_passed_over() -> None:
    """Another process may not have heard of the opt-out yet: its changes do not count."""
    state = fold(
        [
            (moment(1), {CONSENT: False}, False),
            (moment(2), user("2", "eve"), False),
            (moment(3), prop("a", 1), False),
            (moment(4), {PAUSED: True}, False),
            (moment(5), {CONSENT: True}, False),
        ]
    )

    assert state.user(APP, MACHINE) is None
    assert state.event_properties(APP) == {}
    assert state.flag(PAUSED)


def test_words_about_consent_are_bounded() -> None:
    """A switch that is flipped for years does not fill the store."""
    state = fold(
        [(moment(n), {CONSENT: bool(n % 2)}, False) for n in range(3 * WORDS)], forget=True
    )

    assert len(state.facets) == WORDS
    assert state.consent.given and state.consent.at == moment(3 * WORDS - 1)


def test_kinds_of_facets_are_told_by_name() -> None:
    """Identity and properties can be found for any app."""
    assert is_identity(identity_facet("1", "m")) and not is_identity(CONSENT)
    assert is_property(property_facet("1", "k")) and is_property(cleared_facet("1"))
    assert not is_property(identity_facet("1", "m"))


# -- the right to be forgotten ------------------------------------------------------


def forgotten(clock: int, *, identity: str = "", user_id: str = "") -> Change:
    """Somebody is to be forgotten."""
    facets: dict[str, Value] = {}
    if identity:
        facets[forgotten_facet(identity)] = BY_IDENTITY
    if user_id:
        facets[forgotten_facet(user_id)] = BY_USER_ID
    return moment(clock), facets, False


def test_nobody_is_forgotten_by_default() -> None:
    """Without such a word everything is remembered."""
    state = fold([(moment(1), user("1", "ann"), False)])
    assert not state.forgets_anybody and state.forgotten == frozenset()
    assert not state.forgets("1", "ann", moment(1))


def test_an_identity_is_forgotten_up_to_a_moment() -> None:
    """What is older goes; the person may come back, under another user id."""
    state = fold([forgotten(5, identity="ann")])
    assert state.forgets("1", "ann", moment(4)) and state.forgets("1", "ann", moment(5))
    assert not state.forgets("2", "ann", moment(6))
    assert not state.forgets("1", "bob", moment(4))
    assert not state.forgets("1", None, moment(4))


def test_a_user_id_never_comes_back() -> None:
    """A process that has not heard yet may go on with it for a moment."""
    state = fold([forgotten(5, user_id="1")])
    assert state.forgets("1", None, moment(4)) and state.forgets("1", "ann", moment(6))
    assert not state.forgets("2", None, moment(4))


def test_a_forgotten_user_is_not_logged_in() -> None:
    """Whoever was logged in before is not; whoever logs in later is."""
    before, later = (moment(1), user("1", "ann"), False), (moment(9), user("2", "ann"), False)
    word = forgotten(5, identity="ann", user_id="1")
    assert fold([before, word]).user(APP, MACHINE) is None
    assert fold([before, word, later]).user(APP, MACHINE) == ("2", "ann")
    # A process that had not heard yet has said so once more.
    again = (moment(6), user("1", "ann"), False)
    assert fold([before, word, again]).user(APP, MACHINE) is None
    assert list(fold([before, word]).obsolete()) == list(before[1])


def test_no_name_stays() -> None:
    """The facet holds a hash, and that is forgotten when there are too many."""
    (name,) = forgotten(5, identity="ann")[1]
    assert is_forgotten(name) and "ann" not in name
    state = fold([forgotten(n, user_id=str(n)) for n in range(FORGOTTEN + 2)])
    assert set(state.obsolete()) == {forgotten_facet("0"), forgotten_facet("1")}


def test_removed_properties_are_not_remembered_for_ever() -> None:
    """The latest are, against records that come in late; in a process that runs on, too."""
    removed = [(moment(n), prop(str(n), None), False) for n in range(1, REMOVED + 3)]
    assert fold(removed).obsolete() == {property_facet(APP, "1"), property_facet(APP, "2")}

    state, kept = fold([(moment(0), prop("kept", "x"), False)]), 0
    for at, facets, _ in [(moment(n), prop(str(n), None), False) for n in range(1, 5 * REMOVED)]:
        before = set(state.facets)
        changed = state.apply_all(facets, at)
        assert before ^ set(state.facets) <= set(changed)
        kept = max(kept, len(state.facets))
    assert REMOVED < kept <= 2 * REMOVED + 2
    assert state.event_properties(APP) == {"kept": "x"}
    assert not state.apply_all(prop(str(5 * REMOVED - 1), "late"), moment(1))

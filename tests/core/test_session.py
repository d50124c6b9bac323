"""Rules of `heap_agent._core.session`: Heap's identity machine, and what may be an identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import HOSTILE, MaskedNumber, MaskedText

from heap_agent._core import limits
from heap_agent._core.session import (
    DOUBTFUL,
    NOTHING,
    REFUSED,
    TRANSITIONS,
    Call,
    Effect,
    Judged,
    State,
    User,
    effect_of,
    folded,
    id_from,
    judge,
    known_as,
    next_user,
    user_id_of,
)
from heap_agent.exceptions import InvalidCall

U1 = User("1")
U1_A = User("1", "A")

# -- the machine -------------------------------------------------------------------

#: What every call does in every state: (new user, takes the identity, new session).
EXPECTED = {
    (State.ANONYMOUS, Call.IDENTIFY): (False, True, False),
    (State.ANONYMOUS, Call.IDENTIFY_SAME): (False, False, False),
    (State.ANONYMOUS, Call.IDENTIFY_REFUSED): (False, False, False),
    (State.ANONYMOUS, Call.RESET): (False, False, False),
    (State.ANONYMOUS, Call.NEW_VISITOR): (True, False, True),
    (State.ANONYMOUS, Call.INIT): (False, False, True),
    (State.IDENTIFIED, Call.IDENTIFY): (True, True, True),
    (State.IDENTIFIED, Call.IDENTIFY_SAME): (False, False, False),
    (State.IDENTIFIED, Call.IDENTIFY_REFUSED): (True, False, True),
    (State.IDENTIFIED, Call.RESET): (True, False, True),
    (State.IDENTIFIED, Call.NEW_VISITOR): (True, False, True),
    (State.IDENTIFIED, Call.INIT): (False, False, True),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("call", Call)
def test_the_table_is_the_documented_one(state: State, call: Call) -> None:
    """Each call does in each state what Heap's own SDK does."""
    effect = TRANSITIONS.get((state, call), NOTHING)
    assert (effect.new_user, effect.take_identity, effect.new_session) == EXPECTED[state, call]


def test_nothing_in_the_table_is_without_effect() -> None:
    """What does nothing is not listed, so that the table is read at a glance."""
    assert NOTHING not in TRANSITIONS.values()
    assert set(TRANSITIONS) < set(EXPECTED)


def test_every_state_is_reached_and_left() -> None:
    """From a new, anonymous user every state can be reached, and left again."""
    reached, arrows = {State.ANONYMOUS}, set()
    for _ in State:
        for state in set(reached):
            user = U1 if state is State.ANONYMOUS else U1_A
            for call in Call:
                after = next_user(user, effect_of(user, call, "B"), "B", "2")
                reached.add(after.state)
                arrows.add((state, after.state))
    assert reached == set(State)
    assert (State.ANONYMOUS, State.IDENTIFIED) in arrows
    assert (State.IDENTIFIED, State.ANONYMOUS) in arrows


def apply(user: User, call: Call, identity: str | None = None, fresh: str = "2") -> User:
    """The user after one call."""
    return next_user(user, effect_of(user, call, identity), identity, fresh)


def test_anonymous_to_identified_keeps_the_user_id() -> None:
    """That is the join at Heap."""
    assert apply(U1, Call.IDENTIFY, "A") == User("1", "A")
    assert not effect_of(U1, Call.IDENTIFY, "A").new_session


def test_the_same_identity_again_does_nothing() -> None:
    """No new session, no new user."""
    assert effect_of(U1_A, Call.IDENTIFY, "A") == NOTHING


def test_identities_are_case_sensitive() -> None:
    """To Heap "a" is somebody else than "A"."""
    assert apply(U1_A, Call.IDENTIFY, "a") == User("2", "a")


def test_another_identity_takes_a_new_user_id() -> None:
    """Heap would drop a second identity for the old one."""
    assert apply(U1_A, Call.IDENTIFY, "B") == User("2", "B")
    assert effect_of(U1_A, Call.IDENTIFY, "B").new_session


def test_reset_only_counts_while_identified() -> None:
    """An identified user gives way to a new anonymous one; an anonymous one stays."""
    assert apply(U1_A, Call.RESET) == User("2")
    assert apply(U1, Call.RESET) == U1
    assert effect_of(U1, Call.RESET) == NOTHING


def test_a_refused_identity_logs_the_last_user_out() -> None:
    """The next visitor is not taken for the last."""
    assert apply(U1_A, Call.IDENTIFY_REFUSED) == User("2")
    assert apply(U1, Call.IDENTIFY_REFUSED) == U1


def test_a_new_visitor_is_nobody_who_was_there_before() -> None:
    """Also while anonymous."""
    assert apply(U1, Call.NEW_VISITOR) == apply(U1_A, Call.NEW_VISITOR) == User("2")


def test_init_again_changes_the_session_alone() -> None:
    """The user stays who it is."""
    assert apply(U1_A, Call.INIT) == U1_A
    assert effect_of(U1, Call.INIT).new_session


calls = st.lists(st.tuples(st.sampled_from(Call), st.sampled_from("ABC")), max_size=30)


@settings(max_examples=200)
@given(calls)
def test_a_user_id_has_one_identity_and_never_comes_back(history: list[tuple[Call, str]]) -> None:
    """Whatever the calls: one identity for a user_id at most, and none is used again."""
    fresh: Iterator[str] = (str(number) for number in range(2, 10_000))
    user, identities, gone = U1, {"1": {None}}, set()
    for call, identity in history:
        effect = effect_of(user, call, identity)
        after = next_user(user, effect, identity, next(fresh))
        if after.user_id != user.user_id:
            gone.add(user.user_id)
            assert effect.new_session
        assert after.user_id not in gone
        identities.setdefault(after.user_id, set()).add(after.identity)
        user = after
    assert all(len(known - {None}) <= 1 for known in identities.values())


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_ids_are_decimals_of_53_bits(bits: int) -> None:
    """Ids have no sign and no leading zeros, and JavaScript can hold them."""
    text = id_from(bits)
    assert text == str(int(text)) and 0 <= int(text) <= limits.SAFE_INTEGER


# -- what may be an identity -------------------------------------------------------


@pytest.mark.parametrize("value", sorted(REFUSED))
@pytest.mark.parametrize("change", [str, str.upper, str.title, " {}\t".format])
def test_values_that_many_users_would_share_are_refused(value: str, change: object) -> None:
    """In any case, and with space around them."""
    assert callable(change)
    found = judge(change(value))
    assert found == Judged(None, "many users would share this value")


@pytest.mark.parametrize(
    "value",
    [
        *("undefined", "null", "None", "nan", "user", "guest", "anonymous", "unauthenticated"),
        *("unknown", "n/a", "N/A", "00000000-0000-0000-0000-000000000000", "0" * 32),
        *("To be filled by O.E.M.", "Default string", "System Serial Number", "0123456789ABCDEF"),
        *("[object Object]", "{}", "[]", "True", "False", "raspberrypi", "localhost"),
        *(str(None), str(float("nan")), str(True), str({}), str([])),
    ],
)
def test_the_known_mistakes_are_on_the_list(value: str) -> None:
    """What Heap's documents name, and what languages and boards say for nothing."""
    assert judge(value).identity is None


@pytest.mark.parametrize(
    "value",
    [
        *("0123456789ABCDEF\0", "null\u200b", "\ufeffnull", "gu\u00adest", "\u202aNone\u202c"),
        *("ffffffff-ffff-ffff-ffff-ffffffffffff", "{00000000-0000-0000-0000-000000000000}"),
        *("02:00:00:00:00:00", "FF:FF:FF:FF:FF:FF", "00-00-00-00-00-00", "0000000000000000"),
        *("ERROR000000000", "9774d56d682e549c", "uninitialized\n", "localhost.localdomain"),
        *("03000200-0400-0500-0006-000700080009", "Not Specified", "Chassis Serial Number"),
        *("AnonymousUser", "logged out", "not_logged_in", "(null)", "<nil>", "(not set)"),
        *("<User: None>", "<User None>", "User object (None)", str(str), str(User)),
        *(str(()), str(set()), str(b""), repr("")),
    ],
    ids=ascii,
)
def test_what_devices_and_programs_say_for_nothing_is_refused(value: str) -> None:
    """Placeholders of boards, systems and libraries, whatever invisible characters are in them."""
    assert judge(value).identity is None


#: Characters that nobody sees.
invisible = st.characters(categories=["Cc", "Cf"])


@settings(max_examples=200)
@given(st.sampled_from(sorted(REFUSED)), st.lists(st.tuples(st.integers(0, 40), invisible)))
def test_invisible_characters_hide_no_refused_value(
    value: str, hidden: list[tuple[int, str]]
) -> None:
    """Wherever they stand."""
    for place, character in hidden:
        value = value[:place] + character + value[place:]
    assert judge(value) == Judged(None, "many users would share this value")


@given(st.text(st.one_of(invisible, st.sampled_from(" \u3000\n")), max_size=20))
def test_what_nobody_sees_names_nobody(value: str) -> None:
    """A text of nothing but control and format characters and space is blank."""
    assert judge(value, frozenset()) == Judged(None, "it is empty or blank")


def test_the_list_is_written_as_it_is_compared() -> None:
    """An entry in another form would never be found."""
    for value in REFUSED | DOUBTFUL:
        assert folded(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *("0", "00", "1234567890", "000123", "12:34:56:78:9a:bc", "02:00:00:00:00:01"),
        *("f47ac10b-58cc-4372-a567-0e02b2c3d479", "10000000cafebabe", "nullman", "noneill"),
        *("Guestrin", "<alice>", "User object (5)", "<User: alice>", "(alice)", "user1"),
    ],
)
def test_what_only_resembles_a_placeholder_is_taken(value: str) -> None:
    """No real user is refused for a part of a name."""
    assert judge(value).identity == value


def lambda_text() -> str:
    """How Python shows a lambda: a bracket within brackets."""
    return repr(lambda: None)


@pytest.mark.parametrize(
    "value",
    [repr(object()), str(judge), lambda_text(), repr(object().__str__), f"u-{object()!r}"],
    # Addresses are no names for tests: they are others in each process.
    ids=["object", "function", "lambda", "method", "within a text"],
)
def test_printed_objects_are_refused(value: str) -> None:
    """The address in a repr is another one after each start."""
    assert judge(value).identity is None
    assert judge(value, frozenset()).identity is None


@pytest.mark.parametrize("value", [None, "", " ", "\t\n", "\u3000"])
def test_nothing_is_refused(value: str | None) -> None:
    """None, empty and blank name nobody, whatever list is in force."""
    assert judge(value, frozenset()).identity is None


@pytest.mark.parametrize("unit, units", [("x", 1), ("é", 1), ("😀", 2)])
def test_lengths_are_utf16_units(unit: str, units: int) -> None:
    """254 units pass, one more is refused and never cut."""
    fitting = unit * (limits.IDENTITY // units)
    assert judge(fitting).identity == fitting
    assert judge(fitting + unit).identity is None
    assert "254" in str(judge(fitting + unit).complaint)


@pytest.mark.parametrize("value", ["\ud800", "alice\udfff", "\udc00\ud83d"])
def test_half_a_surrogate_pair_is_refused(value: str) -> None:
    """It cannot be sent as it is, and a repaired identity would be another one."""
    assert judge(value).identity is None


@pytest.mark.parametrize(
    "value, complaint",
    [
        *((value, "may not be unique") for value in sorted(DOUBTFUL)),
        *((value.upper(), "may not be unique") for value in sorted(DOUBTFUL)),
        *((value, "may not be unique") for value in ("x", "42", "0")),
        *((value, "may not be unique") for value in ("\ufeffx\0", "test\0")),
        *((value, "space") for value in (" alice", "alice\n")),
        *((value, "invisible") for value in ("alice\0", "\ufeffalice", "al\u200bice", "a\tlice")),
        *((value, "e-mail") for value in ("Alice@example.com", "alice@Example.com")),
    ],
)
def test_doubtful_ones_are_taken_with_a_word(value: str, complaint: str) -> None:
    """A warning, and the identity as it came."""
    found = judge(value)
    assert found.identity == value
    assert complaint in str(found.complaint)


@pytest.mark.parametrize(
    "value",
    [
        "alice123",
        "alice@example.com",
        "My user & % = test",
        "Ünï-çødé",
        "name with spaces",
        "a:b:c",
        "نام\u200cها",
        "👨\u200d👩\u200d👧",
    ],
)
def test_good_ones_are_taken_without_a_word(value: str) -> None:
    """Nothing is changed or said."""
    assert judge(value) == Judged(value)


@pytest.mark.parametrize("value, text", [(12345, "12345"), (-123, "-123"), (2**64, str(2**64))])
def test_integers_are_their_decimal_text(value: int, text: str) -> None:
    """An int of a database is the same user as its text."""
    assert judge(value) == Judged(text)


@pytest.mark.parametrize("digits", [255, 4_299, 4_301, 100_000])
def test_huge_integers_are_refused_without_printing_them(digits: int) -> None:
    """Python refuses to print more than 4,300 digits; no call may end in that."""
    assert judge(10**digits).identity is None


class Shouting(str):
    """Text that says something else about itself."""

    def __str__(self) -> str:
        return "SOMEBODY ELSE"

    def strip(self, chars: str | None = None) -> str:
        return "nobody"


class Numbering(int):
    """An int that says something else about itself."""

    def __str__(self) -> str:
        return "nobody"

    __repr__ = __str__

    def bit_length(self) -> int:
        return 10**9


def test_a_subclass_counts_as_what_it_holds() -> None:
    """The text or number itself is the identity, exactly and of the plain type."""
    found = judge(Shouting("alice"))
    assert found == Judged("alice") and type(found.identity) is str
    assert judge(Numbering(12345)) == Judged("12345")


@pytest.mark.parametrize("value", [1.5, True, False, b"alice", ["alice"], {"id": 1}, object()])
def test_other_types_are_the_programs_fault(value: object) -> None:
    """The error says which argument, what came and what is allowed."""
    with pytest.raises(InvalidCall, match=f"^identity must be .*254.*got {type(value).__name__}$"):
        judge(value)


@pytest.mark.parametrize("ask", [judge, known_as, user_id_of])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_objects_that_lie_or_raise_when_asked_what_they_are_are_the_programs_fault(
    ask: Callable[[object], object], hostile: str
) -> None:
    """They raise nothing of their own."""
    with pytest.raises(InvalidCall):
        ask(HOSTILE[hostile]())


def test_text_and_numbers_that_hide_their_class_are_what_they_hold() -> None:
    """Only their base class is asked."""
    assert judge(MaskedText("alice")) == Judged("alice")
    assert judge(MaskedNumber(12345)) == Judged("12345")
    assert known_as(MaskedText("alice")) == "alice"
    assert user_id_of(MaskedNumber(5)) == "5"


def test_the_list_can_be_another_one() -> None:
    """Instead of the built-in list; what names nobody is refused all the same."""
    mine = frozenset({"kiosk"})
    assert judge(" KIOSK ", mine).identity is None
    assert judge("guest", mine).identity == "guest"


@settings(max_examples=300)
@given(
    st.one_of(
        st.none(), st.text(st.characters()), st.text(st.characters(), min_size=200), st.integers()
    )
)
def test_an_identity_is_never_changed(value: str | int | None) -> None:
    """It is taken exactly as it came, or not at all."""
    found = judge(value)
    if found.identity is None:
        assert found.complaint
    else:
        assert found.identity == str(value)
        found.identity.encode()


def test_effects_are_plain_values() -> None:
    """Two effects that do the same are the same."""
    assert Effect() == NOTHING


# -- naming somebody who is to be forgotten ---------------------------------------------


@pytest.mark.parametrize(("value", "text"), [("ann", "ann"), (7, "7"), ("guest", "guest")])
def test_whoever_may_be_known_can_be_named(value: object, text: str) -> None:
    """Also by a value that would be refused today."""
    assert known_as(value) == text


@pytest.mark.parametrize(
    "value", [None, True, 1.5, b"ann", "", "  ", " " * 9_999, pytest.param(10**5000, id="huge")]
)
def test_what_is_nobodys_name_is_wrong_use(value: object) -> None:
    """It could not be anybody's identity."""
    with pytest.raises(InvalidCall, match="identity must be") as info:
        known_as(value)
    assert len(str(info.value)) < 200


@pytest.mark.parametrize("value", ["\ud800", "ann\udfff", "\udc00\ud83d"])
def test_half_a_surrogate_pair_is_nobodys_name(value: str) -> None:
    """No identity or user id ever had one, and it could not be written down."""
    with pytest.raises(InvalidCall, match="identity must be .*half a surrogate pair"):
        known_as(value)
    with pytest.raises(InvalidCall, match="user_id must be"):
        user_id_of(value)


@pytest.mark.parametrize(("value", "text"), [(5, "5"), ("5", "5"), ("005", "5"), (0, "0")])
def test_a_user_id_is_digits(value: object, text: str) -> None:
    """As an int or as text."""
    assert user_id_of(value) == text


@pytest.mark.parametrize(
    "value", [None, True, -1, "-1", "ann", "", "\u0665", 1.0, pytest.param(10**5000, id="huge")]
)
def test_what_is_no_user_id_is_wrong_use(value: object) -> None:
    """It could not be anybody's user id."""
    with pytest.raises(InvalidCall, match="user_id must be"):
        user_id_of(value)

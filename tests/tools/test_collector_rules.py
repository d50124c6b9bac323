"""
The collector's rules without HTTP: strict JSON, Heap's limits, merging of users.
"""

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.heap_book import Book, Limits
from heap_agent._tools.heap_json import Refused, cut, item_sources, read
from heap_agent._tools.heap_rules import DeletionUser, Event, Identify, Rules, UserProperties

NOW = datetime(2026, 1, 15, 12, tzinfo=timezone.utc)
STRICT = Rules()
LENIENT = Rules(strict=False)

scalars = st.text(max_size=8) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = scalars | st.none() | st.lists(scalars, max_size=2)
json_values |= st.dictionaries(st.text(max_size=4), json_values, max_size=2)


def document(members):
    return read(json.dumps(members).encode())


def one_event(rules=STRICT, **members):
    (event,) = rules.track(document({"app_id": "11", **members}), NOW)
    return event


def event(user_id=None, identity=None, key=None, app_id="11", raw=b"{}"):
    return Event(app_id, "e", identity, user_id, None, NOW, {}, key, raw)


# -- JSON ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "one JSON object"),
        (b'"text"', "one JSON object"),
        (b"\xff{}", "invalid UTF-8 at byte 0"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a finite double"),
        (b'{"a": -1' + b"0" * 400 + b"}", "a finite double"),
        (b'{"a": 1, "a": 1}', "'a' came twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' came twice"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\uDC00": 1}', "lone surrogate"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "a finite double"),
    ],
)
def test_bodies_that_are_not_strict_json_are_refused(body, word):
    """A body that is not one UTF-8 JSON object of finite numbers and single names is refused."""
    with pytest.raises(Refused, match=word) as refused:
        read(body)

    assert 400 == refused.value.status


def test_escaped_pairs_are_whole_characters():
    """A character outside the basic plane may be written as two escapes."""
    assert {"a": "\U0001f600"} == read(b'{"a": "\\ud83d\\ude00"}').members


@given(
    before=st.dictionaries(st.text(max_size=4).filter(lambda name: name != "events"), json_values),
    items=st.lists(json_values, max_size=4),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_item_sources_are_the_items(before, items, indent, ascii_only):
    """The pieces of source text parse to the array's items, wherever the array stands."""
    text = json.dumps({**before, "events": items, "z": 1}, indent=indent, ensure_ascii=ascii_only)

    sources = list(item_sources(text, "events"))

    assert items == [json.loads(source) for source in sources]
    assert all(source == source.strip() and source in text for source in sources)


@given(st.text(), st.integers(0, 20))
def test_cut_keeps_whole_characters(text, units):
    """What `cut` returns is the longest beginning that fits and holds no half character."""
    result = cut(text, units)
    following = text[len(result) : len(result) + 1]

    assert text.startswith(result)
    assert len(result.encode("utf-16-le")) // 2 <= units
    assert not following or len((result + following).encode("utf-16-le")) // 2 > units


# -- fields --------------------------------------------------------------------

GOOD = {"app_id": "11", "event": "e", "user_id": "5"}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({**GOOD, "app_id": 11}, "app_id: 11"),
        ({**GOOD, "app_id": "x1"}, "app_id"),
        ({**GOOD, "app_id": ""}, "app_id"),
        ({**GOOD, "app_id": "١"}, "app_id"),
        ({"event": "e", "user_id": "5"}, "app_id: missing"),
        ({"app_id": "11", "user_id": "5"}, "event: missing"),
        ({**GOOD, "event": ""}, "event"),
        ({**GOOD, "event": "e" * 1025}, "event"),
        ({**GOOD, "event": "\U0001f600" * 513}, "event"),
        ({**GOOD, "event": 7}, "event: 7"),
        ({"app_id": "11", "event": "e"}, "neither"),
        ({**GOOD, "identity": "a"}, "both"),
        ({"app_id": "11", "event": "e", "identity": ""}, "identity"),
        ({"app_id": "11", "event": "e", "identity": "i" * 256}, "identity"),
        ({"app_id": "11", "event": "e", "identity": 7}, "identity"),
        ({**GOOD, "user_id": 5}, "user_id: 5"),
        ({**GOOD, "user_id": "05"}, "user_id"),
        ({**GOOD, "user_id": "-1"}, "user_id"),
        ({**GOOD, "user_id": "9007199254740992"}, "user_id"),
        ({**GOOD, "session_id": 5}, "session_id"),
        ({**GOOD, "idempotency_key": 5}, "idempotency_key"),
        ({**GOOD, "idempotency_key": ""}, "idempotency_key"),
        ({**GOOD, "color": "red"}, "color"),
        ({**GOOD, "timestamp": None}, "timestamp: null"),
        ({**GOOD, "timestamp": 1767225600000}, "timestamp"),
        ({**GOOD, "timestamp": "2026-01-01"}, "timestamp"),
        ({**GOOD, "timestamp": "2026-01-01T00:00:00"}, "timestamp"),
        ({**GOOD, "timestamp": "2026-02-30T00:00:00Z"}, "timestamp"),
        ({**GOOD, "timestamp": "2026-01-01T00:00:00+24:00"}, "timestamp"),
        ({**GOOD, "timestamp": "0001-01-01T00:00:00+01:00"}, "timestamp"),
        ({**GOOD, "properties": None}, "properties: null"),
        ({**GOOD, "properties": []}, "properties: a list"),
        ({**GOOD, "properties": {"a": True}}, r"properties\['a'\]: true"),
        ({**GOOD, "properties": {"a": None}}, r"properties\['a'\]: null"),
        ({**GOOD, "properties": {"a": {"b": 1}}}, r"properties\['a'\]: an object"),
        ({**GOOD, "properties": {"a": [1, None]}}, r"properties\['a'\]\[1\]: null"),
        ({**GOOD, "properties": {"a": "v" * 1025}}, r"properties\['a'\]"),
        ({**GOOD, "properties": {"k" * 1025: 1}}, "a key of 1025 characters"),
        ({"app_id": "11", "events": []}, "events: 0 items"),
        ({"app_id": "11", "events": [{}] * 1001}, "events: 1001 items"),
        ({"app_id": "11", "events": {}}, "events: an object"),
        ({"app_id": "11", "events": ["e"]}, r"events\[0\]"),
        ({"app_id": "11", "events": [GOOD]}, r"events\[0\].app_id"),
        ({**GOOD, "events": []}, "event: this field is not allowed"),
    ],
)
def test_track_refuses_and_names_the_field(members, field):
    """Whatever the page of `track` does not allow is refused, with the field's name and value."""
    with pytest.raises(Refused, match=field):
        STRICT.track(document(members), NOW)


def test_track_takes_the_largest_allowed_values():
    """Every documented limit is itself allowed."""
    properties = {"k" * 1024: "v" * 1024, "": ""}

    found = one_event(
        event="e" * 1024,
        user_id="9007199254740991",
        properties=properties,
        session_id="s",
    )

    assert properties == found.properties
    assert "i" * 255 == one_event(event="e", identity="i" * 255).identity
    assert "0" == one_event(event="e", user_id="0").user_id


def test_track_takes_a_thousand_events():
    """A request may hold 1000 events, each with the bytes that it came in."""
    items = [{"event": f"e{n}", "user_id": "5"} for n in range(1000)]

    events = STRICT.track(document({"app_id": "11", "events": items}), NOW)

    assert items == [json.loads(found.raw) for found in events]
    assert [f"e{n}" for n in range(1000)] == [found.event for found in events]


def test_a_lone_event_keeps_the_whole_body():
    """The bytes of an event that came alone are the body's."""
    body = b' { "app_id":"11","event":"\xc3\xa9", "user_id":"5"}'

    (found,) = STRICT.track(read(body), NOW)

    assert body == found.raw


@pytest.mark.parametrize(
    ("value", "joined"),
    [
        (["a", "b"], "a||b"),
        ([1, 2.5, 1.0, 1e300], "1||2.5||1||1e+300"),
        ([1e-5, 1.5e-6, 1e-7, -2.5e-17], "0.00001||0.0000015||1e-7||-2.5e-17"),
        ([1e20, 1e21, 12345678901234567890], "100000000000000000000||1e+21||12345678901234567000"),
        ([0, -0.0, -1.25, 5e-324], "0||0||-1.25||5e-324"),
        ([], ""),
        (["x" * 1020, "y" * 10], "x" * 1020 + "||yy"),
    ],
)
def test_lists_are_joined_and_cut(value, joined):
    """A list becomes text joined with two bars, of at most 1024 characters."""
    assert {"a": joined} == one_event(event="e", user_id="5", properties={"a": value}).properties


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2017-03-10T22:21:56+00:00", datetime(2017, 3, 10, 22, 21, 56)),
        ("2017-03-10T22:21:56Z", datetime(2017, 3, 10, 22, 21, 56)),
        ("2017-03-10T22:21:56.5-0130", datetime(2017, 3, 10, 23, 51, 56, 500_000)),
        ("2017-03-10T22:21:56.123456789+01:00", datetime(2017, 3, 10, 21, 21, 56, 123_456)),
    ],
)
def test_timestamps_are_read_as_utc(text, expected):
    """ISO-8601 with an offset is taken, and kept in UTC to the microsecond."""
    found = one_event(event="e", user_id="5", timestamp=text)

    assert expected.replace(tzinfo=timezone.utc) == found.timestamp
    assert found.has_timestamp


def test_a_missing_timestamp_is_the_time_of_arrival():
    """Without a timestamp the event happened now, and that is noted."""
    found = one_event(event="e", user_id="5")

    assert (NOW, False) == (found.timestamp, found.has_timestamp)


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-1439, 1439))
def test_any_timestamp_of_python_is_read_back(moment, minutes):
    """What `isoformat` writes for any aware datetime is read as the same instant."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))

    assert aware == one_event(event="e", user_id="5", timestamp=aware.isoformat()).timestamp


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"app_id": "11", "user_id": "5"}, "identity: missing"),
        ({"app_id": "11", "identity": "a"}, "user_id: missing"),
        ({"user_id": "5", "identity": "a"}, "app_id: missing"),
        ({"app_id": "11", "user_id": 5, "identity": "a"}, "user_id: 5"),
        ({"app_id": "11", "user_id": "5", "identity": ""}, "identity"),
        ({"app_id": "11", "user_id": "5", "identity": "a", "timestamp": "now"}, "timestamp"),
        ({"app_id": "11", "user_id": "5", "identity": "a", "properties": {}}, "properties"),
        ({"app_id": "11", "users": []}, "users"),
    ],
)
def test_identify_refuses_and_names_the_field(members, field):
    """Whatever the page of `identify` does not allow, bulk included, is refused."""
    with pytest.raises(Refused, match=field):
        STRICT.identify(document(members), NOW)


def properties_of(members):
    return STRICT.user_properties(document({"app_id": "11", **members}))


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"identity": "a"}, "properties: missing"),
        ({"properties": {}}, "identity: missing"),
        ({"user_id": "5", "properties": {}}, "user_id: this field is not allowed"),
        ({"identity": "a", "properties": {"user_id": 1}}, "'user_id' is reserved"),
        ({"identity": "a", "properties": {"id": 1}}, "'id' is reserved"),
        ({"identity": "a", "properties": {"iD": 1}}, "'iD' is reserved"),
        ({"identity": "a", "properties": {"a": ["b"]}}, "a list"),
        ({"identity": "a", "properties": {"a": "v" * 1025}}, "at most 1024"),
        ({"users": []}, "users: 0 items"),
        ({"users": [{"identity": "a", "properties": {}}] * 1001}, "users: 1001 items"),
        ({"users": [{"identity": "a", "properties": {}, "x": 1}]}, r"users\[0\].x"),
        ({"users": [], "identity": "a", "properties": {}}, "identity: this field is not allowed"),
    ],
)
def test_user_properties_refuse_and_name_the_field(members, field):
    """Whatever the page of `add_user_properties` does not allow is refused."""
    with pytest.raises(Refused, match=field):
        properties_of(members)


def test_user_properties_come_alone_or_in_bulk():
    """Both forms give the same values; `User_ID` is not reserved."""
    one = {"identity": "a", "properties": {"User_ID": 1, "email": "a@b"}}

    assert properties_of(one) == properties_of({"users": [one]})


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"content-type": "application/json"}, True),
        ({"content-type": "Application/JSON; charset=UTF-8"}, True),
        ({"content-type": "application/json", "content-encoding": "identity"}, True),
        ({}, False),
        ({"content-type": "text/plain"}, False),
        ({"content-type": "application/json; charset=latin-1"}, False),
        ({"content-type": "application/json", "content-encoding": "gzip"}, False),
    ],
)
def test_only_plain_json_is_allowed(headers, allowed):
    """The body must be declared as uncompressed JSON, in UTF-8 if it says so at all."""
    if allowed:
        STRICT.check_headers(headers)
        return
    with pytest.raises(Refused, match="Content-"):
        STRICT.check_headers(headers)


def test_lenient_rules_take_what_is_seen_in_the_wild():
    """Without strictness undocumented forms are taken, and turned into documented ones."""
    LENIENT.check_headers({})
    found = one_event(
        LENIENT,
        event="e",
        user_id="5",
        color="red",
        timestamp=1767225600000,
        properties={"a": True, "b": None, "c": {"d": 1}},
    )

    assert {"a": "true", "c": '{"d": 1}'} == found.properties
    assert datetime(2026, 1, 1, tzinfo=timezone.utc) == found.timestamp
    naive = one_event(LENIENT, event="e", user_id="5", timestamp="2026-01-01T00:00:00")
    assert found.timestamp == naive.timestamp
    with pytest.raises(Refused, match="timestamp"):
        one_event(LENIENT, event="e", user_id="5", timestamp=1e30)


# -- the book ------------------------------------------------------------------


def test_a_known_key_changes_nothing():
    """The same key again is a duplicate, and a conflict only where the bytes differ."""
    book = Book()
    first, same, other = event("5", key="k"), event("5", key="k"), event("5", key="k", raw=b"{ }")
    elsewhere, keyless = event("5", key="k", app_id="12"), event("5")

    book.add_events([first, same, elsewhere, keyless, keyless, other])

    assert [first, elsewhere, keyless, keyless] == book.events
    assert [same, other] == book.duplicates
    assert [(first, other)] == [(found.first, found.again) for found in book.conflicts]


def test_identify_moves_past_and_later_events():
    """Events of an anonymous user belong to the identity, whenever they came."""
    book = Book()
    before, after, own = event("5"), event("5"), event(identity="alice")

    book.add_events([before])
    book.identify(Identify("11", "5", "alice", NOW), NOW)
    book.add_events([after, own])

    (user,) = book.users()
    assert ("alice", ("5",), (before, after, own)) == (user.identity, user.user_ids, user.events)


def test_a_user_id_has_one_identity_for_ever():
    """Another identity for the same user_id is dropped, and does not create a user."""
    book = Book()

    book.identify(Identify("11", "5", "alice", NOW), NOW)
    book.identify(Identify("11", "5", "bob", NOW), NOW)
    book.identify(Identify("12", "5", "bob", NOW), NOW)

    assert [("11", "alice"), ("12", "bob")] == [(u.app_id, u.identity) for u in book.users()]
    assert ["bob"] == [ignored.identify.identity for ignored in book.ignored]


def test_an_identity_takes_ten_user_ids_a_month():
    """The 11th stays anonymous; asking again costs nothing; the next month has room."""
    book = Book()
    for number in [0, *range(11)]:
        book.identify(Identify("11", str(number), "alice", NOW), NOW)
    book.add_events([event("10")])

    assert [10, 1] == [len(user.user_ids) for user in book.users()]
    assert ["10"] == [ignored.identify.user_id for ignored in book.ignored]

    book.identify(Identify("11", "10", "alice", NOW), NOW + timedelta(days=31))

    assert [11] == [len(user.user_ids) for user in book.users()]


def test_the_last_user_property_wins():
    """User properties are merged per key; an unknown identity becomes a user without events."""
    book = Book()

    book.add_user_properties([UserProperties("11", "alice", {"a": 1, "b": 1})])
    book.add_user_properties([UserProperties("11", "alice", {"b": "2"})])

    (user,) = book.users()
    assert ({"a": 1, "b": "2"}, ()) == (user.properties, user.events)


calls = st.lists(
    st.tuples(
        st.sampled_from(["track", "identify", "properties"]),
        st.sampled_from("123"),
        st.sampled_from(["alice", "bob"]),
    ),
    max_size=30,
)


def write(book, steps):
    for verb, user_id, identity in steps:
        if verb == "track":
            book.add_events([event(user_id, key=user_id), event(identity=identity)])
        elif verb == "identify":
            book.identify(Identify("11", user_id, identity, NOW), NOW)
        else:
            book.add_user_properties([UserProperties("11", identity, {"a": user_id})])


@given(calls)
def test_merging_loses_nobody(steps):
    """After any series of calls each event and each user_id belongs to exactly one user."""
    book = Book()
    owners = {}
    write(book, steps)
    for verb, user_id, identity in steps:
        if verb == "identify":
            owners.setdefault(user_id, identity)

    users = book.users()

    assert sorted(map(id, book.events)) == sorted(id(e) for u in users for e in u.events)
    for user in users:
        for user_id in user.user_ids:
            assert owners.get(user_id) == user.identity
        for found in user.events:
            assert user.identity == (found.identity or owners.get(found.user_id))
    assert len(users) == len({(user.identity, user.identity or user.user_ids) for user in users})


names = st.builds(DeletionUser, st.none(), st.sampled_from("1234")) | st.builds(
    DeletionUser, st.sampled_from(["alice", "bob", "carol", "1"]), st.none()
)


@given(calls, st.lists(names, max_size=3))
def test_a_deletion_takes_whom_it_names_and_nobody_else(steps, named):
    """Users that were named are gone with their events; all others are as they were."""
    book = Book()
    write(book, steps)
    left = [
        user
        for user in book.users()
        if DeletionUser(user.identity, None) not in named
        and not any(DeletionUser(None, user_id) in named for user_id in user.user_ids)
    ]

    book.delete(named)

    assert left == book.users()
    assert sorted(map(id, book.events)) == sorted(id(e) for user in left for e in user.events)


@given(calls, calls)
def test_a_deleted_user_leaves_no_trace(steps, more):
    """After everybody was deleted the book goes on like a new one."""
    old, new = Book(), Book()
    write(old, steps)
    old.delete(DeletionUser(name, None) for name in ("alice", "bob"))
    old.delete(DeletionUser(None, name) for name in "123")
    noted = len(old.duplicates), len(old.ignored)

    write(old, more)
    write(new, more)

    assert (new.users(), new.events) == (old.users(), old.events)
    assert new.duplicates == old.duplicates[noted[0] :]
    assert new.ignored == old.ignored[noted[1] :]


def test_adding_tells_what_is_new():
    """Whoever adds events learns which of them were known already."""
    book = Book()
    first, again, other = event("5", key="k"), event("5", key="k"), event("5")

    assert ([first, other], [again]) == book.add_events([first, again, other])
    assert ([], [again]) == book.add_events([again])


# -- rate limits ---------------------------------------------------------------


def spend_events(limits, count, now, enforce=False, **actor):
    return limits.spend(limits.events((event(**actor),) * count, bulk=True), now, enforce=enforce)


def test_the_window_of_a_limit_slides():
    """No sixty seconds whatever may hold more than 1000 events of one identity."""
    limits = Limits()

    assert spend_events(limits, 600, 0.0, identity="a") is None
    assert spend_events(limits, 400, 30.0, identity="a") is None
    assert spend_events(limits, 1000, 30.0, identity="b") is None
    assert 30 == spend_events(limits, 1, 30.0, identity="a")
    assert spend_events(limits, 599, 60.0, identity="a") is None

    (over,) = limits.over
    assert (1001, 1000, "a") == (over.came, over.allowed, over.who)


def test_an_enforced_limit_does_not_count_what_it_refuses():
    """A refused request uses nothing up, so that waiting as told is enough."""
    limits = Limits()
    spend_events(limits, 1000, 0.0, identity="a")

    assert 60 == spend_events(limits, 1000, 0.0, enforce=True, identity="a")
    assert spend_events(limits, 1000, 60.0, enforce=True, identity="a") is None


def test_an_app_takes_15000_events_a_minute():
    """The limit of an app counts all its users, and no other app's."""
    limits = Limits()
    for number in range(15):
        spend_events(limits, 1000, 0.0, user_id=str(number))
    assert [] == limits.over

    spend_events(limits, 1, 0.0, user_id="99", app_id="12")
    assert [] == limits.over
    spend_events(limits, 1, 0.0, user_id="99")

    assert [None] == [over.who for over in limits.over]


def test_thirty_single_requests_in_thirty_seconds():
    """Single events and user properties are limited by requests for each identity."""
    limits = Limits()
    single = limits.events((event(identity="a"),), bulk=False)
    users = limits.users((UserProperties("11", "a", {}), UserProperties("11", "a", {})))
    for _ in range(30):
        assert limits.spend(single, 0.0, enforce=False) is None
        assert limits.spend(users, 0.0, enforce=False) is None

    assert 30 == limits.spend(single, 0.0, enforce=False)
    assert 30 == limits.spend(users, 0.0, enforce=False)

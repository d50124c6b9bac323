"""
Bytes that nobody of ours wrote: whatever comes, nothing escapes and nothing wrong passes.

What once broke something stands here as an explicit example.
"""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Iterable
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from helpers import balanced, opened
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trials import tries

from heap_agent._core import limits, records, wire
from heap_agent._core.events import Actor, Kind
from heap_agent._store.parts import Chunk, find_parts, part_path, read_part
from heap_agent._tools.collector_desk import Desk
from heap_agent.testing import FakeClock

JOURNAL = "0123456789abcdef"
SALT = 4_242
HEADER = records.PartHeader("a boot", JOURNAL, SALT, 0)

#: Any JSON, with numbers that are hard to bear.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from([10**400, -1, 2**63, 1e308, ""])
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


# -- the journal ----------------------------------------------------------------------


def framed(text: bytes) -> bytes:
    """Bytes that look like a part's header, with the right length and checksum."""
    return records.PART_MAGIC + pack("<II", len(text), crc32(text)) + text


def mutated(content: bytes, changes: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Bytes after some accidents."""
    damaged = bytearray(content)
    for what, where, new in changes:
        at = where % (len(damaged) + 1)
        if what == "over":
            damaged[at : at + len(new)] = new
        elif what == "in":
            damaged[at:at] = new
        elif what == "out":
            del damaged[at : at + 1 + len(new) * 7]
        elif what == "cut":
            del damaged[at:]
        else:
            # A stretch of the same file, as a block that was written elsewhere.
            damaged[at:at] = damaged[: where % 311]
    return bytes(damaged)


ACCIDENTS = st.lists(
    st.tuples(
        st.sampled_from(["over", "in", "out", "cut", "copy"]),
        st.integers(0, 4_000),
        st.binary(min_size=1, max_size=30)
        | st.sampled_from([records.RECORD_MAGIC, records.PART_MAGIC, bytes(64)]),
    ),
    max_size=6,
)


@settings(max_examples=tries(150, 10_000))
@given(data=st.binary(max_size=80) | st.binary(max_size=60).map(framed))
@example(framed(b""))
@example(framed(b"\xff"))
@example(framed(b"[" * 100_000))
@example(records.pack_header(HEADER)[:-1])
def test_any_bytes_are_a_header_or_none(data: bytes) -> None:
    """Also with the right checksum over something that is no header."""
    assert records.unpack_header(data) is None


@settings(max_examples=tries(120, 4_000))
@given(
    fields=JSON
    | st.fixed_dictionaries(
        {
            "boot": st.just("b") | JSON,
            "writer": st.just(JOURNAL) | JSON,
            "salt": st.just(SALT) | JSON,
            "first": st.just(0) | JSON,
            "replaces": st.none() | st.lists(st.integers(), max_size=3) | JSON,
        }
    )
)
@example({"boot": "b", "writer": JOURNAL, "salt": -1, "first": 0, "replaces": None})
@example({"boot": "b", "writer": JOURNAL, "salt": 1.5, "first": 0, "replaces": None})
@example({"boot": "b", "writer": JOURNAL, "salt": 2**70, "first": 0, "replaces": None})
@example({"boot": "b", "writer": JOURNAL, "salt": 1, "first": 0, "replaces": [1]})
@example({"boot": "b", "writer": JOURNAL, "salt": 1, "first": 2**64, "replaces": None})
@example([])
def test_a_header_is_whole_or_none(fields: Any) -> None:
    """A header that is accepted can be read with; one of another make is none."""
    header = records.unpack_header(framed(json.dumps(fields).encode()))
    if header is not None:
        data = records.pack_record(header.salt, 1, 0, 0, 0, header.first, b"{}")
        walk = records.read_records(data, header, at=0, previous=-1, complete=True)
        assert [type(item) for item in walk] == [records.Record]
        assert records.unpack_header(records.pack_header(header)) == header


def written(bodies: list[bytes], salt: int = SALT) -> bytes:
    """A part with these bodies."""
    rows = [
        records.pack_record(salt, int(Kind.EVENT), 0, 1_000 * n, 1_000 * n, n, body)
        for n, body in enumerate(bodies)
    ]
    return records.pack_header(HEADER) + b"".join(rows)


def read_to_the_end(path: Path, *, complete: bool, limit: int) -> list[Chunk]:
    """All that a reader gets of a part, piece by piece."""
    chunks: list[Chunk] = []
    position = 0
    for _ in range(200):
        chunk = read_part(path, position, complete=complete, limit=limit)
        assert chunk is not None
        chunks.append(chunk)
        if chunk.finished or (chunk.end == position and not chunk.records):
            return chunks
        assert chunk.end >= position
        position = chunk.end
    raise AssertionError("the reader does not come to an end")


@settings(max_examples=tries(120, 4_000))
@given(
    bodies=st.lists(st.binary(max_size=200), max_size=12),
    accidents=ACCIDENTS,
    complete=st.booleans(),
    limit=st.sampled_from([64, 500, 1 << 20]),
)
@example([b"x"] * 3, [("over", 0, bytes(8))], True, 64)
@example([b"x" * 199] * 3, [("over", 140, records.RECORD_MAGIC)], True, 64)
@example([b"x"] * 3, [("copy", 310, b"x")], True, 500)
def test_a_damaged_part_yields_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    bodies: list[bytes],
    accidents: list[tuple[str, int, bytes]],
    complete: bool,
    limit: int,
) -> None:
    """The reader ends, raises nothing, and lets no record pass that was not written so."""
    path = part_path(tmp_path_factory.getbasetemp(), JOURNAL, 1)
    path.write_bytes(mutated(written(bodies), accidents))
    chunks = read_to_the_end(path, complete=complete, limit=limit)
    for chunk in chunks:
        assert chunk.damaged >= 0
        for record in chunk.records:
            assert (record.kind, record.flags) == (int(Kind.EVENT), 0)
            assert record.wall == record.boot_clock == record.sequence
            assert record.body == bodies[record.sequence]
    if not accidents:
        assert [r.sequence for chunk in chunks for r in chunk.records] == list(range(len(bodies)))


@settings(max_examples=tries(120, 4_000))
@given(data=st.binary(max_size=600), complete=st.booleans())
def test_noise_is_no_record(data: bytes, complete: bool) -> None:
    """Behind a good header any bytes are damage, or not yet there."""
    found = list(records.read_records(data, HEADER, at=0, previous=-1, complete=complete))
    assert not any(isinstance(item, records.Record) for item in found)


#: What a change of state may hold, with anything in the places of texts.
ANY_FIELDS = st.lists(JSON | st.sampled_from(["11", "1", "ann"]), max_size=6)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "set": JSON | st.dictionaries(st.text(max_size=8), JSON),
        "identify": ANY_FIELDS,
        "persons": st.lists(ANY_FIELDS, max_size=2) | JSON,
        "gone": ANY_FIELDS,
        "purge": JSON,
    },
)
ASKED = st.fixed_dictionaries(
    {"id": JSON, "what": JSON | st.just("flush")}, optional={"arguments": JSON}
)
COUNTED = st.dictionaries(st.text(max_size=8), st.integers(-(2**70), 2**70) | JSON)
USER = JSON.map(lambda value: b'["11","1","ann","7"]\n' + json.dumps(value).encode())


def words(kind: Kind, bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Records of one kind whose bodies are almost as they should be."""
    dumped = bodies.map(lambda body: body if type(body) is bytes else json.dumps(body).encode())
    return st.tuples(st.just(int(kind)), st.just(0), st.integers(0, 10**18), dumped)


WORDS = st.one_of(
    words(Kind.STATE, CHANGES),
    words(Kind.REQUEST, ASKED),
    words(Kind.COUNTS, COUNTED),
    words(Kind.USER_PROPERTIES, USER),
)

RECORDS = st.lists(
    WORDS
    | st.tuples(
        st.sampled_from([int(kind) for kind in Kind]) | st.integers(0, 255),
        st.integers(0, 255),
        st.sampled_from([0, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1),
        st.binary(max_size=60)
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.tuples(JSON, JSON, JSON).map(
            lambda lines: b"\n".join(json.dumps(line).encode() for line in lines)
        )
        | JSON.map(lambda value: b'["11","1",null,"7"]\n"E"\n' + json.dumps(value).encode()),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=tries(12, 600))
@given(rows=RECORDS)
@example([(int(Kind.EVENT), 0, 2**63 - 1, b'["11","1",null,"7"]\n"E"\n{}')])
@example([(int(Kind.EVENT), 255, -(2**63), b'["11","1",null,"7"]\n"E"\n{}')])
@example([(kind, 0, 0, b"") for kind in range(256)])
@example([(kind, 0, 0, b"\xff\n\xff\n\xff") for kind in range(256)])
@example([(int(kind), 0, 0, b"[]") for kind in Kind])
@example([(int(kind), 0, 0, b"[" * 100_000) for kind in Kind])
@example([(int(Kind.COUNTS), 0, 0, b'{"repaired": 1180591620717411303424}')])
@example([(int(Kind.STATE), 0, 0, b'{"set":{},"persons":[["11",{},null,1,2]]}')])
@example([(int(Kind.STATE), 0, 0, b'{"set":{},"persons":[["11","1",null,1,9223372036854775808]]}')])
@example([(int(Kind.STATE), 0, 0, b'{"set":{"identity:11":[1,{}]},"purge":{}}')])
@example([(int(Kind.COUNTS), 0, 0, b'{"": 9223372036854775808}')])
@example([(int(Kind.REQUEST), 0, 0, b'{"id":{},"what":[]}')])
@example([(int(Kind.STATE), 0, 0, b'{"set":{},"identify":["11",{},[]]}')])
@example([(int(Kind.STATE), 0, 0, b'{"set":{},"gone":[1180591620717411303424,{}]}')])
@example([(int(kind), 0, 0, b"{}") for kind in Kind])
def test_any_record_can_be_absorbed(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, bytes]]
) -> None:
    """
    Records with the right checksum and any content, as a newer version or a fault may leave
    them, do not stop the absorber: an event after them is queued, and the books balance.
    """
    state = tmp_path_factory.mktemp("state")
    state.chmod(0o700)
    last = (int(Kind.EVENT), 0, 10**18, b'["11","1",null,"7"]\n"Last"\n{"n":1}')
    content = records.pack_header(HEADER) + b"".join(
        records.pack_record(SALT, kind, flags, clock, clock, n, body)
        for n, (kind, flags, clock, body) in enumerate([*rows, last])
    )
    part_path(state, JOURNAL, 1).write_bytes(content)
    with opened(state, FakeClock()) as store:
        for _ in range(3):
            store.absorb(freeze=False)
        names = [
            json.loads(stored.entry.body).get("event")
            for ledger in store.queues()
            for stored in ledger.queue.load([row.id for row in ledger.queue.peek(limit=1 << 30)])
        ]
        assert "Last" in names
        assert JOURNAL not in find_parts(state)
        balanced(store)


# -- the wire ---------------------------------------------------------------------------


@settings(max_examples=tries(40, 1_500))
@given(event=st.text(max_size=300), properties=st.dictionaries(st.text(max_size=20), JSON))
@example("\ud83d", {"\ude00": "\ud83d\ude00"})
@example("E", {"n": float("inf"), "m": float("nan"), "k": 10**400})
def test_any_event_is_strict_json_for_heap(event: str, properties: dict[str, Any]) -> None:
    """What is recorded of any input is what the strict collector takes, or nothing."""
    ambient = wire.Ambient.of({}, wire.actor_line(Actor("11", "1"), "7"))
    body = wire.Wire().body(event, properties, ambient)
    if body is None:
        mended = wire.Wire().mended(event, properties, ambient)
        if mended.data is None:
            return
        body = ambient.head + mended.data
    key = wire.idempotency_key(JOURNAL, 1, 0)
    row = b'{"idempotency_key":' + json.dumps(key.decode()).encode() + b","
    who, name, own = body.split(b"\n")
    row += b'"user_id":"1","event":' + name + b',"properties":' + own + b"}"
    request = wire.join_batch(Kind.EVENT, "11", [row])
    assert posted(Desk(), limits.TRACK_PATH, request) == 200


# -- the collector ----------------------------------------------------------------------

PATHS = [
    limits.TRACK_PATH,
    limits.IDENTIFY_PATH,
    limits.USER_PROPERTIES_PATH,
    limits.ACCOUNT_PROPERTIES_PATH,
    limits.AUTH_TOKEN_PATH,
    limits.USER_DELETION_PATH,
    limits.DELETION_STATUS_PATH + "/x",
]

#: What the collector's documentation knows; 500 says that it has failed itself.
DOCUMENTED = {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429}

MEMBERS = st.dictionaries(
    st.sampled_from(
        "app_id event events identity user_id session_id timestamp properties users"
        " idempotency_key account_id accounts".split()
    ),
    JSON
    | st.sampled_from(["11", "1", 1, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
    | st.sampled_from(["2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z"]),
)
REQUESTS = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | MEMBERS.map(lambda value: json.dumps(value).encode())
    | st.tuples(
        st.sampled_from(["events", "users", "accounts"]), st.lists(MEMBERS, max_size=3)
    ).map(lambda some: json.dumps({"app_id": "11", some[0]: some[1]}).encode())
)


def posted(desk: Desk, path: str, body: bytes, method: str = "POST") -> int:
    """The status of the answer to one request."""
    admission = desk.admit(method, path, {"content-type": "application/json"}, body)
    reply = desk.handle(admission)
    assert reply.status in DOCUMENTED, reply.body
    return reply.status


@settings(max_examples=tries(120, 4_000))
@given(body=REQUESTS, path=st.sampled_from(PATHS), strict=st.booleans())
@example(b"[" * 100_000, limits.TRACK_PATH, True)
@example(b'{"a":' * 50_000, limits.TRACK_PATH, False)
@example(b'{"app_id":"11","events":' + b"[" * 900 + b"]" * 900 + b"}", limits.TRACK_PATH, True)
@example(b'{"app_id":' + b"9" * 5_000 + b"}", limits.TRACK_PATH, False)
@example(b'{"app_id":"11","event":"E","user_id":"1","timestamp":1e300}', limits.TRACK_PATH, False)
@example(b'{"app_id":"11","event":"\\ud800"}', limits.TRACK_PATH, False)
@example(
    b'{"app_id":"11","event":"E","user_id":"1","timestamp":"0001-01-01T00:00:00+14:00"}',
    limits.TRACK_PATH,
    True,
)
def test_any_request_has_a_documented_answer(body: bytes, path: str, strict: bool) -> None:
    """The collector never fails over what it reads, and an accepted event can be shown."""
    desk = Desk(strict=strict)
    for method in ("POST", "GET", "HEAD"):
        posted(desk, path, body, method)
    assert repr(desk.events()) and repr(desk.users)

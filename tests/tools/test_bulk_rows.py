"""Rows of JSON Lines, CSV and text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.bulk_rows import (
    Columns,
    CsvRows,
    JsonRows,
    Kind,
    Row,
    TextRows,
    WrongColumns,
    chosen_format,
    repairable,
)
from heap_agent._tools.bulk_source import LINE_BYTES

EVENTS = Kind(
    ("event", "identity", "user_id", "timestamp", "idempotency_key"),
    (("event",), ("identity", "user_id")),
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def csv_rows(content: bytes, **options: Any) -> list[Row]:
    defaults = options.pop("defaults", None)
    return list(CsvRows(lines(content), EVENTS, Columns(**options), defaults))


# -- formats ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", "jsonl"),
        ("a.NDJSON.gz", "jsonl"),
        ("a.b.json", "jsonl"),
        ("a.csv.gz", "csv"),
        ("a.tsv", "tsv"),
        ("a.txt", "text"),
        ("a", None),
        ("a.gz", None),
        ("csv", None),
    ],
)
def test_the_name_tells_the_format(name: str, form: str | None) -> None:
    """The ending counts, that of compression aside."""
    assert chosen_format(name) == form


# -- JSON Lines ------------------------------------------------------------------------


@given(st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3), max_size=5))
def test_objects_come_back(items: list[dict[str, Any]]) -> None:
    """Whatever was written is read, on its own line."""
    content = "".join(json.dumps(item) + "\n" for item in items).encode()

    rows = list(JsonRows(lines(content)))

    assert [row.item for row in rows] == items
    assert [row.number for row in rows] == list(range(1, len(items) + 1))


def test_blank_lines_count_as_lines_and_are_no_rows() -> None:
    """Line numbers are those that an editor shows."""
    rows = list(JsonRows([b'{"a":1}\r\n', b"\n", b"  \r\n", b'{"b":2}']))

    assert [(row.number, row.raw) for row in rows] == [(1, b'{"a":1}'), (4, b'{"b":2}')]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "no JSON"),
        (b"[{}]", "object is needed"),
        (b"[", "one object a line"),
        (b"1", "object is needed"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\xff"}', "byte 8"),
        (b"[" * 100_000, "no JSON"),
        (b"x" * (LINE_BYTES + 1), "longer than"),
    ],
)
def test_a_bad_line_is_a_row_with_a_reason(line: bytes, says: str) -> None:
    """The lines around it are not harmed."""
    rows = list(JsonRows([b"{}\n", line + b"\n", b"{}\n"]))

    assert [row.item for row in rows] == [{}, None, {}]
    assert says in rows[1].reason


def test_defaults_stand_behind_what_a_row_says() -> None:
    """They fill what is missing."""
    rows = list(JsonRows([b'{"event":"A"}', b"{}"], {"event": "D"}))

    assert [row.item for row in rows] == [{"event": "A"}, {"event": "D"}]


def test_a_rejected_row_can_be_fed_in_again() -> None:
    """An item comes back as it was; a text says that it was not mended."""
    good, bad = Row(3, b"raw", {"event": "A"}), Row(4, b"x\xff", None, "no JSON")
    file = [json.dumps(repairable(row, "why", row.item)).encode() + b"\n" for row in (good, bad)]

    again = list(JsonRows(file))

    assert again[0].item == {"event": "A"}
    assert again[1].item is None and "not mended" in again[1].reason
    assert json.loads(file[1])["text"] == "x\\xff"


# -- text ------------------------------------------------------------------------------


def test_text_is_one_value_a_line() -> None:
    """Blanks around it do not count, bad bytes are told."""
    rows = list(TextRows([b" ann \r\n", b"\n", b"\xff\n", b"bob"], "identity"))

    assert [row.item for row in rows] == [{"identity": "ann"}, None, {"identity": "bob"}]
    assert "UTF-8" in rows[1].reason


# -- CSV -------------------------------------------------------------------------------


def test_columns_that_are_no_field_become_properties() -> None:
    """All of them, as text; an empty cell is nothing."""
    rows = csv_rows(b"event,identity,dollars,note\nA,ann,007,\nB,bob,,x\n")

    assert [row.item for row in rows] == [
        {"event": "A", "identity": "ann", "properties": {"dollars": "007"}},
        {"event": "B", "identity": "bob", "properties": {"note": "x"}},
    ]


def test_columns_are_mapped_chosen_and_renamed() -> None:
    """A column that was given to a field is no property, and no other field."""
    (row,) = csv_rows(
        b"email,identity,at,n,x,\nann,7,12.5,3,y,z\n",
        fields={"identity": "email", "timestamp": "at", "user_id": "identity"},
        properties={"count": "n"},
        numbers=frozenset({"n"}),
        defaults={"event": "Back-filled"},
    )

    assert row.item == {
        "event": "Back-filled",
        "identity": "ann",
        "user_id": "7",
        "timestamp": 12.5,
        "properties": {"count": 3},
    }


def test_a_column_without_a_name_is_passed_over() -> None:
    """As the index that some programs write first."""
    (row,) = csv_rows(b",event,identity\n0,A,ann\n")

    assert row.item == {"event": "A", "identity": "ann", "properties": {}}


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6), st.sampled_from([",", ";", "\t"]))
def test_what_a_spreadsheet_writes_is_read(cells: list[tuple[str, str]], delimiter: str) -> None:
    """Quotes, delimiters and line ends inside of cells are part of them."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("event", "identity", "note"), *(("E", *pair) for pair in cells)])
    content = stream.getvalue().encode()
    # As a file is cut into lines: at line feeds only.
    parts = [part + b"\n" for part in content.split(b"\n")[:-1]]

    rows = list(CsvRows(parts, EVENTS, Columns(delimiter=delimiter)))

    assert [row.reason for row in rows] == [""] * len(cells)
    got = [((row.item or {}).get("identity", ""), row.item["properties"]) for row in rows]  # type: ignore[index]
    assert got == [(who, {"note": note} if note else {}) for who, note in cells]


def test_a_record_has_the_number_of_its_first_line() -> None:
    """Also behind records of several lines, and its bytes are all of them."""
    rows = csv_rows(b'event,identity\n"A\nA",ann\n\nB,bob\n')

    assert [(row.number, row.raw) for row in rows] == [(2, b'"A\nA",ann'), (5, b"B,bob")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"A,ann", "2 columns came"),
        (b"A,ann,1,2", "4 columns came"),
        (b'"A"x,ann,1', "no CSV"),
        (b"A,\xffnn,1", "UTF-8"),
        (b"A,ann,1e", "no number"),
        (b"A,ann,nan", "no number"),
        (b"A,ann,0x1", "no number"),
        (b"A,ann," + b"1" * 5_000, "digits"),
        (b"A,ann," + b"1" * 200_000, "no CSV"),
        (b'A,ann,"1', "never closed"),
    ],
)
def test_a_bad_record_is_a_row_with_a_reason(line: bytes, says: str) -> None:
    """The records around it are not harmed, even where a quote is left open."""
    rows = csv_rows(
        b"event,identity,n\nA,ann,1\n" + line + b"\nA,ann,2\n", numbers=frozenset({"n"})
    )

    assert [row.item is None for row in rows] == [False, True, False]
    assert rows[1].number == 3 and rows[1].raw == line
    assert says in rows[1].reason


@given(st.lists(st.sampled_from([b'"', b"a", b",", b"\n", b"\r\n", b"\xc3", b"\xbc"]), max_size=24))
def test_any_bytes_are_rows(parts: list[bytes]) -> None:
    """Whatever comes behind the header, each line is in exactly one row, in order."""
    content = b"".join(parts)
    body = [part + b"\n" for part in content.split(b"\n")]

    rows = list(CsvRows([b"event,identity\n", *body], EVENTS))

    numbers = [row.number for row in rows]
    assert numbers == sorted(set(numbers))
    kept = b"".join(b"".join(row.raw.split()) for row in rows)
    assert kept == b"".join(content.split())


@pytest.mark.parametrize(
    ("header", "options", "says"),
    [
        (b"a,b", {}, "no column is event"),
        (b"event,b", {}, "identity or user_id"),
        (b"event,identity,event", {}, "more than once"),
        (b'"event', {}, "cannot be read"),
        (b"event,identity", {"fields": {"who": "identity"}}, "'who' is no field"),
        (b"event,identity", {"fields": {"timestamp": "at"}}, "--column: there is no column 'at'"),
        (b"event,identity", {"properties": {"a": "a"}}, "--property: there is no column 'a'"),
        (b"event,identity", {"numbers": frozenset({"n"})}, "--number: there is no column 'n'"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    header: bytes, options: dict[str, Any], says: str
) -> None:
    """Before any row is read."""
    with pytest.raises(WrongColumns, match=says):
        csv_rows(header + b"\n", **options)


def test_an_empty_file_has_no_rows() -> None:
    """Nor a header that could be wrong."""
    assert csv_rows(b"") == []


def test_the_shape_changes_with_the_meaning() -> None:
    """Other columns, another order, another choice: other shapes; other rows: the same."""
    shapes = [
        CsvRows([header], EVENTS, Columns(**options)).shape
        for header, options in (
            (b"event,identity,n", {}),
            (b"event,n,identity", {}),
            (b"event,identity,n", {"numbers": frozenset({"n"})}),
            (b"event,identity,n", {"properties": {}}),
        )
    ]

    assert len(set(shapes)) == 4
    assert CsvRows(lines(b"event,identity,n\nA,b,1"), EVENTS).shape == shapes[0]

"""
Rows out of lines: JSON Lines and CSV, one item for the server-side API each.

A line that is no row becomes a row with a reason instead of an item; nothing in a
file is an error here, except a header that cannot be meant (`WrongColumns`).

This module must not know the network, the limits of values, nor what becomes of
a row: what an item may hold is checked by whoever sends it.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final, NoReturn, Protocol

import attrs

from heap_agent._tools.bulk_source import LINE_BYTES

__all__ = [
    "FORMATS",
    "Columns",
    "CsvRows",
    "JsonRows",
    "Kind",
    "Row",
    "Rows",
    "TextRows",
    "WrongColumns",
    "chosen_format",
    "repairable",
]

#: Names of formats, and the endings of file names that stand for them.
FORMATS: Final = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "text": (".txt",),
}

#: JSON's numbers and nothing else: "007", "1_000" and "nan" are text.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


class WrongColumns(ValueError):
    """
    The header of a CSV file and the columns that were asked for do not fit.
    """


@attrs.frozen(slots=True)
class Kind:
    """
    What the items of a command consist of.

    Attributes:
        fields: Names that stand for themselves in an item; every other column
            is a property.
        required: Groups of fields; of each group a file must have one.
        properties: Whether items have properties.
    """

    fields: tuple[str, ...]
    required: tuple[tuple[str, ...], ...]
    properties: bool = True


@attrs.frozen(slots=True)
class Columns:
    """
    How the columns of a CSV file become an item.

    Attributes:
        fields: Column by field, for fields that are not called as their column.
        properties: Column by property; None: every column that is no field.
        numbers: Columns whose text is a number.
        delimiter: Between two columns.
    """

    fields: Mapping[str, str] = attrs.field(factory=dict)
    properties: Mapping[str, str] | None = None
    numbers: frozenset[str] = frozenset()
    delimiter: str = ","


@attrs.frozen(slots=True)
class Row:
    """
    One row of a file.

    Attributes:
        number: The line that it begins on, from 1.
        raw: Its bytes, without the last line's end.
        item: What it says; None where it says nothing.
        reason: Why there is no item; "" where there is one.
    """

    number: int
    raw: bytes
    item: dict[str, Any] | None
    reason: str = ""


class Rows(Protocol):
    """
    What a format offers.
    """

    @property
    def shape(self) -> str:
        """Text that changes when the same bytes would become other items."""

    def __iter__(self) -> Iterator[Row]:
        """The rows in order; blank lines are none."""


def chosen_format(name: str) -> str | None:
    """
    Tell the format of a file by its name.

    Returns:
        A key of `FORMATS`; None where the name says nothing.
    """
    ending = PurePath(name.lower().removesuffix(".gz")).suffix
    return next((key for key, endings in FORMATS.items() if ending in endings), None)


def repairable(row: Row, reason: str, item: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    A rejected row as an object that a person can mend and `JsonRows` reads again.

    Args:
        row: The row.
        reason: Why it was rejected.
        item: What was to be sent; None where the row has none.
    """
    if item is not None:
        return {"row": row.number, "reason": reason, "item": item}
    text = row.raw[:LINE_BYTES].decode("utf-8", "backslashreplace")
    return {"row": row.number, "reason": reason, "text": text}


# -- JSON Lines ----------------------------------------------------------------------


class JsonRows:
    """
    A JSON object on each line; also the objects of `repairable`.

    Args:
        lines: With or without their ends.
        defaults: Fields for items that do not have them.
    """

    def __init__(self, lines: Iterable[bytes], defaults: Mapping[str, str] | None = None) -> None:
        self._lines = lines
        self._defaults = dict(defaults or {})
        self.shape = json.dumps(["jsonl", self._defaults])

    def __iter__(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines, 1):
            raw = line.rstrip(b"\r\n")
            if raw.strip():
                yield self._row(number, raw)

    def _row(self, number: int, raw: bytes) -> Row:
        try:
            item = _unwrap(_object(raw))
        except ValueError as error:
            return Row(number, raw, None, str(error))
        return Row(number, raw, {**self._defaults, **item})


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > LINE_BYTES:
        raise ValueError(f"the line is longer than {LINE_BYTES:,} bytes")
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8: byte {error.start + 1} of the line is wrong") from None
    except RecursionError:
        raise ValueError("no JSON: nested too deeply") from None
    except ValueError as error:
        hint = "; write one object a line, without [ and ]" if raw.lstrip()[:1] in b"[]" else ""
        raise ValueError(f"no JSON: {error}{hint}") from None
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object is needed, {type(found).__name__} came")
    return found


def _unwrap(found: dict[str, Any]) -> dict[str, Any]:
    """What is in an object of `repairable`; every other object as it is."""
    if not found.keys() >= {"row", "reason"}:
        return found
    if isinstance(found.get("item"), dict):
        return dict(found["item"])
    if "text" in found:
        raise ValueError('a rejected line that was not mended: put an "item" in place of "text"')
    return found


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


# -- text ----------------------------------------------------------------------------


class TextRows:
    """
    One value a line, blanks around it taken off.

    Args:
        lines: With or without their ends.
        field: The field that the value is of.
    """

    def __init__(self, lines: Iterable[bytes], field: str) -> None:
        self._lines = lines
        self._field = field
        self.shape = json.dumps(["text", field])

    def __iter__(self) -> Iterator[Row]:
        for number, line in enumerate(self._lines, 1):
            raw = line.rstrip(b"\r\n")
            if not raw.strip():
                continue
            try:
                yield Row(number, raw, {self._field: raw.decode("utf-8").strip()})
            except UnicodeDecodeError as error:
                yield Row(number, raw, None, f"no UTF-8: byte {error.start + 1} is wrong")


# -- CSV -----------------------------------------------------------------------------


class CsvRows:
    """
    CSV with a header row, as RFC 4180 and spreadsheets write it.

    Args:
        lines: With their ends. The first record is read at once.
        kind: What an item consists of.
        columns: What becomes what.
        defaults: Fields for items that do not have them.

    Raises:
        WrongColumns: The header does not have the columns that are asked for,
            or not what an item needs.
    """

    def __init__(
        self,
        lines: Iterable[bytes],
        kind: Kind,
        columns: Columns | None = None,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        self._columns = columns = Columns() if columns is None else columns
        self._defaults = dict(defaults or {})
        self._feed = _Feed(iter(lines))
        self._parser = self._new_parser()
        self._header = self._read_header()
        self._fields = _choose_fields(self._header, kind, columns, self._defaults)
        self._properties = _choose_properties(self._header, kind, columns, self._fields)
        numbers = {name: name for name in columns.numbers}
        _require(self._header, numbers, "--number")
        self.shape = json.dumps(
            ["csv", self._header, self._fields, self._properties, sorted(numbers), self._defaults]
        )

    def __iter__(self) -> Iterator[Row]:
        while (record := self._record()) is not None:
            number, raw, cells = record
            if isinstance(cells, str):
                yield Row(number, raw, None, cells)
            elif cells:
                yield self._row(number, raw, cells)

    def _new_parser(self) -> Any:
        return csv.reader(self._feed, delimiter=self._columns.delimiter, strict=True)

    def _read_header(self) -> list[str]:
        while (record := self._record()) is not None:
            _, _, cells = record
            if isinstance(cells, str):
                raise WrongColumns(f"the header row cannot be read: {cells}")
            if cells:
                return _checked_header(cells)
        # Nothing at all: no row misses a column.
        return []

    def _record(self) -> tuple[int, bytes, list[str] | str] | None:
        """Number, bytes and cells of the next record, or the reason why it has none."""
        self._feed.taken.clear()
        try:
            cells: list[str] | str = next(self._parser)
        except StopIteration:
            return None
        except csv.Error as error:
            # A quote that is never closed has swallowed lines; they get their own turn.
            self._feed.give_back()
            self._parser = self._new_parser()
            open_quote = "unexpected end" in str(error)
            cells = f"no CSV: {'a quote that is never closed' if open_quote else error}"
        number = self._feed.taken[0][0]
        raw = b"".join(line for _, line in self._feed.taken).rstrip(b"\r\n")
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            cells = f"no UTF-8: byte {error.start + 1} of the row is wrong"
        return number, raw, cells

    def _row(self, number: int, raw: bytes, cells: list[str]) -> Row:
        if len(cells) != len(self._header):
            reason = f"{len(cells)} columns came, the header has {len(self._header)}"
            return Row(number, raw, None, reason)
        # An empty cell is "nothing is known", as a database exports NULL.
        known = {name: cell for name, cell in zip(self._header, cells, strict=True) if cell != ""}
        try:
            return Row(number, raw, self._item(known))
        except ValueError as error:
            return Row(number, raw, None, str(error))

    def _item(self, known: Mapping[str, str]) -> dict[str, Any]:
        item: dict[str, Any] = dict(self._defaults)
        item.update(
            (field, _field_value(field, known[column]))
            for field, column in self._fields.items()
            if column in known
        )
        if self._properties is not None:
            item["properties"] = {
                key: self._value(column, known[column])
                for key, column in self._properties.items()
                if column in known
            }
        return item

    def _value(self, column: str, text: str) -> str | int | float:
        if column not in self._columns.numbers:
            return text
        if not _NUMBER.fullmatch(text.strip()):
            raise ValueError(f"column {column!r}: {text[:80]!r} is no number; write 12 or 12.5")
        found: int | float = json.loads(text)
        return found


class _Feed:
    """Gives lines to the CSV parser, and knows which ones it took."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = enumerate(lines, 1)
        self._again: deque[tuple[int, bytes]] = deque()
        self.taken: list[tuple[int, bytes]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        # The structure survives wrong bytes; who looks at the record finds them.
        return line[1].decode("utf-8", "surrogateescape")

    def give_back(self) -> None:
        """All lines but the first are to be read once more."""
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _field_value(field: str, text: str) -> Any:
    """Fields are text, but digits alone in the place of a time are seconds."""
    if field == "timestamp" and _NUMBER.fullmatch(text.strip()):
        return json.loads(text)
    return text


def _checked_header(cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise WrongColumns(f"the header has {', '.join(map(repr, twice))} more than once")
    return header


def _choose_fields(
    header: list[str], kind: Kind, columns: Columns, defaults: Mapping[str, str]
) -> dict[str, str]:
    """Column by field: as asked, else the column of the same name."""
    for field in columns.fields:
        if field not in kind.fields:
            raise WrongColumns(f"{field!r} is no field; there are {_list(kind.fields)}")
    _require(header, columns.fields, "--column")
    # A column that was given to a field is not another one's by its name.
    free = set(header) - set(columns.fields.values())
    same = {field: field for field in kind.fields if field in free}
    found = {**same, **columns.fields}
    for group in kind.required:
        if header and not any(field in found or field in defaults for field in group):
            wanted = " or ".join(group)
            raise WrongColumns(
                f"no column is {wanted}: say which one with --column {group[0]}=COLUMN; "
                f"the header has {_list(header)}"
            )
    return found


def _choose_properties(
    header: list[str], kind: Kind, columns: Columns, fields: Mapping[str, str]
) -> dict[str, str] | None:
    """Column by property; None where items have none."""
    if not kind.properties:
        return None
    if columns.properties is not None:
        _require(header, columns.properties, "--property")
        return dict(columns.properties)
    return {name: name for name in header if name and name not in fields.values()}


def _require(header: list[str], wanted: Mapping[str, str], option: str) -> None:
    missing = sorted(set(wanted.values()) - set(header))
    if header and missing:
        raise WrongColumns(
            f"{option}: there is no column {_list(missing)}; the header has {_list(header)}"
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))

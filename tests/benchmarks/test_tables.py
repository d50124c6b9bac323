"""Rows for a terminal and for a document."""

import pytest

from benchmarks import tables

ROWS: list[tables.Row] = [
    {"what": "floor", "median µs": 1.234, "calls": 20_000},
    {"what": "something longer", "median µs": None, "calls": 7},
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        ("text", "text"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (3, "3"),
        (20_000, "20,000"),
        (-0.5, "-0.50"),
    ],
)
def test_a_cell_has_three_digits_that_matter(value: str | float | None, expected: str) -> None:
    """Whole numbers are whole, others have as many decimals as they are small."""
    assert tables.shown(value) == expected


def test_numbers_stand_under_each_other() -> None:
    """The first column is to the left, all others to the right, each as wide as it must be."""
    assert tables.text(ROWS).splitlines() == [
        "what              median µs   calls",
        "floor                  1.23  20,000",
        "something longer          –       7",
    ]


def test_a_document_has_the_same_cells() -> None:
    """The table in Markdown aligns like the one for a terminal."""
    assert tables.markdown(ROWS).splitlines() == [
        "| what | median µs | calls |",
        "| --- | ---: | ---: |",
        "| floor | 1.23 | 20,000 |",
        "| something longer | – | 7 |",
    ]

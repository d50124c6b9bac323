"""Keys of rows, and digests of many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.bulk_keys import Digest, row_key

ROWS = st.tuples(
    st.text("ab", max_size=3),
    st.text("ab", max_size=3),
    st.integers(1, 2**40),
    st.dictionaries(
        st.text("ab", max_size=2), st.text("ab", max_size=2) | st.integers(0, 1), max_size=2
    ),
)


def test_a_key_never_changes() -> None:
    """A release that made other keys would send everything once more."""
    assert (
        row_key("11", "/a.csv", 2, {"event": "A", "identity": "änn"})
        == "9c3b494eea29febb986ba54661458e56"
    )


@given(ROWS, ROWS)
def test_equal_keys_mean_equal_rows(
    one: tuple[str, str, int, dict[str, str | int]],
    other: tuple[str, str, int, dict[str, str | int]],
) -> None:
    """App id, source, line and event all count, and none runs into the next."""
    assert (row_key(*one) == row_key(*other)) == (one == other)


def test_the_order_of_columns_makes_no_other_event() -> None:
    """Heap does not see it either."""
    assert row_key("11", "a", 2, {"a": 1, "b": 2}) == row_key("11", "a", 2, {"b": 2, "a": 1})


@given(
    st.lists(st.tuples(st.integers(1, 5), st.binary(max_size=3)), max_size=4),
    st.lists(st.tuples(st.integers(1, 5), st.binary(max_size=3)), max_size=4),
)
def test_equal_digests_mean_equal_rows(
    one: list[tuple[int, bytes]], other: list[tuple[int, bytes]]
) -> None:
    """Lines, bytes, order and number of rows all count."""

    def digest(rows: list[tuple[int, bytes]]) -> str:
        found = Digest()
        for row in rows:
            found.add(*row)
        return found.hexdigest()

    assert (digest(one) == digest(other)) == (one == other)

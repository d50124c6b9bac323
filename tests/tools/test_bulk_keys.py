"""Keys of rows, and digests of many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._tools.bulk_keys import Digest, row_key

ROWS = st.tuples(
    st.text(max_size=3), st.text(max_size=3), st.integers(1, 2**40), st.binary(max_size=4)
)


def test_a_key_never_changes() -> None:
    """A release that made other keys would send everything once more."""
    assert row_key("11", "a.csv", 2, b"A,ann") == "658780aa267e6796476c3efa65ab644a"


@given(ROWS, ROWS)
def test_equal_keys_mean_equal_rows(
    one: tuple[str, str, int, bytes], other: tuple[str, str, int, bytes]
) -> None:
    """App id, source, line and bytes all count, and none runs into the next."""
    assert (row_key(*one) == row_key(*other)) == (one == other)


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

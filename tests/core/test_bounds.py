"""
The shares of a directory: there is room for everything that happens at once.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.bounds import RECORD, Bounds

LIMITS = st.integers(4 * 2**20, 2**40)


@given(LIMITS)
def test_a_transaction_fits_above_what_is_kept(max_bytes: int) -> None:
    """
    While rows are moved they stand twice in the log, and in the journal until the end of
    their part.
    """
    bounds = Bounds(max_bytes)

    assert 0 < bounds.step <= bounds.full - bounds.crowded
    assert bounds.full + 2 * bounds.step + 2 * bounds.part < max_bytes
    assert bounds.batch * RECORD <= bounds.step


@given(LIMITS)
def test_most_is_for_what_is_kept(max_bytes: int) -> None:
    """Two thirds at the least, and all but ten megabytes of a large directory."""
    bounds = Bounds(max_bytes)

    assert bounds.target >= max(2 / 3 * max_bytes, max_bytes - 10 * 2**20)
    assert bounds.dead < bounds.target < bounds.crowded < bounds.full
    assert 2 * bounds.part < bounds.unseen < bounds.target

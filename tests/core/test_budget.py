"""Rules of `heap_agent._core.budget`."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._core.budget import MARGIN, Allowance, Budget, Budgets
from heap_agent._core.events import Kind


def most_in_any_window(spent: list[tuple[float, int]], seconds: float) -> int:
    """The largest sum in a half-open window that begins with an entry."""
    return max(
        (sum(n for t, n in spent if start <= t < start + seconds) for start, _ in spent),
        default=0,
    )


gaps = st.lists(st.tuples(st.floats(0, 40, allow_subnormal=False), st.integers(1, 60)), max_size=40)


@settings(max_examples=60)
@given(limit=st.one_of(st.floats(0.05, 1), st.floats(1, 100)), traffic=gaps)
def test_no_window_holds_more_than_the_limit(
    limit: float, traffic: list[tuple[float, int]]
) -> None:
    """Whoever spends no more than there is room for stays within the limit at any time."""
    budget, now, spent = Budget(limit, 30.0), 100.0, []
    for gap, wish in traffic:
        now += gap
        count = min(wish, budget.room(now))
        if count:
            budget.spend(now, count)
            spent.append((now, count))
    allowed = max(1, math.floor(limit))
    assert most_in_any_window(spent, 30.0 / min(limit, 1.0)) <= allowed


@settings(max_examples=60)
@given(limit=st.floats(0.05, 100), traffic=gaps)
def test_wait_leads_to_room_and_not_later_than_needed(
    limit: float, traffic: list[tuple[float, int]]
) -> None:
    """After `wait` there is room for one, and just before it there was none."""
    budget, now = Budget(limit, 30.0), 0.0
    for gap, count in traffic:
        now += gap
        budget.spend(now, count)
        wait = budget.wait(now)
        assert (wait == 0.0) == (budget.room(now) >= 1)
        if wait > 0.01:
            assert budget.room(now + wait - 0.01) == 0
        assert Budget.room(budget, now + wait) >= 1
        now += wait


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_full_throughput(batch: int) -> None:
    """Spending whenever there is room reaches nine tenths of the limit and more."""
    budget, now, total = Budget(1000, 60.0), 0.0, 0
    while now < 1800:
        count = min(batch, budget.room(now))
        if count == 0:
            now += max(budget.wait(now), 0.01)
            continue
        budget.spend(now, count)
        total += count
        now += 0.01
    assert 0.9 * 30_000 < total <= 30_000 + 1000


def test_a_fraction_stretches_the_window() -> None:
    """Half an event a minute is one every two minutes, never two at once."""
    budget = Budget(0.5, 60.0)
    assert budget.room(0.0) == 1
    budget.spend(0.0, 1)
    assert budget.wait(0.0) == pytest.approx(120.0 + MARGIN)
    assert budget.room(119.0) == 0


def test_memory_is_bounded_by_the_window() -> None:
    """A hundred thousand single spends leave about one entry a second."""
    budget = Budget(1e9, 60.0)
    for i in range(100_000):
        budget.spend(i * 0.005, 1)
    assert len(budget.snapshot(500.0)) <= 64


def test_a_clock_that_goes_backwards_blocks_for_one_window_at_most() -> None:
    """Entries of the future count as spent just now."""
    budget = Budget(10, 60.0)
    budget.spend(1_000_000.0, 10)
    assert budget.room(5.0) == 0
    assert budget.wait(5.0) <= 60.0 + MARGIN
    assert budget.room(5.0 + 60.0 + MARGIN) == 10


def test_an_entry_is_as_young_as_its_last_part() -> None:
    """What is remembered together is forgotten together, and not too early."""
    budget = Budget(10, 60.0)
    budget.spend(0.0, 5)
    budget.spend(0.9, 5)
    assert budget.snapshot(0.9) == [[0.0, 10]]
    assert budget.room(62.5) == 0
    assert budget.room(63.0) == 10


def test_spending_too_much_leaves_no_room_rather_than_less() -> None:
    """An overdraft is remembered until it is over."""
    budget = Budget(10, 60.0)
    budget.spend(0.0, 25)
    assert budget.room(0.0) == 0
    assert budget.room(62.0) == 10


def test_a_snapshot_holds_ages() -> None:
    """A restored budget allows the same on a clock with another origin."""
    budget = Budget(10, 60.0)
    budget.spend(1_000.0, 4)
    budget.spend(1_030.0, 6)
    saved = json.loads(json.dumps(budget.snapshot(1_040.0)))
    assert saved == [[40.0, 4], [10.0, 6]]
    restored = Budget(10, 60.0)
    restored.restore(7.0, saved)
    assert restored.room(7.0) == 0
    assert restored.wait(7.0) == pytest.approx(budget.wait(1_040.0))
    assert restored.room(7.0 + 22.0) == 4


junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(saved=junk | st.lists(st.tuples(st.floats(), st.integers()).map(list)))
def test_garbage_in_a_snapshot_blocks_for_one_window_at_most(saved: object) -> None:
    """Whatever a damaged snapshot says, there is room again after a window."""
    budget = Budget(10, 60.0)
    budget.restore(0.0, saved)
    assert 0.0 <= budget.wait(0.0) <= 62.0
    assert budget.room(62.0) == 10


@pytest.mark.parametrize(
    ("limit", "seconds"), [(0, 60), (-1, 60), (math.nan, 60), (math.inf, 60), (1, 0), (1, -5)]
)
def test_a_budget_needs_positive_numbers(limit: float, seconds: float) -> None:
    """A limit that makes no sense is refused with what came and what to do."""
    with pytest.raises(ValueError, match="above 0, got .*give None"):
        Budget(limit, seconds)


def test_resizing_keeps_what_was_spent() -> None:
    """A new limit counts what was spent under the old one."""
    budgets = Budgets(10, 60.0)
    budgets.spend(0.0, ("11", "a"), 8)
    budgets.resize(9, 60.0)
    assert budgets.room(0.0, ("11", "a")) == 1
    assert budgets.room(0.0, ("11", "b")) == 9


def test_keys_are_apart() -> None:
    """One actor's budget is not another's, nor that of another app id."""
    budgets = Budgets(2, 60.0)
    budgets.spend(0.0, ("11", "a"), 2)
    assert budgets.wait(0.0, ("11", "a")) > 0
    assert budgets.wait(0.0, ("21", "a")) == 0.0
    assert budgets.room(0.0, ("21", "a")) == 2


def test_idle_keys_are_forgotten() -> None:
    """A kiosk with a new visitor every second keeps the visitors of a window only."""
    budgets = Budgets(10, 60.0)
    for i in range(5_000):
        budgets.spend(float(i), ("11", str(i)), 1)
    assert len(budgets) <= 200
    assert len(budgets.snapshot(5_000.0)) <= 64
    assert budgets.snapshot(6_000.0) == []


def test_snapshot_of_many_keys() -> None:
    """Keys come back with their own budgets, and garbage among them is skipped."""
    budgets = Budgets(10, 60.0)
    budgets.spend(0.0, ("11", "a"), 3)
    budgets.spend(0.0, ("11", "b"), 10)
    saved = json.loads(json.dumps(budgets.snapshot(1.0)))
    restored = Budgets(10, 60.0)
    restored.restore(500.0, [*saved, 5, [], ["11", 5, []], ["11", "c"], None])
    assert restored.room(500.0, ("11", "a")) == 7
    assert restored.room(500.0, ("11", "b")) == 0
    assert len(restored) == 2


@given(count=st.integers(0, 5_000), spent=st.integers(0, 1_500))
def test_seconds_for_is_what_a_drain_takes(count: int, spent: int) -> None:
    """The estimate agrees with a simulated drain."""
    budgets, key = Budgets(1000, 60.0), ("11", "a")
    budgets.spend(0.0, key, spent)
    estimate = budgets.seconds_for(0.0, key, count)
    now = 0.0
    while count:
        now += budgets.wait(now, key)
        part = min(count, budgets.room(now, key))
        budgets.spend(now, key, part)
        count -= part
    assert estimate == pytest.approx(now, abs=1.0)


def test_ledger_charges_events_one_by_one() -> None:
    """Each event counts for its actor and for the app id."""
    allowance = Allowance(5, 7, 1)
    allowance.charge(0.0, Kind.EVENT, "11", ["a", "a", "a", "b"])
    purse = allowance.purse(0.0, Kind.EVENT, "11")
    assert [purse.take(actor) for actor in "aaabbb"] == [True, True, False, True, False, False]
    assert allowance.wait(0.0, Kind.EVENT, "11", ["a", "b"]) == 0.0
    other = allowance.purse(0.0, Kind.EVENT, "21")
    assert [other.take("a") for _ in range(6)] == [True] * 5 + [False]


def test_ledger_charges_requests_per_identity() -> None:
    """A request with many properties of one identity counts once, and events not at all."""
    allowance = Allowance(5, 7, 1)
    for _ in range(30):
        allowance.charge(0.0, Kind.USER_PROPERTIES, "11", ["a"] * 100)
    purse = allowance.purse(0.0, Kind.USER_PROPERTIES, "11")
    assert [purse.take("a"), purse.take("b"), purse.take("b")] == [False, True, True]
    assert allowance.wait(0.0, Kind.USER_PROPERTIES, "11", ["a"]) == pytest.approx(30.0 + MARGIN)
    assert allowance.wait(0.0, Kind.IDENTIFY, "11", ["a"]) == 0.0
    assert allowance.wait(0.0, Kind.EVENT, "11", ["a"]) == 0.0


def test_ledger_divides_by_the_fleet() -> None:
    """Five thousand devices share 15,000 a minute: three each, whoever their users are."""
    purse = Allowance(1_000, 15_000, 5_000).purse(0.0, Kind.EVENT, "11")
    assert [purse.take("a") for _ in range(4)] == [True, True, True, False]


def test_ledger_switched_off() -> None:
    """None lifts the limits, those of requests included."""
    allowance = Allowance(None, None, 1)
    for kind in (Kind.EVENT, Kind.USER_PROPERTIES, Kind.IDENTIFY):
        allowance.charge(0.0, kind, "11", ["a"] * 100_000)
        assert allowance.purse(0.0, kind, "11").take("a")
        assert allowance.wait(0.0, kind, "11", ["a"]) == 0.0
    assert allowance.seconds_to_drain(0.0, {("11", "a"): 10**6}) == 0.0
    assert allowance.snapshot(0.0) == {}


def test_ledger_survives_a_restart_and_other_numbers() -> None:
    """Snapshots restore every budget; a budget that is switched on anew starts empty."""
    allowance = Allowance(5, 7, 1)
    allowance.charge(0.0, Kind.EVENT, "11", ["a"] * 5)
    allowance.charge(0.0, Kind.IDENTIFY, "11", ["a"])
    restored = Allowance(5, 7, 1)
    restored.restore(900.0, json.loads(json.dumps(allowance.snapshot(10.0))))
    assert restored.wait(900.0, Kind.EVENT, "11", ["a"]) == pytest.approx(52.0)
    restored.resize(None, 7, 1)
    assert restored.wait(900.0, Kind.EVENT, "11", ["a"]) == 0.0
    restored.resize(5, 7, 1)
    assert restored.wait(900.0, Kind.EVENT, "11", ["a"]) == 0.0
    restored.restore(900.0, "garbage")


def test_drain_estimate_is_that_of_the_tightest_budget() -> None:
    """Many actors are held by the app's budget, one by its own."""
    allowance = Allowance(1000, 15_000, 1)
    one = allowance.seconds_to_drain(0.0, {("11", "a"): 3_000})
    many = allowance.seconds_to_drain(0.0, {("11", str(i)): 1_000 for i in range(45)})
    assert one == pytest.approx(124.0)
    assert many == pytest.approx(124.0)
    assert allowance.seconds_to_drain(0.0, {("11", "a"): 10}) == 0.0


def test_reprs_show_counts() -> None:
    """Every stateful object shows what it holds."""
    budget = Budget(10, 60.0)
    budget.spend(0.0, 3)
    assert "3 of 10" in repr(budget)
    assert "10 in 60 s" in repr(Budgets(10, 60.0))
    assert "EVENT" in repr(Allowance(5, 7, 1))

"""
Repair of timestamps, tried on simulated devices whose true time is known.

A device is told as a script: boots, each a list of spans in which the wall clock
is off by a constant. The keeper looks at both clocks now and then; records fall
anywhere, also between a step and the look that finds it.
"""

from __future__ import annotations

import math

import attrs
from hypothesis import example, given
from hypothesis import strategies as st

from heap_agent._core import clock
from heap_agent._core.clock import RELEASE_MARK, SECOND, Knowledge, Step, Tick

MS = 1_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
YEAR = 365 * DAY

#: When the simulated stories begin: some weeks after the release.
START = RELEASE_MARK + 40 * DAY


@attrs.frozen
class Span:
    """For `length` the wall clock is off by `error`; records at parts of the length."""

    error: int
    length: int
    records: tuple[float, ...] = ()
    date: float | None = None


@attrs.frozen
class Record:
    """What a row keeps, and what it should keep."""

    wall: int
    boot_clock: int
    boot: int
    true: int


@attrs.define
class Device:
    """Plays scripts, looks at its clocks as the keeper does, and remembers the truth."""

    now: int = START
    knowledge: Knowledge = Knowledge()
    records: list[Record] = attrs.Factory(list)
    boots: int = 0

    def boot(self, *spans: Span, round_trip: int = 0) -> None:
        self.boots += 1
        self.knowledge = clock.begin_boot(self.knowledge, f"boot {self.boots}")
        ordinal, began = self.knowledge.current, self.now - 10 * SECOND
        last: Tick | None = None

        def look(true: int, error: int) -> None:
            nonlocal last
            tick = Tick(ordinal, true + error, true - began)
            step = clock.detect_step(last, tick)
            if step is not None:
                self.knowledge = clock.add_step(self.knowledge, step)
            last = tick

        for span in spans:
            # Neither look falls on the step itself.
            first, final = self.now + SECOND, self.now + span.length - SECOND
            look(first, span.error)
            for part in sorted(span.records):
                true = self.now + int(span.length * part)
                wall = true + span.error
                self.records.append(Record(wall, true - began, ordinal, true))
            if span.date is not None:
                true = max(first, self.now + int(span.length * span.date))
                look(true, span.error)
                said = (true - round_trip) // SECOND
                self.knowledge = clock.feed_date(
                    self.knowledge, said, true + span.error, true - began, round_trip
                )
                final = max(final, true)
            look(final, span.error)
            self.now += span.length
        self.now += 60 * SECOND

    def repaired(self) -> list[int]:
        """All records, repaired in recording order."""
        found, knowledge = [], self.knowledge
        for record in self.records:
            right_since = clock.right_since(knowledge, record.boot)
            wall, changed, knowledge = clock.place(
                knowledge, wall=record.wall, boot_clock=record.boot_clock, boot=record.boot
            )
            assert changed == (wall != record.wall)
            # Whoever does not ask about such a record must not miss anything.
            assert record.wall < right_since or not changed
            found.append(wall)
        return found

    def worst(self) -> int:
        """Largest distance from the truth after repair."""
        found = zip(self.repaired(), self.records, strict=True)
        return max((abs(wall - record.true) for wall, record in found), default=0)


parts = st.lists(st.floats(0, 1), max_size=4).map(tuple)
lengths = st.integers(10 * SECOND, 30 * DAY)
#: Off by more than a step's size, up to a century.
large = st.one_of(st.integers(-60 * YEAR, -3 * SECOND), st.integers(3 * SECOND, 90 * YEAR))
#: What a clock that is set by NTP may be off by.
small = st.integers(-900 * MS, 900 * MS)
unset = st.integers(-58 * YEAR, -57 * YEAR)


# -- finding steps -------------------------------------------------------------


def test_first_look_and_another_boot_are_no_step() -> None:
    """Offsets compare only within one boot."""
    assert clock.detect_step(None, Tick(1, 0, 0)) is None
    assert clock.detect_step(Tick(1, 0, 5), Tick(2, YEAR, 10)) is None


def test_step_is_found_with_its_bounds() -> None:
    """A jump of the wall clock gives the interval and both offsets."""
    before, now = Tick(1, 10 * SECOND, 4 * SECOND), Tick(1, YEAR, 6 * SECOND)

    expected = Step(1, 4 * SECOND, 6 * SECOND, 6 * SECOND, YEAR - 6 * SECOND)
    assert expected == clock.detect_step(before, now)


@given(jump=st.integers(-2 * SECOND, 2 * SECOND), gap=st.integers(0, YEAR))
def test_two_seconds_are_no_step(jump: int, gap: int) -> None:
    """A leap second, or two readings taken apart, are no step."""
    assert clock.detect_step(Tick(1, START, 0), Tick(1, START + gap + jump, gap)) is None


@given(rate=st.floats(-500e-6, 500e-6), gap=st.integers(0, YEAR))
def test_slew_is_no_step(rate: float, gap: int) -> None:
    """A clock that NTP slews for however long has not been set."""
    now = Tick(1, START + gap + int(rate * gap), gap)

    assert clock.detect_step(Tick(1, START, 0), now) is None


@given(jump=large, gap=st.integers(0, 30 * SECOND))
def test_anything_larger_is_a_step(jump: int, gap: int) -> None:
    """Three seconds between two looks of the keeper are a step, in both directions."""
    found = clock.detect_step(Tick(1, START, 0), Tick(1, START + gap + jump, gap))

    assert found is not None
    assert jump == found.offset_after - found.offset_before


def test_boot_clock_that_runs_backwards_is_no_step() -> None:
    """A virtual machine put back to a snapshot tells nothing about its wall clock."""
    assert clock.detect_step(Tick(1, START, HOUR), Tick(1, START + DAY, 0)) is None


@given(length=st.integers(1, DAY))
def test_suspend_is_no_step(length: int) -> None:
    """The boot clock counts suspend, so both clocks agree afterwards."""
    assert clock.detect_step(Tick(1, START, 0), Tick(1, START + length, length)) is None


# -- repair --------------------------------------------------------------------


@given(error=unset, before=parts, after=parts, first=lengths, second=lengths)
def test_start_in_1970_then_network_time(
    error: int, before: tuple[float, ...], after: tuple[float, ...], first: int, second: int
) -> None:
    """Records from before the clock was set are moved to their true time."""
    device = Device()
    device.boot(Span(error, first, before), Span(0, second, after))

    assert 0 == device.worst()


@given(st.lists(st.tuples(large, lengths, parts), min_size=1, max_size=4), small, parts)
def test_last_clock_is_believed_without_other_evidence(
    wrong: list[tuple[int, int, tuple[float, ...]]], last: int, records: tuple[float, ...]
) -> None:
    """However often the clock jumped: once it is set, everything follows it."""
    device = Device()
    spans = [Span(error, length, made) for error, length, made in wrong]
    device.boot(*spans, Span(last, HOUR, records))

    too_small_to_see = 2 * SECOND + 2 * MS  # a jump between two wrong clocks
    assert device.worst() <= 1 * SECOND + len(spans) * too_small_to_see


@given(error=st.one_of(large, small), records=parts, length=lengths, at=st.floats(0, 1))
def test_trusted_date_repairs_a_clock_that_nobody_sets(
    error: int, records: tuple[float, ...], length: int, at: float
) -> None:
    """One trusted Date is enough for all records of its boot, before and after it."""
    device = Device()
    device.boot(Span(error, length, records, date=at))

    assert device.worst() <= 2 * SECOND


@given(
    errors=st.lists(
        st.sampled_from([-56 * YEAR, -HOUR, 0, HOUR, 72 * YEAR]), min_size=1, max_size=5
    ),
    data=st.data(),
    round_trip=st.integers(0, 5 * SECOND),
)
def test_trusted_date_is_stronger_than_any_step(
    errors: list[int], data: st.DataObject, round_trip: int
) -> None:
    """Whatever the clock does before and after: a Date in any span puts all of them right."""
    chosen = data.draw(st.integers(0, len(errors) - 1))
    device = Device()
    device.boot(
        *(
            Span(
                error,
                data.draw(lengths),
                data.draw(parts),
                date=data.draw(st.floats(0, 1)) if index == chosen else None,
            )
            for index, error in enumerate(errors)
        ),
        round_trip=round_trip,
    )

    assert device.worst() <= 2 * SECOND + round_trip


@given(st.lists(st.tuples(lengths, parts), min_size=1, max_size=4))
def test_clock_that_falls_back_to_1970_is_not_believed(
    spans: list[tuple[int, tuple[float, ...]]],
) -> None:
    """A jump before the mark moves nothing that was right, and is undone itself."""
    device = Device()
    device.boot(Span(0, HOUR, (0.5,)), *(Span(-56 * YEAR, length, made) for length, made in spans))

    assert 0 == device.worst()


@given(
    boots=st.lists(
        st.lists(
            st.tuples(small, lengths, parts, st.none() | st.floats(0, 1)), min_size=1, max_size=3
        ),
        min_size=1,
        max_size=4,
    )
)
def test_good_timestamps_are_never_moved(
    boots: list[list[tuple[int, int, tuple[float, ...], float | None]]],
) -> None:
    """While the clock is right to a second, no Date and no mark moves a record."""
    device = Device()
    for spans in boots:
        device.boot(*(Span(*span) for span in spans))

    assert [record.wall for record in device.records] == device.repaired()


@given(st.lists(st.tuples(unset, lengths, parts), min_size=1, max_size=5))
def test_boots_without_network_are_placed_after_the_mark_in_order(
    boots: list[tuple[int, int, tuple[float, ...]]],
) -> None:
    """Records of boots that never knew the time come 1 ms apart, just after the mark."""
    device = Device()
    device.boot(Span(0, HOUR, date=0.5))
    mark = device.knowledge.mark
    for error, length, records in boots:
        device.boot(Span(error, length, records))
    device.boot(Span(0, HOUR, (0.5,), date=0.5))

    found = device.repaired()
    placed = len(found) - 1
    assert [mark + (i + 1) * MS for i in range(placed)] == found[:-1]
    assert device.records[-1].true == found[-1]


@given(
    before=st.lists(st.tuples(st.sampled_from([-56 * YEAR, 0, 40 * YEAR]), lengths, parts)),
    after=st.lists(st.tuples(st.sampled_from([-56 * YEAR, 0, 40 * YEAR]), lengths, parts)),
    date=st.none() | st.floats(0, 1),
)
def test_order_within_a_boot_is_kept(
    before: list[tuple[int, int, tuple[float, ...]]],
    after: list[tuple[int, int, tuple[float, ...]]],
    date: float | None,
) -> None:
    """Whatever the clock did, later records of a boot are never placed before earlier ones."""
    device = Device()
    device.boot(
        *(Span(*span) for span in before),
        Span(-1 * YEAR, HOUR, (0.1, 0.9), date=date),
        *(Span(*span) for span in after),
    )

    found = device.repaired()
    assert sorted(found) == found


@given(st.lists(st.tuples(st.floats(0, 1), lengths, parts)))
def test_boots_whose_clocks_start_at_a_saved_time_are_in_order(
    boots: list[tuple[float, int, tuple[float, ...]]],
) -> None:
    """
    Where clocks begin at a time that was saved long before the power failed, later boots
    are not placed before earlier ones; the one that knows the time is right.
    """
    device = Device()
    device.boot(Span(0, HOUR, (0.2, 0.9), date=0.5))
    saved = device.now
    for late, length, records in boots:
        device.boot(Span(int((saved - device.now) * late), length, records))
    device.boot(Span(saved - device.now, HOUR, (0.1, 0.5)), Span(0, HOUR, (0.5,), date=0.1))

    found = device.repaired()
    assert sorted(found) == found
    assert found[:2] == [record.true for record in device.records[:2]]
    last = zip(found[-3:], device.records[-3:], strict=True)
    assert all(abs(wall - record.true) <= 2 * SECOND for wall, record in last)


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(
                    st.sampled_from([0, 0, -40 * SECOND, -HOUR, -YEAR, -57 * YEAR, YEAR]),
                    lengths,
                    parts,
                ),
                min_size=1,
                max_size=3,
            ),
            st.none() | st.floats(0, 1),
        ),
        max_size=5,
    )
)
def test_whatever_clocks_do_the_order_is_kept(
    boots: list[tuple[list[tuple[int, int, tuple[float, ...]]], float | None]],
) -> None:
    """
    Boots with a trusted Date are true, and the others lie in order between them, unless a
    clock was ahead by less than a day.
    """
    device, told = Device(), set()
    device.boot(Span(0, HOUR, (0.2,), date=0.5))
    for spans, date in [*boots, ([(0, HOUR, (0.5,))], 0.1)]:
        *others, last = (Span(*span) for span in spans)
        device.boot(*others, attrs.evolve(last, date=date))
        if date is not None:
            told.add(device.knowledge.current)

    found = device.repaired()
    assert sorted(found) == found
    assert all(
        abs(wall - record.true) <= 2 * SECOND
        for wall, record in zip(found, device.records, strict=True)
        if record.boot in told
    )


def test_clock_that_ticks_past_the_mark_keeps_the_order() -> None:
    """A clock that was an hour behind stays behind what was placed, after the mark too."""
    device = Device()
    device.boot(Span(0, HOUR, date=0.99))
    behind = -(device.now - device.knowledge.mark) - 2 * MS
    device.boot(Span(behind, 10 * MS, tuple(i / 20 for i in range(20))))

    found = device.repaired()
    assert sorted(found) == found
    assert len(set(found)) == 20


def test_boot_in_the_future_is_placed_when_the_truth_is_known() -> None:
    """An offline boot in 2099 comes just after the mark, once a later boot knows better."""
    device = Device()
    device.boot(Span(0, HOUR, date=0.5))
    mark = device.knowledge.mark
    device.boot(Span(72 * YEAR, HOUR, (0.2, 0.4)))
    device.boot(Span(0, HOUR, date=0.5))

    assert [mark + MS, mark + 2 * MS] == device.repaired()


def test_record_of_an_unknown_boot_is_left_alone() -> None:
    """Without any knowledge of its boot a record keeps its time."""
    assert (5, False, Knowledge()) == clock.place(Knowledge(), wall=5, boot_clock=1, boot=9)


# -- the mark ------------------------------------------------------------------


def test_first_mark_is_the_release() -> None:
    """A device that never met the network is known to live after the release."""
    known = clock.begin_boot(Knowledge(), "a")

    assert known.boots[known.current].mark == 1_795_392_000_000_000


def test_date_raises_and_lowers_the_mark() -> None:
    """A mark that was poisoned by one wrong Date is put right by the next."""
    poisoned = clock.feed_date(Knowledge(), START / SECOND + 70e6, START, 0)
    healed = clock.feed_date(poisoned, START / SECOND, START, SECOND)

    assert poisoned.mark > START + YEAR
    assert START == healed.mark


@given(st.floats())
@example(0.0)
@example(253_402_300_799.0)
@example(1e303)
@example(-math.inf)
@example(math.nan)
def test_a_date_that_cannot_be_tells_nothing(date: float) -> None:
    """Nobody answers before the release, or in a hundred years."""
    known = clock.begin_boot(Knowledge(), "a")
    told = clock.feed_date(known, date, START, 0)

    possible = RELEASE_MARK / SECOND <= date <= clock.LAST_DATE / SECOND
    assert (told != known) is possible


def test_poisoned_mark_does_not_move_good_records() -> None:
    """A boot that began under a mark in 2099 keeps its right times once that is lowered."""
    device = Device(knowledge=Knowledge(mark=START + 72 * YEAR, placed=START + 73 * YEAR))
    device.boot(Span(0, HOUR, (0.1, 0.9)))
    device.boot(Span(-56 * YEAR, HOUR, (0.5,)))
    device.boot(Span(0, HOUR, (0.5,), date=0.1))

    found = device.repaired()
    assert found[:2] == [record.true for record in device.records[:2]]
    assert found[1] + MS == found[2]
    assert found[3] == device.records[3].true


def test_later_dates_do_not_move_records_anew() -> None:
    """Each header is blurred by a second; an error once found stands while they agree."""
    known = clock.begin_boot(Knowledge(), "a")
    offsets = set()
    for boot_clock in range(0, 100 * SECOND, 700 * MS):
        known = clock.feed_date(known, (START + boot_clock) // SECOND, boot_clock, boot_clock)
        offsets.add(known.true_offset)

    assert 1 == len(offsets)


def test_the_first_date_after_a_step_moves_nothing_anew() -> None:
    """A clock that was right, and then is set, is measured by what it was: a Date is blurred."""
    known = clock.begin_boot(Knowledge(), "a")
    known = clock.feed_date(known, START // SECOND, START, 0)
    told = known.true_offset
    for error in (-YEAR, HOUR, 0, 5 * SECOND):
        now = START + 10 * SECOND + 900 * MS
        known = clock.feed_date(known, now // SECOND, now + error, now - START)
        assert known.true_offset == told


def test_a_step_that_nobody_saw_is_found_by_the_date() -> None:
    """
    A record whose clock was set while no program lived goes by the boot clock, and one that
    agrees keeps its time.
    """
    known = clock.begin_boot(Knowledge(), "a")
    known = clock.feed_date(known, START // SECOND, START, HOUR)
    before, after = (DAY, HOUR - 9 * SECOND), (START - 8 * SECOND, HOUR - 8 * SECOND)

    assert clock.right_since(known, known.current, [after, after]) < 0
    assert clock.right_since(known, known.current, [before, after]) > START
    moved, changed, known = clock.place(known, wall=before[0], boot_clock=before[1], boot=1_000)
    assert (START - 9 * SECOND, True) == (moved, changed)
    moved, changed, known = clock.place(known, wall=after[0], boot_clock=after[1], boot=1_000)
    assert (after[0], False) == (moved, changed)


def test_error_is_forgotten_once_the_clock_is_right() -> None:
    """After the clock has been slewed to the right time, records are not moved."""
    known = clock.begin_boot(Knowledge(), "a")
    known = clock.feed_date(known, START // SECOND, START - 90 * SECOND, 0)
    assert known.true_offset is not None and known.true_offset > START
    known = clock.feed_date(known, START // SECOND + DAY // SECOND, START + DAY, DAY)

    moved, changed, _ = clock.place(known, wall=START + DAY, boot_clock=DAY, boot=known.current)
    assert (START + DAY, False) == (moved, changed)


def test_without_a_boot_a_date_only_feeds_the_mark() -> None:
    """Before the boot is known there is no offset to tell."""
    fed = clock.feed_date(Knowledge(), START / SECOND, START, 0)

    assert START == fed.mark
    assert fed.true_offset is None


# -- boots ---------------------------------------------------------------------


def test_same_boot_id_is_the_same_boot() -> None:
    """A second process of a boot goes on with what the first one knew."""
    first = clock.begin_boot(Knowledge(), "a")
    second = clock.begin_boot(first, "b")

    assert first == clock.begin_boot(first, "a")
    assert first.current < second.current
    assert first.current == clock.begin_boot(second, "a").current


@given(st.permutations("abcdef"), st.integers(0, 5))
def test_boots_are_ranked_whenever_they_are_met(names: list[str], known: int) -> None:
    """Those of a journal come in order before the running one, known or not."""
    ordinals = clock.rank_boots({}, names[:known], names[-1])
    later = clock.rank_boots(ordinals, names, names[-1])

    assert sorted(later, key=later.__getitem__) == names
    assert ordinals.items() <= later.items()
    assert clock.rank_boots(later, names, names[-1]) == later


def test_boots_that_nobody_left_room_for() -> None:
    """Where numbers follow each other, one that is met late comes last, and has its own."""
    assert clock.rank_boots({"a": 1, "b": 2}, ["late"], "b") == {"a": 1, "b": 2, "late": 3}


def test_forgotten_boots_take_their_steps_along() -> None:
    """Boots that no record refers to go; the present one and its steps stay."""
    known = Knowledge()
    for name in "abc":
        known = clock.begin_boot(known, name)
        known = clock.add_step(known, Step(known.current, 0, 1, 0, YEAR))
    newest = known.current
    known = clock.begin_boot(known, "a")

    kept = clock.forget_boots(known, newest)
    assert {known.current, newest} == set(kept.boots)
    assert {known.current, newest} == {step.boot for step in kept.steps}


@given(st.integers(1, 300))
def test_flapping_clock_takes_bounded_memory(flaps: int) -> None:
    """However often a clock is set, few steps are kept, and their sum is right."""
    known = clock.begin_boot(Knowledge(), "a")
    for i in range(flaps):
        known = clock.add_step(known, Step(1, i * SECOND, i * SECOND + 1, i * HOUR, (i + 1) * HOUR))

    assert len(known.steps) == min(flaps, clock.STEPS_PER_BOOT)
    moved = sum(step.offset_after - step.offset_before for step in known.steps)
    assert flaps * HOUR == moved


def test_a_clock_that_nobody_set_is_not_asked_about() -> None:
    """Nearly every record: only what lies before the mark, or was set, needs a thought."""
    known = clock.begin_boot(Knowledge(), "boot")
    assert clock.right_since(known, known.current) == known.mark
    assert clock.right_since(known, 9) > START

    told = clock.feed_date(known, START / SECOND, START, 0)
    assert clock.right_since(told, told.current) < 0
    wrong = clock.feed_date(known, START / SECOND, START + DAY, 0)
    assert clock.right_since(wrong, wrong.current) > START + DAY
    set_ = clock.add_step(told, Step(told.current, 1, 2, 0, DAY))
    assert clock.right_since(set_, set_.current) > START

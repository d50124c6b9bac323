"""
Repair of timestamps that were taken by a wrong clock.

This module must not know where records, boots and marks are kept, nor read a
clock: all of these are arguments, and every answer is a new frozen value.

Theory of operation
-------------------

A record carries two readings: the *wall* clock, which may be wrong and may
jump, and the *boot* clock, which starts with the machine, counts suspend and
is never set. Within one boot, ``wall - boot_clock`` (the *offset*) changes only
when somebody sets the wall clock. So the time of a boot falls into regimes,
separated by steps:

    boot clock ──0──────────────step──────────────────step──────────────▶
    offset          1970 regime        NTP regime          (set by hand)

Three kinds of evidence say which regime was right, the strongest first:

1. A trusted ``Date`` that arrived during this boot (`feed_date`). It belongs to
   one regime, and tells that regime's error; 0 when the wall clock agreed.
2. The high-water mark: the last trusted ``Date`` of all boots. No record of a
   boot is older than the mark that was known when the boot began, so a regime
   whose wall time lies before the mark was an unset clock.
3. Nothing else: then the last regime is believed, as people set clocks to make
   them right.

A record is moved from its own regime to the right one by the sum of the steps
between, plus the error. A step that nobody saw, as no program lived to see it, is
found where that is not what the ``Date`` makes of the boot clock: then the record
goes by that. Where no regime was right, an unset clock is placed
just after the mark, in recording order, 1 ms apart: wrong by as long as the
device was alone, but after everything from before and before everything since.
So is a clock that started earlier than the boot before it ended, as one does
whose last time was saved long before the power failed.

A timestamp that the caller gave never comes here, and one that is final is
never repaired again; both are the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

#: Microseconds. 2026-11-23T00:00:00Z, the release of this package: no device
#: ran it earlier, so this is the first high-water mark.
RELEASE_MARK: Final = 1_795_392_000_000_000

SECOND: Final = 1_000_000

#: Microseconds. A ``Date`` after this, as one before the release, tells nothing but that
#: the server's clock is wrong: what it said would stand on events that were recorded right.
LAST_DATE: Final = RELEASE_MARK + 100 * 365 * 86_400 * SECOND

#: Change of offset that is a step. Two readings are never taken at the same
#: instant, and a leap second is no step either.
STEP: Final = 2 * SECOND

#: The fastest that NTP slews a clock instead of setting it: 500 ppm (adjtime).
SLEW: Final = 500e-6

#: A wall clock that lies this close to a ``Date`` agrees with it. With the second
#: of blur that the header has, nothing that is off by more than 2 s agrees.
AGREEMENT: Final = 1 * SECOND

#: Distance of two records that are placed without knowing their time.
PLACED_APART: Final = 1_000

#: A record of an earlier boot that lies this far behind the last trusted
#: ``Date`` was taken by a clock in the future. A day is generous: such a record
#: is older than that ``Date``, but for a process whose boot id is its own.
FUTURE: Final = 86_400 * SECOND

#: Later than any wall time, in microseconds.
NO_TIME: Final = 1 << 63

#: Ordinals between two boots, for those that turn up when a later one is known: a
#: journal of theirs could not be read before.
BOOTS_APART: Final = 1_000

#: Steps that are kept per boot. A clock that flaps more often is in no hurry to
#: tell the time; its two oldest steps become one.
STEPS_PER_BOOT: Final = 64


class Tick(NamedTuple):
    """
    Both clocks, read together.

    Attributes:
        boot: Ordinal of the boot.
        wall: Microseconds since 1970, as the wall clock says.
        boot_clock: Microseconds of the boot clock.
    """

    boot: int
    wall: int
    boot_clock: int

    @property
    def offset(self) -> int:
        """Wall clock minus boot clock."""
        return self.wall - self.boot_clock


class Step(NamedTuple):
    """
    The wall clock was set.

    Attributes:
        boot: Ordinal of the boot.
        after: Boot clock, microseconds; it happened no earlier than this,
        until: and no later than this.
        offset_before: Wall clock minus boot clock before it,
        offset_after: and after it.
    """

    boot: int
    after: int
    until: int
    offset_before: int
    offset_after: int


class Truth(NamedTuple):
    """
    What a trusted ``Date`` said about the wall clock.

    Attributes:
        boot_clock: When it arrived.
        offset: Wall clock minus boot clock at that moment.
        error: What must be added to the wall clock; 0 when it agreed.
    """

    boot_clock: int
    offset: int
    error: int


class Boot(NamedTuple):
    """
    What is known of one boot of the machine.

    Attributes:
        ordinal: Grows with every boot.
        boot_id: The system's name for it.
        mark: High-water mark, wall microseconds, known when it began.
        truth: The last trusted ``Date`` during it; None without one.
    """

    ordinal: int
    boot_id: str
    mark: int
    truth: Truth | None = None


class Knowledge(NamedTuple):
    """
    All that a repair needs.

    Attributes:
        current: Ordinal of the boot that is running.
        boots: By ordinal.
        steps: In the order in which they happened.
        mark: The last trusted ``Date``, wall microseconds.
        placed: Wall microseconds of the last record that was placed without
            knowing its time; 0 for none.
        placed_boot: That record's boot.
        reached: Wall microseconds of the latest record that has its final time;
            0 for none.
        reached_boot: The latest boot of such a record.
    """

    current: int = 0
    boots: Mapping[int, Boot] = MappingProxyType({})
    steps: tuple[Step, ...] = ()
    mark: int = RELEASE_MARK
    placed: int = 0
    placed_boot: int = -1
    reached: int = 0
    reached_boot: int = -1

    @property
    def true_offset(self) -> int | None:
        """True time minus boot clock in the present boot, if anybody said."""
        boot = self.boots.get(self.current)
        if boot is None or boot.truth is None:
            return None
        return boot.truth.offset + boot.truth.error


# -- gathering -----------------------------------------------------------------


def rank_boots(known: Mapping[str, int], met: Iterable[str], running: str) -> dict[str, int]:
    """
    Number boots, so that a later one has a greater number.

    One that is met for the first time is over, and younger than any that is known:
    it takes its place just before the running boot, whenever it is met.

    Args:
        known: Ordinals that were given before, by boot id.
        met: Boot ids in any journal, oldest first.
        running: The boot that is running.

    Returns:
        `known` with the others.
    """
    ordinals = dict(known)
    ordinals.setdefault(running, max(ordinals.values(), default=0) + BOOTS_APART)
    present = ordinals[running]
    for boot_id in met:
        if boot_id not in ordinals:
            place = max((other for other in ordinals.values() if other < present), default=0) + 1
            ordinals[boot_id] = place if place < present else max(ordinals.values()) + 1
    return ordinals


def begin_boot(knowledge: Knowledge, boot_id: str, earlier: Iterable[str] = ()) -> Knowledge:
    """
    Make a boot the present one: a known one by its id, else a new one.

    Args:
        knowledge: As loaded.
        boot_id: The system's name of the boot that is running.
        earlier: Other boots, oldest first; new ones are noted.

    Returns:
        Knowledge in which `current` is that boot.
    """
    known = {boot.boot_id: ordinal for ordinal, boot in knowledge.boots.items()}
    ranked = rank_boots(known, earlier, boot_id)
    for name in sorted(ranked.keys() - known.keys(), key=ranked.__getitem__):
        knowledge = _with_boot(knowledge, Boot(ranked[name], name, knowledge.mark))
    return knowledge._replace(current=ranked[boot_id])


def forget_boots(knowledge: Knowledge, oldest: int) -> Knowledge:
    """
    Drop the boots, and their steps, that no record refers to any longer.

    Args:
        knowledge: What is known.
        oldest: Ordinal of the oldest boot that a record still refers to; the
            present boot always stays.
    """
    kept = {
        ordinal: boot
        for ordinal, boot in knowledge.boots.items()
        if ordinal >= oldest or ordinal == knowledge.current
    }
    steps = tuple(step for step in knowledge.steps if step.boot in kept)
    return knowledge._replace(boots=MappingProxyType(kept), steps=steps)


def detect_step(previous: Tick | None, now: Tick) -> Step | None:
    """
    Compare two looks at the clocks.

    Args:
        previous: The look before, also that of an earlier process of the same
            boot; None when there was none.
        now: This look.

    Returns:
        The step between them; None when nobody set the clock: another boot, or
        no more than a slew could have done in that time.
    """
    if previous is None or previous.boot != now.boot or now.boot_clock < previous.boot_clock:
        return None
    allowed = STEP + SLEW * (now.boot_clock - previous.boot_clock)
    if abs(now.offset - previous.offset) <= allowed:
        return None
    return Step(now.boot, previous.boot_clock, now.boot_clock, previous.offset, now.offset)


def add_step(knowledge: Knowledge, step: Step) -> Knowledge:
    """
    Remember a step; beyond `STEPS_PER_BOOT` the boot's two oldest become one.
    """
    own = [known for known in knowledge.steps if known.boot == step.boot] + [step]
    others = [known for known in knowledge.steps if known.boot != step.boot]
    if len(own) > STEPS_PER_BOOT:
        first, second = own[:2]
        merged = first._replace(until=second.until, offset_after=second.offset_after)
        own[:2] = [merged]
    return knowledge._replace(steps=(*others, *own))


def feed_date(
    knowledge: Knowledge, date: float, wall: int, boot_clock: int, round_trip: int = 0
) -> Knowledge:
    """
    Learn from the ``Date`` of a TLS-verified (or loopback) answer.

    Args:
        knowledge: What is known.
        date: The header, seconds since 1970; its resolution is one second.
        wall: Wall clock when the answer arrived, microseconds.
        boot_clock: Boot clock at the same moment.
        round_trip: Microseconds from request to answer: so much older may the
            ``Date`` be.

    Returns:
        Knowledge with the mark raised or lowered to the ``Date``, and the error
        of the present boot's wall clock; nothing new from a ``Date`` that cannot be.
    """
    if not RELEASE_MARK <= date * SECOND <= LAST_DATE:
        return knowledge
    said = round(date * SECOND)
    if knowledge.placed > said:
        # The mark had been poisoned; what comes next starts from the new one.
        knowledge = knowledge._replace(placed=0, placed_boot=-1)
    if knowledge.reached > said + FUTURE:
        knowledge = knowledge._replace(reached=0, reached_boot=-1)
    knowledge = knowledge._replace(mark=said)
    boot = knowledge.boots.get(knowledge.current)
    if boot is None:
        return knowledge
    error = _error(said, wall, boot_clock, round_trip, boot.truth)
    truth = Truth(boot_clock, wall - boot_clock, error)
    return _with_boot(knowledge, boot._replace(truth=truth))


def _error(said: int, wall: int, boot_clock: int, round_trip: int, known: Truth | None) -> int:
    """What must be added to the wall clock, where that is more than `AGREEMENT`."""
    earliest = said - AGREEMENT
    latest = said + SECOND + round_trip + AGREEMENT
    agrees = earliest <= wall <= latest
    if known is not None and (known.error or not agrees):
        # What was found earlier stands while the header agrees: else each header,
        # and the first after a step, would move the records by its second of blur.
        expected = boot_clock + known.offset + known.error
        if earliest <= expected <= latest:
            return expected - wall if abs(expected - wall) > AGREEMENT else 0
    if agrees:
        return 0
    return said + (SECOND + round_trip) // 2 - wall


# -- repair --------------------------------------------------------------------


def place(
    knowledge: Knowledge, *, wall: int, boot_clock: int, boot: int
) -> tuple[int, bool, Knowledge]:
    """
    Say when a record was really made.

    Records of one boot are asked for in recording order.

    Args:
        knowledge: What is known.
        wall: The record's wall clock, microseconds.
        boot_clock: Its boot clock, microseconds.
        boot: Ordinal of its boot; an unknown one is left alone.

    Returns:
        The repaired wall microseconds, whether that is a change, and what is
        known now.
    """
    known = knowledge.boots.get(boot)
    if known is None:
        return wall, False, knowledge
    steps = tuple(step for step in knowledge.steps if step.boot == boot)
    mark = _known_mark(known, knowledge)
    right, error = _right_regime(known.truth, steps, mark)
    if right >= 0:
        own = _regime(steps, boot_clock, wall - boot_clock)
        moved = wall + _shift(steps, own, right) + error
        if known.truth is not None and not _agrees(known.truth, moved, boot_clock):
            moved = boot_clock + known.truth.offset + known.truth.error
        if known.truth is not None or _plausible(knowledge, boot, moved, mark):
            return moved, moved != wall, reach(knowledge, boot, moved)
    placed = max(knowledge.placed, mark, _reached_before(knowledge, boot)) + PLACED_APART
    knowledge = knowledge._replace(placed=placed, placed_boot=boot)
    return placed, True, reach(knowledge, boot, placed)


def reach(knowledge: Knowledge, boot: int, wall: int) -> Knowledge:
    """
    Note the final time of a record: those of later boots come after it, unless it is
    in the future.

    Args:
        knowledge: What is known.
        boot: Ordinal of its boot.
        wall: Its final time, microseconds.
    """
    if boot < knowledge.reached_boot or not knowledge.reached < wall <= knowledge.mark + FUTURE:
        return knowledge
    return knowledge._replace(reached=wall, reached_boot=boot)


def right_since(knowledge: Knowledge, boot: int, readings: Iterable[tuple[int, int]] = ()) -> int:
    """
    From which wall time on `place` leaves the records of a boot alone: those of a clock
    that is right and that nobody has set, which is nearly every one.

    Args:
        knowledge: What is known.
        boot: Ordinal of the boot.
        readings: Wall and boot clock of the first and the last of these records.
    """
    known = knowledge.boots.get(boot)
    if known is None or any(step.boot == boot for step in knowledge.steps):
        return NO_TIME
    if (truth := known.truth) is not None:
        as_told = not truth.error and all(_agrees(truth, *reading) for reading in readings)
        return -NO_TIME if as_told else NO_TIME
    if boot != knowledge.current:
        return NO_TIME
    earliest = max(_known_mark(known, knowledge), _reached_before(knowledge, boot))
    return max(earliest, knowledge.placed + 1) if knowledge.placed_boot == boot else earliest


def _agrees(truth: Truth, wall: int, boot_clock: int) -> bool:
    """Whether a time is what a ``Date`` makes of the boot clock, but for slewing."""
    told = boot_clock + truth.offset + truth.error
    return abs(wall - told) <= STEP + SLEW * abs(boot_clock - truth.boot_clock)


def _regime(steps: tuple[Step, ...], boot_clock: int, offset: int) -> int:
    """How many of a boot's steps lie before a reading."""
    regime = 0
    for step in steps:
        if boot_clock < step.after:
            break
        # Between the two ticks the reading itself tells on which side it was taken.
        before, after = abs(offset - step.offset_before), abs(offset - step.offset_after)
        if boot_clock <= step.until and before < after:
            break
        regime += 1
    return regime


def _known_mark(boot: Boot, knowledge: Knowledge) -> int:
    """What a boot's walls cannot lie before."""
    # A mark that has been lowered since was poisoned when the boot began, and
    # the new one is later than the boot: only the release is left as a bound.
    return boot.mark if boot.mark <= knowledge.mark else min(RELEASE_MARK, knowledge.mark)


def _right_regime(truth: Truth | None, steps: tuple[Step, ...], mark: int) -> tuple[int, int]:
    """The regime whose wall clock is believed, and its error; -1 where none is."""
    if truth is not None:
        return _regime(steps, truth.boot_clock, truth.offset), truth.error
    if not steps:
        return 0, 0
    last = steps[-1]
    if last.until + last.offset_after >= mark:
        return len(steps), 0
    for count in range(len(steps) - 1, -1, -1):
        if steps[count].after + steps[count].offset_before >= mark:
            return count, 0
    return -1, 0


def _shift(steps: tuple[Step, ...], own: int, right: int) -> int:
    """What the steps between two regimes add to the wall clock."""
    between = steps[min(own, right) : max(own, right)]
    change = sum(step.offset_after - step.offset_before for step in between)
    return change if own <= right else -change


def _plausible(knowledge: Knowledge, boot: int, wall: int, mark: int) -> bool:
    """Whether a time can be right for all that is known of it."""
    if wall < max(mark, _reached_before(knowledge, boot)):
        return False
    if knowledge.placed_boot == boot and wall <= knowledge.placed:
        # A clock that was unset a moment ago, and has ticked past the mark.
        return False
    return (
        boot == knowledge.current
        or knowledge.true_offset is None
        or wall <= knowledge.mark + FUTURE
    )


def _reached_before(knowledge: Knowledge, boot: int) -> int:
    """How far the boots before one have come."""
    return knowledge.reached if knowledge.reached_boot < boot else 0


def _with_boot(knowledge: Knowledge, boot: Boot) -> Knowledge:
    return knowledge._replace(boots=MappingProxyType({**knowledge.boots, boot.ordinal: boot}))

"""
What delivery remembers of the rows of one kind and one app id: its window, its
pauses, the rows under suspicion, and whether a trial is on.

`delivery` has the theory of it, and decides; this module keeps the books and
must not know what an answer means for the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, TypeAlias

import attrs

from heap_agent._core.events import Candidate, Kind
from heap_agent._core.outcomes import Answer
from heap_agent._core.policy import Policy

#: Singles rejected in a row that start a trial; also its witnesses.
TRIAL_SIZE: Final = 5

#: … and so many, once a witness was accepted: it was about the server of a moment
#: ago, and no more than these are to suffer if that has changed.
RETRIAL_SIZE: Final = 640

#: A window in bytes never shrinks below this; in rows it reaches one anyway, and
#: a row that is alone may have any size.
WINDOW_BYTES_MINIMUM: Final = 4_096

#: At most this many acceptances are asked for before a window grows.
PATIENCE_MAXIMUM: Final = 64

#: Longest pause that a snapshot may restore: the longest `Retry-After` with its
#: jitter is below.
PAUSE_MAXIMUM: Final = 7_200.0

#: A lane: what is sent, and for which app id.
LaneKey: TypeAlias = tuple[Kind, str]


class Mode(Enum):
    NORMAL = "normal"
    TRIAL = "trial"
    CONVICTED = "convicted"


# -- parts of a lane --------------------------------------------------------------


@attrs.define(slots=True)
class Pause:
    """A time in which nothing is tried, and why."""

    until: float = 0.0
    length: float = 0.0
    attempt: int = 0
    cause: Answer | None = None

    def begin(self, now: float, seconds: float, cause: Answer) -> None:
        self.until, self.length, self.cause = now + seconds, seconds, cause

    def lift(self) -> None:
        """End the waiting, not the counting: the next failure waits longer."""
        self.length = 0.0

    def remaining(self, now: float) -> float:
        if self.until - now > self.length:
            # Lifted, or the clock went backwards.
            self.until = now + self.length
        return max(0.0, self.until - now)

    def snapshot(self, now: float) -> dict[str, object]:
        cause = None if self.cause is None else self.cause.name
        return {"wait": self.remaining(now), "attempt": self.attempt, "cause": cause}

    def restore(self, now: float, data: object) -> None:
        saved = mapping(data)
        name = saved.get("cause")
        cause = Answer.__members__.get(name) if isinstance(name, str) else None
        if cause is not None:
            self.begin(now, number(saved.get("wait"), 0.0, PAUSE_MAXIMUM, 0.0), cause)
            self.attempt = int(number(saved.get("attempt"), 0, 1_000, 0))


@attrs.define(slots=True)
class Window:
    """How many rows and bytes one request may hold."""

    items: int
    bytes: int
    patience: int = 1
    accepted: int = 0
    has_grown: bool = False

    def shrink(self, items: int, size: int) -> None:
        """Go to half of what was sent; the window may have been far larger."""
        self.items = max(1, min(self.items, items) // 2)
        self.bytes = min(self.bytes, max(WINDOW_BYTES_MINIMUM, size // 2))
        if self.has_grown:
            self.patience = min(self.patience * 2, PATIENCE_MAXIMUM)
        self.accepted, self.has_grown = 0, False

    def is_filled(self, items: int, size: int) -> bool:
        """Whether a request says anything about larger ones."""
        return items >= self.items or 2 * size >= self.bytes

    def grow(self, policy: Policy) -> None:
        """Note the acceptance of a request that filled the window."""
        self.accepted += 1
        if self.is_full(policy):
            self.patience = 1
        elif self.accepted >= self.patience:
            self.items = min(self.items * 2, policy.batch_items)
            self.bytes = min(self.bytes * 2, policy.batch_bytes)
            self.accepted, self.has_grown = 0, True

    def is_full(self, policy: Policy) -> bool:
        return self.items >= policy.batch_items and self.bytes >= policy.batch_bytes


@attrs.define(slots=True)
class Group:
    """
    Rows under suspicion.

    `paired`: this group together with the one directly before it was rejected,
    and nothing has left that one but rows that were accepted.
    """

    ids: tuple[int, ...]
    paired: bool = False


@attrs.define(slots=True)
class Suspects:
    """Groups of rows that were rejected together, in the order of their rows."""

    groups: list[Group] = attrs.field(factory=list)

    def __len__(self) -> int:
        return sum(len(group.ids) for group in self.groups)

    def keep(self, present: Collection[int]) -> None:
        """Forget rows that are gone."""
        for index, group in enumerate(self.groups):
            rest = tuple(id for id in group.ids if id in present)
            if len(rest) < len(group.ids):
                group.ids = rest
                # The bad one may be among them, so that nothing is known of the pair.
                self._unpair(index + 1)
        self._drop_empty()

    def acquit(self, ids: tuple[int, ...]) -> None:
        """Take out rows of one group, or of none, that were accepted."""
        index = self._find(ids[0])
        if index is None:
            return
        group = self.groups[index]
        group.ids = tuple(id for id in group.ids if id not in set(ids))
        if not group.ids and index + 1 < len(self.groups) and self.groups[index + 1].paired:
            self.groups[index + 1 : index + 2] = _halves(self.groups[index + 1].ids)
        self._drop_empty()

    def split(self, ids: tuple[int, ...]) -> None:
        """Halve rows of one group, or of none, that were rejected together."""
        index = self._find(ids[0])
        if index is None:
            self.groups.extend(_halves(ids))
            return
        self._unpair(index + 1)
        rest = tuple(id for id in self.groups[index].ids if id not in set(ids))
        self.groups[index : index + 1] = [*_halves(ids), Group(rest)]
        self._drop_empty()

    def remove(self, id: int) -> None:
        """Take out a row that was refused alone."""
        index = self._find(id)
        if index is not None:
            self.groups[index].ids = tuple(other for other in self.groups[index].ids if other != id)
            self._unpair(index + 1)
            self._drop_empty()

    def put_first(self, ids: Iterable[int]) -> None:
        """Have these rows judged first, each alone."""
        self.groups[:0] = [Group((id,)) for id in ids]

    def _find(self, id: int) -> int | None:
        return next((i for i, group in enumerate(self.groups) if id in group.ids), None)

    def _unpair(self, index: int) -> None:
        if index < len(self.groups):
            self.groups[index].paired = False

    def _drop_empty(self) -> None:
        self.groups = [group for group in self.groups if group.ids]


@attrs.define(slots=True)
class Lane:
    """
    Rows of one kind and one app id.

    `rejected` are the singles rejected in a row, oldest first: all buried, and
    fewer than `trial_size`, in NORMAL and CONVICTED mode; those that are kept, in
    TRIAL mode. `judged` are the `RETRIAL_SIZE` of a trial that a witness has ended: if they are
    rejected again they count no more, or a longer row of bad ones would be restored for
    ever. `tried` are the witnesses that were rejected; `is_hung`: a trial
    has failed before.
    """

    kind: Kind
    app_id: str
    window: Window
    pause: Pause = attrs.field(factory=Pause)
    suspects: Suspects = attrs.field(factory=Suspects)
    mode: Mode = Mode.NORMAL
    rejected: list[int] = attrs.field(factory=list)
    judged: set[int] = attrs.field(factory=set)
    tried: set[int] = attrs.field(factory=set)
    witnesses_left: int = TRIAL_SIZE
    is_hung: bool = False

    @property
    def key(self) -> LaneKey:
        return self.kind, self.app_id

    def parts(self, rows: Sequence[Candidate]) -> Iterable[list[Candidate]]:
        """The groups of suspects, then all other rows."""
        if not self.suspects.groups:
            yield list(rows)
            return
        by_id = {row.id: row for row in rows}
        for group in self.suspects.groups:
            yield [by_id.pop(id) for id in group.ids]
        yield list(by_id.values())

    def start_trial(self) -> None:
        self._enter(Mode.TRIAL)
        for id in self.rejected:
            self.suspects.remove(id)
        self.suspects.put_first(self.rejected)

    def convict(self) -> None:
        self._enter(Mode.CONVICTED)
        # A few that were refused once may have met a moment of an ill server.
        self.judged = set(self.rejected) if len(self.rejected) >= RETRIAL_SIZE else set()
        self.rejected.clear()

    def clear(self) -> None:
        """An ordinary request was accepted: all is well here."""
        self.mode = Mode.NORMAL
        self.rejected.clear()
        self.judged.clear()

    @property
    def trial_size(self) -> int:
        """Singles rejected in a row after which a trial begins."""
        return RETRIAL_SIZE if self.mode is Mode.CONVICTED else TRIAL_SIZE

    def hang(self) -> None:
        """Give this trial up; the next one has a single witness."""
        self.is_hung, self.witnesses_left = True, 1

    def witnesses(self, rows: Sequence[Candidate], newest: Sequence[Candidate]) -> list[Candidate]:
        """Rows that may be tried alone, best first."""
        pool = {row.id: row for row in newest if (row.kind, row.app_id) == self.key}
        pool |= {row.id: row for row in reversed(rows) if row.id not in pool}
        self.tried &= pool.keys()
        barred = self.tried.union(self.rejected)
        fresh = [row for row in pool.values() if row.id not in barred]
        if fresh or not self.is_hung:
            names = {row.name for row in pool.values() if row.id in barred}
            return sorted(fresh, key=lambda row: row.name in names)
        self.tried.clear()
        condemned = [row for row in rows if row.id in self.rejected]
        return [row for row in pool.values() if row not in condemned] + condemned

    def _enter(self, mode: Mode) -> None:
        self.mode, self.is_hung, self.witnesses_left = mode, False, TRIAL_SIZE
        self.tried.clear()

    def snapshot(self, now: float) -> dict[str, object]:
        return {
            "kind": int(self.kind),
            "app_id": self.app_id,
            "items": self.window.items,
            "bytes": self.window.bytes,
            "pause": self.pause.snapshot(now),
            "mode": self.mode.name,
            "rejected": list(self.rejected),
            "judged": sorted(self.judged),
            "hung": self.is_hung,
        }

    def restore(self, now: float, saved: Mapping[str, object]) -> None:
        items, bytes_ = self.window.items, self.window.bytes
        self.window.items = int(number(saved.get("items"), 1, items, items))
        self.window.bytes = int(number(saved.get("bytes"), 1, bytes_, bytes_))
        self.pause.restore(now, saved.get("pause"))
        ids, mode = _ids(saved.get("rejected")), saved.get("mode")
        if mode == Mode.TRIAL.name and len(ids) >= TRIAL_SIZE:
            self._enter(Mode.TRIAL)
            self.rejected = ids
            if saved.get("hung") is True:
                self.hang()
            return
        if mode == Mode.CONVICTED.name:
            self._enter(Mode.CONVICTED)
            self.judged = set(_ids(saved.get("judged")))
        if len(ids) < self.trial_size:
            self.rejected = ids


def _ids(data: object) -> list[int]:
    return [id for id in data if isinstance(id, int)] if isinstance(data, list) else []


def _halves(ids: tuple[int, ...]) -> list[Group]:
    """Two groups of which at least one is bad; one where there is nothing to halve."""
    middle = len(ids) // 2
    if middle == 0:
        return [Group(ids)]
    return [Group(ids[:middle]), Group(ids[middle:], paired=True)]


def mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def number(value: object, low: float, high: float, default: float) -> float:
    """A number between two bounds; the default for anything else. NaN fails both comparisons."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return default
    return min(max(value, low), high)

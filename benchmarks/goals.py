"""
What the project aims at, and where it stands: each goal reads one or two cells of
the saved results. Nothing is judged by it but in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs

from benchmarks.delivery import WARM
from benchmarks.peers import OURS
from benchmarks.results import Result
from benchmarks.tables import Row

Found = Mapping[str, Result]


@attrs.frozen
class Goal:
    """
    A figure with a limit.

    Attributes:
        what: It is about.
        limit: What is aimed at.
        figure: Takes it from the results; raises LookupError where they lack it.
        at_least: Whether more is better.
    """

    what: str
    limit: float
    figure: Callable[[Found], float]
    at_least: bool = False

    def is_met(self, figure: float) -> bool:
        """
        Whether a figure is as good as the limit.
        """
        return figure >= self.limit if self.at_least else figure <= self.limit


def standing(found: Found) -> list[Row]:
    """
    The goals whose figures are there, a row each.
    """
    return [
        {
            "goal": goal.what,
            "aim": f"{'≥' if goal.at_least else '≤'} {goal.limit:g}",
            "measured": figure,
            "met": "yes" if goal.is_met(figure) else "no",
        }
        for goal, figure in _figures(found)
    ]


def _figures(found: Found) -> Iterator[tuple[Goal, float]]:
    for goal in GOALS:
        try:
            yield goal, goal.figure(found)
        except (LookupError, ValueError):  # not measured; or compared with nobody
            continue


# -- where figures stand --------------------------------------------------------------


def _rows(found: Found, name: str, **where: object) -> list[Row]:
    rows: list[Row] = found[name]["rows"]
    named = {key.replace("_", " "): value for key, value in where.items()}
    return [row for row in rows if all(row.get(key) == value for key, value in named.items())]


def _cell(found: Found, name: str, column: str, **where: object) -> float:
    return sum(_number(row, column) for row in [*_rows(found, name, **where)] or [{}])


def _number(row: Row, column: str) -> float:
    value = row[column]
    assert not isinstance(value, str)
    return value or 0.0


def _others(found: Found, name: str, column: str) -> list[float]:
    ours = {OURS.name, WARM}
    return [_number(row, column) for row in _rows(found, name) if row["client"] not in ours]


def _start(found: Found, what: str) -> float:
    return _cell(found, "startup", "above bare ms", what=what)


def _beside_four(cores: str, column: str) -> Callable[[Found], float]:
    def times_lower(found: Found) -> float:
        commit, track = (
            _cell(found, "contention", column, what=what, on=cores, busy_threads=4)
            for what in ("SQLite commit, WAL, NORMAL", "Agent.track")
        )
        return commit / track

    return times_lower


GOALS = (
    Goal(
        "`track`, 8 properties: median ÷ that of encode + write",
        2.0,
        lambda found: _cell(found, "hot-path", "× floor", what="Agent.track"),
    ),
    Goal(
        "the same with 4 event properties and an identity",
        2.0,
        lambda found: _cell(found, "hot-path", "× floor", what="Agent.track, +4 properties, known"),
    ),
    Goal(
        "the fastest other client's call in memory ÷ `track`",
        2.0,
        lambda found: min(
            _number(row, "× floor") for row in _rows(found, "hot-path", floor="Agent.track")
        ),
        at_least=True,
    ),
    Goal(
        "`track` while events are sent: p99 ÷ the best other client's",
        0.5,
        lambda found: (
            _cell(found, "live", "p99 µs", client=OURS.name) / min(_others(found, "live", "p99 µs"))
        ),
    ),
    Goal(
        "beside 4 busy threads, two cores: p99 of a commit per event ÷ that of `track`",
        100,
        _beside_four("two cores", "p99 µs"),
        at_least=True,
    ),
    Goal(
        "… pinned to one core: p99",
        100,
        _beside_four("one core", "p99 µs"),
        at_least=True,
    ),
    Goal(
        "… pinned to one core: p99.9",
        100,
        _beside_four("one core", "p99.9 µs"),
        at_least=True,
    ),
    Goal(
        "8 threads at once ÷ one, events/s",
        0.9,
        lambda found: _cell(found, "threads", "8 threads ÷ one", client=OURS.name),
        at_least=True,
    ),
    Goal(
        "bytes to disk per event of about 330 bytes, delivered, at 100 events/s",
        1_200,
        lambda found: _cell(found, "disk", "bytes/event", what="agent, 100 events/s"),
    ),
    Goal(
        "`import heap_agent` above bare Python, ms",
        30,
        lambda found: _start(found, "import heap_agent"),
    ),
    Goal(
        "`init` and first `track` above the import, empty directory, ms",
        50,
        lambda found: (
            _start(found, "… init, first track: empty directory")
            - _start(found, "import heap_agent")
        ),
    ),
    Goal(
        "the same with 1,000,000 events queued, ms",
        50,
        lambda found: (
            _start(found, "… init, first track: 1,000,000 queued")
            - _start(found, "import heap_agent")
        ),
    ),
    Goal(
        "memory above bare Python, nothing to send, MB",
        20,
        lambda found: _cell(found, "memory", "after 45 s", what="agent, nothing to send"),
    ),
    Goal(
        "the same with 1,000,000 events that cannot be sent, MB",
        30,
        lambda found: _cell(found, "memory", "after 45 s", what="agent, 1,000,000 it cannot send"),
    ),
    Goal(
        "idle, nothing to send, % of a core",
        0.1,
        lambda found: _cell(found, "idle", "% of a core", what="agent, nothing to send"),
    ),
    Goal(
        "idle, nothing to send: wake-ups of our threads a second",
        1.0,
        lambda found: _cell(
            found,
            "idle",
            "wake-ups a s",
            what="agent, nothing to send",
            thread="heap-agent-keeper",
        ),
    ),
    Goal(
        "delivery, after a first one: events/s ÷ the fastest other client's",
        1.0,
        lambda found: (
            _cell(found, "delivery", "events/s", client=WARM)
            / max(_others(found, "delivery", "events/s"))
        ),
        at_least=True,
    ),
    Goal(
        "delivery, after a first one: processor time per event ÷ the least of the others",
        0.5,
        lambda found: (
            _cell(found, "delivery", "CPU µs/event", client=WARM)
            / min(_others(found, "delivery", "CPU µs/event"))
        ),
    ),
    Goal(
        "a request of 1,000 events: decoding and encoding ÷ the join",
        20,
        lambda found: _cell(found, "join", "× cheaper", what="join"),
        at_least=True,
    ),
    Goal(
        "… ÷ checksums and the join",
        5,
        lambda found: _cell(found, "join", "× cheaper", what="checksums and join"),
        at_least=True,
    ),
    Goal(
        "an event's cost to the store as the backlog grows: dearest ÷ at 1,000",
        1.5,
        lambda found: max(
            _number(row, column)
            for row in _rows(found, "backlog", rows="dearest ÷ at 1,000")
            for column in row
            if column != "rows"
        ),
    ),
)

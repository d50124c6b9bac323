"""The machine behind every call, driven by a clock and a server that are only numbers."""

from __future__ import annotations

from collections import Counter, deque

import attrs
import pytest
import trials
from hypothesis import given, settings
from hypothesis import strategies as st

from heap_agent._core import limits
from heap_agent._core.budget import Allowance
from heap_agent._core.events import Fault, Kind
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._server.bulk import REFUSED_IN_A_ROW, Bulk, GiveUp, Idle, Send, Settled, Wait
from heap_agent._server.items import Encoded

#: Of the longest back-fill here.
ROWS = trials.tries(100_000, 1_000_000)

OK = Outcome(Answer.ACCEPTED, status=200)
BAD = Outcome(Answer.REJECTED, status=400, reason="HTTP 400: bad")
LARGE = Outcome(Answer.TOO_LARGE, status=413, reason="HTTP 413")
DOWN = Outcome(Answer.UNAVAILABLE, status=500, reason="HTTP 500")
CUT = Outcome(Answer.UNAVAILABLE, began=True, reason="reset")
REFUSED = Outcome(Answer.UNAVAILABLE, reason="connection refused")
WRONG = Outcome(Answer.MISCONFIGURED, status=403, reason="HTTP 403")
UNLIMITED = Allowance(None, None, 1)


def body(index: int, size: int = 0) -> bytes:
    """An item that tells its number."""
    return (b"%d" % index).ljust(size, b" ")


def number(item: bytes) -> int:
    """The item's number."""
    return int(item)


def filled(
    count: int, kind: Kind = Kind.EVENT, size: int = 0, retry_for: float | None = 300
) -> Bulk:
    """A call with so many items in hand, of ten actors."""
    bulk = Bulk(kind, "11", retry_for)
    for index in range(count):
        bulk.add(index, f"item {index}", Encoded(body(index, size), f"u{index % 10}"))
    return bulk


def sending(bulk: Bulk, now: float = 0.0, allowance: Allowance = UNLIMITED) -> list[int]:
    """The numbers of the items that go now."""
    step = bulk.next_step(now, allowance)
    assert isinstance(step, Send), step
    return [number(item) for item in step.items]


# -- one answer at a time -----------------------------------------------------------------


def test_nothing_in_hand_is_idle() -> None:
    """Also when what is there is refused already."""
    bulk = Bulk(Kind.EVENT, "11", 300)
    assert bulk.next_step(0, UNLIMITED) == Idle()
    assert not bulk.settle()

    bulk.refuse(0, "x", "why")
    assert bulk.next_step(0, UNLIMITED) == Idle()
    (refusal,) = bulk.settle().refusals
    assert (refusal.index, refusal.item, refusal.reason) == (0, "x", "why")


def test_a_request_holds_a_thousand_items() -> None:
    """That is when the hand is full."""
    bulk = filled(999)
    assert bulk.wants_more
    bulk.add(999, None, Encoded(body(999), "u"))

    assert not bulk.wants_more
    assert sending(bulk) == list(range(1000))


def test_a_request_holds_a_million_bytes() -> None:
    """Commas and the members around the list included."""
    bulk = filled(12, size=100_000)
    assert not bulk.wants_more
    assert sending(bulk) == list(range(9))


def test_identify_has_no_bulk_form() -> None:
    """One in a request."""
    bulk = filled(1, Kind.IDENTIFY)
    assert not bulk.wants_more
    assert sending(bulk) == [0]


def test_accepted_items_are_settled() -> None:
    """And those that had to be changed are counted."""
    bulk = filled(2)
    bulk.add(2, None, Encoded(body(2), "u", (Fault("too_long", None, ""),)))
    sending(bulk)
    bulk.receive(1, 0.5, OK, UNLIMITED)

    assert bulk.settle() == Settled(accepted=3, repaired=1)
    assert len(bulk) == 0 and bulk.requests == 1


def test_a_refused_item_is_settled_in_its_place() -> None:
    """Not before the items in front of it."""
    bulk = filled(1)
    bulk.refuse(1, "x", "why")
    assert not bulk.settle()

    sending(bulk)
    bulk.receive(1, 0.5, OK, UNLIMITED)
    settled = bulk.settle()
    assert (settled.accepted, len(settled.refusals)) == (1, 1)


@pytest.mark.parametrize("outcome", [DOWN, REFUSED, Outcome(Answer.CAPTIVE, status=302)])
def test_trouble_is_waited_out_and_the_same_goes_again(outcome: Outcome) -> None:
    """In the same order, nothing more and nothing less."""
    bulk = filled(3)
    first = bulk.next_step(0, UNLIMITED)
    bulk.receive(0, 1.0, outcome, UNLIMITED)

    assert bulk.next_step(0.25, UNLIMITED) == Wait(0.75)
    assert bulk.next_step(1, UNLIMITED) == first
    assert not bulk.settle()


def test_a_request_that_was_cut_goes_again_as_it_was_and_then_in_halves() -> None:
    """One reset is an accident; two are a slow line. Acceptance makes it grow again."""
    bulk = filled(8)
    sizes = []
    for now, outcome in enumerate([CUT, CUT, CUT, OK, OK, OK]):
        sizes.append(len(sending(bulk, 100.0 * now, UNLIMITED)))
        bulk.receive(100.0 * now, 0.5, outcome, UNLIMITED)
        bulk.settle()

    assert sizes[:4] == [8, 8, 4, 2]
    assert sum(sizes[3:]) == 8 and sizes[4] == 4


def test_it_gives_up_when_the_time_is_over() -> None:
    """With the last answer as the reason, and for good."""
    bulk = filled(1, retry_for=0)
    sending(bulk)
    bulk.receive(0, 0.5, DOWN, UNLIMITED)

    assert bulk.next_step(1e9, UNLIMITED) == GiveUp(DOWN)


def test_an_answer_about_something_else_ends_it_at_once() -> None:
    """A wrong host or proxy is no fault of the items."""
    bulk = filled(5)
    sending(bulk)
    bulk.receive(0, 0.5, WRONG, UNLIMITED)

    assert bulk.next_step(0, UNLIMITED) == GiveUp(WRONG)
    assert not bulk.settle() and len(bulk) == 5


def test_too_large_halves_and_one_alone_is_refused() -> None:
    """With the answer as its reason."""
    bulk = filled(4)
    refused = []
    for _ in range(20):
        step = bulk.next_step(0, UNLIMITED)
        if not isinstance(step, Send):
            break
        has_large = body(2) in step.items
        bulk.receive(0, 0.5, LARGE if has_large else OK, UNLIMITED)
        refused += bulk.settle().refusals

    assert [one.index for one in refused] == [2]
    assert refused[0].outcome == LARGE
    assert len(bulk) == 0


def test_a_server_that_refuses_everything_is_not_believed_for_ever() -> None:
    """After a hundred in a row the fault is not in the items."""
    bulk = filled(1000)
    settled = 0
    while isinstance(step := bulk.next_step(0, UNLIMITED), Send):
        bulk.receive(0, 0.5, BAD, UNLIMITED)
        settled += len(bulk.settle().refusals)

    assert step == GiveUp(BAD)
    assert settled == REFUSED_IN_A_ROW
    assert bulk.requests < 400


def test_what_may_have_arrived_is_charged() -> None:
    """A connection that was never made is not."""
    for outcome, room in [(REFUSED, 10), (CUT, 7), (DOWN, 7), (BAD, 7), (OK, 7)]:
        allowance = Allowance(None, 10, 1)
        bulk = filled(3)
        sending(bulk, 0, allowance)
        bulk.receive(0, 0.5, outcome, allowance)

        purse = allowance.purse(0, Kind.EVENT, "11")
        assert sum(purse.take(f"x{n}") for n in range(20)) == room


def test_the_repr_shows_where_it_stands() -> None:
    """Counts, and no item."""
    bulk = filled(3)
    assert repr(bulk) == (
        "<Bulk EVENT, 3 in hand, 0 requests, <Patience 0 failures, 300 s>, <Suspects []>>"
    )
    assert "item" not in repr(bulk).replace("items", "")


# -- a whole call against a server of numbers -----------------------------------------------


@attrs.define
class Numbers:
    """A server that keeps what it accepts, refuses bad items, and fails by a script."""

    bad: frozenset[int] = frozenset()
    faults: deque[Outcome] = attrs.Factory(deque)
    kept: list[int] = attrs.Factory(list)
    arrivals: list[tuple[float, Counter[str]]] = attrs.Factory(list)

    def answer(self, now: float, items: list[int], actors: list[str]) -> Outcome:
        fault = self.faults.popleft() if self.faults else None
        if fault is None or fault.began or fault.status:
            self.arrivals.append((now, Counter(actors)))
        if fault is not None:
            if fault is CUT:
                self.kept += items
            return fault
        if self.bad.intersection(items):
            return BAD
        self.kept += items
        return OK


def drive(
    bulk: Bulk, actors: list[str], server: Numbers, allowance: Allowance, size: int = 0
) -> tuple[float, list[int], list[int]]:
    """Send everything; the time that it took, and the accepted and refused numbers."""
    now, taken, trip = 0.0, 0, 0.1
    accepted: list[int] = []
    refused: list[int] = []
    while True:
        while bulk.wants_more and taken < len(actors):
            bulk.add(taken, None, Encoded(body(taken, size), actors[taken]))
            taken += 1
        step = bulk.next_step(now, allowance)
        if isinstance(step, Send):
            items = [number(item) for item in step.items]
            outcome = server.answer(now + trip / 2, items, [actors[n] for n in items])
            now += trip
            bulk.receive(now, 0.5, outcome, allowance)
        elif isinstance(step, Wait):
            assert step.seconds > 0
            now += step.seconds
        else:
            assert step == Idle()
            break
        settled = bulk.settle()
        refused += [one.index for one in settled.refusals]
        done = len(accepted) + settled.accepted + len(refused)
        accepted += [n for n in range(done) if n not in refused][len(accepted) :]
    return now, accepted, refused


def most_in(arrivals: list[tuple[float, int]], seconds: float) -> int:
    """The most that arrived in any window of so many seconds."""
    window: deque[tuple[float, int]] = deque()
    total = most = 0
    for when, count in arrivals:
        window.append((when, count))
        total += count
        while window[0][0] <= when - seconds:
            total -= window.popleft()[1]
        most = max(most, total)
    return most


scripts = st.lists(st.sampled_from([DOWN, REFUSED, CUT]), max_size=6)


@settings(max_examples=trials.tries(80, 1_000))
@given(
    actors=st.lists(st.sampled_from("abc"), max_size=120),
    bad=st.frozensets(st.integers(0, 119), max_size=6),
    faults=scripts,
    identity_budget=st.integers(1, 40),
    app_budget=st.integers(1, 60),
)
def test_every_item_once_in_order_and_within_every_limit(
    actors: list[str],
    bad: frozenset[int],
    faults: list[Outcome],
    identity_budget: int,
    app_budget: int,
) -> None:
    """Whatever fails, nothing is lost, nothing is out of order, and no minute holds too much."""
    server = Numbers(bad, deque(faults))
    allowance = Allowance(identity_budget, app_budget, 1)
    bulk = Bulk(Kind.EVENT, "11", None)
    _, accepted, refused = drive(bulk, actors, server, allowance)

    everything = range(len(actors))
    assert refused == [n for n in everything if n in bad]
    assert accepted == [n for n in everything if n not in bad]
    first_time = list(dict.fromkeys(n for n in server.kept if n not in bad))
    assert first_time == accepted
    assert most_in([(t, c.total()) for t, c in server.arrivals], 60) <= app_budget
    for actor in "abc":
        own = [(t, c[actor]) for t, c in server.arrivals if c[actor]]
        assert most_in(own, 60) <= identity_budget


@pytest.mark.parametrize("kind", [Kind.USER_PROPERTIES, Kind.ACCOUNT_PROPERTIES])
def test_requests_for_one_user_keep_to_thirty_in_thirty_seconds(kind: Kind) -> None:
    """A request is one for each identity in it, however many items of it there are."""
    server, allowance = Numbers(), Allowance(1000, 15_000, 1)
    actors = ["a", "b", "a"] * 300
    drive(Bulk(kind, "11", None), actors, server, allowance, size=100_000)

    requests = [(t, 1) for t, c in server.arrivals if c["a"]]
    assert len(requests) == 100
    assert most_in(requests, 30) == limits.REQUESTS_PER_IDENTITY


def test_a_backlog_never_goes_over_a_limit() -> None:
    """Identities of every weight take about as long as Heap's limit makes them."""
    total = ROWS
    actors = ["heavy" if n % 16 == 0 else f"u{n}" for n in range(997)]
    allowance, now, taken, settled = Allowance(1000, 15_000, 1), 0.0, 0, 0
    bulk = Bulk(Kind.EVENT, "11", 300)
    encoded = [Encoded(b"x" * 150, actor) for actor in actors]
    arrivals: list[tuple[float, int]] = []
    of_heavy: list[tuple[float, int]] = []
    failures = 0
    while settled < total:
        while bulk.wants_more and taken < total:
            bulk.add(taken, None, encoded[taken % 997])
            taken += 1
        first = settled
        step = bulk.next_step(now, allowance)
        if isinstance(step, Wait):
            now += step.seconds
            continue
        assert isinstance(step, Send)
        arrivals.append((now, len(step.items)))
        sent = (actors[(first + n) % 997] for n in range(len(step.items)))
        of_heavy.append((now, sum(actor == "heavy" for actor in sent)))
        now += 0.4
        failures += (fails := len(arrivals) % 97 == 0)
        bulk.receive(now, 0.5, CUT if fails else OK, allowance)
        settled += bulk.settle().accepted

    assert sum(count for _, count in arrivals) == total + 1_000 * failures
    assert most_in(arrivals, 60) == limits.APP_EVENTS_PER_MINUTE
    assert 900 < most_in(of_heavy, 60) <= limits.IDENTITY_EVENTS_PER_MINUTE
    minutes = (total + 1_000 * failures) / limits.APP_EVENTS_PER_MINUTE
    assert minutes * 60 - 60 <= now <= minutes * 60 * 1.06

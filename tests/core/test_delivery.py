"""
Rules of `heap_agent._core.delivery`.

Every test drives the machine through `Device`, a queue in memory that checks the
promises with each step, whatever the test is about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from heap_agent._core.delivery import (
    ENVELOPE_BYTES,
    Delivery,
    Idle,
    Policy,
    Probe,
    Send,
    Step,
    Verdict,
    Wait,
)
from heap_agent._core.events import Candidate, Kind
from heap_agent._core.outcomes import Answer, Outcome, unreachable

Server = Callable[[Sequence[Candidate]], Outcome]

FREE = Policy(identity_budget=None, app_budget=None)
REACHED = Outcome(Answer.REACHED, status=200)
ACCEPTED = Outcome(Answer.ACCEPTED, status=200)
REJECTED = Outcome(Answer.REJECTED, status=400, reason="HTTP 400: bad")
TOO_LARGE = Outcome(Answer.TOO_LARGE, status=413)
THROTTLED = Outcome(Answer.THROTTLED, status=429, retry_after=60.0)
BUSY = Outcome(Answer.THROTTLED, status=503, retry_after=60.0)
BROKEN = Outcome(Answer.UNAVAILABLE, status=500)
OFFLINE = unreachable("no route to host", began=False)
CUT_OFF = unreachable("connection reset", began=True)
CAPTIVE = Outcome(Answer.CAPTIVE, status=302)
FORBIDDEN = Outcome(Answer.MISCONFIGURED, status=403)


def event(id: int, actor: str = "a", name: str = "Seen", size: int = 300) -> Candidate:
    return Candidate(id, Kind.EVENT, "11", actor, size, name)


def events(count: int) -> list[Candidate]:
    return [event(id) for id in range(1, count + 1)]


def accept(rows: Sequence[Candidate]) -> Outcome:
    return ACCEPTED


def refusing(poison: set[int]) -> Server:
    """A server that rejects each request with a poison row in it."""
    return lambda rows: REJECTED if any(row.id in poison for row in rows) else ACCEPTED


class Device:
    """A queue in memory, a clock, and a delivery machine between them."""

    def __init__(self, policy: Policy = FREE, rows: Sequence[Candidate] = ()) -> None:
        self.policy = policy
        self.delivery = Delivery(policy)
        self.queue = {row.id: row for row in rows}
        self.dead: dict[int, Candidate] = {}
        self.delivered: list[Candidate] = []
        self.sent: list[tuple[float, tuple[Candidate, ...]]] = []
        self.now = 1_000.0
        self.chance = 0.5

    def rows(self) -> list[Candidate]:
        return [self.queue[id] for id in sorted(self.queue)]

    def next_step(self) -> Step:
        trials = self.delivery.trials
        rows = self.rows()
        newest = [row for row in reversed(rows) if (row.kind, row.app_id) in trials][:20]
        step = self.delivery.next_step(self.now, rows, newest)
        if isinstance(step, Send):
            self.check(step, trials)
        if isinstance(step, Wait):
            assert step.seconds > 0
            assert self.delivery.next_attempt(self.now) == pytest.approx(step.seconds)
        assert isinstance(step, Idle) == (not rows)
        return step

    def check(self, step: Send, trials: Sequence[tuple[Kind, str]]) -> None:
        """A request is made of queued rows of one lane, in order, within the limits."""
        rows = [self.queue[id] for id in step.ids]
        assert rows
        assert {(row.kind, row.app_id) for row in rows} == {(step.kind, step.app_id)}
        assert len(set(step.ids)) == len(step.ids) <= self.policy.batch_items
        size = ENVELOPE_BYTES + len(rows) - 1 + sum(row.size for row in rows)
        assert len(rows) == 1 or size <= self.policy.batch_bytes
        assert step.kind is not Kind.IDENTIFY or len(rows) == 1
        if (step.kind, step.app_id) in trials:
            assert len(rows) == 1
            return
        for actor in {row.actor for row in rows}:
            lane = [
                row.id
                for row in self.rows()
                if (row.kind, row.app_id, row.actor) == (step.kind, step.app_id, actor)
            ]
            own = [row.id for row in rows if row.actor == actor]
            assert own == lane[: len(own)], "a row has overtaken another of its actor"

    def receive(self, step: Send | Probe, outcome: Outcome) -> Verdict:
        before = self.delivery.trials
        verdict = self.delivery.receive(self.now, self.chance, outcome)
        ids = step.ids if isinstance(step, Send) else ()
        if isinstance(step, Send):
            self.sent.append((self.now, tuple(self.queue[id] for id in ids)))
        assert set(verdict.ack) <= set(ids)
        assert set(verdict.bury) <= set(ids)
        assert not verdict.ack or outcome.answer is Answer.ACCEPTED
        assert not verdict.bury or outcome.answer in (Answer.REJECTED, Answer.TOO_LARGE)
        if isinstance(step, Send) and (step.kind, step.app_id) in before:
            assert not verdict.bury, "a witness was buried"
        for id in verdict.ack:
            self.delivered.append(self.queue.pop(id))
        for id in verdict.bury:
            self.dead[id] = self.queue.pop(id)
        for id in verdict.restore:
            if id in self.dead:
                self.queue[id] = self.dead.pop(id)
        return verdict

    def turn(self, server: Server, probe: Outcome = REACHED) -> Step:
        """One step; a `Wait` passes at once."""
        step = self.next_step()
        match step:
            case Probe():
                self.receive(step, probe)
            case Send():
                self.receive(step, server([self.queue[id] for id in step.ids]))
            case Wait():
                self.now += step.seconds
        return step

    def run(self, server: Server, turns: int = 10_000, until_wait: float = 1e9) -> None:
        """Take turns until nothing is left, or a wait is as long as given."""
        for _ in range(turns):
            step = self.turn(server)
            if isinstance(step, Idle) or (isinstance(step, Wait) and step.seconds >= until_wait):
                return
        raise AssertionError(f"no end after {turns} turns: {self.delivery!r}")

    def until(self, wanted: type[Step]) -> Step:
        """The next step of a kind; probes are answered, waits pass."""
        for _ in range(100):
            step = self.next_step()
            if isinstance(step, wanted):
                return step
            if isinstance(step, Probe):
                self.receive(step, REACHED)
            if isinstance(step, Wait):
                self.now += step.seconds
        raise AssertionError(f"no {wanted.__name__}: {self.delivery!r}")

    def send(self) -> Send:
        step = self.until(Send)
        assert isinstance(step, Send)
        return step

    def answer(self, outcome: Outcome) -> Step:
        """Send what is next, get this answer, and look at what follows."""
        self.receive(self.send(), outcome)
        return self.next_step()

    def restart(self, now: float) -> None:
        saved = json.loads(json.dumps(self.delivery.snapshot(self.now)))
        self.delivery = Delivery(self.policy)
        self.now = now
        self.delivery.restore(now, saved)


# -- steps ------------------------------------------------------------------------


def test_nothing_to_send_is_idle() -> None:
    """An empty queue needs neither a probe nor a wait."""
    assert Device().next_step() == Idle()


def test_a_probe_comes_first() -> None:
    """Nothing with a body leaves before the endpoint was reached once."""
    device = Device(rows=events(3))
    assert device.turn(accept) == Probe()
    assert device.next_step() == Send(Kind.EVENT, "11", (1, 2, 3))


@pytest.mark.parametrize("outcome", [BROKEN, OFFLINE, CUT_OFF, CAPTIVE])
def test_a_probe_follows_a_failure(outcome: Outcome) -> None:
    """After a failure the endpoint has to be reached again before the next body."""
    device = Device(rows=events(3))
    wait = device.answer(outcome)
    assert isinstance(wait, Wait)
    device.now += wait.seconds
    assert device.turn(accept) == Probe()
    assert isinstance(device.next_step(), Send)


@pytest.mark.parametrize("outcome", [OFFLINE, CAPTIVE])
def test_a_failed_probe_backs_off(outcome: Outcome) -> None:
    """Probes that fail wait longer each time, up to the cap, and send nothing."""
    device, waits = Device(rows=events(3)), []
    for _ in range(15):
        assert device.turn(accept, probe=outcome) == Probe()
        step = device.turn(accept)
        assert isinstance(step, Wait)
        waits.append(step.seconds)
    assert waits == sorted(waits)
    assert waits[0] == 0.5
    assert waits[-1] == 150.0
    assert device.delivery.trouble is outcome.answer
    assert device.sent == []


def test_an_answer_without_a_question_is_refused() -> None:
    """A caller that reports twice is told so."""
    device = Device(rows=events(1))
    device.turn(accept)
    device.turn(accept)
    with pytest.raises(RuntimeError, match="call next_step"):
        device.delivery.receive(device.now, 0.5, ACCEPTED)


def test_asking_again_means_that_nothing_was_sent() -> None:
    """A Send that is not carried out costs no budget."""
    device = Device(Policy(identity_budget=3), events(5))
    assert device.send() == device.next_step() == Send(Kind.EVENT, "11", (1, 2, 3))


# -- batches ----------------------------------------------------------------------


def test_one_app_id_a_request() -> None:
    """Rows of another app id go into a request of their own, oldest lane first."""
    rows = [event(1), Candidate(2, Kind.EVENT, "21", "a", 9, "Seen"), event(3)]
    device = Device(rows=rows)
    device.run(accept)
    assert [[row.id for row in batch] for _, batch in device.sent] == [[1, 3], [2]]


def test_identify_goes_alone_and_properties_in_bulk() -> None:
    """Kinds have lanes of their own; `identify` has no bulk form."""
    kinds = [Kind.IDENTIFY, Kind.USER_PROPERTIES, Kind.IDENTIFY, Kind.USER_PROPERTIES, Kind.EVENT]
    rows = [Candidate(id, kind, "11", "a", 9) for id, kind in enumerate(kinds, 1)]
    device = Device(rows=rows)
    device.run(accept)
    assert [[row.id for row in batch] for _, batch in device.sent] == [[1], [2, 4], [3], [5]]


def test_batches_are_filled_up_to_the_limits() -> None:
    """A batch is as large as items and bytes allow; an event over the limit goes alone."""
    sizes = [100, 100, 100, 5_000, 436, 400, 99]
    rows = [event(id, size=size) for id, size in enumerate(sizes, 1)]
    device = Device(_small(3, 1_000), rows)
    device.run(accept)
    assert [[row.id for row in batch] for _, batch in device.sent] == [[1, 2, 3], [4], [5, 6], [7]]


def _small(items: int, size: int) -> Policy:
    return Policy(batch_items=items, batch_bytes=size, identity_budget=None, app_budget=None)


def test_commas_and_envelope_count() -> None:
    """Two rows fit exactly when the comma between them does."""
    rows = [event(1, size=400), event(2, size=400)]
    assert len(Device(_small(9, ENVELOPE_BYTES + 801), rows).send().ids) == 2
    assert len(Device(_small(9, ENVELOPE_BYTES + 800), rows).send().ids) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_items": 1_001},
        {"batch_items": 0},
        {"batch_bytes": 1_000_001},
        {"identity_budget": 0},
        {"app_budget": float("inf")},
        {"fleet_size": 0},
        {"backoff_cap": -1},
    ],
)
def test_policies_stay_within_heaps_limits(wrong: dict[str, float]) -> None:
    """A policy that Heap would not take cannot be made."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)  # type: ignore[arg-type]


# -- budgets ----------------------------------------------------------------------


def test_an_actor_without_budget_holds_back_nobody_else() -> None:
    """Rows of others leave, and those of the actor keep their order."""
    rows = [event(id, actor="a") for id in (1, 2, 3, 4)] + [event(5, actor="b"), event(6)]
    device = Device(Policy(identity_budget=2), rows)
    assert device.send().ids == (1, 2, 5)
    step = device.answer(ACCEPTED)
    assert isinstance(step, Wait)
    assert 60 < step.seconds <= 62
    device.now += step.seconds
    assert device.next_step() == Send(Kind.EVENT, "11", (3, 4))


def test_requests_for_an_identity_are_counted() -> None:
    """Heap allows 30 property requests in 30 seconds; events go on meanwhile."""
    device = Device(Policy())
    for id in range(1, 31):
        device.queue[id] = Candidate(id, Kind.USER_PROPERTIES, "11", "a", 9)
        device.run(accept)
    device.queue = {40: Candidate(40, Kind.USER_PROPERTIES, "11", "a", 9), 41: event(41)}
    assert device.send() == Send(Kind.EVENT, "11", (41,))
    step = device.answer(ACCEPTED)
    assert isinstance(step, Wait)
    assert 30.0 <= step.seconds <= 32.0


def most_in_a_minute(device: Device, *, actor: str | None = None) -> int:
    """The most rows, of one actor or all, in any 60 s of arrivals."""
    sums = [(at, sum(actor in (None, row.actor) for row in rows)) for at, rows in device.sent]
    return max(sum(n for at, n in sums if start <= at < start + 60.0) for start, _ in sums)


@pytest.mark.parametrize(
    ("actors", "count", "limit"), [(1, 5_000, 1_000), (40, 60_000, 15_000), (3, 9_000, 3_000)]
)
def test_budgets_are_kept_and_used(actors: int, count: int, limit: int) -> None:
    """No 60 s window holds more than the limit, and a backlog drains at nine tenths of it."""
    device = Device(Policy())
    backlog = [event(id, actor=str(id % actors)) for id in range(1, count + 1)]
    counts = {("11", str(n)): count // actors for n in range(actors)}
    estimate = device.delivery.seconds_to_drain(device.now, counts)
    start = device.now
    position, window = 0, 16_000
    while position < count or device.queue:
        # A peek of bounded depth, as the store has.
        while position < count and len(device.queue) < window:
            device.queue[backlog[position].id] = backlog[position]
            position += 1
        step = device.delivery.next_step(device.now, list(device.queue.values()))
        device.now += 0.1
        if isinstance(step, Wait):
            device.now += step.seconds
        elif isinstance(step, Send):
            device.receive(step, ACCEPTED)
        else:
            device.receive(Probe(), REACHED)
    assert most_in_a_minute(device) <= limit
    for actor in range(actors):
        assert most_in_a_minute(device, actor=str(actor)) <= 1_000
    took = device.now - start
    assert took <= (count / limit - 1) * 60 / 0.9 + 3
    assert took == pytest.approx(estimate, rel=0.1)


def test_what_may_have_arrived_is_charged_when_it_ended() -> None:
    """A slow upload counts from its end, because nobody knows when it arrived."""
    device = Device(Policy(identity_budget=5), events(10))
    step = device.send()
    device.now += 50.0
    device.receive(step, ACCEPTED)
    wait = device.next_step()
    assert isinstance(wait, Wait)
    assert wait.seconds == pytest.approx(62.0)


def test_what_cannot_have_arrived_is_free() -> None:
    """A device that was offline has its whole budget when the network is back."""
    device = Device(Policy(identity_budget=5), events(10))
    for _ in range(4):
        device.receive(device.send(), OFFLINE)
    assert device.send().ids == (1, 2, 3, 4, 5)


# -- answers ------------------------------------------------------------------------


def test_accepted_rows_are_acknowledged() -> None:
    """An acceptance names all rows of the request."""
    device = Device(rows=events(3))
    assert device.receive(device.send(), ACCEPTED) == Verdict(ack=(1, 2, 3))


@pytest.mark.parametrize(
    "outcome", [CAPTIVE, THROTTLED, BUSY, BROKEN, OFFLINE, CUT_OFF, FORBIDDEN, REACHED]
)
def test_all_other_troubles_keep_the_rows(outcome: Outcome) -> None:
    """Nothing is forgotten or buried for a trouble that is not the rows', and all is sent later."""
    device = Device(rows=events(3))
    assert device.receive(device.send(), outcome) == Verdict()
    assert isinstance(device.next_step(), Wait)
    assert device.delivery.trouble is not None
    device.run(accept)
    assert [row.id for row in device.delivered] == [1, 2, 3]
    assert device.delivery.trouble is None


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_throttled_waits_as_told(chance: float) -> None:
    """Never earlier than told, and little later."""
    device = Device(rows=events(3))
    device.chance = chance
    step = device.answer(THROTTLED)
    assert isinstance(step, Wait)
    assert 60.0 <= step.seconds <= 66.0


@pytest.mark.parametrize("told", [None, 0.0, 0.001])
def test_throttled_without_a_time_does_not_spin(told: float | None) -> None:
    """A server that says "later" without a time gets a back-off of ours."""
    device = Device(rows=events(3))
    device.chance = 0.0
    for _ in range(5):
        step = device.answer(Outcome(Answer.THROTTLED, status=429, retry_after=told))
        assert isinstance(step, Wait)
        assert step.seconds >= 0.25


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("outcome", [BROKEN, OFFLINE, CUT_OFF, CAPTIVE])
def test_back_off_grows_to_its_cap_and_ends_with_acceptance(
    outcome: Outcome, chance: float
) -> None:
    """Full jitter under a doubling ceiling, never nothing, never over five minutes."""
    device = Device(rows=events(3))
    device.chance = chance
    for attempt in range(40):
        step = device.answer(outcome)
        assert isinstance(step, Wait)
        assert 0.25 <= step.seconds <= max(0.25, min(2.0**attempt, 300.0))
    device.receive(device.send(), ACCEPTED)
    device.queue[9] = event(9)
    step = device.answer(outcome)
    assert isinstance(step, Wait)
    assert step.seconds <= 1.0


def test_misconfigured_waits_longest_and_tries_one_row() -> None:
    """What will be refused again is not worth a megabyte; what is accepted opens the window."""
    device = Device(rows=events(3))
    step = device.answer(FORBIDDEN)
    assert isinstance(step, Wait)
    assert 150.0 <= step.seconds <= 300.0
    assert device.delivery.trouble is Answer.MISCONFIGURED
    assert device.send().ids == (1,)
    assert device.answer(ACCEPTED) == Send(Kind.EVENT, "11", (2, 3))


def test_too_large_halves_and_buries_a_single() -> None:
    """A server with a small limit gets small requests; what is too large alone is dead."""
    rows = [event(id, size=20_000 if id == 5 else 900) for id in range(1, 11)]
    device = Device(rows=rows)
    device.run(lambda sent: TOO_LARGE if sum(row.size for row in sent) > 2_000 else ACCEPTED)
    assert set(device.dead) == {5}
    assert [row.id for row in device.delivered] == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_a_server_to_which_everything_is_too_large_buries_nothing() -> None:
    """It is refusing, and all is kept, as it is where it rejects everything."""
    device = Device(rows=events(100))
    for _ in range(40):
        if device.delivery.trouble is Answer.MISCONFIGURED:
            break
        device.receive(device.send(), TOO_LARGE)
    assert device.delivery.trouble is Answer.MISCONFIGURED
    assert not device.dead
    assert len(device.queue) == 100


def test_a_cut_upload_halves_the_window_down_to_one_row() -> None:
    """On a line that never carries a whole batch, smaller and smaller ones are tried."""
    device, sizes = Device(rows=events(100)), []
    for _ in range(8):
        step = device.send()
        sizes.append(len(step.ids))
        device.receive(step, CUT_OFF)
    assert sizes == [100, 50, 25, 12, 6, 3, 1, 1]
    sizes = []
    while device.queue:
        step = device.send()
        sizes.append(len(step.ids))
        device.receive(step, ACCEPTED)
    assert sizes == [1, 2, 4, 8, 16, 32, 37]


def test_a_failure_that_had_not_begun_leaves_the_window() -> None:
    """A connection that was never made says nothing about the size."""
    device = Device(rows=events(100))
    device.receive(device.send(), OFFLINE)
    assert len(device.send().ids) == 100


def test_growth_that_fails_is_tried_less_often() -> None:
    """A line that carries eight rows in time is not blocked by every other request."""
    device = Device(rows=events(1_500))

    def slow(rows: Sequence[Candidate]) -> Outcome:
        return CUT_OFF if len(rows) > 8 else ACCEPTED

    device.run(slow)
    failed = sum(len(rows) > 8 for _, rows in device.sent)
    assert len(device.delivered) == 1_500
    assert failed < len(device.sent) / 10


# -- lanes ----------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [THROTTLED, BROKEN, CUT_OFF, CAPTIVE, FORBIDDEN, REJECTED])
def test_a_lane_in_trouble_does_not_starve_another(outcome: Outcome) -> None:
    """Whatever the answer to `identify`, events arrive."""
    rows = [Candidate(id, Kind.IDENTIFY, "11", "a", 9) for id in range(1, 9)]
    device = Device(rows=[*rows, event(20)])
    for _ in range(60):
        device.turn(lambda sent: outcome if sent[0].kind is Kind.IDENTIFY else ACCEPTED)
    assert [row.id for row in device.delivered] == [20]
    if outcome is not REJECTED:
        assert device.dead == {}


def test_a_busy_server_pauses_all_lanes() -> None:
    """503 with Retry-After speaks for the whole server."""
    rows = [Candidate(1, Kind.IDENTIFY, "11", "a", 9), event(2)]
    step = Device(rows=rows).answer(BUSY)
    assert isinstance(step, Wait)
    assert step.seconds >= 60.0


def test_paused_lanes_may_be_left_out() -> None:
    """A lane that is not among the candidates keeps its suspects for later."""
    device = Device(rows=[*events(8), Candidate(20, Kind.IDENTIFY, "11", "a", 9)])
    device.receive(device.send(), REJECTED)
    assert device.send().ids == (1, 2, 3, 4)
    device.receive(device.send(), THROTTLED)
    assert device.delivery.paused(device.now) == {(Kind.EVENT, "11")}
    assert device.delivery.next_step(device.now, [device.queue[20]]) == Send(
        Kind.IDENTIFY, "11", (20,)
    )
    device.receive(Send(Kind.IDENTIFY, "11", (20,)), ACCEPTED)
    assert device.send().ids == (1, 2, 3, 4)


# -- poison ---------------------------------------------------------------------------


def names_of(count: int) -> list[Candidate]:
    return [event(id, name=f"n{id % 7}") for id in range(1, count + 1)]


@pytest.mark.parametrize(
    ("count", "poison"),
    [
        pytest.param(2_000, set(range(50, 2_001, 100)), id="1 %"),
        pytest.param(2_000, set(range(500, 600)), id="100 adjacent"),
        pytest.param(2_000, set(range(500, 1_500)), id="1,000 adjacent"),
        pytest.param(2_000, {1, 2, 3, 4, 5}, id="first five"),
        pytest.param(2_000, set(range(1, 101)), id="first hundred"),
        pytest.param(2_000, {1_000, 1_001}, id="border of two batches"),
        pytest.param(2_000, {1, 2, 3, 4, 5, 1_997, 1_998, 1_999, 2_000}, id="both ends"),
        pytest.param(300, set(range(1, 301)) - {300}, id="all but the newest"),
    ],
)
def test_exactly_the_poison_ends_dead(count: int, poison: set[int]) -> None:
    """Whichever rows are bad, they alone end dead, and all others arrive."""
    device = Device(rows=names_of(count))
    device.run(refusing(poison))
    assert set(device.dead) == poison
    assert {row.id for row in device.delivered} == set(range(1, count + 1)) - poison


def test_a_long_row_of_poison_ends_dead_across_restarts() -> None:
    """A device that restarts while it judges does not begin again for ever."""
    device = Device(rows=names_of(2_000))
    poison = set(range(500, 1_500))
    for turn in range(8_000):
        device.turn(refusing(poison))
        if turn % 300 == 0:
            device.restart(device.now)
    assert set(device.dead) == poison
    assert not device.queue


def test_poison_alone_is_kept_until_a_good_event_comes() -> None:
    """When nothing but bad rows is left, only another event can show whose fault it is."""
    device = Device(rows=names_of(40))
    poison = set(range(30, 41))
    for _ in range(300):
        device.turn(refusing(poison))
    assert set(device.queue) == poison
    assert device.delivery.trouble is Answer.MISCONFIGURED
    device.queue[41] = event(41)
    device.run(refusing(poison))
    assert set(device.dead) == poison


@settings(max_examples=50)
@given(
    count=st.integers(1, 60),
    bad=st.sets(st.integers(1, 60)),
    actors=st.integers(1, 3),
    budget=st.sampled_from([None, 4.0, 25.0]),
    items=st.sampled_from([1, 3, 1_000]),
)
def test_random_poison(
    count: int, bad: set[int], actors: int, budget: float | None, items: int
) -> None:
    """With any poison, budget and batch size, no good row dies and each one arrives."""
    rows = [event(id, actor=str(id % actors), name=f"n{id % 5}") for id in range(1, count + 1)]
    policy = Policy(batch_items=items, identity_budget=budget, app_budget=budget)
    device = Device(policy, rows)
    # One good row of another name comes last, or nothing could tell "all rows
    # are bad" from "the server refuses everything".
    device.queue[99] = event(99, actor="z", name="good")
    device.run(refusing(bad))
    assert set(device.dead) == {id for id in bad if id <= count}
    assert {row.id for row in device.delivered} == {*range(1, count + 1), 99} - bad


def test_few_requests_find_one_poison_row() -> None:
    """A single bad row among a thousand costs about twice the logarithm."""
    device = Device(rows=names_of(1_000))
    device.run(refusing({700}))
    assert len(device.sent) <= 22
    assert [row.id for row in device.delivered] == [id for id in range(1, 1_001) if id != 700]


def test_a_known_bad_half_is_not_sent_whole() -> None:
    """When the first half is accepted, the second must hold the bad row."""
    device = Device(rows=events(8))
    device.run(refusing({6}))
    lengths = [[row.id for row in rows] for _, rows in device.sent]
    assert lengths == [[*range(1, 9)], [1, 2, 3, 4], [5, 6], [5], [6], [7, 8]]


def test_suspects_that_vanish_are_forgotten() -> None:
    """Rows that the cap dropped in the middle of a search do not stop it."""
    device = Device(rows=events(16))
    device.receive(device.send(), REJECTED)
    device.receive(device.send(), REJECTED)
    for id in (1, 2, 3, 4, 9, 10, 16):
        del device.queue[id]
    device.run(refusing({7, 12}))
    assert set(device.dead) == {7, 12}
    assert [row.id for row in device.delivered] == [5, 6, 8, 11, 13, 14, 15]


def test_a_vanished_first_half_convicts_nobody() -> None:
    """If the bad row may be among those that are gone, the second half is sent whole."""
    device = Device(rows=events(4))
    device.receive(device.send(), REJECTED)
    del device.queue[1]
    assert device.send().ids == (2,)
    device.receive(device.send(), ACCEPTED)
    assert device.send().ids == (3, 4)


# -- trial ------------------------------------------------------------------------------


def singles(count: int) -> Device:
    return Device(_small(1, 1_000_000), events(count))


def rejected_five_times(device: Device) -> None:
    for id in (1, 2, 3, 4):
        assert device.receive(device.send(), REJECTED) == Verdict(bury=(id,))
    assert device.delivery.trials == ()
    assert device.receive(device.send(), REJECTED) == Verdict(restore=(1, 2, 3, 4))
    assert device.delivery.trials
    assert device.delivery.trials == ((Kind.EVENT, "11"),)


def test_five_rejections_in_a_row_start_a_trial() -> None:
    """The four dead come back, the fifth stays, and the newest of another name is tried."""
    device = singles(9)
    device.queue[7] = event(7, name="Other")
    rejected_five_times(device)
    assert sorted(device.queue) == [*range(1, 10)]
    assert device.send().ids == (7,)


def test_an_acceptance_between_starts_the_count_anew() -> None:
    """Nine bad rows with a good one among them need no trial."""
    device = singles(10)
    device.run(refusing({1, 2, 3, 4, 6, 7, 8, 9}))
    assert set(device.dead) == {1, 2, 3, 4, 6, 7, 8, 9}
    assert len(device.sent) == 10


def test_an_accepted_witness_convicts() -> None:
    """If the server takes another event, the fault is in the five: they are buried."""
    device = singles(12)
    rejected_five_times(device)
    assert device.receive(device.send(), ACCEPTED) == Verdict(ack=(12,))
    for id in range(1, 9):
        assert device.receive(device.send(), REJECTED) == Verdict(bury=(id,))
    assert device.receive(device.send(), ACCEPTED) == Verdict(ack=(9,))
    assert device.delivery.trials == ()


def test_a_server_that_falls_ill_after_a_witness_buries_nothing_for_good() -> None:
    """It took one event and refuses everything from then on: all but that one are kept."""
    device = singles(1_000)
    rejected_five_times(device)
    device.receive(device.send(), ACCEPTED)
    most = 0
    for _ in range(1_500):
        device.turn(lambda rows: REJECTED)
        most = max(most, len(device.dead))
    assert most < 640
    assert (len(device.queue), device.dead) == (999, {})
    assert device.delivery.trouble is Answer.MISCONFIGURED
    device.run(lambda rows: ACCEPTED)
    assert device.dead == {}


def test_a_conviction_is_remembered_over_a_restart() -> None:
    """And so are those that were buried since, should the server have fallen ill."""
    device = singles(1_000)
    rejected_five_times(device)
    device.receive(device.send(), ACCEPTED)
    for _ in range(600):
        device.receive(device.send(), REJECTED)
    device.restart(0.0)
    for _ in range(39):
        device.receive(device.send(), REJECTED)
    assert len(device.dead) == 639
    assert len(device.receive(device.send(), REJECTED).restore) == 639


def test_a_request_that_does_not_fill_the_window_says_nothing_about_larger_ones() -> None:
    """A trickle of single events on a slow line does not open it for a megabyte."""
    device = Device(rows=events(1_000))
    device.answer(unreachable("too slow", began=True))
    assert len(device.until(Send).ids) == 500
    backlog, device.queue = device.queue, {}
    for id in range(2_000, 2_050):
        device.queue[id] = event(id)
        device.receive(device.until(Send), ACCEPTED)
    device.queue = backlog
    assert len(device.until(Send).ids) == 500


def test_an_idle_connection_that_died_is_no_failure() -> None:
    """The request goes again at once, in the same size, and is charged once more."""
    stale = unreachable("closed", began=True, stale=True)
    device = Device(Policy(identity_budget=1_500, app_budget=None), rows=events(3_000))
    first = device.send()
    device.receive(first, stale)
    again = device.next_step()
    assert isinstance(again, Send)
    assert (len(first.ids), len(again.ids)) == (1_000, 500)
    device.receive(again, ACCEPTED)
    assert device.delivery.trouble is None
    assert isinstance(device.next_step(), Wait)


def test_a_probe_on_an_idle_connection_that_died_is_repeated() -> None:
    """Without a wait; nothing has been proven."""
    device = Device(rows=events(3))
    assert isinstance(device.turn(accept, unreachable("closed", began=True, stale=True)), Probe)
    assert isinstance(device.next_step(), Probe)


def test_normal_again_after_an_ordinary_acceptance() -> None:
    """Then five rejections start a trial as before."""
    device = singles(20)
    rejected_five_times(device)
    device.receive(device.send(), ACCEPTED)
    for _ in range(5):
        device.receive(device.send(), REJECTED)
    device.receive(device.send(), ACCEPTED)
    for _ in range(4):
        device.receive(device.send(), REJECTED)
    assert len(device.receive(device.send(), REJECTED).restore) == 4


def test_five_rejected_witnesses_mean_misconfigured() -> None:
    """If nothing is accepted, all is kept, and one witness is tried after the longest wait."""
    device = singles(30)
    rejected_five_times(device)
    tried = []
    for _ in range(5):
        step = device.send()
        tried.append(step.ids[0])
        assert device.receive(step, REJECTED) == Verdict()
    assert tried == [30, 29, 28, 27, 26]
    wait = device.next_step()
    assert isinstance(wait, Wait)
    assert wait.seconds >= 150.0
    assert device.delivery.trouble is Answer.MISCONFIGURED
    device.now += wait.seconds
    assert device.send().ids == (25,)
    assert isinstance(device.answer(REJECTED), Wait)
    assert (len(device.queue), device.dead) == (30, {})


def test_all_rows_poison_keeps_everything() -> None:
    """A server that rejects all of 2,000 rows for hours costs no row."""
    device = Device(rows=names_of(2_000))
    end = device.now + 36_000
    while device.now < end:
        device.turn(lambda rows: REJECTED)
    assert (len(device.queue), device.dead, device.delivered) == (2_000, {}, [])
    assert device.delivery.trouble is Answer.MISCONFIGURED
    device.run(accept)
    assert len(device.delivered) == 2_000


@pytest.mark.parametrize("count", [5, 6])
def test_a_trial_without_witnesses_waits_and_heals(count: int) -> None:
    """Where the five are all there is, one of them finds out that the server is well again."""
    device = singles(count)
    rejected_five_times(device)
    for _ in range(40):
        device.turn(lambda rows: REJECTED)
    assert (len(device.queue), device.dead) == (count, {})
    device.run(accept)
    assert len(device.delivered) == count


def test_witnesses_take_turns() -> None:
    """When all have been tried they are tried again, each in its turn."""
    device, tried = singles(8), []
    rejected_five_times(device)
    for _ in range(9):
        step = device.send()
        tried.append(step.ids[0])
        device.receive(step, REJECTED)
    assert tried == [8, 7, 6] * 3


def test_a_new_event_is_the_next_witness() -> None:
    """What is recorded during a back-off is tried first after it."""
    device = singles(5)
    rejected_five_times(device)
    assert isinstance(device.next_step(), Wait)
    device.queue[50] = event(50)
    assert device.send().ids == (50,)


@pytest.mark.parametrize("outcome", [TOO_LARGE, REJECTED])
def test_no_witness_is_buried(outcome: Outcome) -> None:
    """A witness that is refused stays in the queue."""
    device = singles(9)
    rejected_five_times(device)
    assert device.receive(device.send(), outcome) == Verdict()
    assert device.send().ids == (8,)


@pytest.mark.parametrize("outcome", [THROTTLED, BROKEN, OFFLINE, CUT_OFF, CAPTIVE, FORBIDDEN])
def test_trouble_during_a_trial_decides_nothing(outcome: Outcome) -> None:
    """The same witness is asked again when the trouble is over."""
    device = singles(9)
    rejected_five_times(device)
    device.receive(device.send(), outcome)
    assert isinstance(device.next_step(), Wait)
    assert device.send().ids == (9,)


def test_a_witness_without_budget_is_waited_for() -> None:
    """A trial waits for the budget of its witnesses and not for that of the suspects."""
    rows = [event(id, actor=f"s{id}") for id in range(1, 6)] + [event(9, actor="w")]
    device = Device(Policy(batch_items=1, identity_budget=1), rows)
    rejected_five_times(device)
    device.now += 63.0
    device.receive(device.send(), CUT_OFF)
    step = device.next_step()
    assert isinstance(step, Wait)
    assert step.seconds > 60.0
    device.now += step.seconds
    assert device.send().ids == (9,)


def test_a_trial_survives_a_restart() -> None:
    """Nothing is buried for good because the power went off in a trial."""
    device = singles(9)
    for _ in range(4):
        device.receive(device.send(), REJECTED)
    device.restart(5.0)
    assert device.receive(device.send(), REJECTED).restore == (1, 2, 3, 4)
    device.restart(7.0)
    assert device.send().ids == (9,)
    device.receive(device.send(), ACCEPTED)
    device.restart(9.0)
    for id in (1, 2, 3, 4, 5, 6):
        assert device.receive(device.send(), REJECTED) == Verdict(bury=(id,))


def test_a_failed_trial_survives_a_restart() -> None:
    """After a restart the longest back-off goes on, and one witness is enough again."""
    device = singles(9)
    rejected_five_times(device)
    for _ in range(4):
        device.receive(device.send(), REJECTED)
    wait = device.next_step()
    assert isinstance(wait, Wait)
    assert wait.seconds >= 150.0
    device.now += 10.0
    device.restart(3.0)
    rest = device.next_step()
    assert isinstance(rest, Wait)
    assert rest.seconds == pytest.approx(wait.seconds - 10.0)
    assert isinstance(device.answer(REJECTED), Wait)


# -- restart, nudge, policy -----------------------------------------------------------------


def test_waits_windows_and_budgets_survive_a_restart() -> None:
    """A restart is no way around what the server said or the line can carry."""
    device = Device(Policy(identity_budget=500), events(600))
    device.receive(device.send(), CUT_OFF)
    device.receive(device.send(), THROTTLED)
    device.now += 20.0
    device.restart(1.0)
    step = device.next_step()
    assert isinstance(step, Wait)
    assert 40.0 <= step.seconds <= 46.0
    device.now += step.seconds
    assert device.next_step() == Probe()
    device.receive(Probe(), REACHED)
    assert len(device.send().ids) == 250


def test_a_request_on_its_way_counts_as_sent() -> None:
    """Whoever is killed between send and answer has spent the budget."""
    device = Device(Policy(identity_budget=5), events(10))
    device.send()
    device.restart(1.0)
    step = device.next_step()
    assert isinstance(step, Wait)
    assert step.seconds == pytest.approx(62.0)


junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                "network lanes budgets wait attempt cause kind app_id items bytes pause mode"
                " rejected hung EVENT APP".split()
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(saved=junk, key=st.sampled_from(["network", "lanes", "budgets"]))
def test_garbage_in_a_snapshot_delays_but_never_stops(saved: object, key: str) -> None:
    """Whatever a damaged snapshot says, all rows arrive."""
    for snapshot in (saved, {key: saved}, {key: [saved]}):
        device = Device(Policy(), events(5))
        device.delivery.restore(device.now, snapshot)
        device.run(accept, turns=200)
        assert len(device.delivered) == 5


@pytest.mark.parametrize("field", ["items", "bytes", "pause", "mode", "rejected", "judged", "hung"])
@settings(max_examples=25)
@given(value=junk)
def test_garbage_in_a_lane_delays_but_never_stops(field: str, value: object) -> None:
    """Each member of a saved lane may be damaged alone."""
    lane = {"kind": 1, "app_id": "11", "mode": "TRIAL", "rejected": [1, 2, 3, 4, 5], field: value}
    device = Device(Policy(), events(7))
    device.delivery.restore(device.now, {"lanes": [lane]})
    device.run(accept, turns=200)
    assert len(device.delivered) == 7


@pytest.mark.parametrize("outcome", [OFFLINE, BROKEN, CUT_OFF, CAPTIVE, FORBIDDEN])
def test_a_nudge_allows_one_attempt(outcome: Outcome) -> None:
    """`flush` tries once where only we chose to wait; the next wait is as long as ever."""
    device = Device(rows=events(3))
    for _ in range(12):
        device.receive(device.send(), outcome)
    assert isinstance(device.next_step(), Wait)
    device.delivery.nudge()
    assert device.delivery.next_attempt(device.now) == 0.0
    step = device.next_step()
    assert not isinstance(step, Wait)
    if isinstance(step, Probe):
        device.receive(step, REACHED)
        step = device.next_step()
    assert isinstance(step, Send)
    device.receive(step, outcome)
    step = device.next_step()
    assert isinstance(step, Wait)
    assert step.seconds >= 100.0


@pytest.mark.parametrize("outcome", [THROTTLED, BUSY])
def test_a_nudge_does_not_overrule_the_server(outcome: Outcome) -> None:
    """What the server asked for stands, `flush` or not."""
    device = Device(rows=events(3))
    device.receive(device.send(), outcome)
    device.delivery.nudge()
    step = device.next_step()
    assert isinstance(step, Wait)
    assert step.seconds >= 60.0


def test_a_nudge_does_not_overrule_budgets() -> None:
    """A spent budget stays spent."""
    device = Device(Policy(identity_budget=2), events(3))
    device.receive(device.send(), ACCEPTED)
    device.delivery.nudge()
    assert isinstance(device.next_step(), Wait)


def test_a_clock_that_goes_backwards_prolongs_no_wait() -> None:
    """A pause never lasts longer than it was meant to."""
    device = Device(rows=events(3))
    step = device.answer(THROTTLED)
    assert isinstance(step, Wait)
    device.now = -50_000.0
    again = device.next_step()
    assert isinstance(again, Wait)
    assert again.seconds <= step.seconds


def test_change_interval() -> None:
    """Only the interval changes, and what was learned stays."""
    device = Device(rows=events(100))
    device.receive(device.send(), CUT_OFF)
    device.delivery.change_interval(25.0)
    assert device.delivery.policy == Policy(25.0, identity_budget=None, app_budget=None)
    assert len(device.send().ids) == 50


def test_set_policy() -> None:
    """Limits and budgets of a new policy are in force with the next step."""
    device = Device(rows=events(2_000))
    assert len(device.send().ids) == 1_000
    device.delivery.set_policy(_small(300, 1_000_000))
    assert len(device.send().ids) == 300
    device.delivery.set_policy(Policy(identity_budget=10))
    assert len(device.send().ids) == 10


def test_status_of_the_machine() -> None:
    """repr and properties say what goes on."""
    device = Device(rows=events(8))
    assert "ready" in repr(device.delivery)
    device.next_step()
    assert "probing" in repr(device.delivery)
    device.send()
    assert "sending 8" in repr(device.delivery)
    device.receive(device.send(), REJECTED)
    assert "8 suspects" in repr(device.delivery)
    device.answer(THROTTLED)
    assert "waiting, throttled" in repr(device.delivery)


def test_a_trouble_without_rows_ends_with_its_wait() -> None:
    """A lane whose rows were purged is no trouble for ever."""
    device = Device(rows=events(3))
    device.answer(FORBIDDEN)
    device.queue.clear()
    device.next_step()
    assert device.delivery.trouble is Answer.MISCONFIGURED
    device.now += 301.0
    device.next_step()
    assert device.delivery.trouble is None


# -- anything at all --------------------------------------------------------------------------

OUTCOMES = [
    ACCEPTED,
    REJECTED,
    TOO_LARGE,
    THROTTLED,
    BUSY,
    BROKEN,
    OFFLINE,
    CUT_OFF,
    CAPTIVE,
    FORBIDDEN,
]


class AnyHistory(RuleBasedStateMachine):
    """Any sequence of records, answers, drops, waits and restarts, against `Device`."""

    @initialize(
        items=st.sampled_from([1, 4, 1_000]),
        size=st.sampled_from([1_000, 1_000_000]),
        budget=st.sampled_from([None, 0.5, 3.0, 1_000.0]),
    )
    def start(self, items: int, size: int, budget: float | None) -> None:
        self.device = Device(
            Policy(batch_items=items, batch_bytes=size, identity_budget=budget, app_budget=budget)
        )
        self.recorded = 0
        self.dropped = 0

    @rule(
        kinds=st.lists(
            st.tuples(
                st.sampled_from([Kind.EVENT, Kind.EVENT, Kind.IDENTIFY, Kind.USER_PROPERTIES]),
                st.sampled_from(["11", "11", "21"]),
                st.sampled_from("ab"),
                st.sampled_from([20, 400, 5_000]),
                st.sampled_from("xyz"),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def record(self, kinds: list[tuple[Kind, str, str, int, str]]) -> None:
        for kind, app_id, actor, size, name in kinds:
            self.recorded += 1
            row = Candidate(self.recorded, kind, app_id, actor, size, name)
            self.device.queue[row.id] = row

    @rule(outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12))
    def answer(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self.device.turn(lambda rows, given=outcome: given)  # type: ignore[misc]

    @rule(times=st.integers(1, 40))
    def reject(self, times: int) -> None:
        for _ in range(times):
            self.device.turn(lambda rows: REJECTED)

    @rule(count=st.integers(1, 4), newest=st.booleans())
    def drop(self, count: int, newest: bool) -> None:
        for id in sorted(self.device.queue, reverse=newest)[:count]:
            del self.device.queue[id]
            self.dropped += 1

    @rule(outcome=st.sampled_from([REACHED, OFFLINE, CAPTIVE]), chance=st.floats(0, 0.999))
    def probe(self, outcome: Outcome, chance: float) -> None:
        self.device.chance = chance
        self.device.turn(accept, probe=outcome)

    @rule(seconds=st.floats(0, 4_000))
    def wait(self, seconds: float) -> None:
        self.device.now += seconds

    @rule(now=st.floats(0, 1e6))
    def restart(self, now: float) -> None:
        self.device.restart(now)

    @rule()
    def nudge(self) -> None:
        self.device.delivery.nudge()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "device"):
            device = self.device
            counts = len(device.queue) + len(device.delivered) + len(device.dead) + self.dropped
            assert self.recorded == counts
            twice = Counter(row.id for row in device.delivered)
            assert all(count == 1 for count in twice.values())

    def teardown(self) -> None:
        """Once the server accepts, everything arrives, and soon."""
        if hasattr(self, "device"):
            self.device.run(accept, turns=1_000)
            assert not self.device.queue
            self.nothing_is_lost()


AnyHistory.TestCase.settings = settings(
    max_examples=60, stateful_step_count=20, suppress_health_check=list(HealthCheck)
)
TestAnyHistory = AnyHistory.TestCase

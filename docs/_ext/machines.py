"""
What the code's state machines do, found out by running them: they compute, touch
nothing, and take time and chance as arguments.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from heap_agent._core.delivery import Delivery, Policy, Probe, Send, Wait
from heap_agent._core.events import Candidate, Kind
from heap_agent._core.lanes import RETRIAL_SIZE, TRIAL_SIZE, Mode
from heap_agent._core.outcomes import Answer, Outcome, classify, unreachable
from heap_agent._core.pairing import MISTAKES, Doorkeeper, Phase

LANE = (Kind.EVENT, "11")

#: Without budgets: nothing but answers decides.
POLICY = Policy(identity_budget=None, app_budget=None)

KINDS_OF_ANSWER = (
    ("", {}, b""),
    (" with Retry-After", {"retry-after": "10"}, b""),
    (" with a page of HTML", {"content-type": "text/html"}, b"<html>"),
)


class Reaction(NamedTuple):
    """What becomes of rows after an answer."""

    answer: str
    statuses: str
    one: str
    several: str
    then: str


class Change(NamedTuple):
    """A way from one state to another, and what leads there."""

    before: str
    after: str
    why: str


def reactions() -> Iterator[Reaction]:
    """For each kind of answer: what it is told by, and what follows from it."""
    for answer in Answer:
        if answer is not Answer.REACHED:  # the answer to a probe, which carries no rows
            one, _ = react(answer, 1)
            several, then = react(answer, 8)
            yield Reaction(answer.value, ", ".join(told_by(answer)), one, several, then)


def told_by(answer: Answer) -> Iterator[str]:
    """The statuses that mean it, as ranges."""
    plain: set[int] = set()
    for words, headers, body in KINDS_OF_ANSWER:
        found = [s for s in range(200, 600) if classify(s, headers, body, 0).answer is answer]
        if words:
            found = [status for status in found if status not in plain]
        else:
            plain = set(found)
        yield from (f"{span}{words}" for span in spans(found))
    if unreachable("", began=False).answer is answer:
        yield "no answer"


def spans(numbers: Iterable[int]) -> Iterator[str]:
    """Numbers in a row as one range."""
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}"


def react(answer: Answer, rows: int) -> tuple[str, str]:
    """What becomes of a request with so many rows, and what is done next."""
    sooner, later = (Machine(answer, rows, chance) for chance in (0.0, 0.9999))
    if later.verdict.ack:
        return "delivered", "the next request"
    became = "dead letter" if later.verdict.bury else "kept"
    if not later.wait:
        return became, f"at once, {later.then}"
    if answer is Answer.THROTTLED:
        return became, f"as long as told, and a little more; then {later.then}"
    span = f"{sooner.wait:.0f} to {later.wait:.0f} s" if sooner.wait > 1 else "up to 1 s at first"
    return became, f"{span}; then {later.then}"


class Machine:
    """One that has sent so many rows, and got an answer."""

    def __init__(self, answer: Answer, rows: int, chance: float) -> None:
        delivery = Delivery(POLICY)
        candidates = [Candidate(id, *LANE, "ann", 300) for id in range(1, rows + 1)]
        next_send(delivery, candidates, 0.0)
        told = 7.0 if answer is Answer.THROTTLED else None
        self.verdict = delivery.receive(0.0, chance, Outcome(answer, retry_after=told))
        self.wait, self.then = 0.0, "nothing"
        left = [row for row in candidates if row.id not in self.verdict.bury]
        step = delivery.next_step(0.0, left)
        if isinstance(step, Wait):
            self.wait = step.seconds
            step = delivery.next_step(step.seconds + 1, left)
        if isinstance(step, Probe):
            self.then = "a probe"
        elif isinstance(step, Send):
            self.then = f"{len(step.ids)} of {rows} rows"


def next_send(delivery: Delivery, candidates: list[Candidate], now: float) -> Send:
    """The next request, after the probe that comes first."""
    step = delivery.next_step(now, candidates)
    if isinstance(step, Probe):
        delivery.receive(now, 0.5, Outcome(Answer.REACHED, status=200))
        step = delivery.next_step(now, candidates)
    assert isinstance(step, Send)
    return step


def modes(seed: int = 7, steps: int = 60_000) -> set[Change]:
    """
    Every change of a lane's mode that comes up where answers are thrown like dice,
    with the kind of request after whose answer it came.
    """
    dice = random.Random(seed)
    found = set()
    delivery, now, id = Delivery(POLICY), 0.0, 0
    queue: list[Candidate] = []
    bad = True
    for _ in range(steps):
        while len(queue) < 12:
            id += 1
            queue.append(Candidate(id, *LANE, "ann", 300, name=f"e{id % 3}"))
        lane = delivery._lane(LANE)
        step = delivery.next_step(now, queue, queue[::-1])
        before = lane.mode
        if isinstance(step, Wait):
            now += step.seconds
        elif isinstance(step, (Send, Probe)):
            # Long times in which everything is refused, and a witness now and then is not.
            bad = bad is (dice.random() > 0.001)
            chance = 0.5 if before is Mode.TRIAL else float(bad)
            refused = isinstance(step, Send) and dice.random() < chance
            answer = Answer.REJECTED if refused else Answer.ACCEPTED
            what = "witness" if before is Mode.TRIAL else "request"
            verdict = delivery.receive(now, dice.random(), Outcome(answer, status=400))
            gone = {*verdict.ack, *verdict.bury}
            queue = [row for row in queue if row.id not in gone]
            queue[:0] = [Candidate(id, *LANE, "ann", 300) for id in verdict.restore]
            queue.sort()
            if lane.mode is not before:
                said = "accepted" if answer is Answer.ACCEPTED else "rejected"
                found.add(Change(before.value, lane.mode.value, f"{what} {said}"))
    return found


#: What leads from mode to mode, in the words of the rules; `modes` says which there are.
WHY_MODE = {
    ("normal", "trial", "request rejected"): f"{TRIAL_SIZE} single rows rejected in a row",
    ("trial", "convicted", "witness accepted"): "a row from elsewhere accepted",
    ("convicted", "trial", "request rejected"): f"{RETRIAL_SIZE} more rejected in a row",
    ("convicted", "normal", "request accepted"): "an ordinary request accepted",
}


def pairing() -> set[Change]:
    """Every change of a pairing's phase."""

    def fresh() -> Doorkeeper:
        return Doorkeeper("1234", "pass", 60.0)

    def paired() -> Doorkeeper:
        keeper = fresh()
        keeper.ask_in("1234", 0.0)
        return keeper

    def guess(keeper: Doorkeeper) -> float:
        for number in range(MISTAKES):
            keeper.ask_in("0000", 2.0 * number)
        return 2.0 * MISTAKES

    def end(keeper: Doorkeeper) -> float:
        keeper.end()
        return 0.0

    ways = (
        ("the code", lambda keeper: keeper.ask_in("1234", 0.0) and 0.0),
        (f"{MISTAKES} wrong codes", guess),
        ("its time is over", lambda keeper: 61.0),
        ("somebody ends it", end),
    )
    found = set()
    for begin in (fresh, paired):
        for why, way in ways:
            keeper = begin()
            before = keeper.phase(0.0)
            after = keeper.phase(way(keeper) or 0.0)
            if after is not before:
                found.add(Change(before.value, after.value, why))
    return found


def phases() -> list[str]:
    """In their order."""
    return [phase.value for phase in Phase]

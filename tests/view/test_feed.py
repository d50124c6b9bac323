"""What somebody who watches is shown of looks and of requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import balanced, opened, put_event, track

from heap_agent._core.delivery import Verdict
from heap_agent._core.events import Actor
from heap_agent._core.outcomes import Answer, Outcome
from heap_agent._core.records import GIVEN, MENDED
from heap_agent._store.lookout import Lookout
from heap_agent._store.store import Store
from heap_agent._upload.drain import Exchange
from heap_agent._view.feed import KEPT, KEPT_BYTES, NEWS, Feed

ACCEPTED = Outcome(Answer.ACCEPTED, 200, reason="HTTP 200")


class Watcher:
    """A feed, and somebody who has looked at it all."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.feed = Feed()
        self.lookout = Lookout(store.directory)
        self.seen = 0
        self.items: dict[int, dict[str, Any]] = {}
        self.look()

    @property
    def queue(self) -> Any:
        """The queue."""
        assert self.store.ledger is not None
        return self.store.ledger.queue

    def look(self) -> dict[str, Any]:
        """Look at the directory, and take in the news."""
        sight, books = self.lookout.look(), self.store.books()
        dropped = sum(value for key, value in books.counts.items() if key.startswith("dropped"))
        self.feed.take(
            sight, sending=self.queue.in_flight, queued=books.queued, dropped=dropped, now=60.0
        )
        return self.catch_up()

    def catch_up(self) -> dict[str, Any]:
        """Take in the news."""
        while True:
            news = self.feed.news(self.seen)
            if news["reset"]:
                self.items.clear()
            self.items |= {item["n"]: item for item in news["items"]}
            self.seen = news["version"]
            if self.seen == self.feed.version:
                return news

    def absorb(self) -> None:
        """As the owner does."""
        self.store.absorb(freeze=False)

    def exchange(self, *ids: int, outcome: Outcome = ACCEPTED, ack: bool = True) -> None:
        """A request with these rows is over."""
        rows = self.queue.load(ids)
        verdict = Verdict(ack=ids) if ack else Verdict()
        self.feed.exchanged(Exchange(rows, verdict, outcome, 0.25, 1_800_000_000_000_000))
        self.queue.ack(verdict.ack)

    @property
    def places(self) -> list[str]:
        """Where each item stands, in order."""
        return [self.items[number]["place"] for number in sorted(self.items)]


@pytest.fixture(name="watcher")
def _watcher(state_dir: Path) -> Iterator[Watcher]:
    with opened(state_dir) as store:
        yield Watcher(store)
        balanced(store)


def test_an_item_says_what_it_is(watcher: Watcher) -> None:
    """Who, when, which session, what with, and what was done to it."""
    store = watcher.store
    put_event(store.journal, store.clock, "Buy", flags=MENDED | GIVEN, dollars=5, item="é<b>")
    watcher.look()
    assert watcher.items[1] == {
        "n": 1,
        "kind": "event",
        "name": "Buy",
        "app_id": "11",
        "user_id": "1",
        "identity": None,
        "session": "7",
        "time": "2026-01-01T00:00:00.000+00:00",
        "recorded": 1_767_225_600_000,
        "properties": {"dollars": 5, "item": "é<b>"},
        "cut": False,
        "bytes": len(watcher.feed.item(1).body),  # type: ignore[union-attr]
        "mended": True,
        "moved": None,
        "given": True,
        "place": "journal",
        "answer": None,
    }


def test_the_way_of_an_item(watcher: Watcher) -> None:
    """Journal, queue, on its way, sent with the answer."""
    track(watcher.store, "Buy", actor=Actor("11", "1", "ann"))
    watcher.look()
    assert watcher.places == ["journal"]
    watcher.absorb()
    watcher.look()
    assert watcher.places == ["queue"]
    watcher.queue.set_in_flight([1])
    watcher.look()
    assert watcher.places == ["sending"]
    watcher.queue.set_in_flight([])
    watcher.exchange(1, outcome=Outcome(Answer.UNAVAILABLE, reason="refused"), ack=False)
    watcher.look()
    assert watcher.places == ["queue"]
    assert watcher.items[1]["answer"]["reason"] == "refused"
    watcher.exchange(1)
    watcher.look()
    assert watcher.places == ["sent"]
    assert watcher.items[1]["answer"] == {
        "answer": "ACCEPTED",
        "status": 200,
        "reason": "HTTP 200",
        "at": 1_800_000_000_000,
        "seconds": 0.25,
    }
    assert watcher.items[1]["identity"] == "ann"


def test_a_dead_letter_and_its_second_chance(watcher: Watcher) -> None:
    """The refusal is shown, the row can be named, and it goes back into the queue."""
    track(watcher.store)
    watcher.absorb()
    watcher.queue.bury([1], status=400, reason="no", now=5_000)
    watcher.look()
    assert watcher.places == ["dead"]
    assert watcher.items[1]["answer"]["status"] == 400
    assert watcher.feed.dead_rows([1, 99]) == [1]
    watcher.queue.restore([1])
    watcher.look()
    assert watcher.places == ["queue"]
    assert watcher.feed.dead_rows([1]) == []


def test_it_came_and_went(watcher: Watcher) -> None:
    """What only the sender has seen is shown all the same."""
    track(watcher.store, "Quick")
    watcher.store.journal.rotate()
    watcher.absorb()
    watcher.exchange(1)
    news = watcher.look()
    assert watcher.places == ["sent"] and watcher.items[1]["name"] == "Quick"
    assert news["left_out"] == 0


def test_sent_is_sent(watcher: Watcher) -> None:
    """The answer is told before it is written down: the row is seen once more, frozen."""
    track(watcher.store)
    watcher.absorb()
    watcher.look()
    ledger = watcher.store.ledger
    assert ledger is not None
    rows = ledger.queue.load([1])
    with ledger.database.transact():
        rows = ledger.queue.freeze(rows, ledger.timeline.settle)
        ledger.timeline.save()
    watcher.feed.exchanged(Exchange(rows, Verdict(ack=(1,)), ACCEPTED, 0.25, 0))
    watcher.look()
    watcher.look()
    assert watcher.places == ["sent"]
    watcher.queue.ack([1])
    watcher.look()
    assert watcher.places == ["sent"]


def test_what_another_process_has_sent(watcher: Watcher) -> None:
    """Without its answer; nothing else can have become of it while nothing was dropped."""
    track(watcher.store)
    watcher.look()
    watcher.absorb()
    watcher.queue.ack([1])
    watcher.look()
    assert watcher.places == ["sent"] and watcher.items[1]["answer"] is None


def test_what_may_have_been_dropped(watcher: Watcher) -> None:
    """Nobody is told that it was sent."""
    track(watcher.store)
    watcher.look()
    watcher.absorb()
    assert watcher.queue.drop_oldest(1).events == 1
    watcher.look()
    assert watcher.places == ["gone"]


def test_what_cannot_be_shown_is_counted(watcher: Watcher) -> None:
    """More than a look takes in."""
    for number in range(3_000):
        track(watcher.store, n=number)
    news = watcher.look()
    assert len(watcher.items) + news["left_out"] == 3_000
    assert news["left_out"] > 0


def test_a_feed_stays_small(watcher: Watcher) -> None:
    """In number and in bytes; dead letters stay when others go."""
    track(watcher.store, "Dead")
    watcher.absorb()
    watcher.queue.bury([1], status=400, reason="no", now=5)
    for _ in range(12):
        for _ in range(200):
            track(watcher.store)
        watcher.look()
    assert len(watcher.feed._items) == KEPT
    assert watcher.feed.item(1) is not None and watcher.feed.item(2) is None
    for number in range(60):
        track(watcher.store, n=number, **{f"k{one}": "x" * 1_000 for one in range(100)})
        watcher.look()
    sizes = [len(item.found.body) for item in watcher.feed._items.values()]
    assert sum(sizes) == watcher.feed._bytes <= KEPT_BYTES


def test_an_answer_is_no_longer_than_it_may_be(watcher: Watcher) -> None:
    """Whoever has fallen behind takes several; nothing is left out, nothing comes twice."""
    for _ in range(4):
        for _ in range(150):
            track(watcher.store)
        watcher.look()
    since, numbers = 0, []
    while since != watcher.feed.version:
        news = watcher.feed.news(since)
        assert len(news["items"]) <= 2 * NEWS
        numbers += [item["n"] for item in news["items"]]
        since = news["version"]
    assert sorted(numbers) == sorted(set(numbers)) == sorted(watcher.items)


def test_a_side_buffer_that_is_full(watcher: Watcher) -> None:
    """The sender never waits: what it cannot leave there, the directory tells."""
    for _ in range(300):
        for number in range(20):
            track(watcher.store, n=number, text="x" * 1_000)
        watcher.absorb()
        watcher.exchange(*[one.id for one in watcher.queue.front()])
    rows = [row for exchange in watcher.feed._exchanges for row in exchange.rows]
    assert 0 < sum(len(row.entry.body) for row in rows) < KEPT_BYTES + 1_000_000
    assert len(watcher.feed._exchanges) == 256
    news = watcher.look()
    assert len(watcher.items) + news["left_out"] >= KEPT


def test_large_properties_are_cut_in_the_list(watcher: Watcher) -> None:
    """The whole of them is a detail."""
    track(watcher.store, **{f"k{number}": "x" * 1_000 for number in range(50)})
    watcher.look()
    listed = watcher.items[1]
    assert listed["cut"] and len(json.dumps(listed["properties"])) < 8_000
    item = watcher.feed.item(1)
    assert item is not None and len(json.loads(item.body)["properties"]) == 50


def test_other_rows_are_items_too(watcher: Watcher) -> None:
    """Who was identified, and properties of users; they have no session and no key."""
    store = watcher.store
    track(store)
    actor = Actor("11", "1", "ann")
    store.record_state({}, identify=actor)
    store.record_user_properties(actor, b'{"job":"smith"}')
    watcher.absorb()
    watcher.look()
    kinds = {item["kind"]: item for item in watcher.items.values()}
    assert kinds["identify"]["identity"] == "ann" and kinds["identify"]["session"] is None
    assert kinds["user_properties"]["properties"] == {"job": "smith"}
    assert kinds["user_properties"]["time"] == ""


def test_forgetting(watcher: Watcher) -> None:
    """Whoever watches forgets it, too."""
    track(watcher.store)
    watcher.look()
    watcher.feed.clear()
    assert watcher.catch_up()["reset"] is True
    assert watcher.items == {} and watcher.feed.item(1) is None
    track(watcher.store, "After")
    watcher.look()
    assert [item["name"] for item in watcher.items.values()] == ["After"]


def test_changes_are_told_in_words(watcher: Watcher) -> None:
    """They come with the news, oldest first."""
    watcher.store.record_state({"paused": True})
    watcher.store.record_state({"property:11:site": "Lyon"})
    texts = [change["text"] for change in watcher.look()["changes"]]
    assert texts == ["delivery paused", "event property site = Lyon"]


def test_an_hour_is_noted(watcher: Watcher) -> None:
    """What was recorded, and what waits."""
    track(watcher.store)
    track(watcher.store)
    watcher.look()
    minute = watcher.feed.hour.back(60.0)[0]
    assert (minute.recorded, minute.queued) == (2, 2)


def test_when_it_began(watcher: Watcher) -> None:
    """What was recorded before is for others to know."""
    assert watcher.feed.began == 60.0


def test_nobody_takes_in_what_is_sent(watcher: Watcher) -> None:
    """Who sends large events fills no memory while nobody looks; the books tell of the rest."""
    wide = {f"k{number}": "x" * 1_000 for number in range(500)}
    for _ in range(15):
        track(watcher.store, **wide)
    watcher.absorb()
    for row in range(1, 16):
        watcher.exchange(row)
    held = sum(len(row.entry.body) for exchange in watcher.feed._exchanges for row in exchange.rows)
    assert KEPT_BYTES // 2 < held < KEPT_BYTES + 1_000_000
    track(watcher.store)
    assert watcher.look()["left_out"] + len(watcher.items) == 16


def test_only_events_are_left_out(watcher: Watcher) -> None:
    """A user who is identified makes up for no event."""
    for _ in range(3_000):
        track(watcher.store)
    for number in range(10):
        actor = Actor("11", f"{number + 5}", f"ann {number}")
        track(watcher.store, actor=actor._replace(identity=None))
        watcher.store.record_state({}, identify=actor)
    watcher.absorb()
    news = watcher.look()
    kinds = [item["kind"] for item in watcher.items.values()]
    assert kinds.count("identify") == 10
    assert kinds.count("event") + news["left_out"] == 3_010

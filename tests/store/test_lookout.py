"""What somebody sees who watches a directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import ANN, balanced, deliver, opened, put_event, track

from heap_agent._core.events import Kind
from heap_agent._core.records import MENDED
from heap_agent._store.lookout import Lookout, Sight, Sighting, Standing
from heap_agent._store.store import Store
from heap_agent.testing import FakeClock

JOURNAL, QUEUE, DEAD, GONE = Standing.JOURNAL, Standing.QUEUE, Standing.DEAD, Standing.GONE


def names(sight: Sight) -> list[tuple[Any, Standing]]:
    """The number of each new thing, and where each thing stands."""
    return [
        (json.loads(seen.found.body)["properties"]["n"] if seen.found else None, seen.standing)
        for seen in sight.sightings
    ]


def standings(sight: Sight) -> list[Standing]:
    """Where each thing stands."""
    return [seen.standing for seen in sight.sightings]


def absorb(store: Store) -> None:
    """As the owner does."""
    store.absorb(freeze=False)


def only(sight: Sight) -> Sighting:
    """The one thing that was seen."""
    (seen,) = sight.sightings
    return seen


def test_the_life_of_an_event(state_dir: Path) -> None:
    """In the journal, in the queue, refused, sent again, delivered: seen once at each place."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        assert lookout.look().sightings == []
        track(store, n=1)
        first = only(sight := lookout.look())
        assert names(sight) == [(1, JOURNAL)] and sight.recorded == 1
        assert lookout.look()[:3] == ([], [], 0)
        absorb(store)
        queued = only(lookout.look())
        assert (queued.key, queued.standing, queued.found) == (first.key, QUEUE, None)
        assert store.ledger is not None and queued.row is not None
        store.ledger.queue.bury([queued.row], status=400, reason="no", now=5)
        dead = only(lookout.look())
        assert (dead.key, dead.standing) == (first.key, DEAD)
        assert dead.refusal == (400, "no", 5)
        store.ledger.queue.restore([queued.row])
        assert standings(lookout.look()) == [QUEUE]
        deliver(store)
        assert (gone := only(lookout.look())).standing is GONE and gone.key == first.key
        assert lookout.look().sightings == []
        balanced(store)


def test_what_is_seen_is_what_will_be_sent(state_dir: Path) -> None:
    """Byte for byte, before anybody has absorbed it."""
    with opened(state_dir) as store:
        put_event(store.journal, store.clock, "Küche <b>", flags=MENDED, a="ü\u2028", b=1.5)
        found = only(Lookout(state_dir).look()).found
        absorb(store)
        assert store.ledger is not None
        (row,) = store.ledger.queue.load([1])
        assert found is not None and found.body == row.entry.body
        assert found.flags == row.entry.flags == MENDED
        assert (found.app_id, found.wall, found.kind) == ("11", row.entry.wall, Kind.EVENT)
        balanced(store)


def test_what_was_there_before(state_dir: Path) -> None:
    """Whoever begins to watch sees what waits, what is dead, and what is in the journals."""
    with opened(state_dir) as store:
        for number in range(3):
            track(store, n=number)
        absorb(store)
        assert store.ledger is not None
        store.ledger.queue.bury([1], status=422, reason="no", now=5)
        track(store, n=3)
        absorb(store)
        track(store, n=4)
        sight = Lookout(state_dir).look()
        stands = {seen.key: seen.standing for seen in sight.sightings}
        assert list(stands.values()).count(QUEUE) == 3
        assert sorted(stands.values(), key=str) == [DEAD, JOURNAL, QUEUE, QUEUE, QUEUE]
        assert sight.recorded == 0
        balanced(store)


def test_a_part_that_is_read_and_stays(state_dir: Path) -> None:
    """What was delivered from a part that is still written is history: it has gone."""
    with opened(state_dir) as store:
        track(store, n=1)
        absorb(store)
        deliver(store)
        assert standings(Lookout(state_dir).look()) == [JOURNAL, GONE]
        balanced(store)


def test_it_came_and_went_between_two_looks(state_dir: Path) -> None:
    """From a part that is still there it is seen all the same."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        track(store, n=1)
        absorb(store)
        deliver(store)
        assert names(sight := lookout.look()) == [(1, JOURNAL), (None, GONE)]
        assert sight.recorded == 1
        balanced(store)


def test_what_was_never_seen_is_counted(state_dir: Path) -> None:
    """More than a look takes in: the newest are seen, and all are counted."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        track(store, n=-1)
        lookout.look()
        for number in range(3_000):
            track(store, n=number)
            if number % 1_000 == 0:
                store.journal.rotate()
        absorb(store)
        deliver(store)
        sight = lookout.look()
        assert sight.recorded == 3_000
        seen = [number for number, standing in names(sight) if standing is JOURNAL]
        assert seen[-1] == 2_999 and 100 < len(seen) < 2_000
        assert seen == sorted(seen)
        balanced(store)


def test_a_flood_into_the_queue(state_dir: Path) -> None:
    """Of many rows the newest are seen, those that were seen before are found among them."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        track(store, n="first")
        key = only(lookout.look()).key
        for number in range(2_000):
            track(store, n=number)
        store.journal.rotate()
        absorb(store)
        sight = lookout.look()
        found = {seen.key: seen for seen in sight.sightings}
        assert found[key].standing is QUEUE and found[key].row == 1
        assert sight.recorded == 2_000
        assert len(sight.sightings) < 1_000
        balanced(store)


def test_nobody_absorbs(state_dir: Path) -> None:
    """What is seen is not remembered for ever; once somebody does the newest are found."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        for number in range(4_000):
            track(store, n=number)
            if number % 200 == 0:
                lookout.look()
        lookout.look()
        assert len(lookout._pending) == 2_000
        absorb(store)
        sight = lookout.look()
        assert sum(seen.found is None for seen in sight.sightings) == 2_000
        assert not lookout._pending
        balanced(store)


def test_several_journals(state_dir: Path) -> None:
    """Those of other processes are seen, and counted from their beginning."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        with opened(state_dir, store.clock) as other:
            track(other, n=1)
            track(other, n=2)
            track(store, n=3)
            sight = lookout.look()
            assert sorted(names(sight), key=str) == [(1, JOURNAL), (2, JOURNAL), (3, JOURNAL)]
            assert sight.recorded == 3
        absorb(store)
        assert standings(lookout.look()) == [QUEUE] * 3
        balanced(store)


def test_journals_that_end_between_two_looks(state_dir: Path) -> None:
    """Of a program that lives for a moment every event is counted."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        for number in range(5):
            with opened(state_dir, store.clock) as other:
                track(other, n=number)
                track(other, n=number)
        absorb(store)
        store.absorb(freeze=False)
        sight = lookout.look()
        assert len(sight.sightings) == sight.recorded == 10
        deliver(store)
        assert lookout.look().recorded == 0
        balanced(store)


def test_a_copy_of_a_part(state_dir: Path) -> None:
    """Somebody has put one there while it was seen: what it makes twice does no harm."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        track(store, n=1)
        assert standings(lookout.look()) == [JOURNAL]
        (part,) = state_dir.glob("*.part")
        shutil.copy(part, state_dir / "00000000000000aa-00000001.part")
        absorb(store)
        rows = {seen.row for seen in lookout.look().sightings if seen.standing is QUEUE}
        assert store.ledger is not None and len(rows) == store.ledger.queue.count()
        deliver(store)
        assert {seen.standing for seen in lookout.look().sightings} <= {GONE}
        balanced(store)


def test_a_repaired_time(state_dir: Path) -> None:
    """A time that is settled later is told, though the row stays where it is."""
    clock = FakeClock(1_800_000_000.0)
    with opened(state_dir, clock) as store:
        assert store.ledger is not None
        store.ledger.timeline.tick(*store.now())
        track(store, n=1)
        absorb(store)
        lookout = Lookout(state_dir)
        before = lookout.look().sightings[-1]
        clock.step(-3_600)
        clock.advance(5)
        ledger = store.ledger
        with store.working(), ledger.database.transact():
            ledger.timeline.tick(*store.now())
            ledger.queue.freeze(ledger.queue.load([1]), ledger.timeline.settle)
            ledger.timeline.save()
        sight = lookout.look()
        after = only(sight)
        assert after.key == before.key and after.stamp < before.stamp
        assert [step.offset_after - step.offset_before for step in sight.clocks.steps] == [
            -3_600_000_000
        ]
        balanced(store)


def test_changes_are_told(state_dir: Path) -> None:
    """Records of state and of user properties, in order; requests and counts are not."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        store.record_state({"paused": True})
        store.record_user_properties(ANN, b'{"a":1}')
        store.journal.count("refused")
        store.flush_counts()
        sight = lookout.look()
        assert [change.kind for change in sight.changes] == [Kind.STATE, Kind.USER_PROPERTIES]
        assert json.loads(sight.changes[0].body)["set"] == {"paused": True}
        assert sight.recorded == 0


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    """No directory, an empty one, and none at all."""
    for directory in (None, tmp_path, tmp_path / "none"):
        assert Lookout(directory).look().sightings in ([], ())


def test_a_damaged_queue_is_told(state_dir: Path) -> None:
    """What is in the journals is seen all the same."""
    with opened(state_dir) as store:
        track(store, n=1)
        absorb(store)
    (state_dir / "queue-1.db").write_bytes(b"no database" * 1_000)
    sight = Lookout(state_dir).look()
    assert "not a database" in str(sight.trouble)
    assert names(sight) == [(1, JOURNAL)]


def test_a_damaged_name_in_the_queue(state_dir: Path) -> None:
    """SQLite's message, which is no text, is told; the owner begins anew and keeps the books."""
    with opened(state_dir) as store:
        track(store, n=1)
        absorb(store)
    queue = state_dir / "queue-1.db"
    queue.write_bytes(queue.read_bytes().replace(b"TABLE entry", b"T\xf1BLE entry"))
    assert "malformed" in str(Lookout(state_dir).look().trouble)
    with opened(state_dir) as store:
        track(store, n=2)
        absorb(store)
        balanced(store)


def test_what_another_version_wrote_is_passed_over(state_dir: Path) -> None:
    """The owner counts it as damaged."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        store.journal.put(Kind.EVENT, 0, 1, 1, b"no event")
        store.journal.put(99, 0, 1, 1, b"?")
        assert lookout.look().sightings == []
        absorb(store)
        assert lookout.look().sightings == []
        balanced(store)


def test_more_dead_letters_than_are_looked_for(state_dir: Path) -> None:
    """Those that were seen are still there when others have come after them."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        for _ in range(3):
            for _ in range(150):
                track(store)
            absorb(store)
            lookout.look()
            assert store.ledger is not None
            queue = store.ledger.queue
            queue.bury([one.id for one in queue.front()], status=400, reason="no", now=5)
            assert standings(lookout.look()) == [DEAD] * 150
        assert lookout.look().sightings == []
        balanced(store)


def test_many_large_events(state_dir: Path) -> None:
    """No look reads more than it may hold; dead letters are all seen in the end."""
    large = {f"k{number}": "x" * 1_000 for number in range(300)}
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        for _ in range(12):
            track(store, **large)
        store.journal.rotate()
        absorb(store)
        seen = [sighting.row for sighting in lookout.look().sightings if sighting.found]
        assert seen == [10, 11, 12]
        assert store.ledger is not None
        store.ledger.queue.bury([*range(1, 13)], status=400, reason="no", now=5)
        dead: set[int | None] = set()
        for _ in range(5):
            dead |= {sighting.row for sighting in lookout.look().sightings}
        assert dead == {*range(1, 13)}
        balanced(store)


@pytest.mark.parametrize("size", [200_000, 600_000])
def test_a_large_event(state_dir: Path, size: int) -> None:
    """One that is longer than what is read at once is seen when it is in the queue."""
    with opened(state_dir) as store:
        lookout = Lookout(state_dir)
        lookout.look()
        track(store, n=1, **{f"k{number}": "x" * 1_000 for number in range(size // 1_000)})
        track(store, n=2)
        assert 2 in dict(names(lookout.look()))
        absorb(store)
        assert {seen.row for seen in lookout.look().sightings} == {1, 2}
        balanced(store)

"""
Every verb over real HTTP, against a collector that is strict, and one that fails by a script.

Time is the collector's and the client's alike, and is moved by the client's waits.
"""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import eventually

from heap_agent._core.limits import ACCOUNT_PROPERTIES_PATH, USER_PROPERTIES_PATH
from heap_agent._server.line import Seams
from heap_agent.server import (
    ApiError,
    BulkResult,
    Event,
    InvalidCall,
    InvalidValue,
    NotFound,
    Progress,
    Rejected,
    ServerClient,
    Unauthorized,
    Unreachable,
)
from heap_agent.testing import Collector, FakeClock, Reply

MakeClient = Callable[..., ServerClient]


def events(count: int, **fields: Any) -> Iterator[dict[str, Any]]:
    """So many events of ten users, as a generator."""
    for n in range(count):
        yield {"event": "E", "identity": f"u{n % 10}", "properties": {"n": n}, **fields}


def numbers(collector: Collector) -> list[Any]:
    """The numbers of the events that arrived, in order."""
    return [event.properties["n"] for event in collector.events()]


def bodies(collector: Collector) -> list[bytes]:
    """What every request held."""
    return [request.body for request in collector.requests]


# -- one at a time ---------------------------------------------------------------------


def test_track_arrives_whole(client: ServerClient, collector: Collector) -> None:
    """With every field that Heap has."""
    client.track(
        "Refund",
        identity=123456789,
        properties={"dollars": 50, "why": "late"},
        timestamp="2025-01-02T03:04:05+01:00",
        idempotency_key="refund-1",
        session_id="9",
    )
    (event,) = collector.events()
    assert (event.event, event.identity, event.session_id) == ("Refund", "123456789", "9")
    assert event.properties == {"dollars": 50, "why": "late"}
    assert event.timestamp.isoformat() == "2025-01-02T02:04:05+00:00"
    assert event.idempotency_key == "refund-1"


def test_track_for_an_anonymous_user_now(client: ServerClient, collector: Collector) -> None:
    """The time is that of the call, and there is a key."""
    client.track("Seen", user_id="77")

    (event,) = collector.events()
    assert (event.user_id, event.identity) == ("77", None)
    assert event.timestamp.isoformat() == "2026-01-01T00:00:00+00:00"
    assert event.idempotency_key == "0000000000000001-000000000000-46204000"


def test_the_other_single_verbs(client: ServerClient, collector: Collector) -> None:
    """Users are joined, users and accounts get properties."""
    client.track("Seen", user_id=77)
    client.identify(77, "alice", timestamp=1_700_000_000)
    client.add_user_properties("alice", {"plan": "Pro"})
    client.add_account_properties("acme", {"seats": 9})

    user = collector.user("alice")
    assert (user.user_ids, user.properties, len(user.events)) == (("77",), {"plan": "Pro"}, 1)
    assert collector.account("acme").properties == {"seats": 9}


@pytest.mark.parametrize("retries", [500, 429, 503, 408])
def test_a_single_event_is_repeated_byte_for_byte(
    client: ServerClient, collector: Collector, retries: int
) -> None:
    """Until Heap has it; and Heap has it once."""
    collector.reply(retries, Reply.throttled(5), Reply(500, handled=True))
    client.track("E", identity="alice")

    assert len(set(bodies(collector))) == 1 and len(bodies(collector)) == 4
    assert len(collector.events()) == len(collector.duplicates) == 1
    assert collector.conflicts == []


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.track("E"),
        lambda client: client.track("E", identity="a", user_id=1),
        lambda client: client.track("E", identity="a", properties=[1]),
        lambda client: client.add_user_properties("a", None),
        lambda client: client.add_account_properties("a", "b"),
        lambda client: client.bulk_track("E"),
        lambda client: client.bulk_track({"event": "E"}),
        lambda client: client.bulk_track(5),
        lambda client: client.bulk_track(Event("E", identity="a")),
    ],
)
def test_a_wrong_call_raises(
    client: ServerClient, collector: Collector, call: Callable[[ServerClient], object]
) -> None:
    """And nothing is sent."""
    with pytest.raises(InvalidCall):
        call(client)
    assert collector.requests == []


def test_a_wrong_value_raises(client: ServerClient, collector: Collector) -> None:
    """With a sentence about it; nothing is sent."""
    with pytest.raises(InvalidValue, match="send 'true' or 'false' as text"):
        client.track("E", identity="a", properties={"ok": True})
    with pytest.raises(InvalidValue, match="Heap's own"):
        client.add_user_properties("a", {"ID": 1})
    with pytest.raises(InvalidValue, match="names exactly one"):
        client.identify(5, "undefined")
    assert collector.requests == []


def test_repair_mends_and_says_so(
    client: ServerClient, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """Each fault is a warning of the library's logger."""
    client.track("E", identity="a", properties={"ok": True, "bad": None}, repair=True)
    client.add_user_properties("a", {"ID": 1, "b": True}, repair=True)
    client.add_account_properties("a", {"b": [1, 2]}, repair=True)

    assert collector.events()[0].properties == {"ok": "true"}
    assert collector.user("a").properties == {"b": "true"}
    assert collector.account("a").properties == {"b": "1||2"}
    assert [record.name for record in caplog.records] == ["heap_agent.server"] * 2


def test_what_heap_refuses_raises(client: ServerClient, collector: Collector) -> None:
    """With status and Heap's words, parsed where they are JSON."""
    collector.reply(Reply(400, b'{"message":"no such event","code":7}'))
    with pytest.raises(ApiError) as caught:
        client.track("E", identity="a")

    error = caught.value
    assert (error.status, error.message, dict(error.details)) == (400, "no such event", {"code": 7})
    assert "HTTP 400 (no such event)" in str(error)


@pytest.mark.parametrize(
    "status, kind", [(401, Unauthorized), (403, Unauthorized), (404, NotFound), (405, ApiError)]
)
def test_an_answer_about_something_else_raises_at_once(
    client: ServerClient, collector: Collector, status: int, kind: type[ApiError]
) -> None:
    """Nothing is skipped, and nothing is tried again."""
    collector.reply(status)
    with pytest.raises(kind) as caught:
        client.bulk_track(events(5))

    assert caught.value.status == status
    assert caught.value.result == BulkResult(requests=1)
    assert len(collector.requests) == 1


# -- limits of a server, over the wire ----------------------------------------------------


def test_the_vectors_of_heaps_own_clients(client: ServerClient, collector: Collector) -> None:
    """255 and 1024 are taken by both sides, 256 and 1025 do not leave."""
    good = {"k" * 1024: "v" * 1024}
    client.track("e" * 1024, identity="i" * 255, properties=good)
    client.add_user_properties("i" * 255, good)
    client.add_account_properties("i" * 255, good)
    assert collector.events()[0].properties == good
    assert collector.user("i" * 255).properties == good
    assert collector.account("i" * 255).properties == good

    sent = len(collector.requests)
    rejected: list[Rejected] = []
    result = client.bulk_track(
        [
            {"event": "e" * 1025, "identity": "a"},
            {"event": "E", "identity": "i" * 256},
            {"event": "E", "identity": "a", "properties": {"k" * 1025: 1}},
            {"event": "E", "identity": "a", "properties": {"k": "v" * 1025}},
            {"event": "", "identity": "a"},
        ],
        on_rejected=rejected.append,
    )
    assert (result.accepted, result.rejected, len(collector.requests)) == (0, 5, sent)
    assert [one.index for one in rejected] == [0, 1, 2, 3, 4]


# -- many at a time ------------------------------------------------------------------------


def test_bulk_track_sends_all_in_order(client: ServerClient, collector: Collector) -> None:
    """In requests of a thousand, with keys, and with progress."""
    progress: list[Progress] = []
    result = client.bulk_track(events(2_500), on_progress=progress.append)

    assert (result.accepted, result.rejected, result.read, result.requests) == (2500, 0, 2500, 3)
    assert numbers(collector) == list(range(2_500))
    assert [one.read for one in progress] == [1000, 2000, 2500]
    assert len({event.idempotency_key for event in collector.events()}) == 2_500


def test_the_other_bulk_verbs(client: ServerClient, collector: Collector) -> None:
    """1,500 users and accounts, in two requests each."""
    users = ({"identity": f"u{n}", "properties": {"n": n}} for n in range(1_500))
    accounts = ({"account_id": f"a{n}", "properties": {"n": n}} for n in range(1_500))

    assert client.bulk_add_user_properties(users).accepted == 1_500
    assert client.bulk_add_account_properties(accounts).accepted == 1_500
    assert (len(collector.users), len(collector.accounts)) == (1_500, 1_500)
    paths = [request.path for request in collector.requests]
    assert paths == [USER_PROPERTIES_PATH] * 2 + [ACCOUNT_PROPERTIES_PATH] * 2


def test_requests_keep_to_a_million_bytes(client: ServerClient, collector: Collector) -> None:
    """Which the collector insists on."""
    result = client.bulk_track(
        {"event": "E", "identity": f"u{n}", "properties": {f"k{m}": "é" * 500 for m in range(20)}}
        for n in range(200)
    )
    assert (result.accepted, result.rejected) == (200, 0)
    sizes = [len(body) for body in bodies(collector)]
    assert max(sizes) <= 1_000_000 and len(sizes) == 5


def test_nothing_to_send_is_a_result_too(client: ServerClient, collector: Collector) -> None:
    """All zeros, and no request."""
    assert client.bulk_track(()) == BulkResult()
    assert collector.requests == []


def test_faulty_items_are_rejected_and_the_rest_is_sent(
    client: ServerClient, collector: Collector
) -> None:
    """With index, item and reason, in order; the result keeps the first hundred."""
    bad = {"event": "E", "identity": "null"}
    items = [bad if n % 4 == 0 else one for n, one in enumerate(events(600))]
    rejected: list[Rejected] = []
    result = client.bulk_track(items, on_rejected=rejected.append)

    assert (result.accepted, result.rejected) == (450, 150)
    assert [one.index for one in rejected] == list(range(0, 600, 4))
    assert {id(one.item) for one in rejected} == {id(bad)}
    assert result.first_rejected == tuple(rejected[:100])
    assert numbers(collector) == [n for n in range(600) if n % 4]


def test_repaired_items_are_counted(client: ServerClient, collector: Collector) -> None:
    """And not rejected."""
    items = [*events(3), {"event": "E", "identity": "a", "properties": {"x": None}}]

    result = client.bulk_track(items, repair=True)
    assert (result.accepted, result.repaired, result.rejected) == (4, 1, 0)
    assert client.bulk_track(items).rejected == 1


def test_a_400_is_narrowed_down_to_the_bad_items(
    client: ServerClient, collector: Collector
) -> None:
    """Everything else arrives once, in order, whoever says no."""
    bad = {7, 8, 500, 1999}
    collector.reject_if(lambda item: "bad number" if item["properties"]["n"] in bad else None)
    rejected: list[Rejected] = []
    progress: list[Progress] = []
    result = client.bulk_track(
        events(2_000), on_rejected=rejected.append, on_progress=progress.append
    )

    assert (result.accepted, result.rejected) == (1_996, 4)
    assert {one.index: one.reason for one in rejected} == {n: "HTTP 400: bad number" for n in bad}
    assert numbers(collector) == [n for n in range(2_000) if n not in bad]
    assert collector.duplicates == []
    assert progress[-1] == Progress(2_000, 1_996, 4)
    assert [one.read for one in progress] == sorted({one.read for one in progress})


def test_users_and_accounts_are_narrowed_down_too(
    client: ServerClient, collector: Collector
) -> None:
    """One bad of each."""
    for path in (USER_PROPERTIES_PATH, ACCOUNT_PROPERTIES_PATH):
        collector.reject_if(lambda item: item["properties"]["n"] == 33, path=path)
    users = client.bulk_add_user_properties(
        {"identity": f"u{n}", "properties": {"n": n}} for n in range(50)
    )
    accounts = client.bulk_add_account_properties(
        {"account_id": f"a{n}", "properties": {"n": n}} for n in range(50)
    )
    assert [one.index for one in users.first_rejected + accounts.first_rejected] == [33, 33]
    assert (users.accepted, accounts.accepted) == (49, 49)


def test_a_server_that_refuses_everything_stops_the_call(
    client: ServerClient, collector: Collector
) -> None:
    """With what was settled; a later call goes on from there."""
    collector.reject_if(lambda item: True)
    with pytest.raises(ApiError) as caught:
        client.bulk_track(events(500))
    read = caught.value.result.read
    assert (caught.value.status, read) == (400, 100)

    collector.normal()
    client.bulk_track(list(events(500))[read:])
    assert numbers(collector) == list(range(100, 500))


# -- trouble -------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[Collector], object]] = {
    "500": lambda c: c.reply(500, 502, 504),
    "429": lambda c: c.reply(Reply.throttled(30), Reply.throttled(None)),
    "503 with a date": lambda c: c.reply(
        Reply.throttled("Thu, 01 Jan 2026 00:01:00 GMT", status=503)
    ),
    "500, and yet handled": lambda c: c.reply(Reply(500, handled=True)),
    "a login page": lambda c: c.reply(Reply.captive(302), Reply.captive(200)),
    "dropped before": lambda c: c.drop_connection(2),
    "dropped after": lambda c: c.drop_connection(2, when="after"),
    "413": lambda c: c.reply(413, 413, 413),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("good", [0, 1])
def test_nothing_is_lost_and_nothing_is_doubled(
    client: ServerClient, collector: Collector, fault: str, good: int
) -> None:
    """Whatever fails, at the first request or at a later one."""
    collector.reply(*[200] * good)
    FAULTS[fault](collector)
    result = client.bulk_track(events(1_800))

    assert (result.accepted, result.rejected) == (1_800, 0)
    assert sorted(numbers(collector)) == list(range(1_800))
    assert collector.conflicts == []
    assert result.requests == len(collector.requests)


def test_a_retry_has_the_same_bytes(client: ServerClient, collector: Collector) -> None:
    """Keys and times too; Heap has them already, and takes them once."""
    collector.drop_connection(when="after")
    client.bulk_track(events(100))

    first, second = bodies(collector)
    assert first == second
    assert len(collector.events()) == len(collector.duplicates) == 100


def test_a_server_that_hangs_is_left_at_the_timeout(
    make_client: MakeClient, collector: Collector
) -> None:
    """And asked again."""
    collector.hang()
    result = make_client(read_timeout=0.3).bulk_track(events(10))

    assert result.accepted == 10 and result.requests >= 2
    assert len(collector.events()) == 10 and collector.conflicts == []


def test_waits_are_as_told(client: ServerClient, collector: Collector, clock: FakeClock) -> None:
    """Not shorter than Retry-After, and not much longer."""
    collector.reply(Reply.throttled(40))
    client.bulk_track(events(1))

    assert 40 <= clock.boot_ns() / 1e9 <= 45


def test_it_gives_up_after_retry_for(
    make_client: MakeClient, collector: Collector, clock: FakeClock
) -> None:
    """With what was settled before, and the last answer."""
    collector.reply(200)
    collector.reply(500, repeat=True)
    with pytest.raises(Unreachable) as caught:
        make_client(retry_for=60).bulk_track(events(1_500))

    assert caught.value.status == 500
    assert (caught.value.result.accepted, caught.value.result.read) == (1_000, 1_000)
    assert 60 <= clock.boot_ns() / 1e9 <= 61
    assert "try again later" in str(caught.value)


def test_a_captive_portal_is_named(make_client: MakeClient, collector: Collector) -> None:
    """For as long as it is there."""
    collector.captive_portal(status=200)
    with pytest.raises(Unreachable, match="captive portal"):
        make_client(retry_for=5).track("E", identity="a")


def test_nobody_there_is_unreachable(make_client: MakeClient, collector: Collector) -> None:
    """Without a status."""
    collector.stop()
    with pytest.raises(Unreachable) as caught:
        make_client(retry_for=0).track("E", identity="a")
    assert caught.value.status is None and "refused" in caught.value.message


def test_a_longer_retry_after_than_retry_for_ends_at_once(
    make_client: MakeClient, collector: Collector, clock: FakeClock
) -> None:
    """Nobody sleeps for an error."""
    collector.reply(Reply.throttled(600))
    with pytest.raises(Unreachable, match="patience"):
        make_client(retry_for=300).track("E", identity="a")
    assert clock.boot_ns() == 0


# -- limits of time ---------------------------------------------------------------------------


@pytest.fixture(name="strict")
def _strict(clock: FakeClock) -> Iterator[Collector]:
    """A collector that answers 429 above any of Heap's limits."""
    with Collector(clock=clock, enforce_limits=True) as collector:
        yield collector


def test_a_backlog_never_meets_a_limit(strict: Collector, seams: Seams, clock: FakeClock) -> None:
    """One heavy user, many light ones, and the whole app: 40,000 events without a 429."""
    items = (
        {"event": "E", "identity": "heavy" if n % 9 == 0 else f"u{n % 4000}", "user_id": None}
        for n in range(40_000)
    )
    with ServerClient(11, endpoint=strict.url, _seams=seams) as client:
        result = client.bulk_track(items)

    assert (result.accepted, result.rejected) == (40_000, 0)
    assert strict.over_limit == []
    assert {request.status for request in strict.requests} == {200}
    # 4,445 events of the heavy one need four minutes to pass after the first thousand.
    assert 4 * 60 <= clock.boot_ns() / 1e9 <= 5 * 64


def test_verbs_of_all_kinds_share_the_budgets(strict: Collector, seams: Seams) -> None:
    """Single calls and bulk calls of one client, one after the other."""
    with ServerClient(11, endpoint=strict.url, _seams=seams) as client:
        client.bulk_track({"event": "E", "identity": "a"} for _ in range(1_000))
        client.track("E", identity="a")
        for n in range(70):
            client.add_user_properties("a", {"n": n})
            client.add_account_properties("a", {"n": n})
            client.identify(n, "a")
        client.bulk_add_user_properties({"identity": "a", "properties": {"n": n}} for n in (1, 2))

    assert strict.over_limit == []
    assert {request.status for request in strict.requests} == {200}


def test_budgets_can_be_smaller_and_none(
    make_client: MakeClient, collector: Collector, clock: FakeClock
) -> None:
    """A share of Heap's limits where others send too; none for an own collector."""
    make_client(identity_budget=None, app_budget=None).bulk_track(events(20_000))
    assert clock.boot_ns() == 0

    make_client(identity_budget=None, app_budget=100).bulk_track(events(300))
    assert 2 * 60 <= clock.boot_ns() / 1e9 <= 2 * 64


# -- iterables ---------------------------------------------------------------------------------


def test_an_iterable_may_use_the_same_client(client: ServerClient, collector: Collector) -> None:
    """Nothing is locked while it is asked for items."""

    def joining() -> Iterator[dict[str, Any]]:
        for n, item in enumerate(events(3)):
            client.identify(n, f"u{n}")
            yield item

    assert client.bulk_track(joining()).accepted == 3
    assert len(collector.users) == 3


def test_items_are_taken_as_they_are_sent(client: ServerClient, collector: Collector) -> None:
    """A generator is never more than one request ahead."""
    ahead: list[int] = []

    def watched() -> Iterator[dict[str, Any]]:
        for n, item in enumerate(events(5_000)):
            ahead.append(n - len(collector.events()))
            yield item

    client.bulk_track(watched())
    assert max(ahead) <= 1_000


class Counted:
    """An item that can be counted while it is alive."""


def test_items_are_let_go(client: ServerClient) -> None:
    """Of 5,000 that are all refused, a thousand at most are alive at a time."""
    alive: list[int] = []

    def watched() -> Iterator[Any]:
        for n in range(5_000):
            if n % 1_000 == 999:
                alive.append(sum(type(one) is Counted for one in gc.get_objects()))
            yield Counted()

    assert client.bulk_track(watched()).rejected == 5_000
    assert max(alive) <= 1_200


def test_what_a_generator_gave_before_it_failed_is_sent(
    client: ServerClient, collector: Collector
) -> None:
    """Then its error is raised."""
    progress: list[Progress] = []

    def failing() -> Iterator[dict[str, Any]]:
        yield from events(1_200)
        raise LookupError("the database is gone")

    with pytest.raises(LookupError, match="the database is gone"):
        client.bulk_track(failing(), on_progress=progress.append)
    assert numbers(collector) == list(range(1_200))
    assert progress[-1].read == 1_200


def test_a_generator_that_failed_is_the_cause_of_a_failure_to_send_the_rest(
    make_client: MakeClient, collector: Collector
) -> None:
    """Neither error hides the other."""

    def failing() -> Iterator[dict[str, Any]]:
        yield from events(10)
        raise LookupError("the database is gone")

    collector.stop()
    with pytest.raises(Unreachable) as caught:
        make_client(retry_for=0).bulk_track(failing())
    assert isinstance(caught.value.__cause__, LookupError)


def test_an_interruption_is_not_waited_for(client: ServerClient, collector: Collector) -> None:
    """Ctrl-C in the iterable ends the call at once."""

    def interrupted() -> Iterator[dict[str, Any]]:
        yield from events(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.bulk_track(interrupted())
    assert collector.requests == []


def test_what_a_callback_raises_ends_the_call(client: ServerClient, collector: Collector) -> None:
    """At once; what was settled is settled."""

    def stop(progress: Progress) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        client.bulk_track(events(3_000), on_progress=stop)
    assert numbers(collector) == list(range(1_000))


def test_a_call_can_go_on_where_another_ended(client: ServerClient, collector: Collector) -> None:
    """With keys of its own an item is sent twice at most, and counts once."""
    items = [{**item, "idempotency_key": f"row-{n}"} for n, item in enumerate(events(4_000))]
    read = 0

    def note(progress: Progress) -> None:
        nonlocal read
        read = progress.read

    collector.reply(200, Reply(404, handled=True))
    with pytest.raises(NotFound):
        client.bulk_track(items, on_progress=note)
    assert read == 1_000

    client.bulk_track(items[read:])
    assert numbers(collector) == list(range(4_000))
    assert len(collector.duplicates) == 1_000 and collector.conflicts == []


# -- manners ---------------------------------------------------------------------------------


def test_after_close_verbs_raise(client: ServerClient) -> None:
    """And closing twice is no fault."""
    client.close()
    client.close()
    for call in (
        lambda: client.track("E", identity="a"),
        lambda: client.bulk_track(()),
        lambda: client.delete_users(identities=["a"]),
    ):
        with pytest.raises(InvalidCall, match="closed"):
            call()


def test_close_ends_a_bulk_call_of_another_thread(collector: Collector) -> None:
    """Before its next request."""
    raised: list[BaseException] = []

    def endless() -> Iterator[dict[str, Any]]:
        while True:
            yield from events(1_000)

    def run() -> None:
        try:
            client.bulk_track(endless())
        except InvalidCall as error:
            raised.append(error)

    client = ServerClient(11, endpoint=collector.url, identity_budget=None, app_budget=None)
    thread = threading.Thread(target=run)
    thread.start()
    collector.wait_for(1_000)
    client.close()
    thread.join(30)
    assert not thread.is_alive() and "closed" in str(raised[0])


def test_threads_take_turns(strict: Collector, seams: Seams) -> None:
    """Together they stay within the limits, and everything arrives once."""
    results: list[BulkResult] = []

    def run(number: int) -> None:
        items = (
            {"event": f"E{number}", "identity": "a", "properties": {"n": n}} for n in range(900)
        )
        results.append(client.bulk_track(items))

    with ServerClient(11, endpoint=strict.url, _seams=seams) as client:
        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert [result.accepted for result in results] == [900] * 4
    assert len(strict.events()) == 3_600
    assert strict.over_limit == []


def test_the_repr_tells_where_and_how(client: ServerClient, collector: Collector) -> None:
    """And not with which key."""
    assert repr(client) == f"<ServerClient 11 at {collector.url} [open, with api key]>"
    client.close()
    assert "[closed, " in repr(client)


def test_the_hosts_are_heaps() -> None:
    """By region; an endpoint overrides both."""
    assert "https://heapanalytics.com" in repr(ServerClient("11"))
    assert "https://c.eu.heap-api.com" in repr(ServerClient("11", region="eu"))
    assert "https://own.example" in repr(ServerClient("11", endpoint="https://own.example/"))


# -- asynchronous programs ----------------------------------------------------------------------


def test_a_verb_can_be_awaited_in_a_thread(collector: Collector) -> None:
    """As the module's documentation says."""

    async def program() -> BulkResult:
        with ServerClient(11, endpoint=collector.url) as heap:
            await asyncio.to_thread(heap.track, "Refund", identity="alice@example.com")
            return await asyncio.to_thread(heap.bulk_track, events(100))

    assert asyncio.run(program()).accepted == 100
    assert len(collector.events()) == 101


def test_cancelling_does_not_stop_the_thread(collector: Collector) -> None:
    """The waiting ends, the event arrives."""
    collector.hang(0.3)

    async def program(heap: ServerClient) -> None:
        task = asyncio.create_task(asyncio.to_thread(heap.track, "Refund", identity="a"))
        while not collector.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ServerClient(11, endpoint=collector.url) as heap:
        asyncio.run(program(heap))
        eventually(lambda: len(collector.events()) == 1)


def test_real_time_is_waited_out(collector: Collector) -> None:
    """Without seams, a Retry-After of a second takes a second."""
    collector.reply(Reply.throttled(1))
    began = time.monotonic()
    with ServerClient(11, endpoint=collector.url) as heap:
        heap.track("E", identity="a")

    assert time.monotonic() - began >= 1.0
    (first, second) = (json.loads(body)["events"][0] for body in bodies(collector))
    assert first == second and len(first["idempotency_key"]) == 38

"""Who is to be deleted, in what portions, and the record of it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from heap_agent._tools.bulk_deletion import Audit, AuditTrouble, User, delete, read_users
from heap_agent._tools.bulk_rows import JsonRows, Row
from heap_agent.server import ServerClient
from heap_agent.testing import API_KEY, Collector

NOON = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


def users(*items: dict[str, Any]) -> list[User]:
    lines = [json.dumps(item).encode() for item in items]
    reading = read_users(JsonRows(lines))
    assert reading.faults == ()
    return list(reading.users)


def client(collector: Collector, api_key: str = API_KEY) -> ServerClient:
    return ServerClient("11", api_key, endpoint=collector.url, retry_for=0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run(collector: Collector, named: Iterable[User], path: Path, **options: Any) -> list[int]:
    audit = Audit(path, "11", lambda: NOON)
    try:
        with client(collector, **options) as api:
            return [count for _, count in delete(api, list(named), audit)]
    finally:
        audit.close()


# -- reading ---------------------------------------------------------------------------


def test_everybody_is_named_once() -> None:
    """The same user in several rows, or spellings, is one."""
    found = users(
        {"identity": "ann"}, {"user_id": "7"}, {"identity": "ann", "x": 1}, {"user_id": 7}
    )

    assert found == [User("identity", "ann"), User("user_id", 7)]


def test_identities_that_name_nobody_may_go() -> None:
    """They must not be sent, but whoever has them at Heap may be rid of them."""
    assert users({"identity": "guest"}) == [User("identity", "guest")]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({}, "neither"),
        ({"identity": "a", "user_id": 1}, "both"),
        ({"identity": ""}, "blank"),
        ({"identity": "x" * 256}, "255"),
        ({"identity": 1.5}, "identity"),
        ({"user_id": "x"}, "user_id"),
        ({"user_id": -1}, "user_id"),
        ({"user_id": 2**53}, "2^53-1"),
    ],
)
def test_a_row_that_names_nobody_is_a_fault(item: dict[str, Any], says: str) -> None:
    """With its line and the reason."""
    rows = [Row(3, b"", None, "no JSON"), Row(4, b"", item), Row(5, b"", {"identity": "ann"})]

    reading = read_users(rows)

    assert [line for line, _ in reading.faults] == [3, 4]
    assert says in reading.faults[1][1]
    assert (reading.rows, reading.count("identity")) == (3, 1)


# -- deleting --------------------------------------------------------------------------


def test_the_record_says_who_when_and_what_heap_said(tmp_path: Path) -> None:
    """A line for each request, with everybody in it."""
    path = tmp_path / "audit.jsonl"
    with Collector() as collector:
        named = users({"user_id": 7}, {"identity": "ann"}, {"identity": "bob"})
        assert run(collector, named, path) == [2, 1]
        ids = [deletion.id for deletion in collector.deletions]

    found = lines(path)
    assert [line["request_id"] for line in found] == ids
    assert [line["users"] for line in found] == [
        [{"identity": "ann"}, {"identity": "bob"}],
        [{"user_id": 7}],
    ]
    assert {(line["time"], line["app_id"], line["status"]) for line in found} == {
        ("2026-05-01T12:00:00.000+00:00", "11", "pending")
    }
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ten_thousand_go_in_a_request(tmp_path: Path) -> None:
    """One more is a second request, and long names make more of them."""
    path = tmp_path / "audit.jsonl"
    with Collector() as collector:
        short = [User("identity", f"user-{n}") for n in range(10_001)]
        assert run(collector, short, path) == [10_000, 1]
        long = [User("identity", f"{n:0>250}") for n in range(5_000)]
        counts = run(collector, long, path)

    assert len(counts) > 1 and sum(counts) == 5_000
    recorded = [user["identity"] for line in lines(path) for user in line["users"]]
    assert recorded == [user.value for user in short + long]


def test_the_record_is_kept_when_heap_refuses(tmp_path: Path) -> None:
    """What was accepted before, and who was not."""
    path = tmp_path / "audit.jsonl"
    long = [User("identity", f"{n:0>250}") for n in range(5_000)]
    with Collector() as collector:
        collector.reply(200, 200, 500, repeat=False)  # token, first request, second one
        with pytest.raises(Exception, match="HTTP 500"):
            run(collector, long, path)

    accepted, failed = lines(path)
    assert accepted["status"] == "pending"
    assert (failed["status"], failed["request_id"]) == ("failed", None)
    assert "HTTP 500" in failed["reason"]
    recorded = [user["identity"] for user in accepted["users"] + failed["users"]]
    assert recorded == [user.value for user in long]


def test_the_record_grows(tmp_path: Path) -> None:
    """A later run appends; none is kept where none is asked for."""
    path = tmp_path / "audit.jsonl"
    for number in (1, 2):
        audit = Audit(path, "11", lambda: NOON)
        audit.write(None, "failed", number=number)
        audit.close()
    Audit(None, "11", lambda: NOON).write(None, "failed")

    assert [line["number"] for line in lines(path)] == [1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_the_record_names_those_who_were_never_asked_for(tmp_path: Path) -> None:
    """After a failure nobody is missing from it."""
    path = tmp_path / "audit.jsonl"
    named = [User("identity", f"user-{n}") for n in range(20_001)] + [User("user_id", 7)]
    with Collector() as collector:
        collector.reply(200, 400, repeat=False)  # token, first request
        with pytest.raises(Exception, match="HTTP 400"):
            run(collector, named, path)

    found = [(line["status"], len(line["users"])) for line in lines(path)]
    assert found == [
        ("failed", 10_000),
        ("not asked for", 10_000),
        ("not asked for", 1),
        ("not asked for", 1),
    ]


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    """A full disk may have cut the last one."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"time": "2026-05-')
    audit = Audit(path, "11", lambda: NOON)
    for number in (1, 2):
        audit.write(None, "failed", number=number)
    audit.close()

    torn, *whole = path.read_text().splitlines()
    assert torn == '{"time": "2026-05-'
    assert [json.loads(line)["number"] for line in whole] == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_hides_no_request() -> None:
    """What Heap has accepted is told, nothing more is asked for, and the file is named."""
    named = [User("identity", f"user-{n}") for n in range(10_001)]
    told = []
    with Collector() as collector, client(collector) as api:
        audit = Audit(Path("/dev/full"), "11", lambda: NOON)
        with pytest.raises(AuditTrouble, match="/dev/full"):
            for _, count in delete(api, named, audit):
                told.append(count)
        audit.close()
        asked = len(collector.deletions)

    assert (told, asked) == ([10_000], 1)

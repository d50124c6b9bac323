"""The commands of the server-side API, as the real processes that people start."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, Result, arguments, environment
from helpers import eventually

from heap_agent._core.budget import Allowance
from heap_agent._core.events import Kind
from heap_agent._tools.bulk_budget import SharedLedger, seconds
from heap_agent._tools.bulk_keys import row_key
from heap_agent.testing import API_KEY, Collector

posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")

Command = Callable[..., Result]

HEADER = "event,email,at,n\n"
MAPPED = ("--column", "identity=email", "--column", "timestamp=at", "--number", "n")

NO_BUDGETS = {"HEAP_AGENT_APP_BUDGET": "none", "HEAP_AGENT_IDENTITY_BUDGET": "none"}


@pytest.fixture(name="collector")
def _collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(name="settings")
def _settings(collector: Collector) -> dict[str, str]:
    return {"HEAP_AGENT_APP_ID": "11", "HEAP_AGENT_ENDPOINT": collector.url, **NO_BUDGETS}


@pytest.fixture(name="command")
def _command(tmp_path: Path, settings: Mapping[str, str]) -> Command:
    def run(*words: object, given: bytes | None = None, **changes: str) -> Result:
        done = subprocess.run(
            arguments(words),
            env=environment(tmp_path, {**settings, **changes}),
            cwd=tmp_path,
            input=b"" if given is None else given,
            capture_output=True,
            timeout=PATIENCE,
        )
        return Result(
            subprocess.CompletedProcess(
                done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
            )
        )

    return run


@pytest.fixture(name="events")
def _events(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_text(HEADER + "".join(line(n) for n in range(5)), "utf-8")
    return path


def line(number: int) -> str:
    return f"Bought,u{number % 7}@example.com,{1_767_225_600 + number},{number}\n"


def numbers(collector: Collector) -> list[Any]:
    return [event.properties.get("n") for event in collector.events()]


def bodies(collector: Collector, path: str) -> list[bytes]:
    return [request.body for request in collector.requests if request.path == path]


# -- bulk-track ------------------------------------------------------------------------


def test_a_file_arrives_as_it_says(command: Command, collector: Collector, events: Path) -> None:
    """Fields, times and properties of each row; a word at the end, and exit code 0."""
    result = command("bulk-track", events, *MAPPED)

    assert (result.code, result.out, result.err) == (0, "accepted 5, rejected 0\n", "")
    assert numbers(collector) == [0, 1, 2, 3, 4]
    first = collector.events()[0]
    assert (first.event, first.identity) == ("Bought", "u0@example.com")
    assert first.timestamp.isoformat() == "2026-01-01T00:00:00+00:00"
    assert collector.duplicates == []


def test_json_says_everything(command: Command, events: Path, tmp_path: Path) -> None:
    """One object in one line, of the first run and of a second."""
    with events.open("a") as file:
        file.write("Bought,,1767225600,9\n")
    words = ("bulk-track", events, *MAPPED, "--json")
    first, second = command(*words), command(*words)

    assert (first.code, second.code) == (1, 1)
    rejected = f"{events}.rejected.jsonl"
    common = {
        "complete": True,
        "reason": None,
        "rows": 6,
        "accepted": 5,
        "rejected": 1,
        "repaired": 0,
        "undated": 0,
        "rejected_file": rejected,
        "checkpoint": first.json["checkpoint"],
        "dry_run": False,
    }
    assert first.json == {**common, "before": 0, "requests": 1}
    assert second.json == {**common, "before": 6, "requests": 0}
    assert "line 7" in first.sentence and rejected in first.sentence
    assert str(tmp_path / "states") in first.json["checkpoint"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("stream", [False, True])
def test_json_lines_in_any_wrapping(
    command: Command,
    collector: Collector,
    tmp_path: Path,
    packed: bool,
    mark: bytes,
    stream: bool,
) -> None:
    """Compressed, with a byte order mark, through a pipe: the same rows under the same keys."""
    rows = [
        json.dumps({"event": "Bought", "identity": "ann", "properties": {"n": n}}).encode()
        for n in range(3)
    ]
    content = mark + b"\n".join(rows)
    content = gzip.compress(content) if packed else content
    if stream:
        result = command(
            "bulk-track", "-", "--format", "jsonl", "--source", "e.jsonl", given=content
        )
    else:
        path = tmp_path / "e.jsonl"
        path.write_bytes(content)
        result = command("bulk-track", path)

    assert result.code == 0, result
    assert numbers(collector) == [0, 1, 2]
    assert "3 of the events have no timestamp" in result.sentence
    source = "e.jsonl" if stream else str(path)
    keys = [event.idempotency_key for event in collector.events()]
    assert keys == [row_key("11", source, n, json.loads(row)) for n, row in enumerate(rows, 1)]


def test_a_lost_checkpoint_sends_nothing_under_a_second_key(
    command: Command, collector: Collector, events: Path, tmp_path: Path
) -> None:
    """All rows are sent again, and Heap knows every one of them."""
    command("bulk-track", events, *MAPPED, "--checkpoint", tmp_path / "a.db")
    result = command("bulk-track", events, *MAPPED, "--checkpoint", tmp_path / "b.db")

    assert result.out == "accepted 5, rejected 0\n"
    assert numbers(collector) == [0, 1, 2, 3, 4]
    assert len(collector.duplicates) == 5
    assert collector.conflicts == []


def test_a_mended_file_is_never_lost(command: Command, events: Path) -> None:
    """A later run finds it in its way, sets it aside, and says where."""
    with events.open("a") as file:
        file.write("Bought,guest,1767225600,9\n")
    command("bulk-track", events, *MAPPED)
    mended = Path(f"{events}.rejected.jsonl")
    mended.write_text(mended.read_text().replace("guest", "carol"))
    again = command("bulk-track", events, *MAPPED, "--restart")

    aside = Path(f"{mended}.1")
    assert "carol" in aside.read_text() and "guest" in mended.read_text()
    assert f"they are in {aside} now" in again.err


def test_one_row_can_be_several_events(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """Another name, or other columns, and Heap keeps them all; the same again, and none twice."""
    path = tmp_path / "orders.csv"
    path.write_text("identity,ordered,shipped\nann,1767225600,1767225601\n")
    ordered = ("bulk-track", path, "--event", "Ordered", "--column", "timestamp=ordered")
    shipped = ("bulk-track", path, "--event", "Shipped", "--column", "timestamp=shipped")
    for words in (ordered, shipped, ordered, (*shipped, "--repair")):
        assert command(*words, "--restart").code == 0

    assert [event.event for event in collector.events()] == ["Ordered", "Shipped"]
    assert len(collector.duplicates) == 2 and collector.conflicts == []


def test_files_of_one_name_are_several(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """What their rows have in common is no reason to lose them; a name makes them one."""
    for day in ("mon", "tue"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "login.csv").write_text("identity,event\nann,Login\n")
        command("bulk-track", tmp_path / day / "login.csv")
    assert len(collector.events()) == 2

    for day in ("mon", "tue"):
        checkpoint = tmp_path / f"{day}.db"
        words = ("--source", "login", "--checkpoint", checkpoint)
        command("bulk-track", tmp_path / day / "login.csv", *words)
    assert len(collector.events()) == 3


def test_appended_rows_are_sent_alone(command: Command, collector: Collector, events: Path) -> None:
    """A finished file says so; what was added to it goes out."""
    words = ("bulk-track", events, *MAPPED)
    command(*words)
    again = command(*words)
    with events.open("a") as file:
        file.write(line(5))
    more = command(*words)

    assert (again.code, again.out) == (
        0,
        "everything was sent already: accepted 5, rejected 0\n",
    )
    assert (more.code, more.out) == (0, "accepted 6, rejected 0 (5 rows by earlier runs)\n")
    assert numbers(collector) == [0, 1, 2, 3, 4, 5]
    assert collector.duplicates == []


@pytest.mark.parametrize("change", ["row", "shorter", "column", "option"])
def test_a_changed_file_is_refused(
    command: Command, collector: Collector, events: Path, change: str
) -> None:
    """One sentence says what to do; --restart does it."""
    words = ["bulk-track", events, *MAPPED]
    command(*words)
    text = events.read_text()
    if change == "row":
        events.write_text(text.replace("u1@", "v1@"))
    elif change == "shorter":
        events.write_text(text.rpartition("Bought")[0])
    elif change == "column":
        events.write_text(text.replace(HEADER, "event,email,at,m\n"))
        words[-1] = "m"
    else:
        words = words[:-2]  # n is text now
    asked = len(collector.requests)

    refused = command(*words)
    assert (refused.code, refused.out) == (1, "")
    assert "not what was sent before" in refused.sentence and "--restart" in refused.sentence
    assert len(collector.requests) == asked

    assert command(*words, "--restart").code == 0


def test_bad_rows_are_mended_and_sent(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """Each is written with its line and the reason, and the file is an input itself."""
    path = tmp_path / "e.jsonl"
    path.write_bytes(
        b'{"event": "A", "identity": "ann", "properties": {"n": 1}}\n'
        b"{broken\n"
        b"\n"
        b'{"event": "A", "identity": "guest", "properties": {"n": 2}}\n'
        b'{"event": "A", "identity": "ann", "properties": {"n": true}}\n'
    )
    result = command("bulk-track", path)
    rejected = tmp_path / "e.jsonl.rejected.jsonl"

    assert (result.code, result.out) == (1, "accepted 1, rejected 3\n")
    assert "line 2" in result.err
    found = [json.loads(text) for text in rejected.read_text().splitlines()]
    assert [one["row"] for one in found] == [2, 4, 5]
    assert [sorted(one) for one in found] == [
        ["reason", "row", "text"],
        ["item", "reason", "row"],
        ["item", "reason", "row"],
    ]

    rejected.write_text(rejected.read_text().replace("guest", "bob"))
    mended = command("bulk-track", rejected, "--repair", "--json")

    assert (mended.code, mended.json["accepted"], mended.json["repaired"]) == (1, 2, 0)
    assert "not mended" in mended.err
    assert numbers(collector) == [1, 2, "true"]
    keys = [event.idempotency_key for event in collector.events()]
    assert keys[1:] == [one["item"]["idempotency_key"] for one in found[1:]]


def test_what_heap_refuses_is_rejected_too(
    command: Command, collector: Collector, events: Path
) -> None:
    """One bad item does not hold the others up."""
    collector.reject_if(lambda event: event["properties"]["n"] == 3 and "I do not like 3")
    result = command("bulk-track", events, *MAPPED)

    assert (result.code, result.out) == (1, "accepted 4, rejected 1\n")
    assert "I do not like 3" in result.sentence and "line 5" in result.sentence
    assert numbers(collector) == [0, 1, 2, 4]


def test_a_dry_run_sends_nothing_and_leaves_nothing(
    command: Command, collector: Collector, events: Path, tmp_path: Path
) -> None:
    """It finds what the real run would find, also in a stream without a name."""
    with events.open("a") as file:
        file.write("Bought,ann,2026-01-01 00:00:00,9\n")
    before = sorted(tmp_path.rglob("*"))
    result = command("bulk-track", events, *MAPPED, "--dry-run")
    utc = command(
        *("bulk-track", "-", *MAPPED, "--format", "csv", "--dry-run", "--utc", "--json"),
        given=events.read_bytes(),
    )

    assert (result.code, result.out) == (1, "would be accepted 5, rejected 1; nothing was sent\n")
    assert "line 7" in result.sentence and "time zone" in result.sentence
    assert (utc.code, utc.json["accepted"], utc.json["dry_run"]) == (0, 6, True)
    assert collector.requests == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_writes_rejected_rows_where_it_is_told(
    command: Command, events: Path, tmp_path: Path
) -> None:
    """Only then."""
    with events.open("a") as file:
        file.write("Bought,ann,noon,9\n")
    command("bulk-track", events, *MAPPED, "--dry-run", "--rejected", tmp_path / "r.jsonl")

    assert json.loads((tmp_path / "r.jsonl").read_text())["row"] == 7


def test_times_without_an_offset_can_be_utc(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """As databases export them; others keep their own."""
    path = tmp_path / "e.csv"
    path.write_text("identity,timestamp\na,2026-01-01 10:00:00\nb,2026-01-01T10:00:00+02:00\n")
    result = command("bulk-track", path, "--event", "Seen", "--utc")

    assert result.code == 0
    assert [event.timestamp.hour for event in collector.events()] == [10, 8]
    assert {event.event for event in collector.events()} == {"Seen"}


def test_semicolons_and_tabs(command: Command, collector: Collector, tmp_path: Path) -> None:
    """As spreadsheets and databases write them."""
    (tmp_path / "e.csv").write_text("event;identity;x\nA;ann;1,5\n")
    (tmp_path / "e.tsv").write_text("event\tidentity\tx\nB\tann\t2\n")
    assert command("bulk-track", tmp_path / "e.csv", "--delimiter", ";").code == 0
    assert command("bulk-track", tmp_path / "e.tsv").code == 0

    arrived = [(event.event, event.properties) for event in collector.events()]
    assert arrived == [("A", {"x": "1,5"}), ("B", {"x": "2"})]


def test_a_damaged_archive_sends_what_can_be_read(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """Exit code 1, and the whole file later sends the rest."""
    packed = gzip.compress((HEADER + "".join(map(line, range(3_000)))).encode())
    path = tmp_path / "e.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    cut = command("bulk-track", path, *MAPPED, "--json")
    path.write_bytes(packed)
    whole = command("bulk-track", path, *MAPPED, "--json")

    assert (cut.code, cut.json["complete"]) == (1, False)
    assert "middle of its gzip data" in cut.json["reason"]
    assert 0 < cut.json["accepted"] == whole.json["before"] < 3_000
    assert whole.code == 0
    assert numbers(collector) == list(range(3_000))
    assert collector.duplicates == []


def test_an_outage_ends_the_run_and_not_the_job(
    command: Command, collector: Collector, events: Path
) -> None:
    """A refusal that is not about the rows is a sentence, and the same command goes on."""
    collector.reply(401)
    failed = command("bulk-track", events, *MAPPED)
    again = command("bulk-track", events, *MAPPED)

    assert (failed.code, failed.out) == (1, "accepted 0, rejected 0\n")
    assert "HTTP 401" in failed.sentence and "goes on from there" in failed.sentence
    assert (again.code, numbers(collector)) == (0, [0, 1, 2, 3, 4])


# -- users and accounts ----------------------------------------------------------------


def test_user_properties(command: Command, collector: Collector, tmp_path: Path) -> None:
    """A column each, for the user that the mapped one names."""
    path = tmp_path / "users.csv"
    path.write_text("email,plan,seats\nann@example.com,Pro,3\nbob@example.com,,4\n")
    result = command(
        *("bulk-user-properties", path, "--column", "identity=email", "--number", "seats")
    )

    assert result.code == 0, result
    assert collector.user("ann@example.com").properties == {"plan": "Pro", "seats": 3}
    assert collector.user("bob@example.com").properties == {"seats": 4}


def test_account_properties(command: Command, collector: Collector, tmp_path: Path) -> None:
    """JSON Lines with Heap's own names."""
    path = tmp_path / "accounts.jsonl"
    path.write_text('{"account_id": "Acme", "properties": {"tier": "gold"}}\n')

    assert command("bulk-account-properties", path).code == 0
    assert collector.account("Acme").properties == {"tier": "gold"}


# -- wrong use -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bulk-track"], "FILE"),
        (["bulk-track", "nowhere.csv"], "does not exist"),
        (["bulk-track", "."], "directory"),
        (["bulk-track", "data"], "--format"),
        (["bulk-track", "data", "--format", "text"], "--format"),
        (["bulk-track", "-", "--format", "jsonl"], "--source NAME"),
        (["bulk-track", "-", "--source", "x"], "--format"),
        (["bulk-track", "e.csv", "--source", " "], "--source"),
        (["bulk-track", "e.csv"], "identity or user_id"),
        (["bulk-track", "e.csv", "--column", "identity"], "FIELD=COLUMN"),
        (["bulk-track", "e.csv", "--column", "who=email"], "'who' is no field"),
        (["bulk-track", "e.csv", "--column", "identity=mail"], "no column 'mail'"),
        (["bulk-track", "e.csv", *MAPPED, "--delimiter", ",,"], "--delimiter"),
        (["bulk-track", "", *MAPPED], "FILE"),
        (["bulk-track", "e.csv", *MAPPED, "--rejected", ""], "--rejected"),
        (["bulk-track", "e.csv", *MAPPED, "--checkpoint", ""], "--checkpoint"),
        (["bulk-track", "e.csv", *MAPPED, "--source", b"\xff"], "--source"),
        (["bulk-track", "e.csv", *MAPPED, "--event", b"\xff"], "--event"),
        (["delete-users", "e.csv", "--audit", ""], "--audit"),
        (["delete-users", "e.csv", "--api-key-file", ""], "--api-key-file"),
        (["delete-users", "e.csv", "--timeout", "nan"], "--timeout"),
        (["bulk-track", "e.csv", *MAPPED, "--rejected", "e.csv"], "FILE itself"),
        (["bulk-track", "e.csv", *MAPPED, "--rejected", "no/r.jsonl"], "no directory"),
        (["bulk-track", "e.csv", *MAPPED, "--region", "mars"], "--region"),
        (["bulk-track", "e.csv", *MAPPED, "--app-id", "eleven"], "'eleven' came"),
        (["bulk-user-properties", "e.csv", "--event", "A"], "--event"),
        (["delete-users", "e.csv"], "no column is identity"),
        (["delete-users", "names.txt"], "give --yes"),
        (["delete-users", "names.txt", "--yes"], "HEAP_AGENT_API_KEY"),
        (["delete-users", "names.txt", "--yes", "--api-key", "secret"], "--api-key"),
        (["deletion-status", "id"], "HEAP_AGENT_API_KEY"),
        (["deletion-status"], "ID"),
        (["deletion-status", "id", "--api-key-file", "binary"], "holds no text"),
    ],
)
def test_wrong_use_gets_one_sentence(
    command: Command, collector: Collector, tmp_path: Path, words: Sequence[str], says: str
) -> None:
    """Exit code 2, one line on standard error, nothing sent and nothing made."""
    (tmp_path / "e.csv").write_text(HEADER + line(1))
    (tmp_path / "data").write_text("")
    (tmp_path / "names.txt").write_text("ann\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    before = sorted(tmp_path.rglob("*"))
    result = command(*words)

    assert (result.code, result.out) == (2, ""), result
    assert says in result.sentence
    assert collector.requests == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"HEAP_AGENT_APP_ID": ""}, 2, "app id is missing"),
        ({"HEAP_AGENT_ENDPOINT": "ftp://x"}, 2, "HEAP_AGENT_ENDPOINT"),
        ({"HEAP_AGENT_REGION": "mars"}, 2, "HEAP_AGENT_REGION"),
        ({"HEAP_AGENT_DISABLED": "1"}, 1, "HEAP_AGENT_DISABLED"),
    ],
)
def test_a_wrong_environment_sends_nothing(
    command: Command,
    collector: Collector,
    events: Path,
    changes: dict[str, str],
    code: int,
    says: str,
) -> None:
    """An agent goes on with its default; here that would be another host."""
    result = command("bulk-track", events, *MAPPED, **changes)

    assert (result.code, result.out) == (code, "")
    assert says in result.sentence
    assert collector.requests == []


def test_help_costs_nothing_heavy() -> None:
    """No HTTP client, no locks and no bars before a command needs them."""
    heavy = {"rich", "urllib3", "filelock"}
    code = (
        "import sys; from heap_agent._tools.cli import main; main(['bulk-track', '--help']);"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.endswith("[]\n"), done


# -- interrupted -----------------------------------------------------------------------


@contextmanager
def running(
    tmp_path: Path, settings: Mapping[str, str], *words: object
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        arguments(words),
        env=environment(tmp_path, settings),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


ROWS = 8_000

#: Every so many rows one that is no row, and one that is refused before it is sent.
BROKEN, FAULTY = 301, 403


@pytest.fixture(name="backlog")
def _backlog(tmp_path: Path) -> Path:
    path = tmp_path / "backlog.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["event", "email", "at", "n"])
        for n in range(ROWS):
            if n % BROKEN == 0:
                writer.writerow(["Bought", "too short"])
            else:
                who = "guest" if n % FAULTY == 0 else f"u{n % 90}@example.com"
                writer.writerow(["Bought", who, 1_767_225_600 + n, n])
    return path


@posix
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_any_point_it_goes_on(
    tmp_path: Path,
    settings: Mapping[str, str],
    command: Command,
    collector: Collector,
    backlog: Path,
    seed: int,
) -> None:
    """Killed again and again: each row arrives once, and each bad one is written once."""
    chance = random.Random(seed)
    words = ("bulk-track", backlog, *MAPPED)
    collector.delay = 0.01
    for _ in range(4):
        with running(tmp_path, settings, *words) as process:
            seen = len(collector.requests) + chance.randrange(4)
            eventually(
                lambda seen=seen: len(collector.requests) > seen or process.poll() is not None
            )
            time.sleep(chance.random() * 0.03)
            process.send_signal(signal.SIGKILL)
    result = command(*words, "--json")

    bad = [n for n in range(ROWS) if n % BROKEN == 0 or n % FAULTY == 0]
    assert sorted(numbers(collector)) == sorted(set(range(ROWS)) - set(bad))
    assert collector.conflicts == []
    assert (result.code, result.json["rows"], result.json["rejected"]) == (1, ROWS, len(bad))
    rejected = Path(result.json["rejected_file"]).read_text().splitlines()
    assert [json.loads(text)["row"] for text in rejected] == [n + 2 for n in bad]


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_a_sentence_and_the_command_goes_on(
    tmp_path: Path,
    settings: Mapping[str, str],
    command: Command,
    collector: Collector,
    events: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """An exit code of its own, no traceback, and nothing is lost."""
    collector.hang()
    with running(tmp_path, settings, "bulk-track", events, *MAPPED) as process:
        eventually(lambda: collector.requests)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (code, b"accepted 0, rejected 0\n")
    assert err.count(b"\n") == 1 and b"interrupted" in err and b"same command" in err
    assert command("bulk-track", events, *MAPPED).code == 0
    assert numbers(collector) == [0, 1, 2, 3, 4]


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_at_the_start_is_a_sentence_too(
    tmp_path: Path,
    settings: Mapping[str, str],
    collector: Collector,
    number: signal.Signals,
    code: int,
) -> None:
    """Nothing has been sent yet."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ("bulk-track", pipe, "--source", "pipe", "--format", "csv")
    with running(tmp_path, settings, *words) as process:
        # It waits for the header, which never comes.
        with pipe.open("wb"):
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (code, b"")
    assert err.count(b"\n") == 1 and b"interrupted" in err
    assert collector.requests == []


@posix
def test_a_second_process_is_refused(
    tmp_path: Path,
    settings: Mapping[str, str],
    command: Command,
    collector: Collector,
    events: Path,
) -> None:
    """One sentence, while the first one goes on."""
    collector.hang()
    with running(tmp_path, settings, "bulk-track", events, *MAPPED):
        eventually(lambda: collector.requests)
        second = command("bulk-track", events, *MAPPED)

    assert (second.code, second.out) == (1, "")
    assert "another process" in second.sentence


def test_commands_note_what_they_send_for_each_other(
    command: Command, tmp_path: Path, events: Path
) -> None:
    """Whatever the file: Heap counts them together."""
    other = tmp_path / "other.csv"
    other.write_bytes(events.read_bytes())
    for path in (events, other):
        assert command("bulk-track", path, *MAPPED).code == 0

    (shared,) = (tmp_path / "states").rglob("budget-11-*.db")
    allowance = Allowance(1_000, 15_000, 1)
    with closing(SharedLedger(shared, "11")) as ledger, ledger.turn(seconds(), allowance):
        purse = allowance.purse(seconds(), Kind.EVENT, "11")
    assert sum(purse.take("u0@example.com") for _ in range(1_001)) == 998


@posix
def test_a_full_budget_is_waited_for(
    tmp_path: Path,
    settings: Mapping[str, str],
    command: Command,
    collector: Collector,
    events: Path,
) -> None:
    """Also one that an earlier command has used up."""
    budget = {**settings, "HEAP_AGENT_APP_BUDGET": "5"}
    command("bulk-track", events, *MAPPED, **budget)
    with events.open("a") as file:
        file.write("Bought,guest,1767225600,9\n" + line(6))
    with running(tmp_path, budget, "bulk-track", events, *MAPPED) as process:
        # It has come so far as to reject one, and is about to send the other.
        eventually(lambda: Path(f"{events}.rejected.jsonl").exists())
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)

    assert b"accepted 5" in out and numbers(collector) == [0, 1, 2, 3, 4]


# -- deletion --------------------------------------------------------------------------


@pytest.fixture(name="names")
def _names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("ann\nbob\n")
    return path


def test_users_are_deleted_and_recorded(
    command: Command, collector: Collector, tmp_path: Path, names: Path
) -> None:
    """With --wait the command returns when they are gone."""
    (tmp_path / "e.jsonl").write_text('{"event": "A", "identity": "ann"}\n')
    command("bulk-track", tmp_path / "e.jsonl")
    assert [user.identity for user in collector.users] == ["ann"]
    key = tmp_path / "key"
    key.write_text(API_KEY + "\n")
    key.chmod(0o600)

    result = command(
        *("delete-users", names, "--yes", "--wait", "--json"),
        *("--audit", tmp_path / "audit.jsonl", "--api-key-file", key),
    )

    assert result.code == 0, result
    (deletion,) = collector.deletions
    assert result.json == {
        "complete": True,
        "reason": None,
        "users": 2,
        "accepted": 2,
        "requests": [{"id": deletion.id, "status": "complete", "users": 2}],
    }
    assert collector.users == []
    audit = [json.loads(text) for text in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [one["status"] for one in audit] == ["pending", "complete"]
    assert audit[0]["users"] == [{"identity": "ann"}, {"identity": "bob"}]
    status = command("deletion-status", deletion.id, HEAP_AGENT_API_KEY=API_KEY)
    assert (status.code, status.out) == (0, "complete\n")


def test_a_readable_key_file_is_noted(command: Command, tmp_path: Path, names: Path) -> None:
    """It works, with a word about it; the key itself is never shown."""
    key = tmp_path / "key"
    key.write_text(API_KEY)
    key.chmod(0o644)
    result = command("delete-users", names, "--yes", "--api-key-file", key)

    assert result.code == 0
    assert os.name != "posix" or "chmod 600" in result.sentence
    assert API_KEY not in result.out + result.err


def test_one_bad_row_and_nobody_is_deleted(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """Every file format; the faults are shown with their lines."""
    (tmp_path / "users.csv").write_text("identity,user_id\nann,\n,seven\n,\n")
    result = command("delete-users", tmp_path / "users.csv", "--yes", HEAP_AGENT_API_KEY=API_KEY)

    assert (result.code, result.out) == (1, "")
    assert "line 3" in result.err and "line 4" in result.err
    assert "2 of 3 rows name nobody; nobody was deleted" in result.err
    assert collector.requests == []


def test_an_empty_file_deletes_nobody(
    command: Command, collector: Collector, tmp_path: Path
) -> None:
    """And asks for no key."""
    (tmp_path / "none.jsonl").write_text("")
    result = command("delete-users", tmp_path / "none.jsonl")

    assert (result.code, result.out) == (0, "accepted for deletion: 0 of 0 users\n")
    assert collector.requests == []


def test_a_refused_deletion_is_recorded(
    command: Command, collector: Collector, tmp_path: Path, names: Path
) -> None:
    """The sentence says whose key is needed, without it."""
    result = command(
        *("delete-users", names, "--yes", "--audit", tmp_path / "audit.jsonl"),
        HEAP_AGENT_API_KEY="wrong-key-123",
    )

    assert (result.code, result.out) == (1, "accepted for deletion: 0 of 2 users\n")
    assert "Main Production" in result.sentence
    record = (tmp_path / "audit.jsonl").read_text()
    assert json.loads(record)["status"] == "failed"
    assert "wrong-key-123" not in result.sentence + record


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_under_the_record_hides_no_deletion(
    command: Command, collector: Collector, names: Path
) -> None:
    """The requests are printed, and the sentence names the file."""
    words = ("delete-users", names, "--yes", "--audit", "/dev/full")
    for_people = command(*words, HEAP_AGENT_API_KEY=API_KEY)
    for_programs = command(*words, "--json", HEAP_AGENT_API_KEY=API_KEY)

    first, second = collector.deletions
    assert for_people.code == for_programs.code == 1
    assert "2 of 2 users" in for_people.out and first.id in for_people.out
    assert "/dev/full" in for_people.sentence and "/dev/full" in for_programs.json["reason"]
    assert [one["id"] for one in for_programs.json["requests"]] == [second.id]


def test_an_unknown_request_is_an_error(command: Command) -> None:
    """Exit code 1 and Heap's answer."""
    result = command("deletion-status", "nobody-knows", HEAP_AGENT_API_KEY=API_KEY)

    assert (result.code, result.out) == (1, "")
    assert "HTTP 404" in result.sentence


def test_the_status_as_json(command: Command, collector: Collector, names: Path) -> None:
    """One object."""
    command("delete-users", names, "--yes", HEAP_AGENT_API_KEY=API_KEY)
    (deletion,) = collector.deletions
    result = command("deletion-status", deletion.id, "--json", HEAP_AGENT_API_KEY=API_KEY)

    assert result.json == {"id": deletion.id, "status": "complete"}


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_deletion_is_recorded(
    tmp_path: Path,
    settings: Mapping[str, str],
    collector: Collector,
    names: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """Nobody knows whether Heap has them, and the record says so."""
    collector.reply(200)
    collector.hang()
    audit = tmp_path / "audit.jsonl"
    words = ("delete-users", names, "--yes", "--audit", audit)
    with running(tmp_path, {**settings, "HEAP_AGENT_API_KEY": API_KEY}, *words) as process:
        eventually(lambda: len(collector.requests) == 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == code
    assert b"0 of 2 users" in out and b"interrupted" in err and err.count(b"\n") == 1
    assert json.loads(audit.read_text())["status"] == "unknown"


@posix
def test_the_wait_has_an_end(tmp_path: Path, command: Command, names: Path) -> None:
    """It goes on at Heap; the exit code says that it was not seen to its end."""
    with Collector(deletion_seconds=3_600) as slow:
        result = command(
            *("delete-users", names, "--yes", "--wait", "--timeout", "0", "--json"),
            HEAP_AGENT_API_KEY=API_KEY,
            HEAP_AGENT_ENDPOINT=slow.url,
        )

    assert (result.code, result.json["complete"], result.json["accepted"]) == (1, False, 2)
    assert "goes on at Heap" in result.sentence


@posix
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the process list of Linux")
def test_the_key_is_not_in_the_process_list(
    tmp_path: Path, settings: Mapping[str, str], collector: Collector, names: Path
) -> None:
    """Whoever lists processes sees a file's name at most."""
    collector.hang()
    environment = {**settings, "HEAP_AGENT_API_KEY": API_KEY}
    with running(tmp_path, environment, "delete-users", names, "--yes") as process:
        eventually(lambda: collector.requests)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()

    assert b"delete-users" in shown and API_KEY.encode() not in shown


# -- on a terminal ---------------------------------------------------------------------


@contextmanager
def terminal(
    tmp_path: Path, settings: Mapping[str, str], *words: object
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[bytes], bytes], int]]:
    """A process on a terminal of its own: itself, how to wait for words, where to type."""
    import pty
    import select

    ours, theirs = pty.openpty()
    seen = bytearray()

    def until(words: bytes) -> bytes:
        deadline = time.monotonic() + PATIENCE
        while words not in seen:
            assert time.monotonic() < deadline, bytes(seen)
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    seen.extend(os.read(ours, 4_096))
                except OSError:  # the other side has gone
                    assert words in seen, bytes(seen)
        return bytes(seen)

    environ = {**environment(tmp_path, settings), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        arguments(words),
        env=environ,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, until, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@posix
@pytest.mark.parametrize(("answer", "code", "deleted"), [(b"y\n", 0, 1), (b"n\n", 1, 0)])
def test_a_person_is_asked_first(
    tmp_path: Path,
    settings: Mapping[str, str],
    collector: Collector,
    names: Path,
    answer: bytes,
    code: int,
    deleted: int,
) -> None:
    """With the numbers, and with what cannot be undone."""
    environment = {**settings, "HEAP_AGENT_API_KEY": API_KEY}
    with terminal(tmp_path, environment, "delete-users", names) as (process, until, keyboard):
        said = b" ".join(until(b"Delete them?").split())
        assert collector.requests == []
        for words in (b"2 identities and 0 user_ids", b"ALL environments", b"undone", b"forget"):
            assert words in said
        os.write(keyboard, answer)
        assert process.wait(PATIENCE) == code

    assert len(collector.deletions) == deleted


@posix
def test_the_key_can_be_typed_and_is_not_shown(
    tmp_path: Path, settings: Mapping[str, str], collector: Collector, names: Path
) -> None:
    """Without echo."""
    words = ("delete-users", names, "--yes")
    with terminal(tmp_path, settings, *words) as (process, until, keyboard):
        until(b"api key:")
        # Echo is off when the prompt has appeared, and a little before.
        os.write(keyboard, API_KEY.encode() + b"\n")
        said = until(b"accepted for deletion: 2 of 2")
        assert process.wait(PATIENCE) == 0

    assert API_KEY.encode() not in said


@posix
def test_a_bar_shows_how_far_it_is(
    tmp_path: Path, settings: Mapping[str, str], collector: Collector, backlog: Path
) -> None:
    """Rows and percentage, on a terminal only."""
    collector.delay = 0.2
    words = ("bulk-track", backlog, *MAPPED)
    with terminal(tmp_path, settings, *words) as (process, until, _):
        until(b"%")
        said = until(b" rows")
        assert b"bulk-track" in said
        until(b"accepted")
        assert process.wait(PATIENCE) == 1

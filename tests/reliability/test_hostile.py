"""
An endpoint that means harm: whatever it answers costs bounded memory and time, holds up no
call of the program, writes nothing of its own into logs, and loses no event.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import pytest
from fault_proxy import Fault, FaultProxy, What, clear
from trials import LONG, tries

from heap_agent.testing import Collector

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="asks Linux for the peak of memory"
)

PROGRAM = Path(__file__).parents[1] / "programs" / "besieged.py"

Figure = Callable[[str, object], None]

Case = TypeVar("Case")

#: What is said, as pieces that may come without end.
Says = Callable[[], Iterable[bytes]]

#: Seconds. A request has about one; a machine that is busy with others may need more.
PATIENCE: Final = 6.0

#: Seconds in which a program that records each 10 ms must get on.
STALL: Final = 4.0

#: Bytes that an answer may take for a moment.
MEMORY: Final = 12 * 2**20

#: Bytes of a log, of what is said about one endpoint.
LOG: Final = 65_536

LOG_LINE: Final = re.compile(r"(DEBUG|INFO|WARNING|ERROR)\|heap_agent[\w.]*\||DEBUG\|urllib3")

#: Seconds that the agent waits at most where it is told to, and what it adds to that.
AN_HOUR: Final = 3_600 * 1.11


class Besieged:
    """The program in a process of its own, and the line to its collector."""

    def __init__(
        self, place: Path, collector: Collector, *mutant: str, patience: float = 0.6
    ) -> None:
        port = urlsplit(collector.url).port
        assert port is not None
        self.collector = collector
        self.proxy = FaultProxy(port).__enter__()
        self.state, self.log = place / "state", place / "log"
        self._read = 0
        self._process = subprocess.Popen(
            [sys.executable, PROGRAM, self.state, self.proxy.url, self.log, str(patience), *mutant],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def __call__(self, expression: str) -> Any:
        """Have an expression evaluated there."""
        assert self._process.stdin is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Besieged:
        return self

    def __exit__(self, *exc: object) -> None:
        self.proxy.refuse()
        self._process.communicate(timeout=60)

    def logged(self) -> str:
        """What was logged since this was asked last."""
        text = self.log.read_bytes()[self._read :]
        self._read += len(text)
        return text.decode("utf-8", "surrogateescape")


@pytest.fixture(name="besieged", scope="module")
def _besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    place = tmp_path_factory.mktemp("besieged")
    with Collector() as collector, Besieged(place, collector) as besieged:
        yield besieged


@pytest.fixture(name="patient", scope="module")
def _patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    """One that does not mind how busy the machine is that reads."""
    place = tmp_path_factory.mktemp("patient")
    with Collector() as collector, Besieged(place, collector, patience=20) as besieged:
        yield besieged


def siege(besieged: Besieged, says: Says, passes: int = 3) -> dict[str, Any]:
    """
    Have an endpoint that is known to be good answer like this for some passes, and then be
    good again; what came of it.
    """
    host, proxy = besieged, besieged.proxy
    first = host("host.number")
    host("host.record(8)")
    proxy.fate = clear
    host("host.drain()")
    host("host.record(8)")
    host.logged()
    struck = sum(proxy.struck.values())
    fault = Fault(What.ANSWER, answer=says)
    proxy.fate = lambda: fault
    told: dict[str, Any] = host(f"host.besieged({passes})")
    proxy.fate = clear
    assert sum(proxy.struck.values()) > struck, "nobody was asked"
    told["log"] = host.logged()
    bounded(told)
    assert told["pass"] < PATIENCE
    everything_arrived(besieged, first)
    return told


def bounded(told: dict[str, Any]) -> None:
    """What it has cost, and what was said about it."""
    assert told["stall"] < STALL
    assert told["wait"] <= AN_HOUR
    assert told["grown"] < MEMORY
    for said in (told["error"] or "", *told["reasons"]):
        assert said.isprintable() and len(said) < 600, said
    lines = told["log"].split("\n")
    assert lines.pop() == ""
    assert len(told["log"]) < LOG
    assert [line for line in lines if not (LOG_LINE.match(line) and line.isprintable())] == []


def everything_arrived(besieged: Besieged, first: int) -> None:
    """Every event since then is there once, in order, and the books are right."""
    status = besieged("host.drain()")
    assert status["check"] == []
    assert (status["queued"], status["dead"], status["dropped"]) == (0, 0, 0)
    assert status["balanced"]
    numbers = [event.properties["number"] for event in besieged.collector.events("E")]
    assert sorted(n for n in numbers if n >= first) == list(range(first, status["number"]))
    assert besieged.collector.conflicts == []


def some(cases: Mapping[str, Case]) -> Mapping[str, Case]:
    """All of them in the long form, and one of three in the short one."""
    return cases if LONG else dict([*cases.items()][::3])


# -- without end -----------------------------------------------------------------------

BLOCK: Final = b"x" * 65_536


def head(status: str, *headers: str) -> bytes:
    """The lines before a body. The line does not tell two requests on a connection apart."""
    lines = (f"HTTP/1.1 {status}", "Connection: close", *headers, "", "")
    return "\r\n".join(lines).encode("latin-1")


def endless(*beginning: bytes, then: bytes = BLOCK) -> Says:
    """Something, and then the same again and again."""
    return lambda: chain(beginning, repeat(then))


def silence(*beginning: bytes) -> Says:
    """Something, and then nothing, though the connection stands."""
    return lambda: beginning


CHUNKED = "Transfer-Encoding: chunked"
GIGABYTES = "Content-Length: 99999999999"
CHUNK: Final = b"10000\r\n" + BLOCK + b"\r\n"


def bodies(status: str) -> dict[str, Says]:
    """Answers whose body does not end."""
    return {
        f"{status} body": endless(head(status)),
        f"{status} gigabytes": endless(head(status, GIGABYTES)),
        f"{status} chunks": endless(head(status, CHUNKED), then=CHUNK),
        f"{status} chunks of a byte": endless(head(status, CHUNKED), then=b"1\r\nx\r\n" * 10_000),
        f"{status} one chunk": endless(head(status, CHUNKED), b"f" * 16 + b"\r\n"),
    }


ENDLESS: Final[dict[str, Says]] = {
    **bodies("500 Oops"),
    **bodies("401 No"),
    "gigabytes, and then nothing": silence(head("200 OK", GIGABYTES), b"{}"),
    "a length of many digits": silence(head("200 OK", "Content-Length: " + "9" * 60_000)),
    "a size without end": endless(head("200 OK", CHUNKED), then=b"f" * 65_536),
    "names of chunks": endless(head("200 OK", CHUNKED), then=b"1;" + b"x" * 60_000 + b"\r\nx\r\n"),
    "trailers": endless(head("200 OK", CHUNKED), b"0\r\n", then=b"A: b\r\n" * 10_000),
    "headers": endless(b"HTTP/1.1 200 OK\r\n", then=b"A: b\r\n" * 10_000),
    "large headers": endless(b"HTTP/1.1 200 OK\r\n", then=b"A: " + b"b" * 60_000 + b"\r\n"),
    "one header": endless(b"HTTP/1.1 200 OK\r\nA: "),
    "a thousand headers": silence(head("200 OK", *(f"A{n}: b" for n in range(1_000)))),
    "ninety large headers": silence(head("200 OK", *(f"A: {'b' * 60_000}" for _ in range(90)))),
    "continued headers": endless(b"HTTP/1.1 200 OK\r\nA: b\r\n", then=b" c\r\n" * 10_000),
    "interim answers": endless(then=head("100 Continue") * 1_000),
    "hints": endless(then=head("103 Early Hints", "Link: </a>") * 1_000),
    "processing": endless(then=head("102 Processing", *(f"A: {n}" for n in range(90)))),
    "status line": endless(b"HTTP/1.1 200 "),
    "noise": endless(then=bytes(range(256)) * 256),
    "zeros": endless(then=bytes(65_536)),
    "empty lines": endless(then=b"\r\n" * 10_000),
}


@pytest.mark.parametrize("says", some(ENDLESS).values(), ids=some(ENDLESS))
def test_an_answer_without_end(besieged: Besieged, figure: Figure, says: Says) -> None:
    """It is read as far as is of use, and no further."""
    told = siege(besieged, says, passes=tries(2, 8))
    figure("KiB", told["grown"] // 1_024)
    figure("pass", f"{told['pass']:.2f} s")


SUCCESSES: Final = bodies("200 OK")


@pytest.mark.parametrize("says", some(SUCCESSES).values(), ids=some(SUCCESSES))
def test_a_success_without_end(patient: Besieged, figure: Figure, says: Says) -> None:
    """Whatever follows an acceptance, it is one, and costs no more than the beginning."""
    host, proxy = patient, patient.proxy
    host("host.drain()")
    host("host.record(8)")
    host.logged()
    proxy.fate = lambda: Fault(What.ANSWER, answer=says)
    told = host(f"host.besieged({tries(2, 8)})")
    proxy.fate = clear
    told["log"] = host.logged()
    bounded(told)
    figure("KiB", told["grown"] // 1_024)
    assert host("host.drain()")["balanced"]
    assert told["error"] is None


# -- slowly ----------------------------------------------------------------------------


def drip(*beginning: bytes, drop: bytes = b"x") -> Says:
    """A byte long before each time that anybody waits for one is over."""

    def say() -> Iterator[bytes]:
        yield from beginning
        while True:
            time.sleep(0.1)
            yield drop

    return say


SLOW: Final[dict[str, Says]] = {
    "status line": drip(b"HTTP/1.1 200 "),
    "header": drip(b"HTTP/1.1 200 OK\r\nA: "),
    "headers": drip(b"HTTP/1.1 200 OK\r\n", drop=b"A: b\r\n"),
    "interim answers": drip(drop=head("100 Continue")),
    "body": drip(head("200 OK", GIGABYTES)),
    "body of an error": drip(head("503 Busy", GIGABYTES)),
    "chunks": drip(head("200 OK", CHUNKED), drop=b"1\r\nx\r\n"),
    "trailers": drip(head("200 OK", CHUNKED), b"0\r\n", drop=b"A: b\r\n"),
}


@pytest.mark.parametrize("says", some(SLOW).values(), ids=some(SLOW))
def test_an_answer_that_drips(besieged: Besieged, figure: Figure, says: Says) -> None:
    """The time of a request is bounded as a whole, and not from byte to byte."""
    told = siege(besieged, says, passes=tries(1, 4))
    figure("pass", f"{told['pass']:.2f} s")


# -- bombs -----------------------------------------------------------------------------


@cache
def bombs() -> dict[str, tuple[str, bytes]]:
    """What grows when it is unpacked, by its Content-Encoding: to 64 MiB, or a gigabyte."""
    packed = gzip.compress(bytes(2**26))
    return {
        "gzip": ("gzip", packed),
        "deflate": ("deflate", zlib.compress(bytes(2**26))),
        "nested": ("gzip, gzip", gzip.compress(packed * 16)),
        "unknown": ("br, zstd", packed),
        "many": (", ".join(["gzip"] * 1_000), packed),
    }


@pytest.mark.parametrize("status", [200, 400, 413, 429, 503] if LONG else [200, 413])
def test_a_bomb(besieged: Besieged, figure: Figure, status: int) -> None:
    """Nobody asked for anything packed, so nothing is unpacked, whatever the answer means."""
    for encoding, body in some(bombs()).values():
        answer = head(
            f"{status} Boom", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}"
        )
        if status == 200:
            # A 2xx means that the events have arrived, whatever else it says, but where
            # it is a page for people.
            answer = answer.replace(b"\r\n", b"\r\nContent-Type: text/html\r\n", 1)
        told = siege(besieged, silence(answer, body), passes=2)
        figure(encoding[:10], f"{told['grown'] // 1_024} KiB")


# -- elsewhere -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308] if LONG else [302])
def test_a_redirect_leads_nowhere(besieged: Besieged, status: int) -> None:
    """Nothing goes to anybody else, and the same is not asked again in the same pass."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        for place in (
            besieged.proxy.url + "/",
            f"http://127.0.0.1:{port}/",
            f"https://127.0.0.1:{port}/",
            f"//user:secret@127.0.0.1:{port}/",
            "file:///etc/passwd",
            "/" * 50_000,
            "",
        ):
            asked = sum(besieged.proxy.struck.values())
            answer = head(f"{status} Go", f"Location: {place}", "Content-Length: 0")
            told = siege(besieged, silence(answer), passes=3)
            assert sum(besieged.proxy.struck.values()) - asked <= 3
            assert told["error"].startswith(f"captive {status}")
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()


# -- words -----------------------------------------------------------------------------

FORGED: Final = "\r\nERROR|root|forged\x1b[2J\x1b]0;owned\x07\x00\x85\u2028\u202e\x9b31m[bold]x[/]"


def wordy(status: str, *headers: str, body: bytes = b"") -> Says:
    """An answer with words."""
    return silence(head(status, *headers, f"Content-Length: {len(body)}"), body)


WORDS: Final[dict[str, Says]] = {
    "reason": wordy("401 " + "no\x1b[31m\x07\x00 " * 2_000),
    "megabytes of reason": silence(b"HTTP/1.1 401 " + b"no " * 1_000_000 + b"\r\n\r\n"),
    "a word for a status line": silence(b"x" * 65_000 + b"\r\n\r\n"),
    "a word for a version": silence(b"HTTP/" + b"9" * 65_000 + b" 200 OK\r\n\r\n"),
    "a word for a status": silence(b"HTTP/1.1 " + b"2" * 65_000 + b"\r\n\r\n"),
    "forged status line": silence(b"\r\x1b[31mERROR|root|forged\x00\r\n\r\n"),
    "body": wordy("401 No", body=FORGED.encode() * 1_000),
    "body that is no text": wordy("400 No", body=bytes(range(256)) * 200),
    "body of controls": wordy("400 No", body=b"\x1b\x00\x85" * 20_000),
    "body of one word": wordy("403 No", body=b"x" * 65_000),
    "body beyond the first plane": wordy("403 No", body="\U000e0001".encode() * 10_000),
    "place": wordy("302 Go", "Location: \x1b[31m\x07" + "\x9b" * 60_000),
    "lines that are no headers": silence(
        b"HTTP/1.1 401 No\r\nA: b\r\n\x1b[31mERROR|root|forged\r\n" + b"C: d\r\n" * 90 + b"\r\n"
    ),
    "headers": wordy("401 No", *(f"X\x1b[31m{n}: \x00\x9b{FORGED[2:9]}" for n in range(80))),
    "brackets": wordy("400 No", body=b"[" * 60_000),
    "objects in objects": wordy("422 No", body=b'{"a":' * 12_000),
    "a number": wordy("422 No", body=b'{"message":' + b"9" * 50_000 + b"}"),
}


@pytest.mark.parametrize("says", some(WORDS).values(), ids=some(WORDS))
def test_words_stay_words(besieged: Besieged, says: Says) -> None:
    """Logs and `status` tell them in one printable line of bounded length."""
    told = siege(besieged, says, passes=2)
    assert told["error"], "nothing went wrong"


def test_the_command_line_shows_no_controls(besieged: Besieged) -> None:
    """What an endpoint said is shown, escaped, by `heap-agent status`, as text and as JSON."""
    besieged("host.record(8)")
    answer = Fault(What.ANSWER, answer=WORDS["body"])
    besieged.proxy.fate = lambda: answer
    besieged("host.besieged(2)")
    for json_too in ((), ("--json",)):
        shown = subprocess.run(
            [
                sys.executable,
                "-m",
                "heap_agent",
                "status",
                "--directory",
                besieged.state,
                *json_too,
            ],
            capture_output=True,
            timeout=60,
        )
        text = shown.stdout.decode("utf-8") + shown.stderr.decode("utf-8")
        assert "401" in text
        assert "x1b" in text
        assert "ERROR|root" in text.replace("\n", "")
        assert all(line.isprintable() for line in text.split("\n"))
    besieged.proxy.fate = clear
    besieged("host.drain()")


# -- times -----------------------------------------------------------------------------

LATER: Final = (
    "1" + "0" * 30,
    "9" * 60_000,
    "0." + "0" * 60_000 + "1",
    "0",
    "-1",
    "-" + "9" * 30,
    "NaN",
    "Infinity",
    "1e30",
    "0x7fffffff",
    "",
    "\x00\x1b[31m",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Tue, 15 Nov 1994 08:12:31 +" + "9" * 300,
    "Tue, 15 Nov 1994 08:12:31 -" + "9" * 303,
)


@pytest.mark.parametrize("status", [429, 503] if LONG else [429])
def test_a_retry_after_that_makes_no_sense(besieged: Besieged, status: int) -> None:
    """An hour is the longest that anybody is waited for, and nobody is asked without a pause."""
    for later in LATER[:: tries(3, 1)]:
        asked = sum(besieged.proxy.struck.values())
        answer = head(f"{status} Later", f"Retry-After: {later}", "Content-Length: 0")
        siege(besieged, silence(answer), passes=3)
        assert sum(besieged.proxy.struck.values()) - asked <= 6


DATES: Final = (
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Tue, 15 Nov 1994 08:12:31 GMT",
    "Tue, 15 Nov 1994 08:12:31 +" + "9" * 300,
    "Tue, 15 Nov 1994 08:12:31 -" + "9" * 303,
    "Tue, 15 Nov 1994 08:12:" + "9" * 200 + " GMT",
    "tomorrow",
    "\x00" * 100,
    "9" * 60_000,
)

#: What a portal may think, though the endpoint itself may say it.
ELSEWHEN: Final = ("Fri, 31 Dec 2099 23:59:59 GMT", "Thu, 31 Dec 2026 23:59:59 GMT")

STATUSES: Final = ("302 Go", "401 No", "503 Busy", "200 OK")


@pytest.mark.parametrize("status", STATUSES if LONG else STATUSES[::3])
def test_a_date_that_makes_no_sense(tmp_path: Path, status: str) -> None:
    """
    No event is moved to a time that cannot be, nor to any by somebody who is not the
    endpoint, though all of these come from loopback, where a date is believed.
    """
    dates = DATES[:: tries(3, 1)] + (ELSEWHEN if status.startswith("302") else ())
    with Collector() as collector, Besieged(tmp_path, collector) as besieged:
        began = time.time()
        for date in dates:
            # To a probe it is as good as any; as a page it is no success of a request.
            page = "Content-Type: text/html"
            answer = head(status, page, f"Date: {date}", "Content-Length: 2")
            siege(besieged, silence(answer, b"<>"), passes=2)
        simulated = besieged("host.clock.wall_ns() / 1e9") - began
        for event in collector.events("E"):
            when = event.timestamp.timestamp()
            # The collector's own dates do not know of the time that is simulated.
            assert abs(when - began) < simulated + 60, event


# -- a harness that finds nothing proves nothing ---------------------------------------


def patient_drip() -> Iterator[bytes]:
    """A body that drips for somewhat longer than a pass may take, and ends."""
    yield head("500 Oops", GIGABYTES)
    for _ in range(round(PATIENCE / 0.1) + 20):
        time.sleep(0.1)
        yield b"x"


BROKEN: Final[dict[str, tuple[Says, str]]] = {
    "answers are read on": (ENDLESS["500 Oops body"], "grown"),
    "time begins anew": (patient_drip, "pass"),
    "words are searched from each character": (WORDS["a word for a status line"], "stall"),
}


@pytest.mark.parametrize("mutant", BROKEN if LONG else [*BROKEN][:1])
def test_a_broken_agent_is_found_out(tmp_path: Path, mutant: str) -> None:
    """An agent that lacks one of the bounds breaks just that."""
    says, what = BROKEN[mutant]
    with Collector() as collector, Besieged(tmp_path, collector, mutant) as besieged:
        with pytest.raises(AssertionError, match="<") as found:
            siege(besieged, says, passes=1)
    assert f'told["{what}"]' in str(found.traceback[-1].statement)

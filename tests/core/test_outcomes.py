"""Rules of `heap_agent._core.outcomes`."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent._core.outcomes import (
    Answer,
    Outcome,
    classify,
    classify_probe,
    http_date,
    unreachable,
)

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "headers", "body", "answer"),
    [
        (200, {}, b"{}", Answer.ACCEPTED),
        (200, {"content-type": "application/json"}, b"OK", Answer.ACCEPTED),
        (201, {}, b"", Answer.ACCEPTED),
        (204, {}, b"", Answer.ACCEPTED),
        (200, {"content-type": "text/HTML; charset=utf-8"}, b"", Answer.CAPTIVE),
        (200, {"content-type": "application/xhtml+xml"}, b"OK", Answer.CAPTIVE),
        (200, {}, b"<!doctype html>", Answer.CAPTIVE),
        (200, {}, b"\xef\xbb\xbf \r\n\t<html>", Answer.CAPTIVE),
        (200, {}, "\ufeff <html>".encode("utf-16-le"), Answer.CAPTIVE),
        (200, {}, b"1 < 2", Answer.ACCEPTED),
        (301, {}, b"", Answer.CAPTIVE),
        (302, {"location": "http://portal/"}, b"", Answer.CAPTIVE),
        (304, {}, b"", Answer.CAPTIVE),
        (400, {}, b"bad", Answer.REJECTED),
        (422, {}, b"bad", Answer.REJECTED),
        (413, {}, b"", Answer.TOO_LARGE),
        (408, {}, b"", Answer.THROTTLED),
        (425, {}, b"", Answer.THROTTLED),
        (429, {}, b"", Answer.THROTTLED),
        (503, {"retry-after": "7"}, b"", Answer.THROTTLED),
        (503, {}, b"", Answer.UNAVAILABLE),
        (503, {"retry-after": "soon"}, b"", Answer.UNAVAILABLE),
        (500, {"retry-after": "7"}, b"", Answer.UNAVAILABLE),
        (504, {}, b"<html>", Answer.UNAVAILABLE),
        (511, {}, b"", Answer.UNAVAILABLE),
        (401, {}, b"", Answer.MISCONFIGURED),
        (403, {}, b"", Answer.MISCONFIGURED),
        (404, {}, b"<html>", Answer.MISCONFIGURED),
        (451, {}, b"", Answer.MISCONFIGURED),
        (499, {}, b"", Answer.MISCONFIGURED),
        (100, {}, b"", Answer.UNAVAILABLE),
        (0, {}, b"", Answer.UNAVAILABLE),
        (-200, {}, b"", Answer.UNAVAILABLE),
        (600, {}, b"", Answer.UNAVAILABLE),
        (99_999, {}, b"", Answer.UNAVAILABLE),
    ],
)
def test_each_row_of_the_table(
    status: int, headers: dict[str, str], body: bytes, answer: Answer
) -> None:
    """Every kind of status and body has the answer that the design gives it."""
    outcome = classify(status, headers, body, NOW)
    assert outcome.answer is answer
    assert outcome.status == status
    assert not outcome.began
    assert outcome.date is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("1.5", 1.5),
        ("3601", 3600.0),
        ("9" * 5_000, 3600.0),
        ("-5", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("\u0665", None),
        ("", None),
        ("tomorrow", None),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), 3600.0),
        ("Wed, 99 Foo 99999 99:99:99 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    """Retry-After is seconds or a date, capped at an hour; garbage counts as absent."""
    assert classify(429, {"retry-after": text}, b"", NOW).retry_after == seconds


def test_retry_after_is_measured_on_the_servers_clock() -> None:
    """A device that believes in 1970 waits as long as any other."""
    headers = {
        "retry-after": formatdate(NOW + 30, usegmt=True),
        "date": formatdate(NOW, usegmt=True),
    }
    assert classify(429, headers, b"", 12.0).retry_after == 30.0


def test_only_throttled_carries_a_wait() -> None:
    """Retry-After on an answer where it has no meaning is left out."""
    assert classify(500, {"retry-after": "7"}, b"", NOW).retry_after is None
    assert classify(200, {"retry-after": "7"}, b"", NOW).retry_after is None


@given(
    status=st.one_of(st.integers(), st.integers(100, 599)),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "retry-after", "date", "location"]),
        st.one_of(
            st.text(max_size=60),
            st.from_regex(
                r"[A-Z][a-z]{2}, [0-9]{1,5} [A-Z][a-z]{2} [0-9]{1,6}"
                r" [0-9:]{0,9} ([A-Z]{3}|[-+0-9]{5})"
            ),
        ),
    ),
    body=st.binary(max_size=40),
    now=st.floats(-1e12, 1e12),
)
def test_classify_is_total(status: int, headers: dict[str, str], body: bytes, now: float) -> None:
    """Whatever comes, there is an answer, a bounded wait and one printable line."""
    outcome = classify(status, headers, body, now)
    assert outcome.retry_after is None or 0.0 <= outcome.retry_after <= 3600.0
    assert outcome.reason.isprintable()
    assert (outcome.answer is Answer.ACCEPTED) <= (200 <= status <= 299)
    assert classify_probe(status, headers).answer in (Answer.CAPTIVE, Answer.REACHED)


def test_reason_is_one_short_safe_line() -> None:
    """The reason quotes the body without line ends, escape sequences or length."""
    outcome = classify(400, {}, b"bad\n\x1b[31m\xff " + b"x" * 10_000, NOW)
    assert outcome.reason.startswith("HTTP 400: bad\\n\\x1b[31m\ufffd x")
    assert len(outcome.reason) < 600
    assert "\\u202e" in classify(400, {}, "\u202eevil".encode(), NOW).reason


def test_reason_names_where_a_redirect_goes() -> None:
    """The log line of a captive portal shows the portal."""
    reason = classify(302, {"location": "http://portal/login"}, b"", NOW).reason
    assert reason == "HTTP 302 to http://portal/login"


def test_accepted_needs_no_reason() -> None:
    """Nothing has to be explained about success."""
    assert classify(200, {}, b"{}", NOW) == Outcome(Answer.ACCEPTED, status=200)


@pytest.mark.parametrize("status", [301, 302, 307, 399])
def test_a_redirected_probe_is_captive(status: int) -> None:
    """A redirect of a probe comes from a portal."""
    assert classify_probe(status, {}).answer is Answer.CAPTIVE


@pytest.mark.parametrize("status", [200, 204, 400, 404, 405, 500, 503])
def test_any_other_probe_has_reached(status: int) -> None:
    """HEAD is undocumented at Heap, so that an error is an answer as well."""
    assert classify_probe(status, {}) == Outcome(Answer.REACHED, status=status)


@pytest.mark.parametrize("began", [False, True])
def test_unreachable(began: bool) -> None:
    """A request without an answer is UNAVAILABLE and says whether the body had begun."""
    outcome = unreachable("timed\nout", began=began)
    assert outcome == Outcome(Answer.UNAVAILABLE, began=began, reason="timed\\nout")


def test_http_date() -> None:
    """HTTP dates are read as UTC, and nothing else is."""
    assert http_date("Tue, 14 Nov 2023 22:13:20 GMT") == NOW
    assert http_date("Tue, 14 Nov 2023 22:13:20 -0000") == NOW
    assert http_date(None) is None
    assert http_date("") is None
    assert http_date("14") is None
    assert http_date("Tue, 14 Nov 99999999999 22:13:20 GMT") is None
    assert http_date("Tue, 14 Nov 2023 22:13:20 -" + "9" * 300) is None
    assert http_date("Tue, 14 Nov 2023 22:13:" + "9" * 200 + " GMT") is None

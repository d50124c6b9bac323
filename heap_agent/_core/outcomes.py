"""
What an answer from the network means for the rows that were sent.

This module must not know what is done about it (that is `delivery`), nor how a
request travels (that is `_upload.transport`).

    2xx, whatever the body            ACCEPTED
    2xx with HTML, any 3xx            CAPTIVE        somebody else answered
    400, 422                          REJECTED       a row at least is bad
    413                               TOO_LARGE
    408, 425, 429, 503 + Retry-After  THROTTLED
    other 5xx, network, garbage       UNAVAILABLE
    every other 4xx                   MISCONFIGURED
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from enum import Enum
from typing import Final

import attrs

__all__ = ["Answer", "Outcome", "classify", "classify_probe", "http_date", "unreachable"]

#: A longer `Retry-After` is cut: a typo in a proxy must not silence a fleet for
#: a week.
RETRY_AFTER_CAP: Final = 3_600.0

#: Of the body, what goes into `Outcome.reason`.
REASON_CHARACTERS: Final = 500

#: RFC 9110 allows whole seconds only; fractions are seen in the wild.
_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]*)?")

#: Seconds since 1970: the year 10000, which an HTTP date has no digits for.
_NO_DATE: Final = 253_402_300_800.0

#: Byte order marks of UTF-8 and UTF-16, the zero bytes of UTF-16, and blanks.
_BEFORE_TEXT: Final = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n\f\v"


class Answer(Enum):
    """
    The kinds of answer that delivery tells apart.
    """

    ACCEPTED = "accepted"
    CAPTIVE = "captive"
    REJECTED = "rejected"
    TOO_LARGE = "too large"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    #: The endpoint answered a probe, which carries nothing to accept.
    REACHED = "reached"

    def __repr__(self) -> str:
        return self.name


_BY_STATUS: Final = {
    400: Answer.REJECTED,
    422: Answer.REJECTED,
    413: Answer.TOO_LARGE,
    408: Answer.THROTTLED,
    425: Answer.THROTTLED,
    429: Answer.THROTTLED,
}


@attrs.frozen(slots=True)
class Outcome:
    """
    One answer, or the lack of one.

    Attributes:
        answer: What it means.
        status: The HTTP status; None when there was no answer.
        retry_after: Seconds to wait as told by the server, 0 to 3600; None
            when it did not say.
        began: Whether a part of the body may have been sent before a failure.
        stale: Whether the connection was one that had been in use before, and
            turned out to be dead: that says nothing about the network.
        reason: One printable line for `status()` and for a dead letter.
        date: Epoch seconds of the answer's `Date`; set by the transport, and
            only when the answer can be trusted.
    """

    answer: Answer
    status: int | None = None
    retry_after: float | None = None
    began: bool = False
    stale: bool = False
    reason: str = ""
    date: float | None = None


def classify(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Outcome:
    """
    Say what an answer to a request with a body means. It never raises.

    Args:
        status: The HTTP status.
        headers: Its headers, keys in lower case.
        body: Its body, or the first part of it.
        now: Epoch seconds, for a `Retry-After` that is a date.

    Returns:
        The outcome, without `date` and `began`.
    """
    retry_after = _retry_after(headers, now)
    answer = _answer(status, headers, body, retry_after)
    return Outcome(
        answer,
        status=status,
        retry_after=retry_after if answer is Answer.THROTTLED else None,
        reason="" if answer is Answer.ACCEPTED else _reason(status, headers, body),
    )


def classify_probe(status: int, headers: Mapping[str, str]) -> Outcome:
    """
    Say what an answer to a bodiless probe means.

    A redirect is a captive portal. Anything else shows that the endpoint, or
    what stands before it, can be reached; Heap documents no answer to HEAD, so
    that 404 and 405 are as good as 200.

    Args:
        status: The HTTP status.
        headers: Its headers, keys in lower case.

    Returns:
        An outcome with `CAPTIVE` or `REACHED`.
    """
    if 300 <= status <= 399:
        return Outcome(Answer.CAPTIVE, status=status, reason=_reason(status, headers, b""))
    return Outcome(Answer.REACHED, status=status)


def unreachable(reason: str, *, began: bool, stale: bool = False) -> Outcome:
    """
    Make the outcome of a request that got no answer.

    Args:
        reason: What went wrong, in the words of the network library.
        began: Whether a part of the body may have been sent.
        stale: Whether an older connection was found dead.
    """
    return Outcome(Answer.UNAVAILABLE, began=began, stale=stale, reason=_printable(reason))


def http_date(text: str | None) -> float | None:
    """
    Read the date of an HTTP header.

    Returns:
        Epoch seconds; None for anything that is not a date.
    """
    if not text:
        return None
    try:
        parsed = parsedate_tz(text)
        seconds = None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, TypeError, IndexError, OverflowError):
        # The parser is made for mail: it returns None for most garbage, and
        # raises one of these for the rest.
        return None
    # It checks no field but the year: zones and seconds may have hundreds of digits.
    return seconds if seconds is not None and abs(seconds) < _NO_DATE else None


def _answer(
    status: int, headers: Mapping[str, str], body: bytes, retry_after: float | None
) -> Answer:
    """The row of the table that a status stands in."""
    if 200 <= status <= 299:
        return Answer.CAPTIVE if _is_html(headers, body) else Answer.ACCEPTED
    if 300 <= status <= 399:
        return Answer.CAPTIVE
    if 400 <= status <= 499:
        return _BY_STATUS.get(status, Answer.MISCONFIGURED)
    if status == 503 and retry_after is not None:
        return Answer.THROTTLED
    # 5xx; and 1xx or a number that is no status at all, which is garbage.
    return Answer.UNAVAILABLE


def _is_html(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a page for people came, where Heap answers ``{}``, ``OK`` or nothing."""
    if "html" in headers.get("content-type", "").lower():
        return True
    return body.lstrip(_BEFORE_TEXT).startswith(b"<")


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait as told; None for a missing, negative or unreadable value."""
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        # `float` takes any number of digits, where `int` refuses 4,300.
        return min(float(text), RETRY_AFTER_CAP)
    then = http_date(text)
    if then is None:
        return None
    # Both dates are the server's where it sent both: a device without a battery
    # clock still waits for the right time.
    sent = http_date(headers.get("date"))
    seconds = then - (now if sent is None else sent)
    return min(max(seconds, 0.0), RETRY_AFTER_CAP)


def _reason(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Status, target of a redirect and beginning of the body in one line."""
    parts = [f"HTTP {status}"]
    if "location" in headers and 300 <= status <= 399:
        parts.append("to " + headers["location"])
    # A character takes at most four bytes.
    text = body[: 4 * REASON_CHARACTERS].decode("utf-8", "replace").strip()
    line = " ".join(parts)
    return _printable(f"{line}: {text}" if text else line)


def _printable(text: str) -> str:
    """One line that is safe in a terminal and a log: control characters are escaped."""
    cut = text[:REASON_CHARACTERS]
    # An escape is longer than what it stands for.
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return escaped[:REASON_CHARACTERS]

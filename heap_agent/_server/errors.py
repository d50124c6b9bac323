"""
Answers to errors: the class, Heap's own words, and what to do about it.

Heap's pages disagree on where the words are: in an ``err`` object, in
``message``, in ``error``, or the body is plain text. This module must not know
which request it was, beyond the sentence that it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from heap_agent._core.encoder import loads
from heap_agent._core.outcomes import REASON_CHARACTERS, Answer, Outcome
from heap_agent._server.secret import Secret, masked
from heap_agent.exceptions import ApiError, NotFound, Unauthorized, Unreachable

__all__ = ["api_error", "read_object", "told"]

_BY_STATUS: Final[Mapping[int | None, type[ApiError]]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
}

#: Answers of somebody who may answer otherwise later.
_TRANSIENT: Final = frozenset({Answer.UNAVAILABLE, Answer.CAPTIVE, Answer.THROTTLED})

_ADVICE: Final = {
    Answer.UNAVAILABLE: "try again later",
    Answer.THROTTLED: "Heap asks for patience; try again later, or give a longer retry_for",
    Answer.CAPTIVE: "not Heap but a captive portal or a proxy has answered; log in there",
    Answer.MISCONFIGURED: "check app id, endpoint and proxy",
    Answer.REJECTED: "Heap finds fault with what was sent; look whether it takes anything today",
    Answer.TOO_LARGE: "send less at once",
}


def api_error(
    what: str,
    outcome: Outcome,
    body: bytes = b"",
    advice: str = "",
    secrets: Collection[Secret] = (),
) -> ApiError:
    """
    Make the error for an answer.

    Args:
        what: What was asked, as the beginning of a sentence: "track".
        outcome: The answer.
        body: Its body, as far as it was kept.
        advice: What to do; a sentence for the kind of answer without it.
        secrets: What must not be repeated, even where JSON spells it otherwise.
    """
    came = "no answer" if outcome.status is None else f"HTTP {outcome.status}"
    # A reason is the status and the beginning of the body.
    heard = outcome.reason.removeprefix(came).removeprefix(": ")
    message, details = told(body or heard.encode())
    message, details = masked(message, secrets), masked(details, secrets)
    kind = _BY_STATUS.get(outcome.status, ApiError)
    if outcome.answer in _TRANSIENT:
        kind = Unreachable
    said = f" ({message})" if message else ""
    advice = advice or _ADVICE.get(outcome.answer, "this is not an answer of Heap's API")
    return kind(
        f"{what}: {came}{said}; {advice}.",
        status=outcome.status,
        message=message,
        details=details,
    )


def told(body: bytes) -> tuple[str, Mapping[str, Any]]:
    """
    Find an error's own words in a body.

    Returns:
        The words, as one line, and whatever else there was.
    """
    members = read_object(body)
    if members is None:
        return _line(body.decode("utf-8", "replace")), {}
    err = members.get("err")
    if isinstance(err, Mapping):
        rest = {name: value for name, value in members.items() if name != "err"}
        members = {**rest, **err}
    elif isinstance(err, str):
        members = {"message": err, **members}
    for name in ("message", "error"):
        words = members.get(name)
        if isinstance(words, Mapping):
            words = words.get("message")
        if isinstance(words, str) and words.strip():
            return _line(words), {key: item for key, item in members.items() if key != name}
    return "", members


def read_object(body: bytes) -> dict[str, Any] | None:
    """
    Read a JSON object; None for anything else.
    """
    try:
        value = loads(body)
    except (ValueError, RecursionError):
        # The second from the standard json, which follows brackets however deep.
        return None
    return value if isinstance(value, dict) else None


def _line(text: str) -> str:
    cut = " ".join(text.split())[:REASON_CHARACTERS]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)

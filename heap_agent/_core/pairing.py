"""
The rules of a pairing: who gets in, how often somebody may guess, and when it is over.

    WAITING   the page asks for the code that the device shows
       │ the code            │ MISTAKES wrong ones, time, or somebody ends it
       ▼                     ▼
    PAIRED  ──────────────▶ OVER        nobody gets in any more
       time, or somebody ends it

A pairing lets one browser in, once. Whoever comes after it, with the code or without,
is told that the place is taken.

Time (monotonic seconds) and secrets are arguments. This module must not know how a
browser talks to the device, nor what it is shown.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from enum import Enum
from typing import Final, NamedTuple

#: Digits of a code. Ten thousand codes and five guesses: one pairing in 2,000 could be
#: guessed by somebody who knows its URL, which is random, too.
CODE_DIGITS: Final = 4

#: Wrong codes after which a pairing is over.
MISTAKES: Final = 5

#: Seconds after a wrong code in which no other is looked at.
PAUSE: Final = 1.0


#: A ``Host`` header: an address in brackets, or anything else, and maybe a port.
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]+))(?::[0-9]{1,5})?", re.ASCII)


class Phase(Enum):
    """
    How far a pairing has come.
    """

    WAITING = "waiting"
    PAIRED = "paired"
    OVER = "over"


class Verdict(Enum):
    """
    What becomes of somebody who gives a code.
    """

    WELCOME = "welcome"
    WRONG = "wrong"
    TOO_SOON = "too soon"
    TAKEN = "taken"
    OVER = "over"


class Reply(NamedTuple):
    """
    The answer to a code.

    Attributes:
        verdict: What it is.
        left: Wrong codes that are allowed from now on.
        wait: Seconds until a code is looked at again.
    """

    verdict: Verdict
    left: int = 0
    wait: float = 0.0


class Doorkeeper:
    """
    One pairing. Not thread-safe: whoever has it asks from one thread at a time.

    Args:
        code: What the device shows.
        pass_: What the browser that is let in shows from then on.
        until: When it is over by itself.
    """

    def __init__(self, code: str, pass_: str, until: float) -> None:
        self._code = code.encode()
        self._pass = pass_.encode()
        self._until = until
        self._phase = Phase.WAITING
        self._mistakes = 0
        self._patience = float("-inf")

    def __repr__(self) -> str:
        return f"<Doorkeeper [{self._phase.value}, {self._mistakes} mistakes]>"

    def phase(self, now: float) -> Phase:
        """
        How far it has come.
        """
        return Phase.OVER if now >= self._until else self._phase

    def seconds_left(self, now: float) -> float:
        """
        Seconds until it is over; 0.0 where it is.
        """
        return 0.0 if self._phase is Phase.OVER else max(0.0, self._until - now)

    def ask_in(self, code: str, now: float) -> Reply:
        """
        Somebody gives a code.
        """
        left = MISTAKES - self._mistakes
        match self.phase(now):
            case Phase.OVER:
                return Reply(Verdict.OVER)
            case Phase.PAIRED:
                return Reply(Verdict.TAKEN)
        if now < self._patience:
            return Reply(Verdict.TOO_SOON, left, self._patience - now)
        if hmac.compare_digest(code.encode("utf-8", "replace"), self._code):
            self._phase = Phase.PAIRED
            return Reply(Verdict.WELCOME, left)
        self._mistakes += 1
        self._patience = now + PAUSE
        if self._mistakes >= MISTAKES:
            self._phase = Phase.OVER
            return Reply(Verdict.WRONG)
        return Reply(Verdict.WRONG, left - 1, PAUSE)

    def knows(self, pass_: str, now: float) -> bool:
        """
        Whether this is the browser that was let in.
        """
        shown = hmac.compare_digest(pass_.encode("utf-8", "replace"), self._pass)
        return shown and self.phase(now) is Phase.PAIRED

    def end(self) -> None:
        """
        Nobody gets in any more.
        """
        self._phase = Phase.OVER


class Doors:
    """
    The names under which a browser may call the device. A page of somebody else that has
    its own name point at the device (DNS rebinding) calls it by that name.

    The port may be any: a tunnel has one of its own.

    Args:
        bind: The address that is listened on.
        hostname: What the machine calls itself.
    """

    def __init__(self, bind: str, hostname: str) -> None:
        self._address = ipaddress.ip_address(bind)
        self._hostname = hostname.lower()

    def __repr__(self) -> str:
        return f"<Doors {self._address}>"

    def opens_to(self, host: str | None) -> bool:
        """
        Whether a ``Host`` header names this device.
        """
        match = _HOST.fullmatch((host or "").lower())
        return match is not None and self._is_own(match[1] or match[2])

    def is_same(self, origin: str | None, host: str | None) -> bool:
        """
        Whether an ``Origin`` header says that a request comes from the device's own page.
        """
        return origin is not None and origin.lower() == f"http://{host}".lower()

    def _is_own(self, name: str) -> bool:
        everywhere, here = self._address.is_unspecified, self._address.is_loopback
        if name == "localhost":
            return everywhere or here
        if name in (self._hostname, f"{self._hostname}.local"):
            return everywhere or not here
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address is nobody's name: it cannot be pointed elsewhere.
        return everywhere or address == self._address

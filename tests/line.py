"""
A network without a network, for tests of those who use one.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from heap_agent._core.outcomes import Answer, Outcome, unreachable

ACCEPTED = Outcome(Answer.ACCEPTED, 200)
REACHED = Outcome(Answer.REACHED, 200)


@attrs.define
class Line:
    """
    A network that gives the answers it was told, and success after them.
    """

    answers: list[Outcome | Callable[[], Outcome]] = attrs.field(factory=list)
    bodies: list[bytes] = attrs.field(factory=list)
    paths: list[str] = attrs.field(factory=list)
    probes: int = 0
    reachable: bool = True
    when_probed: Callable[[], None] = lambda: None
    when_connected: Callable[[], None] = lambda: None

    def send(
        self,
        path: str,
        body: bytes,
        *,
        timeout: float | None = None,
        may_begin: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Post one body, unless it is withdrawn."""
        self.when_connected()
        if may_begin is not None and not may_begin():
            return unreachable("withdrawn", began=False)
        self.bodies.append(body)
        self.paths.append(path)
        answer = self.answers.pop(0) if self.answers else ACCEPTED
        return answer() if callable(answer) else answer

    def probe(self, path: str, *, timeout: float | None = None) -> Outcome:
        """Ask for anything."""
        self.probes += 1
        self.when_probed()
        return REACHED if self.reachable else unreachable("no network", began=False)

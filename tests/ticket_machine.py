"""
The kiosk among the examples, as those use it who stand before it.

A visit is one call: nobody is so slow between two strokes that the machine takes them for gone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from commands import PATIENCE
from screen import HEIGHT, WIDTH, Screen

SOURCE = Path(__file__).parents[1] / "docs" / "examples" / "kiosk.py"

#: Seconds until nobody is there.
IDLE = 4

#: By row and column, of three each.
PLACES = {
    "Card": (1, 0),
    "Log out": (1, 2),
    "Single": (2, 0),
    "Day": (2, 1),
    "Bicycle": (2, 2),
}


def press(name: str) -> list[object]:
    """A click on a button."""
    row, column = PLACES[name]
    across, down = (2 * column + 1) * WIDTH // 6, (2 * row + 1) * HEIGHT // 6
    return ["mousemove", across, down, "click", 1]


def log_in(card: str) -> list[object]:
    """A number that is typed."""
    return [*press("Card"), "key", *card, "Return"]


class Machine:
    """The program, running."""

    def __init__(self, screen: Screen, process: subprocess.Popen[str]) -> None:
        self._screen = screen
        self._process = process
        self._window = screen.wait_for_window("Tickets")

    def visit(self, *strokes: list[object]) -> None:
        """What somebody does there, one after the other."""
        self._screen.use(*(word for stroke in strokes for word in stroke))

    def cut_power(self) -> None:
        """End it without a warning."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close its window; it ends without a word."""
        self._screen.close_window(self._window)
        out, err = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, out, err) == (0, "", "")


@contextmanager
def running(
    screen: Screen, command: Sequence[object], environment: Mapping[str, str]
) -> Iterator[Machine]:
    """The program, switched on."""
    with subprocess.Popen(
        [*map(str, command), "--idle", str(IDLE)],
        env={**environment, **screen.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Machine(screen, process)
        finally:
            process.kill()

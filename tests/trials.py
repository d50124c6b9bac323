"""
How often the tests that break things try, and by which dice.

Short in every run, long where `HEAP_AGENT_TORTURE=1` (`tox -e torture`). All of them
throw the dice of one seed, which a run shows at its beginning: set
`HEAP_AGENT_TORTURE_SEED` to throw them again, or others.
"""

from __future__ import annotations

import os
from random import Random
from typing import Final

LONG: Final = os.environ.get("HEAP_AGENT_TORTURE") == "1"

SEED: Final = int(os.environ.get("HEAP_AGENT_TORTURE_SEED", "20261127"))


def tries(short: int, long: int) -> int:
    """How many of something this run tries."""
    return long if LONG else short


def dice(*what: object) -> Random:
    """Chance that is the same in every run with one seed, for one test and part of it."""
    return Random(repr((SEED, *what)))

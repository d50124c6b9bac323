"""
How often the tests that break things try, and by which dice.

Short in every run, long where `HEAP_AGENT_TORTURE=1` (`tox -e torture`). All of them
throw the dice of one seed, which a run shows at its beginning: set
`HEAP_AGENT_TORTURE_SEED` to throw them again, or others.

Where `HEAP_AGENT_SAMPLE=1`, as on a machine that runs several Pythons one after the other,
a Python tries only a part of what takes long, each of them another.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar

LONG: Final = os.environ.get("HEAP_AGENT_TORTURE") == "1"

SAMPLE: Final = os.environ.get("HEAP_AGENT_SAMPLE") == "1"

SEED: Final = int(os.environ.get("HEAP_AGENT_TORTURE_SEED", "20261127"))

#: A sample is one of so many.
PARTS: Final = 4

_T = TypeVar("_T")


def tries(short: int, long: int) -> int:
    """How many of something this run tries."""
    return long if LONG else short


def sample(tests: Sequence[_T]) -> list[_T]:
    """The part of such tests that this Python tries."""
    return list(tests[sys.version_info.minor % PARTS :: PARTS] if SAMPLE else tests)


def dice(*what: object) -> Random:
    """Chance that is the same in every run with one seed, for one test and part of it."""
    return Random(repr((SEED, *what)))

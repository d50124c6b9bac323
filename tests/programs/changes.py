"""
Two lives of an agent on one directory, and a change between them.

    changes.py DIRECTORY MARKS CHANGE [MUTANT]

The change is `damage`, after which the second salvages; `update`, after which it migrates; or
`purge` or `consent`, with which the first ends: it opts out, with or without a purge. What
they tell is what `workload.py` says; `{"changed": true}` when the change is on stable
storage, and the second is about to begin.
"""

import os
import sys
from pathlib import Path

import mutants
import updates
from workload import Life

from heap_agent._store import system
from heap_agent.testing import FakeClock

EVENTS = 40


def spoil(path: Path) -> None:
    """Overwrite the first page, for good: no log that was removed comes back to mend it."""
    with open(path, "r+b") as file:
        file.write(b"\xa5" * 4_096)
        file.flush()
        os.fsync(file.fileno())
    system.directory_sync(path.parent)


def change(life: Life, what: str) -> None:
    """End a life with a change."""
    if what in ("purge", "consent"):
        life.agent.opt_out(purge=what == "purge")
        assert life.agent.sync()
        life.mark(changed=True)
    life.agent.shutdown(0)
    if what == "damage":
        spoil(Path(directory) / "queue-1.db")
    if what == "update":
        updates.know(2)
    life.mark(changed=True)


directory, marks, what, *mutant = sys.argv[1:]
for name in mutant:
    mutants.apply(name)
clock = FakeClock(0.0)

life = Life(directory, marks, 3_000, clock=clock)
life.track(EVENTS // 2)
life.mark(changing=True)
life.agent.identify("ann")
life.track(EVENTS // 2)
life.sync()
change(life, what)

life = Life(directory, marks, 3_000, EVENTS, clock)
if what in ("damage", "update"):
    life.track(8)
    life.sync()
    life.agent.flush(10)
    life.track(4)
life.agent.shutdown(0)

"""
What a fork must not cut in two.

A child gets the forking thread and no other. Where another thread was importing a
module or was inside SQLite, the locks that it held there stay locked in the child for
ever. So threads say that they are about to do such a thing, and a fork waits for them.

Nothing here is a lock: a lock that is held when a signal handler raises can stay
locked for ever. One step on a dict is whole as it is.

What may not be carried over a fork at all is put down before it: SQLite knows the
files that it has open by their inode, takes the parent's locks for the child's own,
and a reader that finds no lock shortens the shared memory that the child has mapped.

This module must not know what is being done.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

#: Seconds that a fork waits. A thread may be in the middle of something that itself
#: waits for the forking thread.
PATIENCE: Final = 5.0

#: Seconds between two looks, on either side. Forks are rare.
_PAUSE: Final = 0.001


class Burden(Protocol):
    """
    Something that must not be open across a fork.
    """

    def put_down(self) -> None:
        """
        Close it; its next use opens it again. Called in the forking thread, while
        no other thread is inside of `undivided`. Must not raise.
        """


#: The threads of those that are inside, one for each time that they went in.
_inside: Final[dict[object, int]] = {}

#: The thread that forks, under `_WHO`; empty while nobody does.
_forking: Final[dict[str, int]] = {}
_WHO: Final = "thread"

_burdens: weakref.WeakSet[Burden] = weakref.WeakSet()


@contextmanager
def undivided() -> Iterator[None]:
    """
    Hold off any fork of this process while in here: a little while only. Re-entrant
    in a thread. A fork that has waited `PATIENCE` seconds goes ahead all the same.
    """
    me, visit = threading.get_ident(), object()
    nested = me in _inside.values()
    try:
        _inside[visit] = me
        if _forking and not nested:
            _wait_outside(visit, me)
        yield
    finally:
        # What a signal handler raises is raised after a call, so that this is reached
        # and done. Where it keeps `yield` from returning this runs when the exception
        # is forgotten, maybe after the end of a visit that this one was nested in.
        _inside.pop(visit, None)


def _wait_outside(visit: object, me: int) -> None:
    until = time.monotonic() + PATIENCE
    while _forking.get(_WHO, me) != me and time.monotonic() < until:
        _inside.pop(visit, None)
        time.sleep(_PAUSE)
        # Before the next look, as whoever forks looks after having said so.
        _inside[visit] = me


def put_down_before_fork(burden: Burden) -> None:
    """
    Have something put down before each fork, for as long as it exists.
    """
    _burdens.add(burden)


def _before() -> None:
    me = threading.get_ident()
    until = time.monotonic() + PATIENCE
    while _forking.setdefault(_WHO, me) != me or set(_inside.values()) - {me}:
        if time.monotonic() >= until:
            break
        time.sleep(_PAUSE)
    if not _inside:
        for burden in list(_burdens):
            burden.put_down()


if hasattr(os, "register_at_fork"):
    # No functions of ours after the fork: a signal handler could not raise in there.
    os.register_at_fork(
        before=_before, after_in_parent=_forking.clear, after_in_child=_forking.clear
    )
    os.register_at_fork(after_in_child=_inside.clear)

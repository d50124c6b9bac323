"""
What a fork must not cut in two.

A child gets the forking thread and no other. Where another thread was importing a
module or was inside SQLite, the locks that it held there stay locked in the child for
ever. So threads say that they are about to do such a thing, and a fork waits for them.

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


class Burden(Protocol):
    """
    Something that must not be open across a fork.
    """

    def put_down(self) -> None:
        """
        Close it; its next use opens it again. Called in the forking thread, while
        no other thread is inside of `undivided`. Must not raise.
        """


class _Gate:
    """
    Which threads are inside, and whether somebody is forking.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        self._forking = 0

    def enter(self) -> None:
        me = threading.get_ident()
        with self._changed:
            if me not in self._inside:
                self._changed.wait_for(lambda: self._forking in (0, me), PATIENCE)
            self._inside[me] = self._inside.get(me, 0) + 1

    def leave(self) -> None:
        me = threading.get_ident()
        with self._changed:
            depth = self._inside.get(me, 0) - 1
            if depth > 0:
                self._inside[me] = depth
            else:
                self._inside.pop(me, None)
                self._changed.notify_all()

    def shut(self) -> bool:
        """
        Let nobody else in, and wait until everybody else is out. Returns whether
        nobody is inside, the forking thread neither.
        """
        me = threading.get_ident()
        with self._changed:
            until = time.monotonic() + PATIENCE
            self._changed.wait_for(lambda: self._forking in (0, me), PATIENCE)
            self._forking = me
            self._changed.wait_for(
                lambda: not self._inside.keys() - {me}, max(0.0, until - time.monotonic())
            )
            return not self._inside

    def open(self) -> None:
        with self._changed:
            self._forking = 0
            self._changed.notify_all()


_gate = _Gate()
_burdens: weakref.WeakSet[Burden] = weakref.WeakSet()


@contextmanager
def undivided() -> Iterator[None]:
    """
    Hold off any fork of this process while in here: a little while only. Re-entrant
    in a thread. A fork that has waited `PATIENCE` seconds goes ahead all the same.
    """
    gate = _gate
    try:
        gate.enter()
        yield
    finally:
        gate.leave()


def put_down_before_fork(burden: Burden) -> None:
    """
    Have something put down before each fork, for as long as it exists.
    """
    _burdens.add(burden)


def _before() -> None:
    if _gate.shut():
        for burden in list(_burdens):
            burden.put_down()


def _in_parent() -> None:
    _gate.open()


def _in_child() -> None:
    global _gate
    _gate = _Gate()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)

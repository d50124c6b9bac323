"""
Dead letters from outside of the queue: read by anybody, changed by the owner.

This module must not know who asks, nor why Heap refused something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from heap_agent._store.database import DatabaseTrouble, Reader, Trouble
from heap_agent._store.event_queue import DeadLetter, read_dead
from heap_agent._store.outlook import database_path
from heap_agent._store.store import Store

#: What may be asked of the owner: to send them once more, or to delete them.
RETRY: Final = "retry"
DISCARD: Final = "discard"

#: Read in one transaction: nobody holds one for long.
_PAGE: Final = 500

#: Of what SQLite takes for an id.
_LARGEST: Final = 2**63 - 1

#: Seconds that the process that delivers has to answer.
PATIENCE: Final = 5.0


def read(directory: Path) -> Iterator[DeadLetter]:
    """
    All dead letters of a directory, oldest first. Those that are damaged are passed over:
    the owner removes and counts them.

    Raises:
        DatabaseTrouble: The queue cannot be read.
    """
    path, last = database_path(directory), 0
    while path.exists():
        damaged: list[int] = []
        try:
            with Reader(path) as reader:
                page = list(read_dead(reader, damaged=damaged, after=last, limit=_PAGE))
        except DatabaseTrouble as error:
            if error.trouble is Trouble.EMPTY:
                return
            raise
        yield from page
        ids = [*damaged, *(letter.id for letter in page)]
        if not ids:
            return
        last = max(ids)


def change(store: Store, what: str, ids: Sequence[int] | None) -> int:
    """
    As the owner, have dead letters sent once more, or delete them.

    Args:
        store: Whose.
        what: RETRY or DISCARD.
        ids: Which; None for all.

    Returns:
        How many of those were there.

    Raises:
        DatabaseTrouble: The disk refuses.
    """
    if ids is not None:
        # What SQLite cannot even be asked for is none.
        ids = [id for id in ids if abs(id) <= _LARGEST]
    with store.working():
        if store.ledger is None:
            return 0
        queue = store.ledger.queue
        return queue.restore(ids) if what == RETRY else queue.discard_dead(ids)


def order(store: Store, what: str, ids: Sequence[int] | None, *, own: bool) -> int:
    """
    As `change`, here or in the process that delivers.

    Args:
        store, what, ids: As there.
        own: Become the owner, if nobody is.

    Raises:
        OSError: It could not be done, or nobody has answered.
    """
    if store.ledger is None and own:
        store.try_to_own()
    try:
        if store.ledger is not None:
            return change(store, what, ids)
    except DatabaseTrouble as error:
        raise OSError(str(error)) from error
    answer = store.ask(what, {"ids": ids}, PATIENCE)
    if answer is None:
        if (trouble := store.trouble or store.journal.trouble) is not None:
            raise OSError(f"the disk refuses: {trouble}")
        raise OSError("the process that delivers has not answered; it may still do it")
    if "error" in answer:
        raise OSError(str(answer["error"]))
    return int(answer["changed"])

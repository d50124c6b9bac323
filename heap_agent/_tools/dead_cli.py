"""
The commands about dead letters: events that Heap has refused for good.

This module must not know how they are kept: it reads what was typed, asks, and prints.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from heap_agent._tools.common import APP_ID, AS_JSON, Place, fail, one_line, print_json
from heap_agent._tools.guest import DIRECTORY, existing, guest, load

if TYPE_CHECKING:
    from heap_agent._store.event_queue import DeadLetter

__all__ = ["COMMANDS"]

_IDS: Final = click.argument("ids", nargs=-1, type=click.IntRange(1), metavar="[ID]...")
_ALL: Final = click.option("--all", "everything", is_flag=True, help="All there are.")


@click.group()
def dead() -> None:
    """
    Look at events that Heap has refused for good, send them again, or delete them.

    What Heap refuses is kept as a dead letter, with Heap's answer, in at most a tenth of
    max_bytes. All of it works beside a running agent and without one.
    """


@dead.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    metavar="N",
    help="Show the newest N.",
)
@DIRECTORY
@APP_ID
@AS_JSON
def list_(limit: int, as_json: bool, **place: Any) -> int:
    """
    List them, the newest last, with the reasons.

    \b
    --json: dead (a list of id, kind, event, app_id, user_id, identity, status, reason,
    died: ISO 8601), total, directory.
    """
    directory = existing(load(place))
    total = 0
    newest: deque[DeadLetter] = deque(maxlen=limit)
    for letter in _letters(directory):
        total += 1
        newest.append(letter)
    if as_json:
        shown = [_summary(letter) for letter in newest]
        print_json({"dead": shown, "total": total, "directory": str(directory)})
        return 0
    from heap_agent._tools import tables

    tables.show_dead([_summary(letter) for letter in newest], total)
    return 0


@dead.command()
@click.argument("id", type=click.IntRange(1))
@DIRECTORY
@APP_ID
@AS_JSON
def show(id: int, as_json: bool, **place: Any) -> int:
    """
    Show one, whole.

    \b
    --json: id, kind, event (the JSON that was refused), app_id, status, reason, died.
    """
    directory = existing(load(place))
    letter = next((one for one in _letters(directory) if one.id == id), None)
    if letter is None:
        fail(f"there is no dead letter {id}; heap-agent dead list shows those that there are")
    fields = _whole(letter)
    if as_json:
        print_json(fields)
        return 0
    for name in ("kind", "app_id", "status", "reason", "died"):
        click.echo(f"{name:<8}{one_line(str(fields[name]))}")
    # ASCII, so that nothing in it plays with the terminal.
    click.echo(json.dumps(fields["event"], indent=2))
    return 0


@dead.command()
@click.argument("file", type=Place(path_type=Path, dir_okay=False))
@DIRECTORY
@APP_ID
@AS_JSON
def export(file: Path, as_json: bool, **place: Any) -> int:
    """
    Write all of them to a new file, a line of JSON each; - is standard output.

    A line has id, kind, event (the JSON that was refused), app_id, status, reason, died.
    The file is for this user alone, and must not be there yet.

    \b
    --json: exported, file, directory.
    """
    directory = existing(load(place))
    number = 0
    with _writing(file) as out:
        for number, letter in enumerate(_letters(directory), 1):  # noqa: B007 - counts
            out.write(json.dumps(_whole(letter)).encode() + b"\n")
    if str(file) == "-":
        return 0
    if as_json:
        print_json({"exported": number, "file": str(file), "directory": str(directory)})
    else:
        click.echo(f"exported {number:,} to {one_line(str(file))}")
    return 0


@dead.command()
@_IDS
@_ALL
@DIRECTORY
@APP_ID
@AS_JSON
def retry(ids: tuple[int, ...], everything: bool, as_json: bool, **place: Any) -> int:
    """
    Put them back into the queue, to be sent once more, under the keys that they had.

    Where an agent runs it does so, and delivers them; else the next one does.

    \b
    --json: retried, directory.
    """
    return _change("retry", "retried", ids, everything, as_json, place)


@dead.command()
@_IDS
@_ALL
@click.option("--yes", is_flag=True, help="Do not ask.")
@DIRECTORY
@APP_ID
@AS_JSON
def drop(ids: tuple[int, ...], everything: bool, yes: bool, as_json: bool, **place: Any) -> int:
    """
    Delete them for good; the books count them as discarded.

    \b
    --json: dropped, directory.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask; give --yes to drop without asking.")
        if not click.confirm("Delete these dead letters for good?", err=True):
            fail("nothing was dropped.")
    return _change("discard", "dropped", ids, everything, as_json, place)


COMMANDS: Final[tuple[click.Command, ...]] = (dead,)


# -- changing them -------------------------------------------------------------------


def _change(
    what: str,
    done: str,
    ids: tuple[int, ...],
    everything: bool,
    as_json: bool,
    place: dict[str, Any],
) -> int:
    from heap_agent._store.dead import order

    if bool(ids) is everything:
        raise click.UsageError("name the dead letters by their ids, or give --all.")
    directory = existing(load(place))
    with guest(place, nameless=True) as agent:
        if agent._store.directory is None:
            fail(agent.status().problems[-1])
        try:
            number = order(agent._store, what, None if everything else list(ids), own=True)
        except OSError as error:
            fail(str(error))
    if as_json:
        print_json({done: number, "directory": str(directory)})
    else:
        click.echo(f"{done} {number:,}")
    if ids and number < len(set(ids)):
        fail(f"{len(set(ids)) - number} of them were no dead letters (any more)")
    return 0


# -- reading them --------------------------------------------------------------------


def _letters(directory: Path) -> Iterator[DeadLetter]:
    from heap_agent._store import dead
    from heap_agent._store.database import DatabaseTrouble

    try:
        yield from dead.read(directory)
    except DatabaseTrouble as error:
        fail(f"the queue cannot be read: {error}")


def _whole(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "kind": letter.kind.name.lower(),
        "app_id": letter.app_id,
        "status": letter.status,
        "reason": letter.reason,
        "died": datetime.fromtimestamp(letter.died / 1e6, timezone.utc).isoformat(),
        "event": json.loads(letter.body),
    }


def _summary(letter: DeadLetter) -> dict[str, Any]:
    whole = _whole(letter)
    event: Mapping[str, Any] = whole.pop("event")
    names = {name: event.get(name) for name in ("event", "user_id", "identity")}
    return {**whole, **names}


@contextmanager
def _writing(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    from heap_agent._store.system import open_private

    try:
        descriptor = open_private(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        fail(f"{one_line(str(file))} is there already; name a new file")
    with open(descriptor, "wb") as out:
        yield out

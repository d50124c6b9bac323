"""
The command ``seal``: leave nothing of anybody on a device whose disk is to be imaged.

This module must not know what there is to be deleted.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from heap_agent._tools.common import APP_ID, AS_JSON, fail, print_json
from heap_agent._tools.guest import DIRECTORY, existing, load, refuse_strangers

__all__ = ["COMMANDS"]


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@DIRECTORY
@APP_ID
@AS_JSON
def seal(yes: bool, as_json: bool, **place: Any) -> int:
    """
    Wipe users, consent, properties and everything that waits, before a disk is imaged.

    Otherwise each copy would begin as the same user with the same events. No agent may be
    running; what waits is lost, so that heap-agent flush comes first. Files are overwritten
    before they are deleted, which storage that levels wear (SD cards) may undo.

    \b
    --json: sealed (files that were deleted), lost (events that waited), directory.
    """
    from heap_agent._status import look
    from heap_agent._store.system import Clock
    from heap_agent._store.wipe import StillInUse, wipe

    loaded = load(place)
    directory = existing(loaded)
    refuse_strangers(directory)
    waiting = look(directory, loaded.config, Clock(), ()).queued
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask; give --yes to wipe without asking.")
        lost = f", and {waiting:,} events that wait are lost" if waiting else ""
        click.echo(f"Everything in {directory} is to be deleted{lost}.", err=True)
        if not click.confirm("Wipe it?", err=True):
            fail("nothing was wiped.")
    try:
        files = wipe(directory)
    except StillInUse as error:
        fail(f"{error}; stop it first")
    except OSError as error:
        fail(f"{directory} cannot be wiped, and may hold a part still: {error}")
    if as_json:
        print_json({"sealed": files, "lost": waiting, "directory": str(directory)})
    else:
        click.echo(f"wiped {directory}: {files:,} files, {waiting:,} events that waited")
    return 0


COMMANDS: Final[tuple[click.Command, ...]] = (seal,)

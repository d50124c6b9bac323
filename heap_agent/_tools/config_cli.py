"""
The commands ``config`` and ``paths``: which options are in force, and where things are.

This module must not know what an option is good for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from heap_agent import _config
from heap_agent._tools.common import APP_ID, AS_JSON, ENDPOINT, print_json
from heap_agent._tools.guest import DIRECTORY, load, meant

__all__ = ["COMMANDS"]


@click.command()
@DIRECTORY
@APP_ID
@ENDPOINT
@AS_JSON
def config(as_json: bool, **place: Any) -> int:
    """
    Show every option: its value, and where that comes from.

    Arguments win over the environment, that over config files, those over defaults. What
    was passed over is told below, with the reason. Passwords are not shown.

    \b
    --json: options (a list of name, value, source, default, unit, environment, help; values
    as text), problems, files (those that are looked for).
    """
    loaded = load(place)
    files = [str(path) for path in _config.config_files()]
    if as_json:
        options = [row._asdict() for row in loaded.describe()]
        print_json({"options": options, "problems": list(loaded.problems), "files": files})
        return 0
    from heap_agent._tools import tables

    tables.show_options(loaded.describe(), loaded.problems)
    return 0


@click.command()
@DIRECTORY
@APP_ID
@AS_JSON
def paths(as_json: bool, **place: Any) -> int:
    """
    Show where the state directory and the config files are, whether they exist or not.

    \b
    --json: directory, database, config_files; each with path and exists (config_files is a
    list of those).
    """
    from heap_agent._store.outlook import database_path

    directory = meant(load(place))
    database, files = database_path(directory), _config.config_files()
    if as_json:
        found = {"directory": _place(directory), "database": _place(database)}
        print_json({**found, "config_files": [_place(file) for file in files]})
        return 0
    from heap_agent._tools import tables

    named = [("state directory", directory), ("database", database)]
    tables.show_paths([*named, *(("config file", file) for file in files)])
    return 0


COMMANDS: Final[tuple[click.Command, ...]] = (config, paths)


def _place(path: Path) -> dict[str, Any]:
    return {"path": str(path), "exists": path.exists()}

"""
The commands ``config``, ``paths``, ``doctor`` and ``completion``: which options are in
force, where things are, what stands in the way, and what a shell need not be told.

This module must not know what an option is good for, nor what can be wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from heap_agent import _config
from heap_agent._tools.common import APP_ID, AS_JSON, ENDPOINT, NAME, fail, is_there, print_json
from heap_agent._tools.guest import DIRECTORY, load, meant

__all__ = ["COMMANDS"]

#: The variable in which a shell asks click for what could follow.
_COMPLETE: Final = "_HEAP_AGENT_COMPLETE"


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
    --json: directory, database, config_files; each with path and exists (null: not known;
    config_files is a list of those).
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


@click.command()
@click.option("--offline", is_flag=True, help="Do not ask the network.")
@DIRECTORY
@APP_ID
@ENDPOINT
@AS_JSON
def doctor(offline: bool, as_json: bool, **place: Any) -> int:
    """
    Look at everything that may stand between this device and its events.

    The options, the directory, its file system and space, the queue, the agent, the proxy,
    the endpoint's name, certificate and answer, the clock. Nothing is changed, and nothing of
    the device's is sent: the endpoint is asked by a HEAD request. Exit code 1 when something is
    wrong; warnings are none.

    \b
    --json: healthy, findings (a list of about, verdict: good, warning, bad or skipped, and
    text), directory.
    """
    from heap_agent._tools import doctor as looking

    loaded = load(place)
    directory = meant(loaded)
    found = list(looking.look(directory, loaded.config, loaded.problems, online=not offline))
    wrong = [finding.about for finding in found if finding.verdict == "bad"]
    if as_json:
        findings = [finding._asdict() for finding in found]
        print_json({"healthy": not wrong, "findings": findings, "directory": str(directory)})
    else:
        from heap_agent._tools import tables

        tables.show_findings(found)
    if wrong:
        fail(f"something is wrong with: {', '.join(dict.fromkeys(wrong))}")
    return 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """
    Print what makes a shell complete commands and options.

    \b
    bash: heap-agent completion bash > ~/.local/share/bash-completion/completions/heap-agent
    zsh:  heap-agent completion zsh > a file _heap-agent in a folder of $fpath
    fish: heap-agent completion fish > ~/.config/fish/completions/heap-agent.fish
    """
    from click.shell_completion import get_completion_class

    known = get_completion_class(shell)
    root = click.get_current_context().find_root()
    assert known is not None
    click.echo(known(root.command, {}, NAME, _COMPLETE).source())
    return 0


COMMANDS: Final[tuple[click.Command, ...]] = (config, paths, doctor, completion)


def _place(path: Path) -> dict[str, Any]:
    return {"path": str(path), "exists": is_there(path)}

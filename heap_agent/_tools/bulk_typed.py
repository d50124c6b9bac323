"""
What the commands of the server-side API share: options, and what was typed into them.

Whatever is heavy is imported by the function that needs it. This module must not
know what a command does.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from heap_agent import _config
from heap_agent._tools import common
from heap_agent._tools.bulk_rows import (
    Columns,
    CsvRows,
    JsonRows,
    Kind,
    Rows,
    TextRows,
    WrongColumns,
    chosen_format,
)

if TYPE_CHECKING:
    from heap_agent._server.settings import Settings
    from heap_agent._tools.bulk_source import Source
    from heap_agent.server import ServerClient

__all__ = [
    "API_KEY_FILE",
    "COLUMN",
    "DELIMITER",
    "FILE",
    "PLACE",
    "api_key",
    "client",
    "format_option",
    "load",
    "path_of",
    "read_rows",
    "settings",
    "sharing_client",
    "together",
]

_API_KEY: Final = "HEAP_AGENT_API_KEY"

_STDIN: Final = Path("-")

#: Options of an agent that mean the same here; app id, region and endpoint come first.
_WHERE: Final = ("app_id", "region", "endpoint", "allow_insecure")
_HOW: Final = (
    "identity_budget",
    "app_budget",
    "refused_identities",
    "proxy",
    "ca_bundle",
    "client_cert",
    "client_key",
    "connect_timeout",
    "read_timeout",
)

_Command = TypeVar("_Command", bound=Callable[..., int])


# -- options that several commands share -----------------------------------------------


def together(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """
    Several options as one decorator, in the order in which help shows them.
    """

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


FILE: Final = click.argument(
    "file", type=common.Place(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
API_KEY_FILE: Final = click.option(
    "--api-key-file",
    type=common.Place(exists=True, dir_okay=False, path_type=Path),
    help=f"File with the api key; else {_API_KEY} is read, or it is asked for.",
)
COLUMN: Final = click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="CSV: the column of a field that is called otherwise.",
)
DELIMITER: Final = click.option(
    "--delimiter", default=",", metavar="CHARACTER", help="CSV: between columns; a comma."
)


def format_option(*names: str) -> Callable[[Any], Any]:
    """
    The option --format of a command that reads these.
    """
    return click.option(
        "--format",
        "form",
        type=click.Choice(names),
        help="By default as the name of the file ends, .gz aside.",
    )


PLACE: Final = together(
    common.APP_ID,
    click.option("--region", type=click.Choice(["us", "eu"]), help="Heap's data region."),
    common.ENDPOINT,
)


# -- what was typed ---------------------------------------------------------------------


def path_of(file: Path) -> Path | None:
    """
    The file that is meant; None for standard input.
    """
    return None if file == _STDIN else file


def load(options: Mapping[str, Any]) -> _config.Config:
    """
    The configuration in force, or the reason why there is none that may be used.
    """
    typed = {name: options[name] for name in ("app_id", "region", "endpoint")}
    loaded = _config.load(common.given(typed))
    if loaded.config.app_id is None:
        raise click.UsageError(common.missing_app_id(loaded))
    # An agent goes on with the default; here it would be somebody else's host.
    wrong = loaded.defaulted.intersection(_WHERE)
    for problem in loaded.problems:
        if any(name in problem for name in wrong):
            raise click.UsageError(problem)
    if loaded.config.disabled:
        common.fail("nothing is sent: HEAP_AGENT_DISABLED is set.")
    return loaded.config


def _arguments(config: _config.Config) -> dict[str, Any]:
    found = {name: getattr(config, name) for name in (*_WHERE, *_HOW)}
    # The environment has been asked already.
    return {**found, "proxy": config.proxy or "none"}


def settings(config: _config.Config) -> Settings:
    """
    What a client is told, checked.
    """
    from heap_agent._server.settings import Settings

    return Settings(**_arguments(config))


@contextmanager
def client(config: _config.Config, key: str | None = None) -> Iterator[ServerClient]:
    """
    A client for as long as the block lasts.
    """
    from heap_agent.server import ServerClient

    with ServerClient(api_key=key, **_arguments(config)) as client:
        yield client


@contextmanager
def sharing_client(config: _config.Config) -> Iterator[ServerClient]:
    """
    A client that shares Heap's limits with those of other commands.

    Raises:
        CheckpointTrouble: The file that they share cannot be used.
        OSError: It cannot be made.
    """
    from heap_agent._server.line import Seams
    from heap_agent._tools import bulk_budget
    from heap_agent.server import ServerClient

    app_id = str(config.app_id)
    path = bulk_budget.default_ledger(app_id, config.base_url)
    if path is None:
        common.note("without a home directory, other commands do not know of what is sent here")
        with client(config) as alone:
            yield alone
        return
    seams = Seams(monotonic=bulk_budget.seconds)
    with (
        closing(bulk_budget.SharedLedger(path, app_id)) as ledger,
        ServerClient(**_arguments(config), _seams=seams, _ledger=ledger) as sharing,
    ):
        yield sharing


def api_key(file: Path | None) -> str:
    """
    The api key: from a file, from the environment, or typed; never from the command line.
    """
    if file is not None:
        try:
            key = file.read_text("utf-8").strip()
        except UnicodeDecodeError:
            # Without what came, which may be a key after all.
            raise click.UsageError(f"--api-key-file: {file} holds no text.") from None
        if os.name == "posix" and file.stat().st_mode & 0o077:
            common.note(f"{file} can be read by others; chmod 600 keeps the api key yours")
    else:
        key = os.environ.get(_API_KEY, "").strip()
        if not key and sys.stdin.isatty():
            key = str(click.prompt("api key", hide_input=True, err=True)).strip()
    if re.search("[\ud800-\udfff]", key):
        raise click.UsageError(f"{_API_KEY} holds no text.")
    if not key:
        raise click.UsageError(f"api key is missing: set {_API_KEY}, or give --api-key-file.")
    return key


def read_rows(
    source: Source,
    options: Mapping[str, Any],
    kind: Kind,
    formats: Sequence[str],
    defaults: Mapping[str, str] | None = None,
) -> Rows:
    """
    The rows of a source, by the options about formats and columns.

    Args:
        source: At its beginning.
        options: As click gives them.
        kind: What an item consists of.
        formats: Those that are allowed.
        defaults: Fields for items that do not have them.

    Raises:
        click.UsageError: The options do not fit, or do not fit the header.
    """
    form = _form(options, formats)
    if form == "jsonl":
        return JsonRows(source, defaults)
    if form == "text":
        return TextRows(source, kind.fields[0])
    try:
        return CsvRows(source, kind, _columns(options, form), defaults)
    except WrongColumns as error:
        raise click.UsageError(f"{error}.") from None


def _form(options: Mapping[str, Any], formats: Sequence[str]) -> str:
    found: str | None = options["form"]
    path = path_of(options["file"])
    if found is None and path is not None:
        found = chosen_format(path.name)
    if found is None or found not in formats:
        allowed = ", ".join(formats[:-1]) + " or " + formats[-1]
        raise click.UsageError(f"the format cannot be told by the name: give --format {allowed}.")
    return found


def _columns(options: Mapping[str, Any], form: str) -> Columns:
    delimiter = "\t" if form == "tsv" else options["delimiter"]
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise click.UsageError(f"--delimiter: {delimiter!r} came; one character is allowed.")
    typed = options.get("properties") or ()
    pairs = [text.partition("=") for text in typed]
    return Columns(
        fields=dict(_pair(text) for text in options["columns"]),
        properties={name: column or name for name, _, column in pairs} if typed else None,
        numbers=frozenset(options.get("numbers") or ()),
        delimiter=delimiter,
    )


def _pair(text: str) -> tuple[str, str]:
    field, separator, column = text.partition("=")
    if not separator or not field or not column:
        raise click.UsageError(f"--column: {text!r} came; write FIELD=COLUMN.")
    return field, column

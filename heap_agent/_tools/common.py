"""
What all commands have in common: options, sentences, and one line of JSON.

An error is one sentence on standard error; what a program wants to read is one
object on standard output. This module must not know any command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import click

from heap_agent._config import Loaded

__all__ = [
    "APP_ID",
    "AS_JSON",
    "ENDPOINT",
    "INTERRUPTED",
    "NAME",
    "complain",
    "fail",
    "given",
    "missing_app_id",
    "note",
    "one_line",
    "print_json",
]

NAME: Final = "heap-agent"

#: Exit code of a command that Ctrl-C has ended.
INTERRUPTED: Final = 130

APP_ID: Final = click.option("--app-id", help="Id of the environment at Heap, such as 11.")
ENDPOINT: Final = click.option("--endpoint", help="Where to deliver instead of to Heap's host.")
AS_JSON: Final = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object in one line."
)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """
    The options that somebody has typed.
    """
    return {name: value for name, value in options.items() if value is not None}


def missing_app_id(loaded: Loaded, other: str = "") -> str:
    """
    A sentence about the app id that nobody gave, or gave wrong.

    Args:
        loaded: The configuration.
        other: What may be given in its place, such as "--directory or ".
    """
    why = next((text for text in loaded.problems if "app_id" in text), None)
    return f"app id is missing: give {other}--app-id, or set HEAP_AGENT_APP_ID" + (
        "." if why is None else f" ({why.rstrip('.')})."
    )


def print_json(fields: Mapping[str, Any]) -> None:
    """
    Print the answer for programs.
    """
    click.echo(json.dumps(fields))


def note(text: str) -> None:
    """
    Say something that is worth knowing and no failure.
    """
    click.echo(f"{NAME}: note: {one_line(text)}", err=True)


def complain(text: str, code: int) -> int:
    """
    Say what went wrong.

    Returns:
        The exit code, as given.
    """
    with suppress(OSError):
        click.echo(f"{NAME}: {one_line(text)}", err=True)
    return code


def fail(text: str) -> NoReturn:
    """
    End the command with a sentence and exit code 1.
    """
    raise click.ClickException(text)


def one_line(text: str) -> str:
    """
    Text that does nothing to a terminal but appear.
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

"""
What all commands have in common: options, sentences, and one line of JSON.

An error is one sentence on standard error; what a program wants to read is one
object on standard output. This module must not know any command.
"""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click
from click.types import StringParamType

from heap_agent._config import Loaded

__all__ = [
    "APP_ID",
    "AS_JSON",
    "ENDPOINT",
    "INTERRUPTED",
    "NAME",
    "Place",
    "Seconds",
    "Text",
    "Terminated",
    "complain",
    "drawn",
    "ended_by",
    "fail",
    "given",
    "interruptible",
    "is_there",
    "missing_app_id",
    "note",
    "one_line",
    "print_json",
]

NAME: Final = "heap-agent"

#: Exit code of a command that Ctrl-C has ended.
INTERRUPTED: Final = 130

#: What stands for a sign in ASCII.
_PLAIN: Final = str.maketrans("✓✗–•◦→", "+x-*o>")

_Command = TypeVar("_Command", bound=Callable[..., int])

# -- what may be typed -------------------------------------------------------------------


class Place(click.Path):
    """
    A path. An empty one, as of a variable that is not set, is not the current directory.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("the path is empty.", param, ctx)
        return super().convert(value, param, ctx)


class Text(StringParamType):
    """
    Text that goes to Heap or to a database as it is, and so must be UTF-8.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # Python keeps a byte that it cannot decode as half a surrogate pair.
        if re.search("[\ud800-\udfff]", value):
            self.fail(f"{value!r} is no text in UTF-8.", param, ctx)
        return str(super().convert(value, param, ctx))


class Seconds(click.FloatRange):
    """
    A duration, of which "nan" is none.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


# -- options that commands share ---------------------------------------------------------

APP_ID: Final = click.option("--app-id", help="Id of the environment at Heap, such as 11.")
ENDPOINT: Final = click.option("--endpoint", help="Where to deliver instead of to Heap's host.")
AS_JSON: Final = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object in one line."
)


# -- being interrupted --------------------------------------------------------------------


class Terminated(KeyboardInterrupt):
    """
    SIGTERM: what Ctrl-C is, from a service manager or a shutdown.
    """


def ended_by(interruption: KeyboardInterrupt) -> int:
    """
    The exit code of a command that was interrupted.
    """
    return 128 + signal.SIGTERM if isinstance(interruption, Terminated) else INTERRUPTED


def interruptible(command: _Command) -> _Command:
    """
    Let Ctrl-C and SIGTERM end a command with a sentence, wherever it is.
    """

    @wraps(command)
    def run(*args: Any, **options: Any) -> int:
        try:
            with _sigterm_raises():
                return command(*args, **options)
        except KeyboardInterrupt as interruption:
            return complain("interrupted.", ended_by(interruption))

    return run  # type: ignore[return-value]


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(*_: object) -> None:
        raise Terminated

    is_main = threading.current_thread() is threading.main_thread()
    # Whoever ignores it wants it to be ignored.
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# -- reading and printing ------------------------------------------------------------------


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


def is_there(path: Path) -> bool | None:
    """
    Whether something is in a place; None where this user may not look.
    """
    try:
        return path.exists()
    except OSError:
        return None


def drawn(text: str) -> str:
    """
    Text of ours, whose signs are others where standard output cannot show them.
    """
    try:
        text.encode(sys.stdout.encoding)
    except (LookupError, UnicodeError, TypeError, AttributeError):
        return text.translate(_PLAIN)
    return text


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

"""
The command line: ``heap-agent``.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. An error is one
sentence on standard error; what a program wants to read is on standard output
with ``--json``, one object in one line.

Whatever is heavy is imported by the command that needs it. This module must not
know how anything is done: it reads what was typed, asks, and prints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from heap_agent import _config
from heap_agent._options import DURATION_MAXIMUM
from heap_agent._tools import (
    arguments,
    bulk_cli,
    bulk_delete_cli,
    config_cli,
    dead_cli,
    seal_cli,
    view_cli,
)
from heap_agent._tools.common import APP_ID as _APP_ID
from heap_agent._tools.common import AS_JSON as _JSON
from heap_agent._tools.common import ENDPOINT as _ENDPOINT
from heap_agent._tools.common import INTERRUPTED as _INTERRUPTED
from heap_agent._tools.common import NAME as _NAME
from heap_agent._tools.common import Seconds as _Seconds
from heap_agent._tools.common import Text as _Text
from heap_agent._tools.common import complain as _complain
from heap_agent._tools.common import fail as _fail
from heap_agent._tools.common import note as _note
from heap_agent._tools.common import one_line as _one_line
from heap_agent._tools.common import print_json as _print_json
from heap_agent._tools.guest import DIRECTORY as _DIRECTORY
from heap_agent._tools.guest import existing, guest, last_word, load
from heap_agent.exceptions import InvalidCall, InvalidValue

if TYPE_CHECKING:
    from heap_agent._agent import Agent

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        args: What was typed after the name; by default that of the process.

    Returns:
        The exit code.
    """
    _open_missing_streams()
    # A property may hold what this terminal cannot show.
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _cli.main(args, _NAME, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else _NAME
        return _complain(f"{_sentence(error.format_message())} Try '{path} --help'.", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except InvalidCall as error:
        return _complain(str(error), 2)
    except InvalidValue as error:
        return _complain(str(error), 1)
    except UnicodeError as error:
        # Names are checked one by one; this is for whatever else was typed or set.
        return _complain(f"what was typed or set is no text in UTF-8: {error}.", 2)
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        return _hang_up()
    except OSError as error:
        return _complain(_told(error), 1)


def _told(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _open_missing_streams() -> None:
    # Python has None for a stream that was closed before the start, and the next file
    # to be opened, such as a journal, would get its number.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


# -- options that several commands share -----------------------------------------------

_UNHEARD: Final = "the agent that delivers did not answer within 5 s; it will do it"


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, help="Show the version and exit.")
@click.pass_context
def _cli(context: click.Context, version: bool) -> int | None:
    """
    Offline-first tracking: every event on disk first, then to Heap.

    What is not given as an option comes from the environment (HEAP_AGENT_APP_ID,
    HEAP_AGENT_DIRECTORY and so on) and from config files, as for an agent.

    Exit codes: 0 done, 1 failed, 2 wrong use.
    """
    if version:
        from heap_agent._version import version as installed

        click.echo(f"{_NAME} {installed()}")
        context.exit()
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)
    return None


# -- commands --------------------------------------------------------------------------


@_cli.command()
@click.option(
    "--events",
    default=30_000,
    show_default=True,
    type=click.IntRange(10, 1_000_000),
    help="About how many events to record.",
)
@click.option("--keep", is_flag=True, help="Keep the state directory, and say where it is.")
@_JSON
def demo(events: int, keep: bool, as_json: bool) -> int:
    """
    Record offline, be killed, start again, deliver: without an account.

    A process records events while the collector (a strict stand-in for Heap, on
    this machine) cannot be reached, and is killed in the middle of it. A second
    one goes on; the network comes back, with faults. At the end what was
    acknowledged is compared with what arrived: exit code 1 if anything was lost or
    would be counted twice.

    \b
    --json: good, recorded, queued, delivered, dead, dropped, acknowledged,
    arrived_once, lost, arrived_twice, unacknowledged, received_again, problems,
    story, seconds, directory.
    """
    import signal

    from heap_agent._tools import demo as demonstration
    from heap_agent._tools import tables

    # Ended by another program, too, it leaves no process and no directory behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tables.bars() as observer:
            result = demonstration.run(events, observer, keep=keep)
    except demonstration.DemoFailed as error:
        _fail(str(error))
    if as_json:
        _print_json(result.as_dict())
    else:
        tables.show_demo(result)
    return 0 if result.good else 1


@_cli.command()
@click.argument("event")
@click.argument("properties", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--string", "-s", "texts", multiple=True, metavar="KEY=VALUE", help="Text in any case."
)
@click.option(
    "--properties", "document", metavar="JSON", help="A JSON object with more properties."
)
@click.option("--timestamp", metavar="T", help="ISO 8601, or seconds since 1970; by default now.")
@_DIRECTORY
@_APP_ID
@_JSON
def track(
    event: str,
    properties: tuple[str, ...],
    texts: tuple[str, ...],
    document: str | None,
    timestamp: str | None,
    as_json: bool,
    **place: Any,
) -> int:
    """
    Record one event. It is on disk when this returns.

    An agent that runs on the same directory delivers it, or the next one. Values
    that are numbers in JSON are numbers: dollars=50, but -s zip=01234.

    \b
    --json: recorded, reason (where nothing was recorded, else null), event,
    app_id, user_id, identity, directory.
    """
    try:
        given = arguments.parse_properties(document, properties, texts)
        moment = None if timestamp is None else arguments.parse_timestamp(timestamp)
        _check_event(event, moment)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with guest(place) as agent:
        agent.track(event, given, timestamp=moment)
        reason = _why_not(agent)
        if as_json:
            _print_json(
                {"recorded": reason is None, "reason": reason, "event": event} | _who(agent)
            )
        elif reason is None:
            click.echo(f"recorded {_one_line(event)}")
        else:
            _note(f"nothing was recorded: {reason}")
    return 0


@_cli.command()
@click.argument("identity", type=_Text())
@_DIRECTORY
@_APP_ID
@_JSON
def identify(identity: str, as_json: bool, **place: Any) -> int:
    """
    Say who the user of this device is, from now on.

    \b
    --json: identified, reason (where nothing was recorded, else null), app_id,
    user_id, identity, directory.
    """
    with guest(place) as agent:
        agent.identify(identity)
        reason = _why_not(agent)
        if reason is None and agent.identity != identity:
            _fail(last_word(f"identity {identity!r} is refused"))
        if as_json:
            _print_json({"identified": reason is None, "reason": reason} | _who(agent))
        elif reason is None:
            click.echo(f"identified {_one_line(identity)}")
        else:
            _note(f"nothing was recorded: {reason}")
    return 0


@_cli.command()
@click.option("--check", is_flag=True, help="Verify everything; exit code 1 when unhealthy.")
@click.option(
    "--max-age",
    type=_Seconds(0),
    metavar="SECONDS",
    help="Unhealthy when the oldest event has waited longer; implies --check.",
)
@_DIRECTORY
@_APP_ID
@_JSON
def status(check: bool, max_age: float | None, as_json: bool, **place: Any) -> int:
    """
    Show how things stand: beside a running agent, or without one.

    Unhealthy are: dead letters, a disk that cannot be written, an endpoint that
    refuses everything, a Python that cannot deliver, a damaged queue, options that were
    passed over, and with --max-age events that wait too long.

    \b
    --json: healthy, complaints, running (null: not known), and all that
    Agent.status() has: recorded, queued, delivered, dead, dropped, dropped_by,
    refused, repaired, repaired_by, storage, bytes, oldest_age, last_delivery,
    last_error, failing_since, next_attempt, drain_eta, app_id, directory, delivers_here,
    opted_out, paused, problems. Times in seconds or ISO 8601.
    """
    from heap_agent._tools import health

    check = check or max_age is not None
    loaded = load(place)
    directory = existing(loaded)
    found = health.examine(
        directory, loaded.config, loaded.problems, thorough=check, max_age=max_age
    )
    if as_json:
        _print_json(
            {
                "healthy": not found.complaints,
                "complaints": list(found.complaints),
                "running": found.running,
                **found.status.as_dict(),
            }
        )
    else:
        from heap_agent._tools import tables

        tables.show_health(found)
    if check and found.complaints:
        _fail("unhealthy: " + "; ".join(found.complaints))
    return 0


@_cli.command()
@click.option(
    "--timeout",
    type=_Seconds(0, DURATION_MAXIMUM),
    metavar="SECONDS",
    help="Go on this long, waits included; by default until the first wait.",
)
@_DIRECTORY
@_APP_ID
@_ENDPOINT
@_JSON
def flush(timeout: float | None, as_json: bool, **place: Any) -> int:
    """
    Deliver what waits, here or through the agent that is running.

    Exit code 1 when something is left.

    \b
    --json: empty, delivered, queued, dead, reason (why something is left, or
    null), directory.
    """
    from heap_agent._status import look
    from heap_agent._store.system import Clock

    loaded = load(place)
    directory = existing(loaded)

    def books() -> Any:
        return look(directory, loaded.config, Clock(), ())

    before = books()
    with guest(place, nameless=True) as agent:
        if agent.status().directory is None and not loaded.config.disabled:
            _fail(agent.status().problems[-1])
        empty = agent.flush(timeout) and not (loaded.config.disabled and before.queued)
        reason = None if empty else _why_left(agent, loaded, directory)
        after = books()
        delivered = after.delivered - before.delivered
        if as_json:
            _print_json(
                {
                    "empty": empty,
                    "delivered": delivered,
                    "queued": after.queued,
                    "dead": after.dead,
                    "reason": reason,
                    "directory": str(directory),
                }
            )
        else:
            click.echo(f"delivered {delivered:,}, left {after.queued:,}")
        if reason is not None:
            _fail(f"not everything was delivered: {reason}")
    return 0


@_cli.command()
@click.option(
    "--identity",
    type=_Text(),
    metavar="NAME",
    help="As given to identify; - reads it from standard input.",
)
@click.option(
    "--user-id", type=_Text(), metavar="DIGITS", help="As an agent calls an anonymous user."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_DIRECTORY
@_APP_ID
@_JSON
def forget(
    identity: str | None, user_id: str | None, yes: bool, as_json: bool, **place: Any
) -> int:
    """
    Erase one user from this device, before it is deleted at Heap.

    Everything recorded of the user until now is deleted: waiting, held and refused
    events, properties, and who is known to be the same person. Otherwise a device
    that was offline would make the deleted user anew. Works beside a running agent.
    What shows in the list of processes is not secret: --identity - reads the name.

    Exit code 1 when the agent that runs did not answer, or the disk refuses.

    \b
    --json: forgotten, events (deleted), directory.
    """
    from heap_agent._status import look
    from heap_agent._store.system import Clock

    if (identity is None) == (user_id is None):
        raise click.UsageError("name the user by --identity or by --user-id, one of them.")
    if identity == "-":
        identity = _read_name()
    loaded = load(place)
    directory = existing(loaded)
    if not yes:
        _confirm_forgetting(directory)

    def purged() -> int:
        return look(directory, loaded.config, Clock(), ()).dropped_by.get("purged", 0)

    before = purged()
    with guest(place, nameless=True) as agent:
        done = agent.forget(identity=identity, user_id=user_id) and not loaded.config.disabled
        events = purged() - before
        if as_json:
            _print_json({"forgotten": done, "events": events, "directory": str(directory)})
        elif done:
            click.echo(f"forgotten; {events:,} events were deleted")
        if loaded.config.disabled:
            _fail("nobody was forgotten: HEAP_AGENT_DISABLED is set")
        if not done and (refusal := agent._store.journal.trouble) is not None:
            _fail(f"nobody was forgotten: the disk refuses ({refusal})")
        if not done:
            _fail(f"on record, but not done yet: {_why_unheard(agent, directory)}")
    return 0


def _read_name() -> str:
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--identity: standard input is no text in UTF-8: {error}") from None
    found: str = _Text().convert(text.rstrip("\r\n"), None, None)
    return found


def _why_unheard(agent: Agent, directory: Path) -> str:
    problems = agent.status().problems
    return _queue_trouble(directory) or (problems[-1] if problems else _UNHEARD)


def _queue_trouble(directory: Path) -> str | None:
    """Why nobody can own the directory: what is there is damaged, or of a newer version."""
    from heap_agent._store import outlook

    trouble = outlook.trouble(directory)
    return None if trouble is None else f"the queue cannot be read: {trouble}"


def _confirm_forgetting(directory: Path) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask; give --yes to forget without asking.")
    click.echo(
        f"Everything in {directory} that was recorded of this user until now is to be deleted, "
        "also what was not sent yet. It cannot be undone.",
        err=True,
    )
    if not click.confirm("Forget this user?", err=True):
        _fail("nobody was forgotten.")


@_cli.command()
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="By default a free one.")
@click.option(
    "--host", type=_Text(), default="127.0.0.1", show_default=True, help="Address to listen on."
)
@_JSON
def collector(port: int, host: str, as_json: bool) -> None:
    """
    Run a strict stand-in for Heap's API, and show what it receives.

    It keeps everything in memory until Ctrl-C. Point an agent at it with endpoint=
    or HEAP_AGENT_ENDPOINT.

    \b
    --json: a line for each thing that arrives; "type" is listening, event, again
    (under a known key), identify, user_properties, account_properties, deletion
    or refused.
    """
    from heap_agent._tools.announce import AnnouncingCollector

    try:
        server = AnnouncingCollector(port, host)
        server.start()
    except OSError as error:
        _fail(f"{host}:{port} cannot be listened on: {error.strerror or error}")
    try:
        if as_json:
            _print_json({"type": "listening", "url": server.url})
        else:
            click.echo(f"listening on {server.url} (Ctrl-C ends it)")
        for news in server.news():
            if as_json:
                _print_json({"type": news.type, **news.fields})
            else:
                click.echo(f"{news.type:<16}{_one_line(news.text)}")
    finally:
        server.close()


for _module in (dead_cli, view_cli, config_cli, seal_cli, bulk_cli, bulk_delete_cli):
    for _command in _module.COMMANDS:
        _cli.add_command(_command)


# -- the agent ----------------------------------------------------------------------------


def _why_not(agent: Agent) -> str | None:
    """
    Why nothing was recorded, where that is somebody's wish; None where it was.
    """
    config = agent._config
    if config.disabled:
        return "HEAP_AGENT_DISABLED is set"
    if config.do_not_track:
        return "DO_NOT_TRACK is set"
    if agent.status().opted_out:
        return "the user has opted out"
    journal = agent._store.journal
    if agent.status().directory is None:
        _fail(f"nothing was recorded: {agent.status().problems[-1]}")
    if journal.trouble is not None:
        _fail(f"nothing was recorded: the disk refuses ({journal.trouble})")
    if journal.refused:
        _fail("the event was dropped: the state directory has reached max_bytes")
    return None


def _why_left(agent: Agent, loaded: _config.Loaded, directory: Path) -> str:
    found = agent.status()
    if loaded.config.disabled:
        return "HEAP_AGENT_DISABLED is set"
    if loaded.config.do_not_track:
        return "DO_NOT_TRACK is set"
    if found.opted_out:
        return "the user has opted out"
    if found.paused:
        return "delivery is paused"
    if found.last_error is not None:
        refused = found.last_error.startswith("misconfigured")
        return found.last_error + "; check app id, endpoint and proxy" * refused
    if found.problems:
        return found.problems[-1]
    if trouble := _queue_trouble(directory):
        return trouble
    return "it has to wait; --timeout gives it longer"


def _who(agent: Agent) -> dict[str, Any]:
    directory = None if agent._config.disabled else agent.status().directory
    return {
        "app_id": agent._config.app_id,
        "user_id": agent.user_id,
        "identity": agent.identity,
        "directory": directory,
    }


def _check_event(event: str, moment: Any) -> None:
    if not event.strip():
        raise ValueError("the event's name is blank; give it one of 1 to 255 characters")
    if moment is not None:
        import time

        from heap_agent._core.repair import repair_timestamp

        _, faults = repair_timestamp(moment, time.time())
        if faults:
            raise ValueError(faults[0].detail)


# -- printing -----------------------------------------------------------------------------


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "?", "!")) else text + "."


def _hang_up() -> int:
    # Whoever read has gone. Python would say so again when it flushes at exit.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1

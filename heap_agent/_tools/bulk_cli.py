"""
The bulk commands of the server-side API.

Whatever is heavy is imported by the command that needs it. This module must not
know how anything is done: it reads what was typed, asks, and prints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from heap_agent._tools import bulk_typed, common
from heap_agent._tools.bulk_rows import Kind, Row, Rows
from heap_agent.exceptions import ApiError

if TYPE_CHECKING:
    from heap_agent._tools.bulk_checkpoint import Checkpoint
    from heap_agent._tools.bulk_run import Run, Totals
    from heap_agent._tools.bulk_source import Source

__all__ = ["COMMANDS"]

_FORMATS: Final = ("jsonl", "csv", "tsv")

#: A time of ISO 8601 without an offset.
_NAIVE: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?", re.ASCII)


@attrs.frozen(slots=True)
class _Verb:
    """What differs between the three bulk commands."""

    name: str
    method: str
    encoder: str
    kind: Kind
    keyed: bool = False


_TRACK: Final = _Verb(
    "bulk-track",
    "bulk_track",
    "encode_event",
    Kind(
        ("event", "identity", "user_id", "timestamp", "idempotency_key", "session_id"),
        (("event",), ("identity", "user_id")),
    ),
    keyed=True,
)
_USERS: Final = _Verb(
    "bulk-user-properties",
    "bulk_add_user_properties",
    "encode_user",
    Kind(("identity",), (("identity",),)),
)
_ACCOUNTS: Final = _Verb(
    "bulk-account-properties",
    "bulk_add_account_properties",
    "encode_account",
    Kind(("account_id",), (("account_id",),)),
)

_BULK: Final = bulk_typed.together(
    bulk_typed.FILE,
    bulk_typed.format_option(*_FORMATS),
    bulk_typed.COLUMN,
    click.option(
        "--property",
        "properties",
        multiple=True,
        metavar="[NAME=]COLUMN",
        help="CSV: a column that becomes a property; by default all that are no field.",
    ),
    click.option(
        "--number",
        "numbers",
        multiple=True,
        metavar="COLUMN",
        help="CSV: a property's column with numbers; by default everything is text.",
    ),
    bulk_typed.DELIMITER,
    click.option("--dry-run", is_flag=True, help="Check every row, and send none."),
    click.option("--repair", is_flag=True, help="Mend faulty values instead of rejecting them."),
    click.option(
        "--rejected",
        type=common.Place(dir_okay=False, path_type=Path),
        metavar="OUTPUT",
        help="File of rejected rows; by default FILE.rejected.jsonl.",
    ),
    click.option(
        "--source",
        type=common.Text(),
        metavar="NAME",
        help="Name of the input in place of the file's path; standard input needs one.",
    ),
    click.option(
        "--checkpoint",
        type=common.Place(dir_okay=False, path_type=Path),
        metavar="DATABASE",
        help="Where to keep the position; by default in the user's state directory.",
    ),
    click.option("--restart", is_flag=True, help="Forget the position: begin with the first row."),
    bulk_typed.PLACE,
    common.AS_JSON,
)


# -- commands ------------------------------------------------------------------------------


@click.command(_TRACK.name)
@click.option(
    "--event", type=common.Text(), metavar="NAME", help="The event of rows that do not say one."
)
@click.option("--utc", is_flag=True, help="Timestamps without an offset are UTC.")
@_BULK
@common.interruptible
def bulk_track(event: str | None, utc: bool, **options: Any) -> int:
    """
    Send a file of events, such as a back-fill, to Heap.

    FILE is JSON Lines or CSV, gzipped or not, or - for standard input. Fields:
    event, identity or user_id, timestamp, idempotency_key, session_id, properties.

    Interrupted at any point, the same command goes on where it was. Rows without
    an idempotency_key get one that depends on the file's path, the line and the event.

    Exit code 1 when a row was rejected, or not everything could be sent.

    \b
    --json: complete, reason (why not, else null), rows, accepted, rejected,
    before (rows that earlier runs have settled), repaired, requests, undated
    (events without a timestamp), rejected_file, checkpoint, dry_run.
    """
    defaults = {} if event is None else {"event": event}
    return _Bulk(_TRACK, options, defaults, utc).run()


@click.command(_USERS.name)
@_BULK
@common.interruptible
def bulk_user_properties(**options: Any) -> int:
    """
    Send a file of user properties to Heap.

    FILE is JSON Lines or CSV, gzipped or not, or - for standard input. Fields:
    identity, properties. The rest is as for bulk-track.
    """
    return _Bulk(_USERS, options).run()


@click.command(_ACCOUNTS.name)
@_BULK
@common.interruptible
def bulk_account_properties(**options: Any) -> int:
    """
    Send a file of account properties to Heap.

    FILE is JSON Lines or CSV, gzipped or not, or - for standard input. Fields:
    account_id, properties. The rest is as for bulk-track.
    """
    return _Bulk(_ACCOUNTS, options).run()


class _Bulk:
    """One bulk command with what was typed."""

    def __init__(
        self,
        verb: _Verb,
        options: dict[str, Any],
        defaults: Mapping[str, str] | None = None,
        utc: bool = False,
    ) -> None:
        self.verb = verb
        self.options = options
        self.defaults = dict(defaults or {})
        self.utc = utc
        self.file: Path = options["file"]
        self.dry: bool = options["dry_run"]
        self.config = bulk_typed.load(options)
        self.source = _source_name(options)
        self.rejected = _rejected_path(options)

    def run(self) -> int:
        """Do it, say how it went, and give the exit code."""
        from heap_agent._tools import bulk_rejected, bulk_run
        from heap_agent._tools.bulk_checkpoint import CheckpointTrouble
        from heap_agent._tools.bulk_progress import meter
        from heap_agent._tools.bulk_rejected import RejectedFile
        from heap_agent._tools.bulk_source import open_source

        with ExitStack() as stack:
            source = stack.enter_context(open_source(bulk_typed.path_of(self.file)))
            rows, shape = self._rows(source)
            try:
                checkpoint = None if self.dry else stack.enter_context(self._checkpoint())
                if checkpoint is not None and self.options["restart"]:
                    checkpoint.restart()
                rejected = None if self.rejected is None else RejectedFile(self.rejected)
                if rejected is not None:
                    stack.callback(rejected.close)
                run = bulk_run.Run(
                    rows,
                    self._complete,
                    shape=shape,
                    rejected=rejected,
                    checkpoint=checkpoint,
                    observer=stack.enter_context(meter(source, self.verb.name)),
                )
                run.resume()
                if rejected is not None and rejected.set_aside is not None:
                    common.note(f"{rejected.path} held rows; they are in {rejected.set_aside} now")
            except bulk_run.ChangedSource as error:
                common.fail(_changed(self.file, str(error), self.verb.keyed))
            except (CheckpointTrouble, bulk_rejected.ChangedFile) as error:
                common.fail(str(error))
            outcome = self._go(run, source)
        return self._report(run.totals, outcome, None if checkpoint is None else checkpoint.path)

    def _go(self, run: Run, source: Source) -> _Outcome:
        from heap_agent._tools.bulk_checkpoint import CheckpointTrouble

        outcome = _Outcome()
        try:
            if self.dry:
                run.check(self._check())
            else:
                with bulk_typed.sharing_client(self.config) as client:
                    verb = getattr(client, self.verb.method)
                    result = run.send(verb, repair=self.options["repair"])
                outcome = _Outcome(repaired=result.repaired, requests=result.requests)
        except KeyboardInterrupt as interruption:
            return _Outcome("interrupted", code=common.ended_by(interruption))
        except ApiError as error:
            sent = error.result
            return _Outcome(
                str(error).rstrip("."),
                repaired=getattr(sent, "repaired", 0),
                requests=getattr(sent, "requests", 0),
            )
        except (CheckpointTrouble, OSError) as error:
            return _Outcome(str(error).rstrip("."))
        if source.problem is not None:
            return attrs.evolve(outcome, reason=f"{self.file} cannot be read on: {source.problem}")
        return outcome

    def _rows(self, source: Source) -> tuple[Rows, str]:
        """The rows, and text that changes when the same bytes would become other items."""
        rows = bulk_typed.read_rows(source, self.options, self.verb.kind, _FORMATS, self.defaults)
        return rows, rows.shape + " utc" * self.utc

    def _complete(self, row: Row, item: dict[str, Any]) -> dict[str, Any]:
        from heap_agent._tools.bulk_keys import row_key

        more: dict[str, Any] = {}
        when = item.get("timestamp")
        if self.utc and isinstance(when, str) and _NAIVE.fullmatch(when.strip()):
            more["timestamp"] = when.strip() + "Z"
        if self.verb.keyed and item.get("idempotency_key") is None:
            app_id = str(self.config.app_id)
            more["idempotency_key"] = row_key(app_id, self.source, row.number, item)
        return {**item, **more}

    def _check(self) -> Callable[[Mapping[str, Any]], object]:
        from heap_agent._server import items

        encode = getattr(items, self.verb.encoder)
        refused = bulk_typed.settings(self.config).refused
        return lambda item: encode(item, repair=self.options["repair"], refused=refused)

    @contextmanager
    def _checkpoint(self) -> Iterator[Checkpoint]:
        from heap_agent._tools.bulk_checkpoint import Job, default_path, open_checkpoint

        endpoint = self.config.base_url
        job = Job(self.verb.name, str(self.config.app_id), endpoint, self.source)
        path = self.options["checkpoint"] or default_path(job)
        if path is None:
            raise click.UsageError("this user has no home directory; give --checkpoint.")
        with open_checkpoint(Path(os.path.abspath(path)), job) as checkpoint:
            yield checkpoint

    def _report(self, totals: Totals, outcome: _Outcome, checkpoint: Path | None) -> int:
        kept = self.rejected if totals.rejected and self.rejected else None
        if self.options["as_json"]:
            common.print_json(
                {
                    "complete": not outcome.reason,
                    "reason": outcome.reason or None,
                    "rows": totals.rows,
                    "accepted": totals.accepted,
                    "rejected": totals.rejected,
                    "before": totals.before,
                    "repaired": outcome.repaired,
                    "requests": outcome.requests,
                    "undated": totals.undated if self.verb.keyed else 0,
                    "rejected_file": None if kept is None else str(kept),
                    "checkpoint": None if checkpoint is None else str(checkpoint),
                    "dry_run": self.dry,
                }
            )
        else:
            click.echo(self._summary(totals, outcome))
        if self.verb.keyed and totals.undated:
            common.note(
                f"{totals.undated:,} of the events have no timestamp: for Heap they happen at the "
                "moment of sending"
            )
        if outcome.reason:
            again = "" if self.dry else "; the same command goes on from there"
            sentence = f"{outcome.reason}: {totals.rows:,} rows are done{again}."
            return common.complain(sentence, outcome.code)
        if totals.rejected:
            return common.complain(_rejection(totals, kept), 1)
        return 0

    def _summary(self, totals: Totals, outcome: _Outcome) -> str:
        numbers = f"accepted {totals.accepted:,}, rejected {totals.rejected:,}"
        if self.dry:
            return f"would be {numbers}; nothing was sent"
        if totals.before and totals.before == totals.rows and not outcome.reason:
            return f"everything was sent already: {numbers}"
        return numbers + (f" ({totals.before:,} rows by earlier runs)" if totals.before else "")


@attrs.frozen(slots=True)
class _Outcome:
    """How a run ended; `reason` is why it is not complete, or ""."""

    reason: str = ""
    repaired: int = 0
    requests: int = 0
    code: int = 1


def _rejection(totals: Totals, kept: Path | None) -> str:
    sentence = f"{totals.rejected:,} of {totals.rows:,} rows were rejected"
    if totals.first is not None:
        sentence += f", the first of this run on line {totals.first[0]:,} ({totals.first[1]})"
    return sentence + ("." if kept is None else f"; they are in {kept}, to be mended and sent.")


def _changed(file: Path, what: str, keyed: bool) -> str:
    twice = (
        "; events that stand on another line now, or are others by these options, count anew "
        "then, unless they bring an idempotency_key"
        if keyed
        else ""
    )
    return (
        f"{file} is not what was sent before: {what}. To send it from its first row, "
        f"give --restart{twice}."
    )


COMMANDS: Final[tuple[click.Command, ...]] = (
    bulk_track,
    bulk_user_properties,
    bulk_account_properties,
)


# -- what was typed ------------------------------------------------------------------------


def _source_name(options: Mapping[str, Any]) -> str:
    """What a job is called: the file's real path, or what was typed."""
    name = options["source"]
    if name is not None:
        if not name.strip():
            raise click.UsageError("--source: the name is blank.")
        return str(name)
    path = bulk_typed.path_of(options["file"])
    if path is not None and path.is_file():
        return os.path.realpath(path)
    if options["dry_run"]:
        return "-"
    raise click.UsageError(
        "a stream has no name to go on under: give --source NAME, another one for other rows."
    )


def _rejected_path(options: Mapping[str, Any]) -> Path | None:
    chosen, file = options["rejected"], bulk_typed.path_of(options["file"])
    if chosen is None and options["dry_run"]:
        return None
    if chosen is None:
        whole = file is not None and file.is_file()
        stem = str(file) if whole else re.sub(r"[^\w.-]+", "_", options["source"])
        chosen = Path(f"{stem}.rejected.jsonl")
    path = Path(os.path.abspath(chosen))
    if file is not None and os.path.realpath(path) == os.path.realpath(file):
        raise click.UsageError("--rejected: that is FILE itself; give another one.")
    if not path.parent.is_dir():
        raise click.UsageError(f"--rejected: there is no directory {path.parent}.")
    return path

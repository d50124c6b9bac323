"""
The commands that delete users.

Whatever is heavy is imported by the command that needs it. This module must not
know how anything is done: it reads what was typed, asks, and prints.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from heap_agent._options import DURATION_MAXIMUM
from heap_agent._tools import bulk_typed, common
from heap_agent.exceptions import ApiError

if TYPE_CHECKING:
    from heap_agent._tools.bulk_deletion import Audit, Reading, User
    from heap_agent.server import DeletionRequest, ServerClient

__all__ = ["COMMANDS"]

_FORMATS: Final = ("jsonl", "csv", "tsv", "text")

#: Faults of a file that are shown; the number of the others is told.
_SHOWN: Final = 5


@click.command("delete-users")
@bulk_typed.FILE
@bulk_typed.format_option(*_FORMATS)
@bulk_typed.COLUMN
@bulk_typed.DELIMITER
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--wait", is_flag=True, help="Return when Heap has deleted everybody.")
@click.option(
    "--timeout",
    type=common.Seconds(0, DURATION_MAXIMUM),
    default=3_600.0,
    show_default=True,
    metavar="SECONDS",
    help="With --wait: wait no longer than this.",
)
@click.option(
    "--audit",
    type=common.Place(dir_okay=False, path_type=Path),
    metavar="RECORD",
    help="Append to this file who was deleted, when, and Heap's answer.",
)
@bulk_typed.API_KEY_FILE
@bulk_typed.PLACE
@common.AS_JSON
@common.interruptible
def delete_users(**options: Any) -> int:
    """
    Delete users, and all that Heap knows of them, for ever.

    FILE is JSON Lines or CSV with identity or user_id, text with one identity a
    line, or - for standard input. All of it is checked before anything is sent. Heap
    searches every environment of the account; only the id of its Main Production
    environment and its api key may ask.

    A device that still holds events of a deleted user would create them anew: let
    it `heap-agent forget` first.

    \b
    --json: complete (with --wait: all deleted), reason (or null), users, accepted
    (users in accepted requests), requests (id, status, users).
    """
    return _Deletion(options).run()


@click.command("deletion-status")
@click.argument("id", type=common.Text())
@bulk_typed.API_KEY_FILE
@bulk_typed.PLACE
@common.AS_JSON
@common.interruptible
def deletion_status(id: str, as_json: bool, api_key_file: Path | None, **options: Any) -> int:
    """
    Say how far Heap has come with a deletion request.

    \b
    --json: id, status (pending or complete).
    """
    config = bulk_typed.load(options)
    with bulk_typed.client(config, bulk_typed.api_key(api_key_file)) as client:
        try:
            status = client.deletion_status(id)
        except ApiError as error:
            common.fail(str(error))
    if as_json:
        common.print_json({"id": id, "status": status})
    else:
        click.echo(common.one_line(status))
    return 0


class _Deletion:
    """The command delete-users with what was typed."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.file: Path = options["file"]
        self.config = bulk_typed.load(options)
        self.requests: list[DeletionRequest] = []
        self.accepted = 0

    def run(self) -> int:
        """Do it, say how it went, and give the exit code."""
        from heap_agent._tools.bulk_deletion import Audit

        found = self._read()
        if not found.users:
            return self._report(0, "")
        self._confirm(found)
        key = bulk_typed.api_key(self.options["api_key_file"])
        audit = Audit(self.options["audit"], str(self.config.app_id), _now)
        try:
            return self._report(len(found.users), self._go(found.users, key, audit))
        except KeyboardInterrupt as interruption:
            self._report(len(found.users), "interrupted")
            return common.ended_by(interruption)
        finally:
            audit.close()

    def _read(self) -> Reading:
        from heap_agent._tools.bulk_deletion import USERS, read_users
        from heap_agent._tools.bulk_source import open_source

        with open_source(bulk_typed.path_of(self.file)) as source:
            rows = bulk_typed.read_rows(source, self.options, USERS, _FORMATS)
            found = read_users(rows)
            if source.problem is not None:
                common.fail(f"{self.file}: {source.problem}; nobody was deleted.")
        for line, reason in found.faults[:_SHOWN]:
            click.echo(f"  line {line:,}: {common.one_line(reason)}", err=True)
        if found.faults:
            common.fail(
                f"{len(found.faults):,} of {found.rows:,} rows name nobody; nobody was deleted."
            )
        return found

    def _confirm(self, found: Reading) -> None:
        if self.options["yes"]:
            return
        if bulk_typed.path_of(self.file) is None or not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask; give --yes to delete without asking.")
        click.echo(
            f"{found.count('identity'):,} identities and {found.count('user_id'):,} user_ids are "
            f"to be deleted, asked for by app id {self.config.app_id}. ALL environments of the "
            "account are searched, and it cannot be undone. Devices that still hold events of "
            "these users should `heap-agent forget` them first, or they come back.",
            err=True,
        )
        if not click.confirm("Delete them?", err=True):
            common.fail("nobody was deleted.")

    def _go(self, users: Sequence[User], key: str, audit: Audit) -> str:
        """Why it is not complete, or ""."""
        from heap_agent._tools.bulk_deletion import AuditTrouble, delete
        from heap_agent._tools.bulk_progress import spinner

        with bulk_typed.client(self.config, key) as client:
            try:
                with spinner("asking Heap to delete"):
                    for request, count in delete(client, users, audit):
                        self.requests.append(request)
                        self.accepted += count
                if self.options["wait"]:
                    with spinner("waiting for Heap to delete"):
                        self._wait(client, audit)
            except (ApiError, AuditTrouble) as error:
                return str(error).rstrip(".")
        return ""

    def _wait(self, client: ServerClient, audit: Audit) -> None:
        import time

        deadline = time.monotonic() + self.options["timeout"]
        for index, request in enumerate(self.requests):
            left = max(0.0, deadline - time.monotonic())
            done = client.wait_for_deletion(request, timeout=left)
            self.requests[index] = attrs.evolve(request, status=done.status)
            audit.write(done.id, done.status)

    def _report(self, users: int, reason: str) -> int:
        if self.options["as_json"]:
            common.print_json(
                {
                    "complete": not reason,
                    "reason": reason or None,
                    "users": users,
                    "accepted": self.accepted,
                    "requests": [
                        {"id": one.id, "status": one.status, "users": one.users}
                        for one in self.requests
                    ],
                }
            )
        else:
            click.echo(f"accepted for deletion: {self.accepted:,} of {users:,} users")
            for one in self.requests:
                click.echo(common.one_line(f"  {one.id} {one.status}"))
        if reason:
            sentence = f"{reason}; {self.accepted:,} of {users:,} users are accepted for deletion."
            return common.complain(sentence, 1)
        return 0


COMMANDS: Final[tuple[click.Command, ...]] = (delete_users, deletion_status)


def _now() -> datetime:
    return datetime.now(timezone.utc)

"""
Versions of the package that are still to come: each has one more migration, which moves
all rows of the queue into a new table and counts itself.

    updates.know(3)

changes the process that it is called in.
"""

from __future__ import annotations

from typing import Any, Final

from heap_agent._store import database
from heap_agent._store.database import MIGRATIONS

_QUEUE: Final = next(part for part in MIGRATIONS[0].split(";") if "CREATE TABLE entry " in part)

MIGRATION: Final = f"""
{_QUEUE.replace("TABLE entry ", "TABLE moved ")};
INSERT INTO moved SELECT * FROM entry;
DROP TABLE entry;
ALTER TABLE moved RENAME TO entry;
INSERT INTO memo VALUES ('migrated', '1')
    ON CONFLICT (name) DO UPDATE SET value = CAST(value + 1 AS TEXT)
"""


def know(version: int) -> None:
    """
    Be of the version that brought this schema.
    """
    MIGRATIONS.update(dict.fromkeys(range(1, version), MIGRATION))
    changed: Any = database
    changed.SCHEMA_VERSION = version

"""
The process that the demo kills: records as fast as it can, and says so.

    python -m heap_agent._tools.demo_recorder DIRECTORY ENDPOINT RUN COUNT

After each `track` that has returned its number goes to standard output, as four
bytes. A COUNT of 0 records until the process is killed; any other identifies
the visitor first, and delivers everything at the end.

This module must not know what becomes of it.
"""

from __future__ import annotations

import os
import sys
from itertools import count, islice
from typing import Final

from heap_agent import Agent

__all__ = ["APP_ID", "EVENT", "IDENTITY", "NOT_DELIVERED", "NUMBER_BYTES"]

APP_ID: Final = "11"
EVENT: Final = "Button Pressed"
IDENTITY: Final = "alice@example.com"
NUMBER_BYTES: Final = 4

#: Exit code where something was left; 1 is that of an exception.
NOT_DELIVERED: Final = 3

#: Seconds to deliver everything in.
_PATIENCE: Final = 60.0


def main() -> int:
    """
    Record, and tell of each call that has returned.

    Returns:
        The exit code.
    """
    directory, endpoint, run, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    agent = Agent(
        APP_ID,
        directory=directory,
        endpoint=endpoint,
        # Often enough that the kill may well meet a delivery attempt.
        interval=0.2,
        # They guard Heap's limits; this collector is our own.
        identity_budget=None,
        app_budget=None,
        # Whatever this machine is configured for, this is not the kiosk.
        disabled=False,
        do_not_track=False,
        at_exit=False,
    )
    if number:
        agent.identify(IDENTITY)
        agent.add_user_properties({"Favourite": "Furby"})
    stdout = sys.stdout.fileno()
    for n in islice(count(), number or None):
        agent.track(EVENT, {"run": run, "n": n})
        os.write(stdout, n.to_bytes(NUMBER_BYTES, "little"))
    delivered = agent.flush(_PATIENCE)
    agent.shutdown()
    return 0 if delivered else NOT_DELIVERED


if __name__ == "__main__":
    sys.exit(main())

"""
An agent that records the numbers that it is told, one a line, until its input ends.

    timed.py DIRECTORY ENDPOINT [MUTANT]

answers each with a line `number wall-clock`, as it saw the clock when `track` had returned.
The line `flush` is answered when everything has been delivered.
"""

import sys
import time

from heap_agent import Agent

directory, endpoint, *mutant = sys.argv[1:]
if mutant:
    import mutants

    mutants.apply(*mutant)

with Agent(
    "11",
    directory=directory,
    endpoint=endpoint,
    interval=0.3,
    identity_budget=None,
    app_budget=None,
) as agent:
    for line in sys.stdin:
        if line == "flush\n":
            print("flushed", agent.flush(timeout=30), flush=True)
            continue
        agent.track("Recorded", {"number": int(line)})
        print(int(line), time.time(), flush=True)

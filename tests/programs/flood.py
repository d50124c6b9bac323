"""
A program that records as fast as it can, far more than may be kept.

    flood.py DIRECTORY MAX_BYTES COUNT

In the end it prints what it has kept, as a line of JSON.
"""

import json
import sys
import time

from heap_agent import Agent

directory, max_bytes, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Agent("11", directory=directory, max_bytes=max_bytes, endpoint="http://127.0.0.1:9") as agent:
    for number in range(count):
        agent.track("E", {"number": number, "text": "x" * 200})
    time.sleep(2)  # for the keeper to have its turn
    store = agent._store
    store.absorb(freeze=False)
    assert store.ledger is not None
    rows = store.ledger.database.query("SELECT body FROM entry ORDER BY id")
    found = agent.status()
    print(
        json.dumps(
            {
                "queued": found.queued,
                "dropped_by": dict(found.dropped_by),
                "problems": agent.check(),
                "numbers": [json.loads(body)["properties"]["number"] for (body,) in rows],
            }
        )
    )

"""
A program whose files may not grow beyond a limit, for a while.

    limited.py DIRECTORY ENDPOINT

Records 2,000 events under RLIMIT_FSIZE, lifts the limit, records 100 more, and
prints the status as JSON once everything is on disk or delivered.
"""

import json
import resource
import signal
import sys
import time

from heap_agent import Agent

directory, endpoint = sys.argv[1:3]
# Python ignores SIGXFSZ by itself; a host program that does not is its own master.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
agent = Agent("11", directory=directory, endpoint=endpoint, interval=3600, app_budget=None)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
for number in range(2_000):
    agent.track("E", {"number": number})
limited = agent.status().storage
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
deadline = time.monotonic() + 30
while agent.status().storage != "disk" and time.monotonic() < deadline:
    time.sleep(0.05)
for number in range(2_000, 2_100):
    agent.track("E", {"number": number})
found = agent.status()
print(json.dumps({"limited": limited, "storage": found.storage, "recorded": found.recorded}))
agent.shutdown(0)

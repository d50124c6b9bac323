"""
A program that records as fast as it can, far more than may be kept.

    flood.py DIRECTORY MAX_BYTES COUNT
"""

import sys
import time

from heap_agent import Agent

directory, max_bytes, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Agent("11", directory=directory, max_bytes=max_bytes, endpoint="http://127.0.0.1:9") as agent:
    for number in range(count):
        agent.track("E", {"number": number, "text": "x" * 200})
    time.sleep(2)  # for the keeper to have its turn

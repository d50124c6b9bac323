"""
A program with an agent that does what it is told, a line at a time.

    puppet.py DIRECTORY ENDPOINT

Each line on standard input is a Python expression over `agent`; its value is
answered as a line of JSON.
"""

import json
import logging
import sys

from heap_agent import Agent

# Shown with the test that fails.
logging.basicConfig(level=logging.WARNING)
directory, endpoint = sys.argv[1:3]
agent = Agent("11", directory=directory, endpoint=endpoint, interval=0.2)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    print(json.dumps(eval(line), default=str), flush=True)
agent.shutdown()

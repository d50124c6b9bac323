"""
Lives of agents on one directory, one after another, most of which end in the middle.

    lives.py DIRECTORY MARKS BYTES SHIM [MUTANT]

For each line `FIRST EVENTS CALLS` on standard input a child lives `workload.Life`, and is
killed when it has made so many calls to the disk. Its exit status is answered.
"""

import ctypes
import os
import sys

import mutants
from workload import Life

directory, marks, size, shim, *mutant = sys.argv[1:]
for name in mutant:
    mutants.apply(name)
die_after = ctypes.CDLL(shim).die_after

for line in sys.stdin:
    first, events, calls = map(int, line.split())
    child = os.fork()
    if child == 0:
        die_after(calls)
        Life(directory, marks, int(size), first).run(events)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)

"""
A program that records, and writes down each call that has returned.

    recorder.py DIRECTORY ENDPOINT ACKNOWLEDGED FIRST COUNT [MODE]

For each event a line with its number, of nine digits, is appended to ACKNOWLEDGED
after `track` has returned while the storage was the disk. MODE is one of

    stay      go on living after the last event (the default is to exit)
    hard      leave by os._exit, without a word to the agent
    fork      record half in a child of a fork that leaves by os._exit
    orphan    like fork, but the parent leaves first
    daemon    fork twice, as daemons do, and record all in the grandchild
    threads   record in eight threads
    handler   end by SIGTERM, in a handler that shuts the agent down
"""

import os
import signal
import sys
import threading
import time
import warnings

from heap_agent import Agent

# From 3.12 on Python says this of every program that forks beside a thread.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

directory, endpoint, acknowledged = sys.argv[1:4]
first, count = int(sys.argv[4]), int(sys.argv[5])
mode = sys.argv[6] if len(sys.argv) > 6 else ""

fd = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
# Whoever came before may have been killed in the middle of a line.
os.write(fd, b"\n")
agent = Agent(
    "11",
    directory=directory,
    endpoint=endpoint,
    interval=0.2,
    # A program that records as fast as it can overruns the default, and the oldest are dropped.
    max_bytes=1 << 30,
    identity_budget=None,
    app_budget=None,
)


def record(begin: int, end: int) -> None:
    for number in range(begin, end):
        agent.track("Recorded", {"number": number, "mode": mode or "plain"})
        os.write(fd, b"%09d\n" % number)
        if not number % 50:
            # So that a fast machine does not record more than a strict server reads.
            time.sleep(0.002)


def end(*_: object) -> None:
    agent.shutdown(0.2)
    os._exit(0)


half = first + count // 2
if mode == "handler":
    signal.signal(signal.SIGTERM, end)
if mode in ("fork", "orphan"):
    agent.track("Before The Fork")
    child = os.fork()
    if child == 0:
        if mode == "orphan":
            time.sleep(0.2)
        record(half, first + count)
        os._exit(0)
    record(first, half)
    if mode == "orphan":
        os._exit(0)
    os.waitpid(child, 0)
elif mode == "daemon":
    for _ in range(2):
        if os.fork():
            os._exit(0)
        os.setsid()
    record(first, first + count)
elif mode == "threads":
    share = count // 8
    threads = [
        threading.Thread(target=record, args=(first + n * share, first + (n + 1) * share))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
else:
    record(first, first + count)

print("recorded", flush=True)
if mode == "hard":
    os._exit(0)
if mode == "stay":
    time.sleep(600)

"""
A program that lives through all that an agent writes, and tells the mode of each file that
its directory ever had, as JSON.

    life.py DIRECTORY UMASK

The umask is octal. A second process (GUEST as a third argument) records while the first one,
which owns the directory, is stopped, until it has to refuse: only then there is a tally.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

from heap_agent import Agent

directory, umask = sys.argv[1:3]
os.umask(int(umask, 8))
modes: dict[str, set[str]] = {}
over = threading.Event()


def look() -> None:
    """Note what is there now."""
    try:
        found = list(os.scandir(directory))
        modes.setdefault("", set()).add(oct(os.stat(directory).st_mode & 0o7777))
    except FileNotFoundError:
        return
    for entry in found:
        try:
            mode = oct(entry.stat(follow_symlinks=False).st_mode & 0o7777)
        except FileNotFoundError:
            continue
        modes.setdefault(entry.name, set()).add(mode)


def watch() -> None:
    while not over.wait(0.0005):
        look()


def agent() -> Agent:
    return Agent("11", directory=directory, endpoint="http://127.0.0.1:9", max_bytes=1 << 22)


def guest() -> None:
    with agent() as visitor:
        visitor.track("Visited")
        os.kill(os.getppid(), signal.SIGSTOP)
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end and not any(n.endswith(".tally") for n in modes):
                for _ in range(500):
                    visitor.track("Flood", {"text": "x" * 500})
                look()
        finally:
            os.kill(os.getppid(), signal.SIGCONT)


watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
if len(sys.argv) > 3:
    guest()
else:
    with agent() as owner:
        owner.track("Ordered")
        owner.identify("ann")
        owner.add_user_properties({"plan": "gold"})
        for _ in range(4_000):
            owner.track("Large", {"text": "x" * 300})
        owner.sync()
        time.sleep(1.5)
        subprocess.run([sys.executable, __file__, directory, umask, "GUEST"], check=True)
        owner.opt_out(purge=False)
        time.sleep(1.5)
        look()
        owner.opt_in()
        owner.track("Again")
        owner.status()
over.set()
watcher.join()
look()
if len(sys.argv) > 3:
    with open(directory + ".guest", "w") as file:
        json.dump({name: sorted(found) for name, found in modes.items()}, file)
else:
    with open(directory + ".guest") as file:
        for name, found in json.load(file).items():
            modes.setdefault(name, set()).update(found)
    print(json.dumps({name: sorted(found) for name, found in modes.items()}))

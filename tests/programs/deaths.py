"""
Families of processes on one directory, whose members are killed at their calls to the disk.

    deaths.py DIRECTORY MARKS SHIM [MUTANT]

For each line `FORM FIRST EVENTS CALLS OTHER` on standard input a family lives. Its members
record so many events each, numbered from FIRST and from FIRST + 500 on. One is killed after
CALLS calls, another after OTHER. Answered is how many were killed, once all have ended; 99
where one has failed. FORM is one of

    beside    an owner, and another process that takes over when it is gone
    child     the child of a fork dies, and then its parent
    orphan    the parent dies after the fork, and the child takes over
    daemon    both parents leave after their forks, and the grandchild dies
    crowded   the directory is full, and the oldest events are dropped
    update    an agent of schema OTHER opens what older ones have left
"""

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from socketserver import ThreadingMixIn

import mutants
import updates
from workload import Life, Marks, Server

# From 3.12 on Python says this of every program that forks beside a thread.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

directory, marks, shim, *mutant = sys.argv[1:]
for name in mutant:
    mutants.apply(name)
die_after = ctypes.CDLL(shim).die_after

#: Where nobody answers.
NOWHERE = "http://127.0.0.1:9"

#: Answered where one has failed: more than a family has members.
FAILED = 99

#: Orphans become children of the process that calls this (linux/prctl.h).
PR_SET_CHILD_SUBREAPER = 36

#: Seconds after which whoever still lives hangs.
PATIENCE = 60


class Outlasting(ThreadingMixIn, Server):
    """A server that outlives its clients, also those that die in the middle of a request."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Whoever died does not mind."""
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            traceback.print_exc()


def serve() -> tuple[int, str]:
    """Start the server, in a process of its own: what forks must have no threads."""
    told, telling = os.pipe()
    process = os.fork()
    if not process:
        server = Outlasting(Marks(marks))
        os.write(telling, b"%d\n" % server.server_port)
        signal.pause()
    with open(told, "rb") as port:
        return process, f"http://127.0.0.1:{int(port.readline())}"


class Ending:
    """
    Lets one process wait until another has begun, and until it has ended, however that went.
    """

    def __init__(self) -> None:
        self._told, telling = os.pipe()
        self._telling: int | None = telling

    def begun(self) -> None:
        """The one is under way."""
        assert self._telling is not None
        os.write(self._telling, b"!")

    def until_begun(self) -> None:
        """The other waits until the one is under way, or has ended."""
        self._listen()
        os.read(self._told, 1)

    def until_ended(self) -> None:
        """The other waits until the one has ended."""
        self._listen()
        while os.read(self._told, 1):
            pass

    def _listen(self) -> None:
        if self._telling is not None:
            os.close(self._telling)
            self._telling = None


def fork(live: Callable[[], None]) -> int:
    """Have a child live, and end."""
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE)
        try:
            live()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def born(first: int) -> Life:
    """An agent that delivers to the server of all."""
    return Life(directory, marks, 3_000, first, endpoint=endpoint)


def live_on(life: Life, events: int) -> None:
    """Record and deliver until the end."""
    life.track(events)
    life.agent.flush(10)
    life.track(events)
    life.sync()
    life.agent.flush(10)
    life.track(2)
    life.agent.shutdown(0)


def beside(first: int, events: int, calls: int, other: int) -> None:
    ending = Ending()

    def own() -> None:
        die_after(calls)
        life = born(first)
        ending.begun()
        live_on(life, events)

    def inherit() -> None:
        ending.until_begun()
        life = born(first + 500)
        life.track(events)
        ending.until_ended()
        die_after(other)
        live_on(life, events)

    fork(own)
    fork(inherit)


def child(first: int, events: int, calls: int, other: int) -> None:
    life = born(first)
    life.track(events)
    life.agent.flush(10)

    def grow_up() -> None:
        die_after(calls)
        life.go_on_from(first + 500)
        life.track(events)
        life.sync()
        life.track(events)
        life.agent.shutdown(0)

    process = fork(grow_up)
    die_after(other)
    life.track(events)
    # Not taken from whoever counts the dead.
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    live_on(life, events)


def orphan(first: int, events: int, calls: int, other: int) -> None:
    life = born(first)
    life.track(events)
    life.agent.flush(10)
    ending = Ending()

    def grow_up() -> None:
        life.go_on_from(first + 500)
        life.track(events)
        ending.until_ended()
        die_after(other)
        live_on(life, events)

    fork(grow_up)
    die_after(calls)
    live_on(life, events)


def daemon(first: int, events: int, calls: int, other: int) -> None:
    life = born(first)
    life.track(other % 3)

    def run() -> None:
        die_after(calls)
        live_on(life, events)

    def leave() -> None:
        os.setsid()
        fork(run)

    fork(leave)


def crowded(first: int, events: int, calls: int, other: int) -> None:
    die_after(calls)
    life = Life(directory, marks, 7_000, first, endpoint=NOWHERE)
    life.track(events)
    life.agent.flush()
    life.track(events)
    life.agent.shutdown(0)


def update(first: int, events: int, calls: int, other: int) -> None:
    updates.know(other)
    die_after(calls)
    life = Life(directory, marks, 700, first, endpoint=NOWHERE)
    life.track(events)
    life.agent.flush()
    life.agent.shutdown(0)


FORMS = {form.__name__: form for form in (beside, child, orphan, daemon, crowded, update)}


def bury() -> int:
    """Wait until all have ended. Returns how many were killed, FAILED if one ended otherwise."""
    killed = 0
    while True:
        try:
            _, status = os.wait()
        except ChildProcessError:
            return killed
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
        elif status:
            return FAILED


def live_and_die(form: str, *numbers: int) -> int:
    """Have a family live, under somebody to whom its orphans fall. Returns what `bury` does."""
    head = os.fork()
    if not head:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        fork(lambda: FORMS[form](*numbers))
        os._exit(bury())
    _, status = os.waitpid(head, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else FAILED


server, endpoint = serve()
try:
    for line in sys.stdin:
        form, *words = line.split()
        print(live_and_die(form, *map(int, words)), flush=True)
finally:
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)

"""
What is lost: programs that record while things go wrong, and what of it has
arrived at the server in the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path

import attrs

from benchmarks.losses_client import CALLS_SECONDS, End, Report
from benchmarks.losses_contestants import AGENT, contestants
from benchmarks.losses_scenarios import FULL, SHORTENED, Scenario, scenarios
from benchmarks.losses_server import DOWN, FINE, Server
from benchmarks.tables import Row
from heap_agent._config import Config
from heap_agent._status import look
from heap_agent._store.system import Clock

TITLE = "losses: events that arrived, of those recorded"

COMPARES = True

#: Set to anything, this environment variable has outages and patience shortened.
QUICK = "HEAP_AGENT_BENCH_QUICK"

#: Seconds in which a program that is over has to be gone.
EXIT_SECONDS = 30.0

#: Seconds without an arrival after which a program is ended that was started once more:
#: longer than anybody's interval, and than Glean's limit of requests a minute lasts.
RESTART_PATIENCE = 65

#: Programs that run at once: those that live on, and mostly wait, and those that end,
#: often in a race with their client. The outages are all at once.
LIVING, ENDING = 20, 2

#: Seconds for each other client before those start that end: where dozens of programs
#: begin at once, nobody wins a race.
SETTLING = 4

_ROOT = Path(__file__).parent.parent

#: The package under test comes first, and the benchmarks after it.
_PROGRAM = (
    f"import sys; sys.path.append({str(_ROOT)!r})\n"
    "from benchmarks.losses_client import main\n"
    "main()"
)

#: What a program that is started once more does: nothing by itself.
_RESTART = Scenario(name="started again", events=0, end=End.STAY)


@attrs.frozen(kw_only=True)
class Outcome:
    """
    What came of a scenario for one contestant.

    Attributes:
        report: What the program said of its calls; None: it was held up in one, or died.
        lived: Different events that had arrived while the program lived, …
        ended: … when it was gone, …
        restarted: … and when it had been started once more, where any were missing.
        twice: Events that have arrived under two keys.
        troubled: Requests that met the trouble.
        exit_seconds: That it took to end; None: it was killed.
        books: What is wrong with the agent's own account; None: nothing, or it keeps none.
    """

    report: Report | None
    lived: int
    ended: int
    restarted: int
    twice: int
    troubled: int
    exit_seconds: float | None
    books: str | None


def run() -> list[Row]:
    """
    Play everything with everybody who is installed.
    """
    lengths = SHORTENED if os.environ.get(QUICK) else FULL
    return table(scenarios(lengths), contestants())


def table(chosen: Sequence[Scenario], names: Sequence[str]) -> list[Row]:
    """
    Play these scenarios with these contestants.

    Returns:
        A row for each scenario.
    """
    outcomes = play_all(chosen, names)
    return [
        {
            "scenario": scenario.name,
            "recorded": scenario.events,
            **{name: cell(scenario, outcomes[scenario, name]) for name in names},
        }
        for scenario in chosen
    ]


def play_all(
    chosen: Sequence[Scenario], names: Sequence[str]
) -> dict[tuple[Scenario, str], Outcome]:
    """
    Side by side, as far as they wait: the outages all at once, the others in turns.
    """
    living = [one for one in chosen if one.end is End.STAY]
    ending = [one for one in chosen if one not in living]
    outages = [one for one in living if one.server == DOWN]
    others = [one for one in living if one not in outages]
    everything = len(outages) * len(names)
    with ExitStack() as stack:
        futures: dict[tuple[Scenario, str], Future[Outcome]] = {}
        for group, at_once in ((outages, everything), (others, LIVING), (ending, ENDING)):
            pool = stack.enter_context(ThreadPoolExecutor(at_once or 1))
            if group is ending:
                time.sleep(SETTLING * (len(names) - 1))
            for scenario in group:
                for name in names:
                    futures[scenario, name] = pool.submit(play, scenario, name)
        return {pair: future.result() for pair, future in futures.items()}


def play(scenario: Scenario, contestant: str) -> Outcome:
    """
    Play one scenario with one contestant, and count at the server.
    """
    with ExitStack() as stack:
        # Whoever was killed may have children that still write there.
        place = tempfile.TemporaryDirectory(prefix="heap-agent-bench-", ignore_cleanup_errors=True)
        base = Path(stack.enter_context(place))
        server = Server(scenario.server)
        stack.callback(server.close)
        program = _Program(contestant, server.url, base, scenario)
        report = program.report()
        if scenario.seconds is not None:
            time.sleep(scenario.seconds)
            server.behave(FINE)
            server.wait_for(scenario.events, scenario.patience)
        lived = server.arrived
        exit_seconds = program.end(EXIT_SECONDS if report else 1.0)
        ended = server.arrived
        server.behave(FINE)
        # Who has left nothing on the disk has nothing to deliver any more.
        if ended < scenario.events and any(path.is_file() for path in base.rglob("*")):
            again = _Program(contestant, server.url, base, _RESTART)
            again.report()
            server.wait_for(scenario.events, RESTART_PATIENCE)
            again.end(EXIT_SECONDS)
        return Outcome(
            report=report,
            lived=lived,
            ended=ended,
            restarted=server.arrived,
            twice=server.twice,
            troubled=server.troubled,
            exit_seconds=exit_seconds,
            books=_audit(base / "state", scenario) if contestant == AGENT else None,
        )


def _audit(directory: Path, scenario: Scenario) -> str | None:
    """What is wrong with the agent's own account."""
    status = look(directory, Config(app_id="11"), Clock(), ())
    if status.recorded == status.delivered == scenario.events and status.balanced:
        return None
    return (
        f"recorded {status.recorded}, queued {status.queued}, delivered {status.delivered}, "
        f"dead {status.dead}, dropped {status.dropped}"
    )


def cell(scenario: Scenario, outcome: Outcome) -> str | float:
    """
    How many events have arrived, and what else there is to say.
    """
    notes = list(_notes(scenario, outcome))
    return f"{outcome.restarted:,} ({'; '.join(notes)})" if notes else outcome.restarted


def _notes(scenario: Scenario, outcome: Outcome) -> Iterator[str]:
    parts = {
        "at end": outcome.ended - outcome.lived if scenario.end is End.STAY else 0,
        "at restart": 0 if scenario.is_offline else outcome.restarted - outcome.ended,
    }
    for when, count in parts.items():
        if count:
            yield when if count == outcome.restarted else f"{count:,} {when}"
    if outcome.twice:
        yield f"{outcome.twice:,} twice"
    if outcome.report is None:
        yield "held up" if outcome.exit_seconds is None else "died"
    else:
        yield from _calls(scenario, outcome.report)
        if outcome.exit_seconds is None:
            yield "killed"
        elif scenario.timed:
            yield f"{outcome.exit_seconds:.1f} s"
    if outcome.books is not None:
        yield outcome.books


def _calls(scenario: Scenario, report: Report) -> Iterator[str]:
    if report.raised:
        yield f"{report.raised:,} raised"
    made = report.returned + report.raised
    if made < scenario.events:
        yield f"{made:,} calls"


class _Program:
    """
    A contestant's process.
    """

    def __init__(self, contestant: str, url: str, base: Path, scenario: Scenario) -> None:
        self._pipe, theirs = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _PROGRAM),
                *(contestant, url, str(base / "state"), scenario.calls.value),
                *(str(scenario.events), scenario.end.value, str(theirs)),
            ],
            cwd=base,
            env={**os.environ, "HOME": str(base), "TMPDIR": str(base)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)

    def report(self) -> Report | None:
        """
        What it says after its last call; None where it says nothing.
        """
        readable = wait([self._pipe], CALLS_SECONDS + EXIT_SECONDS)
        text = os.read(self._pipe, 1_000) if readable else b""
        return Report(**json.loads(text)) if text else None

    def end(self, seconds: float) -> float | None:
        """
        Let it end, within so many seconds.

        Returns:
            How long that took, in seconds; None: it had to be killed.
        """
        began = time.monotonic()
        try:
            self._process.communicate(timeout=seconds)
            return time.monotonic() - began
        except subprocess.TimeoutExpired:
            # The children of a fork are in its session, which it leads.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            return None
        finally:
            os.close(self._pipe)

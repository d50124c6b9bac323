"""
What one `track` costs its caller, beside the least that any program would pay
to have the same bytes survive its death, beside a commit per event, and beside
other clients that only put the event into a queue in memory.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import heap_agent
from benchmarks import data, peers, server, yardsticks
from benchmarks.apart import apart
from benchmarks.calls import timed
from benchmarks.peers import Mode, Peer
from benchmarks.tables import Row
from benchmarks.timing import Block, Candidate, interleave

TITLE = "hot path: one event with 8 properties"
#: Rows of other clients are among those.
COMPARES = True

CALLS, ROUNDS, WARM_UP = 250, 80, 8

OURS = "Agent.track"
FLOOR = "encode + write"
FLOOR_MORE = "encode + write, 12 properties"
COMMIT = "SQLite commit, WAL, NORMAL"
#: What a picture need not show twice.
THROUGH_THE_MODULE, MORE = "heap_agent.track", "Agent.track, +4 properties, known"
VARIANTS = (THROUGH_THE_MODULE, FLOOR_MORE, MORE)


def run() -> list[Row]:
    """
    Measure.
    """
    events = data.properties(CALLS)
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heap-agent-bench-")))
        endpoint = stack.enter_context(server.nobody_there())
        agent = heap_agent.init("11", directory=base / "plain", endpoint=endpoint, at_exit=False)
        stack.callback(agent.shutdown, 0)
        known = heap_agent.Agent("11", directory=base / "known", endpoint=endpoint, at_exit=False)
        stack.callback(known.shutdown, 0)
        known.add_event_properties(data.EVENT_PROPERTIES)
        known.identify(data.IDENTITY)
        plain = data.wire_records(events)
        more = data.wire_records(events, ambient=data.EVENT_PROPERTIES, identity=data.IDENTITY)
        fds = [
            stack.enter_context(yardsticks.append_only(base / name)) for name in ("floor", "more")
        ]
        connection = stack.enter_context(closing(yardsticks.database(base / "commits.db")))
        answering = stack.enter_context(server.running())
        return interleave(
            [
                Candidate(FLOOR, yardsticks.writes(fds[0], plain), FLOOR),
                Candidate(OURS, timed(agent.track, events), FLOOR),
                Candidate(THROUGH_THE_MODULE, timed(heap_agent.track, events), FLOOR),
                Candidate(FLOOR_MORE, yardsticks.writes(fds[1], more), FLOOR_MORE),
                Candidate(MORE, timed(known.track, events), FLOOR_MORE),
                Candidate(COMMIT, yardsticks.commits(connection, plain), FLOOR),
                *(
                    Candidate(
                        f"{peer.name}, enqueue only",
                        stack.enter_context(apart(_enqueues, peer, answering.url)),
                        OURS,
                    )
                    for peer in peers.installed()
                ),
            ],
            rounds=ROUNDS,
            warm_up=WARM_UP,
        )


def _enqueues(peer: Peer, endpoint: str) -> Block:
    return timed(peer.open(endpoint, Mode.MEMORY).track, data.properties(CALLS))

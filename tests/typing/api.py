"""
The public face as a type checker sees it; nothing here is run.

Right calls must pass, and each wrong one carries an ignore that would be
reported as unused if the call were let through.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType

import heap_agent as heap
from heap_agent import (
    Agent,
    HeapAgentError,
    InvalidCall,
    InvalidValue,
    NotStarted,
    Status,
)
from heap_agent.testing import Collector, FakeClock

# -- starting ---------------------------------------------------------------------

agent: Agent = heap.init()
agent = heap.init("11")
agent = heap.init(11, directory=Path("state"), interval=timedelta(seconds=15), strict=None)
agent = Agent("11")
agent = Agent(app_id=11, clock=FakeClock(), device_properties={"site": "Oslo"})
heap.set_app_id("21")
heap.set_app_id(21)
heap.setAppId(21)

heap.init(1.5)  # type: ignore[arg-type]
heap.init("11", "state")  # type: ignore[call-arg]
heap.set_app_id()  # type: ignore[call-arg]
heap.setAppId(None)  # type: ignore[arg-type]
Agent(b"11")  # type: ignore[arg-type]

# -- events -----------------------------------------------------------------------

heap.track("e")
heap.track("e", None)
heap.track("e", {"text": "a", "int": 1, "float": 0.5, "bool": True, "list": [1, "a"], 7: None})
heap.track("e", OrderedDict(a=1), timestamp=datetime.now(timezone.utc))
heap.track("e", MappingProxyType({"a": 1}), timestamp=1.5)
heap.track(event="e", properties={}, timestamp=None)
agent.track("e", {"a": 1}, timestamp=0)

heap.track()  # type: ignore[call-arg]
heap.track(1)  # type: ignore[arg-type]
heap.track("e", [("a", 1)])  # type: ignore[arg-type]
heap.track("e", {}, 1.5)  # type: ignore[call-arg]
agent.track("e", timestamp="now")  # type: ignore[arg-type]

# -- who --------------------------------------------------------------------------

heap.identify("alice")
heap.identify(123)
heap.reset_identity()
heap.resetIdentity()
heap.new_visitor()
agent.identify("alice")
agent.reset_identity()
agent.resetIdentity()
agent.new_visitor()

heap.identify(None)  # type: ignore[arg-type]
heap.identify(1.5)  # type: ignore[arg-type]
agent.resetIdentity("alice")  # type: ignore[call-arg]

user_id: str | None = heap.user_id
user_id = heap.userId
identity: str | None = heap.identity
session_id: str | None = heap.session_id
session_id = heap.sessionId
user_id = agent.user_id
user_id = agent.userId
session_id = agent.session_id
session_id = agent.sessionId
app_id: str = agent.app_id
ended: bool = agent.ended
version: str = heap.__version__

never: str = heap.user_id  # type: ignore[assignment]
agent.user_id = "1"  # type: ignore[misc]
agent.userId = "1"  # type: ignore[misc]
nothing = heap.no_such_name  # type: ignore[attr-defined]

# -- properties -------------------------------------------------------------------

heap.add_user_properties({"a": 1})
heap.addUserProperties({"a": 1})
heap.add_event_properties({"a": 1})
heap.addEventProperties({"a": 1})
heap.remove_event_property("a")
heap.removeEventProperty("a")
heap.clear_event_properties()
heap.clearEventProperties()
agent.add_user_properties({"a": 1})
agent.addUserProperties({"a": 1})
agent.add_event_properties({"a": 1})
agent.addEventProperties({"a": 1})
agent.remove_event_property("a")
agent.removeEventProperty("a")
agent.clear_event_properties()
agent.clearEventProperties()

heap.add_user_properties(None)  # type: ignore[arg-type]
heap.addUserProperties("a")  # type: ignore[arg-type]
agent.add_event_properties([])  # type: ignore[arg-type]
agent.addEventProperties(a=1)  # type: ignore[call-arg]
heap.removeEventProperty(1)  # type: ignore[arg-type]
agent.removeEventProperty()  # type: ignore[call-arg]

# -- settings ---------------------------------------------------------------------

heap.change_interval(25.0)
heap.change_interval(25)
heap.changeInterval(timedelta(seconds=25))
agent.change_interval(timedelta(seconds=25))
agent.changeInterval(25)
agent.set_app_id("21")
agent.setAppId(21)
pairing: heap.Pairing = heap.start_ev_pairing()
pairing = heap.startEVPairing(bind="0.0.0.0", port=8000, timeout=timedelta(minutes=5))
url: str = pairing.url + pairing.code + pairing.qr() + pairing.expires.isoformat()
heap.stop_ev_pairing()
heap.stopEVPairing()
heap.disable_visualizer_pairing_gesture()
heap.disableVisualizerPairingGesture()
heap.disableDefaultPairingGesture()
pairing = agent.start_ev_pairing(timeout=60)
heap.enable_visualizer_pairing_gesture()
agent.enable_visualizer_pairing_gesture()
agent.startEVPairing()
agent.stop_ev_pairing()
agent.stopEVPairing()
agent.disable_visualizer_pairing_gesture()
agent.disableVisualizerPairingGesture()
agent.disableDefaultPairingGesture()

heap.change_interval("25")  # type: ignore[arg-type]
agent.changeInterval(None)  # type: ignore[arg-type]

# -- delivery and consent ---------------------------------------------------------

done: bool = heap.flush()
done = heap.flush(5)
done = heap.flush(timeout=timedelta(seconds=5))
done = heap.sync()
done = heap.sync(timeout=0.5)
done = agent.flush(None)
done = agent.sync(1)
heap.opt_out()
heap.opt_out(purge=False)
heap.opt_in()
done = heap.forget(identity="ann")
done = heap.forget(user_id=11)
heap.pause_delivery()
heap.resume_delivery()
heap.shutdown()
heap.shutdown(timeout=2.0)
agent.opt_out(False)
agent.opt_in()
done = agent.forget(identity=11)
done = agent.forget(user_id="11")
agent.pause_delivery()
agent.resume_delivery()
agent.shutdown(timedelta(seconds=2))

heap.forget("ann")  # type: ignore[call-arg]
agent.forget(identity=1.5)  # type: ignore[arg-type]
heap.flush("5")  # type: ignore[arg-type]
agent.sync([])  # type: ignore[arg-type]
agent.shutdown("2")  # type: ignore[arg-type]

# -- how things stand -------------------------------------------------------------

status: Status = heap.status()
status = agent.status()
recorded: int = status.recorded
by_reason: dict[str, int] = dict(status.dropped_by)
last: datetime | None = status.last_delivery
wait: float | None = status.next_attempt
balanced: bool = status.balanced
as_dict: dict[str, object] = status.as_dict()
wrong: list[str] = agent.check()

status.recorded = 1  # type: ignore[misc]

# -- contexts: the aliases are there too --------------------------------------------

with Agent("11") as inside:
    inside.setAppId("21")
    inside.resetIdentity()


async def main() -> None:
    async with Agent("11") as inside:
        inside.addEventProperties({"a": 1})


class Kiosk(Agent):
    """A program's own kind of agent."""

    def greet(self) -> None:
        """Only here."""


with Kiosk("11") as kiosk:
    kiosk.greet()

# -- errors, and what tests use -----------------------------------------------------

errors: tuple[type[HeapAgentError], ...] = (InvalidCall, InvalidValue, NotStarted)
as_value_error: type[ValueError] = InvalidCall
as_type_error: type[TypeError] = NotStarted
as_runtime_error: type[RuntimeError] = NotStarted

with Collector() as collector:
    agent = Agent("11", endpoint=collector.url)
    names: list[str] = [event.event for event in collector.events()]

"""
Offline-first tracking for devices: every call is on disk when it returns, and
Heap gets it once there is a network.

    import heap_agent as heap

    heap.init("11")
    heap.track("Purchase", {"dollars": 50, "item": "Furby"})
    heap.identify("alice123")

Attributes:
    user_id, identity, session_id: Of the default agent; None before `init`
        (also as ``userId`` and ``sessionId``).

For pytest, which finds fixtures here (PYTEST_DONT_REWRITE): it need not warn where a
program was imported before it.
"""

import logging as _logging
from typing import TYPE_CHECKING

from heap_agent._api import (
    add_event_properties,
    add_user_properties,
    change_interval,
    clear_event_properties,
    disable_default_pairing_gesture,
    disable_visualizer_pairing_gesture,
    enable_visualizer_pairing_gesture,
    flush,
    forget,
    identify,
    init,
    new_visitor,
    opt_in,
    opt_out,
    pause_delivery,
    remove_event_property,
    reset_identity,
    resume_delivery,
    set_app_id,
    shutdown,
    start_ev_pairing,
    status,
    stop_ev_pairing,
    sync,
    track,
)
from heap_agent.exceptions import HeapAgentError, InvalidCall, InvalidValue, NotStarted

# Heap's spellings.
setAppId = set_app_id
resetIdentity = reset_identity
addUserProperties = add_user_properties
addEventProperties = add_event_properties
removeEventProperty = remove_event_property
clearEventProperties = clear_event_properties
changeInterval = change_interval
startEVPairing = start_ev_pairing
stopEVPairing = stop_ev_pairing
disableVisualizerPairingGesture = disable_visualizer_pairing_gesture
disableDefaultPairingGesture = disable_default_pairing_gesture

__all__ = [
    "Agent",
    "HeapAgentError",
    "InvalidCall",
    "InvalidValue",
    "NotStarted",
    "Pairing",
    "Status",
    "add_event_properties",
    "add_user_properties",
    "change_interval",
    "clear_event_properties",
    "disable_visualizer_pairing_gesture",
    "enable_visualizer_pairing_gesture",
    "flush",
    "forget",
    "identify",
    "init",
    "new_visitor",
    "opt_in",
    "opt_out",
    "pause_delivery",
    "remove_event_property",
    "reset_identity",
    "resume_delivery",
    "set_app_id",
    "shutdown",
    "start_ev_pairing",
    "status",
    "stop_ev_pairing",
    "sync",
    "track",
]

_logging.getLogger(__name__).addHandler(_logging.NullHandler())

_ATTRIBUTES = {
    "user_id": "user_id",
    "userId": "user_id",
    "identity": "identity",
    "session_id": "session_id",
    "sessionId": "session_id",
}

if TYPE_CHECKING:
    from heap_agent._aliases import Agent
    from heap_agent._status import Status
    from heap_agent._view.visualizer import Pairing

    user_id: str | None
    userId: str | None
    identity: str | None
    session_id: str | None
    sessionId: str | None
    __version__: str
else:

    def __getattr__(name):
        from heap_agent import _api

        if name in _ATTRIBUTES:
            return _api.attribute(_ATTRIBUTES[name])
        if name == "Agent":
            return _api.agent_class()
        if name == "Status":
            return _api.status_class()
        if name == "Pairing":
            return _api.pairing_class()
        if name == "__version__":
            from heap_agent._version import version

            return version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__, *_ATTRIBUTES})

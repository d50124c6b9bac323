"""
Heap's own spellings, one line each, so that code and documentation for its
other SDKs carry over literally.

This module must not do anything: every name here is another name for a verb.
"""

from __future__ import annotations

import warnings

from heap_agent import _agent

_Agent = _agent.Agent


class Agent(_Agent):
    __doc__ = _Agent.__doc__

    setAppId = _Agent.set_app_id
    resetIdentity = _Agent.reset_identity
    addUserProperties = _Agent.add_user_properties
    addEventProperties = _Agent.add_event_properties
    removeEventProperty = _Agent.remove_event_property
    clearEventProperties = _Agent.clear_event_properties
    changeInterval = _Agent.change_interval
    startEVPairing = _Agent.start_ev_pairing
    stopEVPairing = _Agent.stop_ev_pairing
    disableVisualizerPairingGesture = _Agent.disable_visualizer_pairing_gesture
    userId = _Agent.user_id
    sessionId = _Agent.session_id

    def disableDefaultPairingGesture(self) -> None:
        """
        Heap's former spelling of `disable_visualizer_pairing_gesture`.
        """
        warn_of_default_gesture()
        self.disable_visualizer_pairing_gesture()


def warn_of_default_gesture() -> None:
    """
    Say that Heap has given the spelling up.
    """
    warnings.warn(
        "disableDefaultPairingGesture is Heap's former name for "
        "disableVisualizerPairingGesture (disable_visualizer_pairing_gesture here)",
        DeprecationWarning,
        stacklevel=3,
    )

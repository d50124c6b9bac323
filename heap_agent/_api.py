"""
The verbs as functions, over one default agent.

The only mutable state is `_default`, its options, and who is creating it; `_lock`
guards that. `Agent` and what it records with are loaded when somebody wants one, so
that importing the package costs little. This module must not decide anything: each
function is one line over the agent's method.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from heap_agent import _config
from heap_agent._late import late
from heap_agent.exceptions import InvalidCall, NotStarted

if TYPE_CHECKING:
    from heap_agent._aliases import Agent
    from heap_agent._status import Status
    from heap_agent._view.visualizer import Pairing

_lock = threading.RLock()
_default: Agent | None = None
_options: dict[str, Any] = {}

# The thread that is inside of `init`.
_starting: int | None = None


@late
def agent_class() -> type[Agent]:
    """
    `Agent`, loaded with the first call.
    """
    from heap_agent._aliases import Agent

    # The contracts stand on the methods; a second copy here would drift.
    for verb in _VERBS:
        verb.__doc__ = getattr(Agent, verb.__name__).__doc__
    return Agent


@late
def status_class() -> type[Status]:
    """
    `Status`, loaded with the first call.
    """
    from heap_agent._status import Status

    return Status


@late
def pairing_class() -> type[Pairing]:
    """
    `Pairing`, loaded with the first call.
    """
    from heap_agent._view.visualizer import Pairing

    return Pairing


@cache
def _idle() -> Agent:
    """Stands in where silence is asked for and nothing was started."""
    return agent_class()(disabled=True)


def init(app_id: str | int | None = None, **options: Any) -> Agent:
    """
    Start the default agent. Returns with the state as of the last acknowledged
    call of any process on the directory.

    Called again, with any id, a new session begins; with another id later events
    go there, and queued ones keep theirs.

    Args:
        app_id: Id of the environment at Heap, digits; without one it comes from
            ``HEAP_AGENT_APP_ID`` or a config file.
        **options: As for `Agent`.

    Returns:
        The default agent, which the functions of this module work on.

    Raises:
        InvalidCall: No app id, an option that is not allowed, or other options
            than the first time.
    """
    global _default, _options, _starting
    with _lock:
        if _default is None or _default.ended:
            agent = agent_class()
            _starting = threading.get_ident()
            try:
                _default, _options = agent(app_id, **options), options
            finally:
                _starting = None
            return _default
        if _default.disabled:
            return _default
        if options and options != _options:
            raise InvalidCall(
                "init was called before with other options; call shutdown() first, or leave "
                f"the options away (got {', '.join(sorted(options))})"
            )
        _default.set_app_id(_default.app_id if app_id is None else app_id)
        return _default


def set_app_id(app_id: str | int) -> None:
    """
    The same as ``init(app_id)``.

    Args:
        app_id: Digits, as text or int.

    Raises:
        InvalidCall: Not a number.
    """
    init(app_id)


def have_none() -> None:
    """
    Let go of the default agent: for tests, each of which has one of its own.
    """
    global _default, _options
    with _lock:
        agent, _default, _options = _default, None, {}
    if agent is not None:
        agent.shutdown(0)


def default_agent() -> Agent:
    """
    The agent that these functions work on.

    Raises:
        NotStarted: `init` has not been called (and ``HEAP_AGENT_DISABLED`` is not set).
    """
    return _started() if _default is None else _default


def _started() -> Agent:
    # A logging handler may track what `init` itself logs: that is nobody's mistake.
    if _starting == threading.get_ident() or _config.load({}).config.disabled:
        return _idle()
    raise NotStarted('heap_agent is not started: call heap_agent.init("<app id>") first')


def track(
    event: str,
    properties: Mapping[Any, Any] | None = None,
    *,
    timestamp: datetime | float | None = None,
) -> None:
    """Record one event. See `Agent`."""
    (_default or _started()).track(event, properties, timestamp=timestamp)


def identify(identity: str | int) -> None:
    """Say who the user is. See `Agent`."""
    default_agent().identify(identity)


def reset_identity() -> None:
    """Log the user out. See `Agent`."""
    default_agent().reset_identity()


def new_visitor() -> None:
    """Begin with a new anonymous user. See `Agent`."""
    default_agent().new_visitor()


def add_user_properties(properties: Mapping[Any, Any]) -> None:
    """Attach properties to the user's profile at Heap. See `Agent`."""
    default_agent().add_user_properties(properties)


def add_event_properties(properties: Mapping[Any, Any]) -> None:
    """Attach properties to every later event. See `Agent`."""
    default_agent().add_event_properties(properties)


def remove_event_property(name: str) -> None:
    """Stop attaching one event property. See `Agent`."""
    default_agent().remove_event_property(name)


def clear_event_properties() -> None:
    """Stop attaching event properties. See `Agent`."""
    default_agent().clear_event_properties()


def change_interval(seconds: float | timedelta) -> None:
    """Set the time between two deliveries. See `Agent`."""
    default_agent().change_interval(seconds)


def start_ev_pairing(
    *, bind: str = "127.0.0.1", port: int = 0, timeout: float | timedelta = 900.0
) -> Pairing:
    """Serve a page on which a browser can watch events as they happen. See `Agent`."""
    return default_agent().start_ev_pairing(bind=bind, port=port, timeout=timeout)


def stop_ev_pairing() -> None:
    """End the pairing. See `Agent`."""
    default_agent().stop_ev_pairing()


def disable_visualizer_pairing_gesture() -> None:
    """Have the agent ignore pairing gestures. See `Agent`."""
    default_agent().disable_visualizer_pairing_gesture()


def enable_visualizer_pairing_gesture() -> None:
    """Have the agent heed pairing gestures again. See `Agent`."""
    default_agent().enable_visualizer_pairing_gesture()


def disable_default_pairing_gesture() -> None:
    """
    Heap's former spelling of `disable_visualizer_pairing_gesture`.
    """
    agent = default_agent()
    from heap_agent._aliases import warn_of_default_gesture  # loaded with the agent

    warn_of_default_gesture()
    agent.disable_visualizer_pairing_gesture()


def flush(timeout: float | timedelta | None = None) -> bool:
    """Deliver what can be delivered now. See `Agent`."""
    return default_agent().flush(timeout)


def sync(timeout: float | timedelta | None = None) -> bool:
    """Bring everything recorded so far to stable storage. See `Agent`."""
    return default_agent().sync(timeout)


def status() -> Status:
    """How things stand. See `Agent`."""
    return default_agent().status()


def opt_out(purge: bool = True) -> None:
    """Stop recording and delivering. See `Agent`."""
    default_agent().opt_out(purge)


def forget(*, identity: str | int | None = None, user_id: str | int | None = None) -> bool:
    """Erase one user from this device. See `Agent`."""
    return default_agent().forget(identity=identity, user_id=user_id)


def opt_in() -> None:
    """Record and deliver again. See `Agent`."""
    default_agent().opt_in()


def pause_delivery() -> None:
    """Send nothing until `resume_delivery`. See `Agent`."""
    default_agent().pause_delivery()


def resume_delivery() -> None:
    """End a pause. See `Agent`."""
    default_agent().resume_delivery()


def shutdown(timeout: float | timedelta | None = None) -> None:
    """Deliver once more, then let go of the directory. See `Agent`."""
    default_agent().shutdown(timeout)


_VERBS = (
    track,
    identify,
    reset_identity,
    new_visitor,
    add_user_properties,
    add_event_properties,
    remove_event_property,
    clear_event_properties,
    change_interval,
    start_ev_pairing,
    stop_ev_pairing,
    disable_visualizer_pairing_gesture,
    enable_visualizer_pairing_gesture,
    flush,
    sync,
    status,
    opt_out,
    opt_in,
    forget,
    pause_delivery,
    resume_delivery,
    shutdown,
)


def attribute(name: str) -> str | None:
    """
    ``user_id``, ``identity`` or ``session_id`` of the default agent; None before `init`.
    """
    if _default is None:
        return None
    value: str | None = getattr(_default, name)
    return value

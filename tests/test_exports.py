"""The public face: which names there are, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import metadata

import pytest

import heap_agent
from heap_agent import exceptions, server

PUBLIC = [
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

#: Errors that only a ServerClient raises are in its module.
SERVER_ERRORS = ["ApiError", "DeletionPending", "NotFound", "Unauthorized", "Unreachable"]

#: Heap's own spellings; left out of ``__all__`` so that nothing is listed twice.
ALIASES = {
    "setAppId": "set_app_id",
    "resetIdentity": "reset_identity",
    "addUserProperties": "add_user_properties",
    "addEventProperties": "add_event_properties",
    "removeEventProperty": "remove_event_property",
    "clearEventProperties": "clear_event_properties",
    "changeInterval": "change_interval",
    "startEVPairing": "start_ev_pairing",
    "stopEVPairing": "stop_ev_pairing",
    "disableVisualizerPairingGesture": "disable_visualizer_pairing_gesture",
}

VALUES = ["user_id", "userId", "identity", "session_id", "sessionId"]


def test_the_public_names() -> None:
    """Adding or removing a name is a decision, and sorted."""
    assert heap_agent.__all__ == PUBLIC == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    """`help()` says what it does."""
    document = inspect.getdoc(getattr(heap_agent, name))
    assert document and len(document.split()) >= 3


def test_the_public_names_of_the_server_side() -> None:
    """What the rooms give is what the module has, sorted, and documented."""
    assert server.__all__ == sorted(server.__all__)
    for name in server.__all__:
        document = inspect.getdoc(getattr(server, name))
        assert document and len(document.split()) >= 3


@pytest.mark.parametrize(
    "name", [name for name in dir(server.ServerClient) if not name.startswith("_")]
)
def test_every_verb_of_the_server_side_is_documented(name: str) -> None:
    """With its arguments and what it raises."""
    assert inspect.getdoc(getattr(server.ServerClient, name))


@pytest.mark.parametrize(
    "name", [name for name in dir(heap_agent.Agent) if not name.startswith("_")]
)
def test_every_member_of_agent_is_documented(name: str) -> None:
    """Methods, properties and aliases alike."""
    assert inspect.getdoc(getattr(heap_agent.Agent, name))


def test_nothing_else_looks_public() -> None:
    """What is not in ``__all__`` is a submodule, an alias, or begins with an underscore."""
    others = {name for name in vars(heap_agent) if not name.startswith("_")} - set(PUBLIC)
    others -= {*ALIASES, "disableDefaultPairingGesture", "disable_default_pairing_gesture"}
    others -= {"TYPE_CHECKING", "annotations"}
    assert all(inspect.ismodule(getattr(heap_agent, name)) for name in others), others


@pytest.mark.parametrize("alias, verb", ALIASES.items())
def test_aliases_are_the_verbs(alias: str, verb: str) -> None:
    """Heap's spelling is the same function, on the module and on agents."""
    assert getattr(heap_agent, alias) is getattr(heap_agent, verb)
    assert getattr(heap_agent.Agent, alias) is getattr(heap_agent.Agent, verb)


@pytest.mark.parametrize("name", VALUES)
def test_values_can_be_asked_for(name: str) -> None:
    """The three getters exist in both spellings, also before `init`."""
    assert getattr(heap_agent, name) is None or isinstance(getattr(heap_agent, name), str)


def test_other_names_are_attribute_errors() -> None:
    """A typo is reported as Python reports it."""
    with pytest.raises(AttributeError, match="'heap_agent' has no attribute 'tracks'"):
        _ = heap_agent.tracks  # type: ignore[attr-defined]


def test_every_error_is_exported_and_has_the_base() -> None:
    """One `except HeapAgentError` catches all that is raised on purpose."""
    for name in exceptions.__all__:
        public = server if name in SERVER_ERRORS else heap_agent
        assert getattr(public, name) is getattr(exceptions, name)
        assert issubclass(getattr(exceptions, name), heap_agent.HeapAgentError)
    assert issubclass(heap_agent.InvalidCall, (TypeError, ValueError))
    for base in (heap_agent.InvalidCall, TypeError, ValueError, RuntimeError):
        assert issubclass(heap_agent.NotStarted, base)
    assert issubclass(heap_agent.InvalidValue, ValueError)


def test_the_version_is_the_installed_one() -> None:
    """There is no constant to bump."""
    assert heap_agent.__version__ == metadata.version("heap_agent")


IMPORT = """
import sys, threading
before = threading.active_count()
import heap_agent
heavy = {"urllib3", "apscheduler", "uvicorn", "starlette", "asyncio", "click", "rich",
         "sybil", "pytest", "ssl"}
print(sorted(heavy & set(sys.modules)), threading.active_count() - before)
import logging
logger = logging.getLogger("heap_agent")
print([type(handler).__name__ for handler in logger.handlers], logger.level)
print(logging.getLogger().handlers)
"""


def test_import_is_cheap_and_silent() -> None:
    """No network stack, no scheduler, no thread, no output, no logging set up."""
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["[] 0", "['NullHandler'] 0", "[]"]

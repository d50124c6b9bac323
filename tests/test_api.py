"""The verbs as functions, over one default agent."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import heap_agent as heap
from heap_agent import Agent, InvalidCall, NotStarted, Status, _api
from heap_agent.testing import Collector


@pytest.fixture(autouse=True)
def _fresh_module() -> Iterator[None]:
    """No default agent is there before a test, and none is left behind."""
    assert _api._default is None
    yield
    if _api._default is not None:
        _api._default.shutdown(0)
    _api._default, _api._options = None, {}


@pytest.fixture(name="options")
def _options(tmp_path: Path) -> dict[str, Any]:
    return {"directory": tmp_path / "state", "endpoint": "http://127.0.0.1:9", "interval": 3600.0}


VERBS: dict[str, Callable[[], object]] = {
    "track": lambda: heap.track("e"),
    "identify": lambda: heap.identify("alice"),
    "reset_identity": heap.reset_identity,
    "new_visitor": heap.new_visitor,
    "add_user_properties": lambda: heap.add_user_properties({"a": 1}),
    "add_event_properties": lambda: heap.add_event_properties({"a": 1}),
    "remove_event_property": lambda: heap.remove_event_property("a"),
    "clear_event_properties": heap.clear_event_properties,
    "change_interval": lambda: heap.change_interval(25.0),
    "start_ev_pairing": heap.start_ev_pairing,
    "stop_ev_pairing": heap.stop_ev_pairing,
    "disable_visualizer_pairing_gesture": heap.disable_visualizer_pairing_gesture,
    "enable_visualizer_pairing_gesture": heap.enable_visualizer_pairing_gesture,
    "flush": heap.flush,
    "sync": heap.sync,
    "status": heap.status,
    "opt_out": heap.opt_out,
    "opt_in": heap.opt_in,
    "forget": lambda: heap.forget(identity="alice"),
    "pause_delivery": heap.pause_delivery,
    "resume_delivery": heap.resume_delivery,
    "shutdown": heap.shutdown,
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [NotStarted, InvalidCall, TypeError, ValueError, RuntimeError])
def test_before_init(verb: str, kind: type[Exception]) -> None:
    """Every verb raises NotStarted, which is whatever a program may be catching."""
    with pytest.raises(kind, match=r"heap_agent is not started: call heap_agent.init\("):
        VERBS[verb]()


def test_every_verb_is_in_the_table_above() -> None:
    """A new verb is tested too."""
    functions = {name for name in heap.__all__ if inspect.isfunction(getattr(heap, name))}
    assert functions == set(VERBS) | {"init", "set_app_id"}


@pytest.mark.parametrize("name", ["user_id", "userId", "identity", "session_id", "sessionId"])
def test_values_before_init(name: str) -> None:
    """All None."""
    assert getattr(heap, name) is None


def test_the_example(tmp_path: Path) -> None:
    """Heap's own example, from the first line to the last, and what the server has of it."""
    with Collector() as collector:
        agent = heap.init("11", directory=tmp_path, endpoint=collector.url, interval=3600)
        assert isinstance(agent, Agent)
        heap.track("Purchase", {"dollars": 50, "item": "Furby"})
        heap.identify("alice123")
        heap.add_user_properties({"Profession": "Data Scientist"})
        heap.add_event_properties({"Logged In": "true"})
        heap.track("Later")
        heap.remove_event_property("Logged In")
        heap.clear_event_properties()
        first = heap.user_id, heap.identity, heap.session_id
        assert first == (agent.user_id, "alice123", agent.session_id)
        assert first == (heap.userId, heap.identity, heap.sessionId)
        heap.reset_identity()
        assert heap.identity is None and heap.user_id not in (None, first[0])
        heap.change_interval(25.0)
        heap.set_app_id("21")
        heap.track("For 21")
        assert heap.flush(30) and heap.sync()
        assert sorted((event.app_id, event.event) for event in collector.events()) == [
            ("11", "Later"),
            ("11", "Purchase"),
            ("21", "For 21"),
        ]
        user = collector.user("alice123")
        assert user.properties == {"Profession": "Data Scientist"}
        assert [dict(event.properties) for event in user.events] == [
            {"dollars": 50, "item": "Furby"},
            {"Logged In": "true"},
        ]
        status = heap.status()
        assert isinstance(status, Status)
        assert (status.recorded, status.delivered) == (3, 3)
        assert agent.check() == []


def test_init_again_is_a_new_session(options: dict[str, Any]) -> None:
    """With the same options, or without, and any spelling of the same id."""
    agent = heap.init("11", **options)
    heap.track("e")
    seen = {heap.session_id}
    for again in (
        lambda: heap.init("11", **options),
        lambda: heap.init("11"),
        lambda: heap.init(11),
        heap.init,
        lambda: heap.set_app_id("11"),
        lambda: heap.setAppId(11),
    ):
        again()
        assert _api._default is agent
        assert agent.app_id == "11"
        seen.add(heap.session_id)
    assert len(seen) == 7 and None not in seen


def test_init_again_with_another_id(options: dict[str, Any]) -> None:
    """Later events go there; no second agent is made."""
    agent = heap.init("11", **options)
    assert heap.init("21") is agent
    assert agent.app_id == "21"


def test_init_again_with_other_options(options: dict[str, Any]) -> None:
    """It raises, names what came, and changes nothing."""
    agent = heap.init("11", **options)
    for other in ({**options, "interval": 1.0}, {"strict": True}, {"directory": "elsewhere"}):
        with pytest.raises(
            InvalidCall,
            match="init was called before with other options.*interval|"
            "init was called before with other options.*(strict|directory)",
        ):
            heap.init("21", **other)
    assert _api._default is agent and agent.app_id == "11"


def test_init_after_a_shutdown(options: dict[str, Any]) -> None:
    """A new agent, with other options if one likes, and the same user."""
    heap.init("11", **options)
    heap.identify("alice")
    heap.shutdown(0)
    second = heap.init("11", **{**options, "interval": 60})
    assert not second.ended
    assert heap.identity == "alice"


def test_a_verb_after_a_shutdown(options: dict[str, Any]) -> None:
    """It is recorded for the next start; nothing raises."""
    heap.init("11", **options)
    heap.shutdown(0)
    heap.track("e")
    assert heap.status().queued == 1


@pytest.mark.parametrize("app_id", ["abc", "", 1.5, True])
def test_init_with_what_is_no_id(options: dict[str, Any], app_id: Any) -> None:
    """It raises, and nothing was started."""
    with pytest.raises(InvalidCall, match="app_id"):
        heap.init(app_id, **options)
    assert _api._default is None


def test_init_without_an_id(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """It comes from the environment, or is missing."""
    monkeypatch.delenv("HEAP_AGENT_APP_ID", raising=False)
    with pytest.raises(InvalidCall, match="app_id is missing"):
        heap.init(**options)
    monkeypatch.setenv("HEAP_AGENT_APP_ID", "42")
    assert heap.init(**options).app_id == "42"


def test_set_app_id_starts_too(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """As `init` does; the options then come from the environment."""
    monkeypatch.setenv("HEAP_AGENT_DIRECTORY", str(options["directory"]))
    monkeypatch.setenv("HEAP_AGENT_ENDPOINT", options["endpoint"])
    heap.setAppId("11")
    assert heap.user_id is not None


def test_disabled_needs_no_init(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """In the test suite of a host program every verb does nothing, before and after init."""
    monkeypatch.setenv("HEAP_AGENT_DISABLED", "1")
    for verb in VERBS.values():
        verb()
    agent = heap.init("11", **options)
    assert repr(agent) == "<Agent [disabled]>"
    for verb in VERBS.values():
        verb()
    assert heap.status().recorded == 0
    assert (heap.user_id, heap.identity, heap.session_id) == (None, None, None)
    assert heap.init() is agent
    assert heap.init("12", interval=3.0) is agent
    assert not options["directory"].exists()


def test_a_logging_handler_may_track_while_init_complains(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """What is logged before there is an agent is nobody's wrong call."""

    class Tracking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tried.append(record.getMessage())
            heap.track("Logged", {"text": record.getMessage()})

    tried: list[str] = []
    handler = Tracking()
    logging.getLogger("heap_agent").addHandler(handler)
    monkeypatch.setenv("HEAP_AGENT_INTERVAL", "soon")
    try:
        del options["interval"]
        heap.init("11", **options)
    finally:
        logging.getLogger("heap_agent").removeHandler(handler)
    assert len(tried) == 1
    heap.shutdown(0)
    _api._default = None
    with pytest.raises(NotStarted):
        heap.track("e")


def test_heaps_spellings_work(options: dict[str, Any]) -> None:
    """Code for Heap's other SDKs carries over literally."""
    heap.init("11", **options)
    heap.identify("alice")
    heap.addEventProperties({"a": 1, "b": 2})
    heap.addUserProperties({"c": 3})
    heap.removeEventProperty("b")
    heap.changeInterval(timedelta(seconds=25))
    agent = heap.init()
    assert agent._interval == 25.0
    assert agent._state.event_properties("11") == {"a": 1}
    heap.clearEventProperties()
    assert agent._state.event_properties("11") == {}
    heap.resetIdentity()
    assert (heap.identity, agent.userId, agent.sessionId) == (None, heap.userId, heap.sessionId)
    agent.addEventProperties({"d": 4})
    agent.removeEventProperty("d")
    agent.clearEventProperties()
    agent.addUserProperties({"e": 5})
    agent.changeInterval(26.0)
    agent.setAppId("21")
    agent.resetIdentity()
    assert (agent.app_id, agent._interval) == ("21", 26.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heap.disableVisualizerPairingGesture()
        agent.disableVisualizerPairingGesture()
    assert heap.startEVPairing().url != agent.startEVPairing().url
    heap.stopEVPairing()
    agent.stopEVPairing()


def test_the_spelling_that_heap_has_given_up(options: dict[str, Any]) -> None:
    """It works, and warns where it is used, naming the one to use."""
    agent = heap.init("11", **options)
    for verb in (heap.disableDefaultPairingGesture, agent.disableDefaultPairingGesture):
        with pytest.warns(DeprecationWarning, match="disableVisualizerPairingGesture") as caught:
            verb()
        assert caught[0].filename == __file__
    assert agent._state.facets["pairing_gesture"].value is False


@pytest.mark.parametrize("verb", VERBS)
def test_functions_are_the_methods(verb: str) -> None:
    """The same parameters and the same documentation."""
    function, method = getattr(heap, verb), getattr(Agent, verb)
    assert function.__doc__ == method.__doc__
    ours, theirs = inspect.signature(function), inspect.signature(method)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())[1:]
    assert ours.return_annotation == theirs.return_annotation

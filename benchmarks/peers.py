"""
Other analytics clients, each behind the three calls that all of them have.

Nothing of theirs is imported before a client is opened, and nothing that they
do leaves the machine: every address that they know is the endpoint that is
given, and for what they do not let one set, the environment names that endpoint
as the proxy, which refuses.

Open one client in a process: some configure logging, patch, or keep a default
instance.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from benchmarks import data

#: More than any benchmark records.
UNBOUNDED = 10_000_000

USER = "alice@example.com"


def _nothing() -> None:
    pass


class Mode(Enum):
    """
    How a client is set up.

    Attributes:
        SHIPPED: As it comes.
        LIVE: As it comes, but that its queue may grow: nothing is dropped.
        MEMORY: Its sender is off and nothing is full, so that a call only enqueues.
    """

    SHIPPED = "shipped"
    LIVE = "live"
    MEMORY = "memory only"


@attrs.frozen
class Client:
    """
    What a benchmark calls.

    Attributes:
        track: Record an event, by its name and properties.
        flush: Return when what was recorded has been sent. Some clients end with it.
        close: Stop, as a program that ends in order would.
        wake: Have its sender begin now, where it would wait for its interval.
    """

    track: Callable[[str, dict[str, Any]], object]
    flush: Callable[[], object]
    close: Callable[[], object]
    wake: Callable[[], object] = _nothing


@attrs.frozen
class Peer:
    """
    A client library.

    Attributes:
        name: As tables show it.
        distribution: What pip installs.
        module: What a program imports.
        opener: Imports it and makes a client of an endpoint, in a mode.
        sends_elsewhere: Whether it sends from a process of its own, when it sees fit.
    """

    name: str
    distribution: str
    module: str
    opener: Callable[[str, Mode], Client] = attrs.field(repr=False)
    sends_elsewhere: bool = False

    @property
    def version(self) -> str | None:
        """
        The one that is installed.
        """
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def open(self, endpoint: str, mode: Mode) -> Client:
        """
        A client that sends to an address of this machine, and nowhere else.

        Args:
            endpoint: Scheme, host and port.
            mode: How it is set up.
        """
        os.environ.update(_no_way_out(endpoint))
        logging.disable(logging.CRITICAL)
        return self.opener(endpoint, mode)


def _no_way_out(endpoint: str) -> Mapping[str, str]:
    """
    The environment in which every other address is asked for at this one.
    """
    names = ("http_proxy", "https_proxy", "all_proxy")
    local = "127.0.0.1,localhost"
    return {
        **{spelled: endpoint for name in names for spelled in (name, name.upper())},
        "no_proxy": local,
        "NO_PROXY": local,
    }


# The clients, each as its own documentation opens it


def _heap_agent(endpoint: str, mode: Mode) -> Client:
    import heap_agent

    # The budgets are a promise to Heap's servers; nobody else is held back by one.
    # There is no mode in which an agent keeps its events in memory only.
    agent = heap_agent.Agent(
        "11",
        directory=Path(tempfile.mkdtemp(prefix="heap-agent-bench-")) / "state",
        endpoint=endpoint,
        **({} if mode is Mode.SHIPPED else {"max_bytes": 1 << 30}),
        identity_budget=None,
        app_budget=None,
        at_exit=False,
    )
    return Client(
        agent.track,
        lambda: agent.flush(timeout=120),
        agent.shutdown,
        threading.Thread(target=agent.flush, daemon=True).start,
    )


def _amplitude(endpoint: str, mode: Mode) -> Client:
    from amplitude import Amplitude, BaseEvent, Config

    recorded, settled = [0], [0]

    def on_settled(event: object, code: int, message: object) -> None:
        settled[0] += 1

    lazy: dict[str, Any] = {"flush_queue_size": UNBOUNDED, "flush_interval_millis": 10**9}
    config = Config(
        server_url=f"{endpoint}/2/httpapi",
        callback=on_settled,
        **(lazy if mode is Mode.MEMORY else {}),
    )
    client = Amplitude("key", config)

    def track(name: str, properties: dict[str, Any]) -> None:
        client.track(BaseEvent(name, user_id=USER, event_properties=properties))
        recorded[0] += 1

    def flush() -> None:
        # Its own flush knows nothing of the batches that its thread has taken before.
        client.flush()
        while settled[0] < recorded[0]:
            time.sleep(0.001)

    return Client(track, flush, client.shutdown)


def _glean(endpoint: str, mode: Mode) -> Client:
    return glean_in(Path(tempfile.mkdtemp(prefix="glean-")), endpoint, mode)


def glean_in(directory: Path, endpoint: str, mode: Mode) -> Client:
    """
    Glean, keeping its events in a directory.
    """
    from glean import Configuration, Glean
    from glean._builtins import pings
    from glean._process_dispatcher import ProcessDispatcher
    from glean._uniffi import CommonMetricData, Lifetime
    from glean.metrics import EventMetricType
    from glean.metrics.event import EventExtras

    class Extras(EventExtras):
        """
        What its generator makes of a declaration: texts, by names that are known before.
        """

        def __init__(self, values: dict[str, Any]) -> None:
            self._values = values

        def to_ffi_extra(self) -> dict[str, str]:
            return {
                key: str(value).lower() if value is True or value is False else str(value)
                for key, value in self._values.items()
            }

    Glean.initialize(
        application_id="bench",
        application_version="1",
        upload_enabled=True,
        data_dir=directory,
        configuration=Configuration(
            server_endpoint=endpoint,
            **({"max_events": UNBOUNDED} if mode is Mode.MEMORY else {}),
        ),
    )
    declared = CommonMetricData(
        category="bench",
        name="event",
        send_in_pings=["events"],
        lifetime=Lifetime.PING,
        disabled=False,
    )
    event = EventMetricType(declared, [*data.properties(1)[0], "seq"])

    def track(name: str, properties: dict[str, Any]) -> None:
        event.record(Extras(properties))

    def flush() -> None:
        # When it has been sent nobody is told: a thread of its own starts the process that does.
        pings.events.submit()
        ProcessDispatcher._wait_for_last_process()

    return Client(track, flush, Glean.shutdown)


def _mixpanel(endpoint: str, mode: Mode) -> Client:
    import mixpanel

    consumer = mixpanel.BufferedConsumer(
        events_url=f"{endpoint}/track",
        people_url=f"{endpoint}/engage",
        groups_url=f"{endpoint}/groups",
        import_url=f"{endpoint}/import",
    )
    if mode is Mode.MEMORY:
        consumer._max_size = UNBOUNDED  # the argument stops at 50
    client = mixpanel.Mixpanel("token", consumer=consumer)

    def track(name: str, properties: dict[str, Any]) -> None:
        client.track(USER, name, properties)

    return Client(track, consumer.flush, _nothing)


def _posthog(endpoint: str, mode: Mode) -> Client:
    from posthog import Posthog

    client = Posthog(
        "key",
        host=endpoint,
        max_queue_size=10_000 if mode is Mode.SHIPPED else UNBOUNDED,
        thread=0 if mode is Mode.MEMORY else 1,
    )

    def track(name: str, properties: dict[str, Any]) -> None:
        client.capture(name, distinct_id=USER, properties=properties)

    return Client(track, client.flush, client.shutdown)


def _rudder(endpoint: str, mode: Mode) -> Client:
    from rudderstack.analytics.client import Client as Rudder

    return _of_the_segment_family(Rudder, endpoint, mode)


def _segment(endpoint: str, mode: Mode) -> Client:
    from segment.analytics.client import Client as Segment

    return _of_the_segment_family(Segment, endpoint, mode)


def _of_the_segment_family(kind: Callable[..., Any], endpoint: str, mode: Mode) -> Client:
    client = kind(
        "key",
        host=endpoint,
        max_queue_size=10_000 if mode is Mode.SHIPPED else UNBOUNDED,
        thread=0 if mode is Mode.MEMORY else 1,
    )
    if mode is Mode.MEMORY:
        client.consumers = []  # what it joins at exit, and does not set without a thread

    def track(name: str, properties: dict[str, Any]) -> None:
        client.track(USER, name, properties)

    return Client(track, client.flush, client.join)


def _sentry(endpoint: str, mode: Mode) -> Client:
    import sentry_sdk
    from sentry_sdk._log_batcher import LogBatcher

    if mode is not Mode.SHIPPED:
        LogBatcher.MAX_BEFORE_DROP = UNBOUNDED
    if mode is Mode.MEMORY:
        LogBatcher.MAX_BEFORE_FLUSH, LogBatcher.FLUSH_WAIT_TIME = UNBOUNDED, 10.0**6
    sentry_sdk.init(
        f"http://key@{urlsplit(endpoint).netloc}/1",
        enable_logs=True,
        # Otherwise it is brotli where another package has brought that.
        _experiments={"transport_compression_algo": "gzip"},
    )

    def track(name: str, properties: dict[str, Any]) -> None:
        sentry_sdk.logger.info(name, attributes=properties)

    return Client(track, lambda: sentry_sdk.flush(60), lambda: sentry_sdk.get_client().close(2))


def _snowplow(endpoint: str, mode: Mode) -> Client:
    from snowplow_tracker import AsyncEmitter, SelfDescribing, SelfDescribingJson, Tracker

    capacity: dict[str, Any] = {
        Mode.SHIPPED: {},
        Mode.LIVE: {"buffer_capacity": UNBOUNDED},
        Mode.MEMORY: {"buffer_capacity": UNBOUNDED, "batch_size": UNBOUNDED},
    }[mode]
    emitter = AsyncEmitter(endpoint, **capacity)
    tracker = Tracker("bench", emitter)

    def track(name: str, properties: dict[str, Any]) -> None:
        tracker.track(SelfDescribing(SelfDescribingJson(f"iglu:bench/{name}/1-0-0", properties)))

    return Client(track, emitter.sync_flush, _nothing)


def _statsig(endpoint: str, mode: Mode) -> Client:
    from statsig import StatsigEvent, StatsigOptions, StatsigUser, statsig_error_boundary
    from statsig.statsig_server import StatsigServer

    # Its only address that no option sets.
    statsig_error_boundary._StatsigErrorBoundary.endpoint = f"{endpoint}/v1/sdk_exception"
    bounds: dict[str, Any] = {
        Mode.SHIPPED: {},
        Mode.LIVE: {"retry_queue_size": UNBOUNDED},
        Mode.MEMORY: {"event_queue_size": UNBOUNDED},
    }[mode]
    api = f"{endpoint}/v1/"
    client = StatsigServer()
    client.initialize(
        "secret-key",
        StatsigOptions(
            api=api,
            api_for_download_config_specs=api,
            api_for_get_id_lists=api,
            api_for_log_event=api,
            **bounds,
        ),
    )
    user = StatsigUser(USER)

    def track(name: str, properties: dict[str, Any]) -> None:
        client.log_event(StatsigEvent(user, name, metadata=properties))

    # Its flush leaves whole batches to its threads; only this sends them all.
    return Client(track, client.shutdown, _nothing)


def _statsig_core(endpoint: str, mode: Mode) -> Client:
    from statsig_python_core import Statsig, StatsigOptions, StatsigUser

    bounds: dict[str, Any] = {
        Mode.SHIPPED: {},
        Mode.LIVE: {"event_logging_max_pending_batch_queue_size": UNBOUNDED},
        Mode.MEMORY: {
            "event_logging_max_pending_batch_queue_size": UNBOUNDED,
            "disable_network": True,
        },
    }[mode]
    options = StatsigOptions(
        specs_url=f"{endpoint}/v2/download_config_specs",
        log_event_url=f"{endpoint}/v1/log_event",
        id_lists_url=f"{endpoint}/v1/get_id_lists",
        fallback_to_statsig_api=False,
        output_log_level="none",
        **bounds,
    )
    client = Statsig("secret-key", options)
    client.initialize().wait()
    user = StatsigUser(user_id=USER)

    def track(name: str, properties: dict[str, Any]) -> None:
        client.log_event(user, name, None, properties)

    return Client(track, lambda: client.flush_events().wait(), lambda: client.shutdown().wait())


#: This package, behind the same three calls.
OURS = Peer("heap_agent", "heap_agent", "heap_agent", _heap_agent)

#: In the order of the alphabet.
PEERS = (
    Peer("amplitude", "amplitude-analytics", "amplitude", _amplitude),
    Peer("glean", "glean-sdk", "glean", _glean, sends_elsewhere=True),
    Peer("mixpanel", "mixpanel", "mixpanel", _mixpanel),
    Peer("posthog", "posthog", "posthog", _posthog),
    Peer("rudder", "rudder-sdk-python", "rudderstack.analytics", _rudder),
    Peer("segment", "segment-analytics-python", "segment.analytics", _segment),
    Peer("sentry", "sentry-sdk", "sentry_sdk", _sentry),
    Peer("snowplow", "snowplow-tracker", "snowplow_tracker", _snowplow),
    Peer("statsig", "statsig", "statsig", _statsig),
    Peer("statsig-core", "statsig-python-core", "statsig_python_core", _statsig_core),
)


def installed() -> list[Peer]:
    """
    The peers that can be measured here.
    """
    return [peer for peer in PEERS if peer.version is not None]


def absent() -> list[Peer]:
    """
    Those that cannot: `pip install '.[peers]'` installs them.
    """
    return [peer for peer in PEERS if peer.version is None]

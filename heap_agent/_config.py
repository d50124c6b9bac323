"""
Configuration: arguments > environment > config file > defaults.

The only module that reads the environment, the config files and the platform's
directories. It must not know what an option does: it says which values are
allowed, where each one came from, and what was wrong with those it passed over.

A bad argument raises `InvalidCall`: the program is wrong. A bad value from the
environment or a file never does, since one typo must not stop five thousand
kiosks: it is passed over, and a sentence about it is kept in `Loaded.problems`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from heap_agent import _options, _proxies
from heap_agent._core import limits
from heap_agent._core.events import Scalar
from heap_agent.exceptions import InvalidCall

PREFIX: Final = "HEAP_AGENT_"

#: Least size of the state directory: the reserve, the write-ahead log and a few
#: journals must fit, and something to keep besides.
MAX_BYTES_MINIMUM: Final = 4 * 2**20

#: A pebibyte: more than any disk of a device, and no more than SQLite can count.
MAX_BYTES_MAXIMUM: Final = 2**50


class Config(_options.Options, prefix=PREFIX):
    """
    Every option, checked. Durations in seconds, sizes in bytes.

    Raises:
        InvalidCall: A value is not allowed.
    """

    app_id: str | None = _options.option(
        None, _options.check_app_id, "Id of the environment at Heap."
    )
    app_name: str | None = _options.option(
        None, _options.check_name, "Name of the state directory; by default the app id."
    )
    directory: Path | None = _options.option(
        None, _options.check_path, "State directory: identity, properties and the queue of events."
    )
    region: str = _options.option("us", _options.check_region, "Heap's data region: us or eu.")
    endpoint: str | None = _options.option(
        None,
        _options.check_endpoint,
        "Where to deliver instead of to Heap's own host.",
        secret=True,
    )
    allow_insecure: bool = _options.switch(
        False, "Allow an endpoint with plain HTTP on a host other than this one."
    )
    interval: float = _options.duration(limits.INTERVAL, "Time between two deliveries.")
    sync_interval: float = _options.duration(
        5.0, "A power cut takes at most what came in during this; a sync is about 10 KB of flash."
    )
    session_timeout: float | None = _options.duration(
        limits.SESSION_TIMEOUT, "A session ends after this long without an event.", optional=True
    )
    max_bytes: int = _options.count(
        64 * 2**20,
        "Most disk space; when it is used up, the oldest events go first.",
        minimum=MAX_BYTES_MINIMUM,
        maximum=MAX_BYTES_MAXIMUM,
        unit="bytes",
    )
    identity_budget: int | None = _options.count(
        limits.IDENTITY_EVENTS_PER_MINUTE,
        "Most events delivered per identity.",
        unit="events per minute",
        optional=True,
    )
    app_budget: int | None = _options.count(
        limits.APP_EVENTS_PER_MINUTE,
        "Most events delivered per app id, by the whole fleet.",
        unit="events per minute",
        optional=True,
    )
    fleet_size: int = _options.count(
        1, "Devices that share the app id, and app_budget.", unit="devices"
    )
    strict: bool | None = _options.switch(
        None, "True: faulty values raise; false: faulty recording calls do not raise either."
    )
    refused_identities: frozenset[str] | None = _options.option(
        None,
        _options.check_texts,
        "Identities that name nobody, instead of the built-in list.",
        parse=_options.as_texts,
    )
    device_properties: Mapping[str, Scalar] = _options.option(
        MappingProxyType({}),
        _options.check_mapping,
        "Properties of every event.",
        parse=_options.as_mapping,
    )
    capture_device: bool = _options.switch(
        False, "Put model, system, Python, agent and app_version on every event."
    )
    capture_lifecycle: bool = _options.switch(
        False, "Record when the program is installed, updated, opened, and when it has crashed."
    )
    app_version: str | None = _options.option(
        None, _options.check_version, "Version of the program, for what is captured."
    )
    clear_event_properties_on_new_user: bool = _options.switch(
        False, "Drop the event properties when the user changes."
    )
    report_losses: bool = _options.switch(
        False, "Deliver counts of lost events as an event of their own."
    )
    machine_id: str | None = _options.option(
        None,
        _options.check_text,
        "What tells this machine from a clone; by default the system's id.",
    )
    proxy: str | None = _options.option(
        None,
        _options.check_proxy,
        "HTTP proxy, or none; by default the environment's, for other hosts than this one.",
        secret=True,
    )
    ca_bundle: Path | None = _options.option(
        None, _options.check_path, "File of certificates (PEM) to trust besides the system's."
    )
    client_cert: Path | None = _options.option(
        None, _options.check_path, "File of the client's certificate (PEM)."
    )
    client_key: Path | None = _options.option(
        None, _options.check_path, "File of the certificate's key (PEM)."
    )
    connect_timeout: float = _options.duration(10.0, "Longest wait for a connection.")
    read_timeout: float = _options.duration(30.0, "Longest wait for an answer.")
    shutdown_timeout: float = _options.duration(
        2.0, "Longest final delivery at exit.", minimum=0.0, exclusive=False
    )
    at_exit: bool = _options.switch(True, "Deliver once more when the program exits.")
    pairing_signal: bool = _options.switch(
        False, "SIGUSR1 starts the Event Visualizer (POSIX, agent on the main thread)."
    )
    disabled: bool = _options.switch(False, "Every verb does nothing.")
    do_not_track: bool = _options.option(
        False,
        _options.check_flag,
        "Record nothing in this process, and keep what is queued.",
        parse=_options.as_refusal,
        environment="DO_NOT_TRACK",
    )

    def _check_together(self) -> None:
        for name, sentence in _conflicts(vars(self)):
            raise InvalidCall(f"{name}: {sentence}")

    @property
    def base_url(self) -> str:
        """Where requests go, without a slash at the end."""
        return self.endpoint or limits.HOSTS[self.region]

    @property
    def is_loopback(self) -> bool:
        """Whether requests stay on this machine."""
        return _proxies.is_loopback(self.base_url)


def _conflicts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Values that are allowed alone but not together: the field to blame, and why."""
    found = []
    endpoint = values.get("endpoint")
    if endpoint and endpoint.startswith("http:") and not values.get("allow_insecure"):
        if not _proxies.is_loopback(endpoint):
            why = f"{endpoint} has plain HTTP, which is for this machine only"
            found.append(("endpoint", f"{why}; use https, or allow_insecure."))
    if values.get("client_key") and not values.get("client_cert"):
        found.append(("client_key", "a key is of no use without its client_cert; give both."))
    return found


FIELDS: Final = Config.FIELDS


# -- loading -------------------------------------------------------------------


class Row(NamedTuple):
    """
    One option, as people want to see it.

    Attributes:
        name: Of the field and the argument.
        value: In force, as text, without passwords.
        source: Where it came from.
        default: As text.
        unit: Of the number; "" where there is none.
        environment: Name of the variable.
        help: One sentence.
    """

    name: str
    value: str
    source: str
    default: str
    unit: str
    environment: str
    help: str


class Loaded(NamedTuple):
    """
    A configuration and its history.

    Attributes:
        config: The values in force.
        sources: By field: "argument", "environment NAME", "file PATH" or
            "default".
        problems: A sentence for each value that was passed over.
        defaulted: Fields for which somebody gave a value, none of them was
            allowed, and the default is in force.
    """

    config: Config
    sources: Mapping[str, str]
    problems: tuple[str, ...]
    defaulted: frozenset[str] = frozenset()

    def describe(self) -> tuple[Row, ...]:
        """
        All options in the order of their definition, for people.
        """
        return tuple(self._row(known) for known in FIELDS.values())

    def _row(self, known: _options.Option) -> Row:
        return Row(
            name=known.name,
            value=known.show(getattr(self.config, known.name)),
            source=self.sources[known.name],
            default=known.show(known.default),
            unit=known.unit,
            environment=known.environment,
            help=known.help,
        )


def load(
    arguments: Mapping[str, object],
    environment: Mapping[str, str] | None = None,
    files: Sequence[Path] | None = None,
) -> Loaded:
    """
    Put the configuration together.

    Args:
        arguments: By field; None counts as not given where it is the default.
        environment: By default that of the process. A blank variable counts
            as not set.
        files: TOML, the strongest first; by default `config_files`.

    Returns:
        The values in force, where they came from, and what was passed over.

    Raises:
        InvalidCall: An argument is unknown or not allowed.
    """
    environment = os.environ if environment is None else environment
    loader = _Loader()
    loader.take_arguments(arguments)
    loader.take_environment(environment)
    for path in config_files() if files is None else files:
        loader.take_file(path)
    loader.settle(environment)
    config = Config(**loader.values)
    sources = {name: loader.sources.get(name, "default") for name in FIELDS}
    defaulted = frozenset(loader.refused - loader.values.keys())
    return Loaded(config, MappingProxyType(sources), tuple(loader.problems), defaulted)


class _Loader:
    """Takes values from the strongest source to the weakest."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self.problems: list[str] = []
        self.refused: set[str] = set()

    def take_arguments(self, arguments: Mapping[str, object]) -> None:
        for name, value in arguments.items():
            if name not in FIELDS:
                raise InvalidCall(f"{name!r} is no option{_did_you_mean(name, FIELDS)}")
            if value is None and FIELDS[name].default is None:
                continue
            self.values[name] = FIELDS[name].convert(value)
            self.sources[name] = "argument"

    def take_environment(self, environment: Mapping[str, str]) -> None:
        variables = {FIELDS[name].environment: name for name in FIELDS}
        for variable, name in variables.items():
            text = environment.get(variable, "")
            if text.strip():
                self._offer(name, FIELDS[name].read(text), f"environment {variable}")
        for variable in sorted(environment.keys() - variables.keys()):
            if not variable.startswith(PREFIX):
                continue
            # Others may use the prefix too; only what looks like ours is a typo.
            meant = _did_you_mean(variable.removeprefix(PREFIX).lower(), FIELDS)
            if meant != ".":
                self._problem(f"environment {variable}", f"there is no such option{meant}")

    def take_file(self, path: Path) -> None:
        source = f"file {path}"
        try:
            table = _read_toml(path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            self._problem(source, f"the file is passed over: {exc}.")
            return
        for name, value in table.items():
            if name not in FIELDS:
                meant = _did_you_mean(name, FIELDS)
                self._problem(source, f"{name!r} is no option{meant}")
                continue
            known = FIELDS[name]
            none = known.optional and value == "none"
            self._offer(name, None if none else value, source)

    def settle(self, environment: Mapping[str, str]) -> None:
        """Drop what does not go together, unless the program asked for it itself."""
        for name, sentence in _conflicts(self.values):
            if self.sources[name] != "argument":
                self._problem(self.sources.pop(name), f"{name} is passed over: {sentence}")
                self.refused.add(name)
                del self.values[name]
        if "proxy" not in self.values and not _conflicts(self.values):
            base_url = Config(**self.values).base_url
            for source, url in _proxies.find(base_url, environment):
                self._offer("proxy", url, source)

    def _offer(self, name: str, value: object, source: str) -> None:
        if name in self.values:
            return
        known = FIELDS[name]
        try:
            self.values[name] = known.check(value)
        except ValueError as exc:
            self._problem(source, f"{name} is passed over: {known.refusal(value, exc)}")
            self.refused.add(name)
        else:
            self.sources[name] = source

    def _problem(self, source: str, sentence: str) -> None:
        self.problems.append(f"{source}: {sentence}")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # only where somebody has made a mistake

    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def _read_toml(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        # Most machines have no such file, and pay for no parser.
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            table: dict[str, Any] = tomllib.load(file)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
    return table


def environment_proxy(url: str) -> str | None:
    """
    The proxy that leads to a URL, for those who have no configuration.
    """
    return next((proxy for _, proxy in _proxies.find(url, os.environ)), None)


# -- directories ---------------------------------------------------------------


def _platform_directory(kind: str) -> Path | None:
    import platformdirs

    try:
        found: str = getattr(platformdirs, kind)("heap_agent", appauthor=False)
    except RuntimeError:
        return None  # a user without a home
    # Older releases give such a user a literal "~", which is no absolute path.
    return Path(found) if os.path.isabs(found) else None


def config_files() -> tuple[Path, ...]:
    """
    Where config files are looked for: the user's, then the site's.
    """
    folders = map(_platform_directory, ("user_config_dir", "site_config_dir"))
    return tuple(folder / "config.toml" for folder in folders if folder)


def state_directory(config: Config, environment: Mapping[str, str] | None = None) -> Path | None:
    """
    Where identity, properties and the queue live; nothing is made here.

    Args:
        config: Whose `directory`, `app_name` and `app_id` count.
        environment: Of which ``STATE_DIRECTORY`` (systemd) counts; by default
            that of the process.

    Returns:
        An absolute path. None for a user without a home, when nothing else
        names a place: then there is none.
    """
    if config.directory is not None:
        text = os.path.expanduser(config.directory)
        return None if text.startswith("~") else Path(os.path.abspath(text))
    environment = os.environ if environment is None else environment
    # systemd lists one directory per name in StateDirectory=.
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    if os.path.isabs(given):
        return Path(given) / "heap_agent"
    home = _platform_directory("user_state_dir")
    return home and home / (config.app_name or config.app_id or "default")

"""
Configuration: what is allowed, who wins, and what happens to typos.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heap_agent import Agent, _config
from heap_agent._config import Config, Loaded, load, state_directory
from heap_agent.exceptions import InvalidCall


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def from_environment(**variables: str) -> Loaded:
    return load({}, variables, [])


# -- what is allowed -----------------------------------------------------------


def test_defaults_are_allowed() -> None:
    """Nothing need be given, and every field knows its variable and its help."""
    config = Config()

    assert (15.0, 64 * 2**20, None) == (config.interval, config.max_bytes, config.strict)
    for name in _config.FIELDS:
        known = _config.FIELDS[name]
        assert known.help.endswith(".")
        assert known.environment in (f"HEAP_AGENT_{name.upper()}", "DO_NOT_TRACK")


@pytest.mark.parametrize(
    ("name", "given_", "expected"),
    [
        ("app_id", 11, "11"),
        ("app_id", " 11 ", "11"),
        ("interval", timedelta(minutes=1), 60.0),
        ("interval", 0.01, 0.01),
        ("session_timeout", None, None),
        ("shutdown_timeout", 0, 0.0),
        ("directory", "data", Path("data")),
        ("region", "EU", "eu"),
        ("endpoint", "https://collector.example:8443/", "https://collector.example:8443"),
        ("endpoint", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("endpoint", "http://[::1]:8000", "http://[::1]:8000"),
        ("endpoint", "http://localhost", "http://localhost"),
        ("identity_budget", None, None),
        ("strict", False, False),
        ("refused_identities", ["test"], frozenset({"test"})),
        ("device_properties", {"Site": "Oslo", "floor": 3}, {"Site": "Oslo", "floor": 3}),
        ("app_name", "Kiosk 2.1", "Kiosk 2.1"),
    ],
)
def test_allowed_arguments(name: str, given_: object, expected: object) -> None:
    """Each of these is taken, and brought into its one form."""
    loaded = load({name: given_}, {}, [])

    assert expected == getattr(loaded.config, name)
    assert "argument" == loaded.sources[name]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("app_id", "eleven"),
        ("app_id", True),
        ("app_id", -1),
        ("app_id", "١١"),
        ("interval", 0),
        ("interval", -5.0),
        ("interval", float("nan")),
        ("interval", float("inf")),
        ("interval", "15"),
        ("interval", True),
        ("interval", None),
        ("sync_interval", timedelta(0)),
        ("shutdown_timeout", -0.1),
        ("read_timeout", 10**10),
        ("max_bytes", 2**50 + 1),
        ("fleet_size", 10**9 + 1),
        ("machine_id", "\udcff"),
        ("max_bytes", 4 * 2**20 - 1),
        ("max_bytes", 1e9),
        ("fleet_size", 0),
        ("app_budget", 0),
        ("region", "moon"),
        ("endpoint", "collector.example"),
        ("endpoint", "ftp://collector.example"),
        ("endpoint", "https://"),
        ("endpoint", "https://collector.example:99999"),
        ("endpoint", "https://collector.example/?a=1"),
        ("endpoint", "https://user:secret@collector.example"),
        ("endpoint", "http://collector.example"),
        ("endpoint", "http://127.evil.example"),
        ("endpoint", "https://two words"),
        ("proxy", "socks5://proxy.example"),
        ("app_name", "../elsewhere"),
        ("app_name", ".."),
        ("app_name", ""),
        ("directory", ""),
        ("directory", "nul\0"),
        ("directory", 7),
        ("directory", b"data"),
        ("strict", "yes"),
        ("at_exit", 1),
        ("refused_identities", "test"),
        ("refused_identities", [1]),
        ("device_properties", {"x": float("nan")}),
        ("device_properties", {"x": [1]}),
        ("device_properties", {1: "x"}),
        ("device_properties", ["x"]),
        ("machine_id", "  "),
        ("client_key", "key.pem"),
    ],
)
def test_bad_arguments_raise(name: str, bad: object) -> None:
    """A bad argument is a fault of the program: its name and what is allowed are told."""
    with pytest.raises(InvalidCall, match=f"^{name}: ") as caught:
        load({name: bad}, {}, [])

    assert "secret" not in str(caught.value)


def test_an_argument_that_cannot_be_shown_raises_the_same() -> None:
    """Python does not write an integer of so many digits."""
    with pytest.raises(InvalidCall, match="^fleet_size: a value of type int came"):
        load({"fleet_size": 10**5_000}, {}, [])


def test_the_largest_numbers_are_allowed(tmp_path: Path) -> None:
    """Whatever is allowed alone works together."""
    agent = Agent(
        "11",
        directory=tmp_path / "state",
        endpoint="http://127.0.0.1:9",
        fleet_size=10**9,
        identity_budget=1,
        app_budget=10**9,
        max_bytes=2**50,
    )
    agent.track("E")

    assert agent.status().queued == 1
    agent.shutdown(0)


def test_unknown_argument_names_the_one_that_was_meant() -> None:
    """A misspelt option is never ignored."""
    with pytest.raises(InvalidCall, match="'intervall' is no option; did you mean 'interval'?"):
        load({"intervall": 5}, {}, [])
    with pytest.raises(InvalidCall, match="'quux' is no option."):
        load({"quux": 5}, {}, [])


def test_config_itself_checks_too() -> None:
    """Values do not slip in beside `load`, nor into a checked configuration."""
    with pytest.raises(InvalidCall, match="^interval: -1 came"):
        Config(interval=-1)
    with pytest.raises(InvalidCall, match="^endpoint: .*plain HTTP"):
        Config(endpoint="http://collector.example")
    with pytest.raises(TypeError, match="there is no option intervall"):
        Config(intervall=5)
    config = Config(device_properties={"a": 1})
    with pytest.raises(AttributeError, match="Config does not change"):
        config.interval = -1.0
    assert config == Config(**vars(config)) != Config()


def test_mappings_are_copied_and_closed() -> None:
    """A mapping that changes later does not change the configuration."""
    properties = {"Site": "Oslo"}
    config = Config(device_properties=properties)
    properties["Site"] = "Bergen"

    assert {"Site": "Oslo"} == config.device_properties
    with pytest.raises(TypeError):
        config.device_properties["Site"] = "Rome"  # type: ignore[index]


def test_insecure_endpoint_needs_a_word() -> None:
    """Plain HTTP leaves this machine only when it is allowed by name."""
    config = load({"endpoint": "http://collector.lan", "allow_insecure": True}, {}, []).config

    assert "http://collector.lan" == config.base_url


@pytest.mark.parametrize(
    ("config", "url", "loopback"),
    [
        (Config(), "https://heapanalytics.com", False),
        (Config(region="eu"), "https://c.eu.heap-api.com", False),
        (Config(region="eu", endpoint="https://own.example/"), "https://own.example", False),
        (Config(endpoint="http://127.0.0.1:9"), "http://127.0.0.1:9", True),
    ],
)
def test_base_url_is_the_endpoint_or_the_regions_host(
    config: Config, url: str, loopback: bool
) -> None:
    """An endpoint wins over the region, and loopback is told from the rest."""
    assert (url, loopback) == (config.base_url, config.is_loopback)


# -- who wins ------------------------------------------------------------------


def test_precedence(write: Callable[[str], Path]) -> None:
    """Argument, environment, the user's file, the site's file, default: in this order."""
    user = write("interval = 3\nfleet_size = 3\nregion = 'eu'")
    site = write("interval = 4\nfleet_size = 4\nregion = 'us'\nmax_bytes = 5_000_000")
    variables = {"HEAP_AGENT_INTERVAL": "2", "HEAP_AGENT_FLEET_SIZE": "2"}

    loaded = load({"interval": 1}, variables, [user, site])

    config = loaded.config
    assert (1.0, 2, "eu", 5_000_000) == (
        config.interval,
        config.fleet_size,
        config.region,
        config.max_bytes,
    )
    assert [
        "argument",
        "environment HEAP_AGENT_FLEET_SIZE",
        f"file {user}",
        f"file {site}",
        "default",
    ] == [
        loaded.sources[name]
        for name in ("interval", "fleet_size", "region", "max_bytes", "sync_interval")
    ]
    assert () == loaded.problems


def test_none_as_argument_is_not_given_where_it_is_the_default() -> None:
    """`init(app_id=None)` takes the id from the environment; a None that means something stays."""
    loaded = load(
        {"app_id": None, "session_timeout": None},
        {"HEAP_AGENT_APP_ID": "7", "HEAP_AGENT_SESSION_TIMEOUT": "60"},
        [],
    )

    assert ("7", None) == (loaded.config.app_id, loaded.config.session_timeout)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("APP_ID", "11", "11"),
        ("INTERVAL", "2.5", 2.5),
        ("SESSION_TIMEOUT", "none", None),
        ("APP_BUDGET", "None", None),
        ("MAX_BYTES", "8_000_000", 8_000_000),
        ("STRICT", "1", True),
        ("STRICT", "off", False),
        ("DISABLED", "TRUE", True),
        ("DIRECTORY", "/data/heap", Path("/data/heap")),
        ("REFUSED_IDENTITIES", "demo, kiosk", frozenset({"demo", "kiosk"})),
        ("REFUSED_IDENTITIES", '["a,b"]', frozenset({"a,b"})),
        ("DEVICE_PROPERTIES", "Site=Oslo, Floor=3", {"Site": "Oslo", "Floor": "3"}),
        ("DEVICE_PROPERTIES", '{"Site": "Oslo", "Floor": 3}', {"Site": "Oslo", "Floor": 3}),
    ],
)
def test_environment(name: str, text: str, expected: object) -> None:
    """The environment's text becomes what the option needs."""
    loaded = from_environment(**{f"HEAP_AGENT_{name}": text})

    assert expected == getattr(loaded.config, name.lower())
    assert () == loaded.problems


@pytest.mark.parametrize(
    ("text", "expected"), [("1", True), ("yes", True), ("please", True), ("0", False), ("", False)]
)
def test_do_not_track(text: str, expected: bool) -> None:
    """DO_NOT_TRACK is honoured unless it plainly says no."""
    assert expected is from_environment(DO_NOT_TRACK=text).config.do_not_track


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("INTERVAL", "abc"),
        ("INTERVAL", "-1"),
        ("INTERVAL", "nan"),
        ("MAX_BYTES", "64MB"),
        ("APP_ID", "eleven"),
        ("DISABLED", "maybe"),
        ("REGION", "moon"),
        ("ENDPOINT", "http://collector.example"),
        ("CLIENT_KEY", "key.pem"),
        ("INTERVAL", "none"),
        ("DEVICE_PROPERTIES", "Site"),
        ("DEVICE_PROPERTIES", "{broken"),
        ("REFUSED_IDENTITIES", "[broken"),
        ("REFUSED_IDENTITIES", "[" * 100_000),
        ("DEVICE_PROPERTIES", '{"a":' * 100_000),
        ("FLEET_SIZE", "1" + "0" * 400),
        ("IDENTITY_BUDGET", "1" + "0" * 400),
        ("APP_BUDGET", "1" + "0" * 5_000),
        ("MAX_BYTES", "1" + "0" * 30),
        ("MACHINE_ID", "\udcff"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_environment_leaves_the_default_in_force(name: str, text: str) -> None:
    """A typo in the environment stops nothing: default, and one sentence."""
    variable = f"HEAP_AGENT_{name}"
    loaded = from_environment(**{variable: text})

    assert Config() == loaded.config
    assert "default" == loaded.sources[name.lower()]
    assert 1 == len(loaded.problems)
    assert loaded.problems[0].startswith(f"environment {variable}: {name.lower()} is passed over")


def test_blank_variable_is_not_set() -> None:
    """A variable that a compose file leaves empty is as good as none."""
    assert () == from_environment(HEAP_AGENT_INTERVAL=" ").problems


def test_misspelt_variable_is_told() -> None:
    """What looks like one of ours is reported; what others keep under the prefix is not."""
    loaded = from_environment(HEAP_AGENT_INTERVALL="5", HEAP_AGENT_PYTHON_WHEELHOUSE="x")

    assert (
        "environment HEAP_AGENT_INTERVALL: there is no such option; did you mean 'interval'?",
    ) == loaded.problems


@given(
    st.dictionaries(
        st.sampled_from([_config.FIELDS[name].environment for name in _config.FIELDS]),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    )
)
def test_no_environment_ever_raises(variables: dict[str, str]) -> None:
    """Whatever the environment says: a configuration, with a source for every field."""
    loaded = load({}, variables, [])

    assert set(_config.FIELDS) == set(loaded.sources)
    assert len(loaded.describe()) == len(_config.FIELDS)


def test_file(write: Callable[[str], Path]) -> None:
    """A file may give tables, lists and "none"."""
    path = write(
        'app_id = 11\nsession_timeout = "none"\nrefused_identities = ["demo"]\n'
        "[device_properties]\nSite = 'Oslo'\nFloor = 3\n"
    )
    loaded = load({}, {}, [path])

    assert () == loaded.problems
    assert ("11", None) == (loaded.config.app_id, loaded.config.session_timeout)
    assert frozenset({"demo"}) == loaded.config.refused_identities
    assert {"Site": "Oslo", "Floor": 3} == loaded.config.device_properties


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("interval = ", "the file is passed over"),
        ("interval = " + "[" * 3_000 + "]" * 3_000, "the file is passed over"),
        ("fleet_size = 1" + "0" * 400, "fleet_size is passed over: 1000"),
        ("interval = '15'", "interval is passed over: '15' came"),
        ("intervall = 15", "'intervall' is no option; did you mean 'interval'?"),
        ("endpoint = 'http://collector.example'", "endpoint is passed over"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_file_leaves_the_default_in_force(
    text: str, sentence: str, write: Callable[[str], Path]
) -> None:
    """A typo in a file stops nothing, and is told with the file's path."""
    path = write(text)
    loaded = load({}, {}, [path])

    assert Config() == loaded.config
    assert 1 == len(loaded.problems)
    assert loaded.problems[0].startswith(f"file {path}: {sentence}")


def test_a_key_of_many_parts_leaves_the_default_in_force(write: Callable[[str], Path]) -> None:
    """Whether or not the parser takes it, the value cannot even be shown."""
    loaded = load({}, {}, [write("interval" + ".a" * 3_000 + " = 1")])

    assert Config() == loaded.config
    assert 1 == len(loaded.problems)


def test_missing_file_is_no_problem_but_an_unreadable_one_is(tmp_path: Path) -> None:
    """No file is normal; a directory or bytes in its place are told."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    loaded = load({}, {}, [tmp_path / "missing", tmp_path, tmp_path / "binary"])

    assert Config() == loaded.config
    assert 2 == len(loaded.problems)


# -- proxies and secrets -------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"ALL_PROXY": "http://proxy"}, "http://proxy"),
        ({"HTTP_PROXY": "http://proxy"}, None),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://proxy", "NO_PROXY": "x, .heapanalytics.com"}, "http://proxy"),
        ({"HTTPS_PROXY": "http://proxy", "no_proxy": "heapanalytics.com"}, None),
        ({"HTTPS_PROXY": "http://proxy", "HEAP_AGENT_PROXY": "none"}, None),
        ({"HTTPS_PROXY": "http://proxy", "HEAP_AGENT_PROXY": "http://own"}, "http://own"),
        ({"HTTPS_PROXY": "socks5://proxy"}, None),
        ({"https_proxy": "socks5://proxy", "HTTPS_PROXY": "http://proxy"}, "http://proxy"),
        ({"HTTPS_PROXY": "http://proxy", "HEAP_AGENT_ENDPOINT": "https://127.0.0.1"}, None),
        (
            {"HTTPS_PROXY": "http://p", "HEAP_AGENT_ENDPOINT": "https://a.b.c", "NO_PROXY": "b.c"},
            None,
        ),
    ],
)
def test_proxy_of_the_environment(variables: dict[str, str], expected: str | None) -> None:
    """The usual variables name the proxy, but for this machine and exempt hosts."""
    assert expected == from_environment(**variables).config.proxy


def test_no_proxy_can_be_said(write: Callable[[str], Path]) -> None:
    """The word "none" wins over the environment's proxy, wherever it was said."""
    variables = {"HTTPS_PROXY": "http://proxy"}
    said = [
        load({"proxy": "none"}, variables, []),
        load({}, {**variables, "HEAP_AGENT_PROXY": "none"}, []),
        load({}, variables, [write('proxy = "none"')]),
    ]

    for loaded in said:
        [row] = [row for row in loaded.describe() if row.name == "proxy"]
        assert not loaded.config.proxy
        assert row.value == "none"
        assert "HTTPS_PROXY" not in row.source
        assert not loaded.problems


@pytest.mark.parametrize(
    "url",
    ["http://kiosk:secret@proxy:3128", "socks5://kiosk:sec@secret@proxy", "kiosk:secret@proxy:1"],
)
def test_passwords_are_never_shown(url: str) -> None:
    """Neither repr, problems nor the table hold a proxy's password, right or wrong."""
    loaded = from_environment(HEAP_AGENT_PROXY=url)

    assert "secret" not in repr(loaded)
    assert "secret" not in repr(loaded.describe())
    assert "proxy" in repr(loaded)


def test_describe_shows_value_source_and_default() -> None:
    """The table has a row per option, in the order of their definition."""
    rows = {row.name: row for row in load({"interval": 20}, {"DO_NOT_TRACK": "1"}, []).describe()}

    assert list(_config.FIELDS) == list(rows)
    interval = rows["interval"]
    assert ("20", "argument", "15", "s") == (
        interval.value,
        interval.source,
        interval.default,
        interval.unit,
    )
    assert "HEAP_AGENT_INTERVAL" == interval.environment
    assert ("true", "environment DO_NOT_TRACK") == (
        rows["do_not_track"].value,
        rows["do_not_track"].source,
    )
    assert ("none", "{}") == (rows["app_id"].value, rows["device_properties"].value)


# -- directories ---------------------------------------------------------------


def test_directory_argument_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given directory is made absolute at once, so that a later chdir does not move it."""
    monkeypatch.chdir(tmp_path)

    found = state_directory(Config(directory=Path("data")), {"STATE_DIRECTORY": "/var/lib/x"})
    assert tmp_path / "data" == found


def test_state_directory_of_systemd() -> None:
    """systemd's directory, of several the first, gets a folder of ours."""
    config = Config(app_id="11")

    for given_ in ("/var/lib/kiosk", "/var/lib/kiosk:/var/lib/other"):
        found = state_directory(config, {"STATE_DIRECTORY": given_})
        assert Path("/var/lib/kiosk/heap_agent") == found


@pytest.mark.skipif(sys.platform != "linux", reason="XDG directories")
def test_state_directory_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unrelated programs do not share an identity: a folder per name, or app id."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def found(**values: str) -> Path | None:
        return state_directory(Config(**values), {"STATE_DIRECTORY": ""})  # type: ignore[arg-type]

    assert tmp_path / "heap_agent" / "11" == found(app_id="11")
    assert tmp_path / "heap_agent" / "Kiosk" == found(app_id="11", app_name="Kiosk")
    assert tmp_path / "heap_agent" / "default" == found()


@pytest.mark.skipif(sys.platform != "linux", reason="XDG directories")
def test_config_files_of_the_user_and_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the user's file is read before the site's."""
    for name, text in (("user", "interval = 1"), ("site", "interval = 2\nfleet_size = 2")):
        (tmp_path / name / "heap_agent").mkdir(parents=True)
        (tmp_path / name / "heap_agent" / "config.toml").write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))

    config = load({}, {}).config
    assert (1.0, 2) == (config.interval, config.fleet_size)


HOMELESS = """
import os, platformdirs
from heap_agent._config import Config, config_files, load, state_directory
config = load({"app_id": 11}).config
os.setgroups([]); os.setgid(54321); os.setuid(54321)
print(state_directory(config), state_directory(Config(directory="~/x")), load({}).problems)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may become nobody"
)
def test_user_without_a_home_gets_no_literal_tilde() -> None:
    """A uid that no home is known for has no state directory, and no folder named "~"."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS], env=environment, capture_output=True, text=True
    )

    assert ("None None ()\n", "") == (done.stdout, done.stderr)


def test_import_loads_no_platformdirs() -> None:
    """The platform's directories are looked up only when nothing else names a place."""
    code = (
        "import sys; from heap_agent._config import load\n"
        "load({'directory': '/x'}, {}, []); print('platformdirs' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert "False\n" == done.stdout

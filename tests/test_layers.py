"""The floors of the package, read from the imports: who may know whom, and which outside thing."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import heap_agent

PACKAGE = Path(inspect.getfile(heap_agent)).parent
MODULES = {
    ".".join(("heap_agent", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@attrs.frozen
class Import:
    """One import, wherever in a module it stands."""

    name: str
    line: int


def imports_of(module: str) -> Iterator[Import]:
    """Every import: at the top, in functions, and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative imports are not used"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Import(whole if whole in MODULES else str(node.module), node.lineno)


IMPORTS = {module: tuple(imports_of(module)) for module in MODULES}


def within(name: str, *rooms: str) -> bool:
    """Whether a module is one of these, or inside of one."""
    return any(name == room or name.startswith(room + ".") for room in rooms)


def own(module: str) -> Iterator[Import]:
    """Imports from this package."""
    return (found for found in IMPORTS[module] if within(found.name, "heap_agent"))


def outside(module: str) -> Iterator[Import]:
    """Imports from elsewhere, by the name of their top package."""
    for found in IMPORTS[module]:
        if not within(found.name, "heap_agent"):
            yield Import(found.name.partition(".")[0], found.line)


def in_room(room: str) -> list[str]:
    """The modules of a room."""
    return [module for module in MODULES if within(module, room)]


# -- floors: what each room may import of this package --------------------------------

CORE, STORE, UPLOAD, VIEW, SERVER, TOOLS, PYINSTALLER = (
    "heap_agent._core",
    "heap_agent._store",
    "heap_agent._upload",
    "heap_agent._view",
    "heap_agent._server",
    "heap_agent._tools",
    "heap_agent._pyinstaller",
)
ERRORS = "heap_agent.exceptions"
TRANSPORT = "heap_agent._upload.transport"
OPTIONS = ("heap_agent._options", "heap_agent._proxies", "heap_agent._config")

FLOORS = {
    ERRORS: (),
    CORE: (CORE, ERRORS),
    STORE: (STORE, CORE, ERRORS),
    TRANSPORT: (CORE, ERRORS),
    UPLOAD: (UPLOAD, STORE, CORE, ERRORS),
    # What it shows is told to it: no agent, no options.
    VIEW: (VIEW, UPLOAD, STORE, CORE, ERRORS),
    # No disk and no agent: a server has no queue.
    SERVER: (SERVER, TRANSPORT, CORE, ERRORS, *OPTIONS, "heap_agent._version"),
    "heap_agent.server": (SERVER, ERRORS),
    # Loaded where a program is built, and nowhere else.
    PYINSTALLER: (),
    "heap_agent._options": (CORE, ERRORS),
    "heap_agent._proxies": (),
    "heap_agent._config": (CORE, ERRORS, "heap_agent._options", "heap_agent._proxies"),
}


#: What decides about bulk calls: time and chance are arguments there too.
DECIDING = [
    f"heap_agent._server.{name}"
    for name in ("bulk", "checks", "errors", "items", "patience", "secret", "suspects", "values")
]


def allowed_in(module: str) -> tuple[str, ...] | None:
    """The rooms that a module may import from; None where any below is allowed."""
    for room, allowed in FLOORS.items():
        if within(module, room):
            return allowed
    return None


@pytest.mark.parametrize("module", [name for name in MODULES if allowed_in(name) is not None])
def test_imports_go_downward(module: str) -> None:
    """A room knows only the rooms under it."""
    allowed = allowed_in(module)
    assert allowed is not None
    wrong = [found for found in own(module) if not within(found.name, *allowed)]
    assert wrong == [], f"{module} may import {allowed} only"


def test_the_floors_name_rooms_that_exist() -> None:
    """A renamed room does not slip through."""
    assert all(in_room(room) for room in (*FLOORS, TOOLS, *DECIDING))


@pytest.mark.parametrize("module", DECIDING)
def test_what_decides_does_not_know_the_network(module: str) -> None:
    """Of this package it may import what is pure, and itself."""
    allowed = (CORE, ERRORS, *DECIDING)
    assert [found for found in own(module) if not within(found.name, *allowed)] == []


@pytest.mark.parametrize(
    "module", [name for name in MODULES if not within(name, TOOLS, "heap_agent.testing")]
)
def test_the_tools_are_on_top(module: str) -> None:
    """Only the tools, the testing module and the command's entry know the tools."""
    if module not in ("heap_agent.__main__",):
        assert [found for found in own(module) if within(found.name, TOOLS)] == []


def test_the_agent_does_not_know_who_uses_it() -> None:
    """Neither the functions nor the aliases are known below them."""
    inner = ("_agent", "_outbox", "_pairings", "_status")
    for module in (f"heap_agent.{name}" for name in inner):
        above = ("heap_agent._api", "heap_agent._aliases", "heap_agent.testing")
        assert [found for found in own(module) if within(found.name, *above)] == []


# -- circles ---------------------------------------------------------------------------


def circles() -> list[set[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components)."""
    graph = {
        module: [found.name for found in own(module) if found.name != "heap_agent"]
        for module in MODULES
    }
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in graph.get(module, ()):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            group = set()
            while module not in group:
                group.add(stack.pop())
            if len(group) > 1 or module in graph.get(module, ()):
                found.append(group)

    for module in graph:
        if module not in order:
            visit(module)
    return found


def test_there_is_no_circle() -> None:
    """Imports in functions and under TYPE_CHECKING count too."""
    assert circles() == []


def test_delivery_does_not_know_the_verbs() -> None:
    """The half of an agent that delivers is known to the other, and not the other way round."""
    assert not any(within(found.name, "heap_agent._agent") for found in own("heap_agent._outbox"))


def test_nobody_inside_imports_the_face() -> None:
    """Only the tools may import the package as a program does."""
    users = {module for module in MODULES for found in own(module) if found.name == "heap_agent"}
    assert [module for module in users if not within(module, TOOLS)] == []


# -- the outside world -----------------------------------------------------------------

#: What the rules may use: no I/O, no clock, no threads, no randomness.
PURE = {
    "__future__",
    "attrs",
    "base64",
    "bisect",
    "collections",
    "dataclasses",
    "datetime",
    "decimal",
    "email",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "orjson",
    "re",
    "struct",
    "types",
    "typing",
    "unicodedata",
    "zlib",
}

#: One outside thing per room.
ONLY_IN = {
    "sqlite3": ("heap_agent._store.database",),
    "urllib3": ("heap_agent._upload.transport",),
    "apscheduler": ("heap_agent._upload.scheduler",),
    "platformdirs": ("heap_agent._config",),
    "orjson": ("heap_agent._core.encoder",),
    "filelock": ("heap_agent._store",),
    "uvicorn": (VIEW,),
    "starlette": (VIEW, TOOLS),
    "segno": (VIEW,),
    "click": (TOOLS,),
    "rich": (TOOLS,),
    "PyInstaller": (PYINSTALLER,),
    "asyncio": (VIEW, TOOLS, "heap_agent._agent"),
}


@pytest.mark.parametrize("module", [*in_room(CORE), *DECIDING])
def test_the_rules_are_pure(module: str) -> None:
    """No clock, no file, no thread and no randomness: all of these are arguments."""
    assert [found for found in outside(module) if found.name not in PURE] == []


@pytest.mark.parametrize("thing", ONLY_IN)
def test_each_outside_thing_has_one_room(thing: str) -> None:
    """What could be replaced one day is in one place."""
    users = [
        f"{module}:{found.line}"
        for module in MODULES
        for found in outside(module)
        if found.name == thing and not within(module, *ONLY_IN[thing])
    ]
    assert users == []


@pytest.mark.parametrize("thing", ["sqlite3", "urllib3", "apscheduler", "platformdirs", "orjson"])
def test_the_rooms_of_outside_things_use_them(thing: str) -> None:
    """A moved import is noticed in this table too."""
    assert any(found.name == thing for room in ONLY_IN[thing] for found in outside(room))


def mentions(module: str, *names: str) -> list[int]:
    """Lines on which ``os.<name>`` or an imported ``<name>`` is used."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]


@pytest.mark.parametrize(
    "module", [m for m in MODULES if not within(m, "heap_agent._config", TOOLS)]
)
def test_the_environment_is_read_in_one_place(module: str) -> None:
    """Every variable is found in the table of options."""
    assert mentions(module, "environ", "environb", "getenv") == []


@pytest.mark.parametrize("module", [m for m in MODULES if not within(m, TOOLS)])
def test_nothing_is_printed(module: str) -> None:
    """A library in a host program has no output of its own, and configures no logging."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))
    }
    assert called & {"print", "basicConfig", "dictConfig", "fileConfig"} == set()


# -- manners ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    """A docstring first; the ``__init__`` of a room is empty."""
    path = MODULES[module]
    text = path.read_text("utf-8")
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert text.strip() == ""
    else:
        assert ast.get_docstring(ast.parse(text))

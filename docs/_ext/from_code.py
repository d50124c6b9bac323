"""
Directives that say what the code says: options, answers, state machines.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from inspect import getdoc, isroutine
from typing import Any, ClassVar

import machines
from docutils import nodes
from docutils.parsers.rst import Directive
from drawing import Way, draw
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import heap_agent
from heap_agent import _config
from heap_agent._agent import Agent


class Options(Directive):
    """Every option, with its default and its unit."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for row in _config.load({}, environment={}, files=()).describe():
            others = row.environment != f"HEAP_AGENT_{row.name.upper()}"
            name = f"`{row.name}`, `{row.environment}`" if others else f"`{row.name}`"
            rows.append((name, f"`{row.default}` {row.unit}", row.help))
        return [table(("option", "default", "what it is for"), rows)]


class Functions(SphinxDirective):
    """The functions over the default agent, each with Heap's spelling. In reST only."""

    def run(self) -> list[nodes.Node]:
        table = [".. list-table::", "   :header-rows: 1", ""]
        for name, says in [("function", "what it does"), *self._rows()]:
            table += [f"   * - {name}", f"     - {says}"]
        return self.parse_text_to_nodes("\n".join(table))

    @staticmethod
    def _rows() -> Iterator[tuple[str, str]]:
        functions = {name: value for name, value in vars(heap_agent).items() if isroutine(value)}
        spellings = {f.__name__: name for name, f in functions.items() if name != f.__name__}
        for name in verbs():
            if name in functions:
                text = " ".join(str(getdoc(getattr(Agent, name))).split())
                says = re.split(r"[.:]( |$)", text)[0] + "."
                if name in spellings:
                    says += f" Heap's spelling: `{spellings[name]}`"
                yield f":meth:`{name} <heap_agent.Agent.{name}>`", says


class AgentClass(SphinxDirective):
    """`Agent`, with its members in the order of the code. In reST only."""

    def run(self) -> list[nodes.Node]:
        lines = [".. autoclass:: heap_agent.Agent", ""]
        for name in verbs():
            kind = "property" if isinstance(getattr(Agent, name), property) else "method"
            lines += [f"   .. auto{kind}:: {name}"]
        return self.parse_text_to_nodes("\n".join(lines))


def verbs() -> list[str]:
    """The public members of an agent, but for Heap's spellings, in the order of the code."""
    return [name for name in vars(Agent) if not name.startswith("_")]


class Answers(Directive):
    """What an answer means for the rows that were sent."""

    def run(self) -> list[nodes.Node]:
        heads = ("answer", "told by", "one row", "eight rows", "what comes next")
        return [table(heads, machines.reactions())]


class EventWay(Directive):
    """Where an event can stand, and what moves it on."""

    PLACES: ClassVar = {
        "track()": (70, 110),
        "journal": (280, 110),
        "queue": (490, 110),
        "on its way": (710, 110),
        "delivered": (920, 110),
        "dropped": (385, 250),
        "dead letter": (815, 250),
    }
    WAYS: ClassVar = (
        Way("track()", "journal", "one\nwrite(2)"),
        Way("journal", "queue", "one\ntransaction"),
        Way("queue", "on its way", "one\nrequest"),
        Way("on its way", "delivered", "accepted"),
        Way("on its way", "queue", "any other answer, or none", bend=-60),
        Way("journal", "dropped", "no room, or\nno consent", words=(52, -3)),
        Way("queue", "dropped", ""),
        Way("on its way", "dead letter", "refused alone", words=(10, 0), anchor="start"),
        Way("dead letter", "queue", "by hand", bend=26, words=(-10, 16)),
    )

    def run(self) -> list[nodes.Node]:
        return [picture(draw(self.PLACES, self.WAYS, (1000, 280), "the way of one event"))]


class LaneModes(Directive):
    """The modes of a lane."""

    PLACES: ClassVar = {"normal": (90, 50), "trial": (430, 50), "convicted": (430, 200)}
    SHAPES: ClassVar = {
        ("normal", "trial"): {},
        ("trial", "convicted"): {"bend": 50, "words": (8, 4), "anchor": "start"},
        ("convicted", "trial"): {"bend": 50, "words": (-8, 4), "anchor": "end"},
        ("convicted", "normal"): {"bend": 45, "words": (-12, 12), "anchor": "end"},
    }

    def run(self) -> list[nodes.Node]:
        changes = machines.modes()
        said = {(change.before, change.after, change.why) for change in changes}
        if said != set(machines.WHY_MODE):
            raise ExtensionError(f"the modes of a lane have changed: {said}")
        ways = [
            Way(before, after, words, **self.SHAPES[before, after])
            for (before, after, _), words in machines.WHY_MODE.items()
        ]
        return [picture(draw(self.PLACES, ways, (700, 240), "the modes of a lane"))]


class PairingPhases(Directive):
    """The phases of a pairing."""

    def run(self) -> list[nodes.Node]:
        places = {name: (90 + 270 * i, 50) for i, name in enumerate(machines.phases())}
        reasons: dict[tuple[str, str], list[str]] = {}
        for change in sorted(machines.pairing()):
            reasons.setdefault((change.before, change.after), []).append(change.why)
        first, _, last = places
        aside: dict[str, Any] = {"bend": -66, "words": (0, 18)}
        ways = [
            Way(*pair, ",\n".join(why), **(aside if pair == (first, last) else {}))
            for pair, why in reasons.items()
        ]
        return [picture(draw(places, ways, (720, 190), "the phases of a pairing"))]


def picture(svg: str) -> nodes.Node:
    return nodes.raw("", f'<figure style="overflow-x:auto">{svg}</figure>', format="html")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> nodes.Node:
    found = nodes.table(classes=["colwidths-auto"])
    group = nodes.tgroup(cols=len(heads))
    found += group
    group += [nodes.colspec(colwidth=1) for _ in heads]
    head = nodes.thead()
    head += line(heads)
    body = nodes.tbody()
    body += [line(cells) for cells in rows]
    group += [head, body]
    return found


def line(cells: Sequence[str]) -> nodes.row:
    row = nodes.row()
    for text in cells:
        entry = nodes.entry()
        paragraph = nodes.paragraph()
        for place, part in enumerate(text.split("`")):
            paragraph += nodes.literal(text=part) if place % 2 else nodes.Text(part)
        entry += paragraph
        row += entry
    return row


def show_as_code(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """
    An indented block of a docstring, with nothing above it but an empty line, is code.
    """
    found: list[str] = []
    for line in lines:
        above = next((text for text in reversed(found) if text), "")
        if line.startswith("    ") and found and not found[-1] and above[:1].strip():
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def hide_private(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str] | None:
    """
    Parameters that only the package itself gives are no part of the reference.
    """
    return (re.sub(r", _\w+: [^,()]+ = \w+", "", signature), returns) if signature else None


def show_options_as_code(app: Sphinx, context: object, lines: list[str]) -> None:
    """
    Options that sentences speak of; their dashes would become one. And of what an option
    takes, a bracket that it begins with is not lost.
    """
    for number, line in enumerate(lines):
        if line.lstrip().startswith(".."):
            lines[number] = re.sub(r"<(?=[^<>\[]*\])", "<[", line)
        else:
            lines[number] = re.sub(r"(?<![\w`-])--[a-z]\S*\b", r"``\g<0>``", line)


def leave_house_rules_out(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """
    What a module must not know is for those who change it.
    """
    if what == "module":
        parts = "\n".join(lines).split("\n\n")
        kept = [part for part in parts if not part.startswith("This module ")]
        lines[:] = "\n\n".join(kept).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_lexer("csv", TextLexer)
    # Before what reads the sections of a docstring.
    app.connect("autodoc-process-docstring", show_as_code, priority=100)
    app.connect("autodoc-process-docstring", leave_house_rules_out, priority=100)
    app.connect("autodoc-process-signature", hide_private)
    app.connect("sphinx-click-process-description", show_options_as_code)
    app.connect("sphinx-click-process-options", show_options_as_code)
    app.add_directive("options", Options)
    app.add_directive("functions", Functions)
    app.add_directive("agent-class", AgentClass)
    app.add_directive("answers", Answers)
    app.add_directive("event-way", EventWay)
    app.add_directive("lane-modes", LaneModes)
    app.add_directive("pairing-phases", PairingPhases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

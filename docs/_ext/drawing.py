"""
Drawings of states and ways between them, as SVG that takes the colours of the page.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 132, 44

_LINE = 15

_HEAD = """<svg viewBox="0 0 {0} {1}" role="img" aria-label="{2}" class="machine"
style="max-width:{0}px;min-width:{3}px;width:100%;height:auto;font:13px system-ui,sans-serif">
<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8"
orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>"""


class Way(NamedTuple):
    """
    An arrow, and why somebody goes there, in lines.

    `bend` moves its middle to the left of its direction; `words` moves the words away
    from where the curve's own middle is, and `anchor` says which end of them stands there.
    """

    before: str
    after: str
    why: str
    bend: float = 0.0
    words: tuple[float, float] = (0, -8)
    anchor: str = "middle"


def draw(
    states: Mapping[str, tuple[float, float]],
    ways: Iterable[Way],
    size: tuple[int, int],
    title: str,
) -> str:
    """
    Boxes at their middles, arrows between their borders, words beside the arrows.
    """
    # Where a page is narrower than two thirds of it (a phone's), it is scrolled.
    parts = [_HEAD.format(*size, escape(title), 2 * size[0] // 3)]
    for way in ways:
        parts.append(_arrow(states[way.before], states[way.after], way))
    for name, (x, y) in states.items():
        parts.append(
            f'<rect x="{x - WIDTH / 2}" y="{y - HEIGHT / 2}" width="{WIDTH}" height="{HEIGHT}" '
            'rx="8" fill="none" stroke="currentColor" stroke-width="1.5"/>'
            f'<text x="{x}" y="{y + 5}" text-anchor="middle" fill="currentColor" '
            f'font-weight="600">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _arrow(start: tuple[float, float], end: tuple[float, float], way: Way) -> str:
    across, down = end[0] - start[0], end[1] - start[1]
    length = (across**2 + down**2) ** 0.5
    aside = (down / length, -across / length)
    middle = (
        (start[0] + end[0]) / 2 + aside[0] * way.bend,
        (start[1] + end[1]) / 2 + aside[1] * way.bend,
    )
    # The control point of a curve lies twice as far out as the curve itself.
    control = tuple(2 * middle[i] - (start[i] + end[i]) / 2 for i in (0, 1))
    first, last = _border(start, control), _border(end, control)
    x, y = ((first[i] + last[i]) / 4 + control[i] / 2 + way.words[i] for i in (0, 1))
    lines = way.why.split("\n")
    # The last line is the one that stands nearest where words stand above.
    top = y - _LINE * (len(lines) - 1) if way.words[1] < 0 else y
    words = "".join(
        f'<tspan x="{x:.1f}" y="{top + _LINE * number:.1f}">{escape(text)}</tspan>'
        for number, text in enumerate(lines)
    )
    return (
        f'<path d="M{first[0]:.1f} {first[1]:.1f}Q{control[0]:.1f} {control[1]:.1f} '
        f'{last[0]:.1f} {last[1]:.1f}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>'
        f'<text text-anchor="{way.anchor}" fill="currentColor" font-size="12">{words}</text>'
    )


def _border(middle: tuple[float, float], towards: tuple[float, ...]) -> tuple[float, float]:
    """Where a line from the middle of a box leaves it."""
    across, down = towards[0] - middle[0], towards[1] - middle[1]
    scale = min(WIDTH / 2 / abs(across) if across else 1e9, HEIGHT / 2 / abs(down) if down else 1e9)
    return middle[0] + across * scale, middle[1] + down * scale

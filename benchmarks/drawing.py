"""Pictures for the docs, as SVG that follows the reader's dark mode: panels of lines over steps, and of points."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

COLOURS = ("#2878b5", "#d1495b", "#c98a1b", "#3a8f5c", "#7b5ea7", "#3fa3a9", "#8a6d4f", "#888888")
"""Told apart by most colour-blind readers, on white and on black."""
LEFT, TOP, WIDTH, HEIGHT, ACROSS, BELOW = 52, 40, 300, 210, 124, 58
"""Pixels: margin on the left of a panel, above it, its plot, and the room for labels beside and below."""
LINE, LETTER = 15, 7.5
"""Pixels: height of a label's line, and the width of a letter."""
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 } .grid { stroke: #8883 } .small { font-size: 11px; fill: #666 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .small { fill: #aaa } }
"""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One arm in a panel."""

    label: str
    colour: str
    points: Sequence[Point]
    """Joined by a line; the last one has the label."""
    thin: Sequence[Sequence[Point]] = ()
    """Lines of single seeds, drawn faintly."""
    cross: tuple[Point, Point] | None = None
    """Intervals of the last point, along x and y."""


@dataclass(slots=True)
class Panel:
    """Axes, and what is drawn into them."""

    title: str
    series: Sequence[Series]
    x_ticks: Sequence[float]
    """The first and last are the ends of the axis."""
    y_ticks: Sequence[float]
    is_x_share: bool = False
    """Whether the axis is labelled in per cent."""
    is_y_share: bool = True
    x_title: str = ""

    def at(self, point: Point) -> Point:
        """Return the pixel of a point, from the upper left corner of the plot."""
        (x, y), xs, ys = point, self.x_ticks, self.y_ticks
        return (
            WIDTH * (x - xs[0]) / (xs[-1] - xs[0]),
            HEIGHT * (1 - (y - ys[0]) / (ys[-1] - ys[0])),
        )

    def draw(self) -> list[str]:
        """Return the elements."""
        parts = [f'<text class="title" x="0" y="-18">{escape(self.title)}</text>']
        for tick in self.y_ticks:
            _, y = self.at((self.x_ticks[0], tick))
            parts.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_small(-6, y + 4, _value(tick, is_share=self.is_y_share), "end"))
        for tick in self.x_ticks:
            x, _ = self.at((tick, self.y_ticks[0]))
            parts.append(_small(x, HEIGHT + 18, _value(tick, is_share=self.is_x_share), "middle"))
        parts.append(_small(WIDTH / 2, HEIGHT + 36, self.x_title, "middle"))
        for one in self.series:
            parts += [self._line(points, one.colour, 1, 0.35) for points in one.thin]
            parts.append(self._line(one.points, one.colour, 3, 1.0))
        ends = [self.at(one.points[-1]) for one in self.series]
        names = [one.label for one in self.series]
        for one, end, label in zip(self.series, ends, _apart(ends, names), strict=True):
            parts += self._end(one, end, label)
        return parts

    def _line(self, points: Sequence[Point], colour: str, width: int, opacity: float) -> str:
        words = " ".join("{:.1f},{:.1f}".format(*self.at(point)) for point in points)
        return f'<polyline points="{words}" fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'

    def _end(self, one: Series, end: Point, label: Point) -> list[str]:
        """Return the last point, its cross and its label."""
        (x, y), (beside, level) = end, label
        parts = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{one.colour}"/>']
        if one.cross:
            (low_x, high_x), (low_y, high_y) = one.cross
            end_x, end_y = one.points[-1]
            parts.append(self._line([(low_x, end_y), (high_x, end_y)], one.colour, 1, 0.8))
            parts.append(self._line([(end_x, low_y), (end_x, high_y)], one.colour, 1, 0.8))
        parts.append(
            f'<text x="{beside + 8:.0f}" y="{level + 4:.1f}" style="fill: {one.colour}">{escape(one.label)}</text>'
        )
        return parts


def _apart(ends: Sequence[Point], names: Sequence[str]) -> list[Point]:
    """Return where the labels of points go: none lies on another, and they keep their order."""
    order = sorted(range(len(ends)), key=lambda i: (ends[i][1], i))
    levels = [y for _, y in ends]
    for _ in range(200):
        for place, above in enumerate(order):
            for below in order[place + 1 :]:
                short = LINE - (levels[below] - levels[above])
                left, right = sorted((above, below), key=lambda i: ends[i][0])
                is_beside = ends[right][0] - ends[left][0] > LETTER * (len(names[left]) + 1)
                if short > 0 and not is_beside:
                    levels[above] -= short / 2
                    levels[below] += short / 2
    return [(x, level) for (x, _), level in zip(ends, levels, strict=True)]


def picture(panels: Sequence[Panel], label: str, columns: int = 2) -> str:
    """Return panels beside and below each other as one SVG.

    Args:
        panels: In reading order.
        label: What the picture shows, for those who do not see it.
        columns: Panels in a row.
    """
    rows = -(-len(panels) // columns)
    across, down = LEFT + WIDTH + ACROSS, TOP + HEIGHT + BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across * min(columns, len(panels))} {down * rows}" '
        f'role="img" aria-label={quoteattr(label)}>',
        f"<style>{_STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        parts += [
            f'<g transform="translate({LEFT + column * across}, {TOP + row * down})">',
            *panel.draw(),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def ticks(values: Iterable[float], count: int = 4) -> list[float]:
    """Return round numbers, equally far from each other, from below the least value to above the greatest."""
    values = list(values)
    low, high = min(values), max(values)
    least = (high - low or abs(high) or 1.0) / count
    power = 1e-9
    while power * 10 <= least:
        power *= 10
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= least)
    first = int(low // step)
    last = first
    while last * step < high - 1e-9 * step:
        last += 1
    return [round(tick * step, 9) for tick in range(first, max(last, first + 1) + 1)]


def coloured(names: Iterable[str]) -> Mapping[str, str]:
    """Return name → colour; after the last colour the first comes again."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _value(tick: float, *, is_share: bool) -> str:
    return f"{100 * tick:.4g}%" if is_share else f"{tick:g}"


def _small(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text class="small" x="{x:.0f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
    )

"""Charts over time as SVG, one below the other on a page: lines, dots, shaded spans, a legend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 56, 14, 44, 38
BLUE, RED, GREEN, GREY = "#2e6fc4", "#c4572e", "#4c8a4b", "#888888"

Point = tuple[float, float]


@dataclass
class Chart:
    """One diagram: something over seconds, from zero to `highest`.

    Attributes:
        title: What is shown, with its unit.
        seconds: Where the time axis ends.
        highest: Where the other axis ends.
        shaded: Spans of time that are set apart, such as bursts.
    """

    title: str
    seconds: float
    highest: float
    shaded: Sequence[tuple[float, float]] = ()
    height: int = 230
    _marks: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str, bool]] = field(default_factory=list)

    def line(self, name: str, points: Iterable[Point], colour: str, *, dashed: bool = False) -> None:
        """A line through the points."""
        path = " ".join(f"{self._x(at):.1f},{self._y(value):.1f}" for at, value in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>')
        self._legend.append((name, colour, dashed))

    def dots(self, points: Iterable[Point], colour: str) -> None:
        """A dot at each point, in the colour of a line that says what they are."""
        self._marks += [
            f'<circle cx="{self._x(at):.1f}" cy="{self._y(value):.1f}" r="2" fill="{colour}" fill-opacity="0.45"/>'
            for at, value in points
        ]

    def draw(self) -> str:
        floor, right = self.height - BOTTOM, WIDTH - RIGHT
        parts = [
            f'<rect x="{self._x(begins):.1f}" y="{TOP}" width="{self._x(ends) - self._x(begins):.1f}" '
            f'height="{floor - TOP}" fill="#f0e3c0"/>'
            for begins, ends in self.shaded
        ]
        parts.append(f'<path d="M{LEFT},{TOP} V{floor} H{right}" fill="none" stroke="#333"/>')
        parts.append(f'<text x="{LEFT}" y="16" font-weight="bold">{escape(self.title)}</text>')
        parts += [
            f'<text x="{LEFT - 6}" y="{self._y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
            f'<path d="M{LEFT},{self._y(tick):.1f} H{right}" stroke="#ddd" stroke-width="0.6"/>'
            for tick in _ticks(self.highest, 5)
        ]
        parts += [
            f'<text x="{self._x(tick):.1f}" y="{floor + 15}" text-anchor="middle">{tick:g}</text>'
            for tick in _ticks(self.seconds, 10)
        ]
        parts.append(f'<text x="{right}" y="{floor + 30}" text-anchor="end">seconds</text>')
        at = float(LEFT)
        for name, colour, dashed in self._legend:
            dash = ' stroke-dasharray="5 4"' if dashed else ""
            parts.append(f'<path d="M{at:.0f},31 h22" stroke="{colour}" stroke-width="2"{dash}/>')
            parts.append(f'<text x="{at + 27:.0f}" y="35">{escape(name)}</text>')
            at += 27 + 6.4 * len(name) + 18
        return "\n".join([*parts, *self._marks])

    def _x(self, at: float) -> float:
        return LEFT + at / self.seconds * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        return self.height - BOTTOM - min(value / self.highest, 1.0) * (self.height - BOTTOM - TOP)


def page(*charts: Chart) -> str:
    """The charts below each other as one SVG document."""
    height = sum(chart.height for chart in charts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<style>text { font-size: 12px; fill: #222 }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    top = 0
    for chart in charts:
        parts.append(f'<g transform="translate(0 {top})">\n{chart.draw()}\n</g>')
        top += chart.height
    return "\n".join([*parts, "</svg>", ""])


def _ticks(end: float, about: int) -> list[float]:
    """Round numbers from zero to `end`, about as many as asked for."""
    step = 1e-3
    while end / step > about:
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    return [number * step for number in range(int(end / step + 1e-9) + 1)]

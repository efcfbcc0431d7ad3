"""Charts as inline SVG: positions along x in percent, heights in CSS pixels, colours from the page.

Percent positions let a chart take any width, a phone's too, while its text keeps its size. Colours are
CSS variables (`--ink`, `--s0`, ...), so one drawing serves light mode, dark mode and print.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
SERIES = 5  # distinct colours and marker shapes; further series start again
_SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",  # disc
    "M-4-4h8v8h-8z",  # square
    "M0-5.5L5.5 0 0 5.5-5.5 0z",  # diamond
    "M0-5L5.2 4h-10.4z",  # triangle
    "M-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",  # cross
)


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high`, in the unit of the data."""

    low: float
    high: float

    def fraction(self, value: float) -> float:
        """Where `value` lies on the axis, clamped to [0, 1]."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def percent(self, value: float) -> str:
        return f"{100 * self.fraction(value):.2f}%"

    def pixels(self, value: float, height: float) -> float:
        """Distance from the top of a chart of that height, where the axis points up."""
        return round(height * (1 - self.fraction(value)), 2)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], roughly `about` of them."""
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def covering(values: Iterable[float], include: Sequence[float] = (), about: int = 5) -> Scale:
    """A scale with round ends that holds all finite `values` and the points of `include`."""
    numbers = [float(value) for value in (*values, *include) if math.isfinite(value)]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    marks = ticks(low, high, about)
    step = marks[1] - marks[0] if len(marks) > 1 else (high - low)
    return Scale(round(math.floor(low / step + 1e-9) * step, 10), round(math.ceil(high / step - 1e-9) * step, 10))


def number(value: float, digits: int = 2) -> str:
    """`value` with a proper minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def tick_text(value: float) -> str:
    return f"{value + 0.0:g}".replace("-", MINUS)


def line(x1: str, y1: float, x2: str, y2: float, kind: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{kind}"/>'


def text(x: str, y: float, content: str, kind: str = "", dx: float = 0) -> str:
    shift = f' dx="{dx}"' if dx else ""
    return f'<text x="{x}" y="{y}"{shift} class="{kind}">{escape(content)}</text>'


def marker(x: str, y: float, series: int, kind: str, tip: str = "") -> str:
    """The marker of a series, centred on (x, y); `tip` is shown on hover and read out."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    shape = _SHAPES[series % SERIES]
    return f'<svg x="{x}" y="{y}" class="open"><path d="{shape}" class="{kind}">{title}</path></svg>'


def swatch(series: int, kind: str = "") -> Markup:
    """The marker alone, for legends and row labels."""
    return Markup(
        f'<svg class="swatch" width="12" height="12" aria-hidden="true">'
        f"{marker('6', 6, series, kind or f'mark s{series % SERIES}')}</svg>"
    )


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights moved as little as needed to lie `gap` apart within [low, high], order kept."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed: list[float] = []
    for i in order:  # push down
        placed.append(max(heights[i], low, placed[-1] + gap if placed else low))
    limit = high
    for k in range(len(placed) - 1, -1, -1):  # and back up from the lower edge
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    result = [0.0] * len(heights)
    for k, i in enumerate(order):
        result[i] = placed[k]
    return result


def chart(name: str, title: str, description: str, height: int, parts: Iterable[str]) -> Markup:
    """A whole chart, as wide as its container; `name` is unique on the page."""
    return Markup(
        f'<svg class="chart" height="{height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def strip(height: int, parts: Iterable[str]) -> Markup:
    """The drawing inside one row of a table; the row's own cells say the same in words."""
    return Markup(f'<svg class="strip" height="{height}" aria-hidden="true">{"".join(parts)}</svg>')

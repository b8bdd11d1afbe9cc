"""Small line charts as SVG: for pictures that stand still on the page and in reports.

They take the colour of the text around them, so one picture fits light and dark, and they need no script.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
PALETTE = ("#0d8f83", "#d9730d", "#8b6bd8", "#3c78c8", "#b0479a", "#6b8e23", "#7b8794", "#c94c4c")


@dataclass(frozen=True)
class Line:
    """A curve: its name, its points, how it looks."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    color: str = PALETTE[0]
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A single point on the chart."""

    x: float
    y: float
    color: str = PALETTE[0]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    width: int = 720,
    height: int = 260,
    dots: Iterable[Dot] = (),
    verticals: Iterable[tuple[float, str]] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_names: Sequence[str] = (),
) -> str:
    """One chart; `verticals` are (x, label) marks, `x_names` stand at 0, 1, … instead of numbers.

    The title is what a screen reader says.
    """
    dots, verticals = list(dots), list(verticals)
    xs = np.concatenate([np.asarray(line.x, float) for line in lines] or [np.zeros(0)])
    ys = np.concatenate([np.asarray(line.y, float) for line in lines] or [np.zeros(0)])
    x_low, x_high = x_range or bounds(xs)
    y_low, y_high = y_range or bounds(np.append(ys, [dot.y for dot in dots]), margin=0.06)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (height - TOP - BOTTOM)
        return round(across, 1), round(min(max(down, -height), 2 * height), 1)

    marks = list(enumerate(x_names)) or [(value, number(value)) for value in ticks(x_low, x_high, 8)]
    parts = [_grid(at, marks, (x_low, x_high), (y_low, y_high), width, height)]
    for x, label in verticals:
        across, _ = at(x, y_low)
        # Beside its line, on the side that has room (a letter is about 7 wide), and below those on the other side.
        fits = across + 4 + 7 * len(label) <= width
        beside = f'x="{across + 4}"' if fits else f'x="{across - 4}" text-anchor="end"'
        down = TOP + (11 if fits else 25)
        parts.append(
            f'<line x1="{across}" x2="{across}" y1="{TOP}" y2="{height - BOTTOM}" stroke="currentColor" '
            f'stroke-dasharray="3 3" opacity=".55"/><text {beside} y="{down}">{escape(label)}</text>'
        )
    clip = f"c{abs(hash((title, width, height))) % 10**8}"
    parts.append(
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{width - LEFT - RIGHT}" '
        f'height="{height - TOP - BOTTOM}"/></clipPath><g clip-path="url(#{clip})">'
    )
    parts += [_path(line, at) for line in lines]
    for dot in dots:
        across, down = at(dot.x, dot.y)
        parts.append(
            f'<circle cx="{across}" cy="{down}" r="4" fill="{escape(dot.color)}" fill-opacity=".45" '
            f'stroke="{escape(dot.color)}"/>'
        )
    parts.append("</g>")
    return (
        f'<svg class="kto-drawing" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'font-size="11" fill="currentColor" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _path(line: Line, at) -> str:
    """The curve, broken where a value is missing."""
    steps, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if not math.isfinite(y):
            pen = "M"
            continue
        across, down = at(float(x), float(y))
        steps.append(f"{pen}{across} {down}")
        pen = "L"
    dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
    return (
        f'<path d="{"".join(steps)}" fill="none" stroke="{escape(line.color)}" stroke-width="1.7" '
        f'stroke-linejoin="round"{dashes}><title>{escape(line.name)}</title></path>'
    )


def _grid(
    at,
    marks: Sequence[tuple[float, str]],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    width: int,
    height: int,
) -> str:
    parts = []
    for value in ticks(*y_range, 5):
        _, down = at(x_range[0], value)
        weight = ".35" if value == 0 else ".12"
        parts.append(
            f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{down}" y2="{down}" stroke="currentColor" opacity="{weight}"/>'
            f'<text x="{LEFT - 7}" y="{down + 4}" text-anchor="end" opacity=".75">{number(value)}</text>'
        )
    for value, name in marks:
        across, _ = at(value, y_range[0])
        parts.append(
            f'<text x="{across}" y="{height - 8}" text-anchor="middle" opacity=".75">{escape(name)}</text>'
            f'<line x1="{across}" x2="{across}" y1="{TOP}" y2="{height - BOTTOM}" stroke="currentColor" opacity=".07"/>'
        )
    return "".join(parts)


def number(value: float) -> str:
    """A label of an axis, with a minus sign that is as wide as it should be."""
    return f"{value:g}".replace("-", "−")


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two bounds: 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first
    return [round((first + index) * step, 12) + 0.0 for index in range(count + 1)]


def bounds(values: np.ndarray, margin: float = 0.0) -> tuple[float, float]:
    """The bounds of what is finite; never empty."""
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12:
        return low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)

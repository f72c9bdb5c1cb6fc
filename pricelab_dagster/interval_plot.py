"""Pictures of effects with their intervals: one line for each, over a common scale."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pricelab_dagster import svg_text
from pricelab_dagster.pictures import BOLD, FAINT, FONT, INK, LABEL_SIZE, PAD, TEXT_SIZE, TITLE_SIZE, TREATMENT

ROW, LABEL_WIDTH, PLOT_WIDTH, VALUE_WIDTH = 20, 250, 330, 200
WIDTH: Final = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH + 2 * PAD


@dataclass(frozen=True, slots=True)
class Line:
    """One effect: `ci` its interval, `wide` the one that holds together with the others; None without effect.

    `strong` lines are the ones that the others are compared with.
    """

    label: str
    effect: float | None
    ci: tuple[float, float] | None = None
    wide: tuple[float, float] | None = None
    strong: bool = False


def draw(title: str, subtitle: str, lines: Sequence[Line], *, percent: bool = True) -> str:
    """Return an SVG of effects: a dot, a thick line for the interval and a thin one for the simultaneous interval."""
    key = f"i{zlib.crc32(repr((title, subtitle, lines)).encode()):08x}"
    parts, y = [], PAD + TITLE_SIZE - 2
    for text in svg_text.wrap(title, WIDTH - 2 * PAD, TITLE_SIZE * BOLD):
        parts.append(svg_text.element(PAD, y, text, f'font-size="{TITLE_SIZE}" font-weight="600"'))
        y += 20
    for text in svg_text.wrap(subtitle, WIDTH - 2 * PAD, TEXT_SIZE):
        parts.append(svg_text.element(PAD, y, text, f'font-size="{TEXT_SIZE}" fill="{FAINT}"'))
        y += 17
    top, known = y + 14, [line for line in lines if line.effect is not None]
    low, high, step = scale([end for line in known for end in (line.effect or 0.0, *(line.wide or line.ci or ()))])
    bottom = top + ROW * len(lines)
    parts += _axis(low, high, step, top, bottom, percent)
    for place, line in enumerate(lines):
        parts += _row(line, top + ROW * place + ROW // 2, low, high, percent)
    size = f'width="{WIDTH}" height="{bottom + PAD}"'
    look = f'font-family="{FONT}" font-size="{LABEL_SIZE}" fill="{INK}" style="max-width:100%;height:auto"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {bottom + PAD}" role="img" '
    names = [
        f'{head}aria-labelledby="{key}t {key}d" {look}>',
        f'<title id="{key}t">{svg_text.escape(title)}</title>',
        f'<desc id="{key}d">{svg_text.escape(subtitle)}</desc>',
        f'<rect {size} rx="4" fill="#fff"/>',
    ]
    return "\n".join([*names, *parts, "</svg>\n"])


def number(value: float, *, percent: bool = True) -> str:
    """Return an effect as people read it.

    Examples
    --------
    >>> number(0.1234), number(-1.5, percent=False)
    ('+12.3%', '-1.5')
    """
    return f"{value:+.1%}" if percent else f"{value:+.3g}"


def scale(values: Sequence[float], *, zero: bool = True) -> tuple[float, float, float]:
    """Return the ends of an axis that holds the values, and 0 with `zero`, and the distance of its ticks.

    Ticks are 1, 2 or 5 times 10^k apart.

    Examples
    --------
    >>> scale([0.5, 2.2]), scale([11.0, 12.0], zero=False)
    ((0.0, 2.5, 0.5), (11.0, 12.0, 0.2))
    """
    held = [0.0, *values] if zero else list(values)
    low, high = min(held), max(held)
    raw = (high - low) / 5 or abs(high) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def _x(value: float, low: float, high: float) -> int:
    span = high - low or 1.0
    return round(PAD + LABEL_WIDTH + (value - low) / span * PLOT_WIDTH)


def _axis(low: float, high: float, step: float, top: int, bottom: int, percent: bool) -> list[str]:
    """Return ticks with their numbers, and the line of no effect."""
    parts = []
    for k in range(round((high - low) / step) + 1):
        value = round(low / step + k) * step
        x = _x(value, low, high)
        text = f"{value:.3g}" if not percent else f"{100 * value:.4g}%"
        parts.append(svg_text.element(x, top - 5, text, f'text-anchor="middle" fill="{FAINT}"'))
        look = f'stroke="{INK}"' if abs(value) < step / 2 else f'stroke="{FAINT}" stroke-opacity=".28"'
        parts.append(f'<path d="M{x} {top}V{bottom}" {look} fill="none"/>')
    return parts


def _row(line: Line, y: int, low: float, high: float, percent: bool) -> list[str]:
    weight = ' font-weight="600"' if line.strong else ""
    label = svg_text.fit(line.label, LABEL_WIDTH - 12, LABEL_SIZE)
    parts = [svg_text.element(PAD + LABEL_WIDTH - 12, y + 4, label, f'text-anchor="end"{weight}')]
    at = PAD + LABEL_WIDTH + PLOT_WIDTH + 12
    if line.effect is None:
        return [*parts, svg_text.element(at, y + 4, "not identified", f'fill="{FAINT}"')]
    for interval, width in ((line.wide, 1), (line.ci, 3)):
        if interval is not None:
            ends = f"M{_x(interval[0], low, high)} {y}H{_x(interval[1], low, high)}"
            parts.append(f'<path d="{ends}" stroke="{TREATMENT}" stroke-width="{width}" fill="none"/>')
    parts.append(f'<circle cx="{_x(line.effect, low, high)}" cy="{y}" r="4" fill="{TREATMENT}"/>')
    value = number(line.effect, percent=percent)
    ends = " to ".join(number(end, percent=percent) for end in line.ci) if line.ci else ""
    return [*parts, svg_text.element(at, y + 4, f"{value}  ({ends})" if ends else value, weight.strip() or "")]

"""The picture of a certificate: what each way to assign costs in precision against the bias that it leaves."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pricelab_dagster import svg_text
from pricelab_dagster.interval_plot import scale
from pricelab_dagster.pictures import BOLD, FAINT, FONT, INK, LABEL_SIZE, PAD, TEXT_SIZE, TITLE_SIZE, TREATMENT

PLOT_WIDTH, PLOT_HEIGHT, LEFT, BELOW = 420, 240, 64, 46
LABEL_ROOM, LABEL_LINE = 230, 16
WIDTH: Final = LEFT + PLOT_WIDTH + LABEL_ROOM + 2 * PAD


@dataclass(frozen=True, slots=True)
class Point:
    """One way to assign: its standard error, and the size of the predicted bias with its interval, in parts."""

    label: str
    se: float
    bias: float
    low: float
    high: float
    chosen: bool = False


def draw(title: str, subtitle: str, points: Sequence[Point]) -> str:
    """Return an SVG with the standard error across and the predicted bias upwards; the chosen point is filled."""
    key = f"f{zlib.crc32(repr((title, subtitle, points)).encode()):08x}"
    parts, y = [], PAD + TITLE_SIZE - 2
    for text in svg_text.wrap(title, WIDTH - 2 * PAD, TITLE_SIZE * BOLD):
        parts.append(svg_text.element(PAD, y, text, f'font-size="{TITLE_SIZE}" font-weight="600"'))
        y += 20
    for text in svg_text.wrap(subtitle, WIDTH - 2 * PAD, TEXT_SIZE, max_lines=6):
        parts.append(svg_text.element(PAD, y, text, f'font-size="{TEXT_SIZE}" fill="{FAINT}"'))
        y += 17
    top = y + 10
    across = scale([point.se for point in points], zero=False)
    upwards = scale([end for point in points for end in (point.low, point.bias, point.high)])
    parts += _axes(across, upwards, top)
    for point in sorted(points, key=lambda one: one.chosen):
        parts += _point(point, across, upwards, top)
    parts += _labels(points, across, upwards, top)
    height = top + PLOT_HEIGHT + BELOW
    size = f'width="{WIDTH}" height="{height}"'
    look = f'font-family="{FONT}" font-size="{LABEL_SIZE}" fill="{INK}" style="max-width:100%;height:auto"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height}" role="img" '
    names = [
        f'{head}aria-labelledby="{key}t {key}d" {look}>',
        f'<title id="{key}t">{svg_text.escape(title)}</title>',
        f'<desc id="{key}d">{svg_text.escape(subtitle)}</desc>',
        f'<rect {size} rx="4" fill="#fff"/>',
    ]
    return "\n".join([*names, *parts, "</svg>\n"])


def _axes(across: tuple[float, float, float], upwards: tuple[float, float, float], top: int) -> list[str]:
    bottom, right = top + PLOT_HEIGHT, PAD + LEFT + PLOT_WIDTH
    parts = []
    for value in _ticks(across):
        x = _x(value, across)
        parts.append(f'<path d="M{x} {top}V{bottom}" stroke="{FAINT}" stroke-opacity=".28" fill="none"/>')
        parts.append(svg_text.element(x, bottom + 16, f"{100 * value:.3g}%", f'text-anchor="middle" fill="{FAINT}"'))
    for value in _ticks(upwards):
        y = _y(value, upwards, top)
        look = f'stroke="{INK}"' if abs(value) < upwards[2] / 2 else f'stroke="{FAINT}" stroke-opacity=".28"'
        parts.append(f'<path d="M{PAD + LEFT} {y}H{right}" {look} fill="none"/>')
        anchor = f'text-anchor="end" fill="{FAINT}"'
        parts.append(svg_text.element(PAD + LEFT - 8, y + 4, f"{100 * value:.3g}%", anchor))
    middle = PAD + LEFT + PLOT_WIDTH // 2
    parts.append(svg_text.element(middle, bottom + 36, "standard error of the effect", 'text-anchor="middle"'))
    turn = f'text-anchor="middle" transform="rotate(-90 {PAD + 12} {top + PLOT_HEIGHT // 2})"'
    parts.append(svg_text.element(PAD + 12, top + PLOT_HEIGHT // 2, "predicted spillover bias", turn))
    return parts


def _point(
    point: Point, across: tuple[float, float, float], upwards: tuple[float, float, float], top: int
) -> list[str]:
    x, y = _x(point.se, across), _y(point.bias, upwards, top)
    ends = f"M{x} {_y(point.low, upwards, top)}V{_y(point.high, upwards, top)}"
    fill = TREATMENT if point.chosen else "#fff"
    return [
        f'<path d="{ends}" stroke="{TREATMENT}" stroke-opacity=".55" stroke-width="2" fill="none"/>',
        f'<circle cx="{x}" cy="{y}" r="5" fill="{fill}" stroke="{TREATMENT}" stroke-width="2"/>',
    ]


def _labels(
    points: Sequence[Point], across: tuple[float, float, float], upwards: tuple[float, float, float], top: int
) -> list[str]:
    """Return the labels in a column at the right, one below the other, each with a line from its point."""
    parts, left, last = [], PAD + LEFT + PLOT_WIDTH + 14, top - LABEL_LINE
    for point in sorted(points, key=lambda one: (-one.bias, one.se)):
        x, y = _x(point.se, across), _y(point.bias, upwards, top)
        last = max(last + LABEL_LINE, y)
        parts.append(f'<path d="M{x + 6} {y}L{left - 4} {last}" stroke="{FAINT}" stroke-opacity=".5" fill="none"/>')
        label = svg_text.fit(point.label, LABEL_ROOM - 14, LABEL_SIZE)
        parts.append(svg_text.element(left, last + 4, label, 'font-weight="600"' if point.chosen else ""))
    return parts


def _ticks(axis: tuple[float, float, float]) -> list[float]:
    low, high, step = axis
    return [(round(low / step) + k) * step for k in range(round((high - low) / step) + 1)]


def _x(value: float, axis: tuple[float, float, float]) -> int:
    return round(PAD + LEFT + (value - axis[0]) / (axis[1] - axis[0] or 1.0) * PLOT_WIDTH)


def _y(value: float, axis: tuple[float, float, float], top: int) -> int:
    return round(top + PLOT_HEIGHT - (value - axis[0]) / (axis[1] - axis[0] or 1.0) * PLOT_HEIGHT)

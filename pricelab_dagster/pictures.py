"""Pictures of a design: products by periods, each cell in the colour of the arm whose price is in force."""

import base64
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster import svg_text
from pricelab_dagster.picture_sample import sample

KINDS: Final = {
    "time_bound": "Time-bound design",
    "random_days": "Random-days design",
    "crossover": "Crossover design",
    "triggered": "Triggered design",
}
CONTROL, TRIGGERED_CONTROL, OUTSIDE = "#ffffff", "#a3dab2", "#e4e8ec"
TREATMENT: Final = "#d0312d"
RAMP: Final = ((0x78, 0x0A, 0x18), (0xC0, 0x24, 0x1F), (0xE8, 0x5A, 0x22), (0xFA, 0x9D, 0x45))
"""Several treatment arms, from dark red to orange: the steps are steps of lightness too, for print and for any eye."""

DARK: Final = 0.2
"""Luminance below which a hatch is white: a dark one would not be seen on dark red."""

INK, FAINT = "#1c232b", "#56616d"
FONT: Final = "system-ui,-apple-system,'Segoe UI','DejaVu Sans',Arial,sans-serif"
ROW, PLOT_WIDTH, MIN_WIDTH, MAX_CELL, MAX_COLUMNS, PAD = 16, 728, 520, 28, 500, 16
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 15, 12, 11
BOLD: Final = 1.1
"""How much wider bold text is than the same text."""

LABEL_LENGTH: Final = 14
DAYS: Final = {"day": 1, "week": 7}
STEPS: Final = {"day": (1, 7, 14, 28, 56, 91, 182, 364), "week": (1, 2, 4, 8, 13, 26, 52)}
MONTHS: Final = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_OUTSIDE = -1
_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True, slots=True)
class _Grid:
    """What is drawn: `cell` (n, T + eve) is 2 x arm, plus 1 in a blackout, or -1 outside the experiment."""

    key: str
    kind: str
    title: str
    arms: tuple[str, ...]
    grain: str
    product_id: list[str]
    date: NDArray[np.datetime64]
    cell: NDArray[np.int64]
    n_eve: int
    n_products: int
    counts: dict[int, tuple[int, int]]

    @property
    def colours(self) -> list[str]:
        """The colour of each arm, control first."""
        return arm_colours(self.kind, len(self.arms))

    @property
    def cell_width(self) -> int:
        """Pixels of one period."""
        columns = self.cell.shape[1]
        return max(2 if columns <= MAX_COLUMNS else 1, min(MAX_CELL, PLOT_WIDTH // columns))

    @property
    def left(self) -> int:
        """Where the first period begins: right of the longest product id."""
        widest = max(svg_text.width(_cut(name), LABEL_SIZE) for name in [*self.product_id, "product"])
        return PAD + round(widest) + 8

    @property
    def right(self) -> int:
        """Where the last period ends."""
        return self.left + self.cell_width * self.cell.shape[1]

    @property
    def width(self) -> int:
        """Pixels of the picture."""
        return max(MIN_WIDTH, self.right + PAD)


def design(
    product_id: ArrayLike,
    date: ArrayLike,
    arm: ArrayLike,
    in_analysis: ArrayLike,
    *,
    kind: str,
    title: str,
    arms: Sequence[str],
    grain: str = "day",
    max_products: int = 24,
    eve: int | None = None,
) -> str:
    """Return a self-contained SVG of a design: a row per product, a column per period, the arm as the colour.

    Treatment is red, and control white, or green where events start the treatment; a hatch marks a blackout. Equal
    arguments give equal bytes.

    Parameters
    ----------
    product_id
        Ids (N,), drawn from top to bottom.
    date
        First day of each period (T,), rising.
    arm
        Integer (N, T): -1 outside the experiment, 0 control, 1 and up the treatment arms.
    in_analysis
        Boolean (N, T), False where the price is in force but the data are left out; read inside the experiment only.
    kind
        time_bound, random_days, crossover or triggered.
    arms
        Names of the arms, control first.
    grain
        day or week.
    max_products
        Rows to draw. Of more products an evenly spread part is drawn that holds each sequence of arms, or at least each
        arm; where these alone are more than `max_products`, one row for each missing arm is added.
    eve
        Days before the first date to leave blank at the left, None for a week.

    Raises
    ------
    ValueError
        If shapes differ, an arm has no name, or an argument is none of its allowed values.
    """
    ids = [str(name) for name in np.asarray(product_id, dtype=object).ravel()]
    dates = np.asarray(date, dtype="datetime64[D]")
    cells = np.asarray(arm, dtype=np.int64)
    counted = np.asarray(in_analysis, dtype=bool)
    _check_options(kind, grain, max_products, eve)
    _check_cells(dates, arms, (len(ids), len(dates)), cells, counted)
    words = repr((ids, dates.tolist(), kind, title, list(arms), grain, max_products, eve))
    # one page may hold several pictures, and their patterns must not answer to one id
    key = f"d{zlib.crc32(words.encode() + cells.tobytes() + counted.tobytes()):08x}"
    title = " ".join(title.split())
    if cells.size == 0:
        return _empty(key, kind, title)
    rows = sample(cells, max_products)
    codes = np.where(cells < 0, _OUTSIDE, 2 * cells + ~counted)
    n_eve = -(-(7 if eve is None else eve) // DAYS[grain])
    before = dates[0] - np.arange(n_eve, 0, -1) * DAYS[grain]
    grid = _Grid(
        key=key,
        kind=kind,
        title=title,
        arms=tuple(arms),
        grain=grain,
        product_id=[ids[row] for row in rows],
        date=np.concatenate([before, dates]),
        cell=np.pad(codes[rows], ((0, 0), (n_eve, 0)), constant_values=_OUTSIDE),
        n_eve=n_eve,
        n_products=len(ids),
        counts={int(c): (int((codes == c).sum()), int((codes == c).any(axis=1).sum())) for c in np.unique(codes)},
    )
    return _draw(grid)


def markdown(svg: str) -> str:
    """Return a picture as a Markdown image that holds it whole, for the metadata of an asset."""
    alt = re.sub(r"[\[\]<>`\\\s]+", " ", ElementTree.fromstring(svg).findtext(f"{_SVG}title") or "picture").strip()
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def arm_colours(kind: str, n_arms: int) -> list[str]:
    """Return the colour of each arm, control first.

    Examples
    --------
    >>> arm_colours("crossover", 2)
    ['#ffffff', '#d0312d']
    """
    control = TRIGGERED_CONTROL if kind == "triggered" else CONTROL
    n_treatments = n_arms - 1
    if n_treatments == 1:
        return [control, TREATMENT]
    at = np.linspace(0, len(RAMP) - 1, n_treatments)
    channels = [np.interp(at, range(len(RAMP)), channel).round().astype(int) for channel in zip(*RAMP, strict=True)]
    return [control, *(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in zip(*channels, strict=True))]


def _check_options(kind: str, grain: str, max_products: int, eve: int | None) -> None:
    """Refuse options that cannot be drawn."""
    for name, value, allowed in (("kind", kind, tuple(KINDS)), ("grain", grain, tuple(DAYS))):
        if value not in allowed:
            raise ValueError(f"{name} == {value!r}, must be one of {', '.join(allowed)}. Name the design as drawn.")
    if max_products < 1:
        raise ValueError(f"max_products == {max_products}, must be 1 or more. Give the number of rows to draw.")
    if eve is not None and eve < 0:
        raise ValueError(f"eve == {eve}, must be 0 or more. Give the days to show before the start.")


def _check_cells(
    dates: NDArray[np.datetime64],
    arms: Sequence[str],
    shape: tuple[int, int],
    cells: NDArray[np.int64],
    counted: NDArray[np.bool_],
) -> None:
    """Refuse arrays that do not fit each other."""
    for name, array in (("arm", cells), ("in_analysis", counted)):
        if array.shape != shape:
            rule = f"must be {shape}, products by dates"
            raise ValueError(f"{name}.shape == {array.shape}, {rule}. Give one value for each product and date.")
    if cells.size and not -1 <= cells.min() <= cells.max() < len(arms):
        rule = f"must be in -1 to {len(arms) - 1}"
        raise ValueError(f"arm holds {cells.min()} to {cells.max()}, {rule}. Name every arm in `arms`, control first.")
    falls = np.flatnonzero(np.diff(dates.astype(np.int64)) <= 0)
    if len(falls):
        at = int(falls[0]) + 1
        raise ValueError(f"date[{at}] == {dates[at]}, must be after {dates[at - 1]}. Sort the periods, each once.")


def _draw(grid: _Grid) -> str:
    """Return the picture of a grid that has cells."""
    head, y = _heading(grid.title, _subtitles(grid), grid.width)
    top = y + 24
    legend, height = _legend(grid, top + ROW * len(grid.product_id) + 18)
    body = [_patterns(grid), *head, *_axes(grid, top), *_cells(grid, top), _lines(grid, top), *legend]
    words = [*_subtitles(grid), *(_meaning(grid, code) for code in sorted(grid.counts))]
    return _document(grid.key, grid.width, height, grid.title, words, body)


def _empty(key: str, kind: str, title: str) -> str:
    """Return the picture of an experiment without products or dates."""
    lines = [f"{KINDS[kind]}: there is no product in this experiment yet."]
    head, y = _heading(title, lines, MIN_WIDTH)
    return _document(key, MIN_WIDTH, y, title, lines, head)


def _heading(title: str, lines: Sequence[str], width: int) -> tuple[list[str], int]:
    """Return the title and the lines below it, and where the next line would stand."""
    parts, y = [], PAD + TITLE_SIZE - 2
    for line in svg_text.wrap(title, width - 2 * PAD, TITLE_SIZE * BOLD):
        parts.append(svg_text.element(PAD, y, line, f'font-size="{TITLE_SIZE}" font-weight="600"'))
        y += 20
    for line in itertools.chain.from_iterable(svg_text.wrap(line, width - 2 * PAD, TEXT_SIZE) for line in lines):
        parts.append(svg_text.element(PAD, y, line, f'font-size="{TEXT_SIZE}" fill="{FAINT}"'))
        y += 17
    return parts, y


def _document(key: str, width: int, height: int, title: str, lines: Sequence[str], body: Sequence[str]) -> str:
    """Return the SVG around `body`, with its own background."""
    size = f'width="{width}" height="{height}"'
    look = f'font-family="{FONT}" font-size="{LABEL_SIZE}" fill="{INK}" style="max-width:100%;height:auto"'
    names = f'role="img" aria-labelledby="{key}t {key}d"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}" {names} {look}>',
        f'<title id="{key}t">{svg_text.escape(title)}</title>',
        f'<desc id="{key}d">{svg_text.escape(" ".join(lines))}</desc>',
        f'<rect {size} rx="4" fill="#fff"/>',
        *body,
        "</svg>\n",
    ]
    return "\n".join(parts)


def _subtitles(grid: _Grid) -> list[str]:
    """Return what the picture says in words: the design, its dates, and how many products are shown."""
    first, last = (_day(day, year=True) for day in (grid.date[grid.n_eve], grid.date[-1] + DAYS[grid.grain] - 1))
    noun = "product" if grid.n_products == 1 else "products"
    lines = [f"{KINDS[grid.kind]}, {first} to {last} by {grid.grain}, {grid.n_products:,} {noun}."]
    if len(grid.product_id) < grid.n_products:
        shown = f"{len(grid.product_id):,} of {grid.n_products:,} products are shown"
        lines.append(f"{shown}, spread evenly over the list, with every arm among them.")
    return lines


def _axes(grid: _Grid, top: int) -> Iterator[str]:
    """Yield the product ids at the left and the dates along the top, a tick at the left edge of their period."""
    yield svg_text.element(grid.left - 8, top - 8, "product", f'text-anchor="end" fill="{FAINT}"')
    yield f'<g text-anchor="end">{"".join(_row_label(grid, i, top) for i in range(len(grid.product_id)))}</g>'
    with_year = bool((grid.date[-1] - grid.date[0]).astype(int) > 366)
    labels = [_day(day, year=with_year) for day in grid.date]
    room = max(svg_text.width(label, LABEL_SIZE) for label in labels) + 9
    step = next((s for s in STEPS[grid.grain] if s * grid.cell_width >= room), len(labels))
    ticks = []
    for column in range(grid.n_eve % step, len(labels), step):
        x = grid.left + grid.cell_width * column
        if x + room > grid.width:
            continue
        look = 'font-weight="700"' if column == grid.n_eve else f'fill="{FAINT}"'
        yield svg_text.element(x + 3, top - 8, labels[column], look)
        ticks.append(f"M{x} {top - 6}V{top}")
    yield f'<path d="{"".join(ticks)}" stroke="{FAINT}" fill="none"/>'


def _row_label(grid: _Grid, row: int, top: int) -> str:
    name = grid.product_id[row]
    label = _cut(name)
    hover = f"<title>{svg_text.escape(name)}</title>" if label != name else ""
    y = top + ROW * row + ROW // 2 + 4
    return f'<text x="{grid.left - 8}" y="{y}">{hover}{svg_text.escape(label)}</text>'


def _cells(grid: _Grid, top: int) -> Iterator[str]:
    """Yield one path for each class of cell, in units of cells: one box for a run of equal neighbours."""
    yield f'<g transform="translate({grid.left} {top}) scale({grid.cell_width} {ROW})" shape-rendering="crispEdges">'
    edges = np.diff(grid.cell, axis=1, prepend=-2, append=-2) != 0
    runs: dict[int, list[str]] = {}
    for row, edge in enumerate(edges):
        at = np.flatnonzero(edge).tolist()
        for start, stop in itertools.pairwise(at):
            length = stop - start
            runs.setdefault(int(grid.cell[row, start]), []).append(f"M{start} {row}h{length}v1h-{length}z")
    for code, parts in sorted(runs.items()):
        hover = svg_text.escape(_meaning(grid, code))
        look = f'data-cell="{_name(code)}" fill="{_fill(grid, code)}"'
        yield f'<path {look} d="{"".join(parts)}"><title>{hover}</title></path>'
    yield "</g>"


def _lines(grid: _Grid, top: int) -> str:
    """Return the lines between the cells, stronger ones between weeks, and the line of the start."""
    n_rows, n_columns = grid.cell.shape
    bottom, width = top + ROW * n_rows, grid.cell_width
    x = [grid.left + width * column for column in range(n_columns + 1)]
    weekly = [x[column] for column in range(n_columns + 1) if (column - grid.n_eve) * DAYS[grid.grain] % 7 == 0]
    fine = x if width >= 5 else weekly
    down = "".join(f"M{at} {top}V{bottom}" for at in fine)
    across = "".join(f"M{grid.left} {top + ROW * row}H{grid.right}" for row in range(n_rows + 1))
    lines = f'<path d="{down}{across}" stroke-opacity=".28"/>'
    if grid.grain == "day" and fine is not weekly:
        lines += f'<path d="{"".join(f"M{at} {top}V{bottom}" for at in weekly)}" stroke-opacity=".3"/>'
    border = f'<path d="M{grid.left} {top}H{grid.right}V{bottom}H{grid.left}Z" stroke-opacity=".6"/>'
    start = f'<path data-part="start" d="M{x[grid.n_eve]} {top - 18}V{bottom}" stroke="{INK}" stroke-width="2"/>'
    return f'<g fill="none" stroke="{FAINT}"><g transform="translate(.5 .5)">{lines}{border}</g>{start}</g>'


def _legend(grid: _Grid, top: int) -> tuple[list[str], int]:
    """Return the legend and the height of the picture that ends below it."""
    blackouts = [2 * a + 1 for a in range(len(grid.arms)) if 2 * a + 1 in grid.counts]
    entries = [([2 * a], svg_text.fit(name, 260, TEXT_SIZE)) for a, name in enumerate(grid.arms)]
    if blackouts:
        entries.append((blackouts, "blackout: price in force, data left out"))
    if (grid.cell == _OUTSIDE).any():
        entries.append(([_OUTSIDE], "outside the experiment"))
    parts, x, y = [], PAD, top
    for codes, label in entries:
        size = 18 * len(codes) + 6 + round(svg_text.width(label, TEXT_SIZE)) + 18
        if x > PAD and x + size > grid.width:
            x, y = PAD, y + 22
        hover = " ".join(_meaning(grid, code) for code in codes)
        boxes = "".join(
            f'<rect x="{x + 18 * i}" y="{y}" width="18" height="14" fill="{_fill(grid, code, legend=True)}"/>'
            for i, code in enumerate(codes)
        )
        text = svg_text.element(x + 18 * len(codes) + 6, y + 11, label, f'font-size="{TEXT_SIZE}"')
        outline = f'<g stroke="{FAINT}" stroke-opacity=".7">{boxes}</g>'
        parts.append(f'<g data-part="legend"><title>{svg_text.escape(hover)}</title>{outline}{text}</g>')
        x += size
    return parts, y + 14 + PAD


def _meaning(grid: _Grid, code: int) -> str:
    """Return a sentence on a class of cells, with its number of cells over all products, shown or not."""
    if code == _OUTSIDE:
        return "Outside the experiment: the running price holds."
    name, unit = grid.arms[code // 2], f"product-{grid.grain}s"
    cells, products = grid.counts.get(code, (0, 0))
    how = "its price is in force, the data are left out" if code % 2 else "its price is in force, the data count"
    return f"{name}: {how}. In all {cells:,} {unit}, {products:,} of {grid.n_products:,} products."


def _patterns(grid: _Grid) -> str:
    """Return the hatch over each arm's colour: one set for the cells, which are stretched, one for the legend."""
    stretch = f"scale({1 / grid.cell_width:.5f} {1 / ROW}) "
    parts = []
    for code in sorted(grid.counts):
        if code < 0 or code % 2 == 0:
            continue
        colour = grid.colours[code // 2]
        stroke = '#fff" fill-opacity=".8' if _luminance(colour) < DARK else f'{INK}" fill-opacity=".62'
        for name, transform in ((f"{grid.key}{_name(code)}", stretch), (f"{grid.key}{_name(code)}-key", "")):
            parts.append(
                f'<pattern id="{name}" width="5" height="5" patternUnits="userSpaceOnUse" '
                f'patternTransform="{transform}rotate(45)"><rect width="5" height="5" fill="{colour}"/>'
                f'<rect width="1.6" height="5" fill="{stroke}"/></pattern>'
            )
    return f"<defs>{''.join(parts)}</defs>"


def _fill(grid: _Grid, code: int, *, legend: bool = False) -> str:
    if code == _OUTSIDE:
        return OUTSIDE
    return f"url(#{grid.key}{_name(code)}{'-key' if legend else ''})" if code % 2 else grid.colours[code // 2]


def _luminance(colour: str) -> float:
    """Return the relative luminance of a colour #rrggbb, 0 black to 1 white, as WCAG has it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _name(code: int) -> str:
    return "outside" if code == _OUTSIDE else f"arm-{code // 2}{'-blackout' if code % 2 else ''}"


def _day(day: np.datetime64, *, year: bool) -> str:
    """Return a day as people write it: 5 Jun, or 5 Jun 2017."""
    date = day.astype("datetime64[D]").item()
    return f"{date.day} {MONTHS[date.month - 1]}" + (f" {date.year}" if year else "")


def _cut(name: str) -> str:
    """Return a product id short enough for the axis; the middle goes, because ids often share how they begin."""
    return name if len(name) <= LABEL_LENGTH else f"{name[:7]}…{name[-6:]}"

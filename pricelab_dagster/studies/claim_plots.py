"""Pictures of the claims study: one SVG for each claim, the article's figure on top."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pricelab_dagster.interval_plot import Line, draw
from pricelab_dagster.studies.claim_draws import FILTERED, HPTE, NO_FILTER, RAW, RAW_FILTERED
from pricelab_dagster.studies.claim_rows import BIAS, BIAS_CUT, RMSE_CUT, SD_CUT

Row = dict[str, Any]
MEASURED = {
    SD_CUT: "change of the standard error",
    RMSE_CUT: "change of the root mean squared error",
    BIAS_CUT: "change of the spillover bias",
    BIAS: "error in parts of the long-run effect",
}
AGAINST = {RAW: "raw", RAW_FILTERED: "filtered", FILTERED: "hajek", HPTE: "HPTE", NO_FILTER: "no filter"}
PLOTTED = {
    "random days": SD_CUT,
    "crossover": SD_CUT,
    "outlier rule": RMSE_CUT,
    "carryover": BIAS,
    "clustering": BIAS_CUT,
    "Complete Journey": SD_CUT,
}
"""The figure of each claim that its picture shows."""


def write(rows: pa.Table, folder: Path) -> list[Path]:
    """Write a picture of every claim that has rows, and return the files; equal rows give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, picture in pictures(rows):
        found.append(folder / f"{name}.svg")
        found[-1].write_text(picture)
    return found


def pictures(rows: pa.Table) -> Iterator[tuple[str, str]]:
    """Yield name and SVG: one a claim, of random days one for each kind."""
    plotted: dict[str, list[Row]] = {}
    for row in rows.to_pylist():
        # a claim that was added since is a design's
        if row["figure"] == PLOTTED.get(row["claim"], SD_CUT) and row["claim"] != "spread":
            plotted.setdefault(title(row), []).append(row)
    for name, group in plotted.items():
        changed = group[0]["figure"] != BIAS
        lines = [*_article(group), *(_line(row, changed=changed) for row in group)]
        few = min(row["draws"] for row in group)
        subtitle = f"{MEASURED[group[0]['figure']]}; dots with 95 % intervals over {few} draws"
        yield re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"), draw(name, subtitle, lines)


def title(row: Row) -> str:
    """Return what the picture of a row is called: the design, or else the claim.

    Examples
    --------
    >>> title({"claim": "random days", "design": "random_days, coin flip, 28 days", "figure": SD_CUT})
    'Random days, coin flip, 28 days'
    >>> title({"claim": "carryover", "design": "crossover, 2 x 14 days, blackout 7", "figure": BIAS})
    'Carryover'
    """
    claim = str(row["claim"])
    designed = claim not in PLOTTED or claim in ("random days", "crossover")
    name = str(row["design"]).replace("_", " ") if designed else claim
    return name[:1].upper() + name[1:]


def _article(group: Sequence[Row]) -> list[Line]:
    """Return the lines of what the article says: one, or the two ends of a range."""
    said = list(dict.fromkeys((str(row["design"]), row["article"]) for row in group if row["article"]))
    found = []
    for design, text in said:
        about = f" of {design.split(',')[0]}" if len(said) > 1 else ""
        for number in text.split(" to "):
            found.append(Line(f"the article{about}", -float(number) / 100.0, strong=True))
    return found


def _line(row: Row, *, changed: bool) -> Line:
    """Return the line of a row: of a cut, the change."""
    ends = (row["lower"], row["upper"])
    known = all(end is not None and end == end for end in ends)
    if not changed:
        return Line(_label(row), row["value"] / 100.0, (ends[0] / 100.0, ends[1] / 100.0) if known else None)
    return Line(_label(row), -row["value"] / 100.0, (-ends[1] / 100.0, -ends[0] / 100.0) if known else None)


def _label(row: Row) -> str:
    """Return what a line is called, in about thirty characters."""
    design, against = str(row["design"]), AGAINST.get(str(row["reference"]).removeprefix("time_bound "), "")
    if row["claim"] == "carryover":
        return design.removesuffix(", 28 days")
    if row["claim"] == "clustering":
        return design.removeprefix("time_bound, ")
    if row["claim"] == "Complete Journey":
        return f"{design.split(',')[0]} against {against}"
    both = "both " if row["estimator"] in (RAW, RAW_FILTERED) else ""
    return f"{row['scenario']}, {both}{against}" if both else f"{row['scenario']} against {against}"

"""What the draws of the claims study show: cuts and biases with intervals, one a row, or with markets side by side."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster.studies import figures
from pricelab_dagster.studies.bars import Bar, verdict
from pricelab_dagster.studies.figures import Bounded

FloatArray = NDArray[np.float64]
Row = dict[str, Any]
Which = tuple[str, str]
"""A market and a design."""

REPLICATION, WORLD, JOURNEY = "replication", "world", "journey"
SD_CUT, RMSE_CUT, MIDDLE_CUT = "sd_cut_percent", "rmse_cut_percent", "middle_cut_percent"
BIAS, BIAS_CUT = "bias_percent", "bias_cut_percent"
TRUTH = "truth "


class Draws:
    """The draws of a study: by market and design, of markets with substitutes, and on Complete Journey."""

    def __init__(self, rows: Iterable[Row]) -> None:
        cases: dict[Which, list[Row]] = {}
        worlds, journey = [], []
        for row in rows:
            if row["part"] == WORLD:
                worlds.append(row["found"])
            elif row["part"] == JOURNEY:
                journey += row["found"]
            else:
                truths = {TRUTH + estimand: value for estimand, value in row["truth"].items()}
                flat = {"replication": row["number"], "luck": row["luck"], **truths, **row["found"]}
                cases.setdefault((row["scenario"], row["design"]), []).append(flat)
        self._cases = {which: pd.DataFrame(flat).set_index("replication") for which, flat in cases.items()}
        self.worlds = pd.DataFrame(worlds)
        self.journey: list[Row] = journey

    def __iter__(self) -> Iterator[Which]:
        return iter(self._cases)

    def __contains__(self, which: object) -> bool:
        return which in self._cases

    def estimators(self, which: Which) -> list[str]:
        """Return the estimators of a market and design."""
        return [name for name in map(str, self._cases[which].columns) if name != "luck" and not name.startswith(TRUTH)]

    def errors(self, which: Which, estimator: str, estimand: str = "same_day") -> pd.DataFrame:
        """Return error, luck and truth by replication, of the draws in which the estimate is defined."""
        frame = self._cases[which]
        truth = frame[TRUTH + estimand]
        found = pd.DataFrame({"error": frame[estimator] - truth, "luck": frame["luck"], "truth": truth})
        return found[found["error"].notna()]


def sd(errors: FloatArray) -> float:
    """Return the standard deviation, nan of a single draw."""
    return float(errors.std(ddof=1)) if len(errors) > 1 else float("nan")


def rmse(errors: FloatArray) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean(errors**2)))


def middle(errors: FloatArray) -> float:
    """Return the range of the middle half, which a few wild draws do not move; nan of a single draw."""
    return float(np.subtract(*np.quantile(errors, [0.75, 0.25]))) if len(errors) > 1 else float("nan")


SIZES = {SD_CUT: sd, RMSE_CUT: rmse, MIDDLE_CUT: middle}


def cut(draws: Draws, figure: str, ours: tuple[Which, str], theirs: tuple[Which, str]) -> tuple[Bounded, int]:
    """Return by how many per cent our error is below theirs, and over how many draws.

    `figure` is one of `SIZES`; each side is a market and design, and the estimator.
    """

    def less(ours: FloatArray, theirs: FloatArray) -> float:
        whole = SIZES[figure](theirs)
        return 100.0 * (1.0 - SIZES[figure](ours) / whole) if whole else float("nan")

    both = [draws.errors(*side)["error"] for side in (ours, theirs)]
    shared = both[0].index.intersection(both[1].index)
    errors = [one.loc[shared].to_numpy(dtype=float) for one in both]
    return figures.compare(less, *errors), len(shared)


def bias(draws: Draws, which: Which, estimator: str, estimand: str = "same_day") -> tuple[Bounded, int]:
    """Return the mean error in per cent of the mean truth, without the luck of the draws, and over how many draws."""
    part = draws.errors(which, estimator, estimand)
    found = figures.bias(part["error"], part["luck"])
    return Bounded(*(100.0 * value / float(part["truth"].mean()) for value in found)), len(part)


def row(
    claim: str,
    which: Which,
    estimator: str,
    figure: str,
    found: tuple[Bounded, int],
    *,
    reference: str = "",
    article: str = "",
    bar: Bar | None = None,
) -> Row:
    """Return a row of the study; a figure without a bar is only shown."""
    bounded, draws = found
    return {
        "claim": claim,
        "scenario": which[0],
        "design": which[1],
        "estimator": estimator,
        "figure": figure,
        "reference": reference,
        "value": bounded.value,
        "lower": bounded.lower,
        "upper": bounded.upper,
        "article": article,
        "bar": "" if bar is None else str(bar),
        "reached": "" if bar is None else verdict(bounded, bar),
        "draws": draws,
    }


def side_by_side(rows: pa.Table, scenarios: tuple[str, ...]) -> pa.Table:
    """Return the rows of these markets with one column for each, and what is asked in any of them."""
    found: dict[tuple[str, ...], Row] = {}
    keys = ("claim", "design", "estimator", "figure", "reference", "article")
    for one in rows.to_pylist():
        if one["scenario"] not in scenarios:
            continue
        line = found.setdefault(
            tuple(one[key] for key in keys),
            {**{key: one[key] for key in keys}, **dict.fromkeys(scenarios), "asked": ""},
        )
        line[one["scenario"]] = text(one)
        if one["bar"]:
            asked = f"{one['scenario']} {one['bar']}: {one['reached']}"
            line["asked"] = "; ".join(part for part in (line["asked"], asked) if part)
    return pa.Table.from_pylist(list(found.values()))


def text(one: Row) -> str:
    """Return a figure with its interval as people read it.

    Examples
    --------
    >>> text({"value": 60.04, "lower": 57.1, "upper": 62.53}), text({"value": 1.0, "lower": float("nan"), "upper": 2.0})
    ('60.0 (57.1 to 62.5)', '1.0')
    """
    if not np.isfinite([one["lower"], one["upper"]]).all():
        return f"{one['value']:.1f}"
    return f"{one['value']:.1f} ({one['lower']:.1f} to {one['upper']:.1f})"

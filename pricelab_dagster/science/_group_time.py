"""Group-time effects: the 2x2 cells with the influence of each unit, intervals and the band."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pricelab_dagster.science import _cluster_robust

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Control = Literal["never", "not_yet"]
Kind = Literal["simple", "dynamic", "group"]

NEVER = -1

# Replicates drawn at once: signs of 10,000 units then take 5 MB.
BLOCK = 64


class Cells(NamedTuple):
    """Effects of K cells, a cell a group in a period, and what each unit adds to them.

    influence (U, K) is the part of a unit in the error of an effect: the sum over units of its square is the variance.
    group_rows (U, M) counts the rows of a unit in each of the groups `group_index` (K,) points to.
    """

    group: IntArray
    time: IntArray
    effect: FloatArray
    influence: FloatArray
    n_treated: IntArray
    n_control: IntArray
    treated_units: IntArray
    control_units: IntArray
    group_index: IntArray
    group_rows: FloatArray


@dataclass(frozen=True, slots=True)
class GroupTime:
    """Effects by group (first treated period) and period, K cells ordered by group, then period.

    Attributes
    ----------
    group, time
        (K,) period indices; cells with time before group are placebo differences, zero under parallel trends.
    effect
        (K,) in the units of the outcome; nan without a treated or a control row.
    se, ci_lower, ci_upper
        (K,) for each cell alone; nan with fewer than two units on either side.
    critical_value
        Of the band: the quantile of the largest |t| over all cells.
    band_lower, band_upper
        (K,) hold all cells at once with the given confidence; nowhere inside the interval.
    n_treated, n_control
        (K,) rows of the cell on either side.
    n_dropped
        Rows left out: treated too early to have a period before, or never observed.
    control
        never or not_yet.
    estimand
        What the numbers estimate, in words.
    reason
        Why effects are nan, or what to know about them; None where there is nothing to say.
    cells
        Influence of each unit on each effect, for `aggregate`.
    """

    group: IntArray
    time: IntArray
    effect: FloatArray
    se: FloatArray
    ci_lower: FloatArray
    ci_upper: FloatArray
    critical_value: float
    band_lower: FloatArray
    band_upper: FloatArray
    n_treated: IntArray
    n_control: IntArray
    n_dropped: int
    control: Control
    estimand: str
    reason: str | None
    cells: Cells = field(repr=False)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Group-time effects put together.

    Attributes
    ----------
    kind
        simple, dynamic or group.
    at
        (K,) periods since the first treated one (dynamic) or first treated periods (group); empty for simple.
    effect, se, ci_lower, ci_upper, critical_value, band_lower, band_upper
        (K,) as in `GroupTime`.
    overall_effect, overall_se, overall_ci_lower, overall_ci_upper, overall_p_value
        One number over all of it; nan where `reason` says why.
    estimand
        What the numbers estimate, in words.
    reason
        Why the overall effect is nan, or what to know about it; None where there is nothing to say.
    """

    kind: Kind
    at: IntArray
    effect: FloatArray
    se: FloatArray
    ci_lower: FloatArray
    ci_upper: FloatArray
    critical_value: float
    band_lower: FloatArray
    band_upper: FloatArray
    overall_effect: float
    overall_se: float
    overall_ci_lower: float
    overall_ci_upper: float
    overall_p_value: float
    estimand: str
    reason: str | None


def cells(Y: FloatArray, first: IntArray, units: IntArray, *, control: Control, anticipation: int) -> Cells:
    """Return the cells of every group in every period but the first, and the influence of each unit on them."""
    groups, group_of = np.unique(first[first != NEVER], return_inverse=True)
    n_later, U = max(Y.shape[1] - 1, 0), int(units.max(initial=-1)) + 1
    index, time = np.repeat(np.arange(len(groups)), n_later), np.tile(np.arange(1, n_later + 1), len(groups))
    group, K = groups[index], len(index)
    effect, influence, counts = np.full(K, np.nan), np.zeros((U, K)), np.zeros((K, 4), dtype=np.int64)
    for k, (g, t) in enumerate(zip(group, time, strict=True)):
        change = Y[:, t] - Y[:, t - 1 if t < g - anticipation else g - anticipation - 1]
        later = (control == "not_yet") & (first > t + anticipation) & (first != g)
        sides = [side & np.isfinite(change) for side in (first == g, (first == NEVER) | later)]
        rows_of = [np.bincount(units[side], minlength=U) for side in sides]
        counts[k] = [*(rows.sum() for rows in rows_of), *(np.count_nonzero(rows) for rows in rows_of)]
        if counts[k, :2].all():
            means = [change[side].mean() for side in sides]
            effect[k] = means[0] - means[1]
            for side, mean, sign in zip(sides, means, (1.0, -1.0), strict=True):
                part = sign * (change[side] - mean) / side.sum()
                influence[:, k] += np.bincount(units[side], part, minlength=U)
    group_rows = np.zeros((U, len(groups)))
    np.add.at(group_rows, (units[first != NEVER], group_of), 1.0)
    return Cells(
        group=group,
        time=time,
        effect=effect,
        influence=influence,
        n_treated=counts[:, 0],
        n_control=counts[:, 1],
        treated_units=counts[:, 2],
        control_units=counts[:, 3],
        group_index=index,
        group_rows=group_rows,
    )


def critical_value(
    influence: FloatArray, se: FloatArray, *, confidence: float, n_replicates: int, rng: np.random.Generator
) -> float:
    """Return the quantile of the largest |t| over effects when every unit's influence gets a random sign."""
    usable = se > 0
    if not usable.any():
        return np.nan
    ratio = influence[:, usable] / se[usable]
    largest = np.empty(n_replicates)
    for start in range(0, n_replicates, BLOCK):
        signs = 2.0 * rng.integers(0, 2, (min(BLOCK, n_replicates - start), len(ratio))) - 1.0
        largest[start : start + BLOCK] = np.abs(signs @ ratio).max(axis=1)
    return float(np.quantile(largest, confidence))


class Spread(NamedTuple):
    """Intervals of K effects one by one, and the band for all of them."""

    se: FloatArray
    ci_lower: FloatArray
    ci_upper: FloatArray
    critical_value: float
    band_lower: FloatArray
    band_upper: FloatArray

    @classmethod
    def of(
        cls,
        effect: FloatArray,
        influence: FloatArray,
        freedom: FloatArray,
        *,
        confidence: float,
        n_replicates: int,
        rng: np.random.Generator,
    ) -> Self:
        """Return the spread of effects (K,) from influence (U, K); nan where the degrees of freedom (K,) are."""
        se = np.where(np.isnan(freedom), np.nan, np.sqrt((influence**2).sum(axis=0)))
        critical = critical_value(influence, se, confidence=confidence, n_replicates=n_replicates, rng=rng)
        half = _cluster_robust.half_width(se, freedom, confidence)
        band = np.fmax(half, stats.t.ppf(stats.norm.cdf(critical), freedom) * se)
        return cls(se, effect - half, effect + half, critical, effect - band, effect + band)


def cell_reason(cells: Cells, first: IntArray, control: Control) -> str | None:
    """Return why cells are nan, or what to know about them."""
    if not len(cells.effect):
        return "No product starts treatment after a period without it: no group."
    if control == "never" and not (first == NEVER).any():
        return "No never-treated product: nothing to compare with. Use control='not_yet'."
    n_cells, empty = len(cells.effect), int(np.isnan(cells.effect).sum())
    alone = int((np.minimum(cells.treated_units, cells.control_units) == 1).sum())
    notes = []
    if empty:
        notes.append(f"{empty} of {n_cells} cells have no treated or no control product seen in both periods: nan.")
    if alone:
        notes.append(f"{alone} of {n_cells} cells rest on one unit on a side: no standard error.")
    return " ".join(notes) or None

"""Effects in groups of products: each product's influence on them, and what identifies them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import bootstrap
from pricelab_dagster.science._families import wald
from pricelab_dagster.science.effect_scores import Scores

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

MIN_PER_ARM = 5
"""Fewest products of a segment in each arm: below that the standard error is a guess."""


class Part(NamedTuple):
    """One segment: its effect, each product's influence on it, the small-sample factor and degrees of freedom."""

    effect: float
    influence: FloatArray
    scale: float = np.nan
    freedom: float = np.nan
    reason: str | None = None


def part(scores: Scores, member: BoolArray, terms: tuple[FloatArray, FloatArray] | None) -> Part:
    """Return the effect in one segment, nan with the reason where it is not identified."""
    used = member & (scores.weight > 0)
    n_units, smaller, reason = _counted(scores, used)
    if reason is not None:
        return Part(np.nan, np.zeros(len(used)), reason=reason)
    weight = np.where(used, scores.weight, 0.0)
    psi = np.where(used, scores.score, 0.0)
    tau = (weight * psi).sum() / weight.sum()
    influence = weight * (psi - tau) / weight.sum()
    if terms is not None:
        (Z, W), n = terms, used.sum()
        mean_Z, mean_W = Z[used].mean(), W[used].mean()
        mu0 = mean_Z - tau * mean_W
        if not mu0 > 0.0:
            return Part(
                np.nan,
                np.zeros(len(used)),
                reason=f"The segment's mean without treatment is {mu0:.3g}, not positive: no relative effect.",
            )
        tau /= mu0
        moved = np.where(used, Z - mean_Z - tau * mu0 * (W - mean_W), 0.0) / n
        influence = (influence * (1.0 + tau * mean_W) - tau * moved) / mu0
    freedom = bootstrap.freedom(n_units_smaller_arm=smaller, n_units=n_units)
    return Part(float(tau), influence, float(np.sqrt(n_units / (n_units - 1))), freedom)


def _counted(scores: Scores, used: BoolArray) -> tuple[int, int, str | None]:
    """Return the segment's units, those of its smaller arm, and why it is not identified, or None."""
    sides = [used & scores.treated, used & scores.control]
    n_treated, n_control = (int(side.sum()) for side in sides)
    units = [len(np.unique(scores.unit[side])) for side in sides]
    n_units = len(np.unique(scores.unit[used]))
    reason = None
    if min(n_treated, n_control) < MIN_PER_ARM:
        reason = (
            f"not identified: {n_treated} treated and {n_control} control products, {MIN_PER_ARM} of each are needed."
        )
    elif min(units) < bootstrap.MIN_UNITS_PER_ARM:
        reason = f"not identified: {min(units)} assignment units in an arm, {bootstrap.MIN_UNITS_PER_ARM} are needed."
    return n_units, min(units), reason


def unit_sums(unit: IntArray, parts: list[Part]) -> FloatArray:
    """Return the units' sums of influences, (G, K)."""
    n_units = int(unit.max(initial=-1)) + 1
    return np.array([np.bincount(unit, part.influence, n_units) for part in parts]).reshape(len(parts), n_units).T


def equal(attribute: tuple[str, ...], effect: FloatArray, sums: FloatArray) -> FloatArray:
    """Return for each segment the p-value of the same effect in all segments of its attribute, (K,)."""
    p_value = np.full(len(effect), np.nan)
    for name in dict.fromkeys(attribute):
        own = np.array([other == name for other in attribute])
        rows = np.flatnonzero(own & np.isfinite(effect))
        if len(rows) < 2:
            continue
        contrast = np.column_stack([-np.ones(len(rows) - 1), np.eye(len(rows) - 1)])
        part = sums[:, rows] @ contrast.T
        n_units = int(sums[:, rows].any(axis=1).sum())
        p_value[own] = wald(contrast @ effect[rows], part.T @ part, n_units - len(rows))[1]
    return p_value


def terms(
    scores: Scores, outcome: ArrayLike | None, exposure: ArrayLike | None
) -> tuple[FloatArray, FloatArray] | None:
    """Return the columns that divide a relative effect, or None; refuse one without the other, and gaps."""
    if (outcome is None) != (exposure is None):
        raise ValueError("one of outcome, exposure == None, must be both or neither. A relative effect needs both.")
    if outcome is None or exposure is None:
        return None
    columns = np.asarray(outcome, dtype=float), np.asarray(exposure, dtype=float)
    for name, column in zip(("outcome", "exposure"), columns, strict=True):
        if column.shape != scores.score.shape:
            rule = f"must be {scores.score.shape}"
            raise ValueError(f"{name}.shape == {column.shape}, {rule}. Give one value per product.")
        n_lacking = int((~np.isfinite(column) & (scores.weight > 0)).sum())
        if n_lacking:
            raise ValueError(f"{name} is missing for {n_lacking} products with a score. Give it or drop them.")
    return columns

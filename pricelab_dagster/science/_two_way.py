"""Two-way fixed effects: cells less their unit and period effects, and whether treatment is left over then."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import bootstrap

FloatArray = NDArray[np.float64]

# What unit and period effects leave below this part of a spread is rounding error.
LEAST_SPREAD = 1e-10

ESTIMAND = (
    "coefficient of treatment beside product and period effects: a weighted mean of the effects in treated cells, "
    "whose weights may be negative when effects change over time or differ between groups"
)
ALONE = "1 assignment unit is ever treated, or never: no standard error."


@dataclass(frozen=True, slots=True)
class FixedEffects:
    """A two-way fixed effects estimate.

    Attributes
    ----------
    effect
        In the units of the outcome, per unit of treatment; nan where `reason` says why.
    se, ci_lower, ci_upper, p_value
        From unit sums (CR1) and t with `freedom`; nan where the effect is, and where a side is one unit alone.
    n_units
        Assignment units with a row in the estimate; a row takes part when it is seen twice or more.
    n_treated, n_control
        Those rows, ever treated and never treated.
    negative_weight
        Sum of the negative weights, as a positive number; all weights sum to 1. At 0 the effect is a proper mean.
    estimand
        What the number estimates, in words.
    reason
        Why the effect, or its standard error, is nan, or None.
    """

    effect: float
    se: float
    ci_lower: float
    ci_upper: float
    p_value: float
    n_units: int
    n_treated: int
    n_control: int
    negative_weight: float
    estimand: str
    reason: str | None


def centred(x: FloatArray, w: FloatArray) -> FloatArray:
    """Return cells (N, T) less their weighted unit and period effects, exact for any pattern of weights (N, T).

    Unit effects are solved out of the normal equations, which leaves one equation per period (or per unit, if there
    are fewer). Cells of weight 0 come back as 0.
    """
    if x.shape[0] < x.shape[1]:
        return centred(x.T, w.T).T
    row, column = w.sum(axis=1)[:, None], w.sum(axis=0)
    share = np.divide(w, row, out=np.zeros(w.shape), where=row > 0)
    scale = np.divide(1.0, np.sqrt(column), out=np.zeros(len(column)), where=column > 0)
    # Scaled to a unit diagonal, so that the rank found does not depend on the size of the weights.
    equations = (np.diag(column) - w.T @ share) * np.outer(scale, scale)
    inverse = np.linalg.pinv(equations, rcond=LEAST_SPREAD, hermitian=True)
    out = np.where(w > 0, x, 0.0)
    # The second pass takes out what rounding left in the first.
    for _ in range(2):
        out = out - (share * out).sum(axis=1)[:, None]
        period = scale * (inverse @ (scale * (w * out).sum(axis=0)))
        out = np.where(w > 0, out - period + (share @ period)[:, None], 0.0)
    return out


def cell_weights(weights: ArrayLike | None, shape: tuple[int, int]) -> FloatArray:
    """Return weights (N, T) from none, one per row or one per cell."""
    if weights is None:
        return np.ones(shape)
    w = np.asarray(weights, dtype=float)
    if w.shape not in (shape[:1], shape) or not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError(
            f"weights.shape == {w.shape}, must be {shape[:1]} or {shape}, finite and not negative. "
            "Use 0 to leave a cell out."
        )
    return np.broadcast_to(w if w.ndim == 2 else w[:, None], shape)


def freedom(n_treated: int, n_control: int) -> float:
    """Return degrees of freedom from the units ever and never treated; nan where either is one unit alone.

    Those of `bootstrap.freedom` below 30 units on a side: the residual of treatment, and with it the score, is largest
    in the smaller one. One less than all units where there are more, or where all are treated in the end.
    """
    n_smaller, n_units = min(n_treated, n_control), n_treated + n_control
    if n_control == 0:
        return n_units - 1.0
    if n_smaller < 2:
        return np.nan
    return min(n_units - 1.0, bootstrap.freedom(n_units_smaller_arm=n_smaller, n_units=n_units))


def unidentified(D: FloatArray, w: FloatArray, spread: float, n_units: int) -> str | None:
    """Return why treatment with residual sum of squares `spread` has no coefficient, or None."""
    if n_units < 2:
        return f"{n_units} assignment units seen in two periods or more, at least 2 are needed."
    total = float((w * (D - np.average(D, weights=w)) ** 2).sum())
    if total == 0.0:
        return "Treatment is the same in all cells: nothing to compare."
    if spread <= LEAST_SPREAD * total:
        return "Treatment follows from product and period alone: no product changes against others in any period."
    return None

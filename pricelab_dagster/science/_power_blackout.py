"""How the effect of a finished switchback moves with the days since the switch, and the blackout that this advises."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

UNSEEN = 0.5
"""Part of the effect: where early periods could be off by so much without being seen, nothing is advised."""
MIN_UNITS = 4
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Blackout:
    """The effect by periods since the switch, and the blackout that it advises.

    Attributes
    ----------
    effect, se, ci_lower, ci_upper
        (L,) of each period since the switch, on the scale of the residuals, with pointwise 95 % intervals.
    gap, gap_se
        (L,) mean effect of all later periods less that of the `early` ones that follow a blackout of b: what waiting
        longer would still move; nan where nothing comes after those.
    early
        Periods that are compared with all later ones.
    effect_after
        (L,) mean effect over the periods from b on: the estimate against the blackout.
    recommended
        The shortest blackout after which the next periods are within noise of the later ones; None where `reason` says
        why there is none.
    reason
        Why nothing is recommended, or None.
    """

    effect: FloatArray
    se: FloatArray
    ci_lower: FloatArray
    ci_upper: FloatArray
    gap: FloatArray
    gap_se: FloatArray
    early: int
    effect_after: FloatArray
    recommended: int | None
    reason: str | None


def blackout(
    residual: ArrayLike, arm: ArrayLike, *, length: int, early: int = 2, units: ArrayLike | None = None
) -> Blackout:
    """Return the effect by periods since the switch in a finished experiment, and the blackout that it advises.

    The estimand at lag l is the mean difference that the arm makes l periods after a stretch begins. At each lag it is
    least squares of the residuals on the arm with effects of product and of period (of period alone where there is one
    stretch); the errors add the scores of a unit over lags, so that lags may be compared. A blackout of b is too short
    while the mean effect of the next `early` periods differs from that of all later ones at 5 %; the shortest one that
    is not is advised. Assumes that nothing but carryover makes the effect move with the days since the switch: an
    answer that grows as shoppers learn of the price looks alike. It is a weak test: where early days may be off by half
    of the effect and more without being seen, nothing is advised.

    Parameters
    ----------
    residual
        Observed minus predicted (N, T), the blackouts that the experiment had included; products with a missing value
        are left out.
    arm
        The arm in force (N, T), 0 or 1; nan where a product is in neither.
    length
        Periods of a phase or block, T for a time-bound experiment. An unfinished last stretch plays no part.
    early
        Periods that are compared with the later ones.
    units
        (N,) labels of what was assigned together; None: each product alone.

    Raises
    ------
    ValueError
        If shapes differ, or `length` leaves no stretch or no later periods.

    References
    ----------
    Liang and Zeger (1986), Biometrika 73, for the errors; Bojinov, Simchi-Levi and Zhao, "Design and analysis of
    switchback experiments", Management Science 69 (2023), on the order of carryover.
    """
    R, W = np.asarray(residual, dtype=float), np.asarray(arm, dtype=float)
    if R.ndim != 2 or W.shape != R.shape:
        raise ValueError(f"arm.shape == {W.shape}, must be {R.shape}, as the residuals. Give one arm per cell.")
    if not (1 <= early < length <= R.shape[1]):
        rule = f"in [early + 1 == {early + 1}, T == {R.shape[1]}]"
        raise ValueError(f"length == {length}, must be {rule}. Give the periods of a phase or block.")
    n = R.shape[1] // length
    whole = np.isfinite(R[:, : n * length]).all(axis=1) & np.isfinite(W[:, : n * length]).all(axis=1)
    y, x = (part[whole, : n * length].reshape(-1, n, length) for part in (R, W))
    labels = np.arange(len(R)) if units is None else np.asarray(units)
    code = pd.factorize(labels[whole])[0]
    n_units = int(code.max(initial=-1)) + 1
    y, x = (_without_means(part) for part in (y, x))
    spread = (x**2).sum(axis=(0, 1))
    if n_units < MIN_UNITS or (spread <= 1e-9 * max(x.size, 1)).any():
        nothing = np.full(length, np.nan)
        reason = f"not identified: {n_units} units, or an arm that does not change between them."
        return Blackout(*(nothing,) * 6, early, nothing, None, reason)
    effect = (x * y).sum(axis=(0, 1)) / spread
    score = (x * (y - effect * x)).sum(axis=1) / spread
    by_unit = np.zeros((n_units, length))
    np.add.at(by_unit, code, score)
    V = by_unit.T @ by_unit * n_units / (n_units - 1)
    return _curve(effect, V, early, n_units)


def _without_means(values: FloatArray) -> FloatArray:
    """Return values (N, P, L) less the means of product and of period; of period alone with one stretch."""
    centred = values - values.mean(axis=0)
    return centred if values.shape[1] == 1 else centred - centred.mean(axis=1, keepdims=True)


def _curve(effect: FloatArray, V: FloatArray, early: int, n_units: int) -> Blackout:
    """Return the curve of effects (L,) with covariance (L, L), and what it advises."""
    L = len(effect)
    z = float(stats.t(n_units - 2).ppf(0.5 + CONFIDENCE / 2))
    se = np.sqrt(np.diag(V))
    contrast = np.full((L, L), np.nan)
    for b in range(L - early):
        contrast[b] = 0.0
        contrast[b, b : b + early], contrast[b, b + early :] = -1.0 / early, 1.0 / (L - b - early)
    gap, gap_se = contrast @ effect, np.sqrt(np.einsum("bi,ij,bj->b", contrast, V, contrast))
    after = np.cumsum(effect[::-1])[::-1] / np.arange(L, 0, -1)
    within = np.flatnonzero(np.abs(gap) <= z * gap_se)
    recommended: int | None = None if not len(within) else int(within[0])
    reason = None
    if recommended is None:
        reason = f"not identified: the effect still moves {L - 1} periods after the switch; take longer stretches."
    elif z * gap_se[recommended] > UNSEEN * abs(after[recommended]):
        off = z * gap_se[recommended]
        reason = (
            f"not identified: early periods could differ from later ones by {off:.3g} unseen, with an effect of "
            f"{after[recommended]:.3g}."
        )
        recommended = None
    return Blackout(effect, se, effect - z * se, effect + z * se, gap, gap_se, early, after, recommended, reason)

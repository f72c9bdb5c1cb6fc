"""The Poisson bootstrap over assignment units, and the interval from its replicates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

MIN_UNITS_PER_ARM = 3
"""Fewest units of an arm with a standard error: replicates show .58 of the variance of two, and none of one."""
FEW_UNITS = 30
"""Below this many units in the smaller arm the normal interval is too short."""

# Whole-number draws take 8 bytes, the weights 4: a block at a time keeps the peak at the weights.
DRAWN_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Interval:
    """The spread of an estimate.

    Attributes
    ----------
    se
        Standard deviation of the finite replicates, in the effect's units; nan for fewer than two.
    ci_lower, ci_upper
        effect -/+ quantile * se.
    p_value
        Two-sided, of no effect; without any spread 0, or nan where the effect is 0 as well.
    """

    se: float
    ci_lower: float
    ci_upper: float
    p_value: float


def poisson_weights(units: ArrayLike, *, n_replicates: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return bootstrap weights (N, n_replicates): one Poisson(1) draw per unit and replicate, shared by its products.

    The draws go to units in the order of their labels, so that the order of rows does not matter.

    Parameters
    ----------
    units
        (N,) labels of what was assigned together.
    n_replicates
        B.
    rng
        Source of the draws.

    Raises
    ------
    ValueError
        If units are not (N,), or n_replicates is below 2.

    References
    ----------
    Chamandy et al., "Estimating uncertainty for massive data streams", Google (2012), section 3.

    Examples
    --------
    >>> import numpy as np
    >>> weights = poisson_weights(["b", "a", "b"], n_replicates=4, rng=np.random.default_rng(0))
    >>> bool((weights[0] == weights[2]).all())
    True
    """
    labels = np.asarray(units)
    if labels.ndim != 1:
        raise ValueError(f"units.shape == {labels.shape}, must be (N,). Give one unit label per product.")
    row, names = pd.factorize(labels, sort=True)
    if (row < 0).any():
        raise ValueError(f"units has {(row < 0).sum()} missing labels, must have none. Give each product its unit.")
    if n_replicates < 2:
        raise ValueError(f"n_replicates == {n_replicates}, must be at least 2. 500 serve most experiments.")
    draws = np.empty((len(names), n_replicates), dtype=np.float32)
    for first in range(0, len(names), DRAWN_AT_ONCE):
        block = draws[first : first + DRAWN_AT_ONCE]
        block[:] = rng.poisson(1.0, size=block.shape)
    return draws[row]


def replicates(
    statistic: Callable[[FloatArray], float], units: ArrayLike, *, n_replicates: int = 500, rng: np.random.Generator
) -> FloatArray:
    """Return the statistic under each of n_replicates Poisson weight vectors, (B,).

    Assumes independent units; then the replicates' standard deviation estimates the statistic's standard error. With
    units that were drawn in strata or pairs it is too large, which errs on the safe side. Below 30 units in an arm it
    is too uncertain for a normal interval: `interval` then takes a t quantile. Below 3 it is too small: the weight of a
    unit that is alone in its arm divides out, so that its noise is in no replicate.

    Parameters
    ----------
    statistic
        Function of weights (N,), whole numbers, equal within a unit; nan where it has no meaning.
    units
        (N,) labels of what is resampled.
    n_replicates
        B.
    rng
        Source of the draws.

    Raises
    ------
    ValueError
        As `poisson_weights`.

    References
    ----------
    Chamandy et al., "Estimating uncertainty for massive data streams", Google (2012), section 3.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(100.0)
    >>> mean = lambda w: (w * y).sum() / w.sum()
    >>> draws = replicates(mean, np.arange(100), rng=np.random.default_rng(0))
    >>> bool(abs(draws.std() / (y.std() / 10) - 1) < 0.1)
    True
    """
    weights = poisson_weights(units, n_replicates=n_replicates, rng=rng)
    return np.array([statistic(w.astype(float)) for w in weights.T])


def freedom(*, n_units_smaller_arm: int, n_units: int) -> float:
    """Return the degrees of freedom of an interval from the spread of replicates; infinite from 30 units an arm on.

    Satterthwaite's for the difference of two means, with units alike in both arms, so that the smaller arm dictates
    them: (1/n + 1/m)^2 / (1 / (n^2 (n - 1)) + 1 / (m^2 (m - 1))) of n and m units, n + m - 2 where n = m. n_units - 2
    where most units are in both arms. Their estimate from the spread in each arm is as uncertain as the smaller arm's
    spread, and covers less.

    Parameters
    ----------
    n_units_smaller_arm, n_units
        Assignment units in the smaller arm and in all. A unit that changes between the arms is in both.

    Raises
    ------
    ValueError
        If the smaller arm has fewer than two units, or all arms fewer than three.

    References
    ----------
    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2 (1946),
    eq. 17. Imbens and Kolesar, "Robust standard errors in small samples", Review of Economics and Statistics 98 (2016):
    the same under equal variances.

    Examples
    --------
    >>> freedom(n_units_smaller_arm=5, n_units=10), round(freedom(n_units_smaller_arm=5, n_units=105), 2)
    (8.0, 4.41)
    """
    n, m = n_units_smaller_arm, n_units - n_units_smaller_arm
    if n < 2 or n_units < 3:
        found = f"n_units_smaller_arm == {n}, n_units == {n_units}"
        raise ValueError(f"{found}, must be at least 2 and 3. Without a second unit there is no spread.")
    if n >= FEW_UNITS:
        return np.inf
    if m <= n:
        return n_units - 2.0
    return (1 / n + 1 / m) ** 2 / (1 / (n**2 * (n - 1)) + 1 / (m**2 * (m - 1)))


def interval(
    effect: float, replicates: ArrayLike, *, confidence: float, n_units_smaller_arm: int, n_units: int
) -> Interval:
    """Return the standard error, interval and p-value of an effect from its bootstrap replicates.

    Normal quantiles, or t with `freedom` where an arm has fewer than 30 units.

    Parameters
    ----------
    effect
        The estimate; nan gives nan throughout.
    replicates
        (B,), nan where undefined; those are left out.
    confidence
        In (0, 1).
    n_units_smaller_arm, n_units
        As for `freedom`; of one arm with fewer than two units there is no interval.

    Raises
    ------
    ValueError
        If confidence is not inside (0, 1).

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 12.2 and 12.3.

    Examples
    --------
    >>> found = interval(2.0, [1.0, 3.0], confidence=0.95, n_units_smaller_arm=50, n_units=100)
    >>> round(found.se, 3), round(found.ci_upper, 3)
    (1.414, 4.772)
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence == {confidence}, must be in (0, 1). 0.95 is usual.")
    draws = np.asarray(replicates, dtype=float)
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or not np.isfinite(effect) or n_units_smaller_arm < 2 or n_units < 3:
        return Interval(np.nan, np.nan, np.nan, np.nan)
    se = float(draws.std(ddof=1))
    df = freedom(n_units_smaller_arm=n_units_smaller_arm, n_units=n_units)
    reference = stats.t(df) if np.isfinite(df) else stats.norm()
    half = float(reference.ppf(0.5 + confidence / 2)) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = float(2.0 * reference.sf(np.divide(abs(effect), se)))
    return Interval(se, effect - half, effect + half, p_value)

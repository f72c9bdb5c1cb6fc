"""The paired contrast: each product's treated periods against its own control periods."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pricelab_dagster.science import _cluster_robust

ESTIMAND = (
    "treated minus control periods of the same product; holds the effect only if the periods themselves do not differ, "
    "since one sequence does not identify the period effect"
)


@dataclass(frozen=True, slots=True)
class Paired:
    """A mean of differences within products.

    Attributes
    ----------
    effect
        In the units of the values; nan where `reason` says why.
    se, t, df
        Standard error over units, effect / se, and n_units - 1 degrees of freedom.
    ci_lower, ci_upper, p_value
        From t; p is two-sided, of no effect. Without any spread it is 0, or nan where the effect is 0 as well.
    n_units, n_products
        Assignment units and products with both values.
    estimand
        What the number estimates, in words.
    reason
        Why the effect is nan, or None.
    """

    effect: float
    se: float
    t: float
    df: int
    ci_lower: float
    ci_upper: float
    p_value: float
    n_units: int
    n_products: int
    estimand: str
    reason: str | None


def contrast(
    treated: ArrayLike, control: ArrayLike, *, units: ArrayLike | None = None, confidence: float = 0.95
) -> Paired:
    """Return the mean over products of the treated minus the control value, with a t interval.

    The estimand is the mean difference between treated and control periods of a product. It is the effect of treatment
    only if the periods do not differ for other reasons: all products take the periods in one order, so that a common
    change between them goes into the effect whole. Assumes independent units and nearly normal means of differences.

    Parameters
    ----------
    treated, control
        (N,) value of each product in its treated and in its control periods; products without both take no part.
    units
        (N,) labels of what was assigned together, whose sums give the standard error; None: each product alone.
    confidence
        Of the interval.

    Raises
    ------
    ValueError
        If shapes, labels or confidence break these rules.

    References
    ----------
    Student, "The probable error of a mean", Biometrika 6 (1908), section 9. Liang and Zeger, "Longitudinal data
    analysis using generalized linear models", Biometrika 73 (1986), for units of several products.

    Examples
    --------
    >>> found = contrast([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    >>> found.effect, found.df, round(found.t, 4)
    (2.0, 2, 3.4641)
    """
    values = [np.asarray(one, dtype=float) for one in (treated, control)]
    if values[0].ndim != 1 or values[1].shape != values[0].shape:
        raise ValueError(
            f"treated.shape == {values[0].shape}, control.shape == {values[1].shape}, must be (N,) alike. "
            "Give one value of each kind per product."
        )
    _cluster_robust.check_confidence(confidence)
    difference = values[0] - values[1]
    both = np.isfinite(difference)
    D, codes = difference[both], _cluster_robust.unit_codes(units, len(difference))[both]
    n_units = len(np.unique(codes))
    if n_units < 2:
        what = "products" if units is None else "units"
        reason = f"{n_units} {what} with a treated and a control value, at least 2 are needed."
        nothing = (np.nan,) * 3
        return Paired(*nothing, max(n_units - 1, 0), *nothing, n_units, len(D), ESTIMAND, reason)
    effect = float(D.mean())
    se, _ = _cluster_robust.standard_error((D - effect) / len(D), codes)
    found = _cluster_robust.interval(effect, se, n_units - 1, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = float(np.divide(effect, se))
    return Paired(
        effect=effect,
        se=se,
        t=t,
        df=n_units - 1,
        ci_lower=found.ci_lower,
        ci_upper=found.ci_upper,
        p_value=found.p_value,
        n_units=n_units,
        n_products=len(D),
        estimand=ESTIMAND,
        reason=None,
    )

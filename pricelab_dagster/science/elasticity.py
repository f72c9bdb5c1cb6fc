"""Own-price elasticity from the effects on units and price, and the elasticities at which a price change pays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

MIN_PRICE_T = 3.2
"""Below it a quotient by the price effect says next to nothing: its interval is as long as the estimate."""
MIN_REPLICATES = 30
NORMAL_95 = float(stats.norm.ppf(0.975))
REVENUE = -1.0
CANNOT_BE_TOLD = "cannot be told: break-even lies inside the interval"


@dataclass(frozen=True, slots=True)
class Elasticity:
    """An elasticity with its interval.

    Attributes
    ----------
    elasticity
        Per cent of units for each per cent of price, on logs; nan where `reason` says why.
    se
        By the delta method, from the covariance of the draws.
    ci_lower, ci_upper
        Fieller's interval.
    price_t
        The effect on the price over its standard error; nan without draws.
    n_replicates
        Draws in which both effects have a logarithm.
    reason
        Why the elasticity is nan, or what to mind, or None.
    """

    elasticity: float
    se: float
    ci_lower: float
    ci_upper: float
    price_t: float
    n_replicates: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The elasticities at which a price change leaves revenue and profit as they were.

    Attributes
    ----------
    revenue, profit
        Break-even elasticities; profit is nan where `reason` says why.
    verdict_revenue, verdict_profit
        On which side the elasticity and its interval lie, in a sentence; None without an elasticity or a break-even.
    reason
        Why there is no break-even for profit, or None.
    """

    revenue: float
    profit: float
    verdict_revenue: str | None
    verdict_profit: str | None
    reason: str | None


def elasticity(
    units_lift: float,
    price_lift: float,
    units_draws: ArrayLike,
    price_draws: ArrayLike,
    *,
    quantile: float = NORMAL_95,
    min_price_t: float = MIN_PRICE_T,
) -> Elasticity:
    """Return the elasticity ln(1 + lift of units) / ln(1 + lift of price), with an interval from joint draws.

    The estimand is the constant elasticity that would turn the relative effect on the price into that on units. Both
    effects are means over products of their own level, so that it is one number for the whole scope and not a mean of
    the products' elasticities. The relative effect on the price leaves periods without sales out: a product that stops
    selling counts in units and not in the price. Assumes that the price moves units at once and through itself alone,
    and that the two log effects are near normal together.

    With a = ln(1 + lift of units), b = ln(1 + lift of price) and their covariance V over the draws, the interval holds
    every e with (a - e b)^2 <= q^2 (Vaa - 2 e Vab + e^2 Vbb). It is not symmetric, holds the estimate, and keeps its
    level where the price effect is weak; the interval by the draws' standard deviation misses on one side there.

    Parameters
    ----------
    units_lift, price_lift
        Relative effects: .10 is 10 %.
    units_draws, price_draws
        (B,) the same under each bootstrap draw, in the same order; nan where undefined, as without a unit of an arm.
    quantile
        q, standard errors in half an interval: that of the effects, normal or t.
    min_price_t
        Smallest |lift of price / standard error| that gives an elasticity.

    Raises
    ------
    ValueError
        If the draws differ in length, or quantile or min_price_t are not positive.

    References
    ----------
    Fieller, "Some problems in interval estimation", JRSS B 16 (1954), section 3. Lee, McCrary, Moreira and Porter,
    "Valid t-ratio inference for IV", American Economic Review 112 (2022).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> found = elasticity(0.2, -0.1, rng.normal(0.2, 0.01, 500), rng.normal(-0.1, 0.001, 500))
    >>> round(found.elasticity, 2), found.ci_lower < -1.73 < found.ci_upper
    (-1.73, True)
    """
    units, price = (np.asarray(draws, dtype=float) for draws in (units_draws, price_draws))
    if units.ndim != 1 or units.shape != price.shape:
        raise ValueError(
            f"units_draws, price_draws have shapes {units.shape}, {price.shape}, must be (B,) alike. Give joint draws."
        )
    for name, value in (("quantile", quantile), ("min_price_t", min_price_t)):
        if not value > 0:
            raise ValueError(f"{name} == {value}, must be positive. Leave it out for the default.")
    price_t = _t(price_lift, price)
    defined = np.isfinite(units) & np.isfinite(price) & (units > -1) & (price > -1)
    n = int(defined.sum())
    refusal = _refusal(units_lift, price_lift, price_t, n, min_price_t)
    if refusal is not None:
        return Elasticity(np.nan, np.nan, np.nan, np.nan, price_t, n, refusal)
    a, b = float(np.log1p(units_lift)), float(np.log1p(price_lift))
    V = np.cov(np.log1p(units[defined]), np.log1p(price[defined]))
    found = a / b
    se = float(np.sqrt(max(V[0, 0] - 2 * found * V[0, 1] + found**2 * V[1, 1], 0.0))) / abs(b)
    lower, upper = _fieller(a, b, V, quantile)
    reason = _left_out(units, price)
    if not np.isfinite(lower):
        reason = f"The interval has no end: the price effect is within {quantile:.2f} standard errors of none."
    return Elasticity(found, se, lower, upper, price_t, n, reason)


def break_even(found: Elasticity, *, price_change: float, margin: float) -> BreakEven:
    """Return the elasticities at which a price change pays, and on which side of them an elasticity lies.

    Revenue changes by the factor (1 + d)^(1 + e), which is 1 at e = -1 whatever the change d. Profit changes by
    (1 + d)^e (m + d) / m, with m the margin as part of the price before the change, which is 1 at
    e = ln(m / (m + d)) / ln(1 + d). A cut pays below break-even, a raise above it. Assumes one margin and one price
    change for all products and a cost that does not change with the units; both are taken as known, so the verdict has
    the uncertainty of the elasticity alone.

    Parameters
    ----------
    found
        From `elasticity`.
    price_change
        d, relative: -.1 is a cut by 10 %.
    margin
        m = (price - cost) / price under control; nan where no cost is known.

    References
    ----------
    Smith and Nagle, "Financial analysis for profit-driven pricing", MIT Sloan Management Review 35 (1994).

    Examples
    --------
    >>> found = Elasticity(-3.0, 0.2, -3.4, -2.6, 20.0, 500, None)
    >>> both = break_even(found, price_change=-0.1, margin=0.5)
    >>> round(both.profit, 3), both.verdict_profit
    (-2.118, 'more elastic than break-even: the cut pays in profit')
    """
    if not (np.isfinite(price_change) and price_change > -1 and price_change != 0):
        reason = f"The price change is {price_change:.3g}: nothing to break even on."
        return BreakEven(REVENUE, np.nan, None, None, reason)
    refusal = _no_margin(price_change, margin)
    profit = np.nan if refusal else float(np.log(margin / (margin + price_change)) / np.log1p(price_change))
    return BreakEven(
        revenue=REVENUE,
        profit=profit,
        verdict_revenue=_verdict(found, REVENUE, price_change, "revenue"),
        verdict_profit=_verdict(found, profit, price_change, "profit"),
        reason=refusal,
    )


def _t(lift: float, draws: FloatArray) -> float:
    """Return an effect over the standard deviation of its draws, or nan."""
    finite = draws[np.isfinite(draws)]
    se = float(finite.std(ddof=1)) if len(finite) > 1 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(lift, se))


def _left_out(units: FloatArray, price: FloatArray) -> str | None:
    """Return how many draws are left out, by what they lack, or None."""
    undefined = ~(np.isfinite(units) & np.isfinite(price))
    no_logarithm = ~undefined & ((units <= -1) | (price <= -1))
    counts = {
        "have an undefined effect, as where no unit of an arm is drawn,": int(undefined.sum()),
        "have no logarithm": int(no_logarithm.sum()),
    }
    said = [f"{count} of {len(units)} replicates {what} and are left out." for what, count in counts.items() if count]
    return " ".join(said) or None


def _refusal(units_lift: float, price_lift: float, price_t: float, n: int, min_price_t: float) -> str | None:
    """Return why there is no elasticity, or None."""
    for name, lift in (("units", units_lift), ("the price", price_lift)):
        if not np.isfinite(lift):
            return f"The relative effect on {name} is not known."
        if lift <= -1:
            return f"The relative effect on {name} is {lift:.3g}, -1 or less: no logarithm."
    if n < MIN_REPLICATES:
        return f"{n} replicates in which both effects have a logarithm, at least {MIN_REPLICATES} are needed."
    if not abs(price_t) >= min_price_t:
        return f"The effect on the price is {abs(price_t):.2f} standard errors, less than {min_price_t:g}: too weak."
    return None


def _fieller(a: float, b: float, V: FloatArray, q: float) -> tuple[float, float]:
    """Return the ends of Fieller's interval of a / b; infinite where b is within q standard errors of 0."""
    lead = b * b - q * q * float(V[1, 1])
    if lead <= 0:
        return -np.inf, np.inf
    middle = a * b - q * q * float(V[0, 1])
    root = float(np.sqrt(max(middle**2 - lead * (a * a - q * q * float(V[0, 0])), 0.0)))
    return (middle - root) / lead, (middle + root) / lead


def _no_margin(price_change: float, margin: float) -> str | None:
    """Return why there is no break-even for profit, or None."""
    if not np.isfinite(margin):
        return "No margin: the control cells have no sales with a cost."
    if margin <= 0:
        return f"The margin is {margin:.3g} of the price, not positive: there is no profit to keep."
    if margin + price_change <= 0:
        return f"The cut of {-price_change:.1%} takes the whole margin of {margin:.1%}: no elasticity breaks even."
    return None


def _verdict(found: Elasticity, at: float, price_change: float, word: str) -> str | None:
    """Return on which side of break-even an interval lies, and what that means for the price change."""
    if not (np.isfinite(found.elasticity) and np.isfinite(at)):
        return None
    if found.ci_lower <= at <= found.ci_upper or not np.isfinite(found.ci_lower):
        return CANNOT_BE_TOLD
    below, cut = found.ci_upper < at, price_change < 0
    side, move = "more" if below else "less", "cut" if cut else "raise"
    outcome = "pays" if below == cut else "costs"
    return f"{side} elastic than break-even: the {move} {outcome} in {word}"

"""Heterogeneous panel treatment effects: outlier filter, affinity, second difference and bootstrap in one estimate."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _leaf_sums, bootstrap, effects
from pricelab_dagster.science._replicate import Filtered, Method, Problem, Trim, effects_under, state
from pricelab_dagster.science.affinity import Leaves, Split, fit_leaves

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Under = Callable[[Problem, FloatArray], tuple[FloatArray, FloatArray]]

MIN_UNITS = 4

# One product's row of replicates is then 512 bytes: the sums of a leaf stay in the first-level cache.
BLOCK = 64


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimate with its interval, and what it rests on.

    Attributes
    ----------
    effect
        In the units of the first difference, or a share of the untreated mean where an outcome was given; nan where
        `reason` says why.
    se, ci_lower, ci_upper, p_value
        From the bootstrap; nan where the effect is, and with fewer than 3 units in an arm.
    n_treated, n_control
        Kept products in each arm; for cells, with at least one analysed period in it.
    n_trimmed
        Products that the filter cut, or held at a bound.
    two_arm_share
        Mean over trees of the share of kept products (cells) whose leaf (leaf and period) averages both arms.
    n_replicates
        Replicates in which the estimate is defined: those behind `se`.
    estimand
        What the number estimates, in words.
    reason
        Why the effect is nan, or what to know about it; None where there is nothing to say.
    kept
        (N,) whether the product takes part in the estimate.
    draws
        (B,) the effect in every replicate, nan where undefined.
    """

    effect: float
    se: float
    ci_lower: float
    ci_upper: float
    p_value: float
    n_treated: int
    n_control: int
    n_trimmed: int
    two_arm_share: float
    n_replicates: int
    estimand: str
    reason: str | None
    kept: BoolArray
    draws: FloatArray


def estimate(
    first_difference: ArrayLike,
    arm: ArrayLike,
    X: pd.DataFrame | ArrayLike | None = None,
    *,
    units: ArrayLike | None = None,
    method: Method = "residual",
    estimand: effects.Estimand = "ate",
    split: Split = "outcome",
    trim_c: float = 5.0,
    n_trees: int = 200,
    min_leaf: int = 4,
    n_replicates: int = 500,
    rng: np.random.Generator,
    leaves: Leaves | None = None,
    group: ArrayLike | None = None,
    trim: Trim = "trim",
    contrast: ArrayLike | None = None,
    outcome: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    factor: float = 1.0,
    probability: ArrayLike | None = None,
    confidence: float = 0.95,
    weights: ArrayLike | None = None,
    within: ArrayLike | None = None,
    linear: bool = False,
) -> Effect:
    """Return the effect of treatment on like products, with a bootstrap interval.

    The estimand is that of `effects.second_difference` (or `effects.hajek`) over the products that the filter keeps,
    times `factor`; with an outcome, divided by the untreated mean over them, mu0 = mean(outcome) - tau mean(exposure).
    Assumes independent units, outliers that have nothing to do with treatment, and what the second difference assumes.
    A heavy tail of true effects is trimmed with the outliers. With fewer than 3 units in an arm there is no standard
    error, because replicates cannot show its noise; below 30 the interval is t with `bootstrap.freedom`. Like products
    of different clusters may compete, and comparing them brings back the interference that clusters keep out: then
    `hajek`. The forest stays fixed over the replicates; filter, leaf means and the division by mu0 are redone in each.

    Parameters
    ----------
    first_difference
        D (N,), or residuals (N, T) by period for within-product designs.
    arm
        W of the same shape, 0 or 1, nan where not in the analysis.
    X
        Attributes as for `affinity.fit_leaves`; None: plain difference-in-differences.
    units
        (N,) labels of what was assigned together, which the bootstrap draws; None: each product alone.
    method
        residual, leaf, doubly_robust, or hajek, which needs `probability` and uses no leaves.
    estimand, split, n_trees, min_leaf
        As for `effects.second_difference` and `affinity.fit_leaves`; the forest is fitted on what the filter keeps.
    trim_c, trim, group
        Outlier filter: constant c, rule (trim, winsorize, none) and labels (N,) of what is cut apart, by default the
        arms, or one group for cells. A product cut loses all its cells; one that is winsorised has its cells moved
        along its centred arm until its contrast is the bound, its noise about it left alone.
    n_replicates
        B; without effect where `weights` are given.
    rng
        Source of the forest's seed, then of the bootstrap weights.
    leaves
        Fitted before, instead of X.
    contrast
        (N,) what the filter ranks; by default D, or for cells sum (W - Wbar) R / sum (W - Wbar)^2.
    outcome, exposure
        (N,) means over the analysed periods of the scaled metric and of W; both or neither.
    factor
        Effect per unit of second difference: .5 for a crossover, whose D is a phase contrast and W the sequence.
    probability
        (N,) P(W = 1), for hajek.
    confidence
        Of the interval.
    weights
        (N, B) bootstrap weights, one draw for all metrics.
    within
        (N,) labels of blocks, such as start weeks, whose weighted means are taken from D and W, anew in every
        replicate; blocks that hold one arm only are left out. For (N,) and the methods residual and leaf.
    linear
        The arm holds doses (any numbers, 0 for control): the effect is per unit of dose, by the method residual.

    Raises
    ------
    ValueError
        If shapes, arms or options break these rules.

    References
    ----------
    Cooprider and Nassiri, "Science of price experimentation at Amazon", Business Economics 58 (2023), whose procedure
    this follows in outline; equations in METHODS.md.

    Examples
    --------
    >>> import numpy as np
    >>> found = estimate([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1], trim_c=0, rng=np.random.default_rng(0))
    >>> found.effect
    4.0
    """
    D, W = np.asarray(first_difference, dtype=float), np.asarray(arm, dtype=float)
    problem = state(
        D,
        W,
        units=units,
        contrast=contrast,
        group=group,
        filter_rule=(trim, trim_c),
        method=method,
        estimand=estimand,
        probability=probability,
        outcome=outcome,
        exposure=exposure,
        factor=factor,
        within=within,
        linear=linear,
    )
    _check_leaves(problem, X, leaves)
    filtered = problem.filtered(np.ones((len(D), 1)))
    if leaves is None:
        shown = None if problem.panel.cells else W
        target = problem.forest_target(D, filtered)
        leaves = fit_leaves(X, target, arm=shown, split=split, n_trees=n_trees, min_leaf=min_leaf, rng=rng)
    problem = problem._replace(panel=_leaf_sums.with_leaves(problem.panel, leaves))
    labels = np.arange(len(D)) if units is None else np.asarray(units)
    if weights is None:
        weights = bootstrap.poisson_weights(labels, n_replicates=n_replicates, rng=rng)
    drawn = np.asarray(weights)
    if drawn.ndim != 2 or len(drawn) != len(D):
        raise ValueError(f"weights.shape == {drawn.shape}, must be ({len(D)}, B). Use bootstrap.poisson_weights.")
    return _summary(problem, filtered, labels, drawn, confidence, leaves.reason)


def _summary(
    problem: Problem,
    filtered: Filtered,
    labels: NDArray[np.generic],
    drawn: NDArray[np.generic],
    confidence: float,
    note: str | None,
    under: Under = effects_under,
) -> Effect:
    """Return the estimate `under` weights, its interval from the replicates, and the counts behind both."""
    kept = filtered.weights[:, 0] > 0
    treated, control = (problem.panel.in_arm(side) & kept for side in (True, False))
    n_treated, n_control = int(treated.sum()), int(control.sum())
    n_units = len(pd.unique(labels[kept]))
    n_smaller = min(len(pd.unique(labels[arm])) for arm in (treated, control))
    effect, mu0 = (float(found[0]) for found in under(problem, np.ones((len(kept), 1))))
    reason = _undefined(effect, mu0, n_treated, n_control, n_units)
    draws = np.full(drawn.shape[1], np.nan)
    if reason is None and n_smaller >= bootstrap.MIN_UNITS_PER_ARM:
        draws = _draws(problem, drawn, under)
        reason = _left_out(draws)
    n_defined = int(np.isfinite(draws).sum())
    if reason is None and n_defined == 0:
        units = "1 assignment unit" if n_smaller == 1 else f"{n_smaller} assignment units"
        needed = f"at least {bootstrap.MIN_UNITS_PER_ARM} are needed for a standard error"
        reason = f"{units} in the smaller arm, {needed}."
    elif n_defined == 0:
        effect = np.nan
    n_alone = 0 if filtered.alone is None else int(filtered.alone[:, 0].sum())
    alone = f"{n_alone} products in blocks with one arm only are left out." if n_alone else None
    spread = bootstrap.interval(
        effect,
        draws,
        confidence=confidence,
        n_units_smaller_arm=n_smaller,
        n_units=n_units,
    )
    return Effect(
        effect=effect,
        se=spread.se,
        ci_lower=spread.ci_lower,
        ci_upper=spread.ci_upper,
        p_value=spread.p_value,
        n_treated=n_treated,
        n_control=n_control,
        n_trimmed=int((np.isfinite(problem.contrast) & ~filtered.passed[:, 0]).sum()),
        two_arm_share=_leaf_sums.two_arm_share(problem.panel, filtered.weights[:, 0]),
        n_replicates=n_defined,
        estimand=problem.words(),
        reason=" ".join(part for part in (reason, alone, note) if part) or None,
        kept=kept,
        draws=draws,
    )


def _draws(problem: Problem, drawn: NDArray[np.generic], under: Under) -> FloatArray:
    """Return the estimate under each of the weights, (B,)."""
    blocks = [drawn[:, first : first + BLOCK].astype(float) for first in range(0, drawn.shape[1], BLOCK)]
    # the kernels release the interpreter's lock; blocks are independent, so threads do not change a bit
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(blocks))) as pool:
        return np.concatenate([found for found, _ in pool.map(partial(under, problem), blocks)])


def _left_out(draws: FloatArray) -> str | None:
    """Return how many replicates are undefined, or None."""
    n_undefined = int((~np.isfinite(draws)).sum())
    return f"{n_undefined} of {len(draws)} replicates are undefined and left out." if n_undefined else None


def _undefined(effect: float, mu0: float, n_treated: int, n_control: int, n_units: int) -> str | None:
    """Return why there is no effect, or None."""
    if min(n_treated, n_control) > 0 and n_units < MIN_UNITS:
        return f"{n_units} assignment units with a first difference, at least {MIN_UNITS} are needed."
    if np.isfinite(effect):
        return None
    if mu0 <= 0.0:
        return f"The mean without treatment is {mu0:.3g}, not positive: no relative effect."
    return effects.undefined_reason(n_treated, n_control)


def _check_leaves(problem: Problem, X: pd.DataFrame | ArrayLike | None, leaves: Leaves | None) -> None:
    """Raise ValueError for attributes or leaves that do not go with the rest."""
    if X is not None and leaves is not None:
        raise ValueError("X and leaves are both given, must be one of them. Leaves carry the attributes already.")
    if problem.method == "hajek" and (X is not None or leaves is not None):
        raise ValueError("method == 'hajek', must come without X and leaves. Use 'residual' to compare like with like.")

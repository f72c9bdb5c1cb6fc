"""The second difference: how much more treated products moved than their like, and the Hajek estimate beside it."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _leaf_sums
from pricelab_dagster.science.affinity import Leaves

FloatArray = NDArray[np.float64]
Method = Literal["residual", "leaf", "doubly_robust"]
Estimand = Literal["ate", "att", "overlap"]

ESTIMAND_WORDS = {
    "ate": "mean effect over products comparable with the other arm",
    "att": "mean effect on treated products comparable with controls",
    "overlap": "overlap-weighted mean effect: products count by how open their arm was",
}
ONE_GROUP = "difference between the arms, all products as one group"


@dataclass(frozen=True, slots=True)
class SecondDifference:
    """An effect, and how far the arms could be compared.

    Attributes
    ----------
    effect
        In the units of the first difference; nan where `reason` says why.
    two_arm_share
        Mean over trees of the weight share of products (cells) whose leaf (leaf and day) averages both arms.
    n_treated, n_control
        Products of positive weight with a finite first difference in each arm; for cells, with at least one in it.
    n_dropped
        Products (cells) without a neighbour in any tree.
    n_clipped
        Products whose probability of treatment was clipped to [.02, .98]; only `doubly_robust` clips.
    estimand
        What the number estimates, in words.
    reason
        Why the effect is nan, or None.
    """

    effect: float
    two_arm_share: float
    n_treated: int
    n_control: int
    n_dropped: int
    n_clipped: int
    estimand: str
    reason: str | None


def second_difference(
    first_difference: ArrayLike,
    arm: ArrayLike,
    leaves: Leaves | None,
    *,
    units: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    method: Method = "residual",
    estimand: Estimand = "ate",
) -> SecondDifference:
    """Return the effect of treatment from first differences compared within leaves.

    The estimand is the effect of the arm on the first difference, averaged as `estimand` says. `residual` is always
    overlap-weighted: tau = sum w (W - e)(D - m) / sum w (W - e)^2, with m_i and e_i the means over trees of the leaf
    means of D and W over the products of J_b, all of i's own unit left out. `leaf` averages treated minus control means
    of two-arm leaves over J_b. `doubly_robust` corrects leaf means by arm with inverse probabilities from e.

    Assumes that within leaves the arm is as good as drawn, and that one product's arm moves no other product. Where
    leaves do not capture what set the arm, what they miss stays in the effect. With one leaf the estimate is the plain
    (weighted) difference of arm means by every method; the own unit is then not left out.

    For cells, D is a residual by day: D and W are centred by product over its valid days, leaf means are taken by day
    and sums run over cells; `leaf` divides by the difference of the centred arms. A single leaf then gives the estimate
    with product and day effects taken out.

    Parameters
    ----------
    first_difference
        D (N,), or (N, T) cells; products (cells) that are not finite take no part.
    arm
        W of the same shape, 0 or 1, nan where not in the analysis.
    leaves
        From `affinity.fit_leaves`; None: one leaf.
    units
        (N,) labels of what was assigned together; None: each product alone.
    weights
        (N,) not negative; None: 1 each.
    method
        residual, leaf or doubly_robust; the last for (N,) only.
    estimand
        ate, att or overlap for leaf, ate or att for doubly_robust; residual does not use it.

    Raises
    ------
    ValueError
        If shapes, arms, weights, method or estimand break these rules.

    References
    ----------
    Robinson, "Root-N-consistent semiparametric regression", Econometrica 56 (1988), eq. 7. Li, Morgan and Zaslavsky,
    "Balancing covariates via propensity score weighting", JASA 113 (2018), table 1. Robins, Rotnitzky and Zhao,
    "Estimation of regression coefficients when some regressors are not always observed", JASA 89 (1994).

    Examples
    --------
    >>> second_difference([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1], None).effect
    4.0
    """
    panel = _leaf_sums.prepare(first_difference, arm, leaves, units)
    check_method(method, estimand, cells=panel.cells)
    w = np.ones(len(panel.order)) if weights is None else np.asarray(weights, dtype=float)
    if w.shape != panel.order.shape or not (np.isfinite(w).all() and (w >= 0).all()):
        raise ValueError(
            f"weights.shape == {w.shape}, must be {panel.order.shape}, finite and not negative. "
            "Use 0 to leave a product out."
        )
    found = _leaf_sums.batch(panel, w[:, None], method=method, estimand=estimand)
    n_treated, n_control = (int((panel.in_arm(side) & (w > 0)).sum()) for side in (True, False))
    effect = float(found.effect[0])
    return SecondDifference(
        effect=effect,
        two_arm_share=_leaf_sums.two_arm_share(panel, w),
        n_treated=n_treated,
        n_control=n_control,
        n_dropped=int(found.n_dropped[0]),
        n_clipped=int(found.n_clipped[0]),
        estimand=estimand_words(method, estimand, single=panel.single, cells=panel.cells),
        reason=None if np.isfinite(effect) else undefined_reason(n_treated, n_control),
    )


def hajek(
    first_difference: ArrayLike, arm: ArrayLike, probability: ArrayLike, *, weights: ArrayLike | None = None
) -> np.float64 | FloatArray:
    """Return the inverse-probability-weighted difference of first differences between the arms.

    The estimand is the mean effect over all products: sum(w W D / p) / sum(w W / p), less the same of the controls with
    1 - p. Assumes that p_i = P(W_i = 1) is known from the design and inside (0, 1). Products are not compared with
    their like, so that neighbours of one cluster are never set against each other. Where units are few or unlike in
    size, the ratio is biased by the order of one over their number.

    Parameters
    ----------
    first_difference, arm
        D and W (N,); rows without both take no part.
    probability
        p (N,).
    weights
        (N,), or (N, B) for B estimates at once; None: 1 each.

    Returns
    -------
    A number, or (B,) for weights (N, B); nan where an arm has no weight.

    Raises
    ------
    ValueError
        If shapes or arms differ from these, or a used probability is not inside (0, 1).

    References
    ----------
    Hajek, comment on Basu, in Godambe and Sprott, Foundations of Statistical Inference (1971), p. 236.

    Examples
    --------
    >>> round(float(hajek([4.0, 6.0, 1.0, 3.0], [1, 1, 0, 0], [0.25, 0.5, 0.5, 0.75])), 4)
    2.3333
    """
    D, W, p = (np.asarray(values, dtype=float) for values in (first_difference, arm, probability))
    if D.ndim != 1 or W.shape != D.shape or p.shape != D.shape:
        raise ValueError(
            f"first_difference, arm, probability have shapes {D.shape}, {W.shape}, {p.shape}, must be (N,) alike. "
            "Give one of each per product."
        )
    _leaf_sums.check_arm(W)
    valid = np.isfinite(D) & np.isfinite(W)
    if not ((p[valid] > 0) & (p[valid] < 1)).all():
        raise ValueError(
            "probability has values outside (0, 1), must be inside. Leave out products whose arm was certain."
        )
    w = np.ones(D.shape) if weights is None else np.asarray(weights, dtype=float)
    if w.ndim not in (1, 2) or len(w) != len(D):
        raise ValueError(f"weights.shape == {w.shape}, must be ({len(D)},) or ({len(D)}, B). Give one row per product.")
    D, W, p, w = D[valid], W[valid], p[valid], w[valid]
    sides = [(W / p) @ w, (D * W / p) @ w, ((1 - W) / (1 - p)) @ w, (D * (1 - W) / (1 - p)) @ w]
    with np.errstate(invalid="ignore"):
        return sides[1] / sides[0] - sides[3] / sides[2]


def check_method(method: str, estimand: str, *, cells: bool) -> None:
    """Raise ValueError for a method or estimand that is unknown or does not fit the data."""
    if method not in get_args(Method):
        raise ValueError(f"method == {method!r}, must be one of {get_args(Method)}. 'residual' is the headline.")
    if estimand not in get_args(Estimand):
        raise ValueError(
            f"estimand == {estimand!r}, must be one of {get_args(Estimand)}. 'ate' is the mean over products."
        )
    if method == "doubly_robust" and cells:
        raise ValueError("method == 'doubly_robust', must be another for cells (N, T). Use 'residual'.")
    if method == "doubly_robust" and estimand == "overlap":
        raise ValueError("estimand == 'overlap', must be 'ate' or 'att' for 'doubly_robust'. Use 'residual'.")


def estimand_words(method: str, estimand: str, *, single: bool, cells: bool) -> str:
    """Return what the number estimates, in words."""
    words = ONE_GROUP if single else ESTIMAND_WORDS["overlap" if method == "residual" else estimand]
    return f"{words}; same-day effect, over product-days" if cells else words


def undefined_reason(n_treated: int, n_control: int) -> str:
    """Return why there is no effect, from the number of products in each arm."""
    if n_treated == 0 or n_control == 0:
        return f"{n_treated} treated and {n_control} control products with a first difference: nothing to compare."
    return "No leaf holds treated and control products: nothing to compare."

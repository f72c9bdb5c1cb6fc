"""One score of the effect for each product, whose mean over a group of products is the effect in that group."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _kernels, _leaf_sums
from pricelab_dagster.science._cluster_robust import unit_codes
from pricelab_dagster.science._leaf_sums import NO_VARIATION, PROPENSITY_BOUNDS
from pricelab_dagster.science.affinity import Leaves

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

EVERY_PRODUCT = "mean effect over products"
OPEN_PRODUCTS = "effect over products, each counted by how open its arm was; arms compared within their blocks"
WITHIN = "same-day effect, products counted by the spread of their arm over periods"


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of N products.

    Attributes
    ----------
    score
        (N,), in the units of the first difference times the factor; nan for products without one.
    weight
        (N,) with which a score enters a mean; 0 where the score is nan.
    unit
        (N,) codes of what was assigned together.
    treated, control
        Boolean (N,): whether a product with a score is, or for a design within products ever was, in the arm.
    n_clipped
        Products whose estimated probability of treatment was held at .02 or .98.
    estimand
        What the weighted mean of the scores estimates, in words.
    """

    score: FloatArray
    weight: FloatArray
    unit: IntArray
    treated: BoolArray
    control: BoolArray
    n_clipped: int
    estimand: str


def doubly_robust(
    first_difference: ArrayLike,
    arm: ArrayLike,
    leaves: Leaves | None,
    *,
    units: ArrayLike | None = None,
    probability: ArrayLike | None = None,
    factor: float = 1.0,
) -> Scores:
    """Return augmented inverse-probability scores of the effect of the arm on the first difference.

    The estimand of the mean score over a group fixed before the experiment is the mean effect on its products, times
    `factor`: psi = m1 - m0 + W (D - m1) / e - (1 - W) (D - m0) / (1 - e), with m1 and m0 the means over trees of the
    leaf means of treated and control products over J_b, all of the product's own unit left out. Where the design gives
    e, no leaf mean can bias the score, whatever the leaves: they only make it less noisy. Where it does not, e is the
    leaf mean of W, clipped to [.02, .98], and m1 and m0 are the leaf mean of D of both arms plus (1 - e) tau and less
    e tau, tau the residual estimate, as in `effects.second_difference`; either e or the means have to be right, or what
    sets the arm stays in the score.

    Parameters
    ----------
    first_difference, arm
        D and W (N,); products without both get no score.
    leaves
        From `affinity.fit_leaves`; None: one leaf, the own unit left out there as well.
    units
        (N,) labels of what was assigned together; None: each product alone.
    probability
        e (N,), the design's; nan, or None, where it is not known.
    factor
        Effect per unit of second difference: .5 for a crossover.

    Raises
    ------
    ValueError
        If shapes or arms break these rules, or a used probability is not inside (0, 1).

    References
    ----------
    Robins, Rotnitzky and Zhao, "Estimation of regression coefficients when some regressors are not always observed",
    JASA 89 (1994). Chernozhukov et al., "Double/debiased machine learning", Econometrics Journal 21 (2018), eq. 5.3.

    Examples
    --------
    >>> doubly_robust([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1], None, probability=[0.5] * 4).score
    array([5.5, 2.5, 2.5, 5.5])
    """
    D, W = _pair(first_difference, arm)
    known = np.isfinite(D) & np.isfinite(W)
    e = np.full(D.shape, np.nan) if probability is None else np.asarray(probability, dtype=float)
    _check_probability(e, known)
    D, W = np.where(known, D, 0.0), np.where(known, W, 0.0)
    masses = np.where(known[:, None], np.stack([np.ones_like(W), np.ones_like(W), 1.0 - W, W], axis=1), 0.0)
    mean, found = _neighbours(masses, masses * np.stack([W, D, D, D], axis=1), leaves, units)
    estimated = np.isnan(e)
    usable = known & found[:, 0] & (estimated | found[:, 2:].all(axis=1))
    share, m, m0, m1 = np.where(usable[:, None], mean, 0.5).T
    clipped = np.clip(share, *PROPENSITY_BOUNDS)
    gap = np.where(usable, W - share, 0.0)
    spread = gap @ gap
    tau = gap @ (D - m) / spread if spread > NO_VARIATION * usable.sum() else np.nan
    e, m0, m1 = (
        np.where(estimated, *pair) for pair in ((clipped, e), (m - share * tau, m0), (m + (1 - share) * tau, m1))
    )
    psi = m1 - m0 + W * (D - m1) / e - (1.0 - W) * (D - m0) / (1.0 - e)
    n_clipped = int((usable & estimated & (share != clipped)).sum())
    return _scores(factor * psi, (usable & np.isfinite(psi)).astype(float), units, W, n_clipped, EVERY_PRODUCT)


def within_blocks(
    first_difference: ArrayLike, arm: ArrayLike, leaves: Leaves | None, *, block: ArrayLike, units: ArrayLike | None
) -> Scores:
    """Return scores of the effect from arms compared within blocks, such as the start weeks of triggered products.

    The estimand of the weighted mean over a group is the effect on its products, each counted by how open its arm was.
    D and W less their block means stand for both, and less their leaf means m and e over J_b, the own unit left out:
    psi = (D - m) / (W - e) with weight (W - e)^2. Over all products that mean is the estimate of
    `effects.second_difference`. Assumes that within blocks the arm is as good as drawn; blocks with one arm only have
    no score.

    Parameters
    ----------
    first_difference, arm, leaves, units
        As for `doubly_robust`.
    block
        (N,) labels.

    Raises
    ------
    ValueError
        If shapes or arms break these rules.

    References
    ----------
    Nie and Wager, "Quasi-oracle estimation of heterogeneous treatment effects", Biometrika 108 (2021), eq. 4.

    Examples
    --------
    >>> found = within_blocks([1.0, 2.0, 5.0, 6.0], [0, 0, 1, 1], None, block=[0, 0, 0, 0], units=None)
    >>> round(float((found.weight * found.score).sum() / found.weight.sum()), 12)
    4.0
    """
    D, W = _pair(first_difference, arm)
    known = np.isfinite(D) & np.isfinite(W)
    codes = np.unique(np.asarray(block), return_inverse=True)[1]
    if codes.shape != D.shape:
        raise ValueError(f"block.shape == {np.shape(block)}, must be {D.shape}. Give each product its block.")
    D, W = np.where(known, D, 0.0), np.where(known, W, 0.0)
    size, n_treated = np.bincount(codes, known), np.bincount(codes, known * W)
    known &= ((n_treated > 0) & (n_treated < size))[codes]
    gaps = [np.where(known, x - (np.bincount(codes, x) / np.maximum(size, 1.0))[codes], 0.0) for x in (D, W)]
    mass = known[:, None] * np.ones((1, 2))
    mean, found = _neighbours(mass, mass * np.stack(gaps, axis=1), leaves, units)
    gap, dose = (np.where(found[:, 0], part - mean[:, k], 0.0) for k, part in enumerate(gaps))
    weight = np.where(known & (dose**2 > NO_VARIATION), dose**2, 0.0)
    psi = np.divide(gap, dose, out=np.full(D.shape, np.nan), where=weight > 0)
    return _scores(psi, weight, units, W, 0, OPEN_PRODUCTS)


def within_products(contrast: ArrayLike, arm: ArrayLike, *, units: ArrayLike | None = None) -> Scores:
    """Return the products' own contrasts between treated and control periods as scores.

    The estimand of the weighted mean over a group is the same-day effect on its products: D_i with weight
    sum_t (W - Wbar)^2, its variance's inverse where noise is alike. Assumes that the periods were drawn by chance.

    Parameters
    ----------
    contrast
        D (N,), from `detrend.within_contrast`; nan for products that take no part.
    arm
        W (N, T), 0 or 1, nan in periods that are not analysed.
    units
        (N,) labels of what was assigned together; None: each product alone.

    Raises
    ------
    ValueError
        If shapes or arms break these rules.

    Examples
    --------
    >>> within_products([0.2, 0.4], [[0, 1, 0, 1], [1, 0, 0, 0]]).weight
    array([1.  , 0.75])
    """
    D, W = np.asarray(contrast, dtype=float), np.asarray(arm, dtype=float)
    if D.ndim != 1 or W.ndim != 2 or len(W) != len(D):
        raise ValueError(
            f"contrast.shape == {D.shape}, arm.shape == {W.shape}, must be (N,) and (N, T). Give each product its days."
        )
    _leaf_sums.check_arm(W)
    seen = np.isfinite(W)
    days, treated = seen.sum(axis=1), np.where(seen, W, 0.0).sum(axis=1)
    spread = treated * (days - treated) / np.maximum(days, 1)
    weight = np.where(np.isfinite(D), spread, 0.0)
    known = weight > 0
    return Scores(np.where(known, D, np.nan), weight, unit_codes(units, len(D)), known, known, 0, WITHIN)


def _scores(
    psi: FloatArray, weight: FloatArray, units: ArrayLike | None, W: FloatArray, n_clipped: int, words: str
) -> Scores:
    known = weight > 0
    codes = unit_codes(units, len(psi))
    return Scores(np.where(known, psi, np.nan), weight, codes, known & (W == 1), known & (W == 0), n_clipped, words)


def _pair(first_difference: ArrayLike, arm: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return D and W, or refuse them."""
    D, W = np.asarray(first_difference, dtype=float), np.asarray(arm, dtype=float)
    if D.ndim != 1 or W.shape != D.shape:
        raise ValueError(
            f"first_difference.shape == {D.shape}, arm.shape == {W.shape}, must be (N,) alike. "
            "Give one of each per product."
        )
    _leaf_sums.check_arm(W)
    return D, W


def _check_probability(e: FloatArray, known: BoolArray) -> None:
    if e.shape != known.shape:
        raise ValueError(f"probability.shape == {e.shape}, must be {known.shape}. Give one probability per product.")
    used = e[known & ~np.isnan(e)]
    if not ((used > 0) & (used < 1)).all():
        raise ValueError("probability has values outside (0, 1), must be inside. Leave out products of certain arm.")


def _neighbours(
    mass: FloatArray, moment: FloatArray, leaves: Leaves | None, units: ArrayLike | None
) -> tuple[FloatArray, BoolArray]:
    """Return the leaf means (N, K) of the other units' values, and whether there are any; mass and moment (N, K)."""
    one = Leaves.single(len(mass)) if leaves is None else leaves
    if len(one.leaf) != len(mass):
        raise ValueError(
            f"leaves has {len(one.leaf)} rows, must have {len(mass)}. Fit the leaves on the same products."
        )
    order, start = _leaf_sums.unit_order(len(mass), units)
    leaf, honest = (np.ascontiguousarray(part[order].T) for part in (one.leaf, one.in_honest))
    channels = np.ascontiguousarray(np.stack([mass, moment], axis=1)[order])
    found, n_used = _kernels.neighbour_means(leaf, honest, start, int(leaf.max(initial=0)) + 1, channels)
    mean, some = np.empty(mass.shape), np.empty(mass.shape, dtype=bool)
    mean[order], some[order] = found[:, 0], n_used > 0
    return mean, some

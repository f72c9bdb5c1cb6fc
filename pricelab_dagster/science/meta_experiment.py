"""The experiment on the assignment unit: half of the clusters by product, the other half as wholes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pricelab_dagster.science import _cluster_robust as robust
from pricelab_dagster.science import designs
from pricelab_dagster.science._certificate_frontier import by_cluster as sums_by_cluster
from pricelab_dagster.science._certificate_frontier import standard_error
from pricelab_dagster.science._draws import draw_arms, text

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LEAST_UNITS = 2
"""Clusters that each arm of a half needs: with one there is no spread."""
MDE = 2.8
ESTIMAND = (
    "effect measured by product less effect measured by cluster, over products in clusters of at least {}: the "
    "spillover bias that clusters remove"
)


@dataclass(frozen=True, slots=True)
class MetaDraw:
    """Which clusters are drawn as wholes, (N,) bool `by_cluster`, and the arms of all products, (N,) 0 or 1 `arm`."""

    by_cluster: BoolArray
    arm: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Half:
    """The total effect as one half measures it, with its standard error over clusters and the degrees of freedom."""

    effect: float
    se: float
    n_products: int
    n_clusters: int
    df: float


@dataclass(frozen=True, slots=True)
class MetaEstimate:
    """Interference measured.

    Attributes
    ----------
    by_product, by_cluster
        The halves.
    interference
        Effect by product less effect by cluster; nan where `reason` says why.
    se, ci_lower, ci_upper, p_value, df
        From Welch's t; p is two-sided, of no interference inside clusters.
    estimand
        What is measured, in words.
    reason
        Why there is no number, or None.
    """

    by_product: Half
    by_cluster: Half
    interference: float
    se: float
    ci_lower: float
    ci_upper: float
    p_value: float
    df: float
    estimand: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Power:
    """What a meta-experiment can be expected to find.

    Attributes
    ----------
    se, mde
        Of the interference, and 2.8 times that.
    power
        Probability that a two-sided 5 % test finds the expected interference.
    n_products, n_needed
        Products in the comparison, and how many would give power .8 if all else stays; nan for expected 0.
    """

    se: float
    mde: float
    power: float
    n_products: int
    n_needed: float


def assign(
    cluster: ArrayLike, *, size: ArrayLike | None = None, category: ArrayLike | None = None, rng: np.random.Generator
) -> MetaDraw:
    """Return a draw of half of the clusters by product and the other half as wholes.

    Clusters are paired by number of products, then size, and a coin says which of a pair is drawn as a whole. Of those,
    one half is treated, in pairs of like size from different categories; the products of the others are drawn in blocks
    of four of like size inside each category, without sizes in one block a category. Each product is treated with
    probability one half.

    Parameters
    ----------
    cluster
        (N,) labels.
    size
        (N,) mean sales; None: alike.
    category
        (N,) labels; None: one.
    rng
        Source of all draws.

    Raises
    ------
    ValueError
        If shapes or labels break these rules, or there are fewer than eight clusters.

    References
    ----------
    Saveski et al., "Detecting network effects: randomizing over randomized experiments", KDD 2017, section 3.

    Examples
    --------
    >>> draw = assign(np.repeat(np.arange(8), 2), rng=np.random.default_rng(0))
    >>> int(draw.by_cluster.sum()), int(draw.arm.sum())
    (8, 8)
    """
    label = robust.unit_codes(np.asarray(cluster), np.asarray(cluster).size)
    N = len(label)
    sizes = np.ones(N) if size is None else np.asarray(size, dtype=float)
    names = text("category", np.zeros(N) if category is None else category, N)
    if sizes.shape != (N,) or not np.isfinite(sizes).all():
        raise ValueError(f"size.shape == {sizes.shape}, must be ({N},) and finite. Give mean sales per product.")
    home, total = sums_by_cluster(label, names, sizes)
    n_clusters = len(total)
    if n_clusters < 4 * LEAST_UNITS:
        raise ValueError(f"cluster has {n_clusters} labels, must have {4 * LEAST_UNITS}. Assign by product or cluster.")
    order = np.lexsort((-total, -np.bincount(label)))
    pair = np.empty(n_clusters, dtype=np.int64)
    pair[order] = np.arange(n_clusters) // 2
    whole = draw_arms(pair, 0.5, 1, rng) == 1
    arm = np.zeros(N, dtype=np.int8)
    of_whole = np.zeros(n_clusters, dtype=np.int8)
    of_whole[whole] = draw_arms(designs.paired_strata(total[whole], category=home[whole]), 0.5, 1, rng)
    mine = whole[label]
    arm[mine] = of_whole[label[mine]]
    # Blocks of products of one size would follow the rows, and with them perhaps the clusters.
    strata = robust.unit_codes(names, N) if size is None else designs.size_strata(names, sizes)
    arm[~mine] = draw_arms(strata[~mine], 0.5, 1, rng)
    return MetaDraw(mine, arm)


def estimate(
    first_difference: ArrayLike,
    arm: ArrayLike,
    cluster: ArrayLike,
    by_cluster: ArrayLike,
    *,
    min_size: int = 2,
    confidence: float = 0.95,
) -> MetaEstimate:
    """Return the effect measured by product less that measured by cluster: interference, with a t interval.

    The estimand is E[difference between the arms] under product assignment less that under cluster assignment, over
    products in clusters of at least `min_size`, which are drawn alike otherwise. It is the part of the spillover bias
    that clusters remove, of the certificate's sign; interference across clusters is in both halves and is not seen. A
    cluster of one is the same in both and only adds noise.

    Assumes arms with probability one half. Standard errors are over clusters in both halves, corrected for few clusters
    of unlike size (CR2, with degrees of freedom by Satterthwaite), and conservative for draws in pairs and blocks. The
    halves share no cluster.

    Parameters
    ----------
    first_difference
        D (N,), on the relative scale or any other; nan takes no part.
    arm, by_cluster
        (N,) as in `MetaDraw`.
    cluster
        (N,) labels.
    min_size
        Smallest cluster in the comparison, by its products in all; set it before looking.
    confidence
        Of the interval.

    Raises
    ------
    ValueError
        If shapes or values break these rules, or a cluster drawn as a whole has both arms.

    References
    ----------
    Saveski et al. (2017), KDD, sections 3 and 4; Pouget-Abadie et al., "Testing for arbitrary interference on
    experimentation platforms", Biometrika 106 (2019). Their bound on the variance is by Chebyshev, ours by t. Bell and
    McCaffrey, Survey Methodology 28 (2002), and Imbens and Kolesár, Review of Economics and Statistics 98 (2016), on
    few clusters.

    Examples
    --------
    >>> cluster = np.repeat(np.arange(8), 2)
    >>> whole = cluster < 4
    >>> arm = np.r_[0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    >>> D = np.r_[1.0, 1, 3, 3, 2, 2, 4, 4, 1, 4, 2, 5, 1, 4, 2, 5]
    >>> estimate(D, arm, cluster, whole).interference
    1.0
    """
    robust.check_confidence(confidence)
    D, W, whole = (np.asarray(one, dtype=float) for one in (first_difference, arm, by_cluster))
    for name, one in {"arm": W, "by_cluster": whole}.items():
        if one.shape != D.shape or D.ndim != 1 or not np.isin(one, (0.0, 1.0)).all():
            raise ValueError(f"{name}.shape == {one.shape}, must be {D.shape} of 0 and 1. Give it as it was drawn.")
    label = robust.unit_codes(cluster, len(D))
    _check_wholes(W, whole, label)
    used = np.isfinite(D) & (np.bincount(label)[label] >= min_size)
    halves = [_half(D[side], W[side], label[side]) for side in (used & (whole == 0), used & (whole == 1))]
    words = ESTIMAND.format(min_size)
    short = [name for name, half in zip(("product", "cluster"), halves, strict=True) if not np.isfinite(half.se)]
    if short:
        reason = f"not identified: an arm of the half by {short[0]} has fewer than {LEAST_UNITS} clusters."
        nothing = (np.nan,) * 6
        return MetaEstimate(halves[0], halves[1], *nothing, words, reason)
    variance = np.array([half.se**2 for half in halves])
    freedom = np.array([half.df for half in halves])
    spread = float((variance**2 / freedom).sum())
    df = float(variance.sum() ** 2 / spread) if spread > 0 else float(freedom.sum())
    found = halves[0].effect - halves[1].effect
    interval = robust.interval(found, float(np.sqrt(variance.sum())), df, confidence)
    return MetaEstimate(
        by_product=halves[0],
        by_cluster=halves[1],
        interference=found,
        se=interval.se,
        ci_lower=interval.ci_lower,
        ci_upper=interval.ci_upper,
        p_value=interval.p_value,
        df=df,
        estimand=words,
        reason=None,
    )


def power(first_difference: ArrayLike, cluster: ArrayLike, *, expected: float, min_size: int = 2) -> Power:
    """Return the standard error that a meta-experiment will have, and its power for an expected interference.

    The estimand is the standard deviation of `estimate` over draws: each half has half of the products, so that its
    variance is 2 (SE by product)² + 2 (SE by cluster)², both by `certificate.standard_error` without strata. Assumes
    that the placebo window is like the experiment's.

    Parameters
    ----------
    first_difference
        D (N,) of a placebo window; nan takes no part.
    cluster
        (N,) labels.
    expected
        Interference over products in the comparison: certified bias by product less that by cluster, times all
        products over those in clusters of at least `min_size`.
    min_size
        As for `estimate`.

    Raises
    ------
    ValueError
        If shapes or labels break these rules, or fewer than two clusters can be compared.

    References
    ----------
    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.

    Examples
    --------
    >>> found = power(np.r_[np.ones(8), -np.ones(8)], np.repeat(np.arange(8), 2), expected=0.0)
    >>> round(found.power, 3)
    0.05
    """
    D = np.asarray(first_difference, dtype=float)
    label = robust.unit_codes(cluster, len(D))
    used = np.isfinite(D) & (np.bincount(label)[label] >= min_size)
    errors = [standard_error(D[used]), standard_error(D[used], units=label[used])]
    se, n = float(np.sqrt(2.0 * (errors[0] ** 2 + errors[1] ** 2))), int(used.sum())
    at = abs(expected) / se if se > 0 else np.inf
    critical = stats.norm.ppf(0.975)
    found = float(stats.norm.sf(critical - at) + stats.norm.sf(critical + at))
    return Power(se, MDE * se, found, n, float(n * (MDE / at) ** 2) if expected else np.nan)


def _half(D: FloatArray, W: FloatArray, label: IntArray) -> Half:
    """Return the difference between the arms with its error over clusters; nan where an arm has too few."""
    treated = W == 1
    clusters = [np.unique(label[side]) for side in (treated, ~treated)]
    n_clusters = len(np.unique(label))
    if min(len(one) for one in clusters) < LEAST_UNITS:
        return Half(np.nan, np.nan, len(D), n_clusters, np.nan)
    X = np.column_stack([treated, ~treated]).astype(float)
    effect, se, df = robust.few_clusters(D, X, np.array([1.0, -1.0]), label)
    return Half(effect, se, len(D), n_clusters, df)


def _check_wholes(W: FloatArray, whole: FloatArray, label: IntArray) -> None:
    """Raise ValueError if a cluster is in both halves, or one drawn as a whole has both arms."""
    n = np.bincount(label)
    inside, treated = np.bincount(label, whole), np.bincount(label, W)
    torn = (inside > 0) & ((inside < n) | ((treated > 0) & (treated < n)))
    if torn.any():
        raise ValueError(
            f"by_cluster has {int(torn.sum())} clusters in both halves or with both arms, must have none. "
            "Give the arms and clusters as they were drawn."
        )

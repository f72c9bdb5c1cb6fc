"""Effects by segment of products, with intervals for each and for all of them together."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pricelab_dagster.science import _segment_sums
from pricelab_dagster.science._cluster_robust import check_confidence, unit_codes
from pricelab_dagster.science._families import holm, joint_level
from pricelab_dagster.science._segment_groups import levels, predicted_thirds, thirds
from pricelab_dagster.science._segment_sums import MIN_PER_ARM
from pricelab_dagster.science.effect_scores import Scores

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

RELATIVE_WORDS = "; relative to the segment's mean without treatment"

# Less spread than this part of an effect is rounding over equal scores.
ROUNDING = 1e-14
FOREST = "effect forest"
FOREST_THIRDS = ("lowest third", "middle third", "highest third")


@dataclass(frozen=True, slots=True)
class Segments:
    """K groups of N products.

    Attributes
    ----------
    attribute, segment
        Names (K,): what the products are grouped by, and the group.
    member
        Boolean (N, K).
    reason
        Why an attribute has no groups, by its name.
    """

    attribute: tuple[str, ...]
    segment: tuple[str, ...]
    member: BoolArray
    reason: dict[str, str]

    def __add__(self, other: "Segments") -> "Segments":
        """Return the groups of both."""
        member = np.concatenate([self.member, other.member], axis=1)
        return Segments(
            self.attribute + other.attribute, self.segment + other.segment, member, {**self.reason, **other.reason}
        )


@dataclass(frozen=True, slots=True)
class SegmentEffects:
    """Effects of K segments, in their order.

    Attributes
    ----------
    effect, se, ci_lower, ci_upper
        (K,); nan where `reason` says why.
    simultaneous_lower, simultaneous_upper
        (K,) intervals that hold all K effects at once with the given confidence.
    p_value
        (K,) two-sided, of no effect in the segment.
    p_adjusted
        (K,) the same, adjusted by Holm's method over all segments with an effect.
    p_equal
        (K,) p-value of equal effects in all segments of the attribute.
    n_products, n_treated, n_control
        (K,) products with a score, and those in each arm.
    estimand
        In words.
    reason
        (K,) text or None.
    """

    effect: FloatArray
    se: FloatArray
    ci_lower: FloatArray
    ci_upper: FloatArray
    simultaneous_lower: FloatArray
    simultaneous_upper: FloatArray
    p_value: FloatArray
    p_adjusted: FloatArray
    p_equal: FloatArray
    n_products: IntArray
    n_treated: IntArray
    n_control: IntArray
    estimand: str
    reason: tuple[str | None, ...]


def attribute_segments(X: pd.DataFrame, scores: Scores) -> Segments:
    """Return the segments of every attribute: its levels, or thirds of a number or date.

    Text and booleans: the 20 most frequent levels with at least five products in each arm; all others are `other`.
    Numbers and dates: thirds at the third and two thirds of the products with a score, equal values together. Products
    without a value are `missing`. An attribute with one segment is left out.

    Parameters
    ----------
    X
        Attributes (N, P), fixed before the experiment.
    scores
        Of the same products.

    Raises
    ------
    ValueError
        If X has another number of rows.

    Examples
    --------
    >>> from pricelab_dagster.science import effect_scores
    >>> scores = effect_scores.within_products(np.ones(12), np.tile([0.0, 1.0], (12, 1)))
    >>> found = attribute_segments(pd.DataFrame({"brand": ["a"] * 6 + ["b"] * 5 + ["c"]}), scores)
    >>> found.segment, found.member.sum(axis=0).tolist()
    (('a', 'b', 'other'), [6, 5, 1])
    """
    _check_rows(X, scores)
    named = []
    for position, name in enumerate(X.columns):
        column = X.iloc[:, position]
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        numeric = numeric or pd.api.types.is_datetime64_any_dtype(column)
        groups = (
            thirds(column, scores.weight > 0)
            if numeric
            else levels(column, scores.treated, scores.control, MIN_PER_ARM)
        )
        if len(groups) > 1:
            named += [(str(name), segment, member) for segment, member in groups]
    return _segments(named, len(X))


def forest_segments(
    X: pd.DataFrame,
    first_difference: ArrayLike,
    arm: ArrayLike | None,
    *,
    units: ArrayLike,
    n_trees: int = 200,
    min_leaf: int = 4,
    rng: np.random.Generator,
) -> Segments:
    """Return thirds of the products by the effect that a causal forest predicts for them.

    Units are dealt into five folds. The first two only teach: products of the third, fourth and fifth are put into
    thirds, within their fold, by a forest grown and averaged on the folds before it. So no outcome of its own unit has
    a part in a product's prediction, and no two products predict each other: with plain cross-fitting they do, and the
    5 % test of equal groups then rejected in 17 % of 150 draws of equal effects. With a known probability of treatment
    the scores of such groups are unbiased, and groups that differ by more than chance show that effects differ.
    Products of the first two folds are in no group.

    Parameters
    ----------
    X
        Attributes (N, P), fixed before the experiment.
    first_difference
        D (N,), nan for products that take no part.
    arm
        W (N,), 0 or 1; None where D is itself the effect on the product, as it is on random days.
    units
        (N,) labels of what was assigned together.
    n_trees, min_leaf
        As for `affinity.fit_leaves`.
    rng
        Source of the folds, then of each forest's seed. Trees depend on the order of rows: pass them by product id.

    Raises
    ------
    ValueError
        As `affinity.fit_leaves`.

    References
    ----------
    Wager and Athey, "Estimation and inference of heterogeneous treatment effects using random forests", JASA 113
    (2018), section 2. Wager, "Sequential validation of treatment heterogeneity", arXiv:2405.05534 (2024): the folds.

    Examples
    --------
    >>> X, rng = pd.DataFrame({"size": [1.0, 2.0]}), np.random.default_rng(0)
    >>> forest_segments(X, [0.1, 0.2], None, units=[0, 1], rng=rng).reason
    {'effect forest': '2 assignment units are fewer than 10: no folds to predict effects from.'}
    """
    D = np.asarray(first_difference, dtype=float)
    W = None if arm is None else np.asarray(arm, dtype=float)
    third, reason = predicted_thirds(X, D, W, unit_codes(units, len(D)), n_trees, min_leaf, rng)
    if reason is not None:
        return Segments((), (), np.empty((len(D), 0), dtype=bool), {FOREST: reason})
    return _segments([(FOREST, name, third == code) for code, name in enumerate(FOREST_THIRDS)], len(D))


def segment_effects(
    scores: Scores,
    segments: Segments,
    *,
    outcome: ArrayLike | None = None,
    exposure: ArrayLike | None = None,
    confidence: float = 0.95,
    n_draws: int = 2000,
    rng: np.random.Generator,
) -> SegmentEffects:
    """Return the effect in each segment, with intervals for one segment and for all.

    The estimand is that of `scores` over the segment's products; with an outcome, divided by the segment's own mean
    without treatment, mu0 = mean(Z) - tau mean(W). The standard error is cluster-robust over assignment units,
    sqrt(G / (G - 1) sum_g (sum_{i in g} phi_i)^2), with phi the influence of a product on the effect (the delta method
    for the division). Quantiles are those of `bootstrap.interval`. The simultaneous intervals are max-t: the quantile
    of the largest |t| over all segments under normal multipliers of the units' influences, taken to each segment's own
    degrees of freedom. p-values are adjusted by Holm's method over the same segments.

    Assumes independent units, and segments that were fixed before the experiment or predicted without the unit's own
    outcome. Segments overlap across attributes: their effects are no decomposition. The leaf means behind the scores
    count as known: their noise is of smaller order where the design gives the probability of treatment.

    Parameters
    ----------
    scores, segments
        Of the same N products.
    outcome, exposure
        (N,) means over the analysed periods of the scaled metric and of W; both or neither.
    confidence
        Of each interval, and of all simultaneous ones together.
    n_draws
        Multiplier draws for the largest |t|.
    rng
        Source of the multipliers.

    Raises
    ------
    ValueError
        If shapes or confidence break these rules, or one of outcome and exposure is missing.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    Chernozhukov, Chetverikov and Kato, "Gaussian approximations and multiplier bootstrap for maxima of sums of
    high-dimensional random vectors", Annals of Statistics 41 (2013), section 3. Semenova and Chernozhukov, "Debiased
    machine learning of conditional average treatment effects", Econometrics Journal 24 (2021).

    Examples
    --------
    >>> from pricelab_dagster.science import effect_scores
    >>> scores = effect_scores.within_products(np.arange(10.0), np.tile([0.0, 1.0], (10, 1)))
    >>> half = attribute_segments(pd.DataFrame({"side": ["a"] * 5 + ["b"] * 5}), scores)
    >>> segment_effects(scores, half, rng=np.random.default_rng(0)).effect
    array([2., 7.])
    """
    check_confidence(confidence)
    _check_segments(segments, scores)
    terms = _segment_sums.terms(scores, outcome, exposure)
    parts = [_segment_sums.part(scores, member, terms) for member in segments.member.T]
    effect, scale, freedom = (np.array([getattr(p, name) for p in parts]) for name in ("effect", "scale", "freedom"))
    sums = _segment_sums.unit_sums(scores.unit, parts)
    se = scale * np.sqrt((sums**2).sum(axis=0))
    se = np.where(se <= ROUNDING * np.abs(effect), 0.0, se)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = np.asarray(2.0 * stats.t.sf(np.abs(effect) / se, freedom))
    level = joint_level(sums, np.isfinite(effect) & (se > 0), confidence, n_draws, rng)
    half = stats.t.isf((1.0 - confidence) / 2.0, freedom) * se
    wide = stats.t.isf(min(level, 1.0 - confidence) / 2.0, freedom) * se
    n_products, n_treated, n_control = (
        (segments.member & side[:, None]).sum(axis=0) for side in (scores.weight > 0, scores.treated, scores.control)
    )
    return SegmentEffects(
        effect=effect,
        se=se,
        ci_lower=effect - half,
        ci_upper=effect + half,
        simultaneous_lower=effect - wide,
        simultaneous_upper=effect + wide,
        p_value=p_value,
        p_adjusted=holm(p_value),
        p_equal=_segment_sums.equal(segments.attribute, effect, sums * scale),
        n_products=n_products,
        n_treated=n_treated,
        n_control=n_control,
        estimand=scores.estimand + ("" if outcome is None else RELATIVE_WORDS),
        reason=tuple(part.reason for part in parts),
    )


def _segments(named: list[tuple[str, str, BoolArray]], n: int) -> Segments:
    member = np.array([rows for _, _, rows in named], dtype=bool).reshape(len(named), n).T
    return Segments(tuple(name for name, *_ in named), tuple(name for _, name, _ in named), member, {})


def _check_segments(segments: Segments, scores: Scores) -> None:
    if len(segments.member) != len(scores.score):
        raise ValueError(
            f"segments has {len(segments.member)} rows, must have {len(scores.score)}. Give both of the same products."
        )


def _check_rows(X: pd.DataFrame, scores: Scores) -> None:
    if len(X) != len(scores.score):
        raise ValueError(f"X has {len(X)} rows, must have {len(scores.score)}. Give one row of attributes per product.")

"""Effects by segment over the panel of one experiment, and its headline under other constants of the filter."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import _comparisons, effect_scores, hpte, outliers, projection, segments
from pricelab_dagster.science import panel as science
from pricelab_dagster.science._experiment import SIGNED_METRICS, FloatArray, Panel, Trimmed
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.effect_scores import Scores
from pricelab_dagster.science.projection import Projection
from pricelab_dagster.science.segments import SegmentEffects, Segments

CONSTANTS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
"""The constants c of the outlier filter for which the headline is stored."""

DRAWS_OF_CELLS = 100
"""Bootstrap draws for a curve of random days: one estimate over 450 products and 28 days takes 8 ms a draw."""

ALL = "all products"


def refusal(panel: Panel) -> str | None:
    """Return why the design identifies no effect by segment, as it identifies none over all products; or None."""
    return _comparisons.refusal(panel)


def scores(
    panel: Panel, one: Trimmed, leaves: Leaves, *, n_arms: int = 1, trim: str = "auto", c: float = 5.0
) -> Scores:
    """Return the products' scores of the effect of one treatment arm, as the design gives them.

    time_bound, crossover: doubly robust with the design's probability of treatment, estimated by the leaves for
    imported assignments. triggered: arms compared within start weeks. random_days: the products' own contrasts.

    Parameters
    ----------
    panel : of one arm against control, from `Panel.against`.
    one : the metric.
    leaves : as for `panel.estimates`.
    n_arms : treatment arms of the experiment: of several each has the same part of the probability.
    trim, c : the outlier filter, as for `panel.estimates`.
    """
    D = _filtered(panel, one, trim, c)
    if panel.kind == "random_days":
        cells = np.where(panel.analysed(one.residual), panel.arm, np.nan)
        return effect_scores.within_products(D, cells, units=panel.unit_id)
    if panel.block is not None:
        return effect_scores.within_blocks(D, panel.sequence, leaves, block=panel.block, units=panel.unit_id)
    factor = 0.5 if panel.kind == "crossover" else 1.0
    probability = _probability(panel, n_arms)
    return effect_scores.doubly_robust(
        D, panel.sequence, leaves, units=panel.unit_id, probability=probability, factor=factor
    )


def by_segment(
    panel: Panel,
    metrics: list[Trimmed],
    one: Trimmed,
    found: Scores,
    X: pd.DataFrame,
    *,
    shown: pd.DataFrame,
    trim: str = "auto",
    c: float = 5.0,
    n_trees: int = 200,
    min_leaf: int = 4,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> tuple[Segments, list[SegmentEffects]]:
    """Return the segments, and the effects over all products and in each segment; the latter are one family.

    Parameters
    ----------
    panel, one, trim, c : as for `scores`.
    metrics : all metrics, for what divides a signed one.
    found : the scores.
    X : attributes (N, P) for the effect forest.
    shown : attributes (N, P') by whose levels and thirds segments are made, in units that people read.
    n_trees, min_leaf : of the effect forest.
    """
    D = _filtered(panel, one, trim, c)
    arm = None if panel.kind == "random_days" else panel.sequence
    groups = segments.attribute_segments(shown, found) + segments.forest_segments(
        X, D, arm, units=panel.unit_id, n_trees=n_trees, min_leaf=min_leaf, rng=rng
    )
    everyone = Segments((ALL,), (ALL,), np.ones((len(D), 1), dtype=bool), {})
    terms = _terms(panel, metrics, one)
    effects = [
        segments.segment_effects(found, part, confidence=confidence, rng=rng, **terms) for part in (everyone, groups)
    ]
    return everyone + groups, effects


def on_attributes(
    panel: Panel, metrics: list[Trimmed], one: Trimmed, found: Scores, X: pd.DataFrame, *, confidence: float = 0.95
) -> Projection:
    """Return the best linear projection of the effect of one treatment arm on the attributes.

    Its mean effect is that of `by_segment` over all products, and the other terms are on the same scale.

    Parameters
    ----------
    panel, metrics, one, found : as for `by_segment`.
    X : attributes (N, P).
    """
    projected = projection.best_linear_projection(found, X, confidence=confidence, **_terms(panel, metrics, one))
    if one.metric not in SIGNED_METRICS or one.scale == "level":
        return projected
    words = projected.estimand.removesuffix(projection.RELATIVE_WORDS)
    return replace(projected, estimand=f"{words}; in points per {SIGNED_METRICS[one.metric]}")


def trim_curve(
    panel: Panel,
    metrics: list[Trimmed],
    metric: str,
    leaves: Leaves,
    *,
    estimator: str,
    weights: NDArray[np.float32],
    constants: Sequence[float] = CONSTANTS,
    trim: str = "auto",
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> Iterator[tuple[float, hpte.Effect]]:
    """Yield c and the relative effect of one treatment arm: the same estimate with more and less of the filter.

    The estimand is that of `panel.estimates`, over the products that each filter keeps. One bootstrap draw and the
    same forest serve all constants; of random days the first 100 replicates, which leaves the effect as it is and its
    standard error 7 % uncertain. An effect that moves by more than its standard error rests on a few products.

    Parameters
    ----------
    panel, metrics, leaves, confidence, rng : as for `panel.estimates`.
    metric : name.
    estimator : one of `panel.ESTIMATORS`.
    weights : (N, B), the draw that served the effects.
    constants : c of the filter; 0 filters nothing.
    trim : rule of the filter; none, which no constant moves, is taken for auto.
    """
    needed = {metric, SIGNED_METRICS.get(metric, metric)}
    own = [one for one in metrics if one.metric in needed and one.scale == "relative"]
    drawn = weights[:, :DRAWS_OF_CELLS] if panel.kind == "random_days" else weights
    rule = "auto" if trim == "none" else trim
    for c in constants:
        found = science.estimates(
            panel, own, leaves, trim=rule, c=c, confidence=confidence, estimators=(estimator,), weights=drawn, rng=rng
        )
        for name, _, offered, effect in found:
            if (name, offered) == (metric, estimator):
                yield c, effect


def _terms(panel: Panel, metrics: list[Trimmed], one: Trimmed) -> dict[str, Any]:
    """Return what divides a relative effect of one arm, nothing on the level scale."""
    here = replace(one, first_difference=science.contrast(panel, one.residual))
    return dict(science._relative_terms(panel, metrics, here))


def _filtered(panel: Panel, one: Trimmed, trim: str, c: float) -> FloatArray:
    """Return D (N,) of the arm, nan where the filter drops it, held at a bound where the rule is to winsorise."""
    D = science.contrast(panel, one.residual)
    rule = science.filter_rule(trim, one.scale)
    if rule == "winsorize":
        return np.asarray(outliers.winsorize(D, science.groups(panel), c=c))
    kept = outliers.keep_mask(D, science.groups(panel), c=c if rule == "trim" else 0.0)
    return np.where(kept, D, np.nan)


def _probability(panel: Panel, n_arms: int) -> FloatArray:
    """Return the probability (N,) of this arm rather than control, nan where the design's is not known."""
    first = np.argmax(np.isfinite(panel.arm), axis=1)
    p = panel.probability[np.arange(len(first)), first]
    if panel.kind == "crossover":
        # every product has one arm and control in turn; the probability is that of starting with the arm
        return p
    return p / n_arms / (p / n_arms + 1.0 - p)

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster.science import affinity, bootstrap, effect_scores, panel, segment_panel
from pricelab_dagster.science.segment_panel import CONSTANTS, DRAWS_OF_CELLS
from tests.science.test_panel import make

ROUNDING = 1e-9  # sums of a few hundred doubles
KINDS = ("time_bound", "crossover", "random_days")
N = 160


def known(kind: str, **fields: Any) -> tuple[panel.Panel, list[panel.Trimmed], pd.DataFrame, affinity.Leaves]:
    one = make(kind, n=N, **fields)
    trimmed = panel.trimmed(one, panel.forecasts(one))
    X = pd.DataFrame({"category": one.category, "size": np.random.default_rng(3).normal(size=N)})
    return one, trimmed, X, panel.fit_leaves(one, X, trimmed[0], n_trees=8, rng=np.random.default_rng(4))


def triggered() -> panel.Panel:
    """Return a panel in start weeks, made of a time-bound one."""
    one = make("time_bound", n=N)
    return replace(one, kind="triggered", block=np.arange(N) // 2 % 4)


@pytest.mark.parametrize("kind", ["time_bound", "crossover"])
def test_with_one_leaf_and_half_treated_all_products_have_the_effect_of_hpte(kind: str) -> None:
    one, trimmed, X, _ = known(kind)
    leaves = affinity.Leaves.single(N)
    found = segment_panel.scores(one, trimmed[0], leaves)
    _, (whole, _) = segment_panel.by_segment(
        one, trimmed, trimmed[0], found, X, shown=X, n_trees=4, rng=np.random.default_rng(0)
    )
    rows = panel.estimates(one, trimmed, leaves, estimators=("hpte",), n_replicates=2, rng=np.random.default_rng(0))
    effect = next(effect for metric, scale, _, effect in rows if (metric, scale) == ("units", "relative"))
    assert whole.effect[0] == pytest.approx(effect.effect, abs=ROUNDING)
    assert whole.n_products[0] == effect.kept.sum()
    assert (whole.n_treated[0], whole.n_control[0]) == (effect.n_treated, effect.n_control)


def test_triggered_scores_average_to_the_blocked_estimate() -> None:
    one = triggered()
    trimmed = panel.trimmed(one, panel.forecasts(one))
    leaves = affinity.Leaves.single(N)
    found = segment_panel.scores(one, trimmed[0], leaves)
    D = np.where(np.isfinite(found.score), panel.contrast(one, trimmed[0].residual), np.nan)
    blocks = pd.DataFrame({"D": D, "W": one.sequence, "block": one.block}).dropna()
    gap = blocks[["D", "W"]] - blocks.groupby("block")[["D", "W"]].transform("mean")
    by_hand = (gap["W"] * gap["D"]).sum() / (gap["W"] ** 2).sum()
    mean = np.nansum(found.weight * found.score) / found.weight.sum()
    # the own unit is left out of the single leaf: its mean is not 0 but of the order of one over the products
    assert mean == pytest.approx(by_hand, rel=2 / N)


def test_random_days_score_is_the_contrast_of_the_product() -> None:
    one, trimmed, _, leaves = known("random_days")
    found = segment_panel.scores(one, trimmed[0], leaves, trim="none")
    np.testing.assert_allclose(found.score, trimmed[0].first_difference, atol=ROUNDING)
    assert found.weight.tolist() == [7.0] * N  # 14 of 28 days treated


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_decides_who_has_a_score(kind: str) -> None:
    one, trimmed, _, leaves = known(kind)
    found = segment_panel.scores(one, trimmed[0], leaves)
    np.testing.assert_array_equal(np.isfinite(found.score), trimmed[0].kept)
    held = segment_panel.scores(one, trimmed[0], leaves, trim="winsorize")
    assert np.isfinite(held.score).all()
    free = segment_panel.scores(one, trimmed[0], leaves, trim="none")
    assert held.score.max() < free.score.max()


def test_of_several_arms_each_has_its_part_of_the_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    one, trimmed, _, leaves = known("time_bound")
    given: dict[str, Any] = {}
    monkeypatch.setattr(effect_scores, "doubly_robust", lambda *_, **options: given.update(options))
    segment_panel.scores(replace(one, probability=np.full(one.arm.shape, 0.75)), trimmed[0], leaves, n_arms=3)
    np.testing.assert_allclose(given["probability"], 0.5)  # .25 against .25
    segment_panel.scores(replace(one, probability=np.full(one.arm.shape, np.nan)), trimmed[0], leaves)
    assert np.isnan(given["probability"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_category_that_responds_more_is_told_apart(kind: str) -> None:
    base = make(kind, n=N)
    more = np.where(base.category == "a", 1.4, 1.0)[:, None] ** (base.arm > 0)
    one = replace(base, observed=base.observed | {"units": base.observed["units"] * more})
    trimmed = panel.trimmed(one, panel.forecasts(one))
    X = pd.DataFrame({"category": one.category})
    found = segment_panel.scores(one, trimmed[0], affinity.Leaves.single(N))
    segments, (whole, parts) = segment_panel.by_segment(
        one, trimmed, trimmed[0], found, X, shown=X, n_trees=4, rng=np.random.default_rng(1)
    )
    assert segments.segment[:3] == (segment_panel.ALL, "a", "b")
    # planted: 1.2 x 1.4 and 1.2
    for k, truth in enumerate((0.68, 0.2)):
        assert abs(parts.effect[k] - truth) < 4 * parts.se[k] + 0.02
    assert parts.effect[1] < whole.effect[0] < parts.effect[0]
    assert parts.p_equal[0] < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_effect_of_the_projection_is_that_over_all_products(kind: str) -> None:
    one, trimmed, X, leaves = known(kind)
    found = segment_panel.scores(one, trimmed[0], leaves)
    rng = np.random.default_rng(2)
    _, (whole, _) = segment_panel.by_segment(one, trimmed, trimmed[0], found, X, shown=X, n_trees=4, rng=rng)
    projected = segment_panel.on_attributes(one, trimmed, trimmed[0], found, X)
    assert projected.coefficient[0] == pytest.approx(whole.effect[0], rel=ROUNDING)
    assert projected.se[0] == pytest.approx(whole.se[0], rel=0.1)  # a jackknife with other terms beside the mean
    assert projected.estimand.endswith("relative to the mean without treatment over all products")
    level = segment_panel.on_attributes(one, trimmed, trimmed[1], found, X)
    assert level.coefficient[0] == pytest.approx(np.average(found.score[found.weight > 0]), rel=ROUNDING)


def test_the_projection_of_profit_is_in_points_per_revenue() -> None:
    base = make("time_bound", n=N)
    sold, past = base.observed["units"], base.history["units"]
    one = replace(
        base,
        history={"profit": 0.3 * past, "revenue": past},
        observed={"profit": sold * np.where(base.arm > 0, 0.2, 0.3), "revenue": sold},
    )
    trimmed = panel.trimmed(one, panel.forecasts(one))
    found = segment_panel.scores(one, trimmed[0], affinity.Leaves.single(N))
    projected = segment_panel.on_attributes(one, trimmed, trimmed[0], found, pd.DataFrame({"category": one.category}))
    # sales rise by a fifth and margin falls from .3 to .2: .24 - .3 of a revenue whose mean over both arms is 1.1
    assert abs(projected.coefficient[0] + 0.06 / 1.1) < 4 * projected.se[0]
    assert 0 < projected.se[0] < 0.02
    assert projected.estimand.endswith("; in points per revenue")


@pytest.mark.parametrize("kind", KINDS)
def test_curve_at_the_constant_of_the_headline_is_the_headline(kind: str) -> None:
    one, trimmed, _, leaves = known(kind)
    weights = bootstrap.poisson_weights(one.unit_id, n_replicates=120, rng=np.random.default_rng(5))
    options = {"weights": weights, "rng": np.random.default_rng(6)}
    rows = panel.estimates(one, trimmed, leaves, estimators=("hpte",), **options)
    headline = next(effect for metric, scale, _, effect in rows if (metric, scale) == ("units", "relative"))

    curve = dict(segment_panel.trim_curve(one, trimmed, "units", leaves, estimator="hpte", **options))

    assert list(curve) == list(CONSTANTS)
    n_draws = DRAWS_OF_CELLS if kind == "random_days" else 120
    np.testing.assert_array_equal(curve[5.0].draws, headline.draws[:n_draws])
    assert curve[5.0].effect == headline.effect
    assert [effect.n_trimmed for effect in curve.values()] == sorted(effect.n_trimmed for effect in curve.values())
    assert curve[0.0].n_trimmed == 0 < curve[1.0].n_trimmed


def test_a_filter_that_is_off_has_the_curve_of_auto() -> None:
    one, trimmed, _, leaves = known("time_bound")
    weights = bootstrap.poisson_weights(one.unit_id, n_replicates=10, rng=np.random.default_rng(7))
    options = {"estimator": "hpte", "weights": weights, "rng": np.random.default_rng(8)}
    off, auto = (
        [effect.effect for _, effect in segment_panel.trim_curve(one, trimmed, "units", leaves, trim=trim, **options)]
        for trim in ("none", "auto")
    )
    assert off == auto


def test_designs_that_identify_no_effect_are_refused() -> None:
    one = make("crossover")
    assert segment_panel.refusal(one) is None
    alone = replace(one, arm=np.where(one.sequence[:, None] == 1, one.arm, np.nan))
    reason = segment_panel.refusal(alone)
    assert reason is not None
    assert reason.startswith("not identified: all products have the same sequence")

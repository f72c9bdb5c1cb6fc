from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science import affinity, designs, market, panel

START = "2024-01-01"
# sums of a few hundred doubles
ROUNDING = 1e-9
N_WORLDS, N_PRODUCTS, N_REPLICATES = 40, 80, 100


def make(kind: str, *, seed: int = 0, n: int = 40, n_history: int = 84, **fields: Any) -> panel.Panel:
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i:03}" for i in range(n)], dtype=object)
    lengths = {
        "time_bound": {"duration": 28},
        "random_days": {"duration": 28},
        "crossover": {"phase": 14, "blackout": 7},
    }
    drawn = getattr(designs, kind)(ids, START, **lengths[kind], rng=rng)
    size = rng.uniform(5, 50, n)[:, None]
    before, since = rng.poisson(size, (n, n_history)), rng.poisson(size * (1 + 0.2 * drawn.arm), drawn.arm.shape)
    price = np.full(drawn.arm.shape, 2.0) * np.where(drawn.arm > 0, 0.9, 1.0)
    values = {
        "product_id": ids,
        "date": drawn.date,
        "unit_id": drawn.unit_id,
        "category": np.array(["a", "b"] * (n // 2), dtype=object),
        "arm": drawn.arm.astype(float),
        "in_analysis": drawn.in_analysis,
        "probability": drawn.probability,
        "phase": np.arange(len(drawn.date)) // 14 + 1 if kind == "crossover" else np.ones(len(drawn.date), dtype=int),
        "history": {"units": before.astype(float), "price": np.full(before.shape, 2.0)},
        "observed": {"units": since.astype(float), "price": price},
        "kind": kind,
    }
    return panel.Panel(**(values | fields))


def found(
    one: panel.Panel, estimators: tuple[str, ...] = panel.ESTIMATORS, **options: Any
) -> dict[tuple[str, str, str], Any]:
    rng = np.random.default_rng(1)
    trimmed = panel.trimmed(one, panel.forecasts(one), **{k: v for k, v in options.items() if k == "trim"})
    leaves = affinity.Leaves.single(len(one.product_id))
    rows = panel.estimates(one, trimmed, leaves, n_replicates=20, estimators=estimators, rng=rng, **options)
    return {(metric, scale, estimator): effect for metric, scale, estimator, effect in rows}


def test_difference_in_differences_is_the_hand_worked_number() -> None:
    one = make("time_bound")
    treated = one.sequence == 1
    change = one.observed["units"].mean(axis=1) - one.history["units"][:, -28:].mean(axis=1)
    by_hand = change[treated].mean() - change[~treated].mean()
    effect = found(one, ("difference_in_differences",))["units", "level", "difference_in_differences"].effect
    assert effect == pytest.approx(by_hand, abs=ROUNDING)


def test_contrast_of_a_crossover_is_odd_minus_even_phases_outside_the_blackout() -> None:
    one = make("crossover")
    residual = one.observed["units"]
    by_hand = residual[:, 7:14].mean(axis=1) - residual[:, 21:28].mean(axis=1)
    np.testing.assert_allclose(panel.contrast(one, residual), by_hand, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["time_bound", "crossover", "random_days"])
def test_swapped_arms_flip_the_level_effect(kind: str) -> None:
    one = make(kind)
    other = replace(one, arm=1 - one.arm)
    estimators = ("hpte", "hajek", "difference_in_differences")
    plain, swapped = found(one, estimators, trim="none"), found(other, estimators, trim="none")
    for estimator in estimators:
        key = ("units", "level", estimator)
        assert swapped[key].effect == pytest.approx(-plain[key].effect, abs=ROUNDING)
        assert swapped[key].se == pytest.approx(plain[key].se, rel=ROUNDING)


@pytest.mark.parametrize("kind", ["time_bound", "crossover", "random_days"])
def test_relative_effects_do_not_depend_on_the_currency(kind: str) -> None:
    one = make(kind)
    cents = replace(
        one,
        history=one.history | {"price": one.history["price"] * 100},
        observed=one.observed | {"price": one.observed["price"] * 100},
    )
    key = ("price", "relative", "hajek")
    assert found(cents, ("hajek",))[key].effect == pytest.approx(found(one, ("hajek",))[key].effect, abs=ROUNDING)


def test_a_price_that_was_not_observed_does_not_count() -> None:
    one = make("random_days")
    price = one.observed["price"].copy()
    price[:, ::3] = np.nan
    effect = found(replace(one, observed=one.observed | {"price": price}), ("hpte",))["price", "relative", "hpte"]
    assert effect.effect == pytest.approx(-0.1, abs=1e-6)


def test_profit_reads_points_per_revenue() -> None:
    one = make("time_bound", n=400)
    treated = one.sequence[:, None] == 1
    base = one.history["units"].mean(axis=1, keepdims=True)
    flat = np.repeat(base, one.arm.shape[1], axis=1)
    history = {"revenue": np.repeat(base, 84, axis=1), "profit": np.repeat(base, 84, axis=1) * 0.3}
    observed = {"revenue": flat, "profit": flat * np.where(treated, 0.35, 0.3)}
    effect = found(replace(one, history=history, observed=observed), ("hajek",), trim="none")
    assert effect["profit", "relative", "hajek"].effect == pytest.approx(0.05, abs=1e-3)


def test_outliers_are_ranked_in_arms_sequences_or_together() -> None:
    np.testing.assert_array_equal(panel.groups(make("time_bound")), make("time_bound").sequence)
    np.testing.assert_array_equal(panel.groups(make("crossover")) > 0, make("crossover").sequence > 0)
    assert len(np.unique(panel.groups(make("crossover")))) == 2
    assert len(np.unique(panel.groups(make("random_days")))) == 1


@pytest.mark.parametrize(
    ("trim", "scale", "rule"),
    [
        ("auto", "relative", "trim"),
        ("auto", "level", "winsorize"),
        ("none", "level", "none"),
        ("trim", "level", "trim"),
    ],
)
def test_auto_trims_relative_values_and_winsorises_levels(trim: str, scale: str, rule: str) -> None:
    assert panel.filter_rule(trim, scale) == rule


def test_a_product_without_history_is_left_out_with_its_reason() -> None:
    one = make("time_bound")
    history = one.history["units"].copy()
    history[3] = np.nan
    trimmed = panel.trimmed(replace(one, history=one.history | {"units": history}), panel.forecasts(one))
    relative = next(part for part in trimmed if (part.metric, part.scale) == ("units", "relative"))
    assert not relative.kept[3]
    assert "no sales before the start" in relative.reason[3]


@pytest.mark.parametrize(
    ("unit", "kind", "imported", "estimator"),
    [
        ("product", "crossover", False, "hpte"),
        ("cluster", "crossover", False, "hajek"),
        ("product", "time_bound", True, "hpte_doubly_robust"),
        ("product", "random_days", True, "hpte_leaf"),
    ],
)
def test_the_headline_follows_the_assignment(unit: str, kind: str, imported: bool, estimator: str) -> None:
    assert panel.headline(unit=unit, kind=kind, imported=imported) == estimator
    assert estimator in {name for _, _, name in found(make(kind, imported=imported))}


def test_imported_assignments_split_on_outcome_and_arm() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=200)
    one = make("time_bound", n=200, imported=True)
    one = replace(one, arm=np.repeat((x > 0).astype(float)[:, None], one.arm.shape[1], axis=1))
    primary = panel.trimmed(one, panel.forecasts(one))[0]
    options = {"n_trees": 20, "rng": np.random.default_rng(0)}
    leaves = panel.fit_leaves(one, pd.DataFrame({"x": x}), primary, **options)
    drawn = panel.fit_leaves(replace(one, imported=False), pd.DataFrame({"x": x}), primary, **options)
    mixed = [
        np.mean([len(set(one.sequence[part.leaf[:, t] == k])) for t in range(20) for k in set(part.leaf[:, t])])
        for part in (leaves, drawn)
    ]
    assert mixed[0] < mixed[1]


def test_random_days_do_not_split_on_effects() -> None:
    one = make("random_days", n=60)
    X = pd.DataFrame({"x": np.random.default_rng(6).normal(size=60)})
    primary = panel.trimmed(one, panel.forecasts(one))[0]
    grown = {
        split: panel.fit_leaves(one, X, primary, split=split, n_trees=8, rng=np.random.default_rng(0))
        for split in ("effect", "outcome")
    }
    np.testing.assert_array_equal(grown["effect"].leaf, grown["outcome"].leaf)
    assert grown["outcome"].reason is None
    assert grown["effect"].reason == panel.NO_EFFECT_SPLIT
    rows = panel.estimates(one, [primary], grown["effect"], n_replicates=5, rng=np.random.default_rng(1))
    reasons = {estimator: effect.reason for *_, estimator, effect in rows}
    assert reasons["hpte"] == panel.NO_EFFECT_SPLIT
    assert reasons["hajek"] is None
    few = replace(primary, kept=np.arange(60) < 10)
    alone = panel.fit_leaves(one, X, few, split="effect", n_trees=8, rng=np.random.default_rng(0))
    assert str(alone.reason).startswith(f"{panel.NO_EFFECT_SPLIT} 10 usable products are fewer than")


def test_other_designs_split_on_effects_where_asked() -> None:
    one = make("time_bound", n=60)
    X = pd.DataFrame({"x": np.random.default_rng(6).normal(size=60)})
    primary = panel.trimmed(one, panel.forecasts(one))[0]
    effect, outcome = (
        panel.fit_leaves(one, X, primary, split=split, n_trees=8, rng=np.random.default_rng(0))
        for split in ("effect", "outcome")
    )
    assert effect.reason is None
    assert (effect.leaf != outcome.leaf).any()


@pytest.mark.parametrize("kind", ["time_bound", "crossover", "random_days"])
def test_intervals_hold_the_planted_effect_in_the_clean_market(kind: str) -> None:
    hits = []
    for seed in range(N_WORLDS):
        rng = np.random.default_rng([seed, 7])
        world = market.simulate(scenario="clean", n_products=N_PRODUCTS, n_history=112, n_window=28, rng=rng)
        ids, start = world.product_id, world.date[112]
        lengths = {
            "time_bound": {"duration": 28},
            "random_days": {"duration": 28},
            "crossover": {"phase": 14, "blackout": 0},
        }
        drawn = getattr(designs, kind)(ids, start, **lengths[kind], rng=rng)
        seen = world.observe(drawn.arm)
        one = make(
            kind,
            n=N_PRODUCTS,
            category=world.category,
            arm=drawn.arm.astype(float),
            in_analysis=drawn.in_analysis,
            probability=drawn.probability,
            history={"units": seen.units[:, :112].astype(float)},
            observed={"units": seen.units[:, 112:].astype(float)},
        )
        trimmed = panel.trimmed(one, panel.forecasts(one))
        leaves = affinity.Leaves.single(N_PRODUCTS)
        options = {"n_replicates": N_REPLICATES, "estimators": ("hpte",), "rng": rng}
        effect = next(panel.estimates(one, trimmed[:1], leaves, **options))[3]
        hits.append(effect.ci_lower <= seen.truth.relative["units"] <= effect.ci_upper)
    bounds = stats.binomtest(sum(hits), N_WORLDS).proportion_ci(0.999)
    assert bounds.low <= 0.95 <= bounds.high

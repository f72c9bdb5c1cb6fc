"""Estimates under arms that are drawn again: what they are, how wide, and what Fisher's test makes of them."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science import affinity, hpte
from pricelab_dagster.science.bootstrap import poisson_weights
from pricelab_dagster.science.replay import Fixed, instant, randomization_test

ROUNDING = 1e-9  # sums of a few hundred terms of order one, in two orders
N, T = 60, 14
CELLS = ("none", "trim", "winsorize")


def world(seed: int = 0, n: int = N) -> tuple[Any, ...]:
    """Return a generator, first differences with a heavy tail, and a forest on what moves them."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)))
    D = X[0].to_numpy() + rng.standard_t(3, n)
    return rng, D, affinity.fit_leaves(X, D, n_trees=20, rng=rng)


def drawn(rng: np.random.Generator, n_draws: int, n: int = N) -> np.ndarray:
    """Return draws (n, R) that treat half of the products."""
    return rng.permuted(np.tile(np.arange(n) % 2, (n_draws, 1)), axis=1).T.astype(float)


def sandwich(columns: np.ndarray, y: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Return the first coefficient of least squares and its cluster-robust error, times G / (G - 1), by matrices."""
    bread = np.linalg.pinv(columns.T @ columns)
    beta = bread @ columns.T @ y
    scores = columns * (y - columns @ beta)[:, None]
    by_unit = np.stack([scores[units == unit].sum(axis=0) for unit in np.unique(units)])
    g = len(by_unit)
    return float(beta[0]), float(np.sqrt((bread @ (by_unit.T @ by_unit) @ bread)[0, 0] * g / (g - 1)))


def dummies(labels: np.ndarray) -> np.ndarray:
    return pd.get_dummies(labels).to_numpy(dtype=float)


def test_the_hand_worked_number():
    found = instant(Fixed(np.array([1.0, 3.0, 5.0, 9.0]), np.arange(4), trim="none"), [0, 0, 1, 1])
    assert found.effect[0] == 5.0
    # residuals -1, 1, -2, 2 times W - e = -+1/2, over sum (W - e)^2 = 1: squares 1/4, 1/4, 1, 1; times 4 / 3
    assert found.se[0] == pytest.approx(np.sqrt(2.5 * 4 / 3))
    assert found.t[0] == pytest.approx(5.0 / np.sqrt(2.5 * 4 / 3))


@pytest.mark.parametrize("n_units", [N, 15])
def test_with_one_leaf_it_is_the_cluster_robust_error_of_least_squares(n_units):
    rng, D, _ = world()
    units, arms = np.arange(N) % n_units, drawn(rng, 5)
    found = instant(Fixed(D, units, trim="none"), arms)
    expected = [sandwich(np.column_stack([W, np.ones(N)]), D, units) for W in arms.T]
    np.testing.assert_allclose(np.stack([found.effect, found.se], axis=1), expected, atol=ROUNDING)


def test_inside_blocks_it_is_that_of_the_regression_with_block_effects():
    rng, D, _ = world(1)
    block, arms = np.arange(N) % 4, drawn(rng, 5)
    found = instant(Fixed(D + 3.0 * block, np.arange(N), within=block, trim="none"), arms)
    expected = [sandwich(np.column_stack([W, dummies(block)]), D + 3.0 * block, np.arange(N)) for W in arms.T]
    np.testing.assert_allclose(np.stack([found.effect, found.se], axis=1), expected, atol=ROUNDING)


def test_cells_give_that_of_the_regression_with_product_and_day_effects():
    rng = np.random.default_rng(2)
    R, arms = rng.normal(size=(N, T)) + rng.normal(size=(N, 1)), rng.integers(0, 2, (3, N, T))
    row, day, units = np.repeat(np.arange(N), T), np.tile(np.arange(T), N), np.arange(N) // 3
    found = instant(Fixed(R, units, trim="none"), arms)
    effects = np.column_stack([dummies(row), dummies(day)])
    expected = [sandwich(np.column_stack([W.ravel(), effects]), R.ravel(), units[row]) for W in arms]
    np.testing.assert_allclose(np.stack([found.effect, found.se], axis=1), expected, atol=ROUNDING)


@pytest.mark.parametrize("trim", CELLS)
@pytest.mark.parametrize("form", ["leaves", "hajek", "blocks", "crossover"])
def test_effects_are_those_of_the_estimator_with_its_filter_under_each_draw(form, trim):
    rng, D, leaves = world(3)
    arms, outcome = drawn(rng, 70), 3.0 + rng.random(N)
    fixed = Fixed(D, np.arange(N) // 2, trim=trim, outcome=outcome)
    options: dict[str, Any] = {"units": np.arange(N) // 2, "trim": trim, "outcome": outcome}
    exposure = np.array([np.zeros(N), np.ones(N)])
    if form == "hajek":
        p = rng.uniform(0.3, 0.7, N)
        fixed, options = replace(fixed, probability=p), options | {"method": "hajek", "probability": p}
    else:
        fixed, options = replace(fixed, leaves=leaves), options | {"leaves": leaves}
    if form == "blocks":
        fixed, options = replace(fixed, within=np.arange(N) % 5), options | {"within": np.arange(N) % 5}
    if form == "crossover":
        exposure = np.full((2, N), 0.5)
        fixed, options = replace(fixed, factor=0.5, exposure=exposure), options | {"factor": 0.5}
    arms[3, ::2] = np.nan
    expected = [
        hpte.estimate(
            D, W, **options, exposure=np.where(W == 1, *exposure[::-1]), n_replicates=2, rng=np.random.default_rng(0)
        ).effect
        for W in arms.T
    ]
    np.testing.assert_allclose(instant(fixed, arms).effect, expected, atol=ROUNDING)


@pytest.mark.parametrize("trim", CELLS)
def test_effects_of_cells_are_those_of_the_estimator(trim):
    rng, D, leaves = world(4)
    R, arms = D[:, None] / 4 + rng.standard_t(3, (N, T)), rng.integers(-1, 2, (6, N, T))
    arms[0] = np.abs(arms[0])
    R[2, 5:] = np.nan
    outcome = 8.0 + rng.random(N)
    found = instant(Fixed(R, np.arange(N), leaves=leaves, trim=trim, outcome=outcome), arms)
    for draw, effect in zip(arms, found.effect, strict=True):
        W = np.where(draw < 0, np.nan, draw)
        known = np.isfinite(W) & np.isfinite(R)
        exposure = np.where(known, W, 0.0).sum(axis=1) / known.sum(axis=1)
        one = hpte.estimate(R, W, leaves=leaves, trim=trim, outcome=outcome, exposure=exposure, n_replicates=2, rng=rng)
        assert effect == pytest.approx(one.effect, abs=ROUNDING)


@pytest.mark.parametrize("form", ["leaves", "hajek", "relative"])
def test_it_follows_the_bootstrap_over_worlds_of_unlike_noise(form):
    rng, ratios, errors = np.random.default_rng(5), [], []
    for k in range(25):
        X = pd.DataFrame(rng.normal(size=(160, 2)))
        D = X[0].to_numpy() + np.exp(rng.normal(0, 0.7)) * rng.standard_t(4, 160)
        W, leaves = drawn(rng, 1, 160)[:, 0], affinity.fit_leaves(X, D, n_trees=12, rng=rng)
        terms = {"outcome": 30.0 + D} if form == "relative" else {}
        exposure = {"exposure": W} if terms else {}
        weights = poisson_weights(np.arange(160), n_replicates=1200, rng=rng)
        options: dict[str, Any] = {"leaves": leaves}
        if form == "hajek":
            options = {"method": "hajek", "probability": np.full(160, 0.5)}
        exact = hpte.estimate(D, W, weights=weights, **terms, **exposure, **options, rng=rng)
        fixed = Fixed(D, np.arange(160), **{key: one for key, one in (options | terms).items() if key != "method"})
        errors.append((float(instant(fixed, W).se[0]), exact.se))
        ratios.append(exact.se / errors[k][0])
    # 1,200 replicates leave 2 % of noise in each bootstrap error; small leaves make the instant one short
    assert np.corrcoef(np.log(errors).T)[0, 1] > 0.99
    assert 0.98 < np.mean(ratios) < 1.15


def test_it_is_how_far_draws_of_the_arms_spread_with_the_products_that_are_cut():
    shares = []
    for seed in range(12):
        rng, D, _ = world(seed, 200)
        arms, fixed = drawn(rng, 400, 200), Fixed(D, np.arange(200))
        found = instant(fixed, arms)
        spread = found.effect.std(ddof=1)
        kept = hpte.estimate(D, arms[:, 0], n_replicates=2, rng=rng).kept
        without = instant(Fixed(D[kept], np.arange(200)[kept], trim="none"), arms[kept, 0])
        assert without.effect[0] == pytest.approx(found.effect[0], abs=ROUNDING)
        shares.append((found.se.mean() / spread, without.se[0] / spread))
    # 400 draws in each of twelve worlds leave 1 % of noise in the mean
    counted, left_out = np.mean(shares, axis=0)
    assert 0.96 < counted < 1.04
    assert left_out < 0.95


@pytest.mark.parametrize("relative", [False, True])
def test_ten_copies_of_every_row_leave_the_error_alone(relative):
    rng, D, leaves = world(7)
    arms, row = drawn(rng, 4), np.repeat(np.arange(N), 10)
    outcome = 5.0 + np.abs(D) if relative else None
    once = instant(Fixed(D, np.arange(N), leaves=leaves, trim="none", outcome=outcome), arms)
    many = affinity.Leaves(leaves.leaf[row], leaves.in_honest[row], leaves.n_trees, None)
    fixed = Fixed(D[row], row, leaves=many, trim="none", outcome=None if outcome is None else outcome[row])
    tenfold = instant(fixed, arms[row])
    np.testing.assert_allclose(tenfold.se, once.se, rtol=ROUNDING)
    alone = instant(replace(fixed, unit_id=np.arange(10 * N)), arms[row])
    assert (alone.se < 0.5 * once.se).all()


def test_order_names_scale_and_swapped_arms():
    rng, D, leaves = world(8)
    arms, order = drawn(rng, 5), rng.permutation(N)
    fixed = Fixed(D, np.arange(N) // 2, leaves=leaves, trim="none")
    one = instant(fixed, arms)
    moved = affinity.Leaves(leaves.leaf[order], leaves.in_honest[order], leaves.n_trees, None)
    names = np.array([f"u{99 - unit}" for unit in fixed.unit_id], dtype=object)
    other = instant(replace(fixed, value=D[order], unit_id=names[order], leaves=moved), arms[order])
    np.testing.assert_allclose(other.se, one.se, rtol=ROUNDING)
    larger = instant(replace(fixed, value=7.0 * D), arms)
    np.testing.assert_allclose([larger.effect, larger.se], [7 * one.effect, 7 * one.se], rtol=ROUNDING)
    swapped = instant(fixed, 1.0 - arms)
    np.testing.assert_allclose([swapped.effect, swapped.se], [-one.effect, one.se], rtol=1e-8)


def test_an_empty_arm_has_no_estimate_and_equal_values_have_t_zero():
    assert np.isnan(instant(Fixed(np.arange(4.0), np.arange(4)), np.ones(4)).effect[0])
    assert instant(Fixed(np.ones(4), np.arange(4)), [0, 0, 1, 1]).t[0] == 0.0


def every_half(n: int) -> np.ndarray:
    return np.array([np.isin(np.arange(n), some) for some in combinations(range(n), n // 2)], dtype=float).T


def by_hand(D: np.ndarray, W: np.ndarray) -> float:
    """Return the absolute studentised difference of means, errors by arm and times G / (G - 1)."""
    sides = [D[W == 1], D[W == 0]]
    variance = sum(((side - side.mean()) ** 2).sum() / len(side) ** 2 for side in sides)
    return abs(sides[0].mean() - sides[1].mean()) / np.sqrt(variance * len(D) / (len(D) - 1))


def test_over_all_assignments_p_is_the_permutation_p():
    rng, arms = np.random.default_rng(9), every_half(8)
    D = rng.normal(size=8) + 2.0 * arms[:, 11]
    fixed = Fixed(D, np.arange(8), trim="none")
    statistic = np.array([by_hand(D, W) for W in arms.T])
    for observed in (0, 11, 40):
        found = randomization_test(fixed, arms[:, observed], np.delete(arms, observed, axis=1))
        assert found.p_value == pytest.approx((statistic >= statistic[observed] * (1 - 1e-9)).mean(), abs=1e-12)
        assert abs(found.t) == pytest.approx(statistic[observed])


def test_the_test_is_exact_over_all_assignments_also_with_the_filter():
    arms, rng = every_half(8), np.random.default_rng(10)
    D = rng.standard_t(2, 8)
    fixed = Fixed(D, np.arange(8), trim_c=8.0)
    p = np.array([randomization_test(fixed, arms[:, k], np.delete(arms, k, axis=1)).p_value for k in range(70)])
    for level in np.unique(p):
        assert (p <= level + 1e-12).mean() <= level + 1e-12
    assert p.min() <= 2 / 70 + 1e-12
    assert p.max() == 1.0


def test_the_interval_holds_the_constants_that_are_not_rejected():
    rng, D, leaves = world(11)
    arms = drawn(rng, 400)
    W, fixed = arms[:, 0], Fixed(D + 0.8 * arms[:, 0], np.arange(N), leaves=leaves)
    found = randomization_test(fixed, W, arms[:, 1:])
    step = float(instant(fixed, W).se[0]) / np.sqrt(399)  # twice as close as the ends are searched

    def p_of(effect: float) -> float:
        return randomization_test(replace(fixed, value=fixed.value - effect * W), W, arms[:, 1:]).p_value

    for end, inside in ((found.ci_lower, 1.0), (found.ci_upper, -1.0)):
        assert p_of(end - inside * step) <= 0.05 + 1e-9
        assert p_of(end + inside * step) > 0.05
    moved = randomization_test(replace(fixed, value=fixed.value + 3.0 * W), W, arms[:, 1:])
    assert moved.ci_lower == pytest.approx(found.ci_lower + 3.0, abs=1e-6)
    assert moved.ci_upper == pytest.approx(found.ci_upper + 3.0, abs=1e-6)
    wider = randomization_test(fixed, W, arms[:, 1:], confidence=0.99)
    assert wider.ci_lower < found.ci_lower < found.effect < found.ci_upper < wider.ci_upper


def test_a_relative_interval_divides_by_the_mean_without_that_effect():
    rng, D, _ = world(12)
    arms = drawn(rng, 200)
    W, fixed = arms[:, 0], Fixed(D + arms[:, 0], np.arange(N), trim="none")
    absolute = randomization_test(fixed, W, arms[:, 1:])
    outcome = 10.0 + fixed.value
    relative = randomization_test(replace(fixed, outcome=outcome), W, arms[:, 1:])
    for name in ("ci_lower", "ci_upper"):
        effect = getattr(absolute, name)
        assert getattr(relative, name) == pytest.approx(effect / (outcome.mean() - effect / 2), abs=ROUNDING)
    assert relative.p_value == absolute.p_value
    assert relative.estimand.endswith("relative to the mean without treatment")


def test_the_interval_of_a_phase_contrast_is_of_the_halved_effect():
    rng, D, _ = world(13)
    arms = drawn(rng, 200)
    W = arms[:, 0]
    plain = randomization_test(Fixed(D, np.arange(N)), W, arms[:, 1:])
    halved = randomization_test(Fixed(D, np.arange(N), factor=0.5), W, arms[:, 1:])
    assert halved.p_value == plain.p_value
    assert [halved.ci_lower, halved.ci_upper] == pytest.approx([plain.ci_lower / 2, plain.ci_upper / 2], abs=1e-8)


def test_size_and_coverage_of_stratified_draws_are_bounded_on_both_sides():
    rng, n_worlds, effect = np.random.default_rng(14), 200, 0.7
    stratum = np.repeat(np.arange(10), 4)

    def draws(n_draws: int) -> np.ndarray:
        halves = rng.permuted(np.tile([0.0, 0.0, 1.0, 1.0], (n_draws * 10, 1)), axis=1)
        return halves.reshape(n_draws, 40).T

    rejected = covered = 0
    for _ in range(n_worlds):
        D = rng.normal(size=10)[stratum] + rng.standard_t(4, 40)
        arms = draws(100)
        W, fixed = arms[:, 0], Fixed(D, np.arange(40))
        rejected += randomization_test(fixed, W, arms[:, 1:], confidence=0.9).p_value <= 0.1
        found = randomization_test(replace(fixed, value=D + effect * W), W, arms[:, 1:], confidence=0.9)
        covered += found.ci_lower <= effect <= found.ci_upper
    low, high = stats.binom(n_worlds, 0.1).ppf([0.0005, 0.9995])
    assert low <= rejected <= high
    assert low <= n_worlds - covered <= high


def test_a_mechanism_that_did_not_draw_the_arms_is_caught_by_the_size():
    rng, n_worlds, rejected = np.random.default_rng(15), 100, 0
    unit = np.arange(40) // 4
    for _ in range(n_worlds):
        D = rng.normal(size=10)[unit] + 0.3 * rng.normal(size=40)
        W = rng.permutation(np.arange(10) % 2)[unit].astype(float)
        rejected += randomization_test(Fixed(D, np.arange(40)), W, drawn(rng, 99, 40)).p_value <= 0.05
    assert rejected > stats.binom(n_worlds, 0.05).ppf(0.9995)


def test_cells_are_tested_with_their_own_draws():
    rng, D, leaves = world(16)
    arms = rng.integers(0, 2, (60, N, T)).astype(np.int8)
    R = D[:, None] / 4 + rng.normal(size=(N, T)) + 0.4 * arms[0]
    fixed = Fixed(R, np.arange(N), leaves=leaves)
    found = randomization_test(fixed, arms[0], arms[1:])
    assert found.p_value == pytest.approx(1 / 60)
    assert found.ci_lower < 0.4 < found.ci_upper
    same = randomization_test(replace(fixed, value=R - 0.4 * arms[0]), arms[0], arms[1:])
    assert [same.ci_lower, same.ci_upper] == pytest.approx([found.ci_lower - 0.4, found.ci_upper - 0.4], abs=1e-8)
    assert same.p_value > 0.05


def test_without_an_estimate_or_enough_draws_there_is_a_reason_instead():
    rng, D, _ = world(17)
    none = randomization_test(Fixed(D, np.arange(N)), np.ones(N), drawn(rng, 30))
    assert np.isnan([none.p_value, none.ci_lower, none.effect]).all()
    assert none.reason == "There is no estimate under the arms in force: nothing to test."
    few = randomization_test(Fixed(D, np.arange(N)), drawn(rng, 1)[:, 0], drawn(rng, 18))
    assert few.reason == "18 draws are too few for a 95% interval."
    assert np.isfinite(few.p_value)
    assert np.isnan(few.ci_lower)
    lost = np.where(np.arange(30) < 6, 1.0, drawn(rng, 30))
    holes = randomization_test(Fixed(D, np.arange(N)), drawn(rng, 1)[:, 0], lost)
    assert holes.n_undefined == 6
    assert holes.p_value >= 7 / 31
    assert holes.reason.startswith("An end of the interval is not bounded")


def test_arms_and_shapes_that_do_not_fit_are_refused():
    fixed = Fixed(np.arange(6.0), np.arange(6))
    with pytest.raises(ValueError, match=r"arms.shape == \(5,\), must be \(6, R\)"):
        instant(fixed, np.ones(5))
    with pytest.raises(ValueError, match=r"must be \(R, 6, 3\)"):
        instant(Fixed(np.ones((6, 3)), np.arange(6)), np.ones((2, 6, 4)))
    with pytest.raises(ValueError, match=r"arms == 2\.0, must be 0, 1 or nan"):
        instant(fixed, [0.0, 1, 2, 0, 1, 0])
    with pytest.raises(ValueError, match=r"confidence == 1\.5, must be in"):
        randomization_test(fixed, [0, 1, 0, 1, 0, 1], every_half(6), confidence=1.5)
    with pytest.raises(ValueError, match="trim == 'cut', must be"):
        instant(replace(fixed, trim="cut"), [0, 1, 0, 1, 0, 1])

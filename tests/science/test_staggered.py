from itertools import product

import numpy as np
import pandas as pd
import pytest
from causaldata import castle
from scipy import stats

from pricelab_dagster.science.staggered import aggregate, group_time, two_way_fixed_effects

# Sums of a few hundred terms of order one, in two orders.
ROUNDING = 1e-12
# Constants of order 100 are added to values of order one and cancel.
CANCELLED = 1e-9
# The moments below have 7 and 8 decimals, a standard error of .02 is then exact to 1e-6.
MOMENT_ROUNDING = 2e-6
# Standard deviation of 4,000 draws: its own standard error is 1.1 %, four of them.
DRAWN = 0.045

KINDS = ("simple", "dynamic", "group")


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def panel(rng: np.random.Generator, n: int = 12, T: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Outcome with missing cells, and first treated periods of two groups and of products never treated."""
    first = np.resize([2, -1, 4, -1, -1, 2], n)
    Y = rng.normal(size=(n, T)).cumsum(axis=1)
    Y[rng.random((n, T)) < 0.1] = np.nan
    return Y, first


def in_force(first: np.ndarray, T: int) -> np.ndarray:
    return ((first >= 0)[:, None] & (np.arange(T) >= first[:, None])).astype(float)


# Two-way fixed effects


def by_dummies(Y, D, w, labels) -> tuple[float, float]:
    """Coefficient from a regression on dummies, and its CR1 standard error term by term."""
    i, t = np.nonzero(np.isfinite(Y) & np.isfinite(D) & (w > 0))
    X = np.column_stack([D[i, t], i[:, None] == np.unique(i), t[:, None] == np.unique(t)]).astype(float)
    root = np.sqrt(w[i, t])
    beta = np.linalg.lstsq(X * root[:, None], Y[i, t] * root, rcond=None)[0]
    residual = Y[i, t] - X @ beta
    left = D[i, t] - X[:, 1:] @ np.linalg.lstsq(X[:, 1:] * root[:, None], D[i, t] * root, rcond=None)[0]
    spread = (w[i, t] * left * D[i, t]).sum()
    sums = [(w[i, t] * left * residual)[labels[i] == one].sum() for one in np.unique(labels[i])]
    G = len(sums)
    return beta[0], np.sqrt(G / (G - 1) * sum(s**2 for s in sums)) / spread


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(8, 6), (5, 9)])
@pytest.mark.parametrize("dose", [False, True])
def test_fixed_effects_equal_the_regression_on_dummies(seed, shape, dose):
    rng = rng_of(seed)
    Y, D = rng.normal(size=shape), rng.normal(size=shape) if dose else rng.integers(0, 2, shape).astype(float)
    Y[rng.random(shape) < 0.2] = np.nan
    D[0, 1] = np.nan
    w, labels = rng.uniform(0.1, 5.0, shape) * 1e6, np.arange(shape[0]) // 2

    found = two_way_fixed_effects(Y, D, units=labels.astype(str), weights=w)

    effect, se = by_dummies(Y, D, w, labels)
    assert found.effect == pytest.approx(effect, rel=CANCELLED)
    assert found.se == pytest.approx(se, rel=CANCELLED)
    half = stats.t.ppf(0.975, len(np.unique(labels)) - 1) * found.se
    assert (found.ci_upper - found.effect, found.effect - found.ci_lower) == pytest.approx((half, half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(effect / se), len(np.unique(labels)) - 1))


def test_two_periods_and_one_group_are_difference_in_differences_by_either():
    rng = rng_of(0)
    Y, first = 100 + rng.normal(size=(9, 2)), np.array([1, 1, 1, 1, -1, -1, -1, -1, -1])
    change = Y[:, 1] - Y[:, 0]
    plain = change[:4].mean() - change[4:].mean()

    two_way = two_way_fixed_effects(Y, in_force(first, 2))
    cells = group_time(Y, first, rng=rng)

    # Relative to the level of Y, 100.
    assert abs(two_way.effect - plain) < 100 * ROUNDING
    assert abs(cells.effect[0] - plain) < 100 * ROUNDING
    assert (two_way.n_units, two_way.n_treated, two_way.n_control) == (9, 4, 5)
    assert cells.se[0] == pytest.approx(np.sqrt(change[:4].var() / 4 + change[4:].var() / 5), rel=CANCELLED)
    assert two_way.se == pytest.approx(np.sqrt(9 / 8) * cells.se[0], rel=CANCELLED)


def test_negative_weights_by_hand():
    # A is treated from period 1, B from period 2. Residual treatment in treated cells: A 1/3, -1/6, B 1/6.
    D = [[0, 1, 1], [0, 0, 1]]
    weights = np.array([[0, 1, -0.5], [0, 0, 0.5]])
    rng = rng_of(0)
    effects = rng.normal(size=(2, 3))

    found = two_way_fixed_effects(np.array(D) * effects + rng.normal(size=(2, 1)) + rng.normal(size=3), D)

    assert found.effect == pytest.approx((weights * effects).sum(), rel=CANCELLED)
    assert found.negative_weight == pytest.approx(0.5)
    assert "may be negative" in found.estimand
    growing = two_way_fixed_effects([[0, 1, 4], [0, 0, 1]], D)
    # Effects of 1 at once and 4 a period later: 1 - .5 * 4 + .5 is outside their range.
    assert growing.effect == pytest.approx(-0.5)
    assert two_way_fixed_effects([[1.0, 2.0], [1.0, 5.0]], [[0, 0], [0, 1]]).negative_weight == 0.0


def test_weights_are_copies_and_zero_is_absent():
    rng = rng_of(1)
    Y, first = panel(rng)
    D, w = in_force(first, 6), np.resize([1, 3, 2, 0], 12)
    rows = np.repeat(np.arange(12), w)

    weighted = two_way_fixed_effects(Y, D, weights=w)
    copies = two_way_fixed_effects(Y[rows], D[rows], units=rows)
    cell_by_cell = two_way_fixed_effects(Y, D, weights=np.repeat(w[:, None], 6, axis=1))

    assert weighted.effect == pytest.approx(copies.effect, rel=CANCELLED)
    assert weighted.se == pytest.approx(copies.se, rel=CANCELLED)
    assert weighted == cell_by_cell
    assert weighted.n_units == copies.n_units == 9


def test_rows_seen_once_are_not_counted():
    rng = rng_of(9)
    Y, D = rng.normal(size=(8, 4)), np.resize([[0, 0, 1, 1], [0, 0, 0, 0]], (8, 4))
    once = np.where(np.eye(4) > 0, rng.normal(size=(4, 4)), np.nan)

    assert two_way_fixed_effects(np.r_[Y, once], np.r_[D, D[:4]]) == two_way_fixed_effects(
        np.r_[Y, np.full((4, 4), np.nan)], np.r_[D, D[:4]]
    )
    assert two_way_fixed_effects(np.r_[Y, once], np.r_[D, D[:4]]).n_units == 8


def test_fixed_effects_without_meaning_are_nan_with_a_reason():
    alone = two_way_fixed_effects([[1.0, 2.0], [1.0, 4.0]], [[0, 0], [0, 1]], units=["a", "a"])
    everyone = two_way_fixed_effects(np.eye(3), [[0, 0, 1]] * 3)
    constant = two_way_fixed_effects(np.eye(3), np.zeros((3, 3)))
    unseen = two_way_fixed_effects(np.full((3, 3), np.nan), np.eye(3))

    for found, said in [
        (alone, "1 assignment units"),
        (everyone, "follows from product and period alone"),
        (constant, "the same in all cells"),
        (unseen, "0 assignment units"),
    ]:
        assert np.isnan([found.effect, found.se, found.ci_lower, found.ci_upper, found.p_value]).all()
        assert said in str(found.reason)


# Group-time effects


def cell_by_hand(Y, first, g, t, control, a) -> float:
    """One 2x2 difference, product by product."""
    base = g - a - 1 if t >= g - a else t - 1
    changes: dict[bool, list[float]] = {True: [], False: []}
    for y, one in zip(Y, first, strict=True):
        if np.isnan(y[t]) or np.isnan(y[base]) or 0 <= one <= a:
            continue
        if one == g or one == -1 or (control == "not_yet" and one > t + a):
            changes[bool(one == g)].append(y[t] - y[base])
    return np.mean(changes[True]) - np.mean(changes[False]) if all(changes.values()) else np.nan


@pytest.mark.parametrize("control", ["never", "not_yet"])
@pytest.mark.parametrize("anticipation", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_every_cell_equals_its_2x2_difference(control, anticipation, seed):
    rng = rng_of(seed)
    Y, _ = panel(rng, n=14, T=7)
    first = rng.permutation(np.resize([-1, 2, 4, 5, 1], 14))

    found = group_time(Y, first, control=control, anticipation=anticipation, rng=rng)

    expected = [
        cell_by_hand(Y, first, g, t, control, anticipation) for g, t in zip(found.group, found.time, strict=True)
    ]
    np.testing.assert_allclose(found.effect, expected, atol=ROUNDING)
    groups = [g for g in (1, 2, 4, 5) if g > anticipation]
    assert list(zip(found.group, found.time, strict=True)) == list(product(groups, range(1, 7)))
    assert found.n_dropped == ((first >= 0) & (first <= anticipation)).sum()


CASTLE = castle.load_pandas().data


def castle_panel(column: str) -> np.ndarray:
    return CASTLE.pivot(index="sid", columns="year", values=column).to_numpy(dtype=float)


def castle_law() -> np.ndarray:
    """Whether the law is in force in any part of the year: `post` marks whole years, one later."""
    post = castle_panel("post")
    return np.column_stack([post[:, 1:], post[:, -1]])


def test_castle_doctrine_by_fixed_effects_is_published():
    Y, law = castle_panel("l_homicide"), castle_law()

    found = two_way_fixed_effects(Y, law)

    # Goodman-Bacon's decomposition of these data: .0818, log homicides, unweighted.
    assert round(found.effect, 4) == 0.0818
    assert round(found.se, 4) == 0.0583
    assert (found.n_units, found.n_treated, found.n_control) == (50, 21, 29)
    # A year later, or by population, it is another number.
    assert round(two_way_fixed_effects(Y, castle_panel("post")).effect, 4) == 0.0694
    assert round(two_way_fixed_effects(Y, law, weights=castle_panel("popwt")).effect, 4) == 0.0594


@pytest.mark.parametrize("control", ["never", "not_yet"])
def test_castle_doctrine_cell_by_cell(control):
    Y, law = castle_panel("l_homicide"), castle_law()
    first = np.where(law.any(axis=1), law.argmax(axis=1), -1)
    years = pd.DataFrame({"g": np.repeat(first, 11), "t": np.tile(np.arange(11), 50), "y": Y.ravel()})

    found = group_time(Y, first, control=control, rng=rng_of(0))

    assert len(found.effect) == 50
    for g, t, effect in zip(found.group, found.time, found.effect, strict=True):
        kept = years[(years.g == g) | (years.g == -1) | ((years.g > t) & (control == "not_yet"))]
        base = min(t, g) - 1
        means = kept[kept.t.isin([base, t])].assign(own=kept.g == g).groupby(["own", "t"]).y.mean()
        difference = (means[True, t] - means[True, base]) - (means[False, t] - means[False, base])
        assert effect == pytest.approx(difference, abs=ROUNDING)
    # Florida and one more state adopted alone in their years.
    assert np.isnan(found.se[np.isin(found.group, [5, 9])]).all()
    assert np.isfinite(found.se[~np.isin(found.group, [5, 9])]).all()
    assert found.reason == "20 of 50 cells rest on one unit on a side: no standard error."


# Yearly changes of log teen employment in 500 counties, 2003 to 2007, by the year of a first minimum wage above the
# federal one (`mpdta` of the R package did): counties, means, rows of the covariance with divisor n. The estimator uses
# nothing else of the data.
MINIMUM_WAGE = {
    -1: (
        309,
        [-0.06263, 0.0128084, 0.0340878, 0.0222363],
        [0.0295813],
        [-0.00945213, 0.02271152],
        [0.00202201, -0.0057492, 0.04005384],
        [0.00063595, -0.00130025, -0.01227083, 0.0265266],
    ),
    1: (
        20,
        [-0.0731333, -0.0471115, -0.0327477, 0.0586836],
        [0.00889757],
        [-0.00238673, 0.01291594],
        [0.00118751, -0.00155135, 0.00596772],
        [-0.00551558, 0.00160553, -0.0044924, 0.0138224],
    ),
    3: (
        40,
        [-0.0561099, 0.0100576, 0.0294932, -0.0143936],
        [0.0179363],
        [0.00233649, 0.01236149],
        [-0.00015668, -0.00268395, 0.00742492],
        [-0.00078674, 0.00188998, -0.00319066, 0.00988328],
    ),
    4: (
        131,
        [-0.0321234, 0.0100825, 0.0030007, -0.0038182],
        [0.0170661],
        [-0.00338525, 0.02558735],
        [0.00165182, -0.00686277, 0.02488756],
        [0.00114191, -7.44e-05, -0.00714837, 0.02509396],
    ),
}
# att_gt of did, standard errors without bootstrap: effects, then standard errors, a row per group.
GROUP_TIME = {
    "never": (
        [-0.010503, -0.070423, -0.137259, -0.100811],
        [0.006520, -0.002751, -0.004595, -0.041224],
        [0.030507, -0.002726, -0.031087, -0.026054],
        [0.023251, 0.030985, 0.036436, 0.034359],
        [0.023327, 0.019559, 0.017755, 0.020229],
        [0.015034, 0.016396, 0.017878, 0.016655],
    ),
    "not_yet": (
        [-0.019372, -0.078319, -0.136274, -0.100811],
        [-0.002563, -0.001939, 0.004661, -0.041224],
        [0.029759, -0.002411, -0.031087, -0.026054],
        [0.022310, 0.030390, 0.035403, 0.034359],
        [0.022530, 0.019042, 0.016336, 0.020229],
        [0.014534, 0.016031, 0.017878, 0.016655],
    ),
}
# aggte of did: effects, standard errors, overall effect, its standard error.
AGGREGATES = {
    ("never", "simple"): ([], [], -0.039951, 0.012034),
    ("never", "group"): ([-0.079749, -0.022910, -0.026054], [0.026368, 0.016703, 0.016655], -0.031018, 0.012446),
    ("never", "dynamic"): (
        [0.030507, -0.000563, -0.024459, -0.019932, -0.050957, -0.137259, -0.100811],
        [0.015034, 0.013292, 0.014236, 0.011826, 0.016893, 0.036436, 0.034359],
        -0.077240,
        0.019965,
    ),
    ("not_yet", "simple"): ([], [], -0.039764, 0.012052),
    ("not_yet", "group"): ([-0.083694, -0.018282, -0.026054], [0.025702, 0.015922, 0.016655], -0.030462, 0.012575),
    ("not_yet", "dynamic"): (
        [0.029759, -0.002446, -0.024269, -0.018922, -0.053589, -0.136274, -0.100811],
        [0.014534, 0.013120, 0.014464, 0.012045, 0.016946, 0.035403, 0.034359],
        -0.077399,
        0.019560,
    ),
}


def minimum_wage() -> tuple[np.ndarray, np.ndarray]:
    """A panel (500, 5) with these moments, and its first treated periods."""
    outcomes, first = [], []
    for g, (n, mean, *lower) in MINIMUM_WAGE.items():
        covariance = np.zeros((4, 4))
        covariance[np.tril_indices(4)] = np.concatenate(lower)
        covariance += np.tril(covariance, -1).T
        noise = rng_of(n).normal(size=(n, 4))
        white = np.linalg.qr(noise - noise.mean(axis=0))[0] * np.sqrt(n)
        change = mean + white @ np.linalg.cholesky(covariance).T
        outcomes.append(np.column_stack([np.zeros(n), change.cumsum(axis=1)]))
        first.append(np.full(n, g))
    return np.concatenate(outcomes), np.concatenate(first)


@pytest.mark.parametrize("control", ["never", "not_yet"])
def test_minimum_wage_is_published(control):
    found = group_time(*minimum_wage(), control=control, rng=rng_of(0))

    published = np.ravel(GROUP_TIME[control])
    np.testing.assert_allclose(found.effect, published[:12], atol=MOMENT_ROUNDING)
    np.testing.assert_allclose(found.se, published[12:], atol=MOMENT_ROUNDING)
    # The reference's band takes 2.7 standard errors over twelve cells.
    assert 2.6 < found.critical_value < 2.9
    for kind in KINDS:
        effect, se, overall, overall_se = AGGREGATES[control, kind]
        one = aggregate(found, kind, rng=rng_of(0))
        np.testing.assert_allclose(one.effect, effect, atol=MOMENT_ROUNDING)
        np.testing.assert_allclose(one.se, se, atol=MOMENT_ROUNDING)
        assert one.overall_effect == pytest.approx(overall, abs=MOMENT_ROUNDING)
        assert one.overall_se == pytest.approx(overall_se, abs=MOMENT_ROUNDING)
        assert one.overall_p_value == pytest.approx(2 * stats.t.sf(-overall / overall_se, 190), rel=2e-3)


def test_aggregates_by_hand():
    # Two never treated; two first treated in period 1; one in period 2.
    Y = [[0.0, 1, 1], [0, 1, 1], [0, 3, 5], [0, 5, 9], [0, 1, 4]]
    found = group_time(Y, [-1, -1, 1, 1, 2], rng=rng_of(0))
    simple, dynamic, group = (aggregate(found, kind, rng=rng_of(0)) for kind in KINDS)

    np.testing.assert_allclose(found.effect, [4 - 1, 7 - 1, 1 - 1, 3 - 0])
    assert simple.overall_effect == pytest.approx((2 * 3 + 2 * 6 + 1 * 3) / 5)
    assert simple.at.size == simple.effect.size == 0
    # Units 2 and 3 move the mean by -.2 - .4 and .2 + .4. Who is in a group moves its weight: one more product with
    # effects 3 and 6 instead of 4.2 adds (-1.2 + 1.8) / 5, one with 3 adds -1.2 / 5.
    assert simple.overall_se == pytest.approx(np.sqrt((0.12 - 0.6) ** 2 + (0.12 + 0.6) ** 2 + 0.24**2))
    assert dynamic.at.tolist() == [-1, 0, 1]
    np.testing.assert_allclose(dynamic.effect, [0, (2 * 3 + 1 * 3) / 3, 6])
    assert dynamic.overall_effect == pytest.approx((3 + 6) / 2)
    # Units 2 and 3: (-1/3 - 1) / 2 and (1/3 + 1) / 2; both groups have effect 3 at 0, so no weight matters.
    assert dynamic.overall_se == pytest.approx(np.sqrt(2 * (2 / 3) ** 2))
    assert group.at.tolist() == [1, 2]
    np.testing.assert_allclose(group.effect, [4.5, 3])
    assert group.overall_effect == pytest.approx((2 * 4.5 + 1 * 3) / 3)
    # Units 2 and 3: 2/3 of -.75 and .75, and (4.5 - 4) / 3; unit 4: (3 - 4) / 3.
    assert group.overall_se == pytest.approx(np.sqrt((1 / 6 - 0.5) ** 2 + (1 / 6 + 0.5) ** 2 + 1 / 9))
    assert np.isnan(group.se[1])
    assert group.reason == "1 of 2 groups are one unit; the se lacks their own spread."


def test_missing_cells_leave_only_their_differences():
    Y = np.array([[0.0, 1, 1], [0, 1, 4], [0, 3, 5], [0, 5, np.nan]])
    found = group_time(Y, [np.nan, -1, 1, 1], rng=rng_of(0))

    np.testing.assert_allclose(found.effect, [4 - 1, 5 - 2.5])
    assert found.n_treated.tolist() == [2, 1]
    assert found.n_control.tolist() == [2, 2]
    assert np.isfinite(found.se[0])
    assert np.isnan(found.se[1])
    never_seen = group_time(np.r_[Y, np.full((2, 3), np.nan)], [np.nan, -1, 1, 1, 2, -1], rng=rng_of(0))
    np.testing.assert_array_equal(never_seen.effect, found.effect)
    assert never_seen.n_dropped == 2


def test_degrees_of_freedom_are_those_of_the_smaller_side():
    rng = rng_of(10)
    # Nine products start in period 1, four in 2, five in 3; three never.
    Y, first = rng.normal(size=(21, 4)), np.repeat([1, 2, 3, -1], [9, 4, 5, 3])
    found = group_time(Y, first, control="not_yet", rng=rng)
    dynamic = aggregate(found, "dynamic", rng=rng)

    def freedom(lower, effect, se):
        return [next(n for n in range(1, 20) if np.isclose(q, stats.t.ppf(0.975, n))) for q in (effect - lower) / se]

    # Controls 12, 8, 3 for group 1; 8, 8, 3 for group 2; 7, 3, 3 for group 3.
    assert freedom(found.ci_lower, found.effect, found.se) == [8, 7, 2, 3, 3, 2, 4, 2, 2]
    # Two periods before there is group 3 against seven; at all other times a cell against three.
    assert freedom(dynamic.ci_lower, dynamic.effect, dynamic.se) == [4, 2, 2, 2, 2]


def test_standard_error_and_critical_value_are_those_of_drawn_signs():
    rng = rng_of(2)
    Y, first = rng.normal(size=(40, 5)).cumsum(axis=1), np.resize([2, -1, 3, -1], 40)
    units = np.arange(40) // 2 % 10

    found = group_time(Y, first, units=units, n_replicates=4000, rng=rng)

    signs = rng.choice([-1.0, 1.0], (4000, 10))
    drawn = np.empty((4000, len(found.effect)))
    for k, (g, t) in enumerate(zip(found.group, found.time, strict=True)):
        change = Y[:, t] - Y[:, min(t, g) - 1]
        parts = [np.where(first == s, change - change[first == s].mean(), 0) / (first == s).sum() for s in (g, -1)]
        drawn[:, k] = (signs[:, units] * (parts[0] - parts[1])).sum(axis=1)
    np.testing.assert_allclose(found.se, drawn.std(axis=0), rtol=DRAWN)
    largest = np.quantile(np.abs(drawn / found.se).max(axis=1), 0.95)
    assert found.critical_value == pytest.approx(largest, rel=DRAWN)
    assert (found.band_upper >= found.ci_upper).all()
    # Five units hold rows of a group, all ten hold controls.
    np.testing.assert_allclose(found.ci_upper - found.effect, stats.t.ppf(0.975, 5 - 1) * found.se)
    np.testing.assert_allclose(found.effect - found.ci_lower, stats.t.ppf(0.975, 5 - 1) * found.se)
    tail = stats.norm.cdf(found.critical_value)
    np.testing.assert_allclose(found.band_upper - found.effect, stats.t.ppf(tail, 5 - 1) * found.se)


def everything(Y, first, units=None, control="never") -> dict[str, np.ndarray]:
    """All effects and standard errors of a panel."""
    two_way = two_way_fixed_effects(Y, in_force(first, Y.shape[1]), units=units)
    found = group_time(Y, first, control=control, units=units, n_replicates=20, rng=rng_of(0))
    ends = [aggregate(found, kind, n_replicates=20, rng=rng_of(0)) for kind in KINDS]
    return {
        "two_way": np.array([two_way.effect, two_way.se]),
        "cells": np.column_stack([found.effect, found.se]),
        "parts": np.concatenate([np.column_stack([one.effect, one.se]) for one in ends]),
        "overall": np.array([[one.overall_effect, one.overall_se] for one in ends]),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=CANCELLED, atol=CANCELLED, err_msg=name)


@pytest.mark.parametrize("control", ["never", "not_yet"])
def test_invariances(control):
    rng = rng_of(4)
    Y, first = panel(rng, n=24)
    units, turn = np.arange(24) // 2, rng.permutation(24)
    base = everything(Y, first, units, control)
    names = rng.permutation(12)[units].astype(str)

    assert_same(everything(Y[turn], first[turn], units[turn], control), base)
    assert_same(everything(Y, first, names, control), base)
    shifted = Y + 100 * rng.normal(size=(24, 1)) + 100 * rng.normal(size=6)
    assert_same(everything(shifted, first, units, control), base)
    scaled = everything(-3.0 * Y, first, units, control)
    assert_same({name: values / np.array([-3.0, 3.0]) for name, values in scaled.items()}, base)


def test_ten_copies_are_one():
    rng = rng_of(5)
    Y, first = panel(rng, n=18)
    rows = np.repeat(np.arange(18), 10)

    once, copied = everything(Y, first), everything(Y[rows], first[rows], rows)

    assert_same(copied, once)
    # Copies that pass for units of their own would shrink it.
    alone = everything(Y[rows], first[rows])
    assert (alone["overall"][:, 1] < 0.4 * once["overall"][:, 1]).all()


def test_row_order_does_not_move_the_band():
    rng = rng_of(6)
    Y, first = panel(rng, n=20)
    units, turn = np.arange(20), rng.permutation(20)

    one = group_time(Y, first, units=units, rng=rng_of(0))
    other = group_time(Y[turn], first[turn], units=units[turn], rng=rng_of(0))

    np.testing.assert_allclose(other.band_lower, one.band_lower, atol=CANCELLED)


def test_nothing_to_compare_is_nan_with_a_reason():
    rng = rng_of(7)
    Y = rng.normal(size=(8, 4))
    late = group_time(Y, np.resize([2, 3], 8), rng=rng)
    not_yet = group_time(Y, np.resize([2, 3], 8), control="not_yet", rng=rng)
    untreated = group_time(Y, np.full(8, -1), rng=rng)
    from_the_start = group_time(Y, np.resize([0, -1], 8), rng=rng)

    assert np.isnan(late.effect).all()
    assert "control='not_yet'" in str(late.reason)
    assert aggregate(late, rng=rng).reason == late.reason
    # Group 2 has group 3 as control until it starts; then there is none.
    assert np.isfinite(not_yet.effect).tolist() == [True, True, False, True, False, False]
    assert "3 of 6 cells" in str(not_yet.reason)
    partial = aggregate(not_yet, "group", rng=rng)
    assert partial.overall_effect == not_yet.effect[1]
    assert "2 of 3 treated cells have no effect" in str(partial.reason)
    for found in (untreated, from_the_start):
        assert found.effect.size == 0
        assert "no group" in str(found.reason)
        for kind in KINDS:
            one = aggregate(found, kind, rng=rng)
            assert np.isnan([one.overall_effect, one.overall_se, one.overall_p_value]).all()
            assert one.reason == found.reason
    assert from_the_start.n_dropped == 4


# Coverage

FEW = 200
FEW_HITS = stats.binom.interval(0.999, FEW, 0.95)


@pytest.mark.parametrize("n_treated", [4, 8])
def test_fixed_effects_cover_with_few_treated_units(n_treated):
    """t with all units less one covers .85 to .91 here."""
    rng, first = rng_of(20 + n_treated), np.full(40 + n_treated, -1)
    first[:n_treated] = np.array([4, 6])[np.arange(n_treated) % 2]
    D, since = in_force(first, 10), np.arange(10) >= 4
    hits = 0
    for _ in range(FEW):
        Y = rng.normal(size=D.shape) + since * rng.normal(size=(len(D), 1))
        found = two_way_fixed_effects(Y, D)
        hits += found.ci_lower < 0.0 < found.ci_upper
    assert FEW_HITS[0] <= hits <= FEW_HITS[1]


@pytest.mark.parametrize("n_treated", [1, 9])
def test_one_unit_alone_on_a_side_has_no_standard_error(n_treated):
    rng = rng_of(30)
    first = np.where(np.arange(20) // 2 < n_treated, 3, -1)
    Y, D, units = rng.normal(size=(20, 6)), in_force(first, 6), np.arange(20) // 2
    found = two_way_fixed_effects(Y, D, units=units)
    assert np.isfinite(found.effect)
    assert np.isnan([found.se, found.ci_lower, found.ci_upper, found.p_value]).all()
    assert found.reason == "1 assignment unit is ever treated, or never: no standard error."
    two = two_way_fixed_effects(Y, in_force(np.where(np.arange(20) // 2 < 2, 3, -1), 6), units=units)
    freedom = (1 / 2 + 1 / 8) ** 2 / (1 / 4 + 1 / (64 * 7))
    assert two.ci_upper - two.effect == pytest.approx(stats.t.ppf(0.975, freedom) * two.se)
    assert two.reason is None


REPETITIONS = 300
# All but one in a thousand sound intervals miss so often.
HITS = stats.binom.interval(0.999, REPETITIONS, 0.95)
EARLY, LATE, T = 2, 5, 8


def effect_of(first: np.ndarray) -> np.ndarray:
    """Effects that grow by period, twice as fast in the early group."""
    since = np.arange(T) - first[:, None]
    return np.where((first[:, None] >= 0) & (since >= 0), np.where(first[:, None] == EARLY, 1.0, 0.5) * (since + 1), 0)


def true_overall() -> dict[str, float]:
    """Overall effects with a third of products in the early group, a third in the late one."""
    early, late = (effect_of(np.array([g]))[0, g:] for g in (EARLY, LATE))
    by_time = [*((early[: len(late)] + late) / 2), *early[len(late) :]]
    return {
        "simple": np.concatenate([early, late]).mean(),
        "dynamic": np.mean(by_time),
        "group": (early.mean() + late.mean()) / 2,
    }


def test_group_time_covers_where_fixed_effects_do_not():
    rng, truth = rng_of(8), true_overall()
    hits = dict.fromkeys([*KINDS, "cell", "band", "two_way"], 0)
    errors = {name: [] for name in [*KINDS, "two_way"]}
    for _ in range(REPETITIONS):
        first = rng.choice([-1, EARLY, LATE], 90)
        noise = rng.normal(size=(90, 1)) + 0.5 * rng.normal(size=(90, T)).cumsum(axis=1)
        Y = effect_of(first) + noise + rng.normal(size=T)
        found = group_time(Y, first, n_replicates=199, rng=rng)
        true_cells = np.array([effect_of(np.array([g]))[0, t] for g, t in zip(found.group, found.time, strict=True)])
        hits["cell"] += found.ci_lower[5] < true_cells[5] < found.ci_upper[5]
        hits["band"] += bool(((found.band_lower < true_cells) & (true_cells < found.band_upper)).all())
        for kind in KINDS:
            one = aggregate(found, kind, n_replicates=2, rng=rng)
            errors[kind].append(one.overall_effect - truth[kind])
            hits[kind] += one.overall_ci_lower < truth[kind] < one.overall_ci_upper
        two_way = two_way_fixed_effects(Y, in_force(first, T))
        errors["two_way"].append(two_way.effect - truth["group"])
        hits["two_way"] += two_way.ci_lower < truth["group"] < two_way.ci_upper

    assert {name: n for name, n in hits.items() if not HITS[0] <= n <= HITS[1]} == {"two_way": hits["two_way"]}
    assert hits["two_way"] < REPETITIONS / 2
    for kind in KINDS:
        # Four standard errors of the mean of 300 estimates.
        assert abs(np.mean(errors[kind])) < 4 * np.std(errors[kind]) / np.sqrt(REPETITIONS)
    # Effects average 2.25 over groups.
    assert np.mean(errors["two_way"]) < -0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcome": np.ones(4)}, "outcome.shape"),
        ({"first_treated": [0, 1]}, "first_treated.shape"),
        ({"first_treated": [0, 1, 2, 3]}, "first_treated == .3.0., must be in 0..2"),
        ({"first_treated": [0, 1, 1.5, -1]}, "first_treated == .1.5."),
        ({"control": "late"}, "control == 'late'"),
        ({"anticipation": -1}, "anticipation == -1"),
        ({"n_replicates": 1}, "n_replicates == 1"),
        ({"confidence": 1.0}, "confidence == 1.0"),
        ({"units": ["a", None, "b", "c"]}, "1 missing labels"),
        ({"units": ["a"]}, "units.shape"),
    ],
)
def test_group_time_refusals(change, said):
    given = {"outcome": np.zeros((4, 3)), "first_treated": [1, -1, 2, -1], "rng": rng_of(0)} | change
    with pytest.raises(ValueError, match=said):
        group_time(**given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"treated": np.ones((4, 2))}, "treated.shape"),
        ({"weights": [1.0, 2.0]}, "weights.shape"),
        ({"weights": [1.0, -1.0, 1.0, 1.0]}, "weights.shape"),
        ({"units": [1, 2]}, "units.shape"),
        ({"confidence": 0.0}, "confidence == 0.0"),
    ],
)
def test_fixed_effects_refusals(change, said):
    given = {"outcome": np.zeros((4, 3)), "treated": np.zeros((4, 3))} | change
    with pytest.raises(ValueError, match=said):
        two_way_fixed_effects(**given)


def test_aggregate_refuses_unknown_kinds():
    found = group_time(np.zeros((4, 3)), [1, -1, 2, -1], rng=rng_of(0))
    with pytest.raises(ValueError, match="kind == 'calendar'"):
        aggregate(found, "calendar", rng=rng_of(0))

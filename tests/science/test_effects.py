from itertools import product

import numpy as np
import pytest

from pricelab_dagster.science.affinity import Leaves, fit_leaves
from pricelab_dagster.science.effects import hajek, second_difference

METHODS = ["residual", "leaf", "doubly_robust"]
# Sums of a few hundred terms of order one, in two orders.
ROUNDING = 1e-12


def random_leaves(n: int, n_trees: int, n_leaves: int, rng: np.random.Generator) -> Leaves:
    leaf = rng.integers(0, n_leaves, (n, n_trees)).astype(np.int32)
    return Leaves(leaf, rng.random((n, n_trees)) < 0.7, n_trees, None)


def neighbours(leaves: Leaves, units: np.ndarray, i: int, tree: int) -> np.ndarray:
    same = leaves.leaf[:, tree] == leaves.leaf[i, tree]
    return np.flatnonzero(leaves.in_honest[:, tree] & same & (units != units[i]))


def leaf_mean(values: np.ndarray, w: np.ndarray, leaves: Leaves, units: np.ndarray, i: int) -> float:
    """Mean over trees of the neighbours' weighted mean, term by term; nan without neighbours."""
    means = []
    for tree in range(leaves.n_trees):
        rows = [j for j in neighbours(leaves, units, i, tree) if w[j] > 0]
        if rows:
            means.append(sum(w[j] * values[j] for j in rows) / sum(w[j] for j in rows))
    return sum(means) / len(means) if means else np.nan


def residual_by_loops(D, W, w, leaves, units) -> tuple[float, int]:
    """The residual formula over (N, T) centred cells, nan where not analysed, and the number of cells dropped."""
    numerator = denominator = 0.0
    n_dropped = 0
    for i, t in product(range(len(D)), range(D.shape[1])):
        w_t = np.where(np.isnan(D[:, t]), 0.0, w)
        if w_t[i] == 0:
            continue
        m, e = (leaf_mean(np.nan_to_num(v[:, t]), w_t, leaves, units, i) for v in (D, W))
        if np.isnan(m):
            n_dropped += 1
            continue
        numerator += w[i] * (W[i, t] - e) * (D[i, t] - m)
        denominator += w[i] * (W[i, t] - e) ** 2
    return numerator / denominator, n_dropped


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("leaves", [None, Leaves.single(9)])
def test_one_leaf_is_the_plain_difference(method, leaves):
    rng = np.random.default_rng(0)
    D, W = 100 + rng.normal(size=9), np.array([1, 0, 0, 1, 0, 1, 0, 0, 0])
    w, units = rng.integers(0, 4, 9), rng.integers(0, 5, 9)

    plain = second_difference(D, W, leaves, method=method).effect
    weighted = second_difference(D, W, leaves, units=units, weights=w, method=method).effect

    # Relative to the level of D, 100.
    assert abs(plain - (D[W == 1].mean() - D[W == 0].mean())) < 100 * ROUNDING
    expected = np.average(D[W == 1], weights=w[W == 1]) - np.average(D[W == 0], weights=w[W == 0])
    assert abs(weighted - expected) < 100 * ROUNDING


def test_two_leaves_by_hand():
    # Leaf 0: treated 5, 7, control 1. Leaf 1: treated 20, controls 10, 12. Everyone may be averaged.
    D, W = [5.0, 7.0, 1.0, 20.0, 10.0, 12.0], [1, 1, 0, 1, 0, 0]
    leaves = Leaves(np.array([[0], [0], [0], [1], [1], [1]], np.int32), np.ones((6, 1), bool), 1, None)

    def effect(method, estimand):
        return second_difference(D, W, leaves, method=method, estimand=estimand).effect

    # Within leaves 6 - 1 = 5 and 20 - 11 = 9; weights 3, 3; 2, 1; 2/3, 2/3.
    assert effect("leaf", "ate") == pytest.approx(7.0)
    assert effect("leaf", "att") == pytest.approx(19 / 3)
    assert effect("leaf", "overlap") == pytest.approx(7.0)
    # Without the own unit W - e is .5, .5, -1 and 1, -.5, -.5, D - m is 1, 4, -5 and 9, -6, -3: 21 / 3.
    assert effect("residual", "ate") == pytest.approx(7.0)
    # An m0 needs another control in the leaf; product 2, its leaf's one control, has none.
    # ATT over 0, 1, 3, 4, 5: m = 4, 3, 11, 16, 15 and e = .5, .5, 0, .5, .5 of the others, m0 = m - 7 e = .5, -.5, 11,
    # 12.5, 11.5, controls have e / (1 - e) = 1: (4.5 + 7.5 + 9 - (10 - 12.5) - (12 - 11.5)) / 3.
    assert effect("doubly_robust", "att") == pytest.approx(23 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_residual_equals_its_formula_with_masks_units_and_weights(seed):
    rng = np.random.default_rng(seed)
    n = 8
    D, W = rng.normal(size=n), np.r_[1.0, 0.0, rng.integers(0, 2, n - 2)]
    leaves, units = random_leaves(n, 5, 2, rng), np.array(list("abbcadee"))
    w = np.r_[1, 1, rng.integers(0, 4, n - 2)]

    found = second_difference(D, W, leaves, units=units, weights=w)

    expected, n_dropped = residual_by_loops(D[:, None], W[:, None], w, leaves, units)
    assert found.effect == pytest.approx(expected, rel=ROUNDING)
    assert found.n_dropped == n_dropped


@pytest.mark.parametrize("seed", range(3))
def test_residual_of_cells_equals_its_formula(seed):
    rng = np.random.default_rng(seed)
    n, T = 8, 6
    R, W = rng.normal(size=(n, T)), rng.integers(0, 2, (n, T)).astype(float)
    W[2, :3] = W[:, 4] = R[3, 5] = np.nan
    leaves, units, w = random_leaves(n, 4, 2, rng), np.array(list("abbcadee")), rng.integers(0, 3, n)
    valid = np.isfinite(R) & np.isfinite(W)
    centred = [np.where(valid, v, np.nan) - np.nanmean(np.where(valid, v, np.nan), axis=1)[:, None] for v in (R, W)]

    found = second_difference(R, W, leaves, units=units, weights=w)

    expected, n_dropped = residual_by_loops(*centred, w, leaves, units)
    assert found.effect == pytest.approx(expected, rel=ROUNDING)
    assert found.n_dropped == n_dropped


def test_doubly_robust_equals_its_formula():
    rng = np.random.default_rng(3)
    n = 40
    D, W = rng.normal(size=n), rng.integers(0, 2, n).astype(float)
    leaves, units, w = random_leaves(n, 3, 3, rng), np.arange(n) // 2, rng.integers(0, 3, n).astype(float)
    raw = np.array([leaf_mean(W, w, leaves, units, i) for i in range(n)])
    m = np.array([leaf_mean(D, w, leaves, units, i) for i in range(n)])
    assert np.isfinite([raw, m]).all()
    assert ((raw > 0) & (raw < 1)).all(), "everyone has neighbours in both arms"
    tau, _ = residual_by_loops(D[:, None], W[:, None], w, leaves, units)
    e, m0, m1 = np.clip(raw, 0.02, 0.98), m - raw * tau, m + (1 - raw) * tau

    att, ate = (
        second_difference(D, W, leaves, units=units, weights=w, method="doubly_robust", estimand=name).effect
        for name in ("att", "ate")
    )

    scores = m1 - m0 + W * (D - m1) / e - (1 - W) * (D - m0) / (1 - e)
    assert att == pytest.approx((w * (W - (1 - W) * e / (1 - e)) * (D - m0)).sum() / (w * W).sum(), rel=ROUNDING)
    assert ate == pytest.approx((w * scores).sum() / w.sum(), rel=ROUNDING)


@pytest.mark.parametrize(("method", "cells"), [*product(METHODS, [False]), ("residual", True), ("leaf", True)])
def test_constant_effect_without_noise_comes_back(method, cells):
    rng = np.random.default_rng(4)
    n = 60
    leaves = random_leaves(n, 6, 4, rng)
    W = rng.integers(0, 2, (n, 10) if cells else n).astype(float)
    D = 2.5 * W + (rng.normal(size=(n, 1)) + rng.normal(size=10) if cells else 7.0)

    assert second_difference(D, W, leaves, method=method).effect == pytest.approx(2.5, rel=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_invariances(method):
    rng = np.random.default_rng(5)
    n = 80
    D, W, units = rng.normal(size=n), rng.integers(0, 2, n), rng.integers(0, 50, n)
    leaves = random_leaves(n, 6, 4, rng)

    def effect(D=D, W=W, leaves=leaves, units=units):
        return second_difference(D, W, leaves, units=units, method=method).effect

    base, turn, names = effect(), rng.permutation(n), rng.permutation(50)
    assert effect(D=3.0 * D + 5.0) == pytest.approx(3.0 * base, rel=1e-9)
    assert effect(W=1 - W) == pytest.approx(-base, rel=1e-9)
    assert effect(units=names[units].astype(str)) == pytest.approx(base, rel=1e-9)
    recoded = Leaves(3 - leaves.leaf, leaves.in_honest, leaves.n_trees, None)
    assert effect(leaves=recoded) == pytest.approx(base, rel=1e-9)
    turned = Leaves(leaves.leaf[turn], leaves.in_honest[turn], leaves.n_trees, None)
    assert effect(D[turn], W[turn], turned, units[turn]) == pytest.approx(base, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_copies_and_missing_rows_are_absent(method):
    rng = np.random.default_rng(6)
    n = 40
    D, W, w = rng.normal(size=n), rng.integers(0, 2, n).astype(float), rng.integers(0, 4, n)
    leaves = random_leaves(n, 5, 3, rng)
    rows = np.repeat(np.arange(n), w)
    copied = Leaves(leaves.leaf[rows], leaves.in_honest[rows], leaves.n_trees, None)
    D_missing, W_missing = np.where(np.arange(n) == 3, np.nan, D), np.where(np.arange(n) == 5, np.nan, W)

    weighted = second_difference(D, W, leaves, weights=w, method=method)
    copies = second_difference(D[rows], W[rows], copied, units=rows, method=method)
    missing = second_difference(D_missing, W_missing, leaves, method=method)
    absent = second_difference(D, W, leaves, weights=~np.isin(np.arange(n), [3, 5]), method=method)

    assert weighted.effect == pytest.approx(copies.effect, rel=1e-10)
    assert weighted.two_arm_share == pytest.approx(copies.two_arm_share)
    assert missing == absent


def test_single_leaf_of_cells_takes_out_product_and_day():
    rng = np.random.default_rng(7)
    n, T = 12, 8
    W = rng.integers(0, 2, (n, T)).astype(float)
    R = rng.normal(size=(n, T)) + 3 * rng.normal(size=(n, 1)) + 3 * rng.normal(size=T)
    dummies = np.column_stack([np.kron(np.eye(n), np.ones((T, 1))), np.tile(np.eye(T), (n, 1))[:, 1:], W.ravel()])

    regression = np.linalg.lstsq(dummies, R.ravel(), rcond=None)[0][-1]

    assert second_difference(R, W, None).effect == pytest.approx(regression, rel=1e-9)


def test_two_arm_share_by_hand():
    W = [1, 0, 1, 1, 0]
    leaf = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [2, 2]], np.int32)
    honest = np.ones((5, 2), bool)
    honest[1, 1] = False

    found = second_difference(np.arange(5.0), W, Leaves(leaf, honest, 2, None))

    # Tree 0: leaf 0 has both arms, 2 of 5. Tree 1: its only control in leaf 1 may not be averaged, 0 of 5.
    assert found.two_arm_share == pytest.approx((2 / 5 + 0) / 2)
    # The last product is alone in both trees; product 0 has a neighbour in tree 0.
    assert found.n_dropped == 1


def test_counts_and_reasons():
    alone = Leaves(np.arange(4, dtype=np.int32)[:, None], np.ones((4, 1), bool), 1, None)
    one_arm = second_difference([1.0, 2.0, np.nan], [1, 1, 0], None)
    apart = {method: second_difference([1.0, 2, 3, 4], [0, 1, 0, 1], alone, method=method) for method in METHODS}

    assert np.isnan(one_arm.effect)
    assert (one_arm.n_treated, one_arm.n_control) == (2, 0)
    assert "2 treated and 0 control" in str(one_arm.reason)
    for found in apart.values():
        assert np.isnan(found.effect)
        assert found.reason == "No leaf holds treated and control products: nothing to compare."
    assert apart["residual"].n_dropped == 4


@pytest.mark.parametrize("method", METHODS)
def test_leaves_of_one_arm_each_are_undefined_not_rounding(method):
    rng = np.random.default_rng(8)
    W = np.repeat([0.0, 1.0], 30)
    leaf = np.repeat(np.array([[0], [1]], np.int32), 30, axis=0)

    found = second_difference(
        rng.normal(size=60), W, Leaves(leaf, np.ones((60, 1), bool), 1, None), method=method, weights=rng.random(60)
    )

    assert np.isnan(found.effect)
    assert found.two_arm_share == 0.0


def test_clipping_is_counted():
    W = np.r_[1.0, np.zeros(99), 1.0, 0.0]
    leaf = np.r_[np.zeros(100, np.int32), 1, 1].astype(np.int32)[:, None]

    found = second_difference(
        np.arange(102.0), W, Leaves(leaf, np.ones((102, 1), bool), 1, None), method="doubly_robust", estimand="att"
    )

    # Leaf 0: the treated's e is 0, the controls' 1/99. Leaf 1: the treated's e is 0, its control has no m0.
    assert found.n_clipped == 101
    assert found.n_dropped == 1


@pytest.mark.parametrize("estimator", ["residual", "doubly_robust"])
def test_forest_removes_most_of_the_confounding(estimator):
    rng = np.random.default_rng(9)
    biases = []
    for _ in range(10):
        x = rng.normal(size=(500, 3))
        W = (rng.random(500) < 1 / (1 + np.exp(-1.2 * x[:, 0]))).astype(float)
        D = 0.5 * W + x[:, 0] + 0.5 * rng.normal(size=500)
        leaves = fit_leaves(x, D, n_trees=40, rng=rng)
        pair = [second_difference(D, W, found, method=estimator, estimand="att").effect for found in (None, leaves)]
        biases.append(np.array(pair) - 0.5)

    plain, like = np.mean(biases, axis=0)

    assert plain > 0.7
    # The target for the forest is 80 % of the bias.
    assert abs(like) < 0.2 * plain


def test_hajek_by_hand_and_over_all_draws():
    Y0, Y1, p = np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 6, 8]), np.array([0.25, 0.5, 0.5, 0.75])

    W = np.array([1, 0, 1, 0])
    found = hajek(np.where(W, Y1, Y0), W, p)
    assert found == pytest.approx((2 * 4 + 6 * 2) / (4 + 2) - (2 * 2 + 4 * 4) / (2 + 4))

    # Over every assignment the weighted sums before division average to the population totals.
    draws = np.array(list(product([0, 1], repeat=4)))
    chance = np.prod(np.where(draws == 1, p, 1 - p), axis=1)
    assert chance @ (draws / p @ Y1) == pytest.approx(Y1.sum())
    some = [
        (w, float(hajek(np.where(w, Y1, Y0), w, p)), c) for w, c in zip(draws, chance, strict=True) if 0 < w.sum() < 4
    ]
    constant = [float(hajek(Y0 * 0 + 3.0 * w, w, p)) for w, _, _ in some]
    np.testing.assert_allclose(constant, 3.0)


def test_hajek_of_many_weights_is_one_by_one_and_equal_odds_are_plain():
    rng = np.random.default_rng(10)
    D, W, p = rng.normal(size=30), rng.integers(0, 2, 30), rng.uniform(0.2, 0.8, 30)
    weights = rng.integers(0, 3, (30, 5))

    batch = hajek(D, W, p, weights=weights)

    np.testing.assert_allclose(batch, [hajek(D, W, p, weights=w) for w in weights.T])
    assert float(hajek(D, W, np.full(30, 0.3))) == pytest.approx(D[W == 1].mean() - D[W == 0].mean())
    assert np.isnan(hajek(D, np.ones(30), p))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": [0, 1, 2, 0]}, "arm == 2"),
        ({"arm": [0, 1]}, "arm.shape"),
        ({"weights": [1, -1, 1, 1]}, "weights.shape"),
        ({"units": [1, 2]}, "units.shape"),
        ({"units": ["a", None, "b", "c"]}, "1 missing labels"),
        ({"leaves": Leaves.single(3)}, "leaves has 3 rows"),
        ({"method": "mean"}, "method == 'mean'"),
        ({"estimand": "atc"}, "estimand == 'atc'"),
        ({"method": "doubly_robust", "estimand": "overlap"}, "estimand == 'overlap'"),
        ({"method": "doubly_robust", "first_difference": np.ones((4, 2)), "arm": np.ones((4, 2))}, "cells"),
    ],
)
def test_refusals(change, said):
    given = {"first_difference": np.arange(4.0), "arm": [0, 1, 0, 1], "leaves": None} | change
    with pytest.raises(ValueError, match=said):
        second_difference(**given)


def test_hajek_refusals():
    for p, weights, said in [
        ([0.5, 1.0], None, "probability"),
        ([0.5], None, "shapes"),
        ([0.5, 0.5], [1.0], "weights.shape"),
    ]:
        with pytest.raises(ValueError, match=said):
            hajek([1.0, 2.0], [0, 1], p, weights=weights)

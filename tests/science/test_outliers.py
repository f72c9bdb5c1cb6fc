"""The outlier filter: ranks by hand, duplicated rows, invariances and the bias that pooled cut-offs would cause."""

from typing import Any

import numpy as np
import pytest

from pricelab_dagster.science.outliers import keep_mask, winsorize

EXACT = 1e-12  # the same numbers in another order of addition


def brute_force_mask(D: Any, group: Any, c: Any, cap: Any) -> Any:
    """The rule for unit weights, product by product."""
    finite = [i for i in range(len(D)) if np.isfinite(D[i])]
    kept = np.zeros(len(D), dtype=bool)
    for a in {group[i] for i in finite}:
        rows = sorted((i for i in finite if group[i] == a), key=lambda i: (D[i], i))
        k = min(int(c * len(rows) / len(finite) + 0.5), int(cap * len(rows) + 1e-9))
        kept[rows[k : len(rows) - k]] = True
    return kept


def test_hand_worked_two_arms() -> None:
    # 40 treated and 60 control of 100: 5 x .4 = 2 and 5 x .6 = 3 at each end, the caps floor(.05 n) are 2 and 3.
    D = np.r_[np.arange(40.0), 1000.0 + np.arange(60.0)]
    kept = keep_mask(D, np.repeat(["t", "c"], [40, 60]))
    assert np.flatnonzero(~kept).tolist() == [0, 1, 38, 39, 40, 41, 42, 97, 98, 99]


def test_halves_round_up() -> None:
    # c n_a / N = 1.5 in each of two groups of 50: k = floor(1.5 + .5) = 2.
    kept = keep_mask(np.arange(100.0), np.repeat([0, 1], 50), c=3)
    assert (~kept).sum() == 8


def test_cap_binds_in_small_groups() -> None:
    assert keep_mask(np.arange(19.0), np.zeros(19)).all()
    assert (~keep_mask(np.arange(20.0), np.zeros(20))).sum() == 2
    assert (~keep_mask(np.arange(60.0), np.zeros(60))).sum() == 6


@pytest.mark.parametrize(("n_products", "cap", "cut"), [(60, 0.05, 3), (140, 0.05, 7), (100, 0.29, 29), (99, 0.29, 28)])
def test_cap_counts_whole_products(n_products: int, cap: float, cut: int) -> None:
    # 100 x .29 is 28.999999999999996 in floating point.
    assert (~keep_mask(np.arange(float(n_products)), np.zeros(n_products), c=1e6, cap=cap)).sum() == 2 * cut


@pytest.mark.parametrize("n_products", range(1, 9))
def test_brute_force_small(n_products: Any) -> None:
    rng = np.random.default_rng(n_products)
    for _ in range(50):
        D = rng.integers(-2, 3, n_products).astype(float)
        D[rng.random(n_products) < 0.2] = np.nan
        group = rng.integers(0, 2, n_products)
        c = rng.choice([0.0, 1.0, 2.5])
        np.testing.assert_array_equal(keep_mask(D, group, c=c, cap=0.45), brute_force_mask(D, group, c, 0.45))


def test_ties_go_by_position() -> None:
    kept = keep_mask(np.zeros(40), np.zeros(40), c=2)
    assert np.flatnonzero(~kept).tolist() == [0, 1, 38, 39]


def test_missing_is_not_kept_and_does_not_count() -> None:
    D = np.r_[np.arange(19.0), np.nan, np.inf]
    kept = keep_mask(D, np.zeros(21))
    assert kept[:19].all()
    assert not kept[19:].any()
    assert np.isnan(winsorize(D, np.zeros(21))[19:]).all()


def test_no_cut_at_zero() -> None:
    rng = np.random.default_rng(1)
    D, weights = rng.standard_cauchy(200), rng.poisson(1.0, (200, 5))
    assert keep_mask(D, np.zeros(200), c=0, weights=weights).all()
    np.testing.assert_array_equal(winsorize(D, np.zeros(200), c=0), D)


def test_invariance_to_shift_scale_order_and_labels() -> None:
    rng = np.random.default_rng(2)
    D, group = rng.normal(size=300), rng.integers(0, 3, 300)
    kept = keep_mask(D, group)
    np.testing.assert_array_equal(keep_mask(7.0 * D - 3.0, group), kept)
    np.testing.assert_array_equal(keep_mask(-D, group), kept)
    np.testing.assert_array_equal(keep_mask(D, np.array(["z", "a", "m"])[group]), kept)
    order = rng.permutation(300)
    np.testing.assert_array_equal(keep_mask(D[order], group[order]), kept[order])
    np.testing.assert_allclose(winsorize(7.0 * D - 3.0, group), 7.0 * winsorize(D, group) - 3.0, atol=EXACT)


def test_groups_are_cut_apart() -> None:
    rng = np.random.default_rng(3)
    arm = np.repeat([0, 1], 500)
    D = rng.normal(size=1_000) + 3.0 * arm
    kept = keep_mask(D, arm)
    apart = D[kept & (arm == 1)].mean() - D[kept & (arm == 0)].mean()
    pooled = keep_mask(D, np.zeros(1_000), c=50)
    together = D[pooled & (arm == 1)].mean() - D[pooled & (arm == 0)].mean()
    plain = D[arm == 1].mean() - D[arm == 0].mean()
    assert abs(apart - plain) < 0.05  # about one standard error of a mean of 500
    assert plain - together > 0.1  # what pooling would attenuate


def test_unit_weights_are_the_unweighted_rule() -> None:
    rng = np.random.default_rng(4)
    D, group = rng.normal(size=150), rng.integers(0, 2, 150)
    np.testing.assert_array_equal(keep_mask(D, group, weights=np.ones(150)), keep_mask(D, group))
    np.testing.assert_array_equal(winsorize(D, group, weights=np.ones(150)), winsorize(D, group))


def test_columns_are_replicates() -> None:
    rng = np.random.default_rng(5)
    D, group, weights = rng.normal(size=150), rng.integers(0, 2, 150), rng.poisson(1.0, (150, 40))
    kept, held = keep_mask(D, group, weights=weights), winsorize(D, group, weights=weights)
    assert kept.shape == held.shape == (150, 40)
    for b in range(40):
        np.testing.assert_array_equal(kept[:, b], keep_mask(D, group, weights=weights[:, b]))
        np.testing.assert_array_equal(held[:, b], winsorize(D, group, weights=weights[:, b]))


def test_whole_weights_are_duplicated_rows_up_to_the_row_astride_the_cut() -> None:
    rng = np.random.default_rng(6)
    astride = 0
    for _ in range(40):
        D, weights = rng.normal(size=80), rng.poisson(1.0, 80)
        kept = keep_mask(D, np.zeros(80), weights=weights)
        copies = np.repeat(np.arange(80), weights)
        share = np.bincount(copies, keep_mask(D[copies], np.zeros(len(copies))), minlength=80) / np.maximum(weights, 1)
        drawn = weights > 0
        whole = drawn & (share != np.round(share))
        astride += whole.sum()
        np.testing.assert_array_equal(kept[drawn & ~whole], share[drawn & ~whole] == 1.0)
        np.testing.assert_array_equal(kept[whole], share[whole] >= 0.5)
        assert whole.sum() <= 2
    assert astride > 0


def test_midpoint_by_hand() -> None:
    # Sorted weights 1, 3, 16 x 1: n_a = 20, k = 1. Midpoints .5, 2.5, ...: the first goes, the second stays.
    weights = np.r_[1.0, 3.0, np.ones(16)]
    assert np.flatnonzero(~keep_mask(np.arange(18.0), np.zeros(18), weights=weights)).tolist() == [0, 17]
    # With 3, 1, ... the first has its midpoint at 1.5, beyond k: nothing goes at the low end.
    weights[:2] = weights[1::-1]
    assert np.flatnonzero(~keep_mask(np.arange(18.0), np.zeros(18), weights=weights)).tolist() == [17]


def test_winsorised_at_values_drawn_in_the_replicate() -> None:
    D = np.arange(40.0)
    weights = np.ones(40)
    weights[[1, 2]] = 0.0  # k = 1 cuts product 0; products 1 and 2 are not in the replicate
    assert winsorize(D, np.zeros(40), weights=weights)[0] == 3.0
    assert winsorize(D, np.zeros(40), c=1)[[0, 39]].tolist() == [1.0, 38.0]


def test_group_without_weight_stays_as_it_is() -> None:
    D, weights = np.arange(40.0), np.repeat([1.0, 0.0], 20)
    group = np.repeat([0, 1], 20)
    assert keep_mask(D, group, weights=weights)[20:].all()
    np.testing.assert_array_equal(winsorize(D, group, weights=weights)[20:], D[20:])


def test_no_products_no_mask() -> None:
    assert keep_mask([], []).shape == winsorize([], []).shape == (0,)


def test_cut_helps_with_heavy_tails_and_leaves_the_effect() -> None:
    # 400 worlds, effect .1, 1 % of products with a break of sd 5: published filters of this kind aim at the variance.
    rng = np.random.default_rng(7)
    arm = np.repeat([0, 1], 250)
    raw, cut = [], []
    for _ in range(400):
        D = rng.normal(size=500) * 0.3 + 0.1 * arm + 5.0 * rng.normal(size=500) * (rng.random(500) < 0.01)
        kept = keep_mask(D, arm)
        raw.append(D[arm == 1].mean() - D[arm == 0].mean())
        cut.append(D[kept & (arm == 1)].mean() - D[kept & (arm == 0)].mean())
    assert np.std(cut) < 0.75 * np.std(raw)
    assert abs(np.mean(cut) - 0.1) < 4 * np.std(cut) / 20  # four Monte Carlo standard errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": -1.0}, r"c == -1.0, must be finite and not negative"),
        ({"cap": 0.5}, r"cap == 0.5, must be in \[0, 0.5\)"),
        ({"group": np.zeros(3)}, r"group.shape == \(3,\), must be \(4,\)"),
        ({"group": np.array(["a", None, "b", "b"], dtype=object)}, r"group has 1 missing labels"),
        ({"weights": np.ones(3)}, r"weights.shape == \(3,\), must be \(4,\) or \(4, B\)"),
        ({"weights": [1, 1, -1, 1]}, r"weights has negative or missing values"),
        ({"first_difference": np.zeros((2, 2))}, r"first_difference.shape == \(2, 2\), must be \(N,\)"),
    ],
)
@pytest.mark.parametrize("function", [keep_mask, winsorize])
def test_refusals(function: Any, change: Any, message: Any) -> None:
    arguments = {"first_difference": np.arange(4.0), "group": np.zeros(4)} | change
    with pytest.raises(ValueError, match=message):
        function(arguments.pop("first_difference"), arguments.pop("group"), **arguments)

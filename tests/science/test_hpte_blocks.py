"""Arms compared inside blocks (start weeks), and doses instead of arms."""

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster.science import hpte
from pricelab_dagster.science.affinity import Leaves, fit_leaves
from pricelab_dagster.science.bootstrap import poisson_weights

ROUNDING = 1e-9  # sums of a few hundred terms of order one, in two orders
N, B = 120, 30


def blocked(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Attributes, arm, block and first difference; the blocks move D, and treatment is commoner in the first ones."""
    rng = np.random.default_rng(seed)
    block = np.arange(N) % 6
    W = (rng.random(N) < 0.7 - 0.08 * block).astype(float)
    X = rng.normal(size=(N, 2))
    return X, W, block, 0.5 * W + 3.0 * block + X[:, 0] + 0.3 * rng.normal(size=N)


def fixed_effects(D: np.ndarray, W: np.ndarray, block: np.ndarray, w: np.ndarray) -> float:
    """Return the weighted least-squares slope of D on W with a constant for each block, by explicit dummies."""
    columns = np.column_stack([W, pd.get_dummies(block).to_numpy(dtype=float)])
    root = np.sqrt(w.astype(float))[:, None]
    return float(np.linalg.lstsq(root * columns, root[:, 0] * D, rcond=None)[0][0])


def test_with_one_leaf_it_is_the_regression_with_block_effects_in_every_replicate():
    _, W, block, D = blocked()
    rng = np.random.default_rng(1)
    weights = poisson_weights(np.arange(N), n_replicates=B, rng=rng)
    found = hpte.estimate(D, W, trim_c=0, weights=weights, within=block, rng=rng)
    assert found.effect == pytest.approx(fixed_effects(D, W, block, np.ones(N)), abs=ROUNDING)
    np.testing.assert_allclose(found.draws, [fixed_effects(D, W, block, w) for w in weights.T], atol=ROUNDING)
    assert abs(found.effect - 0.5) < 4 * found.se
    assert abs(hpte.estimate(D, W, trim_c=0, weights=weights, rng=rng).effect - 0.5) > 4 * found.se
    assert "compared within their blocks" in found.estimand


@pytest.mark.parametrize("method", ["residual", "leaf"])
def test_a_constant_added_to_a_block_changes_nothing(method):
    X, W, block, D = blocked()
    leaves = fit_leaves(X, D - 3.0 * block, n_trees=8, rng=np.random.default_rng(2))
    options = {"method": method, "leaves": leaves, "trim": "none", "within": block, "n_replicates": B}
    found = hpte.estimate(D, W, **options, rng=np.random.default_rng(3))
    moved = hpte.estimate(D + 50.0 * (block == 2), W, **options, rng=np.random.default_rng(3))
    assert moved.effect == pytest.approx(found.effect, abs=1e-7)
    np.testing.assert_allclose(moved.draws, found.draws, atol=1e-7)
    renamed = hpte.estimate(
        D, W, **{**options, "within": [f"week {7 - b}" for b in block]}, rng=np.random.default_rng(3)
    )
    assert renamed.effect == pytest.approx(found.effect, abs=ROUNDING)


def test_blocks_with_one_arm_are_left_out_and_counted():
    _, W, block, D = blocked()
    W[block == 4] = 1.0
    inside = block != 4
    rng = np.random.default_rng(4)
    found = hpte.estimate(D, W, trim_c=0, within=block, n_replicates=B, rng=rng)
    alone = hpte.estimate(D[inside], W[inside], trim_c=0, within=block[inside], n_replicates=B, rng=rng)
    assert found.effect == pytest.approx(alone.effect, abs=ROUNDING)
    assert (found.n_treated, found.n_control) == (alone.n_treated, alone.n_control)
    assert found.reason == "20 products in blocks with one arm only are left out."
    assert alone.reason is None
    assert not found.kept[block == 4].any()


def test_relative_effect_divides_by_the_untreated_mean_of_the_blocks_that_count():
    _, W, block, D = blocked()
    W[block == 4] = 0.0
    outcome, used = 10.0 + D, block != 4
    found = hpte.estimate(
        D, W, trim_c=0, within=block, outcome=outcome, exposure=W, n_replicates=B, rng=np.random.default_rng(5)
    )
    tau = fixed_effects(D[used], W[used], block[used], np.ones(used.sum()))
    assert found.effect == pytest.approx(tau / (outcome[used].mean() - tau * W[used].mean()), abs=ROUNDING)


def test_blocks_with_one_arm_each_identify_nothing():
    found = hpte.estimate(
        np.arange(8.0), [0, 0, 0, 0, 1, 1, 1, 1], trim_c=0, within=[0] * 4 + [1] * 4, rng=np.random.default_rng(6)
    )
    assert np.isnan(found.effect)
    assert found.reason.startswith("0 treated and 0 control products")


def test_blocks_are_refused_where_they_have_no_meaning():
    rng = np.random.default_rng(7)
    D, W = np.arange(8.0), np.arange(8) % 2
    with pytest.raises(ValueError, match=r"within.shape == \(7,\), must be \(8,\)"):
        hpte.estimate(D, W, within=np.zeros(7), rng=rng)
    with pytest.raises(ValueError, match="must be 'residual' or 'leaf' with within"):
        hpte.estimate(D, W, within=np.zeros(8), method="doubly_robust", rng=rng)
    with pytest.raises(ValueError, match="must be 'residual' or 'leaf' with within"):
        hpte.estimate(np.ones((8, 3)), np.ones((8, 3)), within=np.zeros(8), rng=rng)


def test_doses_give_the_slope_per_unit_of_dose():
    rng = np.random.default_rng(8)
    dose = rng.choice([-10.0, -5.0, 0.0, 5.0], N)
    D = 1.0 - 0.02 * dose + 0.1 * rng.normal(size=N)
    found = hpte.estimate(D, dose, trim_c=0, linear=True, n_replicates=B, rng=rng)
    assert found.effect == pytest.approx(np.polyfit(dose, D, 1)[0], abs=ROUNDING)
    assert (found.n_treated, found.n_control) == ((dose != 0).sum(), (dose == 0).sum())


def test_two_doses_are_the_effect_of_the_arm_per_unit():
    X, W, _, D = blocked()
    options = {"leaves": fit_leaves(X, D, n_trees=8, rng=np.random.default_rng(9)), "n_replicates": B}
    arm = hpte.estimate(D, W, **options, rng=np.random.default_rng(10))
    line = hpte.estimate(D, -5.0 * W, **options, linear=True, group=W, rng=np.random.default_rng(10))
    assert line.effect == pytest.approx(arm.effect / -5.0, abs=ROUNDING)
    assert line.se == pytest.approx(arm.se / 5.0, abs=ROUNDING)
    assert line.n_trimmed == arm.n_trimmed


def test_doses_of_cells_are_centred_by_product():
    rng = np.random.default_rng(11)
    dose = rng.choice([-10.0, 0.0, 5.0], (20, 14))
    R = -0.03 * dose + rng.normal(size=(20, 1))
    found = hpte.estimate(R, dose, trim_c=0, linear=True, leaves=Leaves.single(20), n_replicates=B, rng=rng)
    assert found.effect == pytest.approx(-0.03, abs=ROUNDING)


def test_doses_go_with_the_residual_form_alone():
    with pytest.raises(ValueError, match="must be 'residual' for doses"):
        hpte.estimate([1.0, 2, 3, 4], [0, 0, 5, 5], method="leaf", linear=True, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="arm == 5, must be 0, 1 or nan"):
        hpte.estimate([1.0, 2, 3, 4], [0, 0, 5, 5], rng=np.random.default_rng(0))

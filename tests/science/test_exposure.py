from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from pricelab_dagster.science import _exposure_joint, designs, exposure, market, pair_probabilities
from pricelab_dagster.science._exposure_variance import variance
from pricelab_dagster.science.exposure import (
    CONTROL,
    CONTROL_EXPOSED,
    TREATED,
    TREATED_EXPOSED,
    own_and_any,
    own_and_share,
)

START = "2017-06-05"
EXACT = 1e-10  # sums of some hundred terms of order ten
SIX_DIGITS = 1e-5  # the reference prints six
SIGMAS = 4.0

# The ten products of the worked example of Aronow, Eckles, Samii and Zonszein, neighbours by product.
EXAMPLE = {
    0: [1, 2, 4],
    1: [0, 2, 3, 9],
    2: [0, 1, 3, 4, 5, 8],
    3: [1, 2, 4, 5, 6],
    4: [0, 2, 3, 5, 7],
    5: [2, 3, 4],
    6: [3, 7, 8],
    7: [4, 6, 8, 9],
    8: [2, 6, 7, 9],
    9: [1, 7, 8],
}
# P(treated, a neighbour treated) to P(control, none), by 30 of the 45 draws and (count + 1) / 31.
PUBLISHED = {
    TREATED_EXPOSED: [3, 4, 5, 3, 4, 3, 4, 4, 4, 4],
    TREATED: [6, 3, 4, 4, 2, 4, 7, 3, 5, 4],
    CONTROL_EXPOSED: [13, 19, 21, 22, 21, 14, 13, 20, 19, 14],
    CONTROL: [12, 8, 4, 5, 7, 13, 10, 7, 6, 12],
}


def adjacency_of(neighbours: dict[int, list[int]]) -> sparse.csr_array:
    A = np.zeros((len(neighbours), len(neighbours)))
    for i, near in neighbours.items():
        A[i, near] = 1.0
    return sparse.csr_array(A)


def random_graph(n: int, n_edges: int, rng: np.random.Generator) -> sparse.csr_array:
    i, j = rng.integers(0, n, (2, n_edges))
    kept = i != j
    return sparse.csr_array((rng.uniform(0.2, 0.6, kept.sum()), (i[kept], j[kept])), shape=(n, n))


def subsets(n: int, size: int) -> np.ndarray:
    """All draws of `size` treated of n, (R, n)."""
    return np.array([[int(i in chosen) for i in range(n)] for chosen in combinations(range(n), size)])


def test_treatment_runs_from_row_to_column_as_in_the_market():
    """Only the first price falls: the demand that moves is its own, and that of the columns of its row."""
    theta = sparse.csr_array(([0.5, 0.9], ([0, 3], [2, 0])), shape=(6, 6))
    drawn = market.simulate(scenario="clean", n_products=6, n_history=30, n_window=30, rng=np.random.default_rng(0))
    drawn = replace(drawn, theta=theta, treatment_multiplier=0.5)
    z = np.array([1, 0, 0, 0, 0, 0])
    moved = (drawn.observe(np.repeat(z[:, None], 30, axis=1)).units != drawn.untreated_units).any(axis=1)
    level = own_and_any(theta, z)
    assert level.tolist() == [TREATED, CONTROL, CONTROL_EXPOSED, CONTROL, CONTROL, CONTROL]
    np.testing.assert_array_equal(moved, level != CONTROL)


def test_levels_of_the_worked_example():
    z = np.isin(np.arange(10), [5, 8]).astype(int)
    found = own_and_any(adjacency_of(EXAMPLE), z)
    assert found.tolist() == [0, 0, 1, 1, 1, 2, 1, 1, 2, 1]


def test_probabilities_of_the_worked_example():
    """All 45 draws, against those that the reference had from 30 of them."""
    law = exposure.probabilities(adjacency_of(EXAMPLE), subsets(10, 2), complete=True)
    assert law.marginal[0, CONTROL] == pytest.approx(15 / 45)  # two of the six outside the product and its neighbours
    assert law.marginal[0, TREATED] == pytest.approx(6 / 45)
    for level, counts in PUBLISHED.items():
        p = law.marginal[:, level]
        se = np.sqrt(p * (1 - p) / 30 * 15 / 44)  # 30 of 45 without replacement
        assert (np.abs((np.array(counts) - 1) / 30 - p) < SIGMAS * se).all()
        assert not (np.abs((np.array(counts) - 1) / 30 - np.roll(p, 1)) < se).all()


class Tables:
    """Joint probabilities by level pair, (N, N) each."""

    def __init__(self, tables: Any) -> None:
        self.tables = {levels: np.array(table, dtype=float) for levels, table in tables.items()}

    def inverse(self, k: Any, m: Any, first: Any, second: Any) -> Any:
        with np.errstate(divide="ignore"):
            return 1.0 / self.tables[k, m][first, second]

    def covariance(self, k: Any, m: Any, first: Any, second: Any) -> Any:
        raise AssertionError("all pairs are given")

    def spread(self, level: Any, weight: Any) -> None:
        return None


ONE = [[0.3, 0.2, 0.1], [0.2, 0.5, 0.4], [0.1, 0.4, 0.8]]
OTHER = [[0.7, 0.4, 0.1], [0.4, 0.5, 0.1], [0.1, 0.1, 0.2]]
BETWEEN = np.array([[0.0, 0.1, 0.0], [0.2, 0.0, 0.15], [0.4, 0.3, 0.0]])
ONE_NEVER = [[0.3, 0.0, 0.0], [0.0, 0.5, 0.4], [0.0, 0.4, 0.8]]
OTHER_NEVER = [[0.7, 0.4, 0.1], [0.4, 0.5, 0.0], [0.1, 0.0, 0.2]]


def reference_variance(one: Any, other: Any) -> float:
    tables = Tables({(0, 0): one, (1, 1): other, (0, 1): BETWEEN, (1, 0): BETWEEN.T})
    p, Y, sign = np.array([0.3, 0.5, 0.2]), np.array([-1.0, 2.0, 3.0]), np.array([1.0, 1.0, -1.0])
    pairs = np.triu_indices(3, k=1)
    return variance(tables, pairs, np.array([0, 0, 1]), sign * Y / p, p, (0, 1), np.ones(3, dtype=bool))


def test_variance_of_the_reference_implementation():
    """Three products; the parts as the R package `interference` has them in its tests."""
    same_level, second_level, covariance = 9.11111, 180.0, -32.33333
    expected = same_level + second_level - 2 * covariance
    assert reference_variance(ONE, OTHER) == pytest.approx(expected, abs=SIX_DIGITS)
    young = 14.66667 + 45.0
    # The pair -1 and 2 is never seen at the level: 15.77778 and 180, of the products alone, are left.
    expected = 15.77778 + 180.0 + young - 2 * covariance
    assert reference_variance(ONE_NEVER, OTHER_NEVER) == pytest.approx(expected, abs=2 * SIX_DIGITS)


def test_horvitz_thompson_by_hand():
    """Two of four treated, no edges: pi = 1/2, joint 1/6 of the same level, 1/3 of two."""
    none = sparse.csr_array((4, 4))
    law = exposure.probabilities(none, subsets(4, 2), complete=True)
    found = exposure.estimate(
        [3.0, 5.0, 1.0, 2.0], [2, 2, 0, 0], law, contrast=(TREATED, CONTROL), estimator="horvitz_thompson"
    )
    assert found.effect == pytest.approx(4.0 - 1.5)
    # (1 - p) v^2 + own Young p v^2 = v^2, v = Y / 2; pairs: 1 - 1/4 x 6 = -1/2, across -(1 - 1/4 x 3) = -1/4.
    v = np.array([3.0, 5.0, 1.0, 2.0]) / 2
    hand = (v**2).sum() - (v[0] * v[1] + v[2] * v[3]) - 0.5 * (v[0] + v[1]) * (v[2] + v[3])
    assert found.se == pytest.approx(np.sqrt(hand))


@pytest.mark.parametrize("contrast", [(1, 0), (2, 0), (3, 0), (3, 1)])
@pytest.mark.parametrize("size", [3, None])
def test_every_draw_of_a_small_network(contrast: Any, size: Any):
    """Horvitz-Thompson is unbiased over all draws, and the mean of its variance estimates no less than its variance."""
    rng = np.random.default_rng(1)
    A = random_graph(7, 7, rng)
    drawn = np.array(list(product([0, 1], repeat=7))) if size is None else subsets(7, size)
    law = exposure.probabilities(A, drawn, complete=True)
    outcomes = rng.normal(1.0, 1.0, (4, 7))
    kept = (law.marginal[:, list(contrast)] >= 0.02).all(axis=1)
    assert kept.sum() >= 3
    truth = (outcomes[contrast[0]] - outcomes[contrast[1]])[kept].mean()
    found, squares = [], []
    for z in drawn:
        D = own_and_any(A, z)
        Y = outcomes[D, np.arange(7)]
        weight = np.equal(D, contrast[0]) / np.maximum(law.marginal[:, contrast[0]], 1e-9)
        weight -= np.equal(D, contrast[1]) / np.maximum(law.marginal[:, contrast[1]], 1e-9)
        own = np.take_along_axis(law.marginal, D[:, None], axis=1)[:, 0]
        value = np.where(kept, weight * Y, 0.0) / kept.sum()
        squares.append(variance(law.joint, (law.first, law.second), D, value, own, contrast, kept))
        one = exposure.estimate(Y, D, law, contrast=contrast, estimator="horvitz_thompson")
        assert one.n_units == kept.sum()
        assert one.n_no_overlap == 7 - kept.sum()
        assert np.isnan(one.effect) or one.effect == pytest.approx(value.sum(), abs=EXACT)
        found.append(value.sum())
    assert np.mean(found) == pytest.approx(truth, abs=EXACT)
    assert np.mean(squares) >= np.var(found) - EXACT


def test_the_variance_estimate_is_exact_where_all_pairs_can_be_and_effects_are_nil():
    """Independent coins without edges, outcomes the same at both levels: Young's inequality is an equality."""
    none, drawn = sparse.csr_array((5, 5)), np.array(list(product([0, 1], repeat=5)))
    law = exposure.probabilities(none, drawn, complete=True)
    Y, p = np.array([1.0, 4.0, -2.0, 0.5, 3.0]), np.full(5, 0.5)
    values = [np.where(z == 1, Y, -Y) / 0.5 / 5 for z in drawn]
    everyone = np.ones(5, dtype=bool)
    pairs = (law.first, law.second)
    squares = [variance(law.joint, pairs, 2 * z, v, p, (2, 0), everyone) for z, v in zip(drawn, values, strict=True)]
    assert np.mean(squares) == pytest.approx(np.var([v.sum() for v in values]), abs=EXACT)


def test_coins_in_closed_form_against_all_draws():
    """Seven products in five units, share .3; every pair and every two levels."""
    A = random_graph(7, 9, np.random.default_rng(2))
    unit, share = np.array([0, 1, 0, 2, 3, 3, 4]), 0.3
    options: Any = {"duration": 1, "balance": "none", "units": unit, "share": share}
    law = exposure.probabilities(A, designs.random_days(range(7), START, **options, rng=np.random.default_rng(0)))
    joint = np.zeros((7, 4, 7, 4))
    everyone = np.arange(7)
    for coins in product([0, 1], repeat=5):
        weight = np.prod([share if coin else 1 - share for coin in coins])
        D = own_and_any(A, np.array(coins)[unit])
        joint[everyone[:, None], D[:, None], everyone, D] += weight
    np.testing.assert_allclose(law.marginal, joint[everyone, :, everyone, :].diagonal(axis1=1, axis2=2), atol=EXACT)
    first, second = (end.ravel() for end in np.meshgrid(everyone, everyone))
    for k, m in product(range(4), repeat=2):
        np.testing.assert_allclose(law.joint.joint(k, m, first, second), joint[first, k, second, m], atol=EXACT)
    given = set(zip(law.first.tolist(), law.second.tolist(), strict=True))
    marginal = law.marginal
    hang = {
        (i, j)
        for i, j in combinations(range(7), 2)
        if np.abs(joint[i, :, j, :] - np.outer(marginal[i], marginal[j])).max() > EXACT
    }
    assert hang <= given
    assert len(given) < 21


def coin_draw(n: int, rng: np.random.Generator, **options: Any) -> designs.Assignment:
    return designs.random_days(range(n), START, duration=1, balance="none", **options, rng=rng)


def setting(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    A = random_graph(60, 60, rng)
    strata = np.arange(60) // 4
    draw = designs.time_bound(range(60), START, duration=1, strata=strata, rng=rng)
    drawn = pair_probabilities.draws(draw, strata=strata, n_draws=500, rng=rng)
    z = draw.arm[:, 0]
    D = own_and_any(A, z)
    return A, strata, drawn, D, rng.normal(1.0, 1.0, 60) + z - 0.4 * (D % 2)


@pytest.mark.parametrize("contrast", [(1, 0), (2, 0), (3, 1)])
@pytest.mark.parametrize("estimator", ["hajek", "horvitz_thompson"])
def test_relabelled_products_and_scaled_outcomes(estimator: Any, contrast: Any):
    A, strata, drawn, D, Y = setting(4)
    options: Any = {"contrast": contrast, "estimator": estimator}
    found = exposure.estimate(Y, D, exposure.probabilities(A, drawn, strata=strata), **options)
    order = np.random.default_rng(5).permutation(60)
    moved = exposure.probabilities(A[order][:, order], drawn[::-1, order], strata=np.char.mod("s%d", strata)[order])
    again = exposure.estimate(Y[order], D[order], moved, **options)
    assert (again.effect, again.se, again.n_units) == pytest.approx((found.effect, found.se, found.n_units))
    law = exposure.probabilities(A, drawn, strata=strata)
    tripled = exposure.estimate(3 * Y, D, law, **options)
    assert (tripled.effect, tripled.se) == pytest.approx((3 * found.effect, 3 * found.se))
    turned = exposure.estimate(Y, D, law, **options | {"contrast": contrast[::-1]})
    assert (turned.effect, turned.se) == pytest.approx((-found.effect, found.se))
    if estimator == "hajek":
        shifted = exposure.estimate(Y + 7, D, law, **options)
        assert (shifted.effect, shifted.se) == pytest.approx((found.effect, found.se))


# Of tied copies the frequency is estimated as (c + 1) / (R + 1), of a product with itself as c / R; R is 500.
ONE_DRAW = 3e-3


@pytest.mark.parametrize(("complete", "slack"), [(True, 1e-6), (False, ONE_DRAW)])
@pytest.mark.parametrize("estimator", ["hajek", "horvitz_thompson"])
def test_ten_copies_of_each_product(estimator: Any, complete: bool, slack: float):
    A, _, drawn, D, Y = setting(6)
    options: Any = {"contrast": (3, 1), "estimator": estimator}
    found = exposure.estimate(Y, D, exposure.probabilities(A, drawn, complete=complete), **options)
    copies = np.repeat(np.arange(60), 10)
    law = exposure.probabilities(sparse.csr_array(A[copies][:, copies]), drawn[:, copies], complete=complete)
    again = exposure.estimate(Y[copies], D[copies], law, **options)
    assert again.effect == pytest.approx(found.effect)
    assert again.se == pytest.approx(found.se, rel=slack)


def test_products_outside_and_missing_outcomes():
    A, _, drawn, D, Y = setting(10)
    drawn, D = drawn.astype(float), D.copy()
    drawn[:, :10], D[:10] = np.nan, -1
    law = exposure.probabilities(A, drawn)
    assert not law.marginal[:10].any()
    np.testing.assert_allclose(law.marginal[10:].sum(axis=1), 1.0, atol=EXACT)
    Y[:10] = 1e9
    found = exposure.estimate(Y, D, law, contrast=(3, 1))
    assert found.n_units + found.n_no_overlap == 50
    assert abs(found.effect) < 10
    Y[10:15] = np.nan
    found = exposure.estimate(Y, D, law, contrast=(3, 1))
    assert found.n_units + found.n_no_overlap == 45


def test_every_sample_and_draw_of_six_products():
    """Four of six are sampled, two of them treated; without the outcomes of those outside still unbiased."""
    A = random_graph(6, 5, np.random.default_rng(13))
    states = np.array(
        [
            np.where(np.isin(np.arange(6), chosen), 1, np.where(np.isin(np.arange(6), inside), 0, -1))
            for inside in combinations(range(6), 4)
            for chosen in combinations(inside, 2)
        ]
    )
    law = exposure.probabilities(A, states, complete=True)
    np.testing.assert_allclose(law.marginal.sum(axis=1), 4 / 6, atol=EXACT)
    contrast, outcomes = (TREATED, CONTROL), np.random.default_rng(14).normal(1.0, 1.0, (4, 6))
    kept = (law.marginal[:, list(contrast)] >= 0.02).all(axis=1)
    truth = (outcomes[TREATED] - outcomes[CONTROL])[kept].mean()
    weight = np.where(kept, outcomes, 0.0) / np.maximum(law.marginal.T, EXACT) / kept.sum()
    found, squares = [], []
    for z in states:
        D = own_and_any(A, z)
        sides = [np.where(level == D, weight[level], 0.0) for level in contrast]
        found.append(sides[0].sum() - sides[1].sum())
        own = np.take_along_axis(law.marginal, np.maximum(D, 0)[:, None], axis=1)[:, 0]
        pairs = (law.first, law.second)
        squares.append(variance(law.joint, pairs, D, sides[0] - sides[1], own, contrast, kept))
        Y = np.where(z < 0, np.nan, outcomes[np.maximum(D, 0), np.arange(6)])
        one = exposure.estimate(Y, D, law, contrast=contrast, estimator="horvitz_thompson")
        if sides[0].any() and sides[1].any():
            assert one.effect == pytest.approx(found[-1], abs=EXACT)
            assert one.n_units == (kept & (z >= 0)).sum()
            assert np.isnan(one.se) or one.se == pytest.approx(np.sqrt(squares[-1]))
    assert np.mean(found) == pytest.approx(truth, abs=EXACT)
    assert np.mean(squares) >= np.var(found) - EXACT


def test_products_outside_count_at_the_rate_at_which_those_inside_are_known():
    """Coins for 4 of 8 in the draw, none exposed; one of the four has no outcome: 3 + 4 x 3/4 products."""
    none, coins = sparse.csr_array((8, 8)), np.array(list(product([-1, 0, 1], repeat=8)))
    law = exposure.probabilities(none, coins)
    z, Y = np.array([1, 1, 0, 0, -1, -1, -1, -1]), np.array([6.0, 5.0, 3.0, np.nan, 9.0, 9.0, 9.0, np.nan])
    found = exposure.estimate(Y, own_and_any(none, z), law, contrast=(TREATED, CONTROL), estimator="horvitz_thompson")
    # each arm has probability one third
    assert found.effect == pytest.approx(3 * (6 + 5 - 3) / 6)
    assert found.n_units == 3


def test_levels_that_no_draw_has_are_levels_still():
    none = sparse.csr_array((6, 6))
    drawn = subsets(6, 3)
    law = exposure.probabilities(none, drawn)
    assert law.marginal.shape == (6, 4)
    assert len(law.levels) == 4
    assert not law.marginal[:, [CONTROL_EXPOSED, TREATED_EXPOSED]].any()
    found = exposure.estimate(np.arange(6.0), own_and_any(none, drawn[0]), law, contrast=(TREATED_EXPOSED, CONTROL))
    assert np.isnan(found.effect)
    assert str(found.reason).startswith("not identified: no product has a probability of 0.02")
    cut = exposure.probabilities(none, drawn, mapping=own_and_share((0.2, 0.5)))
    assert cut.marginal.shape == (6, 6)


def test_a_missing_arm_is_out_and_as_a_neighbour_untreated():
    assert own_and_any(SQUARE, [np.nan, 1.0]).tolist() == own_and_any(SQUARE, [-1, 1]).tolist() == [-1, TREATED]
    assert own_and_any(SQUARE, np.array([True, False])).tolist() == [TREATED, CONTROL_EXPOSED]


def test_without_overlap_there_is_no_effect():
    full = sparse.csr_array(np.ones((40, 40)) - np.eye(40))
    law = exposure.probabilities(full, coin_draw(40, np.random.default_rng(0)))
    found = exposure.estimate(np.ones(40), np.ones(40, dtype=int), law, contrast=(CONTROL_EXPOSED, CONTROL))
    assert np.isnan([found.effect, found.se, found.ci_lower, found.ci_upper, found.p_value]).all()
    assert (found.n_units, found.n_no_overlap) == (0, 40)
    assert str(found.reason).startswith("not identified: no product has a probability of 0.02")
    loose = exposure.probabilities(sparse.csr_array((40, 40)), coin_draw(40, np.random.default_rng(0)))
    unseen = exposure.estimate(np.ones(40), np.zeros(40, dtype=int), loose, contrast=(TREATED, CONTROL))
    assert np.isnan(unseen.effect)
    assert "0 and 40 products with overlap were seen" in str(unseen.reason)
    alone = exposure.estimate(np.arange(40.0), np.r_[2, np.zeros(39, dtype=int)], loose, contrast=(TREATED, CONTROL))
    assert np.isfinite(alone.effect)
    assert np.isnan([alone.se, alone.ci_lower, alone.p_value]).all()
    assert "no interval" in str(alone.reason)


def test_cuts_of_the_share():
    A, _, drawn, _, _ = setting(11)
    mapping = own_and_share((0.0, 0.5))
    law = exposure.probabilities(A, drawn, mapping=mapping)
    weight = A.toarray()
    total = weight.sum(axis=0)
    share = np.divide(drawn @ weight, total, out=np.zeros((500, 60)), where=total > 0)
    level = 3 * drawn + (share > 0) + (share > 0.5)
    for k in range(6):
        np.testing.assert_allclose(law.marginal[:, k], (level == k).mean(axis=0), atol=EXACT)
    assert law.levels[5] == "treated, share of treated neighbours above 0.5"
    assert own_and_share((0.0,))(-A, drawn[0]).tolist() == own_and_any(A, drawn[0]).tolist()


def test_any_mapping_will_do():
    A, _, drawn, D, Y = setting(12)
    own = exposure.probabilities(A, drawn, mapping=lambda adjacency, z: z.astype(int))
    assert own.levels == ("level 0", "level 1")
    found = exposure.estimate(Y, D // 2, own, contrast=(1, 0))
    treated = D >= 2
    p = drawn.mean(axis=0)
    hand = np.average(Y[treated], weights=1 / p[treated]) - np.average(Y[~treated], weights=1 / (1 - p[~treated]))
    assert found.effect == pytest.approx(hand)


def test_large_strata_are_left_to_the_covariance_of_draws():
    own = np.arange(120)
    none = sparse.csr_array((120, 120))
    large, small = np.zeros(120, dtype=int), np.arange(120) // 2
    assert len(_exposure_joint.dependent_pairs(none, own, large)[0]) == 0
    assert len(_exposure_joint.dependent_pairs(none, own, small)[0]) == 60


SQUARE = sparse.csr_array([[0, 1], [1, 0]])
LAW = exposure.probabilities(SQUARE, [[0, 0], [0, 1], [1, 0], [1, 1]], complete=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exposure.probabilities(sparse.eye_array(2), [[0, 1], [1, 0]]), "2 products that reach themselves"),
        (lambda: exposure.probabilities(SQUARE, [[0, 1, 1], [1, 0, 0]]), r"draws.shape == \(2, 3\), must be \(R, 2\)"),
        (lambda: exposure.probabilities(SQUARE, [[0, 3], [1, 0]]), "draws has the value 3"),
        (lambda: exposure.probabilities(sparse.csr_array((2, 3)), [[0, 1], [1, 0]]), r"must be \(N, N\)"),
        (lambda: exposure.probabilities(SQUARE, [[0, 1], [1, 0]], mapping=lambda a, z: z[:1]), "mapping gives"),
        (
            lambda: exposure.probabilities(
                sparse.csr_array((4, 4)), designs.time_bound(list("abcd"), START, duration=1, rng=RNG)
            ),
            "by independent coins, with the mapping own_and_any",
        ),
        (
            lambda: exposure.probabilities(sparse.csr_array((4, 4)), coin_draw(4, RNG), mapping=own_and_share((0.5,))),
            "by independent coins, with the mapping own_and_any",
        ),
        (lambda: exposure.probabilities(SQUARE, coin_draw(4, RNG)), r"must be \(4, 4\)"),
        (lambda: own_and_share((0.5, 0.5)), "must be rising"),
        (lambda: own_and_share((1.0,)), "must be rising"),
        (lambda: own_and_any(SQUARE, [1]), r"z.shape == \(1,\)"),
        (lambda: own_and_any(SQUARE, [2, 0]), "z has the value 2, must be 1, 0, or -1"),
        (lambda: own_and_any(SQUARE, [0.5, 0.0]), "z has the value 0.5, must be 1, 0, or -1"),
        (lambda: own_and_share((0.5,))(SQUARE, [-2, 0]), "z has the value -2, must be 1, 0, or -1"),
        (lambda: exposure.estimate([1.0], [0, 1], LAW, contrast=(1, 0)), r"outcome.shape == \(1,\)"),
        (lambda: exposure.estimate([1.0, 2.0], [0, 4], LAW, contrast=(1, 0)), "exposure has values that are no level"),
        (lambda: exposure.estimate([1.0, 2.0], [0, 1], LAW, contrast=(1, 1)), r"contrast == \(1, 1\)"),
        (lambda: exposure.estimate([1.0, 2.0], [0, 1], LAW, contrast=(1, 4)), r"contrast == \(1, 4\)"),
        (lambda: exposure.estimate([1.0, 2.0], [0, 1], LAW, contrast=(1, 0), estimator="ols"), "estimator == 'ols'"),
        (lambda: exposure.estimate([1.0, 2.0], [0, 1], LAW, contrast=(1, 0), min_probability=0.0), "min_probability"),
    ],
)
def test_what_has_no_meaning_is_refused(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()


RNG = np.random.default_rng(0)

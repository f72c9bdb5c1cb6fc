"""What finished experiments tell of carryover: sums by hand and by least squares, beliefs, simulated switchbacks."""

import numpy as np
import pytest

from pricelab_dagster.science import carryover, power
from pricelab_dagster.science.carryover import HALF_LIVES, KAPPAS, Beliefs

ROUNDING = 1e-9
LEAST_SQUARES = 1e-7
"""Dummies of 40 products and 24 days against sums less means."""
EXACT_MASS = 0.99
"""Belief that sales without noise leave in the true carryover and half-life."""
N, T = 40, 24


def arms(rng: np.random.Generator, n: int = N, t: int = T) -> np.ndarray:
    return rng.integers(0, 2, (n, t)).astype(float)


def answered(W: np.ndarray, kappa: float, half_life: float, tau: float = 0.1) -> np.ndarray:
    """Return the effect on each cell."""
    return tau * (W + kappa * carryover.carried(W, half_life))


def noisy(rng: np.random.Generator, kappa: float, *, n: int = 400, t: int = 56) -> carryover.Evidence:
    W = arms(rng, n, t)
    level = rng.normal(0.0, 0.3, (n, 1))
    return carryover.evidence(answered(W, kappa, 2.0) + level + rng.normal(0.0, 0.3, W.shape), W)


def test_what_is_carried_over_is_that_of_the_days_before() -> None:
    S = carryover.carried([[1, 0, 1, 1]], half_life=1.0)
    assert S.tolist() == [[0.0, 0.5, 0.25, 0.625]]
    weekly = carryover.carried(np.ones((1, 2)), half_life=7.0, days=7)
    daily = carryover.carried(np.ones((1, 8)), half_life=7.0)
    assert (weekly[0, 1], daily[0, 7]) == pytest.approx((0.5, 0.5))


def test_sums_are_those_of_least_squares_with_dummies() -> None:
    rng = np.random.default_rng(1)
    W, R = arms(rng), rng.normal(size=(N, T))
    R *= np.sqrt(1.0 / R.var(axis=1, keepdims=True))  # equal variances: equal weights
    found = carryover.evidence(R, W)
    regressors = [W, *(carryover.carried(W, h) for h in HALF_LIVES)]
    dummies = np.hstack([np.kron(np.eye(N), np.ones((T, 1))), np.kron(np.ones((N, 1)), np.eye(T))])
    x = np.column_stack([one.ravel() for one in regressors])
    left = x - dummies @ np.linalg.lstsq(dummies, x, rcond=None)[0]
    np.testing.assert_allclose(found.gram, left.T @ left, atol=LEAST_SQUARES)
    np.testing.assert_allclose(found.moment, left.T @ R.ravel(), atol=LEAST_SQUARES)


def test_units_and_rows_may_be_renamed_and_copies_of_a_unit_add_nothing() -> None:
    rng = np.random.default_rng(2)
    W = arms(rng)
    R = answered(W, 0.4, 2.0) + rng.normal(0.0, 0.1, W.shape)
    one, order = carryover.learn([carryover.evidence(R, W)]), rng.permutation(N)
    shuffled = carryover.learn([carryover.evidence(R[order], W[order], units=order.astype(str))])
    np.testing.assert_allclose(shuffled.probability, one.probability, atol=LEAST_SQUARES)
    labels = np.tile(np.arange(N), 3)
    copied = carryover.learn([carryover.evidence(np.tile(R, (3, 1)), np.tile(W, (3, 1)), units=labels)])
    np.testing.assert_allclose(copied.probability, one.probability, atol=LEAST_SQUARES)
    rescaled = carryover.learn([carryover.evidence(-50.0 * R, W)])
    np.testing.assert_allclose(rescaled.probability, one.probability, atol=LEAST_SQUARES)


@pytest.mark.parametrize(("kappa", "half_life"), [(0.0, 2.0), (0.4, 2.0), (0.4, 7.0), (1.0, 1.0)])
def test_sales_with_hardly_any_noise_tell_the_carryover(kappa: float, half_life: float) -> None:
    rng = np.random.default_rng(3)
    W = arms(rng, 100, 56)
    R = answered(W, kappa, half_life) + rng.normal(0.0, 1.0, (100, 1)) + rng.normal(0.0, 1e-4, W.shape)
    known = carryover.learn([carryover.evidence(R, W)])
    assert known.mean == pytest.approx(kappa, abs=0.01)
    at = np.abs(KAPPAS - kappa) < ROUNDING
    assert known.probability[at].sum() > EXACT_MASS
    if kappa:
        assert known.mean_half_life == pytest.approx(half_life, abs=0.05)


def test_a_time_bound_effect_that_grows_is_heard_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(4)
    W = np.repeat(rng.integers(0, 2, (200, 1)), 56, axis=1).astype(float)
    noise = rng.normal(0.0, 0.002, W.shape) + rng.normal(0.0, 0.01, (200, 1))
    grows, flat = (carryover.learn([carryover.evidence(answered(W, k, 4.0) + noise, W)]) for k in (0.5, 0.0))
    assert grows.mean == pytest.approx(0.5, abs=0.1)
    assert flat.nothing > 0.9


def test_before_any_experiment_nothing_and_something_are_alike() -> None:
    known = carryover.learn([])
    assert known.nothing == pytest.approx(0.5)
    weight = np.exp(-KAPPAS[1:] / 0.4)
    assert known.mean == pytest.approx(0.5 * (KAPPAS[1:] @ weight) / weight.sum())
    assert known.quantile(0.5) == 0.0
    assert known.quantile(0.9) == KAPPAS[np.flatnonzero(np.cumsum([0.5, *(0.5 * weight / weight.sum())]) >= 0.9)[0]]
    assert known.probability.sum() == pytest.approx(1.0)
    assert known.n_experiments == 0


def test_beliefs_hold_the_carryover_of_simulated_switchbacks() -> None:
    rng, inside, means = np.random.default_rng(5), [], {0.0: [], 0.4: []}
    for kappa in means:
        for _ in range(20):
            known = carryover.learn([noisy(rng, kappa)])
            inside.append(known.quantile(0.1) <= kappa <= known.quantile(0.9))
            means[kappa].append(known.mean)
    assert np.mean(inside) >= 0.75  # 30 of 40: 80 % less two standard errors
    assert np.mean(means[0.0]) < 0.1 < 0.3 < np.mean(means[0.4])


def test_experiments_add_up() -> None:
    rng = np.random.default_rng(6)
    one, other = noisy(rng, 0.4, n=100), noisy(rng, 0.4, n=100)
    both = np.log(carryover.learn([one, other]).probability)
    before, first, second = (np.log(carryover.learn(part).probability) for part in ([], [one], [other]))
    added = first + second - before
    np.testing.assert_allclose(both - both[0, 0], added - added[0, 0], atol=LEAST_SQUARES)


def test_experiments_that_say_nothing_change_nothing() -> None:
    rng = np.random.default_rng(7)
    few = carryover.evidence(rng.normal(size=(19, T)), arms(rng, 19))
    alike = carryover.evidence(rng.normal(size=(N, T)), np.ones((N, T)))
    gaps = np.where(np.arange(N)[:, None] < 30, np.nan, rng.normal(size=(N, T)))
    assert few.reason == "not identified: 19 units with every period, needs 20"
    assert alike.reason == "not identified: the arms do not change between units"
    assert carryover.evidence(gaps, arms(rng)).reason == "not identified: 10 units with every period, needs 20"
    np.testing.assert_array_equal(carryover.learn([few, alike]).probability, carryover.learn([]).probability)
    with pytest.raises(ValueError, match=r"arm.shape == \(40, 23\), must be \(40, 24\)"):
        carryover.evidence(np.zeros((N, T)), np.zeros((N, T - 1)))


def test_what_is_expected_to_be_hidden_is_a_mean_of_sizes() -> None:
    random, swap = power.Candidate("random_days", 28), power.Candidate("crossover", 28, phase=14, blackout=7)
    for one in (random, swap):
        certain = Beliefs.certain(0.4, 2.0)
        missed = power.missed_part(one, carryover=0.4, half_life=2.0)
        assert power.expected_missed(one, certain) == pytest.approx(abs(missed))
        half = Beliefs(np.array([0.0, 0.4]), np.array([2.0]), np.array([[0.25], [0.75]]))
        assert power.expected_missed(one, half) == pytest.approx(0.75 * abs(missed))
    assert certain.mean_half_life == 2.0
    assert Beliefs.certain(0.0, 3.0).mean_half_life == 3.0


def test_the_chooser_takes_the_median_of_what_is_known() -> None:
    assert power.Assumed.after(0.05, carryover.learn([])) == power.Assumed(0.05, 0.0, 2.0)
    rng = np.random.default_rng(8)
    known = carryover.learn([noisy(rng, 0.4, n=2000)])
    assumed = power.Assumed.after(0.05, known)
    assert assumed.carryover == known.quantile(0.5) > 0.2
    assert "the median after 1 finished experiment, 0 with probability" in assumed.known

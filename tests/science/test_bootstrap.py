import numpy as np
import pytest
from scipy import stats

from pricelab_dagster.science.bootstrap import freedom, interval, poisson_weights, replicates


def test_weights_are_shared_within_a_unit_and_ignore_row_order():
    units = np.array(["c", "a", "b", "a", "c"])
    turned = np.array([4, 2, 0, 3, 1])

    weights = poisson_weights(units, n_replicates=50, rng=np.random.default_rng(0))
    other = poisson_weights(units[turned], n_replicates=50, rng=np.random.default_rng(0))

    np.testing.assert_array_equal(weights[[1, 0]], weights[[3, 4]])
    assert (weights[0] != weights[1]).any()
    np.testing.assert_array_equal(other, weights[turned])


def test_weights_of_many_units_are_those_of_one_draw():
    n = 5000

    weights = poisson_weights(np.arange(n), n_replicates=3, rng=np.random.default_rng(0))

    np.testing.assert_array_equal(weights, np.random.default_rng(0).poisson(1.0, size=(n, 3)))


def test_weights_are_poisson_one():
    weights = poisson_weights(np.arange(2000), n_replicates=100, rng=np.random.default_rng(1))

    counts = np.bincount(np.minimum(weights, 5).astype(int).ravel(), minlength=6)
    expected = weights.size * np.r_[stats.poisson(1).pmf(range(5)), stats.poisson(1).sf(4)]
    # A right generator passes all but one seed in a thousand.
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_replicates_of_a_sum_by_hand():
    y = np.array([1.0, 10.0, 100.0])

    draws = replicates(lambda w: float(w @ y), ["a", "b", "a"], n_replicates=5, rng=np.random.default_rng(2))

    weights = np.random.default_rng(2).poisson(1.0, size=(2, 5))
    np.testing.assert_array_equal(draws, 101.0 * weights[0] + 10.0 * weights[1])


def test_spread_of_replicates_is_the_standard_error_of_cluster_sums():
    rng = np.random.default_rng(3)
    y, units = rng.normal(size=400), np.repeat(np.arange(80), 5)
    totals = y.reshape(80, 5).sum(axis=1)

    draws = replicates(lambda w: float(w @ y), units, n_replicates=4000, rng=rng)

    # The spread of 4,000 draws has a relative standard error of 1.1 %: four of them.
    assert draws.std() == pytest.approx(np.sqrt((totals**2).sum()), rel=0.045)


def test_interval_is_normal_with_many_units_and_t_with_few():
    draws = np.array([1.0, 2.0, 3.0, np.nan])

    many = interval(4.0, draws, confidence=0.9, n_units_smaller_arm=30, n_units=60)
    few = interval(4.0, draws, confidence=0.9, n_units_smaller_arm=29, n_units=58)

    assert many.se == few.se == 1.0
    assert (many.ci_lower, many.ci_upper) == pytest.approx((4 - 1.6448536, 4 + 1.6448536))
    assert many.p_value == pytest.approx(2 * stats.norm.sf(4.0))
    assert few.ci_upper == pytest.approx(4 + stats.t(56).ppf(0.95))
    assert few.p_value == pytest.approx(2 * stats.t(56).sf(4.0))


def test_the_smaller_arm_dictates_the_degrees_of_freedom():
    # 4 and 12 units: (1/4 + 1/12)^2 = 1/9 over 1/48 + 1/1584 = 34/1584
    assert freedom(n_units_smaller_arm=4, n_units=16) == pytest.approx(176 / 34)
    for n in (4, 10, 29):
        assert freedom(n_units_smaller_arm=n, n_units=2 * n) == pytest.approx(2 * n - 2)
        many = freedom(n_units_smaller_arm=n, n_units=n + 10**6)
        assert many == pytest.approx(n - 1, rel=1e-4)
        for n_units in range(2 * n, 200):
            assert n - 1 < freedom(n_units_smaller_arm=n, n_units=n_units) <= n_units - 2 + 1e-9
    assert freedom(n_units_smaller_arm=30, n_units=60) == np.inf


def test_units_in_both_arms_are_one_sample():
    assert freedom(n_units_smaller_arm=12, n_units=12) == freedom(n_units_smaller_arm=11, n_units=12) == 10.0


def test_the_spread_of_a_small_arm_in_the_replicates():
    """Over draws in which the arm is there, (n - 1) E[1/K | K > 0] of the variance of a mean, K Poisson(n)."""
    rng = np.random.default_rng(5)
    for n, part in ((1, 0.0), (2, 0.577), (3, 0.865), (4, 0.989), (10, 1.017)):
        y = rng.normal(size=n)
        draws = replicates(
            lambda w, y=y: float(w @ y / w.sum()) if w.any() else np.nan, range(n), n_replicates=20_000, rng=rng
        )
        expected = part * y.var(ddof=1) / n if n > 1 else 0.0
        # 20,000 draws of a heavy-tailed variance: 1.5 % each, four of them
        assert np.nanvar(draws) == pytest.approx(expected, rel=0.06, abs=1e-12)


@pytest.mark.parametrize("effect", [0.3, -0.3])
def test_interval_excludes_zero_exactly_when_p_is_small(effect):
    for se in (0.1, 0.152, 0.154, 0.3):
        draws = effect + se * np.array([-1.0, 0.0, 1.0])
        found = interval(effect, draws, confidence=0.95, n_units_smaller_arm=50, n_units=100)
        assert (found.ci_lower * found.ci_upper > 0) == (found.p_value < 0.05)


def test_interval_where_it_has_no_meaning():
    undefined = interval(np.nan, [1.0, 2.0], confidence=0.95, n_units_smaller_arm=50, n_units=100)
    one_draw = interval(1.0, [1.0, np.nan], confidence=0.95, n_units_smaller_arm=50, n_units=100)
    no_spread = interval(-0.05, [-0.05, -0.05], confidence=0.95, n_units_smaller_arm=50, n_units=100)
    nothing = interval(0.0, [0.0, 0.0], confidence=0.95, n_units_smaller_arm=50, n_units=100)

    assert np.isnan([undefined.se, undefined.p_value, one_draw.se, one_draw.ci_lower, nothing.p_value]).all()
    assert (no_spread.ci_lower, no_spread.ci_upper, no_spread.p_value) == (-0.05, -0.05, 0.0)


def test_refusals():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match=r"units.shape == \(1, 1\)"):
        poisson_weights([[1]], n_replicates=10, rng=rng)
    with pytest.raises(ValueError, match="n_replicates == 1"):
        poisson_weights([1], n_replicates=1, rng=rng)
    with pytest.raises(ValueError, match="1 missing labels"):
        poisson_weights(["a", None], n_replicates=10, rng=rng)
    with pytest.raises(ValueError, match=r"confidence == 1\.0"):
        interval(1.0, [1.0, 2.0], confidence=1.0, n_units_smaller_arm=50, n_units=100)
    for n, n_units in ((1, 10), (2, 2)):
        with pytest.raises(ValueError, match=f"n_units_smaller_arm == {n}, n_units == {n_units}"):
            freedom(n_units_smaller_arm=n, n_units=n_units)
        assert np.isnan(interval(1.0, [1.0, 2.0], confidence=0.9, n_units_smaller_arm=n, n_units=n_units).se)

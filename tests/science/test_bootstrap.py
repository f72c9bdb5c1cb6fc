import numpy as np
import pytest
from scipy import stats

from pricelab_dagster.science.bootstrap import interval, poisson_weights, replicates


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
    few = interval(4.0, draws, confidence=0.9, n_units_smaller_arm=29, n_units=59)

    assert many.se == few.se == 1.0
    assert (many.ci_lower, many.ci_upper) == pytest.approx((4 - 1.6448536, 4 + 1.6448536))
    assert many.p_value == pytest.approx(2 * stats.norm.sf(4.0))
    assert few.ci_upper == pytest.approx(4 + stats.t(57).ppf(0.95))
    assert few.p_value == pytest.approx(2 * stats.t(57).sf(4.0))


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

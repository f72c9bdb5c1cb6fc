import numpy as np
import pytest
from scipy import stats

from pricelab_dagster.science.paired import contrast

# Sums of a few dozen terms of order one, in two orders.
ROUNDING = 1e-12
# Constants of order 100 are added to values of order one and cancel.
CANCELLED = 1e-9

# Student (1908), table of section 9: extra hours of sleep of ten patients by two drugs.
FIRST_DRUG = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND_DRUG = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

REPETITIONS = 2000
# All but one in a thousand sound intervals hit so often.
HITS = stats.binom.interval(0.999, REPETITIONS, 0.95)


def numbers(found) -> list[float]:
    return [found.effect, found.se, found.t, found.ci_lower, found.ci_upper, found.p_value]


def test_sleep_is_published():
    found = contrast(FIRST_DRUG, SECOND_DRUG)

    assert found.effect == pytest.approx(-1.58)
    assert round(found.t, 4) == -4.0621
    assert found.df == 9
    assert round(found.p_value, 6) == 0.002833
    assert (round(found.ci_lower, 4), round(found.ci_upper, 4)) == (-2.4599, -0.7001)
    assert "does not identify the period effect" in found.estimand


def test_by_hand():
    # Differences 2, 3, 1: variance 1, standard error sqrt(1/3).
    found = contrast([3.0, 5.0, 4.0, np.nan, 1.0], [1.0, 2.0, 3.0, 1.0, np.nan])

    assert found.effect == 2.0
    assert found.se == pytest.approx(np.sqrt(1 / 3))
    assert (found.df, found.n_units, found.n_products) == (2, 3, 3)
    # Units of two products and one: sums of deviations 1/3 * (0 + 1) and 1/3 * -1, times 2 / (2 - 1).
    together = contrast([3.0, 5.0, 4.0], [1.0, 2.0, 3.0], units=["a", "a", "b"])
    assert together.se == pytest.approx(np.sqrt(2 * (1 / 9 + 1 / 9)))
    assert (together.df, together.n_units, together.n_products) == (1, 2, 3)


@pytest.mark.parametrize("n", range(2, 9))
def test_equals_the_t_test_of_differences(n):
    rng = np.random.default_rng(n)
    treated, control = rng.normal(size=(2, n))

    found = contrast(treated, control, confidence=0.9)

    reference = stats.ttest_rel(treated, control)
    bounds = reference.confidence_interval(0.9)
    expected = [reference.statistic, bounds.low, bounds.high, reference.pvalue]
    np.testing.assert_allclose(numbers(found)[2:], expected, rtol=ROUNDING * 100)


def test_equal_units_are_their_means():
    rng = np.random.default_rng(0)
    treated, control = rng.normal(size=(2, 24))
    by_unit = [values.reshape(6, 4).mean(axis=1) for values in (treated, control)]

    found, means = contrast(treated, control, units=np.repeat(np.arange(6), 4)), contrast(*by_unit)

    np.testing.assert_allclose(numbers(found), numbers(means), rtol=CANCELLED)


def test_invariances_and_copies():
    rng = np.random.default_rng(1)
    treated, control = rng.normal(size=(2, 20))
    units, turn, rows = rng.integers(0, 8, 20), rng.permutation(20), np.repeat(np.arange(20), 10)
    base = numbers(contrast(treated, control, units=units))
    constant, names = 100 * rng.normal(size=20), rng.permutation(8).astype(str)

    for found in [
        contrast(treated[turn], control[turn], units=units[turn]),
        contrast(treated, control, units=names[units]),
        contrast(treated + constant, control + constant, units=units),
        contrast(treated[rows], control[rows], units=units[rows]),
    ]:
        np.testing.assert_allclose(numbers(found), base, rtol=CANCELLED)
    shifted = contrast(treated + 5.0, control, units=units)
    assert shifted.effect == pytest.approx(base[0] + 5.0)
    assert shifted.se == pytest.approx(base[1])
    turned = contrast(-2.0 * treated, -2.0 * control, units=units)
    assert (turned.effect, turned.se) == pytest.approx((-2.0 * base[0], 2.0 * base[1]))
    # Copies that pass for products of their own would shrink it.
    assert contrast(treated[rows], control[rows]).se < 0.4 * contrast(treated, control).se


def test_intervals_cover():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(REPETITIONS):
        product = rng.normal(size=6)
        found = contrast(product + 0.5 + rng.normal(size=6), product + rng.normal(size=6))
        hits += found.ci_lower < 0.5 < found.ci_upper

    assert HITS[0] <= hits <= HITS[1]


def test_a_change_between_the_periods_goes_into_the_effect():
    rng = np.random.default_rng(3)
    product = rng.normal(size=200)

    found = contrast(product + 0.5 + 1.0 + 0.1 * rng.normal(size=200), product)

    assert not found.ci_lower < 0.5 < found.ci_upper
    assert found.ci_lower < 1.5 < found.ci_upper


@pytest.mark.parametrize(
    ("treated", "units", "said"),
    [
        ([1.0, np.nan, np.nan], None, "1 products"),
        ([np.nan] * 3, None, "0 products"),
        ([1.0, 2.0, 3.0], ["a", "a", "a"], "1 units"),
    ],
)
def test_too_few_are_nan_with_a_reason(treated, units, said):
    found = contrast(treated, [0.0, 0.0, 0.0], units=units)

    assert np.isnan(numbers(found)).all()
    assert found.df == 0
    assert str(found.reason).startswith(said)


def test_without_spread_p_is_zero_or_undefined():
    assert contrast([2.0, 3.0], [1.0, 2.0]).p_value == 0.0
    assert np.isnan(contrast([1.0, 2.0], [1.0, 2.0]).p_value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control": [1.0, 2.0]}, "control.shape"),
        ({"treated": np.ones((3, 2)), "control": np.ones((3, 2))}, "treated.shape"),
        ({"units": [1, 2]}, "units.shape"),
        ({"units": ["a", None, "b"]}, "1 missing labels"),
        ({"confidence": 95}, "confidence == 95"),
    ],
)
def test_refusals(change, said):
    given = {"treated": [1.0, 2.0, 3.0], "control": [1.0, 1.0, 1.0]} | change
    with pytest.raises(ValueError, match=said):
        contrast(**given)

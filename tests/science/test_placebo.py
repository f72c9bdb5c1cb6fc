"""Windows before the start: their residuals, and how often draws of the arms find an effect in them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science import affinity, detrend
from pricelab_dagster.science._windows import by_window
from pricelab_dagster.science.bootstrap import freedom
from pricelab_dagster.science.placebo import aa_rejections, residuals
from pricelab_dagster.science.replay import Fixed, instant

N, K, R = 80, 6, 300
TAIL = 0.0005


def halves(rng: np.random.Generator, n: int = N, n_draws: int = R) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(n) % 2, (n_draws, 1)), axis=1).T


def windows(rng: np.random.Generator, n: int = N) -> list[Fixed]:
    return [Fixed(rng.standard_t(4, n), np.arange(n)) for _ in range(K)]


def test_their_means_are_the_placebo_differences():
    rng = np.random.default_rng(0)
    history = rng.poisson(20, (30, 200)).astype(float)
    history[3, :130] = np.nan
    options = {"groups": np.arange(30) % 3, "prices": np.exp(rng.normal(0, 0.1, history.shape))}
    found = residuals(history, 21, n_windows=4, **options)
    np.testing.assert_allclose(found.mean(axis=2).T, detrend.placebo(history, 21, n_windows=4, **options), atol=1e-9)
    assert np.isnan(found[3, 3]).all()


def test_a_window_is_forecast_from_what_lies_before_it_alone():
    rng = np.random.default_rng(1)
    history = rng.poisson(20, (30, 140)).astype(float)
    later = history.copy()
    later[:, -14:] += 100.0
    np.testing.assert_array_equal(residuals(later, 14)[1:], residuals(history, 14)[1:])
    assert (residuals(later, 14)[0] > residuals(history, 14)[0]).all()


def test_auto_is_the_method_of_the_experiment_in_every_window():
    rng = np.random.default_rng(11)
    level = np.exp(0.1 * rng.normal(size=(60, 196)).cumsum(axis=1) / 3)
    history = rng.poisson(20 * level).astype(float)
    method = detrend.choose(history, 14).method
    assert method != "mean"
    np.testing.assert_array_equal(residuals(history, 14, method="auto"), residuals(history, 14, method=method))
    alone = history[:, -14:] - detrend.forecast(history[:, :-14], 14, method="mean")
    assert not np.array_equal(residuals(history, 14, method="auto")[0], alone)


@pytest.mark.parametrize(("n_periods", "expected"), [(41, 0), (42, 1), (55, 1), (56, 2), (400, 6)])
def test_there_are_as_many_as_four_weeks_before_each_leave_room_for(n_periods, expected):
    assert residuals(np.ones((3, n_periods)), 14).shape == (expected, 3, 14)


@pytest.mark.parametrize("se", ["instant", "calibrated", "bootstrap"])
def test_sound_errors_reject_at_the_nominal_size(se):
    rng = np.random.default_rng(2)
    n_draws = 60 if se == "bootstrap" else R
    whole = [replace(one, trim="none") for one in windows(rng)]
    found = aa_rejections(whole, halves(rng, n_draws=n_draws), nominal=0.1, se=se, n_replicates=200, rng=rng)
    low, high = stats.binom(K * n_draws, 0.1).ppf([TAIL, 1 - TAIL]) / (K * n_draws)
    assert low < found.share < high
    assert found.ci_lower < 0.1 < found.ci_upper
    assert found.share == pytest.approx(found.by_window.mean())


def test_with_the_filter_the_instant_error_keeps_its_size_and_the_bootstrap_is_longer():
    rng = np.random.default_rng(11)
    one, arms = windows(rng), halves(rng)
    low, high = stats.binom(K * R, 0.05).ppf([TAIL, 1 - TAIL]) / (K * R)
    assert low < aa_rejections(one, arms, rng=rng).share < high
    calibrated = aa_rejections(one, arms, se="calibrated", rng=rng)
    assert calibrated.se_ratio > 1.05
    assert calibrated.share < aa_rejections(one, arms, rng=rng).share


def test_arms_drawn_by_cluster_and_judged_by_product_are_caught():
    rng = np.random.default_rng(3)
    unit = np.arange(N) // 4
    value = [rng.normal(size=N // 4)[unit] + 0.3 * rng.normal(size=N) for _ in range(K)]
    arms = halves(rng, N // 4)[unit]
    wrong = aa_rejections([Fixed(one, np.arange(N)) for one in value], arms, rng=rng)
    right = aa_rejections([Fixed(one, unit, trim="none") for one in value], arms, rng=rng)
    assert wrong.ci_lower > 0.2
    assert right.ci_lower < 0.05 < right.ci_upper


def test_draws_inside_strata_are_rejected_less():
    rng = np.random.default_rng(4)
    stratum = np.arange(N) // 2
    one = [Fixed(2.0 * rng.normal(size=N // 2)[stratum] + rng.normal(size=N), np.arange(N)) for _ in range(K)]
    first = rng.integers(0, 2, (N // 2, R))
    paired = np.where((np.arange(N) % 2 == 0)[:, None], first[stratum], 1 - first[stratum])
    assert aa_rejections(one, paired, rng=rng).ci_upper < 0.05


def test_the_ratio_is_that_of_the_two_errors():
    rng = np.random.default_rng(5)
    X = pd.DataFrame(rng.normal(size=(N, 2)))
    D = X[0].to_numpy() + rng.normal(size=N)
    one = Fixed(D, np.arange(N), leaves=affinity.fit_leaves(X, D, n_trees=8, rng=rng))
    arms = halves(rng)
    calibrated = aa_rejections([one], arms, se="calibrated", n_replicates=400, rng=rng)
    assert 1.0 < calibrated.se_ratio < 1.2
    t = instant(one, arms).t / calibrated.se_ratio
    assert calibrated.share == pytest.approx((np.abs(t) > stats.norm.ppf(0.975)).mean())
    outcome = replace(one, outcome=5.0 + D)
    assert aa_rejections([outcome], arms, rng=rng) == pytest.approx(aa_rejections([one], arms, rng=rng), abs=0)


def test_few_units_are_judged_by_student():
    rng = np.random.default_rng(6)
    one, arms = Fixed(rng.normal(size=20), np.arange(20), trim="none"), halves(rng, 20)
    t = np.abs(instant(one, arms).t)
    assert aa_rejections([one], arms, rng=rng).share == pytest.approx((t > stats.t(18).ppf(0.975)).mean())
    assert (t > stats.t(18).ppf(0.975)).mean() < (t > stats.norm.ppf(0.975)).mean()


def test_a_small_arm_is_judged_as_its_interval_is():
    rng = np.random.default_rng(6)
    one = Fixed(rng.normal(size=60), np.arange(60), trim="none")
    five, two = (rng.permuted(np.tile(np.arange(60) < n, (300, 1)), axis=1).T.astype(float) for n in (5, 2))
    t = np.abs(instant(one, five).t)
    df = freedom(n_units_smaller_arm=5, n_units=60)
    assert aa_rejections([one], five, rng=rng).share == (t > stats.t(df).ppf(0.975)).mean()
    nothing = aa_rejections([one], two, rng=rng)
    assert np.isnan(nothing.share)
    assert nothing.n_undefined == 300


def test_cells_are_drawn_by_period():
    rng = np.random.default_rng(7)
    R_it = [Fixed(rng.normal(size=(30, 14)) + rng.normal(size=(30, 1)), np.arange(30), trim="none") for _ in range(3)]
    arms = rng.integers(0, 2, (80, 30, 14)).astype(np.int8)
    found = aa_rejections(R_it, arms, se="calibrated", n_replicates=40, rng=rng)
    low, high = stats.binom(240, 0.05).ppf([TAIL, 1 - TAIL]) / 240
    assert low < found.share < high
    assert 0.9 < found.se_ratio < 1.1


def test_an_undefined_draw_is_counted_and_left_out():
    rng = np.random.default_rng(8)
    arms = halves(rng).astype(float)
    arms[:, 7] = 1.0
    found = aa_rejections(windows(rng), arms, rng=rng)
    assert found.n_undefined == K
    assert np.isfinite(found.by_window).all()
    nothing = aa_rejections(windows(rng), np.ones((N, 3)), rng=rng)
    assert np.isnan([nothing.share, nothing.ci_lower]).all()


def test_the_interval_widens_where_windows_or_draws_differ():
    alike = np.tile([1.0, 0, 0, 0], (4, 25))
    by_hand = stats.binomtest(100, 400).proportion_ci(0.95, "wilson")
    mean, lower, upper = by_window(np.random.default_rng(9).permuted(alike, axis=1))
    assert mean.tolist() == [0.25] * 4
    assert lower <= by_hand.low
    assert upper >= by_hand.high
    unlike = np.repeat([[0.0], [0.0], [1.0], [0.0], [0.0], [0.0]], 100, axis=1)
    half = stats.t(5).ppf(0.975) * np.sqrt(1 / 36)  # one window of six has variance 1/6; draws are alike
    mean, lower, upper = by_window(unlike)
    assert mean.tolist() == [0, 0, 1, 0, 0, 0]
    assert (lower, upper) == (0.0, pytest.approx(1 / 6 + half))
    assert by_window(np.full((2, 3), np.nan))[1:] == (pytest.approx(np.nan, nan_ok=True),) * 2


def test_options_that_have_no_meaning_are_refused():
    rng = np.random.default_rng(10)
    arms = halves(rng)
    with pytest.raises(ValueError, match=r"windows == \[\], must have at least one"):
        aa_rejections([], arms, rng=rng)
    with pytest.raises(ValueError, match=r"nominal == 0, must be in \(0, 1\)"):
        aa_rejections(windows(rng), arms, nominal=0, rng=rng)
    with pytest.raises(ValueError, match="se == 'jackknife', must be one of"):
        aa_rejections(windows(rng), arms, se="jackknife", rng=rng)
    with pytest.raises(ValueError, match="horizon == 0, must be 1 or more"):
        residuals(np.ones((2, 60)), 0)

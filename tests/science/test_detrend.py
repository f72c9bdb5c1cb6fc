"""Forecasts and first differences: by hand, invariances, no look-ahead, scikit-learn, and better than a mean."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from pricelab_dagster.science import _levels
from pricelab_dagster.science._panel import FloatArray, Panel
from pricelab_dagster.science.detrend import (
    choose,
    first_difference,
    forecast,
    phase_contrast,
    placebo,
    product_scale,
    within_contrast,
)

EXACT = 1e-10  # the same numbers in another order of addition, relative
METHODS: list[Any] = ["pooled_ridge", "mean", "ses", "none", "auto"]
WEEKDAYS = np.array([0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 1.2])


def panel(
    rng: np.random.Generator,
    *,
    n_products: Any = 120,
    n_periods: Any = 280,
    n_groups: Any = 4,
    weekdays: Any = WEEKDAYS,
    persistence: Any = 0.97,
    sd: Any = 0.3,
) -> Any:
    """Poisson sales of products of very unlike size, with persistent shocks to product and category, and weekdays."""
    persistence, sd = 0.97, 0.3
    groups = np.arange(n_products) % n_groups
    shocks = np.empty((n_products + n_groups, n_periods))
    shocks[:, 0] = rng.normal(size=len(shocks)) * sd
    for t in range(1, n_periods):
        innovation = rng.normal(size=len(shocks)) * sd * np.sqrt(1 - persistence**2)
        shocks[:, t] = persistence * shocks[:, t - 1] + innovation
    size = np.exp(1.0 + 1.3 * rng.normal(size=n_products))
    log_mean = shocks[:n_products] + shocks[n_products:][groups]
    mean = size[:, None] * np.exp(log_mean) * weekdays[np.arange(n_periods) % 7]
    return rng.poisson(mean).astype(float), groups


def relative_errors(history: Any, window: Any, method: Any, groups: Any) -> Any:
    predicted = forecast(history, window.shape[1], groups=groups, method=method)
    return (window - predicted).mean(axis=1) / product_scale(history)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_periods", [20, 100, 200])
def test_constant_panel_predicts_itself(method: Any, n_periods: Any) -> None:
    history = np.tile([[2.0], [5.0], [40.0]], (1, n_periods))
    np.testing.assert_allclose(forecast(history, 10, method=method), history[:, :10], rtol=EXACT)


@pytest.mark.parametrize("method", ["pooled_ridge", "mean", "ses", "auto"])
@pytest.mark.parametrize("n_periods", [30, 201])
@pytest.mark.parametrize("horizon", [1, 7, 17])
def test_exact_week_is_continued_at_its_phase(method: Any, n_periods: Any, horizon: Any) -> None:
    week = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    history = np.array([[1.0], [10.0], [1_000.0]]) * week[np.arange(n_periods) % 7]
    ahead = np.array([[1.0], [10.0], [1_000.0]]) * week[np.arange(n_periods, n_periods + horizon) % 7]
    np.testing.assert_allclose(forecast(history, horizon, method=method), ahead, rtol=EXACT, atol=EXACT)


def test_raw_mean_by_hand() -> None:
    history = np.array([[9.0, 9.0, 1.0, 2.0, 6.0], [np.nan, np.nan, np.nan, 4.0, 8.0]])
    np.testing.assert_allclose(forecast(history, 2, method="none", window=3), [[3.0, 3.0], [6.0, 6.0]])
    np.testing.assert_allclose(forecast(history, 1, method="none", window=99), [[5.4], [6.0]])


def test_weeks_as_periods_are_flat() -> None:
    history = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])
    np.testing.assert_allclose(forecast(history, 2, season=1, method="mean", window=2), [[2.5, 2.5], [4.0, 4.0]])


def test_smoothing_by_hand(monkeypatch: Any) -> None:
    # Weights of a constant .5 over four periods: 1/16, 1/8, 1/4, 1/2 over their sum 15/16.
    monkeypatch.setattr(_levels, "SES_ALPHAS", np.array([0.5]))
    weights = _levels._decay(4, 4)
    level = Panel.of([[8.0, 0.0, 4.0, 2.0]], None, 1).levels(weights)
    np.testing.assert_allclose(level, [[(0.5 + 0.0 + 1.0 + 1.0) / (15 / 16)]])


def test_smoothing_constant_follows_the_panel() -> None:
    rng = np.random.default_rng(1)
    noise = 50.0 + rng.normal(size=(40, 200))
    walk = 50.0 + np.cumsum(rng.normal(size=(40, 200)), axis=1)
    steady = forecast(noise, 1, season=1, method="ses")[:, 0]
    moving = forecast(walk, 1, season=1, method="ses")[:, 0]
    # A constant of .01 averages some 170 periods of noise, one of .4 stays within a few steps of the last value.
    assert np.sqrt(np.mean((steady - 50.0) ** 2)) < 0.2
    assert np.sqrt(np.mean((moving - walk[:, -1]) ** 2)) < 1.5


def test_ridge_is_scikit_learns_on_the_same_rows() -> None:
    history, groups = panel(np.random.default_rng(2), weekdays=np.ones(7))
    data = Panel.of(history, groups, 7)
    np.testing.assert_allclose(data.profile, 1.0, rtol=0.02)
    sums, horizon, origins = _levels._Sums.of(data), 28, range(280 - 28, 55, -14)
    rows, targets = [], []
    for origin in origins:
        X, scale, usable = sums.features(origin)
        assert usable.all()
        rows.append(X)
        change = history[:, origin : origin + horizon].mean(axis=1) - history[:, origin - 28 : origin].mean(axis=1)
        targets.append(change / scale)
    X, y = np.concatenate(rows), np.concatenate(targets)
    # 15 origins from 252 down to 56 hold 1 + 196 / 28 = 8 separate horizons; a larger penalty is a smaller feature.
    penalty = 0.05 + np.repeat([0.0, 30.0 / (4 * 8)], 7)
    sd = X.std(axis=0) * np.sqrt(penalty)
    fit = Ridge(alpha=len(X)).fit(X / sd, y)
    X, scale, _ = sums.features(280)
    predicted = forecast(history, horizon, groups=groups).mean(axis=1)
    expected = history[:, -28:].mean(axis=1) + fit.predict(X / sd) * scale
    np.testing.assert_allclose(predicted, expected, rtol=1e-8)


def priced(rng: np.random.Generator, horizon: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sales of elasticity -2 over 280 days and the horizon, and their prices, which step every four weeks."""
    n_blocks = (280 + horizon) // 28
    price = 3.0 * np.exp(rng.normal(0.0, 0.1, (80, n_blocks))).repeat(28, axis=1)
    sold = rng.poisson(20.0 * (price / 3.0) ** -2.0).astype(float)
    return sold[:, :280], sold[:, 280:], price


def test_ridge_with_prices_is_scikit_learns_on_the_same_rows() -> None:
    history, _, price = priced(np.random.default_rng(3), 28)
    groups, horizon, log_price = np.arange(80) % 4, 28, np.log(price)
    data = Panel(history, np.ones((1, 280), dtype=bool), groups, np.ones((4, 7)))
    sums, rows, targets = _levels._Sums.of(data), [], []

    def features(origin: int) -> FloatArray:
        ahead = log_price[:, origin : origin + horizon].mean(axis=1)
        moves = [ahead - log_price[:, origin - 28 : origin].mean(axis=1), ahead - log_price[:, :origin].mean(axis=1)]
        return np.column_stack([sums.features(origin)[0], *moves])

    for origin in range(280 - 28, 55, -14):
        rows.append(features(origin))
        change = history[:, origin : origin + horizon].mean(axis=1) - history[:, origin - 28 : origin].mean(axis=1)
        targets.append(change / sums.features(origin)[1])
    X, y = np.concatenate(rows), np.concatenate(targets)
    sd = X.std(axis=0) * np.sqrt(0.05 + np.repeat([0.0, 30.0 / (4 * 8), 0.0], [7, 7, 2]))
    fit = Ridge(alpha=len(X)).fit(X / sd, y)
    expected = history[:, -28:].mean(axis=1) + fit.predict(features(280) / sd) * sums.features(280)[1]
    np.testing.assert_allclose(_levels.ridge(data, horizon, 28, log_price), expected, rtol=1e-8)


def test_a_planned_price_is_not_taken_for_a_shock() -> None:
    history, sold, price = priced(np.random.default_rng(4), 28)
    known = {"prices": price[:, :280], "planned": price[:, 280:]}
    blind, seeing = (forecast(history, 28, **prices).mean(axis=1) for prices in ({}, known))
    errors = [np.sqrt(np.mean((sold.mean(axis=1) - predicted) ** 2)) for predicted in (blind, seeing)]
    # prices move demand by a fifth of 20; Poisson noise of a mean over 28 days is .85
    assert errors[0] > 3.0
    assert errors[1] < 1.5
    placebos = [placebo(history, 28, prices=prices) for prices in (None, price[:, :280])]
    assert np.nanstd(placebos[1]) < 0.5 * np.nanstd(placebos[0])


def test_prices_count_by_their_ratios_and_unknown_ones_say_nothing() -> None:
    history, _, price = priced(np.random.default_rng(5), 28)
    known = forecast(history, 28, prices=price[:, :280], planned=price[:, 280:])
    scale = np.linspace(0.1, 50.0, 80)[:, None]
    np.testing.assert_allclose(
        forecast(history, 28, prices=scale * price[:, :280], planned=scale * price[:, 280:]), known, rtol=1e-8
    )
    unknown = np.full_like(price, np.nan)
    np.testing.assert_allclose(
        forecast(history, 28, prices=unknown[:, :280], planned=unknown[:, 280:]), forecast(history, 28), rtol=1e-8
    )


def test_placebo_sees_no_later_price() -> None:
    history, _, price = priced(np.random.default_rng(6), 28)
    before = placebo(history, 28, prices=price[:, :280])
    moved = price[:, :280].copy()
    moved[:, -28:] *= 0.5
    after = placebo(history, 28, prices=moved)
    np.testing.assert_array_equal(after[:, 1:], before[:, 1:])
    assert (after[:, 0] != before[:, 0]).any()


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"prices": np.ones((3, 60))}, "one of prices, planned == None"),
        ({"prices": np.ones((3, 59)), "planned": np.ones((3, 7))}, "prices.shape"),
        ({"prices": np.ones((3, 60)), "planned": np.ones((3, 6))}, "planned.shape"),
        ({"prices": np.zeros((3, 60)), "planned": np.ones((3, 7))}, "not positive"),
    ],
)
def test_prices_that_do_not_fit_are_refused(prices: dict[str, FloatArray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecast(np.ones((3, 60)), 7, **prices)


def test_features_by_hand() -> None:
    # One category of two products, 64 periods of one: last one to four weeks 2, before 1; the other always 1.
    history = np.ones((2, 64))
    history[0, -4:] = 2.0
    sums = _levels._Sums.of(Panel.of(history, None, 1))
    X, scale, usable = sums.features(64)
    assert usable.all()
    mean = np.array([68.0, 64.0])
    np.testing.assert_allclose(scale, (mean + 0.5 * mean.sum() / 128) / 65.0)
    means = np.array([[2.0, 2.0, 2.0, 1.5, 17 / 13, 30 / 26, 68 / 64], [1.0] * 7]) / scale[:, None]
    category = means.mean(axis=0)
    np.testing.assert_allclose(X, np.concatenate([means - category, np.tile(category, (2, 1))], axis=1))


@pytest.mark.parametrize("method", METHODS)
def test_equivariant_to_scale_order_and_labels(method: Any) -> None:
    history, groups = panel(np.random.default_rng(3), n_products=60)
    predicted = forecast(history, 21, groups=groups, method=method)
    np.testing.assert_allclose(
        forecast(1_000.0 * history, 21, groups=groups, method=method), 1_000.0 * predicted, rtol=1e-8
    )
    order = np.random.default_rng(4).permutation(60)
    labels = np.array(["dairy", "bread", "meat", "fish"])
    np.testing.assert_allclose(
        forecast(history[order], 21, groups=labels[groups[order]], method=method), predicted[order], rtol=1e-8
    )


def test_size_plays_no_part_beyond_the_pseudo_periods() -> None:
    history, groups = panel(np.random.default_rng(5), n_products=60)
    history += 1.0
    factor = np.random.default_rng(6).uniform(1.0, 1.2, (60, 1))
    predicted, scaled = forecast(history, 21, groups=groups), forecast(factor * history, 21, groups=groups)
    # Half a week of pseudo-data in 40 weeks: about 1 % of the difference between products.
    np.testing.assert_allclose(scaled / factor, predicted, rtol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_signed_values_work(method: Any) -> None:
    history, groups = panel(np.random.default_rng(7), n_products=40)
    negative = forecast(-history, 14, groups=groups, method=method)
    np.testing.assert_allclose(negative, -forecast(history, 14, groups=groups, method=method), rtol=1e-8)
    centred = history - history.mean(axis=1, keepdims=True)
    assert np.isfinite(forecast(centred, 14, groups=groups, method=method)).all()


@pytest.mark.parametrize("method", METHODS[:4])
def test_placebo_sees_no_later_period(method: Any) -> None:
    history, groups = panel(np.random.default_rng(8), n_products=40, n_periods=196)
    before = placebo(history, 28, groups=groups, method=method)
    shocked = history.copy()
    shocked[:, -28:] *= 3.0
    after = placebo(shocked, 28, groups=groups, method=method)
    np.testing.assert_array_equal(after[:, 1:], before[:, 1:])
    assert (after[:, 0] != before[:, 0]).any()
    expected = (history[:, -28:] - forecast(history[:, :-28], 28, groups=groups, method=method)).mean(axis=1)
    np.testing.assert_array_equal(before[:, 0], expected)


def test_placebo_is_missing_where_history_is_short() -> None:
    history = np.ones((2, 70))
    history[1, :40] = np.nan
    found = placebo(history, 14, n_windows=4)
    np.testing.assert_array_equal(np.isnan(found), [[False, False, False, True], [True] * 4])


def test_late_products_do_not_break_the_others() -> None:
    history, groups = panel(np.random.default_rng(9))
    late = history.copy()
    late[0, :150], late[1, :250], late[2] = np.nan, np.nan, np.nan
    for method in METHODS:
        predicted = forecast(late, 14, groups=groups, method=method)
        assert np.isnan(predicted[2]).all()
        assert np.isfinite(np.delete(predicted, 2, axis=0)).all()
    ridge, mean = forecast(late, 14, groups=groups), forecast(late, 14, groups=groups, method="mean")
    np.testing.assert_allclose(ridge[1], mean[1], rtol=EXACT)  # 30 days: less than 8 weeks
    assert (np.abs(ridge[0] / mean[0] - 1.0) > 1e-6).all()  # 130 days: the regression's


def test_short_history_is_the_window_mean() -> None:
    history, groups = panel(np.random.default_rng(10), n_periods=28 + 84)
    methods: list[Any] = ["pooled_ridge", "ses"]
    for method in methods:
        assert not np.allclose(
            forecast(history, 28, groups=groups, method=method), forecast(history, 28, groups=groups, method="mean")
        )
        np.testing.assert_array_equal(
            forecast(history[:, 1:], 28, groups=groups, method=method),
            forecast(history[:, 1:], 28, groups=groups, method="mean"),
        )


@pytest.mark.parametrize(("seed", "growth", "expected"), [(11, 0.0, "pooled_ridge"), (3, 0.004, "ses")])
def test_auto_is_the_best_on_placebo_about_its_mean(seed: int, growth: float, expected: Any) -> None:
    # With growth common to all products the least error about zero would be the ridge's instead.
    history, groups = panel(np.random.default_rng(seed))
    history = history * np.exp(growth * np.arange(280))
    scale = product_scale(history)[:, None]
    errors: dict[Any, float] = {}
    for method in METHODS[:3]:
        Z = placebo(history, 28, groups=groups, method=method) / scale
        errors[method] = np.abs(Z - Z.mean(axis=0)).mean()
    assert min(errors, key=errors.__getitem__) == expected
    found = choose(history, 28, groups=groups)
    assert (found.method, found.reason) == (expected, None)
    assert found.placebo_error == pytest.approx(errors, rel=EXACT)
    np.testing.assert_array_equal(
        forecast(history, 28, groups=groups, method="auto"), forecast(history, 28, groups=groups, method=expected)
    )


def test_auto_is_chosen_once_and_its_placebos_are_those_of_the_choice() -> None:
    # the earliest of four windows has too little before it to train on: there alone the choice would be the mean
    history, groups = panel(np.random.default_rng(11), n_periods=196)
    found = choose(history, 28, groups=groups)
    assert found.method != "mean"
    auto = placebo(history, 28, groups=groups, method="auto")
    np.testing.assert_array_equal(auto, placebo(history, 28, groups=groups, method=found.method))
    assert choose(history[:, : 196 - 4 * 28], 28, groups=groups).method == "mean"


def test_a_choice_does_not_depend_on_unit_or_order_and_by_week_takes_the_scale_of_weeks() -> None:
    history, groups = panel(np.random.default_rng(12), n_products=60)
    found = choose(history, 28, groups=groups)
    order = np.random.default_rng(13).permutation(60)
    other = choose(7.0 * history[order], 28, groups=groups[order])
    assert other.method == found.method
    assert other.placebo_error == pytest.approx(found.placebo_error, rel=1e-8)
    weeks = history.reshape(60, 40, 7).sum(axis=2)
    D = placebo(weeks, 4, season=1, window=4, method="mean") / product_scale(weeks, grain="week")[:, None]
    error = np.abs(D - D.mean(axis=0)).mean()
    assert choose(weeks, 4, season=1, window=4).placebo_error["mean"] == pytest.approx(error, rel=EXACT)


def test_without_room_for_a_placebo_the_choice_is_the_mean_and_says_why() -> None:
    found = choose(np.ones((3, 41)), 14)
    assert (found.method, found.reason) == (
        "mean",
        "no window before the start has four weeks before it to predict it from",
    )
    assert np.isnan(list(found.placebo_error.values())).all()
    assert choose(np.ones((3, 42)), 14).reason is None


def test_ridge_beats_the_mean_and_is_not_worse_on_short_histories() -> None:
    ratios = {}
    for n_history in (308, 112):
        ratio = []
        for seed in range(6):
            values, groups = panel(np.random.default_rng(100 + seed), n_products=200, n_periods=n_history + 28)
            history, window = values[:, :n_history], values[:, n_history:]
            ridge, mean = (relative_errors(history, window, m, groups).std() for m in ("pooled_ridge", "mean"))
            ratio.append(ridge / mean)
        ratios[n_history] = np.mean(ratio)
    assert 0.6 < ratios[308] < 0.95  # below .6 only by seeing the window
    assert ratios[112] < 1.0


def test_first_differences_of_untreated_arms_centre_on_zero() -> None:
    # 60 worlds, arms at random: the z of the difference misses 1.96 in 3 of 60, the 99.9 % range is 0 to 10.
    misses = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values, groups = panel(rng, n_products=80, n_periods=196)
        D = relative_errors(values[:, :-28], values[:, -28:], "pooled_ridge", groups)
        arm = rng.permutation(80) < 40
        se = np.sqrt(D[arm].var(ddof=1) / 40 + D[~arm].var(ddof=1) / 40)
        misses += abs(D[arm].mean() - D[~arm].mean()) > 1.96 * se
    assert 1 <= misses <= 10


def test_profile_is_found_where_it_is_and_shrunk_where_it_is_not() -> None:
    rng = np.random.default_rng(12)
    with_weekdays = Panel.of(panel(rng, n_products=40, n_groups=1)[0], None, 7).profile[0]
    flat = Panel.of(panel(rng, n_products=40, n_groups=1, weekdays=np.ones(7))[0], None, 7).profile[0]
    np.testing.assert_allclose(with_weekdays, WEEKDAYS / WEEKDAYS.mean(), rtol=0.05)
    np.testing.assert_allclose(flat, 1.0, atol=0.02)
    thin = rng.poisson(0.05, (2, 60)).astype(float)
    raw = np.array([thin.sum(axis=0)[4:].reshape(8, 7)[:, d].sum() for d in range(7)])
    shrunk = Panel.of(thin, None, 7).profile[0]
    assert shrunk.std() < 0.5 * (raw / raw.mean()).std()


def test_first_difference_by_hand() -> None:
    observed, predicted = np.array([[1.0, 2.0, 9.0], [4.0, np.nan, 6.0]]), np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(first_difference(observed, predicted, [True, True, False]), [0.5, np.nan])
    cells = [[True, False, True], [True, False, True]]
    np.testing.assert_array_equal(first_difference(observed, predicted, cells), [4.0, 4.0])
    assert np.isnan(first_difference(observed, predicted, np.zeros((2, 3), dtype=bool))).all()


def test_phase_contrast_by_hand() -> None:
    residual = [[9.0, 3.0, 9.0, 1.0, 9.0, 5.0, 9.0, 1.0], [0.0] * 8]
    phases, used = np.repeat([1, 2, 3, 4], 2), np.tile([False, True], 4)
    np.testing.assert_array_equal(phase_contrast(residual, phases, used), [4.0 - 1.0, 0.0])
    assert np.isnan(phase_contrast(residual, phases, used & (phases % 2 == 1))).all()


def test_crossover_identity_with_difference_in_differences() -> None:
    # On the same two windows, half the difference of phase contrasts is minus half the difference-in-differences.
    rng = np.random.default_rng(13)
    Y, starts_treated = rng.normal(size=(30, 8)), np.arange(30) % 2 == 0
    D = phase_contrast(Y, np.repeat([1, 2], 4), np.ones(8, dtype=bool))
    estimate = 0.5 * (D[starts_treated].mean() - D[~starts_treated].mean())
    change = Y[:, 4:].mean(axis=1) - Y[:, :4].mean(axis=1)
    did = change[starts_treated].mean() - change[~starts_treated].mean()
    np.testing.assert_allclose(estimate, -0.5 * did, rtol=EXACT)


def test_within_contrast_is_the_difference_of_means_and_the_slope() -> None:
    rng = np.random.default_rng(14)
    R, arm = rng.normal(size=(20, 28)), rng.integers(0, 2, (20, 28))
    used = rng.random((20, 28)) < 0.8
    D = within_contrast(R, arm, used)
    for i in range(20):
        treated, control = used[i] & (arm[i] == 1), used[i] & (arm[i] == 0)
        np.testing.assert_allclose(D[i], R[i, treated].mean() - R[i, control].mean(), rtol=1e-9)
        np.testing.assert_allclose(D[i], np.polyfit(arm[i, used[i]], R[i, used[i]], 1)[0], rtol=1e-9)
    np.testing.assert_allclose(within_contrast(5.0 * R + 3.0, arm, used), 5.0 * D, atol=EXACT)
    assert np.isnan(within_contrast(R, np.ones((20, 28)), used)).all()


def test_contrasts_see_analysed_cells_alone() -> None:
    R, arm = np.array([[1.0, 2.0, np.nan, 4.0]]), np.array([[0, 1, 1, 1]])
    used = np.array([True, True, False, True])
    np.testing.assert_array_equal(within_contrast(R, arm, used), [2.0])
    np.testing.assert_array_equal(phase_contrast(R, [1, 1, 2, 2], used), [-2.5])
    assert np.isnan(within_contrast(R, arm, np.ones(4, dtype=bool))).all()
    assert np.isnan(phase_contrast(R, [1, 1, 2, 2], np.ones(4, dtype=bool))).all()


def test_product_scale_by_hand() -> None:
    # Ybar = 24 / 8 = 3: (6 + 3.5 x 3) / (4 + 7), the second over its own two days; the third has none.
    history = np.array([[1.0, 1.0, 2.0, 2.0], [np.nan, np.nan, 4.0, 6.0], [np.nan] * 4, [2.0, 2.0, 2.0, np.nan]])
    mean = (6.0 + 10.0 + 6.0) / 9.0
    expected = [(6 + 3.5 * mean) / 11, (10 + 3.5 * mean) / 9, np.nan, (6 + 3.5 * mean) / 10]
    np.testing.assert_allclose(product_scale(history), expected)
    np.testing.assert_allclose(product_scale(history, grain="week")[0], (6 + 0.5 * mean) / 5)
    assert product_scale(np.zeros((2, 5))).tolist() == [0.0, 0.0]


def test_same_input_same_bytes() -> None:
    history, groups = panel(np.random.default_rng(15))
    assert forecast(history, 28, groups=groups).tobytes() == forecast(history, 28, groups=groups).tobytes()


def test_all_zero_history_predicts_zero() -> None:
    for method in METHODS:
        np.testing.assert_array_equal(forecast(np.zeros((5, 200)), 14, method=method), np.zeros((5, 14)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": np.ones(30)}, r"history.shape == \(30,\), must be \(N, T\)"),
        ({"history": np.ones((0, 30))}, r"history.shape == \(0, 30\), must be \(N, T\), not empty"),
        ({"history": np.full((2, 30), np.inf)}, "history has infinite values"),
        ({"horizon": 0}, "horizon == 0, must be 1 or more"),
        ({"window": 0}, "window == 0, must be 1 or more"),
        ({"season": 0}, "season == 0, must be 1 or more"),
        ({"groups": ["a"]}, r"groups.shape == \(1,\), must be \(2,\)"),
        ({"groups": np.array(["a", None], dtype=object)}, "groups has 1 missing labels"),
        ({"method": "arima"}, "method == 'arima', must be pooled_ridge, mean, ses, none or auto"),
    ],
)
def test_forecast_refusals(change: Any, message: Any) -> None:
    arguments = {"history": np.ones((2, 30)), "horizon": 7} | change
    with pytest.raises(ValueError, match=message):
        forecast(arguments.pop("history"), arguments.pop("horizon"), **arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (placebo, (np.ones(30), 7), r"history.shape == \(30,\), must be \(N, T\)"),
        (placebo, (np.ones((2, 30)), 0), "horizon == 0, must be 1 or more"),
        (first_difference, (np.ones(3), np.ones(3), [True] * 3), r"residual.shape == \(3,\), must be \(N, T\)"),
        (first_difference, (np.ones((2, 3)), np.ones((2, 3)), [True] * 2), r"in_analysis.shape == \(2,\)"),
        (phase_contrast, (np.ones((2, 3)), [0, 0, 1], [True] * 3), r"min\(phase_index\) == 0, must be 1"),
        (phase_contrast, (np.ones((2, 3)), [1, 2], [True] * 3), r"phase_index.shape == \(2,\), must be \(3,\)"),
        (within_contrast, (np.ones((2, 3)), np.ones(3), [True] * 3), r"arm.shape == \(3,\), must be \(2, 3\)"),
        (product_scale, (np.ones(3),), r"history.shape == \(3,\), must be \(N, T\)"),
    ],
)
def test_other_refusals(function: Any, arguments: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_unknown_grain_is_refused() -> None:
    with pytest.raises(ValueError, match="grain == 'month', must be 'day' or 'week'"):
        product_scale(np.ones((2, 3)), grain="month")  # type: ignore[arg-type]  # the wrong value is what is tested

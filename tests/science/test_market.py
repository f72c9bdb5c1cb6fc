from dataclasses import replace
from datetime import date
from functools import cache

import numpy as np
import pytest

from pricelab_dagster.science.market import Market, simulate
from pricelab_dagster.science.market_scenarios import SCENARIOS

EXACT = 1e-12
N_WORLDS = 8
# The stated quantiles are "about" and of one draw: a world's median has sd 11 %, from .4 / sqrt(20) of the categories.
SCALE_SLACK = 0.20


@cache
def worlds(scenario: str) -> list[Market]:
    return [simulate(scenario=scenario, rng=np.random.default_rng(seed)) for seed in range(N_WORLDS)]


def test_quantiles_of_mean_demand_and_zero_days_are_the_stated_ones():
    base = worlds("base")
    quantiles = np.mean([np.quantile(m.untreated_units.mean(axis=1), [0.05, 0.5, 0.95, 0.99]) for m in base], axis=0)
    np.testing.assert_allclose(quantiles, [0.22, 2.4, 23, 57], rtol=SCALE_SLACK)
    assert np.mean([np.mean(m.untreated_units == 0) for m in base]) == pytest.approx(0.30, abs=0.03)


def test_treatment_lifts_demand_by_a_tenth():
    assert np.mean([m.truth().relative["units"] for m in worlds("base")]) == pytest.approx(0.103, abs=0.002)


@pytest.mark.parametrize(("scenario", "median"), [("sparse", 0.5), ("substitution_strong", 20)])
def test_scenarios_move_the_median(scenario, median):
    medians = [np.median(m.untreated_units.mean(axis=1)) for m in worlds(scenario)]
    assert np.mean(medians) == pytest.approx(median, rel=SCALE_SLACK)


def test_same_generator_gives_the_same_market():
    first, second = (simulate(n_products=50, rng=np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.untreated_units, second.untreated_units)
    arm = np.random.default_rng(4).integers(0, 2, (50, 42))
    np.testing.assert_array_equal(first.observe(arm).units, second.observe(arm).units)
    other = simulate(n_products=50, rng=np.random.default_rng(5))
    assert (first.untreated_units != other.untreated_units).any()


def test_cells_out_of_reach_of_treatment_keep_their_counts():
    market = simulate(n_products=60, rng=np.random.default_rng(1))
    arm = np.random.default_rng(2).integers(0, 2, (60, 42))
    seen = market.observe(arm)
    np.testing.assert_array_equal(seen.units[:, :365], market.untreated_units[:, :365])
    control = arm == 0
    np.testing.assert_array_equal(seen.units[:, 365:][control], market.untreated_units[:, 365:][control])
    np.testing.assert_allclose((seen.price / market.incumbent_price)[:, 365:], np.where(control, 1, 0.95), rtol=EXACT)


def test_demand_is_negative_binomial_around_its_mean_with_and_without_treatment():
    still = replace(SCENARIOS["clean"], product_sd=0.0, category_sd=0.0, market_sd=0.0)
    market = simulate(scenario=still, n_products=4000, n_history=1, n_window=20, rng=np.random.default_rng(6))
    treated = market.observe(np.ones((4000, 20))).units[:, 1:]
    lift = (0.95**market.own_elasticity)[:, None]
    for units, mean in (
        (market.untreated_units[:, 1:], market.expected_demand[:, 1:]),
        (treated, market.expected_demand[:, 1:] * lift),
    ):
        z = (units - mean) / np.sqrt(mean + mean**2 / 4)
        # 80,000 cells: the mean of z has standard error .0035, its heavy-tailed square about .01.
        assert z.mean() == pytest.approx(0, abs=0.015)
        assert np.mean(z**2) == pytest.approx(1, abs=0.05)


def test_own_elasticity_is_recovered_from_prices_and_expected_demand():
    market = simulate(scenario="clean", n_products=400, rng=np.random.default_rng(7))
    log_price, log_demand = np.log(market.incumbent_price), np.log(market.expected_demand)
    dp, dy = np.diff(log_price, axis=1), np.diff(log_demand, axis=1)
    slope = (dp * dy).sum(axis=1) / (dp**2).sum(axis=1)
    # Weekdays and shocks move demand by .2 from day to day: a standard error of .3 a product, .015 over 400.
    assert np.mean(slope - market.own_elasticity) == pytest.approx(0, abs=0.05)
    assert np.corrcoef(slope, market.own_elasticity)[0, 1] > 0.7


def test_truth_by_hand():
    market = simulate(n_products=3, n_history=10, n_window=4, rng=np.random.default_rng(8))
    past = market.untreated_units[:, :10]
    s = (past.sum(axis=1) + 3.5 * past.mean()) / 17
    days = np.array([True, True, False, True])
    Y0 = market.expected_demand[:, 10:][:, days].sum(axis=1)
    lift = 0.95**market.own_elasticity - 1
    truth = market.truth(days)
    assert truth.relative["units"] == pytest.approx((lift * Y0 / s).sum() / (Y0 / s).sum(), rel=EXACT)
    assert truth.level["units"] == pytest.approx((lift * Y0).sum() / 9, rel=EXACT)
    assert truth.relative["price"] == pytest.approx(-0.05, rel=1e-9)


@pytest.mark.parametrize("scenario", ["clean", "substitution_strong"])
def test_truth_is_the_mean_over_many_draws(scenario):
    gains = {"units": [], "revenue": []}
    for seed in range(60):
        market = simulate(scenario=scenario, n_products=240, n_history=30, n_window=14, rng=np.random.default_rng(seed))
        on, off = (market.observe(np.full((240, 14), a)) for a in (1, 0))
        for metric in gains:
            total = [(o.units * (o.price if metric == "revenue" else 1))[:, 30:].mean() for o in (on, off)]
            gains[metric].append(total[0] - total[1] - on.truth.level[metric])
    for metric, gap in gains.items():
        # Four standard errors, and the gap must be small beside the effect as well.
        assert abs(np.mean(gap)) < 4 * np.std(gap) / np.sqrt(len(gap)), metric
        assert np.std(gap) > 0


def test_no_treatment_and_full_treatment_of_relative_revenue_and_price():
    market = simulate(n_products=40, treatment_multiplier=1.0, rng=np.random.default_rng(9))
    assert market.truth().relative == {"units": 0.0, "revenue": 0.0, "price": 0.0}


def test_carryover_truths_and_its_path():
    still = replace(SCENARIOS["carryover"], product_scale_sd=0.0)
    market = simulate(scenario=still, n_products=30, n_window=60, rng=np.random.default_rng(10))
    tau = market.own_elasticity * np.log(0.95)
    ones = market._log_effect(np.ones((30, 60)))
    np.testing.assert_allclose(ones[:, 0], tau, rtol=EXACT)
    np.testing.assert_allclose(ones[:, 1], tau * (1 + 0.4 * 0.3), rtol=EXACT)
    np.testing.assert_allclose(ones[:, 2], tau * (1 + 0.4 * 0.51), rtol=EXACT)
    np.testing.assert_allclose(ones[:, -1], 1.4 * tau, rtol=1e-8)
    same_day, long_run = (market.truth(estimand=e).relative["units"] for e in ("same_day", "long_run"))
    ratio = np.log1p(same_day) / np.log1p(long_run)
    assert ratio == pytest.approx(1 / 1.4, rel=0.01)


def test_spillover_reaches_the_named_column_and_spares_others():
    market = simulate(scenario="substitution_middle", n_products=120, rng=np.random.default_rng(11))
    W = np.zeros((120, 42))
    W[5] = 1
    effect = market._log_effect(W)[:, 0]
    expected = np.log(0.95) * market.theta.toarray()[5]
    expected[5] = market.own_elasticity[5] * np.log(0.95)
    np.testing.assert_allclose(effect, expected, atol=EXACT)
    assert market.theta.toarray()[market.category[:, None] != market.category[None]].max() == 0


def test_total_effect_is_below_direct_for_substitutes_above_for_halo_and_equal_without():
    lift = {
        scenario: [
            simulate(scenario=scenario, rng=np.random.default_rng(1)).truth(estimand=e).relative["units"]
            for e in ("same_day", "direct")
        ]
        for scenario in ("substitution_middle", "halo", "null")
    }
    assert lift["substitution_middle"][0] < 0.7 * lift["substitution_middle"][1]
    assert lift["halo"][0] > 1.3 * lift["halo"][1]
    assert lift["null"][0] == lift["null"][1]


def test_breaks_fall_on_the_start_or_on_any_day():
    many = replace(
        SCENARIOS["base"], break_share=1.0, bulk_rate=0.0, stockout_rate=0.0, product_sd=0.0, promotion_rate=0.0
    )
    jumps = {}
    for at_start in (True, False):
        market = simulate(
            scenario=replace(many, breaks_at_start=at_start), n_products=500, rng=np.random.default_rng(12)
        )
        steps = np.abs(np.diff(np.log(market.expected_demand), axis=1))
        jumps[at_start] = steps.argmax(axis=1)[steps.max(axis=1) > 1.5] + 1
    assert set(jumps[True]) == {365}
    assert np.quantile(jumps[False], [0.25, 0.75]) == pytest.approx([102, 305], abs=40)


def test_base_and_clean_share_all_but_the_outliers():
    base, clean = (simulate(scenario=s, n_products=100, rng=np.random.default_rng(13)) for s in ("base", "clean"))
    np.testing.assert_array_equal(base.incumbent_price, clean.incumbent_price)
    same = base.expected_demand == clean.expected_demand
    # Stock-outs take about 2.5 % of days.
    assert 0.94 < same.mean() < 0.995
    assert (clean.expected_demand > 0).all()


def test_confounded_probability_follows_the_attributes():
    market = simulate(scenario="confounded", rng=np.random.default_rng(14))
    x0, tier = market.attributes["x0"], market.attributes["tier"]
    np.testing.assert_allclose(
        market.treatment_probability, 1 / (1 + np.exp(-(0.9 * x0 + 0.5 * (tier - 1)))), rtol=EXACT
    )
    plain = simulate(scenario="base", rng=np.random.default_rng(14))
    np.testing.assert_array_equal(plain.treatment_probability, 0.5)
    shock = np.log(market.expected_demand / np.where(plain.expected_demand > 0, plain.expected_demand, np.nan))
    jump = shock[:, 365] - shock[:, 364] - 0.25 * x0 / 365
    wanted = 0.10 * (x0 + 0.5 * market.attributes["x1"].abs())
    known = np.isfinite(jump)
    np.testing.assert_allclose(jump[known], wanted[known], atol=1e-9)


def test_elasticities_follow_what_sets_the_arm_where_the_scenario_says_so():
    plain, varying = (
        simulate(scenario=name, n_products=200, rng=np.random.default_rng(7))
        for name in ("confounded", "confounded_varying")
    )
    ratio = varying.own_elasticity / plain.own_elasticity
    np.testing.assert_allclose(ratio, 1 + 0.5 * np.tanh(plain.attributes["x0"]), rtol=EXACT)
    assert np.array_equal(varying.treatment_probability, plain.treatment_probability)


def test_prices_move_as_stated():
    market = simulate(rng=np.random.default_rng(15))
    log_deviation = np.log(market.incumbent_price / market.base_price[:, None])
    # Depth starts at .10; steps of sd .05 seldom pass .105 below the base price. About 5/60 of the days, less overlap.
    assert np.mean(log_deviation < np.log(0.85)) == pytest.approx(0.06, abs=0.015)
    changes = np.mean(np.abs(np.diff(log_deviation, axis=1)) > 1e-12)
    assert changes == pytest.approx(1 / 45 + 2 / 60, rel=0.1)


def test_frames_are_what_a_shop_would_export():
    market = simulate(n_products=20, n_history=30, n_window=7, start=date(2024, 3, 4), rng=np.random.default_rng(16))
    seen = market.observe(np.zeros((20, 7)))
    sales, products = market.to_frames(seen)
    assert list(sales.columns) == ["product_id", "date", "units", "price"]
    assert sales["units"].sum() == seen.units.sum()
    assert (sales["units"] > 0).all()
    assert sales["date"].max() <= np.datetime64("2024-03-10")
    assert market.date[30] == np.datetime64("2024-03-04")
    assert not sales.duplicated(["product_id", "date"]).any()
    assert products.shape == (20, 11)
    assert set(sales["product_id"]) <= set(products["product_id"])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_can_be_drawn_and_observed(scenario):
    market = simulate(scenario=scenario, n_products=120, n_history=20, n_window=7, rng=np.random.default_rng(17))
    seen = market.observe(np.ones((120, 7)))
    assert np.isfinite(seen.units).all()
    assert (seen.price > 0).all()


def test_errors_name_value_and_rule():
    with pytest.raises(ValueError, match=r"scenario == 'moon', must be one of base"):
        simulate(scenario="moon", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"n_window == 0, must be at least 1"):
        simulate(n_window=0, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"treatment_multiplier == -1, must be above 0"):
        simulate(treatment_multiplier=-1, rng=np.random.default_rng(0))
    market = simulate(n_products=4, n_history=8, n_window=2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"arm.shape == \(4, 3\), must be \(4, 2\)"):
        market.observe(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"arm == 0.5, must be 0 or 1"):
        market.observe(np.full((4, 2), 0.5))
    with pytest.raises(ValueError, match=r"in_analysis == False in all cells"):
        market.truth(np.zeros(2, dtype=bool))

import numpy as np
import pytest
from scipy import stats

from pricelab_dagster.science.disturbances import promotions_by_arm, stockout_cells, stockouts_by_arm

NAN = np.nan
EXACT = 1e-12
N_NULLS = 400
# Binomial 99.9 % bound of 400 draws at the nominal 1 %; Fisher on few events is conservative.
NULL_MOST = 0.03
# The t of shares: the same bound, and the one below which 5 % would not be the level.
T_BOUNDS = (0.015, 0.09)


def halves(n: int, t: int) -> np.ndarray:
    return np.repeat(np.arange(n) % 2, t).reshape(n, t).astype(float)


def always(n: int, t: int = 60) -> np.ndarray:
    return np.ones((n, t))


def selling(n: int = 4, t: int = 10) -> np.ndarray:
    return np.full((n, t), 5.0)


def test_a_run_counts_from_the_length_on_at_which_chance_is_ruled_out():
    """60 of 60 days sold: (1 - 60.5 / 61) ^ (L / 2) <= .001 from L = 2.88 on."""
    sold = selling(3, 8)
    sold[0, 2:4], sold[1, 2:5], sold[2, 5:] = 0, 0, 0
    flag, usual = stockout_cells(sold, always(3), season=7)
    assert flag.sum(axis=1).tolist() == [0, 3, 3]
    assert flag[1].nonzero()[0].tolist() == [2, 3, 4]
    assert usual.all()


def test_the_run_has_to_be_longer_where_sales_were_rarer():
    """54 of 60 days sold: q = 54.5 / 61, L = 6.2 and so 7."""
    past = always(3)
    past[:2, :6] = 0
    sold = selling(3, 12)
    sold[0, 1:7], sold[1, 1:8] = 0, 0
    flag, _ = stockout_cells(sold, past, season=7)
    assert flag.sum(axis=1).tolist() == [0, 7, 0]


def test_products_that_sell_now_and_then_or_are_new_show_none():
    past = always(3)
    past[0, :7] = 0  # 53 of 60 days, below nine in ten
    past[1, :-7] = NAN  # seven days of history
    flag, usual = stockout_cells(np.zeros((3, 10)), past, season=7, is_open=np.ones(10))
    assert usual.tolist() == [False, False, True]
    assert flag.any(axis=1).tolist() == [False, False, True]


def test_only_the_last_half_year_before_the_start_counts():
    past = np.hstack([np.zeros((1, 400)), always(1, 26 * 7)])
    assert stockout_cells(selling(1), past, season=7)[1].all()
    assert not stockout_cells(selling(1), past[:, :-1], season=1)[0].any()
    assert not stockout_cells(selling(1), np.hstack([past, np.zeros((1, 26))]), season=1)[1].any()


def test_a_period_that_was_not_observed_ends_a_run():
    sold = selling(2)
    sold[0, 2:6] = [0, 0, NAN, 0]
    assert not stockout_cells(sold, always(2), season=7)[0].any()
    sold[0, 4] = 0
    assert stockout_cells(sold, always(2), season=7)[0].sum() == 4


def without_sundays(n: int, t: int) -> np.ndarray:
    sold = selling(n, t)
    sold[:, 6::7] = 0
    return sold


def test_shops_that_close_one_day_a_week_show_their_stock_outs():
    """48 of 48 open days sold: a run of three, over the Sunday; the two days of the other product are too few."""
    past = without_sundays(3, 56)
    sold = without_sundays(3, 14)
    sold[0, 4:9], sold[1, 8:10] = 0, 0
    flag, usual = stockout_cells(sold, past, season=7)
    assert usual.all()
    assert flag[0].nonzero()[0].tolist() == [4, 5, 7, 8]
    assert not flag[1:].any()


def test_closed_days_are_like_days_that_are_not_there():
    rng = np.random.default_rng(5)
    past, sold = rng.poisson(4.0, (200, 182)).astype(float), rng.poisson(1.2, (200, 28)).astype(float)
    closed = np.arange(210) % 7 == 6
    whole = np.hstack([past, sold])
    whole[:, closed] = 0
    flag, usual = stockout_cells(whole[:, 182:], whole[:, :182], season=7)
    kept, kept_usual = stockout_cells(sold[:, ~closed[182:]], past[:, ~closed[:182]], season=6)
    assert flag.any()
    np.testing.assert_array_equal(flag[:, ~closed[182:]], kept)
    assert not flag[:, closed[182:]].any()
    np.testing.assert_array_equal(usual, kept_usual)


def test_what_is_open_may_be_told_cell_by_cell():
    """In event time the same column is a Sunday of one product and a Monday of the other."""
    sold = selling(2, 8)
    sold[0, [3, 4, 5]], sold[1, [3, 4, 5]] = 0, 0
    is_open = np.ones((2, 8), dtype=bool)
    is_open[1, 4] = False
    flag, _ = stockout_cells(sold, always(2), season=7, is_open=is_open)
    assert flag.sum(axis=1).tolist() == [3, 0]
    with pytest.raises(ValueError, match=r"is_open or was_open has shape \(7,\), must be \(8,\) or \(2, 8\)"):
        stockout_cells(sold, always(2), season=7, is_open=is_open[0, :7])


def test_closed_cells_count_in_no_share():
    sold, arm = without_sundays(4, 14), halves(4, 14)
    sold[1, :7] = 0
    found = stockouts_by_arm(sold, without_sundays(4, 56), arm, np.ones((4, 14), dtype=bool), season=7)
    assert found.value == pytest.approx(6 / 12 / 2, rel=EXACT)


def test_poisson_sales_at_half_of_demand_hardly_ever_look_like_a_stock_out():
    """Products that sell in 90 to 99 % of their days, at half of it: at most one run in a thousand starts a day."""
    rng = np.random.default_rng(0)
    rate = rng.uniform(-np.log(0.1), -np.log(0.01), (2000, 1))
    flag, usual = stockout_cells(rng.poisson(rate / 2, (2000, 28)), rng.poisson(rate, (2000, 182)), season=7)
    assert usual.mean() > 0.9
    assert flag[usual].any(axis=1).mean() < 28 * 0.001
    # and a shelf that is empty for a week is seen
    sold = rng.poisson(rate, (2000, 28))
    sold[1:, 10:17] = 0
    assert stockout_cells(sold, rng.poisson(rate, (2000, 182)), season=7)[0].any(axis=1)[usual].mean() > 0.9


def empty_for_three_of_four_treated() -> tuple[np.ndarray, np.ndarray]:
    sold, arm = selling(8), halves(8, 10)
    sold[[1, 3, 5], 4:8] = 0
    sold[0, 4:8] = 0
    return sold, arm


def test_stockouts_by_hand():
    """The lady tasting tea again: 3 of 4 against 1 of 4; 4 of 10 periods of each are empty."""
    sold, arm = empty_for_three_of_four_treated()
    found = stockouts_by_arm(sold, always(8), arm, np.ones((8, 10), dtype=bool), season=7)
    assert found.p_value == pytest.approx(34 / 70, rel=1e-9)
    assert found.value == pytest.approx(0.3 - 0.1, rel=EXACT)
    assert (found.check_name, found.status) == ("stockouts_by_arm", "passed")
    assert found.message == (
        "In a stock-out: 30.0% of treated, 10.0% of control cells of products that usually sell "
        "(4 of 8 products have one)."
    )


def test_only_analysed_cells_count_but_the_run_is_seen_whole():
    sold, arm = empty_for_three_of_four_treated()
    counted = np.ones((8, 10), dtype=bool)
    counted[:, 4:7] = False
    found = stockouts_by_arm(sold, always(8), arm, counted, season=7)
    assert found.value == pytest.approx((3 - 1) / 4 / 7, rel=EXACT)
    counted[:, 7] = False
    assert stockouts_by_arm(sold, always(8), arm, counted, season=7).value == 0.0


def test_stockouts_on_one_arm_fail_and_on_both_pass():
    arm, counted = halves(40, 14), np.ones((40, 14), dtype=bool)
    one, both = selling(40, 14), selling(40, 14)
    one[1:24:2, 5:10] = 0
    both[:24, 5:10] = 0
    assert stockouts_by_arm(one, always(40), arm, counted, season=7).status == "failed"
    assert stockouts_by_arm(both, always(40), arm, counted, season=7).status == "passed"


def test_stockouts_do_not_depend_on_order_scale_or_copies_of_a_unit():
    sold, arm = empty_for_three_of_four_treated()
    counted, order = np.ones((8, 10), dtype=bool), np.random.default_rng(1).permutation(8)
    found = stockouts_by_arm(sold, always(8), arm, counted, season=7)
    assert stockouts_by_arm(7 * sold[order], always(8), arm[order], counted, season=7) == found
    units = np.repeat(np.arange(8), 10)
    copies = stockouts_by_arm(
        *(np.repeat(one, 10, axis=0) for one in (sold, always(8), arm, counted)), season=7, units=units
    )
    assert copies.p_value == found.p_value
    assert copies.value == pytest.approx(found.value, rel=EXACT)


def test_arms_that_change_places_change_the_sign():
    sold, arm = empty_for_three_of_four_treated()
    counted = np.ones((8, 10), dtype=bool)
    there, back = (stockouts_by_arm(sold, always(8), one, counted, season=7) for one in (arm, 1 - arm))
    assert back.value == -there.value
    assert back.p_value == pytest.approx(there.p_value, rel=1e-9)


def test_without_products_that_usually_sell_there_is_no_verdict():
    found = stockouts_by_arm(selling(4), np.zeros((4, 60)), halves(4, 10), np.ones((4, 10), dtype=bool), season=7)
    assert found.status == "informational"
    assert np.isnan([found.value, found.p_value]).all()
    assert found.message.startswith("Not computed: no treated and control cells of products that usually sell")


def test_stockouts_at_random_rarely_fail():
    rng = np.random.default_rng(2)
    counted, failed = np.ones((60, 28), dtype=bool), 0
    for _ in range(N_NULLS):
        sold = selling(60, 28)
        for row in rng.choice(60, 15, replace=False):
            sold[row, (first := rng.integers(0, 20)) : first + 6] = 0
        failed += stockouts_by_arm(sold, always(60), rng.permutation(halves(60, 28)), counted, season=7).p_value < 0.01
    assert failed / N_NULLS < NULL_MOST


def test_within_products_each_is_its_own_comparison():
    """Shares of treated less control cells 2/4 - 1/4, 0 and 0: t of three differences."""
    arm = np.tile([1.0, 0.0], (3, 4))
    sold = selling(3, 8)
    sold[0, 2:5] = 0
    found = stockouts_by_arm(sold, always(3), arm, np.ones((3, 8), dtype=bool), season=7, within=True)
    own = [2 / 4 - 1 / 4, 0.0, 0.0]
    assert found.value == pytest.approx(np.mean(own), rel=EXACT)
    assert found.p_value == pytest.approx(stats.ttest_1samp(own, 0).pvalue, rel=1e-9)


def prices(moved: np.ndarray, arm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Charged prices, multipliers and incumbents of products at 10.00 that are treated by a fifth."""
    multiplier = np.where(arm > 0, 0.8, 1.0)
    return np.where(moved, 9.0, 10.0) * multiplier, multiplier, np.full(len(arm), 10.0)


def test_promotions_by_hand():
    """Shares of moved cells .5, .25 against 0, .25: Welch's t of two pairs."""
    arm = np.array([1.0, 1, 0, 0])[:, None] * np.ones(4)
    moved = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    found = promotions_by_arm(*prices(moved, arm), arm, np.ones((4, 4), dtype=bool))
    assert found.value == pytest.approx(0.375 - 0.125, rel=EXACT)
    assert found.p_value == pytest.approx(stats.ttest_ind([0.5, 0.25], [0.0, 0.25], equal_var=False).pvalue, rel=1e-8)
    assert found.message == (
        "Over 1 % off the price of the start, treatment aside: 37.5% of treated, 12.5% of control cells with sales "
        "(3 of 4 products have one)."
    )


def test_the_treatment_is_no_move_and_one_per_cent_is_the_bound():
    arm, counted = halves(4, 3), np.ones((4, 3), dtype=bool)
    charged, multiplier, incumbent = prices(np.zeros((4, 3), dtype=bool), arm)
    assert promotions_by_arm(charged, multiplier, incumbent, arm, counted).value == 0.0
    none = promotions_by_arm(charged * 1.01, multiplier, incumbent, arm, counted)
    assert (none.value, none.status, "0.0% of treated, 0.0% of control" in none.message) == (0.0, "passed", True)
    both = promotions_by_arm(charged * 0.98, multiplier, incumbent, arm, counted)
    assert "100.0% of treated, 100.0% of control" in both.message
    cents = promotions_by_arm(charged / 50 - 0.005, multiplier, incumbent / 50, arm, counted)
    assert "0.0% of treated, 0.0% of control" in cents.message, "half a cent is rounding"


def test_cells_without_a_price_or_outside_the_analysis_do_not_count():
    arm, counted = halves(4, 4), np.ones((4, 4), dtype=bool)
    moved = np.zeros((4, 4), dtype=bool)
    moved[:, :2] = True
    charged, multiplier, incumbent = prices(moved, arm)
    charged[:, 0] = NAN
    counted[:, 1] = False
    assert promotions_by_arm(charged, multiplier, incumbent, arm, counted).message.endswith(
        "(0 of 4 products have one)."
    )


def test_promotions_on_one_arm_fail_and_on_both_pass():
    rng = np.random.default_rng(3)
    arm, counted = halves(60, 14), np.ones((60, 14), dtype=bool)
    alike = rng.random((60, 14)) < 0.3
    assert promotions_by_arm(*prices(alike, arm), arm, counted).status == "passed"
    skewed = alike & ((arm == 0) | (rng.random((60, 14)) < 0.4))
    assert promotions_by_arm(*prices(skewed, arm), arm, counted).status == "failed"
    whole = np.broadcast_to(arm > 0, arm.shape)
    found = promotions_by_arm(*prices(whole, arm), arm, counted)
    assert (found.status, found.p_value, found.value) == ("failed", 0.0, 1.0)


@pytest.mark.parametrize("within", [False, True])
def test_promotions_at_random_reject_at_their_level(within):
    rng = np.random.default_rng(4)
    counted, rejected = np.ones((40, 14), dtype=bool), 0
    for _ in range(N_NULLS):
        arm = rng.integers(0, 2, (40, 14)).astype(float) if within else rng.permutation(halves(40, 14))
        moved = np.repeat(rng.random((40, 7)) < 0.3, 2, axis=1)
        rejected += promotions_by_arm(*prices(moved, arm), arm, counted, within=within).p_value < 0.05
    assert T_BOUNDS[0] < rejected / N_NULLS < T_BOUNDS[1]


def test_an_arm_whose_prices_are_set_elsewhere_gives_no_verdict():
    arm = halves(4, 3)
    charged, multiplier, incumbent = prices(np.zeros((4, 3), dtype=bool), arm)
    found = promotions_by_arm(charged, np.where(arm > 0, NAN, multiplier), incumbent, arm, np.ones((4, 3), dtype=bool))
    assert found.status == "informational"
    assert found.message == "Not computed: no treated cells with sales in the analysis."


def test_one_unit_in_an_arm_gives_no_p_value():
    arm = np.array([[1.0], [0.0], [0.0]]) * np.ones(5)
    found = promotions_by_arm(*prices(arm > 0, arm), arm, np.ones((3, 5), dtype=bool))
    assert (found.status, found.value) == ("informational", 1.0)
    assert found.message.endswith("Too few units for a p-value.")


def test_units_that_have_one_arm_alone_are_not_called_too_few():
    """A crossover in its first phase: forty products, each in one arm so far."""
    arm = halves(40, 5)
    found = promotions_by_arm(*prices(np.zeros((40, 5), dtype=bool), arm), arm, np.ones((40, 5)), within=True)
    assert (found.status, found.value) == ("informational", 0.0)
    assert found.message.endswith("No p-value: 0 of 40 units have such cells in both arms, 2 are needed.")
    arm[0, 0] = 1.0
    found = stockouts_by_arm(selling(40, 5), always(40), arm, np.ones((40, 5)), season=7, within=True)
    assert found.message.endswith("No p-value: 1 of 40 units have such cells in both arms, 2 are needed.")


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"arm, in_analysis have shapes \(4, 3\), \(4, 10\), must be \(4, 10\)"):
        stockouts_by_arm(selling(4), always(4), halves(4, 3), np.ones((4, 10), dtype=bool), season=7)

import numpy as np
import pytest
from scipy import optimize, stats

from pricelab_dagster.science.elasticity import (
    CANNOT_BE_TOLD,
    MIN_PRICE_T,
    MIN_REPLICATES,
    Elasticity,
    break_even,
    elasticity,
)

EXACT = 1e-12
# Ends found by bisection on the inequality itself.
ROOTS = 1e-8
TRUTH, CUT = -2.0, -0.1
N_STUDIES, N_DRAWS = 1000, 500
# Binomial 99.9 % bounds of 1,000 studies at 95 %.
COVERED = (0.925, 0.972)


def draws(units: float, price: float, *, se=(0.02, 0.005), rho=-0.5, n=200, seed=0) -> tuple[np.ndarray, np.ndarray]:
    cov = [[se[0] ** 2, rho * se[0] * se[1]], [rho * se[0] * se[1], se[1] ** 2]]
    return tuple(np.random.default_rng(seed).multivariate_normal([units, price], cov, size=n).T)


def known(value: float, half: float = 0.3) -> Elasticity:
    return Elasticity(value, half / 2, value - half, value + half, 20.0, 500, None)


def test_a_constant_elasticity_comes_back():
    for e in (-3.0, -1.0, 0.5):
        found = elasticity(0.9**e - 1, -0.1, *draws(0.9**e - 1, -0.1))
        assert found.elasticity == pytest.approx(e, rel=EXACT)
        assert found.ci_lower < e < found.ci_upper


def test_by_hand():
    """ln 1.5 / ln .8, and an error by the delta method from draws on two points of each log."""
    units = np.repeat(1.5 * np.exp([0.1, -0.1]) - 1, 20)
    price = np.tile(0.8 * np.exp([0.01, -0.01]) - 1, 20)
    found = elasticity(0.5, -0.2, units, price, quantile=2.0)
    theta = np.log(1.5) / np.log(0.8)
    spread = 40 / 39
    assert found.elasticity == pytest.approx(theta, rel=EXACT)
    assert found.se == pytest.approx(np.sqrt(spread * (0.01 + theta**2 * 0.0001)) / -np.log(0.8), rel=1e-9)
    assert found.price_t == pytest.approx(-0.2 / price.std(ddof=1), rel=EXACT)
    assert (found.n_replicates, found.reason) == (40, None)


@pytest.mark.parametrize(("rho", "q"), [(-0.9, 1.96), (0.0, 1.96), (0.5, 2.6)])
def test_interval_against_bisection_on_the_inequality(rho, q):
    units, price = draws(0.2, -0.1, se=(0.03, 0.02), rho=rho)
    found = elasticity(0.2, -0.1, units, price, quantile=q)
    V, a, b = np.cov(np.log1p(units), np.log1p(price)), np.log(1.2), np.log(0.9)

    def beyond(e: float) -> float:
        return (a - e * b) ** 2 - q**2 * (V[0, 0] - 2 * e * V[0, 1] + e**2 * V[1, 1])

    lower = optimize.brentq(beyond, found.elasticity - 50, found.elasticity)
    upper = optimize.brentq(beyond, found.elasticity, found.elasticity + 50)
    assert (found.ci_lower, found.ci_upper) == (pytest.approx(lower, abs=ROOTS), pytest.approx(upper, abs=ROOTS))


def test_a_price_that_is_known_gives_the_interval_of_units_over_its_logarithm():
    units, _ = draws(0.2, -0.1)
    found = elasticity(0.2, -0.1, units, np.full(len(units), -0.1), quantile=2.0)
    half = 2 * np.log1p(units).std(ddof=1) / -np.log(0.9)
    assert found.ci_upper - found.elasticity == pytest.approx(half, rel=1e-9)
    assert found.elasticity - found.ci_lower == pytest.approx(half, rel=1e-9)
    assert found.se == pytest.approx(half / 2, rel=1e-9)


def test_order_of_draws_does_not_matter_but_their_pairing_does():
    units, price = draws(0.2, -0.1, rho=-0.9)
    found = elasticity(0.2, -0.1, units, price)
    turned = elasticity(0.2, -0.1, units[::-1], price[::-1])
    assert (turned.ci_lower, turned.ci_upper) == pytest.approx((found.ci_lower, found.ci_upper), rel=1e-9)
    unpaired = elasticity(0.2, -0.1, units, np.roll(price, 1))
    assert unpaired.se / found.se - 1 > 0.05


def test_longer_quantiles_give_longer_intervals_around_the_same_estimate():
    units, price = draws(0.2, -0.1)
    short, long = (elasticity(0.2, -0.1, units, price, quantile=q) for q in (1.0, 3.0))
    assert long.ci_lower < short.ci_lower < short.elasticity < short.ci_upper < long.ci_upper


@pytest.mark.parametrize(
    ("units", "price", "words"),
    [
        (np.nan, -0.1, "effect on units is not known"),
        (0.2, np.nan, "effect on the price is not known"),
        (-1.0, -0.1, "effect on units is -1, -1 or less"),
        (0.2, -1.5, "effect on the price is -1.5, -1 or less"),
    ],
)
def test_a_lift_without_a_logarithm_gives_a_reason(units, price, words):
    found = elasticity(units, price, *draws(0.2, -0.1))
    assert np.isnan([found.elasticity, found.se, found.ci_lower, found.ci_upper]).all()
    assert words in found.reason


def test_a_weak_price_effect_gives_a_reason_on_both_sides_of_the_bound():
    units, price = draws(0.2, -0.1)
    se = price.std(ddof=1)
    for sign in (-1.0, 1.0):
        refused = elasticity(0.2, sign * (MIN_PRICE_T - 1e-6) * se, units, price)
        assert np.isnan(refused.elasticity)
        assert "less than 3.2: too weak" in refused.reason
        assert abs(refused.price_t) == pytest.approx(MIN_PRICE_T, abs=1e-5)
        assert np.isfinite(elasticity(0.2, sign * (MIN_PRICE_T + 1e-6) * se, units, price).ci_upper)


def test_replicates_without_a_logarithm_are_left_out_and_too_few_give_a_reason():
    units, price = draws(0.2, -0.1, n=MIN_REPLICATES + 2)
    units[0], price[1] = -1.0, np.nan
    found = elasticity(0.2, -0.1, units, price)
    assert (found.n_replicates, found.reason) == (
        MIN_REPLICATES,
        "1 of 32 replicates have an undefined effect, as where no unit of an arm is drawn, and are left out. "
        "1 of 32 replicates have no logarithm and are left out.",
    )
    assert found.se == elasticity(0.2, -0.1, units[2:], price[2:]).se
    refused = elasticity(0.2, -0.1, units[:-1], price[:-1])
    assert np.isnan(refused.elasticity)
    assert refused.reason.startswith("29 replicates in which both effects have a logarithm, at least 30")


def test_draws_without_an_effect_are_told_apart_from_effects_without_a_logarithm():
    units, price = draws(0.2, -0.1, n=MIN_REPLICATES + 10)
    undefined, empty = units.copy(), units.copy()
    undefined[:3], empty[:3] = np.nan, -1.0
    assert elasticity(0.2, -0.1, units, price).reason is None
    assert elasticity(0.2, -0.1, undefined, price).reason == (
        "3 of 40 replicates have an undefined effect, as where no unit of an arm is drawn, and are left out."
    )
    assert elasticity(0.2, -0.1, empty, price).reason == "3 of 40 replicates have no logarithm and are left out."


def test_no_draws_give_a_reason():
    found = elasticity(0.2, -0.1, np.empty(0), np.empty(0))
    assert np.isnan([found.elasticity, found.price_t]).all()
    assert found.reason.startswith("0 replicates")


def test_an_interval_without_an_end_says_so_and_gives_no_verdict():
    found = elasticity(0.2, -0.1, *draws(0.2, -0.1, se=(0.02, 0.025)), quantile=5.0)
    assert (found.ci_lower, found.ci_upper) == (-np.inf, np.inf)
    assert found.reason.startswith("The interval has no end")
    assert break_even(found, price_change=-0.1, margin=0.5).verdict_profit == CANNOT_BE_TOLD


@pytest.mark.parametrize("price_t", [3.5, 6.0, 20.0])
@pytest.mark.parametrize("rho", [-0.9, 0.0])
def test_intervals_cover_where_the_price_effect_is_strong_enough_to_be_read(price_t, rho):
    """At t 3.5 some 4 in 10 studies are refused, and those that are not have price effects that are too large."""
    rng = np.random.default_rng(int(10 * price_t) + int(rho < 0))
    lift = np.array([(1 + CUT) ** TRUTH - 1, CUT])
    se = np.abs(lift) / [6.0, price_t]
    root = np.linalg.cholesky(np.outer(se, se) * [[1, rho], [rho, 1]])
    covered, missed_above = [], []
    while len(covered) < N_STUDIES:
        estimate = lift + root @ rng.normal(size=2)
        found = elasticity(*estimate, *(estimate[:, None] + root @ rng.normal(size=(2, N_DRAWS))))
        if np.isfinite(found.elasticity):
            covered.append(found.ci_lower <= TRUTH <= found.ci_upper)
            missed_above.append(found.ci_upper < TRUTH)
    # What is read after a refusal by t leans to small elasticities, so the interval errs to one side there.
    upper = COVERED[1] if price_t > 5 else 0.99
    assert COVERED[0] <= np.mean(covered) <= upper
    if price_t > 5:
        assert stats.binomtest(sum(missed_above), N_STUDIES, 0.025).pvalue > 0.001


def test_break_even_by_hand():
    """A cut of 20 % at a margin of a half: 1.667 times the units, so ln(5 / 3) / ln(.8)."""
    both = break_even(known(-2.0), price_change=-0.2, margin=0.5)
    assert both.revenue == -1.0
    assert both.profit == pytest.approx(np.log(5 / 3) / np.log(0.8), rel=EXACT)
    assert both.reason is None


@pytest.mark.parametrize("change", [-0.3, -0.05, 0.05, 0.4])
@pytest.mark.parametrize("margin", [0.35, 0.6, 1.0])
def test_at_break_even_revenue_and_profit_stay_as_they_were(change, margin):
    both = break_even(known(-2.0), price_change=change, margin=margin)
    cost = 1 - margin
    assert (1 + change) ** both.profit * (1 + change - cost) == pytest.approx(margin, rel=1e-9)
    assert (1 + change) ** both.revenue * (1 + change) == pytest.approx(1.0, rel=EXACT)
    if margin == 1.0:
        assert both.profit == pytest.approx(both.revenue, rel=EXACT)


def test_small_changes_break_even_at_minus_one_over_the_margin():
    assert break_even(known(-2.0), price_change=1e-6, margin=0.4).profit == pytest.approx(-2.5, abs=1e-4)


@pytest.mark.parametrize("change", [-0.1, 0.1])
@pytest.mark.parametrize("e", [-4.0, -1.6, -0.5])
def test_the_verdict_is_what_the_change_does_to_revenue_and_profit(change, e):
    both = break_even(known(e, half=0.1), price_change=change, margin=0.5)
    revenue = (1 + change) ** (1 + e) - 1
    profit = (1 + change) ** e * (0.5 + change) / 0.5 - 1
    move = "cut" if change < 0 else "raise"
    for verdict, gain, word in ((both.verdict_revenue, revenue, "revenue"), (both.verdict_profit, profit, "profit")):
        assert f"the {move} {'pays' if gain > 0 else 'costs'} in {word}" in verdict
    assert both.verdict_revenue.startswith("more" if e < -1 else "less")


def test_an_interval_that_holds_break_even_cannot_be_told():
    both = break_even(known(-1.2, half=0.3), price_change=-0.1, margin=0.5)
    assert both.verdict_revenue == CANNOT_BE_TOLD
    assert both.verdict_profit == "less elastic than break-even: the cut costs in profit"


@pytest.mark.parametrize(
    ("change", "margin", "words"),
    [
        (-0.1, np.nan, "no sales with a cost"),
        (-0.1, 0.0, "not positive"),
        (-0.1, -0.2, "not positive"),
        (-0.3, 0.3, "takes the whole margin"),
        (-0.3, 0.2, "takes the whole margin"),
        (0.0, 0.3, "nothing to break even on"),
        (np.nan, 0.3, "nothing to break even on"),
    ],
)
def test_without_a_break_even_for_profit_there_is_a_reason(change, margin, words):
    both = break_even(known(-2.0), price_change=change, margin=margin)
    assert np.isnan(both.profit)
    assert both.verdict_profit is None
    assert words in both.reason
    assert (both.verdict_revenue is None) == (words == "nothing to break even on")


def test_no_elasticity_gives_break_even_without_a_verdict():
    nothing = elasticity(np.nan, -0.1, *draws(0.2, -0.1))
    both = break_even(nothing, price_change=-0.2, margin=0.5)
    assert np.isfinite(both.profit)
    assert (both.verdict_revenue, both.verdict_profit) == (None, None)


def test_errors_name_value_and_rule():
    with pytest.raises(ValueError, match=r"have shapes \(3,\), \(2,\), must be \(B,\) alike"):
        elasticity(0.2, -0.1, np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"quantile == 0.0, must be positive"):
        elasticity(0.2, -0.1, np.zeros(3), np.zeros(3), quantile=0.0)
    with pytest.raises(ValueError, match=r"min_price_t == -1, must be positive"):
        elasticity(0.2, -0.1, np.zeros(3), np.zeros(3), min_price_t=-1)

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science.diagnostics import (
    ALPHA,
    Diagnostic,
    carryover,
    cell_balance,
    covariate_balance,
    missing_by_arm,
    one_price,
    pre_trend,
    price_compliance,
    triggers_by_arm,
    two_arm_share,
    worst_arm,
)

EXACT = 1e-10
N_NULLS = 300
# Binomial 99.9 % bounds of 300 draws at a nominal 5 %.
NULL_BOUNDS = (0.013, 0.1)


def halves(n: int) -> np.ndarray:
    return np.arange(n) % 2


def test_distance_and_p_against_all_permutations_of_six():
    X = np.array([[1.0, 2], [2, 1], [4, 0], [3, 5], [7, 1], [0, 2]])
    arm = np.array([1, 1, 1, 0, 0, 0])
    S = np.linalg.inv(np.cov(X.T))

    def distance(W) -> float:
        d = X[W == 1].mean(axis=0) - X[W == 0].mean(axis=0)
        return d @ S @ d * 9 / 6

    draws = [distance(np.array(W)) for W in set(permutations(arm))]
    share = np.mean(np.array(draws) >= distance(arm) - 1e-9)
    found = covariate_balance(X, arm, n_permutations=4000, rng=np.random.default_rng(0))
    assert found.value == pytest.approx(distance(arm), rel=EXACT)
    # 4,000 draws: standard error .008.
    assert found.p_value == pytest.approx(share, abs=0.03)


def test_balance_passes_a_random_draw_and_fails_a_selected_one():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 4))
    assert covariate_balance(X, rng.permutation(halves(200)), rng=rng).status == "passed"
    chosen = covariate_balance(X, (X[:, 1] > 0).astype(int), rng=rng)
    assert (chosen.status, chosen.p_value) == ("failed", 0.001)


def test_balance_ignores_scale_constants_and_repeated_columns():
    rng = np.random.default_rng(2)
    X, arm = rng.normal(size=(60, 3)), halves(60)
    plain = covariate_balance(X, arm, rng=np.random.default_rng(3))
    wide = np.column_stack([X * [1, 100, 0.01] + 7, np.full(60, 5.0), X[:, 0] + X[:, 1]])
    other = covariate_balance(wide, arm, rng=np.random.default_rng(3))
    assert other.value == pytest.approx(plain.value, rel=1e-8)
    assert other.p_value == plain.p_value


def test_balance_draws_whole_units():
    rng = np.random.default_rng(4)
    below, above = 0, 0
    for _ in range(N_NULLS):
        units = np.repeat(np.arange(20), 10)
        X = np.repeat(rng.normal(size=(20, 1)), 10, axis=0)
        arm = np.repeat(rng.permutation(halves(20)), 10)
        below += covariate_balance(X, arm, units=units, n_permutations=99, rng=rng).p_value <= 0.05
        above += covariate_balance(X, arm, n_permutations=99, rng=rng).p_value <= 0.05
    assert NULL_BOUNDS[0] < below / N_NULLS < NULL_BOUNDS[1]
    # Products drawn on their own make clusters look unbalanced.
    assert above / N_NULLS > 0.3


def test_balance_without_attributes_is_no_verdict():
    found = covariate_balance(np.ones((8, 2)), halves(8), rng=np.random.default_rng(0))
    assert found.status == "informational"
    assert np.isnan(found.value)
    assert found.message == "Not computed: no attribute varies."


def test_pre_trend_by_hand():
    placebo = np.array([[0.0, 1, 2], [0, 3, 6], [0, 0, 0], [0, 1, 2]])
    arm = np.array([1, 1, 0, 0])
    found = pre_trend(placebo, arm)
    assert found.value == pytest.approx(2 - 0.5, rel=EXACT)
    welch = stats.ttest_ind([1.0, 3.0], [0.0, 1.0], equal_var=False)
    assert found.p_value == pytest.approx(welch.pvalue, rel=1e-8)


def test_pre_trend_passes_parallel_and_fails_drifting_products():
    rng = np.random.default_rng(5)
    placebo, arm = rng.normal(size=(400, 4)), halves(400)
    assert pre_trend(placebo, arm).status == "passed"
    assert pre_trend(placebo + 0.3 * arm[:, None] * np.arange(4), arm).status == "failed"
    assert pre_trend(placebo[:, :1], arm).status == "passed"
    assert pre_trend(placebo[:, :1] + arm[:, None], arm).status == "failed"


def test_pre_trend_counts_units_not_rows():
    rng = np.random.default_rng(6)
    placebo, arm = rng.normal(size=(40, 3)), halves(40)
    once = pre_trend(placebo, arm)
    tenfold = pre_trend(np.repeat(placebo, 10, axis=0), np.repeat(arm, 10), np.repeat(np.arange(40), 10))
    assert tenfold.p_value == pytest.approx(once.p_value, rel=1e-8)


def test_pre_trend_rejects_at_its_level():
    rng = np.random.default_rng(7)
    rejections = [pre_trend(rng.normal(size=(60, 3)), halves(60)).p_value < 0.05 for _ in range(N_NULLS)]
    assert NULL_BOUNDS[0] < np.mean(rejections) < NULL_BOUNDS[1]


def test_pre_trend_leaves_out_gaps_and_says_when_nothing_is_left():
    placebo = np.array([[0.0, 1], [0, 2], [0, 3], [0, 5], [np.nan, 9]])
    whole = pre_trend(placebo[:4], np.array([1, 1, 0, 0]))
    assert pre_trend(placebo, np.array([1, 1, 0, 0, 0])) == whole
    empty = pre_trend(np.zeros((2, 2)), np.array([1, 0]))
    assert empty.status == "informational"
    assert np.isnan(empty.value)


def test_windows_before_the_history_are_no_reason_to_be_silent():
    rng = np.random.default_rng(9)
    placebo, arm = rng.normal(size=(40, 4)), halves(40)
    short = placebo.copy()
    short[:, 0] = np.nan
    found = pre_trend(short, arm)
    assert found == pre_trend(placebo[:, 1:], arm)
    assert "slope over 3 placebo windows" in found.message
    # two old products in a window are other products than the rest
    short[:2, 0] = 5.0
    assert pre_trend(short, arm) == found
    short[:20, 0] = placebo[:20, 0]
    assert pre_trend(short, arm) == pre_trend(placebo[:20], arm[:20])
    # products without any window do not count
    young = np.concatenate([placebo, np.full((60, 4), np.nan)])
    assert pre_trend(young, halves(100)) == pre_trend(placebo, arm)
    drifting = short + np.where(arm == 1, 2.0, 0.0)[:, None] * np.arange(4)
    assert pre_trend(drifting, arm).status == "failed"


@pytest.mark.parametrize("n_windows", [0, 4])
def test_pre_trend_without_a_window_says_so(n_windows):
    found = pre_trend(np.full((6, n_windows), np.nan), halves(6))
    assert (found.check_name, found.status) == ("pre_trend", "informational")
    assert found.message.startswith("Not computed: no window of the experiment's length")
    assert np.isnan([found.value, found.p_value]).all()


def test_missing_by_hand():
    # The lady tasting tea: 3 of 4 against 1 of 4 has two-sided p 34 / 70.
    found = missing_by_arm(np.array([1, 1, 1, 0, 1, 0, 0, 0]), np.repeat([1, 0], 4))
    assert found.p_value == pytest.approx(34 / 70, rel=1e-9)
    assert found.value == 0.5
    assert found.status == "passed"
    assert found.message == "Missing: 3 of 4 treated (75.0%), 1 of 4 control products (25.0%)."


def test_missing_fails_when_one_arm_loses_products():
    arm = halves(200)
    gone = (arm == 1) & (np.arange(200) < 60)
    assert missing_by_arm(gone, arm).status == "failed"


def test_missing_informs_where_hardly_any_product_is_left():
    arm = halves(200)
    nearly = missing_by_arm(np.arange(200) < 180, arm)
    assert nearly.status == "informational"
    assert nearly.message == (
        "Missing: 90 of 100 treated (90.0%), 90 of 100 control products (90.0%). Nearly all products are missing."
    )
    assert missing_by_arm(np.arange(200) < 179, arm).status == "passed"
    lost = missing_by_arm((arm == 1) | (np.arange(200) < 170), arm)
    assert (lost.status, lost.value) == ("failed", pytest.approx(0.15))


def checked(p: float, status: str) -> Diagnostic:
    return Diagnostic("pre_trend", status, 2.0, ALPHA, p, f"Seen at {p}.")


@pytest.mark.parametrize(
    ("arms", "name", "status"),
    [
        ({"deep": (0.004, "failed"), "up": (0.2, "passed")}, "deep", "failed"),
        ({"deep": (0.004, "failed"), "up": (0.001, "failed")}, "up", "failed"),
        # below .01, not below its half
        ({"deep": (0.2, "passed"), "up": (0.006, "failed")}, "up", "passed"),
        ({"deep": (0.2, "passed"), "up": (np.nan, "informational")}, "up", "informational"),
        ({"deep": (0.004, "failed"), "up": (np.nan, "informational")}, "deep", "failed"),
        ({"deep": (np.nan, "informational"), "up": (1.0, "informational")}, "up", "informational"),
    ],
)
def test_the_worst_arm_stands_for_all_of_them(arms, name, status):
    made = {arm: checked(*one) for arm, one in arms.items()}
    found = worst_arm(made)
    assert (found.status, found.threshold, found.value) == (status, ALPHA / 2, 2.0)
    assert found.message == f"Arm {name}, the worst of 2 against control: Seen at {arms[name][0]}."
    assert worst_arm(dict(reversed(made.items()))) == found
    assert worst_arm({"deep": made["deep"]}) is made["deep"]


def test_some_arm_fails_at_the_level_of_one_check():
    rng = np.random.default_rng(10)
    failed = 0
    for _ in range(N_NULLS):
        p = rng.uniform(size=3)
        made = {f"a{k}": checked(one, "failed" if one < 0.05 else "passed") for k, one in enumerate(p)}
        failed += worst_arm(made, alpha=0.05).status == "failed"
    assert NULL_BOUNDS[0] < failed / N_NULLS < NULL_BOUNDS[1]


def test_triggers_by_hand_and_when_treatment_brings_them_about():
    found = triggers_by_arm(np.array([1, 1, 1, 0, 1, 0, 0, 0]), np.repeat([1, 0], 4))
    assert (found.check_name, found.value) == ("triggers_by_arm", 0.5)
    assert found.p_value == pytest.approx(34 / 70, rel=1e-9)
    assert found.message == "Triggered: 3 of 4 treated (75.0%), 1 of 4 control products (25.0%)."
    arm = halves(200)
    assert triggers_by_arm((arm == 1) | (np.arange(200) < 60), arm).status == "failed"
    assert triggers_by_arm(np.arange(200) % 4 < 2, arm).status == "passed"


def test_two_arm_share():
    assert two_arm_share(0.8).status == "passed"
    assert two_arm_share(0.79).status == "failed"
    with pytest.raises(ValueError, match=r"value == 1.2, must be in \[0, 1\]"):
        two_arm_share(1.2)


def compliance(realised: list[float]) -> tuple:
    found = price_compliance(
        np.array([2.0, 2.0, 0.5, 0.5]),
        np.array(realised),
        arm=np.array([1, 1, 0, 0]),
        product_id=np.array(["a", "a", "b", "b"]),
        date=np.array(["2024-01-01", "2024-01-02"] * 2, dtype="datetime64[D]"),
    )
    return found.status, found.value, found.message


def test_compliance_tolerates_half_a_cent_and_half_a_per_cent():
    assert compliance([2.01, 1.99, 0.505, np.nan])[:2] == ("passed", 0.0)


def test_compliance_names_the_worst_case():
    status, value, message = compliance([2.02, 2.0, 0.25, np.nan])
    assert (status, value) == ("failed", pytest.approx(2 / 3))
    assert message == (
        "2 of 3 observed prices (66.7%) differ from the plan; treatment 50.0%; control 100.0%. "
        "Worst: b on 2024-01-01 planned 0.50 charged 0.25, a on 2024-01-01 planned 2.00 charged 2.02."
    )


def test_compliance_without_sales_is_no_verdict():
    status, value, _ = compliance([np.nan] * 4)
    assert status == "informational"
    assert np.isnan(value)


def test_one_price():
    plan = pd.DataFrame(
        {"product_id": ["a", "a", "b"], "date": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-01"])}
    )
    assert one_price(plan).status == "passed"
    double = one_price(pd.concat([plan, plan.iloc[[1]]]))
    assert (double.status, double.value) == ("failed", 1.0)
    assert double.message == "1 of 3 products and days have more than one price, such as a on 2024-01-02 (2 rows)."


def test_cell_balance_passes_a_balanced_and_fails_a_weekend_draw():
    date = np.arange("2024-01-01", "2024-01-15", dtype="datetime64[D]")
    week = np.tile([1, 0, 1, 0, 1, 0, 1], (4, 1))
    balanced = cell_balance(np.hstack([week, 1 - week]), date)
    assert (balanced.status, balanced.value) == ("passed", 0.0)
    weekend = np.tile([0, 0, 0, 0, 0, 1, 1], (4, 2))
    uneven = cell_balance(weekend, date)
    assert (uneven.status, uneven.value) == ("failed", pytest.approx(1 - 2 / 7))
    assert uneven.message == "Treated share by weekday is furthest from 28.6% on Saturday: 100.0%."
    only_weekend = cell_balance(weekend, date, in_analysis=weekend[0] == 1)
    assert only_weekend.value == 0.0
    assert np.isnan(cell_balance(weekend, date, in_analysis=np.zeros(14, dtype=bool)).value)


def switchback(rng: np.random.Generator, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    arm = rng.integers(0, 2, (60, 28))
    before = np.column_stack([np.zeros(60), arm[:, :-1]])
    shocks = rng.normal(size=(60, 1)) + rng.normal(size=28)
    return shocks + rng.normal(size=(60, 28)) + arm + kappa * before, arm


def test_carryover_against_least_squares_with_dummies():
    rng = np.random.default_rng(8)
    residual, arm = switchback(rng, 0.5)
    counted = np.ones(arm.shape, dtype=bool)
    counted[:, 10:12] = False
    row, day = np.nonzero(counted & (arm == 0) & (np.arange(28) > 0))
    design = np.column_stack([arm[row, day - 1], row[:, None] == np.arange(60), day[:, None] == np.arange(28)])
    expected = np.linalg.lstsq(design.astype(float), residual[row, day], rcond=None)[0][0]
    assert carryover(residual, arm, counted).value == pytest.approx(expected, rel=1e-6)


def test_carryover_informs_with_and_without_an_effect():
    rng = np.random.default_rng(9)
    counted = np.ones((60, 28), dtype=bool)
    none, some = (carryover(*switchback(rng, kappa), counted) for kappa in (0.0, 1.0))
    assert none.status == some.status == "informational"
    assert none.p_value > ALPHA > some.p_value
    assert "A weak test" in none.message


def test_carryover_interval_covers():
    rng = np.random.default_rng(10)
    counted = np.ones((60, 28), dtype=bool)
    rejections = [carryover(*switchback(rng, 0.0), counted).p_value < 0.05 for _ in range(N_NULLS // 2)]
    # Binomial 99.9 % bounds of 150 draws at 5 %.
    assert 0.005 < np.mean(rejections) < 0.125


def test_carryover_needs_both_kinds_of_yesterday():
    shared = np.tile(halves(28), (10, 1))
    found = carryover(np.zeros((10, 28)), shared, np.ones((10, 28), dtype=bool))
    assert np.isnan(found.value)
    assert found.message.startswith("Not computed")


@pytest.mark.parametrize(
    ("arm", "units", "message"),
    [
        ([1, 1, 1, 1], None, r"arm == \[1.0\], must hold 0 and 1"),
        ([0, 1, 2, 1], None, r"must hold 0 and 1"),
        ([0, 1, 1, 1], [0, 0, 1, 1], r"units == 1 with both arms"),
    ],
)
def test_errors_name_value_and_rule(arm, units, message):
    with pytest.raises(ValueError, match=message):
        pre_trend(np.zeros((4, 2)), np.array(arm), units)
    with pytest.raises(ValueError, match=r"X == nan"):
        covariate_balance(np.full((4, 1), np.nan), halves(4), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"placebo.shape == \(4,\)"):
        pre_trend(np.zeros(4), halves(4))
    with pytest.raises(ValueError, match="must have at least one"):
        worst_arm({})

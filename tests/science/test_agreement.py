"""Whether estimators agree, and the reason that is named where they do not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from pricelab_dagster.science import agreement, designs, panel
from pricelab_dagster.science.agreement import Estimate, Evidence

FloatArray = NDArray[np.float64]

SE, B = 0.01, 400
EXACT = 1e-12
N_NULL = 300
START = np.datetime64("2024-01-01")


def estimates(*, noise: float = 0.001, seed: int = 0, **effects: float) -> dict[str, Estimate]:
    """Return estimates that share most of their error: each has noise of its own beside."""
    rng = np.random.default_rng(seed)
    shared = SE * rng.normal(size=B)
    found = {}
    for name, effect in effects.items():
        own = noise * rng.normal(size=B)
        found[name] = Estimate(effect, SE, np.empty(0) if name == "causal_forest_dml" else effect + shared + own)
    return found


def compare(
    headline: str, known: Evidence | None = None, *, seed: int = 0, **effects: float
) -> dict[str, agreement.Comparison]:
    found = agreement.compare(
        estimates(seed=seed, **effects), headline=headline, evidence=Evidence() if known is None else known
    )
    return {one.estimator: one for one in found}


def test_the_standard_error_is_that_of_the_shared_draws() -> None:
    one = Estimate(0.10, 2.0, np.tile([0.0, 1.0], 20))
    other = Estimate(0.13, 3.0, np.tile([0.1, 1.3], 20))
    (found,) = agreement.compare({"hpte": one, "hajek": other}, headline="hpte", evidence=Evidence())
    assert found.joint
    assert found.difference == pytest.approx(0.03, abs=EXACT)
    assert found.se == pytest.approx(0.1 * np.sqrt(40 / 39), rel=EXACT)  # differences .1 and .3


def test_without_shared_draws_it_is_the_root_of_the_squares() -> None:
    draws = np.arange(40.0)
    few = np.where(np.arange(40) < 19, draws, np.nan)
    for other in (np.empty(0), draws[:30], few):
        pair = {"hpte": Estimate(0.1, 3.0, draws), "ancova": Estimate(0.2, 4.0, other)}
        (found,) = agreement.compare(pair, headline="hpte", evidence=Evidence())
        assert not found.joint
        assert found.se == 5.0


def test_undefined_replicates_do_not_count() -> None:
    draws = np.arange(40.0)
    pair = {"hpte": Estimate(0.1, 3.0, draws), "ancova": Estimate(0.2, 4.0, np.where(draws < 25, 2 * draws, np.nan))}
    (found,) = agreement.compare(pair, headline="hpte", evidence=Evidence())
    assert found.se == pytest.approx(np.arange(25).std(ddof=1), rel=EXACT)


def test_p_values_are_of_the_margin_and_stepped_by_holm() -> None:
    """Margin .5, standard errors 1: p = P(|N(.5, 1)| >= d), times 3, 2 and 1 in rising order."""
    none = np.empty(0)
    gaps = {"ancova": 4.0, "hajek": 3.0, "cuped": 0.2}
    found = agreement.compare(
        {"hpte": Estimate(0.0, 1.0, none), **{name: Estimate(gap, 0.0, none) for name, gap in gaps.items()}},
        headline="hpte",
        evidence=Evidence(),
        alpha=0.02,
    )
    expected = {name: stats.norm.sf(gap - 0.5) + stats.norm.sf(gap + 0.5) for name, gap in gaps.items()}
    for factor, one in zip((3, 2, 1), found, strict=True):
        assert one.p_value == pytest.approx(min(1.0, factor * expected[one.estimator]), rel=1e-9)
    assert [(one.estimator, one.differs) for one in found] == [("ancova", True), ("hajek", True), ("cuped", False)]


def test_order_sign_and_scale_do_not_matter() -> None:
    one = compare("hpte", hpte=0.1, hajek=0.16, ancova=0.11)
    turned = estimates(hpte=0.1, hajek=0.16, ancova=0.11)
    other = {
        one.estimator: one
        for one in agreement.compare(
            {name: Estimate(-3 * e.effect, 3 * e.se, -3 * e.draws) for name, e in reversed(turned.items())},
            headline="hpte",
            evidence=Evidence(),
        )
    }
    assert one.keys() == other.keys()
    for name, found in one.items():
        assert other[name].p_value == pytest.approx(found.p_value, rel=1e-9)
        assert other[name].difference == pytest.approx(-3 * found.difference, rel=1e-9)
        assert (other[name].differs, other[name].reason) == (found.differs, found.reason)


def test_equal_estimates_agree_and_small_sure_differences_do_too() -> None:
    found = compare("hpte", hpte=0.1, hajek=0.1)
    assert not found["hajek"].differs
    sure = {"hpte": Estimate(0.1, SE, np.arange(40.0)), "hajek": Estimate(0.1 + 0.49 * SE, SE, np.arange(40.0))}
    (agrees,) = agreement.compare(sure, headline="hpte", evidence=Evidence())
    assert (agrees.p_value, agrees.differs) == (1.0, False)
    sure["hajek"] = replace(sure["hajek"], effect=0.1 + 0.51 * SE)
    (differs,) = agreement.compare(sure, headline="hpte", evidence=Evidence())
    assert (differs.p_value, differs.differs) == (0.0, True)


NEAR = {"hpte": 0.10, "hajek": 0.10, "ancova": 0.10, "hpte_leaf": 0.10, "hpte_doubly_robust": 0.10}
UNLIKE = Evidence(balance_distance=90.0, balance_p=0.001)
CASES: dict[str, tuple[str, str, dict[str, float], Evidence, str, bool]] = {
    "outliers": (
        *("hpte", "difference_in_differences"),
        {**NEAR, "difference_in_differences": 0.19},
        Evidence(unfiltered=0.18),
        *("outliers, which the filter drops", False),
    ),
    "trends": (
        *("hpte", "difference_in_differences"),
        {**NEAR, "difference_in_differences": 0.19},
        Evidence(unfiltered=0.11),
        *("trends or price moves", False),
    ),
    "raw and unadjusted": (
        *("hpte", "difference_in_differences"),
        {**NEAR, "hajek": 0.17, "difference_in_differences": 0.19},
        replace(UNLIKE, unfiltered=0.18),
        *("arms unlike in attributes: distance 90.0, 0.1% of random draws", False),
    ),
    "attributes": (
        *("hpte", "hajek", {**NEAR, "hajek": 0.17}, UNLIKE),
        *("arms unlike in attributes: distance 90.0", False),
    ),
    "leaves alone": (
        *("hpte", "hajek", {**NEAR, "hajek": 0.17, "ancova": 0.17}, UNLIKE),
        *("comparison within leaves alone", False),
    ),
    "unlike, without a regression": (
        *("hpte", "hajek", {"hpte": 0.10, "hajek": 0.17}, UNLIKE),
        *("arms unlike in attributes", False),
    ),
    "like, without a regression": (
        *("hpte", "hajek", {"hpte": 0.10, "hajek": 0.17}, Evidence(balance_distance=9.0, balance_p=0.6)),
        *("comparison within leaves alone", False),
    ),
    "weighting": (
        *("hpte", "hpte_leaf"),
        {**NEAR, "hpte_leaf": 0.17, "hpte_doubly_robust": 0.168, "ancova": 0.165},
        Evidence(),
        *("effects vary", True),
    ),
    "leaf alone": (
        *("hpte", "hpte_leaf", {**NEAR, "hpte_leaf": 0.17}, Evidence()),
        *("unknown", False),
    ),
    "propensities": (
        *("hpte", "hpte_doubly_robust", {**NEAR, "hpte_doubly_robust": 0.17}, Evidence(certain_share=0.2)),
        *("propensities near 0 or 1 for 20% of products", False),
    ),
    "not propensities": (
        *("hpte", "hpte_doubly_robust", {**NEAR, "hpte_doubly_robust": 0.17}, Evidence(certain_share=0.01)),
        *("unknown", False),
    ),
    "not linear": (
        *("hpte", "ancova", {**NEAR, "ancova": 0.17}, UNLIKE),
        *("arms unlike in attributes, whose part ancova misses", False),
    ),
    "interference": (
        *("hajek", "hpte", {**NEAR, "hpte": 0.17}, Evidence(clustered=True)),
        *("interference", True),
    ),
    "clusters unlike": (
        *("hajek", "hpte", {**NEAR, "hpte": 0.17, "ancova": 0.165}, replace(UNLIKE, clustered=True)),
        *("arms unlike in attributes", False),
    ),
    "staggered": (
        *("group_time_simple_not_yet", "two_way_fixed_effects"),
        {"group_time_simple_not_yet": 0.1, "two_way_fixed_effects": 0.17},
        Evidence(),
        *("products start at different times", True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_reason_follows_from_what_sides_with_whom(case: str) -> None:
    headline, peer, effects, known, reason, expected = CASES[case]
    found = compare(headline, known, **effects)[peer]
    assert found.differs
    assert str(found.reason).startswith(reason)
    assert found.expected == expected
    check = agreement.estimators_agree({"treatment": [found]})
    assert check.status == ("informational" if expected else "failed")
    assert check.p_value < check.threshold
    assert str(found.reason) in check.message
    near = compare(headline, known, **dict.fromkeys(effects, 0.1))[peer]
    assert (near.differs, near.reason) == (False, None)


def test_null_estimates_are_rarely_flagged_and_real_differences_often() -> None:
    """Estimates of one truth that share half of their error; the least difference worth a flag is far beyond."""
    flagged = {0.0: 0, 6.0: 0}
    for gap in flagged:
        for seed in range(N_NULL):
            rng = np.random.default_rng([seed, int(gap)])
            common = rng.normal(size=B + 1)
            pair = {}
            for name, shift in {"hpte": 0.0, "hajek": gap}.items():
                own = rng.normal(size=B + 1)
                draws = shift + common + own
                pair[name] = Estimate(float(draws[0]), np.sqrt(2.0), draws[1:])
            (found,) = agreement.compare(pair, headline="hpte", evidence=Evidence())
            flagged[gap] += found.differs
    # at gap 0 P(|N(0, 2)| > .707 + 2.36 sd) is below .001; at gap 6 the power is .96
    assert flagged[0.0] <= stats.binom.ppf(0.999, N_NULL, agreement.ALPHA)
    assert stats.binom.ppf(0.001, N_NULL, 0.9) <= flagged[6.0] < N_NULL


def test_the_check_names_the_furthest_and_counts() -> None:
    found = {
        "small": agreement.compare(estimates(hpte=0.1, hajek=0.101), headline="hpte", evidence=Evidence(), alpha=0.005),
        "deep": agreement.compare(
            estimates(hpte=0.1, hajek=0.16, ancova=0.1), headline="hpte", evidence=Evidence(), alpha=0.005
        ),
    }
    check = agreement.estimators_agree(found)
    assert (check.check_name, check.status) == ("estimators_agree", "failed")
    assert check.value == pytest.approx(0.06, abs=EXACT)
    assert check.message.startswith(
        "1 of 3 estimates differ from the headline. hajek reads +16.0%, hpte +10.0% (arm deep)"
    )
    assert "6.00 points apart, standard error 0.1" in check.message
    passed = agreement.estimators_agree({"small": found["small"]})
    assert (passed.status, passed.p_value >= passed.threshold) == ("passed", True)
    assert passed.message.startswith("1 estimates agree with the headline. The furthest, hajek reads +10.1%")


def test_a_difference_that_is_meant_does_not_hide_one_that_is_not() -> None:
    known = Evidence(unfiltered=0.13)
    effects = {**NEAR, "difference_in_differences": 0.13, "hpte_leaf": 0.2, "hpte_doubly_robust": 0.19, "ancova": 0.18}
    found = agreement.compare(estimates(**effects), headline="hpte", evidence=known)
    assert found[0].expected
    check = agreement.estimators_agree({"treatment": found})
    assert check.status == "failed"
    assert "difference_in_differences reads" in check.message


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"treatment": []},
        {"treatment": agreement.compare(estimates(hpte=np.nan, hajek=0.1), headline="hpte", evidence=Evidence())},
    ],
)
def test_nothing_to_compare_informs(found: dict[str, list[agreement.Comparison]]) -> None:
    check = agreement.estimators_agree(found)
    assert check.status == "informational"
    assert np.isnan(check.p_value)
    assert check.message.startswith("Not computed")


def test_what_breaks_the_rules_is_refused() -> None:
    with pytest.raises(ValueError, match="headline == 'paired', must be one of"):
        agreement.compare(estimates(hpte=0.1), headline="paired", evidence=Evidence())
    with pytest.raises(ValueError, match=r"alpha == 1\.0, must be in"):
        agreement.compare(estimates(hpte=0.1), headline="hpte", evidence=Evidence(), alpha=1.0)


def world(
    *, n: int = 200, seed: int = 0, outliers: int = 0, drift: float = 0.0, confounded: float = 0.0
) -> tuple[panel.Panel, pd.DataFrame]:
    """Return a panel without an effect, and its attributes.

    `outliers`: so many treated products sell four times as much since the start. `drift`: treated products fall by it
    each week before the start and no longer after it. `confounded`: products of high x sell more since the
    start, and are treated.
    """
    rng = np.random.default_rng([seed, 5])
    ids = np.array([f"p{i:03}" for i in range(n)], dtype=object)
    drawn = designs.time_bound(ids, START, duration=28, rng=rng)
    x = rng.normal(size=n)
    arm = drawn.arm.astype(float)
    if confounded:
        arm = np.tile((rng.random(n) < 1 / (1 + np.exp(-2 * x))).astype(float)[:, None], (1, 28))
    treated = arm[:, 0] == 1
    mean = np.full((n, 140), 30.0) * np.exp(0.3 * rng.normal(size=(n, 1)))
    mean[:, 112:] *= 1 + confounded * x[:, None]
    week = np.minimum(np.arange(140) // 7, 15) - 15
    mean[treated] *= 1 - drift * week
    if outliers:
        mean[np.flatnonzero(treated)[:outliers], 112:] *= 4.0
    units = rng.poisson(np.maximum(mean, 0.1)).astype(float)
    one = panel.Panel(
        product_id=ids,
        date=drawn.date,
        unit_id=ids,
        category=np.array(["a"] * n, dtype=object),
        arm=arm,
        in_analysis=drawn.in_analysis,
        probability=drawn.probability,
        phase=np.ones(28, dtype=int),
        history={"units": units[:, :112]},
        observed={"units": units[:, 112:]},
        kind="time_bound",
    )
    return one, pd.DataFrame({"x": x, "shape": np.where(rng.random(n) > 0.5, "box", "bag")})


def judged(one: panel.Panel, X: pd.DataFrame, *, c: float = 5.0) -> dict[str, agreement.Comparison]:
    """Return each estimator of a panel against hpte, with the evidence of the data."""
    rng = np.random.default_rng(1)
    metrics = panel.trimmed(one, panel.forecasts(one), c=c)
    leaves = panel.fit_leaves(one, X, metrics[0], n_trees=40, rng=rng)
    names = ("hpte", "hpte_leaf", "hajek", "difference_in_differences", "ancova", "cuped")
    found = panel.estimates(one, metrics[:1], leaves, estimators=names, X=X, c=c, n_replicates=100, rng=rng)
    by_name = {name: Estimate(effect.effect, effect.se, effect.draws) for _, _, name, effect in found}
    known = agreement.evidence(one, metrics, X, clustered=False, n_permutations=199, rng=rng)
    return {part.estimator: part for part in agreement.compare(by_name, headline="hpte", evidence=known)}


def test_outliers_of_a_panel_are_named() -> None:
    """Few outliers widen the error as much as the difference; twenty, all in one arm, are surely apart."""
    found = judged(*world(n=800, outliers=20), c=40.0)["difference_in_differences"]
    assert found.differs
    assert str(found.reason).startswith("outliers")
    assert not judged(*world(outliers=3))["difference_in_differences"].differs


def test_trends_of_a_panel_are_named() -> None:
    found = judged(*world(drift=0.03))["difference_in_differences"]
    assert found.differs
    assert str(found.reason).startswith("trends")


def test_unlike_arms_of_a_panel_are_named() -> None:
    found = judged(*world(confounded=0.2))["hajek"]
    assert found.differs
    assert str(found.reason).startswith("arms unlike in attributes")


def test_evidence_of_like_and_unlike_arms() -> None:
    options: dict[str, Any] = {"clustered": True, "n_permutations": 199, "rng": np.random.default_rng(0)}
    like, X = world()
    metrics = panel.trimmed(like, panel.forecasts(like))
    first = metrics[0]
    found = agreement.evidence(like, metrics, X, **options)
    assert found.clustered
    assert found.balance_p > 0.01
    assert found.certain_share == 0.0
    side = [first.first_difference[like.sequence == arm].mean() for arm in (1, 0)]
    assert found.unfiltered == pytest.approx(
        (side[0] - side[1]) / (first.outcome.mean() - (side[0] - side[1]) / 2), rel=1e-9
    )
    sure = replace(like, arm=np.tile((X["x"].to_numpy() > 0).astype(float)[:, None], (1, 28)))
    unlike = agreement.evidence(sure, panel.trimmed(sure, panel.forecasts(sure)), X, **options)
    assert unlike.balance_p < 0.01
    assert unlike.certain_share > 0.3
    assert unlike.balance_distance > found.balance_distance


def test_evidence_of_profit_is_in_points_per_revenue() -> None:
    """Profit is three tenths of revenue and loses a tenth of it under treatment; it comes first, revenue last."""
    one, X = world(n=120)
    sold, past = one.observed["units"], one.history["units"]
    metrics = (
        {"profit": past * 0.3, "revenue": past},
        {"profit": sold * np.where(one.arm > 0, 0.2, 0.3), "revenue": sold},
    )
    one = replace(one, history=metrics[0], observed=metrics[1])
    rows = panel.trimmed(one, panel.forecasts(one))
    assert rows[0].metric == "profit"
    found = agreement.evidence(one, rows, X, clustered=False, n_permutations=9, rng=np.random.default_rng(0))
    side = [rows[0].first_difference[one.sequence == arm].mean() for arm in (1, 0)]
    revenue = next(row.outcome for row in rows if (row.metric, row.scale) == ("revenue", "relative"))
    assert found.unfiltered == pytest.approx((side[0] - side[1]) / revenue.mean(), rel=1e-9)
    assert -0.13 < found.unfiltered < -0.07  # over mean profit it would be a third below no effect


def test_evidence_without_arms_to_compare_is_not_made_up() -> None:
    one, X = world(n=60)
    same = replace(one, arm=np.ones_like(one.arm))
    found = agreement.evidence(
        same, panel.trimmed(same, panel.forecasts(same)), X, clustered=False, rng=np.random.default_rng(0)
    )
    assert np.isnan([found.unfiltered, found.balance_distance, found.balance_p, found.certain_share]).all()


def test_a_panel_without_an_effect_agrees() -> None:
    one, X = world(seed=3)
    found = judged(one, X)
    assert [name for name, part in found.items() if part.differs] == []
    assert agreement.estimators_agree({"treatment": list(found.values())}).status == "passed"

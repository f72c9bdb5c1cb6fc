"""Estimators under each design, on markets whose effects were planted: few draws, each figure asked what it can carry.

`pricelab study designs` is the long form.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science import affinity, bootstrap, panel
from pricelab_dagster.studies import cases, figures
from pricelab_dagster.studies import designs as study
from pricelab_dagster.studies.cases import Case, Size
from pricelab_dagster.studies.planted import plant

SIZE = Size(n_products=150, n_history=140, n_trees=10, n_replicates=100)
TINY = Size(n_products=60, n_history=120, n_trees=4, n_replicates=10)
N_DRAWS, N_REFUSED = 40, 8
NOMINAL = 0.95
# one true figure in a thousand is refused; the seeds are fixed
CONFIDENCE = 0.999
MAX_STANDARD_ERRORS = 4.0
# what methods.md asks of mean SE / SD of estimates
SE_OVER_SD = (0.92, 1.15)
# what methods.md allows a relative effect, as a part of it
MAX_BIAS = 0.05
# sums of a few hundred doubles, of the size of one
ROUNDING = 1e-12
# -41 points is what methods.md reads; events here leave .6 of demand: .6 x 1.1 - 1 = -.34
REFUSED_READS_BELOW = -0.25

# fewer days on which a product may start, because each has a forecast of its own
TRIGGERED = replace(study.TRIGGERED, lengths={**study.TRIGGERED.lengths, "horizon": 10})
SHORT = (
    *(study.TIME_BOUND, study.BALANCED, study.COIN_FLIP, study.CROSSOVER, study.FOUR_PHASES),
    *(TRIGGERED, study.STAGGERED),
    *(one for one in study.CASES if "two prices" in one.design or "clusters" in one.design),
    *(replace(one, scenario="clean") for one in (study.TIME_BOUND, study.CROSSOVER)),
)


_drawn: dict[str, pd.DataFrame] = {}


def draws(case: Case) -> pd.DataFrame:
    """Return one row per draw, arm, scale and estimator; `truth` by estimand. Tests share them."""
    if case.name not in _drawn:
        rows = [study.replicate(case, replication, SIZE) for replication in range(1, N_DRAWS + 1)]
        _drawn[case.name] = pd.DataFrame([one for row in rows for one in row["found"]])
    return _drawn[case.name]


def by_estimator(case: Case, estimand: str = "same_day") -> dict[tuple[str, str, str], pd.DataFrame]:
    """Return the draws of each arm, scale and estimator, without the comparison that the product refuses."""
    frame = draws(case).assign(truth=[one[estimand] for one in draws(case)["truth"]])
    frame = frame[frame["estimator"] != study.REFUSED]
    return dict(iter(frame.groupby(["arm", "scale", "estimator"], sort=False)))


def covers(part: pd.DataFrame) -> bool:
    """Return whether the binomial interval of the coverage holds the nominal one."""
    hits = ((part["ci_lower"] <= part["truth"]) & (part["truth"] <= part["ci_upper"])).sum()
    found = figures.proportion(int(hits), len(part), confidence=CONFIDENCE)
    return found.lower <= NOMINAL <= found.upper


def bias(part: pd.DataFrame) -> tuple[float, float]:
    """Return the bias and its Monte Carlo standard error."""
    found = figures.bias(part["effect"] - part["truth"], part["chance"], confidence=CONFIDENCE)
    return found.value, (found.upper - found.value) / stats.t(len(part) - 2).ppf(0.5 + CONFIDENCE / 2)


def unbiased(part: pd.DataFrame) -> bool:
    """Return whether the bias is below four Monte Carlo standard errors."""
    value, standard_error = bias(part)
    return abs(value) < MAX_STANDARD_ERRORS * standard_error


def near(part: pd.DataFrame) -> bool:
    """Return whether the bias may lie where it must, as far as four Monte Carlo standard errors tell."""
    value, standard_error = bias(part)
    return abs(value) - MAX_STANDARD_ERRORS * standard_error < MAX_BIAS * part["truth"].mean()


def lucky(part: pd.DataFrame) -> bool:
    """Return whether the contrast on untreated sales has mean zero, as the design has it."""
    chance = part["chance"]
    return abs(chance.mean()) < MAX_STANDARD_ERRORS * chance.std() / np.sqrt(len(chance))


def honest(part: pd.DataFrame) -> bool:
    """Return whether mean SE over SD may lie where it must; bounds the intervals from above, which `covers` cannot."""
    found = figures.se_over_sd(part["se"], part["effect"] - part["truth"], confidence=CONFIDENCE)
    return found.lower <= SE_OVER_SD[1] and SE_OVER_SD[0] <= found.upper


CHECKS: tuple[Callable[[pd.DataFrame], bool], ...] = (covers, unbiased, honest, near, lucky)


def failures(case: Case) -> list[str]:
    """Return what does not hold, by estimator.

    The level effect, which the filter holds back, and group-time averages before division have tests of their own. The
    latter are compared with themselves on untreated sales, so that even what division adds to them shows: of order one
    over the number of products, 4 % here.
    """
    found = []
    for (arm, scale, estimator), part in by_estimator(case).items():
        key, asked = (arm, scale, estimator), [covers, honest, lucky]
        if scale == "relative":
            asked.append(near if estimator.startswith("group_time") else unbiased)
        found += [f"{' '.join(key)}: {check.__name__}" for check in asked if not check(part)]
        found += [f"{' '.join(key)}: undefined"] if part[["effect", "se"]].isna().any(axis=None) else []
    return found


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_estimators_are_unbiased_and_their_intervals_cover(case: Case) -> None:
    assert len(by_estimator(case)) >= 5
    assert failures(case) == []


def widened(part: pd.DataFrame, factor: float) -> pd.DataFrame:
    half = factor * (part["ci_upper"] - part["ci_lower"]) / 2
    centre = (part["ci_upper"] + part["ci_lower"]) / 2
    return part.assign(se=factor * part["se"], ci_lower=centre - half, ci_upper=centre + half)


def test_wrong_estimators_fail_the_checks() -> None:
    part = by_estimator(study.CROSSOVER)["-5 %", "relative", "hpte"]
    assert all(check(part) for check in CHECKS)
    shifted = part.assign(truth=part["truth"] + 4 * part["se"].mean())
    assert not covers(shifted)
    assert not unbiased(shifted)
    halved, doubled = widened(part, 0.5), widened(part, 2.0)
    assert not covers(halved)
    assert not honest(halved)
    assert not honest(doubled)
    # a fifth of the effect, which no interval of one experiment would show
    assert not unbiased(part.assign(effect=0.8 * part["effect"]))
    assert not lucky(part.assign(chance=part["chance"] + part["chance"].std()))
    assert not near(part.assign(effect=0.8 * part["effect"]))


def test_carryover_is_in_a_crossover_after_its_blackout_and_not_in_random_days() -> None:
    crossover, days = (replace(one, scenario="carryover") for one in (study.CROSSOVER, study.BALANCED))
    key = ("-5 %", "relative", "hpte")
    assert unbiased(by_estimator(crossover, "long_run")[key])
    assert not unbiased(by_estimator(crossover, "same_day")[key])
    assert unbiased(by_estimator(days, "same_day")[key])
    assert not unbiased(by_estimator(days, "long_run")[key])
    assert covers(by_estimator(days, "same_day")[key])


def level_errors(trim: str) -> np.ndarray:
    """Return level effects less truth, each less what the same arms and filter read on the untreated sales."""
    errors = []
    for replication in range(1, N_DRAWS + 1):
        planted = plant(study.BALANCED, replication, SIZE)
        weights = np.ones((SIZE.n_products, 2), dtype=np.float32)
        observed, untreated = (
            level_effect(one, "hajek", weights, np.random.default_rng(0), trim=trim).effect
            for one in (planted.panel, replace(planted.panel, observed={cases.UNITS: planted.untreated}))
        )
        truth = planted.truth[0]["level"]["same_day"]
        errors.append((observed - untreated - truth) / truth)
    return np.array(errors)


def test_the_level_effect_is_short_by_what_the_filter_holds_back() -> None:
    free, held = level_errors("none"), level_errors("winsorize")
    standard_error = [one.std(ddof=1) / np.sqrt(N_DRAWS) for one in (free, held)]
    assert abs(free.mean()) < MAX_STANDARD_ERRORS * standard_error[0]
    # ten of 150 products are held at a bound, among them the largest; of 1,000 they cost 6 %
    assert held.mean() < -MAX_STANDARD_ERRORS * standard_error[1]


@pytest.mark.parametrize("control", ["never", "not_yet"])
def test_group_time_averages_find_the_gain_of_the_treated_cells(control: str) -> None:
    planted = plant(study.STAGGERED, 1, SIZE)
    one, gained = planted.panel, planted.panel.observed[cases.UNITS] - planted.untreated
    found = []
    for sold in (one.observed[cases.UNITS], planted.untreated):
        told = replace(one, observed={cases.UNITS: sold})
        level = panel.trimmed(told, panel.forecasts(told), method=study.PLACEBO)[1]
        options: dict[str, Any] = {"estimators": (), "n_replicates": 2, "rng": np.random.default_rng(1)}
        rows = panel.estimates(told, [level], affinity.Leaves.single(SIZE.n_products), **options)
        found.append({name: effect.effect for _, _, name, effect in rows})
    name = f"group_time_simple_{control}"
    # beside what luck the starts had on untreated sales, whose mean is zero
    assert found[0][name] - found[1][name] == pytest.approx(gained[one.arm > 0].mean(), rel=1e-9)
    assert abs(found[1][name]) > 0.01


def test_triggered_against_untriggered_reads_the_event() -> None:
    rows = [one for k in range(1, N_REFUSED + 1) for one in study.replicate(TRIGGERED, k, SIZE)["found"]]
    refused = [one for one in rows if one["estimator"] == study.REFUSED]
    assert len(refused) == N_REFUSED
    assert np.mean([one["effect"] for one in refused]) < REFUSED_READS_BELOW
    assert all(one["ci_upper"] < one["truth"]["same_day"] for one in refused)


def treated_weekdays(case: Case) -> np.ndarray:
    """Return how often each product is treated on each weekday, (N, 7)."""
    one = plant(case, 1, TINY).panel
    weekday = one.date.astype("datetime64[D]").astype(int) % 7
    return np.stack([(one.arm[:, weekday == day]).sum(axis=1) for day in range(7)], axis=1)


def test_balanced_days_have_every_weekday_as_often_in_each_arm() -> None:
    half = study.BALANCED.n_days / 14
    assert (treated_weekdays(study.BALANCED) == half).all()
    assert not (treated_weekdays(study.COIN_FLIP) == half).all()


def level_effect(
    one: panel.Panel, estimator: str, weights: np.ndarray, rng: np.random.Generator, *, trim: str = "none"
) -> Any:
    """Return the effect in units without attributes."""
    level = panel.trimmed(one, panel.forecasts(one), trim=trim, method=study.PLACEBO)[1]
    leaves = affinity.Leaves.single(len(one.product_id))
    options: dict[str, Any] = {"trim": trim, "estimators": (estimator,), "weights": weights, "rng": rng}
    return next(panel.estimates(one, [level], leaves, **options))[3]


def before_and_after(one: panel.Panel, days: np.ndarray, before: np.ndarray) -> panel.Panel:
    """Return the same draw and sales, the first arm taken as a treatment from the days on."""
    sold = one.observed[cases.UNITS]
    return replace(
        one,
        date=one.date[days],
        arm=np.repeat(one.sequence[:, None], days.sum(), axis=1),
        in_analysis=one.in_analysis[:, days],
        probability=one.probability[:, days],
        phase=np.ones(days.sum(), dtype=int),
        history={cases.UNITS: sold[:, before]},
        observed={cases.UNITS: sold[:, days]},
        kind="time_bound",
    )


@pytest.mark.parametrize("estimator", ["hpte", "hajek", "difference_in_differences"])
def test_a_crossover_on_untreated_sales_is_minus_half_the_difference_in_differences(estimator: str) -> None:
    planted = plant(study.CROSSOVER, 1, TINY)
    one = replace(planted.panel, observed={cases.UNITS: planted.untreated})
    rng = np.random.default_rng(1)
    weights = bootstrap.poisson_weights(one.unit_id, n_replicates=50, rng=rng)
    counted = one.in_analysis[0]
    plain = before_and_after(one, counted & (one.phase == 2), counted & (one.phase == 1))
    crossed = level_effect(one, estimator, weights, rng)
    difference = level_effect(plain, "difference_in_differences", weights, rng)
    size = planted.untreated.mean()
    assert abs(difference.effect) > ROUNDING * size
    np.testing.assert_allclose(crossed.effect, -difference.effect / 2, rtol=0, atol=ROUNDING * size)
    np.testing.assert_allclose(crossed.draws, -difference.draws / 2, rtol=0, atol=ROUNDING * size)
    other = before_and_after(one, one.phase == 2, one.phase == 1)
    elsewhere = level_effect(
        replace(other, in_analysis=np.ones_like(other.in_analysis)), "difference_in_differences", weights, rng
    )
    assert abs(crossed.effect + elsewhere.effect / 2) > ROUNDING * size

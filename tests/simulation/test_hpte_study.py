"""The short form of `pricelab study hpte`: few draws of small markets, each figure asked what it can carry."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science import bootstrap
from pricelab_dagster.studies import figures, hpte, invariances, job_training, placebo_designs
from pricelab_dagster.studies.bars import Bar, at_least, at_most, verdict
from pricelab_dagster.studies.cases import Size
from pricelab_dagster.studies.figures import Bounded

SMALL = Size(n_products=200, n_history=180, n_trees=20, n_replicates=100)
TINY = Size(n_products=60, n_history=120, n_trees=4, n_replicates=10)
N_DRAWS = 40
NOMINAL = 0.95
# one true figure in a thousand is refused; the seeds are fixed
CONFIDENCE = 0.999


def setting(scenario: str, kind: str, size: Size) -> hpte.Setting:
    (found,) = {
        one.case.name: replace(one, size=size)
        for one in hpte.SETTINGS
        if one.case.scenario == scenario and one.case.kind == kind
    }.values()
    return found


def draws(one: hpte.Setting, n: int) -> hpte.Draws:
    rows = [hpte.replicate(one, replication) for replication in range(1, n + 1)]
    return hpte.Draws(pd.DataFrame([{"replication": row["replication"], **f} for row in rows for f in row["found"]]))


@pytest.mark.parametrize(("scenario", "kind"), [("base", "time_bound"), ("base", "crossover"), ("clean", "time_bound")])
def test_intervals_hold_the_truth_as_often_as_they_say(scenario: str, kind: str) -> None:
    part = draws(setting(scenario, kind, SMALL), N_DRAWS).of("hpte")
    assert len(part) == N_DRAWS
    hits = int(((part["ci_lower"] <= part["truth"]) & (part["truth"] <= part["ci_upper"])).sum())
    found = stats.binomtest(hits, N_DRAWS).proportion_ci(CONFIDENCE)
    assert found.low <= NOMINAL <= found.high


@pytest.mark.parametrize("scenario", ["confounded", "confounded_nonlinear"])
def test_the_headline_of_an_imported_assignment_takes_confounding_off_the_raw_difference(scenario: str) -> None:
    size = replace(SMALL, n_products=600)
    ours, raw = draws(setting(scenario, "observational", size), 20).errors("hpte_doubly_robust", hpte.DIFFERENCE)
    assert stats.ttest_1samp(raw, 0.0, alternative="greater").pvalue < 1 - CONFIDENCE, "the market confounds"
    # 80 % is asked of the study; half of it is what 20 draws of 600 products can tell from nothing
    assert stats.ttest_1samp(0.5 * raw - ours, 0.0, alternative="greater").pvalue < 1 - CONFIDENCE


def test_figures_go_on_from_what_is_there(tmp_path: Path) -> None:
    settings = (replace(setting("confounded", "observational", TINY), peers=True),)
    out, said = tmp_path / "study.jsonl", []
    first = hpte.run(2, workers=1, out=out, report=said.append, settings=settings, real=False)
    written = out.read_bytes()
    again = hpte.run(2, workers=1, out=out, report=said.append, settings=settings, real=False)
    pd.testing.assert_frame_equal(again.to_pandas(), first.to_pandas(), check_exact=True)
    assert out.read_bytes() == written
    assert said[-1] == "2 of 2 replications are there already"
    rows = first.to_pandas()
    assert set(rows["reference"]) >= {*hpte.RAW, *hpte.FILTERED}
    assert set(rows.loc[rows["bar"] != "", "reached"]) <= {"yes", "no", "yes, unsure", "no, unsure"}
    assert (rows.loc[rows["bar"] == "", "reached"] == "").all()
    # the linear confounder is ANCOVA's home ground, which methods grant
    assert (rows.loc[rows["reference"].str.startswith("ancova"), "bar"] == "").all()


def test_only_the_first_draws_have_intervals_of_the_other_forms() -> None:
    one = setting("confounded", "observational", TINY)
    found = {
        replication: {
            row["estimator"]: row for row in hpte.replicate(one, replication)["found"] if row["scale"] == "relative"
        }
        for replication in (hpte.PEER_DRAWS, hpte.PEER_DRAWS + 1)
    }
    assert [len(rows) for rows in found.values()] == [6, 6]
    without = {name for name, row in found[hpte.PEER_DRAWS + 1].items() if row["se"] is None}
    assert without == {"hpte_leaf", "hajek", hpte.DIFFERENCE, "hpte_doubly_robust" + hpte.NO_FILTER}
    assert {name for name, row in found[hpte.PEER_DRAWS].items() if row["se"] is None} == {
        "hpte_doubly_robust" + hpte.NO_FILTER
    }


@pytest.mark.parametrize(
    ("found", "bar", "expected"),
    [
        (Bounded(0.95, 0.94, 0.96), Bar(0.925, 0.97), "yes"),
        (Bounded(0.95, 0.90, 0.96), Bar(0.925, 0.97), "yes, unsure"),
        (Bounded(0.90, 0.88, 0.92), Bar(0.925, 0.97), "no"),
        (Bounded(0.90, 0.88, 0.93), Bar(0.925, 0.97), "no, unsure"),
        (Bounded(0.90, 0.80, 0.99), Bar(0.925, 0.97), "no, unsure"),
        (Bounded(14.0, 12.0, 16.0), at_least(15.0), "no, unsure"),
        (Bounded(1.0, 0.9, 1.05), at_most(1.08), "yes"),
        (Bounded(1.0, np.nan, np.nan), at_most(1.08), "yes, unsure"),
        (Bounded(np.nan, np.nan, np.nan), at_most(1.08), "no, unsure"),
    ],
)
def test_verdicts(found: Bounded, bar: Bar, expected: str) -> None:
    assert verdict(found, bar) == expected


def test_bars_in_words() -> None:
    assert [str(bar) for bar in (at_least(15.0), at_most(1.08), Bar(0.92, 1.15))] == [
        ">= 15",
        "<= 1.08",
        "0.92 to 1.15",
    ]


def test_ratios_of_the_same_draws_share_their_noise() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.normal(size=200)
    same = figures.compare(hpte._ratio, theirs, theirs)
    assert same == Bounded(1.0, 1.0, 1.0)
    half = figures.compare(hpte._ratio, 0.5 * theirs + rng.normal(0.0, 0.01, 200), theirs)
    assert half.lower < 0.5 + 0.01 < half.upper + 0.02
    assert half.upper - half.lower < 0.01, "paired: unpaired draws would leave .1"
    alone = figures.compare(hpte._ratio, theirs[:19], theirs[:19])
    assert np.isnan([alone.lower, alone.upper]).all()


def test_the_mean_has_students_interval() -> None:
    values = [1.0, 2.0, 4.0]
    found = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert figures.mean(values) == pytest.approx((7 / 3, found.low, found.high))


def test_job_training_is_read_as_the_experiment_says_where_splits_and_estimand_are_right() -> None:
    rows = {row["estimator"]: row for row in job_training.rows(n_replicates=20)}
    # LaLonde 1986, with the sample of Dehejia and Wahba
    assert rows["experiment"]["value"] == pytest.approx(1794.34, abs=0.01)
    assert rows["difference_in_differences"]["value"] == pytest.approx(3621.23, abs=0.01)
    assert rows["difference_in_differences"]["lower"] > rows["experiment"]["value"]
    miss = {name: abs(row["value"] - 1794.34) for name, row in rows.items()}
    right = miss.pop(job_training.HEADLINE)
    assert rows[job_training.HEADLINE]["reached"] == "yes"
    assert right < 0.5 * miss["difference_in_differences"]
    # the surveyed men would have gained otherwise: means over them, or over the overlap, are other effects
    assert all(right < other for name, other in miss.items() if name != "experiment")


def test_rules_of_invariance_hold_and_tell_an_estimator_that_breaks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {row["reached"] for row in invariances.rows()} == {"yes"}
    estimate = invariances.hpte.estimate

    def blind_to_units(D: np.ndarray, W: np.ndarray, **options: Any) -> Any:
        weights = bootstrap.poisson_weights(np.arange(len(D)), n_replicates=20, rng=np.random.default_rng(0))
        return estimate(D, W + 0.0, **options | {"units": None, "weights": weights})

    monkeypatch.setattr(invariances.hpte, "estimate", blind_to_units)
    broken = {row["reference"] for row in invariances.rows() if row["reached"] == "no"}
    assert any(rule.startswith("rows 10 times") for rule in broken)
    assert any(rule.startswith("rows shuffled") for rule in broken)


def test_a_cut_by_hand() -> None:
    # ratios 1/2 and 1/8: mean log is log(1/4); Student's half width with one degree of freedom is 12.7 x log(2)
    found = placebo_designs._cut(np.array([1.0, 1.0]), np.array([2.0, 8.0]))
    assert found.value == pytest.approx(75.0)
    half = stats.t(1).ppf(0.975) * np.log(2.0)
    assert (found.lower, found.upper) == pytest.approx(
        (100 * (1 - 0.25 * np.exp(half)), 100 * (1 - 0.25 * np.exp(-half)))
    )


def test_experiments_without_treatment_on_real_sales() -> None:
    n_draws = 12
    rows = {(row["design"], row["figure"], row["reference"]): row for row in placebo_designs.rows(n_draws)}
    windows = placebo_designs.WINDOWS
    for kind in placebo_designs.LENGTHS:
        share = rows[(f"{kind}, {windows} windows", "rejected at 5 %", "")]
        # at most as often as 5 % allow; stratified draws reject less
        hits = round(share["value"] * n_draws * windows)
        assert stats.binomtest(hits, n_draws * windows, 0.05, alternative="greater").pvalue > 1 - CONFIDENCE
        assert share["products"] > 400
    cut = rows[(f"random_days, {windows} windows", "se_cut_percent", placebo_designs.RAW)]
    assert cut["value"] > 30.0
    assert cut["bar"] == ">= 55"

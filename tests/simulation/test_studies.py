"""What the studies are made of: planted sales, the figures that are printed, and going on after an interruption."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pricelab_dagster.science import designs, market
from pricelab_dagster.studies import cases, figures, resume
from pricelab_dagster.studies import designs as study
from pricelab_dagster.studies.cases import Size
from pricelab_dagster.studies.planted import draw, plant
from pricelab_dagster.workbench import stage_rng

SIZE = Size(n_products=150, n_history=140, n_trees=10, n_replicates=100)
TINY = Size(n_products=60, n_history=120, n_trees=4, n_replicates=10)
# sums of a few hundred doubles, of the size of one
ROUNDING = 1e-12


def test_untreated_cells_keep_their_sales_and_treated_ones_gain() -> None:
    for case in study.CASES:
        planted = plant(case, 1, TINY)
        sold, arm = planted.panel.observed[cases.UNITS], planted.panel.arm
        if case.scenario != "carryover":
            np.testing.assert_array_equal(sold[arm == 0], planted.untreated[arm == 0])
        assert (sold >= planted.untreated).all()
        assert (sold > planted.untreated).any()
        assert set(np.unique(arm)) == set(range(len(case.multipliers) + 1))


def test_a_deeper_cut_gains_more() -> None:
    planted = plant(next(one for one in study.CASES if len(one.multipliers) == 2), 1, SIZE)
    gained = planted.panel.observed[cases.UNITS] - planted.untreated
    lift = [gained[planted.panel.arm == k].sum() / planted.untreated[planted.panel.arm == k].sum() for k in (1, 2)]
    truth = [one["relative"]["same_day"] for one in planted.truth]
    # gains are Poisson: about 5 % of the lift here
    np.testing.assert_allclose(lift, truth, rtol=0.2)
    assert truth[1] > 2 * truth[0]


def test_windows_after_events_are_those_of_the_design() -> None:
    case = study.TRIGGERED
    world = market.simulate(
        scenario=case.scenario,
        n_products=SIZE.n_products,
        n_history=SIZE.n_history,
        n_window=case.n_days,
        rng=stage_rng(1, case.name, "market"),
    )
    one = plant(case, 1, SIZE).panel
    row = np.searchsorted(world.product_id, one.product_id)
    event = np.full(SIZE.n_products, np.datetime64("NaT", "D"))
    event[row] = one.date[:, 0] - 1
    order = np.lexsort((world.product_id, cases.history(world).mean(axis=1), world.category))
    told = replace(case, lengths={**case.lengths, "triggered_on": event[order]})
    drawn = draw(told, world, rng=stage_rng(1, case.name, "assignment"))
    assert drawn.in_force.sum() == one.arm.size
    cell = (row[:, None], np.searchsorted(drawn.date, one.date))
    np.testing.assert_array_equal(drawn.arm[cell], one.arm)
    np.testing.assert_array_equal(drawn.in_analysis[cell], one.in_analysis)
    eve = np.isfinite(one.history[cases.UNITS]).sum(axis=1)
    np.testing.assert_array_equal(world.date[eve], one.date[:, 0])


def test_the_dose_line_is_the_least_squares_line_by_hand() -> None:
    case = replace(study.TIME_BOUND, multipliers=(0.95, 0.90))
    planted = plant(case, 1, TINY)
    truth = tuple({"relative": {"same_day": value}} for value in (0.1, 0.3))
    # doses 0, -5, -10 with weights 1/2, 1/4, 1/4: mean -3.75, variance 17.1875; mean effect .1, covariance -.5
    slope = -0.5 / 17.1875
    by_hand = slope / (1 + 0.1 - slope * -3.75)
    assert study.dose_truth(case, replace(planted, truth=truth))["same_day"] == pytest.approx(by_hand, rel=ROUNDING)


def test_bias_is_freed_from_luck() -> None:
    rng = np.random.default_rng(1)
    chance = rng.normal(size=200)
    error = 0.5 + 2 * chance + 0.01 * rng.normal(size=200)
    found = figures.bias(error, chance)
    assert found.lower < 0.5 < found.upper < 0.51
    assert abs(error.mean() - 0.5) > 0.01
    constant = figures.bias([1.0, 2.0, 3.0, 4.0], [0.0] * 4)
    assert constant.value == 2.5


def test_bias_without_chance_has_the_interval_of_a_mean() -> None:
    error = np.random.default_rng(2).normal(size=400)
    found = figures.bias(error, np.random.default_rng(3).normal(size=400))
    half = stats.t(398).ppf(0.975) * error.std(ddof=1) / 20
    # the unrelated control moves the standard deviation by about 1 / 800
    assert (found.upper - found.lower) / 2 == pytest.approx(half, rel=0.02)


def test_a_proportion_has_the_interval_of_clopper_and_pearson() -> None:
    none = figures.proportion(0, 10)
    assert none == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 10)))


def test_standard_errors_are_held_against_the_spread_of_the_errors() -> None:
    found = figures.se_over_sd([2.0, 4.0, 3.0], [-1.0, 0.0, 1.0])
    assert found.value == pytest.approx(3.0)
    assert found.lower == pytest.approx(3 * np.sqrt(stats.chi2(2).ppf(0.025) / 2))


def test_a_study_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    out, steps = tmp_path / "deep" / "designs.jsonl", []
    options: dict[str, Any] = {"workers": 1, "out": out, "report": steps.append, "size": TINY}
    options["cases"] = (study.TIME_BOUND, study.CROSSOVER)
    whole = study.run(2, **options)
    assert set(whole["draws"].to_pylist()) == {2}
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    out.write_text("".join(lines[:3]) + lines[3][:50])
    pd.testing.assert_frame_equal(study.run(2, **options).to_pandas(), whole.to_pandas())
    assert out.read_text().splitlines()[-1] == lines[3].rstrip("\n")
    assert steps == [
        "0 of 2 replications are there already",
        "replication 1",
        "replication 2",
        "1 of 2 replications are there already",
        "replication 2",
    ]


def test_a_line_that_was_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    out = tmp_path / "study.jsonl"
    out.write_text('{"a": 1}\n{"a": ')
    resume.append([], lambda job: [], out=out, workers=1, report=print, title=str)
    with out.open("a") as handle:
        handle.write(json.dumps({"a": 3}) + "\n")
    assert resume.read(out) == [{"a": 1}, {"a": 3}]


def test_a_draw_is_repeatable_and_differs_between_replications() -> None:
    first, again, other = (study.replicate(study.COIN_FLIP, replication, TINY) for replication in (1, 1, 2))
    assert first == again
    assert first["found"][0]["effect"] != other["found"][0]["effect"]


def test_every_case_has_its_own_name_and_a_market() -> None:
    names = [case.name for case in study.CASES]
    assert len(set(names)) == len(names)
    assert {case.kind for case in study.CASES} >= {"time_bound", "random_days", "crossover", "triggered", "staggered"}
    assert all(hasattr(designs, case.kind) for case in study.CASES if case.kind != "staggered")

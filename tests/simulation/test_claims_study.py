"""The claims study: figures by hand, registries, pictures, and what few draws of small markets can carry."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from pricelab_dagster.science import panel
from pricelab_dagster.studies import claim_draws, claim_plots, claims, designs, figures
from pricelab_dagster.studies.cases import Case, Size
from pricelab_dagster.studies.claim_rows import BIAS, MIDDLE_CUT, RMSE_CUT, SD_CUT, Draws, bias, cut, side_by_side, text

SMALL = Size(n_products=200, n_history=140, n_trees=10, n_replicates=2)
TINY = Size(n_products=60, n_history=120, n_trees=4, n_replicates=2)
N_DRAWS = 20
# one true figure in a thousand is refused; the seeds are fixed
SIGNIFICANCE = 0.001
# sums of a few doubles, of the size of a hundred
ROUNDING = 1e-9
TIME_BOUND, BALANCED = ("base", designs.TIME_BOUND.design), ("base", designs.BALANCED.design)


def draw(case: tuple[str, str], number: int, luck: float = 0.0, **found: float) -> dict[str, Any]:
    """Return a stored draw whose truth is .1 in the same day and .2 in the long run."""
    about = {"part": "replication", "name": ": ".join(case), "number": number, "scenario": case[0], "design": case[1]}
    return about | {"truth": {"same_day": 0.1, "long_run": 0.2}, "luck": luck, "found": found}


def stored(n: int = 4) -> list[dict[str, Any]]:
    """Return draws of every case, of markets with substitutes, and of real sales; HPTE has half the raw error."""
    rows = []
    for one in claim_draws.cases():
        for k in range(n):
            error = 0.02 * (-1) ** k
            names = {claim_draws.RAW: 2 * error, claim_draws.FILTERED: error, claim_draws.NO_FILTER: 1.5 * error}
            names[claim_draws.RAW_FILTERED] = 1.25 * error
            names[claim_draws.RAW_FILTERED] = 1.25 * error
            values = {claim_draws.HPTE: error, **names}
            found = {name: 0.1 + value for name, value in values.items()}
            rows.append(draw((one.scenario, one.design), k, luck=error * (k % 3), **found))
    world = {"bias product": 0.05, "bias leiden": 0.025, "bias oracle": 0.005}
    world |= {"se product": 0.02, "se leiden": 0.025, "se oracle": 0.03}
    rows += [{"part": "world", "name": claims.SUBSTITUTES, "number": k, "found": world} for k in (1, 2)]
    journey = {"scenario": "Complete Journey, nothing done", "estimator": "hpte", "lower": 50.0, "upper": 70.0}
    journey |= {"bar": ">= 55", "reached": "yes", "draws": 10}
    share = journey | {"design": "time_bound, 6 windows", "figure": "rejected at 5 %", "reference": "", "value": 0.05}
    less = journey | {"design": "random_days, 6 windows", "figure": "se_cut_percent", "value": 60.0}
    references = ({"reference": claim_draws.RAW}, {"reference": "time_bound"})
    return [*rows, {"part": "journey", "name": "", "number": 5, "found": [share, *(less | one for one in references)]}]


def summary(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(claims.summary(rows)))


def test_cuts_by_hand() -> None:
    errors = {1: (0.01, 0.04), 2: (-0.01, 0.0), 3: (0.0, -0.02)}
    rows = [draw(TIME_BOUND, k, theirs=0.1 + theirs) for k, (_, theirs) in errors.items()]
    rows += [draw(BALANCED, k, ours=0.1 + ours) for k, (ours, _) in errors.items()]
    # a draw without an estimate counts on neither side
    draws = Draws([*rows, draw(TIME_BOUND, 4, theirs=9.0), draw(BALANCED, 4, ours=float("nan"))])
    sides = ((BALANCED, "ours"), (TIME_BOUND, "theirs"))
    # ours have mean 0 and variance .0001; theirs mean .00667 and squares .002, so variance (.002 - .00013) / 2
    by_hand = {SD_CUT: np.sqrt(0.0001 / ((0.002 - 0.02**2 / 3) / 2)), RMSE_CUT: np.sqrt(0.0002 / 0.002)}
    # quartiles are half-way to the median: ours -.005 and .005, theirs -.01 and .02
    by_hand[MIDDLE_CUT] = 0.01 / 0.03
    for figure, ratio in by_hand.items():
        found, n = cut(draws, figure, *sides)
        assert found.value == pytest.approx(100 * (1 - ratio), rel=ROUNDING)
        assert n == 3


def test_biases_are_parts_of_their_truth_without_luck() -> None:
    luck = [0.03, -0.01, 0.02, 0.0, 0.01]
    draws = Draws([draw(TIME_BOUND, k, luck=one, hpte=0.105 + 2 * one) for k, one in enumerate(luck)])
    assert bias(draws, TIME_BOUND, "hpte")[0] == pytest.approx((5.0, 5.0, 5.0), abs=1e-6)
    assert bias(draws, TIME_BOUND, "hpte", "long_run")[0].value == pytest.approx(-47.5)


def test_every_claim_has_its_figures_by_hand() -> None:
    rows = summary(stored()).to_pylist()
    keys = ("claim", "scenario", "design", "figure", "reference", "estimator")
    found = {tuple(row[key] for key in keys): row for row in rows}
    raw = f"time_bound {claim_draws.RAW}"
    # HPTE has half the error of the raw difference, and as much as the filtered one
    of = ("random days", "base", designs.BALANCED.design, SD_CUT)
    assert found[(*of, f"time_bound {claim_draws.FILTERED}", claim_draws.HPTE)]["value"] == pytest.approx(
        0.0, abs=ROUNDING
    )
    crossed = found["crossover", "break_at_start", designs.CROSSOVER.design, SD_CUT, raw, claim_draws.HPTE]
    assert (crossed["article"], crossed["bar"]) == ("40 to 50", ">= 40")
    of = ("outlier rule", "base", designs.TIME_BOUND.design, RMSE_CUT)
    outliers = found[(*of, f"time_bound {claim_draws.NO_FILTER}", claim_draws.HPTE)]
    assert outliers["value"] == pytest.approx(100 / 3)
    clustered = {row["design"]: row for row in rows if row["figure"] == "bias_cut_percent"}
    assert clustered["time_bound, clusters of the learned graph"]["value"] == pytest.approx(50.0)
    assert clustered["time_bound, clusters of the learned graph"]["reached"] == "yes, unsure"
    assert clustered["time_bound, clusters of the planted graph"]["value"] == pytest.approx(90.0)
    carried = [row for row in rows if row["claim"] == "carryover"]
    assert [row["design"] for row in carried] == [one.design for one in claim_draws.AFTER_EFFECTS]
    # the estimates are of the same day, half of the long run
    assert all(row["value"] == pytest.approx(-50.0, abs=5.0) for row in carried)
    assert [row["reached"] for row in carried if row["bar"]] == ["no"]
    real = [row for row in rows if row["claim"] == claims.REAL]
    assert [(row["figure"], row["reference"], row["article"]) for row in real] == [
        ("rejected at 5 %", "", ""),
        (SD_CUT, raw, "60"),
        (SD_CUT, f"time_bound {claim_draws.HPTE}", ""),
    ]


def test_cuts_that_fall_short_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESAMPLES", 50)
    rows = [
        draw(case, k, **dict.fromkeys((claim_draws.HPTE, claim_draws.RAW, claim_draws.FILTERED), 0.1 + 0.01 * (k % 5)))
        for case in (TIME_BOUND, BALANCED)
        for k in range(40)
    ]
    for row in rows:
        row["found"] |= dict.fromkeys((claim_draws.NO_FILTER, claim_draws.RAW_FILTERED), row["found"][claim_draws.HPTE])
    held = [row for row in claims.summary(rows) if row["claim"] == "random days" and row["bar"]]
    assert [(row["value"], row["reached"]) for row in held] == [(0.0, "no"), (0.0, "no")]


def test_markets_stand_side_by_side() -> None:
    rows = claims.headline(summary(stored()))
    beside, alone, real = claims.tables(rows)
    assert beside.schema.names[-4:] == [*claim_draws.SCENARIOS, "asked"]
    lines = [row for row in beside.to_pylist() if row["design"] == designs.BALANCED.design]
    shown = [(row["figure"], row["estimator"], row["reference"].removeprefix("time_bound ")) for row in lines]
    assert shown == [
        (SD_CUT, claim_draws.HPTE, claim_draws.RAW),
        (MIDDLE_CUT, claim_draws.HPTE, claim_draws.RAW),
        *((SD_CUT, claim_draws.HPTE, getattr(claim_draws, name)) for name in ("RAW_FILTERED", "FILTERED", "HPTE")),
        *((SD_CUT, name, name) for name in (claim_draws.RAW, claim_draws.RAW_FILTERED)),
    ]
    assert lines[0]["asked"] == "base >= 55: no, unsure; break_at_start >= 64: no, unsure"
    assert lines[0]["base"] == lines[0]["clean"] == "50.0"
    assert set(alone["claim"].to_pylist()) == {"carryover", "clustering"}
    assert set(real["claim"].to_pylist()) == {claims.REAL}
    everything = side_by_side(summary(stored()), claim_draws.SCENARIOS)
    assert set(beside["claim"].to_pylist()) < set(everything["claim"].to_pylist())
    assert text({"value": 1.04, "lower": -2.0, "upper": 3.06}) == "1.0 (-2.0 to 3.1)"


def test_what_is_added_to_a_registry_shows_up(monkeypatch: pytest.MonkeyPatch) -> None:
    weeks = Case(
        "base", "random_days, blocks of 7, 28 days", "random_days", {"duration": 28, "block": 7, "balance": "none"}
    )

    def half(drawn: claim_draws.Drawn) -> float:
        return 0.5 * drawn.effect("hajek")

    monkeypatch.setattr(claim_draws, "SCENARIOS", (*claim_draws.SCENARIOS, "sparse"))
    monkeypatch.setattr(claim_draws, "DESIGNS", (*claim_draws.DESIGNS, weeks))
    monkeypatch.setattr(claim_draws, "ESTIMATORS", (*claim_draws.ESTIMATORS, half))
    wanted = [one for one in claim_draws.cases() if one.scenario in ("sparse", "base")]
    rows = [claim_draws.replicate(one, k, TINY) for one in wanted for k in (1, 2)]
    table = summary(rows)
    shown = {(row["scenario"], row["design"], row["estimator"]) for row in table.to_pylist()}
    assert ("sparse", weeks.design, "half") in shown
    assert ("sparse", designs.CROSSOVER.design, claim_draws.HPTE) in shown
    first = rows[0]["found"]
    assert first["half"] == pytest.approx(0.5 * first[claim_draws.FILTERED], rel=ROUNDING)
    assert len(set(first.values())) == len(first), "no two estimators are the same"
    beside = claims.tables(claims.headline(table))[0]
    assert "sparse" in beside.schema.names
    assert weeks.design in beside["design"].to_pylist()
    assert any(name == "random-days-blocks-of-7-28-days" for name, _ in claim_plots.pictures(table))


def test_few_draws_of_random_days_spread_less_than_raw_ones() -> None:
    cases = {one.design: one for one in claim_draws.DESIGNS}
    wanted = (cases[designs.TIME_BOUND.design], cases[designs.BALANCED.design])
    draws = Draws([claim_draws.replicate(one, k, SMALL) for one in wanted for k in range(1, N_DRAWS + 1)])
    raw, ours = (
        draws.errors(which, name)["error"]
        for which, name in ((TIME_BOUND, claim_draws.RAW), (BALANCED, claim_draws.HPTE))
    )

    def p_value(ratio: float) -> float:
        return float(stats.f(N_DRAWS - 1, N_DRAWS - 1).sf(ratio))

    assert p_value(float(raw.var() / ours.var())) < SIGNIFICANCE
    assert p_value(float(ours.var() / raw.var())) > 1 - SIGNIFICANCE
    # arms and luck: what they read on untreated sales has mean zero, and is most of the error
    for which, name in ((TIME_BOUND, claim_draws.FILTERED), (BALANCED, claim_draws.HPTE)):
        found = draws.errors(which, name)
        assert stats.ttest_1samp(found["luck"], 0.0).pvalue > SIGNIFICANCE
        assert stats.pearsonr(found["luck"], found["error"]).statistic > 0.9


def test_a_draw_is_repeatable() -> None:
    one = replace(designs.CROSSOVER, scenario="carryover")
    first, again, other = (claim_draws.replicate(one, k, TINY) for k in (1, 1, 2))
    assert first == again == json.loads(json.dumps(first))
    assert first["found"] != other["found"]
    assert first["truth"]["long_run"] > first["truth"]["same_day"]


def test_the_study_goes_on_from_what_is_there(tmp_path: Path) -> None:
    out, said = tmp_path / "claims.jsonl", []
    options: dict[str, Any] = {"workers": 1, "out": out, "report": said.append, "size": TINY, "worlds": False}
    whole = claims.run(1, real=False, **options).to_pandas()
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == len(claim_draws.cases())
    # an interruption: the last draw half written, the others in another order
    out.write_text("".join([lines[1], lines[0], *lines[2:-1]]) + lines[-1][:40])
    for missing in (1, 0):
        again = claims.run(1, real=False, **options).to_pandas()
        pd.testing.assert_frame_equal(again, whole, check_exact=True)
        assert f"{len(lines) - missing} of {len(lines)} draws are there already" in said
    assert said.count("replication 1") == 2
    assert set(whole["draws"]) == {1}


def test_pictures_are_svg_and_the_same_each_time(tmp_path: Path) -> None:
    rows = summary(stored())
    paths = claim_plots.write(rows, tmp_path / "plots")
    assert {path.name for path in paths} == {
        "random-days-balanced-28-days.svg",
        "random-days-coin-flip-28-days.svg",
        "crossover-2-x-14-days-blackout-7.svg",
        *("outlier-rule.svg", "carryover.svg", "clustering.svg", "complete-journey.svg"),
    }
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in claim_plots.write(rows, tmp_path / "plots")] == before
    words = {path.stem: [one.text for one in ElementTree.parse(path).iter() if one.text] for path in paths}
    assert "the article" in words["random-days-balanced-28-days"]
    assert "-60.0%" in words["random-days-balanced-28-days"]
    assert {"-40.0%", "-50.0%"} <= set(words["crossover-2-x-14-days-blackout-7"])
    assert "-37.0%" in words["clustering"]
    assert "-60.0%  (-70.0% to -50.0%)" in words["complete-journey"]
    assert "crossover, 2 x 14 days, no blackout" in words["carryover"]
    assert not any("…" in text for texts in words.values() for text in texts), "labels are whole"
    assert BIAS not in str(words)


def test_the_filtered_difference_is_the_raw_one_where_nothing_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = claim_draws.Drawn.of(designs.TIME_BOUND, 1, TINY)
    filtered, raw = claim_draws.filtered_difference(drawn), claim_draws.difference_in_differences(drawn)
    assert abs(filtered - raw) > ROUNDING
    monkeypatch.setattr(panel, "filter_rule", lambda trim, scale: "none")
    assert claim_draws.filtered_difference(drawn) == pytest.approx(raw, rel=ROUNDING)

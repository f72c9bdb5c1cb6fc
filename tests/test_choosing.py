"""The design chooser over a lab: the plan as a candidate, its history, rows, picture, and questions without a file."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from pricelab_dagster import choosing
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.lake import shape
from pricelab_dagster.models import models
from pricelab_dagster.science import power
from pricelab_dagster.science.power import Candidate, Spillover
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab

Make = Callable[..., Experiment]

STAGED = ("staging.stg_sales", "staging.stg_products", "staging.stg_events", "intermediate.int_product_days")
THIN = "not identified: 16 weeks of history, needs 26."
EVENTS = """\
events: {source: data/events.csv, columns: {event_id: id, product_id: sku, occurred_on: day, kind: kind}}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """The tiny lab with staged sales and events, and no experiment run."""
    root = tmp_path_factory.mktemp("choosing")
    tiny_lab.write_lab(root, tiny_lab.EXPERIMENTS, config=tiny_lab.CONFIG + EVENTS)
    rows = ["id,sku,day,kind", "1,0002,2024-03-10,mailer", "2,0002,2024-04-24,mailer", "3,0006,2024-03-11,mailer"]
    (root / "data" / "events.csv").write_text("\n".join([*rows, "4,0010,2024-03-12,banner"]) + "\n")
    one = Workbench.open(root)
    for name in STAGED:
        one.lake.write(name, shape(name, one.run_model(models()[name])), None, metadata={})
    return Workbench.open(root)


@pytest.fixture(scope="module")
def milk(bench: Workbench) -> tuple[choosing.Question, list[power.Prediction], power.Advice]:
    """What is asked of the experiment `later`, and what each candidate is predicted to do."""
    experiment = bench.experiment("later")
    features = bench.run_model(models()["intermediate.int_product_features"], experiment)
    frame = choosing.frames.to_pandas(features)
    ids = sorted(frame.loc[frame["category"] == "milk", "product_id"])
    known = choosing.history(bench, experiment, frame, ids, {one: one for one in ids})
    units = {"product": Spillover(np.nan, np.nan, THIN)}
    question = choosing.Question(experiment, bench.grain, power.Assumed(0.4), units, known)
    found = list(power.evaluations(question.history, question.grid, rng=np.random.default_rng(1)))
    return question, found, question.advice(found)


def certificate(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TABLES["spillover.certificate"].schema)


@pytest.mark.parametrize(
    ("kind", "design", "keys", "expected"),
    [
        ("time_bound", {}, {}, Candidate("time_bound", 14, blackout=2)),
        ("random_days", {}, {}, Candidate("random_days", 14, balance="day_of_week")),
        ("random_days", {"block": 7, "blackout": 2}, {}, Candidate("random_days", 14, block=7, blackout=2)),
        ("crossover", {"phases": 4}, {}, Candidate("crossover", 16, phase=4, blackout=1)),
        (
            "time_bound",
            {"kind": "triggered", "event": "mailer", "horizon": "2024-02-04"},
            {"assignment": {"share": 0.3}},
            Candidate("triggered", 14, blackout=2, recruiting=28, share=0.3),
        ),
        (
            "time_bound",
            {},
            {
                "assignment": {"unit": "cluster"},
                "treatment": [{"name": "a", "price_multiplier": 0.9}, {"name": "b", "price_multiplier": 0.8}],
            },
            Candidate("time_bound", 14, blackout=2, unit="cluster", n_arms=2),
        ),
    ],
)
def test_the_plan_is_a_candidate(
    make_experiment: Make, kind: str, design: dict[str, Any], keys: dict[str, Any], expected: Candidate
) -> None:
    assert choosing.planned(make_experiment(kind, design=design, **keys), "day") == expected


def test_the_grid_holds_the_plan_and_what_stands_beside_it() -> None:
    plan = Candidate("crossover", 42, phase=21, blackout=5)
    found = choosing.grid(plan, clusters=True, events=True)
    assert found[0] == plan
    assert len(set(found)) == len(found)
    assert {one.duration for one in found} == {21, 42, 84}
    assert {one.kind for one in found} == {"time_bound", "triggered", "random_days", "crossover"}
    assert {one.n_arms for one in found} == {1, 2, 3}
    assert {one.days for one in found if one.unit == "cluster"} == {42}
    alone = choosing.grid(plan, clusters=False, events=False)
    assert {one.unit for one in alone} == {"product"}
    assert not [one for one in alone if one.kind == "triggered"]
    weekly = choosing.grid(Candidate("time_bound", 6, grain="week"), clusters=False, events=False)
    assert {one.duration for one in weekly} == {3, 6, 12}


def test_the_history_is_what_lies_before_the_start(bench: Workbench) -> None:
    experiment = bench.experiment("phases")
    features = bench.run_model(models()["intermediate.int_product_features"], experiment)
    frame = choosing.frames.to_pandas(features)
    ids = ["0001", "0005", "0009"]
    known = choosing.history(bench, experiment, frame, ids, {"0001": "x", "0005": "x"})
    n_days = (date(2024, 4, 8) - tiny_lab.FIRST).days
    days = bench.lake.read("intermediate.int_product_days").to_pandas()
    wanted = days[(days["product_id"] == "0005") & (days["date"] < date(2024, 4, 8))].sort_values("date")
    assert known.value.shape == (3, n_days)
    np.testing.assert_array_equal(known.value[1], wanted["units"])
    np.testing.assert_array_equal(known.price[1], wanted["price"])
    assert known.cluster.tolist() == ["x", "x", "0009"]
    assert set(known.attributes.columns) >= {"size", "brand", "log_units_per_day"}
    assert choosing.history(bench, experiment, frame, ids, {}).cluster is None


def test_events_before_the_start_stand_in_their_period(bench: Workbench) -> None:
    experiment = bench.experiment("later")
    features = bench.run_model(models()["intermediate.int_product_features"], experiment)
    frame = choosing.frames.to_pandas(features)
    known = choosing.history(bench, experiment, frame, ["0002", "0006", "0010"], {})
    at = [[str(tiny_lab.FIRST + timedelta(days=int(day))) for day in np.flatnonzero(row)] for row in known.events]
    assert at == [["2024-03-10", "2024-04-24"], ["2024-03-11"], []]  # mailers, the most frequent kind
    earlier = choosing.history(bench, bench.experiment("cut"), frame, ["0002"], {})
    assert earlier.events.sum() == 1


def test_rows_are_ranked_with_one_plan_and_one_advice(milk: Any) -> None:
    question, found, advice = milk
    rows = shape(choosing.TABLE, choosing.table(question, found, advice)).to_pandas()
    assert rows["place"].tolist() == list(range(1, len(found) + 1))
    known = rows[rows["rmse"].notna()]
    assert known["rmse"].is_monotonic_increasing
    assert rows.loc[rows["is_planned"], "design"].tolist() == ["time-bound, 14 days"]
    (chosen,) = rows[rows["is_recommended"]].to_dict("records")
    assert chosen["rmse"] == known.loc[(known["days"] <= 14) & (known["n_arms"] == 1), "rmse"].min()
    assert rows["coverage"].isna().all()
    assert rows.loc[rows["se"].isna(), "reason"].notna().all()
    np.testing.assert_allclose(known["rmse"], np.hypot(known["se"], known["carryover_bias"]))
    assert (known["mde"] > 2.8 * known["se"]).all()
    plan = rows[rows["is_planned"]].iloc[0]
    for column, kappa, half_life in (("missed_20_1", 0.2, 1.0), ("missed_40_7", 0.4, 7.0)):
        hidden = power.missed_part(question.planned, carryover=kappa, half_life=half_life)
        assert plan[column] == pytest.approx(hidden)
    assert set(choosing.HIDDEN) < set(rows.columns)
    assert advice.sentence.startswith(f"Take {chosen['design']}: ")
    assert "As planned, time-bound, 14 days, it would be" in advice.sentence
    assert advice.sentence.endswith(f"Spillover is not in it: {THIN}")


def test_the_picture_holds_the_plan_and_marks_the_advice(milk: Any) -> None:
    question, found, advice = milk
    told = {"effect": question.assumed.effect, "sentence": advice.sentence}
    rows = shape(choosing.TABLE, choosing.table(question, found, advice))
    root = ElementTree.fromstring(choosing.picture(question.experiment, rows, **told))
    texts = {"".join(one.itertext()): one for one in root.iter() if one.tag.endswith("text")}
    assert "plan: time-bound, 14 days" in texts
    assert texts[advice.choice.prediction.candidate.name].get("font-weight") == "600"
    assert not [text for text in texts if "28 days" in text]
    nothing = [power.evaluate(question.history, Candidate("time_bound", 500), rng=np.random.default_rng(0))]
    empty = choosing.table(question, nothing, question.advice(nothing))
    assert choosing.picture(question.experiment, empty, **told) is None


def test_spillover_is_that_of_the_certificate(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound", assignment={"unit": "cluster", "clusters": {"max_size": 9}})
    interval = {"ci_lower": 0.01, "ci_upper": 0.01 + 2 * 1.96 * 0.02}
    rows = [
        {"choice": "product", "bias": 0.05, **interval},
        {"choice": "clusters of 08", "max_size": 8, "bias": 0.03, **interval},
        {"choice": "clusters of 12", "max_size": 12, "reason": "not identified: too few weeks."},
    ]
    found = choosing.spillover(certificate(*rows), experiment)
    assert (found["product"].bias, found["cluster"].bias) == (0.05, 0.03)
    assert found["product"].se == pytest.approx(0.02)
    twelve = choosing.spillover(certificate(*rows), make_experiment("time_bound"))
    assert twelve["cluster"].reason == "not identified: too few weeks."
    nothing = choosing.spillover(certificate({"choice": "product", "reason": THIN}), experiment)
    assert [one.reason for one in nothing.values()] == [THIN, THIN]


def test_a_question_without_a_file_is_answered(bench: Workbench) -> None:
    seen: list[str] = []
    options = {"where": "category = 'milk'", "effect": 0.1, "days": 14, "exact": False, "report": seen.append}
    rows, sentence = choosing.answer(bench, None, **options)
    frame = rows.to_pandas()
    assert sentence.startswith("Take ")
    assert "Assumed are an effect of 10.0 %" in sentence
    assert "As planned" not in sentence
    assert not frame["is_planned"].any()
    assert frame.loc[frame["is_recommended"], "days"].tolist() == [14]
    assert set(frame["mode"]) == {"instant"}
    assert len(seen) == len(frame)
    again, _ = choosing.answer(bench, None, **options)
    assert again.equals(rows)


@pytest.mark.parametrize(
    ("where", "effect", "days", "message"),
    [
        ("categry = 'x'", 0.1, 14, "--where: \"categry = 'x'\", must be an SQL condition"),
        ("category = 'x'", 0.1, 14, "must be true for at least one product"),
        ("true", 0.0, 14, "--effect: 0.0, must be above -1 and not 0"),
        ("true", -1.5, 14, "--effect: -1.5, must be above -1"),
        ("true", 0.1, 0, "--days: 0, must be 1 or more"),
    ],
)
def test_questions_without_an_answer_are_one_line(
    bench: Workbench, where: str, effect: float, days: int, message: str
) -> None:
    with pytest.raises(LabError) as caught:
        choosing.of_condition(bench, where, effect=effect, days=days)
    assert message in str(caught.value)


def test_no_change_asks_for_an_effect_that_is_worth_finding() -> None:
    assert choosing.expected_effect(1.0, "units") == choosing.NOTHING_CHANGES
    assert choosing.expected_effect(1.05, "units") == pytest.approx(1.05**-1.5 - 1)
    assert choosing.expected_effect(0.95, "revenue") == pytest.approx(0.95**-0.5 - 1)

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pricelab_dagster import estimating, frames
from pricelab_dagster.lab import Experiment
from pricelab_dagster.lab.analysis import Detrend
from pricelab_dagster.lake import shape
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.science.hpte import Effect
from pricelab_dagster.science.panel import Panel, Trimmed

Make = Callable[..., Experiment]
NAN = float("nan")
PERIODS = pd.date_range("2024-01-04", "2024-01-15")  # four before the start on the 8th, eight from it on
SOLD = {"a": "110110111001", "b": "001111111111", "c": "000000000111"}
FIRST_SOLD = {"a": "2024-01-04", "b": "2024-01-06"}  # c sells for the first time after the start


def days(through: str = "2024-01-15") -> pd.DataFrame:
    """int_product_days: units are the day of the month, prices ten times it, both on sold days only."""
    rows = []
    for product, sold in SOLD.items():
        for period, flag in zip(PERIODS, sold, strict=True):
            units = period.day * (flag == "1")
            price = 10.0 * period.day
            rows.append((product, period, float(units), units * price, price, 0.5 * units * price, flag == "1"))
    names = ["product_id", "date", "units", "revenue", "price", "profit", "is_sold"]
    frame = pd.DataFrame(rows, columns=names)
    return frame[frame["date"] <= pd.Timestamp(through)]


def features() -> pd.DataFrame:
    known = {"product_id": list(FIRST_SOLD), "first_sold": pd.to_datetime(list(FIRST_SOLD.values()))}
    return pd.DataFrame(known | {"category": ["MILK", "BREAD"], "units_per_day": [2.0, 0.0], "base_price": [1.0, NAN]})


def assignments() -> pd.DataFrame:
    """A crossover of two phases of four days, its first day left out; c is not assigned on its last day."""
    rows = []
    for product, starts_treated in (("c", False), ("a", True), ("b", False)):
        for number, period in enumerate(PERIODS[4:]):
            treated = starts_treated != (number >= 4)
            rows.append((product, period, "treatment" if treated else "control", number % 4 > 0, 0.5, f"u{product}"))
    frame = pd.DataFrame(rows, columns=["product_id", "date", "arm", "in_analysis", "probability", "unit_id"])
    return frame[~((frame["product_id"] == "c") & (frame["date"] == PERIODS[-1]))]


@pytest.fixture
def panel(make_experiment: Make) -> Callable[..., Panel]:
    def make(through: str = "2024-01-15", metrics: tuple[str, ...] = ("units",), **keys: Any) -> Panel:
        experiment = make_experiment("crossover", metrics=list(metrics), **keys)
        day = date.fromisoformat(through)
        return frames.panel(experiment, "day", assignments(), days(), features(), through=day)

    return make


def test_a_panel_is_sorted_by_product_and_period(panel: Callable[..., Panel]) -> None:
    one = panel()
    assert one.product_id.tolist() == ["a", "b", "c"]
    assert one.date.tolist() == [day.date() for day in PERIODS[4:]]
    assert one.unit_id.tolist() == ["ua", "ub", "uc"]
    assert one.category.tolist() == ["MILK", "BREAD", "unknown"]
    assert (one.kind, one.grain, one.imported, one.n_history) == ("crossover", "day", False, 4)


def test_arms_are_numbers_and_missing_where_nothing_is_assigned(panel: Callable[..., Panel]) -> None:
    one = panel()
    expected = np.array([[1] * 4 + [0] * 4, [0] * 4 + [1] * 4, [0] * 4 + [1] * 3 + [NAN]])
    np.testing.assert_array_equal(one.arm, expected)
    counted = np.tile([False, True, True, True], (3, 2))
    counted[2, 7] = False
    np.testing.assert_array_equal(one.in_analysis, counted)
    np.testing.assert_array_equal(one.probability, np.where(np.isnan(expected), NAN, 0.5))


def test_history_is_missing_before_the_first_sale_and_zero_after(panel: Callable[..., Panel]) -> None:
    one = panel()
    np.testing.assert_array_equal(one.history["units"], [[4, 5, 0, 7], [NAN, NAN, 6, 7], [NAN] * 4])
    np.testing.assert_array_equal(one.history["price"], [[40, 50, 60, 70], [NAN, NAN, 60, 70], [NAN] * 4])


def test_a_price_is_missing_on_periods_without_sales_and_units_are_zero(panel: Callable[..., Panel]) -> None:
    one = panel()
    np.testing.assert_array_equal(one.observed["units"][0], [8, 0, 10, 11, 12, 0, 0, 15])
    np.testing.assert_array_equal(one.observed["price"][0], [80, NAN, 100, 110, 120, NAN, NAN, 150])


def test_phases_are_counted_from_one(panel: Callable[..., Panel]) -> None:
    assert panel().phase.tolist() == [1] * 4 + [2] * 4


@pytest.mark.parametrize("kind", ["time_bound", "random_days"])
def test_other_designs_have_one_phase(make_experiment: Make, kind: str) -> None:
    one = frames.panel(
        make_experiment(kind), "day", assignments(), days(), features(), through=PERIODS[-1].to_pydatetime().date()
    )
    assert set(one.phase.tolist()) == {1}


def test_phases_of_a_weekly_lab_count_weeks(make_experiment: Make) -> None:
    weeks = pd.date_range("2023-12-25", periods=10, freq="7D")
    start = weeks[2:]
    cells = {"arm": "control", "in_analysis": True, "probability": 0.5, "unit_id": "a"}
    assigned = pd.DataFrame({"product_id": "a", "date": start, **cells})
    sold = pd.DataFrame({"product_id": "a", "date": weeks, "units": 1.0, "revenue": 1.0, "price": 1.0, "is_sold": True})
    one = frames.panel(make_experiment(), "week", assigned, sold, features(), through=date(2024, 12, 31))
    assert one.phase.tolist() == [1] * 4 + [2] * 4
    assert (one.n_history, one.season) == (2, 1)


def test_nothing_after_the_last_period_to_look_at_is_seen(panel: Callable[..., Panel]) -> None:
    one = panel(through="2024-01-10")
    assert one.through == "2024-01-10"
    assert {values.shape for values in (one.arm, one.in_analysis, *one.observed.values())} == {(3, 3)}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (("units",), ["units", "price"]),
        (("units", "revenue", "profit"), ["units", "revenue", "profit", "price"]),
        (("profit",), ["profit", "price", "revenue"]),
    ],
)
def test_price_is_always_estimated_and_profit_brings_revenue(
    panel: Callable[..., Panel], metrics: tuple[str, ...], expected: list[str]
) -> None:
    one = panel(metrics=metrics)
    assert list(one.observed) == list(one.history) == expected


def test_the_order_of_the_rows_does_not_change_a_panel(make_experiment: Make, panel: Callable[..., Panel]) -> None:
    shuffled = [part.sample(frac=1, random_state=4) for part in (assignments(), days(), features())]
    one, other = panel(), frames.panel(make_experiment(metrics=["units"]), "day", *shuffled, through=date(2024, 1, 15))
    np.testing.assert_array_equal(other.arm, one.arm)
    np.testing.assert_array_equal(other.history["units"], one.history["units"])
    np.testing.assert_array_equal(other.observed["price"], one.observed["price"])
    assert (other.product_id.tolist(), other.category.tolist()) == (one.product_id.tolist(), one.category.tolist())


def test_attributes_are_what_was_known_and_logs_of_sales_and_price() -> None:
    known = features().assign(brand=pd.Series(["x", None]), last_price=1.0, experiment_id="milk")
    found = frames.attributes(known, np.array(["b", "a", "c"], dtype=object))
    assert list(found.columns) == ["category", "brand", "log_units_per_day", "log_base_price"]
    np.testing.assert_allclose(found["log_units_per_day"], [NAN, np.log(2.0), NAN])
    np.testing.assert_allclose(found["log_base_price"], [NAN, 0.0, NAN])
    assert found["brand"].isna().tolist() == [True, False, True]


def trimmed_of(one: Panel, predicted: dict[str, np.ndarray]) -> list[Trimmed]:
    found = []
    for number, metric in enumerate(one.observed):
        for scale in ("relative", "level"):
            s = np.array([2.0, 4.0, NAN]) if scale == "relative" else np.ones(3)
            found.append(
                Trimmed(
                    metric=metric,
                    scale=scale,
                    first_difference=np.array([0.5 + number, -1.25, NAN]),
                    placebo=np.array([[0.1, NAN], [0.25, -3.0], [NAN, NAN]]),
                    product_scale=s,
                    kept=np.array([True, False, False]),
                    reason=np.array([None, "trimmed: among the smallest", "no history"], dtype=object),
                    residual=(one.observed[metric] - predicted[metric]) / s[:, None],
                    outcome=one.observed[metric] / s[:, None],
                )
            )
    return found


def test_detrended_rows_add_up_and_missing_values_are_null(make_experiment: Make, panel: Callable[..., Panel]) -> None:
    one = panel()
    predicted = {metric: np.full(values.shape, 2.5) for metric, values in one.observed.items()}
    rows = shape("experiment.detrended_sales", frames.detrended_table(make_experiment(), one, predicted)).to_pandas()
    assert len(rows) == 2 * 3 * 8
    assert rows["observed"].isna().sum() == np.isnan(one.observed["price"]).sum() > 0
    assert (rows["residual"].isna() == rows["observed"].isna()).all()
    sold = rows.dropna()
    np.testing.assert_array_equal(sold["observed"] - sold["predicted"], sold["residual"])


def test_first_differences_come_back_as_they_were_stored(make_experiment: Make, panel: Callable[..., Panel]) -> None:
    one, experiment = panel(), make_experiment()
    predicted = {metric: np.arange(24.0).reshape(3, 8) for metric in one.observed}
    found = trimmed_of(one, predicted)
    detrended = shape("experiment.detrended_sales", frames.detrended_table(experiment, one, predicted))
    rows = shape("experiment.trimmed_panel", frames.trimmed_table(experiment, one, found))
    back = frames.read_trimmed(one, detrended, rows)
    for wanted, read in zip(found, back, strict=True):
        assert (read.metric, read.scale) == (wanted.metric, wanted.scale)
        for name in ("first_difference", "placebo", "product_scale", "kept", "residual", "outcome"):
            np.testing.assert_array_equal(getattr(read, name), getattr(wanted, name), err_msg=name)
        assert [text for text in read.reason if isinstance(text, str)] == wanted.reason.tolist()[1:]


def test_an_absent_reason_comes_back_as_none(make_experiment: Make, panel: Callable[..., Panel]) -> None:
    one, experiment = panel(), make_experiment()
    predicted = {metric: np.zeros((3, 8)) for metric in one.observed}
    detrended = shape("experiment.detrended_sales", frames.detrended_table(experiment, one, predicted))
    rows = frames.trimmed_table(experiment, one, trimmed_of(one, predicted))
    back = frames.read_trimmed(one, detrended, shape("experiment.trimmed_panel", rows))
    assert {part.reason[0] for part in back} == {None}


def test_first_differences_without_placebo_windows_come_back(
    make_experiment: Make, panel: Callable[..., Panel]
) -> None:
    one, experiment = panel(), make_experiment()
    predicted = {metric: np.zeros((3, 8)) for metric in one.observed}
    found = [
        Trimmed(**{name: getattr(part, name) for name in Trimmed.__slots__} | {"placebo": np.empty((3, 0))})
        for part in trimmed_of(one, predicted)
    ]
    detrended = shape("experiment.detrended_sales", frames.detrended_table(experiment, one, predicted))
    back = frames.read_trimmed(
        one, detrended, shape("experiment.trimmed_panel", frames.trimmed_table(experiment, one, found))
    )
    assert {part.placebo.shape for part in back} == {(3, 0)}


def test_reasons_are_counted(make_experiment: Make, panel: Callable[..., Panel]) -> None:
    one = panel()
    found = trimmed_of(one, {metric: np.zeros((3, 8)) for metric in one.observed})
    rows = frames.trimmed_table(make_experiment(), one, found)
    assert frames.reasons(rows) == {"no history": 4, "trimmed: among the smallest": 4}


def test_leaves_come_back_as_they_were_stored(make_experiment: Make, panel: Callable[..., Panel]) -> None:
    one, rng = panel(), np.random.default_rng(2)
    n_trees = 11  # more than ten, so that an order by text would show
    stored = Leaves(rng.integers(0, 3, (3, n_trees)).astype(np.int32), rng.random((3, n_trees)) < 0.5, n_trees, "one")
    rows = shape("experiment.affinity_leaves", frames.leaves_table(make_experiment(), one, stored))
    back = frames.read_leaves(rows, one, "one")
    np.testing.assert_array_equal(back.leaf, stored.leaf)
    np.testing.assert_array_equal(back.in_honest, stored.in_honest)
    assert (back.n_trees, back.reason, back.leaf.dtype) == (n_trees, "one", np.int32)


def effect(**values: Any) -> Effect:
    stated = dict.fromkeys(("effect", "se", "ci_lower", "ci_upper", "p_value", "two_arm_share"), 0.25)
    counts = dict.fromkeys(("n_treated", "n_control", "n_trimmed", "n_replicates"), 3)
    arrays = {"kept": np.ones(3, dtype=bool), "draws": np.zeros(2)}
    return Effect(**(stated | counts | arrays | {"estimand": "the mean effect", "reason": None} | values))


def effects_rows(experiment: Experiment, found: list[tuple[str, str, str, Effect]], so_far: str | None = None) -> Any:
    of_arm = [("treatment", *one) for one in found]
    rows = frames.effects_table(experiment, of_arm, quoted=estimating.headlines(experiment, of_arm), so_far=so_far)
    assert shape("experiment.effects", rows).num_rows == len(found)
    return rows.to_pylist()


def test_an_effect_that_is_undefined_is_null_with_its_reason(make_experiment: Make) -> None:
    undefined = effect(effect=NAN, se=NAN, ci_lower=NAN, ci_upper=NAN, p_value=NAN, reason="no control product.")
    (row,) = effects_rows(make_experiment(), [("units", "relative", "hpte", undefined)])
    assert [row[name] for name in ("effect", "se", "ci_lower", "ci_upper", "p_value")] == [None] * 5
    assert (row["reason"], row["two_arm_share"], row["n_treated"], row["seed"]) == ("no control product.", 0.25, 3, 7)


def test_a_running_experiment_says_so_beside_every_effect(make_experiment: Make) -> None:
    found = [("units", "relative", "hpte", effect(reason="few units.")), ("units", "level", "hpte", effect())]
    reasons = [row["reason"] for row in effects_rows(make_experiment(), found, so_far="2024-01-10")]
    running = "running: periods through 2024-01-10 only."
    assert reasons == [f"few units. {running}", running]


@pytest.mark.parametrize(
    ("assignment", "headline"),
    [({}, "hpte"), ({"unit": "cluster"}, "hajek"), ({"source": "arms.csv"}, "hpte_doubly_robust")],
)
def test_each_metric_has_one_headline(make_experiment: Make, assignment: dict[str, Any], headline: str) -> None:
    found = [
        (metric, scale, estimator, effect())
        for metric in ("units", "price")
        for scale in ("relative", "level")
        for estimator in ("hpte", "hpte_leaf", "hpte_doubly_robust", "hajek")
    ]
    rows = effects_rows(make_experiment(assignment=assignment), found)
    quoted = [(row["metric"], row["scale"], row["estimator"]) for row in rows if row["is_headline"]]
    assert quoted == [("units", "relative", headline), ("price", "relative", headline)]
    noted = {row["estimator"] for row in rows if row["reason"]}
    within_leaves = {"hpte", "hpte_leaf", "hpte_doubly_robust"}
    assert noted == (within_leaves if assignment.get("unit") == "cluster" else set())


@pytest.mark.parametrize(("one_leaf", "noted"), [(False, [True, True, False]), (True, [False, False, False])])
def test_clusters_are_warned_of_leaves_where_there_are_some(
    make_experiment: Make, one_leaf: bool, noted: list[bool]
) -> None:
    experiment = make_experiment(assignment={"unit": "cluster"})
    found = [("treatment", "units", "relative", name, effect()) for name in ("hpte", "hpte_leaf", "hajek")]
    quoted = estimating.headlines(experiment, found)
    rows = frames.effects_table(experiment, found, quoted=quoted, so_far=None, one_leaf=one_leaf).to_pylist()
    assert ["comparing like with like" in (row["reason"] or "") for row in rows] == noted


@pytest.mark.parametrize(
    ("metric", "scale", "words"),
    [
        ("units", "relative", "the mean effect; of units, as part of its level under control; after the blackout"),
        ("profit", "relative", "the mean effect; of profit, points per revenue; after the blackout"),
        ("profit", "level", "the mean effect; of profit per product and period; after the blackout"),
    ],
)
def test_the_estimand_is_told_in_words(make_experiment: Make, metric: str, scale: str, words: str) -> None:
    (row,) = effects_rows(make_experiment(), [(metric, scale, "hpte", effect())])
    assert row["estimand"].startswith(words)


def test_checks_without_a_number_are_null(make_experiment: Make) -> None:
    found = [Diagnostic("one_price", "passed", 0.0, 0.5, NAN, "Each product has one price.")]
    rows = shape("experiment.diagnostics", frames.diagnostics_table(make_experiment(), found)).to_pylist()
    expected = {"check_name": "one_price", "status": "passed", "value": 0.0, "threshold": 0.5, "p_value": None}
    assert rows == [expected | {"experiment_id": "milk", "message": "Each product has one price."}]


def test_the_window_all_means_no_window() -> None:
    assert [frames.window_of(Detrend(window=window), "week") for window in ("all", 28)] == [None, 28]


def test_the_window_is_28_days_in_either_grain_unless_it_is_given() -> None:
    assert (frames.window_of(Detrend(), "day"), frames.window_of(Detrend(), "week")) == (28, 4)


def test_dates_become_timestamps_that_compare() -> None:
    frame = frames.to_pandas(pa.table({"date": pa.array([date(2024, 1, 8)])}))
    assert frame["date"].tolist() == [pd.Timestamp("2024-01-08")]

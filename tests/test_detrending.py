import json

from pricelab_dagster import detrending
from pricelab_dagster.science.detrend import Choice

NAN = float("nan")
COMPARED = Choice("ses", {"mean": 0.25, "ses": 0.125, "pooled_ridge": 0.5}, None)
NOT_COMPARED = Choice("mean", {"mean": NAN, "ses": NAN, "pooled_ridge": NAN}, "no room")


def test_the_forecast_of_each_metric_is_stored_with_the_errors_that_chose_it() -> None:
    methods = {"units": COMPARED.method, "price": NOT_COMPARED.method}
    facts = detrending.facts(methods, {"units": COMPARED, "price": NOT_COMPARED})
    assert facts["placebo_errors"] == {
        "units": {"mean": 0.25, "ses": 0.125, "pooled_ridge": 0.5},
        "price": {"mean": None, "ses": None, "pooled_ridge": None},
    }
    assert facts["not_compared"] == {"price": "no room"}
    assert detrending.stored_methods(json.loads(json.dumps(facts, allow_nan=False))) == methods


def test_a_forecast_that_the_experiment_names_is_stored_alone() -> None:
    assert detrending.facts({"units": "mean"}, {}) == {"methods": {"units": "mean"}}
    assert detrending.stored_methods({}) is None


def test_the_choice_is_a_table_for_the_web_ui() -> None:
    assert detrending.markdown({"units": COMPARED, "price": NOT_COMPARED}).splitlines() == [
        "| metric | forecast | placebo error of mean | placebo error of ses | placebo error of pooled_ridge |",
        "|---|---|---|---|---|",
        "| units | ses | 0.2500 | 0.1250 | 0.5000 |",
        "| price | mean (no room) | - | - | - |",
    ]

import copy
import datetime as dt
from typing import Any

import pytest

from pricelab_dagster.lab import Experiment, Grain, LabConfig, difference

MILK: dict[str, Any] = {
    "id": "milk",
    "title": "Milk",
    "owner": "dairy@example.com",
    "design": {"kind": "crossover", "start": "2017-06-05"},
    "scope": {"where": "category = 'MILK'"},
    "treatment": {"price_multiplier": 0.95},
}


def experiment(**keys: Any) -> Experiment:
    return Experiment.model_validate(copy.deepcopy(MILK) | keys)


def design(**keys: Any) -> Experiment:
    return experiment(design={"start": "2017-06-05"} | keys)


@pytest.mark.parametrize(
    ("keys", "grain", "n_periods", "end"),
    [
        ({"kind": "crossover"}, "day", 28, dt.date(2017, 7, 2)),
        ({"kind": "crossover", "phase": 2, "phases": 4, "blackout": 1}, "week", 8, dt.date(2017, 7, 24)),
        ({"kind": "time_bound", "duration": 1}, "day", 1, dt.date(2017, 6, 5)),
        ({"kind": "time_bound", "duration": 1}, "week", 1, dt.date(2017, 6, 5)),
        ({"kind": "random_days", "duration": 14}, "day", 14, dt.date(2017, 6, 18)),
        ({"kind": "time_bound", "duration": 28, "stop": "2017-06-05"}, "day", 28, dt.date(2017, 6, 5)),
        (
            {"kind": "triggered", "duration": 7, "event": "mailer", "horizon": "2017-07-01"},
            "day",
            7,
            dt.date(2017, 7, 8),
        ),
        (
            {"kind": "triggered", "duration": 2, "event": "mailer", "horizon": "2017-06-18"},
            "week",
            2,
            dt.date(2017, 6, 26),
        ),
        (
            {"kind": "triggered", "duration": 1, "event": "mailer", "horizon": "2017-06-19"},
            "week",
            1,
            dt.date(2017, 6, 26),
        ),
    ],
)
def test_end_is_the_date_of_the_last_period(keys: dict[str, Any], grain: Grain, n_periods: int, end: dt.date) -> None:
    planned = design(**keys)
    assert (planned.start, planned.n_periods, planned.end(grain)) == (dt.date(2017, 6, 5), n_periods, end)


def test_arms() -> None:
    single = experiment().arms
    assert [(arm.name, arm.price_multiplier, arm.prices) for arm in single] == [("treatment", 0.95, None)]

    several = experiment(treatment=[{"name": "low", "price_multiplier": 0.9}, {"name": "high", "prices": "p.csv"}])
    assert [(arm.name, arm.price_multiplier, arm.prices) for arm in several.arms] == [
        ("low", 0.9, None),
        ("high", None, "p.csv"),
    ]

    imported = experiment(treatment=None, assignment={"source": "a.csv"}).arms
    assert [(arm.name, arm.price_multiplier, arm.prices) for arm in imported] == [("treatment", None, None)]


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Another title"},
        {"owner": "someone@example.com"},
        {"design": MILK["design"] | {"stop": "2017-06-20", "stop_reason": "stock-outs"}},
        {"design": MILK["design"] | {"phase": 14}},
        {"control": {"price_multiplier": 1}},
    ],
)
def test_fingerprint_stays_when_nothing_of_weight_changes(change: dict[str, Any]) -> None:
    assert experiment(**change).fingerprint() == experiment().fingerprint()
    assert difference(experiment().design_dict(), experiment(**change).design_dict()) == []


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"design": MILK["design"] | {"phase": 21}}, ["design.phase: 14 -> 21"]),
        ({"assignment": {"seed": 8}}, ["assignment.seed: 7 -> 8"]),
        ({"metrics": ["units"]}, ['metrics: ["units", "revenue"] -> ["units"]']),
        ({"guard": {"floor": 1.5}}, ["guard.floor: null -> 1.5"]),
        ({"scope": {"where": "true"}}, ["scope.where: 'category = 'MILK'' -> 'true'"]),
        (
            {"design": {"kind": "time_bound", "start": "2017-06-06", "duration": 28}},
            [
                "design.blackout: 7 -> 0",
                "design.duration: absent -> 28",
                "design.kind: 'crossover' -> 'time_bound'",
                "design.phase: 14 -> absent",
                "design.phases: 2 -> absent",
                "design.start: '2017-06-05' -> '2017-06-06'",
            ],
        ),
    ],
)
def test_a_change_of_weight_is_told_and_moves_the_fingerprint(change: dict[str, Any], lines: list[str]) -> None:
    assert difference(experiment().design_dict(), experiment(**change).design_dict()) == lines
    assert experiment(**change).fingerprint() != experiment().fingerprint()


def test_fingerprint_is_fixed_across_versions() -> None:
    assert experiment().fingerprint() == "85fd386bcb0b39924e33add598b2261ca280c6ba6426f93ac168793f6f1e5e8d"


def in_lab(grain: Grain, window: int | str | None = None) -> Experiment:
    """A design in a lab of a grain, with a window of the forecast or none in its file."""
    columns = {name: name for name in ("product_id", "date", "units", "price")}
    config = LabConfig.model_validate({"sales": {"source": "s.csv", "columns": columns, "grain": grain}})
    stated = {"design": {"kind": "time_bound", "start": "2017-06-05", "duration": 4}}
    analysis = {} if window is None else {"analysis": {"detrend": {"window": window}}}
    return Experiment.model_validate(copy.deepcopy(MILK) | stated | analysis, context=config)


def test_the_default_window_is_28_days_and_writing_it_out_is_no_change() -> None:
    windows = {grain: in_lab(grain).design_dict()["analysis"]["detrend"]["window"] for grain in ("day", "week")}
    assert windows == {"day": 28, "week": 4}
    assert in_lab("day", 28).fingerprint() == in_lab("day").fingerprint()
    assert in_lab("week", 4).fingerprint() == in_lab("week").fingerprint()
    assert experiment(analysis={"detrend": {"window": 28}}).fingerprint() == experiment().fingerprint()


@pytest.mark.parametrize(
    ("grain", "window", "line"),
    [
        ("day", 27, "analysis.detrend.window: 28 -> 27"),
        ("day", "all", "analysis.detrend.window: 28 -> 'all'"),
        ("week", 28, "analysis.detrend.window: 4 -> 28"),
    ],
)
def test_another_window_is_a_change(grain: Grain, window: int | str, line: str) -> None:
    assert difference(in_lab(grain).design_dict(), in_lab(grain, window).design_dict()) == [line]


def test_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        experiment().title = "x"

"""Draws of an experiment's arms by its recorded mechanism, and the rows and verdicts that rest on them."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from pricelab_dagster import drawing, estimating, replaying
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.placebo import Rejections
from pricelab_dagster.workbench import stage_rng

Make = Callable[..., Experiment]

N, T0 = 40, 84
KINDS = ("time_bound", "crossover", "random_days")
BINOMIAL = 4.0  # standard errors: 40 shares leave this band once in four hundred tests


def products() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "product_id": [f"p{i:02d}" for i in range(N)],
            "category": ["BREAD", "MILK"] * (N // 2),
            "units_per_day": [float((7 * i) % N + 1) for i in range(N)],
        }
    )


CLUSTERS = {f"p{i:02d}": f"c{i // 2:02d}" for i in range(N)}


def frame(experiment: Experiment, **columns: Any) -> drawing.Frame:
    return drawing.Frame.of(experiment, products().assign(**columns), CLUSTERS)


def played(experiment: Experiment, lift: float = 0.3, *, n_history: int = T0, seed: int = 1) -> science.Panel:
    """Return the panel of an experiment whose arms were drawn from its seed, in a world that answers the first arm."""
    rng, source = np.random.default_rng(seed), stage_rng(experiment.assignment.seed, "milk", "assignments")
    drawn = drawing.draw(experiment, "day", products(), CLUSTERS, rng=source)
    row = np.argsort(drawn.product_id.astype(str))
    level, arm = rng.uniform(10, 30, (N, 1)), drawn.arm[row].astype(float)
    sold = rng.poisson(level * (1 + lift * (arm == 1)), arm.shape).astype(float)
    phase = np.arange(arm.shape[1]) // 4 + 1 if experiment.design.kind == "crossover" else np.ones(arm.shape[1], int)
    return science.Panel(
        product_id=drawn.product_id[row],
        date=drawn.date,
        unit_id=drawn.unit_id[row],
        category=products()["category"].to_numpy(dtype=object),
        arm=arm,
        in_analysis=drawn.in_analysis[row],
        probability=drawn.probability[row],
        phase=phase,
        history={"units": rng.poisson(level, (N, n_history)).astype(float)},
        observed={"units": sold},
        kind=experiment.design.kind,
        drawn=arm.max(axis=1).astype(np.int64),
    )


def rows(experiment: Experiment, one: science.Panel, **options: Any) -> list[Any]:
    """Return every row of the experiment, those of the test last."""
    trimmed = science.trimmed(one, science.forecasts(one, method="mean"), method="mean")
    leaves, rng = Leaves.single(len(one.product_id)), np.random.default_rng(2)
    found = list(estimating.estimates(experiment, one, trimmed, leaves, doses=None, rng=rng))
    settings: dict[str, Any] = {"frame": frame(experiment), "n_draws": 60, "rng": rng} | options
    return found + list(replaying.randomization_rows(experiment, one, trimmed, leaves, found, **settings))


def by_arm(found: list[Any]) -> dict[str, Any]:
    return {arm: effect for arm, _, _, estimator, effect in found if estimator == replaying.ESTIMATOR}


@pytest.mark.parametrize("unit", ["product", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_those_of_the_mechanism_for_the_products_of_the_panel(
    make_experiment: Make, kind: str, unit: str
) -> None:
    experiment = make_experiment(kind, assignment={"unit": unit})
    one = played(experiment)
    found = replaying.draws(experiment, one, frame(experiment), n_draws=200, rng=np.random.default_rng(3))
    assert found.note is None
    W = found.against(1, kind)
    assert set(np.unique(W)) == {0, 1}
    shares = W.mean(axis=0 if kind == "random_days" else 1).ravel()
    assert np.abs(shares - 0.5).max() < BINOMIAL * 0.5 / np.sqrt(200)
    if kind != "random_days":
        assert (W.sum(axis=0) == N // 2).all()
    if unit == "cluster":
        by_unit = pd.Series(one.unit_id).groupby(one.unit_id).indices.values()
        axis = 1 if kind == "random_days" else 0
        assert all((W.take(rows, axis) == W.take(rows[:1], axis)).all() for rows in by_unit)
    first = drawing.draw(experiment, "day", products(), CLUSTERS, rng=np.random.default_rng(3))
    place = pd.Index(first.product_id).get_indexer(pd.Index(one.product_id))
    expected = first.arm[place] if kind == "random_days" else first.arm[place, 0]
    np.testing.assert_array_equal(W[0] if kind == "random_days" else W[:, 0], expected)


def test_a_part_of_the_products_keeps_its_rows(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    one, some = played(experiment), np.array([3, 17, 30])
    part = replace(
        one,
        product_id=one.product_id[some],
        arm=one.arm[some],
        drawn=one.drawn_arm[some],
    )
    whole = replaying.draws(experiment, one, frame(experiment), n_draws=20, rng=np.random.default_rng(4))
    few = replaying.draws(experiment, part, frame(experiment), n_draws=20, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(few.codes, whole.codes[some])
    assert few.note is None


def test_strata_that_have_moved_since_the_draw_are_told(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    moved = frame(experiment, units_per_day=np.arange(float(N)))
    found = replaying.draws(experiment, played(experiment), moved, n_draws=2, rng=np.random.default_rng(5))
    assert found.note == replaying.OTHER_ARMS


def test_codes_stand_for_arms_and_sequences() -> None:
    codes = np.array([[0, 1, 2, -1, -2]], dtype=np.int8)
    found = replaying.Replayed(codes, None)
    assert found.against(1, "time_bound").tolist() == [[0, 1, -1, -1, -1]]
    assert found.against(2, "crossover").tolist() == [[-1, -1, 1, -1, 0]]


@pytest.mark.parametrize("unit", ["product", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_frame_replays_exactly_when_sizes_have_moved(make_experiment: Make, kind: str, unit: str) -> None:
    experiment = make_experiment(kind, assignment={"unit": unit})
    one = played(experiment)
    cells = pa.table({"product_id": one.product_id.tolist(), "unit_id": one.unit_id.tolist()})
    # a fact is read back from the text of the file
    facts = json.loads(json.dumps(frame(experiment).facts()))
    now = products().assign(units_per_day=np.arange(float(N)))
    tables = (now, cells, cells.slice(0, 0))
    kept = replaying.frame_of(experiment, *tables, facts)
    exact = replaying.draws(experiment, one, kept, n_draws=3, rng=np.random.default_rng(5))
    wanted = replaying.draws(experiment, one, frame(experiment), n_draws=3, rng=np.random.default_rng(5))
    assert exact.note is None
    np.testing.assert_array_equal(exact.codes, wanted.codes)
    anew = replaying.frame_of(experiment, *tables, {})
    assert replaying.draws(experiment, one, anew, n_draws=3, rng=np.random.default_rng(5)).note == replaying.OTHER_ARMS


def test_the_frame_holds_the_products_of_the_draw(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    features = products().iloc[:3]
    assigned = pa.table({"product_id": ["p00", "p00", "p01"], "unit_id": ["p00", "p00", "p01"]})
    arms = pa.table({"product_id": ["p02", "p01"], "unit_id": ["p02", "p01"]})
    calendar = replaying.frame_of(experiment, features, assigned, arms.slice(0, 0), {})
    assert calendar.product_id.tolist() == ["p00", "p01"]
    # by category, then size
    assert replaying.frame_of(experiment, features, assigned, arms, {}).product_id.tolist() == ["p02", "p01"]


@pytest.mark.parametrize("unit", ["product", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_row_tests_the_headline_of_the_first_metric(make_experiment: Make, kind: str, unit: str) -> None:
    experiment = make_experiment(kind, assignment={"unit": unit})
    found = rows(experiment, played(experiment, lift=0.5))
    quoted = next(
        effect
        for _, metric, scale, estimator, effect in found
        if (metric, scale, estimator) == ("units", "relative", estimating.headline(experiment))
    )
    one = by_arm(found)["treatment"]
    assert one.effect == quoted.effect
    assert one.p_value == pytest.approx(1 / 61)
    assert one.ci_lower < one.effect < one.ci_upper
    assert one.ci_lower > 0.0
    assert np.isnan(one.se)
    assert one.n_replicates == 60
    assert one.draws.size == 0
    assert one.estimand.startswith("sharp null of no effect")
    assert one.reason == quoted.reason
    assert found[-1][1:4] == ("units", "relative", "randomization_inference")


def test_without_an_effect_it_finds_few_in_many_worlds(make_experiment: Make) -> None:
    experiment, n_worlds = make_experiment("time_bound"), 30
    worlds = [played(experiment, lift=0.0, seed=seed) for seed in range(n_worlds)]
    found = [by_arm(rows(experiment, one))["treatment"] for one in worlds]
    low, high = stats.binom(n_worlds, 0.2).ppf([0.0005, 0.9995])
    assert low <= sum(one.p_value <= 0.2 for one in found) <= high
    holds, passes = (
        sum(flags)
        for flags in zip(*((one.ci_lower <= 0.0 <= one.ci_upper, one.p_value > 0.05) for one in found), strict=True)
    )
    assert abs(holds - passes) <= 1  # an end is searched to a fourth of the noise of its quantile


def test_several_arms_are_tested_with_the_others_taken_out(make_experiment: Make) -> None:
    arms = [{"name": "near", "price_multiplier": 0.9}, {"name": "far", "price_multiplier": 0.8}]
    experiment = make_experiment("time_bound", treatment=arms)
    found = by_arm(rows(experiment, played(experiment, lift=3.0), n_draws=199))
    assert list(found) == ["near", "far"]
    assert found["near"].p_value == pytest.approx(1 / 200)
    assert found["far"].p_value > 0.05
    # with the other arm's effect of 3 left in, draws would spread over half of it
    assert found["far"].ci_upper - found["far"].ci_lower < 0.5
    assert found["far"].reason.endswith(replaying.SEVERAL)


def test_an_imported_assignment_has_no_mechanism(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    drawn = played(experiment)
    stated = experiment.model_copy(
        update={"assignment": experiment.assignment.model_copy(update={"source": "arms.csv"})}
    )
    one = by_arm(rows(stated, replace(drawn, imported=True)))["treatment"]
    assert np.isnan([one.effect, one.p_value, one.ci_lower]).all()
    assert one.reason == replaying.IMPORTED
    assert one.n_replicates == 0


@pytest.mark.parametrize("kind", KINDS)
def test_own_history_passes_in_a_world_of_steady_sales(make_experiment: Make, kind: str) -> None:
    experiment = make_experiment(kind)
    one = played(experiment, n_history=160)
    primary = science.trimmed(one, science.forecasts(one, method="mean"), method="mean")[0]
    X = pd.DataFrame({"size": np.arange(float(N))})
    rng = np.random.default_rng(6)
    found = replaying.aa_own_history(experiment, one, primary, X, frame=frame(experiment), rng=rng)
    assert found.check_name == "aa_own_history"
    assert found.status in ("passed", "informational")
    assert 0.0 < found.value < 0.1
    assert "times over 6 windows before the start" in found.message


def test_a_history_without_room_says_what_is_needed(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    one = played(experiment, n_history=40)
    primary = science.trimmed(one, science.forecasts(one, method="mean"), method="mean")[0]
    options: dict[str, Any] = {"frame": frame(experiment), "rng": np.random.default_rng(7)}
    short = replaying.aa_own_history(experiment, one, primary, pd.DataFrame({"a": np.ones(N)}), **options)
    assert short.status == "informational"
    assert short.message.startswith("Not computed: the history of 40 days has no room for a window of 14 days")
    assert "42 days with sales are needed" in short.message
    imported = replaying.aa_own_history(experiment, replace(one, imported=True), primary, pd.DataFrame(), **options)
    assert imported.message == f"Not computed: {replaying.IMPORTED}"


def test_a_crossover_in_its_first_phase_is_not_drawn_again(make_experiment: Make) -> None:
    experiment = make_experiment("crossover")
    whole = played(experiment, n_history=160)
    one = replace(
        whole,
        date=whole.date[:4],
        phase=whole.phase[:4],
        observed={"units": whole.observed["units"][:, :4]},
        **{name: getattr(whole, name)[:, :4] for name in ("arm", "in_analysis", "probability")},
    )
    primary = science.trimmed(one, science.forecasts(one, method="mean"), method="mean")[0]
    options: dict[str, Any] = {"frame": frame(experiment), "rng": np.random.default_rng(7)}
    found = replaying.aa_own_history(experiment, one, primary, pd.DataFrame({"a": np.ones(N)}), **options)
    assert found.status == "informational"
    assert found.message == "Not computed: only the first phase has counted periods; a crossover needs both."


@pytest.mark.parametrize(
    ("lower", "upper", "n_windows", "status"),
    [
        (0.04, 0.06, 6, "passed"),
        (0.03, 0.2, 6, "passed"),
        (0.064, 0.2, 3, "passed"),
        (0.066, 0.2, 6, "failed"),
        (0.3, 0.5, 2, "informational"),
        (0.001, 0.034, 6, "informational"),
        (0.001, 0.036, 6, "passed"),
    ],
)
def test_the_verdict_is_by_the_interval(lower: float, upper: float, n_windows: int, status: str) -> None:
    share = (lower + upper) / 2
    found = Rejections(np.full(n_windows, share), share, lower, upper, 100, 0, 1.0)
    assert replaying._judged("aa_own_history", found, 1).status == status

"""Exposure, spillover and total effects of an experiment in a simulated market whose cross effects are known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster import drawing, spillovers
from pricelab_dagster.lab import Experiment
from pricelab_dagster.lake import shape
from pricelab_dagster.science import market
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.market_scenarios import SCENARIOS

Make = Callable[..., Experiment]

N, MULTIPLIER = 240, 0.8
BOUND = 4.0  # standard errors: a miss of one in ten thousand
# a fifth off moves logs, the regression moves parts: second-order terms are about half the square of the effect
SECOND_ORDER = 0.04
ROUNDING = 1e-9
VALUES = ["effect", "se", "ci_lower", "ci_upper"]

EDGES = """
    a b 0.5 0.4 3.0
    b a 0.4 0.3 3.0
    c d 0.5 0.5 1.0
    d c 0.5 0.4 1.0
    b e -0.5 -0.4 -3.0
    e b -0.5 -0.4 -3.0
    f x 0.5 0.5 3.0
    c f nan nan nan
"""


def edges(text: str = EDGES) -> pd.DataFrame:
    rows = [line.split() for line in text.strip().splitlines()]
    numbers = {name: [float(row[k]) for row in rows] for k, name in enumerate(("effect", "shrunk_effect", "z"), 2)}
    return pd.DataFrame({"product_id": [row[0] for row in rows], "on_price_of": [row[1] for row in rows], **numbers})


def test_the_graph_holds_known_effects_and_neighbours_of_either_sign() -> None:
    graph = spillovers.Graph.of(edges(), list("fedcba"))
    assert graph.product_id.tolist() == list("abcdef")
    theta = graph.theta.toarray()
    # the row is the product whose price moves
    assert theta[1, 0] == 0.4
    assert theta[0, 1] == 0.3
    assert theta[4, 1] == theta[1, 4] == -0.4
    # c and d are no neighbours: their z is small
    assert np.count_nonzero(theta) == 4
    assert graph.n_identified == 6
    assert graph.pairs().tolist() == [[0, 1], [1, 4]]
    assert graph.at(np.array(["e", "x"], dtype=object)).tolist() == [4, -1]


def test_pairs_of_one_cluster_share_their_state_and_others_do_not(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound", assignment={"unit": "cluster"})
    ids = list("abcdefgh")
    products = pd.DataFrame({"product_id": ids, "category": "MILK", "units_per_day": np.arange(8.0)})
    frame = drawing.Frame.of(experiment, products, dict(zip(ids, "uuvvwwxx", strict=True)))
    graph = spillovers.Graph.of(edges(), [*ids, "z"])
    found = spillovers.pair_states(graph, experiment, "day", frame, rng=np.random.default_rng(1))
    table = shape("experiment.pair_probabilities", spillovers.pair_table(experiment, graph, found)).to_pandas()
    together, apart = table.iloc[0], table.iloc[1]
    assert (together["product_id"], together["neighbour_id"]) == ("a", "b")
    assert together[["both_treated", "both_control", "treated_control", "control_treated"]].tolist() == [0.5, 0.5, 0, 0]
    assert (apart["product_id"], apart["neighbour_id"]) == ("b", "e")
    assert 0 < apart["both_treated"] < 0.5
    states = [name for name in table.columns if name.split("_")[0] in ("both", "treated", "control", "out")]
    np.testing.assert_allclose(table[states].sum(axis=1), 1.0, atol=ROUNDING)
    assert (table["n_draws"] == 0).all()


def test_products_outside_the_draw_are_out(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    products = pd.DataFrame({"product_id": list("acdf"), "category": "MILK", "units_per_day": np.arange(4.0)})
    frame, graph = drawing.Frame.of(experiment, products, {}), spillovers.Graph.of(edges(), list("abcdef"))
    found = spillovers.pair_states(graph, experiment, "day", frame, rng=np.random.default_rng(1))
    table = spillovers.pair_table(experiment, graph, found).to_pandas()
    assert table[["treated_out", "control_out", "both_treated"]].iloc[0].tolist() == [0.5, 0.5, 0.0]
    assert table["both_out"].tolist() == [0.0, 1.0]


def test_a_sample_leaves_products_out_as_often_as_it_should(make_experiment: Make) -> None:
    experiment, ids = make_experiment("time_bound"), list("abcdefgh")
    products = pd.DataFrame({"product_id": ids, "category": "MILK", "units_per_day": np.arange(8.0)})
    graph = spillovers.Graph.of(edges(), ids)

    def half(rng: np.random.Generator) -> drawing.Frame:
        drawn = rng.choice(ids, size=4, replace=False)
        return drawing.Frame.of(experiment, products[products["product_id"].isin(drawn)], {})

    found = spillovers.sampled_pair_states(graph, experiment, "day", half, rng=np.random.default_rng(2))
    # both of four from eight: 4 x 3 / (8 x 7)
    both_in = found.probability[:, 1:, 1:].sum(axis=(1, 2))
    expected = 4 * 3 / (8 * 7)
    assert (np.abs(both_in - expected) < BOUND * np.sqrt(expected * (1 - expected) / found.n_draws)).all()


def played(make_experiment: Make, kind: str, unit: str = "product") -> Any:
    """Return an experiment in the market, its panel, the true graph, who was drawn, and the truth."""
    design = {"duration": 28, "blackout": 0} if kind != "crossover" else {"phase": 14, "blackout": 0}
    experiment = make_experiment(kind, design=design, assignment={"unit": unit})
    scenario = replace(SCENARIOS["substitution_strong"], n_products=N, n_categories=12, bulk_rate=0.0, break_share=0.0)
    world = market.simulate(
        scenario=scenario, n_history=180, n_window=28, treatment_multiplier=MULTIPLIER, rng=np.random.default_rng(5)
    )
    size = world.untreated_units[:, :180].mean(axis=1)
    products = pd.DataFrame({"product_id": world.product_id, "category": world.category, "units_per_day": size})
    niches = dict(zip(world.product_id, world.subcategory, strict=True))
    frame = drawing.Frame.of(experiment, products, niches)
    drawn = drawing.draw_from(frame, experiment, "day", rng=np.random.default_rng(6))
    row = np.argsort(drawn.product_id.astype(str))
    arm = drawn.arm[row].astype(float)
    seen = world.observe(arm)
    panel = science.Panel(
        product_id=drawn.product_id[row],
        date=drawn.date,
        unit_id=drawn.unit_id[row],
        category=world.category,
        arm=arm,
        in_analysis=np.ones(arm.shape, dtype=bool),
        probability=drawn.probability[row],
        phase=np.arange(28) // 14 + 1 if kind == "crossover" else np.ones(28, dtype=int),
        history={"units": seen.units[:, :180].astype(float)},
        observed={"units": seen.units[:, 180:].astype(float)},
        kind=kind,
    )
    cause, effect = world.theta.nonzero()
    value = np.asarray(world.theta[cause, effect]).ravel()
    known = pd.DataFrame(
        {
            "product_id": world.product_id[effect],
            "on_price_of": world.product_id[cause],
            "effect": value,
            "shrunk_effect": value,
            "z": np.where(np.abs(value) > 0.1, 5.0, 0.0),
        }
    )
    graph = spillovers.Graph.of(known, list(world.product_id))
    return experiment, panel, graph, frame, world


def found_rows(experiment: Experiment, panel: science.Panel, graph: Any, frame: Any, **options: Any) -> pd.DataFrame:
    trimmed = science.trimmed(panel, science.forecasts(panel))
    rng = np.random.default_rng(7)
    estimates = science.estimates(
        panel, trimmed, Leaves.single(len(panel.product_id)), estimators=("hpte",), n_replicates=20, rng=rng
    )
    quoted = {
        (metric, scale): {
            "estimator": name,
            **{key: getattr(effect, key) for key in (*VALUES, "estimand", "n_treated", "n_control")},
        }
        for metric, scale, name, effect in estimates
    }
    rows = spillovers.rows(experiment, panel, trimmed, graph, quoted, frame, rng=rng, **options)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("kind", ["time_bound", "crossover", "random_days"])
def test_the_linear_total_finds_the_truth_that_the_uncorrected_effect_misses(make_experiment: Make, kind: str) -> None:
    experiment, panel, graph, frame, world = played(make_experiment, kind)
    found = found_rows(experiment, panel, graph, frame)
    relative = found[found["scale"] == "relative"].set_index(["component", "estimator"])
    total = relative.loc[("total", spillovers.LINEAR)]
    truth = world.truth().relative["units"]
    assert abs(total["effect"] - truth) < BOUND * total["se"] + SECOND_ORDER
    naive = relative.loc[("total", spillovers.UNCORRECTED)]
    direct = world.truth(estimand="direct").relative["units"]
    # without correction a product assignment reads little but the direct effect
    assert naive["effect"] - truth > 0.5 * (direct - truth)
    parts = [relative.loc[(name, spillovers.LINEAR), "effect"] for name in ("direct", "spillover")]
    assert sum(parts) == pytest.approx(total["effect"], abs=ROUNDING)
    assert parts[0] > 0 > parts[1]
    assert abs(parts[0] - direct) < BOUND * relative.loc[("direct", spillovers.LINEAR), "se"] + SECOND_ORDER
    assert (found.loc[found["estimator"] == spillovers.LINEAR, "n_units"] <= N).all()
    weighed = relative.loc[("direct", "exposure_hajek")]
    if kind == "random_days":
        assert weighed["reason"] == spillovers.BY_DAY
    else:
        assert weighed["n_units"] + weighed["n_no_overlap"] <= N
        assert weighed["reason"].startswith("No full overlap")


def test_clusters_leave_the_total_and_say_so(make_experiment: Make) -> None:
    experiment, panel, graph, frame, _ = played(make_experiment, "time_bound", unit="cluster")
    inside = pd.Series(panel.unit_id, index=panel.product_id)
    pairs = graph.theta.tocoo()
    same = inside.loc[graph.product_id[pairs.row]].to_numpy() == inside.loc[graph.product_id[pairs.col]].to_numpy()
    kept = graph.theta.copy()
    kept[pairs.row[~same], pairs.col[~same]] = 0.0
    kept.eliminate_zeros()
    found = found_rows(experiment, panel, replace(graph, theta=kept), frame, so_far="2024-01-20")
    linear = found[(found["estimator"] == spillovers.LINEAR) & (found["scale"] == "relative")].set_index("component")
    assert np.isfinite(linear.loc["total", "effect"])
    assert linear.loc[["direct", "spillover"], "effect"].isna().all()
    assert linear.loc["spillover", "reason"].startswith("not identified: all neighbours of these products move with")
    assert found["reason"].str.endswith("running: periods through 2024-01-20 only.").all()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"assignment": {"source": "arms.csv"}}, spillovers.IMPORTED),
        (
            {"treatment": [{"name": "less", "price_multiplier": 0.9}, {"name": "more", "price_multiplier": 1.1}]},
            spillovers.SEVERAL,
        ),
        ({}, spillovers.NO_GRAPH),
    ],
)
def test_what_is_not_identified_is_null_with_its_reason(make_experiment: Make, keys: Any, reason: str) -> None:
    _, panel, graph, frame, _ = played(make_experiment, "time_bound")
    experiment = make_experiment("time_bound", **keys)
    given = graph if keys else spillovers.Graph.of(edges().iloc[:0], graph.product_id)
    found = found_rows(experiment, panel, given, frame)
    corrected = found[found["estimator"] == spillovers.LINEAR]
    assert set(corrected["component"]) == set(spillovers.COMPONENTS)
    assert corrected["reason"].eq(reason).all()
    assert "effect" not in corrected or corrected["effect"].isna().all()
    assert np.isfinite(found.loc[found["estimator"] == spillovers.UNCORRECTED, "effect"]).all()


def test_triggered_experiments_are_refused(make_experiment: Make) -> None:
    design = {"kind": "triggered", "duration": 14, "event": "mailer", "horizon": "2024-02-08"}
    assert spillovers.refusal(make_experiment("time_bound", design=design)) == spillovers.TRIGGERED


def test_the_row_that_is_corrected_is_the_headline_on_both_scales() -> None:
    rows = [("units", "relative", "hpte", True), ("units", "level", "hpte", False), ("units", "level", "hajek", False)]
    effects = pd.DataFrame(rows, columns=["metric", "scale", "estimator", "is_headline"]).assign(arm="treatment")
    assert spillovers.quoted(pd.concat([effects, effects.assign(arm="other")])) == {}
    assert {key: row["estimator"] for key, row in spillovers.quoted(effects).items()} == {
        ("units", "relative"): "hpte",
        ("units", "level"): "hpte",
    }


@pytest.mark.parametrize("kind", ["time_bound", "crossover"])
def test_a_mixed_assignment_measures_interference(make_experiment: Make, kind: str) -> None:
    experiment, panel, graph, frame, world = played(make_experiment, kind, unit="mixed")
    found = found_rows(experiment, panel, graph, frame)
    relative = found[found["scale"] == "relative"].set_index(["component", "estimator"])
    interference = relative.loc[("interference", spillovers.META)]
    halves = [relative.loc[("total", f"half_by_{name}"), "effect"] for name in ("product", "cluster")]
    assert interference["effect"] == pytest.approx(halves[0] - halves[1], abs=ROUNDING)
    assert interference["se"] > 0
    # niches hold nearly all cross effects: what they remove is about direct less total effect
    expected = world.truth(estimand="direct").relative["units"] - world.truth().relative["units"]
    assert abs(interference["effect"] - expected) < BOUND * interference["se"] + 2 * SECOND_ORDER
    assert interference["n_units"] <= N


def test_halves_of_random_days_are_refused(make_experiment: Make) -> None:
    experiment, panel, graph, frame, _ = played(make_experiment, "random_days", unit="mixed")
    found = found_rows(experiment, panel, graph, frame)
    (row,) = found[(found["component"] == "interference") & (found["scale"] == "relative")].to_dict("records")
    assert row["reason"] == spillovers.BY_DAY_HALVES

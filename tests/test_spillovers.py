"""Exposure, spillover and total effects of an experiment in a simulated market whose cross effects are known."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pricelab_dagster import drawing, joint_states, spillovers
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.lake import shape
from pricelab_dagster.science import exposure, market, pair_probabilities
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
    found = joint_states.pair_states(graph, experiment, "day", frame, rng=np.random.default_rng(1))
    table = shape("experiment.pair_probabilities", joint_states.pair_table(experiment, graph, found)).to_pandas()
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
    found = joint_states.pair_states(graph, experiment, "day", frame, rng=np.random.default_rng(1))
    table = joint_states.pair_table(experiment, graph, found).to_pandas()
    assert table[["treated_out", "control_out", "both_treated"]].iloc[0].tolist() == [0.5, 0.5, 0.0]
    assert table["both_out"].tolist() == [0.0, 1.0]


def test_a_sample_leaves_products_out_as_often_as_it_should(make_experiment: Make) -> None:
    experiment, ids = make_experiment("time_bound"), list("abcdefgh")
    products = pd.DataFrame({"product_id": ids, "category": "MILK", "units_per_day": np.arange(8.0)})
    graph = spillovers.Graph.of(edges(), ids)

    def half(rng: np.random.Generator) -> drawing.Frame:
        drawn = rng.choice(ids, size=4, replace=False)
        return drawing.Frame.of(experiment, products[products["product_id"].isin(drawn)], {})

    rng = np.random.default_rng(2)
    sampled = joint_states.sampled_states(graph, experiment, "day", half, n_draws=joint_states.SAMPLE_DRAWS, rng=rng)
    assert (len(sampled.states), sampled.n_refused, sampled.reason) == (joint_states.SAMPLE_DRAWS, 0, None)
    found = pair_probabilities.monte_carlo(graph.pairs(), sampled.states)
    # both of four from eight: 4 x 3 / (8 x 7)
    both_in = found.probability[:, 1:, 1:].sum(axis=(1, 2))
    expected = 4 * 3 / (8 * 7)
    assert (np.abs(both_in - expected) < BOUND * np.sqrt(expected * (1 - expected) / found.n_draws)).all()


def clusters_of(sizes: dict[str, int]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return products and their clusters, which are called by letters."""
    names = [f"{name}{k}" for name, size in sizes.items() for k in range(size)]
    products = pd.DataFrame({"product_id": names, "category": "MILK", "units_per_day": np.arange(len(names)) + 1.0})
    return products, {name: name[0] for name in names}


def test_samples_that_cannot_carry_the_design_are_drawn_again_and_counted(make_experiment: Make) -> None:
    """One of two clusters is sampled: the one of three products has too few for the design, as a run would find."""
    where = {"where": "true", "sample": {"share": 0.5, "unit": "cluster"}}
    experiment = make_experiment("time_bound", scope=where)
    products, clusters = clusters_of({"a": 5, "b": 3})
    ids = list(products["product_id"])
    graph = spillovers.Graph.of(edges("a0 a1 0.5 0.4 3.0\n a1 a0 0.5 0.4 3.0"), ids)
    resampling = joint_states.Resampling.of(experiment, ids, products, clusters)
    assert resampling is not None
    small = drawing.Frame.of(experiment, products[5:], clusters)
    with pytest.raises(LabError, match="number of units == 3, must be 4"):
        drawing.draw_from(small, experiment, "day", rng=np.random.default_rng(0))
    rng = np.random.default_rng(3)
    found = joint_states.sampled_states(graph, experiment, "day", resampling.frame, n_draws=400, rng=rng)
    assert found.states.shape == (400, 8)
    assert (found.states[:, 5:] == -1).all()
    assert (found.states[:, :5] >= 0).all()
    # as many samples fail as hold: of 400 before the 400th that holds, with a variance of 800
    assert abs(found.n_refused - 400) < BOUND * np.sqrt(800)
    strata = resampling.strata(graph.product_id)
    assert strata is not None
    assert strata.tolist() == [0] * 5 + [1] * 3


def test_a_scope_whose_samples_hardly_ever_hold_says_so(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound")
    products, _ = clusters_of({"a": 3})
    frame = drawing.Frame.of(experiment, products, {})
    graph, rng = spillovers.Graph.of(edges(), list(products["product_id"])), np.random.default_rng(4)
    found = joint_states.sampled_states(graph, experiment, "day", lambda _: frame, n_draws=20, rng=rng)
    assert (len(found.states), found.n_refused) == (0, 20 * joint_states.SAMPLES_A_DRAW)
    assert found.reason == joint_states.RARELY_DRAWABLE
    assert joint_states.Resampling.of(experiment, list(products["product_id"]), products, {}) is None


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
    counted = found.set_index(["scale", "estimator", "component"])["n_units"]
    for scale in ("relative", "level"):
        # on random days each product is in both arms, and is one all the same
        assert counted.loc[(scale, spillovers.UNCORRECTED, "total")] == counted.loc[(scale, spillovers.LINEAR, "total")]
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
    for name in ("product", "cluster"):
        half = relative.loc[("total", f"half_by_{name}")]
        below, above = half["effect"] - half["ci_lower"], half["ci_upper"] - half["effect"]
        assert below == pytest.approx(above, abs=ROUNDING)
        # by t, with some twenty clusters
        assert 1.96 < above / half["se"] < 2.5
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


UNBOUND = """
    {0} {1} 0.05 0.01 0.3
    {1} {0} 0.02 0.01 0.3
"""


@pytest.mark.parametrize("kind", ["time_bound", "crossover", "random_days"])
def test_a_graph_without_a_strong_pair_exposes_nobody_and_says_so(make_experiment: Make, kind: str) -> None:
    experiment, panel, graph, frame, _ = played(make_experiment, kind)
    none = spillovers.Graph.of(edges(UNBOUND.format(*graph.product_id[:2])), graph.product_id)
    assert (none.n_identified, none.bound.nnz) == (2, 0)
    found = found_rows(experiment, panel, none, frame)
    relative = found[found["scale"] == "relative"].set_index(["component", "estimator"])
    assert np.isfinite(relative.loc[("direct", spillovers.LINEAR), "effect"])
    if kind != "random_days":
        assert np.isfinite(relative.loc[("direct", "exposure_hajek"), "effect"])
    for name in spillovers.WEIGHTED:
        row = relative.loc[("spillover", name)]
        assert np.isnan(row["effect"])
        said = "not identified: no product has a probability of 0.02 or more of both levels"
        assert row["reason"].startswith(spillovers.BY_DAY if kind == "random_days" else said)


def panel_of(drawn: Any, values: np.ndarray) -> science.Panel:
    """Return the panel of a draw over a week, its products sorted, the values as given."""
    row = np.argsort(drawn.product_id.astype(str))
    n = len(row)
    return science.Panel(
        product_id=drawn.product_id[row],
        date=drawn.date,
        unit_id=drawn.unit_id[row],
        category=np.full(n, "MILK", dtype=object),
        arm=drawn.arm[row].astype(float),
        in_analysis=np.ones(drawn.arm.shape, dtype=bool),
        probability=drawn.probability[row],
        phase=np.ones(drawn.arm.shape[1], dtype=int),
        history={"units": np.ones((n, 28))},
        observed={"units": values},
        kind="time_bound",
    )


def sampled_scope(make_experiment: Make, n: int, *, sample: dict[str, Any], unit: str) -> Any:
    """Return an experiment over a sample, its scope, clusters of three named by their first product, and a graph."""
    scoped = {"where": "true", "sample": sample}
    design = {"duration": 7, "blackout": 0}
    experiment = make_experiment("time_bound", design=design, assignment={"unit": unit}, scope=scoped)
    ids = [f"p{k:03d}" for k in range(n)]
    clusters = {one: ids[k // 3 * 3] for k, one in enumerate(ids)}
    pairs = [(a, b) for a, b in pairwise(ids) if clusters[a] == clusters[b]]
    pairs += [(ids[k], ids[k + 3]) for k in range(0, n - 3, 4)]
    text = "\n".join(f"{a} {b} 0.4 0.4 5.0\n{b} {a} 0.4 0.4 5.0" for a, b in pairs)
    products = pd.DataFrame({"product_id": ids, "category": "MILK", "units_per_day": np.arange(n) + 1.0})
    return experiment, products, clusters, spillovers.Graph.of(edges(text), ids)


def test_a_product_outside_is_no_member_of_the_cluster_that_has_its_name(make_experiment: Make) -> None:
    """The sample leaves out the product after which each cluster is called: its edges lead out of the unit."""
    sample = {"share": 0.67, "unit": "product"}
    experiment, products, clusters, graph = sampled_scope(make_experiment, 60, sample=sample, unit="cluster")
    inside = products[products["product_id"] != products["product_id"].map(clusters)]
    frame = drawing.Frame.of(experiment, inside, clusters)
    drawn = drawing.draw_from(frame, experiment, "day", rng=np.random.default_rng(0))
    panel = panel_of(drawn, np.ones(drawn.arm.shape))
    weighed = spillovers._Weighed.of(experiment, panel, graph, frame, None, rng=np.random.default_rng(1))
    outside = np.isnan(weighed.arm)
    assert outside.sum() == 20
    assert len(np.unique(weighed.units[outside])) == 20
    assert not set(weighed.units[outside]) & set(weighed.units[~outside])
    own = pd.Series(weighed.units[~outside], index=graph.product_id[~outside])
    assert own.groupby(own.index.map(clusters)).nunique().eq(1).all()
    assert own.nunique() == 20


@pytest.mark.parametrize(("unit", "sampled"), [("product", "product"), ("product", "cluster"), ("cluster", "product")])
def test_inclusion_enters_the_weights(
    make_experiment: Make, monkeypatch: pytest.MonkeyPatch, unit: str, sampled: str
) -> None:
    """Levels have the probabilities of sample and arms, and their mean over samples is the effect over the scope."""
    share, n_draws = 0.5, 800
    monkeypatch.setattr(spillovers, "DRAWS", n_draws)
    sample = {"share": share, "unit": sampled}
    experiment, products, clusters, graph = sampled_scope(make_experiment, 60, sample=sample, unit=unit)
    ids = list(products["product_id"])
    resampling = joint_states.Resampling.of(experiment, ids, products, clusters)
    assert resampling is not None
    rng = np.random.default_rng(8)
    frame = resampling.frame(rng)
    drawn = drawing.draw_from(frame, experiment, "day", rng=rng)
    panel = panel_of(drawn, np.ones(drawn.arm.shape))
    weighed = spillovers._Weighed.of(experiment, panel, graph, frame, resampling, rng=rng)
    assert weighed.levels is not None
    inside = weighed.levels.marginal.sum(axis=1)
    assert (np.abs(inside - share) < BOUND * np.sqrt(share * (1 - share) / n_draws)).all()
    # the regression is about the sample: its draws leave the others out
    assert ((weighed.states >= 0).all(axis=0) == ~np.isnan(weighed.arm)).all()
    direct, spill = np.linspace(0.0, 1.0, len(ids)), -0.2
    found = []
    states = joint_states.sampled_states(graph, experiment, "day", resampling.frame, n_draws=100, rng=rng).states
    overlap = (weighed.levels.marginal[:, [exposure.TREATED_EXPOSED, exposure.CONTROL]] >= 0.02).all(axis=1)
    assert overlap.any()
    for z in states:
        D = exposure.own_and_any(graph.bound, z)
        Y = np.where(z < 0, np.nan, direct * (D >= exposure.TREATED) + spill * (D % 2))
        contrast = (exposure.TREATED_EXPOSED, exposure.CONTROL)
        one = exposure.estimate(Y, D, weighed.levels, contrast=contrast, estimator="horvitz_thompson")
        found.append(one.effect)
    known = np.array(found)[np.isfinite(found)]
    truth = (direct + spill)[overlap].mean()
    assert len(known) > 0.9 * len(found)
    # the probabilities are themselves from draws
    slack = BOUND * known.std() * np.sqrt(1 / len(known) + 1 / n_draws)
    assert abs(known.mean() - truth) < slack


def test_a_half_with_few_clusters_has_no_interval_and_says_why(make_experiment: Make) -> None:
    experiment, panel, graph, frame, _ = played(make_experiment, "time_bound", unit="mixed")
    # of the half by product one cluster is left, the other products are alone
    cluster = pd.Series(frame.cluster, index=frame.product_id)
    whole = (pd.Series(frame.unit_id, index=frame.product_id) == cluster).groupby(cluster).transform("all")
    kept = cluster.where(whole | (cluster == cluster[~whole].iloc[0]))
    few = replace(frame, cluster=kept.fillna("none of " + cluster.index.to_series()).to_numpy(dtype=object))
    short = found_rows(experiment, panel, graph, few).query("scale == 'relative'").set_index("estimator")
    assert short.loc["half_by_product", "reason"] == spillovers.FEW_CLUSTERS
    assert np.isnan(short.loc["half_by_product", "ci_lower"])
    assert np.isfinite(short.loc["half_by_cluster", "ci_lower"])
    assert short.loc["half_by_cluster", "reason"] != spillovers.FEW_CLUSTERS


def test_a_table_for_the_web_shows_no_none() -> None:
    rows = [
        {"metric": "units", "scale": "relative", "component": "total", "estimator": name, "effect": effect}
        | {"ci_lower": None, "ci_upper": None, "reason": reason}
        for name, effect, reason in (("half_by_product", 0.1, None), (spillovers.LINEAR, None, "not identified."))
    ]
    shown = spillovers.markdown(pa.Table.from_pylist(rows)).splitlines()
    assert shown[2:] == [
        "| total | half_by_product | 0.1000 | - |",
        f"| total | {spillovers.LINEAR} | - | not identified. |",
    ]

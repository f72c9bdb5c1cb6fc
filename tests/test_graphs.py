from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pricelab_dagster import graphs
from pricelab_dagster.engine import Engine
from pricelab_dagster.lab import Clusters, Experiment
from pricelab_dagster.lab.config import Substitutes
from pricelab_dagster.lake import shape
from pricelab_dagster.science import substitutes
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench

Make = Callable[..., Experiment]

N_DAYS, PER_CATEGORY = 210, 4  # 30 weeks, above the 26 that edges need
CATEGORIES = ("BREAD", "MILK", "PASTA", "SOAP")
TRUE_EFFECT = 2.0  # of the first product's price on the second's demand, in each category
BOUND = 4.0  # standard errors: a miss of one in ten thousand


def names() -> list[str]:
    return [f"{category[0].lower()}{number}" for category in CATEGORIES for number in range(PER_CATEGORY)]


def simulated(seed: int, *, ar: float = 0.0, effect: float = 0.0) -> pa.Table:
    """Rows of `graphs.history`: log demand is noise, with the own price and, in each category, one cross effect."""
    rng = np.random.default_rng(seed)
    n = len(names())
    log_price = np.repeat(rng.normal(0, 0.1, (n, N_DAYS // 7)), 7, axis=1)
    noise = rng.normal(0, 0.1, (n, N_DAYS))
    for day in range(1, N_DAYS):
        noise[:, day] += ar * noise[:, day - 1]
    log_demand = noise - 1.5 * log_price
    log_demand[1::PER_CATEGORY] += effect * log_price[::PER_CATEGORY]
    start = date(2023, 1, 1)
    return pa.table(
        {
            "product_id": np.repeat(names(), N_DAYS),
            "category": np.repeat(np.repeat(CATEGORIES, PER_CATEGORY), N_DAYS),
            "date": pa.array([start + timedelta(days=day) for day in range(N_DAYS)] * n),
            "units": (20 * np.exp(log_demand)).ravel(),
            "price": np.exp(log_price).ravel(),
        }
    )


def features() -> pd.DataFrame:
    category = np.repeat(CATEGORIES, PER_CATEGORY)
    numbers = {"units_per_day": 20.0, "base_price": 1.0}
    return pd.DataFrame({"product_id": names(), "category": category, **numbers})


def raw_edges(rows: pa.Table) -> pa.Table:
    kernel = partial(graphs.category_edges, season=7)
    return Engine().by_group(rows, "category", kernel, schema=graphs.EDGE_SCHEMA)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """A lab whose lake holds ten days of three products."""
    (tmp_path / "sales.csv").write_text("p,d,u,price\na,2024-01-01,1,1\n")
    columns = "{product_id: p, date: d, units: u, price: price}"
    (tmp_path / "pricelab.yaml").write_text(f"sales:\n  source: sales.csv\n  columns: {columns}\n")
    bench = Workbench.open(tmp_path)
    rows = [
        {"product_id": product, "date": date(2024, 1, day), "units": float(day), "price": 2.0, "is_sold": True}
        for product in "cab"
        for day in range(10, 0, -1)
    ]
    schema = TABLES["intermediate.int_product_days"].schema
    bench.lake.write("intermediate.int_product_days", pa.Table.from_pylist(rows, schema=schema))
    return bench


def test_the_categories_of_a_scope_are_each_named_once() -> None:
    assert graphs.categories(features(), ["s0", "b1", "b3", "unknown"]) == ["BREAD", "SOAP"]
    assert graphs.categories(features(), []) == []


def test_the_fine_class_takes_the_place_of_the_category(bench: Workbench) -> None:
    rows = pd.DataFrame({"product_id": ["a", "b", "c"], "category": "MILK", "size": [1.0, None, 1.0]})
    assert graphs.by_class(bench, rows) is rows
    config = bench.lab.config.model_copy(update={"substitutes": Substitutes.model_construct(within="size")})
    fine = Workbench(replace(bench.lab, config=config))
    assert graphs.by_class(fine, rows)["category"].tolist() == ["1.0", "only b", "1.0"]
    assert graphs.settings(bench) == {}
    assert graphs.floors(bench) == {"min_units": 1.0, "min_price_sd": 0.01}


def test_history_is_that_of_the_wanted_products_before_the_start(bench: Workbench, make_experiment: Make) -> None:
    wanted = pd.DataFrame({"product_id": ["a", "c"], "category": ["MILK", "BREAD"]})
    found = graphs.history(bench, make_experiment(), wanted)
    assert found.schema.names == ["product_id", "category", "date", "units", "price"]
    expected = [(product, date(2024, 1, day)) for product in "ac" for day in range(1, 8)]
    assert list(zip(found["product_id"].to_pylist(), found["date"].to_pylist(), strict=True)) == expected
    assert set(found.filter(pc.equal(found["product_id"], "c"))["category"].to_pylist()) == {"BREAD"}


def test_the_periods_of_the_analysis_do_not_bound_what_a_graph_is_learned_from(
    bench: Workbench, make_experiment: Make
) -> None:
    wanted = pd.DataFrame({"product_id": ["a"], "category": ["MILK"]})
    found = graphs.history(bench, make_experiment(analysis={"pre_periods": 3}), wanted)
    assert found["date"].to_pylist() == [date(2024, 1, day) for day in range(1, 8)]


def test_edges_of_a_category_are_those_of_the_science(make_experiment: Make) -> None:
    rows = simulated(1, effect=TRUE_EFFECT)
    milk = rows.filter(pc.equal(rows["category"], "MILK"))
    grids = [milk[name].to_numpy().reshape(PER_CATEGORY, N_DAYS) for name in ("units", "price")]
    expected = substitutes.category_edges(np.array(["m0", "m1", "m2", "m3"], dtype=object), *grids, season=7).frame()
    found = graphs.category_edges(milk, season=7)
    assert found.schema.names == graphs.EDGE_SCHEMA.names
    pd.testing.assert_frame_equal(found.to_pandas(), expected[found.schema.names], check_dtype=False)
    shuffled = milk.take(np.random.default_rng(0).permutation(milk.num_rows))
    assert graphs.category_edges(shuffled, season=7).equals(found)


def test_a_planted_effect_is_found_on_the_right_price(make_experiment: Make) -> None:
    edges = graphs.finish_edges(raw_edges(simulated(2, effect=TRUE_EFFECT)), features()).to_pandas()
    assert len(edges) == len(CATEGORIES) * PER_CATEGORY * (PER_CATEGORY - 1)
    planted = edges["product_id"].str.endswith("1") & edges["on_price_of"].str.endswith("0")
    assert (edges["product_id"].str[0] == edges["on_price_of"].str[0]).all()
    assert (abs(edges.loc[planted, "effect"] - TRUE_EFFECT) < BOUND * edges.loc[planted, "se"]).all()
    assert edges.loc[planted, "effect"].min() > edges.loc[~planted, "effect"].max()


def test_finished_edges_fit_their_table() -> None:
    edges = graphs.finish_edges(raw_edges(simulated(3)), features())
    named = edges.append_column("experiment_id", pa.array(["milk"] * edges.num_rows))
    stored = shape("spillover.substitute_edges", named)
    assert stored["q_value"].null_count == stored["effect"].null_count == 0
    assert set(stored["history_weeks"].to_pylist()) == {N_DAYS // 7}


def test_a_short_history_gives_reasons_and_no_edges() -> None:
    rows = simulated(4)
    short = rows.filter(pc.less(rows["date"], pa.scalar(date(2023, 3, 1))))
    edges = graphs.finish_edges(raw_edges(short), features())
    assert edges["effect"].null_count == edges.num_rows > 0
    assert all(reason.startswith("not identified") for reason in edges["reason"].to_pylist())


def test_the_only_product_of_a_class_says_so() -> None:
    rows = simulated(3).filter(pc.is_in(simulated(3)["product_id"], pa.array([*names()[:5]])))
    edges = graphs.finish_edges(raw_edges(rows), features().iloc[:5])
    alone = edges.filter(pc.equal(edges["product_id"], names()[4])).to_pylist()
    assert [(row["on_price_of"], row["effect"]) for row in alone] == [(None, None)]
    assert alone[0]["reason"] == "not identified: the only product of its category"
    assert edges["effect"].null_count == 1


def test_the_weeks_are_those_of_the_shortest_history_with_an_effect() -> None:
    found = graphs.finish_edges(raw_edges(simulated(3)), features())
    assert graphs.weeks(found) == N_DAYS // 7
    assert np.isnan(graphs.weeks(found.slice(0, 0)))


EDGES = """
    a b 0.5 3.0
    b a 0.4 3.0
    c d 0.5 3.0
    d c 0.5 3.0
    a c 0.5 1.0
    c a 0.5 1.0
    b e -0.5 3.0
    e b -0.5 3.0
    f x 0.5 3.0
    x f 0.5 3.0
"""


def edges(text: str = EDGES) -> pa.Table:
    rows = [line.split() for line in text.strip().splitlines()]
    columns = {"product_id": [row[0] for row in rows], "on_price_of": [row[1] for row in rows]}
    return pa.table(columns | {"effect": [float(row[2]) for row in rows], "z": [float(row[3]) for row in rows]})


def test_clusters_hold_substitutes_of_the_scope_and_are_named_after_their_first_product() -> None:
    found = graphs.cluster(edges(), ["a", "b", "c", "d", "e", "f"], Clusters(max_size=12), seed=0)
    expected = {"a": "a", "b": "a", "c": "c", "d": "c", "e": "e", "f": "f"}
    assert dict(zip(*(found[name].to_pylist() for name in ("product_id", "cluster_id")), strict=True)) == expected


def test_pairs_of_either_sign_are_bound_where_asked() -> None:
    signed = edges(EDGES.replace("-0.5 3.0", "-0.5 -3.0"))
    found = graphs.cluster(signed, ["a", "b", "c", "d", "e", "f"], Clusters(edges="either_sign"), seed=0)
    expected = {"a": "a", "b": "a", "c": "c", "d": "c", "e": "a", "f": "f"}
    assert dict(zip(*(found[name].to_pylist() for name in ("product_id", "cluster_id")), strict=True)) == expected


def test_clusters_do_not_depend_on_the_order_of_the_edges() -> None:
    scope = ["a", "b", "c", "d", "e", "f"]
    first = graphs.cluster(edges(), scope, Clusters(max_size=12), seed=0)
    shuffled = edges().take(np.random.default_rng(1).permutation(10))
    assert graphs.cluster(shuffled, scope, Clusters(max_size=12), seed=0) == first


def test_the_method_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        graphs.clusters, "partition", lambda *_, nodes, method, **__: asked.append(method) or np.arange(len(nodes))
    )
    for method in ("leiden", "louvain", "severing"):
        graphs.cluster(edges(), ["a", "b"], Clusters(method=method), seed=0)
    assert asked == ["leiden", "louvain", "severing"]


def test_drift_counts_what_both_graphs_identify() -> None:
    before = """
        a b 0.4 3.0
        b a 0.2 3.0
        c d 0.5 1.0
        d c 0.3 1.0
        b e -0.5 3.0
        e b -0.5 3.0
        x y 0.5 3.0
        y x 0.5 3.0
    """
    found = graphs.drift(edges(), edges(before))
    # a b stays, c d is new; x y is not in the new graph
    assert {name: found[name] for name in ("pairs", "kept", "new", "gone")} == {
        "pairs": 6,
        "kept": 1,
        "new": 1,
        "gone": 0,
    }
    assert found["correlation"] == pytest.approx(
        np.corrcoef([0.5, 0.4, 0.5, 0.5, -0.5, -0.5], [0.4, 0.2, 0.5, 0.3, -0.5, -0.5])[0, 1]
    )
    swapped = graphs.drift(edges(before), edges())
    assert (swapped["kept"], swapped["new"], swapped["gone"]) == (1, 0, 1)
    assert np.isnan(graphs.drift(edges("a b 0.5 3.0"), edges("c d 0.5 3.0"))["correlation"])


def test_no_cluster_exceeds_its_cap() -> None:
    clique = "\n".join(f"{i} {j} 0.5 3.0" for i in "abcdef" for j in "abcdef" if i != j)
    found = graphs.cluster(edges(clique), list("abcdef"), Clusters(max_size=4), seed=0)
    assert max(found.group_by("cluster_id").aggregate([([], "count_all")])["count_all"].to_pylist()) <= 4
    whole = graphs.cluster(edges(clique), list("abcdef"), Clusters(max_size=12), seed=0)
    assert set(whole["cluster_id"].to_pylist()) == {"a"}


def test_without_edges_every_product_is_alone() -> None:
    nothing = edges().slice(0, 0)
    found = graphs.cluster(nothing, ["a", "b"], Clusters(max_size=12), seed=0)
    assert found["cluster_id"].to_pylist() == found["product_id"].to_pylist() == ["a", "b"]


def test_placebo_pairs_are_of_different_categories_and_seldom_look_like_edges() -> None:
    rows = simulated(5)
    found = graphs.placebo(rows, raw_edges(rows), season=7, rng=np.random.default_rng(0))
    assert found.n_pairs == len(CATEGORIES) * PER_CATEGORY * (PER_CATEGORY - 1) // 2
    assert found.rate < 0.3  # 24 pairs at a nominal one in twenty: eight or more have a chance below 1e-4


def test_placebo_pairs_are_divided_by_the_scale_of_the_real_edges() -> None:
    rows = simulated(6, ar=0.9)
    raw = raw_edges(rows)
    z = raw.to_pandas()["z"].dropna().to_numpy(dtype=float)
    scale = substitutes.null_scale(z)
    assert scale > 1.2
    units, price = (rows[name].to_numpy().reshape(-1, N_DAYS) for name in ("units", "price"))
    ids, labels = np.array(names(), dtype=object), np.repeat(np.array(CATEGORIES, dtype=object), PER_CATEGORY)
    expected = substitutes.placebo_rate(ids, units, price, labels, scale=scale, season=7, rng=np.random.default_rng(0))
    found = graphs.placebo(rows, graphs.finish_edges(raw, features()), season=7, rng=np.random.default_rng(0))
    assert found == expected


def test_a_price_of_zero_does_not_stop_the_graph() -> None:
    rows = simulated(3)
    price = rows["price"].to_numpy().copy()
    price[5] = 0.0
    rows = rows.set_column(rows.schema.get_field_index("price"), "price", pa.array(price))
    assert raw_edges(rows).num_rows == raw_edges(simulated(3)).num_rows

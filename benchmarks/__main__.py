"""Time each stage on a synthetic panel, beside a grouped sum over the same panel and a peer that does the same work."""

import json
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pricelab_dagster.engine import Engine
from pricelab_dagster.science import affinity, clusters, detrend, hpte, market

N_DAYS, WINDOW, REPEATS = 365, 28, 3
PACKAGES = ("duckdb", "numpy", "econml", "igraph", "networkx", "statsmodels")


@click.command()
@click.option("--products", default=2_000, show_default=True, help="Products of the panel.")
@click.option("--seed", default=1, show_default=True, help="Seed of the panel.")
@click.option("--out", default="study/bench.json", show_default=True, type=click.Path(path_type=Path), help="JSON.")
def main(products: int, seed: int, out: Path) -> None:
    """Print one table: seconds, ratio to the grouped sum, and how much slower the peer is; write the same as JSON."""
    rng = np.random.default_rng(seed)
    world = market.simulate(scenario="base", n_products=products, n_history=N_DAYS, n_window=WINDOW, rng=rng)
    arm = rng.permutation(np.arange(products) % 2)
    seen = world.observe(np.repeat(arm[:, None], WINDOW, axis=1))
    history, since = seen.units[:, :N_DAYS].astype(float), seen.units[:, N_DAYS:].astype(float)
    unit = _grouped_sum(history)
    predicted = detrend.forecast(history, WINDOW, groups=world.category)
    D = (since - predicted).mean(axis=1) / detrend.product_scale(history)
    leaves = affinity.fit_leaves(world.attributes, D, rng=np.random.default_rng(seed))
    edges = rng.integers(products, size=(10 * products, 2))
    edges = edges[edges[:, 0] != edges[:, 1]]
    rows = [
        ("one grouped sum", unit, None, ""),
        (
            "first difference",
            _seconds(lambda: detrend.forecast(history, WINDOW, groups=world.category)),
            _seconds(lambda: _statsmodels(history), repeats=1),
            "statsmodels OLS, product by product",
        ),
        (
            "second difference, 500 exact replicates",
            _seconds(lambda: hpte.estimate(D, arm, leaves=leaves, rng=np.random.default_rng(seed))),
            _seconds(lambda: _bincount(D, arm, leaves, 5), repeats=1) * 100,
            "np.bincount loop, 5 replicates times 100",
        ),
        (
            "clusters",
            _seconds(lambda: clusters.partition(edges, rng=np.random.default_rng(seed))),
            _seconds(lambda: nx.community.louvain_communities(nx.Graph(edges.tolist()), seed=seed), repeats=1),
            "networkx Louvain",
        ),
    ]
    facts = {"products": products, "days": N_DAYS, "seed": seed, "python": platform.python_version()}
    facts |= {name: version(name) for name in PACKAGES}
    _print(rows, unit, facts)
    out.parent.mkdir(parents=True, exist_ok=True)
    names = ("stage", "seconds", "peer_seconds", "peer")
    out.write_text(json.dumps({"facts": facts, "rows": [dict(zip(names, row, strict=True)) for row in rows]}, indent=1))


def _seconds(work: Callable[[], object], *, repeats: int = REPEATS) -> float:
    """Return the shortest of some timings; the first of several warms caches and compiled code."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _grouped_sum(history: np.ndarray) -> float:
    n, t = history.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.parquet"
        pq.write_table(pa.table({"product_id": np.repeat(np.arange(n), t), "units": history.ravel()}), path)
        query = "select product_id, sum(units) as units from lake.panel group by product_id"
        return _seconds(lambda: Engine().sql(query, tables={"lake.panel": [path]}))


def _statsmodels(history: np.ndarray) -> None:
    import statsmodels.api as sm

    day = np.arange(history.shape[1])
    X = sm.add_constant(np.column_stack([day, *(day % 7 == k for k in range(6))]).astype(float))
    for y in history:
        sm.OLS(y, X).fit()


def _bincount(D: np.ndarray, arm: np.ndarray, leaves: affinity.Leaves, replicates: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(replicates):
        w = rng.poisson(1.0, len(D)).astype(float)
        m, e = np.zeros_like(D), np.zeros_like(D)
        for leaf, honest in zip(leaves.leaf.T, leaves.in_honest.T, strict=True):
            mass = np.maximum(np.bincount(leaf, w * honest), 1.0)
            m += (np.bincount(leaf, w * honest * D) / mass)[leaf]
            e += (np.bincount(leaf, w * honest * arm) / mass)[leaf]


def _print(rows: list[tuple[str, float, float | None, str]], unit: float, facts: dict[str, object]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "seconds", "grouped sums", "peer is slower by", "peer"):
        table.add_column(name, justify="left" if name in ("stage", "peer") else "right", no_wrap=True)
    for stage, seconds, peer_seconds, peer in rows:
        slower = f"{peer_seconds / seconds:,.1f} x" if peer_seconds is not None else ""
        table.add_row(stage, f"{seconds:.3f}", f"{seconds / unit:,.1f}", slower, peer)
    Console(width=140).print(table)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))


if __name__ == "__main__":
    main()

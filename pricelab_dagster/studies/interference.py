"""One market with substitutes: how far each assignment and estimate is from the truth, and what was foretold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from pricelab_dagster import spillovers
from pricelab_dagster.science import certificate, clusters, designs, detrend, exposure, market, outliers, substitutes
from pricelab_dagster.workbench import stage_rng

FloatArray = NDArray[np.float64]

SUBSTITUTION = {"weak": "substitution_weak", "middle": "substitution_middle", "strong": "substitution_strong"}
HISTORY, WINDOW, MULTIPLIER = 365, 28, 0.95
MAX_SIZE = 12
ARM_DRAWS, REGRESSIONS = 200, 40
FALSE_DISCOVERY = 0.1
METHODS: tuple[clusters.Method, ...] = ("leiden", "louvain", "severing")
EITHER_SIGN = "leiden, either sign"
TRUE_EDGE = 0.1
"""Effects planted above it are edges of the oracle, and what the graph's own floor looks for."""


@dataclass(frozen=True, slots=True)
class World:
    """A market, its history, and the graph that was learned from the history alone."""

    market: market.Market
    edges: pd.DataFrame
    rng: np.random.Generator

    @classmethod
    def of(cls, scenario: str, replication: int) -> "World":
        """Return the world of a replication; equal arguments give equal worlds."""
        rng = stage_rng(replication, scenario, "interference")
        drawn = market.simulate(
            scenario=scenario, n_history=HISTORY, n_window=WINDOW, treatment_multiplier=MULTIPLIER, rng=rng
        )
        units, price = drawn.untreated_units[:, :HISTORY].astype(float), drawn.incumbent_price[:, :HISTORY]
        found = []
        for name in np.unique(drawn.category):
            own = drawn.category == name
            found.append(substitutes.category_edges(drawn.product_id[own], units[own], price[own]).frame())
        attributes = drawn.attributes.set_index(pd.Index(drawn.product_id))
        return cls(drawn, substitutes.finish_edges(pd.concat(found, ignore_index=True), attributes), rng)

    @property
    def theta(self) -> sparse.csr_array:
        """The planted cross effects, (N, N)."""
        return sparse.csr_array(self.market.theta)

    def learned(self) -> sparse.csr_array:
        """Return the shrunk effects of neighbours, (N, N), row the product whose price moves."""
        return spillovers.Graph.of(self.edges, list(self.market.product_id)).theta

    def clusters(self, method: clusters.Method, *, either_sign: bool = False) -> NDArray[np.int64]:
        """Return the labels by a method on the learned graph."""
        graph = substitutes.graph_edges(self.edges, either_sign=either_sign)
        nodes, rng = self.market.product_id, np.random.default_rng(0)
        return clusters.partition(
            graph.edges, weights=graph.weights, nodes=nodes, method=method, max_size=MAX_SIZE, rng=rng
        )

    def oracle(self) -> NDArray[np.int64]:
        """Return the labels on the planted graph."""
        upper = sparse.coo_array(sparse.triu(self.theta + self.theta.T, k=1))
        strong = upper.data > 2 * TRUE_EDGE
        pairs = np.stack([upper.row[strong], upper.col[strong]], axis=1)
        nodes, rng = range(len(self.market.product_id)), np.random.default_rng(0)
        return clusters.partition(pairs, nodes=list(nodes), max_size=MAX_SIZE, rng=rng)

    def arms(self, labels: NDArray[np.int64] | None, n_draws: int) -> NDArray[np.int8]:
        """Return draws of the arms (n_draws, N), by product or by cluster, in strata as the product makes them."""
        ids, units = self.market.product_id, None if labels is None else labels.astype(str)
        options: dict[str, Any] = {"duration": 1, "units": units, "strata": self.strata(labels), "rng": self.rng}
        start = self.market.date[HISTORY]
        return np.stack([designs.time_bound(ids, start, **options).arm[:, 0] for _ in range(n_draws)])

    def strata(self, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return the strata (N,): like products of a category, or pairs of like clusters across categories."""
        size, category = self.market.untreated_units[:, :HISTORY].mean(axis=1), self.market.category
        if labels is None:
            return designs.size_strata(category, size)
        first = np.unique(labels, return_index=True)[1]
        return designs.paired_strata(np.bincount(labels, weights=size), category=category[first])[labels]

    def lift(self, arm: NDArray[np.int8]) -> FloatArray:
        """Return what arms (R, N) do to the expected demand of each product, in parts of it."""
        own = self.market.own_elasticity[:, None]
        W = arm.T.astype(float)
        return np.expm1(np.log(MULTIPLIER) * (own * W + self.theta.T @ W)).T

    def noise(self) -> FloatArray:
        """Return the first differences (N,) of the window without treatment, in parts of each product's level.

        What the outlier filter drops is 0.
        """
        units = self.market.untreated_units.astype(float)
        history, window = units[:, :HISTORY], units[:, HISTORY:]
        predicted = detrend.forecast(history, WINDOW, groups=self.market.category)
        change = detrend.first_difference(window, predicted, np.ones(window.shape, dtype=bool))
        change /= detrend.product_scale(history)
        kept = outliers.keep_mask(change, np.zeros(len(change)))
        return np.where(kept, change - change[kept].mean(), 0.0)


def difference(outcome: FloatArray, arm: NDArray[np.int8]) -> FloatArray:
    """Return the difference between the arms' means, (R,), of outcomes and arms (R, N)."""
    W = arm.astype(float)
    treated, control = (W * outcome).sum(axis=1) / W.sum(axis=1), ((1 - W) * outcome).sum(axis=1) / (1 - W).sum(axis=1)
    return np.asarray(treated - control)


def measured(scenario: str, replication: int) -> dict[str, float]:
    """Return the figures of one world: biases and standard errors by assignment, and what the certificate foretold.

    Biases are expectations over draws of the arms of what prices do to expected demand, so that sales noise is no part
    of them; standard errors are those of draws of the arms over the window's untreated sales and the lifts.
    """
    world = World.of(scenario, replication)
    n = len(world.market.product_id)
    truth = float(world.lift(np.ones((1, n), dtype=np.int8)).mean())
    noise, theta = world.noise(), world.learned()
    found = {"truth": truth}
    labels: dict[str, NDArray[np.int64] | None] = {"product": None}
    labels |= {method: world.clusters(method) for method in METHODS}
    labels |= {EITHER_SIGN: world.clusters("leiden", either_sign=True), "oracle": world.oracle()}
    for name, label in labels.items():
        arms = world.arms(label, ARM_DRAWS)
        lifts = world.lift(arms)
        found[f"bias {name}"] = float(difference(lifts, arms).mean()) - truth
        found[f"se {name}"] = float(difference(lifts + noise, arms).std(ddof=1))
        if name in ("product", "leiden"):
            units = None if label is None else label.astype(str)
            totals = [
                exposure.linear(lifts[r], arms[r], theta, draws=arms, units=units).total.effect
                for r in range(REGRESSIONS)
            ]
            found[f"bias {name} + exposure"] = float(np.nanmean(totals)) - truth
            noisy = [
                exposure.linear(lifts[r] + noise, arms[r], theta, draws=arms, units=units).total.effect
                for r in range(REGRESSIONS)
            ]
            found[f"se {name} + exposure"] = float(np.nanstd(noisy, ddof=1))
    return found | _graph_errors(world) | _foretold(world)


def any_edge(replication: int) -> dict[str, float]:
    """Return whether a world without cross effects has an edge at the nominal false share."""
    world = World.of("null", replication)
    return {"any edge": float((world.edges["q_value"] <= FALSE_DISCOVERY).any())}


def _graph_errors(world: World) -> dict[str, float]:
    """Return the share of called edges that are not there, nan without any, and the share of those there found."""
    known = world.edges[world.edges["effect"].notna()]
    place = pd.Index(world.market.product_id)
    i, j = (place.get_indexer(pd.Index(known[name])) for name in ("on_price_of", "product_id"))
    planted = sparse.csr_array(world.theta + world.theta.T)
    true = np.abs(np.asarray(planted[i, j]).ravel()) > 2 * world.market.scenario.theta_background + 1e-12
    called = known["q_value"].to_numpy(dtype=float) <= FALSE_DISCOVERY
    return {
        "false share": float((~true[called]).mean()) if called.any() else 0.0,
        "found share": float(called[true].mean()) if true.any() else float("nan"),
    }


def _foretold(world: World) -> dict[str, float]:
    """Return the predicted biases with their intervals, by product and by clusters."""
    drawn = world.market
    known = certificate.evidence(
        drawn.product_id,
        drawn.untreated_units[:, :HISTORY].astype(float),
        drawn.incumbent_price[:, :HISTORY],
        drawn.category,
    )
    chosen: dict[str, Any] = {
        "product": certificate.same_stratum(world.strata(None)),
        "leiden": certificate.form_clusters(known, max_size=MAX_SIZE, rng=world.rng),
    }
    found: dict[str, float] = {}
    for name, design in chosen.items():
        one = certificate.predict(known, design, multiplier=MULTIPLIER, rng=world.rng)
        found |= {f"foretold {name}": one.bias, f"low {name}": one.ci_lower, f"high {name}": one.ci_upper}
    return found

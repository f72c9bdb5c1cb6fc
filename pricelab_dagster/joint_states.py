"""The graph over an experiment's products, and the states that its mechanism may give them, the sample included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from pricelab_dagster import drawing, scope
from pricelab_dagster.lab import Experiment, Grain, LabError
from pricelab_dagster.science import pair_probabilities, substitutes
from pricelab_dagster.science.pair_probabilities import CONTROL, OUT, TREATMENT
from pricelab_dagster.tables import TABLES

SAMPLE_DRAWS, SAMPLES_A_DRAW, FEWEST_SAMPLES = 1000, 10, 100
"""Draws of sample and arms, how many samples may be tried for each, and the fewest that frequencies are told from."""
RARELY_DRAWABLE = "not identified: samples of this scope are hardly ever large enough for the design to draw arms."


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph over the products that an experiment may touch.

    Attributes
    ----------
    product_id
        (N,) sorted.
    theta
        Sparse (N, N): [i, j] is the shrunk effect of i's log price on j's relative demand, of neighbours alone. Over
        all pairs exposure would be nearly the share of the class that is treated, which designs hold constant.
    bound
        Sparse (N, N), 1 where two products are neighbours, of either sign.
    n_identified
        Ordered pairs that the history identifies.
    """

    product_id: NDArray[np.object_]
    theta: sparse.csr_array
    bound: sparse.csr_array
    n_identified: int

    @classmethod
    def of(cls, edges: pd.DataFrame, products: Sequence[str]) -> "Graph":
        """Return the graph of spillover.substitute_edges over some products."""
        ids = np.array(sorted(set(products)), dtype=object)
        known = edges[edges["effect"].notna()]
        place = pd.Index(ids)
        row, column = (place.get_indexer(known[name]) for name in ("on_price_of", "product_id"))
        inside = (row >= 0) & (column >= 0)
        known, row, column = known[inside], row[inside], column[inside]
        shape = (len(ids), len(ids))
        effects = sparse.csr_array((known["shrunk_effect"].to_numpy(dtype=float), (row, column)), shape=shape)
        pairs = substitutes.graph_edges(known, either_sign=True).edges
        first, second = (place.get_indexer(pairs[:, side]) for side in (0, 1))
        ones = np.ones(2 * len(pairs))
        bound = sparse.csr_array((ones, (np.r_[first, second], np.r_[second, first])), shape=shape)
        return cls(ids, sparse.csr_array(effects.multiply(bound)), bound, len(known))

    def pairs(self) -> NDArray[np.int64]:
        """Return the neighbours (M, 2), each pair once."""
        upper = sparse.coo_array(sparse.triu(self.bound, k=1))
        return np.stack([upper.row, upper.col], axis=1).astype(np.int64)

    def at(self, product_id: NDArray[np.object_]) -> NDArray[np.intp]:
        """Return where products stand in the graph, -1 for those outside."""
        return np.asarray(pd.Index(self.product_id).get_indexer(pd.Index(product_id)))


@dataclass(frozen=True, slots=True)
class Resampling:
    """How the sample of a scope comes about: who would be drawn of another sample.

    Attributes
    ----------
    frame
        Draws a sample, and returns who is drawn from.
    cluster
        Cluster by product of the scope where clusters are sampled or assigned, so that the states of their products
        hang together; empty where neither is.
    """

    frame: Callable[[np.random.Generator], drawing.Frame]
    cluster: Mapping[str, str]

    @classmethod
    def of(
        cls, experiment: Experiment, covered: Sequence[str], features: pd.DataFrame, clusters: Mapping[str, str]
    ) -> "Resampling | None":
        """Return the resampling of an experiment, None where its whole scope takes part.

        Parameters
        ----------
        covered : products of the scope.
        features : intermediate.int_product_features.
        clusters : cluster by product.
        """
        wanted = experiment.scope.sample
        if wanted.share == 1.0:
            return None
        known = features[features["product_id"].isin(set(covered))].sort_values("product_id")

        def frame(rng: np.random.Generator) -> drawing.Frame:
            drawn = scope.sample(experiment, covered, clusters, rng=rng).products
            return drawing.Frame.of(experiment, known[known["product_id"].isin(set(drawn))], clusters)

        return cls(frame, clusters if wanted.unit == "cluster" or experiment.assignment.by_cluster else {})

    def strata(self, product_id: NDArray[np.object_]) -> NDArray[np.int64] | None:
        """Return labels (N,) of products that are drawn with regard to each other, None without clusters."""
        if not self.cluster:
            return None
        return pd.factorize(np.array([self.cluster.get(one, f"alone {one}") for one in product_id], dtype=object))[0]


@dataclass(frozen=True, slots=True)
class SampledStates:
    """States over draws of the sample and of the arms inside it.

    Attributes
    ----------
    states
        (R, N): 1 treated, 0 control, -1 outside.
    n_refused
        Samples that were drawn besides and left out, because the design cannot draw arms in them.
    """

    states: NDArray[np.int8]
    n_refused: int

    @property
    def reason(self) -> str | None:
        """Why frequencies over the draws say nothing, or None."""
        return RARELY_DRAWABLE if len(self.states) < FEWEST_SAMPLES else None


def sampled_states(
    graph: Graph,
    experiment: Experiment,
    grain: Grain,
    draw_frame: Callable[[np.random.Generator], drawing.Frame],
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> SampledStates:
    """Return states in the first period over draws of the sample and of the arms inside it.

    They are given that the sample carries the design: of one that does not there would be no experiment, so another is
    drawn in its place. Fewer than `n_draws` rows where that takes more than `SAMPLES_A_DRAW` samples each.
    """
    states = np.full((n_draws, len(graph.product_id)), -1, dtype=np.int8)
    n_found = n_tried = 0
    while n_found < n_draws and n_tried < SAMPLES_A_DRAW * n_draws:
        n_tried += 1
        try:
            frame = draw_frame(rng)
            drawn = drawing.draw_from(frame, experiment, grain, rng=rng)
        except LabError:
            continue
        states[n_found, graph.at(frame.product_id)] = drawn.arm[:, 0] > 0
        n_found += 1
    return SampledStates(states[:n_found], n_tried - n_found)


def pair_states(
    graph: Graph, experiment: Experiment, grain: Grain, frame: drawing.Frame, *, rng: np.random.Generator
) -> pair_probabilities.PairProbabilities:
    """Return the joint states of neighbours in the first period, exact, given who was drawn from.

    Positions are those of the graph; products that are not in the draw are out.
    """
    drawn = drawing.draw_from(frame, experiment, grain, rng=rng)
    place = np.full(len(graph.product_id) + 1, -1)
    place[graph.at(frame.product_id)] = np.arange(len(frame.product_id))
    pairs = graph.pairs()
    found = pair_probabilities.closed_form(place[pairs], drawn, strata=frame.stratum)
    return pair_probabilities.PairProbabilities(pairs[:, 0], pairs[:, 1], found.probability, found.se, found.n_draws)


def pair_table(experiment: Experiment, graph: Graph, found: pair_probabilities.PairProbabilities) -> pa.Table:
    """Return joint state probabilities as rows of experiment.pair_probabilities."""
    names = {OUT: "out", TREATMENT: "treated", CONTROL: "control"}
    ends = [graph.product_id[side] for side in (found.first, found.second)]
    columns: dict[str, Any] = {"product_id": ends[0], "neighbour_id": ends[1], "n_draws": found.n_draws}
    for a, first in names.items():
        for b, second in names.items():
            columns[f"both_{first}" if a == b else f"{first}_{second}"] = found.probability[:, a, b]
    frame = pd.DataFrame(columns | {"experiment_id": experiment.id})
    schema = TABLES["experiment.pair_probabilities"].schema
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)

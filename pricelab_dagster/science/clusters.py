"""Groups of substitutes that move together: the graph of products is cut where its links are few."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pricelab_dagster.science import _graph_input as graph_input

__all__ = ["modularity", "partition"]

Array = npt.NDArray[Any]
Method = Literal["leiden", "louvain", "severing"]
Objective = Literal["cpm", "modularity"]

RESOLUTION = {"cpm": 0.05, "modularity": 1.0}
LOUVAIN_RUNS, LEIDEN_ROUNDS = 20, 100
"""A single Louvain run often ends below the optimum; the best of these counts. Leiden runs until nothing improves; on
small graphs with a tie it can go round for ever, so that its rounds are bounded."""


def partition(
    edges: Array | Sequence[tuple[Hashable, Hashable]],
    *,
    weights: Array | None = None,
    nodes: Sequence[Hashable] | Array | None = None,
    method: Method = "leiden",
    objective: Objective = "cpm",
    resolution: float | None = None,
    max_size: int | None = None,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Cluster labels 0, 1, ... in node order, numbered by each cluster's smallest node.

    The clusters maximise the objective: ``cpm``, link weight inside less resolution times pairs inside, summed over
    clusters; ``modularity``, link weight inside less resolution times its expectation given the degrees. A cluster
    above `max_size` is split again at doubled resolution until no part exceeds it; then the parts with the heaviest
    links are joined again where they fit. Nodes without links stay alone.

    The result does not depend on the order of rows, nor on the names of nodes, except where nodes that the structure
    cannot tell apart have to be told apart.

    Parameters
    ----------
    edges : (M, 2) undirected links; links given twice add up
    weights : (M,) positive; 1 when None
    nodes : the order of the labels; the sorted nodes of `edges` when None, numbers before text
    method : ``leiden``; ``louvain``, by modularity whatever `objective` says; ``severing``, which grows the densest
        region from the node with the heaviest links, cuts its links to the rest, and goes on with the rest
    resolution : .05 for cpm, 1 for modularity when None; larger means smaller clusters
    max_size : largest cluster; no bound when None
    rng : breaks ties

    Raises
    ------
    ValueError
        For links of a node to itself, weights that are not positive, links to nodes not in `nodes`, nodes given twice
        or nan, an unknown method or objective, a resolution that is not above 0, or `max_size` below 1.

    References
    ----------
    Traag, Waltman and van Eck (2019), Scientific Reports 9:5233; Traag, Van Dooren and Nesterov (2011), Phys. Rev. E
    84, 016114 (CPM); Blondel et al. (2008), J. Stat. Mech. P10008; Zhao, Levina and Zhu (2011), PNAS 108 (extraction of
    one community at a time).

    Examples
    --------
    >>> edges = [("a", "b"), ("b", "c"), ("a", "c"), ("x", "y")]
    >>> partition(edges, nodes=["x", "y", "a", "b", "c", "z"], rng=np.random.default_rng(0)).tolist()
    [1, 1, 0, 0, 0, 2]
    """
    _check_options(method, objective, resolution, max_size)
    first, second = graph_input.ends(edges)
    order = graph_input.node_order(first, second, nodes)
    rank = {node: k for k, node in enumerate(graph_input.in_order(order))}
    links, w = graph_input.merged(
        [rank[a] for a in first], [rank[b] for b in second], graph_input.weights(weights, len(first))
    )
    structure = graph_input.structure_order(len(rank), links, w)
    links, w = graph_input.merged(structure[links[:, 0]], structure[links[:, 1]], w)
    rule: Objective = "modularity" if method == "louvain" else objective
    gamma = RESOLUTION[rule] if resolution is None else resolution
    if method == "severing":
        found = _sever(len(rank), links, w, rule, gamma, max_size or len(rank))
    else:
        found = _optimise(len(rank), links, w, method, rule, gamma, max_size, rng)
    by_rank = found[structure]
    _, smallest, inverse = np.unique(by_rank, return_index=True, return_inverse=True)
    label = np.argsort(np.argsort(smallest))[inverse]
    return np.array([label[rank[node]] for node in order], dtype=np.int64)


def modularity(
    edges: Array | Sequence[tuple[Hashable, Hashable]],
    labels: Array | Sequence[int] | Mapping[Any, int],
    *,
    weights: Array | None = None,
) -> float:
    """Newman's modularity at resolution 1: link weight inside clusters less its expectation given the degrees.

    Parameters
    ----------
    edges : (M, 2) undirected links; links given twice add up
    labels : a mapping from node to label; or labels in the sorted order of the nodes of `edges`; or, for nodes that are
        numbers from 0, by position
    weights : (M,) positive; 1 when None

    Raises
    ------
    ValueError
        Without links, where modularity has no meaning, or if the labels do not fit the nodes.

    References
    ----------
    Newman (2004), Phys. Rev. E 70, 056131.

    Examples
    --------
    >>> modularity([(0, 1), (2, 3)], [0, 0, 1, 1])
    0.5
    """
    first, second = graph_input.ends(edges)
    if not first:
        raise ValueError("edges has 0 rows, must have 1: without links modularity has no meaning. Give the links.")
    w = graph_input.weights(weights, len(first))
    label = graph_input.labels_of(set(first) | set(second), labels)
    a, b = (np.array([label[node] for node in ends]) for ends in (first, second))
    _, code = np.unique(np.concatenate([a, b]), return_inverse=True)
    degree = np.bincount(code, np.concatenate([w, w]))
    return float(w[a == b].sum() / w.sum() - np.sum((degree / degree.sum()) ** 2))


def _check_options(method: str, objective: str, resolution: float | None, max_size: int | None) -> None:
    if method not in ("leiden", "louvain", "severing"):
        raise ValueError(f"method == {method!r}, must be leiden, louvain or severing. Name one.")
    if objective not in RESOLUTION:
        raise ValueError(f"objective == {objective!r}, must be cpm or modularity. Name one.")
    if resolution is not None and not 0.0 < resolution < np.inf:
        raise ValueError(f"resolution == {resolution}, must be above 0 and finite. .05 is usual for cpm, 1 else.")
    if max_size is not None and max_size < 1:
        raise ValueError(f"max_size == {max_size}, must be at least 1. Give the largest cluster, or None.")


def _optimise(
    n: int,
    links: Array,
    w: Array,
    method: Method,
    objective: Objective,
    resolution: float,
    max_size: int | None,
    rng: np.random.Generator,
) -> Array:
    """Labels (n,) by Leiden or Louvain, within `max_size`."""
    import igraph

    def split(graph: Any, gamma: float) -> Array:
        if method == "louvain":
            runs = [graph.community_multilevel(weights="weight", resolution=gamma) for _ in range(LOUVAIN_RUNS)]
            best = max(runs, key=lambda run: graph.modularity(run, weights="weight", resolution=gamma))
            return np.array(best.membership)
        name = {"cpm": "CPM", "modularity": "modularity"}[objective]
        found = graph.community_leiden(name, weights="weight", resolution=gamma, n_iterations=LEIDEN_ROUNDS)
        return np.array(found.membership)

    graph = igraph.Graph(n=n, edges=links)
    graph.es["weight"] = w.tolist()
    if not len(links):
        return np.arange(n)
    igraph.set_random_number_generator(random.Random(int(rng.integers(2**63))))
    try:
        labels = split(graph, resolution)
        if max_size is not None:
            labels = _within(labels, graph, split, resolution, max_size)
    finally:
        igraph.set_random_number_generator(random)
    return labels


def _within(labels: Array, graph: Any, split: Callable[[Any, float], Array], resolution: float, max_size: int) -> Array:
    """Labels whose clusters do not exceed `max_size`: split at doubled resolutions, then joined where parts fit."""
    out = labels.copy()
    for oversize in np.flatnonzero(np.bincount(labels) > max_size):
        members = np.flatnonzero(labels == oversize)
        pending, parts = [(members, 2 * resolution)], []
        while pending:
            whole, gamma = pending.pop()
            sub = split(graph.induced_subgraph(whole), gamma)
            pieces = [whole[sub == k] for k in range(sub.max() + 1)]
            parts += [piece for piece in pieces if len(piece) <= max_size]
            pending += [(piece, 2 * gamma) for piece in pieces if len(piece) > max_size]
        out[members] = out.max() + 1 + _joined(graph.induced_subgraph(members), members, parts, max_size)
    return out


def _joined(sub: Any, members: Array, parts: list[Array], max_size: int) -> Array:
    """Part of each member after joining parts along their heaviest links while the sum fits."""
    part = np.empty(len(members), dtype=np.int64)
    for k, piece in enumerate(sorted(parts, key=lambda piece: int(piece.min()))):
        part[np.searchsorted(members, piece)] = k
    ends = np.array(sub.get_edgelist(), dtype=np.int64).reshape(-1, 2)
    between = part[ends[:, 0]] != part[ends[:, 1]]
    links, w = graph_input.merged(part[ends[between, 0]], part[ends[between, 1]], np.array(sub.es["weight"])[between])
    root, size = list(range(len(parts))), np.bincount(part).tolist()

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for link in links[np.argsort(-w, kind="stable")].tolist():
        a, b = find(link[0]), find(link[1])
        if a != b and size[a] + size[b] <= max_size:
            size[a] += size[b]
            root[b] = a
    return np.array([find(k) for k in range(len(parts))])[part]


def _sever(n: int, links: Array, w: Array, objective: Objective, resolution: float, max_size: int) -> Array:
    """Labels (n,): one dense region after the other is grown and cut off."""
    neighbours: list[dict[int, float]] = [{} for _ in range(n)]
    for (a, b), weight in zip(links.tolist(), w.tolist(), strict=True):
        neighbours[a][b] = neighbours[b][a] = weight
    degree = np.array([sum(near.values()) for near in neighbours])
    size = np.ones(n) if objective == "cpm" else degree / np.sqrt(max(degree.sum(), 1.0))
    labels = np.full(n, -1, dtype=np.int64)
    for region, seed in enumerate(np.argsort(-degree, kind="stable").tolist()):
        if labels[seed] >= 0:
            continue
        pull: dict[int, float] = {}
        inside, n_inside, mass = seed, 0, 0.0
        while True:
            labels[inside] = region
            n_inside, mass = n_inside + 1, mass + size[inside]
            pull.pop(inside, None)
            for node, weight in neighbours[inside].items():
                if labels[node] < 0:
                    pull[node] = pull.get(node, 0.0) + weight
            gain = {node: weight - resolution * size[node] * mass for node, weight in pull.items()}
            inside = max(gain, key=lambda node: (gain[node], -node), default=-1)
            if n_inside >= max_size or inside < 0 or gain[inside] <= 0:
                break
    return labels

"""What `clusters` makes of edges, weights and node names before any clustering: checked, merged, put in order."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

REFINEMENT_ROUNDS = 10


def ends(edges: Array | Sequence[tuple[Hashable, Hashable]]) -> tuple[list[Any], list[Any]]:
    pairs: Iterable[Any] = edges.tolist() if isinstance(edges, np.ndarray) else edges
    ends = [tuple(pair) for pair in pairs]
    for row, pair in enumerate(ends):
        if len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"edges[{row}] == {pair}, must join two nodes. Drop the row.")
    return [a for a, _ in ends], [b for _, b in ends]


def in_order(nodes: Iterable[Any]) -> list[Any]:
    """The nodes sorted: numbers by size, then other kinds by the name of their type."""

    def key(node: Any) -> tuple[str, Any]:
        return ("", node) if isinstance(node, numbers.Real) else (type(node).__name__, node)

    return sorted(nodes, key=key)


def weights(weights: Array | None, n_edges: int) -> Array:
    w = np.ones(n_edges) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (n_edges,):
        raise ValueError(f"weights.shape == {w.shape}, must be ({n_edges},). Give one weight for each edge.")
    bad = w[~((w > 0) & np.isfinite(w))]
    if len(bad):
        raise ValueError(f"weights == {bad[0]}, must be above 0. Drop links without strength.")
    return w


def node_order(first: list[Any], second: list[Any], nodes: Sequence[Hashable] | Array | None) -> list[Any]:
    linked = set(first) | set(second)
    order = nodes.tolist() if isinstance(nodes, np.ndarray) else list(linked if nodes is None else nodes)
    nameless = sum(node != node for node in order)
    if nameless:
        raise ValueError(f"nodes has {nameless} nan, must have none: nan is not equal to itself. Name each node.")
    if nodes is None:
        return in_order(order)
    if len(set(order)) < len(order):
        raise ValueError(f"nodes has {len(order) - len(set(order))} repeats, must be unique. Give each node once.")
    unknown = in_order(linked - set(order))
    if unknown:
        raise ValueError(f"edges have {len(unknown)} nodes such as {unknown[:3]} that nodes lacks. Add them to nodes.")
    return order


def labels_of(linked: set[Any], labels: Array | Sequence[int] | Mapping[Any, int]) -> dict[Any, Any]:
    if isinstance(labels, Mapping):
        known = dict(labels)
    elif len(labels) == len(linked):
        known = dict(zip(in_order(linked), labels, strict=True))
    else:
        known = dict(enumerate(labels))
    missing = linked - set(known)
    if missing:
        raise ValueError(
            f"len(labels) == {len(labels)}, must fit {len(linked)} nodes. Give a mapping from node to label."
        )
    return known


def merged(first: Any, second: Any, w: Array) -> tuple[Array, Array]:
    """Links (M, 2) with the smaller end first, sorted, each once, and their added weights."""
    links = np.sort(np.column_stack([np.asarray(first, np.int64), np.asarray(second, np.int64)]), axis=1)
    if not len(links):
        return links, w
    order = np.lexsort((w, links[:, 1], links[:, 0]))
    links, w = links[order], w[order]
    new = np.r_[True, (links[1:] != links[:-1]).any(axis=1)]
    return links[new], np.add.reduceat(w, np.flatnonzero(new))


def structure_order(n: int, links: Array, w: Array) -> npt.NDArray[np.int64]:
    """Each node's place in an order made from the structure alone by colour refinement, names breaking what is left."""
    colour = np.zeros(n, dtype=np.int64)
    for _ in range(REFINEMENT_ROUNDS):
        # Roots of distinct numbers seldom have equal sums, so that unlike neighbourhoods get unlike keys.
        mark = np.sqrt(colour + 2.0)
        key = np.bincount(links[:, 0], w * mark[links[:, 1]], n) + np.bincount(links[:, 1], w * mark[links[:, 0]], n)
        key = np.round(key, 9)
        order = np.lexsort((key, colour))
        step = (np.diff(colour[order]) != 0) | (np.diff(key[order]) != 0)
        refined = np.empty(n, dtype=np.int64)
        refined[order] = np.concatenate([np.zeros(min(n, 1), dtype=np.int64), np.cumsum(step)])
        if n == 0 or refined.max() == colour.max():
            break
        colour = refined
    place = np.empty(n, dtype=np.int64)
    place[np.argsort(colour, kind="stable")] = np.arange(n)
    return place

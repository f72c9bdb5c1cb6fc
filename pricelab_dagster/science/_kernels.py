"""Leaf sums over trees for a block of weight vectors: the compiled loops behind `effects`.

Rows are products sorted by unit, `start[u]:start[u + 1]` the rows of unit u, columns are replicates. Every array is
C-contiguous, so that the innermost loop runs over one row of replicates. Sums run in row order: the same input gives
the same bits.
"""

from typing import Any

import numpy as np
from numba import njit

# A rest this small a part of its leaf's weight is rounding, left by taking out the own unit, not a neighbour.
EMPTY = 1e-12

# Without fastmath: fused or reordered operations would make the bits depend on the processor.
_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
def _add_rows(first: int, last: int, leaf: Any, honest: Any, channels: Any, total: Any) -> None:
    """Add the honest rows of `first:last` to the totals (leaves, K, B) of their leaves."""
    for i in range(first, last):
        if honest[i]:
            row, into = channels[i], total[leaf[i]]
            for k in range(row.shape[0]):
                for b in range(row.shape[1]):
                    into[k, b] += row[k, b]


@_compiled
def _add_means(total: Any, own: Any, share: float, mean: Any, n_used: Any, inverse: Any) -> None:
    """Add to `mean` the leaf means without `share` times the own sums, where anyone else is there, and count them."""
    for b in range(inverse.shape[0]):
        rest = total[0, b] - share * own[0, b]
        some = rest > EMPTY * total[0, b]
        inverse[b] = 1.0 / rest if some else 0.0
        n_used[b] += 1.0 if some else 0.0
    for k in range(mean.shape[0]):
        for b in range(inverse.shape[0]):
            mean[k, b] += (total[k + 1, b] - share * own[k + 1, b]) * inverse[b]


@_compiled
def neighbour_means(leaf: Any, honest: Any, start: Any, n_leaves: int, channels: Any) -> tuple[Any, Any]:
    """Return for every row the mean over trees of the leaf mean of its neighbours, and the number of trees behind it.

    The neighbours of a row in a tree are the honest rows of its leaf that belong to other units.

    Parameters
    ----------
    leaf, honest : (trees, N)
        Leaf codes, and whether the row is in J_b.
    start : (units + 1,)
        First row of each unit.
    n_leaves : int
        More than the largest leaf code.
    channels : (N, K, B)
        Weights, then K - 1 weighted values.

    Returns
    -------
    mean : (N, K - 1, B)
        nan where no tree has a neighbour.
    n_used : (N, B)
    """
    n_rows, n_channels, n_columns = channels.shape
    total = np.zeros((n_leaves, n_channels, n_columns))
    own = np.zeros((n_leaves, n_channels, n_columns))
    mean = np.zeros((n_rows, n_channels - 1, n_columns))
    n_used = np.zeros((n_rows, n_columns))
    inverse = np.empty(n_columns)
    for t in range(leaf.shape[0]):
        total[:] = 0.0
        _add_rows(0, n_rows, leaf[t], honest[t], channels, total)
        for u in range(start.shape[0] - 1):
            first, last = start[u], start[u + 1]
            if last - first == 1:
                share = 1.0 if honest[t, first] else 0.0
                _add_means(total[leaf[t, first]], channels[first], share, mean[first], n_used[first], inverse)
                continue
            for i in range(first, last):
                own[leaf[t, i]] = 0.0
            _add_rows(first, last, leaf[t], honest[t], channels, own)
            for i in range(first, last):
                _add_means(total[leaf[t, i]], own[leaf[t, i]], 1.0, mean[i], n_used[i], inverse)
    for i in range(n_rows):
        for k in range(n_channels - 1):
            for b in range(n_columns):
                mean[i, k, b] /= n_used[i, b]
    return mean, n_used


@_compiled
def neighbour_means_of_days(leaf: Any, honest: Any, start: Any, n_leaves: int, w: Any, values: Any) -> tuple[Any, Any]:
    """Return what `neighbour_means` does, for one weight vector and many values that share it.

    Parameters
    ----------
    leaf, honest, start, n_leaves
        As in `neighbour_means`.
    w : (N,)
    values : (N, K)

    Returns
    -------
    mean : (N, K)
        nan where no tree has a neighbour.
    n_used : (N,)
    """
    n_rows, n_values = values.shape
    total, own = np.zeros((n_leaves, n_values)), np.zeros((n_leaves, n_values))
    weight, own_weight = np.zeros(n_leaves), np.zeros(n_leaves)
    mean, n_used = np.zeros((n_rows, n_values)), np.zeros(n_rows)
    for t in range(leaf.shape[0]):
        total[:] = 0.0
        weight[:] = 0.0
        for i in range(n_rows):
            if honest[t, i] and w[i] > 0.0:
                cell = leaf[t, i]
                weight[cell] += w[i]
                for k in range(n_values):
                    total[cell, k] += w[i] * values[i, k]
        for u in range(start.shape[0] - 1):
            for i in range(start[u], start[u + 1]):
                own[leaf[t, i]] = 0.0
                own_weight[leaf[t, i]] = 0.0
            for i in range(start[u], start[u + 1]):
                if honest[t, i] and w[i] > 0.0:
                    cell = leaf[t, i]
                    own_weight[cell] += w[i]
                    for k in range(n_values):
                        own[cell, k] += w[i] * values[i, k]
            for i in range(start[u], start[u + 1]):
                cell = leaf[t, i]
                rest = weight[cell] - own_weight[cell]
                if rest > EMPTY * weight[cell]:
                    n_used[i] += 1.0
                    inverse = 1.0 / rest
                    for k in range(n_values):
                        mean[i, k] += (total[cell, k] - own[cell, k]) * inverse
    for i in range(n_rows):
        for k in range(n_values):
            mean[i, k] /= n_used[i]
    return mean, n_used


@_compiled
def arm_gaps(leaf: Any, honest: Any, n_leaves: int, channels: Any, leaf_weight: int, gap: Any, dose: Any) -> None:
    """Add to `gap` and `dose` the weighted differences of arm means of the two-arm leaves of each tree.

    Parameters
    ----------
    leaf, honest, n_leaves
        As in `neighbour_means`.
    channels : (N, 6, B)
        Weight, weighted value and weighted dose of the treated rows, then the same three of the control rows.
    leaf_weight : int
        0: all rows of the leaf, 1: its treated rows, 2: n1 n0 / (n1 + n0).
    gap, dose : (trees, B)
        Changed in place: weighted differences of the values' and of the doses' means.
    """
    n_rows, n_channels, n_columns = channels.shape
    total = np.zeros((n_leaves, n_channels, n_columns))
    for t in range(leaf.shape[0]):
        total[:] = 0.0
        _add_rows(0, n_rows, leaf[t], honest[t], channels, total)
        for cell in range(n_leaves):
            for b in range(n_columns):
                n1, n0 = total[cell, 0, b], total[cell, 3, b]
                if n1 > 0.0 and n0 > 0.0:
                    weight = n1 + n0 if leaf_weight == 0 else (n1 if leaf_weight == 1 else n1 * n0 / (n1 + n0))
                    gap[t, b] += weight * (total[cell, 1, b] / n1 - total[cell, 4, b] / n0)
                    dose[t, b] += weight * (total[cell, 2, b] / n1 - total[cell, 5, b] / n0)

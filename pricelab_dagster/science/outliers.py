"""The outlier filter on first differences: which products stay in the estimate, or at which value they are held."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Products times a decimal share may fall an ulp below the whole number that it stands for.
ROUNDING = 1e-9


def keep_mask(
    first_difference: ArrayLike,
    group: ArrayLike,
    *,
    c: float = 5.0,
    cap: float = 0.05,
    weights: ArrayLike | None = None,
) -> BoolArray:
    """Return True for every product that stays in the estimate after the outlier filter.

    In each group a the k_a smallest and the k_a largest first differences D go,
    k_a = min(floor(c n_a / N + 1/2), floor(cap n_a)), with n_a finite D in the group and N in all groups: the cut-off
    quantile is inversely proportional to the number of products. Groups are cut apart because pooled cut-offs would
    remove treated products for being treated, and so attenuate the effect.

    With weights, N and n_a are sums of weights, and a product goes when the midpoint of its weight in the sorted
    cumulative weight lies less than k_a from an end. Unit weights give the unweighted rule. Whole weights give the rule
    on duplicated rows, except that the one product astride a cut is not split: it goes if more than half of its copies
    would go. Then up to half its weight more or less goes than k_a.

    Parameters
    ----------
    first_difference
        D (N,), metric units or relative; a D that is not finite is never kept and does not count in N or n_a.
    group
        Labels (N,): arms, or sequences, or one label for all.
    c
        Products to cut at each end, over all groups together; 0 keeps every finite D.
    cap
        Largest share of a group cut at each end, in [0, 0.5).
    weights
        (N,) or (N, B), not negative: B replicates in one call. A product of weight 0 takes no part in a replicate; its
        entry there has no meaning.

    Returns
    -------
    Boolean array (N,), or (N, B) for weights (N, B). Ties in D are cut in row order, first rows as the smaller ones:
    pass rows in the order of product ids.

    Raises
    ------
    ValueError
        If c, cap, shapes, group labels or weights break these rules.

    Examples
    --------
    >>> import numpy as np
    >>> keep_mask(np.arange(20.0), np.zeros(20), c=1).nonzero()[0][[0, -1]]
    array([ 1, 18])
    """
    D, codes, w = _checked(first_difference, group, c, cap, weights)
    kept = np.zeros(w.shape, dtype=bool)
    for rows, keep in _group_cuts(D, codes, w, c, cap):
        kept[rows] = keep
    return kept if _is_batch(weights) else kept[:, 0]


def winsorize(
    first_difference: ArrayLike,
    group: ArrayLike,
    *,
    c: float = 5.0,
    cap: float = 0.05,
    weights: ArrayLike | None = None,
) -> FloatArray:
    """Return the first differences with those that `keep_mask` would cut held at the nearest kept value of their group.

    Same ranks, parameters and errors as `keep_mask`. A cut product stays in the estimate at the smallest or largest D
    kept in its group; with weights, at the smallest or largest one of positive weight in that replicate. Levels are
    winsorised because trimming them removes the large products, which carry much of the effect.

    Returns
    -------
    Float array (N,), or (N, B) for weights (N, B); a D that is not finite comes back as nan.

    Examples
    --------
    >>> import numpy as np
    >>> D = np.r_[-90.0, np.arange(18.0), 70.0]
    >>> winsorize(D, np.zeros(20), c=1)[[0, 1, 18, 19]]
    array([ 0.,  0., 17., 17.])
    """
    D, codes, w = _checked(first_difference, group, c, cap, weights)
    held = np.full(w.shape, np.nan)
    for rows, keep in _group_cuts(D, codes, w, c, cap):
        values = D[rows]
        inside = keep & (w[rows] > 0.0)
        first = inside.argmax(axis=0)
        last = len(rows) - 1 - inside[::-1].argmax(axis=0)
        held[rows] = np.clip(values[:, None], values[first], values[last])
    return held if _is_batch(weights) else held[:, 0]


def _group_cuts(
    D: FloatArray, codes: NDArray[np.intp], w: FloatArray, c: float, cap: float
) -> Iterator[tuple[NDArray[np.intp], BoolArray]]:
    """Yield for each group its rows in rising order of D and whether each of them is kept, (n_a, B)."""
    finite = np.isfinite(D)
    order = np.argsort(D, kind="stable")
    order = order[finite[order]]
    N = w[finite].sum(axis=0)
    for a in range(codes.max(initial=-1) + 1):
        rows = order[codes[order] == a]
        if len(rows) == 0:
            continue
        w_a = w[rows]
        n_a = w_a.sum(axis=0)
        share = np.divide(n_a, N, out=np.zeros_like(n_a), where=N > 0.0)
        k = np.minimum(np.floor(c * share + 0.5 + ROUNDING), np.floor(cap * n_a + ROUNDING))
        keep = np.ones(w_a.shape, dtype=bool)
        _cut_low_end(keep, w_a, k)
        _cut_low_end(keep[::-1], w_a[::-1], k)
        yield rows, keep


def _cut_low_end(keep: BoolArray, w: FloatArray, k: FloatArray) -> None:
    """Clear `keep` in place where the midpoint of a row's weight lies less than k from the start."""
    n, start, cumulative = len(w), 0, np.zeros(w.shape[1])
    # Cuts are a few products deep: blocks spare the cumulative weights of everything between the two ends.
    while start < n and (cumulative < k).any():
        block = w[start : start + 64]
        ends = cumulative + np.cumsum(block, axis=0)
        keep[start : start + 64] &= ends - 0.5 * block >= k
        cumulative = ends[-1]
        start += 64


def _is_batch(weights: ArrayLike | None) -> bool:
    return weights is not None and np.ndim(weights) == 2


def _checked(
    first_difference: ArrayLike, group: ArrayLike, c: float, cap: float, weights: ArrayLike | None
) -> tuple[FloatArray, NDArray[np.intp], FloatArray]:
    """Return D (N,), group codes (N,) and weights (N, B), B = 1 where none or (N,) were given."""
    D = np.asarray(first_difference, dtype=float)
    if D.ndim != 1:
        raise ValueError(f"first_difference.shape == {D.shape}, must be (N,). Give one first difference per product.")
    if not (np.isfinite(c) and c >= 0.0):
        raise ValueError(f"c == {c}, must be finite and not negative. Give 0 to cut none.")
    if not 0.0 <= cap < 0.5:
        raise ValueError(f"cap == {cap}, must be in [0, 0.5). Give the largest share of a group to cut at each end.")
    labels = np.asarray(group)
    if labels.shape != D.shape:
        raise ValueError(f"group.shape == {labels.shape}, must be {D.shape}. Give one label per first difference.")
    codes = pd.factorize(labels)[0]
    if (codes < 0).any():
        raise ValueError(f"group has {(codes < 0).sum()} missing labels, must have none. Leave those products out.")
    w = np.ones(D.shape) if weights is None else np.asarray(weights, dtype=float)
    if w.ndim not in (1, 2) or len(w) != len(D):
        raise ValueError(f"weights.shape == {w.shape}, must be ({len(D)},) or ({len(D)}, B). Give one row per product.")
    if not (np.isfinite(w).all() and (w >= 0.0).all()):
        raise ValueError("weights has negative or missing values, must have none. Give 0 for a product not drawn.")
    return D, codes, w if w.ndim == 2 else w[:, None]

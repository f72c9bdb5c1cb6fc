"""Regression-adjusted effects of a block of weight vectors: which covariates count, and the least squares behind."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science._leaf_sums import ratio
from pricelab_dagster.science._replicate import Problem

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

UNITS_PER_COLUMN = 10
"""Units of the smaller arm behind each covariate: each has a slope in each arm."""
REPEATED = 0.01
"""A covariate with less of its variance than this left over the ones before it says nothing new."""
NO_VARIATION = 1e-10
"""Variation below this part of the sum of squares is rounding."""
FAINT, REFINEMENTS = 1e-8, 4
"""Each refinement shrinks what the ridge does by ridge over eigenvalue, so that four restore eigenvalues of 1e-4."""


class Covariates(NamedTuple):
    """The covariates that count, (N, P), centred and scaled over the kept products, and how many were left out.

    `one_armed` vary in one arm only, `too_many` are beyond one per `UNITS_PER_COLUMN` units of the smaller arm; those
    that repeat others are not counted.
    """

    X: FloatArray
    one_armed: int
    too_many: int

    def note(self) -> str | None:
        """Return what to know about the covariates, or None."""
        left = [(self.one_armed, "vary in one arm only"), (self.too_many, "are more than the units allow")]
        parts = [f"{n} {why}" for n, why in left if n]
        return f"Covariates left out: {', '.join(parts)}." if parts else None


def covariates(features: FloatArray, kept: BoolArray, treated: BoolArray, n_units: int) -> Covariates:
    """Return the covariates of features (N, P'), first ones first; `n_units` are those of the smaller arm."""
    arms = [np.flatnonzero(kept & side) for side in (treated, ~treated)]
    limit = n_units // UNITS_PER_COLUMN
    bases = [np.empty((len(rows), 0)) for rows in arms]
    chosen: list[int] = []
    one_armed = too_many = 0
    for j in range(features.shape[1]):
        news = [_news(features[rows, j], basis) for rows, basis in zip(arms, bases, strict=True)]
        found = [new for new in news if new is not None]
        if len(found) < len(arms):
            spread = [len(rows) > 0 and np.ptp(features[rows, j]) > 0 for rows in arms]
            one_armed += int(any(spread) and not all(spread))
        elif len(chosen) >= limit:
            too_many += 1
        else:
            chosen.append(j)
            bases = [np.column_stack([basis, new]) for basis, new in zip(bases, found, strict=True)]
    X = features[:, chosen]
    used = X[np.concatenate(arms)]
    return Covariates((X - used.mean(axis=0)) / used.std(axis=0) if chosen else X, one_armed, too_many)


def _news(x: FloatArray, basis: FloatArray) -> FloatArray | None:
    """Return what x (n,) holds beyond its mean and an orthonormal basis (n, k), of length 1, or None if too little."""
    if len(x) < 2:
        return None
    centred = x - x.mean()
    total = centred @ centred
    if total <= NO_VARIATION * (x @ x):
        return None
    new = centred - basis @ (basis.T @ centred)
    new -= basis @ (basis.T @ new)
    length = new @ new
    return new / np.sqrt(length) if length > REPEATED * total else None


def effects_under(
    problem: Problem, w: FloatArray, *, X: FloatArray, form: str, estimand: str
) -> tuple[FloatArray, FloatArray]:
    """Return the effects (B,) under weights (N, B), and the untreated means behind them, nan for absolute effects.

    The filter is redone under each weight vector. `form` is interacted, with slopes by arm, or pooled, with one slope
    from all products as they are.
    """
    kept, held, *_ = problem.filtered(w)
    D, W = (problem.panel.in_given_order(part)[:, :1] for part in (problem.panel.value, problem.panel.dose))
    moved = D if held is None else D + held
    within = np.zeros(len(D), dtype=np.intp) if problem.within is None else problem.within
    solve = interacted if form == "interacted" else pooled
    arms = [(kept * side).sum(axis=0) for side in (W, 1.0 - W)]
    tau = problem.factor * solve(kept, np.broadcast_to(moved, kept.shape), W[:, 0], X, within, estimand)
    tau = np.where((arms[0] > 0) & (arms[1] > 0), tau, np.nan)
    if problem.outcome is None or problem.exposure is None:
        return tau, np.full_like(tau, np.nan)
    mass = kept.sum(axis=0)
    mu0 = ratio(problem.outcome @ kept, mass) - tau * ratio(problem.exposure @ kept, mass)
    return ratio(tau, mu0), mu0


def interacted(
    w: FloatArray, Y: FloatArray, W: FloatArray, X: FloatArray, within: NDArray[np.intp], estimand: str
) -> FloatArray:
    """Return the slope (B,) on W of Y (N, B) on W, X, W (X - centre) and the blocks `within`, by weights w (N, B).

    The centre is the weighted mean of X over all products, for `att` over the treated ones. Directions without
    variation in a replicate have slope 0.
    """
    Z = np.column_stack([np.ones(len(W)), X])
    everyone, treated = _products(Z, w), _products(Z, w * W[:, None])
    M = np.block([[everyone, treated], [treated, treated]])
    columns = np.column_stack([Z, Z * W[:, None]])
    wy = w * Y
    r = (columns.T @ wy).T
    centre = (treated if estimand == "att" else everyone)[:, 0]
    M, r = _within_blocks(M, r, columns, w, wy, within)
    slopes = _least_squares(M, r)
    k = Z.shape[1]
    reference = centre[:, 1:] / np.where(centre[:, :1] > 0, centre[:, :1], np.nan)
    return slopes[:, k] + (reference * slopes[:, k + 1 :]).sum(axis=1)


def pooled(
    w: FloatArray, Y: FloatArray, W: FloatArray, X: FloatArray, within: NDArray[np.intp], estimand: str
) -> FloatArray:
    """Return the difference (B,) between the arms of Y - theta X, theta = cov(Y, X) / var(X) over both arms."""
    columns = np.column_stack([np.ones(len(W)), W, X])
    wy = w * Y
    M, r = _within_blocks(_products(columns, w), (columns.T @ wy).T, columns, w, wy, within)
    if X.shape[1] == 0:
        return ratio(r[:, 1], M[:, 1, 1])
    theta = np.nan_to_num(ratio(r[:, 2], M[:, 2, 2]))
    return ratio(r[:, 1] - theta * M[:, 1, 2], M[:, 1, 1])


def _products(Z: FloatArray, w: FloatArray) -> FloatArray:
    """Return sum w z z' under each weight vector, (B, k, k)."""
    return np.stack([(Z * column[:, None]).T @ w for column in Z.T], axis=0).transpose(2, 0, 1)


def _within_blocks(
    M: FloatArray, r: FloatArray, columns: FloatArray, w: FloatArray, wy: FloatArray, within: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """Return the products (B, k, k) and (B, k) of columns and outcome less their block means; column 0 is all ones.

    What is left of a column by rounding alone becomes 0.
    """
    raw = np.einsum("bii->bi", M).copy()
    for block in range(int(within.max(initial=-1)) + 1):
        rows = within == block
        sums, total = columns[rows].T @ w[rows], wy[rows].sum(axis=0)
        mean = (sums / np.where(sums[0] > 0, sums[0], np.inf)).T
        M = M - mean[:, :, None] * sums.T[:, None, :]
        r = r - mean * total[:, None]
    empty = np.einsum("bii->bi", M) <= NO_VARIATION * raw
    return np.where(empty[:, :, None] | empty[:, None, :], 0.0, M), np.where(empty, 0.0, r)


def _least_squares(M: FloatArray, r: FloatArray) -> FloatArray:
    """Return the solution (B, k) of the normal equations; 0 in directions without variation.

    Columns are scaled to length 1. A faint ridge makes every system solvable, and refinement takes it out again
    wherever there is variation. Solving keeps to one thread, which decompositions of symmetric matrices do not: blocks
    of replicates already have theirs.
    """
    scale = np.sqrt(np.einsum("bii->bi", M))
    scale = np.where(scale > 0, scale, np.inf)
    C, target = M / scale[:, :, None] / scale[:, None, :], (r / scale)[:, :, None]
    ridge = C + FAINT * np.eye(C.shape[1])
    found = np.zeros_like(target)
    for _ in range(REFINEMENTS):
        found = found + np.linalg.solve(ridge, target - C @ found)
    return found[:, :, 0] / scale

"""How far the arms of two products move together under a design."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ROUNDING = 1e-9


def same_stratum(strata: ArrayLike) -> sparse.csr_array:
    """Return corr(W_i, W_j), sparse (N, N), of a draw that treats half of each stratum.

    -1 / (n - 1) inside strata of even size n and -1 / n inside odd ones, where the half is rounded up or down with
    equal probability; 0 across.

    Parameters
    ----------
    strata
        (N,) labels.

    References
    ----------
    Cochran, Sampling Techniques, third edition (1977), section 2.5.

    Examples
    --------
    >>> same_stratum(["a", "a", "b"]).toarray().tolist()
    [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    code = pd.factorize(np.asarray(strata))[0]
    n = np.bincount(code)
    rows = [np.flatnonzero(code == s) for s in range(len(n))]
    i = np.concatenate([np.repeat(own, len(own)) for own in rows])
    j = np.concatenate([np.tile(own, len(own)) for own in rows])
    size = n[code[i]]
    rho = np.where(i == j, 1.0, -1.0 / np.where(size % 2 == 1, size, np.maximum(size - 1, 1)))
    return sparse.csr_array((rho, (i, j)), shape=(len(code), len(code)))


def same_unit(units: ArrayLike) -> sparse.csr_array:
    """Return corr(W_i, W_j), sparse (N, N), of a draw of units on their own: 1 inside, 0 across.

    For units that demand did not form, such as subcategories; those of `form_clusters` go to `predict` themselves.

    Parameters
    ----------
    units
        (N,) labels.

    Examples
    --------
    >>> same_unit(["a", "b", "a"]).toarray().tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    code = pd.factorize(np.asarray(units))[0]
    member = sparse.csr_array((np.ones(len(code)), (np.arange(len(code)), code)))
    return sparse.csr_array(member @ member.T)


def unrelated(members: IntArray) -> FloatArray:
    """Return corr(W_i, W_j) among products that are drawn on their own, apart from the diagonal."""
    return np.zeros((len(members), len(members)))


def correlation_of(design: Any, N: int) -> Callable[[IntArray], FloatArray]:
    """Return what gives corr(W_i, W_j) among some products, from a matrix or from draws."""
    if sparse.issparse(design):
        matrix: Any = design
        rho = matrix.tocsr()
        if rho.shape != (N, N) or not (np.isfinite(rho.data).all() and (np.abs(rho.data) <= 1 + ROUNDING).all()):
            raise ValueError(f"design.shape == {rho.shape}, must be ({N}, {N}) in [-1, 1]. Give corr(W_i, W_j).")
        return lambda members: np.asarray(rho[members][:, members].toarray())
    draws = np.asarray(design, dtype=float)
    if draws.ndim != 2 or len(draws) < 2 or draws.shape[1] != N or not np.isin(draws, (0.0, 1.0)).all():
        raise ValueError(f"design.shape == {draws.shape}, must be (R, {N}) of 0 and 1. Give draws of the arms.")
    constant = int((draws.min(axis=0) == draws.max(axis=0)).sum())
    if constant:
        raise ValueError(f"design has {constant} products with one arm in all draws, must vary. Give more draws.")
    return lambda members: np.atleast_2d(np.corrcoef(draws[:, members].T))

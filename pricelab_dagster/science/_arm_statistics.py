"""The numbers behind `diagnostics`: arms and units as codes, differences between arms, centred cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CENTRING_TOLERANCE = 1e-10
MAX_CENTRING_ROUNDS = 500


def arms(arm: Array, units: Array | None) -> tuple[Array, Array]:
    """Arms (N,) as floats and unit codes (N,)."""
    W = np.asarray(arm, dtype=np.float64)
    if not (np.any(W == 1) and np.any(W == 0) and np.isin(W, (0.0, 1.0)).all()):
        raise ValueError(
            f"arm == {sorted(set(W.tolist()))[:3]}, must hold 0 and 1. Give both arms, one treatment at a time."
        )
    _, G = np.unique(np.arange(len(W)) if units is None else np.asarray(units), return_inverse=True)
    share = np.bincount(G, W) / np.bincount(G)
    mixed = int(np.sum((share > 0) & (share < 1)))
    if mixed:
        raise ValueError(f"units == {mixed} with both arms, must be 0. Give the units that were assigned.")
    return W, G


def distance(unit_arm: Array, sums: Array, count: Array) -> Array:
    """Mahalanobis distances of draws (B, G) over units with sums (G, r) of whitened attributes."""
    n1 = unit_arm @ count
    n0 = count.sum() - n1
    treated = unit_arm @ sums
    return np.asarray((treated**2).sum(axis=1) * count.sum() / (n1 * n0))


def difference(value: Array, W: Array, G: Array) -> tuple[float, float, float]:
    """Treated minus control mean, its standard error over units and Welch's degrees of freedom."""
    means, variances, freedoms = [], [], []
    for a in (1, 0):
        x, unit = value[a == W], np.unique(G[a == W], return_inverse=True)[1]
        n_units = int(unit.max(initial=-1)) + 1
        if n_units < 2:
            return np.nan, np.nan, np.nan
        score = np.bincount(unit, x - x.mean())
        means.append(x.mean())
        variances.append(score @ score * n_units / (n_units - 1) / len(x) ** 2)
        freedoms.append(n_units - 1)
    total = sum(variances)
    spread = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    return float(means[0] - means[1]), float(np.sqrt(total)), float(total**2 / spread) if spread > 0 else np.nan


def centred(x: Array, row: Array, day: Array) -> Array:
    """Cells less their product and day effects, by alternating projections."""
    out = np.asarray(x, dtype=np.float64)
    for _ in range(MAX_CENTRING_ROUNDS):
        previous = out
        for code in (row, day):
            size = np.bincount(code)
            out = out - (np.bincount(code, out) / np.maximum(size, 1))[code]
        if np.max(np.abs(out - previous), initial=0) < CENTRING_TOLERANCE:
            break
    return out

"""The linear exposure regression: direct, spillover and total effect from design-centred regressors."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from pricelab_dagster.science import _cluster_robust as robust
from pricelab_dagster.science._exposure_bits import check_draws
from pricelab_dagster.science._exposure_joint import incidence
from pricelab_dagster.science._exposure_mappings import checked
from pricelab_dagster.science._exposure_variance import Effect, with_interval, without

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Constant, degree, own arm and exposure.
N_COEFFICIENTS = 4
# Below this part of a regressor's variance, what the other one leaves of it is rounding.
COLLINEAR = 1e-8

WORDS = {
    "direct": "effect of the own arm alone, no other product treated",
    "spillover": "effect of treating all other products on a product, by a linear exposure model",
    "total": "effect of treating every product against none, by a linear exposure model",
}
NO_EDGES = "not identified: the graph has no edges into these products, so nothing is exposed."
INSIDE = (
    "not identified: all neighbours of these products move with their own unit, so that exposure is collinear with the "
    "own arm. The total effect stands."
)
FIXED = "not identified: these products' neighbours in other units are certain of their arm: exposure does not vary."
COLLINEAR_DRAW = "not identified: in this draw exposure is collinear with the own arm."
NO_ARM = "not identified: the own arm does not vary over the products."
FEW = f"not identified: fewer than {N_COEFFICIENTS + 1} assignment units."


@dataclass(frozen=True, slots=True)
class Linear:
    """Direct, spillover and total effect of one regression.

    Attributes
    ----------
    direct, spillover, total
        In the units of the outcome; on the relative scale parts of the untreated mean, small effects by which logs and
        parts agree. Total = direct + spillover.
    covariance
        (3, 3) of direct, spillover and total; nan where not identified.
    slope
        Change of the outcome per unit of exposure: the change of log price where adjacency has cross-price
        elasticities; nan where not identified.
    """

    direct: Effect
    spillover: Effect
    total: Effect
    covariance: FloatArray
    slope: float


def linear(
    outcome: ArrayLike,
    arm: ArrayLike,
    adjacency: Any,
    *,
    probability: ArrayLike | None = None,
    draws: ArrayLike | None = None,
    units: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Linear:
    """Return the effects of the own arm, of the others' arms and of both, by a regression centred on the design.

    The estimand of the total is the mean effect of treating every product against none. Exposure is
    E_j = sum_i theta_ij W_i; the outcome is regressed on a constant, the degree sum_i theta_ij, W - E W and E - E[E].
    Assumes that spillover is linear in E with one slope, that theta is right up to a factor, and that it was formed
    without these outcomes. Centring keeps degree, which the design does not randomise, out of the slope. Products of
    one unit move together: their part of exposure is left with the own arm, whose coefficient then has it in full, and
    the slope comes from edges between units; total = b_W + b_E x mean degree from other units,
    direct = b_W - b_E x mean degree from the own unit. Without any edges between units only the total is identified.

    Standard errors are those of the design, conservative: the score is linear in the arms, and each unit's own arm
    carries sum over its products of (e_i, sum_j theta_ij e_j), e the residual. Neighbours of one product are thus not
    taken for independent.

    Parameters
    ----------
    outcome
        (N,) first differences, on the relative scale or any other; nan takes no part.
    arm
        (N,): 1 treated, 0 control, -1 or nan out; out is no part, and as a neighbour untreated.
    adjacency
        theta, scipy sparse (N, N) with signs: [i, j] is the effect of i's price on j's demand.
    probability
        (N,) P(W = 1), units independent of each other; strata or pairs make that conservative as a rule.
    draws
        (R, N) as for `probabilities`: gives P(W = 1) and the covariances of the design itself. One of the two.
    units
        (N,) labels of what was assigned together; None: each product alone.
    confidence
        Of the t intervals, with the number of units less 4 degrees of freedom.

    Raises
    ------
    ValueError
        If shapes or values break these rules.

    References
    ----------
    Borusyak and Hull, "Nonrandom exposure to exogenous shocks", Econometrica 91 (2023): recentring. Chin, "Regression
    adjustments for estimating the global treatment effect in experiments with interference", J. Causal Inference 7
    (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> ring = sparse.csr_array(np.roll(np.eye(8), 1, axis=1))
    >>> W = np.array([1, 1, 0, 0, 1, 0, 1, 0])
    >>> found = linear(0.1 * W - 0.04 * (ring.T @ W), W, ring, probability=np.full(8, 0.5))
    >>> round(found.direct.effect, 4), round(found.spillover.effect, 4), round(found.total.effect, 4)
    (0.1, -0.04, 0.06)
    """
    robust.check_confidence(confidence)
    theta, Y = sparse.csr_array(adjacency, dtype=float), np.asarray(outcome, dtype=float)
    N = checked(theta).shape[0]
    given = _arms(arm, Y, N)
    W = np.where(given == 1.0, 1.0, 0.0)
    states = None if draws is None else _treated(draws, N)
    p = _probability(probability, states, given, N)
    used = np.isfinite(Y) & ((given == 0.0) | (given == 1.0))
    unit = robust.unit_codes(units, N)
    shares = _Shares.of(theta, unit, used)
    own = sparse.csr_array(incidence(unit).T)
    centred = np.stack([W - p, shares.between.T @ (W - p)], axis=1)
    reason = _reason(shares, own, centred[used], p, used, unit)
    columns = [0] if reason in (NO_EDGES, INSIDE) else [0, 1]
    if reason in (NO_ARM, FEW, FIXED, COLLINEAR_DRAW):
        nothing = {name: without(reason, (int(used.sum()), 0), words) for name, words in WORDS.items()}
        return Linear(**nothing, covariance=np.full((3, 3), np.nan), slope=np.nan)
    C = np.stack([np.ones(N), shares.degree], axis=1)[used]
    X, y = (part - C @ np.linalg.lstsq(C, part, rcond=None)[0] for part in (centred[used][:, columns], Y[used]))
    b = np.linalg.lstsq(X, y, rcond=None)[0]
    e = np.zeros(N)
    e[used] = y - X @ b
    carried = np.stack([e, shares.between @ e], axis=1)[:, columns]
    bread = np.linalg.inv(X.T @ X)
    G = len(np.unique(unit[used]))
    V = bread @ _meat(carried, own, p, states) @ bread * G / (G - N_COEFFICIENTS)
    return _effects(b, V, shares, reason, G, int(used.sum()), confidence)


@dataclass(frozen=True, slots=True)
class _Shares:
    """theta (N, N) between units, degrees (N,), their means over those used, and whether these have edges inside."""

    between: sparse.csr_array
    degree: FloatArray
    has_inside: bool
    inside_mean: float
    between_mean: float

    @classmethod
    def of(cls, theta: sparse.csr_array, unit: NDArray[np.int64], used: BoolArray) -> "_Shares":
        edges = sparse.coo_array(theta)
        apart = unit[edges.row] != unit[edges.col]
        kept = (edges.data[apart], (edges.row[apart], edges.col[apart]))
        between = sparse.csr_array(kept, shape=theta.shape)
        between.eliminate_zeros()
        degree, outer = (np.asarray(part.sum(axis=0), dtype=float).ravel() for part in (theta, between))
        inside = used[edges.col] & ~apart & (edges.data != 0.0)
        n = max(int(used.sum()), 1)
        means = float((degree - outer)[used].sum() / n), float(outer[used].sum() / n)
        return cls(between, degree, bool(inside.any()), *means)


def _reason(
    shares: _Shares, own: sparse.csr_array, centred: FloatArray, p: FloatArray, used: BoolArray, unit: NDArray[np.int64]
) -> str | None:
    """Return what keeps effects from being identified, or None."""
    if len(np.unique(unit[used])) <= N_COEFFICIENTS:
        return FEW
    about = centred - centred.mean(axis=0)
    square = about.T @ about
    if square[0, 0] <= COLLINEAR * used.sum():
        return NO_ARM
    moved = sparse.csr_array(own @ (sparse.diags_array(p * (1.0 - p)) @ shares.between))[:, used]
    if not abs(moved).sum() > 0:
        if shares.between[:, used].nnz:
            return FIXED
        return INSIDE if shares.has_inside else NO_EDGES
    left = square[1, 1] - square[0, 1] ** 2 / square[0, 0]
    return COLLINEAR_DRAW if left <= COLLINEAR * max(square[1, 1], np.finfo(float).tiny) else None


def _meat(carried: FloatArray, own: sparse.csr_array, p: FloatArray, states: FloatArray | None) -> FloatArray:
    """Return the covariance of the scores sum_j (W_j - p_j) carried_j over draws, or over independent units."""
    if states is not None:
        scores = (states - p) @ carried
        return np.asarray(scores.T @ scores / len(scores))
    by_unit = own @ (np.sqrt(p * (1.0 - p))[:, None] * carried)
    return np.asarray(by_unit.T @ by_unit)


def _effects(
    b: FloatArray, V: FloatArray, shares: _Shares, reason: str | None, G: int, n: int, confidence: float
) -> Linear:
    """Return the effects from the coefficients and their covariance."""
    inner, outer = shares.inside_mean, shares.between_mean
    L = np.array([[1.0, -inner], [0.0, inner + outer], [1.0, outer]])[:, : len(b)]
    effects, covariance = L @ b, L @ V @ L.T
    identified = {None: "direct spillover total", NO_EDGES: "direct", INSIDE: "total"}[reason].split()
    found = {
        name: with_interval(float(effect), float(variance), G - N_COEFFICIENTS, confidence, (n, 0), WORDS[name], [])
        if name in identified
        else without(str(reason), (n, 0), WORDS[name])
        for name, effect, variance in zip(WORDS, effects, np.diag(covariance), strict=True)
    }
    known = np.array([name in identified for name in WORDS])
    if reason == NO_EDGES:
        found["direct"] = replace(found["direct"], estimand="difference between the arms, on a graph without edges")
    slope = float(b[1]) if len(b) > 1 else np.nan
    return Linear(**found, covariance=np.where(known[:, None] & known, covariance, np.nan), slope=slope)


def _arms(arm: ArrayLike, Y: FloatArray, N: int) -> FloatArray:
    """Return the arms (N,) as floats, checked with the outcome."""
    given = np.asarray(arm, dtype=float)
    for name, one in {"outcome": Y, "arm": given}.items():
        if one.shape != (N,):
            raise ValueError(f"{name}.shape == {one.shape}, must be ({N},). Give one value per product.")
    odd = given[~np.isin(given, (-1.0, 0.0, 1.0)) & np.isfinite(given)]
    if len(odd):
        raise ValueError(f"arm has the value {odd[0]}, must be 1, 0, or -1 or nan for out. Code it so.")
    return given


def _treated(draws: ArrayLike, N: int) -> FloatArray:
    states = check_draws(draws)
    if states.shape[1] != N:
        raise ValueError(f"draws.shape == {states.shape}, must be (R, {N}). Give one column per product.")
    return (states == 1).astype(float)


def _probability(probability: ArrayLike | None, states: FloatArray | None, given: FloatArray, N: int) -> FloatArray:
    """Return P(W = 1) (N,), 0 for a product that is out."""
    if (probability is None) == (states is None):
        rule = "exactly one of them given. Draws have the probability in them"
        raise ValueError(f"probability and draws are both {'given' if states is not None else 'None'}, must be {rule}.")
    if states is not None:
        return np.asarray(states.mean(axis=0))
    p = np.asarray(probability, dtype=float)
    inside = (given == 0.0) | (given == 1.0)
    if p.shape != (N,) or not ((p[inside] >= 0) & (p[inside] <= 1)).all():
        raise ValueError(f"probability.shape == {p.shape}, must be ({N},) in [0, 1]. Give P(treated) per product.")
    return np.where(inside, p, 0.0)

"""The conservative variance of a contrast of exposure levels, and what a spillover estimate is returned as."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import _cluster_robust as robust
from pricelab_dagster.science._exposure_joint import Joint

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Effect:
    """A spillover estimate with its interval, and what it rests on.

    Attributes
    ----------
    effect
        In the units of the outcome; nan where `reason` says why.
    se, ci_lower, ci_upper, p_value
        Conservative; nan where the effect is, or where no variance can be had.
    n_units
        Products behind the estimate.
    n_no_overlap
        Products left out because a level of the contrast is too improbable for them.
    estimand
        What the number estimates, in words.
    reason
        Why a number is nan, or what to know about it; None where there is nothing to say.
    """

    effect: float
    se: float
    ci_lower: float
    ci_upper: float
    p_value: float
    n_units: int
    n_no_overlap: int
    estimand: str
    reason: str | None


def with_interval(
    effect: float,
    variance: float,
    freedom: float,
    confidence: float,
    n: tuple[int, int],
    estimand: str,
    notes: list[str],
) -> Effect:
    """Return an estimate with its t interval; `n` is n_units and n_no_overlap."""
    se = float(np.sqrt(variance)) if variance > 0.0 and freedom > 0 else np.nan
    found = robust.interval(effect, se, freedom, confidence)
    if np.isfinite(effect) and not np.isfinite(se):
        notes = [*notes, "The variance estimate is not positive, or products are too few for one: no interval."]
    reason = " ".join(notes) or None
    p_value = found.p_value if np.isfinite(se) else np.nan
    return Effect(effect, se, found.ci_lower, found.ci_upper, p_value, *n, estimand, reason)


def without(reason: str, n: tuple[int, int], estimand: str) -> Effect:
    """Return what stands where there is no estimate."""
    return Effect(np.nan, np.nan, np.nan, np.nan, np.nan, *n, estimand, reason)


def variance(
    joint: Joint,
    pairs: tuple[IntArray, IntArray],
    level: IntArray,
    value: FloatArray,
    probability: FloatArray,
    contrast: tuple[int, int],
    population: BoolArray,
) -> float:
    """Return the conservative variance estimate of sum value_i over the products seen at the levels of a contrast.

    Pairs that are given enter as in Aronow and Samii, those that are never at their two levels together by Young's
    inequality; all others by the covariance over draws.

    Parameters
    ----------
    joint
        Of levels, for pairs of products.
    pairs
        Dependent pairs (P,), first and second.
    level
        (N,) as observed.
    value
        (N,): outcome over probability, negative at the second level of the contrast; 0 where not observed at either.
    probability
        (N,) of the own level.
    population
        (N,) whom the estimate is about.
    """
    observed = population & np.isin(level, contrast)
    first, second = (end[population[pairs[0]] & population[pairs[1]]] for end in pairs)
    n_never, cross = np.zeros(len(level)), 0.0
    for k, m in product(contrast, contrast):
        ahead, behind = observed[first] & (level[first] == k), observed[second] & (level[second] == m)
        used = ahead | behind
        i, j, ahead, behind = first[used], second[used], ahead[used], behind[used]
        inverse = joint.inverse(k, m, i, j)
        never = np.isinf(inverse)
        np.add.at(n_never, i[never & ahead], 1.0)
        np.add.at(n_never, j[never & behind], 1.0)
        seen = ahead & behind & ~never
        i, j = i[seen], j[seen]
        cross += 2.0 * float(value[i] * value[j] @ (1.0 - probability[i] * probability[j] * inverse[seen]))
    own = float((value**2 * (1.0 + probability * n_never))[observed].sum())
    return own + cross + _elsewhere(joint, (first, second), level, value, probability, observed)


def _elsewhere(
    joint: Joint,
    pairs: tuple[IntArray, IntArray],
    level: IntArray,
    value: FloatArray,
    probability: FloatArray,
    observed: BoolArray,
) -> float:
    """Return what pairs that are not given add: the variance over draws less what the given and the own ones have."""
    weight = np.zeros(len(level))
    weight[observed] = value[observed] / probability[observed]
    at = np.where(observed, level, 0)
    total = joint.spread(at, weight)
    if total is None:
        return 0.0
    both = observed[pairs[0]] & observed[pairs[1]]
    i, j = pairs[0][both], pairs[1][both]
    given = 2.0 * float(weight[i] * weight[j] @ joint.covariance(at[i], at[j], i, j))
    return total - given - float((weight**2 * probability * (1.0 - probability))[observed].sum())

"""Choices of an assignment unit beside each other, and the one to take."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _cluster_robust as robust

FloatArray = NDArray[np.float64]

ARMS_EFFECT = 4.0
"""Variance of the difference of two arms of N/2 in units of sum D² / N²."""
MOSTLY = 0.8
"""Below this part of identified pairs the sentence says so."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to assign, and what it is predicted to cost; numbers in parts of mean untreated demand, .01 a point.

    Attributes
    ----------
    assignment
        product or cluster.
    max_size
        Cap of the clusters; None for products.
    n_units
        Assignment units.
    bias, bias_se, ci_lower, ci_upper
        Predicted spillover bias of the total effect with its interval; nan where `reason` says why.
    kept_share
        Part of the cross effects between products that move together; nan where their sum is not told from zero.
    se, se_cost, mde
        Standard error; its excess over that of products, as a part; and 2.8 standard errors.
    rmse
        Root of bias² + se².
    reason
        Why the bias is nan, or None.
    """

    assignment: str
    max_size: int | None
    n_units: int
    bias: float
    bias_se: float
    ci_lower: float
    ci_upper: float
    kept_share: float
    identified_share: float
    se: float
    se_cost: float
    mde: float
    rmse: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The choice with the smallest root mean squared error and a sentence; None where no bias is identified."""

    choice: Choice | None
    sentence: str


def standard_error(
    first_difference: ArrayLike, *, units: ArrayLike | None = None, strata: ArrayLike | None = None
) -> float:
    """Return the design's standard error of the difference of arm means, from untreated first differences.

    The estimand is the standard deviation over draws in which half of each stratum's units are treated:
    (2/N) sqrt(sum over strata of n / (n - 1) sum over its units of (S_g - mean S)²), S_g the unit's sum of
    D - mean D. It is the linear approximation of the Hajek difference; with units of unlike size it is short by the
    order of one over their number. A stratum of one unit counts with its whole S_g. Effects are taken to be equal over
    units; where they are not, the error is larger for some draws and smaller for others.

    Parameters
    ----------
    first_difference
        D (N,) of a placebo window; nan takes no part.
    units
        (N,) labels of what is assigned together; None: each product alone.
    strata
        (N,) labels; a unit is in the stratum of its first product. None: one stratum.

    Raises
    ------
    ValueError
        If shapes or labels break these rules, or fewer than two units have a first difference.

    References
    ----------
    Imbens and Rubin, Causal Inference (2015), sections 6.4 and 9.5.

    Examples
    --------
    >>> round(standard_error([1.0, -1.0, 3.0, -3.0], strata=[0, 0, 1, 1]), 4)
    3.1623
    """
    D = np.asarray(first_difference, dtype=float)
    if D.ndim != 1:
        raise ValueError(f"first_difference.shape == {D.shape}, must be (N,). Give one value per product.")
    used = np.isfinite(D)
    code, stratum = robust.unit_codes(units, len(D))[used], np.zeros(int(used.sum()), dtype=np.int64)
    if strata is not None:
        stratum = robust.unit_codes(strata, len(D))[used]
    _, first, unit = np.unique(code, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise ValueError(f"first_difference has {len(first)} units with a value, must have 2. Give a placebo window.")
    S = np.bincount(unit, D[used] - D[used].mean())
    group = np.unique(stratum[first], return_inverse=True)[1]
    n = np.bincount(group)
    alone = n == 1
    mean = np.where(alone, 0.0, np.bincount(group, S) / n)
    square = np.bincount(group, (S - mean[group]) ** 2) * n / np.maximum(n - 1, 1)
    return float(np.sqrt(ARMS_EFFECT * square.sum()) / used.sum())


def recommend(choices: Sequence[Choice]) -> Recommendation:
    """Return the choice with the smallest root mean squared error, and a sentence that says what is uncertain.

    No estimand. The first of equals is taken. The predicted bias enters as it stands: where it is noise, it counts
    against every choice by about its own error, and against products most.

    Raises
    ------
    ValueError
        If there is no choice, or none that assigns products.
    """
    by_product = next((one for one in choices if one.assignment == "product"), None)
    if by_product is None:
        raise ValueError(f"choices has {len(choices)} rows, none by product. Compare with that.")
    known = [one for one in choices if np.isfinite(one.rmse)]
    if not np.isfinite(by_product.rmse):
        se = f"Standard errors: {_points(by_product.se)} by product"
        return Recommendation(None, f"No recommendation, the bias is {by_product.reason} {se} points.")
    best = min(known, key=lambda one: one.rmse)
    parts = [f"Assign {_units(best)}: {_numbers(best)}."]
    if best is not by_product:
        parts.append(f"By product it would be {_numbers(by_product)}.")
    else:
        others = [one for one in known if one is not best]
        if others:
            second = min(others, key=lambda one: one.rmse)
            parts.append(f"By {_units(second)} it would be {_numbers(second)}.")
    parts += _doubts(best, by_product)
    return Recommendation(best, " ".join(parts))


def _units(one: Choice) -> str:
    if one.assignment == "product":
        return "products"
    return (
        "pairs of products across categories" if one.max_size == 1 else f"clusters of at most {one.max_size} products"
    )


def _numbers(one: Choice) -> str:
    interval = f"{_points(one.ci_lower)} to {_points(one.ci_upper)}"
    return (
        f"spillover bias {_points(one.bias)} points ({interval}), standard error {_points(one.se)}, "
        f"together {_points(one.rmse)}"
    )


def _doubts(best: Choice, by_product: Choice) -> list[str]:
    doubts = []
    if by_product.ci_lower <= 0.0 <= by_product.ci_upper:
        most = max(-by_product.ci_lower, by_product.ci_upper)
        doubts.append(
            "Interference is not shown: the interval of the bias by product includes 0, and the choice may follow from "
            f"chance. A bias of up to {_points(most)} points by product is not excluded either."
        )
    elif best is not by_product and best.ci_lower <= by_product.bias <= best.ci_upper:
        doubts.append("That clusters lower the bias is not shown: the interval of theirs holds that by product.")
    if by_product.identified_share < MOSTLY:
        share = f"{100 * (1 - by_product.identified_share):.0f} %"
        doubts.append(f"{share} of the pairs are not identified and count like the rest of their category.")
    return doubts


def _points(part: float) -> str:
    return f"{100 * part:.1f}"


def by_cluster(
    label: NDArray[np.int64], category: NDArray[np.object_], size: FloatArray
) -> tuple[NDArray[np.object_], FloatArray]:
    """Return category and summed size by cluster (G,), labels 0 to G - 1."""
    frame = pd.DataFrame({"label": label, "category": category, "size": size}).groupby("label")
    return frame["category"].first().to_numpy(dtype=object), frame["size"].sum().to_numpy(dtype=float)

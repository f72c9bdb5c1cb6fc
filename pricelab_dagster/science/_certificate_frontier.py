"""Choices of an assignment unit, and the standard error that each of them has."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import _cluster_robust as robust
from pricelab_dagster.science.clusters import Method

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MIN_UNITS = 4
"""The fewest that a design draws."""


@dataclass(frozen=True, slots=True)
class Route:
    """How clusters are formed: the cap, the method, and whether pairs of either sign are bound."""

    max_size: int
    method: Method = "leiden"
    either_sign: bool = False

    @property
    def name(self) -> str:
        """What is not the default of the method and the pairs, in words; empty where all is.

        Examples
        --------
        >>> Route(12).name, Route(6, "severing", True).name
        ('', 'severing, either sign')
        """
        return ", ".join([self.method] * (self.method != "leiden") + ["either sign"] * self.either_sign)


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to assign, and what it is predicted to cost; numbers are parts of the relative effect, .01 is a point.

    Attributes
    ----------
    assignment
        product, cluster, or mixed: half of the clusters are broken up.
    max_size
        Cap of the clusters; None for products.
    n_units
        Assignment units, of a mixed assignment expected ones.
    bias, bias_se, ci_lower, ci_upper
        Predicted spillover bias of the total effect with its interval; nan where `reason` says why.
    kept_share
        Part of the cross effects between products that move together; nan where their sum is not told from zero.
    se, se_cost, mde
        Standard error; its excess over that of products, as a part; and 2.8 standard errors.
    rmse
        Root of bias² + se².
    reason
        Why a number is nan, or what the bias leaves out, or None.
    route
        `Route.name` of the clusters.
    se_by_window
        The standard error in each placebo window; `se` is their root mean square.
    bias_drawn
        (B,) the bias in replicates of the weeks, the same weeks for all choices; empty where it is nan.
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
    route: str = ""
    se_by_window: tuple[float, ...] = ()
    bias_drawn: FloatArray = field(default_factory=lambda: np.empty(0), compare=False, repr=False)


def standard_error(
    first_difference: ArrayLike,
    *,
    units: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    share: float = 0.5,
    n_arms: int = 1,
) -> float:
    """Return the design's standard error of the difference of arm means, from untreated first differences.

    The estimand is the standard deviation, over draws by strata, of the mean of one treatment arm less that of control:
    (1/N) sqrt((1/p + 1/q) sum over strata of n / (n - 1) sum over its units of (S_g - mean S)²), S_g the unit's sum of
    D - mean D, p = share / n_arms, q = 1 - share. It is the linear approximation of the Hajek difference; with units of
    unlike size it is short by the order of one over their number. A stratum of one unit counts with its whole S_g.
    Where p or q is below a half, strata that have no whole unit for the smaller arm count with the ones after them, as
    systematic draws run over them. Effects are taken to be equal over units; where they are not, the error is larger
    for some draws and smaller for others.

    Parameters
    ----------
    first_difference
        D (N,) of a placebo window; nan takes no part.
    units
        (N,) labels of what is assigned together; None: each product alone.
    strata
        (N,) labels; a unit is in the stratum of its first product. None: one stratum.
    share, n_arms
        Part of the units to treat over all arms together, and treatment arms.

    Raises
    ------
    ValueError
        If shapes or labels break these rules, share or n_arms are out of range, or fewer than two units have a first
        difference.

    References
    ----------
    Imbens and Rubin, Causal Inference (2015), sections 6.4 and 9.5.

    Examples
    --------
    >>> round(standard_error([1.0, -1.0, 3.0, -3.0], strata=[0, 0, 1, 1]), 4)
    3.1623
    """
    D, arms = np.asarray(first_difference, dtype=float), _arms(share, n_arms)
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
    group = joined(stratum[first], share=share, n_arms=n_arms)
    n = np.bincount(group)
    alone = n == 1
    mean = np.where(alone, 0.0, np.bincount(group, S) / n)
    square = np.bincount(group, (S - mean[group]) ** 2) * n / np.maximum(n - 1, 1)
    return float(np.sqrt(sum(1.0 / one for one in arms) * square.sum()) / used.sum())


def joined(strata: ArrayLike, *, share: float = 0.5, n_arms: int = 1) -> IntArray:
    """Return strata (G,) of units such that each holds a whole unit of the smallest arm; half and half: as they are.

    In the order of their labels, strata join those after them until they do; what is left joins the last.

    Examples
    --------
    >>> joined([0, 0, 1, 1, 2, 2], share=0.25).tolist()
    [0, 0, 0, 0, 0, 0]
    """
    code = np.unique(np.asarray(strata), return_inverse=True)[1]
    least = round(1.0 / min(_arms(share, n_arms)), 9)
    if least <= 2.0:
        return np.asarray(code, dtype=np.int64)
    new, last, held = np.empty(int(code.max()) + 1, dtype=np.int64), 0, 0
    for stratum, n in enumerate(np.bincount(code)):
        new[stratum], held = last, held + int(n)
        if held >= least:
            last, held = last + 1, 0
    return np.where(held and last, np.minimum(new, last - 1), new)[code]


def _arms(share: float, n_arms: int) -> tuple[float, float]:
    """Return the parts of the units in a treatment arm and in control."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"share == {share}, must be in (0, 1). Give the part of the units to treat.")
    if n_arms < 1:
        raise ValueError(f"n_arms == {n_arms}, must be 1 or more. Give the number of treatment arms.")
    return share / n_arms, 1.0 - share


def by_cluster(
    label: NDArray[np.int64], category: NDArray[np.object_], size: FloatArray
) -> tuple[NDArray[np.object_], FloatArray]:
    """Return category and summed size by cluster (G,), labels 0 to G - 1."""
    frame = pd.DataFrame({"label": label, "category": category, "size": size}).groupby("label")
    return frame["category"].first().to_numpy(dtype=object), frame["size"].sum().to_numpy(dtype=float)

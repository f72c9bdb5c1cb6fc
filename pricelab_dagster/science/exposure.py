"""Inverse probability weighting over exposure levels: what the treatment of one product does to another."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from pricelab_dagster.science import _cluster_robust as robust
from pricelab_dagster.science import _exposure_designs as mechanisms
from pricelab_dagster.science import _exposure_joint as joints
from pricelab_dagster.science._draws import Assignment
from pricelab_dagster.science._exposure_bits import check_draws
from pricelab_dagster.science._exposure_linear import Linear as Linear
from pricelab_dagster.science._exposure_linear import linear as linear
from pricelab_dagster.science._exposure_mappings import CONTROL as CONTROL
from pricelab_dagster.science._exposure_mappings import CONTROL_EXPOSED as CONTROL_EXPOSED
from pricelab_dagster.science._exposure_mappings import TREATED as TREATED
from pricelab_dagster.science._exposure_mappings import TREATED_EXPOSED as TREATED_EXPOSED
from pricelab_dagster.science._exposure_mappings import Mapping, checked, names_of, own_and_any
from pricelab_dagster.science._exposure_mappings import own_and_share as own_and_share
from pricelab_dagster.science._exposure_variance import Effect as Effect
from pricelab_dagster.science._exposure_variance import variance, with_interval, without

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Estimator = Literal["hajek", "horvitz_thompson"]
# All pairs of this many products are held at once.
MAX_COMPLETE = 4000
MAX_LEVELS = 127
# A sum of K frequencies above this is one.
CERTAIN = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class Probabilities:
    """How probable each exposure level of each product is, and which products hang together.

    Attributes
    ----------
    levels
        Names of the K levels.
    marginal
        (N, K), P(product at level). Rows add up to the probability to be in the experiment.
    first, second
        (P,) pairs whose levels hang on a common assignment unit, or on two that are drawn with regard to each other.
    joint
        Joint probabilities of levels of two products.
    n_draws
        Draws behind the probabilities; 0 where they are exact.
    """

    levels: tuple[str, ...]
    marginal: FloatArray
    first: IntArray
    second: IntArray
    joint: joints.DrawnJoint | joints.CoinJoint
    n_draws: int


def probabilities(
    adjacency: Any,
    draws: ArrayLike | Assignment,
    *,
    mapping: Mapping = own_and_any,
    strata: ArrayLike | None = None,
    complete: bool = False,
) -> Probabilities:
    """Return the probability of every exposure level of every product, and what the variance needs of pairs.

    Exact for an assignment by independent coins with the mapping `own_and_any`, in closed form, and for `complete`
    draws; otherwise frequencies over R draws: with 2,000 of them a probability of .02 has a standard error of .003.

    Parameters
    ----------
    adjacency
        Scipy sparse (N, N): [i, j] is nonzero where i's treatment reaches j, as in theta[i, j], the effect of the log
        price of i on the log demand of j. The neighbours of j are in column j.
    draws
        (R, N) independent draws of the design at one period: 1 treated, 0 control, -1 or nan out of the experiment; or
        an `Assignment` by coins (`random_days`, `balance="none"`). `pair_probabilities.draws` makes them.
    mapping
        mapping(adjacency, z) -> (N,) whole numbers from 0, -1 for a product that is out: `own_and_any`,
        `own_and_share(cuts)` or any other. A level must hang on the arms of the product and of its neighbours.
    strata
        (N,) labels of products that were drawn with regard to each other, for the variance. Products that always, or
        never, share their arm in `draws` are found without.
    complete
        Whether the rows of `draws` are all possible draws, equally likely; then nothing is estimated.

    Raises
    ------
    ValueError
        If shapes or values break these rules, or an assignment is given that has no closed form.

    References
    ----------
    Aronow and Samii (2017), Estimating average causal effects under general interference, with application to a social
    network experiment. Annals of Applied Statistics 11, sections 3 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> pair = sparse.csr_array([[0, 1], [1, 0]])
    >>> draws = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> probabilities(pair, draws, complete=True).marginal.tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    weights = checked(adjacency)
    if isinstance(draws, Assignment):
        return _of_coins(weights, draws, mapping)
    state = check_draws(draws)
    N = weights.shape[0]
    if state.shape[1] != N:
        raise ValueError(f"draws.shape == {state.shape}, must be (R, {N}). Give one column per product of adjacency.")
    if complete and N > MAX_COMPLETE:
        raise ValueError(f"N == {N}, must be {MAX_COMPLETE} or fewer for complete draws. Give them as a sample.")
    levels = np.empty(state.shape, dtype=np.int8)
    for row, z in zip(levels, state, strict=True):
        row[:] = _level(mapping, adjacency, z)
    n_levels = max(int(levels.max()) + 1, len(names_of(mapping, 0)))
    joint = joints.DrawnJoint.of(levels, n_levels, complete)
    if complete:
        first, second = np.triu_indices(N, k=1)
    else:
        label = None if strata is None else robust.unit_codes(strata, N)
        first, second = joints.dependent_pairs(weights, joints.tied(state), label)
    return Probabilities(
        names_of(mapping, n_levels), joint.marginal(), first, second, joint, 0 if complete else len(state)
    )


def estimate(
    outcome: ArrayLike,
    exposure: ArrayLike,
    probabilities: Probabilities,
    *,
    contrast: tuple[int, int],
    estimator: Estimator = "hajek",
    min_probability: float = 0.02,
    confidence: float = 0.95,
) -> Effect:
    """Return the mean effect of one exposure level against another over the products that can be at both.

    The estimand is the mean over the overlap population, the products whose probability of each of the two levels is
    `min_probability` or more, of the outcome at the first level less that at the second. Assumes that the probabilities
    are the design's and that the mapping holds: the outcome hangs on the arms through the level alone. Products without
    overlap, hubs above all, are left out and counted, and `reason` says so: the effect is then not that of all.

    `horvitz_thompson`: 1 / M sum over those seen at the level of Y / pi, unbiased, but wide where the mean outcome is
    far from zero. M counts the population, and of products that a sample left out of this draw as many as have an
    outcome among those in it. `hajek`: the same over its sum of weights; biased by the order of one over the number of
    products. The variance is conservative in expectation: pairs that are never at their two levels together enter by
    Young's inequality; of Hajek's estimator it is that of the linearised one.

    Parameters
    ----------
    outcome
        (N,); nan takes no part, which assumes that missing has nothing to do with exposure. Of a product out of the
        experiment it is not read.
    exposure
        (N,) observed levels: `mapping(adjacency, z)` of the draw in force; -1 out of the experiment.
    probabilities
        From `probabilities`.
    contrast
        The two levels, such as (CONTROL_EXPOSED, CONTROL) for the spillover on controls.
    estimator
        hajek or horvitz_thompson.
    min_probability
        In (0, 1).
    confidence
        Of the t interval; its degrees of freedom are the products at the rarer level less one.

    Raises
    ------
    ValueError
        If shapes, levels or options break these rules.

    References
    ----------
    Aronow and Samii (2017), Annals of Applied Statistics 11: equations 3, 7, 10, 11 and 15, proposition 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> pair = sparse.csr_array([[0, 1], [1, 0]])
    >>> law = probabilities(pair, [[0, 0], [0, 1], [1, 0], [1, 1]], complete=True)
    >>> estimate([4.0, 2.0], own_and_any(pair, [1, 0]), law, contrast=(TREATED, CONTROL_EXPOSED)).effect
    2.0
    """
    Y, D, pi = np.asarray(outcome, dtype=float), np.asarray(exposure), probabilities.marginal
    _check(Y, D, pi, contrast, estimator, min_probability)
    robust.check_confidence(confidence)
    present = pi.sum(axis=1)
    inside, outside = (D >= 0) & (present > 0), (D < 0) & (present > 0) & (present < CERTAIN)
    overlap = (pi[:, list(contrast)] >= min_probability).all(axis=1)
    population = overlap & (outside | (inside & np.isfinite(Y)))
    n = int((population & inside).sum()), int((inside & np.isfinite(Y) & ~overlap).sum())
    names = tuple(probabilities.levels[level] for level in contrast)
    estimand = f"mean effect of [{names[0]}] against [{names[1]}]"
    estimand += ", of the overlap population" if n[1] else ", over all products"
    if n[0] == 0:
        rule = f"no product has a probability of {min_probability:g} or more of both levels"
        return without(f"not identified: {rule}; {n[1]} products have no overlap.", n, estimand)
    notes = [_warning(n, min_probability)] if n[1] else []
    seen = [population & (level == D) for level in contrast]
    counts = [int(side.sum()) for side in seen]
    if min(counts) == 0:
        found = f"{counts[0]} and {counts[1]} products with overlap were seen at the two levels: nothing to compare."
        return without(" ".join([f"not identified: {found}", *notes]), n, estimand)
    # of the products outside this draw as many count as those inside have an outcome
    M = n[0] * (1.0 + (outside & overlap).sum() / (inside & overlap).sum())
    effect, value = 0.0, np.zeros(len(Y))
    for sign, level, side in zip((1.0, -1.0), contrast, seen, strict=True):
        w = 1.0 / pi[side, level]
        mass = float(w.sum()) if estimator == "hajek" else float(M)
        mean = float(w @ Y[side]) / mass
        effect += sign * mean
        value[side] = sign * w * (Y[side] - (mean if estimator == "hajek" else 0.0)) / mass
    own = np.where(seen[0], pi[:, contrast[0]], pi[:, contrast[1]])
    pairs = (probabilities.first, probabilities.second)
    found_variance = variance(probabilities.joint, pairs, D, value, own, contrast, population)
    return with_interval(effect, found_variance, min(counts) - 1, confidence, n, estimand, notes)


def _of_coins(weights: sparse.csr_array, assignment: Assignment, mapping: Mapping) -> Probabilities:
    """Return the exact probabilities of the levels of `own_and_any`."""
    if len(assignment.product_id) != weights.shape[0]:
        n = len(assignment.product_id)
        raise ValueError(f"adjacency.shape == {weights.shape}, must be ({n}, {n}). Keep the order of the assignment.")
    options = mechanisms.recorded(assignment.mechanism)[1]
    if options.get("balance") != "none" or mapping is not own_and_any:
        rule = "by independent coins, with the mapping own_and_any. Otherwise give pair_probabilities.draws"
        raise ValueError(f"assignment == {assignment.mechanism!r}, must be {rule}.")
    unit = robust.unit_codes(assignment.unit_id, weights.shape[0])
    joint = joints.CoinJoint.of(weights, unit, float(options["share"]))
    first, second = joints.dependent_pairs(weights, unit, None)
    return Probabilities(names_of(mapping, 4), joint.marginal(), first, second, joint, 0)


def _level(mapping: Mapping, adjacency: Any, z: NDArray[np.int8]) -> IntArray:
    level = np.asarray(mapping(adjacency, z))
    if level.shape != z.shape or level.dtype.kind not in "iu" or level.min() < -1 or level.max() > MAX_LEVELS:
        rule = f"({len(z)},) whole numbers in [-1, {MAX_LEVELS}]"
        raise ValueError(f"mapping gives {level.dtype} of shape {level.shape}, must give {rule}. -1 is out.")
    return level


def _warning(n: tuple[int, int], min_probability: float) -> str:
    share = n[1] / sum(n)
    left_out = f"{n[1]} of {sum(n)} products ({share:.0%}) have a probability below {min_probability:g} of a level"
    return f"No full overlap: {left_out} and are left out; the effect is that of the others."


def _check(
    Y: FloatArray, D: NDArray[Any], pi: FloatArray, contrast: tuple[int, int], estimator: str, min_probability: float
) -> None:
    """Raise ValueError for what `estimate` cannot use."""
    N, K = pi.shape
    for name, one in {"outcome": Y, "exposure": D}.items():
        if one.shape != (N,):
            raise ValueError(f"{name}.shape == {one.shape}, must be ({N},). Give one value per product.")
    if D.dtype.kind not in "iu" or not np.isin(D, np.arange(-1, K)).all():
        raise ValueError(f"exposure has values that are no level, must be in -1..{K - 1}. Map the draw in force.")
    if len(contrast) != 2 or contrast[0] == contrast[1] or not all(0 <= level < K for level in contrast):
        raise ValueError(f"contrast == {contrast}, must be two of the levels 0..{K - 1}. Name the effect wanted.")
    if estimator not in ("hajek", "horvitz_thompson"):
        raise ValueError(f"estimator == {estimator!r}, must be 'hajek' or 'horvitz_thompson'. 'hajek' is usual.")
    if not 0.0 < min_probability < 1.0:
        raise ValueError(f"min_probability == {min_probability}, must be in (0, 1). 0.02 is usual.")

"""The recorded mechanism drawn again: instant standard errors and randomisation tests."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science._replay import Fixed, FloatArray, Under, gain, under
from pricelab_dagster.science._replicate import Trim

__all__ = ["Fixed", "Instant", "RandomizationTest", "instant", "randomization_test"]


BLOCK = 64
# Two draws that mirror each other have the same statistic up to rounding.
TIE = 1e-9
# The quantile of the draws moves slowly with the effect that is tested: a few steps find where they meet, as closely
# as a fourth of the quantile's own noise, which is some 2 / sqrt(R).
STEPS, CLOSE = 4, 0.5


@dataclass(frozen=True, slots=True)
class Instant:
    """Estimates under R draws of the arms with their instant standard errors.

    Attributes
    ----------
    effect, se
        (R,) in the units of the value, or parts of the untreated mean where an outcome was given; nan where an arm is
        empty or no leaf holds both.
    """

    effect: FloatArray
    se: FloatArray

    @property
    def t(self) -> FloatArray:
        """Effects over standard errors (R,): 0 for an effect of 0, infinite for another one without any spread."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.effect == 0.0, 0.0, self.effect / self.se)


@dataclass(frozen=True, slots=True)
class RandomizationTest:
    """The sharp null of no effect, and the constant effects that the same test does not reject.

    Attributes
    ----------
    effect
        The estimate, as in `Instant`.
    t
        Absolute estimate over its instant standard error, the statistic of the test.
    p_value
        Two-sided, at least 1 / (1 + R).
    ci_lower, ci_upper
        Of a constant additive effect, on the scale of `effect`; nan where `reason` says why.
    n_replays, n_undefined
        R, and how many of them have no estimate; those count as extreme.
    estimand
        What is tested, in words.
    reason
        Why a number is nan, or None.
    """

    effect: float
    t: float
    p_value: float
    ci_lower: float
    ci_upper: float
    n_replays: int
    n_undefined: int
    estimand: str
    reason: str | None


def instant(fixed: Fixed, arms: ArrayLike) -> Instant:
    """Return the HPTE or Hajek estimates under given arms, with standard errors from their scores.

    The estimand is that of `hpte.estimate`, method residual, or of `hajek` with a probability, and the effect is equal
    to theirs; the outlier filter is redone under each draw. The standard error adds the scores over all cells of a
    unit, squares and sums them, times G / (G - 1). It assumes independent units and leaf means and filter that the draw
    of units does not move: with small leaves it is a little short of the bootstrap. Products that the filter cuts count
    at the bound. For screens and as the scale of a statistic, never beside a headline. With one leaf and no filter it
    is the cluster-robust error of least squares.

    Parameters
    ----------
    fixed
        What does not change with the arms.
    arms
        Draws of W: (N, R), or (R, N, T) for residuals (N, T); also one draw, (N,) or (N, T). 0 or 1; nan, or in whole
        numbers -1, where a product or cell is in neither arm.

    Raises
    ------
    ValueError
        If shapes, arms or the filter's rule break these rules.

    References
    ----------
    Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 73 (1986), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> fixed = Fixed(np.array([1.0, 3.0, 5.0, 7.0]), np.arange(4), trim="none")
    >>> found = instant(fixed, [0, 0, 1, 1])
    >>> float(found.effect[0]), round(float(found.se[0]), 4)
    (4.0, 1.1547)
    """
    blocks = _blocks(fixed, arms)
    # the kernels release the interpreter's lock; blocks are independent, so threads do not change a bit
    with ThreadPoolExecutor(min(os.cpu_count() or 1, max(len(blocks), 1))) as pool:
        parts = list(pool.map(partial(under, fixed), blocks))
    return Instant(*(np.concatenate([np.empty(0), *(part[k] for part in parts)]) for k in (0, 1)))


def randomization_test(fixed: Fixed, arm: ArrayLike, arms: ArrayLike, *, confidence: float = 0.95) -> RandomizationTest:
    """Return Fisher's test of the sharp null that no product has an effect, by drawing the arms again.

    p = (1 + #{|T*| >= |T|}) / (1 + R), T the absolute estimate over its instant standard error, filter and error redone
    under each draw. It is exact for any sample size where `arms` are independent draws of the mechanism that drew
    `arm`, and the leaves were fitted without looking at it. The interval holds the constant additive effects that the
    same test does not reject: D less the effect for the treated is what would have been, tested under the same draws.
    It assumes that the effect is the same for all products on the scale of the value; a relative one is then the part
    of the untreated mean over kept products that this constant is. Where effects differ, the interval is of the
    estimate's usual meaning only because the statistic is studentised.

    Parameters
    ----------
    fixed
        As for `instant`; with an outcome the effect and the interval are relative.
    arm
        W in force, (N,) or (N, T).
    arms
        Draws of it as for `instant`, without the one in force.
    confidence
        Of the interval.

    Raises
    ------
    ValueError
        As `instant`, or if confidence is not inside (0, 1).

    References
    ----------
    Fisher, The Design of Experiments (1935), section 21. Rosenbaum, Observational Studies (2002), section 2.6.2.
    Chung and Romano, "Exact and asymptotically robust permutation tests", Annals of Statistics 41 (2013).

    Examples
    --------
    >>> import numpy as np
    >>> from itertools import combinations
    >>> arms = np.array([[i in treated for i in range(6)] for treated in combinations(range(6), 3)], dtype=float).T
    >>> fixed = Fixed(np.array([1.0, 2.0, 3.0, 7.0, 8.0, 9.0]), np.arange(6), trim="none")
    >>> randomization_test(fixed, arms[:, -1], arms[:, :-1]).p_value
    0.1
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence == {confidence}, must be in (0, 1). 0.95 is usual.")
    absolute = replace(fixed, outcome=None)
    observed, null = instant(absolute, arm), instant(absolute, arms)
    shown = float(instant(fixed, arm).effect[0])
    n, n_undefined = len(null.effect), int(np.isnan(null.t).sum())
    words = "sharp null of no effect on any product; interval of a constant additive effect"
    if fixed.outcome is not None:
        words += ", relative to the mean without treatment"
    reached = int(np.floor((1.0 - confidence) * (1 + n) + TIE))
    reason = _no_test(shown, float(observed.t[0]), reached, n, confidence)
    numbers = (np.nan, np.nan)
    if reason is None:
        numbers = _not_rejected(absolute, np.asarray(arm, dtype=float), arms, observed, reached)
        if fixed.outcome is not None:
            numbers = _parts_of_untreated(fixed, np.asarray(arm), numbers)
        if not np.isfinite(numbers).all():
            reason = "An end of the interval is not bounded by these draws, or leaves no positive untreated mean."
    t = float(observed.t[0])
    return RandomizationTest(
        effect=shown,
        t=t,
        p_value=_p_value(t, null.t) if np.isfinite(shown) and not np.isnan(t) else np.nan,
        ci_lower=numbers[0] if np.isfinite(numbers[0]) else np.nan,
        ci_upper=numbers[1] if np.isfinite(numbers[1]) else np.nan,
        n_replays=n,
        n_undefined=n_undefined,
        estimand=words,
        reason=reason,
    )


def _blocks(fixed: Fixed, arms: ArrayLike) -> list[NDArray[Any]]:
    """Return the draws in the parts that are computed at once: columns (N, 64 at most), or one draw of cells (N, T)."""
    if fixed.trim not in get_args(Trim):
        raise ValueError(f"trim == {fixed.trim!r}, must be one of {get_args(Trim)}. 'trim' serves relative effects.")
    W, shape = np.asarray(arms), fixed.value.shape
    if W.ndim == len(shape):
        W = W[None] if fixed.cells else W[:, None]
    if W.ndim != len(shape) + 1 or (W.shape[1:] if fixed.cells else W.shape[:1]) != shape:
        rule = f"(R, {shape[0]}, {shape[1]})" if fixed.cells else f"({shape[0]}, R)"
        raise ValueError(f"arms.shape == {np.shape(arms)}, must be {rule}. Give each product its arm in each draw.")
    strange = W[~(np.isnan(W) | (W < 0) | (W == 0) | (W == 1))] if W.dtype.kind == "f" else W[W > 1]
    if strange.size:
        raise ValueError(f"arms == {strange[0]}, must be 0, 1 or nan. Test each treatment arm against control apart.")
    if fixed.cells:
        return list(W)
    return [W[:, first : first + BLOCK] for first in range(0, W.shape[1], BLOCK)]


def _p_value(t: float, null: FloatArray) -> float:
    """Return the share of draws, the one in force among them, that are as far from 0; undefined ones count as far."""
    as_far = ~(np.abs(null) < abs(t) * (1.0 - TIE))
    return float((1 + as_far.sum()) / (1 + len(null)))


def _no_test(effect: float, t: float, reached: int, n_replays: int, confidence: float) -> str | None:
    """Return why there is no interval, or None."""
    if not np.isfinite(effect) or np.isnan(t):
        return "There is no estimate under the arms in force: nothing to test."
    if not np.isfinite(t):
        return "The estimate has no spread: no interval."
    if reached < 1:
        return f"{n_replays} draws are too few for a {confidence:.0%} interval."
    return None


def _not_rejected(
    fixed: Fixed, arm: FloatArray, arms: ArrayLike, observed: Instant, reached: int
) -> tuple[float, float]:
    """Return the ends of the constant effects that the test keeps.

    With the effect delta taken out the statistic is (estimate - delta) / se, because filter and scores move with the
    arms. An end is where that is the `reached`-th largest |T*| of the draws, whose own filter and errors are redone.
    The search starts from the draws with the estimate taken out, so that the interval moves with the effect.
    """
    effect, se = float(observed.effect[0]), float(observed.se[0])
    moved = gain(arm, fixed.factor)

    def bound(taken_out: float) -> float:
        return _largest(instant(replace(fixed, value=fixed.value - taken_out * moved), arms).t, reached)

    middle, close, ends = bound(effect), CLOSE / np.sqrt(_n_draws(fixed, arms)), []
    for side in (-1.0, 1.0):
        last, now, step = np.inf, middle, 0
        while step < STEPS and np.isfinite(now) and abs(now - last) >= close:
            last, now, step = now, bound(effect + side * now * se), step + 1
        ends.append(effect + side * (now if abs(now - last) < close else max(now, last)) * se)
    return ends[0], ends[1]


def _n_draws(fixed: Fixed, arms: ArrayLike) -> int:
    return int(np.shape(arms)[0 if fixed.cells else -1])


def _largest(t: FloatArray, k: int) -> float:
    """Return the k-th largest |t|, undefined ones as infinite."""
    return float(np.sort(np.where(np.isnan(t), np.inf, np.abs(t)))[-k])


def _parts_of_untreated(fixed: Fixed, arm: NDArray[Any], effects: tuple[float, float]) -> tuple[float, float]:
    """Return constant effects as parts of the mean over kept products with that effect taken out, nan below 0."""
    assert fixed.outcome is not None
    found = _one(fixed, arm)
    weight = found.kept[:, 0] / found.kept.sum()
    level, exposed = weight @ np.nan_to_num(fixed.outcome), weight @ fixed.treated_part(found.dose)[:, 0]
    untreated = [level - effect * exposed for effect in effects]
    lower, upper = (e / mu if mu > 0.0 else np.nan for e, mu in zip(effects, untreated, strict=True))
    return float(lower), float(upper)


def _one(fixed: Fixed, arm: NDArray[Any]) -> Under:
    """Return what `under` gives for one draw, (N,) or (N, T)."""
    return under(fixed, _blocks(fixed, arm)[0])

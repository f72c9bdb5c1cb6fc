"""What finished experiments tell of carryover: how much of an effect comes late, and in how many days it fades."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

HALF_LIVES = (1.0, 2.0, 4.0, 7.0)
"""Days in which what is carried over halves, all of them equally likely beforehand."""
KAPPAS = np.concatenate([[0.0], np.arange(0.05, 1.51, 0.05)])
NOTHING, MEAN = 0.5, 0.4
"""Before any experiment: the chance that nothing is carried over, and what is expected where something is."""
MIN_UNITS = 20
"""Units by which the covariance of five sums can be told."""
FLOOR = 0.25
"""Part of the median variance that every product's is raised by, so that no product outweighs all others."""
SAME = 1e-9
TOO_FEW = "not identified: {n} units with every period, needs {needed}"
NO_CONTRAST = "not identified: the arms do not change between units"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one experiment says of carryover: sums of residuals over the arm, and over what each half-life carries over.

    Attributes
    ----------
    moment
        (1 + H,) sum of residuals times the arm, then times the carried-over arm of each of the `HALF_LIVES`.
    gram
        (1 + H, 1 + H) the same products among the regressors.
    covariance
        (1 + H, 1 + H) of `moment`, over units.
    n_units
        Units behind it.
    reason
        Why the experiment says nothing, or None.
    """

    moment: FloatArray
    gram: FloatArray
    covariance: FloatArray
    n_units: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Beliefs:
    """How likely each carryover and half-life is, (K, H), with the carryovers and the half-lives in days.

    `n_experiments` finished experiments stand behind it.
    """

    kappa: FloatArray
    half_life: FloatArray
    probability: FloatArray
    n_experiments: int = 0

    @classmethod
    def certain(cls, kappa: float, half_life: float) -> "Beliefs":
        """Return one carryover and half-life that are taken for granted.

        Examples
        --------
        >>> Beliefs.certain(0.4, 2.0).mean
        0.4
        """
        return cls(np.array([kappa]), np.array([half_life]), np.ones((1, 1)))

    @property
    def mean(self) -> float:
        """Expected carryover."""
        return float(self.kappa @ self.probability.sum(axis=1))

    @property
    def mean_half_life(self) -> float:
        """Expected half-life in days, each weighted by what is carried over with it; of no carryover, plainly."""
        weight = self.kappa @ self.probability
        weight = weight if weight.sum() > 0 else self.probability.sum(axis=0)
        return float(self.half_life @ weight / weight.sum())

    @property
    def nothing(self) -> float:
        """Probability that nothing is carried over."""
        return float(self.probability[self.kappa == 0].sum())

    def quantile(self, p: float) -> float:
        """Return the least carryover that is not exceeded with probability p."""
        return float(self.kappa[np.cumsum(self.probability.sum(axis=1)).searchsorted(p - SAME)])


def evidence(residual: ArrayLike, arm: ArrayLike, *, days: int = 1, units: ArrayLike | None = None) -> Evidence:
    """Return what a finished experiment says of carryover.

    The estimand is the pair (kappa, half-life) of the model in which the effect on period t is tau (W_t + kappa S_t),
    S_t = d S_{t-1} + (1 - d) W_{t-1}, d = .5^(days / half-life), S = 0 before the start. Residuals and regressors are
    taken less the means of product and period; of period alone where no arm changes within a product. Assumes that
    effects differ between units without regard to the arm, and that nothing else makes them move with the days since a
    switch: an answer that grows as shoppers learn of a price looks alike.

    Parameters
    ----------
    residual
        Observed minus predicted (N, T), blackouts included; products with a missing value are left out.
    arm
        The arm in force (N, T), 0 or 1; nan where a product is in neither.
    days
        Days of a period.
    units
        (N,) labels of what was assigned together; None: each product alone.

    Raises
    ------
    ValueError
        If shapes differ.

    References
    ----------
    Bojinov, Simchi-Levi and Zhao, "Design and analysis of switchback experiments", Management Science 69 (2023);
    Hansen (1982), Econometrica 50, for moments with their covariance.
    """
    R, W = np.asarray(residual, dtype=float), np.asarray(arm, dtype=float)
    if R.ndim != 2 or W.shape != R.shape:
        raise ValueError(f"arm.shape == {W.shape}, must be {R.shape}, as the residuals. Give one arm per cell.")
    whole = np.isfinite(R).all(axis=1) & np.isfinite(W).all(axis=1)
    labels = np.arange(len(R)) if units is None else np.asarray(units)
    code = pd.factorize(labels[whole])[0]
    n_units, n = int(code.max(initial=-1)) + 1, 1 + len(HALF_LIVES)
    if n_units < MIN_UNITS:
        return _silent(n, n_units, TOO_FEW.format(n=n_units, needed=MIN_UNITS))
    R, W = R[whole], W[whole]
    within = bool((W[:, :1] != W).any())
    weight = _precision(R)
    x = np.stack([_centred(one, weight, within) for one in (W, *(carried(W, h, days=days) for h in HALF_LIVES))])
    y = _centred(R, weight, within)
    gram = np.einsum("ait,bit,i->ab", x, x, weight)
    if gram[0, 0] <= SAME * W.size:
        return _silent(n, n_units, NO_CONTRAST)
    moment = np.einsum("ait,it,i->a", x, y, weight)
    fitted = np.einsum("a,ait->it", np.linalg.lstsq(gram, moment, rcond=1e-8)[0], x)
    by_unit = np.zeros((n_units, n))
    np.add.at(by_unit, code, np.einsum("ait,it,i->ia", x, y - fitted, weight))
    return Evidence(moment, gram, by_unit.T @ by_unit * n_units / (n_units - 1), n_units)


def carried(arm: ArrayLike, half_life: float, *, days: int = 1) -> FloatArray:
    """Return what of the arm (N, T) is carried over to each period: S_t = d S_{t-1} + (1 - d) W_{t-1}, 0 at first.

    Examples
    --------
    >>> carried([[1, 1, 0]], half_life=1.0).tolist()
    [[0.0, 0.5, 0.75]]
    """
    W = np.asarray(arm, dtype=float)
    d, S = 0.5 ** (days / half_life), np.zeros(W.shape)
    for t in range(1, W.shape[1]):
        S[:, t] = d * S[:, t - 1] + (1.0 - d) * W[:, t - 1]
    return S


def learn(found: Sequence[Evidence]) -> Beliefs:
    """Return how likely each carryover and half-life is after some experiments, each on its own products and days.

    Beforehand nothing is carried over with probability 1/2; what is, is exponential with mean .4 over a grid to 1.5,
    and half-lives of 1, 2, 4 and 7 days are alike. An experiment multiplies the odds by exp(-q / 2), q the squared
    distance of its sums from those that carryover and half-life imply under the effect that suits them best, in terms
    of their covariance. Assumes that carryover is alike in all of them, and their errors independent.

    Parameters
    ----------
    found
        From `evidence`; those that say nothing change nothing.

    Examples
    --------
    >>> round(learn([]).mean, 2), learn([]).nothing
    (0.2, 0.5)
    """
    heard = [one for one in found if one.reason is None]
    log = np.log(_before())
    for one in heard:
        log = log - 0.5 * _distance(one)
    weight = np.exp(log - log.max())
    return Beliefs(KAPPAS.copy(), np.array(HALF_LIVES), weight / weight.sum(), len(heard))


def _before() -> FloatArray:
    """Return the probabilities (K, H) before any experiment."""
    some = np.exp(-KAPPAS[1:] / MEAN)
    over = np.concatenate([[NOTHING], (1.0 - NOTHING) * some / some.sum()])
    return np.repeat(over[:, None], len(HALF_LIVES), axis=1) / len(HALF_LIVES)


def _distance(one: Evidence) -> FloatArray:
    """Return q (K, H): the squared distance of the sums from what carryover and half-life imply, effect fitted."""
    scale = np.sqrt(np.diag(one.covariance))
    scale = np.where(scale > 0, scale, 1.0)
    V = np.linalg.pinv(one.covariance / np.outer(scale, scale), rcond=1e-6, hermitian=True)
    m, G = one.moment / scale, one.gram / scale[:, None]
    implied = G[:, 0][:, None, None] + KAPPAS[:, None] * G[:, 1:][:, None, :]
    bent = np.einsum("ab,bkh->akh", V, implied)
    along = np.einsum("a,akh->kh", m, bent)
    return np.asarray(m @ V @ m - along**2 / np.einsum("akh,akh->kh", implied, bent))


def _precision(residual: FloatArray) -> FloatArray:
    """Return weights (N,), mean 1: large where residuals (N, T) vary little in time, within bounds."""
    variance = residual.var(axis=1)
    floor = max(float(np.median(variance)), SAME)
    weight = 1.0 / (variance + FLOOR * floor)
    return np.asarray(weight / weight.mean())


def _centred(values: FloatArray, weight: FloatArray, within: bool) -> FloatArray:
    """Return values (N, T) less the weighted means of period, and the mean of product where arms change within it."""
    centred = values - np.average(values, axis=0, weights=weight)
    return centred - centred.mean(axis=1, keepdims=True) if within else centred


def _silent(n: int, n_units: int, reason: str) -> Evidence:
    nothing = np.full((n, n), np.nan)
    return Evidence(np.full(n, np.nan), nothing, nothing, n_units, reason)

"""What of an effect carryover hides from a design."""

import numpy as np

from pricelab_dagster.science._draws import CYCLE, WEEK, step
from pricelab_dagster.science._power_designs import Candidate, FloatArray
from pricelab_dagster.science.carryover import Beliefs


def missed_part(candidate: Candidate, *, carryover: float, half_life: float) -> float:
    """Return the part of the long-run effect that a design does not see, because a part of it is carried over.

    Estimand: 1 - E[estimate] / ((1 + kappa) tau) where the effect on period t is tau (W_t + kappa S_t), S_t =
    d S_{t-1} + (1 - d) W_{t-1}, S = 0 before the start, and (1 + kappa) tau is what treatment for good comes to. The
    expectations of numerator and denominator over draws are taken apart, for a single arm. Negative where a design
    reads too much. It assumes carryover that is linear and alike over products, and arms of other products that carry
    nothing over to this one.

    Parameters
    ----------
    candidate
        The design.
    carryover
        kappa, carried-over over same-day effect in the long run, above -1.
    half_life
        Days in which what is carried over halves: d = .5^(days of a period / half_life); 0: all of it comes in the next
        period and is gone after it.

    Raises
    ------
    ValueError
        If carryover or half_life is out of its range.

    Examples
    --------
    >>> round(missed_part(Candidate("time_bound", 2), carryover=0.5, half_life=0), 4)
    0.1667
    """
    if not carryover > -1.0:
        raise ValueError(f"carryover == {carryover}, must be above -1. Give carried-over over same-day effect.")
    return 1.0 - (1.0 + carryover * carried_part(candidate, half_life)) / (1.0 + carryover)


def carried_part(candidate: Candidate, half_life: float) -> float:
    """Return what a design sees of all that is carried over: 0 nothing, 1 everything, negative against its sign."""
    if not half_life >= 0.0:
        raise ValueError(f"half_life == {half_life}, must be 0 or more. Give it in days.")
    d = 0.5 ** (step(candidate.grain) / half_life) if half_life > 0 else 0.0
    T, used = candidate.duration, candidate.counted
    lag = np.subtract.outer(np.arange(T), np.arange(T)) - 1
    A = np.where(lag >= 0, (1.0 - d) * d ** np.maximum(lag, 0), 0.0)
    if candidate.kind == "random_days":
        V = _covariance(candidate)
        both = [part[used][:, used] for part in (A @ V, V)]
        carried, same_day = (np.trace(part) - part.sum() / used.sum() for part in both)
        return float(carried / same_day) if same_day > 0 else np.nan
    sign = np.where(candidate.phase_index % 2 == 1, 1.0, -1.0) if candidate.kind == "crossover" else np.ones(T)
    return float((sign * (A @ sign))[used].mean())


def expected_missed(candidate: Candidate, beliefs: Beliefs) -> float:
    """Return the mean over beliefs of the size of the part of the long-run effect that a design hides or adds.

    No estimand. Parts that are missed and parts that are too much do not cancel.

    Parameters
    ----------
    candidate
        The design.
    beliefs
        From `carryover.learn`.

    Examples
    --------
    >>> expected_missed(Candidate("time_bound", 28), Beliefs.certain(0.0, 2.0))
    0.0
    """
    carried = np.array([carried_part(candidate, half_life) for half_life in beliefs.half_life])
    missed = 1.0 - (1.0 + beliefs.kappa[:, None] * carried) / (1.0 + beliefs.kappa[:, None])
    return float((beliefs.probability * np.abs(missed)).sum())


def _covariance(candidate: Candidate) -> FloatArray:
    """Return the covariance (T, T) of a product's arms on random days."""
    T = candidate.duration
    day = np.arange(T)
    if candidate.balance == "day_of_week":
        alike = (day[:, None] // CYCLE == day // CYCLE) & (day[:, None] % WEEK == day % WEEK)
        return np.where(day[:, None] == day, 0.25, np.where(alike, -0.25, 0.0))
    same = day[:, None] // candidate.block == day // candidate.block
    return np.where(same, candidate.share * (1.0 - candidate.share), 0.0)

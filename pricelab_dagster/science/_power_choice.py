"""Which candidate to take: standard error, carryover and spillover in one figure, and what is uncertain in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pricelab_dagster.science._power_carryover import missed_part
from pricelab_dagster.science._power_designs import Candidate
from pricelab_dagster.science.carryover import Beliefs

if TYPE_CHECKING:
    from pricelab_dagster.science.power import Prediction

CLOSE = 0.1
"""Part by which two errors have to differ to be told apart by a person who chooses."""
OTHER_CARRYOVERS = (0.0, 0.2, 0.4)
LIKELY = 0.9
UNSTEADY = 1.5


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is assumed of the effect that an experiment looks for.

    Attributes
    ----------
    effect
        Long-run relative effect on the metric, .05 for 5 %; its size matters, its sign does not.
    carryover, half_life
        As in `missed_part`: carried-over over same-day effect, and the days in which it halves.
    known
        Where these come from, in words.
    """

    effect: float
    carryover: float = 0.0
    half_life: float = 2.0
    known: str = "as no finished experiment tells of carryover"

    @classmethod
    def after(cls, effect: float, beliefs: Beliefs) -> "Assumed":
        """Return an effect with the median carryover of what is believed, 0 before any experiment.

        A median does not let the odd chance of much carryover decide where most experiments show none.
        """
        if not beliefs.n_experiments:
            return cls(effect)
        count = f"{beliefs.n_experiments} finished experiment{'' if beliefs.n_experiments == 1 else 's'}"
        known = (
            f"the median after {count}, 0 with probability {beliefs.nothing:.0%} and at most "
            f"{beliefs.quantile(LIKELY):.2g} with {LIKELY:.0%}"
        )
        return cls(effect, beliefs.quantile(0.5), beliefs.mean_half_life, known)


@dataclass(frozen=True, slots=True)
class Spillover:
    """Predicted spillover bias of a way to assign, in parts of mean untreated sales; nan bias: why in `reason`."""

    bias: float
    se: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with everything that is held against it; in parts of mean untreated sales.

    Attributes
    ----------
    prediction
        Its standard error and what it misses.
    carryover_bias
        Minus the part of the assumed effect that carryover hides.
    spillover_bias
        Predicted, as it stands; nan where it is not identified.
    rmse
        Root of se² + carryover_bias² + max(0, spillover_bias² - its se²); nan without a standard error. A spillover
        bias that is not identified counts like the largest of the other units, or 0 where there is none.
    """

    prediction: "Prediction"
    carryover_bias: float
    spillover_bias: float
    rmse: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The candidate to take with the reasons in a sentence or a few; None where none has a standard error."""

    choice: Ranked | None
    sentence: str


def rank(
    predictions: Sequence["Prediction"], *, assumed: Assumed, spillover: Mapping[str, Spillover] | None = None
) -> tuple[Ranked, ...]:
    """Return the candidates by rising root mean squared error, those without one last.

    No estimand. Biases are added as squares: that one hides the other is not counted on. The square of a predicted
    spillover bias is too large by its own variance, which is taken off.

    Parameters
    ----------
    predictions
        From `evaluations`.
    assumed
        The effect, and how much of it is carried over.
    spillover
        By unit, product and cluster; a unit that is missing has no bias.

    Examples
    --------
    >>> rank([], assumed=Assumed(0.05))
    ()
    """
    units = spillover or {}
    squared = {unit: max(b.bias**2 - b.se**2, 0.0) for unit, b in units.items() if np.isfinite(b.bias)}
    unknown, found = max(squared.values(), default=0.0), []
    for one in predictions:
        unit = one.candidate.unit
        missed = missed_part(one.candidate, carryover=assumed.carryover, half_life=assumed.half_life)
        carried, bias = -missed * abs(assumed.effect), units[unit].bias if unit in units else 0.0
        spilled = squared.get(unit, unknown) if unit in units else 0.0
        found.append(Ranked(one, carried, bias, float(np.sqrt(one.se**2 + carried**2 + spilled))))
    return tuple(sorted(found, key=lambda one: (np.isnan(one.rmse), one.rmse, one.prediction.days)))


def recommend(
    predictions: Sequence["Prediction"],
    *,
    assumed: Assumed,
    spillover: Mapping[str, Spillover] | None = None,
    max_days: int | None = None,
    n_arms: int = 1,
    planned: Candidate | None = None,
) -> Advice:
    """Return the candidate with the smallest root mean squared error, and what is uncertain about that.

    No estimand. The sentence names the assumptions, what would be taken under less and more carryover, candidates that
    come within a tenth, whether windows disagree on the error, and that spillover is not in it where it is not.

    Parameters
    ----------
    predictions, assumed, spillover
        As for `rank`.
    max_days
        Calendar that the experiment may take; None: the longest of the candidates.
    n_arms
        Treatment arms that are wanted: candidates with other numbers are not taken.
    planned
        A candidate to set beside the choice.

    Examples
    --------
    >>> recommend([], assumed=Assumed(0.05)).choice is None
    True
    """
    units = spillover or {}
    within = [one for one in predictions if max_days is None or one.days <= max_days]
    within = [one for one in within if one.candidate.n_arms == n_arms]
    ranked = [one for one in rank(within, assumed=assumed, spillover=units) if np.isfinite(one.rmse)]
    if not ranked:
        reasons = sorted({one.reason for one in within if one.reason}) or ["there is no candidate"]
        return Advice(None, f"No recommendation: {'; '.join(reasons)}.")
    best = ranked[0]
    parts = [
        f"Take {best.prediction.candidate.name}: {_figures(best)}.",
        *_beside(ranked, predictions, planned, assumed, units),
    ]
    parts.append(
        f"Assumed are an effect of {_points(abs(assumed.effect))} % and {_carryover(assumed)}, {assumed.known}."
    )
    parts += [*_other_carryovers(within, best, assumed, units), *_doubts(best, ranked, units)]
    return Advice(best, " ".join(parts))


def _beside(
    ranked: Sequence[Ranked],
    predictions: Sequence["Prediction"],
    planned: Candidate | None,
    assumed: Assumed,
    units: Mapping[str, Spillover],
) -> list[str]:
    """Return the sentence on the planned candidate."""
    if planned is None:
        return []
    if ranked[0].prediction.candidate == planned:
        return ["That is the plan."]
    found = [one for one in rank(predictions, assumed=assumed, spillover=units) if one.prediction.candidate == planned]
    if not found or np.isnan(found[0].rmse):
        return []
    return [f"As planned, {planned.name}, it would be {_figures(found[0])}."]


def _other_carryovers(
    within: Sequence["Prediction"], best: Ranked, assumed: Assumed, units: Mapping[str, Spillover]
) -> list[str]:
    """Return the sentence on what would be taken under other carryovers."""
    told, last = [], best.prediction.candidate
    for kappa in OTHER_CARRYOVERS:
        other = rank(within, assumed=replace(assumed, carryover=kappa), spillover=units)[0]
        if other.prediction.candidate not in (best.prediction.candidate, last):
            name = f"{other.prediction.candidate.name} ({_points(other.rmse)} together)"
            told.append(f"{'without carryover' if kappa == 0 else f'with a carryover of {kappa:g}'} it is {name}")
        last = other.prediction.candidate
    if not told:
        return [f"It stays so with a carryover from {OTHER_CARRYOVERS[0]:g} to {OTHER_CARRYOVERS[-1]:g}."]
    sentence = "; ".join(told)
    return [f"{sentence[0].upper()}{sentence[1:]}."]


def _doubts(best: Ranked, ranked: Sequence[Ranked], units: Mapping[str, Spillover]) -> list[str]:
    doubts = []
    close = [one for one in ranked[1:] if one.rmse <= (1.0 + CLOSE) * best.rmse]
    if close:
        count = "1 other comes" if len(close) == 1 else f"{len(close)} others come"
        doubts.append(f"{count} within {CLOSE:.0%} of it, first {close[0].prediction.candidate.name}.")
    se = best.prediction.se_by_window
    known = se[np.isfinite(se)]
    if len(known) < 2:
        doubts.append("The history has room for one window only: how far the error moves is not known.")
    elif known.max() > UNSTEADY * known.min():
        doubts.append(f"The windows before disagree on the error: {_points(known.min())} to {_points(known.max())}.")
    known_bias = units.get(best.prediction.candidate.unit)
    if known_bias is None or np.isnan(known_bias.bias):
        reason = "" if known_bias is None or not known_bias.reason else f": {known_bias.reason.rstrip('.')}"
        doubts.append(f"Spillover is not in it{reason}.")
    return doubts


def _carryover(assumed: Assumed) -> str:
    if not assumed.carryover:
        return "no carryover"
    return f"a carryover of {assumed.carryover:.2g} of the same-day effect that halves in {assumed.half_life:.2g} days"


def _figures(one: Ranked) -> str:
    found = one.prediction
    told = [f"standard error {_points(found.se)} points", f"detects {_points(found.mde)}"]
    told.append(f"misses {_points(-one.carryover_bias)} by carryover")
    if np.isfinite(one.spillover_bias) and one.spillover_bias:
        told.append(f"spillover bias {_points(one.spillover_bias)}")
    return f"{', '.join(told)}, together {_points(one.rmse)}, in {found.days} days"


def _points(part: float) -> str:
    return f"{100 * part:.1f}".replace("-0.0", "0.0")

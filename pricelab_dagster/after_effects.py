"""How an experiment's effect moves with the periods since a switch, and what all finished ones tell of carryover."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pricelab_dagster import interval_plot
from pricelab_dagster.lab import Experiment, Grain
from pricelab_dagster.lifecycle import Status
from pricelab_dagster.science import carryover, power
from pricelab_dagster.science.carryover import Beliefs, Evidence
from pricelab_dagster.science.panel import Panel, Trimmed
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench

TABLE = "experiment.after_effects"
EARLY = {"day": 2, "week": 1}
"""Periods after a blackout that are held against all later ones."""
RUNNING = "not identified: the experiment is not finished."
IMPORTED = "not identified: nobody drew the arms, so other things may differ with the days since a switch."
SHORT = "not identified: nothing follows a switch, {length} {unit} after which the arm is drawn again."
HIDDEN = ("se", "gap_se", "reason")
"""Columns that people at a terminal are spared."""
SUMS = ("moment", "gram", "covariance")
TOLERATED = 0.02
"""Part of a long-run effect that a blackout may leave hidden."""
USUAL_PHASES = {"day": (7, 14, 28), "week": (2, 4, 8)}


@dataclass(frozen=True, slots=True)
class Found:
    """The rows of an experiment, by arm the advice in a sentence, and what the first arm says of carryover."""

    rows: pa.Table
    advice: dict[str, str]
    evidence: Evidence | None

    @property
    def facts(self) -> dict[str, object]:
        """What is stored beside the rows."""
        one = self.evidence
        if one is None or one.reason is not None:
            return {"advice": self.advice, "evidence": None}
        sums = {name: getattr(one, name).tolist() for name in SUMS}
        return {"advice": self.advice, "evidence": {**sums, "n_units": one.n_units}}


def found(experiment: Experiment, panel: Panel, primary: Trimmed, *, status: Status) -> Found:
    """Return how the effect of each arm moves with the periods since a switch.

    Parameters
    ----------
    panel : all arms of the experiment.
    primary : the metric looked at, on the relative scale.
    """
    kept = np.where(primary.kept[:, None], primary.residual, np.nan)
    reason = RUNNING if status is Status.RUNNING else IMPORTED if panel.imported else None
    evidence, advice, rows = None, {}, []
    for code, arm in enumerate(experiment.arms, 1):
        one = panel.against(code)
        about = {"experiment_id": experiment.id, "arm": arm.name, "metric": primary.metric}
        curve = None if reason else _curve(experiment, one, kept)
        if isinstance(curve, power.Blackout):
            rows += [about | row for row in _rows(curve)]
            advice[arm.name] = _sentence(curve, panel.grain)
        else:
            rows.append(about | {"periods_since": 0, "is_recommended": False, "reason": reason or curve})
            advice[arm.name] = str(reason or curve)
        if code == 1 and not reason:
            evidence = carryover.evidence(kept, one.arm, days=_days(panel.grain), units=panel.unit_id)
    return Found(pa.Table.from_pylist(rows, schema=TABLES[TABLE].schema), advice, evidence)


def beliefs(bench: Workbench, experiment: Experiment | None = None) -> Beliefs:
    """Return what the finished experiments of the lab tell of carryover: those that ended before one starts, or all.

    Of an experiment that has not been estimated yet nothing is known.
    """
    heard = []
    for name, other in sorted(bench.lab.experiments.items()):
        ended = experiment is None or bench.window(other).end < experiment.start
        if ended and bench.lake.exists(TABLE, name):
            told = bench.lake.metadata(TABLE, name).get("evidence")
            if isinstance(told, dict):
                heard.append(_evidence(told))
    return carryover.learn(heard)


def summary(known: Beliefs, grain: Grain) -> str:
    """Return what is known of carryover, and the blackouts that this asks of crossovers, in a few sentences."""
    count = f"{known.n_experiments} finished experiment" + ("" if known.n_experiments == 1 else "s")
    if not known.n_experiments:
        told = (
            "No finished experiment tells of carryover. Beforehand nothing is taken to be carried over with "
            f"probability {known.nothing:.0%}."
        )
    else:
        told = (
            f"After {count} nothing is carried over with probability {known.nothing:.0%}; carried-over over same-day "
            f"effect is {known.mean:.2f} in the mean, with probability 90 % at most {known.quantile(0.9):.2f}, halving "
            f"in {known.mean_half_life:.1f} days."
        )
    least = {phase: _least(known, phase, grain) for phase in USUAL_PHASES[grain]}
    enough = [f"{blackout} in phases of {phase}" for phase, blackout in least.items() if blackout is not None]
    short = [str(phase) for phase, blackout in least.items() if blackout is None]
    asked = [f"a crossover needs a blackout of {', '.join(enough)} {grain}s"] if enough else []
    asked += [f"phases of {' and '.join(short)} {grain}s are too short"] if short else []
    hidden = f"For no more than {TOLERATED:.0%} of a long-run effect to stay hidden as expected"
    return f"{told} {hidden}, {'; '.join(asked)}."


def picture(experiment: Experiment, rows: pa.Table, advice: str) -> str | None:
    """Return the effect of the first arm by periods since the switch, as SVG; None where there is no curve."""
    arm = experiment.arms[0].name
    shown = [row for row in rows.to_pylist() if row["arm"] == arm and row["effect"] is not None]
    if not shown:
        return None
    lines = [
        interval_plot.Line(
            f"{row['periods_since']} since the switch" + (" (blackout ends)" if row["is_recommended"] else ""),
            row["effect"],
            (row["ci_lower"], row["ci_upper"]),
            strong=row["is_recommended"],
        )
        for row in shown
    ]
    return interval_plot.draw(f"{experiment.title}: effect by periods since the switch, {arm}", advice, lines)


def _curve(experiment: Experiment, one: Panel, residual: np.ndarray) -> power.Blackout | str:
    """Return the curve of one arm, or why there is none."""
    length, early = _stretch(experiment, one), EARLY[one.grain]
    if length <= early:
        return SHORT.format(length=length, unit=one.grain if length == 1 else f"{one.grain}s")
    return power.blackout(residual, one.arm, length=length, early=early, units=one.unit_id)


def _stretch(experiment: Experiment, panel: Panel) -> int:
    """Return the periods that follow a switch."""
    design, T = experiment.design, panel.arm.shape[1]
    if design.kind == "random_days":
        return min(design.block, T)
    return min(design.phase, T) if design.kind == "crossover" else T


def _rows(curve: power.Blackout) -> list[dict[str, Any]]:
    names = ("effect", "se", "ci_lower", "ci_upper", "effect_after", "gap", "gap_se")
    found = []
    for lag in range(len(curve.effect)):
        numbers = {name: float(getattr(curve, name)[lag]) for name in names}
        known = {name: value if np.isfinite(value) else None for name, value in numbers.items()}
        found.append(
            {
                "periods_since": lag,
                **known,
                "is_recommended": lag == curve.recommended,
                "reason": curve.reason,
            }
        )
    return found


def _sentence(curve: power.Blackout, grain: str) -> str:
    if curve.recommended is None:
        return str(curve.reason)
    after = curve.effect_after[curve.recommended]
    return (
        f"A blackout of {curve.recommended} {grain}s is the shortest after which the next {curve.early} are within "
        f"noise of the later ones; the effect is {after:+.3f} then, {curve.effect_after[0]:+.3f} without blackout."
    )


def _least(known: Beliefs, phase: int, grain: Grain) -> int | None:
    """Return the shortest blackout of a crossover that leaves no more hidden than is tolerated, if there is one."""
    for blackout in range(phase):
        design = power.Candidate("crossover", 2 * phase, blackout=blackout, phase=phase, grain=grain)
        if power.expected_missed(design, known) <= TOLERATED:
            return blackout
    return None


def _days(grain: str) -> int:
    return 7 if grain == "week" else 1


def _evidence(told: dict[str, Any]) -> Evidence:
    moment, gram, covariance = (np.array(told[name], dtype=float) for name in SUMS)
    return Evidence(moment, gram, covariance, int(told["n_units"]))


def advices(facts: dict[str, object]) -> Sequence[str]:
    """Return the sentences that are stored beside the rows, one an arm."""
    told = facts.get("advice")
    return [f"{arm}: {text}" for arm, text in told.items()] if isinstance(told, dict) else []

"""The recorded mechanism of an experiment, drawn again: its randomisation test, and false alarms on its own history."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster import drawing, estimating, frames
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import hpte, placebo, replay, replay_panel
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.science.panel import Panel, Trimmed
from pricelab_dagster.workbench import stage_rng

ESTIMATOR = "randomization_inference"
Rows = Iterator[tuple[str, str, str, str, hpte.Effect]]

TEST_DRAWS, TEST_DRAWS_OF_CELLS = 999, 199
"""A draw whose arms change within products costs some fifteen times one whose arms do not."""
AA_DRAWS, AA_DRAWS_OF_CELLS = 400, 60
WINDOWS = 6
WINDOWS_NEEDED = 3
REJECTED = (0.035, 0.065)

IMPORTED = "not identified: the assignment is imported, so the mechanism that drew it cannot be replayed."
OTHER_ARMS = (
    "The recorded seed gives other arms on what is known of the products now: the strata have moved since the draw, "
    "and the test is approximate."
)
SEVERAL = "Effects of the other arms are taken out as estimated: the test is approximate."


@dataclass(frozen=True, slots=True)
class Replayed:
    """Draws of an experiment's arms, for the products of its panel.

    Attributes
    ----------
    codes
        int8 (N, R): the arm drawn for a product, of a crossover -k where it starts as control of arm k; (R, N, T) by
        period for random days.
    note
        What makes the replay inexact, or None.
    """

    codes: NDArray[np.int8]
    note: str | None

    def against(self, arm: int, kind: str) -> NDArray[np.int8]:
        """Return W of one arm in every draw: 1 in it, 0 for control (a crossover's other sequence), -1 elsewhere."""
        other = -arm if kind == "crossover" else 0
        return np.where(self.codes == arm, 1, np.where(self.codes == other, 0, -1)).astype(np.int8)


def frame_of(
    experiment: Experiment,
    features: pd.DataFrame,
    assignments: pa.Table,
    drawn_arms: pa.Table,
    facts: Mapping[str, Any],
) -> drawing.Frame:
    """Return who was drawn: as stored beside the assignment, or else by the products' features as known now.

    Of an imported assignment, which nobody drew here, the products in one stratum.

    Parameters
    ----------
    features : intermediate.int_product_features.
    assignments, drawn_arms : the experiment's tables; a triggered one drew the products of `drawn_arms`.
    facts : what is stored beside the assignment.
    """
    drawn = drawn_arms if drawn_arms.num_rows else assignments
    units = dict(zip(drawn["product_id"].to_pylist(), drawn["unit_id"].to_pylist(), strict=True))
    if experiment.assignment.source is not None:
        return drawing.Frame(np.array(list(units)), np.array(list(units.values())), np.zeros(len(units), dtype=int))
    stored = drawing.Frame.stored(facts, units)
    if stored is not None:
        return stored
    inside = features[features["product_id"].isin(set(units))].sort_values("product_id")
    return drawing.Frame.of(experiment, inside, units)


def draws(
    experiment: Experiment,
    one: Panel,
    frame: drawing.Frame,
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> Replayed:
    """Return draws of the arms by the experiment's own mechanism; triggered units keep their events.

    Raises
    ------
    LabError : when the scope is too small for the design.
    """

    def once(source: np.random.Generator) -> NDArray[np.int8]:
        drawn = drawing.draw_from(frame, experiment, one.grain, rng=source)
        place = pd.Index(drawn.product_id).get_indexer(pd.Index(one.product_id))
        assert (place >= 0).all(), "a product of the panel is not in the scope that it was drawn from"
        if one.kind == "random_days":
            return drawn.arm[place, : one.arm.shape[1]]
        if one.kind == "crossover":
            return np.where(drawn.sequence > 0, drawn.drawn, -drawn.drawn)[place].astype(np.int8)
        return drawn.drawn[place]

    recorded = once(stage_rng(experiment.assignment.seed, experiment.id, "assignments"))
    found = [once(rng) for _ in range(n_draws)]
    codes = np.stack(found, axis=0 if one.kind == "random_days" else 1)
    return Replayed(codes, None if np.array_equal(recorded, _in_force(one)) else OTHER_ARMS)


def randomization_rows(
    experiment: Experiment,
    one: Panel,
    trimmed: list[Trimmed],
    leaves: Leaves,
    found: Iterable[tuple[str, str, str, str, hpte.Effect]],
    *,
    frame: drawing.Frame,
    n_draws: int | None = None,
    rng: np.random.Generator,
) -> Rows:
    """Yield the randomisation test of each arm's headline: first metric, relative scale.

    Parameters
    ----------
    found : the rows of `estimating.estimates`.
    n_draws : of the mechanism; None: as many as take a few seconds.
    """
    metric, quoted = trimmed[0].metric, estimating.headline(experiment)
    rows = {
        arm: effect
        for arm, name, scale, estimator, effect in found
        if (name, scale, estimator) == (metric, "relative", quoted)
    }
    if one.imported:
        for arm in experiment.arms:
            nothing = "sharp null of no effect on any product"
            yield arm.name, metric, "relative", ESTIMATOR, _row(rows[arm.name], nothing, 0, IMPORTED)
        return
    usual = TEST_DRAWS_OF_CELLS if one.kind == "random_days" else TEST_DRAWS
    replayed = draws(experiment, one, frame, n_draws=n_draws or usual, rng=rng)
    for code, arm in enumerate(experiment.arms, 1):
        tested = _of_arm(experiment, one, trimmed, leaves, code)
        W = replay_panel.arm_in_force(one, code)
        confidence = experiment.analysis.confidence
        test = replay.randomization_test(tested, W, replayed.against(code, one.kind), confidence=confidence)
        notes = [test.reason, replayed.note, SEVERAL if len(experiment.arms) > 1 else None]
        effect = _row(rows[arm.name], test.estimand, test.n_replays, " ".join(note for note in notes if note) or None)
        if np.isfinite(effect.effect):
            effect = replace(effect, p_value=test.p_value, ci_lower=test.ci_lower, ci_upper=test.ci_upper)
        yield arm.name, metric, "relative", ESTIMATOR, effect


def aa_own_history(
    experiment: Experiment,
    one: Panel,
    primary: Trimmed,
    X: pd.DataFrame,
    *,
    frame: drawing.Frame,
    rng: np.random.Generator,
) -> Diagnostic:
    """Return how often the mechanism, drawn again over windows before the start, finds an effect at 5 %.

    Passed where the interval of that share meets 3.5 to 6.5 %, failed above. Below, intervals are longer than they need
    be, because strata, pairs or the filter on few products make draws closer than the bootstrap: informational. So it
    is with fewer than three windows, and of a crossover in its first phase, which has no estimate to draw again.
    """
    name, analysis = "aa_own_history", experiment.analysis
    if one.imported:
        return Diagnostic(name, "informational", np.nan, REJECTED[1], np.nan, f"Not computed: {IMPORTED}")
    missing = science.missing_phase(one)
    if missing is not None:
        return Diagnostic(name, "informational", np.nan, REJECTED[1], np.nan, f"Not computed: {missing}.")
    windows = replay_panel.own_history(
        one,
        primary,
        X,
        clustered=experiment.assignment.by_cluster,
        n_windows=WINDOWS,
        trim=analysis.trim.method,
        c=analysis.trim.c,
        method=analysis.detrend.method,
        window=frames.window_of(analysis.detrend, one.grain),
        min_leaf=analysis.forest.min_leaf,
        rng=rng,
    )
    if not windows:
        horizon, unit = one.arm.shape[1], f"{one.grain}s"
        message = (
            f"Not computed: the history of {one.n_history} {unit} has no room for a window of {horizon} {unit} with "
            f"four weeks before it; {horizon + 4 * one.season} {unit} with sales are needed, more for more windows."
        )
        return Diagnostic(name, "informational", np.nan, REJECTED[1], np.nan, message)
    n_draws = AA_DRAWS_OF_CELLS if one.kind == "random_days" else AA_DRAWS
    replayed = draws(experiment, one, frame, n_draws=n_draws, rng=rng)
    shares = [
        placebo.aa_rejections(
            windows,
            replayed.against(code, one.kind),
            se="calibrated",
            n_replicates=30 if one.kind == "random_days" else 200,
            rng=rng,
        )
        for code in range(1, len(experiment.arms) + 1)
    ]
    return _judged(name, max(shares, key=lambda share: (np.nan_to_num(share.share), share.ci_lower)), len(shares))


def _judged(name: str, found: placebo.Rejections, n_arms: int) -> Diagnostic:
    """Return the verdict on the share of draws in which an effect was found where there was none."""
    low, high = REJECTED
    n_windows = len(found.by_window)
    message = (
        f"Drawn again {found.n_replays} times over {n_windows} windows before the start, the arms differ at 5 % in "
        f"{found.share:.1%} of draws (95 % interval {found.ci_lower:.1%} to {found.ci_upper:.1%})"
    )
    message += f", the most of {n_arms} arms." if n_arms > 1 else "."
    status: Any = "passed"
    if not np.isfinite(found.share):
        status, message = "informational", "Not computed: no window before the start has an estimate."
    elif n_windows < WINDOWS_NEEDED:
        status = "informational"
        message += f" {WINDOWS_NEEDED} windows are needed for a verdict: a longer history, or a shorter experiment."
    elif found.ci_lower > high:
        status = "failed"
        message += " Intervals are too short for sales as these."
    elif found.ci_upper < low:
        status = "informational"
        message += " Intervals are longer than they need be, as with strata, pairs, or the filter on few products."
    return Diagnostic(name, status, found.share, high, np.nan, message)


def _of_arm(experiment: Experiment, one: Panel, trimmed: list[Trimmed], leaves: Leaves, arm: int) -> replay.Fixed:
    """Return the values that draws leave alone for one arm, less the estimated effects of the other arms."""
    analysis = experiment.analysis
    options: dict[str, Any] = {"trim": analysis.trim.method, "c": analysis.trim.c}
    options["clustered"] = experiment.assignment.by_cluster
    tested = replay_panel.fixed(one, trimmed, trimmed[0], leaves, arm=arm, **options)
    for other in range(1, len(experiment.arms) + 1):
        if other != arm:
            W = replay_panel.arm_in_force(one, other)
            beside = replay_panel.fixed(one, trimmed, trimmed[0], leaves, arm=other, **options)
            effect = float(replay.instant(replace(beside, outcome=None), W).effect[0])
            tested = replay_panel.without_arm(tested, W, np.nan_to_num(effect))
    return tested


def _row(effect: hpte.Effect, estimand: str, n_draws: int, reason: str | None) -> hpte.Effect:
    """Return the effect with nothing of its bootstrap; without a draw also without the effect."""
    nothing: dict[str, Any] = dict.fromkeys(("se", "ci_lower", "ci_upper", "p_value"), np.nan)
    shown = effect.effect if n_draws else np.nan
    notes = " ".join(note for note in (effect.reason if np.isnan(effect.effect) else None, reason) if note)
    return replace(
        effect,
        **nothing,
        effect=shown,
        estimand=estimand,
        n_replicates=n_draws,
        reason=notes or None,
        draws=np.empty(0),
    )


def _in_force(one: Panel) -> NDArray[np.int8]:
    """Return the arms of the panel as the codes of a draw."""
    if one.kind == "random_days":
        return np.nan_to_num(one.arm, nan=-1.0).astype(np.int8)
    drawn = one.drawn_arm
    return np.where((one.kind == "crossover") & ~(one.sequence > 0), -drawn, drawn).astype(np.int8)

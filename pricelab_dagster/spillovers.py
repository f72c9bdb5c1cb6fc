"""What the treatment of products did to their substitutes: rows from exposures, which the recorded mechanism weighs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse, stats

from pricelab_dagster import compared, drawing, joint_states
from pricelab_dagster.joint_states import Graph as Graph
from pricelab_dagster.joint_states import Resampling
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import exposure, meta_experiment
from pricelab_dagster.science.exposure import CONTROL, CONTROL_EXPOSED, TREATED, TREATED_EXPOSED
from pricelab_dagster.science.panel import Panel, Trimmed

COMPONENTS = ("direct", "spillover", "total")
CONTRASTS = {
    "direct": (TREATED, CONTROL),
    "spillover": (CONTROL_EXPOSED, CONTROL),
    "total": (TREATED_EXPOSED, CONTROL),
}
WEIGHTED: dict[str, exposure.Estimator] = {"exposure_hajek": "hajek", "exposure_horvitz_thompson": "horvitz_thompson"}
LINEAR, UNCORRECTED, META = "exposure_linear", "uncorrected", "meta_experiment"

DRAWS, FEWEST_DRAWS, DRAWS_OF_CELLS = 2000, 100, 500
CELLS_IN_MEMORY = 20_000_000

IMPORTED = "not identified: the assignment is imported, so that the probability of an exposure is not known."
TRIGGERED = "not identified: triggered products start on different days, so that exposure changes inside each window."
SEVERAL = "not identified: with several treatment arms a product's exposure is to several prices at once."
BY_DAY = "not identified: exposure levels change from day to day in random days; see exposure_linear."
NO_GRAPH = "not identified: the history identifies no pair of products; spillover.substitute_edges says why."
BY_DAY_HALVES = "not identified: in random days every product is in both arms, so that halves have no arm of their own."
NO_CLUSTERS = "not identified: the clusters of the draw are not known."
FEW_CLUSTERS = f"not identified: an arm of this half has fewer than {meta_experiment.LEAST_UNITS} clusters."
AS_ESTIMATED = "the headline: what other products' arms do to a product is left in it."


def quoted(effects: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the row of experiment.effects by metric and scale that is held against exposure: the headline's form.

    Nothing with several treatment arms: each has its own.
    """
    if effects["arm"].nunique() != 1:
        return {}
    named = effects[effects["is_headline"]].set_index("metric")["estimator"]
    same = effects[effects["estimator"] == effects["metric"].map(named)]
    rows = [{str(name): value for name, value in row.items()} for row in same.to_dict("records")]
    return {(row["metric"], row["scale"]): row for row in rows}


def markdown(rows: pa.Table) -> str:
    """Return the effects on the first metric as a table for the web UI."""
    found = [row for row in rows.to_pylist() if row["scale"] == "relative"]
    lines = ["| component | estimator | effect | interval |", "|---|---|---|---|"]
    for row in found:
        if row["metric"] != found[0]["metric"]:
            continue
        interval = row["reason"] or "-"
        if row["ci_lower"] is not None:
            interval = f"{row['ci_lower']:.4f} to {row['ci_upper']:.4f}"
        shown = "-" if row["effect"] is None else f"{row['effect']:.4f}"
        lines.append(f"| {row['component']} | {row['estimator']} | {shown} | {interval} |")
    return "\n".join(lines)


def refusal(experiment: Experiment) -> str | None:
    """Return why nothing about spillover is identified in an experiment, or None."""
    if experiment.assignment.source is not None:
        return IMPORTED
    if experiment.design.kind == "triggered":
        return TRIGGERED
    return SEVERAL if len(experiment.arms) > 1 else None


def _refusal(experiment: Experiment, graph: Graph) -> str | None:
    return refusal(experiment) or (None if graph.n_identified else NO_GRAPH)


def rows(
    experiment: Experiment,
    one: Panel,
    trimmed: list[Trimmed],
    graph: Graph,
    quoted: Mapping[tuple[str, str], Mapping[str, Any]],
    frame: drawing.Frame,
    *,
    resampling: Resampling | None = None,
    so_far: str | None = None,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Yield a row per metric, scale, component and estimator, corrected beside uncorrected.

    Parameters
    ----------
    trimmed : first differences of every metric and scale, as `frames.read_trimmed` gives them.
    graph : over the products of the scope.
    quoted : the headline row of experiment.effects, by metric and scale.
    frame : who was drawn.
    resampling : how the sample came about, None for a whole scope. Levels of exposure are weighed by sample and arms,
        for effects over the scope; the linear regression is about the sample, and centred on the arms inside it.
    so_far : last period of a running experiment; it enters every reason.
    """
    reason = _refusal(experiment, graph)
    weighed = None if reason else _Weighed.of(experiment, one, graph, frame, resampling, rng=rng)
    for part in trimmed:
        key = (part.metric, part.scale)
        if key not in quoted and reason is None:
            continue
        named = {"metric": part.metric, "scale": part.scale}
        found = [("total", UNCORRECTED, _uncorrected(experiment, one, part, quoted[key]))] if key in quoted else []
        if weighed is None:
            found += [(name, LINEAR, _nothing(str(reason))) for name in COMPONENTS]
        else:
            found += weighed.effects(experiment, part, quoted[key])
        if experiment.assignment.unit == "mixed" and key in quoted:
            found += _halves(experiment, one, part, quoted[key], frame)
        for component, estimator, values in found:
            notes = [values["reason"], f"running: periods through {so_far} only." if so_far else None]
            said = {"reason": " ".join(note for note in notes if note) or None}
            yield named | {"component": component, "estimator": estimator} | values | said


def _halves(
    experiment: Experiment, one: Panel, part: Trimmed, quoted: Mapping[str, Any], frame: drawing.Frame
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the total effect as each half of a mixed assignment measures it, and their difference: interference."""
    reason = refusal(experiment) or (BY_DAY_HALVES if one.kind == "random_days" else None)
    if reason is None and frame.cluster is None:
        reason = NO_CLUSTERS
    if reason:
        yield "interference", META, _nothing(reason)
        return
    drawn = pd.DataFrame({"unit": frame.unit_id, "cluster": frame.cluster}, index=pd.Index(frame.product_id))
    drawn["whole"] = (drawn["unit"] == drawn["cluster"]).groupby(drawn["cluster"]).transform("all")
    here = drawn.reindex(pd.Index(one.product_id))
    found = meta_experiment.estimate(
        np.where(np.isfinite(one.sequence), compared.outcome(experiment, one, part), np.nan),
        np.nan_to_num(one.sequence),
        here["cluster"].to_numpy(),
        here["whole"].to_numpy(),
        confidence=experiment.analysis.confidence,
    )
    mu0 = compared.untreated_mean(one, part, quoted)
    for name, half in (("half_by_product", found.by_product), ("half_by_cluster", found.by_cluster)):
        yield "total", name, _half(half, mu0, experiment.analysis.confidence)
    ends = {key: _known(getattr(found, key) / mu0) for key in ("se", "ci_lower", "ci_upper")}
    counted = {"n_units": found.by_product.n_products + found.by_cluster.n_products, "n_no_overlap": 0}
    measured = {"effect": _known(found.interference / mu0), "estimand": found.estimand, "reason": found.reason}
    yield "interference", META, ends | measured | counted


def _half(half: meta_experiment.Half, mu0: float, confidence: float) -> dict[str, Any]:
    """Return the values of the total effect as one half of a mixed assignment measures it."""
    reach = stats.t.ppf(0.5 + confidence / 2.0, half.df) * half.se
    numbers = {"effect": half.effect, "se": half.se, "ci_lower": half.effect - reach, "ci_upper": half.effect + reach}
    return {
        **{key: _known(value / mu0) for key, value in numbers.items()},
        "estimand": f"effect over {half.n_clusters} clusters of two products or more",
        "n_units": half.n_products,
        "n_no_overlap": 0,
        "reason": None if np.isfinite(reach) else FEW_CLUSTERS,
    }


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Arms over the graph, in force and drawn again, with the probabilities of exposure levels where they stand still.

    `arm` (N,) and `states` (R, N) for arms of whole products; (N, T) and (R, N, T) for random days. `states` are given
    the sample, `levels` are not; without levels `reason` says why.
    """

    one: Panel
    graph: Graph
    place: NDArray[np.intp]
    units: NDArray[np.int64]
    arm: NDArray[np.float64]
    states: NDArray[np.int8]
    levels: exposure.Probabilities | None
    reason: str | None

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        one: Panel,
        graph: Graph,
        frame: drawing.Frame,
        resampling: Resampling | None,
        *,
        rng: np.random.Generator,
    ) -> "_Weighed":
        place, drawn_at = graph.at(one.product_id), graph.at(frame.product_id)
        n, t = len(graph.product_id), one.arm.shape[1]
        cells = one.kind == "random_days"
        n_draws = int(np.clip(CELLS_IN_MEMORY // (n * t), FEWEST_DRAWS, DRAWS_OF_CELLS)) if cells else DRAWS
        states = np.full((n_draws, n, t) if cells else (n_draws, n), -1, dtype=np.int8)
        for state in states:
            arms = drawing.draw_from(frame, experiment, one.grain, rng=rng).arm
            state[drawn_at] = arms[:, :t] if cells else arms[:, 0]
        arm = np.full(states.shape[1:], np.nan)
        arm[place] = one.arm if cells else one.sequence
        # products outside the draw are units of their own, whatever the clusters are called
        units, strata = np.arange(n) + len(frame.unit_id), np.arange(n) + len(frame.stratum)
        units[drawn_at], strata[drawn_at] = pd.factorize(frame.unit_id)[0], frame.stratum
        levels, reason = None, BY_DAY if cells else None
        if not cells and resampling is None:
            levels = exposure.probabilities(graph.bound, states, strata=strata)
        elif not cells and resampling is not None:
            levels, reason = _sampled_levels(experiment, one, graph, resampling, rng=rng)
        return cls(one, graph, place, units, arm, states, levels, reason)

    def effects(
        self, experiment: Experiment, part: Trimmed, quoted: Mapping[str, Any]
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield component, estimator and values of one metric and scale."""
        confidence = experiment.analysis.confidence
        D, mu0 = compared.outcome(experiment, self.one, part), compared.untreated_mean(self.one, part, quoted)
        linear = self._linear(experiment, D, confidence)
        n_products = compared.n_products(D)
        for component in COMPONENTS:
            yield component, LINEAR, _values(getattr(linear, component), mu0) | {"n_units": n_products}
        for name, estimator in WEIGHTED.items():
            for component in COMPONENTS:
                if self.levels is None:
                    yield component, name, _nothing(str(self.reason))
                    continue
                found = exposure.estimate(
                    self._over_graph(D),
                    exposure.own_and_any(self.graph.bound, np.nan_to_num(self.arm, nan=-1.0)),
                    self.levels,
                    contrast=CONTRASTS[component],
                    estimator=estimator,
                    confidence=confidence,
                )
                yield component, name, _values(found, mu0)

    def _linear(self, experiment: Experiment, outcome: NDArray[np.float64], confidence: float) -> exposure.Linear:
        values, theta, units = self._over_graph(outcome), self.graph.theta, self.units
        arm, states = self.arm, self.states
        if arm.ndim == 2:
            t = arm.shape[1]
            theta = sparse.csr_array(sparse.kron(theta, sparse.eye_array(t)))
            units = np.repeat(units, t)
            values, arm, states = values.ravel(), arm.ravel(), states.reshape(len(states), -1)
        return exposure.linear(values, arm, theta, draws=states, units=units, confidence=confidence)

    def _over_graph(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        spread = np.full((len(self.graph.product_id), *values.shape[1:]), np.nan)
        spread[self.place] = values
        return spread


def _sampled_levels(
    experiment: Experiment, one: Panel, graph: Graph, resampling: Resampling, *, rng: np.random.Generator
) -> tuple[exposure.Probabilities | None, str | None]:
    """Return the law of exposure levels over draws of sample and arms, or why there is none."""
    found = joint_states.sampled_states(graph, experiment, one.grain, resampling.frame, n_draws=DRAWS, rng=rng)
    if found.reason:
        return None, found.reason
    strata = resampling.strata(graph.product_id)
    return exposure.probabilities(graph.bound, found.states, strata=strata), None


def _values(found: Any, mu0: float) -> dict[str, Any]:
    return {
        **{name: _known(getattr(found, name) / mu0) for name in ("effect", "se", "ci_lower", "ci_upper")},
        "estimand": found.estimand,
        "n_units": found.n_units,
        "n_no_overlap": found.n_no_overlap,
        "reason": found.reason,
    }


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _nothing(reason: str) -> dict[str, Any]:
    return {"n_units": 0, "n_no_overlap": 0, "reason": reason}


def _uncorrected(experiment: Experiment, one: Panel, part: Trimmed, quoted: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: quoted[name] for name in ("effect", "se", "ci_lower", "ci_upper", "estimand")}
    reason = f"{quoted['estimator']}, {AS_ESTIMATED}"
    n_units = int(quoted["n_treated"] or 0) + int(quoted["n_control"] or 0)
    if one.kind == "random_days":
        # every product is in both arms, and would count twice
        n_units = compared.n_products(compared.outcome(experiment, one, part))
    return {**values, "n_units": n_units, "n_no_overlap": 0, "reason": reason}

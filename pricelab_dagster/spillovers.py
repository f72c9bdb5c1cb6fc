"""What the treatment of products did to their substitutes: rows from exposures, which the recorded mechanism weighs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from pricelab_dagster import drawing
from pricelab_dagster.lab import Experiment, Grain
from pricelab_dagster.science import exposure, meta_experiment, outliers, pair_probabilities, substitutes
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.exposure import CONTROL, CONTROL_EXPOSED, TREATED, TREATED_EXPOSED
from pricelab_dagster.science.pair_probabilities import CONTROL as CONTROL_STATE
from pricelab_dagster.science.pair_probabilities import OUT, TREATMENT
from pricelab_dagster.science.panel import Panel, Trimmed
from pricelab_dagster.tables import TABLES

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
SAMPLE_DRAWS = 1000

IMPORTED = "not identified: the assignment is imported, so that the probability of an exposure is not known."
TRIGGERED = "not identified: triggered products start on different days, so that exposure changes inside each window."
SEVERAL = "not identified: with several treatment arms a product's exposure is to several prices at once."
BY_DAY = "not identified: exposure levels change from day to day in random days; see exposure_linear."
NO_GRAPH = "not identified: the history identifies no pair of products; spillover.substitute_edges says why."
BY_DAY_HALVES = "not identified: in random days every product is in both arms, so that halves have no arm of their own."
NO_CLUSTERS = "not identified: the clusters of the draw are not known."
AS_ESTIMATED = "the headline: what other products' arms do to a product is left in it."


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph over the products that an experiment may touch.

    Attributes
    ----------
    product_id
        (N,) sorted.
    theta
        Sparse (N, N): [i, j] is the shrunk effect of i's log price on j's relative demand, of neighbours alone. Over
        all pairs exposure would be nearly the share of the class that is treated, which designs hold constant.
    bound
        Sparse (N, N), 1 where two products are neighbours, of either sign.
    n_identified
        Ordered pairs that the history identifies.
    """

    product_id: NDArray[np.object_]
    theta: sparse.csr_array
    bound: sparse.csr_array
    n_identified: int

    @classmethod
    def of(cls, edges: pd.DataFrame, products: Sequence[str]) -> "Graph":
        """Return the graph of spillover.substitute_edges over some products."""
        ids = np.array(sorted(set(products)), dtype=object)
        known = edges[edges["effect"].notna()]
        place = pd.Index(ids)
        row, column = (place.get_indexer(known[name]) for name in ("on_price_of", "product_id"))
        inside = (row >= 0) & (column >= 0)
        known, row, column = known[inside], row[inside], column[inside]
        shape = (len(ids), len(ids))
        effects = sparse.csr_array((known["shrunk_effect"].to_numpy(dtype=float), (row, column)), shape=shape)
        pairs = substitutes.graph_edges(known, either_sign=True).edges
        first, second = (place.get_indexer(pairs[:, side]) for side in (0, 1))
        ones = np.ones(2 * len(pairs))
        bound = sparse.csr_array((ones, (np.r_[first, second], np.r_[second, first])), shape=shape)
        return cls(ids, sparse.csr_array(effects.multiply(bound)), bound, len(known))

    def pairs(self) -> NDArray[np.int64]:
        """Return the neighbours (M, 2), each pair once."""
        upper = sparse.coo_array(sparse.triu(self.bound, k=1))
        return np.stack([upper.row, upper.col], axis=1).astype(np.int64)

    def at(self, product_id: NDArray[np.object_]) -> NDArray[np.intp]:
        """Return where products stand in the graph, -1 for those outside."""
        return np.asarray(pd.Index(self.product_id).get_indexer(pd.Index(product_id)))


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


def pair_table(experiment: Experiment, graph: Graph, found: pair_probabilities.PairProbabilities) -> pa.Table:
    """Return joint state probabilities as rows of experiment.pair_probabilities."""
    names = {OUT: "out", TREATMENT: "treated", CONTROL_STATE: "control"}
    ends = [graph.product_id[side] for side in (found.first, found.second)]
    columns: dict[str, Any] = {"product_id": ends[0], "neighbour_id": ends[1], "n_draws": found.n_draws}
    for a, first in names.items():
        for b, second in names.items():
            columns[f"both_{first}" if a == b else f"{first}_{second}"] = found.probability[:, a, b]
    frame = pd.DataFrame(columns | {"experiment_id": experiment.id})
    schema = TABLES["experiment.pair_probabilities"].schema
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)


def markdown(rows: pa.Table) -> str:
    """Return the effects on the first metric as a table for the web UI."""
    found = [row for row in rows.to_pylist() if row["scale"] == "relative"]
    lines = ["| component | estimator | effect | interval |", "|---|---|---|---|"]
    for row in found:
        if row["metric"] != found[0]["metric"]:
            continue
        known = row["effect"] is not None
        interval = f"{row['ci_lower']:.4f} to {row['ci_upper']:.4f}" if row["ci_lower"] is not None else row["reason"]
        shown = f"{row['effect']:.4f}" if known else "-"
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
    so_far : last period of a running experiment; it enters every reason.
    """
    reason = _refusal(experiment, graph)
    weighed = None if reason else _Weighed.of(experiment, one, graph, frame, rng=rng)
    for part in trimmed:
        key = (part.metric, part.scale)
        if key not in quoted and reason is None:
            continue
        named = {"metric": part.metric, "scale": part.scale}
        found = [("total", UNCORRECTED, _uncorrected(quoted[key]))] if key in quoted else []
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


def pair_states(
    graph: Graph, experiment: Experiment, grain: Grain, frame: drawing.Frame, *, rng: np.random.Generator
) -> pair_probabilities.PairProbabilities:
    """Return the joint states of neighbours in the first period, exact, given who was drawn from.

    Positions are those of the graph; products that are not in the draw are out.
    """
    drawn = drawing.draw_from(frame, experiment, grain, rng=rng)
    place = np.full(len(graph.product_id) + 1, -1)
    place[graph.at(frame.product_id)] = np.arange(len(frame.product_id))
    pairs = graph.pairs()
    found = pair_probabilities.closed_form(place[pairs], drawn, strata=frame.stratum)
    return pair_probabilities.PairProbabilities(pairs[:, 0], pairs[:, 1], found.probability, found.se, found.n_draws)


def sampled_pair_states(
    graph: Graph,
    experiment: Experiment,
    grain: Grain,
    draw_frame: Callable[[np.random.Generator], drawing.Frame],
    *,
    rng: np.random.Generator,
) -> pair_probabilities.PairProbabilities:
    """Return the frequencies of joint states over draws of the sample and of the arms inside it."""
    states = np.full((SAMPLE_DRAWS, len(graph.product_id)), -1, dtype=np.int8)
    for state in states:
        frame = draw_frame(rng)
        drawn = drawing.draw_from(frame, experiment, grain, rng=rng)
        state[graph.at(frame.product_id)] = drawn.arm[:, 0] > 0
    return pair_probabilities.monte_carlo(graph.pairs(), states)


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
        np.where(np.isfinite(one.sequence), outcome(experiment, one, part), np.nan),
        np.nan_to_num(one.sequence),
        here["cluster"].to_numpy(),
        here["whole"].to_numpy(),
        confidence=experiment.analysis.confidence,
    )
    mu0 = _untreated_mean(one, part, quoted)
    for name, half in (("half_by_product", found.by_product), ("half_by_cluster", found.by_cluster)):
        numbers = {key: _known(getattr(half, key) / mu0) for key in ("effect", "se")}
        words = f"effect over {half.n_clusters} clusters of two products or more"
        yield (
            "total",
            name,
            numbers | {"estimand": words, "n_units": half.n_products, "n_no_overlap": 0, "reason": None},
        )
    ends = {key: _known(getattr(found, key) / mu0) for key in ("se", "ci_lower", "ci_upper")}
    counted = {"n_units": found.by_product.n_products + found.by_cluster.n_products, "n_no_overlap": 0}
    measured = {"effect": _known(found.interference / mu0), "estimand": found.estimand, "reason": found.reason}
    yield "interference", META, ends | measured | counted


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Arms over the graph, in force and drawn again, with the probabilities of exposure levels where they stand still.

    `arm` (N,) and `states` (R, N) for arms of whole products; (N, T) and (R, N, T) for random days.
    """

    one: Panel
    graph: Graph
    place: NDArray[np.intp]
    units: NDArray[np.object_]
    arm: NDArray[np.float64]
    states: NDArray[np.int8]
    levels: exposure.Probabilities | None

    @classmethod
    def of(
        cls, experiment: Experiment, one: Panel, graph: Graph, frame: drawing.Frame, *, rng: np.random.Generator
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
        units = graph.product_id.copy()
        units[drawn_at] = frame.unit_id
        strata = np.arange(n) + len(frame.stratum)
        strata[drawn_at] = frame.stratum
        levels = None if cells else exposure.probabilities(graph.bound, states, strata=strata)
        return cls(one, graph, place, units, arm, states, levels)

    def effects(
        self, experiment: Experiment, part: Trimmed, quoted: Mapping[str, Any]
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield component, estimator and values of one metric and scale."""
        confidence = experiment.analysis.confidence
        compared, mu0 = outcome(experiment, self.one, part), _untreated_mean(self.one, part, quoted)
        linear = self._linear(experiment, compared, confidence)
        n_products = int(np.isfinite(compared).reshape(len(compared), -1).any(axis=1).sum())
        for component in COMPONENTS:
            yield component, LINEAR, _values(getattr(linear, component), mu0) | {"n_units": n_products}
        for name, estimator in WEIGHTED.items():
            for component in COMPONENTS:
                if self.levels is None:
                    yield component, name, _nothing(BY_DAY)
                    continue
                found = exposure.estimate(
                    self._over_graph(compared),
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


def outcome(experiment: Experiment, one: Panel, part: Trimmed) -> NDArray[np.float64]:
    """Return what is compared, (N,) or (N, T) in the panel's order, nan for what the filter drops."""
    rule = science.filter_rule(experiment.analysis.trim.method, part.scale)
    kept = part.kept if rule == "trim" else np.isfinite(part.first_difference)
    if one.kind == "random_days":
        cells = np.where(one.analysed(part.residual) & kept[:, None], part.residual, np.nan)
        if getattr(experiment.design, "balance", None) == "day_of_week":
            # half of each product's days are treated: its level is no part of the contrast
            cells -= _mean(part.residual, np.isfinite(cells))[:, None]
        return cells
    D = np.asarray(science.contrast(one, part.residual))
    if rule == "winsorize":
        D = outliers.winsorize(D, science.groups(one), c=experiment.analysis.trim.c)
    return np.where(kept, D, np.nan) * (0.5 if one.kind == "crossover" else 1.0)


def _untreated_mean(one: Panel, part: Trimmed, quoted: Mapping[str, Any]) -> float:
    """Return what a relative effect is divided by, as the headline implies it; 1 on the level scale."""
    if part.scale == "level":
        return 1.0
    used = one.analysed(part.outcome) & part.kept[:, None]
    known = part.kept & used.any(axis=1)
    outcome, dose = (_mean(values, used)[known].mean() for values in (part.outcome, one.arm))
    effect = quoted["effect"]
    return float(outcome / (1.0 + effect * dose)) if effect is not None and np.isfinite(effect) else float(outcome)


def _mean(values: NDArray[np.float64], used: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return row means over the cells used, 0 without any."""
    return np.asarray(np.where(used, values, 0.0).sum(axis=1) / np.maximum(used.sum(axis=1), 1))


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


def _uncorrected(quoted: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: quoted[name] for name in ("effect", "se", "ci_lower", "ci_upper", "estimand")}
    reason = f"{quoted['estimator']}, {AS_ESTIMATED}"
    n_units = int(quoted["n_treated"] or 0) + int(quoted["n_control"] or 0)
    counted = {"n_units": n_units, "n_no_overlap": 0, "reason": reason}
    return {**values, **counted}

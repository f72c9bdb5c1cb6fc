"""The tables of effects by segment, of their projection on attributes, and of the headline over the filter constant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster import estimating, frames, interval_plot
from pricelab_dagster.attributes import as_dates
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import bootstrap, projection, segment_panel
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.effect_scores import Scores
from pricelab_dagster.science.panel import Panel, Trimmed
from pricelab_dagster.tables import TABLES

SEGMENTS, PROJECTION, CURVE = "experiment.segment_effects", "experiment.effect_projection", "experiment.trim_curve"
SHOWN_SEGMENTS = 24
_LOG = "log_"


@dataclass(frozen=True, slots=True)
class Study:
    """What is known of one experiment once its leaves are there; the first of `trimmed` is the first metric, relative.

    `X` are the attributes of the products (N rows).
    """

    experiment: Experiment
    panel: Panel
    trimmed: list[Trimmed]
    leaves: Leaves
    X: pd.DataFrame

    @property
    def primary(self) -> Trimmed:
        """The first metric on the relative scale."""
        return self.trimmed[0]

    @property
    def filter(self) -> dict[str, Any]:
        """The settings of the outlier filter."""
        return {"trim": self.experiment.analysis.trim.method, "c": self.experiment.analysis.trim.c}

    def arms(self) -> Iterator[tuple[str, Panel]]:
        """Yield each treatment arm's name and its panel against control."""
        for code, arm in enumerate(self.experiment.arms, 1):
            yield arm.name, self.panel.against(code)

    def scores(self, one: Panel) -> Scores:
        """Return the products' scores of the effect of one arm on the first metric."""
        n_arms = len(self.experiment.arms)
        return segment_panel.scores(one, self.primary, self.leaves, n_arms=n_arms, **self.filter)

    def key(self, arm: str) -> dict[str, object]:
        """Return the columns that stand in each row of an arm."""
        return {"experiment_id": self.experiment.id, "arm": arm, "metric": self.primary.metric}


def segment_rows(study: Study, *, rng: np.random.Generator) -> pa.Table:
    """Return the effects over all products and by segment, of every arm."""
    rows: list[dict[str, object]] = []
    analysis = study.experiment.analysis
    for arm, one in study.arms():
        key = {**study.key(arm), "scale": study.primary.scale}
        refusal = segment_panel.refusal(one)
        if refusal is not None:
            whole = {"place": 0, "attribute": segment_panel.ALL, "segment": segment_panel.ALL}
            rows.append({**key, **whole, "reason": refusal})
            continue
        segments, effects = segment_panel.by_segment(
            one,
            study.trimmed,
            study.primary,
            study.scores(one),
            study.X,
            shown=_readable(study.X),
            n_trees=analysis.forest.n_trees,
            min_leaf=analysis.forest.min_leaf,
            confidence=analysis.confidence,
            rng=rng,
            **study.filter,
        )
        values = [row for part in effects for row in _plain(part, len(part.effect))]
        names = zip(segments.attribute, segments.segment, strict=True)
        own = [{"attribute": a, "segment": s, **row} for (a, s), row in zip(names, values, strict=True)]
        own += [{"attribute": a, "segment": "thirds", "reason": why} for a, why in segments.reason.items()]
        rows += [{**key, "place": place, **row} for place, row in enumerate(own)]
    return pa.Table.from_pylist(rows, schema=TABLES[SEGMENTS].schema)


def projection_rows(study: Study) -> pa.Table:
    """Return the best linear projection of every arm's effect on the attributes."""
    rows: list[dict[str, object]] = []
    for arm, one in study.arms():
        refusal = segment_panel.refusal(one)
        if refusal is not None:
            rows.append({**study.key(arm), "place": 0, "term": projection.MEAN, "reason": refusal})
            continue
        confidence = study.experiment.analysis.confidence
        scores = study.scores(one)
        found = segment_panel.on_attributes(one, study.trimmed, study.primary, scores, study.X, confidence=confidence)
        for place, row in enumerate(_plain(found, len(found.term))):
            rows.append({**study.key(arm), "place": place, **row})
    return pa.Table.from_pylist(rows, schema=TABLES[PROJECTION].schema)


def curve_rows(study: Study, *, rng: np.random.Generator) -> pa.Table:
    """Return the headline of the first metric under each constant of the filter, of every arm; `rng` as for effects."""
    analysis = study.experiment.analysis
    weights = bootstrap.poisson_weights(study.panel.unit_id, n_replicates=analysis.bootstrap.n_replicates, rng=rng)
    estimator = estimating.headline(study.experiment)
    off = "analysis.trim.method is none: shown with auto." if analysis.trim.method == "none" else None
    rows: list[dict[str, object]] = []
    for arm, one in study.arms():
        found = segment_panel.trim_curve(
            one,
            study.trimmed,
            study.primary.metric,
            study.leaves,
            estimator=estimator,
            weights=weights,
            trim=analysis.trim.method,
            confidence=analysis.confidence,
            rng=rng,
        )
        for c, effect in found:
            numbers = {name: _value(getattr(effect, name)) for name in ("effect", "se", "ci_lower", "ci_upper")}
            reason = " ".join(part for part in (effect.reason, off) if part) or None
            words = {"scale": study.primary.scale, "estimator": estimator, "c": c, "reason": reason}
            counts = {"n_trimmed": effect.n_trimmed, "n_replicates": effect.n_replicates}
            rows.append({**study.key(arm), **words, **numbers, **counts})
    return pa.Table.from_pylist(rows, schema=TABLES[CURVE].schema)


def segment_table(rows: pa.Table) -> str:
    """Return effects by segment as a Markdown table."""
    head = ["| arm | segment | effect | interval | adjusted p | products |", "|---|---|---|---|---|---|"]
    lines = []
    for row in rows.to_pylist():
        p_value = "-" if row["p_adjusted"] is None else f"{row['p_adjusted']:.3f}"
        n = "-" if row["n_products"] is None else row["n_products"]
        lines.append(f"| {row['arm']} | {_cell(_label(row))} | {_shown(row)} | {p_value} | {n} |")
    return "\n".join([*head, *lines])


def projection_table(rows: pa.Table) -> str:
    """Return the projection as a Markdown table."""
    head = ["| arm | term | coefficient | interval | adjusted p |", "|---|---|---|---|---|"]
    lines = []
    words = sorted({row["estimand"] for row in rows.to_pylist() if row["estimand"]})
    for row in rows.to_pylist():
        p_value = "-" if row["p_adjusted"] is None else f"{row['p_adjusted']:.3f}"
        shown = _shown({**row, "effect": row["coefficient"]})
        lines.append(f"| {row['arm']} | {_cell(row['term'])} | {shown} | {p_value} |")
    return "\n".join([*head, *lines, *(f"\nEstimand: {text}." for text in words)])


def curve_table(rows: pa.Table) -> str:
    """Return the headline over the filter constant as a Markdown table."""
    head = ["| arm | c | effect | interval | filtered |", "|---|---|---|---|---|"]
    lines = [f"| {row['arm']} | {row['c']:g} | {_shown(row)} | {row['n_trimmed']} |" for row in rows.to_pylist()]
    return "\n".join([*head, *lines])


def segment_picture(experiment: Experiment, rows: pa.Table) -> str:
    """Return the effects by segment of the first arm as a picture."""
    arm = experiment.arms[0].name
    own = [row for row in rows.to_pylist() if row["arm"] == arm]
    whole, parts = (
        [row for row in own if (row["attribute"] == segment_panel.ALL) == all_of_them] for all_of_them in (True, False)
    )
    shown = parts[:SHOWN_SEGMENTS]
    left_out = f" The first {len(shown)} of {len(parts)} segments." if len(shown) < len(parts) else ""
    subtitle = f"{_what(experiment, own, arm)} Thick: each interval alone; thin: all of them together.{left_out}"
    lines = [
        interval_plot.Line(
            _label(row), row["effect"], _ends(row, "ci"), _ends(row, "simultaneous"), strong=row in whole
        )
        for row in [*whole, *shown]
    ]
    return interval_plot.draw(f"{experiment.title}: effects by segment", subtitle, lines)


def curve_picture(experiment: Experiment, rows: pa.Table) -> str:
    """Return the headline of the first arm over the filter constant as a picture."""
    arm = experiment.arms[0].name
    own = [row for row in rows.to_pylist() if row["arm"] == arm]
    c = experiment.analysis.trim.c
    lines = [
        interval_plot.Line(
            f"c = {row['c']:g}, {row['n_trimmed']} filtered", row["effect"], _ends(row, "ci"), strong=row["c"] == c
        )
        for row in own
    ]
    subtitle = f"{_what(experiment, own, arm)} Bold: the constant of this experiment, where it is among them."
    return interval_plot.draw(f"{experiment.title}: the effect under other filters", subtitle, lines)


def _readable(X: pd.DataFrame) -> pd.DataFrame:
    """Return the attributes with logarithms and counts of days undone: the same thirds, their bounds can be read."""
    X = as_dates(X)
    logs = {f"{_LOG}{name}": name for name in frames.NUMERIC_FEATURES}
    return X.assign(**{name: np.exp(X[name]) for name in logs if name in X}).rename(columns=logs)


def _plain(found: Any, n: int) -> Iterator[dict[str, object]]:
    """Yield a result's columns of n values as rows; nan becomes null."""
    columns: Mapping[str, Any] = {name: getattr(found, name) for name in found.__slots__}
    for k in range(n):
        yield {
            name: values if isinstance(values, str) else _value(values[k])
            for name, values in columns.items()
            if isinstance(values, str | tuple | np.ndarray)
        }


def _value(value: Any) -> Any:
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


def _label(row: Mapping[str, Any]) -> str:
    return row["segment"] if row["attribute"] == segment_panel.ALL else f"{row['attribute']}: {row['segment']}"


def _shown(row: Mapping[str, Any]) -> str:
    """Return the cells of effect and interval."""
    if row["effect"] is None:
        return f"- | {_cell(row['reason'] or '-')}"
    bounds = _ends(row, "ci")
    shown = _cell(row["reason"] or "-") if bounds is None else " to ".join(f"{bound:+.1%}" for bound in bounds)
    return f"{row['effect']:+.1%} | {shown}"


def _ends(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    lower, upper = row[f"{name}_lower"], row[f"{name}_upper"]
    return None if lower is None or upper is None else (lower, upper)


def _what(experiment: Experiment, own: list[dict[str, Any]], arm: str) -> str:
    metric = own[0]["metric"] if own else experiment.metrics[0]
    return f"{metric}, {arm} against control, as part of the level without treatment."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

"""What the arms of an experiment are compared by, product for product, and what a relative effect is a part of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.lab import Experiment
from pricelab_dagster.science import outliers
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.panel import Panel, Trimmed


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


def n_products(outcome: NDArray[np.float64]) -> int:
    """Return how many products have something to compare, of (N,) or (N, T)."""
    return int(np.isfinite(outcome).reshape(len(outcome), -1).any(axis=1).sum())


def untreated_mean(one: Panel, part: Trimmed, quoted: Mapping[str, Any]) -> float:
    """Return what a relative effect is divided by, as the headline implies it; 1 on the level scale.

    `quoted` is the headline's row of experiment.effects.
    """
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

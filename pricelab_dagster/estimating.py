"""The estimates of one experiment: every treatment arm against control, and the dose line over several arms."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.lab import DOSE_LINE, Experiment
from pricelab_dagster.science import bootstrap, hpte
from pricelab_dagster.science import panel as science
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.panel import Panel, Trimmed


def headline(experiment: Experiment, *, staggered: bool = False) -> str:
    """Return the estimator to quote."""
    imported = experiment.assignment.source is not None
    unit, kind = "cluster" if experiment.assignment.by_cluster else "product", experiment.design.kind
    return science.headline(unit=unit, kind=kind, imported=imported, staggered=staggered)


def headlines(experiment: Experiment, found: Iterable[tuple[str, str, str, str, hpte.Effect]]) -> dict[str, str]:
    """Return by arm the estimator to quote: of an arm with staggered starts the average that is offered instead.

    An arm whose products have not switched yet, or start together while another arm does not, has the usual one.
    """
    late = headline(experiment, staggered=True)
    offered: dict[str, set[str]] = {}
    for arm, _, _, estimator, _ in found:
        offered.setdefault(arm, set()).add(estimator)
    return {arm: late if late in names else headline(experiment) for arm, names in offered.items()}


def estimates(
    experiment: Experiment,
    one: Panel,
    trimmed: list[Trimmed],
    leaves: Leaves,
    *,
    doses: NDArray[np.float64] | None,
    X: pd.DataFrame | None = None,
    rng: np.random.Generator,
) -> Iterator[tuple[str, str, str, str, hpte.Effect]]:
    """Yield arm, metric, scale, estimator and effect; one bootstrap draw serves all of them.

    `doses` as `frames.doses` gives them, X as `frames.attributes` does; without X no peers are adjusted for it.
    """
    analysis = experiment.analysis
    weights = bootstrap.poisson_weights(one.unit_id, n_replicates=analysis.bootstrap.n_replicates, rng=rng)
    for code, arm in enumerate(experiment.arms, 1):
        found = science.estimates(
            one.against(code),
            trimmed,
            leaves,
            trim=analysis.trim.method,
            c=analysis.trim.c,
            confidence=analysis.confidence,
            weights=weights,
            X=X,
            rng=rng,
        )
        for metric, scale, estimator, effect in found:
            yield arm.name, metric, scale, estimator, effect
    if doses is not None:
        clustered = experiment.assignment.by_cluster
        lines = science.dose_line(
            one,
            trimmed,
            None if clustered else leaves,
            doses,
            weights=weights,
            trim=analysis.trim.method,
            c=analysis.trim.c,
            confidence=analysis.confidence,
            rng=rng,
        )
        for metric, scale, effect in lines:
            yield DOSE_LINE, metric, scale, headline(experiment), effect

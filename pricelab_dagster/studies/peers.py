"""What other estimators make of the same draw: each on the raw sales, and on our first difference and filter."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import affinity
from pricelab_dagster.science.panel import Panel, Trimmed

FloatArray = NDArray[np.float64]

RAW = ("difference, raw", "ancova, raw", "causal_forest_dml, raw")
FILTERED = ("difference, filtered", "ancova, filtered", "causal_forest_dml, filtered")
WINDOW_DAYS = 28


class Sample(NamedTuple):
    """What an estimator looks at: outcome and arm (n,), covariates (n, P), outcomes behind the untreated mean (n,)."""

    y: FloatArray
    W: FloatArray
    X: FloatArray
    level: FloatArray


def rival(name: str, panel: Panel, one: Trimmed, attributes: pd.DataFrame, *, rng: np.random.Generator) -> float:
    """Return the relative effect that a peer estimates, on the treated ones for an imported assignment.

    Raw peers take the plain mean of the window, with that of the last 28 days before it as a covariate (the difference
    subtracts it); filtered ones our first difference, of the products that the filter keeps.
    """
    method, form = name.split(", ")
    text = [column for column in attributes if column != "subcategory"]
    sample = _sample(panel, one, affinity.encode(attributes[text])[0], raw=form == "raw")
    if method == "difference":
        y = sample.y - sample.X[:, -1] if form == "raw" else sample.y
        tau = float(y[sample.W == 1.0].mean() - y[sample.W == 0.0].mean())
    elif method == "ancova":
        tau = _ancova(sample, treated=panel.imported)
    else:
        tau = _causal_forest(sample, treated=panel.imported, rng=rng)
    return tau / float(sample.level.mean() - tau * sample.W.mean())


def _sample(panel: Panel, one: Trimmed, X: FloatArray, *, raw: bool) -> Sample:
    level = one.outcome.mean(axis=1)
    before = panel.history[one.metric][:, -WINDOW_DAYS:].mean(axis=1) / one.product_scale
    known = np.isfinite(one.first_difference)
    if raw:
        return Sample(*(part[known] for part in (level, panel.sequence, np.column_stack([X, before]), level)))
    kept = known & one.kept
    return Sample(*(part[kept] for part in (one.first_difference, panel.sequence, X, level)))


def _ancova(sample: Sample, *, treated: bool) -> float:
    """Return the effect by least squares with covariates that interact with the arm (Lin 2013)."""
    X = sample.X - (sample.X[sample.W == 1.0] if treated else sample.X).mean(axis=0)
    design = np.column_stack([np.ones(len(X)), sample.W, X, X * sample.W[:, None]])
    return float(np.linalg.lstsq(design, sample.y, rcond=None)[0][1])


def _causal_forest(sample: Sample, *, treated: bool, rng: np.random.Generator) -> float:
    from econml.dml import CausalForestDML
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    seed = int(rng.integers(2**31 - 1))
    shared = {"n_estimators": 100, "min_samples_leaf": 10, "random_state": seed}
    forest = CausalForestDML(
        model_y=RandomForestRegressor(**shared),
        model_t=RandomForestClassifier(**shared),
        discrete_treatment=True,
        n_estimators=200,
        random_state=seed,
        n_jobs=1,
    )
    forest.fit(sample.y, sample.W, X=sample.X)
    return float(np.ravel(forest.att_(T=1) if treated else forest.ate_)[0])

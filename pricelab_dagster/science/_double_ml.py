"""The average effect of econml's causal forest with double machine learning, and when there is none."""

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import effects

FloatArray = NDArray[np.float64]

MIN_PER_ARM = 20
"""Products in each arm below which a causal forest has no leaf with both arms to learn from."""
FOREST_TREES, STAGE_TREES, STAGE_LEAF, FOLDS = 400, 100, 10, 5


def no_forest(features: FloatArray, W: FloatArray, *, clustered: bool) -> str | None:
    """Return why there is no causal forest for the kept products, or None."""
    n_treated, n_control = int((W == 1.0).sum()), int((W == 0.0).sum())
    if min(n_treated, n_control) == 0:
        return effects.undefined_reason(n_treated, n_control)
    if min(n_treated, n_control) < MIN_PER_ARM:
        return f"{n_treated} treated and {n_control} control products, at least {MIN_PER_ARM} of each are needed."
    if clustered:
        return "Clusters are assigned: econml's average effect has no standard error for them."
    if not (np.ptp(features, axis=0) > 0).any():
        return "No attribute varies over the products: no forest."
    return None


def average_effect(D: FloatArray, W: FloatArray, X: FloatArray, estimand: str, seed: int) -> tuple[float, float]:
    """Return the average effect and its standard error."""
    from econml.dml import CausalForestDML
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.model_selection import StratifiedKFold

    stage = {"n_estimators": STAGE_TREES, "min_samples_leaf": STAGE_LEAF, "n_jobs": 1, "random_state": seed}
    forest = CausalForestDML(
        model_y=RandomForestRegressor(**stage),
        model_t=RandomForestClassifier(**stage),
        discrete_treatment=True,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        n_estimators=FOREST_TREES,
        n_jobs=1,
        random_state=seed,
    ).fit(D, W.astype(int), X=X)
    pair = (forest.att_(T=1), forest.att_stderr_(T=1)) if estimand == "att" else (forest.ate_, forest.ate_stderr_)
    effect, se = (float(np.ravel(number)[0]) for number in pair)
    return effect, se

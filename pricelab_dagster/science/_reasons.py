"""Why an estimator may differ from the headline: what the other estimates and the data say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

UNFILTERED, UNADJUSTED = "difference_in_differences", "hajek"
LINEAR = ("ancova", "cuped")
INVERSE = ("hpte_doubly_robust", "causal_forest_dml")
AVERAGES = ("hpte_leaf", "hpte_doubly_robust", "ancova", "causal_forest_dml")
"""Estimators that average over products, whatever the chance of their arm."""
NEARLY_CERTAIN, MANY = (0.05, 0.95), 0.05
FOLDS, MIN_PER_ARM = 5, 10


@dataclass(frozen=True, slots=True)
class Evidence:
    """What tells why estimates of one arm differ.

    Attributes
    ----------
    unfiltered
        The effect of the first differences without affinity and without filter; nan if unknown.
    balance_distance, balance_p
        Mahalanobis distance of the arms' attributes, and the share of random draws as far; nan if unknown.
    certain_share
        Share of products whose attributes give their arm a probability outside [.05, .95]; nan if unknown.
    clustered
        Whether clusters were assigned.
    """

    unfiltered: float = np.nan
    balance_distance: float = np.nan
    balance_p: float = np.nan
    certain_share: float = np.nan
    clustered: bool = False


def certain_share(features: FloatArray, W: FloatArray) -> float:
    """Return the share of products with a predicted probability of their arm near 0 or 1, or nan for few products.

    Each is predicted by a logistic regression on the other folds, attributes standardised.
    """
    if min((W == 1.0).sum(), (W == 0.0).sum()) < MIN_PER_ARM or features.shape[1] == 0:
        return float("nan")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    Z = (features - features.mean(axis=0)) / features.std(axis=0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = LogisticRegression(max_iter=1000)
    chance = cross_val_predict(model, Z, W.astype(int), cv=folds, method="predict_proba")[:, 1]
    return float(((chance < NEARLY_CERTAIN[0]) | (chance > NEARLY_CERTAIN[1])).mean())


def likely(name: str, effects: Mapping[str, float], headline: str, evidence: Evidence) -> tuple[str, bool]:
    """Return the likely reason for which an estimator differs from the headline, and whether it is meant to."""
    if name == "two_way_fixed_effects" or name.startswith("group_time"):
        return "products start at different times, and the averages weigh their effects unlike", True
    if name == UNFILTERED:
        return _steps_of_unfiltered(effects, headline, evidence)
    if UNADJUSTED in (name, headline):
        return _adjustment(headline if name == UNADJUSTED else name, effects, evidence)
    return _between_adjusted({name, headline}, effects, evidence)


def _steps_of_unfiltered(effects: Mapping[str, float], headline: str, evidence: Evidence) -> tuple[str, bool]:
    """Return the largest of the steps that lead from the headline to the raw change: adjustment, filter, forecast."""
    raw, quoted = effects[UNFILTERED], effects[headline]
    plain = effects.get(UNADJUSTED, quoted)
    unfiltered = evidence.unfiltered if np.isfinite(evidence.unfiltered) else plain
    steps = {"adjustment": plain - quoted, "outliers": unfiltered - plain, "trends": raw - unfiltered}
    largest = max(steps, key=lambda step: steps[step] * np.sign(raw - quoted))
    if largest == "adjustment":
        return _adjustment(headline, effects, evidence)
    if largest == "outliers":
        return f"outliers, which the filter drops: the same differences unfiltered read {unfiltered:+.1%}", False
    return f"trends or price moves, which the forecast foresees: with it, unfiltered, {unfiltered:+.1%}", False


def _adjustment(adjusted: str, effects: Mapping[str, float], evidence: Evidence) -> tuple[str, bool]:
    """Return why an adjusted estimate differs from the plain difference of the same products."""
    plain, other = effects.get(UNADJUSTED), effects[adjusted]
    regression = effects.get("ancova")
    unlike = evidence.balance_p < 0.01
    if plain is not None and regression is not None and adjusted not in LINEAR:
        unlike = abs(regression - other) < abs(regression - plain)
    elif adjusted in LINEAR:
        unlike = True
    if unlike:
        return f"arms unlike in attributes: {_balance(evidence)}", False
    if evidence.clustered and adjusted not in (*LINEAR, UNADJUSTED):
        return "interference: like products of other clusters are compared, which compete with each other", True
    return "comparison within leaves alone moves the estimate, which regression on the attributes does not", False


def _between_adjusted(pair: set[str], effects: Mapping[str, float], evidence: Evidence) -> tuple[str, bool]:
    """Return why two adjusted estimates differ."""
    if pair & set(INVERSE) and evidence.certain_share > MANY:
        return (
            f"propensities near 0 or 1 for {evidence.certain_share:.0%} of products: few comparisons weigh much",
            False,
        )
    if pair & set(LINEAR) and evidence.balance_p < 0.01:
        missing = " and ".join(sorted(pair & set(LINEAR)))
        return f"arms unlike in attributes, whose part {missing} misses: {_balance(evidence)}", False
    average = pair & set(AVERAGES)
    others = [effects[one] for one in AVERAGES if one in effects and one not in pair]
    if len(average) == 1 and others:
        (mean,) = (effects[one] for one in average)
        (weighted,) = (effects[one] for one in pair - average)
        side = [abs(one - mean) < abs(one - weighted) for one in others]
    else:
        side = []
    if sum(side) > len(side) / 2:
        return "effects vary: means over all products differ from the one weighted by how open the arm was", True
    return "unknown: no other estimate and no check sides with it", False


def _balance(evidence: Evidence) -> str:
    if not np.isfinite(evidence.balance_p):
        return "their balance could not be computed"
    return f"distance {evidence.balance_distance:.1f}, {evidence.balance_p:.1%} of random draws as far"

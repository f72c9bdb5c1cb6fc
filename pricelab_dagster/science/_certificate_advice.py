"""The way to assign that is taken from a certificate, in words that say what is uncertain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pricelab_dagster.science._certificate_frontier import Choice

MOSTLY = 0.8
"""Below this part of identified pairs the sentence says so."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The choice to take and a sentence; None where there is nothing to go by."""

    choice: Choice | None
    sentence: str


def told_apart(one: Choice, other: Choice) -> bool:
    """Return whether the root mean squared errors of two choices differ by more than their noise.

    No estimand: the 95 % interval of the difference excludes 0. Its variance is that of the mean over placebo windows,
    by Student's t with their number less 1, and that over replicates of the weeks; both are of differences in the same
    windows and weeks. One window alone shows no noise, and tells nothing apart.
    """
    windows = np.hypot(one.bias, one.se_by_window) - np.hypot(other.bias, other.se_by_window)
    K = len(windows)
    if K < 2:
        return False
    of_windows = stats.t.ppf(0.5 + CONFIDENCE / 2.0, K - 1) * windows.std(ddof=1) / np.sqrt(K)
    weeks = np.hypot(one.bias_drawn, one.se) - np.hypot(other.bias_drawn, other.se)
    of_weeks = stats.norm.ppf(0.5 + CONFIDENCE / 2.0) * weeks.std(ddof=1)
    return bool(abs(one.rmse - other.rmse) > np.hypot(of_windows, of_weeks))


def recommend(choices: Sequence[Choice], *, planned: Choice | None = None) -> Recommendation:
    """Return the choice with the smallest root mean squared error, and a sentence that says what is uncertain.

    No estimand. Choices that are not `told_apart` from the best are not ranked: of these the planned one is taken if it
    is there, else the best, and the sentence names the others. The predicted bias enters as it stands: where it is
    noise, it counts against every choice by about its own error, and against products most. Products are not
    recommended where they are biased and no clusters could be judged. A mixed assignment is there to measure, and is
    not in the running.

    Parameters
    ----------
    choices
        From `frontier`.
    planned
        The one of them that the experiment has in mind.

    Raises
    ------
    ValueError
        If there is no choice, or none that assigns products.
    """
    by_product = next((one for one in choices if one.assignment == "product"), None)
    if by_product is None:
        raise ValueError(f"choices has {len(choices)} rows, none by product. Compare with that.")
    running = [one for one in choices if one.assignment != "mixed"]
    known = [one for one in running if np.isfinite(one.rmse)]
    if not np.isfinite(by_product.rmse):
        se = f" By product the standard error is {_points(by_product.se)} points." if by_product.se > 0 else ""
        return Recommendation(None, f"No recommendation, the bias is {by_product.reason}{se}")
    unjudged = _unjudged(running)
    biased = by_product.ci_lower > 0 or by_product.ci_upper < 0
    if unjudged and biased and not any((one.max_size or 1) > 1 for one in known):
        return Recommendation(None, f"No recommendation: by product {_numbers(by_product)}. {unjudged}")
    best = min(known, key=lambda one: one.rmse)
    equals = [one for one in known if one is not best and not told_apart(one, best)]
    if planned is not None and any(one is planned for one in equals):
        best, equals = planned, [best, *(one for one in equals if one is not planned)]
    parts = [f"Assign {_units(best)}: {_numbers(best)}."]
    others = [one for one in known if one is not best] if best is by_product else [by_product]
    if others:
        second = min(others, key=lambda one: one.rmse)
        parts.append(f"{_way(second).capitalize()} it would be {_numbers(second)}.")
    parts += _ties(best, equals) + ([unjudged] if unjudged else []) + _doubts(best, by_product)
    return Recommendation(best, " ".join(parts))


def _ties(best: Choice, equals: Sequence[Choice]) -> list[str]:
    """Return which choices are as good as the best for all that is known."""
    if not equals:
        return []
    K = len(best.se_by_window)
    if K < 2:
        return ["The choices are not ranked: one window before the start does not show how far chance moves errors."]
    caps = [one for one in equals if one.assignment == "cluster" and not one.route and one.max_size != 1]
    named = [_way(one) for one in equals if one not in caps]
    if caps:
        sizes = ", ".join(str(size) for size in sorted(one.max_size or 0 for one in caps))
        named.append(f"by clusters of at most {sizes} products")
    return [
        f"As good for all that is known: {', '.join(named)}; over {K} windows and the weeks of the history what they "
        "come to together differs by less than its noise."
    ]


def _unjudged(running: Sequence[Choice]) -> str:
    """Return that clusters could not be judged and why, or nothing."""
    why = [one.reason or "" for one in running if one.assignment == "cluster" and not np.isfinite(one.rmse)]
    if not why:
        return ""
    some = any(one.assignment == "cluster" and np.isfinite(one.rmse) for one in running)
    return f"{'Some clusters' if some else 'Clusters'} could not be judged: {_after_colon(why[0])}"


def _after_colon(reason: str) -> str:
    return reason.removeprefix("not identified: ")


def _units(one: Choice) -> str:
    if one.assignment == "product":
        return "products"
    if one.max_size == 1:
        return "pairs of products across categories"
    return f"clusters of at most {one.max_size} products" + (f" ({one.route})" if one.route else "")


def _way(one: Choice) -> str:
    return "by product" if one.assignment == "product" else f"by {_units(one)}"


def _numbers(one: Choice) -> str:
    interval = f"{_points(one.ci_lower)} to {_points(one.ci_upper)}"
    return (
        f"spillover bias {_points(one.bias)} points ({interval}), standard error {_points(one.se)}, "
        f"together {_points(one.rmse)}"
    )


def _doubts(best: Choice, by_product: Choice) -> list[str]:
    doubts = []
    if by_product.ci_lower <= 0.0 <= by_product.ci_upper:
        most = max(-by_product.ci_lower, by_product.ci_upper)
        doubts.append(
            "Interference is not shown: the interval of the bias by product includes 0, and the choice may follow from "
            f"chance. A bias of up to {_points(most)} points by product is not excluded either."
        )
    elif best is not by_product and best.ci_lower <= by_product.bias <= best.ci_upper:
        doubts.append("That clusters lower the bias is not shown: the interval of theirs holds that by product.")
    if by_product.identified_share < MOSTLY:
        share = f"{100 * (1 - by_product.identified_share):.0f} %"
        doubts.append(f"{share} of the pairs are not identified and count like the rest of their category.")
    if best.reason:
        doubts.append(f"Of the bias by cluster {best.reason}")
    return doubts


def _points(part: float) -> str:
    return f"{100 * part:.1f}"

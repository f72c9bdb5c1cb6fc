"""Which forecast was subtracted, by metric: what is stored beside detrended sales, and what the web UI shows of it."""

from collections.abc import Mapping
from typing import cast

import numpy as np

from pricelab_dagster.science.detrend import CANDIDATES, Choice, Method

METHODS = "methods"


def facts(methods: Mapping[str, Method], choices: Mapping[str, Choice]) -> dict[str, object]:
    """Return what is stored: the forecast of each metric, and of those that `auto` chose the placebo errors.

    Parameters
    ----------
    methods : by metric.
    choices : by metric; empty where the experiment names its forecast.
    """
    if not choices:
        return {METHODS: dict(methods)}
    errors = {
        metric: {method: error if np.isfinite(error) else None for method, error in choice.placebo_error.items()}
        for metric, choice in choices.items()
    }
    reasons = {metric: choice.reason for metric, choice in choices.items() if choice.reason}
    return {METHODS: dict(methods), "placebo_errors": errors, "not_compared": reasons}


def stored_methods(known: Mapping[str, object]) -> Mapping[str, Method] | None:
    """Return the forecast of each metric from what was stored; None where nothing was."""
    return cast("Mapping[str, Method] | None", known.get(METHODS))


def markdown(choices: Mapping[str, Choice]) -> str:
    """Return the choices as a table for the web UI; placebo errors are parts of the product's own level."""
    heads = " | ".join(f"placebo error of {method}" for method in CANDIDATES)
    lines = [f"| metric | forecast | {heads} |", "|---" * (2 + len(CANDIDATES)) + "|"]
    for metric, choice in choices.items():
        errors = [choice.placebo_error[method] for method in CANDIDATES]
        shown = " | ".join(f"{error:.4f}" if np.isfinite(error) else "-" for error in errors)
        why = f" ({choice.reason})" if choice.reason else ""
        lines.append(f"| {metric} | {choice.method}{why} | {shown} |")
    return "\n".join(lines)

"""What else happened beside an experiment: stock-outs, promotions, outliers, and experiments next to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster import scope
from pricelab_dagster.lab import CONTROL, Experiment, LabError
from pricelab_dagster.science import disturbances
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.science.panel import Panel, Trimmed
from pricelab_dagster.workbench import Workbench

WITHIN_PRODUCTS = ("random_days", "crossover")
N_LISTED = 3


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another experiment of the lab in the same categories at the same time; both dates are inclusive."""

    experiment_id: str
    categories: tuple[str, ...]
    first: date
    last: date


def neighbours(bench: Workbench, experiment: Experiment, features: pa.Table) -> list[Neighbour]:
    """Return the other experiments whose scope has categories of this one's, and whose window meets this one's.

    By the lab's files and the features of this experiment, so that the order in which experiments run does not matter.
    """
    category = dict(zip(features["product_id"].to_pylist(), features["category"].to_pylist(), strict=True))
    own, window = {category[one] for one in _covered(bench, experiment, features)}, bench.window(experiment)
    found = []
    for name, other in sorted(bench.lab.experiments.items()):
        theirs = bench.window(other)
        first, last = max(window.start, theirs.start), min(window.end, theirs.end)
        if name != experiment.id and first <= last:
            shared = own & {category[one] for one in _covered(bench, other, features)}
            if shared:
                found.append(Neighbour(name, tuple(sorted(shared)), first, last))
    return found


def checks(
    experiment: Experiment, panel: Panel, primary: Trimmed, plan: pd.DataFrame, others: Sequence[Neighbour] | None
) -> Iterator[Diagnostic]:
    """Yield the checks on what else happened, in a fixed order.

    Parameters
    ----------
    primary : the first metric on the relative scale.
    plan : experiment.price_plan of the experiment.
    others : from `neighbours`; None: not asked.
    """
    metric = "units" if "units" in panel.observed else "revenue"
    within = panel.kind in WITHIN_PRODUCTS
    is_open, was_open = _open(panel, metric)
    yield disturbances.stockouts_by_arm(
        panel.observed[metric],
        panel.history[metric],
        panel.arm,
        panel.in_analysis,
        season=panel.season,
        is_open=is_open,
        was_open=was_open,
        units=panel.unit_id,
        within=within,
    )
    multiplier, incumbent = _planned(panel, plan)
    yield disturbances.promotions_by_arm(
        panel.observed["price"],
        multiplier,
        incumbent,
        panel.arm,
        panel.in_analysis,
        units=panel.unit_id,
        within=within,
    )
    yield outliers_listed(experiment, panel, primary)
    if others is not None:
        yield other_experiments(others)


def outliers_listed(experiment: Experiment, panel: Panel, primary: Trimmed) -> Diagnostic:
    """Return how many products the outlier filter drops or holds, by arm, and the three largest first differences."""
    cut = np.array([str(reason).startswith("outlier") for reason in primary.reason], dtype=bool)
    groups = _groups(experiment, panel)
    counts = [
        f"{int((cut & (groups == name)).sum())} of {int((groups == name).sum())} {name}" for name in _order(groups)
    ]
    message = f"The outlier filter drops or holds {int(cut.sum())} products by {primary.metric}: {', '.join(counts)}."
    if len(experiment.arms) > 1:
        by_arm = [
            f"{arm.name} {sum(arm.name in _dropped_by(text) for text in primary.reason)}" for arm in experiment.arms
        ]
        message += f" Each arm is filtered against control: {', '.join(by_arm)}."
    D = np.where(cut, primary.first_difference, 0.0)
    largest = np.argsort(-np.abs(D), kind="stable")[: min(N_LISTED, int(cut.sum()))]
    if len(largest):
        listed = ", ".join(f"{panel.product_id[row]} {D[row]:+.2f}" for row in largest)
        message += f" Largest first differences, in parts of the product's own level: {listed}."
        message += " All of them stand in experiment.trimmed_panel."
    return Diagnostic("outliers_listed", "informational", float(cut.sum()), np.nan, np.nan, message)


def _dropped_by(reason: str | None) -> list[str]:
    """Return the arms whose estimate the filter drops a product from, as the reason names them."""
    text = str(reason)
    return text.partition("(")[2].removesuffix(")").split(", ") if text.startswith("outlier") else []


def other_experiments(others: Sequence[Neighbour]) -> Diagnostic:
    """Return which experiments test the same categories at the same time; substitutes may carry their effects over."""
    name, nothing = "other_experiments", float("nan")
    if not others:
        message = "No other experiment of the lab tests these categories at the same time."
        return Diagnostic(name, "passed", 0.0, 0.0, nothing, message)
    listed = [f"{one.experiment_id} in {', '.join(one.categories)} from {one.first} to {one.last}" for one in others]
    message = (
        f"Other experiments test the same categories at the same time: {'; '.join(listed)}. No product is in two of "
        "them, but substitutes may carry the effect of one into the other."
    )
    return Diagnostic(name, "informational", float(len(others)), 0.0, nothing, message)


def _covered(bench: Workbench, experiment: Experiment, features: pa.Table) -> list[str]:
    """Return the products of a scope that had a history then; none where its condition does not bind."""
    if experiment.scope.where:
        try:
            return scope.matching(bench, experiment, features)
        except LabError:
            return []
    known = set(features["product_id"].to_pylist())
    return sorted(known & set(experiment.scope.products or ()))


def _open(panel: Panel, metric: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether any product of the panel sold on the date of a cell (N, T), and of a period before (T0,).

    The history ends on the eve of the last product's start.
    """
    days = np.timedelta64(7 // panel.season, "D")
    starts = panel.dates[:, 0]
    past = starts[~np.isnat(starts)].max() - days * np.arange(panel.n_history, 0, -1)
    sold = np.concatenate([panel.dates[panel.observed[metric] > 0], past[(panel.history[metric] > 0).any(axis=0)]])
    return np.isin(panel.dates, sold), np.isin(past, sold)


def _planned(panel: Panel, plan: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the planned multiplier of each cell (N, T), and the incumbent price of each product's start (N,)."""
    n, t = panel.arm.shape
    cells = pd.DataFrame(
        {
            "product_id": np.repeat(panel.product_id, t),
            "date": pd.to_datetime(panel.dates.ravel()).astype("datetime64[ns]"),
        }
    )
    known = plan.assign(date=pd.to_datetime(plan["date"]).astype("datetime64[ns]"))
    columns = ["product_id", "date", "multiplier"]
    multiplier = cells.merge(known[columns], on=columns[:2], how="left")["multiplier"].to_numpy(dtype=float)
    first = known.sort_values("date").groupby("product_id")["incumbent_price"].first()
    return multiplier.reshape(n, t), first.reindex(panel.product_id).to_numpy(dtype=float)


def _groups(experiment: Experiment, panel: Panel) -> NDArray[np.object_]:
    """Return the group of each product (N,) in which the filter cuts: its arm, its sequence, or one for all."""
    if panel.kind == "random_days":
        return np.full(len(panel.product_id), "products", dtype=object)
    if panel.kind == "crossover":
        return np.where(panel.sequence > 0, "that start treated", "that start as control").astype(object)
    names = np.array([CONTROL, *(arm.name for arm in experiment.arms)], dtype=object)
    return np.asarray(names[panel.drawn_arm], dtype=object)


def _order(groups: NDArray[np.object_]) -> list[str]:
    """Return the names of the groups, control last."""
    return sorted(set(groups), key=lambda name: (name == CONTROL, name))

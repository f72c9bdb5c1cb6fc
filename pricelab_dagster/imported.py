"""Assignments that were drawn elsewhere: read, and held against the design that the experiment's file declares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster.lab import BLACKOUT, CONTROL, Experiment, Grain, LabError
from pricelab_dagster.lab.fields import PERIOD_DAYS

MIN_PRODUCTS = 4
BALANCE_CYCLE = 14
N_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported assignment as rows of its table, and how it departs from the declared design.

    Attributes
    ----------
    rows
        experiment.assignments. Products whose arms contradict the design are not in analysis.
    n_outside_scope, n_outside_window
        Rows of the file that were left out.
    deviations
        Sentences, each with a count and examples; empty where the file follows the design.
    is_staggered
        Whether treated products of a time_bound design start at different times and stay treated.
    """

    rows: pa.Table
    n_outside_scope: int
    n_outside_window: int
    deviations: tuple[str, ...]
    is_staggered: bool


def read(
    rows: pd.DataFrame,
    experiment: Experiment,
    scope: Sequence[str],
    *,
    grain: Grain = "day",
    events: Mapping[str, Sequence[date]] | None = None,
) -> Imported:
    """Return an assignment that was drawn elsewhere; a blackout row carries the arm of the product's next counted day.

    Parameters
    ----------
    rows : product_id, date and arm.
    scope : products of the experiment; rows of others are left out and counted.
    events : by product the dates of events of the kind that triggers, for a triggered design.

    Raises
    ------
    LabError : when a cell is empty, an arm has another name, no product is in the scope, a date lies between the
        labels of weeks, a blackout has no day after it, fewer than four products follow the design, or a triggered
        design has products without an event.
    """
    _check_cells(rows, experiment)
    inside = rows[rows["product_id"].isin(set(scope))].sort_values(["product_id", "date"], ignore_index=True)
    if inside.empty:
        allowed = "a file with products of the scope"
        raise LabError(experiment.file, "assignment.source", "no product in scope", allowed, "Widen the scope.")
    first, last = pd.Timestamp(experiment.start), pd.Timestamp(experiment.end(grain))
    days = pd.to_datetime(inside["date"])
    counted = inside.assign(date=days)[(days >= first) & (days <= last)].reset_index(drop=True)
    if counted.empty:
        allowed = f"a file with dates from {first.date()} to {last.date()}"
        raise LabError(experiment.file, "assignment.source", "no date in the window", allowed, "Correct design.start.")
    _check_labels(counted["date"], first, experiment, grain)
    in_analysis = counted["arm"] != BLACKOUT
    arm = counted["arm"].where(in_analysis).groupby(counted["product_id"]).bfill()
    if arm.isna().any():
        product = counted["product_id"][arm.isna()].iloc[0]
        allowed = f"closed by a counted day after each blackout, and product {product} ends in one"
        raise LabError(experiment.file, "assignment.source", BLACKOUT, allowed, "Add the day that follows it.")
    cells = counted.assign(arm=arm, in_analysis=in_analysis)
    period = ((cells["date"] - first).dt.days // PERIOD_DAYS[grain]).to_numpy()
    judged = _Judged.of(cells, period, experiment, grain, events)
    n_outside_window = len(inside) - len(counted)
    sentences = judged.sentences
    if n_outside_window:
        sentences = (
            f"{n_outside_window} rows lie outside {first.date()} to {last.date()} and are left out",
            *sentences,
        )
    return Imported(
        rows=_table(cells, cells["in_analysis"] & ~cells["product_id"].isin(judged.excluded), experiment),
        n_outside_scope=len(rows) - len(inside),
        n_outside_window=n_outside_window,
        deviations=sentences,
        is_staggered=judged.is_staggered,
    )


def _check_cells(rows: pd.DataFrame, experiment: Experiment) -> None:
    names = {CONTROL, BLACKOUT, *(arm.name for arm in experiment.arms)}
    allowed = f"product_id, date and an arm among {', '.join(sorted(names))} in every row"
    empty = rows[["product_id", "date", "arm"]].isna().any(axis=1)
    if empty.any():
        found = f"{int(empty.sum())} rows with an empty cell"
        raise LabError(experiment.file, "assignment.source", found, allowed, "Fill or remove these rows.")
    unknown = sorted(set(rows["arm"]) - names)
    if unknown:
        raise LabError(experiment.file, "assignment.source", unknown[0], allowed, "Rename the arm in that file.")


def _check_labels(days: pd.Series, first: pd.Timestamp, experiment: Experiment, grain: Grain) -> None:
    """Refuse dates between the labels of weeks: they would meet no period of the sales."""
    between = (days - first).dt.days % PERIOD_DAYS[grain] != 0
    if between.any():
        allowed = f"the label of a week, such as {first.date()}, in every row"
        raise LabError(experiment.file, "assignment.source", days[between].iloc[0].date(), allowed, "Give the labels.")


def _table(cells: pd.DataFrame, in_analysis: pd.Series, experiment: Experiment) -> pa.Table:
    return pa.table(
        {
            "experiment_id": pa.array([experiment.id] * len(cells), pa.string()),
            "product_id": pa.array(cells["product_id"], pa.string()),
            "date": pa.array(cells["date"].dt.date, pa.date32()),
            "arm": pa.array(cells["arm"], pa.string()),
            "in_analysis": pa.array(in_analysis.to_numpy(dtype=bool)),
            "probability": pa.nulls(len(cells), pa.float64()),
            "unit_id": pa.array(cells["product_id"], pa.string()),
        }
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """Which products contradict the declared design, and what else departs from it, in sentences."""

    excluded: frozenset[str]
    sentences: tuple[str, ...]
    is_staggered: bool = False

    @classmethod
    def of(
        cls,
        cells: pd.DataFrame,
        period: np.ndarray,
        experiment: Experiment,
        grain: Grain,
        events: Mapping[str, Sequence[date]] | None,
    ) -> "_Judged":
        design = experiment.design
        kind = design.kind
        product, treated = cells["product_id"], cells["arm"] != CONTROL
        sentences = [_lacking(cells, experiment, kind), _blackout(cells, period, experiment, kind)]
        broken, rule, is_staggered = pd.Series(dtype=bool), "", False
        if design.kind == "time_bound":
            changes = treated.groupby(product).nunique() > 1
            leaves = (treated.astype(int).groupby(product).diff() < 0).groupby(product).any()
            is_staggered = bool((changes & ~leaves).any())
            broken, rule = leaves | _mixed_arms(cells, treated), "one arm throughout, or treatment from a day on"
        elif design.kind == "crossover":
            phase = pd.Series(period // design.phase % 2 == 1, index=cells.index)
            broken = ((treated ^ phase).groupby(product).nunique() > 1) | _mixed_arms(cells, treated)
            rule = f"arms swapped after each {design.phase} periods"
        elif design.kind == "random_days":
            sentences += _random_days(cells, period, treated, experiment)
        else:
            broken, rule = _triggered(cells, treated, experiment, grain, events or {})
        excluded = frozenset(broken.index[broken])
        if excluded:
            sentences.append(f"{_named(excluded)} do not follow {kind} ({rule}) and are left out of the analysis")
        remaining = product.nunique() - len(excluded)
        if remaining < MIN_PRODUCTS:
            found = f"assignment.source has {remaining} products that follow the design"
            found += f" and {_named(excluded)} that do not" if excluded else ""
            allowed = f"{MIN_PRODUCTS} or more as {kind} has them: {rule or 'any arms'}"
            remedy = "Correct that file, or declare design.kind: random_days."
            raise LabError(experiment.file, None, found, allowed, remedy)
        return cls(excluded, tuple(sentence for sentence in sentences if sentence), is_staggered)


def _mixed_arms(cells: pd.DataFrame, treated: pd.Series) -> pd.Series:
    """Return by product whether it has more than one treatment arm."""
    return cells["arm"].where(treated).groupby(cells["product_id"]).nunique() > 1


def _lacking(cells: pd.DataFrame, experiment: Experiment, kind: str) -> str:
    """Return how many products lack periods that others have."""
    per_product = cells.groupby("product_id")["date"].nunique()
    wanted = experiment.design.n_periods if kind == "triggered" else cells["date"].nunique()
    short = per_product.index[per_product < wanted]
    return f"{_named(short)} have fewer than {wanted} periods" if len(short) else ""


def _blackout(cells: pd.DataFrame, period: np.ndarray, experiment: Experiment, kind: str) -> str:
    """Return how many cells are blacked out elsewhere than the declared design has them."""
    design = experiment.design
    position = period
    if kind == "triggered":
        position = cells.groupby("product_id").cumcount().to_numpy()
    elif design.kind == "crossover":
        position = period % design.phase
    elif design.kind == "random_days":
        position = period % design.block
    differs = (position >= design.blackout) != cells["in_analysis"].to_numpy()
    if not differs.any():
        return ""
    return f"{int(differs.sum())} cells are blacked out otherwise than design.blackout == {design.blackout} has them"


def _random_days(cells: pd.DataFrame, period: np.ndarray, treated: pd.Series, experiment: Experiment) -> list[str]:
    design = experiment.design
    assert design.kind == "random_days"
    sentences = []
    if design.block > 1:
        arms = cells["arm"].groupby([cells["product_id"], period // design.block]).nunique()
        mixed = arms[arms > 1].index.get_level_values(0).unique()
        sentences.append(f"{_named(mixed)} change arm inside a block of {design.block}" if len(mixed) else "")
    if design.balance == "day_of_week":
        cycle = period // BALANCE_CYCLE
        share = treated.groupby([cells["product_id"], cycle, period % 7]).mean()
        unbalanced = share[share != 0.5].index.get_level_values(0).unique()
        words = "do not have each weekday once in each arm per fortnight"
        sentences.append(f"{_named(unbalanced)} {words}" if len(unbalanced) else "")
    return sentences


def _triggered(
    cells: pd.DataFrame,
    treated: pd.Series,
    experiment: Experiment,
    grain: Grain,
    events: Mapping[str, Sequence[date]],
) -> tuple[pd.Series, str]:
    """Return by product whether its arm changes or its first period does not follow an event of its own.

    Raises
    ------
    LabError : when the products of an arm have no event at all: they are no comparison for triggered ones.
    """
    design = experiment.design
    assert design.kind == "triggered"
    by_product = cells.groupby("product_id")
    first = by_product["date"].min().dt.date
    starts = {product: {design.first_period(day, grain) for day in events.get(product, ())} for product in first.index}
    control = ~treated.groupby(cells["product_id"]).any()
    untriggered = [product for product in first.index if not starts[product]]
    if untriggered and (control[untriggered].all() or not control[untriggered].any()):
        arm = "control" if control[untriggered].all() else "treated"
        found = f"assignment.source has {_named(untriggered)}, {arm}, that had no event {design.event!r}"
        allowed = "of triggered products alone: a triggered product may be compared with no other"
        remedy = "Give each control product its own event (a ghost trigger), or declare design.kind: time_bound."
        raise LabError(experiment.file, None, found, allowed, remedy)
    spans = (by_product["date"].max() - by_product["date"].min()).dt.days
    gaps = spans > PERIOD_DAYS[grain] * (by_product["date"].nunique() - 1)
    off = pd.Series({product: first[product] not in starts[product] for product in first.index})
    mixed = treated.groupby(cells["product_id"]).nunique() > 1
    return off | mixed | gaps, "one arm from the period after an event of the product, without gaps"


def _named(products: Sequence[str] | frozenset[str] | pd.Index) -> str:
    names = sorted(products)
    shown = ", ".join(names[:N_EXAMPLES])
    return f"{len(names)} products, such as {shown}" if len(names) > N_EXAMPLES else f"{len(names)} products ({shown})"

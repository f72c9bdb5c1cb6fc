"""Between the lake's tables and the arrays of HPTE: the panel of an experiment, and the rows of its results."""

from collections.abc import Iterable, Mapping
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pricelab_dagster.attributes import as_numbers
from pricelab_dagster.lab import CONTROL, DOSE_LINE, Experiment, Grain
from pricelab_dagster.lab.analysis import Detrend
from pricelab_dagster.science import hpte
from pricelab_dagster.science._experiment import DAYS_OF_A_BLOCK
from pricelab_dagster.science.affinity import Leaves
from pricelab_dagster.science.detrend import Method
from pricelab_dagster.science.diagnostics import Diagnostic
from pricelab_dagster.science.panel import LIKE_WITH_LIKE, SCALES, Panel, Trimmed, trimmed
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import ASSIGNMENTS, FEATURES, Workbench

NUMERIC_FEATURES = ("units_per_day", "base_price")
NOT_ATTRIBUTES = frozenset(
    {
        *("experiment_id", "product_id", "revenue_per_day", "last_price", "min_price", "max_price"),
        *("active_days", "history_periods", "first_sold", "last_sold"),
    }
)


def to_pandas(rows: pa.Table) -> pd.DataFrame:
    """Return the rows as a frame; dates become timestamps, so that they compare and align."""
    return rows.to_pandas(date_as_object=False)


def panel(
    experiment: Experiment,
    grain: Grain,
    assignments: pd.DataFrame,
    days: pd.DataFrame,
    features: pd.DataFrame,
    *,
    through: date,
    plan: pd.DataFrame | None = None,
) -> Panel:
    """Return the panel of an experiment.

    Parameters
    ----------
    assignments : experiment.assignments of the experiment.
    days : intermediate.int_product_days of its products, from the history's first period to `through`.
    features : intermediate.int_product_features of the experiment.
    through : last period that may be looked at.
    plan : experiment.price_plan, whose incumbent prices the forecast then knows.
    """
    codes = {name: code for code, name in enumerate((CONTROL, *(arm.name for arm in experiment.arms)))}
    cells = assignments.assign(
        arm=assignments["arm"].map(codes).astype(float), date=pd.to_datetime(assignments["date"])
    )
    drawn = cells.groupby("product_id")["arm"].max()
    cells = cells[cells["date"] <= pd.Timestamp(through)]
    triggered = experiment.design.kind == "triggered"
    product_id = np.array(sorted(set(cells["product_id"])), dtype=object)
    metrics = [*experiment.metrics, "price"]
    if "profit" in metrics and "revenue" not in metrics:
        metrics.append("revenue")
    grids = {metric: days.pivot(index="product_id", columns="date", values=metric) for metric in metrics}
    calendar = pd.DatetimeIndex(next(iter(grids.values())).columns)
    first = cells.groupby("product_id")["date"].min().reindex(product_id)
    start = pd.Timestamp(experiment.start)
    dates = _event_dates(cells, product_id) if triggered else _window(calendar, start, pd.Timestamp(through))
    before = calendar[calendar < (first.max() if triggered else start)]
    known = features.set_index("product_id")
    first_sold = known["first_sold"].reindex(product_id).to_numpy().astype("datetime64[ns]")
    past = before.to_numpy().astype("datetime64[ns]")[None, :]
    usable = past >= first_sold[:, None]
    if triggered:
        usable &= past < first.to_numpy().astype("datetime64[ns]")[:, None]
    observed = {metric: _at(grid, product_id, dates) for metric, grid in grids.items()}
    # a price carried over from a day of the other arm says nothing about this one
    sold = _at(days.pivot(index="product_id", columns="date", values="is_sold").astype(float), product_id, dates)
    observed["price"] = np.where(sold == 1.0, observed["price"], np.nan)
    shaped = {
        name: _at(cells.pivot(index="product_id", columns="date", values=name).astype(float), product_id, dates)
        for name in ("arm", "in_analysis", "probability")
    }
    units = assignments.drop_duplicates("product_id").set_index("product_id")["unit_id"]
    return Panel(
        product_id=product_id,
        date=dates,
        unit_id=units.reindex(product_id).to_numpy(dtype=object),
        category=known["category"].reindex(product_id).fillna("unknown").to_numpy(dtype=object),
        arm=shaped["arm"],
        in_analysis=shaped["in_analysis"] == 1.0,
        probability=shaped["probability"],
        phase=_phase(experiment, grain, dates),
        history={
            metric: np.where(usable, grid.reindex(index=product_id, columns=before).to_numpy(dtype=float), np.nan)
            for metric, grid in grids.items()
        },
        observed=observed,
        kind=experiment.design.kind,
        grain=grain,
        imported=experiment.assignment.source is not None,
        drawn=drawn.reindex(product_id).to_numpy(dtype=np.int64),
        eve=before.searchsorted(first) if triggered else None,
        block=_blocks(first, start) if triggered else None,
        incumbent=None if plan is None else _at(_incumbents(plan), product_id, dates),
    )


def _incumbents(plan: pd.DataFrame) -> pd.DataFrame:
    """Return the incumbent prices of a plan by product and date."""
    dated = plan.assign(date=pd.to_datetime(plan["date"]))
    return dated.pivot(index="product_id", columns="date", values="incumbent_price").astype(float)


def _window(calendar: pd.DatetimeIndex, start: pd.Timestamp, through: pd.Timestamp) -> NDArray[np.datetime64]:
    """Return the periods (T,) of a design that starts by the calendar."""
    return calendar[(calendar >= start) & (calendar <= through)].to_numpy().astype("datetime64[D]")


def _blocks(first: pd.Series, start: pd.Timestamp) -> NDArray[np.int64]:
    """Return the start week (N,) of each product."""
    return np.asarray((first - start).dt.days // DAYS_OF_A_BLOCK, dtype=np.int64)


def _event_dates(cells: pd.DataFrame, product_id: NDArray[np.object_]) -> NDArray[np.datetime64]:
    """Return the periods (N, T) of each product from its own start on, NaT after its last."""
    ordered = cells.sort_values(["product_id", "date"])
    place = ordered.assign(place=ordered.groupby("product_id").cumcount())
    grid = place.pivot(index="product_id", columns="place", values="date").reindex(product_id)
    return grid.to_numpy().astype("datetime64[D]")


def _at(grid: pd.DataFrame, product_id: NDArray[np.object_], dates: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Return the values of a grid of product and date at the dates (T,) of all products, or (N, T) of each."""
    rows = grid.reindex(index=product_id)
    if dates.ndim == 1:
        return rows.reindex(columns=pd.DatetimeIndex(dates)).to_numpy(dtype=float)
    column = pd.DatetimeIndex(rows.columns).get_indexer(pd.DatetimeIndex(dates.ravel())).reshape(dates.shape)
    values = rows.to_numpy(dtype=float)
    return np.where(column >= 0, values[np.arange(len(values))[:, None], column], np.nan)


def attributes(features: pd.DataFrame, product_id: NDArray[np.object_]) -> pd.DataFrame:
    """Return what the forest may split on (N rows): category, the lab's attributes, log sales and log price.

    Decimals are doubles, and dates count days, as `attributes.as_numbers` has them.
    """
    known = features.set_index("product_id").reindex(product_id)
    own = known.drop(columns=[name for name in known.columns if name in NOT_ATTRIBUTES | set(NUMERIC_FEATURES)])
    own = as_numbers(own)
    logs = {f"log_{name}": np.log(known[name].where(known[name] > 0)) for name in NUMERIC_FEATURES}
    return own.assign(**logs).reset_index(drop=True)


def _phase(experiment: Experiment, grain: Grain, dates: NDArray[np.datetime64]) -> NDArray[np.int64]:
    if experiment.design.kind != "crossover":
        return np.ones(dates.shape[-1], dtype=np.int64)
    days = (dates - np.datetime64(experiment.start)).astype(int)
    return days // (7 if grain == "week" else 1) // experiment.design.phase + 1


def load_panel(bench: Workbench, experiment: Experiment) -> Panel:
    """Return the panel of an experiment from the lake, through its end or the as-of date, whichever is first."""
    through = bench.through(experiment)
    assignments = bench.lake.read(ASSIGNMENTS, experiment.id)
    products = sorted(set(assignments["product_id"].to_pylist()))
    days = bench.days(products, since=bench.history_start(experiment), through=through)
    features = to_pandas(bench.lake.read(FEATURES, experiment.id))
    plan = to_pandas(bench.lake.read("experiment.price_plan", experiment.id))
    return panel(experiment, bench.grain, to_pandas(assignments), to_pandas(days), features, through=through, plan=plan)


def window_of(detrend: Detrend, grain: Grain) -> int | None:
    """Return the forecast's window in periods; None for all of the history."""
    window = detrend.window_at(grain)
    return None if window == "all" else window


def detrended_table(experiment: Experiment, one: Panel, predicted: dict[str, NDArray[np.float64]]) -> pa.Table:
    """Return observed, predicted and residual as rows of product, period and metric."""
    t = one.arm.shape[1]
    dates = one.dates.ravel()
    cell = ~np.isnat(dates)
    tables = [
        pa.table(
            {
                "experiment_id": pa.array([experiment.id] * int(cell.sum()), pa.string()),
                "product_id": pa.array(np.repeat(one.product_id, t)[cell], pa.string()),
                "date": pa.array(dates[cell]),
                "metric": pa.array([metric] * int(cell.sum()), pa.string()),
                "observed": pa.array(observed.ravel()[cell], from_pandas=True),
                "predicted": pa.array(predicted[metric].ravel()[cell], from_pandas=True),
                "residual": pa.array((observed - predicted[metric]).ravel()[cell], from_pandas=True),
            }
        )
        for metric, observed in one.observed.items()
    ]
    return pa.concat_tables(tables)


def trim_panel(
    experiment: Experiment, one: Panel, detrended: pa.Table, *, methods: Mapping[str, Method] | None = None
) -> list[Trimmed]:
    """Return first differences and the filter's verdict from detrended sales, with the experiment's settings.

    `methods` are the forecasts by metric that were subtracted, as stored beside `detrended`; None: as the experiment
    names them.
    """
    analysis = experiment.analysis
    predicted = {metric: _grid(detrended, metric, "predicted", one) for metric in one.observed}
    return trimmed(
        one,
        predicted,
        arms=[arm.name for arm in experiment.arms],
        trim=analysis.trim.method,
        c=analysis.trim.c,
        method=methods or analysis.detrend.method,
        window=window_of(analysis.detrend, one.grain),
    )


def trimmed_table(experiment: Experiment, one: Panel, found: list[Trimmed]) -> pa.Table:
    """Return the first differences as rows of product, metric and scale."""
    n = len(one.product_id)
    tables = [
        pa.table(
            {
                "experiment_id": pa.array([experiment.id] * n, pa.string()),
                "product_id": pa.array(one.product_id, pa.string()),
                "metric": pa.array([part.metric] * n, pa.string()),
                "scale": pa.array([part.scale] * n, pa.string()),
                "first_difference": pa.array(part.first_difference, from_pandas=True),
                "placebo_differences": pa.array(
                    [[value if np.isfinite(value) else None for value in row] for row in part.placebo.tolist()],
                    pa.list_(pa.float64()),
                ),
                "product_scale": pa.array(part.product_scale, from_pandas=True),
                "kept": pa.array(part.kept),
                "reason": pa.array(part.reason, pa.string()),
            }
        )
        for part in found
    ]
    return pa.concat_tables(tables)


def read_trimmed(one: Panel, detrended: pa.Table, rows: pa.Table) -> list[Trimmed]:
    """Return what `trimmed_table` and `detrended_table` stored, in the order of the metrics and scales."""
    frame = to_pandas(rows)
    found = []
    for metric, observed in one.observed.items():
        predicted = _grid(detrended, metric, "predicted", one)
        for scale in SCALES:
            part = frame[(frame["metric"] == metric) & (frame["scale"] == scale)].set_index("product_id")
            part = part.reindex(one.product_id)
            s = part["product_scale"].to_numpy(dtype=float)
            found.append(
                Trimmed(
                    metric=metric,
                    scale=scale,
                    first_difference=part["first_difference"].to_numpy(dtype=float),
                    placebo=np.array(part["placebo_differences"].tolist(), dtype=float),
                    product_scale=s,
                    kept=part["kept"].to_numpy(dtype=bool),
                    reason=part["reason"].astype(object).where(part["reason"].notna(), None).to_numpy(),
                    residual=(observed - predicted) / s[:, None],
                    outcome=observed / s[:, None],
                )
            )
    return found


def reasons(rows: pa.Table) -> dict[str, int]:
    """Return how many rows of `trimmed_panel` carry each reason."""
    counted = to_pandas(rows)["reason"].dropna().value_counts().sort_index()
    return {str(reason): int(count) for reason, count in counted.items()}


def leaves_table(experiment: Experiment, one: Panel, leaves: Leaves) -> pa.Table:
    """Return the leaves as rows of product and tree."""
    n, n_trees = leaves.leaf.shape
    return pa.table(
        {
            "experiment_id": pa.array([experiment.id] * (n * n_trees), pa.string()),
            "product_id": pa.array(np.repeat(one.product_id, n_trees), pa.string()),
            "tree": pa.array(np.tile(np.arange(n_trees), n)),
            "leaf": pa.array(leaves.leaf.ravel().astype(np.int64)),
            "is_honest": pa.array(leaves.in_honest.ravel()),
        }
    )


def read_leaves(rows: pa.Table, one: Panel, reason: str | None) -> Leaves:
    """Return what `leaves_table` stored; its rows come sorted by tree and product."""
    n = len(one.product_id)
    leaf = rows["leaf"].to_numpy().reshape(-1, n).T.astype(np.int32)
    honest = rows["is_honest"].to_numpy(zero_copy_only=False).reshape(-1, n).T
    return Leaves(
        leaf=np.ascontiguousarray(leaf), in_honest=np.ascontiguousarray(honest), n_trees=leaf.shape[1], reason=reason
    )


def effects_table(
    experiment: Experiment,
    found: Iterable[tuple[str, str, str, str, hpte.Effect]],
    *,
    quoted: Mapping[str, str],
    so_far: str | None,
    one_leaf: bool = False,
) -> pa.Table:
    """Return the effects (arm, metric, scale, estimator, effect) as rows.

    Parameters
    ----------
    quoted : by arm the estimator that is the headline.
    so_far : last period of a running experiment; it enters every reason.
    one_leaf : whether all products stand in one leaf, so that no estimator compares like with like.
    """
    rows = []
    interferes = experiment.assignment.by_cluster and not one_leaf
    for arm, metric, scale, estimator, effect in found:
        notes = [effect.reason, f"running: periods through {so_far} only." if so_far else None]
        if interferes and estimator in LIKE_WITH_LIKE:
            notes.append("Clusters are assigned: comparing like with like re-creates the interference; quote hajek.")
        numbers = {name: _number(getattr(effect, name)) for name in _EFFECT_NUMBERS}
        rows.append(
            {
                "experiment_id": experiment.id,
                "metric": metric,
                "scale": scale,
                "estimator": estimator,
                "arm": arm,
                "estimand": _estimand(experiment, arm, metric, scale, effect.estimand),
                **numbers,
                "n_treated": effect.n_treated,
                "n_control": effect.n_control,
                "n_trimmed": effect.n_trimmed,
                "n_replicates": effect.n_replicates,
                "seed": experiment.assignment.seed,
                "is_headline": scale == "relative" and estimator == quoted[arm],
                "reason": " ".join(note for note in notes if note) or None,
            }
        )
    return pa.Table.from_pylist(rows, schema=TABLES["experiment.effects"].schema)


def draws_table(experiment: Experiment, found: Iterable[tuple[str, str, str, str, hpte.Effect]]) -> pa.Table:
    """Return the effects of (arm, metric, scale, estimator, effect) under every bootstrap draw, as rows."""
    schema = TABLES["experiment.effect_draws"].schema
    tables = [schema.empty_table()]
    for arm, metric, scale, estimator, effect in found:
        n = len(effect.draws)
        texts = {"experiment_id": experiment.id, "metric": metric, "scale": scale, "estimator": estimator, "arm": arm}
        columns = {name: pa.repeat(pa.scalar(text, pa.string()), n) for name, text in texts.items()}
        columns["replicate"] = pa.array(np.arange(n))
        columns["effect"] = pa.array(effect.draws, from_pandas=True)
        tables.append(pa.table(columns).select(schema.names).cast(schema))
    return pa.concat_tables(tables)


def doses(experiment: Experiment, plan: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return the price of each arm against control in per cent (arms + 1,), 0 first; None where there is no line.

    The price is that of `plan` (experiment.price_plan), after guard and rounding, averaged over the arm's cells. There
    is no line with one treatment arm, or where an arm has no price in the plan.
    """
    names = [CONTROL, *(arm.name for arm in experiment.arms)]
    realised = plan.groupby("arm")["multiplier"].mean().reindex(names).to_numpy(dtype=float)
    if len(experiment.arms) < 2 or not np.isfinite(realised).all():
        return None
    return 100.0 * (realised / realised[0] - 1.0)


def diagnostics_table(experiment: Experiment, found: list[Diagnostic]) -> pa.Table:
    """Return the checks as rows."""
    rows = [
        {
            "experiment_id": experiment.id,
            "check_name": check.check_name,
            "status": check.status,
            "message": check.message,
            **{name: _number(getattr(check, name)) for name in ("value", "threshold", "p_value")},
        }
        for check in found
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["experiment.diagnostics"].schema)


_EFFECT_NUMBERS = ("effect", "se", "ci_lower", "ci_upper", "p_value", "two_arm_share")
_WHEN = {
    "time_bound": "mean over the analysed periods after the switch",
    "triggered": "event time: mean over the analysed periods after the trigger of each product's unit, first one only, "
    "triggered products alone",
    "crossover": "after the blackout, mean over the phases",
    "random_days": "same-day effect, short of the long run where effects carry over",
}
_POINTS = {"profit": "points per revenue"}


def _estimand(experiment: Experiment, arm: str, metric: str, scale: str, words: str) -> str:
    unit = f"of {metric} per product and period"
    if scale == "relative":
        unit = f"of {metric}, " + _POINTS.get(metric, "as part of its level under control")
    if arm == DOSE_LINE:
        unit = f"change {unit}, for each per cent of price above control, over all arms"
    return f"{words}; {unit}; {_WHEN[experiment.design.kind]}"


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _grid(detrended: pa.Table, metric: str, column: str, one: Panel) -> NDArray[np.float64]:
    frame = to_pandas(detrended)
    grid = frame[frame["metric"] == metric].pivot(index="product_id", columns="date", values=column)
    return _at(grid, one.product_id, one.date)

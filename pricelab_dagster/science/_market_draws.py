"""The random parts of a simulated market, each one vectorised over products and days."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import signal, sparse

from pricelab_dagster.science.market_scenarios import Scenario

Array = npt.NDArray[Any]
YEAR = 365.25


def ar1(shape: tuple[int, int], rho: float, sd: float, rng: np.random.Generator) -> Array:
    """Stationary AR(1) rows with standard deviation `sd`."""
    shocks = rng.normal(0.0, sd * np.sqrt(1 - rho**2), shape)
    shocks[:, 0] /= np.sqrt(1 - rho**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], shocks, axis=1))


def last_start(starts: Array) -> Array:
    """Index of the last start at or before each day, -1 before the first; `starts` is (N, T) bool."""
    index = np.where(starts, np.arange(starts.shape[1]), -1)
    return np.asarray(np.maximum.accumulate(index, axis=1))


def spells(shape: tuple[int, int], rate: float, days: tuple[int, int], rng: np.random.Generator) -> tuple[Array, Array]:
    """Whether a spell is on, and the day it began; a new start replaces a spell that still runs."""
    began = last_start(rng.random(shape) < rate)
    length = rng.integers(days[0], days[1] + 1, shape)
    on = (began >= 0) & (np.arange(shape[1]) - began < np.take_along_axis(length, began, axis=1))
    return on, began


def product_frame(scenario: Scenario, n: int, rng: np.random.Generator) -> tuple[Array, Array, pd.DataFrame]:
    """Category code (n,), subcategory code (n,) and the eight attributes."""
    n_cells = scenario.n_categories * scenario.n_subcategories
    niche = np.arange(n) * n_cells // n
    category = niche // scenario.n_subcategories
    by_category, by_niche = rng.normal(size=(2, n_cells))
    own = rng.normal(size=(3, n))
    attributes = pd.DataFrame(
        {
            "x0": np.sqrt(0.4) * by_category[category] + np.sqrt(0.6) * own[0],
            "x1": np.sqrt(0.4) * by_niche[niche] + np.sqrt(0.6) * own[1],
            "tier": rng.integers(0, 3, n),
            "battery": (rng.random(n) < 0.3).astype(np.int64),
            "width": rng.lognormal(2.0, 0.4, n),
            "rating": rng.uniform(1.0, 5.0, n),
            "log_price": rng.normal(np.log(5.0), 0.5, n),
            "noise": own[2],
        }
    )
    return category, niche, attributes


def log_price_deviation(scenario: Scenario, category: Array, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """log(p_it / p_i0), (N, T): base-price steps, promotions and the price movement common to a category."""
    step_at = last_start(rng.random(shape) < scenario.step_rate)
    step = np.take_along_axis(rng.normal(0.0, scenario.step_sd, shape), step_at, axis=1)
    before_first_step = rng.normal(0.0, scenario.step_sd, (shape[0], 1))
    base = np.where(step_at >= 0, step, before_first_step)
    on, began = spells(shape, scenario.promotion_rate, scenario.promotion_days, rng)
    depth = np.take_along_axis(rng.uniform(*scenario.promotion_depth, shape), began, axis=1)
    common = ar1((scenario.n_categories, shape[1]), scenario.common_price_rho, scenario.common_price_sd, rng)
    return np.asarray(base + np.where(on, np.log1p(-depth), 0.0) + common[category])


def log_demand(
    scenario: Scenario, category: Array, attributes: pd.DataFrame, date: Array, n_history: int, rng: np.random.Generator
) -> Array:
    """Log intensity at base prices, (N, T), before breaks, bulk days and stock-outs."""
    n, n_days, n_categories = len(category), len(date), scenario.n_categories
    scale = (
        np.log(scenario.median_demand)
        + rng.normal(0.0, scenario.category_scale_sd, n_categories)[category]
        + rng.normal(0.0, scenario.product_scale_sd, n)
    )
    day = date.astype(np.int64)
    weekday = rng.normal(0.0, scenario.weekday_sd, (n_categories, 7))[:, day % 7]
    amplitude = rng.uniform(*scenario.season_amplitude, (n_categories, 1))
    season = amplitude * np.sin(2 * np.pi * (day / YEAR + rng.random((n_categories, 1))))
    common = ar1((n_categories, n_days), scenario.category_rho, scenario.category_sd, rng)
    market = ar1((1, n_days), scenario.market_rho, scenario.market_sd, rng)
    x0, x1 = attributes["x0"].to_numpy(), attributes["x1"].to_numpy()
    trend = rng.normal(scenario.trend_mean, scenario.trend_sd, n) + scenario.trend_x0 * x0
    since_start = np.arange(n_days) - n_history
    out = scale[:, None] + (weekday + season + common + market)[category]
    out += trend[:, None] * since_start / 365
    out += ar1((n, n_days), scenario.product_rho, scenario.product_sd, rng)
    out[:, n_history:] += (
        scenario.window_shock_linear * (x0 + 0.5 * np.abs(x1))
        + scenario.window_shock_region * ((x0 > 0.5) & (x1 < 0))
        + scenario.window_shock_wave * np.sin(2 * x0)
    )[:, None]
    return np.asarray(out)


def outlier_factor(scenario: Scenario, shape: tuple[int, int], n_history: int, rng: np.random.Generator) -> Array:
    """What breaks, bulk days and stock-outs multiply the intensity with, (N, T)."""
    n, n_days = shape
    has_break = rng.random(n) < scenario.break_share
    size = np.where(has_break, rng.normal(0.0, scenario.break_sd, n), 0.0)
    begins = rng.integers(0, n_days, n)
    if scenario.breaks_at_start:
        begins = np.full(n, n_history)
    factor = np.exp(np.where(np.arange(n_days) >= begins[:, None], size[:, None], 0.0))
    bulk = rng.random(shape) < scenario.bulk_rate
    factor = np.where(bulk, factor * rng.uniform(*scenario.bulk_factor, shape), factor)
    out_of_stock, _ = spells(shape, scenario.stockout_rate, scenario.stockout_days, rng)
    return np.asarray(np.where(out_of_stock, 0.0, factor))


def cross_elasticity(
    scenario: Scenario, category: Array, niche: Array, rng: np.random.Generator
) -> sparse.csr_array[np.float64]:
    """theta, (N, N): row i, column j is the effect of log price i on log demand j."""
    n = len(category)
    if scenario.niche_edge_probability == scenario.category_edge_probability == scenario.theta_background == 0:
        return sparse.csr_array((n, n), dtype=np.float64)
    first, second = np.triu_indices(n, 1)
    same_category = category[first] == category[second]
    first, second = first[same_category], second[same_category]
    same_niche = niche[first] == niche[second]
    probability = np.where(same_niche, scenario.niche_edge_probability, scenario.category_edge_probability)
    edge = rng.random(len(first)) < probability
    strength = rng.uniform(*scenario.theta_range, len(first))
    jitter = rng.lognormal(0.0, scenario.theta_sd, (2, len(first)))
    theta = scenario.theta_sign * np.where(edge, strength * jitter, scenario.theta_background)
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    return sparse.csr_array((theta.ravel(), (rows, columns)), shape=(n, n))

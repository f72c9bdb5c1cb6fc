"""The simulated market in which every estimator has to prove itself.

The log intensity of product i on day t is

    L_it = log mu_i + weekday + season + g_i (t - T0) / 365 + a_it + K_ct + M_t
           + el_i log(p_it / p_i0) + sum_j theta_ji log(p_jt / p_j0) + shocks,

demand is negative binomial with mean exp(L_it). The parameters stand in `market_scenarios.Scenario`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date as calendar_date
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from pricelab_dagster.science import _market_draws as draws
from pricelab_dagster.science.market_scenarios import SCENARIOS, Scenario

__all__ = ["Market", "Observed", "Truth", "simulate"]

Array = npt.NDArray[Any]
Estimand = Literal["same_day", "long_run", "direct"]
PSEUDO_DAYS = 3.5
"""k of the scale s_i = (sum of pre-period Y + k Ybar) / (T0 + 2k)."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The effect of treating everyone against treating no one, by metric (units, revenue, price).

    `relative`: sum_i (m_i - 1) E[Y0_i] / s_i over sum_i E[Y0_i] / s_i. `level`: metric units per product-day.
    """

    relative: Mapping[str, float]
    level: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Observed:
    """Sales under one assignment: `units` and `price`, (N, T), and the same-day `truth` over the days in analysis."""

    units: Array
    price: Array
    truth: Truth


@dataclass(frozen=True, slots=True)
class Market:
    """A drawn market: what is fixed before anyone assigns a price.

    Attributes
    ----------
    product_id : (N,) text
    date : (T,) datetime64[D], T = n_history + n_window
    category, subcategory : (N,) text
    attributes : (N, 8) frame
    base_price, own_elasticity, treatment_probability : (N,)
    theta : (N, N) sparse; row i, column j is the effect of log price i on log demand j
    incumbent_price : (N, T), prices without treatment
    expected_demand : (N, T), mean of the negative binomial without treatment: breaks, bulk days and stock-outs included
    untreated_units : (N, T), the draw without treatment
    """

    scenario: Scenario
    product_id: Array
    date: Array
    n_history: int
    category: Array
    subcategory: Array
    attributes: pd.DataFrame
    base_price: Array
    own_elasticity: Array
    treatment_probability: Array
    treatment_multiplier: float
    theta: sparse.csr_array[np.float64]
    incumbent_price: Array
    expected_demand: Array
    untreated_units: Array
    _gamma: Array
    _noise_seed: int

    @property
    def n_window(self) -> int:
        """Days of the experiment."""
        return len(self.date) - self.n_history

    def observe(self, arm: Array, *, in_analysis: Array | None = None) -> Observed:
        """Sales and prices if `arm`, (N, n_window) with 1 for treatment and 0 for control, were in force.

        The untreated draw is the same for every assignment: a cell whose intensity the assignment leaves alone keeps
        its count. Where the intensity rises by r the count gains a Poisson draw, where it falls the count is thinned;
        both leave the count exactly negative binomial with the new mean.

        `in_analysis`, (N, n_window) or (n_window,), bounds the days of `truth`.

        Raises
        ------
        ValueError
            If `arm` has another shape or other values than 0 and 1.
        """
        W = np.asarray(arm, dtype=np.float64)
        shape = (len(self.product_id), self.n_window)
        if W.shape != shape:
            raise ValueError(f"arm.shape == {W.shape}, must be {shape}. Give a row a product, a column a window day.")
        odd = W[~np.isin(W, (0.0, 1.0))]
        if len(odd):
            raise ValueError(f"arm == {odd[0]}, must be 0 or 1. Give the arm in force, also in blackout.")
        ratio = np.exp(self._log_effect(W))
        untreated = self.untreated_units[:, self.n_history :]
        rng = np.random.default_rng(self._noise_seed)
        gained = rng.poisson(self._gamma * self.expected_demand[:, self.n_history :] * np.maximum(ratio - 1, 0))
        kept = rng.binomial(untreated, np.minimum(ratio, 1))
        units, price = self.untreated_units.copy(), self.incumbent_price.copy()
        units[:, self.n_history :] = kept + gained
        price[:, self.n_history :] *= np.where(W == 1, self.treatment_multiplier, 1.0)
        return Observed(units=units, price=price, truth=self.truth(in_analysis))

    def truth(self, in_analysis: Array | None = None, *, estimand: Estimand = "same_day") -> Truth:
        """The planted effect over the days in analysis, from expected demand.

        Parameters
        ----------
        in_analysis : (N, n_window) or (n_window,) bool; all days when None
        estimand : ``same_day``, every product treated, the effect of that day's prices; ``long_run``, the same with
            carryover in its steady state; ``direct``, each product treated alone on the day.

        Raises
        ------
        ValueError
            If no cell is in analysis.
        """
        cells = np.broadcast_to(
            np.asarray(True if in_analysis is None else in_analysis, dtype=bool), (len(self.product_id), self.n_window)
        )
        if not cells.any():
            raise ValueError("in_analysis == False in all cells, must be true in one. Give the days that count.")
        own, spill = self._own_effect, self._spill_effect
        exponent = {
            "same_day": own + spill,
            "long_run": (1 + self.scenario.carryover) * own + spill,
            "direct": own,
        }[estimand]
        m_units, m_price = np.exp(exponent), self.treatment_multiplier
        history, window = np.s_[:, : self.n_history], np.s_[:, self.n_history :]
        units, price, demand = self.untreated_units, self.incumbent_price, self.expected_demand
        planted = {
            "units": (units[history], demand[window], m_units),
            "revenue": ((units * price)[history], (demand * price)[window], m_units * m_price),
            "price": (price[history], price[window], np.full(len(m_units), m_price)),
        }
        relative, level = {}, {}
        for metric, (past, expected, multiplier) in planted.items():
            Y0 = (expected * cells).sum(axis=1)
            relative[metric] = float(np.average(multiplier - 1, weights=Y0 / _scale(past)))
            level[metric] = float((multiplier - 1) @ Y0 / cells.sum())
        return Truth(relative=relative, level=level)

    def to_frames(self, observed: Observed) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Sales (product_id, date, units, price) and products (product_id, category, ...) as a shop would export them.

        Days without a sale have no row; prices are to the cent.
        """
        product, day = np.nonzero(observed.units)
        sales = pd.DataFrame(
            {
                "product_id": self.product_id[product],
                "date": self.date[day],
                "units": observed.units[product, day],
                "price": observed.price[product, day].round(2),
            }
        )
        products = pd.DataFrame(
            {"product_id": self.product_id, "category": self.category, "subcategory": self.subcategory}
        )
        return sales, pd.concat([products, self.attributes], axis=1)

    @property
    def _own_effect(self) -> Array:
        return np.asarray(self.own_elasticity * np.log(self.treatment_multiplier))

    @property
    def _spill_effect(self) -> Array:
        return np.asarray(self.theta.sum(axis=0) * np.log(self.treatment_multiplier))

    def _log_effect(self, W: Array) -> Array:
        """Change of log intensity under `W`, (N, n_window)."""
        out = self._own_effect[:, None] * W + np.log(self.treatment_multiplier) * (self.theta.T @ W)
        if self.scenario.carryover == 0:
            return np.asarray(out)
        decay, S = self.scenario.carryover_decay, np.zeros(len(W))
        for t in range(1, self.n_window):
            S = decay * S + (1 - decay) * W[:, t - 1]
            out[:, t] += self.scenario.carryover * self._own_effect * S
        return np.asarray(out)


def simulate(
    *,
    scenario: str | Scenario = "base",
    n_products: int | None = None,
    n_history: int = 365,
    n_window: int = 42,
    start: calendar_date = calendar_date(2024, 1, 1),
    treatment_multiplier: float = 0.95,
    rng: np.random.Generator,
) -> Market:
    """A market drawn from a scenario, ready to be observed under any assignment.

    Parameters
    ----------
    scenario : name in `SCENARIOS`, or a `Scenario`
    n_products : the scenario's own number when None
    start : first day of the experiment; the history ends on its eve
    treatment_multiplier : treated price over incumbent price

    Raises
    ------
    ValueError
        For an unknown scenario, or sizes and multipliers that are not positive.

    Notes
    -----
    Each block (products, demand, prices, outliers, cross effects, counts) has its own stream, so scenarios drawn from
    equal generators share the blocks in which they agree: `base` and `clean` differ by the outliers alone.

    Examples
    --------
    >>> market = simulate(scenario="clean", n_products=80, rng=np.random.default_rng(1))
    >>> market.untreated_units.shape
    (80, 407)
    >>> round(market.truth().relative["price"], 3)
    -0.05
    """
    parameters = _scenario(scenario)
    n = parameters.n_products if n_products is None else n_products
    for name, value in {"n_products": n, "n_history": n_history, "n_window": n_window}.items():
        if value < 1:
            raise ValueError(f"{name} == {value}, must be at least 1. Give a count.")
    if not 0 < treatment_multiplier < np.inf:
        raise ValueError(f"treatment_multiplier == {treatment_multiplier}, must be above 0. Give new price over old.")
    shape = (n, n_history + n_window)
    date = np.datetime64(start, "D") + np.arange(-n_history, n_window)
    of_products, of_demand, of_prices, of_outliers, of_theta, of_counts = rng.spawn(6)

    category, niche, attributes = draws.product_frame(parameters, n, of_products)
    tier, x0 = attributes["tier"].to_numpy(), attributes["x0"].to_numpy()
    own_elasticity = -(1 + 0.5 * tier / 2 + 0.6 * of_products.lognormal(0.0, 0.4, n))
    own_elasticity *= 1 + parameters.elasticity_x0 * np.tanh(x0)
    base_price = np.exp(attributes["log_price"].to_numpy())
    deviation = draws.log_price_deviation(parameters, category, shape, of_prices)
    theta = draws.cross_elasticity(parameters, category, niche, of_theta)
    L = draws.log_demand(parameters, category, attributes, date, n_history, of_demand)
    L += own_elasticity[:, None] * deviation + theta.T @ deviation
    mean = np.exp(L) * draws.outlier_factor(parameters, shape, n_history, of_outliers)
    gamma = of_counts.gamma(parameters.dispersion, 1 / parameters.dispersion, shape)
    place = niche % parameters.n_subcategories
    return Market(
        scenario=parameters,
        product_id=np.array([f"P{i:0{len(str(n))}d}" for i in range(1, n + 1)], dtype=object),
        date=date,
        n_history=n_history,
        category=np.array([f"category_{c + 1:02d}" for c in category], dtype=object),
        subcategory=np.array(
            [f"category_{c + 1:02d}_{s + 1}" for c, s in zip(category, place, strict=True)], dtype=object
        ),
        attributes=attributes,
        base_price=base_price,
        own_elasticity=own_elasticity,
        treatment_probability=1 / (1 + np.exp(-parameters.treatment_x0 * x0 - parameters.treatment_tier * (tier - 1))),
        treatment_multiplier=float(treatment_multiplier),
        theta=theta,
        incumbent_price=base_price[:, None] * np.exp(deviation),
        expected_demand=mean,
        untreated_units=of_counts.poisson(gamma * mean),
        _gamma=gamma[:, n_history:],
        _noise_seed=int(of_counts.integers(2**63)),
    )


def _scenario(scenario: str | Scenario) -> Scenario:
    if isinstance(scenario, Scenario):
        return scenario
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario == {scenario!r}, must be one of {', '.join(SCENARIOS)}. Name a market.")
    return SCENARIOS[scenario]


def _scale(past: Array) -> Array:
    """s_i, (N,): the pre-period mean, drawn slightly to the mean of all."""
    n_days = past.shape[1]
    return np.asarray((past.sum(axis=1) + PSEUDO_DAYS * past.mean()) / (n_days + 2 * PSEUDO_DAYS))

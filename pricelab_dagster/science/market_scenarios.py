"""Parameters of the simulated markets: one frozen `Scenario` per market, by name in `SCENARIOS`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

__all__ = ["SCENARIOS", "Scenario"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Every number of one simulated market; the defaults are the market `base`.

    Rates are probabilities a day, standard deviations are on the log scale, depths are parts of the price.
    """

    n_products: int = 1000
    n_categories: int = 20
    n_subcategories: int = 4
    """Subcategories of each category; products are dealt to them in equal, contiguous blocks."""

    median_demand: float = 2.0
    category_scale_sd: float = 0.4
    product_scale_sd: float = 1.3
    dispersion: float = 4.0
    """k of the negative binomial: variance = mean + mean² / k."""

    product_rho: float = 0.97
    product_sd: float = 0.30
    category_rho: float = 0.95
    category_sd: float = 0.12
    market_rho: float = 0.95
    market_sd: float = 0.05
    weekday_sd: float = 0.15
    season_amplitude: tuple[float, float] = (0.10, 0.35)
    trend_mean: float = 0.05
    trend_sd: float = 0.30

    promotion_rate: float = 1 / 60
    promotion_days: tuple[int, int] = (3, 7)
    promotion_depth: tuple[float, float] = (0.10, 0.30)
    step_rate: float = 1 / 45
    step_sd: float = 0.05
    """At a step the log deviation from the base price is drawn anew from N(0, step_sd): full reversion to the base."""
    common_price_rho: float = 0.95
    common_price_sd: float = 0.0

    carryover: float = 0.0
    """kappa: carried-over effect in the steady state, in parts of the same-day log effect."""
    carryover_decay: float = 0.7
    """S_t = decay S_{t-1} + (1 - decay) W_{t-1}."""

    bulk_rate: float = 3e-4
    bulk_factor: tuple[float, float] = (8.0, 40.0)
    break_share: float = 0.004
    """Probability that a product has its one regime break."""
    break_sd: float = 1.5
    breaks_at_start: bool = False
    stockout_rate: float = 1 / 200
    stockout_days: tuple[int, int] = (2, 8)

    treatment_x0: float = 0.0
    treatment_tier: float = 0.0
    """P(W = 1) = logistic(treatment_x0 x0 + treatment_tier (tier - 1))."""
    trend_x0: float = 0.0
    elasticity_x0: float = 0.0
    """Own elasticity times 1 + this tanh(x0): with it, products that are treated more often answer more."""
    window_shock_linear: float = 0.0
    """Window shock, in log demand: this times (x0 + .5 |x1|)."""
    window_shock_region: float = 0.0
    """Window shock, in log demand: this times 1[x0 > .5] 1[x1 < 0]."""
    window_shock_wave: float = 0.0
    """Window shock, in log demand: this times sin(2 x0)."""

    niche_edge_probability: float = 0.0
    category_edge_probability: float = 0.0
    """Probability of an edge, per unordered pair: within a subcategory, and across those of one category."""
    theta_range: tuple[float, float] = (0.2, 0.6)
    theta_sd: float = 0.25
    """theta_ij = U(theta_range), one draw a pair, times LogN(0, theta_sd), one draw a direction."""
    theta_sign: int = 1
    theta_background: float = 0.0
    """theta of every other ordered pair of one category."""


_BASE = Scenario()
_CONFOUNDED = replace(_BASE, treatment_x0=0.9, treatment_tier=0.5, trend_x0=0.25, window_shock_linear=0.10)
_WEAK = replace(
    _BASE,
    n_products=600,
    n_categories=30,
    median_demand=5.0,
    common_price_sd=0.024,
    niche_edge_probability=0.5,
    category_edge_probability=0.02,
    theta_background=0.003,
)
_MIDDLE = replace(_WEAK, median_demand=10.0, dispersion=8.0, promotion_rate=1 / 30, step_sd=0.06)

SCENARIOS: MappingProxyType[str, Scenario] = MappingProxyType(
    {
        "base": _BASE,
        "clean": replace(_BASE, bulk_rate=0.0, break_share=0.0, stockout_rate=0.0),
        "break_at_start": replace(_BASE, breaks_at_start=True),
        "heavy_tails": replace(_BASE, break_share=0.02),
        "sparse": replace(_BASE, median_demand=0.5),
        "fast": replace(_BASE, product_rho=0.8),
        "slow": replace(_BASE, product_rho=0.985, product_sd=0.4),
        "carryover": replace(_BASE, carryover=0.4),
        "carryover_slow": replace(_BASE, carryover=0.4, carryover_decay=0.85),
        "confounded": _CONFOUNDED,
        "confounded_nonlinear": replace(
            _CONFOUNDED, window_shock_linear=0.0, window_shock_region=0.25, window_shock_wave=0.15
        ),
        "confounded_varying": replace(_CONFOUNDED, elasticity_x0=0.5),
        "substitution_weak": _WEAK,
        "substitution_middle": _MIDDLE,
        "substitution_strong": replace(
            _MIDDLE, median_demand=20.0, dispersion=15.0, promotion_rate=1 / 25, promotion_depth=(0.10, 0.40)
        ),
        "halo": replace(_MIDDLE, theta_sign=-1),
        "null": replace(_MIDDLE, niche_edge_probability=0.0, category_edge_probability=0.0, theta_background=0.0),
    }
)
"""The scenarios by name."""

"""What a study draws: designs on markets, and one draw of each with the truth that estimators have to find."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster.science import market
from pricelab_dagster.science.panel import Panel

UNITS = "units"
DAYS_OF_STARTS = (0, 7, 14)
"""First treated days of staggered starts; a fourth part of the products is never treated."""

Kind = Literal["time_bound", "random_days", "crossover", "triggered", "staggered", "observational"]
IMPORTED: tuple[Kind, ...] = ("staggered", "observational")
"""Kinds whose arms were not drawn by a design; their truth is that of the treated cells."""
Truth = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a draw is: products, days before the start, trees of the forest, replicates of the bootstrap."""

    n_products: int = 300
    n_history: int = 200
    n_trees: int = 50
    n_replicates: int = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One design on one market.

    Attributes
    ----------
    scenario
        Name of the market.
    design
        The design in words; with the scenario it names the case.
    kind
        Of the design; `staggered` is an imported assignment whose products start at different times, for good;
        `observational` one whose products were picked by the market's own chances, which their attributes move.
    lengths
        As `designs` takes them, in days; `horizon` counts the days on which an event triggers.
    multipliers
        Price over incumbent price of each treatment arm.
    cluster_size
        Products that are drawn together, picked at random.
    """

    scenario: str
    design: str
    kind: Kind
    lengths: Mapping[str, Any] = field(default_factory=dict)
    multipliers: tuple[float, ...] = (0.95,)
    cluster_size: int = 1

    @property
    def name(self) -> str:
        """What the draws of the case are seeded and stored by."""
        return f"{self.scenario}: {self.design}"

    @property
    def doses(self) -> NDArray[np.float64]:
        """Change of price in per cent, (arms + 1,), of control and the treatment arms."""
        return np.array([0.0, *(100.0 * (multiplier - 1.0) for multiplier in self.multipliers)]).round(6)

    @property
    def n_days(self) -> int:
        """Days of the experiment."""
        if self.kind == "crossover":
            return int(self.lengths["phase"] * self.lengths.get("phases", 2))
        return int(self.lengths["duration"] + self.lengths.get("horizon", 0))


@dataclass(frozen=True, slots=True)
class Planted:
    """A draw of a case.

    Attributes
    ----------
    panel
        What was observed.
    untreated
        (N, T) units in the cells of the panel had nobody been treated.
    attributes
        Of the products in the panel.
    truth
        For each treatment arm by scale and estimand, over the cells in analysis; of staggered starts over the treated.
    refused
        Of a triggered experiment: the treated that had an event, and as controls products without one, each from a
        random day on. Not comparable, because the event moves demand too.
    """

    panel: Panel
    untreated: NDArray[np.float64]
    attributes: pd.DataFrame
    truth: tuple[Truth, ...]
    refused: Panel | None = None


def history(world: market.Market) -> NDArray[np.float64]:
    """Return the units before the start, (N, T0)."""
    return world.untreated_units[:, : world.n_history].astype(float)


def attributes(world: market.Market) -> pd.DataFrame:
    """Return what the forest may split on."""
    return world.attributes.assign(category=world.category, subcategory=world.subcategory)


def truth(world: market.Market, counted: NDArray[np.bool_]) -> Truth:
    """Return the planted effect on units by scale and estimand; the long-run effect where there is carryover."""
    wanted: tuple[market.Estimand, ...] = ("same_day", "long_run") if world.scenario.carryover else ("same_day",)
    found = {estimand: world.truth(counted, estimand=estimand) for estimand in wanted}
    return {
        "relative": {estimand: one.relative[UNITS] for estimand, one in found.items()},
        "level": {estimand: one.level[UNITS] for estimand, one in found.items()},
    }


def priced(world: market.Market, multiplier: float, arm: int) -> market.Market:
    """Return the market under the price of another arm: the same sales without treatment, its own noise under it."""
    return replace(world, treatment_multiplier=multiplier, _noise_seed=world._noise_seed + arm)

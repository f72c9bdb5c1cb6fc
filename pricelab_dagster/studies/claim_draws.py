"""What the claims study draws: every design on every market, and what each estimator finds there.

`SCENARIOS`, `DESIGNS` and `ESTIMATORS` are registries: what is added to one of them shows up in the study's rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import affinity, bootstrap
from pricelab_dagster.science import panel as science
from pricelab_dagster.studies import designs
from pricelab_dagster.studies.cases import UNITS, Case, Planted, Size
from pricelab_dagster.studies.claim_rows import REPLICATION, Row
from pricelab_dagster.studies.planted import plant
from pricelab_dagster.workbench import stage_rng

FULL = Size(n_products=1000, n_history=365, n_trees=200, n_replicates=2)
"""No interval of a draw is looked at: how its estimates spread over the draws is."""
SCENARIOS = ("base", "clean", "break_at_start")
CARRYOVER = "carryover"
DESIGNS: tuple[Case, ...] = (designs.TIME_BOUND, designs.BALANCED, designs.COIN_FLIP, designs.CROSSOVER)
AFTER_EFFECTS: tuple[Case, ...] = (designs.CROSSOVER, designs.NO_BLACKOUT, designs.BALANCED)
"""Designs that are drawn where treatment goes on working after it has ended."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One draw with what its estimators share.

    Attributes
    ----------
    planted
        Panel and truth.
    relative
        First differences of units on the relative scale.
    predicted
        Units as forecast (N, T).
    leaves, weights, rng
        The forest, weights (N, B) of the bootstrap, and a generator for estimators that draw.
    """

    planted: Planted
    relative: science.Trimmed
    predicted: NDArray[np.float64]
    leaves: affinity.Leaves
    weights: NDArray[np.float32]
    rng: np.random.Generator

    @classmethod
    def of(cls, case: Case, replication: int, size: Size) -> "Drawn":
        """Return a draw of a case; equal arguments give equal draws."""
        planted = plant(case, replication, size)
        panel, predicted = planted.panel, science.forecasts(planted.panel)
        relative = science.trimmed(panel, predicted, method="none")[0]
        rng = stage_rng(replication, case.name, "estimates")
        leaves = science.fit_leaves(panel, planted.attributes, relative, n_trees=size.n_trees, rng=rng)
        weights = bootstrap.poisson_weights(panel.unit_id, n_replicates=size.n_replicates, rng=rng)
        return cls(planted, relative, predicted[UNITS], leaves, weights, rng)

    def effect(self, estimator: str, *, trim: str = "auto") -> float:
        """Return the relative effect on units by an estimator of the product."""
        return self._read(self.relative, estimator, trim)

    def filtered_difference(self) -> float:
        """Return the relative effect on units against the mean of the last 28 days, with the outlier filter."""
        panel = self.planted.panel
        before = science.forecasts(panel, method="none")
        return self._read(science.trimmed(panel, before, method="none")[0], FILTERED, "auto")

    def luck(self) -> float:
        """Return what the same arms read on the untreated sales, over their mean: its mean over draws is zero."""
        s, untreated = self.relative.product_scale[:, None], self.planted.untreated
        # on the level scale nothing is divided by a mean that depends on the arms
        told = replace(self.relative, scale="level", residual=(untreated - self.predicted) / s, outcome=untreated / s)
        return self._read(told, FILTERED, "trim") / float(told.outcome[self.planted.panel.in_analysis].mean())

    def _read(self, one: science.Trimmed, estimator: str, trim: str) -> float:
        options: dict[str, Any] = {"trim": trim, "estimators": (estimator,), "weights": self.weights, "rng": self.rng}
        return float(next(science.estimates(self.planted.panel, [one], self.leaves, **options))[3].effect)


def hpte(drawn: Drawn) -> float:
    """Return the headline."""
    return drawn.effect("hpte")


def hpte_no_filter(drawn: Drawn) -> float:
    """Return the headline with every product in it."""
    return drawn.effect("hpte", trim="none")


def hajek(drawn: Drawn) -> float:
    """Return the filtered difference of our first differences, without affinity."""
    return drawn.effect("hajek")


def difference_in_differences(drawn: Drawn) -> float:
    """Return the raw difference: against the mean of the last 28 days, unfiltered."""
    return drawn.effect("difference_in_differences")


def filtered_difference(drawn: Drawn) -> float:
    """Return the raw difference with the outlier filter."""
    return drawn.filtered_difference()


Estimator = Callable[[Drawn], float]
ESTIMATORS: tuple[Estimator, ...] = (hpte, hpte_no_filter, hajek, filtered_difference, difference_in_differences)
HPTE, NO_FILTER, FILTERED, RAW_FILTERED, RAW = (one.__name__ for one in ESTIMATORS)


def cases() -> tuple[Case, ...]:
    """Return what is drawn: every design on every market, and the designs that after-effects reach."""
    crossed = tuple(replace(one, scenario=scenario) for scenario in SCENARIOS for one in DESIGNS)
    return (*crossed, *(replace(one, scenario=CARRYOVER) for one in AFTER_EFFECTS))


def replicate(case: Case, replication: int, size: Size = FULL) -> Row:
    """Return one draw: truth by estimand, luck, and what each estimator finds."""
    drawn = Drawn.of(case, replication, size)
    return {
        "part": REPLICATION,
        "name": case.name,
        "number": replication,
        "scenario": case.scenario,
        "design": case.design,
        "truth": drawn.planted.truth[0]["relative"],
        "luck": drawn.luck(),
        "found": {one.__name__: one(drawn) for one in ESTIMATORS},
    }

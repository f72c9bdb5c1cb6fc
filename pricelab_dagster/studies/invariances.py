"""What must not move an estimate, and what must flip it: each tried on one draw of the market, to rounding."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pricelab_dagster.science import affinity, bootstrap, hpte
from pricelab_dagster.science import panel as science
from pricelab_dagster.studies.bars import at_most, verdict
from pricelab_dagster.studies.cases import Case, Size
from pricelab_dagster.studies.figures import Bounded
from pricelab_dagster.studies.planted import plant
from pricelab_dagster.workbench import stage_rng

DAYS, COPIES, CENTS = 28, 10, 100.0
CASE = Case("base", f"time_bound, {DAYS} days", "time_bound", {"duration": DAYS})
SIZE = Size(n_products=300, n_history=180, n_trees=50, n_replicates=200)
ROUNDING = at_most(1e-9)
"""Sums of some hundred numbers in double precision, in another order."""
SEED = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """First differences and arms (N,), who is drawn together, and the leaves of the forest."""

    D: NDArray[np.float64]
    W: NDArray[np.float64]
    units: NDArray[np.generic]
    leaves: affinity.Leaves

    def take(self, rows: NDArray[np.intp]) -> "Sample":
        """Return the sample with these rows; copies of a row keep its unit."""
        leaves = replace(self.leaves, leaf=self.leaves.leaf[rows], in_honest=self.leaves.in_honest[rows])
        return Sample(self.D[rows], self.W[rows], self.units[rows], leaves)

    def estimate(self, *, trim_c: float = 5.0) -> NDArray[np.float64]:
        """Return effect, standard error and both ends of the interval."""
        weights = bootstrap.poisson_weights(self.units, n_replicates=SIZE.n_replicates, rng=_rng("bootstrap"))
        options: dict[str, Any] = {"weights": weights, "rng": _rng("unused")}
        found = hpte.estimate(self.D, self.W, leaves=self.leaves, units=self.units, trim_c=trim_c, **options)
        return np.array([found.effect, found.se, found.ci_lower, found.ci_upper])


def rows() -> Iterator[dict[str, Any]]:
    """Yield one row per rule: the largest departure from it, in parts of the standard error."""
    planted = plant(CASE, SEED, SIZE)
    panel = planted.panel
    one = science.trimmed(panel, science.forecasts(panel), method="none")[0]
    leaves = science.fit_leaves(panel, planted.attributes, one, n_trees=SIZE.n_trees, rng=_rng("forest"))
    sample = Sample(one.first_difference, panel.sequence, np.arange(len(panel.product_id)), leaves)
    plain, unfiltered = sample.estimate(), sample.estimate(trim_c=0.0)
    n = len(sample.D)
    turn = _rng("order").permutation(n)

    copied = sample.take(np.repeat(np.arange(n), COPIES))
    yield _row(f"rows {COPIES} times, copies in one unit: same", copied.estimate(trim_c=0.0), unfiltered)
    swapped = replace(sample, W=1.0 - sample.W)
    yield _row("arms swapped: sign flips", swapped.estimate() * [-1, 1, -1, -1], plain[[0, 1, 3, 2]])
    yield _row("rows shuffled: same", sample.take(turn).estimate(), plain)
    named = np.array([f"unit {unit:06d}" for unit in sample.units])
    yield _row("units renamed in their order: same", replace(sample, units=named).estimate(), plain)
    shuffled = replace(sample, units=turn)
    yield _row("units renamed in any order: same effect", shuffled.estimate()[:1], plain[:1], scale=plain[1])
    cents = replace(sample, D=CENTS * sample.D)
    yield _row(f"currency times {CENTS:g}: effect likewise", cents.estimate() / CENTS, plain)
    alone = hpte.estimate(sample.D, sample.W, trim_c=0.0, n_replicates=2, rng=_rng("unused")).effect
    by_hand = sample.D[sample.W == 1.0].mean() - sample.D[sample.W == 0.0].mean()
    name = "no attributes, no filter: difference of means"
    yield _row(name, [alone], [by_hand], scale=plain[1])


def _row(rule: str, found: ArrayLike, wanted: ArrayLike, *, scale: float | None = None) -> dict[str, Any]:
    expected = np.asarray(wanted, dtype=float)
    unit = float(expected[1]) if scale is None else scale
    error = float(np.max(np.abs(np.asarray(found, dtype=float) - expected))) / unit
    return {
        "scenario": CASE.scenario,
        "design": CASE.design,
        "products": SIZE.n_products,
        "figure": "departure in standard errors",
        "estimator": "hpte",
        "scale": "relative",
        "reference": rule,
        "value": error,
        "lower": error,
        "upper": error,
        "bar": str(ROUNDING),
        "reached": verdict(Bounded(error, error, error), ROUNDING),
        "draws": 1,
    }


def _rng(stage: str) -> np.random.Generator:
    return stage_rng(SEED, CASE.name, stage)

"""A comparison nobody randomised whose answer is known: a job training programme against a survey's people.

The National Supported Work demonstration drew who was trained. Here its 185 trained men stand against 15,992 men of the
Current Population Survey instead of its own controls: unlike in age, schooling and earnings, as the products of an
imported assignment may be. What the true experiment says is the yardstick (LaLonde 1986; Dehejia and Wahba 1999).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from pricelab_dagster.science import hpte
from pricelab_dagster.studies.bars import Bar, verdict
from pricelab_dagster.studies.figures import Bounded

ATTRIBUTES = ["age", "educ", "black", "hisp", "marr", "nodegree", "re74", "re75"]
SEED = 1
FORMS: dict[str, dict[str, Any]] = {
    "difference_in_differences": {},
    "hpte, split by outcome, overlap": {"split": "outcome"},
    "hpte_leaf, split by outcome, ATE": {"split": "outcome", "method": "leaf"},
    "hpte_doubly_robust, split jointly, ATE": {"split": "joint", "method": "doubly_robust"},
    "hpte_doubly_robust, split jointly, ATT": {"split": "joint", "method": "doubly_robust", "estimand": "att"},
}
HEADLINE = "hpte_doubly_robust, split jointly, ATT"
"""What the product quotes for an imported assignment."""


def rows(*, n_replicates: int = 200) -> Iterator[dict[str, Any]]:
    """Yield the figures: dollars of earnings in 1978, with 95 % intervals; `reached` where they hold the experiment's.

    First difference: earnings of 1978 less those of 1975, nothing trimmed.

    Raises
    ------
    ModuleNotFoundError
        If the package `causaldata` is not installed.
    """
    drawn, surveyed = _load()
    experiment = _difference(drawn)
    men = pd.concat([drawn[drawn["treat"] == 1], surveyed], ignore_index=True)
    yield _row("experiment", len(drawn), experiment, "")
    trained = men["treat"].to_numpy(dtype=float)
    change = (men["re78"] - men["re75"]).to_numpy(dtype=float)
    X = men[ATTRIBUTES].astype(float)
    for name, options in FORMS.items():
        common: dict[str, Any] = {"trim_c": 0.0, "n_replicates": n_replicates, "rng": np.random.default_rng(SEED)}
        attributes = None if name == "difference_in_differences" else X
        found = hpte.estimate(change, trained, attributes, **options, **common)
        yield _row(name, len(men), Bounded(found.effect, found.ci_lower, found.ci_upper), name, experiment.value)


def _load() -> tuple[pd.DataFrame, pd.DataFrame]:
    from causaldata import cps_mixtape, nsw_mixtape

    return nsw_mixtape.load_pandas().data, cps_mixtape.load_pandas().data


def _difference(men: pd.DataFrame) -> Bounded:
    """Return the difference of mean earnings in 1978 between the drawn arms, with a normal interval."""
    arms = [men.loc[men["treat"] == arm, "re78"].astype(float) for arm in (1, 0)]
    effect = float(arms[0].mean() - arms[1].mean())
    half = 1.96 * float(np.sqrt(sum(part.var() / len(part) for part in arms)))
    return Bounded(effect, effect - half, effect + half)


def _row(name: str, n: int, found: Bounded, estimator: str, truth: float | None = None) -> dict[str, Any]:
    held = estimator == HEADLINE and truth is not None
    bar = Bar(found.lower, found.upper)
    return {
        "scenario": "job training",
        "design": "imported",
        "products": n,
        "figure": "effect in dollars",
        "estimator": name,
        "scale": "level",
        "reference": "" if truth is None else f"experiment {truth:.0f}",
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "bar": "interval holds it" if held else "",
        "reached": verdict(Bounded(truth, truth, truth), bar) if held and truth is not None else "",
        "draws": 1,
    }

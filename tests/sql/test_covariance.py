from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from pricelab_dagster.engine import Engine
from pricelab_dagster.models import models
from pricelab_dagster.science import panel
from pricelab_dagster.science._comparisons import STAGGERED_HEADLINE
from pricelab_dagster.tables import TABLES

Run = Callable[..., pa.Table]
Check = Callable[[pa.Table, str], None]
NAME = "experiment.effect_covariance"
REFERENCE = 1e-10  # numpy's two-pass covariance and DuckDB's running one


def drawn(estimator: str, **effects: list[float | None]) -> str:
    return "\n".join(
        f"milk | {metric} | relative | {estimator} | treatment | {number} | {'' if effect is None else effect}"
        for metric, values in effects.items()
        for number, effect in enumerate(values)
    )


HEADER = "experiment_id | metric | scale | estimator | arm | replicate | effect\n"


def test_pairs_by_hand(run: Run, check: Check) -> None:
    """Units 1, 2, 3 and price 3, 2, 4: variances 1 and 1, covariance 1/2."""
    found = run(NAME, {"experiment.effect_draws": HEADER + drawn("hpte", units=[1, 2, 3], price=[3, 2, 4])})
    check(
        found,
        """
        experiment_id | scale    | estimator | arm       | metric | other_metric | covariance | correlation
        milk          | relative | hpte      | treatment | price  | price        | 1          | 1
        milk          | relative | hpte      | treatment | price  | units        | 0.5        | 0.5
        milk          | relative | hpte      | treatment | units  | units        | 1          | 1
        """,
    )
    assert found["n_replicates"].to_pylist() == [3, 3, 3]


def test_a_replicate_without_one_of_the_two_is_left_out_of_the_pair_alone(run: Run, check: Check) -> None:
    draws = drawn("hpte", units=[1, None, 3, 5], price=[3, 2, 4, None])
    check(
        run(NAME, {"experiment.effect_draws": HEADER + draws}),
        """
        metric | other_metric | covariance | n_replicates
        price  | price        | 1          | 3
        price  | units        | 1          | 2
        units  | units        | 4          | 3
        """,
    )


def test_one_draw_has_no_covariance_and_what_does_not_vary_no_correlation(run: Run, check: Check) -> None:
    found = run(
        NAME, {"experiment.effect_draws": HEADER + drawn("hpte", units=[1, 2], price=[3, 3], revenue=[1, None])}
    )
    check(
        found,
        """
        metric  | other_metric | covariance | correlation | n_replicates
        price   | price        | 0          |             | 2
        price   | units        | 0          |             | 2
        units   | units        | 0.5        | 1           | 2
        price   | revenue      |            |             | 1
        revenue | units        |            |             | 1
        revenue | revenue      |            |             | 1
        """,
    )


def test_peers_are_left_out_and_the_headlines_that_have_draws_are_in(run: Run) -> None:
    options = [
        (unit, kind, imported) for unit in ("product", "cluster") for kind in KINDS for imported in (True, False)
    ]
    quotable = {panel.headline(unit=unit, kind=kind, imported=imported) for unit, kind, imported in options}
    names = [*sorted(quotable), STAGGERED_HEADLINE, "difference_in_differences", "ancova", "cuped"]
    draws = "\n".join(drawn(name, units=[1, 2, 3]) for name in names)
    found = run(NAME, {"experiment.effect_draws": HEADER + draws})
    assert sorted(found["estimator"].to_pylist()) == sorted(quotable)


KINDS = ("time_bound", "triggered", "random_days", "crossover")


def test_against_numpy_for_several_arms_scales_and_estimators() -> None:
    rng = np.random.default_rng(0)
    metrics, groups = ("price", "profit", "units"), [("relative", "hpte", "a"), ("relative", "hpte", "b")]
    groups += [("level", "hpte", "a"), ("relative", "hajek", "a")]
    values = rng.normal(size=(len(groups), len(metrics), 40)) @ np.diag(rng.uniform(0.5, 2, 40))
    rows = [
        {"experiment_id": "milk", "metric": metric, "scale": scale, "estimator": estimator, "arm": arm}
        | {"replicate": number, "effect": float(effect)}
        for (scale, estimator, arm), of_group in zip(groups, values, strict=True)
        for metric, drawn_effects in zip(metrics, of_group, strict=True)
        for number, effect in enumerate(drawn_effects)
    ]
    shuffled = [rows[place] for place in rng.permutation(len(rows))]
    schema = TABLES["experiment.effect_draws"].schema
    for given in (rows, shuffled):
        table = pa.Table.from_pylist(given, schema=schema)
        found = Engine().sql(models()[NAME].query, tables={"experiment.effect_draws": table}).to_pylist()
        assert len(found) == len(groups) * 6
        for row in found:
            of_group = values[groups.index((row["scale"], row["estimator"], row["arm"]))]
            at = [metrics.index(row[name]) for name in ("metric", "other_metric")]
            assert row["covariance"] == pytest.approx(np.cov(of_group[at])[0, 1], rel=REFERENCE)
            assert row["correlation"] == pytest.approx(np.corrcoef(of_group[at])[0, 1], rel=REFERENCE)

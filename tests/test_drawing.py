from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pricelab_dagster.drawing import Frame, assignment_table, draw
from pricelab_dagster.engine import Engine
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.lake import shape
from pricelab_dagster.models import assertions

Make = Callable[..., Experiment]

N = 40
KINDS = ("time_bound", "random_days", "crossover")
PERIODS = {"time_bound": 14, "random_days": 14, "crossover": 8}
BLACKOUT = {"time_bound": [0, 1], "random_days": [], "crossover": [0, 4]}


def products() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "product_id": [f"p{i:02d}" for i in range(N)],
            "category": ["BREAD", "MILK"] * (N // 2),
            "units_per_day": [float((7 * i) % N + 1) for i in range(N)],
        }
    )


CLUSTERS = {f"p{i:02d}": f"p{i - i % 3:02d}" for i in range(N)}


def drawn_table(
    experiment: Experiment, *, seed: int = 7, rows: pd.DataFrame | None = None, grain: Any = "day"
) -> pa.Table:
    scope = products() if rows is None else rows
    drawn = draw(experiment, grain, scope, CLUSTERS, rng=np.random.default_rng(seed))
    return shape("experiment.assignments", assignment_table(drawn, experiment))


def grid(table: pa.Table, column: str) -> pd.DataFrame:
    return table.to_pandas().pivot(index="product_id", columns="date", values=column)


@pytest.mark.parametrize("unit", ["product", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_passes_the_assertions_of_its_table(make_experiment: Make, kind: str, unit: str) -> None:
    experiment = make_experiment(kind, assignment={"unit": unit})
    rows = drawn_table(experiment)
    parameters = {"start": experiment.start, "end": experiment.end("day")}
    judged = [one for one in assertions() if one.dependencies == ("experiment.assignments",)]
    assert len(judged) == 4
    for one in judged:
        found = Engine().sql(one.query, tables={"experiment.assignments": rows}, parameters=parameters)
        assert found.num_rows == 0, one.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_has_one_row_for_each_product_and_period(make_experiment: Make, kind: str) -> None:
    rows = drawn_table(make_experiment(kind))
    assert rows.num_rows == N * PERIODS[kind]
    assert set(rows["arm"].to_pylist()) == {"control", "treatment"}
    assert set(rows["probability"].to_pylist()) == {0.5}
    assert rows["unit_id"] == rows["product_id"]
    assert rows["date"].to_pylist()[: PERIODS[kind]] == [date(2024, 1, 8 + day) for day in range(PERIODS[kind])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_blackout_leaves_out_the_data_and_keeps_the_price(make_experiment: Make, kind: str) -> None:
    rows = drawn_table(make_experiment(kind))
    in_analysis, arm = grid(rows, "in_analysis").to_numpy(dtype=bool), grid(rows, "arm")
    left_out = [period for period in range(PERIODS[kind]) if not in_analysis[:, period].any()]
    assert left_out == BLACKOUT[kind]
    assert in_analysis.sum() == N * (PERIODS[kind] - len(left_out))
    for period in left_out:
        assert arm.iloc[:, period].equals(arm.iloc[:, period + 1].set_axis(arm.index))


def test_time_bound_treats_half_of_each_category_from_the_start_to_the_end(make_experiment: Make) -> None:
    arm = grid(drawn_table(make_experiment("time_bound")), "arm") == "treatment"
    assert (arm.nunique(axis=1) == 1).all()
    treated = arm.iloc[:, 0].to_numpy()
    category = products()["category"].to_numpy()
    assert [int(treated[category == name].sum()) for name in ("BREAD", "MILK")] == [N // 4, N // 4]


def test_a_crossover_swaps_the_arms_at_its_second_phase(make_experiment: Make) -> None:
    arm = (grid(drawn_table(make_experiment("crossover")), "arm") == "treatment").to_numpy()
    assert (arm[:, :4] == arm[:, [0]]).all()
    assert (arm[:, 4:] != arm[:, [0]]).all()
    assert arm[:, 0].sum() == N // 2


def test_random_days_give_each_product_every_weekday_once_in_each_arm(make_experiment: Make) -> None:
    arm = (grid(drawn_table(make_experiment("random_days")), "arm") == "treatment").to_numpy()
    assert (arm[:, :7] != arm[:, 7:]).all()
    assert (arm.sum(axis=0) == N // 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_named_arm_and_its_share_stand_in_the_rows(make_experiment: Make, kind: str) -> None:
    design = {"balance": "none"} if kind == "random_days" else {}
    arms = [{"name": "cheaper", "price_multiplier": 0.9}]
    rows = drawn_table(make_experiment(kind, design=design, treatment=arms, assignment={"share": 0.25}))
    assert set(rows["arm"].to_pylist()) == {"control", "cheaper"}
    share = np.mean([arm == "cheaper" for arm in rows["arm"].to_pylist()])
    expected = set(rows["probability"].to_pylist())
    if kind == "crossover":
        assert expected == {0.25, 0.75}
    else:
        assert expected == {0.25}
        assert 0.15 < share < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_a_cluster_move_together(make_experiment: Make, kind: str) -> None:
    rows = drawn_table(make_experiment(kind, assignment={"unit": "cluster"}))
    assert dict(zip(rows["product_id"].to_pylist(), rows["unit_id"].to_pylist(), strict=True)) == CLUSTERS
    arm = grid(rows, "arm")
    for name in set(CLUSTERS.values()):
        members = [product for product, cluster in CLUSTERS.items() if cluster == name]
        assert (arm.loc[members].nunique() == 1).all()
    first = arm.iloc[:, -1] == "treatment"
    assert 0 < first.sum() < N


@pytest.mark.parametrize("unit", ["product", "cluster"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_and_another_seed_another(make_experiment: Make, kind: str, unit: str) -> None:
    experiment = make_experiment(kind, assignment={"unit": unit})
    assert drawn_table(experiment) == drawn_table(experiment)
    assert drawn_table(experiment) != drawn_table(experiment, seed=8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_products_does_not_change_the_draw(make_experiment: Make, kind: str) -> None:
    shuffled = products().sample(frac=1, random_state=1)
    experiment = make_experiment(kind)
    assert drawn_table(experiment, rows=shuffled) == drawn_table(experiment)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_cuts_the_rows_and_leaves_the_draw(make_experiment: Make, kind: str) -> None:
    whole = drawn_table(make_experiment(kind))
    stopped = drawn_table(make_experiment(kind, design={"stop": "2024-01-10", "stop_reason": "recall"}))
    kept = [day <= date(2024, 1, 10) for day in whole["date"].to_pylist()]
    assert stopped == whole.filter(pa.array(kept))
    assert stopped.num_rows == 3 * N


def test_a_weekly_lab_draws_weeks(make_experiment: Make) -> None:
    dates = sorted(set(drawn_table(make_experiment("crossover"), grain="week")["date"].to_pylist()))
    assert dates == [date(2024, 1, 8) + timedelta(weeks=week) for week in range(8)]


@pytest.mark.parametrize("unit", ["product", "cluster"])
def test_a_scope_that_is_too_small_is_an_error_of_the_file(make_experiment: Make, unit: str) -> None:
    experiment = make_experiment(assignment={"unit": unit})
    with pytest.raises(LabError, match=r"experiments/milk\.yaml.*number of units == [13]") as failure:
        drawn_table(experiment, rows=products().head(3))
    assert str(failure.value).endswith("must be 4 or more. Widen the scope or give smaller units.")


@pytest.mark.parametrize("share", [0.04, 0.96])
@pytest.mark.parametrize("kind", ["time_bound", "crossover"])
def test_a_share_that_leaves_one_unit_on_a_side_is_refused(make_experiment: Make, kind: str, share: float) -> None:
    with pytest.raises(LabError) as failure:
        drawn_table(make_experiment(kind, assignment={"share": share}))
    assert str(failure.value) == (
        f"experiments/milk.yaml: assignment.share == {share}, must be such that 2 or more of the 40 units are treated, "
        "and control; it gives 1.6. Widen the scope, or give a share nearer to 0.5."
    )
    assert drawn_table(make_experiment(kind, assignment={"share": 0.05})).num_rows == N * PERIODS[kind]
    assert drawn_table(make_experiment(kind), rows=products().head(4)).num_rows == 4 * PERIODS[kind]


def test_days_that_are_treated_seldom_are_drawn(make_experiment: Make) -> None:
    experiment = make_experiment("random_days", design={"balance": "none"}, assignment={"share": 0.04})
    assert drawn_table(experiment).num_rows == N * 14


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_draw_keeps_half_of_the_clusters_whole(make_experiment: Make, kind: str) -> None:
    experiment = make_experiment(kind, assignment={"unit": "mixed"})
    frame = Frame.of(experiment, products(), CLUSTERS)
    assert sorted(frame.product_id) == sorted(products()["product_id"])
    units = pd.Series(frame.unit_id, index=frame.product_id)
    sizes = units.groupby(frame.cluster).nunique()
    whole = sizes[sizes == 1].index
    assert abs(len(whole) - len(sizes) / 2) <= 1
    strata = pd.Series(frame.stratum).groupby(np.isin(frame.cluster, whole)).agg(set)
    assert not strata[True] & strata[False], "the halves are drawn apart"
    drawn = draw(experiment, "day", products(), CLUSTERS, rng=np.random.default_rng(7))
    arms = pd.DataFrame(drawn.arm, index=drawn.product_id)
    clusters = pd.Series(CLUSTERS)
    for name in whole:
        assert (arms.loc[clusters[clusters == name].index].nunique() == 1).all()
    again = Frame.stored(frame.facts(), dict(zip(frame.product_id, frame.unit_id, strict=True)))
    assert again.cluster.tolist() == frame.cluster.tolist()


def test_a_mixed_draw_needs_clusters(make_experiment: Make) -> None:
    experiment = make_experiment("time_bound", assignment={"unit": "mixed"})
    with pytest.raises(LabError, match=r"assignment\.unit == mixed over 2 clusters, must be over 8 or more"):
        draw(experiment, "day", products(), dict.fromkeys(CLUSTERS, "a") | {"p00": "b"}, rng=np.random.default_rng(7))

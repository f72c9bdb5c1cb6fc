"""Effects by segment, their projection and the curve over the filter constant, as the assets store them."""

import math

import pytest

from pricelab_dagster.segmenting import CURVE, PROJECTION, SEGMENTS
from pricelab_dagster.workbench import Workbench
from tests.defs import arms_lab, imports_lab, tiny_lab
from tests.defs.tiny_lab import CONCLUDED

TABLES = (SEGMENTS, PROJECTION, CURVE)
STARTED = (*CONCLUDED, "going")
C = 5.0  # the default of analysis.trim.c
SIGMAS = 4.0  # a sound estimate leaves this band once in 16,000 draws
CENT = 0.005 / 2  # prices are rounded to cents and are at least 2: the most that rounding moves a multiplier


def read(root, table, experiment_id):
    return Workbench.open(root).lake.read(table, experiment_id).to_pandas()


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    """The played lab of imported assignments; read only."""
    return imports_lab.played_once(tiny_lab.shared_base(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def arms(tmp_path_factory):
    """The played lab of three arms in each of the four designs; read only."""
    return arms_lab.played_once(tiny_lab.shared_base(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("name", STARTED)
def test_each_started_experiment_has_rows_with_a_value_or_a_reason(played, name):
    for table, value in zip(TABLES, ("effect", "coefficient", "effect"), strict=True):
        rows = read(played, table, name)
        assert len(rows) > 0
        assert set(rows["metric"]) == {"units"}
        assert (rows[value].notna() | rows["reason"].notna()).all(), table
        assert rows[["se", "ci_lower", "ci_upper"]].notna().all(axis=1).equals(rows[value].notna()), table


@pytest.mark.parametrize("name", STARTED)
def test_curve_at_the_experiments_constant_is_its_headline(played, name):
    effects, curve = read(played, "experiment.effects", name), read(played, CURVE, name)
    (quoted,) = effects[effects["is_headline"] & (effects["metric"] == "units")].to_dict("records")
    (row,) = curve[curve["c"] == C].to_dict("records")
    assert row["estimator"] == quoted["estimator"]
    for column in ("effect", "se", "ci_lower", "ci_upper", "n_trimmed", "n_replicates"):
        assert row[column] == quoted[column], column


@pytest.mark.parametrize("name", CONCLUDED)
def test_effect_over_all_products_is_near_the_headline(played, name):
    effects, rows = read(played, "experiment.effects", name), read(played, SEGMENTS, name)
    quoted = effects[effects["is_headline"] & (effects["metric"] == "units")].iloc[0]
    whole = rows.iloc[0]
    assert whole["attribute"] == whole["segment"] == "all products"
    # the same products, weighed a little differently
    assert math.isclose(whole["effect"], quoted["effect"], abs_tol=0.5 * quoted["se"])


def test_a_planned_experiment_has_none(played):
    lake = Workbench.open(played).lake
    assert not any(lake.exists(table, "later") for table in TABLES)


def test_tables_stand_in_the_metadata_with_a_picture(played):
    import dagster as dg

    from pricelab_dagster.instance import open_instance

    keys = {SEGMENTS: {"segments", "picture"}, PROJECTION: {"projection"}, CURVE: {"curve", "picture"}}
    with open_instance(played) as instance:
        for table, wanted in keys.items():
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=dg.AssetKey(table.split(".")), asset_partitions=["cut"]), limit=1
            ).records
            metadata = records[0].asset_materialization.metadata
            assert wanted <= set(metadata), table
            if "picture" in wanted:
                assert "data:image/svg+xml;base64," in metadata["picture"].value


@pytest.mark.parametrize(("name", "said"), [("oneway", "the same sequence"), ("stairs", "start at different times")])
def test_refused_designs_have_rows_without_values_and_the_reason(imported, name, said):
    for table, value in zip(TABLES, ("effect", "coefficient", "effect"), strict=True):
        rows = read(imported, table, name)
        assert len(rows) > 0
        assert rows[value].isna().all(), table
        assert rows["reason"].str.contains(said).all(), table


@pytest.mark.parametrize("name", arms_lab.DESIGNS)
def test_of_several_arms_each_has_its_rows_in_every_design(arms, name):
    whole = read(arms, SEGMENTS, name).query("attribute == 'all products'").set_index("arm")
    curve = read(arms, CURVE, name)
    for arm, multiplier in arms_lab.ARMS.items():
        assert sorted(curve.loc[curve["arm"] == arm, "c"]) == [0, 1, 2, 5, 10, 20]
        assert len(read(arms, PROJECTION, name).query("arm == @arm")) > 0
        truth = multiplier**tiny_lab.ELASTICITY - 1
        assert abs(whole.loc[arm, "effect"] - truth) <= SIGMAS * whole.loc[arm, "se"] + CENT, arm
        assert whole.loc[arm, "effect"] * truth > 0, arm

from pathlib import Path

import dagster as dg
import yaml

import pricelab_dagster
from pricelab_dagster.tables import TABLES

SNAPSHOT = Path(__file__).with_name("asset_graph.txt")
HEADER = "key | group | partitioned | deps | checks | kinds"


def asset_graph(definitions: dg.Definitions) -> str:
    graph = definitions.resolve_asset_graph()
    lines = []
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        cells = [
            key.to_user_string(),
            node.group_name,
            "experiment" if node.partitions_def is not None else "-",
            ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys)) or "-",
            ", ".join(sorted(check.name for check in node.check_keys)) or "-",
            ", ".join(sorted(node.kinds)),
        ]
        lines.append(" | ".join(cells))
    return "\n".join([HEADER, *lines]) + "\n"


def test_asset_graph_is_the_reviewed_one(definitions):
    found = asset_graph(definitions)
    assert found == SNAPSHOT.read_text(), (
        "The asset graph changed. If that is meant, review the change after "
        f"`python -m tests.defs.test_graph`, which writes {SNAPSHOT.name} anew."
    )


def test_every_table_is_an_asset_and_only_the_warehouse_is_more(definitions):
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {name.replace(".", "/") for name in TABLES} | {"warehouse"}


def test_every_asset_says_what_it_is(definitions):
    for spec in definitions.resolve_all_asset_specs():
        name = ".".join(spec.key.path)
        assert spec.description, name
        assert spec.group_name not in (None, "default"), name
        assert spec.kinds, name


def test_every_table_shows_its_columns(definitions):
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.key.path != ["warehouse"]]
    for spec in specs:
        declared = TABLES[".".join(spec.key.path)]
        columns = spec.metadata["dagster/column_schema"].columns
        assert [column.name for column in columns] == [column.name for column in declared.columns], declared.name
        assert all(column.description and column.type for column in columns), declared.name
        assert spec.description.startswith("One row per "), declared.name
        assert (spec.partitions_def is not None) == declared.partitioned, declared.name
    assert len(specs) == len(TABLES)


def test_checks_of_partitioned_tables_are_partitioned_and_assertions_alone_block(definitions):
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        spec = graph.get_check_spec(key)
        assert spec.blocking == key.name.startswith("assert_"), key
        assert spec.description, key
        assert (spec.partitions_def is not None) == TABLES[".".join(key.asset_key.path)].partitioned, key


def test_new_events_run_what_they_touch(definitions):
    keys = definitions.resolve_job_def("trigger").asset_layer.selected_asset_keys
    tables = {name for name in TABLES if TABLES[name].partitioned} | {
        "staging.stg_events",
        "intermediate.int_data_quality",
    }
    assert {key.to_user_string() for key in keys} == {name.replace(".", "/") for name in tables}


def test_sales_have_a_freshness_policy_and_nothing_else_has(definitions):
    overdue = {spec.key.to_user_string() for spec in definitions.resolve_all_asset_specs() if spec.freshness_policy}
    assert overdue == {"staging/stg_sales"}


def test_jobs_cover_every_asset_once(definitions):
    """Data quality alone twice: it also counts what triggers did, which is known only after the experiments."""
    covered: list[dg.AssetKey] = []
    for job in ("refresh", "experiment", "publish"):
        covered += definitions.resolve_job_def(job).asset_layer.selected_asset_keys
    twice = [dg.AssetKey(["intermediate", "int_data_quality"])]
    assert sorted(covered) == sorted([*definitions.resolve_asset_graph().get_all_asset_keys(), *twice])


def test_shipped_instance_limits_and_silences():
    shipped = yaml.safe_load((Path(pricelab_dagster.__file__).parent / "dagster.yaml").read_text())
    assert shipped["telemetry"] == {"enabled": False}
    assert shipped["nux"] == {"enabled": False}
    assert shipped["run_monitoring"]["enabled"]
    assert shipped["concurrency"]["runs"]["max_concurrent_runs"] >= 1
    (limit,) = shipped["concurrency"]["runs"]["tag_concurrency_limits"]
    assert (limit["key"], limit["limit"]) == ("dagster/partition", 1)
    assert shipped["freshness"] == {"enabled": True}


if __name__ == "__main__":
    from pricelab_dagster.definitions import defs

    SNAPSHOT.write_text(asset_graph(defs()))

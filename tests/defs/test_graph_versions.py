"""What a graph of substitutes says of itself: how it differs from the one before, and whether it saw a year."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pricelab_dagster.defs import spillover
from pricelab_dagster.defs.lake_assets import Stage
from pricelab_dagster.lake import shape
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import Workbench
from tests.defs import tiny_lab

STARTS = {"cut": date(2024, 4, 1), "phases": date(2024, 4, 8), "going": date(2024, 4, 22)}


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    tiny_lab.write_lab(tmp_path, tiny_lab.EXPERIMENTS)
    return Workbench.open(tmp_path)


def graph(name: str, *pairs: str, effect: float = 0.5) -> pa.Table:
    """Return the rows of a graph over pairs such as "ab"."""
    numbers: dict[str, Any] = {"experiment_id": name, "se": 0.1, "z": 5.0, "history_weeks": 60}
    rows = [
        {"product_id": a, "on_price_of": b, "effect": effect + 0.1 * k, **numbers}
        for k, pair in enumerate(pairs)
        for a, b in (pair, pair[::-1])
    ]
    return shape(spillover.EDGES, pa.Table.from_pylist(rows, schema=TABLES[spillover.EDGES].schema))


def store(bench: Workbench, name: str, rows: pa.Table) -> None:
    facts = {"cut_off": STARTS[name].isoformat(), "version": name}
    bench.lake.write(spillover.EDGES, rows, name, metadata=facts)


def drift(bench: Workbench, name: str, rows: pa.Table, version: str = "new") -> str:
    return spillover._drift(Stage(bench, bench.experiment(name)), rows, version)


def test_a_graph_that_is_learned_anew_is_held_against_the_one_that_it_replaces(bench: Workbench) -> None:
    store(bench, "phases", graph("phases", "ab", "cd", "ef"))
    store(bench, "going", graph("going", "ab"))
    told = drift(bench, "going", graph("going", "ab", "cd"))
    assert told.startswith("against version going of going, up to 2024-04-22: 2 ordered pairs in common")
    assert "1 stay, 0 are new, 0 are gone" in told


def test_a_first_graph_is_held_against_the_earlier_one_most_like_it(bench: Workbench) -> None:
    store(bench, "cut", graph("cut", "ab", "cd"))
    store(bench, "phases", graph("phases", "ab"))
    told = drift(bench, "going", graph("going", "ab", "cd", effect=0.3))
    assert told.startswith("against version cut of cut, up to 2024-04-01: 4 ordered pairs in common")
    # of two as like the later one, and never one that has seen more
    assert "of phases" in drift(bench, "going", graph("going", "ab"))
    assert "of cut" in drift(bench, "cut", graph("cut", "ab"))
    assert drift(bench, "later", graph("later", "xy")) == "no earlier graph over these products"


def test_an_unchanged_graph_replaces_none(bench: Workbench) -> None:
    store(bench, "phases", graph("phases", "ab"))
    store(bench, "going", graph("going", "ab"))
    assert "of phases" in drift(bench, "going", graph("going", "ab"), version="going")


def test_a_graph_of_the_same_version_is_no_earlier_one(bench: Workbench) -> None:
    store(bench, "phases", graph("phases", "ab"))
    assert drift(bench, "going", graph("going", "ab"), version="phases") == "no earlier graph over these products"


@pytest.mark.parametrize(
    ("weeks", "passed", "message"),
    [
        (60.0, True, "60 weeks of history"),
        (51.0, False, "51 weeks of history < 52: estimated, but what belongs to a season"),
        (np.nan, True, "no pair is identified"),
    ],
)
def test_less_than_a_year_is_a_warning_beside_the_graph(weeks: float, passed: bool, message: str) -> None:
    found = spillover._a_year(weeks)
    assert found.passed is passed
    assert str(found.description).startswith(message)
    assert found.severity.value == "WARN"

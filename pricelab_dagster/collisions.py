"""One price for all: two experiments that would price a product in the same period are refused, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations

import pyarrow as pa

from pricelab_dagster import inputs
from pricelab_dagster.lab import Experiment, LabError
from pricelab_dagster.workbench import ASSIGNMENTS, DRAWN_ARMS, Workbench

MEETING = """
    with met as (
        select
            others.experiment_id,
            own.product_id,
            own.date
        from experiment.assignments as own
        inner join source.cells_in_force as others on own.product_id = others.product_id and own.date = others.date
    )

    select
        experiment_id,
        product_id,
        date,
        count(*) over (partition by experiment_id) as n_cells
    from met
    order by experiment_id, product_id, date
    limit 1
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """The products that an experiment prices between two dates, both inclusive."""

    experiment_id: str
    products: frozenset[str]
    first: date
    last: date

    def sentence(self, other: "Claim") -> str | None:
        """Return how two experiments meet, or None."""
        both = self.products & other.products
        first, last = max(self.first, other.first), min(self.last, other.last)
        if not both or first > last:
            return None
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        return f"{self.experiment_id} and {other.experiment_id} both price product {min(both)}{more} on {first}"


def claim(bench: Workbench, experiment: Experiment, products: list[str]) -> Claim:
    """Return what an experiment prices, or may price: of a triggered one the whole scope, until it ends."""
    window = bench.window(experiment)
    return Claim(experiment.id, frozenset(products), window.start, window.end)


def in_force(bench: Workbench) -> dict[str, Claim]:
    """Return what stored assignments price, those of experiments whose file is broken included, not those retired.

    A triggered experiment has its whole scope until it ends: an event may start any of its products.
    """
    retired = set(bench.retired())
    claims = {}
    for name in bench.lake.partitions(ASSIGNMENTS):
        if name in retired:
            continue
        facts, rows = bench.lake.metadata(ASSIGNMENTS, name), inputs.cells_in_force(bench, name)
        products = set(rows["product_id"].to_pylist())
        if bench.lake.exists(DRAWN_ARMS, name):
            products |= set(bench.lake.read(DRAWN_ARMS, name)["product_id"].to_pylist())
        last = min(date.fromisoformat(str(facts["end"])), inputs.end_ahead(bench, name) or date.max)
        claims[name] = Claim(name, frozenset(products), date.fromisoformat(str(facts["start"])), last)
    return claims


def sentences(claims: Mapping[str, Claim]) -> list[str]:
    """Return a sentence for each pair of experiments that meet."""
    return [said for one, other in combinations(claims.values(), 2) if (said := one.sentence(other)) is not None]


def refuse(bench: Workbench, experiment: Experiment, rows: pa.Table) -> None:
    """Refuse an assignment whose cells another experiment of the lab prices already.

    Raises
    ------
    LabError : naming both experiments, with the number of cells and an example.
    """
    others = bench.source("cells_in_force", experiment)
    met = bench.engine.sql(MEETING, tables={ASSIGNMENTS: rows, "source.cells_in_force": others}).to_pylist()
    if met:
        name, product, day, n_cells = met[0].values()
        found = f"{experiment.id} and {name} both price product {product} on {day}, and {n_cells - 1} cells more"
        allowed = "apart: a product has one price"
        remedy = f"Narrow the scope of {experiment.id} or of {name}, or move one of them."
        raise LabError(experiment.file, None, found, allowed, remedy)

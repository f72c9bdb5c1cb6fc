"""One draw of a case: the market, the arms as the product draws them, the sales under them, and the planted truth."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import designs, market
from pricelab_dagster.science.panel import Panel
from pricelab_dagster.studies import cases, events
from pricelab_dagster.studies.cases import DAYS_OF_STARTS, UNITS, Case, Planted, Size
from pricelab_dagster.workbench import stage_rng


def plant(case: Case, replication: int, size: Size) -> Planted:
    """Return one draw of a case; equal arguments give equal draws."""
    world = market.simulate(
        scenario=case.scenario,
        n_products=size.n_products,
        n_history=size.n_history,
        n_window=case.n_days,
        rng=stage_rng(replication, case.name, "market"),
    )
    rng = stage_rng(replication, case.name, "assignment")
    if case.kind == "staggered":
        return _on_calendar(case, world, _staggered(case, world, rng))
    if case.kind == "observational":
        return _on_calendar(case, world, _observational(case, world, rng))
    drawn = draw(case, world, rng=rng)
    if case.kind == "triggered":
        return events.in_event_time(case, world, drawn.drawn, rng=stage_rng(replication, case.name, "events"))
    return _on_calendar(case, world, drawn)


def draw(case: Case, world: market.Market, *, rng: np.random.Generator) -> designs.Assignment:
    """Return the arms of a design, products in the market's order, in strata of category and size as the product does.

    Clusters of products picked at random are paired by size.
    """
    n, start = len(world.product_id), world.date[world.n_history]
    size = cases.history(world).mean(axis=1)
    common: dict[str, Any] = {**case.lengths, "n_arms": len(case.multipliers), "rng": rng}
    if case.kind == "triggered":
        common["horizon"] = start + case.lengths["horizon"] - 1
    draw_arms = getattr(designs, case.kind)
    if case.cluster_size > 1:
        cluster = rng.permutation(n) // case.cluster_size
        strata = designs.paired_strata(np.bincount(cluster, weights=size))[cluster]
        return draw_arms(world.product_id, start, units=cluster.astype(str), strata=strata, **common)
    order = np.lexsort((world.product_id, size, world.category))
    strata = designs.size_strata(world.category[order], size[order])
    drawn = draw_arms(world.product_id[order], start, strata=strata, **common)
    by_product = ("product_id", "arm", "in_analysis", "probability", "unit_id", "drawn", "in_force")
    back = np.argsort(order)
    return replace(drawn, **{name: getattr(drawn, name)[back] for name in by_product})


def _staggered(case: Case, world: market.Market, rng: np.random.Generator) -> designs.Assignment:
    """Return an assignment in which equal parts of the products start on each of `DAYS_OF_STARTS`, or never."""
    n, days = len(world.product_id), np.arange(case.n_days)
    start = np.array([*DAYS_OF_STARTS, case.n_days])[rng.permutation(n) % (len(DAYS_OF_STARTS) + 1)]
    return _imported(world, (days >= start[:, None]).astype(np.int8))


def _observational(case: Case, world: market.Market, rng: np.random.Generator) -> designs.Assignment:
    """Return an assignment that treats each product for the whole window with its own chance."""
    treated = rng.random(len(world.product_id)) < world.treatment_probability
    return _imported(world, np.repeat(treated[:, None], case.n_days, axis=1).astype(np.int8))


def _imported(world: market.Market, arm: NDArray[np.int8]) -> designs.Assignment:
    """Return arms (N, T) as an assignment of unknown mechanism."""
    everywhere = np.ones(arm.shape, dtype=bool)
    return designs.Assignment(
        product_id=world.product_id,
        date=world.date[world.n_history :],
        arm=arm,
        in_analysis=everywhere,
        probability=np.full(arm.shape, np.nan),
        unit_id=world.product_id,
        mechanism="imported",
        drawn=arm.max(axis=1),
        in_force=everywhere,
    )


def _on_calendar(case: Case, world: market.Market, drawn: designs.Assignment) -> Planted:
    """Return the draw of a design that starts by the calendar."""
    window = np.s_[:, world.n_history :]
    worlds = [cases.priced(world, multiplier, code) for code, multiplier in enumerate(case.multipliers, 1)]
    imported = case.kind in cases.IMPORTED
    panel = Panel(
        product_id=world.product_id,
        date=drawn.date,
        unit_id=drawn.unit_id,
        category=world.category,
        arm=drawn.arm.astype(float),
        in_analysis=drawn.in_analysis,
        probability=drawn.probability,
        phase=np.arange(case.n_days) // case.lengths.get("phase", case.n_days) + 1,
        history={UNITS: cases.history(world), "price": world.incumbent_price[:, : world.n_history]},
        observed={UNITS: _sold(worlds, drawn.arm)[window].astype(float)},
        kind="time_bound" if imported else case.kind,
        imported=imported,
        drawn=drawn.arm.max(axis=1).astype(np.int64),
        incumbent=world.incumbent_price[window],
    )
    counted = drawn.arm > 0 if imported else drawn.in_analysis
    truth = tuple(cases.truth(one, counted) for one in worlds)
    return Planted(panel, world.untreated_units[window].astype(float), cases.attributes(world), truth)


def _sold(worlds: list[market.Market], arm: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the units (N, T0 + T) where the cells of arm k are those of the k-th market.

    With several arms a price may move the sales of its own cell only: no carryover, no substitutes.
    """
    if len(worlds) == 1:
        return np.asarray(worlds[0].observe(arm).units)
    units = worlds[0].untreated_units.copy()
    for code, one in enumerate(worlds, 1):
        row, day = np.nonzero(arm == code)
        units[row, one.n_history + day] = one.observe(arm == code).units[row, one.n_history + day]
    return np.asarray(units)

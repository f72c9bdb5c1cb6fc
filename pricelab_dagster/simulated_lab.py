"""The lab that `pricelab new --simulate` writes: a reference market, three finished experiments, and the truth."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pricelab_dagster import drawing, template
from pricelab_dagster.lab import LabError, write_schemas
from pricelab_dagster.science import market
from pricelab_dagster.science.market_scenarios import SCENARIOS
from pricelab_dagster.workbench import Workbench, stage_rng

START, N_HISTORY, DAYS = date(2024, 1, 1), 365, 28
MULTIPLIER = 0.95
MIN_PRODUCTS = 60
TRUTH = Path("truth") / "truth.csv"
DESIGNS = {
    "time-bound": f"kind: time_bound\n  start: {START}\n  duration: {DAYS}",
    "random-days": f"kind: random_days\n  start: {START}\n  duration: {DAYS}",
    "crossover": f"kind: crossover\n  start: {START}\n  phase: {DAYS // 2}\n  blackout: 7",
}
"""By experiment, its design as its file says it; each has every third category to itself."""
OF_PRODUCTS = ("product_id", "untreated_units", "incumbent_price", "expected_demand", "own_elasticity")


def write(directory: Path, scenario: str, *, seed: int, n_products: int) -> None:
    """Write a lab of finished experiments on a simulated market, with the planted effects in `TRUTH`.

    The arms are those that a run of the lab will draw, and the sales follow them; equal arguments write equal bytes.

    Raises
    ------
    LabError : for an unknown market, too few products, or a folder with something in it; nothing is written then.
    """
    if scenario not in SCENARIOS:
        raise LabError("new", "--simulate", scenario, f"one of {', '.join(SCENARIOS)}", "Name a market.")
    if n_products < MIN_PRODUCTS:
        raise LabError("new", "--products", n_products, f"at least {MIN_PRODUCTS}", "Simulate more products.")
    template.refuse_used(directory)
    simulated = market.simulate(
        scenario=scenario,
        n_products=n_products,
        n_history=N_HISTORY,
        n_window=DAYS,
        start=START,
        treatment_multiplier=MULTIPLIER,
        rng=stage_rng(seed, scenario, "market"),
    )
    about = (
        f"# Simulated: market {scenario}, seed {seed}, {n_products} products. Each experiment charges {MULTIPLIER} of "
        "the incumbent price.\n"
        f"# What that does was planted and stands in {TRUTH.as_posix()}, by experiment, metric, scale and estimand:\n"
        "# hold it against `pricelab effects`.\n#\n"
    )
    write_files(directory, simulated, seed, about=about)
    arm = np.zeros((n_products, DAYS), dtype=np.int8)
    template.write_data(directory, simulated, arm)
    bench = Workbench.open(directory)
    drawn = {name: template.draw(bench, bench.experiment(name)) for name in DESIGNS}
    place = pd.Index(simulated.product_id)
    for one in drawn.values():
        arm[place.get_indexer(pd.Index(one.product_id))] = one.arm
    template.write_data(directory, simulated, arm)
    truth = pd.DataFrame([row for name, one in drawn.items() for row in planted(name, simulated, one)])
    (directory / TRUTH).parent.mkdir()
    truth.to_csv(directory / TRUTH, index=False)


def planted(name: str, simulated: market.Market, drawn: drawing.designs.Assignment) -> Iterator[dict[str, object]]:
    """Yield the effects of treating an experiment's products, over its days in analysis, by metric, scale and estimand.

    `same_day` is what that day's prices do; `long_run`, with carryover, what they do in the end; `direct`, with
    substitutes, what its own price does to a product.
    """
    kind = drawn.mechanism.partition("(")[0]
    rows = pd.Index(simulated.product_id).get_indexer(pd.Index(drawn.product_id))
    own = of_products(simulated, rows)
    estimands: dict[market.Estimand, bool] = {
        "same_day": True,
        "long_run": simulated.scenario.carryover > 0,
        "direct": simulated.theta.nnz > 0,
    }
    for estimand in (one for one, exists in estimands.items() if exists):
        found = own.truth(drawn.in_analysis, estimand=estimand)
        for scale, effects in (("relative", found.relative), ("level", found.level)):
            for metric, effect in effects.items():
                about = {"experiment_id": name, "design": kind, "metric": metric, "scale": scale}
                yield {**about, "estimand": estimand, "truth": effect}


def of_products(simulated: market.Market, rows: NDArray[np.intp]) -> market.Market:
    """Return the market of the products in some rows alone."""
    parts = {field: getattr(simulated, field)[rows] for field in OF_PRODUCTS}
    return replace(simulated, theta=simulated.theta[rows][:, rows], **parts)


def write_files(
    directory: Path,
    simulated: market.Market,
    seed: int,
    *,
    about: str = "",
    designs: Mapping[str, str] = DESIGNS,
    events: str = "",
) -> None:
    """Write pricelab.yaml and an experiment a file, each with its share of the categories; no data.

    Parameters
    ----------
    about : comments at the top of pricelab.yaml.
    designs : by experiment, its design as its file says it.
    events : the key `events` of pricelab.yaml, where there are some.
    """
    for folder in ("data", "experiments", ".schema"):
        (directory / folder).mkdir(parents=True)
    shipped = files("pricelab_dagster") / "template_lab"
    schema, _, rest = shipped.joinpath("pricelab.yaml").read_text().partition("\n")
    (directory / "pricelab.yaml").write_text(f"{schema}\n{about}{rest}{events}")
    (directory / ".gitignore").write_text(shipped.joinpath("gitignore").read_text())
    write_schemas(directory / ".schema")
    categories = sorted(set(simulated.category))
    for place, (name, design) in enumerate(designs.items()):
        own = ", ".join(f"'{category}'" for category in categories[place :: len(designs)])
        text = (
            "# yaml-language-server: $schema=../.schema/experiment.schema.json\n"
            f"title: Five per cent cheaper, {name}\nowner: you@example.com\ndesign:\n  {design}\n"
            f'scope:\n  where: "category in ({own})"\ntreatment: {{price_multiplier: {MULTIPLIER}}}\n'
            f"assignment: {{unit: product, seed: {seed}}}\nmetrics: [units, revenue]\n"
        )
        (directory / "experiments" / f"{name}.yaml").write_text(text)

"""How strongly demand answers to the price, and whether the price change pays."""

import dagster as dg

from pricelab_dagster.defs.effects import DRAWS, EFFECTS
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS
from pricelab_dagster.lifecycle import Status


@experiment_asset(
    "experiment.elasticities", reads=[EFFECTS, DRAWS, ASSIGNMENTS, DAYS], group="effects", after_start=True
)
def elasticities(stage: Stage) -> Output:
    """One row per arm: the own-price elasticity with its interval, beside those at which revenue and profit break even.

    From the headline's relative effects on units and price under one bootstrap draw. The price is that of periods with
    sales; the margin is that of the control cells in the analysis.
    """
    from pricelab_dagster import elasticities, frames

    bench, experiment = stage.bench, stage.experiment
    through = bench.through(experiment)
    assignments = frames.to_pandas(stage.read(ASSIGNMENTS))
    products = sorted(set(assignments["product_id"]))
    days = frames.to_pandas(bench.days(products, since=experiment.start, through=through))
    rows = elasticities.rows(
        experiment,
        frames.to_pandas(stage.read(EFFECTS)),
        frames.to_pandas(stage.read(DRAWS)),
        margin=elasticities.margin(assignments, days),
        so_far=through.isoformat() if bench.status(experiment) is Status.RUNNING else None,
    )
    return Output(rows, metadata={"elasticities": dg.MetadataValue.md(elasticities.markdown(rows))})

"""How strongly demand answers to the price, whether the price change pays, and how the effect moves after a switch."""

import dagster as dg

from pricelab_dagster.defs.effects import DRAWS, EFFECTS
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, FEATURES, PLAN, TRIMMED
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


@experiment_asset(
    "experiment.after_effects",
    reads=[TRIMMED, DETRENDED, ASSIGNMENTS, FEATURES, DAYS, PLAN],
    group="effects",
    after_start=True,
)
def after_effects(stage: Stage) -> Output:
    """One row per arm and period since a switch: the effect then, and from then on, which is the choice of a blackout.

    Of a finished experiment whose arms were drawn. What the periods after a switch tell of carryover is stored with the
    rows, and later experiments choose their designs by it.
    """
    from pricelab_dagster import after_effects, frames, pictures

    bench, experiment = stage.bench, stage.experiment
    panel = frames.load_panel(bench, experiment)
    trimmed = frames.read_trimmed(panel, stage.read(DETRENDED), stage.read(TRIMMED))
    relative = {one.metric: one for one in trimmed if one.scale == "relative"}
    primary = relative.get("units", trimmed[0])
    found = after_effects.found(experiment, panel, primary, status=bench.status(experiment))
    advice = " ".join(after_effects.advices(found.facts))
    plot = after_effects.picture(experiment, found.rows, advice)
    shown = {"picture": dg.MetadataValue.md(pictures.markdown(plot))} if plot else {}
    return Output(found.rows, facts=found.facts, metadata={"advice": advice, **shown})

"""The design chooser: what other designs would have cost an experiment, by its own history."""

import dagster as dg

from pricelab_dagster.defs.design import CLUSTERS, EVENTS, FEATURES
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import DAYS, PLAN
from pricelab_dagster.defs.spillover import CERTIFICATE

POWER = "experiment.power"


@experiment_asset(POWER, reads=[DAYS, FEATURES, CLUSTERS, PLAN, CERTIFICATE, EVENTS], group="design")
def power(stage: Stage) -> Output:
    """One row per candidate design: predicted standard error, what carryover and spillover add, and calendar days.

    From untreated windows of the lab's own history before the start: designs like the plan, of other kinds, lengths,
    blackouts, units and arms, and which of them has the smallest error in all. Kept from the start on.
    """
    from pricelab_dagster import choosing, pictures
    from pricelab_dagster.science import power as science

    bench, experiment = stage.bench, stage.experiment
    if bench.is_frozen(experiment) and bench.lake.exists(POWER, experiment.id):
        facts = bench.lake.metadata(POWER, experiment.id)
        return Output(stage.read(POWER), facts=facts, metadata={**facts, "frozen": True})
    question = choosing.of_experiment(
        bench, experiment, features=stage.read(FEATURES), plan=stage.read(PLAN), certificate=stage.read(CERTIFICATE)
    )
    found = list(science.evaluations(question.history, question.grid, rng=stage.rng("power")))
    advice = question.advice(found)
    plot = choosing.picture(question, found, advice)
    shown = {"picture": dg.MetadataValue.md(pictures.markdown(plot))} if plot else {}
    facts = {"recommendation": advice.sentence}
    return Output(choosing.table(question, found, advice), facts=facts, metadata={**facts, **shown})

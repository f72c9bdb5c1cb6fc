"""The design chooser: what other designs would have cost an experiment, by its own history."""

import dagster as dg

from pricelab_dagster.defs.design import CLUSTERS, EVENTS, FEATURES
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import DAYS, PLAN
from pricelab_dagster.defs.spillover import CERTIFICATE
from pricelab_dagster.workbench import POWER


@experiment_asset(POWER, reads=[DAYS, FEATURES, CLUSTERS, PLAN, CERTIFICATE, EVENTS], group="design")
def power(stage: Stage) -> Output:
    """One row per candidate design: predicted standard error, what carryover and spillover add, and calendar days.

    From untreated windows of the lab's own history before the start: designs like the plan, of other kinds, lengths,
    blackouts, units and arms, and which of them has the smallest error in all. Kept from the start on.
    """
    from pricelab_dagster import choosing, pictures
    from pricelab_dagster.science import power as science

    bench, experiment = stage.bench, stage.experiment
    frozen = bench.is_frozen(experiment) and bench.lake.exists(POWER, experiment.id)
    if frozen:
        rows, facts = stage.read(POWER), bench.lake.metadata(POWER, experiment.id)
    else:
        question = choosing.of_experiment(
            bench, experiment, features=stage.read(FEATURES), plan=stage.read(PLAN), certificate=stage.read(CERTIFICATE)
        )
        found = list(science.evaluations(question.history, question.grid, rng=stage.rng("power")))
        advice = question.advice(found)
        rows = choosing.table(question, found, advice)
        facts = {"recommendation": advice.sentence, "effect": question.assumed.effect}
    plot = None
    if "effect" in facts:
        effect, sentence = float(str(facts["effect"])), str(facts["recommendation"])
        plot = choosing.picture(experiment, rows, effect=effect, sentence=sentence)
    shown = {"picture": dg.MetadataValue.md(pictures.markdown(plot))} if plot else {}
    return Output(rows, facts=facts, metadata={**facts, **shown, **({"frozen": True} if frozen else {})})

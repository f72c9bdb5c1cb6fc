"""HPTE steps 1 and 2: first differences from detrended sales, and the outlier filter."""

from typing import Any

import dagster as dg

from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset

ASSIGNMENTS, FEATURES, DAYS = (
    "experiment.assignments",
    "intermediate.int_product_features",
    "intermediate.int_product_days",
)
PLAN = "experiment.price_plan"
DETRENDED, TRIMMED = "experiment.detrended_sales", "experiment.trimmed_panel"


@experiment_asset(DETRENDED, reads=[ASSIGNMENTS, FEATURES, DAYS, PLAN], group="panel", after_start=True)
def detrended_sales(stage: Stage) -> Output:
    """One row per product, period and metric: observed, predicted from the history, and their difference.

    The prediction is what the product would have sold untreated; products without history have none.
    """
    from pricelab_dagster import detrending, frames
    from pricelab_dagster.science import panel as science

    one, settings = frames.load_panel(stage.bench, stage.experiment), stage.experiment.analysis.detrend
    window = frames.window_of(settings, one.grain)
    choices = science.choices(one, window=window) if settings.method == "auto" else {}
    methods = {metric: choices[metric].method if choices else settings.method for metric in one.observed}
    predicted = science.forecasts(one, method=methods, window=window)
    rows = frames.detrended_table(stage.experiment, one, predicted)
    metadata: dict[str, Any] = {"method": settings.method, "history_periods": one.n_history, "through": one.through}
    if choices:
        metadata["choices"] = dg.MetadataValue.md(detrending.markdown(choices))
    return Output(rows, facts=detrending.facts(methods, choices), metadata=metadata)


@experiment_asset(TRIMMED, reads=[DETRENDED, ASSIGNMENTS, FEATURES, DAYS, PLAN], group="panel", after_start=True)
def trimmed_panel(stage: Stage) -> Output:
    """One row per product, metric and scale: its first difference, and whether the outlier filter keeps it.

    Ranks are cut within arms (sequences, for a crossover), so that a strong effect is not taken for an outlier. Placebo
    differences are those of the forecast that was subtracted.
    """
    from pricelab_dagster import detrending, frames

    one = frames.load_panel(stage.bench, stage.experiment)
    methods = detrending.stored_methods(stage.bench.lake.metadata(DETRENDED, stage.experiment.id))
    trimmed = frames.trim_panel(stage.experiment, one, stage.read(DETRENDED), methods=methods)
    rows = frames.trimmed_table(stage.experiment, one, trimmed)
    return Output(rows, metadata={"not_kept_or_changed": frames.reasons(rows)})

"""Where the effect is larger, and how far the headline leans on the outlier filter."""

from typing import TYPE_CHECKING

import dagster as dg

from pricelab_dagster.defs.affinity import LEAVES
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, FEATURES, PLAN, TRIMMED

if TYPE_CHECKING:
    from pricelab_dagster.segmenting import Study

_READS = [LEAVES, TRIMMED, DETRENDED, ASSIGNMENTS, FEATURES, DAYS, PLAN]


@experiment_asset("experiment.segment_effects", reads=_READS, group="effects", after_start=True)
def segment_effects(stage: Stage) -> Output:
    """One row per arm and segment: the effect on the first metric there, with intervals for one and for all segments.

    Segments are the levels and thirds of the attributes, and thirds of the products by the effect that a causal forest
    predicts for them without their own outcomes.
    """
    from pricelab_dagster import pictures, segmenting

    study = _study(stage)
    rows = segmenting.segment_rows(study, rng=stage.rng("segments"))
    picture = pictures.markdown(segmenting.segment_picture(stage.experiment, rows))
    metadata = {"segments": _markdown(segmenting.segment_table(rows)), "picture": _markdown(picture)}
    return Output(rows, metadata={**metadata, "through": study.panel.through})


@experiment_asset("experiment.effect_projection", reads=_READS, group="effects", after_start=True)
def effect_projection(stage: Stage) -> Output:
    """One row per arm and term: how the effect on the first metric changes with each attribute, the others equal.

    The best linear projection of the effect on standardised attributes, and a joint test that none of them matters.
    """
    from pricelab_dagster import segmenting

    study = _study(stage)
    rows = segmenting.projection_rows(study)
    metadata = {"projection": _markdown(segmenting.projection_table(rows))}
    return Output(rows, metadata={**metadata, "through": study.panel.through})


@experiment_asset("experiment.trim_curve", reads=_READS, group="effects", after_start=True)
def trim_curve(stage: Stage) -> Output:
    """One row per arm and constant c of the outlier filter: the headline of the first metric under that filter.

    Under the bootstrap draw of the effects, so that differences along the curve are the filter's alone.
    """
    from pricelab_dagster import pictures, segmenting

    study = _study(stage)
    rows = segmenting.curve_rows(study, rng=stage.rng("bootstrap"))
    picture = pictures.markdown(segmenting.curve_picture(stage.experiment, rows))
    metadata = {"curve": _markdown(segmenting.curve_table(rows)), "picture": _markdown(picture)}
    return Output(rows, metadata={**metadata, "through": study.panel.through})


def _study(stage: Stage) -> "Study":
    """Return what the three tables are made from."""
    from pricelab_dagster import frames
    from pricelab_dagster.segmenting import Study

    one = frames.load_panel(stage.bench, stage.experiment)
    reason = stage.bench.lake.metadata(LEAVES, stage.experiment.id).get("reason")
    return Study(
        stage.experiment,
        one,
        frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED)),
        frames.read_leaves(stage.read(LEAVES), one, str(reason) if reason else None),
        frames.attributes(frames.to_pandas(stage.read(FEATURES)), one.product_id),
    )


def _markdown(text: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(text)

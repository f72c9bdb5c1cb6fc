"""HPTE step 3, first half: which products are alike enough to be compared."""

from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, FEATURES, PLAN, TRIMMED

LEAVES = "experiment.affinity_leaves"


@experiment_asset(
    LEAVES, reads=[TRIMMED, DETRENDED, ASSIGNMENTS, FEATURES, DAYS, PLAN], group="effects", after_start=True
)
def affinity_leaves(stage: Stage) -> Output:
    """One row per product and tree: the leaf in which it ends; products of one leaf may be compared.

    Trees split on the products' attributes along the axes on which the primary metric's first differences vary most.
    """
    from pricelab_dagster import frames
    from pricelab_dagster.science import panel as science

    one, forest = frames.load_panel(stage.bench, stage.experiment), stage.experiment.analysis.forest
    trimmed = frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED))
    X = frames.attributes(frames.to_pandas(stage.read(FEATURES)), one.product_id)
    leaves = science.fit_leaves(
        one,
        X,
        trimmed[0],
        split=forest.split,
        n_trees=forest.n_trees,
        min_leaf=forest.min_leaf,
        rng=stage.rng("affinity"),
    )
    facts = {"reason": leaves.reason}
    metadata = {"attributes": ", ".join(X.columns), "note": leaves.reason or "none"}
    return Output(frames.leaves_table(stage.experiment, one, leaves), facts, metadata)

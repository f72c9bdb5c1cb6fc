"""Spillover: the graph of substitutes and its clusters, both learned before the experiment starts."""

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster import scope
from pricelab_dagster.defs.effects import ARMS, EFFECTS
from pricelab_dagster.defs.lake_assets import Output, Stage, experiment_asset, shared_output
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, PLAN, TRIMMED
from pricelab_dagster.lifecycle import Status
from pricelab_dagster.tables import TABLES

PAIRS, CERTIFICATE, VERSION_LETTERS = "experiment.pair_probabilities", "spillover.certificate", 12
FEATURES, EDGES, CLUSTERS = (
    "intermediate.int_product_features",
    "spillover.substitute_edges",
    "spillover.product_clusters",
)


@experiment_asset(EDGES, reads=["intermediate.int_product_days", FEATURES], group="spillover")
def substitute_edges(stage: Stage) -> Output:
    """One row per ordered pair of products of a class: what the price of one does to the demand for the other.

    Estimated on the history before the start, over the classes that the experiment touches; pairs that the history does
    not identify say why.
    """
    from pricelab_dagster import frames, graphs

    bench, experiment = stage.bench, stage.experiment
    features = graphs.by_class(bench, frames.to_pandas(stage.read(FEATURES)))
    touched = graphs.categories(features, scope.products(bench, experiment, stage.read(FEATURES)))
    set_here = graphs.settings(bench)
    key = bench.shared_key(experiment, reads=[FEATURES], scope=[touched, set_here] if set_here else touched)

    inside = features[features["category"].isin(set(touched))]
    rows = graphs.history(bench, experiment, inside)
    season = 7 // bench.days_per_period

    output = shared_output(stage, EDGES, key, lambda: graphs.edges_of(bench, rows, inside))
    rng, floors = np.random.default_rng(int(key[:8], 16)), graphs.floors(bench)
    placebo = graphs.placebo(rows, output.rows, season=season, rng=rng, **floors)
    identified = pc.sum(pc.is_valid(output.rows["effect"])).as_py() or 0
    metadata = {"identified": identified, "placebo_rate": placebo.rate, "placebo_pairs": placebo.n_pairs}
    facts = {**output.facts, "version": key[:VERSION_LETTERS], "cut_off": experiment.start.isoformat()}
    told = {"version": facts["version"], "drift": _drift(stage, output.rows)}
    return Output(output.rows, facts, {**output.metadata, **metadata, **told})


def _drift(stage: Stage, rows: pa.Table) -> str:
    """Return in words how the graph differs from the last one of the lab that was learned up to an earlier day."""
    from pricelab_dagster import graphs

    lake, own = stage.bench.lake, stage.experiment.start.isoformat()
    cut_offs = {other: str(lake.metadata(EDGES, other).get("cut_off", "")) for other in lake.partitions(EDGES)}
    for cut_off, other in sorted(((day, name) for name, day in cut_offs.items() if "" < day < own), reverse=True):
        found = graphs.drift(rows, lake.read(EDGES, other))
        if found["pairs"]:
            return (
                f"against the graph of {other}, up to {cut_off}: {found['pairs']} ordered pairs in common, their "
                f"effects correlate {found['correlation']:.2f}; of the pairs that bind clusters {found['kept']} stay, "
                f"{found['new']} are new, {found['gone']} are gone"
            )
    return "no earlier graph over these products"


@experiment_asset(CLUSTERS, reads=[EDGES, FEATURES], group="spillover")
def product_clusters(stage: Stage) -> Output:
    """One row per product of the scope: the cluster of dense substitutes that would be assigned en masse."""
    from pricelab_dagster import frames, graphs

    bench, experiment = stage.bench, stage.experiment
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    wanted = experiment.assignment.clusters
    set_here = wanted.model_dump(exclude_defaults=True)
    key = bench.shared_key(experiment, reads=[EDGES], scope=[covered, set_here] if set_here else covered)
    output = shared_output(
        stage,
        CLUSTERS,
        key,
        lambda: graphs.cluster(stage.read(EDGES), covered, wanted, seed=int(key[:8], 16)),
    )
    sizes = frames.to_pandas(output.rows)["cluster_id"].value_counts()
    metadata = {"clusters": len(sizes), "largest_cluster": int(sizes.max()), "alone": int((sizes == 1).sum())}
    return Output(output.rows, output.facts, {**output.metadata, **metadata})


@experiment_asset(CERTIFICATE, reads=["intermediate.int_product_days", FEATURES, PLAN], group="spillover")
def spillover_certificate(stage: Stage) -> Output:
    """One row per way to assign, by product or by clusters under a cap: predicted spillover bias beside precision.

    From the history before the start alone: what substitutes would do to the total effect, what avoiding it would cost,
    and which choice has the smallest error in all.
    """
    from pricelab_dagster import certifying, frames, graphs, pictures

    bench, experiment = stage.bench, stage.experiment
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    features = graphs.by_class(bench, frames.to_pandas(stage.read(FEATURES)))
    rows = graphs.history(bench, experiment, features[features["product_id"].isin(set(covered))])
    found, advice = certifying.choices(
        rows,
        horizon=experiment.n_periods,
        season=7 // bench.days_per_period,
        price_multiplier=certifying.multiplier(frames.to_pandas(stage.read(PLAN)), experiment),
        floors=graphs.floors(bench),
        rng=stage.rng("certificate"),
    )
    plot = certifying.picture(experiment, found, advice)
    shown = {"frontier": dg.MetadataValue.md(pictures.markdown(plot))} if plot else {}
    facts = {"recommendation": advice.sentence}
    return Output(certifying.table(experiment, found, advice), facts=facts, metadata={**facts, **shown})


@experiment_asset(PAIRS, reads=[FEATURES, EDGES, CLUSTERS, ASSIGNMENTS, ARMS], group="spillover")
def pair_states(stage: Stage) -> Output:
    """One row per pair of neighbours in the graph: how probable each joint state of the two is in the first period.

    States are outside the experiment, treated and control, from the design and the sample. Empty for an imported
    assignment, whose mechanism is not known.
    """
    from pricelab_dagster import drawing, frames, replaying, spillovers

    bench, experiment = stage.bench, stage.experiment
    schema = TABLES[PAIRS].schema
    if experiment.assignment.source is not None:
        return Output(schema.empty_table(), facts={"reason": spillovers.IMPORTED})
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    graph = spillovers.Graph.of(frames.to_pandas(stage.read(EDGES)), covered)
    features, rng = frames.to_pandas(stage.read(FEATURES)), stage.rng("pair probabilities")
    if experiment.scope.sample.share < 1.0:
        table = stage.read(CLUSTERS)
        clusters = dict(zip(*(table[name].to_pylist() for name in ("product_id", "cluster_id")), strict=True))

        def frame_of(source: np.random.Generator) -> drawing.Frame:
            drawn = scope.sample(experiment, covered, clusters, rng=source).products
            return drawing.Frame.of(experiment, features[features["product_id"].isin(set(drawn))], clusters)

        found = spillovers.sampled_pair_states(graph, experiment, bench.grain, frame_of, rng=rng)
    else:
        facts = bench.lake.metadata(ASSIGNMENTS, experiment.id)
        frame = replaying.frame_of(experiment, features, stage.read(ASSIGNMENTS), stage.read(ARMS), facts)
        found = spillovers.pair_states(graph, experiment, bench.grain, frame, rng=rng)
    rows = spillovers.pair_table(experiment, graph, found)
    return Output(rows, metadata={"exact": found.n_draws == 0, "pairs": rows.num_rows})


@experiment_asset(
    "experiment.spillover_effects",
    reads=[EFFECTS, TRIMMED, DETRENDED, ASSIGNMENTS, ARMS, FEATURES, EDGES, DAYS, PLAN],
    group="effects",
    after_start=True,
)
def spillover_effects(stage: Stage) -> Output:
    """One row per metric, scale, component and estimator: direct, spillover and total effect beside the uncorrected.

    Exposure to treated neighbours is weighed by the probabilities of the recorded mechanism; what is not identified
    says why.
    """
    from pricelab_dagster import frames, replaying, spillovers

    bench, experiment = stage.bench, stage.experiment
    one = frames.load_panel(bench, experiment)
    trimmed = frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED))
    features = frames.to_pandas(stage.read(FEATURES))
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    graph = spillovers.Graph.of(frames.to_pandas(stage.read(EDGES)), [*covered, *one.product_id])
    facts = bench.lake.metadata(ASSIGNMENTS, experiment.id)
    frame = replaying.frame_of(experiment, features, stage.read(ASSIGNMENTS), stage.read(ARMS), facts)
    quoted = spillovers.quoted(frames.to_pandas(stage.read(EFFECTS)))
    so_far = bench.through(experiment).isoformat() if bench.status(experiment) is Status.RUNNING else None
    rng = stage.rng("exposure")
    found = spillovers.rows(experiment, one, trimmed, graph, quoted, frame, so_far=so_far, rng=rng)
    schema = TABLES["experiment.spillover_effects"].schema
    rows = pa.Table.from_pylist([{"experiment_id": experiment.id, **row} for row in found], schema=schema)
    return Output(rows, metadata={"effects": dg.MarkdownMetadataValue(spillovers.markdown(rows))})

"""Spillover: the graph of substitutes and its clusters, both learned before the experiment starts."""

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster import scope
from pricelab_dagster.defs.effects import ARMS, EFFECTS
from pricelab_dagster.defs.lake_assets import Output, Stage, asset_key, experiment_asset, shared_output
from pricelab_dagster.defs.panel import ASSIGNMENTS, DAYS, DETRENDED, PLAN, TRIMMED
from pricelab_dagster.lifecycle import Status
from pricelab_dagster.tables import TABLES
from pricelab_dagster.workbench import MADE_FROM

PAIRS, CERTIFICATE, VERSION_LETTERS = "experiment.pair_probabilities", "spillover.certificate", 12
A_YEAR, WEEKS_OF_A_YEAR, GRAPHS_BACK = "a_year_of_history", 52, 20
FEATURES, EDGES, CLUSTERS = (
    "intermediate.int_product_features",
    "spillover.substitute_edges",
    "spillover.product_clusters",
)


@experiment_asset(
    EDGES,
    reads=["intermediate.int_product_days", FEATURES],
    group="spillover",
    verdicts={A_YEAR: "The history that the graph was learned from holds a year of prices and demand."},
)
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
    if placebo.reason:
        metadata["placebo_reason"] = placebo.reason
    version = key[:VERSION_LETTERS]
    facts = {**output.facts, "version": version, "cut_off": experiment.start.isoformat()}
    # not a fact of the table: what stood there before depends on the order of the runs
    told = {"version": version, "drift": _drift(stage, output.rows, version)}
    checks = [_a_year(graphs.weeks(output.rows))]
    return Output(output.rows, facts, {**output.metadata, **metadata, **told}, checks=checks)


def _drift(stage: Stage, rows: pa.Table, version: str) -> str:
    """Return in words how the graph differs from the one that it replaces, else from the one most like it in scope.

    Of other experiments those count that were learned up to the same day or earlier, the latest `GRAPHS_BACK` of them.
    """
    from pricelab_dagster import graphs

    lake, experiment = stage.bench.lake, stage.experiment
    told = {name: lake.metadata(EDGES, name) for name in lake.partitions(EDGES)}
    mine = told.pop(experiment.id, {})
    cut_offs = {
        name: str(facts["cut_off"]) for name, facts in told.items() if facts.get("version") not in (None, version)
    }
    earlier = sorted((day, name) for name, day in cut_offs.items() if day <= experiment.start.isoformat())
    replaced = mine.get("version") not in (None, version)
    names = [experiment.id] if replaced else [name for _, name in reversed(earlier[-GRAPHS_BACK:])]
    found = {name: graphs.drift(rows, lake.read(EDGES, name)) for name in names}
    nearest = max(found, key=lambda name: found[name]["pairs"], default=None)
    if nearest is None or not found[nearest]["pairs"]:
        return "no earlier graph over these products"
    facts, seen = (mine if nearest == experiment.id else told[nearest]), found[nearest]
    return (
        f"against version {facts['version']} of {nearest}, up to {facts['cut_off']}: {seen['pairs']} ordered pairs in "
        f"common, their effects correlate {seen['correlation']:.2f}; of the pairs that bind clusters {seen['kept']} "
        f"stay, {seen['new']} are new, {seen['gone']} are gone"
    )


def _a_year(weeks: float) -> dg.AssetCheckResult:
    """Return whether the history holds a year; a graph of less stands, with a warning."""
    long_enough = not weeks < WEEKS_OF_A_YEAR
    message = "no pair is identified" if np.isnan(weeks) else f"{weeks:.0f} weeks of history"
    if not long_enough:
        message += f" < {WEEKS_OF_A_YEAR}: estimated, but what belongs to a season may pass for an answer to prices"
    return dg.AssetCheckResult(
        passed=long_enough,
        asset_key=asset_key(EDGES),
        check_name=A_YEAR,
        severity=dg.AssetCheckSeverity.WARN,
        description=message,
        metadata={"message": message},
    )


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


@experiment_asset(CERTIFICATE, reads=["intermediate.int_product_days", FEATURES, CLUSTERS, PLAN], group="spillover")
def spillover_certificate(stage: Stage) -> Output:
    """One row per way to assign, by product or by clusters under a cap: predicted spillover bias beside precision.

    From the history before the start alone: what substitutes would do to the total effect, what avoiding it would cost,
    and which choice has the smallest error in all.
    """
    from pricelab_dagster import certifying, frames, graphs, pictures

    bench, experiment = stage.bench, stage.experiment
    features, clusters = frames.to_pandas(stage.read(FEATURES)), scope.cluster_of(stage.read(CLUSTERS))
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    classed = graphs.by_class(bench, features)
    inside = classed[classed["category"].isin(set(graphs.categories(classed, covered)))]
    found, advice = certifying.choices(
        graphs.history(bench, experiment, inside),
        experiment,
        scope=scope.sample(experiment, covered, clusters).products,
        clusters=clusters,
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

    States are outside the experiment, treated and control, from the design and the sample, given that the design can
    draw arms in the sample. Empty for an imported assignment, whose mechanism is not known.
    """
    from pricelab_dagster import frames, joint_states, replaying, spillovers
    from pricelab_dagster.science import pair_probabilities

    bench, experiment = stage.bench, stage.experiment
    schema = TABLES[PAIRS].schema
    if experiment.assignment.source is not None:
        return Output(schema.empty_table(), facts={"reason": spillovers.IMPORTED})
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    graph = joint_states.Graph.of(frames.to_pandas(stage.read(EDGES)), covered)
    features, rng = frames.to_pandas(stage.read(FEATURES)), stage.rng("pair probabilities")
    resampling = joint_states.Resampling.of(experiment, covered, features, scope.cluster_of(stage.read(CLUSTERS)))
    facts: dict[str, object] = {}
    if resampling is not None:
        sampled = joint_states.sampled_states(
            graph, experiment, bench.grain, resampling.frame, n_draws=joint_states.SAMPLE_DRAWS, rng=rng
        )
        facts = {"samples_refused": sampled.n_refused}
        if sampled.reason:
            return Output(schema.empty_table(), facts={**facts, "reason": sampled.reason})
        found = pair_probabilities.monte_carlo(graph.pairs(), sampled.states)
    else:
        drawn_as = bench.lake.metadata(ASSIGNMENTS, experiment.id)
        frame = replaying.frame_of(experiment, features, stage.read(ASSIGNMENTS), stage.read(ARMS), drawn_as)
        found = joint_states.pair_states(graph, experiment, bench.grain, frame, rng=rng)
    rows = joint_states.pair_table(experiment, graph, found)
    return Output(rows, facts=facts, metadata={"exact": found.n_draws == 0, "pairs": rows.num_rows, **facts})


@experiment_asset(
    "experiment.spillover_effects",
    reads=[EFFECTS, TRIMMED, DETRENDED, ASSIGNMENTS, ARMS, FEATURES, EDGES, CLUSTERS, DAYS, PLAN],
    group="effects",
    after_start=True,
)
def spillover_effects(stage: Stage) -> Output:
    """One row per metric, scale, component and estimator: direct, spillover and total effect beside the uncorrected.

    Exposure to treated neighbours is weighed by the probabilities of the recorded mechanism, sample and arms together;
    what is not identified says why.
    """
    from pricelab_dagster import frames, joint_states, replaying, spillovers

    bench, experiment = stage.bench, stage.experiment
    one = frames.load_panel(bench, experiment)
    trimmed = frames.read_trimmed(one, stage.read(DETRENDED), stage.read(TRIMMED))
    features = frames.to_pandas(stage.read(FEATURES))
    covered = scope.products(bench, experiment, stage.read(FEATURES))
    facts = bench.lake.metadata(ASSIGNMENTS, experiment.id)
    frame = replaying.frame_of(experiment, features, stage.read(ASSIGNMENTS), stage.read(ARMS), facts)
    graph = joint_states.Graph.of(frames.to_pandas(stage.read(EDGES)), [*covered, *one.product_id, *frame.product_id])
    resampling = joint_states.Resampling.of(experiment, covered, features, scope.cluster_of(stage.read(CLUSTERS)))
    quoted = spillovers.quoted(frames.to_pandas(stage.read(EFFECTS)))
    so_far = bench.through(experiment).isoformat() if bench.status(experiment) is Status.RUNNING else None
    rng = stage.rng("exposure")
    found = spillovers.rows(
        experiment, one, trimmed, graph, quoted, frame, resampling=resampling, so_far=so_far, rng=rng
    )
    schema = TABLES["experiment.spillover_effects"].schema
    rows = pa.Table.from_pylist([{"experiment_id": experiment.id, **row} for row in found], schema=schema)
    return Output(
        rows,
        facts={MADE_FROM: bench.lake.fingerprint(EFFECTS, experiment.id)},
        metadata={"effects": dg.MarkdownMetadataValue(spillovers.markdown(rows))},
    )

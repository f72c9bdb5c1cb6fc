"""One lab opened for work: its configuration, lake and engine, its sources as tables, and where experiments stand."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pricelab_dagster import attributes, inputs, triggering
from pricelab_dagster.engine import Engine, EngineError, Table, write_database
from pricelab_dagster.lab import Experiment, Grain, Lab, LabError, difference
from pricelab_dagster.lake import Lake
from pricelab_dagster.lifecycle import Status, Window
from pricelab_dagster.models import Assertion, Model, assertions
from pricelab_dagster.tables import TABLES

PLAN, POWER = "experiment.price_plan", "experiment.power"
ASSIGNMENTS, DRAWN_ARMS, EVENTS = "experiment.assignments", "experiment.drawn_arms", "staging.stg_events"
PRODUCTS = "staging.stg_products"
FEATURES, EDGES = "intermediate.int_product_features", "spillover.substitute_edges"
EFFECTS, SPILLOVER = "experiment.effects", "experiment.spillover_effects"
FOLLOWING = (
    *("experiment.diagnostics", SPILLOVER, "experiment.elasticities", "experiment.effect_covariance"),
    *("experiment.segment_effects", "experiment.effect_projection", "experiment.trim_curve"),
    "experiment.after_effects",
)
"""What a run makes once an experiment has begun, effects aside."""
FOLLOWED_BY = "followed_by"  # the fact of effects that names the tables which the run that wrote them makes besides
MADE_FROM = "made_from"  # the fact of a table that names the bytes of the one it was made from
SHARED_COMPUTATION_VERSION = "1"


@dataclass(frozen=True)
class Workbench:
    """A lab with its lake and engine.

    `in_memory` holds tables that stand in for those of the lake, for checks that must write nothing.
    """

    lab: Lab
    in_memory: dict[str, pa.Table] = field(default_factory=dict)

    @cached_property
    def lake(self) -> Lake:
        """The tables under `lake/`."""
        return Lake(self.lab.root / "lake")

    @cached_property
    def engine(self) -> Engine:
        """DuckDB in the lab's time zone."""
        return Engine(time_zone=self.lab.config.time_zone)

    @classmethod
    def open(cls, root: Path) -> "Workbench":
        """Return the lab at `root`.

        Raises
        ------
        LabError : when the folder is no lab, or its pricelab.yaml is wrong.
        """
        return cls(Lab.load(root))

    def with_table(self, name: str, rows: pa.Table) -> "Workbench":
        """Return the same lab with `rows` in the place of the lake's table `name`."""
        return Workbench(self.lab, {**self.in_memory, name: rows})

    @property
    def days_per_period(self) -> int:
        """1 by day, 7 by week."""
        return 7 if self.grain == "week" else 1

    @property
    def grain(self) -> Grain:
        """The length of a period: day or week."""
        return self.lab.config.sales.grain

    @cached_property
    def as_of(self) -> date | None:
        """The last date in the staged sales; None before any were staged."""
        if not self.lake.exists("staging.stg_sales"):
            return None
        return pc.max(self.lake.read("staging.stg_sales")["date"]).as_py()

    def experiment(self, experiment_id: str) -> Experiment:
        """Return a valid experiment of the lab.

        Raises
        ------
        LabError : when its file is broken or there is none.
        """
        if experiment_id in self.lab.broken:
            raise self.lab.broken[experiment_id]
        if experiment_id not in self.lab.experiments:
            known = ", ".join(self.lab.experiments) or "none yet"
            raise LabError(
                f"experiments/{experiment_id}.yaml",
                None,
                "no such file",
                f"one of {known}",
                "Check the id, or add the file.",
            )
        return self.lab.experiments[experiment_id]

    def window(self, experiment: Experiment) -> Window:
        """Return the first and last period of an experiment; a stop ends it early."""
        return Window(experiment.start, experiment.end(self.grain))

    def status(self, experiment: Experiment) -> Status:
        """Return where an experiment stands by the as-of date."""
        return self.window(experiment).status(self.as_of)

    def retired(self) -> list[str]:
        """Return the experiments whose results stand in the lake but whose file is gone."""
        known = {*self.lab.experiments, *self.lab.broken}
        return [name for name in self.lake.partitions(ASSIGNMENTS) if name not in known]

    def is_final(self, experiment: Experiment) -> bool:
        """Return whether effects were computed with sales through the experiment's end and its present design."""
        return self.status(experiment) is Status.CONCLUDED and self.is_current(experiment)

    def is_current(self, experiment: Experiment) -> bool:
        """Return whether the lake shows the experiment's present state: its plan, or its effects so far."""
        if (
            not self.is_drawn_as_written(experiment)
            or not self._is_handed_out(experiment)
            or self.unseen_events(experiment)
        ):
            return False
        if not self.has_begun(experiment):
            return self.lake.exists(PLAN, experiment.id)
        if self.lake.metadata(EFFECTS, experiment.id).get("through") != self.through(experiment).isoformat():
            return False
        wanted = self.lake.metadata(EFFECTS, experiment.id).get(FOLLOWED_BY)
        # effects from before this fact was stored are not asked for tables that did not exist then
        following = wanted if isinstance(wanted, list) else FOLLOWING[:2]
        done = [self.lake.exists(str(table), experiment.id) for table in following]
        effects = self.lake.fingerprint(EFFECTS, experiment.id)
        # a table from before this fact was stored has no say
        return all(done) and self.lake.metadata(SPILLOVER, experiment.id).get(MADE_FROM, effects) == effects

    def is_drawn_as_written(self, experiment: Experiment) -> bool:
        """Return whether the stored assignment is of the design and the end that the experiment's file has now."""
        stored = self.lake.metadata(ASSIGNMENTS, experiment.id)
        end = str(self.window(experiment).end)
        return stored.get("design") == experiment.design_dict() and stored.get("end") == end

    def _is_handed_out(self, experiment: Experiment) -> bool:
        """Return whether the plan shows the assignment, and that the verdicts; a run that failed may leave a gap."""
        facts = [self.lake.metadata(table, experiment.id).get(MADE_FROM) for table in (ASSIGNMENTS, PLAN)]
        made_from = [self.lake.fingerprint(table, experiment.id) for table in (triggering.TRIGGERS, ASSIGNMENTS)]
        return facts == made_from

    def has_stale_plan(self, experiment: Experiment) -> bool:
        """Return whether the shelf has prices that a plan which may still change was made without.

        So it is before the start, where no source of incumbent prices is declared.
        """
        open_to_change = self.lab.config.prices is None and self.status(experiment) is Status.PLANNED
        stored = self.lake.metadata(PLAN, experiment.id)
        return open_to_change and bool(stored) and stored.get("as_of") != str(self.as_of)

    def through(self, experiment: Experiment) -> date:
        """Return the last period that an estimate may look at: the end, or the as-of date of a running experiment."""
        return min(self.window(experiment).end, self.as_of or date.max)

    def has_begun(self, experiment: Experiment) -> bool:
        """Return whether a product of the experiment has been in an arm by the as-of date: there is something to see.

        A triggered experiment has not until its first trigger, whatever its status.
        """
        first = self.lake.metadata(ASSIGNMENTS, experiment.id).get("first_assigned", experiment.start.isoformat())
        return self.as_of is not None and first is not None and str(first) <= self.as_of.isoformat()

    def unseen_events(self, experiment: Experiment, events: pa.Table | None = None) -> list[triggering.Event]:
        """Return the events that concern a triggered experiment and have no verdict in `experiment.triggers` yet.

        Parameters
        ----------
        events : rows like staging.stg_events, by default that table.
        """
        design = experiment.design
        if design.kind != "triggered" or not self.awaits_events(experiment):
            return []
        if events is None:
            if not self.lake.exists(EVENTS):
                return []
            events = self.lake.read(EVENTS)
        known = self.lake.read("staging.stg_products")["product_id"].to_pylist()
        scope = self.lake.read(DRAWN_ARMS, experiment.id)["product_id"].to_pylist()
        concerned = triggering.events_of(events, design.event, known, scope)
        return triggering.unseen(concerned, self.seen_events(experiment))

    def awaits_events(self, experiment: Experiment) -> bool:
        """Return whether events may still start a unit of an experiment: it is triggered, drawn here, and not over."""
        drawn = self.lake.exists(DRAWN_ARMS, experiment.id) and experiment.assignment.source is None
        return experiment.design.kind == "triggered" and drawn and self.status(experiment) is not Status.CONCLUDED

    def seen_events(self, experiment: Experiment) -> pa.Table:
        """Return the verdicts on events so far; none before the first run."""
        if not self.lake.exists(triggering.TRIGGERS, experiment.id):
            return TABLES[triggering.TRIGGERS].schema.empty_table()
        return self.lake.read(triggering.TRIGGERS, experiment.id)

    def is_frozen(self, experiment: Experiment) -> bool:
        """Return whether the experiment goes on as it was drawn, whatever its file says now.

        From its stored start on, also where sales come again without their last days; a triggered one from the first
        event that starts a unit, because prices were handed out for it.
        """
        stored = self.lake.metadata(ASSIGNMENTS, experiment.id)
        start = stored.get("start")
        if stored.get("frozen") or triggering.has_started(self.seen_events(experiment)):
            return True
        return start is not None and self.as_of is not None and str(start) <= self.as_of.isoformat()

    def rng(self, experiment: Experiment, stage: str) -> np.random.Generator:
        """Return the generator of one stage: the same lab and seed give the same draws."""
        return stage_rng(experiment.assignment.seed, experiment.id, stage)

    def refuse_changed_design(self, experiment: Experiment) -> None:
        """Refuse a design that differs from the one that was drawn, once the experiment has started.

        Raises
        ------
        LabError : with the difference, as `design.phase: 14 -> 21`.
        """
        stored = self.lake.metadata(ASSIGNMENTS, experiment.id).get("design")
        if not isinstance(stored, dict) or not self.is_frozen(experiment):
            return
        changes = difference(stored, experiment.design_dict())
        if changes:
            raise LabError(
                experiment.file,
                None,
                f"the design changed after the start: {'; '.join(changes)}",
                "as it was when the experiment started, except title, owner, design.stop and design.stop_reason",
                "Undo the change, or stop this experiment and add a new one.",
            )

    def refuse_unsupported(self) -> None:
        """Refuse keys that validate but whose work this version does not do.

        Raises
        ------
        LabError : naming the key and what to use instead.
        """
        if self.lab.config.engine.kind != "duckdb":
            found, allowed = self.lab.config.engine.kind, "duckdb in this version"
            raise LabError("pricelab.yaml", "engine.kind", found, allowed, "Set it to duckdb.")

    def source(self, name: str, experiment: Experiment | None = None) -> Table:
        """Return what stands under `source.<name>` in the models."""
        return inputs.source(self, name, experiment)

    def run_model(self, model: Model, experiment: Experiment | None = None) -> pa.Table:
        """Return the rows of a model; it sees only the tables that its SQL names.

        Raises
        ------
        LabError : when an attribute of the products is of a type, or has values, that no experiment can use.
        """
        tables = {name: self.table(name, experiment) for name in model.dependencies}
        rows = self.engine.sql(model.query, tables=tables, parameters=self.parameters(experiment))
        if model.name in (PRODUCTS, FEATURES) and self.lab.config.products is not None:
            known = [name for name in self.lab.config.products.attributes if name in rows.schema.names]
            attributes.refuse_unusable(rows, known)
        return rows

    def failed_assertions(
        self, table: str, rows: pa.Table, experiment: Experiment | None = None
    ) -> list[tuple[Assertion, pa.Table]]:
        """Return the assertions of `table` with the rows that break them, judged on `rows` before they are written."""
        failed = []
        for assertion in assertions():
            if assertion.table != table:
                continue
            tables = {name: self.table(name, experiment) for name in assertion.dependencies if name != table}
            found = self.engine.sql(
                assertion.query, tables={**tables, table: rows}, parameters=self.parameters(experiment)
            )
            if found.num_rows:
                failed.append((assertion, found))
        return failed

    def history_start(self, experiment: Experiment) -> date:
        """Return the first date of the history that an experiment may use."""
        periods = experiment.analysis.pre_periods
        return experiment.start - timedelta(days=periods * self.days_per_period) if periods else date(1, 1, 1)

    def parameters(self, experiment: Experiment | None = None) -> dict[str, object]:
        """Return the values that models may name as `$parameter`."""
        values: dict[str, object] = {
            "grain": self.grain,
            "days_per_period": self.days_per_period,
            "as_of": self.as_of,
            "has_incumbent": self.lab.config.prices is not None,
        }
        if experiment is None:
            return values
        guard = experiment.guard
        return values | {
            "experiment_id": experiment.id,
            "start": experiment.start,
            "end": self.window(experiment).end,
            "history_start": self.history_start(experiment),
            "decimals": guard.decimals,
            "min_margin": guard.min_margin,
            "max_change": guard.max_change,
            "floor": guard.floor,
            "ceiling": guard.ceiling,
        }

    def shared_key(self, experiment: Experiment, *, reads: Sequence[str], scope: object = None) -> str:
        """Return what a computation before the start depends on: its inputs, cut-off and scope, not the experiment."""
        parameters = self.parameters(experiment)
        inputs = [
            self.lake.metadata(name, experiment.id).get("shared_key")
            if TABLES[name].partitioned
            else self.lake.fingerprint(name)
            for name in reads
        ]
        cut_off = [str(parameters["start"]), str(parameters["history_start"])]
        facts = [SHARED_COMPUTATION_VERSION, self.grain, *cut_off, inputs, scope]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def frozen_plan(self, experiment: Experiment) -> pa.Table | None:
        """Return the plan that was handed out before the start, up to a stop; None where it may still change.

        Prices of an incumbent source follow that source to the end; those of the shelf are known before the start.
        Cells of triggers since then are not in it.
        """
        if self.lab.config.prices or not self.is_frozen(experiment) or not self.lake.exists(PLAN, experiment.id):
            return None
        rows = self.lake.read(PLAN, experiment.id)
        return rows.filter(pc.less_equal(rows["date"], pa.scalar(self.window(experiment).end)))

    def frozen_assignment(self, experiment: Experiment) -> pa.Table:
        """Return the assignment that was drawn before the start, up to a stop.

        Raises
        ------
        LabError : when the end lies after the one that the assignment was cut to by an earlier stop.
        """
        rows, end = self.lake.read(ASSIGNMENTS, experiment.id), self.window(experiment).end
        stored = str(self.lake.metadata(ASSIGNMENTS, experiment.id)["end"])
        if end.isoformat() > stored:
            allowed = f"{stored} or earlier: the experiment was stopped then"
            raise LabError(experiment.file, "design.stop", experiment.design.stop, allowed, "Put the stop back.")
        return rows.filter(pc.less_equal(rows["date"], pa.scalar(self.window(experiment).end)))

    def imported_rows(self, experiment: Experiment) -> pa.Table:
        """Return product_id, date and arm of an assignment that was drawn elsewhere.

        Raises
        ------
        LabError : when the file lacks one of these columns.
        """
        source = experiment.tables()["assignment.source"]
        try:
            return self.engine.sql(source.select(self.lab.root), files=source.files(self.lab.root))
        except EngineError as error:
            allowed = "a file with the columns product_id, date and arm"
            raise LabError(experiment.file, "assignment.source", str(error), allowed, "Correct that file.") from error

    def days(self, products: Sequence[str], *, since: date, through: date) -> pa.Table:
        """Return int_product_days of some products between two dates, both inclusive."""
        query = """
            select days.* from intermediate.int_product_days as days
            inner join source.products as wanted on days.product_id = wanted.product_id
            where days.date between cast($since as date) and cast($through as date)
            order by days.product_id, days.date
        """
        tables = {
            "intermediate.int_product_days": self.table("intermediate.int_product_days"),
            "source.products": pa.table({"product_id": pa.array(products, pa.string())}),
        }
        return self.engine.sql(query, tables=tables, parameters={"since": since, "through": through})

    def build_warehouse(self) -> dict[str, int]:
        """Swap in a new warehouse.duckdb: the marts as tables, the rest as views; return the rows of each mart.

        What killed writers left in the lake is swept first.
        """
        self.lake.sweep()
        marts = {name: self.lake.files(name) for name in TABLES if name.startswith("marts.") and self.lake.files(name)}
        others = [name for name in TABLES if not name.startswith("marts.")]
        views = {name: self.lake.files(name) for name in others if self.lake.files(name)}
        self.lake.publish_database(
            self.lab.root / "warehouse.duckdb",
            lambda path: write_database(path, tables=marts, views=views),
        )
        return {name: self.lake.read(name).num_rows for name in marts}

    def table(self, name: str, experiment: Experiment | None = None) -> Table:
        """Return what a query reads under `name`: a source, a table in memory, or the lake's files."""
        if name.startswith("source."):
            return self.source(name.removeprefix("source."), experiment)
        if name in self.in_memory:
            return self.in_memory[name]
        partition = experiment.id if experiment is not None and TABLES[name].partitioned else None
        return self.lake.source(name, partition)

    def facts(self, experiment: Experiment) -> dict[str, object]:
        """Return what is stored beside an assignment, so that a retired experiment can still be named."""
        window = self.window(experiment)
        return {
            "title": experiment.title,
            "owner": experiment.owner,
            "kind": experiment.design.kind,
            "start": window.start.isoformat(),
            "end": window.end.isoformat(),
            "design": experiment.design_dict(),
        }


def stage_rng(seed: int, experiment_id: str, stage: str) -> np.random.Generator:
    """Return the generator of one stage of one experiment, the same on every machine."""
    return np.random.default_rng([seed, zlib.crc32(experiment_id.encode()), zlib.crc32(stage.encode())])

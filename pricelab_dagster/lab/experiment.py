"""The model of `experiments/<id>.yaml`: one price experiment, its fingerprint and its changes."""

import datetime as dt
import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from pricelab_dagster.lab.analysis import Analysis
from pricelab_dagster.lab.config import PriceColumns, PriceSource
from pricelab_dagster.lab.design import AnyDesign, RandomDays, grain_of, lab_of
from pricelab_dagster.lab.errors import Found, Rule, show
from pricelab_dagster.lab.fields import Expression, Grain, Identifier, Model, ProductId, Seed, Text
from pricelab_dagster.lab.policy import BLACKOUT, CONTROL, Arm, Guard, Policy, Treatment
from pricelab_dagster.lab.sources import Columns, Source

EXPERIMENTS_FOLDER = "experiments"
MAY_CHANGE = frozenset({"title", "owner", "design.stop", "design.stop_reason"})
DOSE_LINE = "dose_line"
TAKEN_ARM_NAMES = frozenset({CONTROL, BLACKOUT, DOSE_LINE})
BALANCED_SHARE = 0.5

Unit = Literal["product", "cluster"]
AssignedUnit = Literal["product", "cluster", "mixed"]
Metric = Literal["units", "revenue", "profit"]
Share = Annotated[float, Field(gt=0, lt=1)]


class Sample(Model):
    """The part of the scope that is drawn."""

    share: float = Field(default=1.0, gt=0, le=1, description="The part of the scope to draw.")
    unit: Unit = Field(default="product", description="The unit that is drawn: product or cluster.")
    seed: Seed = Field(default=0, description="The seed of the draw.")


class Scope(Model):
    """The products of an experiment: a condition or a list."""

    where: Expression | None = Field(
        default=None, description="The SQL condition over the products' features before the start."
    )
    products: Annotated[tuple[ProductId, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="The product ids, instead of `where`."
    )
    sample: Sample = Field(default=Sample(), description="The sample of the scope.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.where is None and self.products is None:
            raise Rule("an SQL condition", "Give it, or a list under `products`.", "where", Found.MISSING)
        if self.where is not None and self.products is not None:
            raise Rule("absent beside `where`", "Keep one of the two.", "products", list(self.products))
        _refuse_repeats("products", self.products or ())
        return self


class AssignmentColumns(Columns):
    """The columns of an imported assignment."""

    product_id: Expression = "product_id"
    date: Expression = "date"
    arm: Expression = "arm"


class AssignmentSource(Source):
    """An assignment that was drawn elsewhere."""

    types: ClassVar[dict[str, str]] = {"product_id": "varchar", "date": "date", "arm": "varchar"}
    _key: str = PrivateAttr(default="assignment.source")

    columns: AssignmentColumns = AssignmentColumns()


class Clusters(Model):
    """How dense clusters of substitutes are cut from their graph."""

    method: Literal["leiden", "louvain", "severing"] = Field(
        default="leiden", description="The algorithm that searches the graph for dense regions."
    )
    max_size: Annotated[int, Field(ge=2)] = Field(default=12, description="The largest number of products in one.")
    edges: Literal["substitutes", "either_sign"] = Field(
        default="substitutes",
        description="The pairs that are bound: substitutes, or also those that bring each other visitors.",
    )


class Assignment(Model):
    """How units get their arms: drawn here, or imported."""

    unit: AssignedUnit = Field(
        default="product",
        description="The unit that is assigned: product, cluster, or mixed (half of the clusters are broken up).",
    )
    clusters: Clusters = Field(default=Clusters(), description="The clusters that are assigned, or sampled.")
    share: Share = Field(default=0.5, description="The part of the units that is treated.")
    seed: Seed = Field(default=7, description="The seed of the draw.")
    source: Text | None = Field(
        default=None, description="The path of an assignment drawn elsewhere: product_id, date, arm."
    )

    @property
    def by_cluster(self) -> bool:
        """Whether products of a cluster move together; in a mixed assignment those of half of the clusters."""
        return self.unit != "product"


class ExperimentFile(Model):
    """A price experiment (experiments/<id>.yaml; the file name is its id)."""

    title: Text | None = Field(default=None, description="The title in plain language; by default the id.")
    owner: Text | None = Field(default=None, description="The person or team to ask.")
    design: AnyDesign = Field(description="The design: kind, start and lengths in periods of the grain.")
    scope: Scope = Field(description="The scope: `where` or `products`.")
    treatment: Treatment | None = Field(
        default=None, description="The price multiplier or prices of treatment, or a list of named arms."
    )
    control: Policy = Field(default=Policy(price_multiplier=1.0), description="The prices of control.")
    guard: Guard = Field(default=Guard(), description="The limits on every price.")
    assignment: Assignment = Field(default=Assignment(), description="The assignment of units to arms.")
    metrics: Annotated[tuple[Metric, ...], Field(strict=False, min_length=1)] = Field(
        default=("units", "revenue"), description="The metrics, the primary one first: units, revenue, profit."
    )
    analysis: Analysis = Field(default=Analysis(), description="The settings of the estimate.")

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if self.treatment is None and self.assignment.source is None:
            raise Rule(
                "given unless assignment.source is",
                "Add for example price_multiplier: 0.95.",
                "treatment",
                Found.MISSING,
            )
        if isinstance(self.treatment, tuple):
            _refuse_repeats("treatment", tuple(arm.name for arm in self.treatment), TAKEN_ARM_NAMES)
        _refuse_repeats("metrics", self.metrics)
        if self.assignment.source is not None and self.assignment.by_cluster:
            raise Rule("product with assignment.source", "Remove it.", "assignment.unit", self.assignment.unit)
        lab = lab_of(info)
        if "profit" in self.metrics and lab is not None and not lab.has_cost:
            raise Rule(
                "without profit when sales.columns.cost is missing",
                "Map a cost in pricelab.yaml, or remove profit.",
                "metrics",
                list(self.metrics),
            )
        balanced = isinstance(self.design, RandomDays) and self.design.balance == "day_of_week"
        if balanced and self.assignment.source is None and self.assignment.share != BALANCED_SHARE:
            raise Rule(
                "0.5 with design.balance day_of_week",
                "Give 0.5, or design.balance: none.",
                "assignment.share",
                self.assignment.share,
            )
        return self


class Experiment(ExperimentFile):
    """A price experiment with its id."""

    _grain: Grain = PrivateAttr(default="day")

    id: Identifier = Field(description="The name of the file without its suffix.")
    title: Text = Field(description="The title in plain language.")

    @model_validator(mode="before")
    @classmethod
    def _default_title(cls, data: Any) -> Any:
        return data | {"title": data["id"]} if isinstance(data, dict) and data.get("title") is None else data

    @model_validator(mode="after")
    def _remember_grain(self, info: ValidationInfo) -> Self:
        self._grain = grain_of(info)
        return self

    @property
    def file(self) -> str:
        """The path of the file relative to the lab."""
        return f"{EXPERIMENTS_FOLDER}/{self.id}.yaml"

    @property
    def start(self) -> dt.date:
        """The date of the first period."""
        return self.design.start

    def end(self, grain: Grain) -> dt.date:
        """The date of the last period, inclusive: the planned one, or `design.stop`."""
        return self.design.stop or self.design.planned_end(grain)

    @property
    def n_periods(self) -> int:
        """The planned number of periods; of a triggered design per trigger."""
        return self.design.n_periods

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The treatment arms; a single policy, or an imported assignment without one, is named ``treatment``."""
        if isinstance(self.treatment, tuple):
            return self.treatment
        policy = {} if self.treatment is None else dict(self.treatment)
        return (Arm.model_construct(name="treatment", **policy),)

    def tables(self) -> dict[str, Source]:
        """The tables that the experiment brings along, by key: imported assignment and prices of its arms."""
        tables: dict[str, Source] = {}
        if self.assignment.source is not None:
            tables["assignment.source"] = AssignmentSource(source=self.assignment.source)
        policies: dict[str, Policy] = {"control": self.control}
        if isinstance(self.treatment, tuple):
            policies |= {f"treatment.{number}": arm for number, arm in enumerate(self.treatment)}
        elif self.treatment is not None:
            policies["treatment"] = self.treatment
        for key, policy in policies.items():
            if policy.prices is not None:
                columns = PriceColumns(product_id="product_id", date="date", price="price")
                tables[f"{key}.prices"] = PriceSource(source=policy.prices, columns=columns)
        return {key: table.declared_at(self.file, key) for key, table in tables.items()}

    def design_dict(self) -> dict[str, Any]:
        """The experiment as plain data, without what may change after the start: title, owner and the stop."""
        data = self.model_dump(mode="json")
        if self.guard.endings is None:
            # a key added later must not make a design look changed that was drawn without it
            del data["guard"]["endings"]
        if self.assignment.clusters == Clusters():
            del data["assignment"]["clusters"]
        # the number that a default stands for, so that writing it out is no change, and 28 weeks are not 4
        data["analysis"]["detrend"]["window"] = self.analysis.detrend.window_at(self._grain)
        return _without(data, MAY_CHANGE)

    def fingerprint(self) -> str:
        """The SHA-256 of `design_dict` as canonical JSON."""
        text = json.dumps(self.design_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The changes between two `design_dict` results, one line per key, sorted by key.

    Examples
    --------
    >>> difference({"design": {"phase": 14, "phases": 2}}, {"design": {"phase": 21, "phases": 2}})
    ['design.phase: 14 -> 21']
    """
    before, after = _flat(old), _flat(new)
    keys = sorted(key for key in before | after if key not in before or key not in after or before[key] != after[key])
    return [f"{key}: {_side(before, key)} -> {_side(after, key)}" for key in keys]


def _side(values: dict[str, Any], key: str) -> str:
    return show(values[key]) if key in values else "absent"


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _without(data: dict[str, Any], keys: frozenset[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in data.items()
        if f"{prefix}{name}" not in keys
    }


def _refuse_repeats(key: str, names: tuple[str, ...], taken: frozenset[str] = frozenset()) -> None:
    if repeated := sorted(name for name in set(names) if names.count(name) > 1):
        raise Rule(f"without repeats, and {repeated[0]} is there twice", "Keep one.", key, list(names))
    if reserved := sorted(taken.intersection(names)):
        raise Rule(f"of arms not named {reserved[0]}", "Choose another name.", key, list(names))

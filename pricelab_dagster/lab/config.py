"""The model of `pricelab.yaml`: the data sources of a lab and its settings."""

import re
import zoneinfo
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator
from sqlglot import exp

from pricelab_dagster.lab.errors import Rule
from pricelab_dagster.lab.fields import Expression, Grain, Model, Text
from pricelab_dagster.lab.sources import Columns, Source

CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
RESERVED_ATTRIBUTES = frozenset({"product_id", "category"})


class SalesColumns(Columns):
    """The columns of sales, each an SQL expression over the source's columns."""

    product_id: Expression = Field(description="The product, read as text.")
    date: Expression = Field(description="The date of the day, or of the week when the grain is week.")
    units: Expression = Field(description="The units sold, any finite number.")
    price: Expression = Field(description="The unit price that all customers saw.")
    cost: Expression | None = Field(default=None, description="The cost of one unit; switches profit on.")


class SalesSource(Source):
    """The sales: what was sold of each product in each period, at which price."""

    types: ClassVar[dict[str, str]] = {
        "product_id": "varchar",
        "date": "date",
        "units": "double",
        "price": "double",
        "cost": "double",
    }
    _key: str = PrivateAttr(default="sales.source")

    columns: SalesColumns = Field(description="The columns of sales as SQL expressions over the source.")
    grain: Grain = Field(default="day", description="The length of a period of the data: day or week.")


class ProductColumns(Columns):
    """The columns of products, each an SQL expression over the source's columns."""

    product_id: Expression = Field(description="The product, read as text.")
    category: Expression | None = Field(default=None, description="The category; without it all are in one.")


class ProductsSource(Source):
    """The products: one row each, with category and attributes."""

    types: ClassVar[dict[str, str]] = {"product_id": "varchar", "category": "varchar"}
    _key: str = PrivateAttr(default="products.source")

    columns: ProductColumns = Field(description="The columns of products as SQL expressions over the source.")
    attributes: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="The columns of numbers, booleans, text or dates of the source that the forest may use."
    )

    @model_validator(mode="after")
    def _distinct_attributes(self) -> Self:
        names = [name.lower() for name in self.attributes]
        reserved = RESERVED_ATTRIBUTES.intersection(names)
        if len(set(names)) < len(names) or reserved:
            taken = f" and {', '.join(sorted(reserved))} has its own key" if reserved else ""
            raise Rule("different columns" + taken, "Name each column once.", "attributes", list(self.attributes))
        return self

    def _canonical(self) -> list[exp.Expr]:
        columns = super()._canonical()
        if self.columns.category is None:
            columns.append(exp.cast(exp.Literal.string("all"), "varchar").as_("category"))
        return columns + [exp.column(name, quoted=True).as_(name, quoted=True) for name in self.attributes]


class PriceColumns(Columns):
    """The columns of a table of prices, each an SQL expression over the source's columns."""

    product_id: Expression = Field(description="The product, read as text.")
    date: Expression = Field(description="The date from sales.")
    price: Expression = Field(description="The unit price.")


class PriceSource(Source):
    """A table of prices by product and date."""

    types: ClassVar[dict[str, str]] = {"product_id": "varchar", "date": "date", "price": "double"}
    _key: str = PrivateAttr(default="prices.incumbent.source")

    columns: PriceColumns = Field(description="The columns of the prices as SQL expressions over the source.")


class Prices(Model):
    """Prices that other policies set."""

    incumbent: PriceSource = Field(description="The running policy's prices, by product and date.")


class EventColumns(Columns):
    """The columns of events, each an SQL expression over the source's columns."""

    event_id: Expression | None = Field(default=None, description="The event; by default product, date and kind.")
    product_id: Expression = Field(description="The product, read as text.")
    occurred_on: Expression = Field(description="The date of the event.")
    kind: Expression = Field(description="The kind of event, which `design.event` names.")


class EventsSource(Source):
    """Outside events that trigger experiments."""

    types: ClassVar[dict[str, str]] = {
        "event_id": "varchar",
        "product_id": "varchar",
        "occurred_on": "date",
        "kind": "varchar",
    }
    may_be_empty: ClassVar[bool] = True
    _key: str = PrivateAttr(default="events.source")

    columns: EventColumns = Field(description="The columns of events as SQL expressions over the source.")

    def _canonical(self) -> list[exp.Expr]:
        columns = super()._canonical()
        if self.columns.event_id is None:
            parts = [exp.cast(column.this.copy(), "varchar") for column in columns]
            identity = exp.func("concat_ws", exp.Literal.string("/"), *parts, dialect="duckdb")
            columns.insert(0, identity.as_("event_id"))
        return columns


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(CRON_RANGES) or not all(map(_cron_field_ok, fields, CRON_RANGES)):
        raise Rule(
            "five numeric cron fields: minute, hour, day, month, weekday",
            'Write for example "0 5 * * *" for five o\'clock every day.',
        )
    return text


def _cron_field_ok(field: str, limits: tuple[int, int]) -> bool:
    for item in field.split(","):
        parts = re.fullmatch(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?", item, re.ASCII)
        if parts is None or (parts[3] is not None and int(parts[3]) == 0):
            return False
        numbers = [int(number) for number in parts.groups()[:2] if number is not None]
        if numbers != sorted(numbers) or not all(limits[0] <= number <= limits[1] for number in numbers):
            return False
    return True


def _time_zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise Rule("a zone of the tz database", "Write for example UTC, Europe/Berlin or America/New_York.")
    return name


class Schedule(Model):
    """When sales and running experiments are refreshed."""

    cron: Annotated[str, AfterValidator(_cron)] = Field(
        default="0 5 * * *", description="The cron expression of the daily refresh, in the lab's time zone."
    )


class Notify(Model):
    """Where messages go; secrets come only from the environment."""

    webhook_env: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The name of the environment variable that holds the webhook address.",
        json_schema_extra={"writeOnly": True},
    )


class Substitutes(Model):
    """Which pairs of products may be substitutes, and what their history must hold."""

    within: Text = Field(
        default="category",
        description="The fine class inside which pairs are looked for: category, or one of products.attributes.",
    )
    min_units: float = Field(
        default=1.0, gt=0, description="The floor of a product's mean units in a period; below it nothing is learned."
    )
    min_price_sd: float = Field(
        default=0.01, gt=0, description="The floor of the standard deviation of a product's log price."
    )


class EngineChoice(Model):
    """What runs the SQL."""

    kind: Literal["duckdb", "spark"] = Field(default="duckdb", description="The engine: duckdb or spark.")


class LabConfig(Model):
    """A lab: its data sources and settings (pricelab.yaml)."""

    sales: SalesSource = Field(description="The sales source with its columns.")
    products: ProductsSource | None = Field(default=None, description="The products source with its columns.")
    prices: Prices | None = Field(default=None, description="The prices of other policies.")
    events: EventsSource | None = Field(default=None, description="The source of events that trigger experiments.")
    substitutes: Substitutes = Field(
        default=Substitutes(), description="The pairs of products that may be substitutes."
    )
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="UTC", description="The time zone in which timestamps become dates."
    )
    schedule: Schedule = Field(default=Schedule(), description="The schedule of the refresh.")
    notify: Notify | None = Field(default=None, description="The place that messages go to.")
    engine: EngineChoice = Field(default=EngineChoice(), description="The engine that runs the SQL.")

    @model_validator(mode="after")
    def _known_class(self) -> Self:
        known = ("category", *(self.products.attributes if self.products else ()))
        if self.substitutes.within not in known:
            allowed = f"one of {', '.join(known)}"
            remedy = "Name it under products.attributes first."
            raise Rule(allowed, remedy, "substitutes.within", self.substitutes.within)
        return self

    def sources(self) -> dict[str, Source]:
        """The declared sources by key: sales, products, prices.incumbent, events."""
        incumbent = self.prices.incumbent if self.prices else None
        declared = {
            "sales": self.sales,
            "products": self.products,
            "prices.incumbent": incumbent,
            "events": self.events,
        }
        return {key: source for key, source in declared.items() if source is not None}

    @property
    def has_cost(self) -> bool:
        """Whether sales carry a cost, so that profit exists."""
        return self.sales.columns.cost is not None

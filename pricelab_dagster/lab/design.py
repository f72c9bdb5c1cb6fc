"""The four designs of an experiment file: their keys, defaults and rules."""

import datetime as dt
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator
from pydantic.config import JsonDict

from pricelab_dagster.lab.config import LabConfig
from pricelab_dagster.lab.errors import Found, Rule
from pricelab_dagster.lab.fields import PERIOD_DAYS, Date, Grain, Length, Model, Text

BALANCED_CYCLE_DAYS = 14


def lab_of(info: ValidationInfo) -> LabConfig | None:
    """The lab that an experiment is validated against; without one, rules that need it are not applied."""
    return info.context if isinstance(info.context, LabConfig) else None


def grain_of(info: ValidationInfo) -> Grain:
    """The lab's grain, day without a lab."""
    lab = lab_of(info)
    return "day" if lab is None else lab.sales.grain


def _without_default(schema: JsonDict) -> None:
    schema.pop("default")


class Design(Model):
    """What the designs share. Lengths count periods of the lab's grain."""

    start: Date = Field(description="The date of the first period, as it stands in sales.")
    blackout: int = Field(
        default=0, ge=0, description="The number of first periods that are left out while the price is in force."
    )
    stop: Date | None = Field(default=None, description="The last date of an experiment that ends early.")
    stop_reason: Text | None = Field(default=None, description="The reason for ending early.")

    @property
    def n_periods(self) -> int:
        """The planned number of periods; of a triggered design per trigger."""
        raise NotImplementedError

    def planned_end(self, grain: Grain) -> dt.date:
        """The date of the last planned period."""
        return self.start + dt.timedelta(days=(self.n_periods - 1) * PERIOD_DAYS[grain])

    @model_validator(mode="after")
    def _check_dates(self, info: ValidationInfo) -> Self:
        try:
            end = self.planned_end(grain_of(info))
        except OverflowError:
            raise Rule("early enough for the last period to be a date", "Shorten it.", "start", self.start) from None
        if self.stop is not None and not self.start <= self.stop <= end:
            raise Rule(f"between {self.start} and {end}", "Give the last date in force.", "stop", self.stop)
        if self.stop_reason is not None and self.stop is None:
            raise Rule("a date", "Give the last date in force, or remove stop_reason.", "stop", Found.MISSING)
        return self

    def _check_blackout(self, name: str, length: int) -> None:
        if self.blackout >= length:
            raise Rule(f"less than {name}, which is {length}", "Shorten the blackout.", "blackout", self.blackout)


class TimeBound(Design):
    """One switch: the treated part of the scope changes its price at the start."""

    kind: Literal["time_bound"] = Field(description="The design.")
    duration: Length = Field(description="The length of the experiment in periods.")

    @property
    def n_periods(self) -> int:
        """The planned number of periods."""
        return self.duration

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_blackout("duration", self.duration)
        return self


class Triggered(Design):
    """Each treated product changes its price at its own first event."""

    kind: Literal["triggered"] = Field(description="The design.")
    duration: Length = Field(description="The length of treatment after an event, in periods.")
    event: Text = Field(description="The kind of event that triggers.")
    horizon: Date = Field(description="The last date of a trigger.")

    @property
    def n_periods(self) -> int:
        """The number of periods per trigger."""
        return self.duration

    def first_period(self, occurred_on: dt.date, grain: Grain) -> dt.date:
        """The date of the first period of a product with an event on `occurred_on`: the period after it."""
        days = PERIOD_DAYS[grain]
        return self.start + dt.timedelta(days=((occurred_on - self.start).days // days + 1) * days)

    def last_period(self, occurred_on: dt.date, grain: Grain) -> dt.date:
        """The date of the last period of a product with an event on `occurred_on`."""
        return self.first_period(occurred_on, grain) + dt.timedelta(days=(self.duration - 1) * PERIOD_DAYS[grain])

    def planned_end(self, grain: Grain) -> dt.date:
        """The date of the last period of a product that is triggered at the horizon."""
        return self.last_period(self.horizon, grain)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        self._check_blackout("duration", self.duration)
        if self.horizon < self.start:
            raise Rule(f"the start {self.start} or later", "Give the last date of a trigger.", "horizon", self.horizon)
        lab = lab_of(info)
        if lab is not None and lab.events is None:
            raise Rule(
                "absent without an events block in pricelab.yaml",
                "Declare the events there: source and columns.",
                "event",
                self.event,
            )
        return self


class RandomDays(Design):
    """Every product changes its price on its own random days or blocks of them."""

    kind: Literal["random_days"] = Field(description="The design.")
    duration: Length = Field(description="The length of the experiment in periods.")
    block: Length = Field(default=1, description="The number of periods that are drawn together.")
    balance: Literal["day_of_week", "none"] = Field(
        default="none",
        description="The balance: day_of_week or none. By default day_of_week for grain day, block 1 and a duration "
        "that is a multiple of 14, else none.",
        json_schema_extra=_without_default,
    )

    @property
    def n_periods(self) -> int:
        """The planned number of periods."""
        return self.duration

    @model_validator(mode="before")
    @classmethod
    def _default_balance(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict) or "balance" in data:
            return data
        duration = data.get("duration")
        whole = isinstance(duration, int) and duration % BALANCED_CYCLE_DAYS == 0
        balanced = whole and grain_of(info) == "day" and data.get("block", 1) == 1
        return data | {"balance": "day_of_week" if balanced else "none"}

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        self._check_blackout("block", self.block)
        if self.duration % self.block:
            shorter = self.duration - self.duration % self.block
            near = f"{shorter} or {shorter + self.block}" if shorter else str(self.block)
            raise Rule(f"a multiple of the block {self.block}", f"Give {near}.", "duration", self.duration)
        if self.balance == "day_of_week":
            if grain_of(info) != "day":
                raise Rule("none when the grain is week", "Give none.", "balance", self.balance)
            if self.block != 1:
                raise Rule("1 with balance day_of_week", "Give 1, or balance: none.", "block", self.block)
            if self.duration % BALANCED_CYCLE_DAYS:
                raise Rule(
                    f"a multiple of {BALANCED_CYCLE_DAYS} with balance day_of_week",
                    "Give 14, 28, ..., or balance: none.",
                    "duration",
                    self.duration,
                )
        return self


class Crossover(Design):
    """Half of the units start treated, and the arms swap after each phase."""

    kind: Literal["crossover"] = Field(description="The design.")
    phase: Length = Field(default=14, description="The length of a phase in periods.")
    phases: int = Field(default=2, description="The number of phases: 2, 4, ...", ge=2, multiple_of=2)
    blackout: int = Field(
        default=7,
        ge=0,
        description="The number of first periods of each phase that are left out; by default 7 days or 1 week.",
        json_schema_extra=_without_default,
    )

    @property
    def n_periods(self) -> int:
        """The planned number of periods."""
        return self.phase * self.phases

    @model_validator(mode="before")
    @classmethod
    def _default_blackout(cls, data: Any, info: ValidationInfo) -> Any:
        default = {"blackout": 7 if grain_of(info) == "day" else 1}
        return default | data if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_blackout("phase", self.phase)
        return self


AnyDesign = Annotated[TimeBound | Triggered | RandomDays | Crossover, Field(discriminator="kind")]

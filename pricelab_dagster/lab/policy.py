"""The prices of the arms in an experiment file, and the limits on them."""

from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, model_validator

from pricelab_dagster.lab.design import lab_of
from pricelab_dagster.lab.errors import Found, Rule
from pricelab_dagster.lab.fields import Identifier, Model, Text

CONTROL, BLACKOUT = "control", "blackout"
Positive = Annotated[float, Field(gt=0)]
Ending = Annotated[float, Field(ge=0, lt=1)]


class Policy(Model):
    """Prices of one arm: a multiplier of the incumbent price, or a table of prices."""

    price_multiplier: Positive | None = Field(
        default=None, description="The multiplier of the incumbent price of the day."
    )
    prices: Text | None = Field(
        default=None, description="The path of a table with product_id, date and price, instead of a multiplier."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.price_multiplier is None and self.prices is None:
            raise Rule("a number above 0", "Give it, or a path under `prices`.", "price_multiplier", Found.MISSING)
        if self.price_multiplier is not None and self.prices is not None:
            raise Rule("absent beside `price_multiplier`", "Keep one of the two.", "prices", self.prices)
        return self


class Arm(Policy):
    """One of several treatment arms."""

    name: Identifier = Field(description="The name of the arm in the tables.")


class Guard(Model):
    """Limits on every price of the plan, applied last."""

    decimals: int = Field(default=2, ge=0, le=6, description="The decimals that prices are rounded to.")
    min_margin: Annotated[float, Field(lt=1)] | None = Field(
        default=None, description="The smallest margin as a part of the price; needs a cost."
    )
    max_change: Positive | None = Field(
        default=None, description="The largest change as a part of the incumbent price, such as 0.2."
    )
    floor: Positive | None = Field(default=None, description="The lowest price.")
    ceiling: Positive | None = Field(default=None, description="The highest price.")
    endings: Annotated[tuple[Ending, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="The parts after the decimal point that prices may have, such as [0.49, 0.99]."
    )

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if self.floor is not None and self.ceiling is not None and self.floor > self.ceiling:
            raise Rule(f"at most the ceiling {self.ceiling}", "Lower it.", "floor", self.floor)
        for ending in self.endings or ():
            if round(ending, self.decimals) != ending:
                raise Rule(f"of at most {self.decimals} decimals", "Round them.", "endings", list(self.endings or ()))
        lab = lab_of(info)
        if self.min_margin is not None and lab is not None and not lab.has_cost:
            raise Rule("null without sales.columns.cost", "Map a cost in pricelab.yaml.", "min_margin", self.min_margin)
        return self


def _treatment_form(value: object) -> str:
    return "several" if isinstance(value, (list, tuple)) else "one"


Treatment = Annotated[
    Annotated[Policy, Tag("one")] | Annotated[tuple[Arm, ...], Field(strict=False, min_length=1), Tag("several")],
    Discriminator(_treatment_form),
]

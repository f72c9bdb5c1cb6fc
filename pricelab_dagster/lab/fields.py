"""The base model and the field types that all lab files share."""

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pricelab_dagster.lab.errors import Rule
from pricelab_dagster.lab.sql import parse_expression, parse_query

Grain = Literal["day", "week"]
PERIOD_DAYS: dict[Grain, int] = {"day": 1, "week": 7}
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Model(BaseModel):
    """The base of every part of a lab file: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _date(value: object) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            raise Rule("a date of the calendar", "Give year-month-day, such as 2017-06-05.") from None
    raise Rule("a date such as 2017-06-05", "Give year-month-day.")


def _expression(text: str) -> str:
    parse_expression(text)
    return text.strip()


def _query(text: str) -> str:
    parse_query(text)
    return text.strip()


def _product_id(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Date = Annotated[dt.date, BeforeValidator(_date, json_schema_input_type=dt.date)]
Text = Annotated[str, Field(min_length=1)]
Expression = Annotated[str, Field(min_length=1), AfterValidator(_expression)]
Query = Annotated[str, Field(min_length=1), AfterValidator(_query)]
Identifier = Annotated[str, Field(pattern=f"^{IDENTIFIER.pattern}$")]
ProductId = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(_product_id),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]}),
]
Length = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Paths = Text | Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]

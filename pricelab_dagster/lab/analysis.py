"""The `analysis` block of an experiment file: how the effect is estimated."""

from typing import Annotated, Literal

from pydantic import Field

from pricelab_dagster.lab.fields import PERIOD_DAYS, Grain, Model

WINDOW_DAYS = 28


class Detrend(Model):
    """The forecast that is subtracted."""

    method: Literal["pooled_ridge", "mean", "ses", "none", "auto"] = Field(
        default="pooled_ridge", description="The forecast."
    )
    window: Annotated[int, Field(ge=1)] | Literal["all"] | None = Field(
        default=None,
        description="The number of last periods before the start that the forecast uses, or all; null for 28 days or "
        "4 weeks.",
    )

    def window_at(self, grain: Grain) -> int | Literal["all"]:
        """The window in periods of the grain, or all."""
        return WINDOW_DAYS // PERIOD_DAYS[grain] if self.window is None else self.window


class Trim(Model):
    """The outlier filter."""

    method: Literal["auto", "trim", "winsorize", "none"] = Field(
        default="auto", description="The filter; auto trims the relative scale and winsorizes the level."
    )
    c: float = Field(default=5.0, ge=0, description="The number of products to filter at each end.")


class Forest(Model):
    """The affinity forest."""

    split: Literal["auto", "outcome", "joint", "effect"] = Field(default="auto", description="What the trees split on.")
    n_trees: int = Field(default=200, ge=4, multiple_of=4, description="The number of trees: 200, 400, ...")
    min_leaf: int = Field(default=4, ge=1, description="The smallest number of products in a leaf.")


class Bootstrap(Model):
    """The bootstrap behind the intervals."""

    n_replicates: int = Field(default=500, ge=2, description="The number of bootstrap replicates.")


class Analysis(Model):
    """How the effect is estimated."""

    pre_periods: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The number of periods before the start that effects are forecast from; null for all."
    )
    detrend: Detrend = Field(default=Detrend(), description="The forecast that is subtracted.")
    trim: Trim = Field(default=Trim(), description="The outlier filter.")
    forest: Forest = Field(default=Forest(), description="The affinity forest.")
    bootstrap: Bootstrap = Field(default=Bootstrap(), description="The bootstrap behind the intervals.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="The confidence level of the intervals.")

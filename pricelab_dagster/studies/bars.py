"""What is asked of a figure, and whether it is met."""

from dataclasses import dataclass
from math import isnan

from pricelab_dagster.studies.figures import Bounded


@dataclass(frozen=True, slots=True)
class Bar:
    """The least and the greatest value that a figure may have."""

    lower: float = float("-inf")
    upper: float = float("inf")

    def __str__(self) -> str:
        if self.lower == float("-inf"):
            return f"<= {self.upper:g}"
        return f">= {self.lower:g}" if self.upper == float("inf") else f"{self.lower:g} to {self.upper:g}"

    def holds(self, value: float) -> bool:
        """Return whether a value meets the bar; nan does not."""
        return self.lower <= value <= self.upper


def at_least(lower: float) -> Bar:
    """Return the bar that a figure must not fall below."""
    return Bar(lower=lower)


def at_most(upper: float) -> Bar:
    """Return the bar that a figure must not exceed."""
    return Bar(upper=upper)


def verdict(found: Bounded, bar: Bar) -> str:
    """Return yes or no, with `unsure` where the figure's interval holds values that would be judged otherwise."""
    met = bar.holds(found.value)
    if isnan(found.lower) or isnan(found.upper):
        return ("yes" if met else "no") + ", unsure"
    same = bar.holds(found.lower) == met and bar.holds(found.upper) == met
    # a value outside may have a bar narrower than its interval inside
    spans = not met and found.lower <= bar.upper and found.upper >= bar.lower
    return ("yes" if met else "no") + ("" if same and not spans else ", unsure")

"""Where an experiment stands by the as-of date, and what may still change in it."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Status(StrEnum):
    """The states of an experiment; `as_of` is the last date in sales."""

    PLANNED = "planned"
    RUNNING = "running"
    CONCLUDED = "concluded"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Window:
    """The first and last period of an experiment."""

    start: date
    end: date

    def status(self, as_of: date | None) -> Status:
        """Return planned before the start, concluded from the end on, running between; planned without sales."""
        if as_of is None or as_of < self.start:
            return Status.PLANNED
        return Status.CONCLUDED if as_of >= self.end else Status.RUNNING

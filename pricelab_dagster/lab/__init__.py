"""The lab folder that a user writes: `pricelab.yaml` and `experiments/*.yaml`, read, validated and compiled to SQL."""

from pricelab_dagster.lab.config import LabConfig
from pricelab_dagster.lab.design import Crossover, RandomDays, TimeBound, Triggered
from pricelab_dagster.lab.errors import Found, LabError
from pricelab_dagster.lab.experiment import DOSE_LINE, Clusters, Experiment, ExperimentFile, difference
from pricelab_dagster.lab.fields import Grain
from pricelab_dagster.lab.policy import BLACKOUT, CONTROL, Arm, Guard, Policy
from pricelab_dagster.lab.read import Lab
from pricelab_dagster.lab.schemas import write_schemas
from pricelab_dagster.lab.sources import Source
from pricelab_dagster.lab.sql import expression_columns, unknown_column_error

__all__ = [
    "BLACKOUT",
    "CONTROL",
    "DOSE_LINE",
    "Arm",
    "Clusters",
    "Crossover",
    "Experiment",
    "ExperimentFile",
    "Found",
    "Grain",
    "Guard",
    "Lab",
    "LabConfig",
    "LabError",
    "Policy",
    "RandomDays",
    "Source",
    "TimeBound",
    "Triggered",
    "difference",
    "expression_columns",
    "unknown_column_error",
    "write_schemas",
]

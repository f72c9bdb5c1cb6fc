"""The published JSON Schemas of the two lab files, for editors."""

import json
from pathlib import Path

from pydantic import BaseModel

from pricelab_dagster.lab.config import LabConfig
from pricelab_dagster.lab.experiment import ExperimentFile

SCHEMAS: dict[str, type[BaseModel]] = {
    "pricelab.schema.json": LabConfig,
    "experiment.schema.json": ExperimentFile,
}


def write_schemas(directory: Path) -> None:
    """Nothing; `pricelab.schema.json` and `experiment.schema.json` are written into `directory`."""
    for name, model in SCHEMAS.items():
        text = json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False)
        (directory / name).write_text(f"{text}\n", encoding="utf-8")

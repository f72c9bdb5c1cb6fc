import json
from pathlib import Path
from typing import Any

import pytest

from pricelab_dagster import lab
from pricelab_dagster.lab import ExperimentFile, LabConfig, write_schemas

PACKAGE = Path(lab.__file__).parent


@pytest.mark.parametrize(
    ("name", "model"), [("pricelab.schema.json", LabConfig), ("experiment.schema.json", ExperimentFile)]
)
def test_the_shipped_schema_is_the_models(name: str, model: Any, tmp_path: Path) -> None:
    assert json.loads((PACKAGE / name).read_text()) == model.model_json_schema()
    write_schemas(tmp_path)
    assert (tmp_path / name).read_bytes() == (PACKAGE / name).read_bytes()


@pytest.mark.parametrize("name", ["pricelab.schema.json", "experiment.schema.json"])
def test_every_key_is_described_in_words_that_an_error_can_use(name: str) -> None:
    schema = json.loads((PACKAGE / name).read_text())
    parts = schema["$defs"]
    objects = [schema, *parts.values()]
    fields = {
        f"{part['title']}.{key}": field.get("description") or parts[field["$ref"].split("/")[-1]]["description"]
        for part in objects
        for key, field in part["properties"].items()
    }
    assert fields
    assert not {key: text for key, text in fields.items() if not text[0].isupper() or not text.endswith((".", "..."))}
    assert all(part["additionalProperties"] is False for part in objects)

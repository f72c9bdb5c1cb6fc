"""The lab folder, read and validated as a whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from pricelab_dagster.lab.config import LabConfig
from pricelab_dagster.lab.documents import read_document
from pricelab_dagster.lab.errors import Found, LabError
from pricelab_dagster.lab.experiment import EXPERIMENTS_FOLDER, Experiment, ExperimentFile
from pricelab_dagster.lab.explain import explain
from pricelab_dagster.lab.fields import IDENTIFIER
from pricelab_dagster.lab.sources import CONFIG_FILE

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab folder as read.

    Parameters
    ----------
    root : Path
        The folder, absolute.
    config : LabConfig
        `pricelab.yaml`.
    experiments : dict
        The valid experiments by id, sorted.
    broken : dict
        The errors of the other experiment files by file name without suffix, sorted.
    """

    root: Path
    config: LabConfig
    experiments: dict[str, Experiment]
    broken: dict[str, LabError]

    @classmethod
    def load(cls, root: Path) -> Self:
        """The lab in `root`; a broken experiment file stops that experiment alone.

        Raises
        ------
        LabError
            There is no `pricelab.yaml`, or it is broken, or a source has no files.
        """
        root = root.resolve()
        config = _read_config(root)
        for source in config.sources().values():
            source.files(root)
        experiments: dict[str, Experiment] = {}
        broken: dict[str, LabError] = {}
        for name, paths in _experiment_files(root).items():
            try:
                experiments[name] = _read_experiment(root, config, name, paths)
            except LabError as error:
                # kept for long: without the frames that it was raised in
                error.__cause__ = error.__context__ = None
                broken[name] = error.with_traceback(None)
        return cls(root, config, experiments, broken)


def _read_config(root: Path) -> LabConfig:
    path = root / CONFIG_FILE
    if not path.is_file():
        found = f"not found in {root}" if root.is_dir() else f"not found, since {root} is no folder"
        other = path.with_suffix(".yml")
        remedy = "Make a lab with `pricelab new DIR`, or name one by --lab DIR or PRICELAB_HOME."
        if other.is_file():
            remedy = f"Rename {other.name} to {CONFIG_FILE}."
        raise LabError(CONFIG_FILE, None, found, "in the lab folder", remedy)
    raw = read_document(path, CONFIG_FILE)
    try:
        return LabConfig.model_validate(raw)
    except ValidationError as error:
        raise explain(CONFIG_FILE, error, LabConfig) from None


def _experiment_files(root: Path) -> dict[str, list[Path]]:
    folder = root / EXPERIMENTS_FOLDER
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    named: dict[str, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            named.setdefault(path.stem, []).append(path)
    return dict(sorted(named.items()))


def _read_experiment(root: Path, config: LabConfig, name: str, paths: list[Path]) -> Experiment:
    file = f"{EXPERIMENTS_FOLDER}/{paths[0].name}"
    if not IDENTIFIER.fullmatch(name):
        allowed = "named with a-z, 0-9, _ and -, starting with a letter or digit"
        raise LabError(file, None, f"the file name {name} is not an experiment id", allowed, "Rename the file.")
    if len(paths) > 1:
        found = f"{paths[1].name} has the same id {name}"
        raise LabError(file, None, found, "the only file of its id", "Remove or rename one of the two.")
    raw = read_document(paths[0], file)
    experiment = _validated(raw, file, name, config)
    for table in experiment.tables().values():
        table.files(root)
    return experiment


def _validated(raw: dict[str, Any], file: str, name: str, config: LabConfig) -> Experiment:
    if "id" in raw:
        allowed = f"one of {', '.join(ExperimentFile.model_fields)}"
        raise LabError(file, "id", Found.UNKNOWN, allowed, "Remove it: the file name is the id.")
    try:
        return Experiment.model_validate(raw | {"id": name}, context=config)
    except ValidationError as error:
        raise explain(file, error, ExperimentFile) from None

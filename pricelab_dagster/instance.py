"""The Dagster instance of a lab, so that runs of the command are seen in the web UI."""

import fcntl
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg


def prepare_home(lab_root: Path) -> Path:
    """Make `<lab>/.dagster` with the shipped dagster.yaml and return it."""
    home = lab_root.resolve() / ".dagster"
    home.mkdir(parents=True, exist_ok=True)
    shipped = files("pricelab_dagster").joinpath("dagster.yaml").read_text()
    target = home / "dagster.yaml"
    if not target.exists() or target.read_text() != shipped:
        target.write_text(shipped)
    return home


def open_instance(lab_root: Path) -> "dg.DagsterInstance":
    """Return the lab's instance; PRICELAB_HOME and DAGSTER_HOME name it from here on in this process."""
    import dagster as dg

    home = prepare_home(lab_root)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["PRICELAB_HOME"] = str(lab_root.resolve())
    # two processes that make the instance's databases at the same time stop each other with "table already exists"
    with (home / ".opening").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        instance = dg.DagsterInstance.from_config(str(home))
        instance.get_runs(limit=1)
        instance.get_dynamic_partitions("experiment")
        instance.all_instigator_state()
    return instance


if __name__ == "__main__":
    lab = Path(sys.argv[1])
    if not (lab / "pricelab.yaml").is_file():
        sys.exit(f"{lab}: no pricelab.yaml there. Make a lab with `pricelab new DIR`, or the demo with `make demo`.")
    print(prepare_home(lab))

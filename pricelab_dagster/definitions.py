"""The code location: everything under defs/, on the lab that PRICELAB_HOME names."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Return all definitions of the code location."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)

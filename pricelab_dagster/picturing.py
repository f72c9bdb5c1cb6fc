"""The picture of an experiment's design: in the metadata of its assignment, and as a file of the lab."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pricelab_dagster import pictures
from pricelab_dagster.lab import CONTROL, Experiment, Grain

FOLDER = "readouts"
MAX_INLINE_PRODUCTS = 24


def design_of(experiment: Experiment, rows: pa.Table, grain: Grain) -> str:
    """Return the SVG of the products and periods of an assignment; cells without a row lie outside the experiment."""
    # rows that stand twice are refused by an assertion of the table, after the picture is drawn
    frame = rows.to_pandas(date_as_object=False).drop_duplicates(["product_id", "date"])
    names = [CONTROL, *(arm.name for arm in experiment.arms)]
    codes = frame.assign(arm=frame["arm"].map({name: code for code, name in enumerate(names)}))
    step = pd.Timedelta(days=7 if grain == "week" else 1)
    calendar = pd.date_range(experiment.start, experiment.end(grain), freq=step)
    products = sorted(set(frame["product_id"]))
    grids = [
        codes.pivot(index="product_id", columns="date", values=name).reindex(index=products, columns=calendar)
        for name in ("arm", "in_analysis")
    ]
    return pictures.design(
        np.array(products, dtype=object),
        calendar.to_numpy().astype("datetime64[D]"),
        grids[0].fillna(-1).to_numpy().astype(np.int64),
        grids[1].eq(True).to_numpy(),
        kind=experiment.design.kind,
        title=experiment.title,
        arms=names,
        grain=grain,
        max_products=MAX_INLINE_PRODUCTS,
    )


def path(lab_root: Path, experiment_id: str) -> Path:
    """Return where the picture of an experiment stands."""
    return lab_root / FOLDER / f"{experiment_id}-design.svg"


def write(lab_root: Path, experiment_id: str, svg: str) -> None:
    """Replace the picture of an experiment whole."""
    target = path(lab_root, experiment_id)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f".{target.name}.writing-{os.getpid()}")
    temporary.write_text(svg, encoding="utf-8")
    temporary.replace(target)

"""The products that an experiment compares one of its products with most, with their attributes."""

import numpy as np
import pyarrow as pa

from pricelab_dagster.lab import LabError
from pricelab_dagster.workbench import FEATURES, Workbench

LEAVES = "experiment.affinity_leaves"
SCHEMA = pa.schema([("product_id", pa.string()), ("twin", pa.string()), ("shared_leaves", pa.float64())])


def of(bench: Workbench, experiment_id: str, product_id: str, *, top: int) -> pa.Table:
    """Return the `top` products that share most leaves with a product: their share of trees, and what they are.

    Raises
    ------
    LabError : when there is no such experiment, or the product is not in its leaves.
    LakeError : when the experiment has no leaves yet.
    """
    from pricelab_dagster import frames
    from pricelab_dagster.science import affinity

    if not bench.lake.exists(LEAVES, experiment_id):
        bench.experiment(experiment_id)
    rows = frames.to_pandas(bench.lake.read(LEAVES, experiment_id))
    products = np.sort(rows["product_id"].unique())
    place = int(np.searchsorted(products, product_id))
    if place == len(products) or products[place] != product_id:
        raise LabError(
            f"experiments/{experiment_id}.yaml",
            None,
            f"product {product_id} is not in the experiment",
            f"one of {len(products)} products, such as {', '.join(products[:3])}",
            f"List them with `pricelab plan {experiment_id}`.",
        )
    grid = rows.pivot(index="product_id", columns="tree", values="leaf").reindex(products)
    leaf = grid.to_numpy(dtype=np.int32)
    leaves = affinity.Leaves(leaf, np.ones(leaf.shape, dtype=bool), leaf.shape[1], None)
    found = affinity.twins(leaves, place, k=top)
    twins = products[found.product]
    features = bench.lake.read(FEATURES, experiment_id).to_pandas().set_index("product_id")
    known = features.drop(columns=[name for name in features.columns if name in frames.NOT_ATTRIBUTES]).reindex(twins)
    columns = {"product_id": [product_id] * len(twins), "twin": twins.tolist(), "shared_leaves": found.shared.tolist()}
    table = pa.table(columns, schema=SCHEMA)
    for name in known.columns:
        table = table.append_column(str(name), pa.array(known[name], from_pandas=True))
    return table

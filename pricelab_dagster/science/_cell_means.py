"""Means of group-time effects by group size, each with the influence of every unit on it."""

import numpy as np
from numpy.typing import NDArray

from pricelab_dagster.science import _cluster_robust
from pricelab_dagster.science._group_time import Cells, Kind

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def by_size(effects: FloatArray, influence: FloatArray, rows: FloatArray) -> tuple[float, FloatArray]:
    """Return the mean of effects (m,) weighted by the rows of their groups, and its influence (U,).

    rows (U, m) counts the rows of each unit in the group of each effect. That the weights n_j / sum n are estimated
    adds sum_j rows_uj (effect_j - mean) / sum n.
    """
    size = rows.sum(axis=0)
    mean = float(size @ effects / size.sum())
    return mean, influence @ size / size.sum() + rows @ (effects - mean) / size.sum()


def parts(cells: Cells, kind: Kind, defined: BoolArray, after: BoolArray) -> tuple[IntArray, list[BoolArray]]:
    """Return event times or groups (J,), and which cells (K,) each is made of."""
    if kind == "simple":
        return np.empty(0, dtype=np.int64), []
    key, used = (cells.time - cells.group, defined) if kind == "dynamic" else (cells.group, after)
    at = np.unique(key[used])
    return at, [used & (key == one) for one in at]


def means(cells: Cells, parts: list[BoolArray]) -> tuple[FloatArray, FloatArray]:
    """Return the mean effect (J,) of each part, groups by size, and its influence (U, J)."""
    found = [mean(cells, part) for part in parts]
    effect, influence = [one for one, _ in found], [column for _, column in found]
    return np.array(effect), np.array(influence).reshape(len(parts), len(cells.group_rows)).T


def mean(cells: Cells, part: BoolArray) -> tuple[float, FloatArray]:
    """Return the mean effect of these cells, groups by size, and its influence (U,)."""
    rows = cells.group_rows[:, cells.group_index[part]]
    return by_size(cells.effect[part], cells.influence[:, part], rows)


def overall(
    cells: Cells, kind: Kind, at: IntArray, after: BoolArray, effect: FloatArray, influence: FloatArray
) -> tuple[float, FloatArray]:
    """Return the overall effect and its influence (U,)."""
    if not after.any():
        return np.nan, np.zeros(len(cells.group_rows))
    if kind == "simple":
        return mean(cells, after)
    if kind == "dynamic":
        return float(effect[at >= 0].mean()), influence[:, at >= 0].mean(axis=1)
    return by_size(effect, influence, cells.group_rows[:, np.unique(cells.group_index[after])])


def freedom(cells: Cells, part: BoolArray) -> float:
    """Return degrees of freedom from the units of the groups in these cells and the fewest controls of any."""
    rows = cells.group_rows[:, np.unique(cells.group_index[part])]
    fewest = cells.control_units[part].min(initial=len(rows))
    return float(_cluster_robust.degrees_of_freedom((rows > 0).any(axis=1).sum(), fewest))


def overall_reason(cells: Cells, after: BoolArray, found: str | None) -> str | None:
    """Return why there is no overall effect, or what to know about it."""
    if not after.any():
        return found or "No treated period has an effect."
    units = (cells.group_rows > 0).sum(axis=0)[np.unique(cells.group_index[after])]
    treated = cells.time >= cells.group
    notes = []
    if (treated & ~after).any():
        notes.append(f"{(treated & ~after).sum()} of {treated.sum()} treated cells have no effect and are left out.")
    if (units == 1).any():
        notes.append(f"{(units == 1).sum()} of {len(units)} groups are one unit; the se lacks their own spread.")
    return " ".join(notes) or None

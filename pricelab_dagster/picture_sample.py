"""Which products of many a picture of a design shows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sample(arm: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return the rows to draw, rising: an equal part of each group of like rows, evenly spread inside it."""
    n = len(arm)
    if n <= limit:
        return np.arange(n)
    groups = _groups(arm, limit)
    share = np.bincount(groups) * limit / n
    take = np.maximum(np.floor(share), 1).astype(int)
    while take.sum() > limit:
        take[np.argmax(np.where(take > 1, take - share, -np.inf))] -= 1
    while take.sum() < limit:
        take[np.argmax(share - take)] += 1
    rows: set[int] = set()
    for group, m in enumerate(take):
        members = np.flatnonzero(groups == group)
        rows.update(members[((np.arange(m) + 0.5) * len(members) / m).astype(int)].tolist())
    for missing in np.setdiff1d(arm, arm[sorted(rows)]):
        rows.add(int(np.argmax((arm == missing).any(axis=1))))
    return np.array(sorted(rows))


def _groups(arm: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Return labels (N,) of like rows: of one sequence of arms, else of one set of arms, else all."""
    sequences = [tuple(row[np.flatnonzero(np.diff(row, prepend=-2))]) for row in arm]
    codes: dict[Any, int] = {}
    for kinds in ([tuple(a for a in s if a >= 0) for s in sequences], [frozenset(s) for s in sequences]):
        codes = {}
        labels = [codes.setdefault(one, len(codes)) for one in kinds]
        if len(codes) <= limit:
            return np.array(labels)
    return np.zeros(len(arm), dtype=np.int64)

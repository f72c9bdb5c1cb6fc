"""Exposure mappings: from the arms of all products to the level of exposure of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from pricelab_dagster.science._exposure_bits import arms

IntArray = NDArray[np.int64]
Adjacency = Any
Mapping = Callable[[Adjacency, NDArray[np.int8]], IntArray]

CONTROL, CONTROL_EXPOSED, TREATED, TREATED_EXPOSED = range(4)
NAMES: tuple[str, ...] = (
    "control, no neighbour treated",
    "control, a neighbour treated",
    "treated, no neighbour treated",
    "treated, a neighbour treated",
)


def own_and_any(adjacency: Adjacency, z: ArrayLike) -> IntArray:
    """Return levels (N,): 0 control, no neighbour treated; 1 control, one treated; 2 and 3 the same of the treated.

    Parameters
    ----------
    adjacency
        Scipy sparse (N, N), [i, j] nonzero where i's treatment reaches j: the neighbours of j are in column j.
    z
        (N,): 1 treated, 0 control, -1 or nan out. A product that is out has level -1, and as a neighbour is not
        treated.

    Raises
    ------
    ValueError
        If shapes differ, z has other values or the diagonal is not empty.

    References
    ----------
    Aronow and Samii (2017), Annals of Applied Statistics 11, section 2.

    Examples
    --------
    >>> from scipy import sparse
    >>> own_and_any(sparse.csr_array([[0, 1], [0, 0]]), [1, 0]).tolist()
    [2, 1]
    """
    return own_and_share((0.0,))(adjacency, z)


@dataclass(frozen=True, slots=True)
class OwnAndShare:
    """A mapping; see `own_and_share`."""

    cuts: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What each level is called."""
        bounds = [f"share of treated neighbours at most {self.cuts[0]:g}"]
        bounds += [f"share of treated neighbours above {cut:g}" for cut in self.cuts]
        return tuple(f"{own}, {bound}" for own in ("control", "treated") for bound in bounds)

    def __call__(self, adjacency: Adjacency, z: ArrayLike) -> IntArray:
        """Return the levels (N,)."""
        weights, own = checked(adjacency), arms("z", z)
        if own.shape != (weights.shape[0],):
            raise ValueError(f"z.shape == {own.shape}, must be ({weights.shape[0]},). Give one arm per product.")
        total = weights.sum(axis=0)
        share = (weights.T @ (own == 1).astype(float)) / np.where(total > 0, total, 1.0)
        above = (share[:, None] > np.array(self.cuts)).sum(axis=1)
        return np.where(own < 0, -1, (own == 1) * (len(self.cuts) + 1) + above).astype(np.int64)


def own_and_share(cuts: tuple[float, ...]) -> OwnAndShare:
    """Return a mapping by the own arm and by the share of the neighbours' weight |adjacency| that is treated.

    Level own x (C + 1) + number of the C cuts that the share is above. A product without neighbours has share 0.

    Parameters
    ----------
    cuts
        Rising, in [0, 1); (0,) is `own_and_any`.

    Raises
    ------
    ValueError
        If cuts break these rules.

    Examples
    --------
    >>> from scipy import sparse
    >>> adjacency = sparse.csr_array([[0, 0, 3], [0, 0, 1], [0, 0, 0]])
    >>> own_and_share((0.0, 0.5))(adjacency, [0, 1, 1]).tolist()
    [0, 3, 4]
    """
    rising = tuple(float(cut) for cut in cuts)
    if not rising or sorted(set(rising)) != list(rising) or not 0.0 <= rising[0] <= rising[-1] < 1.0:
        raise ValueError(f"cuts == {cuts}, must be rising numbers in [0, 1). (0.5,) splits at half of the weight.")
    return OwnAndShare(rising)


def names_of(mapping: Mapping, n_levels: int) -> tuple[str, ...]:
    """Return what the levels of a mapping are called."""
    found = NAMES if mapping is own_and_any else tuple(getattr(mapping, "names", ()))
    return found + tuple(f"level {level}" for level in range(len(found), n_levels))


def checked(adjacency: Adjacency) -> sparse.csr_array:
    """Return |adjacency| (N, N)."""
    weights = abs(sparse.csr_array(adjacency))
    N = weights.shape[0]
    if weights.shape != (N, N):
        raise ValueError(f"adjacency.shape == {weights.shape}, must be (N, N). Give a row and a column per product.")
    if weights.diagonal().any():
        n = np.count_nonzero(weights.diagonal())
        raise ValueError(f"adjacency has {n} products that reach themselves, must have none. Empty the diagonal.")
    if not np.isfinite(weights.data).all():
        raise ValueError("adjacency has weights that are not finite, must have none. Leave those edges out.")
    return weights

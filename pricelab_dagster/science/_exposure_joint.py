"""Joint probabilities of the exposure levels of two products, from draws or for independent coins."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from pricelab_dagster.science._exposure_bits import common, pack

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# In a larger stratum two products are all but independent: the covariance of draws has what is left.
LARGE_STRATUM = 50
# Draws whose levels are unpacked at once.
AT_ONCE = 256
# Differences of probabilities of order one: what is below this is zero.
FLOOR = 1e-14


class Joint(Protocol):
    """What a variance needs to know of pairs."""

    def inverse(self, k: int, m: int, first: IntArray, second: IntArray) -> FloatArray:
        """Return 1 / P(`first` at level k, `second` at level l) (P,), infinite where that cannot happen."""
        ...

    def covariance(self, k: IntArray, m: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return the covariance (P,) of being at own level k and own level m."""
        ...

    def spread(self, level: IntArray, weight: FloatArray) -> float | None:
        """Return the variance of sum weight_i 1(D_i = level_i); None where only the given pairs are dependent."""
        ...


@dataclass(frozen=True, slots=True)
class DrawnJoint:
    """Frequencies of levels over draws.

    Attributes
    ----------
    bits
        (K, N, words): in which draws a product is at a level.
    n_draws
        R.
    complete
        The draws are all that there are, so that frequencies are the probabilities.
    """

    bits: NDArray[np.uint64]
    n_draws: int
    complete: bool

    @classmethod
    def of(cls, levels: NDArray[np.int8], n_levels: int, complete: bool) -> "DrawnJoint":
        """Return the frequencies of levels (R, N)."""
        return cls(np.stack([pack(levels == k) for k in range(n_levels)]), len(levels), complete)

    def marginal(self) -> FloatArray:
        """Return P(level k) (N, K)."""
        return np.bitwise_count(self.bits).sum(axis=2, dtype=np.int64).T / self.n_draws

    def inverse(self, k: int, m: int, first: IntArray, second: IntArray) -> FloatArray:
        """Return 1 / P; of c in R draws (R + 1) / (c + 1), whose mean is right but for pairs that hardly occur."""
        count = common(self.bits[k], self.bits[m], first, second)
        more = 0 if self.complete else 1
        return np.where(count > 0, (self.n_draws + more) / np.maximum(count + more, 1), np.inf)

    def covariance(self, k: IntArray, m: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return the covariance over draws."""
        flat = self.bits.reshape(-1, self.bits.shape[2])
        N = self.bits.shape[1]
        at, other = k * N + first, m * N + second
        total = np.bitwise_count(flat).sum(axis=1, dtype=np.int64) / self.n_draws
        return common(flat, flat, at, other) / self.n_draws - total[at] * total[other]

    def spread(self, level: IntArray, weight: FloatArray) -> float | None:
        """Return the variance over draws."""
        if self.complete:
            return None
        bits = self.bits[level, np.arange(len(level))].view(np.uint8)
        total = np.zeros(bits.shape[1] * 8)
        for low in range(0, len(bits), AT_ONCE):
            part = slice(low, low + AT_ONCE)
            total += weight[part] @ np.unpackbits(bits[part], axis=1)
        return float(total[: self.n_draws].var())


@dataclass(frozen=True, slots=True)
class CoinJoint:
    """The levels of `own_and_any` where every unit is treated by its own coin, in closed form.

    Attributes
    ----------
    share
        P(treated).
    unit
        (N,) codes.
    around
        (N, G): the other units among a product's neighbours.
    own_around
        (N,) whether its own unit is among them.
    """

    share: float
    unit: IntArray
    around: sparse.csr_array
    own_around: NDArray[np.bool_]

    @classmethod
    def of(cls, adjacency: sparse.csr_array, unit: IntArray, share: float) -> "CoinJoint":
        """Return the levels' law for |adjacency| (N, N)."""
        own = incidence(unit)
        around = sparse.csr_array((adjacency.T @ own) > 0).astype(np.int64)
        inside = around.multiply(own).tocsr()
        around = sparse.csr_array(around - inside)
        around.eliminate_zeros()
        return cls(share, unit, around, np.asarray(inside.sum(axis=1)).ravel() > 0)

    def marginal(self) -> FloatArray:
        """Return P(level k) (N, 4)."""
        p, q = self.share, 1.0 - self.share
        none = q ** np.asarray(self.around.sum(axis=1)).ravel()
        treated_none = np.where(self.own_around, 0.0, p * none)
        return np.stack([q * none, q - q * none, treated_none, p - treated_none], axis=1)

    def inverse(self, k: int, m: int, first: IntArray, second: IntArray) -> FloatArray:
        """Return 1 / P."""
        with np.errstate(divide="ignore"):
            return 1.0 / self.joint(k, m, first, second)

    def covariance(self, k: IntArray, m: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return P(both) less the product of the marginals."""
        marginal = self.marginal()
        found = -marginal[first, k] * marginal[second, m]
        for a in range(4):
            for b in range(4):
                here = (k == a) & (m == b)
                found[here] += self.joint(a, b, first[here], second[here])
        return found

    def spread(self, level: IntArray, weight: FloatArray) -> float | None:
        """Return None: products without a unit in common are independent."""
        return None

    def joint(self, k: int, m: int, first: IntArray, second: IntArray) -> FloatArray:
        """Return P(`first` at level k, `second` at level l) (P,): exposed is any less no neighbour treated."""
        a, b = k // 2, m // 2
        free = [self._untouched(a, b, first, second, one, other) for one, other in ((0, 0), (1, 0), (0, 1), (1, 1))]
        if k % 2 and m % 2:
            found = free[0] - free[1] - free[2] + free[3]
        elif k % 2:
            found = free[2] - free[3]
        else:
            found = free[1] - free[3] if m % 2 else free[3]
        return np.where(found > FLOOR, found, 0.0)

    def _untouched(self, a: int, b: int, first: IntArray, second: IntArray, one: int, other: int) -> FloatArray:
        """Return P(own arms a and b; no neighbour of `first` treated if `one`, none of `second` if `other`)."""
        u, v = self.unit[first], self.unit[second]
        v_near, u_near = one * _at(self.around, first, v), other * _at(self.around, second, u)
        size = np.asarray(self.around.sum(axis=1)).ravel()
        shared = _at(sparse.csr_array(self.around @ self.around.T), first, second) if one and other else 0
        controls = one * size[first] + other * size[second] - shared
        same = u == v
        controls = controls + np.where(same, 1 - a, (1 - a) * (1 - u_near) + (1 - b) * (1 - v_near))
        treated = np.where(same, a, a + b)
        never = (same & (a != b)) | (a * u_near > 0) | (b * v_near > 0)
        never |= (a * one * self.own_around[first] + b * other * self.own_around[second]) > 0
        return np.where(never, 0.0, self.share**treated * (1.0 - self.share) ** controls)


def incidence(unit: IntArray) -> sparse.csr_array:
    """Return which unit a product belongs to (N, G)."""
    n = len(unit)
    return sparse.csr_array((np.ones(n, dtype=np.int64), (np.arange(n), unit)), shape=(n, int(unit.max()) + 1))


def dependent_pairs(adjacency: sparse.csr_array, unit: IntArray, strata: IntArray | None) -> tuple[IntArray, IntArray]:
    """Return the pairs (P,), first < second, whose levels hang on a common unit, or on two of one small stratum.

    A level hangs on the units of a product and of its neighbours, given by |adjacency| (N, N).
    """
    own = incidence(unit)
    on = sparse.csr_array(((adjacency.T @ own) + own) > 0).astype(np.int32)
    together = sparse.csr_array(on @ on.T)
    if strata is not None:
        small = np.bincount(strata)[strata] <= LARGE_STRATUM
        members = incidence(strata)[small]
        rows = np.flatnonzero(small)
        alike = sparse.coo_array(members @ members.T)
        together = together + sparse.csr_array((alike.data, (rows[alike.row], rows[alike.col])), shape=together.shape)
    above = sparse.csr_array(sparse.triu(together, k=1))
    above.sort_indices()
    return np.repeat(np.arange(len(unit)), np.diff(above.indptr)), above.indices.astype(np.int64)


def tied(state: NDArray[np.int8]) -> IntArray:
    """Return codes (N,) of products that are treated in the same draws (R, N), or in the opposite ones."""
    treated, inside = pack(state == 1), pack(state >= 0)
    sides = [np.concatenate([part, inside], axis=1) for part in (treated, inside & ~treated)]
    keys = np.array([row.tobytes() for side in sides for row in side], dtype=object)
    unit, opposite = pd.factorize(keys)[0].reshape(2, -1)
    return pd.factorize(np.minimum(unit, opposite))[0]


def _at(matrix: sparse.csr_array, rows: IntArray, columns: IntArray) -> IntArray:
    """Return the entries [row, column] (P,)."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(matrix[rows, columns]).ravel().astype(np.int64)

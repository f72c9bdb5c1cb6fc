"""Draws as bits: how often two things happened in the same draw."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]

# Words of 64 draws that are compared at once.
BLOCK = 4_000_000


def check_draws(draws: ArrayLike) -> NDArray[np.int8]:
    """Return draws (R, N) as 1, 0 and -1."""
    given = np.asarray(draws)
    if given.ndim != 2 or len(given) < 2:
        raise ValueError(f"draws.shape == {given.shape}, must be (R, N), R 2 or more. Give one row per draw.")
    return arms("draws", given)


def arms(name: str, given: ArrayLike) -> NDArray[np.int8]:
    """Return arms of any shape as 1 treated, 0 control and -1 out, for which nan may stand."""
    values = np.asarray(given)
    state = np.where(np.isnan(values), -1, values) if values.dtype.kind == "f" else values
    odd = ~np.isin(state, (-1, 0, 1))
    if odd.any():
        raise ValueError(f"{name} has the value {values[odd][0]}, must be 1, 0, or -1 or nan for out. Code it so.")
    return state.astype(np.int8)


def pack(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return flags (R, N) as bits (N, words)."""
    bits = np.packbits(flags, axis=0)
    padded = np.zeros((flags.shape[1], -(-len(bits) // 8) * 8), dtype=np.uint8)
    padded[:, : len(bits)] = bits.T
    return padded.view(np.uint64)


def common(a: NDArray[np.uint64], b: NDArray[np.uint64], first: IntArray, second: IntArray) -> IntArray:
    """Return in how many draws (M,) the bits of `a` at `first` and of `b` at `second` are both set."""
    found = np.empty(len(first), dtype=np.int64)
    step = max(1, BLOCK // a.shape[1])
    for low in range(0, len(first), step):
        part = slice(low, low + step)
        np.sum(np.bitwise_count(a[first[part]] & b[second[part]]), axis=1, dtype=np.int64, out=found[part])
    return found
